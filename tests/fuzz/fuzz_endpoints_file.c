/* SPDX-License-Identifier: Apache-2.0 */
/* An endpoints file of any bytes: taken with sound endpoints, or refused with a text; never both.
 */
#include <stdlib.h>
#include <string.h>

#include "controlplane/discovery.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct origin_list list = {0};
	char error[256] = "", flag[512];
	struct origin o;

	if (endpoints_file_parse((const char *)data, size, &list, error, sizeof(error)) == 0) {
		for (unsigned int i = 0; i < list.count; i++)
			if (list.items[i].addr_count != 1 || !list.items[i].port ||
			    !*list.items[i].name || list.items[i].label_count > LABELS_MAX)
				abort();
		origin_list_fini(&list);
	} else if (!*error || list.count) {
		abort();
	}
	if (size < sizeof(flag)) {
		memcpy(flag, data, size);
		flag[size] = 0;
		if (origin_parse_flag(flag, &o, error, sizeof(error)) == 0)
			origin_fini(&o);
	}
	return 0;
}

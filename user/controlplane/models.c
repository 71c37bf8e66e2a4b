/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/models: base models have "parent": null, LoRA adapters name their base. */
#include "controlplane/models.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static bool name_copy(char out[MODEL_NAME_BYTES_MAX], const json_t *value)
{
	size_t len = json_string_length(value);
	const char *text = json_string_value(value);

	if (!text || !len || len >= MODEL_NAME_BYTES_MAX || memchr(text, 0, len))
		return false;
	memcpy(out, text, len);
	return true;
}

int models_parse(const char *bytes, size_t len, struct model_name **ret_list,
		 unsigned int *ret_count)
{
	json_t *root = json_loadb(bytes, len, JSON_ALLOW_NUL, NULL);
	json_t *data = json_object_get(root, "data"), *item;
	struct model_name *list;
	unsigned int count = 0;
	size_t i;

	if (!json_is_array(data)) {
		json_decref(root);
		return -EBADMSG;
	}
	/* Zeroed to the end: the store compares lists as bytes. */
	list = calloc(json_array_size(data) + 1, sizeof(*list));
	if (!list) {
		json_decref(root);
		return -ENOMEM;
	}
	json_array_foreach(data, i, item)
	{
		if (count == MODELS_MAX ||
		    !name_copy(list[count].name, json_object_get(item, "id")))
			continue;
		name_copy(list[count].parent, json_object_get(item, "parent"));
		count++;
	}
	json_decref(root);
	*ret_list = list;
	*ret_count = count;
	return 0;
}

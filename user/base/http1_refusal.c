/* SPDX-License-Identifier: Apache-2.0 */
/* What each refusal of a message means to the client and to the exporter. */
#include "base/http1.h"

static const struct {
	int status;
	const char *text;
	enum metric_counter counter;
} refusals[] = {[HTTP1_FINE] = {200, "", M_REQUESTS},
#define X(id, status, text) [HTTP1_##id] = {status, text, M_REFUSED_##id},
		HTTP1_REFUSALS(X)
#undef X
};

int http1_refusal_status(enum http1_refusal why)
{
	return refusals[why].status;
}

const char *http1_refusal_text(enum http1_refusal why)
{
	return refusals[why].text;
}

enum metric_counter http1_refusal_counter(enum http1_refusal why)
{
	return refusals[why].counter;
}

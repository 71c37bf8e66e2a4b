/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cheapest engine there can be: any POST gets the same 1 KB answer, /v1/models, /health and
 * /metrics get theirs. So that a comparison of gateways measures gateways. Usage: fixed_engine PORT
 * N
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (1 << 18)

struct conn {
	int fd;
	char head[16384]; /* of the current request, until its end is seen */
	size_t head_len;
	size_t body_left;
	int in_body;
	const char *reply;
	size_t reply_len;
};

static char answer[2048], models[512], health[128], metrics[1024];

static size_t message(char *to, size_t size, const char *type, const char *body)
{
	return (size_t)snprintf(to, size,
				"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
				"content-type: %s\r\n\r\n%s",
				strlen(body), type, body);
}

static void messages_make(void)
{
	char body[1100], text[580];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	snprintf(
		body, sizeof(body),
		"{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":"
		"\"tiny\","
		"\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
		"\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":500,"
		"\"total_tokens\":600,\"completion_tokens\":100,\"prompt_tokens_details\":"
		"{\"cached_tokens\":0}},\"kv_transfer_params\":{\"do_remote_prefill\":true,"
		"\"remote_block_ids\":[[79,80,81,82]],\"remote_engine_id\":\"47f672e1\"}}",
		text);
	message(answer, sizeof(answer), "application/json", body);
	message(models, sizeof(models), "application/json",
		"{\"object\":\"list\",\"data\":[{\"id\":\"tiny\",\"object\":\"model\",\"created\":"
		"1,"
		"\"owned_by\":\"vllm\",\"root\":\"tiny\",\"parent\":null}]}");
	message(health, sizeof(health), "application/json", "");
	message(metrics, sizeof(metrics), "text/plain",
		"vllm:num_requests_running{model_name=\"tiny\"} 0\n"
		"vllm:num_requests_waiting{model_name=\"tiny\"} 0\n"
		"vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0\n");
}

static void reply_choose(struct conn *c)
{
	const char *r = answer;

	if (strncmp(c->head, "GET /v1/models", 14) == 0)
		r = models;
	else if (strncmp(c->head, "GET /health", 11) == 0)
		r = health;
	else if (strncmp(c->head, "GET /metrics", 12) == 0)
		r = metrics;
	c->reply = r;
	c->reply_len = strlen(r);
}

/* Returns the bytes used of p; the request is whole when body_left is 0 and in_body. */
static size_t request_bytes(struct conn *c, const char *p, size_t n)
{
	size_t used = 0;
	char *end, *length;

	if (!c->in_body) {
		size_t before = c->head_len;
		size_t take = n < sizeof(c->head) - 1 - before ? n : sizeof(c->head) - 1 - before;

		memcpy(c->head + before, p, take);
		c->head[before + take] = '\0';
		c->head_len += take;
		end = strstr(c->head, "\r\n\r\n");
		if (!end)
			return take;
		used = (size_t)(end + 4 - c->head) - before;
		length = strcasestr(c->head, "\r\ncontent-length:");
		c->body_left = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
		c->in_body = 1;
		reply_choose(c);
	}
	if (c->body_left) {
		size_t take = n - used < c->body_left ? n - used : c->body_left;

		c->body_left -= take;
		used += take;
	}
	return used;
}

static int conn_read(struct conn *c)
{
	static char buf[READ_BYTES];
	ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
	size_t at = 0;

	if (n <= 0)
		return n == 0 ? -1 : 0;
	while (at < (size_t)n) {
		at += request_bytes(c, buf + at, (size_t)n - at);
		if (!c->in_body || c->body_left)
			continue;
		if (send(c->fd, c->reply, c->reply_len, MSG_NOSIGNAL) < 0)
			return -1;
		c->head_len = 0;
		c->in_body = 0;
	}
	return 0;
}

static void serve(int epfd, struct conn *c, int listening)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int one = 1;

	if (listening) {
		struct conn *fresh = calloc(1, sizeof(*fresh));

		fresh->fd = accept(c->fd, NULL, NULL);
		setsockopt(fresh->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		ev.data.ptr = fresh;
		epoll_ctl(epfd, EPOLL_CTL_ADD, fresh->fd, &ev);
	} else if (conn_read(c)) {
		close(c->fd);
		free(c);
	}
}

int main(int argc, char **argv)
{
	struct epoll_event events[256];
	int epfd = epoll_create1(0), count = argc > 2 ? atoi(argv[2]) : 1;
	struct conn *listeners = calloc((size_t)count, sizeof(*listeners));

	if (argc < 2)
		return 2;
	messages_make();
	for (int i = 0; i < count; i++) {
		struct sockaddr_in sin = {.sin_family = AF_INET,
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
					  .sin_port = htons((uint16_t)(atoi(argv[1]) + i))};
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &listeners[i]};
		int one = 1;

		listeners[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(listeners[i].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(listeners[i].fd, (struct sockaddr *)&sin, sizeof(sin)) ||
		    listen(listeners[i].fd, 1024))
			return 1;
		epoll_ctl(epfd, EPOLL_CTL_ADD, listeners[i].fd, &ev);
	}
	for (;;) {
		int n = epoll_wait(epfd, events, 256, -1);

		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;

			serve(epfd, c, c >= listeners && c < listeners + count);
		}
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluicectl: what the gateway knows and why it did what it did, over its admin port.
 * One command, one HTTP exchange, one table or --json.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/http1.h"
#include "common/flags.h"
#include "sluicectl/flows.h"
#include "sluicectl/guard.h"
#include "sluicectl/tables.h"
#include "sluicectl/upgrade.h"
#include "sluice/limits.h"

#define ANSWER_BYTES_MAX (64u << 20)
#define WORDS_MAX	 6

struct command {
	const char *name, *argument, *method, *path, *help;
	void (*print)(json_t *answer);
};

static const struct command commands[] = {
	{"endpoints", NULL, "GET", "/state/endpoints", "who is in the pool, with load and state",
	 table_endpoints},
	{"top", NULL, "GET", "/state/endpoints", "the same, again every interval, with rates",
	 table_top},
	{"requests", NULL, "GET", "/state/requests", "what is running now", table_requests},
	{"why", "REQUEST-ID", "GET", "/state/decisions/%s",
	 "why that pod: every candidate's scores", table_decision},
	{"affinity", NULL, "GET", "/state/affinity", "who holds how many blocks of prompts",
	 table_affinity},
	{"path", NULL, "GET", "/state/path", "which ways answers can take on this machine",
	 table_path},
	{"drain", "ENDPOINT", "POST", "/endpoints/%s/drain", "no new requests to it", table_drain},
	{"undrain", "ENDPOINT", "POST", "/endpoints/%s/undrain", "take it in again", table_drain},
	{"version", NULL, "GET", "/version", "of the running gateway", table_version},
};

static char *admin = "127.0.0.1:9090";
static char *bpffs_dir = "/sys/fs/bpf/sluice";
static const char *words[WORDS_MAX];
static bool raw, quiet;
static char *prompt_arg, *endpoint_name, *model_name;
static double interval_ms = 1000;
static unsigned int rounds;

static const struct flag rows[] = {
	{"admin", "ADDR", FLAG_TEXT, &admin, "HOST:PORT or unix:/PATH of the gateway's admin port"},
	{"prompt", "FILE|TEXT", FLAG_TEXT, &prompt_arg,
	 "affinity: of this request body, or of this text as a user's message; -: standard input"},
	{"model", "NAME", FLAG_TEXT, &model_name, "affinity --prompt: asked of this model"},
	{"endpoint", "NAME", FLAG_TEXT, &endpoint_name, "affinity --prompt: only this one"},
	{"json", NULL, FLAG_BOOL, &raw, "print the gateway's answer as it is"},
	{"bpffs-dir", "DIR", FLAG_TEXT, &bpffs_dir, "where guard and flows find their maps"},
	{"interval", "TIME", FLAG_MILLIS, &interval_ms, "of top"},
	{"rounds", "N", FLAG_COUNT, &rounds, "top ends after so many; 0: at Ctrl-C"},
};

static void commands_print(void)
{
	char text[64];

	printf("Commands:\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		snprintf(text, sizeof(text), "%s%s%s", commands[i].name,
			 commands[i].argument ? " " : "",
			 commands[i].argument ? commands[i].argument : "");
		printf("  %-34s  %s\n", text, commands[i].help);
	}
	printf("  %-34s  %s\n", "upgrade", "start the program anew in its place; nobody notices");
	printf("  %-34s  %s\n", "flows", "answers that the kernel carries, also without an agent");
	guard_help();
	printf("\nFlags:\n");
}

static const struct flags flags = {
	.tool = "sluicectl",
	.synopsis = "[FLAG VALUE]… COMMAND",
	.about = "What a running gateway knows, and why it did what it did.",
	.rows = rows,
	.count = sizeof(rows) / sizeof(rows[0]),
	.more = commands_print,
	.words = words,
	.words_max = WORDS_MAX,
};

/* A connected socket, or -errno. */
static int admin_connect(const char *address)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
	struct timeval limit = {.tv_sec = 5};
	const char *colon = strrchr(address, ':');
	char host[256];
	int fd, err;

	if (strncmp(address, "unix:", 5) == 0) {
		snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", address + 5);
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		err = connect(fd, (struct sockaddr *)&sun, sizeof(sun));
	} else {
		bool v6 = address[0] == '[' && colon && colon[-1] == ']';

		if (!colon)
			return -EINVAL;
		snprintf(host, sizeof(host), "%.*s", (int)(colon - address) - (v6 ? 2 : 0),
			 address + v6);
		if (getaddrinfo(host, colon + 1, &hints, &ai))
			return -EINVAL;
		fd = socket(ai->ai_family, SOCK_STREAM, 0);
		err = connect(fd, ai->ai_addr, ai->ai_addrlen);
		freeaddrinfo(ai);
	}
	if (fd < 0 || err)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

/* Reads to the end of the connection. The text is the caller's; its length is *ret_len. */
static char *answer_read(int fd, size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0, size = 0;
	ssize_t n;

	do {
		if (size - len < 65536) {
			size = size ? size * 2 : 131072;
			text = realloc(text, size);
			if (!text || size > ANSWER_BYTES_MAX)
				abort();
		}
		n = recv(fd, text + len, size - len - 1, 0);
		len += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	*ret_len = len;
	return text;
}

/* One exchange. Returns the status, the body in *ret_body (within *ret_text, to be freed). */
static int exchange(const char *method, const char *path, struct span send_body, char **ret_text,
		    struct span *ret_body)
{
	static struct http1_head head;
	char request[1024];
	size_t len;
	ssize_t n;
	int fd = admin_connect(admin);

	if (fd < 0) {
		if (quiet)
			return -1;
		fprintf(stderr, "sluicectl: cannot reach the admin port %s: %s\n", admin,
			strerror(-fd));
		return -1;
	}
	n = snprintf(request, sizeof(request),
		     "%s %s HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n"
		     "content-length: %zu\r\n\r\n",
		     method, path, send_body.len);
	if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n ||
	    send(fd, send_body.ptr, send_body.len, MSG_NOSIGNAL) != (ssize_t)send_body.len)
		len = 0;
	*ret_text = answer_read(fd, &len);
	close(fd);
	n = http1_response_parse(&head, *ret_text, len, 0, false);
	if (n < 0 || head.framing == HTTP1_CHUNKED) {
		if (quiet)
			return -1;
		fprintf(stderr, "sluicectl: %s gave no HTTP answer\n", admin);
		return -1;
	}
	*ret_body = span_of(*ret_text + n, len - (size_t)n);
	return head.status;
}

/* Only what a path segment may hold: anything else as %XX. */
static void path_make(char *to, size_t size, const char *format, const char *argument)
{
	char escaped[512];
	size_t n = 0;

	for (const char *p = argument ? argument : ""; *p && n + 4 < sizeof(escaped); p++) {
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
		    (*p >= '0' && *p <= '9') || strchr("-._~:[]", *p))
			escaped[n++] = *p;
		else
			n += (size_t)sprintf(escaped + n, "%%%02X", (unsigned char)*p);
	}
	escaped[n] = '\0';
	snprintf(to, size, format, escaped);
}

/* What the gateway said to a known command, printed. Returns the exit status. */
static int answer_print(const struct command *c, const char *argument, int status, struct span body)
{
	json_t *json = json_loadb(body.ptr, body.len, 0, NULL);
	bool fine = status == 200 && json;

	while (body.len && body.ptr[body.len - 1] == '\n')
		body.len--;
	if (!fine && status == 404 && argument)
		fprintf(stderr, "sluicectl: %s is not known to the gateway\n", argument);
	else if (!fine)
		fprintf(stderr, "sluicectl: the gateway answered %d: %.*s\n", status,
			SPAN_FMT(body));
	else if (raw)
		printf("%.*s\n", SPAN_FMT(body));
	else
		c->print(json);
	json_decref(json);
	return fine ? 0 : 1;
}

static json_t *ask_quietly(const char *method, const char *path, int *ret_status)
{
	char *text = NULL;
	struct span body;
	json_t *o;

	quiet = true;
	*ret_status = exchange(method, path, span_of(NULL, 0), &text, &body);
	o = *ret_status > 0 ? json_loadb(body.ptr, body.len, 0, NULL) : NULL;
	free(text);
	return o;
}

static int run(const struct command *c, const char *argument)
{
	char path[600], *text = NULL;
	struct span body;
	int status;

	path_make(path, sizeof(path), c->path, argument);
	status = exchange(c->method, path, span_of(NULL, 0), &text, &body);
	status = status < 0 ? 1 : answer_print(c, argument, status, body);
	free(text);
	return status;
}

/* What --prompt names: a file's contents, standard input's, or the argument itself. free() it. */
static char *prompt_text(size_t *ret_len)
{
	FILE *f = strcmp(prompt_arg, "-") == 0 ? stdin : fopen(prompt_arg, "re");
	char *bytes = malloc(ADMIN_BODY_BYTES_MAX);

	if (!bytes)
		abort();
	if (f) {
		*ret_len = fread(bytes, 1, ADMIN_BODY_BYTES_MAX, f);
	} else {
		*ret_len = strnlen(prompt_arg, ADMIN_BODY_BYTES_MAX);
		memcpy(bytes, prompt_arg, *ret_len);
	}
	if (f && f != stdin)
		fclose(f);
	return bytes;
}

/* The model that the gateway has a tokenizer for, if it is the only one. free() it. */
static char *only_model(void)
{
	struct span body;
	char *text = NULL, *name = NULL;
	json_t *json, *models;

	if (exchange("GET", "/state/affinity", span_of(NULL, 0), &text, &body) == 200) {
		json = json_loadb(body.ptr, body.len, 0, NULL);
		models = json_object_get(json, "models");
		if (json_array_size(models) == 1)
			name = strdup(json_string_value(
				json_object_get(json_array_get(models, 0), "name")));
		json_decref(json);
	}
	free(text);
	return name;
}

/* The request to ask about: JSON as it is, other text as what a user says. NULL: cannot be made. */
static char *prompt_request(void)
{
	size_t len;
	char *bytes = prompt_text(&len), *whole, *only = NULL;
	json_t *body = json_loadb(bytes, len, JSON_ALLOW_NUL, NULL);

	if (json_string_length(json_object_get(body, "model")) && !model_name) {
		json_decref(body);
		bytes[len < ADMIN_BODY_BYTES_MAX ? len : len - 1] = '\0';
		return bytes; /* as it is: tools are known by their very bytes */
	}
	if (!json_is_object(body)) {
		json_decref(body);
		body = json_pack("{s:[{s:s,s:o}]}", "messages", "role", "user", "content",
				 json_stringn(bytes, len));
		if (!body)
			fprintf(stderr, "sluicectl: %s: no text in UTF-8\n", prompt_arg);
	}
	free(bytes);
	if (body && !model_name && !json_object_get(body, "model"))
		only = only_model();
	if (model_name || only)
		json_object_set_new(body, "model", json_string(model_name ? model_name : only));
	free(only);
	if (body && !json_object_get(body, "model"))
		fprintf(stderr,
			"sluicectl: --model is needed: the prompt names none, and the gateway "
			"has not one tokenizer only\n");
	whole = json_object_get(body, "model") ? json_dumps(body, JSON_COMPACT) : NULL;
	json_decref(body);
	return whole;
}

/* affinity --prompt: who holds how much of it. */
static int prompt_explain(void)
{
	static const struct command prompt = {.print = table_prompt};
	char *request = prompt_request(), *text = NULL;
	struct span body;
	int status;

	if (!request)
		return 1;
	table_endpoint = endpoint_name;
	status = exchange("POST", "/state/affinity/prompt", span_of_str(request), &text, &body);
	status = status < 0 ? 1 : answer_print(&prompt, NULL, status, body);
	free(request);
	free(text);
	return status;
}

/* Again and again, on a cleared screen where there is one. */
static int top(const struct command *c)
{
	int status = 0;

	for (unsigned int i = 0; !status && (!rounds || i < rounds); i++) {
		if (i)
			usleep((useconds_t)(interval_ms * 1000));
		if (!raw && isatty(1))
			printf("\033[H\033[2J");
		status = run(c, NULL);
		fflush(stdout);
	}
	return status;
}

int main(int argc, char **argv)
{
	int status = flags_parse(&flags, argc, argv), count = 0;

	if (status != FLAGS_GO_ON)
		return status;
	if (!words[0])
		return flags_refuse(&flags, "COMMAND", "is needed");
	while (count < WORDS_MAX && words[count])
		count++;
	if (strcmp(words[0], "flows") == 0 && count == 1)
		return flows_command(bpffs_dir, raw);
	if (strcmp(words[0], "guard") == 0)
		return guard_command(bpffs_dir, raw, count - 1, words + 1);
	if (strcmp(words[0], "upgrade") == 0 && count == 1)
		return upgrade_run(ask_quietly, raw);
	if (count > 2)
		return flags_refuse(&flags, words[2], "unexpected word");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		const struct command *c = &commands[i];

		if (strcmp(c->name, words[0]) != 0)
			continue;
		if (!c->argument != !words[1])
			return flags_refuse(&flags, c->name,
					    c->argument ? "needs an argument"
							: "takes no argument");
		if (c->print == table_affinity && prompt_arg)
			return prompt_explain();
		return c->print == table_top ? top(c) : run(c, words[1]);
	}
	return flags_refuse(&flags, words[0], "unknown command");
}

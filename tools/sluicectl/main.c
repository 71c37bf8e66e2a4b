/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluicectl: what the gateway knows and why it did what it did, over its admin port.
 * One command, one HTTP exchange (libcurl-free: the codec of base/), one table or --json.
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
#include "sluicectl/guard.h"
#include "sluicectl/tables.h"

#define ANSWER_BYTES_MAX (64u << 20)
#define WORDS_MAX	 6

struct command {
	const char *name, *argument, *method, *path, *help;
	void (*print)(json_t *answer);
};

static const struct command commands[] = {
	{"endpoints", NULL, "GET", "/state/endpoints", "who is in the pool, with load and state",
	 table_endpoints},
	{"requests", NULL, "GET", "/state/requests", "what is running now", table_requests},
	{"why", "REQUEST-ID", "GET", "/state/decisions/%s",
	 "why that pod: every candidate's scores", table_decision},
	{"drain", "ENDPOINT", "POST", "/endpoints/%s/drain", "no new requests to it", NULL},
	{"undrain", "ENDPOINT", "POST", "/endpoints/%s/undrain", "take it in again", NULL},
	{"version", NULL, "GET", "/version", "of the running gateway", table_version},
};

static void help(void)
{
	printf("Usage: sluicectl [--admin ADDR] [--json] COMMAND\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		printf("  %-10s %-11s %s\n", commands[i].name,
		       commands[i].argument ? commands[i].argument : "", commands[i].help);
	guard_help();
	printf("\n  --admin ADDR   HOST:PORT or unix:/PATH (127.0.0.1:9090)\n"
	       "  --bpffs-dir D  where guard finds its maps (/sys/fs/bpf/sluice)\n"
	       "  --json         print the gateway's answer as it is\n"
	       "  --help         print this and exit\n");
}

static int usage_error(const char *what)
{
	fprintf(stderr, "sluicectl: %s (see --help)\n", what);
	return 2;
}

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
static int exchange(const char *admin, const char *method, const char *path, char **ret_text,
		    struct span *ret_body)
{
	static struct http1_head head;
	char request[1024];
	size_t len;
	ssize_t n;
	int fd = admin_connect(admin);

	if (fd < 0) {
		fprintf(stderr, "sluicectl: cannot reach the admin port %s: %s\n", admin,
			strerror(-fd));
		return -1;
	}
	n = snprintf(request, sizeof(request),
		     "%s %s HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n"
		     "content-length: 0\r\n\r\n",
		     method, path);
	if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n)
		len = 0;
	*ret_text = answer_read(fd, &len);
	close(fd);
	n = http1_response_parse(&head, *ret_text, len, 0, false);
	if (n < 0 || head.framing == HTTP1_CHUNKED) {
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

static int run(const struct command *c, const char *argument, const char *admin, bool raw)
{
	char path[600], *text = NULL;
	struct span body;
	json_t *json;
	int status;

	path_make(path, sizeof(path), c->path, argument);
	status = exchange(admin, c->method, path, &text, &body);
	if (status < 0)
		return 1;
	json = json_loadb(body.ptr, body.len, 0, NULL);
	if (status != 200 && status != 204) {
		if (status == 404 && argument)
			fprintf(stderr, "sluicectl: %s is not known to the gateway\n", argument);
		else
			fprintf(stderr, "sluicectl: the gateway answered %d: %.*s\n", status,
				SPAN_FMT(body));
	} else if (raw || !c->print) {
		printf("%.*s%s", SPAN_FMT(body), body.len ? "\n" : "");
	} else {
		c->print(json);
	}
	json_decref(json);
	free(text);
	return status == 200 || status == 204 ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *admin = "127.0.0.1:9090", *bpffs_dir = "/sys/fs/bpf/sluice";
	const char *words[WORDS_MAX] = {NULL};
	bool raw = false;
	int n = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0) {
			help();
			return 0;
		}
		if (strcmp(argv[i], "--json") == 0)
			raw = true;
		else if (strcmp(argv[i], "--admin") == 0 && i + 1 < argc)
			admin = argv[++i];
		else if (strcmp(argv[i], "--bpffs-dir") == 0 && i + 1 < argc)
			bpffs_dir = argv[++i];
		else if (argv[i][0] == '-' || n == WORDS_MAX)
			return usage_error("unknown flag or too many words");
		else
			words[n++] = argv[i];
	}
	if (n && strcmp(words[0], "guard") == 0)
		return guard_command(bpffs_dir, raw, n - 1, words + 1);
	if (n > 2)
		return usage_error("too many words");
	for (size_t i = 0; words[0] && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(commands[i].name, words[0]) != 0)
			continue;
		if (!commands[i].argument != !words[1])
			return usage_error(commands[i].argument ? "this command needs an argument"
								: "this command takes no argument");
		return run(&commands[i], words[1], admin, raw);
	}
	return usage_error(words[0] ? "unknown command" : "a command is needed");
}

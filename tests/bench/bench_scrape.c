/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What knowing the load costs: the metrics parser's speed on a real page, and the control thread's
 * CPU with 100 engines whose 64 KB pages it reads every 50 ms. Run from the top of the tree.
 */
#include <sys/resource.h>
#include <sys/wait.h>

#include "../fake_engine.h"
#include "base/clock.h"
#include "base/load.h"
#include "base/metrics.h"
#include "controlplane/control.h"
#include "controlplane/metrics_parse.h"

#define PAGE_BYTES  (64 * 1024)
#define ENGINES	    100
#define INTERVAL_MS 50
#define MEASURE_S   4
#define RUNS	    5
#define CORES_GOAL  0.2
#define PARSER_GOAL 3.0 /* GB/s */

static struct fake_engine items[ENGINES];
static struct sluice_endpoint endpoints_map[ENDPOINTS_MAX];
static struct sluice_endpoint_load load_map[ENDPOINTS_MAX];

/* A page of 64 KB: the real one at rest, its beginning repeated as comments to fill. */
static char *page_make(size_t *ret_head)
{
	char *text = malloc(PAGE_BYTES + 512);
	size_t head = (size_t)sprintf(text,
				      "HTTP/1.1 200 OK\r\nserver: uvicorn\r\n"
				      "content-length: %d\r\n\r\n",
				      PAGE_BYTES),
	       len;
	FILE *f = fopen("tests/data/vllm/metrics_idle.txt", "r");

	if (!f) {
		perror("tests/data/vllm/metrics_idle.txt");
		exit(1);
	}
	len = fread(text + head, 1, PAGE_BYTES, f);
	fclose(f);
	while (len < PAGE_BYTES) {
		size_t n = PAGE_BYTES - len < 80 ? PAGE_BYTES - len : 80;

		memset(text + head + len, '#', n);
		text[head + len + n - 1] = '\n';
		len += n;
	}
	text[head + PAGE_BYTES] = 0;
	*ret_head = head;
	return text;
}

static int double_order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), double_order);
	return values[n / 2];
}

static void parser_bench(const char *page)
{
	static struct metrics_parser parser;
	double rates[RUNS], rate;

	for (int run = 0; run < RUNS; run++) {
		uint64_t start = clock_mono_ns();
		int pages = 5000;

		for (int i = 0; i < pages; i++) {
			metrics_parser_reset(&parser);
			metrics_parser_feed(&parser, page, PAGE_BYTES);
			metrics_parser_finish(&parser);
			if (!(parser.found.seen & SERIES_WAITING))
				abort();
		}
		rates[run] = (double)pages * PAGE_BYTES / (double)(clock_mono_ns() - start);
	}
	rate = median(rates, RUNS);
	printf("metrics parser, real page of 64 KB      %6.2f GB/s   goal >= %.1f: %s\n", rate,
	       PARSER_GOAL, rate >= PARSER_GOAL ? "met" : "missed");
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* The engines live in a child, so that this process's CPU is the control thread's. */
static pid_t engines_fork(const char *page, int *ret_pipe)
{
	int out[2], in[2];
	struct fake_engines engines;
	pid_t pid;
	char byte;

	if (pipe(out) || pipe(in))
		exit(1);
	pid = fork();
	if (pid == 0) {
		close(in[1]);
		for (int i = 0; i < ENGINES; i++) {
			items[i].metrics = page;
			items[i].models = "HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\n"
					  "{\"data\":[{\"id\":\"tiny\"}]}  ";
			items[i].health = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
		}
		if (fake_start(&engines, items, ENGINES))
			_exit(1);
		for (int i = 0; i < ENGINES; i++)
			if (write(out[1], &items[i].port, 2) != 2)
				_exit(1);
		if (read(in[0], &byte, 1) < 0) /* until the parent goes */
			_exit(1);
		_exit(0);
	}
	close(out[1]);
	close(in[0]);
	for (int i = 0; i < ENGINES; i++)
		if (read(out[0], &items[i].port, 2) != 2)
			exit(1);
	close(out[0]);
	*ret_pipe = in[1];
	return pid;
}

static void scrape_bench(void)
{
	static char flags[ENGINES][64], *list[ENGINES];
	struct config config = {.endpoints = {list, ENGINES},
				.scrape_interval_ms = INTERVAL_MS,
				.models_interval_ms = 10000,
				.probe_interval_ms = 1000,
				.connect_timeout_ms = 1000};
	struct store *store = store_new(&config, endpoints_map, load_map, NULL);
	struct control *control;
	uint64_t pages, start;
	double cores[3], cpu;
	char error[256];

	for (int i = 0; i < ENGINES; i++) {
		snprintf(flags[i], sizeof(flags[i]), "127.0.0.1:%u", items[i].port);
		list[i] = flags[i];
	}
	if (control_start(&config, store, error, sizeof(error), &control)) {
		fprintf(stderr, "%s\n", error);
		exit(1);
	}
	sleep(1);
	for (int run = 0; run < 3; run++) {
		pages = metric_total(M_SCRAPES);
		cpu = cpu_s();
		start = clock_mono_ns();
		sleep(MEASURE_S);
		cores[run] = (cpu_s() - cpu) * 1e9 / (double)(clock_mono_ns() - start);
		pages = metric_total(M_SCRAPES) - pages;
	}
	cpu = median(cores, 3);
	printf("%d pages of 64 KB every %d ms           %6.3f cores  goal <= %.1f: %s "
	       "(%.0f pages/s of %d)\n",
	       ENGINES, INTERVAL_MS, cpu, CORES_GOAL, cpu <= CORES_GOAL ? "met" : "missed",
	       (double)pages / MEASURE_S, ENGINES * 1000 / INTERVAL_MS);
	control_stop(control);
	store_free(store);
}

int main(void)
{
	size_t head;
	char *page = page_make(&head);
	int hold;
	pid_t pid = engines_fork(page, &hold);

	parser_bench(page + head);
	scrape_bench();
	close(hold);
	waitpid(pid, NULL, 0);
	free(page);
	return 0;
}

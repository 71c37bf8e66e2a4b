/* SPDX-License-Identifier: Apache-2.0 */
/* Three panels side by side, a legend below. Plain SVG that any browser shows. */
#include "sluice-fleet/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#define PANEL_W	 300
#define PANEL_H	 220
#define MARGIN	 50
#define LEGEND_H 20

static const char *const colours[] = {"#000000", "#e69f00", "#56b4e9", "#009e73",
				      "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
				      "#7f7f7f", "#8c564b", "#17becf", "#bcbd22"};

struct panel {
	const char *title;
	bool logarithmic;
	double (*value)(const struct fleet_result *r);
};

static double hit_share(const struct fleet_result *r)
{
	return r->hit_share;
}

static double ttft_p90(const struct fleet_result *r)
{
	return r->ttft_p90_ms / 1e3;
}

static double goodput(const struct fleet_result *r)
{
	return r->goodput_rps;
}

static const struct panel panels[] = {{"hit share", false, hit_share},
				      {"TTFT p90, s", true, ttft_p90},
				      {"good requests a second", false, goodput}};
#define PANELS (sizeof(panels) / sizeof(panels[0]))

struct scale {
	double low, high;
	bool logarithmic;
};

static double place(const struct scale *s, double v)
{
	if (s->logarithmic)
		return (log(v) - log(s->low)) / (log(s->high) - log(s->low));
	return (v - s->low) / (s->high - s->low);
}

static struct scale scale_of(const struct panel *p, const struct fleet_result *results,
			     uint32_t count)
{
	struct scale s = {p->logarithmic ? INFINITY : 0, 0, p->logarithmic};

	for (uint32_t i = 0; i < count; i++) {
		double v = fmax(p->value(&results[i]), 1e-3);

		s.low = fmin(s.low, v);
		s.high = fmax(s.high, v);
	}
	if (!(s.high > s.low))
		s.high = s.low + 1;
	if (!s.logarithmic)
		s.high *= 1.05;
	return s;
}

static void draw_panel(FILE *f, const struct panel *p, double x0, uint32_t policy_count,
		       const double *loads, uint32_t load_count, const struct fleet_result *results)
{
	struct scale y = scale_of(p, results, policy_count * load_count);
	struct scale x = {loads[0], loads[load_count - 1], false};

	if (!(x.high > x.low))
		x.high = x.low + 1;
	fprintf(f, "<g transform='translate(%g,30)'><text x='%d' y='-10'>%s</text>\n", x0,
		PANEL_W / 2 - 40, p->title);
	fprintf(f, "<rect width='%d' height='%d' fill='none' stroke='#999'/>\n", PANEL_W, PANEL_H);
	for (int i = 0; i <= 4; i++) {
		double at = i / 4.0;
		double v = y.logarithmic ? exp(log(y.low) + at * (log(y.high) - log(y.low)))
					 : y.low + at * (y.high - y.low);

		fprintf(f, "<text x='-6' y='%g' text-anchor='end'>%.3g</text>\n",
			PANEL_H * (1 - at) + 4, v);
	}
	for (uint32_t i = 0; i < load_count; i++)
		fprintf(f, "<text x='%g' y='%d' text-anchor='middle'>%.3g</text>\n",
			place(&x, loads[i]) * PANEL_W, PANEL_H + 16, loads[i]);
	for (uint32_t k = 0; k < policy_count; k++) {
		fprintf(f, "<polyline fill='none' stroke-width='%d' stroke='%s' points='",
			k + 1 == policy_count ? 3 : 1,
			colours[k % (sizeof(colours) / sizeof(colours[0]))]);
		for (uint32_t i = 0; i < load_count; i++)
			fprintf(f, "%.1f,%.1f ", place(&x, loads[i]) * PANEL_W,
				PANEL_H *
					(1 - place(&y, fmax(p->value(&results[k * load_count + i]),
							    y.low))));
		fputs("'/>\n", f);
	}
	fputs("</g>\n", f);
}

int plot_write(const char *path, const char *const *policies, uint32_t policy_count,
	       const double *loads, uint32_t load_count, const struct fleet_result *results)
{
	FILE *f = fopen(path, "we");
	int width = (int)PANELS * (PANEL_W + MARGIN) + MARGIN;
	int height = PANEL_H + 70 + LEGEND_H * (int)((policy_count + 5) / 6);

	if (!f)
		return -errno;
	fprintf(f,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
		"font-family='sans-serif' font-size='11'>\n<rect width='100%%' height='100%%' "
		"fill='white'/>\n",
		width, height);
	for (uint32_t i = 0; i < PANELS; i++)
		draw_panel(f, &panels[i], MARGIN + i * (PANEL_W + MARGIN), policy_count, loads,
			   load_count, results);
	for (uint32_t k = 0; k < policy_count; k++)
		fprintf(f, "<text x='%d' y='%d' fill='%s'>&#9632; %.40s</text>\n",
			MARGIN + (int)(k % 6) * 165, PANEL_H + 70 + LEGEND_H * (int)(k / 6),
			colours[k % (sizeof(colours) / sizeof(colours[0]))], policies[k]);
	fputs("</svg>\n", f);
	return fclose(f) ? -errno : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim paper: published, simulated, and what interpolation would have said. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cli/flags.h"
#include "cli/sim.h"
#include "sim/paper.h"

/* In percent, and nothing where the last digit that is printed is 0: not "-0.0%". */
static double percent(double v) {
    return fabs(v) < 0.0005 ? 0 : 100 * v;
}

static void print_row(const struct paper_row *r) {
    char other[24] = "-";
    if (!isnan(r->interpolated))
        snprintf(other, sizeof other, "%+.1f%%", percent(r->interpolated / r->published - 1));
    printf("%-3s %-50s %9.5g %9.4g %-8s %+6.1f%%  %-10s %9s\n", r->table, r->row, r->published,
           r->simulated, r->unit, percent(r->error), r->calibrated ? "yes" : "no", other);
}

static void print_text(const struct paper *p, bool all) {
    const struct paper_row *rows;
    struct paper_score s;
    uint32_t n = paper_rows(p, &rows);
    printf("%-3s %-50s %9s %9s %-8s %7s  %-10s %9s\n", "", "row", "published", "simulated", "",
           "error", "calibrated", "interpol.");
    for (uint32_t i = 0; i < n; i++)
        if (!rows[i].no) print_row(&rows[i]);
    for (uint32_t i = 0; i < n && all; i++)
        if (rows[i].no)
            printf("%-3s %-50s %9.5g %9s %-8s not simulated: %s\n", rows[i].table, rows[i].row,
                   rows[i].published, "-", rows[i].unit, rows[i].no);
    paper_score(p, &s);
    printf("\n%u rows simulated (%u used to calibrate), %u not simulated%s. Not calibrated: median "
           "error %.1f%%, %u over 15%%, %u over 25%%.\n",
           s.n + s.calibrated, s.calibrated, s.not_computed, all ? "" : " (why: --all)",
           100 * s.median, s.over_15, s.over_25);
}

static void print_json(const struct paper *p) {
    const struct paper_row *rows;
    struct paper_score s;
    uint32_t n = paper_rows(p, &rows);
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++) {
        const struct paper_row *r = &rows[i];
        json_t *o = json_pack("{s:s, s:s, s:s, s:f, s:b}", "table", r->table, "row", r->row, "unit",
                              r->unit, "published", r->published, "calibrated", r->calibrated);
        if (r->no) {
            json_object_set_new(o, "not_simulated", json_string(r->no));
        } else {
            json_object_set_new(o, "simulated", json_real(r->simulated));
            json_object_set_new(o, "error", json_real(r->error));
            if (!isnan(r->interpolated))
                json_object_set_new(o, "interpolated", json_real(r->interpolated));
        }
        json_array_append_new(list, o);
    }
    paper_score(p, &s);
    json_t *o =
        json_pack("{s:o, s:i, s:i, s:i, s:f, s:i, s:i}", "rows", list, "predicted", s.n,
                  "calibrated", s.calibrated, "not_simulated", s.not_computed, "median_error",
                  s.median, "over_15_percent", s.over_15, "over_25_percent", s.over_25);
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(8));
    printf("\n");
    json_decref(o);
}

int cli_sim_paper(int argc, char **argv) {
    bool json = false, all = false;
    enum flag_result result;
    struct paper *p = NULL;
    struct err err;
    const struct flag flags[] = {
        {"all", NULL, FLAG_BOOL, &all, 0, 0, "also rows that are not simulated, and why", false},
        {"json", NULL, FLAG_BOOL, &json, 0, 0, "all rows and the score as JSON", false},
        {0}};
    const struct flag_command cmd = {
        .name = "sim paper",
        .what = "the published tables of CloudMatrix384 beside what the model says. Rows used to "
                "calibrate show that the model fits, the others that it predicts; interpol. is the "
                "error of a straight line through the other rows of a series.",
        .usage = "supernode sim paper [flags]",
        .example = "supernode sim paper --all",
        .flags = flags};
    enum st st = flags_parse(&result, &cmd, argc, argv, NULL, &err);
    if (st) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    st = paper_open(&p, &err);
    if (st) return cli_fail(CLI_FAILED, &err);
    if (json)
        print_json(p);
    else
        print_text(p, all);
    paper_free(p);
    return 0;
}

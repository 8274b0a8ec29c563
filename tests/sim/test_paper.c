/* SPDX-License-Identifier: Apache-2.0 */
/* The comparison with published numbers: complete, within its bar, and honest about what was calibrated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/paper.h"

static struct paper *paper;
static const struct paper_row *rows;
static uint32_t n_rows;

static int open_paper(void **state) {
    struct err err;
    (void)state;
    if (paper_open(&paper, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    n_rows = paper_rows(paper, &rows);
    return 0;
}

static int close_paper(void **state) {
    (void)state;
    paper_free(paper);
    return 0;
}

/* What the paper's tables and figures hold, written down a second time, in their order. Columns that
 * follow from another (tokens/s from TPOT, GB/s from a latency) are not rows of their own. */
static const struct {
    const char *table;
    double published[32];
} facts[] = {
    {"A4", {167, 164, 137, 135, 151, 147, 110, 107, 1.2, 1.9, 1.3, 2.1, 1.0, 1.7, 1.1, 1.9}},
    {"C1", {4026, 6288, 7417, 6688}},
    {"C2", {1850, 2325, 49.4}},
    {"C3", {46.8, 49.4, 14.9}},
    {"C4", {1.058, 1.094, 0.9, 1.27}},
    {"C5", {874, 1260}},
    {"C6", {1.42, 1.52, 0.41, 2560, 2560, 320, 5, 5, 8, 1}},
    {"C7", {116, 133, 141, 152, 118,  132,  150,  150,  163,  182,  186,  194,
            318, 329, 353, 369, 65.4, 86.8, 1346, 3000, 79.4, 77.4, 82.7, 77.9}},
};

static void every_published_row_is_there_and_no_other(void **state) {
    (void)state;
    uint32_t row = 0;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        for (int j = 0; j < 32 && facts[i].published[j] > 0; j++, row++) {
            if (row >= n_rows) fail_msg("found %u rows, expected more", n_rows);
            assert_string_equal(rows[row].table, facts[i].table);
            if (rows[row].published != facts[i].published[j])
                fail_msg("%s, %s: found %g, expected %g", rows[row].table, rows[row].row,
                         rows[row].published, facts[i].published[j]);
        }
    assert_int_equal(row, n_rows);
}

static void each_row_is_computed_or_says_why_not(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_rows; i++) {
        if (rows[i].no) {
            assert_true(strlen(rows[i].no) > 10 && !rows[i].calibrated);
            continue;
        }
        assert_true(rows[i].simulated > 0);
        assert_true(fabs(rows[i].simulated / rows[i].published - 1 - rows[i].error) < 1e-12);
    }
}

static void rows_not_used_to_calibrate_keep_the_bar(void **state) {
    (void)state;
    struct paper_score s;
    paper_score(paper, &s);
    assert_true(s.n >= 20);
    assert_int_equal(s.n + s.calibrated + s.not_computed, n_rows);
    if (!(s.median < 0.05)) fail_msg("median error %g, expected less than 0.05", s.median);
    assert_true(s.over_15 <= 2);
    assert_int_equal(s.over_25, 0);
}

/* Measured paths and latencies stand in the hardware file as they were published. */
static void machines_keep_what_they_were_described_with(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_rows && !strcmp(rows[i].table, "A4"); i++)
        assert_true(rows[i].calibrated && fabs(rows[i].error) < 0.05);
}

/* By what the hardware files' `calibrated:` texts and docs/simulator.md name. */
static const char *const calibrated[] = {
    "SGLang on H100, perfect EPLB",                   /* H100 prefill_layer */
    "CloudMatrix-Infer, perfect EPLB",                /* prefill_layer */
    "DeepSeek on H800, profile, batch 128, KV 4,096", /* Hopper's kernel */
    "batch 8, 4,096 + 256 tokens",                    /* kernel */
    "prefill, UB over VPC, best case",                /* pool_card */
    "cold start, EMS",                                /* bucket's share */
    "warm start, DRAM of each node",                  /* warm start */
    "warm start, EMS",
    "dispatch, EP 8", /* dispatch, combine, of both chips, and IB's rate */
    "dispatch, EP 256",
    "combine, EP 8",
    "combine, EP 128",
    "H800 dispatch, EP 8",
    "H800 combine, EP 8",
    "MLA, compute-bound, of peak",           /* attention */
    "MLA, memory-bound",                     /* memory */
    "H800 FlashMLA, memory-bound",           /* Hopper's memory */
    "4 groups, 7168 x 4096 x 4096, of peak", /* gmm */
    "4 groups, 7168 x 4096 x 8192, of peak",
};

static void rows_called_calibrated_are_those_that_constants_name(void **state) {
    (void)state;
    uint32_t at = 0, n = sizeof calibrated / sizeof *calibrated;
    for (uint32_t i = 0; i < n_rows; i++) {
        if (!rows[i].calibrated || !strcmp(rows[i].table, "A4")) continue;
        if (at == n) fail_msg("%s: found calibrated, expected not", rows[i].row);
        assert_string_equal(rows[i].row, calibrated[at++]);
    }
    assert_int_equal(at, n);
}

static const struct paper_row *find(const char *name) {
    for (uint32_t i = 0; i < n_rows; i++)
        if (strcmp(rows[i].row, name) == 0) return &rows[i];
    fail_msg("%s: found no such row", name);
    return NULL;
}

static void interpolation_is_the_line_through_the_two_nearest_others(void **state) {
    (void)state;
    const struct paper_row *between = find("dispatch, EP 32"), *beyond = find("dispatch, EP 256");
    /* over log EP: EP 8 is two doublings below 32, EP 64 one above; 256 is two above 64, three above 32 */
    assert_true(fabs(between->interpolated - (116 + (141 - 116) * 2.0 / 3)) < 1e-9);
    assert_true(fabs(beyond->interpolated - (133 + (141 - 133) * 3.0)) < 1e-9);
    /* where only one other row is left, it is taken as it is */
    assert_true(find("decode, KV 4,096, batch 64")->interpolated == 1.094);
    assert_true(isnan(find("without MTP, a layer")->interpolated));
}

/* --- nobody else has them --------------------------------------------------------------------- */

static const char *root(void) {
    const char *r = getenv("SUPERNODE_ROOT");
    return r ? r : ".";
}

/* "6,688" is looked for as 6688; a number inside a longer one is another number. */
static bool holds(const char *text, const char *number) {
    size_t n = strlen(number);
    for (const char *p = strstr(text, number); p; p = strstr(p + 1, number)) {
        bool before = p > text && strchr("0123456789.", p[-1]);
        if (!before && !strchr("0123456789.", p[n])) return true;
    }
    return false;
}

static void check_file(const char *path) {
    static char text[1 << 18];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    if (strstr(text, "published/"))
        fail_msg("%s: found published/, which only paper.c reads", path);
    for (uint32_t i = 0; i < n_rows; i++) {
        double v = rows[i].published;
        char number[32];
        if (v < 800 || v >= 1e5 || fmod(v, 100) == 0 || fmod(v, 256) == 0) continue;
        snprintf(number, sizeof number, "%g", v);
        if (holds(text, number)) fail_msg("%s: found the published %s", path, number);
    }
}

static void no_other_source_holds_or_reads_published_numbers(void **state) {
    (void)state;
    static const char *const rooms[] = {"src/sim", "src/cli", "src/sim/core", NULL};
    for (int i = 0; rooms[i]; i++) {
        char folder[2048], path[4096];
        snprintf(folder, sizeof folder, "%s/%s", root(), rooms[i]);
        DIR *d = opendir(folder);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));) {
            const char *dot = strrchr(e->d_name, '.');
            if (!dot || (strcmp(dot, ".c") && strcmp(dot, ".h"))) continue;
            if (!strncmp(e->d_name, "paper.", 6)) continue;
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            check_file(path);
        }
        closedir(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_published_row_is_there_and_no_other),
        cmocka_unit_test(each_row_is_computed_or_says_why_not),
        cmocka_unit_test(rows_not_used_to_calibrate_keep_the_bar),
        cmocka_unit_test(machines_keep_what_they_were_described_with),
        cmocka_unit_test(rows_called_calibrated_are_those_that_constants_name),
        cmocka_unit_test(interpolation_is_the_line_through_the_two_nearest_others),
        cmocka_unit_test(no_other_source_holds_or_reads_published_numbers),
    };
    return cmocka_run_group_tests(tests, open_paper, close_paper);
}

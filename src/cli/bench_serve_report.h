/* SPDX-License-Identifier: Apache-2.0 */
/* What a run of `supernode bench serve` comes to: percentiles, throughput, goodput under SLOs and
 * failures by kind, as lines for people and as JSON with the keys of `vllm bench serve`. */
#ifndef SUPERNODE_CLI_BENCH_SERVE_REPORT_H
#define SUPERNODE_CLI_BENCH_SERVE_REPORT_H

#include <jansson.h>

#include "cli/bench_serve_run.h"

enum bench_metric { BENCH_TTFT, BENCH_TPOT, BENCH_ITL, BENCH_E2EL, BENCH_METRICS };
enum { BENCH_PERCENTILES_MAX = 16, BENCH_STATUSES = 1000 };

struct bench_view {
    bool shown[BENCH_METRICS];
    uint32_t n_percentiles;
    double percentiles[BENCH_PERCENTILES_MAX];
    bool has_slo;
    double slo_ms[BENCH_METRICS]; /* 0: none */
};

/* Comma-separated lists of the command line, and one SLO "ttft:500". */
enum st ST_CHECKED bench_view_metrics(struct bench_view *v, const char *list, struct err *err);
enum st ST_CHECKED bench_view_percentiles(struct bench_view *v, const char *list, struct err *err);
enum st ST_CHECKED bench_view_slo(struct bench_view *v, const char *slo, struct err *err);

struct bench_stat {
    uint32_t len;
    double *v; /* sorted */
    double mean, std;
};

struct bench_report {
    const struct bench_view *view;
    const struct bench_run *run;
    uint32_t completed, good, faults[BENCH_FAULTS];
    uint32_t statuses[BENCH_STATUSES];    /* those among faults[BENCH_HTTP]; 0: none that exists */
    uint64_t input_tokens, output_tokens; /* of those completed */
    double seconds;
    struct bench_stat stats[BENCH_METRICS];
    double late_ms_p99; /* sending after it was due */
};

enum st ST_CHECKED bench_report_make(struct bench_report *r, const struct bench_view *view,
                                     const struct bench_run *run, struct err *err);
void bench_report_print(const struct bench_report *r);
/* Adds its members to o; detailed: those that have one entry a request. */
enum st ST_CHECKED bench_report_json(const struct bench_report *r, json_t *o, bool detailed,
                                     struct err *err);
void bench_report_release(struct bench_report *r);

#endif

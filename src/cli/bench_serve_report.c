/* SPDX-License-Identifier: Apache-2.0 */
/* Implements bench_serve_report.h. Definitions are vLLM's: TPOT is (last - first token) / (tokens
 * - 1) of a request with two tokens or more, ITL is each gap between two chunks of a stream, goodput
 * counts requests that meet every SLO given. */
#include "cli/bench_serve_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/percentile.h"

static const struct {
    const char *key, *label;
} metrics[BENCH_METRICS] = {{"ttft", "TTFT"}, {"tpot", "TPOT"}, {"itl", "ITL"}, {"e2el", "E2E"}};

static const char *const fault_names[BENCH_FAULTS] = {
    "",     "no connection",   "timeout",         "cut off",
    "http", "error in stream", "malformed event", "no text"};

/* --- the command line ------------------------------------------------------------------------- */

static enum bench_metric metric_of(const char *name, size_t len) {
    uint32_t m = 0;
    while (m < BENCH_METRICS &&
           (strlen(metrics[m].key) != len || memcmp(metrics[m].key, name, len) != 0))
        m++;
    return m;
}

enum st bench_view_metrics(struct bench_view *v, const char *list, struct err *err) {
    memset(v->shown, 0, sizeof v->shown);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        enum bench_metric m = metric_of(p, n);
        if (m == BENCH_METRICS)
            return err_set(err, ST_INVALID,
                           "bench serve: --percentile-metrics: found '%.*s', expected ttft, tpot, "
                           "itl, e2el with commas between",
                           (int)n, p);
        v->shown[m] = true;
        p += n + (p[n] == ',');
    }
    return ST_OK;
}

enum st bench_view_percentiles(struct bench_view *v, const char *list, struct err *err) {
    v->n_percentiles = 0;
    for (const char *p = list; *p;) {
        char *end;
        double at = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(at >= 0 && at <= 100) ||
            v->n_percentiles == BENCH_PERCENTILES_MAX)
            return err_set(err, ST_INVALID,
                           "bench serve: --metric-percentiles: found '%s', expected up to %d "
                           "numbers from 0 to 100 with commas between",
                           list, BENCH_PERCENTILES_MAX);
        v->percentiles[v->n_percentiles++] = at;
        p = end + (*end == ',');
    }
    return ST_OK;
}

enum st bench_view_slo(struct bench_view *v, const char *slo, struct err *err) {
    size_t n = strcspn(slo, ":");
    enum bench_metric m = metric_of(slo, n);
    char *end = NULL;
    double ms = slo[n] ? strtod(slo + n + 1, &end) : 0;
    if (m == BENCH_METRICS || m == BENCH_ITL || !end || *end || !(ms > 0 && ms < 1e12))
        return err_set(err, ST_INVALID,
                       "bench serve: --goodput: found '%s', expected ttft:MS, tpot:MS or e2el:MS",
                       slo);
    v->slo_ms[m] = ms;
    v->has_slo = true;
    return ST_OK;
}

/* --- figures ---------------------------------------------------------------------------------- */

static double ms(uint64_t later, uint64_t earlier) {
    return later > earlier ? (double)(later - earlier) / 1e6 : 0;
}

static double ttft_ms(const struct bench_result *q) {
    return ms(q->first_ns, q->from_ns);
}
static double e2el_ms(const struct bench_result *q) {
    return ms(q->last_ns, q->from_ns);
}
static double tpot_ms(const struct bench_result *q) { /* 0 with one token */
    return q->output_tokens > 1 ? ms(q->last_ns, q->first_ns) / (q->output_tokens - 1) : 0;
}

static bool is_good(const struct bench_view *v, const struct bench_result *q) {
    const double *slo = v->slo_ms;
    return (slo[BENCH_TTFT] == 0 || ttft_ms(q) <= slo[BENCH_TTFT]) &&
           (slo[BENCH_TPOT] == 0 || tpot_ms(q) <= slo[BENCH_TPOT]) &&
           (slo[BENCH_E2EL] == 0 || e2el_ms(q) <= slo[BENCH_E2EL]);
}

static void stat_finish(struct bench_stat *s) {
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < s->len; i++) sum += s->v[i];
    s->mean = s->len ? sum / s->len : 0;
    for (uint32_t i = 0; i < s->len; i++) squares += (s->v[i] - s->mean) * (s->v[i] - s->mean);
    s->std = s->len ? sqrt(squares / s->len) : 0;
    qsort(s->v, s->len, sizeof *s->v, percentile_compare);
}

static bool make_room(struct bench_report *r) {
    uint64_t gaps = 0;
    for (uint32_t i = 0; i < r->run->len; i++) gaps += r->run->v[i].n_gaps;
    for (uint32_t m = 0; m < BENCH_METRICS; m++) {
        r->stats[m].v = calloc((m == BENCH_ITL ? gaps : r->run->len) + 1, sizeof(double));
        if (!r->stats[m].v) return false;
    }
    return gaps < UINT32_MAX;
}

static void add(struct bench_stat *s, double v) {
    s->v[s->len++] = v;
}

enum st bench_report_make(struct bench_report *r, const struct bench_view *view,
                          const struct bench_run *run, struct err *err) {
    *r = (struct bench_report){.view = view, .run = run, .seconds = (double)run->duration_ns / 1e9};
    double *late = calloc(run->len, sizeof *late);
    if (!late || !make_room(r)) {
        free(late);
        bench_report_release(r);
        return err_set(err, ST_NO_MEMORY, "bench serve: out of memory");
    }
    for (uint32_t i = 0; i < run->len; i++) {
        const struct bench_result *q = &run->v[i];
        late[i] = ms(q->sent_ns, q->from_ns);
        r->faults[q->fault]++;
        if (q->fault == BENCH_HTTP)
            r->statuses[q->status > 0 && q->status < BENCH_STATUSES ? q->status : 0]++;
        if (q->fault) continue;
        r->completed++;
        r->good += is_good(view, q);
        r->input_tokens += q->input_tokens;
        r->output_tokens += q->output_tokens;
        add(&r->stats[BENCH_TTFT], ttft_ms(q));
        add(&r->stats[BENCH_E2EL], e2el_ms(q));
        if (q->output_tokens > 1) add(&r->stats[BENCH_TPOT], tpot_ms(q));
        for (uint32_t g = 0; g < q->n_gaps; g++) add(&r->stats[BENCH_ITL], (double)q->gaps_ms[g]);
    }
    for (uint32_t m = 0; m < BENCH_METRICS; m++) stat_finish(&r->stats[m]);
    qsort(late, run->len, sizeof *late, percentile_compare);
    r->late_ms_p99 = percentile(late, run->len, 99);
    free(late);
    return ST_OK;
}

void bench_report_release(struct bench_report *r) {
    for (uint32_t m = 0; m < BENCH_METRICS; m++) free(r->stats[m].v);
    memset(r->stats, 0, sizeof r->stats);
}

/* --- lines ------------------------------------------------------------------------------------ */

static const char *figure(char *out, size_t size, double v) {
    snprintf(out, size, v < 10 ? "%.2f" : v < 100 ? "%.1f" : "%.0f", v);
    return out;
}

static void print_stat(const struct bench_report *r, enum bench_metric m) {
    const struct bench_stat *s = &r->stats[m];
    char text[32];
    if (s->len == 0) {
        printf("%-4s ms     none\n", metrics[m].label);
        return;
    }
    printf("%-4s ms     mean %s", metrics[m].label, figure(text, sizeof text, s->mean));
    for (uint32_t i = 0; i < r->view->n_percentiles; i++) {
        double p = r->view->percentiles[i];
        printf("%*sp%g %s", (int)(strlen(text) < 8 ? 9 - strlen(text) : 1), "", p,
               figure(text, sizeof text, percentile(s->v, s->len, p)));
    }
    printf("\n");
}

static void print_goodput(const struct bench_report *r) {
    char text[32];
    const char *sep = "";
    printf("goodput     %s req/s, %.1f %% of %u   (",
           figure(text, sizeof text, r->good / r->seconds), 100.0 * r->good / r->run->len,
           r->run->len);
    for (uint32_t m = 0; m < BENCH_METRICS; m++) {
        if (r->view->slo_ms[m] == 0) continue;
        printf("%s%s %g ms", sep, metrics[m].label, r->view->slo_ms[m]);
        sep = ", ";
    }
    printf(")\n");
}

/* Calls fn for each kind of failure there was; HTTP errors by status. */
static void each_fault(const struct bench_report *r,
                       void (*fn)(void *arg, const char *name, uint32_t count), void *arg) {
    char name[32];
    for (uint32_t f = BENCH_OK + 1; f < BENCH_FAULTS; f++)
        if (f != BENCH_HTTP && r->faults[f]) fn(arg, fault_names[f], r->faults[f]);
    for (uint32_t i = 0; i < BENCH_STATUSES; i++) {
        if (r->statuses[i] == 0) continue;
        snprintf(name, sizeof name, "%s %u", fault_names[BENCH_HTTP], i);
        fn(arg, name, r->statuses[i]);
    }
}

static void print_fault(void *arg, const char *name, uint32_t count) {
    const char **sep = arg;
    printf("%s%u %s", *sep, count, name);
    *sep = ", ";
}

static void print_faults(const struct bench_report *r) {
    const char *sep = "failed      ";
    if (r->completed == r->run->len) return;
    each_fault(r, print_fault, &sep);
    if (r->run->sample.text[0]) printf("   (the first: %s)", r->run->sample.text);
    printf("\n");
}

void bench_report_print(const struct bench_report *r) {
    char text[3][32];
    printf("requests    %u completed, %u failed in %.2f s, at most %u at once\n", r->completed,
           r->run->len - r->completed, r->seconds, r->run->concurrency_peak);
    printf("throughput  %s req/s   input %s tokens/s   output %s tokens/s\n",
           figure(text[0], sizeof text[0], r->completed / r->seconds),
           figure(text[1], sizeof text[1], (double)r->input_tokens / r->seconds),
           figure(text[2], sizeof text[2], (double)r->output_tokens / r->seconds));
    for (uint32_t m = 0; m < BENCH_METRICS; m++)
        if (r->view->shown[m]) print_stat(r, m);
    if (r->view->has_slo) print_goodput(r);
    print_faults(r);
    if (r->late_ms_p99 > 10)
        printf("late        requests were sent up to %.0f ms (p99) after they were due; their "
               "times count from when they were due\n",
               r->late_ms_p99);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static int set_f64(json_t *o, const char *key, double v) {
    return json_object_set_new(o, key, json_real(isfinite(v) ? v : 0));
}

static int set_stat(json_t *o, const char *what, enum bench_metric m, double v) {
    char key[64];
    snprintf(key, sizeof key, "%s_%s_ms", what, metrics[m].key);
    return set_f64(o, key, v);
}

static int stats_json(const struct bench_report *r, json_t *o) {
    int bad = 0;
    for (uint32_t m = 0; m < BENCH_METRICS; m++) {
        const struct bench_stat *s = &r->stats[m];
        bad |= set_stat(o, "mean", m, s->mean);
        bad |= set_stat(o, "median", m, percentile(s->v, s->len, 50));
        bad |= set_stat(o, "std", m, s->std);
        for (uint32_t i = 0; i < r->view->n_percentiles; i++) {
            char what[32];
            snprintf(what, sizeof what, "p%g", r->view->percentiles[i]);
            bad |= set_stat(o, what, m, percentile(s->v, s->len, r->view->percentiles[i]));
        }
    }
    return bad;
}

static int detail_json(const struct bench_report *r, json_t *o) {
    json_t *in = json_array(), *out = json_array(), *ttfts = json_array(), *itls = json_array(),
           *starts = json_array(), *errors = json_array();
    int bad = 0;
    for (uint32_t i = 0; i < r->run->len; i++) {
        const struct bench_result *q = &r->run->v[i];
        json_t *gaps = json_array();
        for (uint32_t g = 0; g < q->n_gaps; g++)
            bad |= json_array_append_new(gaps, json_real((double)q->gaps_ms[g] / 1e3));
        bad |= json_array_append_new(itls, gaps);
        bad |= json_array_append_new(in, json_integer(q->input_tokens));
        bad |= json_array_append_new(out, json_integer(q->fault ? 0 : q->output_tokens));
        bad |= json_array_append_new(ttfts, json_real(q->fault ? 0 : ttft_ms(q) / 1e3));
        bad |= json_array_append_new(starts, json_real((double)q->from_ns / 1e9));
        bad |= json_array_append_new(errors, json_string(fault_names[q->fault]));
    }
    bad |= json_object_set_new(o, "input_lens", in);
    bad |= json_object_set_new(o, "output_lens", out);
    bad |= json_object_set_new(o, "start_times", starts);
    bad |= json_object_set_new(o, "ttfts", ttfts);
    bad |= json_object_set_new(o, "itls", itls);
    bad |= json_object_set_new(o, "errors", errors);
    return bad;
}

static void fault_json(void *arg, const char *name, uint32_t count) {
    (void)json_object_set_new(arg, name, json_integer(count));
}

enum st bench_report_json(const struct bench_report *r, json_t *o, bool detailed, struct err *err) {
    json_t *failures = json_object();
    int bad = 0;
    each_fault(r, fault_json, failures);
    bad |= set_f64(o, "duration", r->seconds);
    bad |= json_object_set_new(o, "completed", json_integer(r->completed));
    bad |= json_object_set_new(o, "failed", json_integer(r->run->len - r->completed));
    bad |= json_object_set_new(o, "failures", failures);
    bad |= json_object_set_new(o, "total_input_tokens", json_integer((json_int_t)r->input_tokens));
    bad |=
        json_object_set_new(o, "total_output_tokens", json_integer((json_int_t)r->output_tokens));
    bad |= set_f64(o, "request_throughput", r->completed / r->seconds);
    bad |= json_object_set_new(o, "request_goodput",
                               r->view->has_slo ? json_real(r->good / r->seconds) : json_null());
    bad |= set_f64(o, "output_throughput", (double)r->output_tokens / r->seconds);
    bad |= set_f64(o, "total_token_throughput",
                   (double)(r->input_tokens + r->output_tokens) / r->seconds);
    bad |=
        json_object_set_new(o, "max_concurrent_requests", json_integer(r->run->concurrency_peak));
    bad |= set_f64(o, "p99_late_ms", r->late_ms_p99);
    bad |= stats_json(r, o);
    if (detailed) bad |= detail_json(r, o);
    return bad ? err_set(err, ST_NO_MEMORY, "bench serve: out of memory") : ST_OK;
}

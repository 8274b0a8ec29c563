/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim run: a cluster's control code in virtual time, on hardware that a file describes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/flags.h"
#include "cli/human.h"
#include "cli/progress.h"
#include "cli/sim.h"
#include "sim/run.h"
#include "sim/solo.h"

struct args {
    const char *seed, *trace, *replay, *rate_scale, *rate, *duration, *requests, *prefill, *decode;
    bool json;
};

#define BY "sim run: --"

/* What stands on the command line goes before what stands in the file, and is checked as that is. */
static uint32_t overrides(struct run_override v[16], const struct args *a) {
    const struct run_override all[] = {
        {NULL, "seed", a->seed, BY "seed"},
        {"load", "trace", a->trace, BY "trace"},
        {"load", "arrivals", a->trace ? "trace" : NULL, BY "trace"},
        {"load", "rate", a->rate, BY "rate"},
        {"load", "arrivals", a->rate ? "poisson" : NULL, BY "rate"},
        {"load", "rate_scale", a->rate_scale, BY "rate-scale"},
        {"load", "duration_s", a->duration, BY "duration"},
        {"load", "requests", a->requests, BY "requests"},
        {"prefill", "instances", a->prefill, BY "prefill"},
        {"decode", "instances", a->decode, BY "decode"},
    };
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].text) v[n++] = all[i];
    return n;
}

/* --- going on ---------------------------------------------------------------------------------- */

static void show(struct progress *p, const struct run_config *c, const struct run *r) {
    char note[128];
    double done = run_now_s(r), all = c->load.duration_s;
    if (all <= 0) {
        done = (double)run_finished(r);
        all = (double)c->load.requests;
    }
    snprintf(note, sizeof note, "%.0f s, %llu requests", run_now_s(r),
             (unsigned long long)run_finished(r));
    progress_show(p, (uint64_t)fmin(done, all), (uint64_t)fmax(all, 1), note);
}

/* Where nothing moves any more it is over all the same: the report counts what was lost. */
static void go(struct run *r, const struct run_config *c) {
    struct progress p;
    double step_s = c->load.duration_s > 0 ? c->load.duration_s / 1000 : 1, at_s = 0;
    progress_begin(&p, "sim run");
    while (run_until(r, at_s += step_s) && run_stuck_s(r) < run_stuck_s_max(c)) show(&p, c, r);
    progress_end(&p);
}

/* --- text -------------------------------------------------------------------------------------- */

/* Of none there is none. */
static const char *figure(char out[32], double v) {
    snprintf(out, 32, isnan(v) ? "-" : "%.1f", v);
    return out;
}

static void times(const char *what, const struct run_percentiles *p, double unit,
                  const char *name) {
    char a[32], b[32], c[32], d[32], e[32];
    printf("%-12s mean %8s  p50 %8s  p90 %8s  p99 %8s  max %8s %s\n", what,
           figure(a, p->mean / unit), figure(b, p->p50 / unit), figure(c, p->p90 / unit),
           figure(d, p->p99 / unit), figure(e, p->max / unit), name);
}

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static double span(const struct run_report *o) {
    double s = o->last_end_s - o->first_arrival_s;
    return s > 0 ? s : 0;
}

/* What comes, with what nobody said. */
static void print_load(const struct run_config *c) {
    const char *name = strrchr(c->load.trace, '/');
    printf("load: ");
    if (c->load.arrivals == RUN_POISSON) printf("poisson, %g requests/s", c->load.rate);
    if (c->load.arrivals == RUN_CLOSED) printf("closed loop, %u clients", c->load.clients);
    if (c->load.arrivals == RUN_TRACE) printf("as traced, %g times as fast", c->load.rate_scale);
    if (c->load.trace[0])
        printf(", lengths of %s", name ? name + 1 : c->load.trace);
    else
        printf(", %u tokens in, %u out", c->load.n_in, c->load.n_out);
    if (c->load.length_divisor != 1) printf(" divided by %g", c->load.length_divisor);
    if (c->load.requests) printf("; %llu requests", (unsigned long long)c->load.requests);
    if (c->load.duration_s > 0) printf("; for %g s", c->load.duration_s);
    printf("\n");
}

/* Of a moment it says nothing. */
static void print_pace(const struct run_report *o) {
    printf("%.0f s of virtual time in %.1f s", o->virtual_s, o->wall_s);
    if (o->wall_s >= 0.01) printf(", %.2f M events/s", (double)o->events / o->wall_s / 1e6);
    printf("\n\n");
}

static void print_pool(const struct run_config *c, const struct run_report *o) {
    char a[32], b[32];
    if (c->pool.n == 0) return;
    printf("pool         %s read, %s written over %s, busiest link %.1f%% used, %llu blocks "
           "stored, %llu not (no room, or busy)\n",
           human_bytes(a, sizeof a, o->pool_read_bytes),
           human_bytes(b, sizeof b, o->pool_write_bytes), c->pool.plane, 100 * o->pool_use,
           (unsigned long long)o->blocks_stored, (unsigned long long)o->blocks_unstored);
}

static void print_text(const struct run_config *c, const struct run_report *o) {
    char a[32], b[32], d[32];
    double s = span(o), chips_p = (double)c->prefill.n * c->prefill.chips,
           chips_d = (double)c->decode.n * c->decode.chips;
    printf("%s on %s: %u x %u chips prefill, %u x %u chips decode, %u pool servers; seed %llu\n",
           c->model, c->machine.name, c->prefill.n, c->prefill.chips, c->decode.n, c->decode.chips,
           c->pool.n, (unsigned long long)c->seed);
    print_load(c);
    print_pace(o);
    printf("requests     %llu: %llu finished, %llu failed, ", (unsigned long long)o->requests,
           (unsigned long long)o->finished, (unsigned long long)o->failed);
    if (c->load.leave_share > 0)
        printf("%llu left by their clients, ", (unsigned long long)o->left);
    printf("%llu moved to another worker; %.2f/s\n", (unsigned long long)o->moved,
           share((double)o->finished, s));
    if (o->cut)
        printf("             %llu were longer than max_model_len (%u) and were cut to it\n",
               (unsigned long long)o->cut, c->max_model_len);
    printf("prefill      %.0f tokens/s in, %.0f a chip (%.1f%% cached; %llu tokens from the pool), "
           "busy %.1f%%\n",
           share((double)o->prompt_tokens, s), share((double)o->prompt_tokens, s * chips_p),
           100 * share((double)o->cached_tokens, (double)o->prompt_tokens),
           (unsigned long long)o->pool_tokens, 100 * o->prefill_busy);
    printf("decode       %.0f tokens/s out, %.0f a chip, busy %.1f%%\n",
           share((double)o->output_tokens, s), share((double)o->output_tokens, s * chips_d),
           100 * o->decode_busy);
    times("TTFT", &o->ttft_s, 1e-3, "ms");
    times("TPOT", &o->tpot_s, 1e-3, "ms");
    times("end to end", &o->e2e_s, 1, "s");
    if (c->slo_ttft_s > 0 || c->slo_tpot_s > 0)
        printf("goodput      %.2f requests/s, %.1f%% (TTFT %.0f ms, TPOT %.0f ms)\n",
               share((double)o->good, s), 100 * share((double)o->good, (double)o->requests),
               1e3 * c->slo_ttft_s, 1e3 * c->slo_tpot_s);
    printf("hand-over    %llu, %s over %s, busiest link %.1f%% used\n",
           (unsigned long long)o->handovers, human_bytes(a, sizeof a, o->handover_bytes),
           c->handover_plane, 100 * o->handover_use);
    print_pool(c, o);
    if (c->pool.n > 0 && c->pool.ssd_bytes > 0)
        printf("pool's SSD   %s read, %s written, busiest %.1f%% used\n",
               human_bytes(b, sizeof b, o->ssd_read_bytes),
               human_bytes(d, sizeof d, o->ssd_write_bytes), 100 * o->ssd_use);
    if (o->energy_j > 0)
        printf("energy       %.1f kWh, %.2f J a token out (power of the hardware file, an "
               "estimate)\n",
               o->energy_j / 3.6e6, share(o->energy_j, (double)o->output_tokens));
    printf("members      %llu died, %llu joined, %llu preemptions\n", (unsigned long long)o->deaths,
           (unsigned long long)o->joins, (unsigned long long)o->preemptions);
    if (o->faults + o->faults_late > 0)
        printf("faults       %llu came, %llu of them on hardware that nobody uses; %llu would have "
               "come after the end\n",
               (unsigned long long)o->faults, (unsigned long long)o->faults_unused,
               (unsigned long long)o->faults_late);
    printf("checked      %llu tokens: %llu wrong, repeated or skipped; %llu wrong pages, %llu "
           "leaked, %llu requests lost\n",
           (unsigned long long)o->output_tokens, (unsigned long long)o->wrong_tokens,
           (unsigned long long)o->wrong_pages, (unsigned long long)o->leaked_pages,
           (unsigned long long)o->lost_requests);
}

/* --- JSON -------------------------------------------------------------------------------------- */

static json_t *json_figure(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *json_times(const struct run_percentiles *p) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "mean", json_figure(p->mean), "p50",
                     json_figure(p->p50), "p90", json_figure(p->p90), "p99", json_figure(p->p99),
                     "max", json_figure(p->max));
}

static void put(json_t *to, const char *key, double v) {
    json_object_set_new(to, key, json_real(v));
}
static void put_count(json_t *to, const char *key, uint64_t v) {
    json_object_set_new(to, key, json_integer((json_int_t)v));
}

/* Nothing in it depends on the machine that simulates but wall_s and events_per_s. */
static void print_json(const struct run_config *c, const char *model, const char *hardware,
                       const struct run_report *o) {
    json_t *j = json_object();
    double s = span(o);
    json_object_set_new(j, "hardware", json_string(hardware));
    json_object_set_new(j, "model", json_string(model));
    put_count(j, "seed", c->seed);
    put(j, "virtual_s", o->virtual_s);
    put(j, "wall_s", o->wall_s);
    put_count(j, "events", o->events);
    put(j, "events_per_s", share((double)o->events, o->wall_s));
    put_count(j, "requests", o->requests);
    put_count(j, "finished", o->finished);
    put_count(j, "failed", o->failed);
    put_count(j, "left", o->left);
    put_count(j, "moved", o->moved);
    put_count(j, "cut", o->cut);
    put(j, "span_s", s);
    put(j, "request_throughput_per_s", share((double)o->finished, s));
    put_count(j, "prompt_tokens", o->prompt_tokens);
    put_count(j, "cached_tokens", o->cached_tokens);
    put_count(j, "pool_tokens", o->pool_tokens);
    put_count(j, "output_tokens", o->output_tokens);
    put(j, "output_tokens_per_s", share((double)o->output_tokens, s));
    json_object_set_new(j, "ttft_s", json_times(&o->ttft_s));
    json_object_set_new(j, "tpot_s", json_times(&o->tpot_s));
    json_object_set_new(j, "e2e_s", json_times(&o->e2e_s));
    put_count(j, "good_requests", o->good);
    put(j, "goodput_per_s", share((double)o->good, s));
    put(j, "prefill_busy_share", o->prefill_busy);
    put(j, "decode_busy_share", o->decode_busy);
    put_count(j, "handovers", o->handovers);
    put(j, "handover_bytes", o->handover_bytes);
    put(j, "handover_link_share", o->handover_use);
    put(j, "pool_read_bytes", o->pool_read_bytes);
    put(j, "pool_write_bytes", o->pool_write_bytes);
    put(j, "pool_link_share", o->pool_use);
    put(j, "ssd_read_bytes", o->ssd_read_bytes);
    put(j, "ssd_write_bytes", o->ssd_write_bytes);
    put(j, "ssd_share", o->ssd_use);
    put_count(j, "blocks_stored", o->blocks_stored);
    put_count(j, "blocks_unstored", o->blocks_unstored);
    put(j, "energy_j", o->energy_j);
    put_count(j, "deaths", o->deaths);
    put_count(j, "joins", o->joins);
    put_count(j, "preemptions", o->preemptions);
    put_count(j, "faults", o->faults);
    put_count(j, "faults_unused", o->faults_unused);
    put_count(j, "faults_late", o->faults_late);
    put_count(j, "wrong_tokens", o->wrong_tokens);
    put_count(j, "wrong_pages", o->wrong_pages);
    put_count(j, "leaked_pages", o->leaked_pages);
    put_count(j, "lost_requests", o->lost_requests);
    json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    printf("\n");
    json_decref(j);
}

/* --- one server ------------------------------------------------------------------------------- */

static void go_solo(struct solo *s, const struct run_config *c) {
    struct progress p;
    double at_s = 0;
    progress_begin(&p, "sim run");
    while (solo_until(s, at_s += 1) && solo_stuck_s(s) < run_stuck_s_max(c)) {
        char note[128];
        bool timed = c->load.duration_s > 0;
        snprintf(note, sizeof note, "%.0f s, %llu requests", at_s,
                 (unsigned long long)solo_finished(s));
        progress_show(&p, timed ? (uint64_t)at_s : solo_finished(s),
                      timed ? (uint64_t)c->load.duration_s : c->load.requests, note);
    }
    progress_end(&p);
}

static void print_server_text(const struct run_config *c, const struct calibration *k,
                              const struct run_report *o) {
    double s = span(o);
    printf("%s on %s, %u threads, as %s measured it; seed %llu\n", k->model, k->cpu, k->threads,
           c->server, (unsigned long long)c->seed);
    print_load(c);
    printf("%.0f s of virtual time in %.1f s\n\n", o->virtual_s, o->wall_s);
    printf("requests     %llu: %llu finished, %llu failed; %.2f/s\n",
           (unsigned long long)o->requests, (unsigned long long)o->finished,
           (unsigned long long)o->failed, share((double)o->finished, s));
    printf("tokens       %.0f/s in (%.1f%% cached), %.0f/s out\n",
           share((double)o->prompt_tokens, s),
           100 * share((double)o->cached_tokens, (double)o->prompt_tokens),
           share((double)o->output_tokens, s));
    printf("busy         %.1f%% with prompts, %.1f%% with steps\n", 100 * o->prefill_busy,
           100 * o->decode_busy);
    times("TTFT", &o->ttft_s, 1e-3, "ms");
    times("TPOT", &o->tpot_s, 1e-3, "ms");
    times("end to end", &o->e2e_s, 1, "s");
    if (c->slo_ttft_s > 0 || c->slo_tpot_s > 0)
        printf("goodput      %.2f requests/s inside the SLOs\n", share((double)o->good, s));
    printf("checked      %llu tokens: %llu wrong, repeated or skipped; %llu wrong pages, %llu "
           "leaked, %llu requests lost\n",
           (unsigned long long)o->output_tokens, (unsigned long long)o->wrong_tokens,
           (unsigned long long)o->wrong_pages, (unsigned long long)o->leaked_pages,
           (unsigned long long)o->lost_requests);
}

static enum st simulate_server(const struct run_config *c, const struct args *a,
                               struct run_report *o, struct err *err) {
    struct calibration k;
    struct record_file replay = {0};
    struct solo *s = NULL;
    enum st st = calibration_open(&k, c->server, err);
    if (st) return err_prefix(err, "%s", c->server_at);
    if (a->replay) st = record_read(&replay, a->replay, err);
    if (!st) st = solo_new(&s, c, &k, a->replay ? &replay : NULL, err);
    if (!st) go_solo(s, c);
    if (!st) st = solo_report(s, o, err);
    if (!st && a->json) print_json(c, k.model, k.cpu, o);
    if (!st && !a->json) print_server_text(c, &k, o);
    solo_free(s);
    record_file_release(&replay);
    return st;
}

/* --- the command ------------------------------------------------------------------------------- */

static enum st simulate_cluster(const struct run_config *c, const struct args *a,
                                struct run_report *o, struct err *err) {
    struct run *r = NULL;
    enum st st = run_new(&r, c, err);
    if (!st) go(r, c);
    if (!st) st = run_report(r, o, err);
    if (!st && a->json) print_json(c, c->model, c->machine.name, o);
    if (!st && !a->json) print_text(c, o);
    run_free(r);
    return st;
}

static enum st simulate(const struct run_config *c, const struct args *a, struct err *err) {
    struct run_report o;
    enum st st = (c->server[0] ? simulate_server : simulate_cluster)(c, a, &o, err);
    if (!st && o.wrong_tokens + o.wrong_pages + o.leaked_pages + o.lost_requests > 0)
        st = err_set(err, ST_CORRUPT, "sim run: a promise was broken (see \"checked\")");
    return st;
}

int cli_sim_run(int argc, char **argv) {
    struct args a = {0};
    const char *path = NULL;
    enum flag_result result;
    struct err err;
    const struct flag flags[] = {
        {"seed", "N", FLAG_STR, &a.seed, 0, 0, "of arrivals, delays and faults: one seed, one run",
         false},
        {"trace", "FILE", FLAG_STR, &a.trace, 0, 0,
         "arrivals and lengths: Mooncake JSONL or Azure CSV, plain or .gz", false},
        {"rate-scale", "X", FLAG_STR, &a.rate_scale, 0, 0, "a trace's arrivals, X times as fast",
         false},
        {"rate", "R", FLAG_STR, &a.rate, 0, 0, "Poisson arrivals, requests/s", false},
        {"duration", "S", FLAG_STR, &a.duration, 0, 0,
         "arrivals stop after S s; a trace is repeated until then", false},
        {"requests", "N", FLAG_STR, &a.requests, 0, 0, "arrivals stop after N requests", false},
        {"replay", "FILE", FLAG_STR, &a.replay, 0, 0,
         "times of serve --record-steps in place of the calibration's, in their order", true},
        {"prefill", "N", FLAG_STR, &a.prefill, 0, 0, "prefill instances", false},
        {"decode", "N", FLAG_STR, &a.decode, 0, 0, "decode instances", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the report as JSON, times in seconds", false},
        {0}};
    const struct flag_command cmd = {
        .name = "sim run",
        .what = "serves a load on a simulated cluster: our router, schedulers and pool in virtual "
                "time.",
        .usage = "supernode sim run CONFIG.yaml [flags]",
        .example = "supernode sim run examples/r1-cloudmatrix384.yaml --rate 20 --duration 600",
        .flags = flags,
        .args_min = 1,
        .args_max = 1};
    enum st st = flags_parse(&result, &cmd, argc, argv, &path, &err);
    if (st) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    struct run_config *c = malloc(sizeof *c);
    struct run_override v[16];
    st = c ? run_config_open(c, path, v, overrides(v, &a), &err)
           : err_set(&err, ST_NO_MEMORY, "sim run: out of memory");
    if (!st && a.replay && !c->server[0])
        st = err_set(&err, ST_INVALID, BY "replay: expected server: FILE in the config");
    bool usage = st && strncmp(err.text, BY, strlen(BY)) == 0;
    if (!st) st = simulate(c, &a, &err);
    free(c);
    return st ? cli_fail(usage ? CLI_USAGE : CLI_FAILED, &err) : 0;
}

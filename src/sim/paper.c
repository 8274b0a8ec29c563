/* SPDX-License-Identifier: Apache-2.0 */
/* Implements paper.h: reads the rows, computes each, and interpolates within series. How a row is
 * computed is what a planner would ask with `sim op`, `sim step`, `sim cache` and `sim load`. */
#include "sim/paper.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/doc.h"
#include "base/percentile.h"
#include "sim/cache.h"
#include "sim/load.h"
#include "sim/models.h"
#include "sim/step.h"

__asm__(".section .rodata\npublished:\n.incbin \"published/cloudmatrix.yaml\"\npublished_end:\n"
        ".byte 0\n.previous\n");
extern const char published[], published_end[];

struct paper {
    struct doc *doc;
    uint32_t n;
    struct paper_row rows[PAPER_ROWS_MAX];
    const char *series[PAPER_ROWS_MAX];
    double x[PAPER_ROWS_MAX];
};

/* --- what a row asks for ---------------------------------------------------------------------- */

struct ask {
    const struct doc_node *at;
    struct machine machine;
    struct model_config model;
    struct step_setup setup; /* of an instance */
    double batch, kv, prompt;
    struct err *err;
};

static double get(const struct ask *a, const char *key, double fallback) {
    double v = fallback;
    return doc_number(a->at, key, 0, 1e12, &v, NULL) ? NAN : v;
}

static const char *word(const struct ask *a, const char *key, const char *fallback) {
    const char *v = fallback;
    return doc_text(a->at, key, &v, NULL) ? "" : v;
}

static enum machine_type type_of(const struct ask *a) {
    const char *name = word(a, "weights", "int8");
    uint32_t t = 0;
    while (machine_type_names[t] && strcmp(machine_type_names[t], name) != 0) t++;
    return machine_type_names[t] ? (enum machine_type)t : TYPE_INT8;
}

static enum st fill(struct ask *a, bool prefill) {
    bool mtp = !prefill, even = false;
    if (doc_bool(a->at, "mtp", &mtp, a->err)) return a->err->code;
    if (doc_bool(a->at, "even", &even, a->err)) return a->err->code;
    a->setup = (struct step_setup){.machine = &a->machine,
                                   .model = a->model,
                                   .weights = type_of(a),
                                   .dies = (uint32_t)get(a, "chips", prefill ? 16 : 160) *
                                           a->machine.dies_per_chip,
                                   .redundant = (uint32_t)get(a, "redundant", 0),
                                   .imbalance = get(a, "imbalance", 1),
                                   .even = even,
                                   .attention_cubes = get(a, "attention_share", 0),
                                   .mtp = mtp,
                                   .acceptance = 0.7,
                                   .microbatches = true};
    a->batch = get(a, "batch", prefill ? 16384 : 96);
    a->kv = get(a, "kv", 4096);
    a->prompt = get(a, "prompt", 4096);
    return step_setup_fill(&a->setup, prefill, a->err);
}

/* --- steps ------------------------------------------------------------------------------------ */

static double decode_s(const struct ask *a, struct step_trace *trace) {
    struct step_decode d = {.requests = a->batch / a->machine.dies_per_chip, .kv_tokens = a->kv};
    return step_decode_s(&a->setup, &d, trace);
}

static double tpot_s(const struct ask *a) {
    return decode_s(a, NULL) / (1 + (a->setup.mtp ? a->setup.acceptance : 0));
}

static double prefill_tokens_per_s(const struct ask *a) {
    struct cache_cost c;
    cache_cost(&c, &(struct cache_shape){
                       .setup = &a->setup, .batch_tokens = a->batch, .prompt = a->prompt});
    return c.tokens_per_s;
}

/* From one expert layer's first piece to a later one's, a layer. */
static double layer_s(struct ask *a) {
    enum { FROM = 10, TO = 50 };
    struct step_trace t = {0};
    double from = INFINITY, to = INFINITY;
    a->setup.microbatches_forced = true; /* as the row was measured */
    (void)decode_s(a, &t);
    for (size_t i = 0; i < t.n; i++) {
        if (t.v[i].layer == FROM && t.v[i].begin_s < from) from = t.v[i].begin_s;
        if (t.v[i].layer == TO && t.v[i].begin_s < to) to = t.v[i].begin_s;
    }
    free(t.v);
    return (to - from) / (TO - FROM);
}

static double microbatch_gain(struct ask *a, bool prefill) {
    a->setup.microbatches = a->setup.microbatches_forced = true;
    double with = prefill ? prefill_tokens_per_s(a) : 1 / decode_s(a, NULL);
    a->setup.microbatches = a->setup.microbatches_forced = false;
    double without = prefill ? prefill_tokens_per_s(a) : 1 / decode_s(a, NULL);
    return with / without;
}

/* --- caches, loading -------------------------------------------------------------------------- */

static double cached(const struct ask *a, double reuse, const char *plane, bool ttft) {
    struct cache_cost c;
    cache_cost(&c, &(struct cache_shape){.setup = &a->setup,
                                         .plane = plane ? machine_plane(&a->machine, plane) : NULL,
                                         .batch_tokens = a->batch,
                                         .prompt = a->prompt,
                                         .reuse = reuse});
    return ttft ? c.batch_s : c.tokens_per_s;
}

static double best_of_planes(const struct ask *a) {
    static const double reuses[] = {0.125, 0.25, 0.5, 0.75, 0.9}; /* 12.5 to 90%, as published */
    double best = 0;
    for (size_t i = 0; i < sizeof reuses / sizeof *reuses; i++)
        best = fmax(best, cached(a, reuses[i], word(a, "plane", "ub"), false) /
                              cached(a, reuses[i], word(a, "other_plane", "vpc"), false));
    return best;
}

/* Of the caches of load.h: the time until all are ready, from DRAM, or the DRAM it takes. */
static double loading(const struct ask *a, const char *what) {
    const char *name = word(a, "cache", "");
    struct load_setup s;
    struct load_times t;
    uint32_t cache = 0;
    while (load_cache_names[cache] && strcmp(load_cache_names[cache], name) != 0) cache++;
    if (!load_cache_names[cache]) return NAN;
    load_setup_default(&s);
    load_times(&t, &s, (enum load_cache)cache);
    if (!strcmp(what, "load_cold")) return t.cold_s;
    return strcmp(what, "load_warm") ? t.dram : t.warm_s;
}

/* --- operators -------------------------------------------------------------------------------- */

static struct op_shape shape_of(const struct ask *a) {
    return (struct op_shape){.model = &a->model,
                             .weights = type_of(a),
                             .activations = type_of(a),
                             .kv_bytes = 2,
                             .tokens = get(a, "batch", 128),
                             .ep = (uint32_t)get(a, "ep", 8),
                             .plane = word(a, "plane", NULL),
                             .imbalance = 1};
}

static double operator_s(const struct ask *a) {
    const char *name = word(a, "op", "");
    struct op_shape s = shape_of(a);
    struct op_cost c;
    uint32_t op = 0;
    while (op < OPS && strcmp(op_names[op], name) != 0) op++;
    if (op == OPS) return NAN;
    op_cost(&c, &a->machine, NULL, (enum op)op, &s);
    return c.s;
}

static double gmm_share(const struct ask *a) {
    struct op_shape s = shape_of(a);
    struct op_cost c;
    s.experts = (uint32_t)get(a, "groups", 1);
    s.m = (uint32_t)get(a, "m", 1);
    s.n = (uint32_t)get(a, "n", 1);
    s.k = (uint32_t)get(a, "k", 1);
    op_cost(&c, &a->machine, NULL, OP_GMM, &s);
    return c.operations / c.s / a->machine.peak[s.weights];
}

/* Absorbed attention where one side of the roofline is far away: many query rows a key, or few. */
static double mla(const struct ask *a, bool compute) {
    struct op_shape s = shape_of(a);
    struct op_cost c;
    s.requests = 128;
    s.tokens = compute ? 32 * s.requests : s.requests;
    s.heads = compute ? 0 : 16;
    s.kv_tokens = 8192;
    op_cost(&c, &a->machine, NULL, OP_ATTENTION, &s);
    return compute ? c.operations / c.s / a->machine.peak[TYPE_BF16] : c.hbm_bytes / c.s;
}

/* --- paths ------------------------------------------------------------------------------------ */

static double path(const struct ask *a, bool rate) {
    const struct machine_plane *p = &a->machine.planes[0];
    const char *name = word(a, "transfer", "");
    uint32_t t = 0;
    while (machine_transfer_names[t] && strcmp(machine_transfer_names[t], name) != 0) t++;
    if (!machine_transfer_names[t]) return NAN;
    bool other = strcmp(word(a, "node", ""), "other") == 0;
    double bytes = 256 << 20;
    if (rate) return bytes / transfer_s(p, (enum machine_transfer)t, other, bytes);
    const struct machine_path *bare = other ? &p->other_node[t] : &p->same_node[t];
    return bare->latency_s + 512 / bare->rate_bps;
}

/* --- a row ------------------------------------------------------------------------------------ */

static double unit_of(const char *unit) {
    static const struct {
        const char *name;
        double v;
    } units[] = {{"us", 1e-6}, {"ms", 1e-3}, {"GB/s", 1e9}, {"%", 1e-2}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(units[i].name, unit) == 0) return units[i].v;
    return 1;
}

static enum st answer(struct ask *a, const char *what, double *out) {
    bool prefill = strncmp(what, "prefill", 7) == 0 || strncmp(what, "cache", 5) == 0;
    enum st st = fill(a, prefill);
    double reuse = get(a, "reuse", 0);
    const char *plane = word(a, "plane", "ub");
    *out = NAN;
    if (st) return st;
    if (!strcmp(what, "rate")) *out = path(a, true);
    if (!strcmp(what, "latency")) *out = path(a, false);
    if (!strcmp(what, "prefill")) *out = prefill_tokens_per_s(a);
    if (!strcmp(what, "decode")) *out = a->batch / tpot_s(a);
    if (!strcmp(what, "tpot")) *out = tpot_s(a);
    if (!strcmp(what, "layer")) *out = layer_s(a);
    if (!strcmp(what, "decode_microbatches")) *out = microbatch_gain(a, false);
    if (!strcmp(what, "prefill_microbatches")) *out = microbatch_gain(a, true);
    if (!strcmp(what, "cache_gain"))
        *out = cached(a, reuse, plane, false) / cached(a, get(a, "against", 0), plane, false);
    if (!strcmp(what, "cache_left"))
        *out = cached(a, reuse, plane, true) / cached(a, 0, NULL, true);
    if (!strcmp(what, "cache_planes")) *out = best_of_planes(a);
    if (!strcmp(what, "op")) *out = operator_s(a);
    if (!strcmp(what, "gmm")) *out = gmm_share(a);
    if (!strcmp(what, "mla_compute")) *out = mla(a, true);
    if (!strcmp(what, "mla_memory")) *out = mla(a, false);
    if (!strncmp(what, "load_", 5)) *out = loading(a, what);
    if (isnan(*out)) return doc_fail(a->at, a->err, "ask %s: cannot be computed", what);
    return ST_OK;
}

static enum st compute(struct paper_row *row, const struct doc_node *at, struct err *err) {
    struct ask a = {.at = at, .err = err};
    double v = 0;
    enum st st = doc_need(at, "ask", err);
    if (!st) st = machine_open(&a.machine, word(&a, "hardware", "cloudmatrix384"), err);
    if (!st) st = sim_model_open(&a.model, "deepseek-r1", err);
    if (!st) st = answer(&a, word(&a, "ask", ""), &v);
    if (st) return err_prefix(err, "%s, %s: ", row->table, row->row);
    row->simulated = v / unit_of(row->unit);
    row->error = row->simulated / row->published - 1;
    return ST_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* The straight line over log x through the two rows of the series that are nearest to row i. */
static double interpolate(const struct paper *p, uint32_t i) {
    uint32_t near[2], n = 0;
    for (uint32_t j = 0; j < p->n && p->series[i]; j++) {
        if (j == i || !p->series[j] || strcmp(p->series[j], p->series[i]) != 0) continue;
        double d = fabs(log(p->x[j] / p->x[i]));
        if (n == 2 && d >= fabs(log(p->x[near[1]] / p->x[i]))) continue;
        uint32_t at = n < 2 ? n++ : 1;
        near[at] = j;
        if (at == 1 && d < fabs(log(p->x[near[0]] / p->x[i]))) {
            near[1] = near[0];
            near[0] = j;
        }
    }
    if (n == 0) return NAN;
    if (n == 1) return p->rows[near[0]].published;
    double x0 = log(p->x[near[0]]), x1 = log(p->x[near[1]]);
    double y0 = p->rows[near[0]].published, y1 = p->rows[near[1]].published;
    return y0 + (y1 - y0) * (log(p->x[i]) - x0) / (x1 - x0);
}

static enum st read_row(struct paper *p, const struct doc_node *at, struct err *err) {
    uint32_t i = p->n;
    struct paper_row *row = &p->rows[i];
    if (i == PAPER_ROWS_MAX) return doc_fail(at, err, "more than %d rows", PAPER_ROWS_MAX);
    enum st st = doc_text(at, "table", &row->table, err);
    if (!st) st = doc_text(at, "row", &row->row, err);
    if (!st) st = doc_text(at, "unit", &row->unit, err);
    if (!st) st = doc_text(at, "no", &row->no, err);
    if (!st) st = doc_text(at, "series", &p->series[i], err);
    if (!st) st = doc_number(at, "published", 1e-9, 1e12, &row->published, err);
    if (!st) st = doc_number(at, "x", 1e-9, 1e12, &p->x[i], err);
    if (!st) st = doc_bool(at, "calibrated", &row->calibrated, err);
    if (!st && !row->no) st = compute(row, at, err);
    p->n++;
    return st;
}

enum st paper_open(struct paper **out, struct err *err) {
    struct paper *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "paper: out of memory");
    enum st st = doc_read(&p->doc, published, (size_t)(published_end - published),
                          "published/cloudmatrix.yaml", err);
    const struct doc_node *rows = st ? NULL : doc_find(doc_root(p->doc), "rows");
    for (uint32_t i = 0; rows && i < rows->n && !st; i++) st = read_row(p, &rows->at[i], err);
    for (uint32_t i = 0; i < p->n; i++) p->rows[i].interpolated = interpolate(p, i);
    if (st)
        paper_free(p);
    else
        *out = p;
    return st;
}

void paper_free(struct paper *p) {
    if (!p) return;
    doc_free(p->doc);
    free(p);
}

uint32_t paper_rows(const struct paper *p, const struct paper_row **rows) {
    *rows = p->rows;
    return p->n;
}

void paper_score(const struct paper *p, struct paper_score *out) {
    double errors[PAPER_ROWS_MAX];
    *out = (struct paper_score){0};
    for (uint32_t i = 0; i < p->n; i++) {
        const struct paper_row *row = &p->rows[i];
        out->not_computed += row->no != NULL;
        out->calibrated += !row->no && row->calibrated;
        if (row->no || row->calibrated) continue;
        double e = fabs(row->error);
        errors[out->n++] = e;
        out->over_15 += e > 0.15;
        out->over_25 += e > 0.25;
    }
    qsort(errors, out->n, sizeof *errors, percentile_compare);
    out->median = percentile(errors, out->n, 50);
}

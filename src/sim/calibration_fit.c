/* SPDX-License-Identifier: Apache-2.0 */
/* Least squares with coefficients of 0 or more: a cost is never negative, and what the samples do not
 * tell apart then stays small instead of growing with opposite signs. Errors count in proportion to
 * the time, so that short steps are fitted as well as long ones. What took several times as long as
 * others like it (another process had the core, the kernel cleared memory) is left out of the table,
 * and counted: what steps lose by it on average stands beside the table. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/percentile.h"
#include "sim/calibration.h"

enum { ROUNDS = 20000, SAMPLES_MIN = 20, KNOT_SAMPLES_MIN = 6, FITS = 3 };
static const double outlier_took = 3, done = 1e-10;

/* Coordinate descent on the normal equations: each coefficient in turn takes its best value. */
void least_squares(double *x, uint32_t n_features, const double *features, const double *y,
                   const double *weights, size_t n) {
    double a[LEAST_SQUARES_MAX][LEAST_SQUARES_MAX] = {{0}}, b[LEAST_SQUARES_MAX] = {0}, size = 0;
    assert(n_features <= LEAST_SQUARES_MAX);
    for (size_t k = 0; k < n; k++) {
        const double *f = features + k * n_features;
        size += weights[k] * y[k] * y[k];
        for (uint32_t i = 0; i < n_features; i++) {
            b[i] += weights[k] * f[i] * y[k];
            for (uint32_t j = 0; j < n_features; j++) a[i][j] += weights[k] * f[i] * f[j];
        }
    }
    memset(x, 0, n_features * sizeof *x);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        double moved = 0;
        for (uint32_t i = 0; i < n_features; i++) {
            if (!(a[i][i] > 0)) continue;
            double rest = b[i];
            for (uint32_t j = 0; j < n_features; j++) rest -= j == i ? 0 : a[i][j] * x[j];
            double v = fmax(0, rest / a[i][i]);
            moved = fmax(moved, fabs(v - x[i]) * sqrt(a[i][i]));
            x[i] = v;
        }
        if (moved <= done * sqrt(size)) break;
    }
}

/* --- samples ---------------------------------------------------------------------------------- */

struct samples {
    uint32_t n_features;
    size_t n;
    double *features, *y, *weights, *fitted, *errors;
};

static bool samples_new(struct samples *s, uint32_t n_features, size_t n_max) {
    *s = (struct samples){.n_features = n_features};
    s->features = calloc(n_max + 1, n_features * sizeof *s->features);
    s->y = calloc(n_max + 1, sizeof *s->y);
    s->weights = calloc(n_max + 1, sizeof *s->weights);
    s->fitted = calloc(n_max + 1, sizeof *s->fitted);
    s->errors = calloc(n_max + 1, sizeof *s->errors);
    return s->features && s->y && s->weights && s->fitted && s->errors;
}

/* Its features are there. */
static void sample_took(struct samples *s, double seconds) {
    s->weights[s->n] = 1 / (seconds * seconds);
    s->y[s->n++] = seconds;
}

static void samples_free(struct samples *s) {
    free(s->features);
    free(s->y);
    free(s->weights);
    free(s->fitted);
    free(s->errors);
}

struct solved {
    uint64_t dropped;
    double error, bias; /* calibration.h, fit */
    double cost; /* sum of squares of what the fit is off, in parts of it; dropped: outlier */
    double stall_share; /* what was dropped took longer than fitted, of what all were fitted to */
};

/* Fits with the weights that are there, leaves out what is over outlier times what was fitted, and fits
 * again, in proportion to that. */
static struct solved solve(struct samples *s, double *x, double outlier) {
    double measured = 0, fitted = 0, stalled = 0, stallable = 0, cost = 0;
    size_t kept = 0;
    for (int fit = 0; fit < FITS; fit++) {
        least_squares(x, s->n_features, s->features, s->y, s->weights, s->n);
        for (size_t k = 0; k < s->n; k++) {
            double v = 0;
            for (uint32_t i = 0; i < s->n_features; i++)
                v += s->features[k * s->n_features + i] * x[i];
            s->fitted[k] = v;
            s->weights[k] = s->y[k] > outlier * v ? 0 : 1 / fmax(v * v, 1e-18);
        }
    }
    for (size_t k = 0; k < s->n; k++) {
        if (!(s->weights[k] > 0)) {
            stalled += s->y[k] - s->fitted[k];
            stallable += s->fitted[k];
            cost += (outlier - 1) * (outlier - 1);
            continue;
        }
        measured += s->y[k];
        fitted += s->fitted[k];
        cost += (s->y[k] - s->fitted[k]) * (s->y[k] - s->fitted[k]) * s->weights[k];
        s->errors[kept++] = fabs(s->fitted[k] / s->y[k] - 1);
    }
    return (struct solved){
        .dropped = s->n - kept,
        .cost = cost,
        .error = percentile_middle(s->errors, kept),
        .bias = measured > 0 ? fitted / measured - 1 : 0,
        .stall_share = stalled > 0 && stallable + fitted > 0 ? stalled / (stallable + fitted) : 0};
}

/* --- steps ------------------------------------------------------------------------------------ */

enum { EVICTING_SPAN = 16, TRIES = 11 };
/* What a step's time is linear in, behind its sequences' knots. */
enum {
    KEYS,
    TAILS,
    TAIL_KEYS,
    DRAFTS,
    GUESSES,
    GUESSING,
    EVICTED,
    EVICTED_SEQUENCES,
    SENT,
    SENT_SEQUENCES,
    COLD,
    STEP_MORE
};
_Static_assert(CALIBRATION_KNOTS_MAX + STEP_MORE <= LEAST_SQUARES_MAX, "room for all");
static const double never_s = 1e-12; /* warming: nothing was found to be cold */

/* Powers of two near which there are steps. */
static uint32_t knots(double *at, const struct record_file *f) {
    uint32_t n = 0;
    for (double knot = 1; n < CALIBRATION_KNOTS_MAX && knot <= 65536; knot *= 2) {
        uint32_t near = 0;
        for (uint64_t i = 0; i < f->n && near < KNOT_SAMPLES_MIN; i++)
            near += f->v[i].kind == RECORD_STEP && !f->v[i].left_out &&
                    f->v[i].runs > 0.74 * knot && f->v[i].runs < 1.26 * knot;
        if (near >= KNOT_SAMPLES_MIN) at[n++] = knot;
    }
    return n;
}

/* How much each knot counts at n sequences; beyond the ends the line goes on, though not below 0. */
static void hats(double *out, const double *at, uint32_t n_knots, double n) {
    uint32_t i = 0;
    memset(out, 0, n_knots * sizeof *out);
    if (n_knots == 1 || n <= at[0]) {
        out[0] = 1;
        return;
    }
    while (i + 2 < n_knots && n > at[i + 1]) i++;
    double w = (n - at[i]) / (at[i + 1] - at[i]);
    out[i] = 1 - w;
    out[i + 1] = w;
}

struct sim_step calibration_recorded_step(const struct record_work *w) {
    return (struct sim_step){.requests = w->runs,
                             .rows = w->rows,
                             .kv_tokens = (double)w->keys / w->runs,
                             .tails = w->tails,
                             .tail_keys = (double)w->earlier,
                             .drafts = w->drafts,
                             .guesses = w->guesses};
}

void calibration_rested(struct calibration_past *p) {
    p->worked_s = 0;
    p->stepped_s = 0;
}

void calibration_worked(struct calibration_past *p, const struct calibration *c,
                        enum record_kind kind, double s) {
    p->stepped_s = kind == RECORD_STEP ? s : 0;
    if (kind == RECORD_STEP)
        p->evicted /= 1 + p->evicted;
    else
        p->evicted = 1 - (1 - p->evicted) * exp(-s / c->step.evicting_s);
    p->worked_s += s;
}

static void step_features(double out[STEP_MORE], const struct calibration *c,
                          const struct sim_step *s, const struct calibration_past *p) {
    out[KEYS] = s->requests * s->kv_tokens;
    out[TAILS] = s->tails;
    out[TAIL_KEYS] = s->tail_keys;
    out[DRAFTS] = s->drafts;
    out[GUESSES] = s->guesses;
    out[GUESSING] = s->guesses > 0;
    out[EVICTED] = p->evicted;
    out[EVICTED_SEQUENCES] = p->evicted * s->requests;
    out[SENT] = p->stepped_s > 0;
    out[SENT_SEQUENCES] = out[SENT] * s->requests;
    out[COLD] = c->step.warming_s > never_s ? exp(-p->worked_s / c->step.warming_s) : 0;
}

/* One that took time, and is to be fitted. */
static bool is_step(const struct record_work *w) {
    return w->kind == RECORD_STEP && !w->left_out && w->end_ns > w->begin_ns;
}

/* Returns how many began before an engine that had rested was warm. */
static size_t take_steps(struct samples *s, const struct calibration *c,
                         const struct record_file *f) {
    struct calibration_past past = {0};
    size_t cold = 0;
    s->n = 0;
    for (uint64_t i = 0; i < f->n; i++) {
        const struct record_work *w = &f->v[i];
        if (record_rested(f, i)) calibration_rested(&past);
        if (is_step(w)) {
            const struct sim_step was = calibration_recorded_step(w);
            double *out = s->features + s->n * s->n_features;
            hats(out, c->step.sequences, c->step.n_knots, w->runs);
            step_features(out + c->step.n_knots, c, &was, &past);
            sample_took(s, record_seconds(w));
            cold += past.worked_s < c->step.warming_s;
        }
        calibration_worked(&past, c, w->kind, record_seconds(w));
    }
    return cold;
}

/* A time of the table, and what is fitted with it: of those from from_s on, each twice the one before,
 * the one with which all fits best, if that is better than *best. Only where so many steps were cold. */
static void try_times(double *t, double from_s, struct solved *best, struct calibration *c,
                      struct samples *s, const struct record_file *f, size_t cold_min, double *x) {
    double best_s = *t;
    *t = from_s;
    for (int i = 0; i < TRIES; i++, *t *= 2) {
        double y[LEAST_SQUARES_MAX];
        if (take_steps(s, c, f) < cold_min) continue;
        struct solved of = solve(s, y, outlier_took);
        if (!(of.cost < best->cost)) continue;
        *best = of;
        best_s = *t;
        memcpy(x, y, s->n_features * sizeof *x);
    }
    *t = best_s;
}

/* The time that evicts is from a sixteenth of a mean piece on, that which warms from a mean step. */
static struct solved solve_steps(struct calibration *c, struct samples *s,
                                 const struct record_file *f, double *x) {
    struct solved best = {.cost = INFINITY};
    double n[2] = {0}, sum_s[2] = {0};
    for (uint64_t i = 0; i < f->n; i++) {
        n[f->v[i].kind]++;
        sum_s[f->v[i].kind] += record_seconds(&f->v[i]);
    }
    double piece_s = sum_s[RECORD_PIECE] > 0 ? sum_s[RECORD_PIECE] / n[RECORD_PIECE] : 1;
    c->step.evicting_s = c->step.warming_s = never_s;
    try_times(&c->step.evicting_s, piece_s / EVICTING_SPAN, &best, c, s, f, 0, x);
    if (sum_s[RECORD_STEP] > 0)
        try_times(&c->step.warming_s, sum_s[RECORD_STEP] / n[RECORD_STEP], &best, c, s, f,
                  SAMPLES_MIN, x);
    return best;
}

static enum st fit_steps(struct calibration *c, const struct record_file *f, const char *name,
                         struct err *err) {
    struct samples s;
    double x[LEAST_SQUARES_MAX] = {0}, drafts = 0, right = 0;
    c->step.n_knots = knots(c->step.sequences, f);
    uint32_t n = c->step.n_knots;
    if (n == 0) return err_set(err, ST_INVALID, "%s: too few steps to fit a table to", name);
    if (!samples_new(&s, n + STEP_MORE, f->n)) {
        samples_free(&s);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    for (uint64_t i = 0; i < f->n; i++) {
        const struct record_work *w = &f->v[i];
        if (!is_step(w)) continue;
        drafts += w->drafts;
        right += w->drafts ? (double)w->drawn - w->runs : 0;
    }
    struct solved of = solve_steps(c, &s, f, x);
    c->fit.steps = s.n;
    samples_free(&s);
    memcpy(c->step.s, x, n * sizeof *x);
    c->step.key_s = x[n + KEYS];
    c->step.tail_s = x[n + TAILS];
    c->step.tail_key_s = x[n + TAIL_KEYS];
    c->step.draft_s = x[n + DRAFTS];
    c->step.guess_s = x[n + GUESSES];
    c->step.guessing_s = x[n + GUESSING];
    c->step.evicted_s = x[n + EVICTED];
    c->step.evicted_sequence_s = x[n + EVICTED_SEQUENCES];
    c->step.sent_s = x[n + SENT];
    c->step.sent_sequence_s = x[n + SENT_SEQUENCES];
    c->step.cold_s = x[n + COLD];
    c->step.stall_share = of.stall_share;
    c->fit.dropped += of.dropped;
    c->fit.step_error = of.error;
    c->fit.step_bias = of.bias;
    c->acceptance = drafts > 0 ? fmax(0, fmin(1, right / drafts)) : 0;
    return ST_OK;
}

/* The line through what stands at the knots. */
static double between_knots(const struct calibration *c, const double *knots_s, double requests) {
    double hat[CALIBRATION_KNOTS_MAX], t = 0;
    hats(hat, c->step.sequences, c->step.n_knots, requests);
    for (uint32_t i = 0; i < c->step.n_knots; i++) t += hat[i] * knots_s[i];
    return fmax(t, 0);
}

double calibration_step_s(const struct calibration *c, const struct sim_step *s,
                          const struct calibration_past *p) {
    const double each_s[STEP_MORE] = {
        [KEYS] = c->step.key_s,           [TAILS] = c->step.tail_s,
        [TAIL_KEYS] = c->step.tail_key_s, [DRAFTS] = c->step.draft_s,
        [GUESSES] = c->step.guess_s,      [GUESSING] = c->step.guessing_s,
        [EVICTED] = c->step.evicted_s,    [EVICTED_SEQUENCES] = c->step.evicted_sequence_s,
        [SENT] = c->step.sent_s,          [SENT_SEQUENCES] = c->step.sent_sequence_s,
        [COLD] = c->step.cold_s,
    };
    double features[STEP_MORE], t = between_knots(c, c->step.s, s->requests);
    step_features(features, c, s, p);
    for (uint32_t i = 0; i < STEP_MORE; i++) t += features[i] * each_s[i];
    return t * (1 + c->step.stall_share);
}

/* --- chunks ----------------------------------------------------------------------------------- */

enum { CHUNK_FEATURES = 7 };

/* A chunk's time is that of its pieces; one that was dropped, or begun before, is none. */
static void take_chunks(struct samples *s, const struct record_file *f) {
    struct record_chunk k;
    for (uint64_t i = 0; record_next_chunk(&k, f, &i);) {
        if (!k.whole || k.s <= 0) continue;
        double *out = s->features + s->n * s->n_features;
        out[0] = 1;
        out[1] = k.last->runs;
        out[2] = k.last->rows;
        out[3] = (double)k.last->keys;
        out[4] = (double)k.last->earlier;
        out[5] = k.steps_s;
        out[6] = (double)k.resumed * k.last->rows;
        sample_took(s, k.s);
    }
}

static enum st fit_chunks(struct calibration *c, const struct record_file *f, const char *name,
                          struct err *err) {
    struct samples s;
    double x[CHUNK_FEATURES];
    bool there = samples_new(&s, CHUNK_FEATURES, f->n);
    if (there) take_chunks(&s, f);
    if (!there || s.n < SAMPLES_MIN) {
        size_t n = s.n;
        samples_free(&s);
        if (!there) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
        return err_set(err, ST_INVALID,
                       "%s: %zu prompt chunks, expected at least %d: it must measure for longer",
                       name, n, SAMPLES_MIN);
    }
    c->fit.chunks = s.n;
    struct solved of = solve(&s, x, outlier_took);
    samples_free(&s);
    c->fit.dropped += of.dropped;
    c->fit.chunk_error = of.error;
    c->fit.chunk_bias = of.bias;
    c->chunk.fixed_s = x[0];
    c->chunk.run_s = x[1];
    c->chunk.row_s = x[2];
    c->chunk.key_pair_s = x[3];
    c->chunk.earlier_s = x[4];
    c->chunk.resume_share = x[5];
    c->chunk.resume_row_s = x[6];
    return ST_OK;
}

struct sim_chunk calibration_recorded_chunk(const struct record_chunk *k) {
    return (struct sim_chunk){.requests = k->last->runs,
                              .tokens = k->last->rows,
                              .key_pairs = (double)k->last->keys,
                              .cached = (double)k->last->earlier};
}

double calibration_chunk_s(const struct calibration *c, const struct sim_chunk *k) {
    return c->chunk.fixed_s + k->requests * c->chunk.run_s + k->tokens * c->chunk.row_s +
           k->key_pairs * c->chunk.key_pair_s + k->cached * c->chunk.earlier_s;
}

double calibration_resume_s(const struct calibration *c, const struct sim_chunk *k, double step_s) {
    return step_s * c->chunk.resume_share + k->tokens * c->chunk.resume_row_s;
}

double calibration_resumed_s(const struct calibration *c, const struct record_chunk *k) {
    return k->steps_s * c->chunk.resume_share +
           (double)k->resumed * k->last->rows * c->chunk.resume_row_s;
}

static int part_of(double part) {
    return (int)fmax(0, fmin(CALIBRATION_PARTS - 1, CALIBRATION_PARTS * part));
}

double calibration_over_s(const struct calibration *c, const struct sim_chunk *k, double part) {
    double rows = fmax(1, k->tokens);
    return c->chunk.over_parts[part_of(part)] *
           (sqrt(rows) * c->chunk.over_root_row_s + k->key_pairs / rows * c->chunk.over_key_s);
}

/* --- what lies between ------------------------------------------------------------------------ */

/* Means, but where a request was taken: the engine may have rested until it came. */
static enum st fit_gaps(struct calibration *c, const struct record_file *f, const char *name,
                        struct err *err) {
    struct samples s;
    double x[LEAST_SQUARES_MAX];
    uint32_t n = c->step.n_knots;
    uint64_t r = 0;
    if (!samples_new(&s, n + 1, f->n)) {
        samples_free(&s);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    for (uint64_t i = 0; i + 1 < f->n; i++) {
        double gap = record_between(f->v[i].end_ns, f->v[i + 1].begin_ns);
        double *out = s.features + s.n * s.n_features;
        bool step = f->v[i].kind == RECORD_STEP;
        while (r < f->n_requests && f->requests[r].taken_ns < f->v[i].end_ns) r++;
        bool taken = r < f->n_requests && f->requests[r].taken_ns <= f->v[i + 1].begin_ns;
        if (!(gap > 0) || taken || record_rested(f, i + 1) || f->v[i].left_out ||
            f->v[i + 1].left_out)
            continue;
        if (step) hats(out, c->step.sequences, n, f->v[i].runs);
        out[n] = !step;
        s.weights[s.n] = 1;
        s.y[s.n++] = gap;
    }
    least_squares(x, n + 1, s.features, s.y, s.weights, s.n);
    samples_free(&s);
    memcpy(c->step.gap_s, x, n * sizeof *x);
    c->gap_s = x[n];
    return ST_OK;
}

double calibration_gap_s(const struct calibration *c, double requests) {
    return between_knots(c, c->step.gap_s, requests);
}

/* --- pieces ----------------------------------------------------------------------------------- */

struct pieces {
    struct samples s;
    uint8_t *part; /* [s.n] */
};

/* Of a whole chunk: pieces that a step came before. The last ends with the chunk: where it was to end after
 * that, that says nothing, and where before, that it was so late at least. */
static void take_pieces(struct pieces *p, const struct calibration *c, const struct record_file *f,
                        const struct record_chunk *chunk) {
    struct sim_chunk k = calibration_recorded_chunk(chunk);
    double done_s = 0, whole_s = chunk->s - calibration_resumed_s(c, chunk);
    if (!(k.tokens > 0) || !(whole_s > 0)) return;
    for (const struct record_work *w = chunk->first; w <= chunk->last; w++) {
        if (w->kind != RECORD_PIECE) continue;
        bool behind = w > f->v && w[-1].kind == RECORD_STEP;
        double resume_s =
            behind && w > chunk->first ? calibration_resume_s(c, &k, record_seconds(&w[-1])) : 0;
        if (behind && (!w->over || w->end_ns > w->until_ns)) {
            struct samples *s = &p->s;
            double *out = s->features + s->n * s->n_features;
            double at_s = done_s + fmax(0, record_between(w->begin_ns, w->until_ns) - resume_s);
            p->part[s->n] = (uint8_t)part_of(at_s / whole_s);
            out[0] = sqrt(k.tokens);
            out[1] = k.key_pairs / k.tokens;
            s->weights[s->n] = 1 / k.tokens;
            s->fitted[s->n] = s->y[s->n] = fmax(0, record_between(w->until_ns, w->end_ns));
            s->n++;
        }
        done_s += record_seconds(w) - resume_s;
    }
}

/* How late they end decides how often streams go on. A few that waited for a core were later than all
 * others together: the latest two in a hundred count as the latest of the others. */
static void fit_late(struct calibration *c, struct pieces *p) {
    static const double latest_percent = 98;
    struct samples *s = &p->s;
    double x[2], late_s[CALIBRATION_PARTS] = {0}, fitted_s[CALIBRATION_PARTS] = {0};
    uint32_t n[CALIBRATION_PARTS] = {0};
    qsort(s->fitted, s->n, sizeof *s->fitted, percentile_compare);
    double latest = percentile(s->fitted, s->n, latest_percent);
    for (size_t k = 0; k < s->n; k++) s->y[k] = fmin(s->y[k], latest);
    (void)solve(s, x, INFINITY);
    c->chunk.over_root_row_s = x[0];
    c->chunk.over_key_s = x[1];
    for (size_t k = 0; k < s->n; k++) {
        late_s[p->part[k]] += s->y[k];
        fitted_s[p->part[k]] += s->fitted[k];
        n[p->part[k]]++;
    }
    for (int i = 0; i < CALIBRATION_PARTS; i++)
        c->chunk.over_parts[i] =
            n[i] >= SAMPLES_MIN && fitted_s[i] > 0 ? late_s[i] / fitted_s[i] : 1;
}

static enum st fit_pieces(struct calibration *c, const struct record_file *f, const char *name,
                          struct err *err) {
    struct pieces p = {.part = malloc(f->n + 1)};
    struct record_chunk k;
    bool there = samples_new(&p.s, 2, f->n) && p.part;
    for (uint64_t i = 0; there && record_next_chunk(&k, f, &i);)
        if (k.whole) take_pieces(&p, c, f, &k);
    if (there) fit_late(c, &p);
    samples_free(&p.s);
    free(p.part);
    return there ? ST_OK : err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
}

/* --- states of the machine -------------------------------------------------------------------- */

/* One that took longer waited for a core that others had, which says nothing of where the cores are. */
static const double hop_ns_max = 2000;

static bool alike(double a, double b) {
    return fmax(a, b) <= 1.5 * fmin(a, b);
}

static bool is_usual(double hop, double usual) {
    return hop == 0 || alike(hop, usual);
}

/* Of each probe, with two on either side, as one may go wrong. 0: they say nothing. */
static void read_probes(double *hops, const struct calibration_seen *seen) {
    enum { SIDE = 2 };
    for (uint32_t i = 0; i < seen->n_probes; i++) {
        double near[2 * SIDE + 1];
        size_t n = 0;
        for (uint32_t k = i < SIDE ? 0 : i - SIDE; k <= i + SIDE && k < seen->n_probes; k++)
            if (seen->probes[k].hop_ns <= hop_ns_max) near[n++] = seen->probes[k].hop_ns;
        hops[i] = percentile_middle(near, n);
    }
}

/* What the cores were like for the longest time; 0: no probe says anything. more: room for n_probes. */
static double usual_hop(const double *hops, double *more, const struct calibration_seen *seen) {
    const struct calibration_probe *p = seen->probes;
    uint64_t longest = 0;
    double usual = 0;
    size_t n = 0;
    for (uint32_t i = 0; i < seen->n_probes; i++) {
        uint64_t time = 1; /* it is better than none */
        if (hops[i] == 0) continue;
        for (uint32_t k = 0; k + 1 < seen->n_probes; k++)
            if (is_usual(hops[k], hops[i]) && is_usual(hops[k + 1], hops[i]))
                time += p[k + 1].ns - p[k].ns;
        if (time > longest) usual = hops[i];
        if (time > longest) longest = time;
    }
    for (uint32_t i = 0; i < seen->n_probes; i++)
        if (hops[i] != 0 && alike(hops[i], usual)) more[n++] = hops[i];
    return percentile_middle(more, n);
}

/* Leaves out what lies beside a probe that is not as usual; returns how many. */
static uint64_t keep_usual(struct record_file *f, const struct calibration_seen *seen,
                           const double *hops, double usual) {
    uint64_t n = 0;
    uint32_t p = 0; /* the first probe behind the work's beginning */
    for (uint64_t i = 0; i < f->n; i++) {
        struct record_work *w = &f->v[i];
        while (p < seen->n_probes && seen->probes[p].ns <= w->begin_ns) p++;
        w->left_out = p > 0 && !is_usual(hops[p - 1], usual);
        for (uint32_t k = p; k < seen->n_probes && !w->left_out; k++) {
            w->left_out = !is_usual(hops[k], usual);
            if (seen->probes[k].ns >= w->end_ns) break;
        }
        n += w->left_out;
    }
    return n;
}

static enum st leave_out(struct calibration *c, struct record_file *f,
                         const struct calibration_seen *seen, const char *name, struct err *err) {
    double *hops = calloc(2 * (size_t)seen->n_probes + 1, sizeof *hops);
    if (!hops) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    read_probes(hops, seen);
    c->hop_ns = usual_hop(hops, hops + seen->n_probes, seen);
    c->fit.elsewhere = keep_usual(f, seen, hops, c->hop_ns);
    free(hops);
    return ST_OK;
}

enum st calibration_fit(struct calibration *c, struct record_file *f,
                        const struct calibration_seen *seen, const char *name, struct err *err) {
    c->engine = f->engine;
    c->n_pages = f->x.n_pages;
    c->n_slots = f->x.n_slots;
    c->max_model_len = f->x.max_model_len;
    c->vocab = f->x.vocab;
    c->rows_max = f->x.rows_max;
    c->drafts = f->x.drafts;
    c->expand_cost = (double)f->x.expand_cost;
    c->fit = (struct calibration_fit){0};
    enum st st = calibration_front(c, f, seen, name, err);
    if (!st) st = leave_out(c, f, seen, name, err);
    if (!st) st = fit_steps(c, f, name, err);
    if (!st) st = fit_chunks(c, f, name, err);
    if (!st) st = fit_pieces(c, f, name, err);
    return st ? st : fit_gaps(c, f, name, err);
}

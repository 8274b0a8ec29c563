/* SPDX-License-Identifier: Apache-2.0 */
/* Implements bench_serve_load.h. Random numbers are splitmix64 (Steele, Lea, Flood 2014), one
 * stream for each thing drawn, named by (seed, kind, number): a block of a trace has the same
 * tokens whichever request holds it. Gamma variates are Marsaglia and Tsang's (2000). */
#include "cli/bench_serve_load.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/trace.h"

enum {
    LENGTH_MAX = 16 << 20,
    FIRST_ID = 3, /* most tokenizers have BOS, EOS and padding before it */
};

/* --- random numbers --------------------------------------------------------------------------- */

enum kind { KIND_PREFIX, KIND_BLOCK, KIND_OWN, KIND_LENGTHS, KIND_ARRIVALS, KIND_WORDS };

struct rng {
    uint64_t s;
};

static uint64_t rng_u64(struct rng *r) {
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static struct rng rng_of(uint64_t seed, enum kind kind, uint64_t number) {
    struct rng r = {seed};
    r.s = rng_u64(&r) + (uint64_t)kind;
    r.s = rng_u64(&r) + number;
    return r;
}

static uint32_t rng_below(struct rng *r, uint32_t n) {
    return (uint32_t)((rng_u64(r) >> 32) * n >> 32);
}

static double rng_unit(struct rng *r) { /* 0 < v < 1 */
    return ((double)(rng_u64(r) >> 12) + 0.5) * 0x1p-52;
}

static double rng_normal(struct rng *r) {
    double radius = sqrt(-2 * log(rng_unit(r)));
    return radius * cos(2 * M_PI * rng_unit(r));
}

static double rng_gamma(struct rng *r, double shape) {
    if (shape < 1) {
        double grown = rng_gamma(r, shape + 1);
        return grown * pow(rng_unit(r), 1 / shape);
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = rng_normal(r), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(rng_unit(r)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

/* --- random lengths --------------------------------------------------------------------------- */

static uint32_t draw_length(struct rng *r, uint32_t len, double ratio) {
    uint32_t low = (uint32_t)floor(len * (1 - ratio)), high = (uint32_t)ceil(len * (1 + ratio));
    if (low < 1) low = 1;
    if (high < low) high = low;
    return low + rng_below(r, high - low + 1);
}

enum st bench_load_random(struct bench_load *l, const struct bench_random *r, struct err *err) {
    struct rng rng = rng_of(l->seed, KIND_LENGTHS, 0);
    l->v = calloc(r->n, sizeof *l->v);
    if (!l->v) return err_set(err, ST_NO_MEMORY, "bench serve: out of memory");
    l->prefix_len = r->prefix_len;
    l->len = r->n;
    for (uint32_t i = 0; i < r->n; i++) {
        l->v[i].input_len = r->prefix_len + draw_length(&rng, r->input_len, r->range_ratio);
        l->v[i].output_len = draw_length(&rng, r->output_len, r->range_ratio);
    }
    return ST_OK;
}

void bench_load_arrivals(struct bench_load *l, double rate, double burstiness) {
    struct rng rng = rng_of(l->seed, KIND_ARRIVALS, 0);
    double at = 0;
    assert(rate > 0);
    for (uint32_t i = 0; i < l->len && isfinite(rate); i++) {
        l->v[i].at_ns = (uint64_t)at;
        at += rng_gamma(&rng, burstiness) / (rate * burstiness) * 1e9;
    }
}

/* --- traces ----------------------------------------------------------------------------------- */

static uint32_t scaled(double len, double scale) {
    double v = round(len * scale);
    return v < 1 ? 1 : v > LENGTH_MAX ? LENGTH_MAX : (uint32_t)v;
}

enum st bench_load_trace(struct bench_load *l, const struct bench_trace *t, struct err *err) {
    struct trace trace;
    enum st st = trace_open(&trace, t->path, t->n_max, err);
    if (st) return st;
    l->block_tokens = scaled(TRACE_BLOCK_TOKENS, t->scale);
    l->len = trace.n_rows;
    l->v = calloc(l->len, sizeof *l->v);
    for (uint32_t i = 0; i < l->len && l->v; i++) {
        const struct trace_row *row = &trace.rows[i];
        l->v[i] = (struct bench_request){.at_ns = (uint64_t)(row->at_s * 1e9 / t->speed),
                                         .input_len = scaled(row->n_in, t->scale),
                                         .output_len = scaled(row->n_out, t->scale),
                                         .hash_at = row->block,
                                         .n_hashes = row->n_blocks};
    }
    l->hashes = trace.blocks;
    trace.blocks = NULL;
    if (!l->v) st = err_set(err, ST_NO_MEMORY, "%s: out of memory", t->path);
    trace_release(&trace);
    return st;
}

void bench_load_release(struct bench_load *l) {
    free(l->v);
    free(l->hashes);
    free(l->vocabulary.ids);
    *l = (struct bench_load){.seed = l->seed};
}

/* --- prompts ---------------------------------------------------------------------------------- */

static const char *const onsets[] = {"b",  "br", "c",  "ch", "d",  "f",  "fl", "g", "gr",
                                     "h",  "k",  "l",  "m",  "n",  "p",  "pl", "r", "s",
                                     "sh", "sl", "st", "t",  "th", "tr", "v",  "w"};
static const char *const vowels[] = {"a", "e", "i", "o", "u", "ea", "oo", "ai"};
static const char *const codas[] = {"ck", "d", "ld", "ll", "m", "n", "nd", "p", "r", "st", "t"};
#define PICK(rng, table) table[rng_below(rng, sizeof table / sizeof *table)]

struct writer {
    const struct bench_vocabulary *v;
    struct buf *out;
    bool begun;
};

static enum st write_words(struct writer *w, uint32_t n, struct rng *rng) {
    enum st st = ST_OK;
    for (uint32_t i = 0; i < n && !st; i++) {
        const char *onset = PICK(rng, onsets), *vowel = PICK(rng, vowels);
        st = buf_printf(w->out, "%s%s%s%s", w->begun ? " " : "", onset, vowel, PICK(rng, codas));
        w->begun = true;
    }
    return st;
}

/* Prompts have thousands of ids, and printf takes its time. */
static enum st write_id(struct writer *w, uint32_t id) {
    char text[12], *p = text + sizeof text;
    do *--p = (char)('0' + id % 10);
    while (id /= 10);
    if (w->begun) *--p = ',';
    w->begun = true;
    return buf_append(w->out, p, (size_t)(text + sizeof text - p));
}

static enum st write_tokens(struct writer *w, uint32_t n, struct rng rng) {
    const struct bench_vocabulary *v = w->v;
    if (n == 0) return ST_OK;
    if (v->n_ids == 0) {
        double words = round(n / v->tokens_per_word);
        return write_words(w, words < 1 ? 1 : (uint32_t)words, &rng);
    }
    enum st st = ST_OK;
    for (uint32_t i = 0; i < n && !st; i++) {
        uint32_t id = rng_below(&rng, v->n_ids);
        st = write_id(w, v->ids ? v->ids[id] : FIRST_ID + id);
    }
    return st;
}

static uint32_t u32_min(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

enum st bench_load_prompt(const struct bench_load *l, uint32_t i, struct buf *out) {
    const struct bench_request *q = &l->v[i];
    bool ids = l->vocabulary.n_ids > 0;
    struct writer w = {&l->vocabulary, out, false};
    uint32_t left = q->input_len, n = u32_min(left, l->prefix_len);
    enum st st = buf_append_str(out, ids ? "[" : "\"");
    if (!st) st = write_tokens(&w, n, rng_of(l->seed, KIND_PREFIX, 0));
    left -= n;
    for (uint32_t b = 0; b < q->n_hashes && left && !st; b++) {
        n = u32_min(left, l->block_tokens);
        st = write_tokens(&w, n, rng_of(l->seed, KIND_BLOCK, l->hashes[q->hash_at + b]));
        left -= n;
    }
    if (!st) st = write_tokens(&w, left, rng_of(l->seed, KIND_OWN, i));
    return st ? st : buf_append_str(out, ids ? "]" : "\"");
}

enum st bench_words(struct buf *out, uint32_t n, uint64_t seed) {
    struct rng rng = rng_of(seed, KIND_WORDS, n);
    struct writer w = {NULL, out, false};
    enum st st = buf_append_str(out, "\"");
    if (!st) st = write_words(&w, n, &rng);
    return st ? st : buf_append_str(out, "\"");
}

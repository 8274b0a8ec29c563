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

#include "base/file.h"
#include "base/json.h"

enum {
    TRACE_BYTES_MAX = 512 << 20,
    HASHES_PER_REQUEST_MAX = 1 << 20,
    TRACE_BLOCK_TOKENS = 512, /* Mooncake's */
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

struct reader {
    struct bench_load *l;
    const struct bench_trace *t;
    uint32_t cap, hashes_cap, line;
    double first_ms; /* of the first row */
};

static bool grow(void **v, uint32_t *cap, uint32_t need, size_t size) {
    if (need <= *cap) return true;
    uint32_t want = need < 512 ? 1024 : need > UINT32_MAX / 2 ? UINT32_MAX : need * 2;
    void *p = realloc(*v, (size_t)want * size);
    if (!p) return false;
    *v = p;
    *cap = want;
    return true;
}

static enum st out_of_memory(const struct reader *r, struct err *err) {
    return err_set(err, ST_NO_MEMORY, "%s: line %u: out of memory", r->t->path, r->line);
}

static uint32_t scaled(double len, double scale) {
    double v = round(len * scale);
    return v < 1 ? 1 : v > LENGTH_MAX ? LENGTH_MAX : (uint32_t)v;
}

static enum st add_row(struct reader *r, double at_ms, double input, double output,
                       struct err *err) {
    struct bench_load *l = r->l;
    if (!grow((void **)&l->v, &r->cap, l->len + 1, sizeof *l->v)) return out_of_memory(r, err);
    if (l->len == 0) r->first_ms = at_ms;
    double after_ns = (at_ms - r->first_ms) * 1e6 / r->t->speed;
    uint64_t before = l->len ? l->v[l->len - 1].at_ns : 0;
    if (!(after_ns >= 0 && after_ns < 1e18) || (uint64_t)after_ns + 1000 < before)
        return err_set(err, ST_INVALID, "%s: line %u: arrives before the line above it", r->t->path,
                       r->line);
    l->v[l->len++] =
        (struct bench_request){.at_ns = (uint64_t)after_ns < before ? before : (uint64_t)after_ns,
                               .input_len = scaled(input, r->t->scale),
                               .output_len = scaled(output, r->t->scale),
                               .hash_at = l->n_hashes};
    return ST_OK;
}

static enum st add_hashes(struct reader *r, const json_t *list, const char *name, struct err *err) {
    struct bench_load *l = r->l;
    size_t n = json_array_size(list);
    if (!list) return ST_OK;
    if (!json_is_array(list) || n > HASHES_PER_REQUEST_MAX)
        return err_set(err, ST_INVALID, "%s: hash_ids: found %s, expected a list of integers", name,
                       json_kind(list));
    if (n > UINT32_MAX - l->n_hashes ||
        !grow((void **)&l->hashes, &r->hashes_cap, l->n_hashes + (uint32_t)n, sizeof *l->hashes))
        return out_of_memory(r, err);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v))
            return err_set(err, ST_INVALID, "%s: hash_ids[%zu]: found %s, expected an integer",
                           name, i, json_kind(v));
        l->hashes[l->n_hashes++] = (uint64_t)json_integer_value(v);
    }
    l->v[l->len - 1].n_hashes = (uint32_t)n;
    return ST_OK;
}

static enum st read_mooncake(struct reader *r, const char *line, size_t len, struct err *err) {
    char name[320];
    json_t *row;
    double at, input, output;
    snprintf(name, sizeof name, "%.256s: line %u", r->t->path, r->line);
    enum st st = json_parse(&row, line, len, name, err);
    if (st) return st;
    st = json_get_f64(&at, row, "timestamp", 0, 1e12, -1, name, err);
    if (!st) st = json_get_f64(&input, row, "input_length", 0, LENGTH_MAX, -1, name, err);
    if (!st) st = json_get_f64(&output, row, "output_length", 0, LENGTH_MAX, -1, name, err);
    if (!st && (at < 0 || input < 0 || output < 0))
        st = err_set(err, ST_INVALID,
                     "%s: expected the members timestamp, input_length and output_length", name);
    if (!st) st = add_row(r, at, input, output, err);
    if (!st) st = add_hashes(r, json_at(row, "hash_ids"), name, err);
    json_decref(row);
    return st;
}

/* Days since 1970 of a date of the Gregorian calendar (Hinnant, days_from_civil). */
static int64_t days_of(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static enum st read_azure(struct reader *r, const char *line, struct err *err) {
    int y, month, d, h, m, used = 0;
    double s, input, output;
    if (sscanf(line, "%4d-%2d-%2d %2d:%2d:%lf,%lf,%lf%n", &y, &month, &d, &h, &m, &s, &input,
               &output, &used) != 8 ||
        (line[used] != '\0' && line[used] != '\r') || y < 1970 || month < 1 || month > 12 ||
        d < 1 || d > 31 || h < 0 || h > 23 || m < 0 || m > 59 || !(s >= 0 && s < 61) ||
        !(input >= 0 && input <= LENGTH_MAX) || !(output >= 0 && output <= LENGTH_MAX))
        return err_set(err, ST_INVALID,
                       "%s: line %u: found '%.60s', expected YYYY-MM-DD HH:MM:SS.F,tokens,tokens",
                       r->t->path, r->line, line);
    double seconds = (double)(days_of(y, month, d) * 86400 + h * 3600 + m * 60) + s;
    return add_row(r, seconds * 1e3, input, output, err);
}

static enum st read_rows(struct reader *r, char *text, struct err *err) {
    bool azure = text[0] == 'T';
    size_t first = strcspn(text, "\r\n");
    if (text[0] != '{' && strncmp(text, "TIMESTAMP,ContextTokens,GeneratedTokens", 39) != 0)
        return err_set(err, ST_INVALID,
                       "%s: line 1: found '%.*s', expected Mooncake's JSON lines or Azure's "
                       "TIMESTAMP,ContextTokens,GeneratedTokens",
                       r->t->path, first < 40 ? (int)first : 40, text);
    enum st st = ST_OK;
    for (char *line = text, *end; *line && !st; line = end) {
        size_t len = strcspn(line, "\n");
        end = line + len + (line[len] == '\n');
        line[len] = '\0';
        r->line++;
        if (len == 0 || (azure && r->line == 1)) continue;
        if (r->t->n_max && r->l->len == r->t->n_max) break;
        st = azure ? read_azure(r, line, err) : read_mooncake(r, line, len, err);
    }
    return st;
}

enum st bench_load_trace(struct bench_load *l, const struct bench_trace *t, struct err *err) {
    struct buf text = {.max = TRACE_BYTES_MAX};
    struct reader r = {.l = l, .t = t};
    l->block_tokens = scaled(TRACE_BLOCK_TOKENS, t->scale);
    enum st st = file_read(&text, t->path, err);
    if (!st && text.len == 0) st = err_set(err, ST_INVALID, "%s: found nothing in it", t->path);
    if (!st) st = read_rows(&r, text.data, err);
    if (!st && l->len == 0) st = err_set(err, ST_INVALID, "%s: found no requests", t->path);
    buf_release(&text);
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

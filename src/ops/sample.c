/* SPDX-License-Identifier: Apache-2.0 */
/* One draw, in the order of contracts 7 (vLLM's): bias and masks, penalties, temperature, min-p,
 * top-k, top-p, inverse CDF. Candidates of a truncated draw come out of a heap in order, so a
 * nucleus of a few tokens costs one pass over the vocabulary and not a sort. Every sum is float64
 * in the order of the candidates: the only sum that would need a full sort, the total of a top-p
 * draw, is first taken in any order, and in full only when the rounding of that order could change
 * where the nucleus ends. */
#include "ops/sample.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>

#include "ops/mathf.h"

/* --- candidates in order ---------------------------------------------------------------------- */

/* work[0 .. heap) is a heap, the best on top; popped candidates lie behind it, the best last. */
struct candidates {
    struct ops_sample_work *work;
    uint32_t len, heap;
};

static bool before(struct ops_sample_work a, struct ops_sample_work b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(struct ops_sample_work *w, uint32_t i, uint32_t n) {
    struct ops_sample_work moving = w[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(w[child + 1], w[child])) child++;
        if (!before(w[child], moving)) break;
        w[i] = w[child];
    }
    w[i] = moving;
}

static struct candidates candidates_init(struct ops_sample_work *work, uint32_t n) {
    for (uint32_t i = n / 2; i-- > 0;) sift_down(work, i, n);
    return (struct candidates){work, n, n};
}

static struct ops_sample_work pop(struct candidates *c) {
    assert(c->heap > 0);
    struct ops_sample_work best = c->work[0];
    c->work[0] = c->work[--c->heap];
    if (c->heap > 0) sift_down(c->work, 0, c->heap);
    c->work[c->heap] = best;
    return best;
}

/* Candidate number i in order, popped when first asked for. */
static struct ops_sample_work nth(struct candidates *c, uint32_t i) {
    while (c->len - c->heap <= i) pop(c);
    return c->work[c->len - 1 - i];
}

/* --- logits ----------------------------------------------------------------------------------- */

static float no_nan(float x) {
    return isnan(x) ? -INFINITY : x;
}

/* Bias, masks and penalties. While it runs, work[i].id counts: the top bit for the request, the
 * rest for the output. */
static void adjust(struct ops_sample_work *work, const float *logits, uint32_t vocab,
                   const struct ops_sample_params *p, const uint32_t *prompt, uint32_t n_prompt,
                   const uint32_t *output, uint32_t n_output) {
    const uint32_t in_prompt = 1u << 31;
    for (uint32_t i = 0; i < vocab; i++) work[i] = (struct ops_sample_work){no_nan(logits[i]), 0};
    for (uint32_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id < vocab) work[p->bias[i].id].logit += p->bias[i].bias;
    for (uint32_t i = 0; i < p->n_masked; i++)
        if (p->masked[i] < vocab) work[p->masked[i]].logit = -INFINITY;
    for (uint32_t i = 0; i < n_prompt; i++)
        if (prompt[i] < vocab) work[prompt[i]].id |= in_prompt;
    for (uint32_t i = 0; i < n_output; i++)
        if (output[i] < vocab) work[output[i]].id++;
    for (uint32_t i = 0; i < vocab; i++) {
        uint32_t count = work[i].id & ~in_prompt;
        float l = work[i].logit;
        if (work[i].id) l = l > 0 ? l / p->repetition_penalty : l * p->repetition_penalty;
        if (count) l = l - (float)count * p->frequency_penalty - p->presence_penalty;
        work[i] = (struct ops_sample_work){no_nan(l), i};
    }
}

static uint32_t argmax(const struct ops_sample_work *work, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (work[i].logit > work[best].logit) best = i;
    return best;
}

/* --- the draw --------------------------------------------------------------------------------- */

static double weight(float logit, float top) {
    return ops_expf(logit - top);
}

static double uniform(int64_t seed, uint32_t position, uint32_t choice) {
    uint32_t key[2] = {(uint32_t)(uint64_t)seed, (uint32_t)((uint64_t)seed >> 32)};
    uint32_t counter[4] = {position, 0, choice, 0}, x[4];
    ops_philox(x, counter, key);
    return (double)(((uint64_t)x[0] << 32 | x[1]) >> 11) * 0x1p-53;
}

static uint32_t draw_by_id(const struct ops_sample_work *work, uint32_t n, float top, double u) {
    double sum = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) sum += weight(work[i].logit, top);
    for (uint32_t i = 0; i < n; i++) {
        at += weight(work[i].logit, top);
        if (at > u * sum) return work[i].id;
    }
    return work[n - 1].id;
}

static double sum_in_order(struct candidates *c, uint32_t n, float top) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += weight(nth(c, i).logit, top);
    return sum;
}

/* Length of the shortest prefix of n candidates whose sum reaches goal; slack > 0: 0 when a goal
 * off by slack would make another. */
static uint32_t prefix(struct candidates *c, uint32_t n, float top, double goal, double slack) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += weight(nth(c, i).logit, top);
        if (slack > 0 && fabs(sum - goal) <= slack) return 0;
        if (sum >= goal) return i + 1;
    }
    return n;
}

/* How many of the first n candidates top-p keeps. */
static uint32_t nucleus(struct candidates *c, uint32_t n, float top, double top_p) {
    if (n == c->len) {
        double total = 0;
        for (uint32_t i = 0; i < n; i++) total += weight(c->work[i].logit, top);
        /* Two sums of n terms, each within n units of 2^-53 of the exact one. */
        uint32_t kept = prefix(c, n, top, top_p * total, total * n * 0x1p-51);
        if (kept > 0) return kept;
    }
    return prefix(c, n, top, top_p * sum_in_order(c, n, top), 0);
}

static uint32_t draw_in_order(struct candidates *c, uint32_t n, float top, double u) {
    double sum = sum_in_order(c, n, top), at = 0;
    for (uint32_t i = 0; i < n; i++) {
        at += weight(nth(c, i).logit, top);
        if (at > u * sum) return nth(c, i).id;
    }
    return nth(c, n - 1).id;
}

static uint32_t keep_min_p(struct ops_sample_work *work, uint32_t n, float top, float min_p) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (work[i].logit == top || ops_expf(work[i].logit - top) >= min_p) work[kept++] = work[i];
    return kept;
}

uint32_t ops_sample(const float *logits, uint32_t vocab, const struct ops_sample_params *p,
                    const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output,
                    uint32_t n_output, int64_t seed, uint32_t position, uint32_t choice,
                    struct ops_sample_work *work) {
    assert(vocab > 0);
    adjust(work, logits, vocab, p, prompt, n_prompt, output, n_output);
    uint32_t best = argmax(work, vocab);
    if (p->temperature < 1e-5f || isinf(work[best].logit)) return best;
    for (uint32_t i = 0; i < vocab; i++) work[i].logit /= p->temperature;
    float top = work[best].logit;
    if (isinf(top)) return best; /* a low temperature has overflowed */
    double u = uniform(seed, position, choice);
    bool by_k = p->top_k > 0 && p->top_k < vocab, by_p = p->top_p < 1;
    if (!by_k && !by_p && !(p->min_p > 0)) return draw_by_id(work, vocab, top, u);
    uint32_t n = p->min_p > 0 ? keep_min_p(work, vocab, top, p->min_p) : vocab;
    struct candidates c = candidates_init(work, n);
    if (by_k && p->top_k < n) n = p->top_k;
    if (by_p) n = nucleus(&c, n, top, (double)p->top_p);
    return draw_in_order(&c, n, top, u);
}

float ops_logsumexp(const float *logits, uint32_t vocab) {
    float top = -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > top) top = logits[i];
    if (isinf(top)) return top;
    for (uint32_t i = 0; i < vocab; i++) sum += weight(no_nan(logits[i]), top);
    return top + ops_logf((float)sum);
}

void ops_top_n(uint32_t *ids, uint32_t n, const float *logits, uint32_t vocab,
               struct ops_sample_work *work) {
    assert(n <= vocab);
    for (uint32_t i = 0; i < vocab; i++) work[i] = (struct ops_sample_work){no_nan(logits[i]), i};
    struct candidates c = candidates_init(work, vocab);
    for (uint32_t i = 0; i < n; i++) ids[i] = pop(&c).id;
}

void ops_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t x[4] = {counter[0], counter[1], counter[2], counter[3]}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53 * x[0], b = (uint64_t)0xcd9e8d57 * x[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ k0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ x[3] ^ k1, (uint32_t)a};
        for (int i = 0; i < 4; i++) x[i] = next[i];
        k0 += 0x9e3779b9;
        k1 += 0xbb67ae85;
    }
    for (int i = 0; i < 4; i++) out[i] = x[i];
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sample.h in one pass over the vocabulary, and a selection of the best few candidates that grows only as far as the
 * truncation needs: sorting 129,280 of them for each token would cost more than small models compute. One freedom is taken: the total that top-p
 * compares with is summed by ascending id, since the order of the tail does not decide anything. Philox as in Random123
 * (Salmon et al. 2011). */
#include "ops/sample.h"

#include <math.h>

#include "ops/mathf.h"

/* --- random numbers ----------------------------------------------------------------------------------------- */

void ops_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static double uniform(int64_t seed, uint32_t position, uint32_t choice) {
    const uint32_t counter[4] = {position, 0, choice, 0}, key[2] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)};
    uint32_t x[4];
    ops_philox(x, counter, key);
    return (double)(((uint64_t)x[0] << 32 | x[1]) >> 11) * 0x1p-53;
}

/* --- candidates: best first is by logit, then by lower id ---------------------------------------------------- */

static int better(struct ops_sample_work a, struct ops_sample_work b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void swap(struct ops_sample_work *a, struct ops_sample_work *b) {
    struct ops_sample_work t = *a;
    *a = *b;
    *b = t;
}

/* Moves the best k of n to the front, in any order (Hoare's selection). */
static void select_best(struct ops_sample_work *w, uint32_t n, uint32_t k) {
    uint32_t lo = 0, hi = n;
    while (hi - lo > 1 && k > lo && k < hi) {
        struct ops_sample_work pivot = w[lo + (hi - lo) / 2];
        uint32_t i = lo, j = hi - 1;
        for (;;) {
            while (better(w[i], pivot)) i++;
            while (better(pivot, w[j])) j--;
            if (i >= j) break;
            swap(&w[i++], &w[j--]);
        }
        uint32_t split = i > lo ? i : lo + 1; /* [lo, split) is no worse than [split, hi) */
        if (k <= split) hi = split;
        else lo = split;
    }
}

static void sift(struct ops_sample_work *w, uint32_t at, uint32_t n) {
    for (;;) {
        uint32_t worst = at, l = 2 * at + 1;
        if (l < n && better(w[worst], w[l])) worst = l;
        if (l + 1 < n && better(w[worst], w[l + 1])) worst = l + 1;
        if (worst == at) return;
        swap(&w[at], &w[worst]);
        at = worst;
    }
}

/* Heapsort, best first: in place, and no order of the input makes it slow. */
static void sort_best(struct ops_sample_work *w, uint32_t n) {
    for (uint32_t i = n / 2; i-- > 0;) sift(w, i, n);
    for (uint32_t i = n; i-- > 1;) {
        swap(&w[0], &w[i]);
        sift(w, 0, i);
    }
}

/* --- logits as they are sampled ------------------------------------------------------------------------------- */

static float penalise(float l, uint32_t count, const struct ops_sample_params *p) {
    l = l > 0 ? l / p->repetition_penalty : l * p->repetition_penalty;
    if (count == 0) return l;
    return l - p->frequency_penalty * (float)count - p->presence_penalty;
}

static const uint32_t seen_in_prompt = 1u << 31;

/* work[v] = (logit of v after bias, masks and penalties, v). NaN counts as -inf. */
static void adjust(struct ops_sample_work *work, const float *logits, uint32_t vocab, const struct ops_sample_params *p,
                   const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output, uint32_t n_output) {
    for (uint32_t v = 0; v < vocab; v++)
        work[v] = (struct ops_sample_work){.logit = isnan(logits[v]) ? -INFINITY : logits[v], .id = 0};
    for (uint32_t i = 0; i < p->n_bias; i++)
        if (p->bias[i].id < vocab) work[p->bias[i].id].logit += p->bias[i].bias;
    for (uint32_t i = 0; i < p->n_masked; i++)
        if (p->masked[i] < vocab) work[p->masked[i]].logit = -INFINITY;
    if (p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0) {
        for (uint32_t i = 0; i < n_output; i++) work[output[i]].id++;
        for (uint32_t i = 0; i < n_prompt; i++) work[prompt[i]].id |= seen_in_prompt;
        for (uint32_t v = 0; v < vocab; v++)
            if (work[v].id) work[v].logit = penalise(work[v].logit, work[v].id & ~seen_in_prompt, p);
    }
    for (uint32_t v = 0; v < vocab; v++) work[v].id = v;
}

static uint32_t argmax(const struct ops_sample_work *work, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (work[i].logit > work[best].logit) best = i;
    return best;
}

/* The first candidate whose cumulative sum passes u of the whole; weights are exp(logit - max). */
static uint32_t draw(const struct ops_sample_work *w, uint32_t n, float max, double sum, double u) {
    double cumulative = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < n; i++) {
        float e = ops_expf(w[i].logit - max);
        if (e > 0) last = i;
        cumulative += e;
        if (cumulative > u * sum) return w[i].id;
    }
    return w[last].id;
}

static double sum_exp(const struct ops_sample_work *w, uint32_t n, float max) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += ops_expf(w[i].logit - max);
    return sum;
}

/* Length of the shortest prefix, best first, that holds top_p of the n candidates' total; the prefix is sorted. sorted says how
 * many in front are sorted already. */
static uint32_t nucleus(struct ops_sample_work *w, uint32_t n, uint32_t sorted, float max, float top_p) {
    double want = (double)top_p * sum_exp(w, n, max), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i == sorted) {
            uint32_t more = sorted < 8 ? 64 : sorted * 8;
            sorted = more < n - i ? i + more : n;
            select_best(w + i, n - i, sorted - i);
            sort_best(w + i, sorted - i);
        }
        sum += ops_expf(w[i].logit - max);
        if (sum >= want) return i + 1;
    }
    return n;
}

static uint32_t keep_min_p(struct ops_sample_work *w, uint32_t n, float max, float min_p) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (ops_expf(w[i].logit - max) >= min_p) w[kept++] = w[i];
    return kept;
}

uint32_t ops_sample(const float *logits, uint32_t vocab, const struct ops_sample_params *p, const uint32_t *prompt,
                    uint32_t n_prompt, const uint32_t *output, uint32_t n_output, int64_t seed, uint32_t position,
                    uint32_t choice, struct ops_sample_work *work) {
    adjust(work, logits, vocab, p, prompt, n_prompt, output, n_output);
    uint32_t best = argmax(work, vocab);
    if (p->temperature < 1e-5f || !isfinite(work[best].logit)) return work[best].id;
    if (p->temperature != 1)
        for (uint32_t i = 0; i < vocab; i++) work[i].logit /= p->temperature;
    float max = work[best].logit;
    if (!isfinite(max)) return work[best].id; /* a tiny temperature can overflow the largest */
    uint32_t n = p->min_p > 0 ? keep_min_p(work, vocab, max, p->min_p) : vocab, sorted = 0;
    if (p->top_k > 0 && p->top_k < n) {
        select_best(work, n, p->top_k);
        n = sorted = p->top_k;
        sort_best(work, n);
    }
    if (p->top_p < 1) n = nucleus(work, n, sorted, max, p->top_p);
    else if (p->min_p > 0 && sorted == 0) sort_best(work, n);
    return draw(work, n, max, sum_exp(work, n, max), uniform(seed, position, choice));
}

/* --- log-probabilities ---------------------------------------------------------------------------------------- */

float ops_logsumexp(const float *logits, uint32_t vocab) {
    float max = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > max) max = logits[i];
    if (!isfinite(max)) return max;
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (!isnan(logits[i])) sum += ops_expf(logits[i] - max);
    return max + ops_logf((float)sum);
}

void ops_top_n(uint32_t *ids, uint32_t n, const float *logits, uint32_t vocab, struct ops_sample_work *work) {
    for (uint32_t v = 0; v < vocab; v++)
        work[v] = (struct ops_sample_work){.logit = isnan(logits[v]) ? -INFINITY : logits[v], .id = v};
    select_best(work, vocab, n);
    sort_best(work, n);
    for (uint32_t i = 0; i < n; i++) ids[i] = work[i].id;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling: Random123's vectors, every step by hand, and whole draws against a straight
 * implementation that sorts everything and follows contracts 7 word by word. */
#include "ops/sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops/mathf.h"
#include "ops_test.h"

enum { VOCAB_MAX = 130000 };
static struct ops_sample_work work[VOCAB_MAX];
static const struct ops_sample_params plain = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1};

static void philox_matches_random123(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } v[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        uint32_t out[4];
        ops_philox(out, v[i].counter, v[i].key);
        assert_memory_equal(out, v[i].out, sizeof out);
    }
}

static uint32_t sample(const float *l, uint32_t n, const struct ops_sample_params *p,
                       uint32_t position) {
    return ops_sample(l, n, p, NULL, 0, NULL, 0, 7, position, 0, work);
}

/* Which of the first 8 ids come in 2,000 draws. */
static unsigned support(const float *l, uint32_t n, const struct ops_sample_params *p) {
    unsigned seen = 0;
    for (uint32_t i = 0; i < 2000; i++) seen |= 1u << sample(l, n, p, i);
    return seen;
}

static void temperature_zero_is_argmax_with_the_lowest_id(void **state) {
    (void)state;
    struct ops_sample_params p = plain;
    p.temperature = 0;
    float l[5] = {1, 3, 3, NAN, 2};
    assert_int_equal(sample(l, 5, &p, 0), 1);
    p.temperature = 0.9e-5f;
    assert_int_equal(sample(l, 5, &p, 1), 1);
}

static void masks_and_biases_come_first(void **state) {
    (void)state;
    struct ops_sample_params p = plain;
    float l[4] = {0, 5, 4, 0};
    const uint32_t masked[2] = {1, 99};
    const struct ops_logit_bias bias[2] = {{3, 100}, {12345, 1}};
    p.temperature = 0;
    p.masked = masked, p.n_masked = 2;
    assert_int_equal(sample(l, 4, &p, 0), 2);
    p.bias = bias, p.n_bias = 2;
    assert_int_equal(sample(l, 4, &p, 0), 3);
    const uint32_t all[4] = {0, 1, 2, 3}; /* a bias cannot lift a masked id */
    p.masked = all, p.n_masked = 4;
    assert_int_equal(sample(l, 4, &p, 0), 0);
    p.temperature = 1, p.top_p = 0.5f;
    assert_int_equal(sample(l, 4, &p, 0), 0);
    float nans[3] = {NAN, NAN, NAN};
    assert_int_equal(sample(nans, 3, &plain, 0), 0);
}

static void penalties_are_vllms(void **state) {
    (void)state;
    struct ops_sample_params p = plain;
    const uint32_t prompt[3] = {0, 1, 77}, output[3] = {2, 2, 3};
    p.temperature = 0;
    p.repetition_penalty = 2; /* once, however often the token came; request and output */
    float a[5] = {4, -1, 4, -1, 1.9f};
    assert_int_equal(ops_sample(a, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 0);
    float b[5] = {3, -1, 3, -1, 1.9f};
    assert_int_equal(ops_sample(b, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 4);
    float c[5] = {-9, -1, -9, -1, -1.9f}; /* negative logits are multiplied: -2 loses to -1.9 */
    assert_int_equal(ops_sample(c, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 4);
    p.repetition_penalty = 1;
    p.frequency_penalty = 1; /* per time, output only */
    float d[5] = {0, 0, 4, 2.9f, 2.1f};
    assert_int_equal(ops_sample(d, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 4);
    p.frequency_penalty = 0;
    p.presence_penalty = 1; /* once */
    assert_int_equal(ops_sample(d, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 2);
    float e[5] = {2.5f, 0, 3.4f, 0, 0}; /* prompt ids keep their logit */
    assert_int_equal(ops_sample(e, 5, &p, prompt, 3, output, 3, 0, 0, 0, work), 0);
}

static void truncation_keeps_what_it_should(void **state) {
    (void)state;
    float l[5] = {0, ops_logf(4), ops_logf(2), ops_logf(2), ops_logf(1)}; /* 1 4 2 2 1, of 10 */
    struct ops_sample_params p = plain;
    assert_int_equal(support(l, 5, &p), 0x1f);
    p.top_k = 2; /* of equal logits the lower id */
    assert_int_equal(support(l, 5, &p), 1 << 1 | 1 << 2);
    p.top_k = 0, p.top_p = 0.4f; /* F32 0.4 is a little over 0.4 */
    assert_int_equal(support(l, 5, &p), 1 << 1 | 1 << 2);
    p.top_p = 0.39f;
    assert_int_equal(support(l, 5, &p), 1 << 1);
    p.top_p = 0.75f;
    assert_int_equal(support(l, 5, &p), 1 << 1 | 1 << 2 | 1 << 3);
    p.top_p = 1, p.min_p = 0.3f;
    assert_int_equal(support(l, 5, &p), 1 << 1 | 1 << 2 | 1 << 3);
    p.min_p = 1;
    assert_int_equal(support(l, 5, &p), 1 << 1);
    p.min_p = 0.3f, p.top_k = 2, p.top_p = 0.6f; /* 4 of 4 + 2 is over 0.6 */
    assert_int_equal(support(l, 5, &p), 1 << 1);
    p.top_p = 0;
    assert_int_equal(support(l, 5, &p), 1 << 1);
    p = plain, p.temperature = 0.5f,
    p.min_p = 0.3f; /* temperature before min-p: 4/16 is under it */
    assert_int_equal(support(l, 5, &p), 1 << 1);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    enum { N = 12, DRAWS = 60000 };
    struct rng r = {3};
    float l[N];
    double expected[N], total = 0, chi2 = 0;
    unsigned seen[N] = {0};
    fill_random(&r, l, N);
    for (int i = 0; i < N; i++) total += expected[i] = exp(l[i] / 0.8);
    struct ops_sample_params p = plain;
    p.temperature = 0.8f;
    for (uint32_t i = 0; i < DRAWS; i++) seen[sample(l, N, &p, i)]++;
    for (int i = 0; i < N; i++) {
        double e = expected[i] / total * DRAWS;
        chi2 += (seen[i] - e) * (seen[i] - e) / e;
    }
    assert_true(chi2 < 31.3); /* 11 degrees of freedom: p = 0.001 */
}

/* --- against a straight implementation -------------------------------------------------------- */

static int in_order(const void *a, const void *b) {
    const struct ops_sample_work *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static uint32_t straight(const float *logits, uint32_t n, const struct ops_sample_params *p,
                         const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output,
                         uint32_t n_output, int64_t seed, uint32_t position, uint32_t choice) {
    static struct ops_sample_work c[VOCAB_MAX];
    static uint32_t in_prompt[VOCAB_MAX], times[VOCAB_MAX];
    memset(in_prompt, 0, n * 4);
    memset(times, 0, n * 4);
    for (uint32_t i = 0; i < n_prompt; i++) in_prompt[prompt[i]] = 1;
    for (uint32_t i = 0; i < n_output; i++) times[output[i]]++;
    for (uint32_t i = 0; i < n; i++) {
        float l = logits[i];
        for (uint32_t j = 0; j < p->n_bias; j++)
            if (p->bias[j].id == i) l += p->bias[j].bias;
        for (uint32_t j = 0; j < p->n_masked; j++)
            if (p->masked[j] == i) l = -INFINITY;
        if (in_prompt[i] || times[i])
            l = l > 0 ? l / p->repetition_penalty : l * p->repetition_penalty;
        if (times[i]) l -= (float)times[i] * p->frequency_penalty;
        if (times[i]) l -= p->presence_penalty;
        c[i] = (struct ops_sample_work){l / p->temperature, i};
    }
    bool sorted = p->min_p > 0 || (p->top_k > 0 && p->top_k < n) || p->top_p < 1;
    float top = -INFINITY;
    for (uint32_t i = 0; i < n; i++) top = c[i].logit > top ? c[i].logit : top;
    if (sorted) qsort(c, n, sizeof *c, in_order);
    if (p->min_p > 0)
        while (n > 1 && ops_expf(c[n - 1].logit - top) < p->min_p) n--;
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) total += (double)ops_expf(c[i].logit - top);
    if (p->top_p < 1) {
        uint32_t kept = 0;
        while (kept < n && (kept == 0 || sum < (double)p->top_p * total))
            sum += (double)ops_expf(c[kept++].logit - top);
        n = kept;
        total = sum;
    }
    uint64_t bits = (uint64_t)seed;
    uint32_t x[4], counter[4] = {position, 0, choice, 0},
                   key[2] = {(uint32_t)bits, (uint32_t)(bits >> 32)};
    ops_philox(x, counter, key);
    double u = ldexp((double)(((uint64_t)x[0] << 32 | x[1]) >> 11), -53), at = 0;
    for (uint32_t i = 0; i < n; i++)
        if ((at += (double)ops_expf(c[i].logit - top)) > u * total) return c[i].id;
    return c[n - 1].id;
}

static void whole_draws_match_the_straight_way(void **state) {
    (void)state;
    static float l[VOCAB_MAX];
    for (uint64_t seed = 0; seed < 4000; seed++) {
        struct rng r = {seed};
        uint32_t n = seed % 200 == 0 ? 1 + rng_below(&r, VOCAB_MAX) : 1 + rng_below(&r, 400);
        int kind = (int)rng_below(&r, 3); /* peaked, flat, full of ties */
        for (uint32_t i = 0; i < n; i++) {
            l[i] = rng_float(&r) * (kind == 0 ? 6 : 0.3f);
            if (kind == 2) l[i] = rintf(l[i] * 10);
            if (rng_below(&r, 50) == 0) l[i] = -INFINITY;
        }
        l[rng_below(&r, n)] = 1;
        struct ops_sample_params p = plain;
        p.temperature = 0.3f + (float)rng_below(&r, 20) * 0.1f;
        if (rng_below(&r, 2)) p.top_p = (float)rng_below(&r, 101) / 100;
        if (rng_below(&r, 3) == 0) p.min_p = (float)rng_below(&r, 100) / 300;
        if (rng_below(&r, 3) == 0) p.top_k = rng_below(&r, 60);
        if (rng_below(&r, 2)) p.repetition_penalty = 0.8f + (float)rng_below(&r, 8) * 0.1f;
        if (rng_below(&r, 2)) p.frequency_penalty = (float)rng_below(&r, 9) * 0.25f - 1;
        if (rng_below(&r, 2)) p.presence_penalty = (float)rng_below(&r, 9) * 0.25f - 1;
        struct ops_logit_bias bias[2] = {{rng_below(&r, n), 2}, {rng_below(&r, n), -3}};
        uint32_t masked[1] = {rng_below(&r, n)}, ids[2][20];
        p.bias = bias, p.n_bias = rng_below(&r, 3);
        p.masked = masked, p.n_masked = n > 1 ? rng_below(&r, 2) : 0;
        for (int i = 0; i < 20; i++)
            for (int j = 0; j < 2; j++) ids[j][i] = rng_below(&r, n);
        uint32_t n_prompt = rng_below(&r, 21), n_output = rng_below(&r, 21);
        int64_t s = (int64_t)rng_next(&r);
        for (uint32_t position = 0; position < 5; position++) {
            uint32_t got =
                ops_sample(l, n, &p, ids[0], n_prompt, ids[1], n_output, s, position, 3, work);
            uint32_t want = straight(l, n, &p, ids[0], n_prompt, ids[1], n_output, s, position, 3);
            if (got != want) fail_msg("seed %d: id %u, expected %u", (int)seed, got, want);
        }
    }
}

static void the_draw_depends_on_seed_position_and_choice(void **state) {
    (void)state;
    float l[256] = {0};
    uint32_t base[64], other[3][64];
    for (uint32_t i = 0; i < 64; i++) {
        base[i] = ops_sample(l, 256, &plain, NULL, 0, NULL, 0, 1, i, 0, work);
        other[0][i] = ops_sample(l, 256, &plain, NULL, 0, NULL, 0, 1 + (1ll << 32), i, 0, work);
        other[1][i] = ops_sample(l, 256, &plain, NULL, 0, NULL, 0, 1, i, 1, work);
        other[2][i] = ops_sample(l, 256, &plain, NULL, 0, NULL, 0, 1, i + 64, 0, work);
        assert_int_equal(base[i], ops_sample(l, 256, &plain, NULL, 0, NULL, 0, 1, i, 0, work));
    }
    for (int k = 0; k < 3; k++) {
        int equal = 0;
        for (int i = 0; i < 64; i++) equal += base[i] == other[k][i];
        assert_true(equal < 8);
    }
}

static void top_n_and_logsumexp_are_of_the_raw_logits(void **state) {
    (void)state;
    struct rng r = {5};
    static float l[5000];
    static struct ops_sample_work sorted[5000];
    double sum = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        l[i] = rintf(rng_float(&r) * 30) / 4;
        sorted[i] = (struct ops_sample_work){l[i], i};
        sum += exp(l[i]);
    }
    qsort(sorted, 5000, sizeof *sorted, in_order);
    uint32_t ids[300];
    ops_top_n(ids, 300, l, 5000, work);
    for (uint32_t i = 0; i < 300; i++) assert_int_equal(ids[i], sorted[i].id);
    assert_true(fabs(ops_logsumexp(l, 5000) - log(sum)) < 2e-6);
    l[17] = -INFINITY, l[18] = NAN;
    assert_true(isfinite(ops_logsumexp(l, 5000)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_matches_random123),
        cmocka_unit_test(temperature_zero_is_argmax_with_the_lowest_id),
        cmocka_unit_test(masks_and_biases_come_first),
        cmocka_unit_test(penalties_are_vllms),
        cmocka_unit_test(truncation_keeps_what_it_should),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(whole_draws_match_the_straight_way),
        cmocka_unit_test(the_draw_depends_on_seed_position_and_choice),
        cmocka_unit_test(top_n_and_logsumexp_are_of_the_raw_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

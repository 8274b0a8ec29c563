/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling against a slow reading of the rule: sort everything, sum in order, draw. */
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/mathf.h"
#include "ops/sample.h"

enum { VOCAB_MAX = 5000 };

static uint64_t state_;
static uint32_t rng(uint32_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_ >> 33) % n;
}

static void philox_gives_the_published_vectors(void **state) {
    (void)state;
    const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = { /* Random123, kat_vectors, philox4x32 10 */
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        ops_philox(out, known[i].counter, known[i].key);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static int by_logit(const void *a, const void *b) {
    const struct ops_sample_work *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The rule, word for word, for parameters without penalties. */
static uint32_t slow_sample(const float *logits, uint32_t vocab, const struct ops_sample_params *p, int64_t seed, uint32_t position) {
    static struct ops_sample_work w[VOCAB_MAX];
    static double e[VOCAB_MAX];
    float max = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) {
        w[i] = (struct ops_sample_work){.logit = logits[i] / p->temperature, .id = i};
        if (w[i].logit > max) max = w[i].logit;
    }
    uint32_t n = vocab;
    bool truncated = p->min_p > 0 || (p->top_k > 0 && p->top_k < vocab) || p->top_p < 1;
    if (truncated) qsort(w, n, sizeof *w, by_logit);
    for (uint32_t i = 0; i < n; i++) e[i] = ops_expf(w[i].logit - max);
    if (p->min_p > 0)
        while (n > 0 && !(e[n - 1] >= (double)p->min_p)) n--;
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    if (p->top_p < 1) {
        double total = 0, sum = 0;
        for (uint32_t i = 0; i < n; i++) total += e[i];
        for (uint32_t i = 0; i < n; i++) {
            sum += e[i];
            if (sum >= (double)p->top_p * total) {
                n = i + 1;
                break;
            }
        }
    }
    const uint32_t counter[4] = {position, 0, 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)};
    uint32_t x[4];
    ops_philox(x, counter, key);
    double u = (double)(((uint64_t)x[0] << 32 | x[1]) >> 11) * 0x1p-53, sum = 0, cumulative = 0;
    for (uint32_t i = 0; i < n; i++) sum += e[i];
    for (uint32_t i = 0; i < n; i++) {
        cumulative += e[i];
        if (cumulative > u * sum) return w[i].id;
    }
    return w[n - 1].id;
}

static const struct ops_sample_params neutral = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static struct ops_sample_work work[VOCAB_MAX];

static uint32_t sample(const float *logits, uint32_t vocab, struct ops_sample_params p, int64_t seed, uint32_t position) {
    return ops_sample(logits, vocab, &p, NULL, 0, NULL, 0, seed, position, 0, work);
}

static void every_mix_of_parameters_draws_what_the_rule_draws(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    for (uint32_t i = 0; i < 6000; i++) {
        state_ = i;
        uint32_t vocab = 1 + rng(i % 10 == 0 ? VOCAB_MAX : 200);
        uint32_t kinds = 1 + rng(i % 3 == 0 ? 6 : 100000); /* few distinct values: many ties */
        for (uint32_t v = 0; v < vocab; v++) logits[v] = (float)rng(kinds) / (float)kinds * 12 - 6;
        struct ops_sample_params p = neutral;
        p.temperature = 0.1f + (float)rng(30) / 10;
        if (rng(2)) p.top_k = 1 + rng(vocab + 5);
        if (rng(2)) p.top_p = (float)(1 + rng(1000)) / 1001;
        if (rng(2)) p.min_p = (float)rng(1000) / 1000;
        int64_t seed = (int64_t)((uint64_t)rng(1u << 31) << 33 | rng(1u << 31));
        assert_int_equal(sample(logits, vocab, p, seed, i), slow_sample(logits, vocab, &p, seed, i));
    }
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    const float logits[4] = {0, 0.693147f, 1.386294f, -INFINITY}; /* 1 : 2 : 4 : 0 */
    uint32_t count[4] = {0};
    for (uint32_t i = 0; i < 70000; i++) count[sample(logits, 4, neutral, 12345, i)]++;
    assert_in_range(count[0], 9600, 10400);
    assert_in_range(count[1], 19500, 20500);
    assert_in_range(count[2], 39500, 40500);
    assert_int_equal(count[3], 0);
}

static void cold_is_the_lowest_of_the_largest(void **state) {
    (void)state;
    const float logits[5] = {1, 3, NAN, 3, -1}, lost[3] = {NAN, -INFINITY, NAN};
    struct ops_sample_params p = neutral;
    p.temperature = 0;
    assert_int_equal(sample(logits, 5, p, 1, 1), 1);
    assert_int_equal(sample(lost, 3, p, 1, 1), 0);
    assert_int_equal(sample(lost, 3, neutral, 1, 1), 0);
}

/* vLLM: repetition divides positive and multiplies negative logits of prompt and output; frequency and presence count output. */
static void penalties_do_what_vllm_does(void **state) {
    (void)state;
    const float logits[4] = {2.0f, 1.5f, -1.0f, 1.9f};
    const uint32_t prompt[3] = {0, 0, 2}, output[3] = {3, 3, 1};
    struct ops_sample_params p = neutral;
    p.temperature = 0;
    p.repetition_penalty = 2; /* 1.0, 0.75, -2, 0.95 */
    assert_int_equal(ops_sample(logits, 4, &p, prompt, 3, output, 3, 1, 6, 0, work), 0);
    p = neutral;
    p.temperature = 0;
    p.frequency_penalty = 0.3f; /* 2, 1.2, -1, 1.3 */
    const uint32_t none[1] = {0};
    assert_int_equal(ops_sample(logits, 4, &p, none, 0, output, 3, 1, 6, 0, work), 0);
    const uint32_t zeros[4] = {0, 0, 0, 0};
    assert_int_equal(ops_sample(logits, 4, &p, none, 0, zeros, 4, 1, 6, 0, work), 3); /* 0.8 */
    p.frequency_penalty = 0;
    p.presence_penalty = 0.3f;
    assert_int_equal(ops_sample(logits, 4, &p, none, 0, zeros, 4, 1, 6, 0, work), 3); /* 1.7 < 1.9 */
    p.presence_penalty = 0.05f;
    assert_int_equal(ops_sample(logits, 4, &p, none, 0, zeros, 4, 1, 6, 0, work), 0);
}

static void bias_and_masks_decide(void **state) {
    (void)state;
    const float logits[3] = {5, 1, 0};
    const struct ops_logit_bias bias[2] = {{.id = 2, .bias = 10}, {.id = 99, .bias = 100}};
    const uint32_t masked[2] = {2, 77};
    struct ops_sample_params p = neutral;
    p.temperature = 0;
    p.bias = bias;
    p.n_bias = 2;
    assert_int_equal(sample(logits, 3, p, 1, 1), 2);
    p.masked = masked;
    p.n_masked = 2;
    assert_int_equal(sample(logits, 3, p, 1, 1), 0);
}

static void seed_position_and_choice_alone_move_the_draw(void **state) {
    (void)state;
    static float logits[1000];
    uint32_t differ = 0;
    for (uint32_t v = 0; v < 1000; v++) logits[v] = 0;
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t a = sample(logits, 1000, neutral, 9, i);
        assert_int_equal(a, sample(logits, 1000, neutral, 9, i));
        differ += a != sample(logits, 1000, neutral, 9 + ((int64_t)1 << 32), i);
        differ += a != sample(logits, 1000, neutral, 9, i + 1);
        differ += a != ops_sample(logits, 1000, &neutral, NULL, 0, NULL, 0, 9, i, 1, work);
    }
    assert_true(differ > 290);
}

static void logprobs_sum_to_one_and_top_is_sorted(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    state_ = 3;
    for (uint32_t v = 0; v < VOCAB_MAX; v++) logits[v] = (float)rng(1000) / 50 - 10;
    double lse = ops_logsumexp(logits, VOCAB_MAX), sum = 0;
    for (uint32_t v = 0; v < VOCAB_MAX; v++) sum += exp(logits[v] - lse);
    assert_true(fabs(sum - 1) < 1e-5);
    uint32_t top[20];
    ops_top_n(top, 20, logits, VOCAB_MAX, work);
    for (uint32_t i = 1; i < 20; i++)
        assert_true(logits[top[i - 1]] > logits[top[i]] || (logits[top[i - 1]] == logits[top[i]] && top[i - 1] < top[i]));
    for (uint32_t v = 0; v < VOCAB_MAX; v++)
        if (logits[v] > logits[top[19]]) {
            bool found = false;
            for (uint32_t i = 0; i < 20; i++) found = found || top[i] == v;
            assert_true(found);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(every_mix_of_parameters_draws_what_the_rule_draws),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(cold_is_the_lowest_of_the_largest),
        cmocka_unit_test(penalties_do_what_vllm_does),
        cmocka_unit_test(bias_and_masks_decide),
        cmocka_unit_test(seed_position_and_choice_alone_move_the_draw),
        cmocka_unit_test(logprobs_sum_to_one_and_top_is_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Expert gating: hand-made ties, masks and biases, and random cases against a selection by sorting
 * in float64. */
#include "ops/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops_test.h"

static void ties_go_to_the_lowest_index(void **state) {
    (void)state;
    struct ops_gate_config c = {.n_experts = 8, .top_k = 3, .weight_scale = 1};
    float logits[8] = {0}, weights[3];
    uint32_t ids[3];
    ops_gate_topk(ids, weights, logits, NULL, &c);
    assert_true(ids[0] == 0 && ids[1] == 1 && ids[2] == 2 && weights[2] == 0.5f);
    logits[6] = 1;
    ops_gate_topk(ids, weights, logits, NULL, &c);
    assert_true(ids[0] == 0 && ids[1] == 1 && ids[2] == 6);
    /* groups tie as well: {4, 5} and {6, 7} have the same maximum */
    c.group = OPS_GATE_GROUP_MAX, c.n_groups = 4, c.topk_groups = 1, c.top_k = 2;
    logits[4] = 1;
    ops_gate_topk(ids, weights, logits, NULL, &c);
    assert_true(ids[0] == 4 && ids[1] == 5);
}

static void the_bias_moves_the_choice_and_not_the_weight(void **state) {
    (void)state;
    struct ops_gate_config c = {
        .n_experts = 4, .top_k = 2, .normalize = true, .weight_scale = 2.5f};
    float logits[4] = {3, 2, 1, 0}, bias[4] = {-5, 0, 0, 1}, weights[2];
    uint32_t ids[2];
    ops_gate_topk(ids, weights, logits, bias, &c);
    double s1 = 1 / (1 + exp(-2.0)), s3 = 0.5;
    assert_true(ids[0] == 1 && ids[1] == 3);
    assert_true(fabs(weights[0] - 2.5 * s1 / (s1 + s3)) < 1e-6);
    assert_true(fabs(weights[1] - 2.5 * s3 / (s1 + s3)) < 1e-6);
}

/* With masks of 0 instead of -inf, a dropped group (0) would beat the kept group's negative values.
 */
static void a_dropped_group_never_beats_negative_values(void **state) {
    (void)state;
    struct ops_gate_config c = {.group = OPS_GATE_GROUP_TOP2,
                                .n_experts = 8,
                                .n_groups = 2,
                                .topk_groups = 1,
                                .top_k = 3,
                                .weight_scale = 1};
    float logits[8] = {0}, bias[8] = {-9, -9, -9, -9, -2, -2, -2, -2}, weights[3];
    uint32_t ids[3];
    ops_gate_topk(ids, weights, logits, bias, &c);
    assert_true(ids[0] == 4 && ids[1] == 5 && ids[2] == 6);
}

static void top2_and_max_choose_different_groups(void **state) {
    (void)state;
    struct ops_gate_config c = {.score = OPS_GATE_SOFTMAX,
                                .group = OPS_GATE_GROUP_MAX,
                                .n_experts = 4,
                                .n_groups = 2,
                                .topk_groups = 1,
                                .top_k = 1,
                                .weight_scale = 1};
    float logits[4] = {2, -9, 1.9f, 1.8f}, weights[1];
    uint32_t ids[1];
    ops_gate_topk(ids, weights, logits, NULL, &c);
    assert_int_equal(ids[0], 0);
    c.group = OPS_GATE_GROUP_TOP2;
    ops_gate_topk(ids, weights, logits, NULL, &c);
    assert_int_equal(ids[0], 2);
}

static void nan_still_gives_valid_ids(void **state) {
    (void)state;
    struct ops_gate_config c = {.score = OPS_GATE_SOFTMAX,
                                .group = OPS_GATE_GROUP_TOP2,
                                .n_experts = 16,
                                .n_groups = 4,
                                .topk_groups = 2,
                                .top_k = 6,
                                .normalize = true,
                                .weight_scale = 1};
    for (int kind = 0; kind < 3; kind++) {
        float logits[16], weights[6];
        uint32_t ids[6];
        for (int i = 0; i < 16; i++)
            logits[i] = kind == 0 || (kind == 1 && i % 3 == 0) ? NAN : -INFINITY;
        ops_gate_topk(ids, weights, logits, NULL, &c);
        for (int i = 0; i < 6; i++) assert_true(ids[i] < 16 && (i == 0 || ids[i] > ids[i - 1]));
    }
}

/* --- against sorting -------------------------------------------------------------------------- */

struct ranked {
    double v;
    uint32_t i;
};
static int by_value(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->v != y->v) return x->v < y->v ? 1 : -1;
    return x->i < y->i ? -1 : 1;
}
static int by_index(const void *a, const void *b) {
    return ((const struct ranked *)a)->i < ((const struct ranked *)b)->i ? -1 : 1;
}

static void straight(struct ranked *best, const float *logits, const float *bias,
                     const struct ops_gate_config *c, double *score) {
    struct ranked e[512], g[512];
    double total = 0, top = -INFINITY;
    uint32_t n = c->n_experts, size = c->n_groups ? n / c->n_groups : n;
    for (uint32_t i = 0; i < n; i++) top = fmax(top, logits[i]);
    for (uint32_t i = 0; i < n; i++) total += exp(logits[i] - top);
    for (uint32_t i = 0; i < n; i++) {
        score[i] = c->score == OPS_GATE_SIGMOID ? 1 / (1 + exp(-(double)logits[i]))
                                                : exp(logits[i] - top) / total;
        e[i] = (struct ranked){score[i] + (bias ? bias[i] : 0), i};
    }
    for (uint32_t j = 0; c->group && j < c->n_groups; j++) {
        struct ranked sorted[512];
        memcpy(sorted, e + j * size, size * sizeof *e);
        qsort(sorted, size, sizeof *sorted, by_value);
        double two = sorted[0].v + sorted[size > 1].v;
        g[j] = (struct ranked){c->group == OPS_GATE_GROUP_MAX ? sorted[0].v : two, j};
    }
    if (c->group) {
        qsort(g, c->n_groups, sizeof *g, by_value);
        for (uint32_t j = c->topk_groups; j < c->n_groups; j++)
            for (uint32_t i = 0; i < size; i++) e[g[j].i * size + i].v = -INFINITY;
    }
    qsort(e, n, sizeof *e, by_value);
    qsort(e, c->top_k, sizeof *e, by_index);
    memcpy(best, e, c->top_k * sizeof *e);
}

static void random_cases_match_a_sort(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct rng r = {seed};
        struct ops_gate_config c = {.score = rng_below(&r, 2), .group = rng_below(&r, 3)};
        c.n_groups = 1 + rng_below(&r, 8);
        c.n_experts = c.n_groups * (2 + rng_below(&r, 46));
        c.topk_groups = 1 + rng_below(&r, c.n_groups);
        uint32_t room = c.group ? c.topk_groups * (c.n_experts / c.n_groups) : c.n_experts;
        c.top_k = 1 + rng_below(&r, room < 16 ? room : 16);
        c.normalize = rng_below(&r, 2);
        c.weight_scale = (float)(1 + rng_below(&r, 3));
        float logits[512], bias[512], weights[64];
        uint32_t ids[64];
        struct ranked best[64];
        double score[512], sum = 1e-20;
        fill_random(&r, logits, c.n_experts);
        fill_random(&r, bias, c.n_experts);
        const float *b = rng_below(&r, 2) ? bias : NULL;
        ops_gate_topk(ids, weights, logits, b, &c);
        straight(best, logits, b, &c, score);
        for (uint32_t i = 0; i < c.top_k; i++) sum += score[best[i].i];
        for (uint32_t i = 0; i < c.top_k; i++) {
            double w = score[ids[i]] / (c.normalize ? sum : 1) * c.weight_scale;
            if (ids[i] != best[i].i || fabs(weights[i] - w) > w * 2e-6)
                fail_msg("seed %d: place %d is expert %d, expected %d", (int)seed, (int)i,
                         (int)ids[i], (int)best[i].i);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ties_go_to_the_lowest_index),
        cmocka_unit_test(the_bias_moves_the_choice_and_not_the_weight),
        cmocka_unit_test(a_dropped_group_never_beats_negative_values),
        cmocka_unit_test(top2_and_max_choose_different_groups),
        cmocka_unit_test(nan_still_gives_valid_ids),
        cmocka_unit_test(random_cases_match_a_sort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

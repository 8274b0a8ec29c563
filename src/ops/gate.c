/* SPDX-License-Identifier: Apache-2.0 */
/* Expert gating: score, choose groups, choose experts, weigh. The bias moves the choice and never
 * the weight (DeepSeek-V3 report 2.1.2). Choosing is repeated argmax with a strict comparison, so
 * ties go to the lowest index, and NaN, which compares false, still leaves every choice valid and
 * distinct. */
#include "ops/gate.h"

#include <assert.h>
#include <math.h>

#include "ops/mathf.h"
#include "ops/ref/ref.h"

static void softmax(float *score, const float *logits, uint32_t n) {
    float top[OPS_LANES], sum[OPS_LANES] = {0};
    for (int j = 0; j < OPS_LANES; j++) top[j] = -INFINITY;
    for (uint32_t e = 0; e < n; e++) top[e % OPS_LANES] = ref_max(top[e % OPS_LANES], logits[e]);
    float m = ref_tree_max(top);
    for (uint32_t e = 0; e < n; e++) {
        score[e] = ops_expf(logits[e] - m);
        sum[e % OPS_LANES] += score[e];
    }
    float total = ref_tree_sum(sum);
    for (uint32_t e = 0; e < n; e++) score[e] /= total;
}

/* Marks the n largest of v among those not yet marked, lowest index first among equals. */
static void mark_largest(bool *marked, const float *v, uint32_t len, uint32_t n) {
    while (n-- > 0) {
        uint32_t best = len;
        for (uint32_t i = 0; i < len; i++)
            if (!marked[i] && (best == len || v[i] > v[best])) best = i;
        if (best == len) return;
        marked[best] = true;
    }
}

static float group_score(const float *choice, uint32_t n, enum ops_gate_group kind) {
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return kind == OPS_GATE_GROUP_MAX ? first : first + second;
}

static void drop_groups(float *choice, const struct ops_gate_config *c) {
    float score[OPS_GATE_EXPERTS_MAX];
    bool kept[OPS_GATE_EXPERTS_MAX] = {false};
    uint32_t size = c->n_experts / c->n_groups;
    for (uint32_t g = 0; g < c->n_groups; g++)
        score[g] = group_score(choice + g * size, size, c->group);
    mark_largest(kept, score, c->n_groups, c->topk_groups);
    for (uint32_t e = 0; e < c->n_experts; e++)
        if (!kept[e / size]) choice[e] = -INFINITY;
}

void ops_gate_topk(uint32_t *ids, float *weights, const float *logits, const float *bias,
                   const struct ops_gate_config *c) {
    float score[OPS_GATE_EXPERTS_MAX], choice[OPS_GATE_EXPERTS_MAX], total = 0;
    bool chosen[OPS_GATE_EXPERTS_MAX] = {false};
    uint32_t n = c->n_experts, n_ids = 0;
    assert(n <= OPS_GATE_EXPERTS_MAX && c->top_k <= n && c->top_k <= OPS_GATE_TOPK_MAX);
    if (c->score == OPS_GATE_SOFTMAX) softmax(score, logits, n);
    for (uint32_t e = 0; e < n; e++) {
        if (c->score == OPS_GATE_SIGMOID) score[e] = ops_sigmoidf(logits[e]);
        choice[e] = bias ? score[e] + bias[e] : score[e];
    }
    if (c->group != OPS_GATE_GROUP_NONE) {
        assert(c->n_groups > 0 && n % c->n_groups == 0);
        drop_groups(choice, c);
    }
    mark_largest(chosen, choice, n, c->top_k);
    for (uint32_t e = 0; e < n; e++) {
        if (!chosen[e]) continue;
        ids[n_ids] = e;
        weights[n_ids++] = score[e];
        total += score[e];
    }
    for (uint32_t i = 0; i < n_ids; i++) {
        if (c->normalize) weights[i] /= total + 1e-20f;
        weights[i] *= c->weight_scale;
    }
}

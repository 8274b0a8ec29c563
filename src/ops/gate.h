/* SPDX-License-Identifier: Apache-2.0 */
/* Expert gating (DeepSeek-V3 report 2.1.2 "noaux_tc", DeepSeek-V2 "greedy" and
 * "group_limited_greedy"). */
#ifndef SUPERNODE_OPS_GATE_H
#define SUPERNODE_OPS_GATE_H

#include <stdbool.h>
#include <stdint.h>

enum ops_gate_score { OPS_GATE_SIGMOID, OPS_GATE_SOFTMAX };
enum ops_gate_group { OPS_GATE_GROUP_NONE, OPS_GATE_GROUP_MAX, OPS_GATE_GROUP_TOP2 };

struct ops_gate_config {
    enum ops_gate_score score;
    enum ops_gate_group group; /* how a group of experts is scored */
    uint32_t n_experts, n_groups, topk_groups, top_k;
    bool normalize;     /* weights / (sum + 1e-20) */
    float weight_scale; /* multiplied last; 1 for none */
};

enum { OPS_GATE_EXPERTS_MAX = 4096, OPS_GATE_TOPK_MAX = 64 };

/* Chooses top_k experts for one token.
 *   logits [n_experts], bias [n_experts] or NULL (moves the choice, never the weight)
 *   ids, weights [top_k]: in ascending id
 * Ties go to the lowest index; experts of groups that were not kept are -inf. A softmax is exp(x -
 * max) / sum with lanes and tree; the normaliser sums the chosen weights by ascending id. NaN
 * logits give some valid ids. */
void ops_gate_topk(uint32_t *ids, float *weights, const float *logits, const float *bias,
                   const struct ops_gate_config *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A model small enough to run thousands of times in a test, and odd enough to meet every branch. */
#ifndef SUPERNODE_TESTS_MODEL_SMALL_CONFIG_H
#define SUPERNODE_TESTS_MODEL_SMALL_CONFIG_H

#include "model/config.h"

/* Odd sizes throughout; groups, shared expert, dense layer, MTP. */
static inline struct model_config small_config(bool q_lora) {
    struct model_config c = {.vocab = 97,
                             .hidden = 72,
                             .n_layers = 3,
                             .n_mtp = 1,
                             .n_heads = 3,
                             .q_lora = q_lora ? 40 : 0,
                             .kv_lora = 36,
                             .nope = 20,
                             .rope = 12,
                             .v_dim = 28,
                             .dense_inter = 90,
                             .first_dense = 1,
                             .moe_freq = 1,
                             .n_experts = 8,
                             .n_shared = 1,
                             .moe_inter = 33,
                             .eps = 1e-6f,
                             .attn_scale = 0.177f,
                             .max_positions = 4096};
    c.rotary = (struct ops_rope_config){.dim = c.rope, .theta = 10000, .cos_sin_scale = 1};
    c.gate = (struct ops_gate_config){.score = OPS_GATE_SIGMOID,
                                      .group = OPS_GATE_GROUP_TOP2,
                                      .n_experts = 8,
                                      .n_groups = 4,
                                      .topk_groups = 2,
                                      .top_k = 3,
                                      .normalize = true,
                                      .weight_scale = 1.5f};
    return c;
}

#endif

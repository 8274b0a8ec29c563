/* SPDX-License-Identifier: Apache-2.0 */
/* Implements config_check: one table of sizes with their limits, then the conditions between them.
 */
#include "model/config.h"

#include <math.h>
#include <stddef.h>

struct limit {
    const char *key;
    size_t offset;
    uint32_t min, max;
};

#define LIMIT(field, key, min, max)                                                                \
    { key, offsetof(struct model_config, field), min, max }

static const struct limit limits[] = {
    LIMIT(vocab, "vocab_size", 1, 1u << 22),
    LIMIT(hidden, "hidden_size", 1, 1u << 16),
    LIMIT(n_layers, "num_hidden_layers", 1, 1024),
    LIMIT(n_mtp, "num_nextn_predict_layers", 0, 1),
    LIMIT(n_heads, "num_attention_heads", 1, 1024),
    LIMIT(q_lora, "q_lora_rank", 0, 1u << 15),
    LIMIT(kv_lora, "kv_lora_rank", 1, 1u << 13),
    LIMIT(nope, "qk_nope_head_dim", 1, 4096),
    LIMIT(rope, "qk_rope_head_dim", 2, 1024),
    LIMIT(v_dim, "v_head_dim", 1, 4096),
    LIMIT(dense_inter, "intermediate_size", 1, 1u << 18),
    LIMIT(first_dense, "first_k_dense_replace", 0, 1024),
    LIMIT(moe_freq, "moe_layer_freq", 1, 1024),
    LIMIT(n_experts, "n_routed_experts", 0, OPS_GATE_EXPERTS_MAX),
    LIMIT(n_shared, "n_shared_experts", 0, 64),
    LIMIT(moe_inter, "moe_intermediate_size", 0, 1u << 16),
    LIMIT(max_positions, "max_position_embeddings", 1, 1u << 24),
};

static enum st check_gate(const struct model_config *c, struct err *err) {
    const struct ops_gate_config *g = &c->gate;
    if (c->moe_inter == 0)
        return err_set(err, ST_INVALID, "moe_intermediate_size: 0, expected 1 to 65536");
    if (g->n_experts != c->n_experts)
        return err_set(err, ST_INVALID, "gate: %u experts, expected n_routed_experts %u",
                       g->n_experts, c->n_experts);
    if (g->top_k < 1 || g->top_k > OPS_GATE_TOPK_MAX || g->top_k > c->n_experts)
        return err_set(err, ST_INVALID,
                       "num_experts_per_tok: %u, expected 1 to %d and at most n_routed_experts %u",
                       g->top_k, OPS_GATE_TOPK_MAX, c->n_experts);
    if (g->group == OPS_GATE_GROUP_NONE) return ST_OK;
    if (g->n_groups < 1 || c->n_experts % g->n_groups != 0)
        return err_set(err, ST_INVALID, "n_group: %u, expected a divisor of n_routed_experts %u",
                       g->n_groups, c->n_experts);
    if (g->topk_groups < 1 || g->topk_groups > g->n_groups)
        return err_set(err, ST_INVALID, "topk_group: %u, expected 1 to n_group %u", g->topk_groups,
                       g->n_groups);
    uint32_t per_group = c->n_experts / g->n_groups;
    if (g->top_k > per_group * g->topk_groups)
        return err_set(err, ST_INVALID,
                       "num_experts_per_tok: %u, but topk_group %u groups hold %u experts",
                       g->top_k, g->topk_groups, per_group * g->topk_groups);
    if (g->group == OPS_GATE_GROUP_TOP2 && per_group < 2)
        return err_set(err, ST_INVALID,
                       "n_group: %u groups of %u expert, expected 2 experts or more in each",
                       g->n_groups, per_group);
    return ST_OK;
}

enum st config_check(const struct model_config *c, struct err *err) {
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const struct limit *l = &limits[i];
        uint32_t v = *(const uint32_t *)(const void *)((const char *)c + l->offset);
        if (v < l->min || v > l->max)
            return err_set(err, ST_INVALID, "%s: %u, expected %u to %u", l->key, v, l->min, l->max);
    }
    if (c->rope % 2 != 0 || c->rotary.dim != c->rope)
        return err_set(err, ST_INVALID, "qk_rope_head_dim: %u, expected an even number", c->rope);
    if (!(c->eps > 0))
        return err_set(err, ST_INVALID, "rms_norm_eps: %g, expected a positive number",
                       (double)c->eps);
    if (!isfinite(c->attn_scale) || !isfinite(c->rotary.cos_sin_scale))
        return err_set(err, ST_INVALID, "rope_scaling: scales %g and %g, expected finite ones",
                       (double)c->attn_scale, (double)c->rotary.cos_sin_scale);
    return c->n_experts > 0 ? check_gate(c, err) : ST_OK;
}

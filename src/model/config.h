/* SPDX-License-Identifier: Apache-2.0 */
/* What the forward pass needs to know of a DeepSeek-V2/V3 checkpoint, with every choice already
 * made: config_json.c reads it from config.json, tests and benchmarks fill it by hand. Names in
 * comments are those of Hugging Face's config. */
#ifndef SUPERNODE_MODEL_CONFIG_H
#define SUPERNODE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "ops/gate.h"
#include "ops/rope.h"

struct model_config {
    uint32_t vocab;       /* vocab_size */
    uint32_t hidden;      /* hidden_size */
    uint32_t n_layers;    /* num_hidden_layers; the MTP layer not counted */
    uint32_t n_mtp;       /* num_nextn_predict_layers: 0 or 1 */
    uint32_t n_heads;     /* num_attention_heads */
    uint32_t q_lora;      /* q_lora_rank; 0: one q_proj instead of q_a, q_b */
    uint32_t kv_lora;     /* kv_lora_rank */
    uint32_t nope;        /* qk_nope_head_dim */
    uint32_t rope;        /* qk_rope_head_dim, even */
    uint32_t v_dim;       /* v_head_dim */
    uint32_t dense_inter; /* intermediate_size */
    uint32_t first_dense; /* first_k_dense_replace: layers below are dense */
    uint32_t moe_freq;    /* moe_layer_freq: of the rest, layers divisible by it have experts */
    uint32_t n_experts;   /* n_routed_experts; 0: all layers dense */
    uint32_t n_shared;    /* n_shared_experts; may be 0 */
    uint32_t moe_inter;   /* moe_intermediate_size, of one expert */
    bool tied;            /* tie_word_embeddings */
    float eps;        /* rms_norm_eps; the norms of q_a and kv_a have 1e-6, as in HF and model.py */
    float attn_scale; /* (nope + rope)^-0.5, times YaRN's mscale^2 */
    uint32_t max_positions; /* max_position_embeddings */
    struct ops_rope_config rotary;
    enum ops_rope_pairs rope_pairs; /* rope_interleave */
    struct ops_gate_config gate;
};

static inline bool config_layer_is_moe(const struct model_config *c, uint32_t layer) {
    if (layer >= c->n_layers) return c->n_experts > 0; /* MTP */
    return c->n_experts > 0 && layer >= c->first_dense && layer % c->moe_freq == 0;
}
static inline uint32_t config_layers_all(const struct model_config *c) {
    return c->n_layers + c->n_mtp;
}
static inline uint32_t config_kv_row(const struct model_config *c) {
    return c->kv_lora + c->rope;
}

/* Limits and mutual consistency; sizes are bounded so that no product of two of them leaves 64
 * bits. The sentence names the Hugging Face key. */
enum st ST_CHECKED config_check(const struct model_config *c, struct err *err);

#endif

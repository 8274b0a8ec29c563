/* SPDX-License-Identifier: Apache-2.0 */
/* Implements weights.h: one table row a tensor kind with its name, shape and where it stands. */
#include "model/weights.h"

#include <assert.h>
#include <stdio.h>

enum place { PLACE_ONCE, PLACE_LAYER, PLACE_EXPERT, PLACE_MTP };

struct kind_row {
    enum place place;
    const char *name; /* below model.layers.{layer}. unless PLACE_ONCE */
    const char *keys; /* see weight_shape_keys */
};

static const struct kind_row kinds[W_KINDS] = {
    [W_EMBED] = {PLACE_ONCE, "model.embed_tokens.weight", "vocab_size, hidden_size"},
    [W_FINAL_NORM] = {PLACE_ONCE, "model.norm.weight", "hidden_size"},
    [W_HEAD] = {PLACE_ONCE, "lm_head.weight", "vocab_size, hidden_size"},
    [W_ATTN_NORM] = {PLACE_LAYER, "input_layernorm.weight", "hidden_size"},
    [W_Q] = {PLACE_LAYER, "self_attn.q_proj.weight",
             "num_attention_heads (qk_nope_head_dim + qk_rope_head_dim), hidden_size"},
    [W_Q_A] = {PLACE_LAYER, "self_attn.q_a_proj.weight", "q_lora_rank, hidden_size"},
    [W_Q_A_NORM] = {PLACE_LAYER, "self_attn.q_a_layernorm.weight", "q_lora_rank"},
    [W_Q_B] = {PLACE_LAYER, "self_attn.q_b_proj.weight",
               "num_attention_heads (qk_nope_head_dim + qk_rope_head_dim), q_lora_rank"},
    [W_KV_A] = {PLACE_LAYER, "self_attn.kv_a_proj_with_mqa.weight",
                "kv_lora_rank + qk_rope_head_dim, hidden_size"},
    [W_KV_A_NORM] = {PLACE_LAYER, "self_attn.kv_a_layernorm.weight", "kv_lora_rank"},
    [W_KV_B] = {PLACE_LAYER, "self_attn.kv_b_proj.weight",
                "num_attention_heads (qk_nope_head_dim + v_head_dim), kv_lora_rank"},
    [W_O] = {PLACE_LAYER, "self_attn.o_proj.weight", "hidden_size, num_attention_heads v_head_dim"},
    [W_FFN_NORM] = {PLACE_LAYER, "post_attention_layernorm.weight", "hidden_size"},
    [W_DENSE_GATE] = {PLACE_LAYER, "mlp.gate_proj.weight", "intermediate_size, hidden_size"},
    [W_DENSE_UP] = {PLACE_LAYER, "mlp.up_proj.weight", "intermediate_size, hidden_size"},
    [W_DENSE_DOWN] = {PLACE_LAYER, "mlp.down_proj.weight", "hidden_size, intermediate_size"},
    [W_ROUTER] = {PLACE_LAYER, "mlp.gate.weight", "n_routed_experts, hidden_size"},
    [W_ROUTER_BIAS] = {PLACE_LAYER, "mlp.gate.e_score_correction_bias", "n_routed_experts"},
    [W_SHARED_GATE] = {PLACE_LAYER, "mlp.shared_experts.gate_proj.weight",
                       "n_shared_experts moe_intermediate_size, hidden_size"},
    [W_SHARED_UP] = {PLACE_LAYER, "mlp.shared_experts.up_proj.weight",
                     "n_shared_experts moe_intermediate_size, hidden_size"},
    [W_SHARED_DOWN] = {PLACE_LAYER, "mlp.shared_experts.down_proj.weight",
                       "hidden_size, n_shared_experts moe_intermediate_size"},
    [W_EXPERT_GATE] = {PLACE_EXPERT, "gate_proj.weight", "moe_intermediate_size, hidden_size"},
    [W_EXPERT_UP] = {PLACE_EXPERT, "up_proj.weight", "moe_intermediate_size, hidden_size"},
    [W_EXPERT_DOWN] = {PLACE_EXPERT, "down_proj.weight", "hidden_size, moe_intermediate_size"},
    [W_MTP_ENORM] = {PLACE_MTP, "enorm.weight", "hidden_size"},
    [W_MTP_HNORM] = {PLACE_MTP, "hnorm.weight", "hidden_size"},
    [W_MTP_PROJ] = {PLACE_MTP, "eh_proj.weight", "hidden_size, 2 hidden_size"},
    [W_MTP_EMBED] = {PLACE_MTP, "embed_tokens.weight", "vocab_size, hidden_size"},
    [W_MTP_NORM] = {PLACE_MTP, "shared_head.norm.weight", "hidden_size"},
    [W_MTP_HEAD] = {PLACE_MTP, "shared_head.head.weight", "vocab_size, hidden_size"},
};

void weight_shape(const struct model_config *c, enum weight_kind kind, uint32_t *rows,
                  uint32_t *cols) {
    uint32_t shared = c->n_shared * c->moe_inter, qk = c->n_heads * (c->nope + c->rope);
    uint32_t r = 1, n = c->hidden;
    switch (kind) {
    case W_EMBED:
    case W_HEAD:
    case W_MTP_EMBED:
    case W_MTP_HEAD: r = c->vocab; break;
    case W_FINAL_NORM:
    case W_ATTN_NORM:
    case W_FFN_NORM:
    case W_MTP_ENORM:
    case W_MTP_HNORM:
    case W_MTP_NORM: break;
    case W_Q: r = qk; break;
    case W_Q_A: r = c->q_lora; break;
    case W_Q_A_NORM: n = c->q_lora; break;
    case W_Q_B: r = qk, n = c->q_lora; break;
    case W_KV_A: r = c->kv_lora + c->rope; break;
    case W_KV_A_NORM: n = c->kv_lora; break;
    case W_KV_B: r = c->n_heads * (c->nope + c->v_dim), n = c->kv_lora; break;
    case W_O: r = c->hidden, n = c->n_heads * c->v_dim; break;
    case W_DENSE_GATE:
    case W_DENSE_UP: r = c->dense_inter; break;
    case W_DENSE_DOWN: r = c->hidden, n = c->dense_inter; break;
    case W_ROUTER: r = c->n_experts; break;
    case W_ROUTER_BIAS: n = c->n_experts; break;
    case W_SHARED_GATE:
    case W_SHARED_UP: r = shared; break;
    case W_SHARED_DOWN: r = c->hidden, n = shared; break;
    case W_EXPERT_GATE:
    case W_EXPERT_UP: r = c->moe_inter; break;
    case W_EXPERT_DOWN: r = c->hidden, n = c->moe_inter; break;
    case W_MTP_PROJ: r = c->hidden, n = 2 * c->hidden; break;
    case W_KINDS: assert(false);
    }
    *rows = r;
    *cols = n;
}

const char *weight_shape_keys(enum weight_kind kind) {
    return kinds[kind].keys;
}

bool weight_exists(const struct model_config *c, enum weight_kind kind, uint32_t layer) {
    bool moe = config_layer_is_moe(c, layer);
    switch (kinds[kind].place) {
    case PLACE_ONCE: return layer == 0 && !(kind == W_HEAD && c->tied);
    case PLACE_MTP: return layer == c->n_layers && c->n_mtp > 0;
    case PLACE_EXPERT: return moe;
    case PLACE_LAYER: break;
    }
    if (kind == W_Q) return c->q_lora == 0;
    if (kind == W_Q_A || kind == W_Q_A_NORM || kind == W_Q_B) return c->q_lora > 0;
    if (kind == W_DENSE_GATE || kind == W_DENSE_UP || kind == W_DENSE_DOWN) return !moe;
    if (kind == W_ROUTER) return moe;
    if (kind == W_ROUTER_BIAS) return moe && c->gate.score == OPS_GATE_SIGMOID;
    if (kind == W_SHARED_GATE || kind == W_SHARED_UP || kind == W_SHARED_DOWN)
        return moe && c->n_shared > 0;
    return true;
}

void weight_name(char name[WEIGHT_NAME_BYTES], struct weight_key key) {
    const struct kind_row *k = &kinds[key.kind];
    switch (k->place) {
    case PLACE_ONCE: snprintf(name, WEIGHT_NAME_BYTES, "%s", k->name); break;
    case PLACE_LAYER:
    case PLACE_MTP:
        snprintf(name, WEIGHT_NAME_BYTES, "model.layers.%u.%s", key.layer, k->name);
        break;
    case PLACE_EXPERT:
        snprintf(name, WEIGHT_NAME_BYTES, "model.layers.%u.mlp.experts.%u.%s", key.layer,
                 key.expert, k->name);
        break;
    }
}

size_t weight_count(const struct model_config *c) {
    size_t n = 0;
    for (uint32_t layer = 0; layer < config_layers_all(c); layer++)
        for (enum weight_kind kind = 0; kind < W_KINDS; kind++)
            if (weight_exists(c, kind, layer))
                n += kinds[kind].place == PLACE_EXPERT ? c->n_experts : 1;
    return n;
}

enum st weight_visit(const struct model_config *c, weight_visit_fn *fn, void *ctx,
                     struct err *err) {
    for (uint32_t layer = 0; layer < config_layers_all(c); layer++) {
        for (enum weight_kind kind = 0; kind < W_KINDS; kind++) {
            if (!weight_exists(c, kind, layer)) continue;
            uint32_t rows, cols;
            weight_shape(c, kind, &rows, &cols);
            uint32_t n = kinds[kind].place == PLACE_EXPERT ? c->n_experts : 1;
            for (uint32_t e = 0; e < n; e++) {
                struct weight_key key = {.kind = kind, .layer = layer, .expert = e};
                enum st st = fn(ctx, key, rows, cols, err);
                if (st) return st;
            }
        }
    }
    return ST_OK;
}

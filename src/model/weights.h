/* SPDX-License-Identifier: Apache-2.0 */
/* The weight source: the model asks for (tensor, layer, expert, rows) and never sees files
 * (contracts 3). Behind it stand a mapped checkpoint (ckpt.c), a flat golden file (tests), random
 * memory (bench), later a pool's model cache. */
#ifndef SUPERNODE_MODEL_WEIGHTS_H
#define SUPERNODE_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/config.h"
#include "ops/weight.h"

/* In the order of HF's modules. The comment has the tensor's name below "model.layers.{layer}."
 * unless it says otherwise, and its shape. Vectors are matrices of one row. */
enum weight_kind {
    W_EMBED,      /* model.embed_tokens.weight                [vocab, hidden] */
    W_FINAL_NORM, /* model.norm.weight                        [hidden] */
    W_HEAD,       /* lm_head.weight                           [vocab, hidden]; tied: W_EMBED */
    W_ATTN_NORM,  /* input_layernorm.weight                   [hidden] */
    W_Q,   /* self_attn.q_proj.weight                  [heads (nope + rope), hidden]; q_lora 0 */
    W_Q_A, /* self_attn.q_a_proj.weight                [q_lora, hidden] */
    W_Q_A_NORM,    /* self_attn.q_a_layernorm.weight           [q_lora] */
    W_Q_B,         /* self_attn.q_b_proj.weight                [heads (nope + rope), q_lora] */
    W_KV_A,        /* self_attn.kv_a_proj_with_mqa.weight      [kv_lora + rope, hidden] */
    W_KV_A_NORM,   /* self_attn.kv_a_layernorm.weight          [kv_lora] */
    W_KV_B,        /* self_attn.kv_b_proj.weight               [heads (nope + v_dim), kv_lora] */
    W_O,           /* self_attn.o_proj.weight                  [hidden, heads v_dim] */
    W_FFN_NORM,    /* post_attention_layernorm.weight          [hidden] */
    W_DENSE_GATE,  /* mlp.gate_proj.weight                     [dense_inter, hidden] */
    W_DENSE_UP,    /* mlp.up_proj.weight                       [dense_inter, hidden] */
    W_DENSE_DOWN,  /* mlp.down_proj.weight                     [hidden, dense_inter] */
    W_ROUTER,      /* mlp.gate.weight                          [n_experts, hidden] */
    W_ROUTER_BIAS, /* mlp.gate.e_score_correction_bias      [n_experts]; sigmoid gates only */
    W_SHARED_GATE, /* mlp.shared_experts.gate_proj.weight      [n_shared moe_inter, hidden] */
    W_SHARED_UP,   /* mlp.shared_experts.up_proj.weight        [n_shared moe_inter, hidden] */
    W_SHARED_DOWN, /* mlp.shared_experts.down_proj.weight      [hidden, n_shared moe_inter] */
    W_EXPERT_GATE, /* mlp.experts.{expert}.gate_proj.weight    [moe_inter, hidden] */
    W_EXPERT_UP,   /* mlp.experts.{expert}.up_proj.weight      [moe_inter, hidden] */
    W_EXPERT_DOWN, /* mlp.experts.{expert}.down_proj.weight    [hidden, moe_inter] */
    W_MTP_ENORM,   /* enorm.weight                             [hidden] */
    W_MTP_HNORM,   /* hnorm.weight                             [hidden] */
    W_MTP_PROJ,  /* eh_proj.weight                           [hidden, 2 hidden]: embedding first */
    W_MTP_EMBED, /* embed_tokens.weight; absent: W_EMBED     [vocab, hidden] */
    W_MTP_NORM,  /* shared_head.norm.weight                  [hidden] */
    W_MTP_HEAD,  /* shared_head.head.weight; absent: W_HEAD  [vocab, hidden] */
    W_KINDS
};

struct weight_key {
    enum weight_kind kind;
    uint32_t layer;  /* 0 for the three that belong to no layer; the MTP layer is n_layers */
    uint32_t expert; /* 0 unless W_EXPERT_* */
};

struct weight_source {
    void *self;
    /* Rows [row0, row0 + n_rows) of a tensor; out->row_base is row0. The view is valid as long as
     * the source. */
    enum st (*get)(void *self, struct weight_key key, uint32_t row0, uint32_t n_rows,
                   struct ops_weight *out, struct err *err);
};

/* Stored shape of a tensor: *rows is 1 for vectors. */
void weight_shape(const struct model_config *c, enum weight_kind kind, uint32_t *rows,
                  uint32_t *cols);
/* The keys of config.json that decide it, for errors: "vocab_size, hidden_size". */
const char *weight_shape_keys(enum weight_kind kind);

/* Whether this model has the tensor in this layer (n_layers: MTP). W_MTP_EMBED and W_MTP_HEAD count
 * as had; a source that lacks them gives the main ones. */
bool weight_exists(const struct model_config *c, enum weight_kind kind, uint32_t layer);

/* The HF name, NUL-terminated, in name[160]. */
enum { WEIGHT_NAME_BYTES = 160 };
void weight_name(char name[WEIGHT_NAME_BYTES], struct weight_key key);

/* How many tensors the model has. */
size_t weight_count(const struct model_config *c);

/* Calls fn for every tensor the model has, in the order of the enumeration within each layer,
 * layer-less ones first; stops at the first status that is not ST_OK and returns it. */
typedef enum st weight_visit_fn(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                                struct err *err);
enum st ST_CHECKED weight_visit(const struct model_config *c, weight_visit_fn *fn, void *ctx,
                                struct err *err);

#endif

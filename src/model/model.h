/* SPDX-License-Identifier: Apache-2.0 */
/* A model ready to run: its configuration, views of its weights as the source keeps them, and the
 * small vectors (norms, biases) widened to F32 once. Read-only after model_new: any number of steps
 * on any threads may share it. */
#ifndef SUPERNODE_MODEL_MODEL_H
#define SUPERNODE_MODEL_MODEL_H

#include "base/arena.h"
#include "base/err.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/attention.h"
#include "ops/kernels.h"

/* gate and up projections [inter, hidden], down [hidden, inter]. */
struct model_ffn {
    struct ops_weight gate, up, down;
};

struct model_layer {
    const float *attn_norm, *ffn_norm, *q_a_norm, *kv_a_norm;
    struct ops_weight q; /* q_proj, or q_b_proj where there is q_lora */
    struct ops_weight q_a, kv_a, kv_b, o;
    struct model_ffn
        ffn; /* dense layer: its FFN; expert layer: the shared experts (rows 0 if none) */
    struct ops_weight router;  /* expert layers */
    const float *router_bias;  /* NULL: none */
    struct model_ffn *experts; /* [n_experts]; NULL in dense layers */
};

struct model_mtp {
    const float *enorm, *hnorm, *norm;
    struct ops_weight proj, embed, head;
};

struct model {
    struct model_config config;
    const struct ops_kernels *k;
    struct ops_mla_shape mla;
    const float *inv_freq; /* [rope / 2] */
    struct ops_weight embed, head;
    const float *final_norm;
    struct model_layer *layers; /* [n_layers + n_mtp]; the MTP block is the last */
    struct model_mtp mtp;       /* if n_mtp */
    struct arena memory;
};

/* Asks the source for every tensor. Views are the source's: keep it open as long as the model.
 * config is copied. */
enum st ST_CHECKED model_new(struct model **out, const struct model_config *config,
                             const struct weight_source *source, const struct ops_kernels *k,
                             struct err *err);
void model_free(struct model *m); /* NULL is allowed */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements model.h: one visit over all tensors puts each where the forward pass looks for it. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

enum { MEMORY_BYTES_MAX = 1 << 30 }; /* pointers and vectors, not weights: R1 takes 10 MB */

static void *take(struct model *m, size_t bytes) {
    void *p = arena_alloc(&m->memory, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

static enum st widen(const float **out, struct model *m, const struct ops_weight *w,
                     struct err *err) {
    float *v = take(m, (size_t)w->cols * sizeof *v);
    if (!v) return err_set(err, ST_NO_MEMORY, "model: out of memory");
    ops_weight_row(v, w, 0, 0, w->cols);
    *out = v;
    return ST_OK;
}

struct load {
    struct model *m;
    const struct weight_source *source;
};

static enum st place(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                     struct err *err) {
    struct load *load = ctx;
    struct model *m = load->m;
    struct model_layer *l = &m->layers[key.layer];
    struct model_ffn *expert = l->experts ? &l->experts[key.expert] : NULL;
    struct ops_weight w;
    (void)cols;
    enum st st = load->source->get(load->source->self, key, 0, rows, &w, err);
    if (st) return st;
    switch (key.kind) {
    case W_EMBED: m->embed = w; break;
    case W_HEAD: m->head = w; break;
    case W_FINAL_NORM: return widen(&m->final_norm, m, &w, err);
    case W_ATTN_NORM: return widen(&l->attn_norm, m, &w, err);
    case W_Q:
    case W_Q_B: l->q = w; break;
    case W_Q_A: l->q_a = w; break;
    case W_Q_A_NORM: return widen(&l->q_a_norm, m, &w, err);
    case W_KV_A: l->kv_a = w; break;
    case W_KV_A_NORM: return widen(&l->kv_a_norm, m, &w, err);
    case W_KV_B: l->kv_b = w; break;
    case W_O: l->o = w; break;
    case W_FFN_NORM: return widen(&l->ffn_norm, m, &w, err);
    case W_DENSE_GATE:
    case W_SHARED_GATE: l->ffn.gate = w; break;
    case W_DENSE_UP:
    case W_SHARED_UP: l->ffn.up = w; break;
    case W_DENSE_DOWN:
    case W_SHARED_DOWN: l->ffn.down = w; break;
    case W_ROUTER: l->router = w; break;
    case W_ROUTER_BIAS: return widen(&l->router_bias, m, &w, err);
    case W_EXPERT_GATE: expert->gate = w; break;
    case W_EXPERT_UP: expert->up = w; break;
    case W_EXPERT_DOWN: expert->down = w; break;
    case W_MTP_ENORM: return widen(&m->mtp.enorm, m, &w, err);
    case W_MTP_HNORM: return widen(&m->mtp.hnorm, m, &w, err);
    case W_MTP_PROJ: m->mtp.proj = w; break;
    case W_MTP_EMBED: m->mtp.embed = w; break;
    case W_MTP_NORM: return widen(&m->mtp.norm, m, &w, err);
    case W_MTP_HEAD: m->mtp.head = w; break;
    case W_KINDS: break;
    }
    return ST_OK;
}

static enum st alloc_layers(struct model *m, struct err *err) {
    const struct model_config *c = &m->config;
    uint32_t n = config_layers_all(c);
    float *inv_freq = take(m, c->rope / 2 * sizeof *inv_freq);
    m->layers = take(m, n * sizeof *m->layers);
    bool ok = inv_freq && m->layers;
    for (uint32_t i = 0; i < n && ok; i++) {
        if (!config_layer_is_moe(c, i)) continue;
        m->layers[i].experts = take(m, c->n_experts * sizeof *m->layers[i].experts);
        ok = m->layers[i].experts != NULL;
    }
    if (!ok) return err_set(err, ST_NO_MEMORY, "model: out of memory");
    ops_rope_inv_freq(inv_freq, &c->rotary);
    m->inv_freq = inv_freq;
    return ST_OK;
}

enum st model_new(struct model **out, const struct model_config *config,
                  const struct weight_source *source, const struct ops_kernels *k,
                  struct err *err) {
    struct model *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ST_NO_MEMORY, "model: out of memory");
    m->memory.max = MEMORY_BYTES_MAX;
    m->config = *config;
    m->k = k;
    m->mla = (struct ops_mla_shape){.kv_lora = config->kv_lora,
                                    .nope = config->nope,
                                    .rope = config->rope,
                                    .v_dim = config->v_dim,
                                    .scale = config->attn_scale};
    struct load load = {.m = m, .source = source};
    enum st st = alloc_layers(m, err);
    if (!st) st = weight_visit(&m->config, place, &load, err);
    if (st) {
        model_free(m);
        return st;
    }
    if (config->tied) m->head = m->embed;
    *out = m;
    return ST_OK;
}

void model_free(struct model *m) {
    if (!m) return;
    arena_release(&m->memory);
    free(m);
}

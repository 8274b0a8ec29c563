/* SPDX-License-Identifier: Apache-2.0 */
/* A batch of prompts through an instance (step.h; CloudMatrix paper 4.3). Staged: all tokens lie
 * packed over the dies for what is done a token (sequence parallel), over the heads for attention
 * (tensor parallel), and over the dies again; an all-gather and an all-to-all lie between. A head
 * stays whole: where a second group of dies can have all heads again, each group has prompts of its
 * own. Data parallel: each prompt on one die, and the fullest die is waited for. Two microbatches keep
 * three engines busy: cubes, vectors, and the copy engines that move bytes between dies. */
#include <math.h>

#include "sim/step_impl.h"

enum engine { CUBES, VECTORS, COPIES };

/* DeepSeek's kernels keep 24 of an H800's 132 SMs for communication while microbatches alternate; a
 * chip with copy engines of its own keeps none. */
static const double gpu_cubes_left = 1 - 24.0 / 132;

struct group { /* of dies that attention's stages are spread over */
    double dies;
    double share; /* of all prompts, that the fullest group has */
};

static struct group group_of(const struct step_setup *s, const struct step_prefill *p) {
    double n = floor(fmin((double)s->dies / s->model.n_heads, p->requests));
    if (n < 2) return (struct group){s->dies, 1};
    return (struct group){s->dies / n, ceil(p->requests / n) / p->requests};
}

static void staged(struct step_chain *c, const struct step_setup *s, const struct step_prefill *p,
                   double share, const struct op_place *at) {
    const struct model_config *m = &s->model;
    struct group g = group_of(s, p);
    double tokens = p->tokens * g.share * share, cached = p->cached * g.share * share,
           dies = g.dies;
    struct op_shape own = step_shape(s, tokens / dies), heads = own;
    double latents = (m->q_lora ? m->q_lora : m->hidden) * op_type_bytes(s->weights) +
                     config_kv_row(m) * s->kv_bytes;
    own.wide = heads.wide = true;
    step_chain_add(c, s, at, OP_MLA_PROLOG, &own, CUBES);
    heads.ranks = (uint32_t)ceil(dies);
    heads.bytes = tokens * latents + cached * config_kv_row(m) * s->kv_bytes;
    step_chain_add(c, s, at, OP_ALL_GATHER, &heads, CUBES);
    heads.heads = (uint32_t)ceil(m->n_heads / dies);
    heads.tokens = tokens;
    heads.cached = cached;
    heads.kv_tokens = p->key_pairs / p->tokens;
    step_chain_add(c, s, at, OP_MLA_UP, &heads, CUBES);
    step_chain_add(c, s, at, OP_ATTENTION_WIDE, &heads, CUBES);
    heads.bytes = tokens * heads.heads * m->v_dim * 2.0;
    step_chain_add(c, s, at, OP_ALL_TO_ALL, &heads, CUBES);
    step_chain_add(c, s, at, OP_QUANTISE, &own, VECTORS);
    step_chain_add(c, s, at, OP_O_PROJ, &own, CUBES);
}

/* The part of all tokens that the fullest die has: evenly over its group where attention is staged,
 * else every prompt, or what is computed of one, is on one die. */
static double fullest(const struct step_setup *s, const struct step_prefill *p) {
    double prompts = fmax(1, p->requests);
    struct group g = group_of(s, p);
    if (s->attention == STEP_ATTENTION_STAGED) return g.share / g.dies;
    return ceil(prompts / s->dies) / prompts;
}

enum st step_prefill_fits(const struct step_setup *s, const struct step_prefill *p,
                          struct err *err) {
    return step_room_for(s, true, (p->tokens + p->cached) * fullest(s, p), err);
}

static void data_parallel(struct step_chain *c, const struct step_setup *s,
                          const struct step_prefill *p, double share, const struct op_place *at) {
    struct op_shape own = step_shape(s, p->tokens * fullest(s, p) * share);
    own.wide = true;
    own.cached = own.tokens * p->cached / p->tokens;
    own.kv_tokens = p->key_pairs / p->tokens;
    step_chain_add(c, s, at, OP_MLA_PROLOG, &own, CUBES);
    step_chain_add(c, s, at, OP_MLA_UP, &own, CUBES);
    step_chain_add(c, s, at, OP_ATTENTION_WIDE, &own, CUBES);
    step_chain_add(c, s, at, OP_QUANTISE, &own, VECTORS);
    step_chain_add(c, s, at, OP_O_PROJ, &own, CUBES);
}

/* Tokens are exchanged as they lie: evenly where attention is staged, else the fullest die sends the
 * most. Experts are spread over all dies, so their rows are of the mean. */
static void experts(struct step_chain *c, const struct step_setup *s, double tokens, double mean,
                    const struct op_place *at) {
    struct op_shape own = step_shape(s, tokens), shared;
    own.bulk = true;
    own.mean_tokens = mean;
    shared = own;
    shared.inter = s->model.moe_inter * s->model.n_shared;
    step_chain_add(c, s, at, OP_GATE, &own, CUBES);
    step_chain_add(c, s, at, OP_REORDER, &own, VECTORS);
    step_chain_add(c, s, at, OP_DISPATCH, &own, COPIES);
    c->second = c->n;
    if (!s->shared_ranks && s->model.n_shared) step_chain_add(c, s, at, OP_DENSE, &shared, CUBES);
    step_chain_add(c, s, at, OP_GMM, &own, CUBES);
    step_chain_add(c, s, at, OP_COMBINE, &own, COPIES);
    step_chain_add(c, s, at, OP_SUM, &own, VECTORS);
}

static void make(struct step_chain *c, const struct step_setup *s, const struct step_prefill *p,
                 bool moe, uint32_t microbatches) {
    double share = 1.0 / microbatches;
    bool stages = s->attention == STEP_ATTENTION_STAGED;
    bool gpu = s->machine->cube_cores == s->machine->vector_cores;
    double left = gpu && moe && microbatches > 1 ? gpu_cubes_left : 1;
    struct op_place at = {left, left, 1};
    double mean = p->tokens / s->dies * share, tokens = p->tokens * fullest(s, p) * share;
    *c = (struct step_chain){.n = 0};
    step_chain_fixed(c, s->layer_fixed_s * share, CUBES);
    if (stages)
        staged(c, s, p, share, &at);
    else
        data_parallel(c, s, p, share, &at);
    struct op_shape own = step_shape(s, tokens);
    if (moe)
        experts(c, s, tokens, mean, &at);
    else
        step_chain_add(c, s, &at, OP_DENSE, &own, CUBES);
}

static double run(const struct step_setup *s, const struct step_prefill *p, uint32_t microbatches,
                  struct step_trace *trace) {
    const struct machine *m = s->machine;
    const struct model_config *c = &s->model;
    struct step_clock k = {.trace = trace};
    struct step_chain chains[CHAINS_MAX], ends = {.n = 0};
    struct op_shape last = step_shape(s, fmax(1, ceil(p->requests / s->dies)));
    struct op_shape all = step_shape(s, p->tokens / s->dies);
    step_chain_fixed(&ends, m->step_s, CUBES);
    step_chain_add(&ends, s, NULL, OP_EMBED, &all, CUBES);
    step_lay(&k, &ends, 1, 0, 1);
    for (uint32_t i = 0, end; i < c->n_layers; i = end) {
        bool moe = config_layer_is_moe(c, i);
        for (end = i + 1; end < c->n_layers && config_layer_is_moe(c, end) == moe; end++) {
        }
        for (uint32_t j = 0; j < microbatches; j++) make(&chains[j], s, p, moe, microbatches);
        step_join(&k);
        step_lay(&k, chains, microbatches, i, end);
    }
    step_join(&k);
    ends = (struct step_chain){.n = 0};
    step_chain_add(&ends, s, NULL, OP_HEAD, &last, CUBES);
    step_chain_add(&ends, s, NULL, OP_SAMPLE, &last, CUBES);
    step_lay(&k, &ends, 1, c->n_layers, c->n_layers + 1);
    return step_now(&k);
}

double step_prefill_s(const struct step_setup *s, const struct step_prefill *p,
                      struct step_trace *trace) {
    if (!(p->tokens > 0)) return 0;
    uint32_t n = s->microbatches ? 2 : 1;
    if (n == 2 && !s->microbatches_forced && run(s, p, 1, NULL) <= run(s, p, 2, NULL)) n = 1;
    return run(s, p, n, trace);
}

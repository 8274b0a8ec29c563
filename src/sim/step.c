/* SPDX-License-Identifier: Apache-2.0 */
/* What instances of both roles have in common (step.h): their setup, what they keep in memory, and
 * how chains of operators are laid on the streams that execute them. */
#include "sim/op_impl.h"
#include "sim/step_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- setup ------------------------------------------------------------------------------------ */

uint32_t step_held(const struct step_setup *s) {
    uint32_t ranks = s->ep - s->shared_ranks, slots = s->model.n_experts + s->redundant;
    return slots ? (slots + ranks - 1) / ranks : 0;
}

static bool is_gpu(const struct machine *m) {
    return m->cube_cores == m->vector_cores;
}

/* With more ranks than experts some hold the shared expert alone, one in top_k + 2 as published (32 of
 * EP320; its load is worth one in top_k + 1), and the rest second copies of routed ones. Where too few
 * are left every rank keeps its own shared expert: two ranks that serve everybody's would be far the
 * busiest. */
static void fill_ranks(struct step_setup *s) {
    const struct model_config *c = &s->model;
    uint32_t left, shares;
    if (!c->n_experts || s->ep <= c->n_experts) return;
    left = s->ep - c->n_experts;
    shares = s->ep / (c->gate.top_k + 2);
    if (!s->shared_ranks && c->n_shared && left >= shares) s->shared_ranks = shares;
    if (!s->redundant && s->shared_ranks < left) s->redundant = left - s->shared_ranks;
}

/* Whether every rank of the experts can send to every other. */
static bool reaches(const struct step_setup *s) {
    struct op_shape shape = step_shape(s, 1);
    struct op_cost cost;
    op_cost(&cost, s->machine, NULL, OP_DISPATCH, &shape);
    return isfinite(cost.s);
}

static enum st busiest(const struct step_setup *s, struct err *err) {
    struct op_shape shape = step_shape(s, 1);
    double most = op_imbalance_max(&shape);
    if (!s->model.n_experts || s->imbalance <= most * (1 + 1e-6)) return ST_OK;
    return err_set(err, ST_INVALID,
                   "imbalance: found %g, expected at most %.4g: %u ranks of %u expert%s each can "
                   "have no more rows than all tokens send",
                   s->imbalance, most, s->ep - s->shared_ranks, step_held(s),
                   step_held(s) == 1 ? "" : "s");
}

/* Whether two microbatches of decode can be under way: where they do not take turns each needs a core. */
static bool splits(const struct step_setup *s) {
    return s->machine->cube_cores > 1 || (is_gpu(s->machine) && s->attention_cubes >= 1);
}

static enum st check(const struct step_setup *s, bool prefill, struct err *err) {
    const struct model_config *c = &s->model;
    double weights, has = s->machine->hbm_bytes;
    enum st st;
    if (s->ep > s->dies)
        return err_set(err, ST_INVALID, "ep: found %u, expected at most the instance's %u dies",
                       s->ep, s->dies);
    if (s->shared_ranks >= s->ep)
        return err_set(err, ST_INVALID, "shared ranks: found %u, expected fewer than ep %u",
                       s->shared_ranks, s->ep);
    if (s->mtp && !c->n_mtp)
        return err_set(err, ST_INVALID,
                       "mtp: found true, expected false: the model has no MTP layer");
    if (!(s->imbalance >= 1) || !(s->acceptance >= 0 && s->acceptance <= 1))
        return err_set(err, ST_INVALID,
                       "found imbalance %g and acceptance %g, expected 1 or more and 0 to 1",
                       s->imbalance, s->acceptance);
    st = busiest(s, err);
    if (st) return st;
    if (s->attention_cubes >= 1 && !is_gpu(s->machine))
        return err_set(err, ST_INVALID,
                       "attention share: found %g, expected less than 1: dispatch and combine take "
                       "cores of %s",
                       s->attention_cubes, s->machine->name);
    if (s->microbatches_forced && !prefill && !splits(s))
        return err_set(err, ST_INVALID,
                       "microbatches: found on, expected off: %s has one cube core, which two "
                       "cannot share",
                       s->machine->name);
    if (!reaches(s))
        return err_set(err, ST_INVALID, "ep: found %u, expected fewer: %s%s of %s %s so many",
                       s->ep, s->plane ? "plane " : "no network", s->plane ? s->plane : "",
                       s->machine->name, s->plane ? "does not connect" : "connects");
    weights = step_weight_bytes(s, prefill);
    if (weights >= has)
        return err_set(
            err, ST_INVALID,
            "weights: found %.1f GB a die (%u expert%s each), expected less than its %.1f GB "
            "of memory: more dies or ranks are needed",
            weights * 1e-9, step_held(s), step_held(s) == 1 ? "" : "s", has * 1e-9);
    return ST_OK;
}

/* Of the fixed time of a prompt batch's layer, which we take to be waiting for the slowest of the dies:
 * it was measured on 32, and a die alone waits for nobody. */
static double waiting(uint32_t dies) {
    return op_expected_max(dies) / op_expected_max(32);
}

enum st step_setup_fill(struct step_setup *s, bool prefill, struct err *err) {
    const struct machine *m = s->machine;
    uint32_t all = machine_dies_per_node(m) * m->n_nodes;
    if (!s->model.n_layers || !s->model.hidden)
        return err_set(err, ST_INVALID, "model: found no shape, expected one");
    if (!s->dies) s->dies = prefill ? (all < 32 ? all : 32) : (all < 320 ? all : 320);
    if (s->dies > all)
        return err_set(err, ST_INVALID, "dies: found %u, expected at most the %u of %s", s->dies,
                       all, m->name);
    if (!s->ep) s->ep = s->dies;
    if (s->kv_bytes <= 0) s->kv_bytes = 2;
    if (s->imbalance == 0) s->imbalance = 1;
    if (s->attention_cubes == 0 && is_gpu(m)) s->attention_cubes = 1;
    if (s->layer_fixed_s == 0)
        s->layer_fixed_s = machine_operator(m, "prefill_layer")->fixed_s * waiting(s->dies);
    if (s->attention == STEP_ATTENTION_AUTO)
        s->attention = is_gpu(m) ? STEP_ATTENTION_DATA : STEP_ATTENTION_STAGED;
    fill_ranks(s);
    if (!prefill && !splits(s)) s->microbatches = false;
    return check(s, prefill, err);
}

/* --- memory ----------------------------------------------------------------------------------- */

double step_kv_token_bytes(const struct step_setup *s) {
    return (s->model.n_layers + (s->mtp ? 1.0 : 0)) * config_kv_row(&s->model) * s->kv_bytes;
}

static double layer_weights(const struct step_setup *s, bool moe) {
    const struct model_config *c = &s->model;
    double heads = c->n_heads, hidden = c->hidden, head = c->nope + c->rope,
           b = op_type_bytes(s->weights);
    double q = c->q_lora ? hidden * c->q_lora + c->q_lora * heads * head : hidden * heads * head;
    double bytes = (q + hidden * config_kv_row(c) + heads * c->v_dim * hidden) * b +
                   heads * (c->nope + c->v_dim) * c->kv_lora * 2;
    double experts = step_held(s) + (s->shared_ranks ? 0.0 : c->n_shared);
    if (!moe) return bytes + 3 * hidden * c->dense_inter * b;
    return bytes + experts * 3 * hidden * c->moe_inter * b + hidden * c->n_experts * 4;
}

double step_weight_bytes(const struct step_setup *s, bool prefill) {
    const struct model_config *c = &s->model;
    double bytes = (c->tied ? 1.0 : 2.0) * c->vocab * c->hidden * 2;
    for (uint32_t i = 0; i < c->n_layers; i++) bytes += layer_weights(s, config_layer_is_moe(c, i));
    if (s->mtp && !prefill) bytes += layer_weights(s, true) + 2.0 * c->hidden * c->hidden * 2;
    return bytes;
}

/* A tenth is left to activations, communication buffers and the runtime. */
double step_kv_room_bytes(const struct step_setup *s, bool prefill) {
    double room = s->machine->hbm_bytes * 0.9 - step_weight_bytes(s, prefill);
    return room > 0 ? room : 0;
}

enum st step_room_for(const struct step_setup *s, bool prefill, double tokens, struct err *err) {
    double room = step_kv_room_bytes(s, prefill), bytes = tokens * step_kv_token_bytes(s);
    if (bytes <= room) return ST_OK;
    return err_set(err, ST_INVALID,
                   "found %.1f GB of KV on the fullest die, expected at most the %.1f GB that "
                   "weights leave",
                   bytes * 1e-9, room * 1e-9);
}

double step_handover_s(const struct step_setup *s, const struct machine_plane *p, double tokens) {
    return transfer_s(p, TRANSFER_READ, true, tokens * step_kv_token_bytes(s));
}

/* --- chains ----------------------------------------------------------------------------------- */

struct op_shape step_shape(const struct step_setup *s, double tokens) {
    return (struct op_shape){.model = &s->model,
                             .weights = s->weights,
                             .activations = s->weights,
                             .kv_bytes = s->kv_bytes,
                             .tokens = tokens,
                             .ep = s->ep,
                             .shared_ranks = s->shared_ranks,
                             .experts = step_held(s),
                             .imbalance = s->imbalance,
                             .even = s->even,
                             .plane = s->plane};
}

void step_chain_add(struct step_chain *c, const struct step_setup *s, const struct op_place *p,
                    enum op op, const struct op_shape *shape, uint32_t stream) {
    struct step_link *l = &c->v[c->n++];
    l->op = op;
    l->stream = stream;
    op_cost(&l->cost, s->machine, p, op, shape);
    c->s += l->cost.s;
}

void step_chain_fixed(struct step_chain *c, double s, uint32_t stream) {
    if (s <= 0) return;
    c->v[c->n++] = (struct step_link){OPS, stream, {.s = s, .fixed_s = s}};
    c->s += s;
}

static void note(struct step_trace *t, const struct step_piece *p) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 256;
        struct step_piece *v = realloc(t->v, cap * sizeof *v);
        if (!v) return; /* the picture lacks a piece; the time is right */
        t->v = v;
        t->cap = cap;
    }
    t->v[t->n++] = *p;
}

static void run_link(struct step_clock *k, const struct step_link *l, uint32_t layer,
                     uint32_t microbatch) {
    double begin = fmax(k->stream[l->stream], k->ready[microbatch]);
    k->stream[l->stream] = k->ready[microbatch] = begin + l->cost.s;
    if (!k->trace) return;
    note(k->trace, &(struct step_piece){.op = l->op,
                                        .layer = layer,
                                        .microbatch = microbatch,
                                        .stream = l->stream,
                                        .begin_s = begin,
                                        .s = l->cost.s,
                                        .cost = l->cost});
}

void step_lay(struct step_clock *k, const struct step_chain *c, uint32_t n_chains, uint32_t first,
              uint32_t end) {
    for (uint32_t layer = first; layer < end; layer++)
        for (uint32_t phase = 0; phase < 2; phase++)
            for (uint32_t i = 0; i < n_chains; i++) {
                uint32_t second = c[i].second ? c[i].second : c[i].n;
                uint32_t from = phase ? second : 0, to = phase ? c[i].n : second;
                for (uint32_t j = from; j < to; j++) run_link(k, &c[i].v[j], layer, i);
            }
}

double step_now(const struct step_clock *k) {
    double now = 0;
    for (uint32_t i = 0; i < STREAMS_MAX; i++) now = fmax(now, k->stream[i]);
    for (uint32_t i = 0; i < CHAINS_MAX; i++) now = fmax(now, k->ready[i]);
    return now;
}

void step_join(struct step_clock *k) {
    double now = step_now(k);
    for (uint32_t i = 0; i < STREAMS_MAX; i++) k->stream[i] = now;
    for (uint32_t i = 0; i < CHAINS_MAX; i++) k->ready[i] = now;
}

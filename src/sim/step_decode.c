/* SPDX-License-Identifier: Apache-2.0 */
/* A decode step (step.h; CloudMatrix paper 4.2.3 and 4.2.4). Every layer is attention and then
 * experts. Cut into two microbatches, one attends on its part of the cores while the other goes
 * through its experts on the rest; each has the memory's bandwidth that the other leaves. On a GPU
 * the two take turns on all cores and only the network runs beside them. A draft layer guesses one
 * token a request, so the main model sees two rows of each, whose keys it reads once. */
#include <math.h>

#include "sim/op_impl.h"
#include "sim/step_impl.h"

enum stream { ATTENTION, EXPERTS };

struct cut { /* a way to do a layer */
    uint32_t microbatches;
    double attention; /* share of the cores; 1: all, in turn */
    struct step_chain layer;
};

static struct op_place part(double cores, double hbm) {
    return (struct op_place){cores, cores, hbm};
}

static void attend(struct step_chain *c, const struct step_setup *s, const struct op_place *p,
                   const struct op_shape *shape) {
    step_chain_add(c, s, p, OP_MLA_PROLOG, shape, ATTENTION);
    step_chain_add(c, s, p, OP_ATTENTION, shape, ATTENTION);
    step_chain_add(c, s, p, OP_O_PROJ, shape, ATTENTION);
}

/* What a rank computes for its own tokens beside the routed experts. */
static void own_shared(struct step_chain *c, const struct step_setup *s, const struct op_place *p,
                       const struct op_shape *shape, uint32_t stream) {
    struct op_shape own = *shape;
    if (s->shared_ranks || !s->model.n_shared) return;
    own.inter = s->model.moe_inter * s->model.n_shared;
    step_chain_add(c, s, p, OP_DENSE, &own, stream);
}

/* Lengths even out over the requests of a die, and over its cores, among which attention deals pieces
 * of sequences (CloudMatrix paper 4.2.2); between dies they do not, and dispatch waits for the last. */
static double fullest_over_mean(const struct step_setup *s, const struct step_decode *d) {
    return 1 + d->kv_spread * op_expected_max(s->dies) / sqrt(fmax(1, d->requests));
}

/* Requests are whole: of 1.5 a die some have two, which are waited for; the experts have the mean of
 * all dies. */
static struct op_shape rows_of(const struct step_setup *s, const struct step_decode *d,
                               double share) {
    double rows = s->mtp ? 2 : 1, fullest = ceil(d->requests);
    struct op_shape shape = step_shape(s, fullest * share * rows);
    shape.mean_tokens = (d->mean_requests > 0 ? d->mean_requests : d->requests) * share * rows;
    shape.requests = fullest * share;
    shape.kv_tokens = d->kv_tokens * fullest_over_mean(s, d);
    return shape;
}

enum st step_decode_fits(const struct step_setup *s, const struct step_decode *d, struct err *err) {
    struct op_shape shape = rows_of(s, d, 1);
    return step_room_for(s, false, shape.requests * shape.kv_tokens, err);
}

static double stream_s(const struct step_chain *c, uint32_t stream) {
    double s = 0;
    for (uint32_t i = 0; i < c->n; i++)
        if (c->v[i].stream == stream) s += c->v[i].cost.s;
    return s;
}

/* The part of the memory's time that the other stream takes while this one goes through its layer. */
static double memory_taken(const struct step_chain *c, const struct step_setup *s,
                           uint32_t stream) {
    double bytes = 0;
    double bps = s->machine->hbm_bps * machine_operator(s->machine, "memory")->share;
    for (uint32_t i = 0; i < c->n; i++)
        if (c->v[i].stream != stream) bytes += c->v[i].cost.hbm_bytes;
    return bytes / bps / stream_s(c, stream);
}

static void attend_and_serve(struct cut *k, const struct step_setup *s,
                             const struct op_shape *shape, const struct op_place *a,
                             const struct op_place *e, bool split) {
    uint32_t cores = split ? EXPERTS : ATTENTION;
    k->layer = (struct step_chain){.n = 0};
    attend(&k->layer, s, a, shape);
    step_chain_add(&k->layer, s, e, OP_GATE, shape, cores);
    step_chain_add(&k->layer, s, e, OP_DISPATCH, shape, EXPERTS);
    if (!split) k->layer.second = k->layer.n; /* the other one computes while this one is sent */
    own_shared(&k->layer, s, e, shape, cores);
    step_chain_add(&k->layer, s, e, OP_GMM, shape, cores);
    step_chain_add(&k->layer, s, e, OP_COMBINE, shape, EXPERTS);
}

/* The streams of a GPU are its cores and its network. Two streams on split cores each have the memory's
 * bandwidth that the other leaves, and no less than their share of the cores. */
static void make_cut(struct cut *k, const struct step_setup *s, const struct step_decode *d,
                     uint32_t microbatches, double attention) {
    struct op_shape shape = rows_of(s, d, 1.0 / microbatches);
    double n = s->machine->cube_cores; /* whole cores on both sides */
    bool split = microbatches > 1 && attention < 1;
    if (split) attention = fmin(n - 1, fmax(1, round(attention * n))) / n;
    double rest = split ? 1 - attention : 1, cores = split ? attention : 1;
    struct op_place a = part(cores, cores), e = part(rest, rest);
    k->microbatches = microbatches;
    k->attention = attention;
    attend_and_serve(k, s, &shape, &a, &e, split);
    if (!split) return;
    a.hbm = fmax(cores, 1 - memory_taken(&k->layer, s, ATTENTION));
    e.hbm = fmax(rest, 1 - memory_taken(&k->layer, s, EXPERTS));
    attend_and_serve(k, s, &shape, &a, &e, split);
}

/* Of two streams that take turns with two microbatches, over all layers that have experts. */
static double both_s(const struct step_chain *c, const struct step_setup *s) {
    double a = stream_s(c, ATTENTION), e = stream_s(c, EXPERTS);
    return 2.0 * s->model.n_layers * fmax(a, e) + fmin(a, e);
}

/* All splits are tried: waves of tiles make times jump as the cores change. */
static void best_split(struct cut *k, const struct step_setup *s, const struct step_decode *d) {
    uint32_t n = s->machine->cube_cores;
    struct cut one;
    make_cut(k, s, d, 2, 1.0 / n);
    for (uint32_t i = 2; i < n; i++) {
        make_cut(&one, s, d, 2, (double)i / n);
        if (both_s(&one.layer, s) < both_s(&k->layer, s)) *k = one;
    }
}

/* Layers of the kind from `from` on, all alike. */
static void layers(struct step_clock *k, const struct step_setup *s, const struct step_decode *d,
                   const struct cut *moe) {
    const struct model_config *c = &s->model;
    struct step_chain both[CHAINS_MAX], plain = {.n = 0};
    struct op_shape shape = rows_of(s, d, 1);
    struct op_place all = part(1, 1);
    attend(&plain, s, &all, &shape);
    step_chain_add(&plain, s, &all, OP_DENSE, &shape, ATTENTION);
    for (uint32_t i = 0; i < CHAINS_MAX; i++) both[i] = moe->layer;
    for (uint32_t i = 0, end; i < c->n_layers; i = end) {
        bool experts = config_layer_is_moe(c, i);
        for (end = i + 1; end < c->n_layers && config_layer_is_moe(c, end) == experts; end++) {
        }
        step_join(k);
        if (experts)
            step_lay(k, both, moe->microbatches, i, end);
        else
            step_lay(k, &plain, 1, i, end);
    }
    step_join(k);
}

static void one(struct step_clock *k, const struct step_setup *s, enum op op,
                const struct op_shape *shape, uint32_t layer) {
    struct step_chain c = {.n = 0};
    step_chain_add(&c, s, NULL, op, shape, ATTENTION);
    step_lay(k, &c, 1, layer, layer + 1);
    step_join(k);
}

static double run(const struct step_setup *s, const struct step_decode *d, const struct cut *moe,
                  struct step_trace *trace) {
    const struct machine *m = s->machine;
    const struct model_config *c = &s->model;
    struct op_shape rows = rows_of(s, d, 1), drafts = rows_of(s, d, 1);
    struct step_clock k = {.trace = trace};
    struct step_chain host = {.n = 0}, both[CHAINS_MAX];
    step_chain_fixed(&host, m->step_s + (m->graphs_ahead ? 0 : m->launch_s * (s->mtp ? 2 : 1)),
                     ATTENTION);
    if (host.n) step_lay(&k, &host, 1, 0, 1);
    step_join(&k);
    one(&k, s, OP_EMBED, &rows, 0);
    layers(&k, s, d, moe);
    one(&k, s, OP_HEAD, &rows, c->n_layers);
    one(&k, s, OP_SAMPLE, &rows, c->n_layers);
    if (!s->mtp) return step_now(&k);
    /* The draft sees what the step accepted, padded to two rows; it guesses one token. */
    one(&k, s, OP_MTP_PROJ, &rows, c->n_layers);
    for (uint32_t i = 0; i < CHAINS_MAX; i++) both[i] = moe->layer;
    step_lay(&k, both, moe->microbatches, c->n_layers, c->n_layers + 1);
    step_join(&k);
    drafts.tokens = drafts.requests;
    one(&k, s, OP_HEAD, &drafts, c->n_layers);
    one(&k, s, OP_SAMPLE, &drafts, c->n_layers);
    return step_now(&k);
}

double step_decode_s(const struct step_setup *s, const struct step_decode *d,
                     struct step_trace *trace) {
    struct cut plain, cut;
    bool may = s->microbatches && d->requests >= 2;
    if (!(d->requests > 0)) return 0;
    make_cut(&plain, s, d, 1, 1);
    if (!may && !s->microbatches_forced) return run(s, d, &plain, trace);
    if (s->attention_cubes > 0)
        make_cut(&cut, s, d, 2, s->attention_cubes);
    else
        best_split(&cut, s, d);
    if (!s->microbatches_forced && run(s, d, &plain, NULL) <= run(s, d, &cut, NULL)) cut = plain;
    return run(s, d, &cut, trace);
}

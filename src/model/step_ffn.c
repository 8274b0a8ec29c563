/* SPDX-License-Identifier: Apache-2.0 */
/* Feed-forward stages (HF DeepseekV3MLP, DeepseekV3MoE): dense layers, gate, shared experts, routed
 * experts, combine. Gate and up projection of a tile meet in one thread, so the intermediate never
 * makes a second trip. A routed expert's rows are gathered first, so that its weights are read once
 * for all of them. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "model/step_impl.h"

/* --- gate and up, fused ----------------------------------------------------------------------- */

/* h[t, row0 ..] = swiglu(gate x, up x) for one tile of intermediate rows. */
static void gate_up(const struct step *s, float *h, size_t h_stride, const float *x, uint32_t n_tok,
                    const struct model_ffn *f, uint32_t row0, uint32_t thread) {
    const struct ops_kernels *k = s->m->k;
    uint32_t hidden = s->m->config.hidden, left = f->gate.rows - row0;
    uint32_t n = left < TILE_ROWS ? left : TILE_ROWS;
    float *g = scratch_tile(s, thread), *u = g + (size_t)n_tok * TILE_ROWS;
    k->dot(g, TILE_ROWS, x, hidden, n_tok, &f->gate, row0, n, scratch_ws(s, thread));
    k->dot(u, TILE_ROWS, x, hidden, n_tok, &f->up, row0, n, scratch_ws(s, thread));
    for (uint32_t t = 0; t < n_tok; t++)
        k->swiglu(h + t * h_stride + row0, g + (size_t)t * TILE_ROWS, u + (size_t)t * TILE_ROWS, n);
}

struct ffn_run {
    struct step *s;
    const float *x;
    const struct model_ffn *ffn;
};

static void ffn_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct ffn_run *r = ctx;
    gate_up(r->s, r->s->h, r->ffn->gate.rows, r->x, r->s->n, r->ffn, tile * TILE_ROWS, thread);
}

void step_ffn(struct step *s, float *out, const float *x, const struct model_ffn *ffn) {
    struct ffn_run run = {.s = s, .x = x, .ffn = ffn};
    struct matmul down = {out, s->m->config.hidden, s->h, ffn->gate.rows, &ffn->down};
    step_run(s, ffn_tile, &run, step_tiles(ffn->gate.rows));
    step_matmuls(s, &down, 1, s->n);
}

static void add_proj_row(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    uint32_t hidden = s->m->config.hidden;
    float *x = s->x + (size_t)row * hidden;
    const float *y = s->proj + (size_t)row * hidden;
    for (uint32_t i = 0; i < hidden; i++) x[i] += y[i];
}

void step_dense(struct step *s, uint32_t layer) {
    step_ffn(s, s->proj, s->xn, &s->m->layers[layer].ffn);
    step_each_row(s, s->n, add_proj_row, NULL);
}

/* --- gate ------------------------------------------------------------------------------------- */

static void route_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    const struct model_config *c = &s->m->config;
    uint32_t top_k = c->gate.top_k, ids[OPS_GATE_TOPK_MAX];
    float weights[OPS_GATE_TOPK_MAX];
    ops_gate_topk(ids, weights, s->router + (size_t)row * c->n_experts, l->router_bias, &c->gate);
    for (uint32_t i = 0; i < top_k; i++)
        s->routes[(size_t)row * top_k + i] =
            (struct step_route){.row = row, .expert = ids[i], .weight = weights[i]};
}

void step_gate(struct step *s, uint32_t layer) {
    const struct model_layer *l = &s->m->layers[layer];
    const struct model_config *c = &s->m->config;
    struct matmul router = {s->router, c->n_experts, s->xn, c->hidden, &l->router};
    step_matmuls(s, &router, 1, s->n);
    step_each_row(s, s->n, route_row, l);
    s->n_routes = s->n * c->gate.top_k;
    for (uint32_t i = 0; i < s->n_routes; i++) s->all_routes[i] = i;
}

const struct step_route *step_routes(const struct step *s, uint32_t *n_routes) {
    *n_routes = s->n_routes;
    return s->routes;
}

const float *step_expert_in(const struct step *s, uint32_t row) {
    return s->xn + (size_t)row * s->m->config.hidden;
}

float *step_expert_out(struct step *s, uint32_t route) {
    return s->expert_y + (size_t)route * s->m->config.hidden;
}

void step_shared(struct step *s, uint32_t layer) {
    const struct model_ffn *f = &s->m->layers[layer].ffn;
    if (f->gate.rows > 0) step_ffn(s, s->proj, s->xn, f);
}

/* --- routed experts --------------------------------------------------------------------------- */

struct expert_run {
    struct step *s;
    const struct model_ffn *experts;
    uint32_t tiles_each;
};

/* Counting sort by expert; within one the order of the list stays. */
static void group_routes(struct step *s, const uint32_t *list, uint32_t n) {
    uint32_t n_experts = s->m->config.n_experts, *end = s->expert_end;
    memset(end, 0, n_experts * sizeof *end);
    for (uint32_t i = 0; i < n; i++) end[s->routes[list[i]].expert]++;
    for (uint32_t e = 0, sum = 0; e < n_experts; e++) {
        uint32_t count = end[e];
        end[e] = sum; /* its begin, which filling moves to its end */
        sum += count;
    }
    for (uint32_t i = 0; i < n; i++) s->by_expert[end[s->routes[list[i]].expert]++] = list[i];
}

static uint32_t expert_begin(const struct step *s, uint32_t expert) {
    return expert ? s->expert_end[expert - 1] : 0;
}

static void gather_row(struct step *s, uint32_t at, const void *arg) {
    (void)arg;
    uint32_t hidden = s->m->config.hidden;
    memcpy(s->expert_x + (size_t)at * hidden, step_expert_in(s, s->routes[s->by_expert[at]].row),
           hidden * sizeof(float));
}

/* Tiles run over the experts that have rows; tile -> (expert, tile of it). */
static uint32_t tile_expert(const struct expert_run *r, uint32_t tile) {
    const struct step *s = r->s;
    uint32_t nth = tile / r->tiles_each;
    for (uint32_t e = 0;; e++)
        if (s->expert_end[e] > expert_begin(s, e) && nth-- == 0) return e;
}

static void expert_up_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct expert_run *r = ctx;
    const struct step *s = r->s;
    const struct model_config *c = &s->m->config;
    uint32_t e = tile_expert(r, tile), begin = expert_begin(s, e);
    gate_up(s, s->expert_h + (size_t)begin * c->moe_inter, c->moe_inter,
            s->expert_x + (size_t)begin * c->hidden, s->expert_end[e] - begin, &r->experts[e],
            tile % r->tiles_each * TILE_ROWS, thread);
}

static void expert_down_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct expert_run *r = ctx;
    struct step *s = r->s;
    const struct model_config *c = &s->m->config;
    uint32_t e = tile_expert(r, tile), begin = expert_begin(s, e), n_tok = s->expert_end[e] - begin;
    uint32_t row0 = tile % r->tiles_each * TILE_ROWS, left = c->hidden - row0,
             n = left < TILE_ROWS ? left : TILE_ROWS;
    float *y = scratch_tile(s, thread);
    s->m->k->dot(y, TILE_ROWS, s->expert_h + (size_t)begin * c->moe_inter, c->moe_inter, n_tok,
                 &r->experts[e].down, row0, n, scratch_ws(s, thread));
    for (uint32_t t = 0; t < n_tok; t++)
        memcpy(step_expert_out(s, s->by_expert[begin + t]) + row0, y + (size_t)t * TILE_ROWS,
               n * sizeof(float));
}

void step_experts(struct step *s, uint32_t layer, const uint32_t *routes, uint32_t n_routes) {
    const struct model_config *c = &s->m->config;
    uint32_t used = 0;
    assert(n_routes <= s->n_routes);
    group_routes(s, routes, n_routes);
    for (uint32_t e = 0; e < c->n_experts; e++) used += s->expert_end[e] > expert_begin(s, e);
    struct expert_run run = {
        .s = s, .experts = s->m->layers[layer].experts, .tiles_each = step_tiles(c->moe_inter)};
    step_each_row(s, n_routes, gather_row, NULL);
    step_run(s, expert_up_tile, &run, used * run.tiles_each);
    run.tiles_each = step_tiles(c->hidden);
    step_run(s, expert_down_tile, &run, used * run.tiles_each);
}

/* acc over ascending expert, then the shared expert, then the residual stream (contracts 1). */
static void combine_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    uint32_t hidden = s->m->config.hidden, top_k = s->m->config.gate.top_k;
    float *x = s->x + (size_t)row * hidden,
          *acc = s->expert_x + (size_t)row * hidden; /* no longer needed as input */
    const float *shared = l->ffn.gate.rows > 0 ? s->proj + (size_t)row * hidden : NULL;
    memset(acc, 0, hidden * sizeof *acc);
    for (uint32_t j = 0; j < top_k; j++) {
        uint32_t route = row * top_k + j;
        const float *y = step_expert_out(s, route);
        float w = s->routes[route].weight;
        for (uint32_t i = 0; i < hidden; i++) acc[i] = fmaf(w, y[i], acc[i]);
    }
    for (uint32_t i = 0; i < hidden && shared; i++) acc[i] += shared[i];
    for (uint32_t i = 0; i < hidden; i++) x[i] += acc[i];
}

void step_combine(struct step *s, uint32_t layer) {
    step_each_row(s, s->n, combine_row, &s->m->layers[layer]);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A step's memory, the helpers its stages share, and the default loop. Everything is allocated in
 * step_new for the most rows a step may have, so that running it cannot fail. */
#include "model/step.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "model/step_impl.h"

/* --- memory ----------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* The widest row any dot of this model reads. */
static uint32_t widest(const struct model_config *c) {
    uint32_t w = max_u32(c->hidden * (c->n_mtp ? 2 : 1), c->n_heads * c->v_dim);
    w = max_u32(w, max_u32(c->q_lora, c->kv_lora + c->rope));
    w = max_u32(w, max_u32(c->dense_inter, c->n_shared * c->moe_inter));
    return max_u32(w, max_u32(c->moe_inter, c->nope + c->rope));
}

static size_t scratch_layout(struct step *s, const struct model_config *c, uint32_t rows_max,
                             uint32_t n_pages) {
    struct ops_mla_shape shape = {
        .kv_lora = c->kv_lora, .nope = c->nope, .rope = c->rope, .v_dim = c->v_dim};
    size_t dot = aligned(ops_dot_workspace_bytes(widest(c)));
    size_t tiles = aligned((size_t)2 * rows_max * TILE_ROWS * sizeof(float));
    size_t expanded = ops_mla_expanded_workspace_bytes(&shape);
    size_t absorbed = ops_mla_absorbed_workspace_bytes(c->n_heads, &shape);
    size_t attention = aligned(expanded > absorbed ? expanded : absorbed);
    s->tile_at = dot;
    s->blocks_at = dot + tiles > attention ? dot + tiles : attention;
    s->scratch_bytes = s->blocks_at + aligned(n_pages * sizeof(void *));
    return s->scratch_bytes;
}

/* Carves every array out of base, or, with base NULL, only counts. */
static size_t carve(struct step *s, uint8_t *base, const struct model_config *c,
                    struct step_limits lim, uint32_t n_threads, uint32_t n_pages) {
    size_t at = 0, n = lim.rows_max, routes = n * c->gate.top_k;
    uint32_t inter = max_u32(c->dense_inter, c->n_shared * c->moe_inter);
#define TAKE(field, count)                                                                         \
    do {                                                                                           \
        if (base) s->field = (void *)(base + at);                                                  \
        at += aligned((size_t)(count) * sizeof *s->field);                                         \
    } while (0)
    TAKE(act, n);
    TAKE(slots, n);
    TAKE(cos, n * (c->rope / 2));
    TAKE(sin, n * (c->rope / 2));
    TAKE(x, n * c->hidden);
    TAKE(xn, n * c->hidden);
    TAKE(qa, n * c->q_lora);
    TAKE(q, n * c->n_heads * (c->nope + c->rope));
    TAKE(kva, n * (c->kv_lora + c->rope));
    TAKE(att, n * c->n_heads * c->v_dim);
    TAKE(att_max, n * c->n_heads);
    TAKE(att_sum, n * c->n_heads);
    TAKE(proj, n * c->hidden);
    TAKE(hidden, n * c->hidden);
    TAKE(h, n * inter);
    TAKE(mtp_in, c->n_mtp ? n * 2 * c->hidden : 0);
    TAKE(router, n * c->n_experts);
    TAKE(routes, routes);
    TAKE(all_routes, routes);
    TAKE(by_expert, routes);
    TAKE(expert_end, c->n_experts);
    TAKE(expert_x, routes * c->hidden);
    TAKE(expert_h, routes * c->moe_inter);
    TAKE(expert_y, routes * c->hidden);
    TAKE(logits, (size_t)lim.logits_max * c->vocab);
    TAKE(drafts, c->n_mtp ? (size_t)lim.logits_max * c->vocab : 0);
    TAKE(logits_of, n);
    TAKE(draft_of, n);
    TAKE(scratch, (size_t)n_threads * scratch_layout(s, c, lim.rows_max, n_pages));
#undef TAKE
    return at;
}

uint64_t step_bytes(const struct model_config *c, struct step_limits limits, uint32_t n_threads,
                    uint32_t n_pages) {
    struct step s;
    return carve(&s, NULL, c, limits, n_threads, n_pages);
}

enum st step_new(struct step **out, const struct model *m, const struct kv *kv, struct team *team,
                 struct step_limits limits, struct err *err) {
    assert(limits.rows_max > 0 && limits.rows_max <= 1u << 20);
    assert(limits.logits_max <= limits.rows_max);
    struct step *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "step: out of memory");
    size_t bytes = step_bytes(&m->config, limits, team_size(team), kv->n_pages);
    /* Mapped rather than malloc'ed: rows that no step uses cost no memory, and large pages spare
     * the page walks. */
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        free(s);
        return err_set(err, ST_NO_MEMORY, "step: cannot map %zu bytes for %u rows: %s", bytes,
                       limits.rows_max, strerror(errno));
    }
    madvise(base, bytes, MADV_HUGEPAGE);
    s->m = m;
    s->kv = kv;
    s->team = team;
    s->limits = limits;
    s->memory = base;
    s->memory_bytes = bytes;
    carve(s, base, &m->config, limits, team_size(team), kv->n_pages);
    *out = s;
    return ST_OK;
}

void step_free(struct step *s) {
    if (!s) return;
    munmap(s->memory, s->memory_bytes);
    free(s);
}

/* --- pausing ---------------------------------------------------------------------------------- */

void step_run(struct step *s, team_fn *fn, void *ctx, uint32_t n_tiles) {
    if (s->until_ns == UINT64_MAX) {
        team_run(s->team, fn, ctx, n_tiles);
        return;
    }
    if (s->paused || s->run++ < s->runs_done) return;
    uint32_t next = team_run_until(s->team, fn, ctx, s->tiles_done, n_tiles, s->until_ns);
    s->paused = next < n_tiles || clock_now_ns() >= s->until_ns;
    s->tiles_done = next < n_tiles ? next : 0;
    s->runs_done += next == n_tiles;
}

/* --- helpers of the stages -------------------------------------------------------------------- */

struct matmul_run {
    struct step *s;
    const struct matmul *jobs;
    uint32_t n_tok;
};

static void matmul_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct matmul_run *r = ctx;
    const struct matmul *j = r->jobs;
    while (tile >= step_tiles(j->w->rows)) tile -= step_tiles(j++->w->rows);
    uint32_t row0 = tile * TILE_ROWS, left = j->w->rows - row0;
    r->s->m->k->dot(j->out + row0, j->out_stride, j->x, j->x_stride, r->n_tok, j->w, row0,
                    left < TILE_ROWS ? left : TILE_ROWS, scratch_ws(r->s, thread));
}

void step_matmuls(struct step *s, const struct matmul *jobs, uint32_t n_jobs, uint32_t n_tok) {
    assert(n_jobs <= MATMULS_MAX);
    struct matmul_run run = {.s = s, .jobs = jobs, .n_tok = n_tok};
    uint32_t n_tiles = 0;
    for (uint32_t i = 0; i < n_jobs; i++) n_tiles += step_tiles(jobs[i].w->rows);
    if (n_tok > 0) step_run(s, matmul_tile, &run, n_tiles);
}

struct row_run {
    struct step *s;
    step_row_fn *fn;
    const void *arg;
    uint32_t n;
};

enum { ROWS_A_TILE = 8 };

static void row_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct row_run *r = ctx;
    (void)thread;
    uint32_t end = (tile + 1) * ROWS_A_TILE < r->n ? (tile + 1) * ROWS_A_TILE : r->n;
    for (uint32_t row = tile * ROWS_A_TILE; row < end; row++) r->fn(r->s, row, r->arg);
}

void step_each_row(struct step *s, uint32_t n, step_row_fn *fn, const void *arg) {
    struct row_run run = {.s = s, .fn = fn, .arg = arg, .n = n};
    step_run(s, row_tile, &run, (n + ROWS_A_TILE - 1) / ROWS_A_TILE);
}

static void angles(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    const struct model_config *c = &s->m->config;
    uint32_t pairs = c->rope / 2;
    ops_rope_angles(s->cos + (size_t)row * pairs, s->sin + (size_t)row * pairs, s->m->inv_freq,
                    pairs, s->act[row].slot - s->first_slot, c->rotary.cos_sin_scale);
}

void step_activate(struct step *s, uint32_t first_slot, bool (*keep)(const struct step_row *row)) {
    s->first_slot = first_slot;
    s->n = 0;
    for (uint32_t i = 0; i < s->in->n_rows; i++) {
        const struct step_row *r = &s->in->rows[i];
        if (!keep(r)) continue;
        s->slots[s->n] = r->pos;
        s->act[s->n++] =
            (struct active_row){.input = i, .slot = r->pos, .seq = r->seq, .role = r->role};
    }
    step_each_row(s, s->n, angles, NULL);
}

/* --- the default loop ------------------------------------------------------------------------- */

static bool every_row(const struct step_row *row) {
    (void)row;
    return true;
}

static void check_input(const struct step *s, const struct step_input *in) {
    assert(in->n_rows <= s->limits.rows_max);
    uint32_t n_logits = 0;
    for (uint32_t i = 0; i < in->n_rows; i++) {
        const struct step_row *r = &in->rows[i];
        assert(r->token < s->m->config.vocab);
        assert(r->seq < in->n_seqs);
        assert(r->pos / KV_PAGE_TOKENS < in->seqs[r->seq].n_pages);
        assert(i == 0 || in->rows[i - 1].seq != r->seq || in->rows[i - 1].pos + 1 == r->pos);
        n_logits += r->logits;
    }
    assert(n_logits <= s->limits.logits_max);
    (void)n_logits;
}

void step_begin(struct step *s, const struct step_input *in) {
    check_input(s, in);
    s->in = in;
    s->phase = s->runs_done = s->tiles_done = 0;
    s->until_ns = UINT64_MAX;
    step_activate(s, 0, every_row);
}

static void embed_row(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    uint32_t hidden = s->m->config.hidden;
    ops_weight_row(s->x + (size_t)row * hidden, &s->m->embed, s->in->rows[s->act[row].input].token,
                   0, hidden);
}

void step_embed(struct step *s) {
    step_each_row(s, s->n, embed_row, NULL);
}

void step_layer(struct step *s, uint32_t layer) {
    step_prolog(s, layer);
    step_attention(s, layer);
    step_attn_out(s, layer);
    if (!s->m->layers[layer].experts) {
        step_dense(s, layer);
        return;
    }
    step_gate(s, layer);
    step_shared(s, layer);
    step_experts(s, layer, s->all_routes, s->n_routes);
    step_combine(s, layer);
}

/* Stages as step_advance walks them: embed, a layer each, head, MTP. */
static void run_phase(struct step *s) {
    uint32_t n_layers = s->m->config.n_layers;
    if (s->phase == 0)
        step_embed(s);
    else if (s->phase <= n_layers)
        step_layer(s, s->phase - 1);
    else if (s->phase == n_layers + 1)
        step_head(s);
    else
        step_mtp(s);
}

/* Of a page: layers, and with MTP the hidden state. */
static uint32_t all_parts(const struct model_config *c) {
    return config_layers_all(c) + (c->n_mtp ? 1 : 0);
}

/* How many stages n_parts allow: layer i reads part i, what follows the head reads the rest. */
static uint32_t phases_allowed(const struct step *s, uint32_t n_parts) {
    uint32_t n_layers = s->m->config.n_layers;
    if (n_parts >= all_parts(&s->m->config)) return n_layers + 3;
    return n_parts >= n_layers ? n_layers + 2 : n_parts + 1;
}

uint32_t step_parts_done(const struct step *s) {
    uint32_t n_layers = s->m->config.n_layers;
    if (s->phase == n_layers + 3) return all_parts(&s->m->config);
    uint32_t layers = s->phase > 1 ? s->phase - 1 : 0;
    return layers < n_layers ? layers : n_layers;
}

bool step_advance(struct step *s, uint64_t until_ns, uint32_t n_parts) {
    uint32_t n_phases = s->m->config.n_layers + 3, allowed = phases_allowed(s, n_parts);
    s->until_ns = until_ns;
    s->paused = false;
    while (s->phase < allowed) {
        s->run = 0;
        run_phase(s);
        if (s->paused) break;
        s->phase++;
        s->runs_done = 0;
    }
    s->until_ns = UINT64_MAX;
    return s->phase == n_phases;
}

void model_step(struct step *const *steps, uint32_t n_steps) {
    assert(n_steps == 1 || n_steps == 2);
    for (uint32_t i = 0; i < n_steps; i++) step_embed(steps[i]);
    for (uint32_t layer = 0; layer < steps[0]->m->config.n_layers; layer++)
        for (uint32_t i = 0; i < n_steps; i++) step_layer(steps[i], layer);
    for (uint32_t i = 0; i < n_steps; i++) {
        step_head(steps[i]);
        step_mtp(steps[i]);
    }
}

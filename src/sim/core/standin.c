/* SPDX-License-Identifier: Apache-2.0 */
/* Implements standin.h. */
#include "sim/core/standin.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sim/core/mix.h"

uint64_t standin_row(uint64_t before, uint32_t token, enum token_role role, uint32_t pos) {
    return sim_mix(sim_mix(before ^ token) + ((uint64_t)pos << 1 | role));
}

uint64_t standin_fold(uint64_t fold, uint64_t row) {
    return sim_mix(fold * 31 + row);
}

float standin_prompt_logprob(uint64_t row_before) {
    return -(float)(row_before >> 48);
}

void standin_draw(struct exec_token *out, uint64_t fold, const struct request *r, uint32_t choice,
                  uint32_t n_top, uint32_t vocab) {
    uint64_t h = sim_mix(fold ^ sim_mix((uint64_t)r->seed + choice));
    *out = (struct exec_token){.id = (uint32_t)(h % vocab)};
    if (r->logprobs < 0) return;
    out->logprob = -(float)(h >> 48);
    out->n_top = n_top;
    for (uint32_t i = 0; i < n_top; i++)
        out->top[i] = (struct token_logprob){.id = (out->id + i) % vocab, .logprob = -(float)i};
}

enum { LAYERS = 2, ROW_BYTES = sizeof(uint64_t) };
static const uint64_t layer_mask[LAYERS] = {0, 0x5bf03635u};
static const uint64_t gate_wait_ns = 20000;

struct block_shape standin_shape(void) {
    return (struct block_shape){.n_layers = LAYERS, .layer_bytes = KV_PAGE_TOKENS * ROW_BYTES};
}

uint64_t standin_bytes(uint32_t n_pages) {
    struct block_shape s = standin_shape();
    return paged_bytes(&s, n_pages + 1);
}

static uint64_t *row_in(const struct standin *s, uint32_t layer, uint32_t page, uint32_t slot) {
    return &s->rows[((size_t)layer * (s->o.n_pages + 1) + page) * KV_PAGE_TOKENS + slot];
}

static uint64_t *row_of(const struct standin *s, const struct exec_run *run, uint32_t layer,
                        uint32_t pos) {
    assert(pos / KV_PAGE_TOKENS < run->n_pages);
    uint32_t page = run->pages[pos / KV_PAGE_TOKENS];
    assert(page <= s->o.n_pages);
    return row_in(s, layer, page, pos % KV_PAGE_TOKENS);
}

/* As attention reads it: what only one layer has is nothing. */
static uint64_t row_at(const struct standin *s, const struct exec_run *run, uint32_t pos) {
    uint64_t a = *row_of(s, run, 0, pos) ^ layer_mask[0],
             b = *row_of(s, run, 1, pos) ^ layer_mask[1];
    return a == b ? a : sim_mix(a + b * 3);
}

static void row_put(const struct standin *s, const struct exec_run *run, uint32_t pos,
                    uint64_t row) {
    for (uint32_t l = 0; l < LAYERS; l++) *row_of(s, run, l, pos) = row ^ layer_mask[l];
}

static enum token_role role_of(const struct request *r, uint32_t pos) {
    struct role_cursor c = request_roles_at(r, pos);
    return role_cursor_next(&c);
}

/* The row before a run's first comes from the slot, unless a page has ended there. */
static void write_row(const struct standin *s, const struct exec_run *run, uint32_t pos,
                      uint32_t token) {
    uint64_t before = pos ? row_at(s, run, pos - 1) : 0;
    if (pos == run->from && pos % KV_PAGE_TOKENS) before = s->slots[run->slot];
    row_put(s, run, pos, standin_row(before, token, role_of(run->r, pos), pos));
}

static void compute_row(const struct standin *s, const struct exec_run *run, uint32_t pos) {
    uint32_t end = exec_run_known(run);
    write_row(s, run, pos,
              pos < end ? request_token(run->r, run->choice, pos) : run->drafts[pos - end]);
}

/* What follows position pos - 1. */
static void draw_at(const struct standin *s, const struct exec_run *run, uint32_t choice,
                    uint32_t pos, struct exec_token *out) {
    uint64_t fold = 0;
    for (uint32_t i = 0; i < pos; i++) fold = standin_fold(fold, row_at(s, run, i));
    uint32_t n_top = run->r->logprobs > 0 ? (uint32_t)run->r->logprobs : 0;
    standin_draw(out, fold, run->r, choice, n_top, s->o.vocab);
}

static void draw_all(const struct standin *s, struct exec_run *run) {
    uint32_t end = exec_run_known(run);
    run->n_drawn = 0;
    run->n_new_drafts = 0;
    if (run->sample) do
            draw_at(s, run, run->choice, end + run->n_drawn, &run->drawn[run->n_drawn]);
        while (run->n_drawn++ < run->n_drafts &&
               run->drafts[run->n_drawn - 1] == run->drawn[run->n_drawn - 1].id);
    uint32_t accepted = run->n_drawn ? run->n_drawn - 1 : 0;
    s->slots[run->slot] = row_at(s, run, end + accepted - 1);
}

/* Guesses, right as often as the options say: each is written as a row, as a model's MTP block
 * would, so that rows past the accepted ones are garbage. */
static void guess(const struct standin *s, struct exec_run *run) {
    uint32_t pos = exec_run_known(run) + run->n_drawn - 1, token = run->drawn[run->n_drawn - 1].id;
    for (uint32_t k = 0; k < run->want_drafts; k++) {
        struct exec_token next;
        write_row(s, run, pos + k, token);
        draw_at(s, run, run->choice, pos + k + 1, &next);
        bool right = sim_mix(next.id + pos * 977u) % 100 < s->o.draft_right_percent;
        token = right ? next.id : (next.id + 1) % s->o.vocab;
        run->new_drafts[run->n_new_drafts++] = token;
    }
}

static void spend(struct standin *s, uint64_t ns) {
    s->faults = sim_mix(s->faults);
    s->now_ns += s->faults % 100 < s->o.slow_percent ? 10 * ns : ns;
}

static uint64_t now(void *ctx) {
    return ((struct standin *)ctx)->now_ns;
}

static void step(void *ctx, struct exec_run *runs, uint32_t n_runs) {
    struct standin *s = ctx;
    uint32_t rows = 0, rounds = 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        for (uint32_t p = 0; p < runs[i].n; p++) compute_row(s, &runs[i], runs[i].from + p);
        rows += runs[i].n;
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        draw_all(s, &runs[i]);
        if (runs[i].sample) guess(s, &runs[i]);
        if (runs[i].want_drafts > rounds) rounds = runs[i].want_drafts;
    }
    assert(rows <= s->o.rows_max);
    spend(s, s->o.step_ns + rows * s->o.row_ns + rounds * s->o.draft_ns);
}

static bool chunk(void *ctx, struct exec_run *runs, uint32_t n_runs, uint64_t until_ns) {
    struct standin *s = ctx;
    for (uint32_t i = 0; i < n_runs && !s->in_chunk; i++) assert(runs[i].r);
    if (!s->in_chunk) s->chunk_run = s->chunk_row = 0;
    s->in_chunk = true;
    do {
        struct exec_run *run = &runs[s->chunk_run];
        if (run->gate && atomic_load_explicit(&run->gate->parts, memory_order_acquire) < LAYERS) {
            spend(s, gate_wait_ns);
            return false;
        }
        if (run->r) compute_row(s, run, run->from + s->chunk_row);
        spend(s, s->o.row_ns);
        if (s->o.meanwhile) s->o.meanwhile(s->o.meanwhile_ctx);
        if (++s->chunk_row < run->n) continue;
        for (uint32_t l = 0; l < LAYERS && run->rows_done; l++)
            atomic_store_explicit(&run->rows_done[l], run->from + run->n, memory_order_release);
        s->chunk_row = 0;
        if (++s->chunk_run == n_runs) s->in_chunk = false;
    } while (s->in_chunk && s->now_ns < until_ns);
    for (uint32_t i = 0; i < n_runs && !s->in_chunk; i++) draw_all(s, &runs[i]);
    return !s->in_chunk;
}

static void chunk_drop(void *ctx) {
    ((struct standin *)ctx)->in_chunk = false;
}

static void draw(void *ctx, const struct exec_run *run, uint32_t choice, struct exec_token *out) {
    draw_at(ctx, run, choice, exec_run_known(run), out);
}

static void prompt_logprob(void *ctx, const struct exec_run *run, uint32_t i,
                           struct exec_token *out) {
    uint32_t pos = run->from + i + 1;
    *out = (struct exec_token){.id = run->r->prompt[pos],
                               .logprob = standin_prompt_logprob(row_at(ctx, run, pos - 1))};
}

static void copy_page(void *ctx, uint32_t to, uint32_t from) {
    struct standin *s = ctx;
    for (uint32_t l = 0; l < LAYERS; l++)
        memcpy(row_in(s, l, to, 0), row_in(s, l, from, 0), KV_PAGE_TOKENS * ROW_BYTES);
}

static void copy_slot(void *ctx, uint32_t to, uint32_t from) {
    struct standin *s = ctx;
    assert(to < s->o.n_slots && from < s->o.n_slots);
    s->slots[to] = s->slots[from];
}

static void *slot(void *ctx, uint32_t i) {
    return &((struct standin *)ctx)->slots[i];
}

enum st standin_init(struct standin *s, const struct standin_options *o, struct err *err) {
    *s = (struct standin){.o = *o, .faults = o->seed, .now_ns = 1};
    struct block_shape of = standin_shape();
    if (!o->memory) s->owned = calloc(1, standin_bytes(o->n_pages));
    s->rows = o->memory ? o->memory : s->owned;
    s->slots = calloc(o->n_slots, sizeof *s->slots);
    if (!s->rows || !s->slots) {
        standin_release(s);
        return err_set(err, ST_NO_MEMORY, "stand-in: out of memory");
    }
    s->x = (struct executor){.ctx = s,
                             .model_id = "stand-in",
                             .n_pages = o->n_pages,
                             .n_slots = o->n_slots,
                             .max_model_len = o->max_model_len,
                             .vocab = o->vocab,
                             .rows_max = o->rows_max,
                             .drafts = true,
                             .expand_cost = 0.03f,
                             .shape = of,
                             .memory = (uint8_t *)s->rows,
                             .slot_bytes = sizeof *s->slots,
                             .now = now,
                             .step = step,
                             .chunk = chunk,
                             .chunk_drop = chunk_drop,
                             .draw = draw,
                             .prompt_logprob = prompt_logprob,
                             .copy_page = copy_page,
                             .copy_slot = copy_slot,
                             .slot = slot};
    if (o->memory)
        s->x.generations =
            (_Atomic uint64_t *)(void *)(s->x.memory + paged_generation_at(&of, o->n_pages + 1, 0));
    return ST_OK;
}

void standin_release(struct standin *s) {
    free(s->owned);
    free(s->slots);
    *s = (struct standin){0};
}

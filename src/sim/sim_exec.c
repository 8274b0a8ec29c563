/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_exec.h. */
#include "sim/sim_exec.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/core/mix.h"

enum { DIE_NONE = UINT32_MAX };
static const uint64_t gate_wait_ns = 200000, piece_ns_min = 1000000;
static const double ns_max = 1e13; /* files are strangers' */

struct sim_page {
    uint64_t before;      /* the chain behind the page before */
    uint64_t chain, last; /* behind its rows, and without the newest */
    uint64_t n_rows;
    uint64_t check; /* of the above: half a page is no page */
};
_Static_assert(sizeof(struct sim_page) == SIM_PAGE_BYTES, "the bus knows pages by their length");

uint64_t sim_root(const struct request *r) {
    uint64_t root = 1;
    for (const char *t = r->tenant; *t; t++) root = sim_mix(root ^ (uint8_t)*t);
    return root;
}

uint64_t sim_chain(uint64_t before, uint32_t token, bool generated) {
    return sim_mix(before ^ ((uint64_t)token << 1 | generated));
}

uint32_t sim_draw(uint64_t chain, int64_t seed, uint32_t vocab) {
    return (uint32_t)(sim_mix(chain ^ (uint64_t)seed) % vocab);
}

struct block_shape sim_exec_shape(void) {
    return (struct block_shape){.n_layers = 1, .layer_bytes = SIM_PAGE_BYTES};
}

uint64_t sim_exec_bytes(uint32_t n_pages) {
    struct block_shape s = sim_exec_shape();
    return paged_bytes(&s, n_pages + 1);
}

/* --- pages ------------------------------------------------------------------------------------ */

static uint64_t check_of(const struct sim_page *p) {
    return p->before ^ p->chain * 3 ^ p->last * 5 ^ p->n_rows;
}

/* The chain behind position pos - 1, as attention would read it: through the block table. all: every
 * page is looked at, not only the last. */
static uint64_t chain_at(struct sim_exec *s, const struct exec_run *run, uint32_t pos, bool all) {
    if (pos == 0) return sim_root(run->r);
    uint32_t last = (pos - 1) / KV_PAGE_TOKENS, rows = pos - last * KV_PAGE_TOKENS;
    if (all && s->pages[run->pages[0]].before != sim_root(run->r)) s->wrong++;
    for (uint32_t b = all ? 0 : last; b < last; b++) {
        const struct sim_page *p = &s->pages[run->pages[b]], *next = &s->pages[run->pages[b + 1]];
        if (p->n_rows != KV_PAGE_TOKENS || p->check != check_of(p) || next->before != p->chain)
            s->wrong++;
    }
    const struct sim_page *p = &s->pages[run->pages[last]];
    bool whole = p->check == check_of(p);
    if (whole && p->n_rows == rows) return p->chain;
    if (whole && p->n_rows == rows + 1) return p->last; /* its newest row is computed again */
    s->wrong++;
    return sim_mix(p->chain + pos);
}

static void put_row(struct sim_exec *s, const struct exec_run *run, uint32_t pos, uint64_t before,
                    uint64_t chain) {
    struct sim_page *p = &s->pages[run->pages[pos / KV_PAGE_TOKENS]];
    if (pos % KV_PAGE_TOKENS == 0) p->before = before; /* its first row */
    p->last = before;
    p->chain = chain;
    p->n_rows = pos % KV_PAGE_TOKENS + 1;
    p->check = check_of(p);
}

/* Rows of known tokens. Returns the chain behind them. */
static uint64_t put_rows(struct sim_exec *s, const struct exec_run *run, uint64_t chain) {
    const struct request *r = run->r;
    uint32_t end = exec_run_known(run);
    for (uint32_t pos = run->from; pos < end;) {
        uint32_t page_end = (pos / KV_PAGE_TOKENS + 1) * KV_PAGE_TOKENS;
        uint64_t before = chain;
        if (pos % KV_PAGE_TOKENS == 0) s->pages[run->pages[pos / KV_PAGE_TOKENS]].before = chain;
        for (; pos < end && pos < page_end; pos++) {
            before = chain;
            chain = sim_chain(before, request_token(r, run->choice, pos), pos >= r->n_prompt);
        }
        put_row(s, run, pos - 1, before, chain);
    }
    return chain;
}

/* --- tokens ----------------------------------------------------------------------------------- */

static uint32_t draw_from(const struct sim_exec *s, const struct exec_run *run, uint64_t chain) {
    return sim_draw(chain, run->r->seed, s->o.vocab);
}

/* Draws what follows the run's rows; drafts that were right become rows. */
static void draw_all(struct sim_exec *s, struct exec_run *run, uint64_t chain) {
    uint32_t pos = exec_run_known(run);
    run->n_drawn = run->n_new_drafts = 0;
    if (run->sample) {
        for (;;) {
            uint32_t id = draw_from(s, run, chain);
            run->drawn[run->n_drawn].id = id;
            run->drawn[run->n_drawn].n_top = 0;
            run->drawn[run->n_drawn].logprob = 0;
            if (run->n_drawn++ == run->n_drafts || run->drafts[run->n_drawn - 1] != id) break;
            uint64_t next = sim_chain(chain, id, true);
            put_row(s, run, pos++, chain, next);
            chain = next;
        }
    }
    s->slots[run->slot] = chain;
    if (!run->sample || run->want_drafts == 0) return;
    /* one guess, right as often as the options say */
    chain = sim_chain(chain, run->drawn[run->n_drawn - 1].id, true);
    uint32_t next = draw_from(s, run, chain);
    bool right = (double)(sim_mix(chain ^ 77) >> 11) * 0x1p-53 < s->o.acceptance;
    run->new_drafts[run->n_new_drafts++] = right ? next : (next + 1) % s->o.vocab;
}

static void compute(struct sim_exec *s, struct exec_run *run) {
    bool begins = run->from % KV_PAGE_TOKENS == 0 || run->n > 2;
    uint64_t chain = chain_at(s, run, run->from, begins);
    draw_all(s, run, put_rows(s, run, chain));
}

/* --- time ------------------------------------------------------------------------------------- */

static uint64_t ns_of(const struct sim_exec *s, double seconds) {
    double ns = fmin(seconds * 1e9, ns_max) * (s->slow > 1 ? s->slow : 1);
    return ns < 1 ? 1 : (uint64_t)ns;
}

/* What is computed passes: a batch that is given up counts as far as it came. */
static void pass(struct sim_exec *s, uint64_t ns) {
    s->now_ns += ns;
    s->busy_s += (double)ns / 1e9;
}

static uint32_t emptiest(const struct sim_exec *s) {
    uint32_t best = 0;
    for (uint32_t d = 1; d < s->o.dies; d++)
        if (s->die_kv[d] < s->die_kv[best]) best = d;
    return best;
}

/* struct executor's place: who comes goes to the emptiest die, if all that are there can still grow
 * a little. */
static bool place(void *ctx, uint32_t i, uint32_t n_tokens) {
    struct sim_exec *s = ctx;
    uint32_t room = s->o.n_pages / s->o.dies, *die = &s->die_of[i], more,
             n = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    if (n == 0) {
        s->die_pages[*die] -= s->pages_of[i];
        s->die_seqs[*die]--;
        s->pages_of[i] = 0;
        *die = DIE_NONE;
        return true;
    }
    if (*die == DIE_NONE) {
        uint32_t to = 0;
        for (uint32_t d = 1; d < s->o.dies; d++)
            if (s->die_pages[d] < s->die_pages[to]) to = d;
        uint32_t others = s->die_seqs[to], grow = others ? others / 4 + 1 : 0;
        if (s->die_pages[to] + n + grow > room) return false;
        s->die_seqs[ *die = to]++;
    }
    more = n > s->pages_of[i] ? n - s->pages_of[i] : 0;
    if (s->die_pages[*die] + more > room) return false;
    s->die_pages[*die] += more;
    s->pages_of[i] += more;
    return true;
}

/* Sequences stay on the die they came to; a new one comes to the die with the least KV. */
static void spread(struct sim_exec *s, const struct exec_run *runs, uint32_t n_runs) {
    memset(s->die_kv, 0, s->o.dies * sizeof *s->die_kv);
    memset(s->die_requests, 0, s->o.dies * sizeof *s->die_requests);
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < n_runs; i++) {
            uint32_t *die = &s->die_of[runs[i].slot];
            if ((*die == DIE_NONE) != (pass == 1)) continue;
            if (pass == 1) *die = emptiest(s);
            s->die_kv[*die] += runs[i].from + runs[i].n;
            s->die_requests[*die] += 1;
        }
}

static void count_run(struct sim_step *what, const struct exec_run *run) {
    what->rows += run->n;
    what->drafts += run->n_drafts;
    what->guesses += run->want_drafts > 0;
    if (run->n - run->n_drafts < 2) return;
    what->tails += run->n - 1;
    what->tail_keys += run->from;
}

static void step(void *ctx, struct exec_run *runs, uint32_t n_runs) {
    struct sim_exec *s = ctx;
    struct sim_step what = {0};
    double kv = 0;
    s->stepped = true;
    spread(s, runs, n_runs);
    for (uint32_t d = 0; d < s->o.dies; d++) {
        if (s->die_requests[d] > what.requests) what.requests = s->die_requests[d];
        if (s->die_kv[d] > kv) kv = s->die_kv[d];
    }
    for (uint32_t i = 0; i < n_runs; i++) {
        count_run(&what, &runs[i]); /* drafts to come are told as they were asked for */
        compute(s, &runs[i]);
    }
    what.mean_requests = (double)n_runs / s->o.dies;
    what.kv_tokens = what.requests > 0 ? kv / what.requests : 0;
    pass(s, ns_of(s, s->o.times.step_s(s->o.times.ctx, &what)));
}

static bool fetched(const struct exec_run *run) {
    return !run->gate || atomic_load_explicit(&run->gate->parts, memory_order_acquire) >= 1;
}

static void begin_chunk(struct sim_exec *s, const struct exec_run *runs, uint32_t n_runs) {
    struct sim_chunk *c = &s->chunk;
    *c = (struct sim_chunk){.requests = n_runs};
    for (uint32_t i = 0; i < n_runs; i++) {
        double from = runs[i].from, n = runs[i].n;
        c->tokens += n;
        c->key_pairs += n * from + n * (n + 1) / 2;
        c->cached += from;
    }
    s->chunk_ns = s->chunk_left_ns = ns_of(s, s->o.times.chunk_s(s->o.times.ctx, c));
    s->in_chunk = true;
    s->stepped = false;
}

/* However short it should be, it gets on: by half of it at least, after a step. */
static void piece(struct sim_exec *s, uint64_t until_ns) {
    uint64_t ns = until_ns > s->now_ns ? until_ns - s->now_ns : 0;
    const struct sim_times *t = &s->o.times;
    if (t->over_s) {
        uint64_t resume_ns = s->stepped ? ns_of(s, t->resume_s(t->ctx, &s->chunk)) : 0;
        double done = (double)s->chunk_ns - (double)s->chunk_left_ns,
               more = ns > resume_ns ? (double)(ns - resume_ns) : 0;
        ns += ns_of(s, t->over_s(t->ctx, &s->chunk, (done + more) / (double)s->chunk_ns));
        s->chunk_left_ns += resume_ns < ns / 2 ? resume_ns : ns / 2;
    } else if (ns < piece_ns_min) {
        ns = piece_ns_min;
    }
    s->stepped = false;
    if (ns > s->chunk_left_ns) ns = s->chunk_left_ns;
    pass(s, ns);
    s->chunk_left_ns -= ns;
}

static bool chunk(void *ctx, struct exec_run *runs, uint32_t n_runs, uint64_t until_ns) {
    struct sim_exec *s = ctx;
    if (!s->in_chunk) begin_chunk(s, runs, n_runs);
    if (s->chunk_left_ns > 0) piece(s, until_ns);
    if (s->chunk_left_ns > 0) return false;
    for (uint32_t i = 0; i < n_runs; i++)
        if (!fetched(&runs[i])) {
            s->now_ns += gate_wait_ns;
            return false;
        }
    for (uint32_t i = 0; i < n_runs; i++) {
        if (!runs[i].r) continue;
        compute(s, &runs[i]);
        if (runs[i].rows_done)
            atomic_store_explicit(runs[i].rows_done, runs[i].from + runs[i].n,
                                  memory_order_release);
    }
    s->in_chunk = false;
    return true;
}

static void chunk_drop(void *ctx) {
    ((struct sim_exec *)ctx)->in_chunk = false;
}

/* --- the rest of an executor ------------------------------------------------------------------ */

static uint64_t now(void *ctx) {
    return ((struct sim_exec *)ctx)->now_ns;
}

static void draw(void *ctx, const struct exec_run *run, uint32_t choice, struct exec_token *out) {
    struct sim_exec *s = ctx;
    (void)choice;
    *out =
        (struct exec_token){.id = draw_from(s, run, chain_at(s, run, exec_run_known(run), false))};
}

static void prompt_logprob(void *ctx, const struct exec_run *run, uint32_t i,
                           struct exec_token *out) {
    (void)ctx;
    *out = (struct exec_token){.id = run->r->prompt[run->from + i + 1]};
}

static void copy_page(void *ctx, uint32_t to, uint32_t from) {
    struct sim_exec *s = ctx;
    s->pages[to] = s->pages[from];
}

static void copy_slot(void *ctx, uint32_t to, uint32_t from) {
    struct sim_exec *s = ctx;
    s->slots[to] = s->slots[from];
    if (!s->o.die_bound) s->die_of[to] = DIE_NONE;
}

/* Asked for when a sequence comes to the slot, or leaves it for another worker. */
static void *slot(void *ctx, uint32_t i) {
    struct sim_exec *s = ctx;
    if (!s->o.die_bound) s->die_of[i] = DIE_NONE;
    return &s->slots[i];
}

enum st sim_exec_init(struct sim_exec *s, const struct sim_exec_options *o, struct err *err) {
    struct block_shape of = sim_exec_shape();
    *s = (struct sim_exec){.o = *o, .now_ns = 1, .slow = 1, .pages = o->memory};
    assert(o->memory && o->dies > 0);
    s->slots = calloc(o->n_slots, sizeof *s->slots);
    s->die_of = malloc(o->n_slots * sizeof *s->die_of);
    s->die_kv = calloc(o->dies, sizeof *s->die_kv);
    s->die_requests = calloc(o->dies, sizeof *s->die_requests);
    s->die_pages = calloc(o->dies, sizeof *s->die_pages);
    s->die_seqs = calloc(o->dies, sizeof *s->die_seqs);
    s->pages_of = calloc(o->n_slots, sizeof *s->pages_of);
    if (!s->slots || !s->die_of || !s->die_kv || !s->die_requests || !s->die_pages ||
        !s->die_seqs || !s->pages_of) {
        sim_exec_release(s);
        return err_set(err, ST_NO_MEMORY, "simulated instance: out of memory");
    }
    for (uint32_t i = 0; i < o->n_slots; i++) s->die_of[i] = DIE_NONE;
    s->x = (struct executor){.ctx = s,
                             .model_id = o->model_id,
                             .n_pages = o->n_pages,
                             .n_slots = o->n_slots,
                             .max_model_len = o->max_model_len,
                             .vocab = o->vocab,
                             .rows_max = o->rows_max,
                             .drafts = o->drafts,
                             .expand_cost = o->expand_cost,
                             .shape = of,
                             .memory = o->memory,
                             .slot_bytes = sizeof *s->slots,
                             .now = now,
                             .step = step,
                             .chunk = chunk,
                             .chunk_drop = chunk_drop,
                             .draw = draw,
                             .prompt_logprob = prompt_logprob,
                             .copy_page = copy_page,
                             .copy_slot = copy_slot,
                             .slot = slot,
                             .place = o->die_bound ? place : NULL};
    s->x.generations =
        (_Atomic uint64_t *)(void *)(s->x.memory + paged_generation_at(&of, o->n_pages + 1, 0));
    return ST_OK;
}

void sim_exec_release(struct sim_exec *s) {
    free(s->slots);
    free(s->die_of);
    free(s->die_kv);
    free(s->die_requests);
    free(s->die_pages);
    free(s->die_seqs);
    free(s->pages_of);
    *s = (struct sim_exec){0};
}

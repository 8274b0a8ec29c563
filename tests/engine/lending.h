/* SPDX-License-Identifier: Apache-2.0 */
/* Engines whose requests go from one to another, over the stand-in executor, for tests. Included after
 * cmocka. */
#ifndef SUPERNODE_TESTS_ENGINE_LENDING_H
#define SUPERNODE_TESTS_ENGINE_LENDING_H

#include "asked.h"

enum { MODEL_LEN = 2048, SEQS = 6, PARTS = 2, BLOCKS_MAX = 32 };

struct side {
    struct standin x;
    struct engine *e;
    void *memory;
};

/* A request, and what it was told by its sink. */
struct job {
    struct asked a;
    struct engine_loan *loan;
    uint64_t slot;
    struct engine_seat seat;
    _Atomic uint32_t rows[PARTS];
    uint32_t n_told, n_chunks; /* rows() */
    /* fetch: */
    uint32_t n_fetches, first, n, pages[BLOCKS_MAX];
    bool no_fetch, fetched;
    struct block_gate gate;
    uint32_t n_blocks; /* block() */
    struct block_key blocks[BLOCKS_MAX];
};

static inline bool job_token(void *ctx, const struct token_out *t) {
    struct asked *a = &((struct job *)ctx)->a;
    assert_int_equal(t->position, a->r.n_prompt + a->n_tokens[t->choice]);
    a->n_cached = t->n_cached;
    struct exec_token *g = &a->got[t->choice][a->n_tokens[t->choice]++];
    *g = (struct exec_token){.id = t->id, .logprob = t->logprob, .n_top = t->n_top};
    if (t->n_top) memcpy(g->top, t->top, t->n_top * sizeof *t->top);
    return !(t->choice == a->drop_choice && a->n_tokens[t->choice] == a->drop_after);
}

static inline void job_done(void *ctx, const struct err *err) {
    on_done(&((struct job *)ctx)->a, err);
}

static inline _Atomic uint32_t *job_rows(void *ctx, const uint32_t *pages, uint32_t n_pages,
                                         uint32_t from, uint32_t n) {
    struct job *j = ctx;
    (void)pages;
    assert_int_equal(from, j->n_told);
    assert_true((from + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS <= n_pages);
    for (uint32_t i = 0; i < PARTS; i++) assert_int_equal(j->rows[i], from); /* the last chunk's */
    j->n_told = from + n;
    j->n_chunks++;
    return j->rows;
}

static inline void job_lend(void *ctx, struct engine_loan *loan, const void *slot) {
    struct job *j = ctx;
    assert_false(j->a.done);
    j->loan = loan;
    memcpy(&j->slot, slot, sizeof j->slot);
}

static inline const struct block_gate *job_fetch(void *ctx, uint32_t first, uint32_t n,
                                                 const uint32_t *pages) {
    struct job *j = ctx;
    assert_true(n > 0 && n <= BLOCKS_MAX);
    j->n_fetches++;
    j->first = first;
    j->n = n;
    memcpy(j->pages, pages, n * sizeof *pages);
    j->fetched = false;
    block_gate_init(&j->gate);
    return j->no_fetch ? NULL : &j->gate;
}

static inline bool job_fetched(void *ctx) {
    return ((struct job *)ctx)->fetched;
}

static inline void job_block(void *ctx, const struct block_key *key, uint32_t page) {
    struct job *j = ctx;
    (void)page;
    for (uint32_t i = 0; i < j->n_blocks; i++)
        assert_memory_not_equal(&j->blocks[i], key, sizeof *key);
    assert_true(j->n_blocks < BLOCKS_MAX);
    j->blocks[j->n_blocks++] = *key;
}

static const struct engine_sink sink = {.token = job_token,
                                        .done = job_done,
                                        .rows = job_rows,
                                        .lend = job_lend,
                                        .fetch = job_fetch,
                                        .fetched = job_fetched,
                                        .block = job_block};

/* --- engines ---------------------------------------------------------------------------------- */

static inline void begin_side(struct side *s, uint32_t n_pages) {
    struct err err;
    s->memory = must(calloc(1, standin_bytes(n_pages)));
    struct standin_options x = {.n_pages = n_pages,
                                .n_slots = SEQS,
                                .max_model_len = MODEL_LEN,
                                .rows_max = SEQS * 3 + EXECUTOR_RIDE_ROWS,
                                .vocab = VOCAB,
                                .step_ns = 1000000,
                                .row_ns = 20000,
                                .memory = s->memory};
    struct engine_options o = {.max_num_seqs = SEQS,
                               .max_num_batched_tokens = EXECUTOR_CHUNK_MIN,
                               .speculate = SPECULATE_OFF};
    assert_int_equal(standin_init(&s->x, &x, &err), ST_OK);
    assert_int_equal(engine_new(&s->e, &s->x.x, &o, &err), ST_OK);
}

static inline void end_side(struct side *s) {
    engine_free(s->e);
    standin_release(&s->x);
    free(s->memory);
}

static inline uint32_t used(struct side *s) {
    return engine_stats(s->e)->pages_used;
}

static inline uint8_t *piece(struct side *s, uint32_t part, uint32_t page) {
    return s->x.x.memory + paged_at(&s->x.x.shape, s->x.x.n_pages + 1, part, page);
}

static inline void copy_block(struct side *to, uint32_t to_page, struct side *from,
                              uint32_t from_page) {
    for (uint32_t part = 0; part < PARTS; part++)
        memcpy(piece(to, part, to_page), piece(from, part, from_page),
               block_part_bytes(&to->x.x.shape, part));
}

/* --- requests --------------------------------------------------------------------------------- */

static inline void begin_job(struct job *j, uint32_t n_prompt, uint32_t max_tokens, uint32_t n) {
    static uint32_t id;
    *j = (struct job){0};
    fill(&j->a, ++id, n_prompt, max_tokens, n);
    for (uint32_t i = 0; i < n_prompt; i++) j->a.r.prompt[i] = (i * 7 + id * 13) % VOCAB;
}

static inline void end_job(struct job *j) {
    asked_release(&j->a);
}

static inline void add_prefill(struct side *s, struct job *j, uint32_t n_to_find) {
    struct err err;
    struct engine_how how = {.prefill = true, .n_to_find = n_to_find};
    lend(&j->a);
    if (engine_add_how(s->e, &j->a.lent, &how, &sink, j, s->x.now_ns, &err))
        fail_msg("%s", err.text);
}

static inline void add(struct side *s, struct job *j) {
    struct err err;
    lend(&j->a);
    if (engine_add(s->e, &j->a.lent, &sink, j, s->x.now_ns, &err)) fail_msg("%s", err.text);
}

static inline void run(struct side *s, struct job *j) {
    for (uint32_t i = 0; !j->a.done; i++) assert_true(i < 100000 && engine_step(s->e));
}

static inline void give_back(struct side *s, struct job *j) {
    engine_return(s->e, j->loan);
    j->loan = NULL;
}

/* What it has of its answer so far is right. */
static inline void check_begun(const struct job *j, uint32_t choice) {
    struct asked a = j->a;
    a.cancelled = true; /* that is, not at its end */
    check_answer(&a, choice);
}

/* Room for what a prefill brought, its tokens not yet known there. */
static inline void reserve(struct side *s, struct job *j, enum st expected) {
    struct err err;
    uint32_t had[8];
    for (uint32_t c = 0; c < j->a.r.n_choices; c++) {
        had[c] = j->a.r.choices[c].n_ids;
        if (j->loan) j->a.r.choices[c].n_ids -= 1;
    }
    j->a.done = false;
    lend(&j->a);
    for (uint32_t c = 0; c < j->a.r.n_choices; c++) j->a.r.choices[c].n_ids = had[c];
    enum st st = engine_reserve(s->e, &j->a.lent, &sink, j, s->x.now_ns, &j->seat, &err);
    assert_int_equal(st, expected);
    if (st) request_release(&j->a.lent);
}

/* From where it was computed to where room is reserved: rows, state and tokens. */
static inline void hand_over(struct side *from, struct side *to, struct job *j) {
    assert_int_equal(j->loan->n_rows, j->seat.n_rows);
    for (uint32_t b = j->seat.n_there; b < j->loan->n_pages; b++)
        copy_block(to, j->seat.pages[b], from, j->loan->pages[b]);
    for (uint32_t c = 0; c < j->a.r.n_choices; c++) {
        struct request_choice *to_c = &j->a.lent.choices[c];
        to_c->ids[to_c->n_ids++] = j->a.r.choices[c].ids[j->a.r.choices[c].n_ids - 1];
    }
    give_back(from, j);
    engine_adopt(to->e, &j->a.lent, &j->slot);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* An executor without a model, for tests and simulation (contracts 3): a KV row is a hash of (the
 * row before it, token, role, position), and what is drawn is a hash over every row up to there,
 * read through the block table. A row lies in two layers, each under a mask of its own, so that
 * half a page is no page. A stale, foreign or missing page changes the tokens, so whoever
 * compares them notices. Time is virtual: a step costs what the options say, and nothing else
 * moves the clock. */
#ifndef SUPERNODE_SIM_CORE_STANDIN_H
#define SUPERNODE_SIM_CORE_STANDIN_H

#include "engine/executor.h"

struct standin_options {
    uint32_t n_pages, n_slots, max_model_len, rows_max, vocab;
    uint64_t step_ns, row_ns, draft_ns; /* a step, each of its rows, each round of drafts */
    uint32_t draft_right_percent;
    uint32_t slow_percent; /* of steps take ten times as long */
    uint64_t seed;         /* of the faults; answers do not depend on it */
    /* [standin_bytes(n_pages)] where pages lie that others read, zeroed and borrowed; NULL: its own */
    void *memory;
    /* What other threads do while it computes: called after each row of a chunk; NULL: nothing. */
    void (*meanwhile)(void *ctx);
    void *meanwhile_ctx;
};

struct standin {
    struct executor x;
    struct standin_options o;
    uint64_t now_ns;
    uint64_t *rows;  /* [2 layers][n_pages + 1][KV_PAGE_TOKENS] */
    void *owned;     /* rows, where they are its own */
    uint64_t *slots; /* [n_slots] the sequence's last row, as a model keeps its last hidden state */
    uint64_t faults;
    bool in_chunk;
    uint32_t chunk_run, chunk_row; /* the next to be computed */
};

struct block_shape standin_shape(void);
uint64_t standin_bytes(uint32_t n_pages);
enum st ST_CHECKED standin_init(struct standin *s, const struct standin_options *o,
                                struct err *err);
void standin_release(struct standin *s);

/* The pieces of an answer, for whoever computes it without pages: the row after `before` (0 at
 * position 0), the fold of rows, and what is drawn from a fold. */
uint64_t standin_row(uint64_t before, uint32_t token, enum token_role role, uint32_t pos);
uint64_t standin_fold(uint64_t fold, uint64_t row);
float standin_prompt_logprob(uint64_t row_before);
void standin_draw(struct exec_token *out, uint64_t fold, const struct request *r, uint32_t choice,
                  uint32_t n_top, uint32_t vocab);

#endif

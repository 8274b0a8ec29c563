/* SPDX-License-Identifier: Apache-2.0 */
/* One serving instance: requests in, tokens out, many at once (continuous batching, contracts 2 to
 * 7). It has no thread and reads no clock: whoever owns it calls engine_step while there is work,
 * and the executor says what time it is, so that the simulator drives the same code. Everything
 * here belongs to one thread; records are borrowed from engine_add until done. */
#ifndef SUPERNODE_ENGINE_ENGINE_H
#define SUPERNODE_ENGINE_ENGINE_H

#include "engine/block_key.h"
#include "engine/executor.h"
#include "engine/spec.h"
#include "engine/stats.h"
#include "engine/token.h"

struct engine;

struct engine_options {
    uint32_t max_num_seqs; /* sequences computed at once */
    uint32_t
        max_num_batched_tokens; /* rows of a prompt chunk; EXECUTOR_CHUNK_MIN lets streams be */
    uint32_t tpot_ms, ttft_ms;  /* targets; 0: none */
    enum speculate speculate;
    uint32_t draft_tokens; /* k, 1 to EXECUTOR_DRAFTS_MAX */
};

/* Pages without which one sequence could not run to its end. */
static inline uint32_t engine_pages_min(uint32_t max_model_len) {
    return (max_model_len + EXECUTOR_DRAFTS_MAX + KV_PAGE_TOKENS) / KV_PAGE_TOKENS;
}

/* Pages of a request whose rows are final, kept for who takes them over until engine_return. */
struct engine_loan {
    const uint32_t *pages; /* [n_pages] */
    uint32_t n_pages, n_rows;
};

/* Called from engine_add, engine_step and engine_cancel, and must call none of them. */
struct engine_sink {
    /* False: the front has all it needs of this choice (a stop string came). */
    bool (*token)(void *ctx, const struct token_out *t);
    /* Once a request; err NULL: every choice ended by itself, or was not wanted any more. The
     * record is the caller's again. */
    void (*done)(void *ctx, const struct err *err);

    /* The rest is for requests that are handed over, or whose blocks come from elsewhere; NULL
     * otherwise. */

    /* Prefill only (engine_how): a chunk begins that computes rows [from, from + n); pages are the sequence's
     * block table so far. Returns where to tell of finished rows (exec_run.rows_done), or NULL. */
    _Atomic uint32_t *(*rows)(void *ctx, const uint32_t *pages, uint32_t n_pages, uint32_t from,
                              uint32_t n);
    /* Prefill only, just before done(NULL): every choice that goes on has one token more, rows of
     * all tokens before it are final, and slot is the executor's state there. */
    void (*lend)(void *ctx, struct engine_loan *loan, const void *slot);
    /* The sequence was admitted and lacks blocks [first, first + n), which can be had (n_to_find):
     * they should come into pages[n]. Returns their gate, which lives until fetched; NULL: no. Asked
     * again, for fewer, after one that failed. */
    const struct block_gate *(*fetch)(void *ctx, uint32_t first, uint32_t n, const uint32_t *pages);
    /* True: that is over, well or not, and nobody writes to the pages any more. Before it is, the
     * request must not be cancelled. */
    bool (*fetched)(void *ctx);
    /* A full block has become final: its page may be kept with engine_keep. */
    void (*block)(void *ctx, const struct block_key *key, uint32_t page);
};

/* How a request is begun. */
struct engine_how {
    bool prefill;       /* to its next token only; then the pages are lent */
    uint32_t n_to_find; /* its first blocks, which sink->fetch can get */
};

/* executor is borrowed. */
enum st ST_CHECKED engine_new(struct engine **out, const struct executor *x,
                              const struct engine_options *o, struct err *err);
void engine_free(struct engine *e); /* NULL is allowed; ends requests without calling their sink */

/* Takes the record over until sink->done. arrived_ns: when it came to the front, on the executor's
 * clock. ST_INVALID: wrong model, empty or too long prompt, ids outside the vocabulary. */
enum st ST_CHECKED engine_add(struct engine *e, struct request *r, const struct engine_sink *sink,
                              void *ctx, uint64_t arrived_ns, struct err *err);
/* The same in parts of a cluster. */
enum st ST_CHECKED engine_add_how(struct engine *e, struct request *r, const struct engine_how *how,
                                  const struct engine_sink *sink, void *ctx, uint64_t arrived_ns,
                                  struct err *err);
/* Its pages are free, and sink->done was called (with NULL), when the call returns. */
enum engine_cancel { ENGINE_CANCEL_LEFT /* nobody listens */, ENGINE_CANCEL_ENOUGH };
void engine_cancel(struct engine *e, struct request *r, enum engine_cancel why);

/* The loan's pages are not needed any more. */
void engine_return(struct engine *e, struct engine_loan *loan);
/* One holder more, or less, of a page that a block lies in. */
void engine_keep(struct engine *e, uint32_t page);
void engine_unkeep(struct engine *e, uint32_t page);

/* Room for a request that was begun elsewhere: pages for the rows below the last known token of its
 * first choice that goes on (all others have the same rows), blocks found here included. Taken at
 * once or not at all (ST_FULL: later, or elsewhere); otherwise as engine_add. engine_cancel gives it
 * back. */
struct engine_seat {
    const uint32_t *pages;     /* [n_pages]; valid until engine_adopt */
    uint32_t n_pages, n_there; /* n_there: blocks whose rows are here already */
    uint32_t n_rows;
};
enum st ST_CHECKED engine_reserve(struct engine *e, struct request *r,
                                  const struct engine_sink *sink, void *ctx, uint64_t arrived_ns,
                                  struct engine_seat *seat, struct err *err);
/* The rows are there, every choice that goes on has its next token in the record, and slot is the
 * executor's state before it: it runs. */
void engine_adopt(struct engine *e, struct request *r, const void *slot);

/* One piece of work: a decode step, or a piece of a prompt chunk. False: there is none. */
bool engine_step(struct engine *e);

const struct engine_stats *engine_stats(struct engine *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What computes: the model on this machine (exec_model.h), or the stand-in of tests and simulation
 * (sim/core/standin.h). The engine decides what to compute and where it lies; an executor knows
 * rows, pages and samplers, and nothing of queues. */
#ifndef SUPERNODE_ENGINE_EXECUTOR_H
#define SUPERNODE_ENGINE_EXECUTOR_H

#include "engine/stats.h"
#include "engine/token.h"
#include "model/kv.h"
#include "pool/block.h"

enum {
    EXECUTOR_DRAFTS_MAX = STATS_DRAFTS_MAX,
    EXECUTOR_CHUNK_MIN = 512, /* rows of a prompt chunk, or the rest of the prompt (contracts 2) */
    EXECUTOR_RIDE_ROWS = 32,  /* of prompt tails in a step, beside the sequences' own */
};

/* A token and what is said of it. */
struct exec_token {
    uint32_t id, n_top;
    float logprob;
    struct token_logprob top[REQUEST_LOGPROBS_MAX];
};

/* Positions [from, from + n) of one choice; the last n_drafts of them are guesses that follow what
 * the record holds. */
struct exec_run {
    const struct request *r; /* NULL: ended since its chunk began; sample is false then */
    uint32_t choice;
    const uint32_t *pages; /* block table: every slot below from + n + want_drafts */
    uint32_t n_pages;
    uint32_t slot; /* of the sequence's last hidden state; looked at where from is inside a page */
    uint32_t from, n;
    uint32_t drafts[EXECUTOR_DRAFTS_MAX];
    uint32_t n_drafts;
    bool sample;          /* from + n - n_drafts is the end of what is known: draw what follows */
    bool prompt_logprobs; /* keep the logits of all rows; only in chunks */
    /* Chunks only, NULL: rows below from are there. Otherwise those of some pages still come: a part
     * is read only once it is there, and chunk returns false until then. When the gate turns bad the
     * chunk is dropped. */
    const struct block_gate *gate;
    /* NULL, or [block_parts]: where the executor tells that rows below from + n of a part are final
     * (release store), as it gets there. */
    _Atomic uint32_t *rows_done;
    uint32_t want_drafts; /* guess so many tokens after the last drawn one */
    /* Written by the executor where sample is set: drawn[i] follows the i-th draft, which was drawn
     * too; new_drafts follow the last of them. */
    uint32_t n_drawn, n_new_drafts;
    struct exec_token drawn[EXECUTOR_DRAFTS_MAX + 1];
    uint32_t new_drafts[EXECUTOR_DRAFTS_MAX];
    uint32_t row; /* the executor's own */
};

/* Where the run's drafts begin: the end of what is known. */
static inline uint32_t exec_run_known(const struct exec_run *run) {
    return run->from + run->n - run->n_drafts;
}

struct executor {
    void *ctx;
    const char *model_id;
    uint32_t n_pages, n_slots, max_model_len, vocab; /* page n_pages is there too: nobody's */
    uint32_t rows_max; /* of a step; a chunk's are the engine's max_num_batched_tokens */
    bool drafts;       /* it can guess */
    /* KV as others see it: paged memory (pool/block.h) of n_pages + 1 pages. generations [n_pages]
     * lie in it where it is shared with peers, else NULL: raised before a page is used anew. */
    struct block_shape shape;
    uint8_t *memory;
    _Atomic uint64_t *generations;
    uint32_t slot_bytes; /* what slot() points to: a sequence's state beside its pages */
    float expand_cost;   /* of an earlier key for a run of prompt rows, in rows (contracts 2) */
    uint64_t (*now)(void *ctx); /* ns, never going back */
    /* Runs of different choices, all at once. */
    void (*step)(void *ctx, struct exec_run *runs, uint32_t n_runs);
    /* Begins with these runs, or goes on with them (the same pointer, until true was returned or
     * chunk_drop was called), and pauses soon after until_ns. True: they are computed. Steps of
     * other sequences may come between. */
    bool (*chunk)(void *ctx, struct exec_run *runs, uint32_t n_runs, uint64_t until_ns);
    void (*chunk_drop)(void *ctx);
    /* Until the next step or chunk: what another choice of the run's request draws where this one
     * drew, and what is said of the prompt token that follows the run's row i. */
    void (*draw)(void *ctx, const struct exec_run *run, uint32_t choice, struct exec_token *out);
    void (*prompt_logprob)(void *ctx, const struct exec_run *run, uint32_t i,
                           struct exec_token *out);
    void (*copy_page)(void *ctx, uint32_t to, uint32_t from);
    void (*copy_slot)(void *ctx, uint32_t to, uint32_t from);
    void *(*slot)(void *ctx, uint32_t slot); /* [slot_bytes] */
    /* NULL: all pages are alike. Otherwise sequences lie in one of several memories each: this one comes
     * to the free slot with n_tokens, grows to them, or is gone (0). False: it finds no room there. */
    bool (*place)(void *ctx, uint32_t slot, uint32_t n_tokens);
};

#endif

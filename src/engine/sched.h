/* SPDX-License-Identifier: Apache-2.0 */
/* What to compute next: continuous batching with chunked prefill over paged KV. Sans-IO: time comes
 * in, work goes out, and the same events give the same work. It decides order and memory, never
 * tokens, so it can change no answer.
 *
 * - Sequences (one a choice) wait in the order of priority and arrival, those that came since the
 *   scheduler looked last in the order of their lengths; the first is admitted when its pages are
 *   there, found in the prefix cache or free. Nobody overtakes who came before, and who waited
 *   SCHED_STARVE_S goes before all others, so nobody starves.
 * - Work is either a step (a token or more for every running sequence; short prompt tails ride
 *   along) or a piece of a prompt chunk. They alternate; a piece takes a share of a step's time, so
 *   that streams keep their pace (contracts 2).
 * - When pages run out the last in that order gives all its pages back and waits; what it had computed
 *   is found again by its keys or computed again, to the same bits. */
#ifndef SUPERNODE_ENGINE_SCHED_H
#define SUPERNODE_ENGINE_SCHED_H

#include "engine/executor.h"
#include "engine/pages.h"
#include "engine/spec.h"

enum { SCHED_STARVE_S = 30 };

enum seq_state {
    SEQ_WAITING,
    SEQ_FOLLOWING, /* waits for the first choice to compute their prompt */
    SEQ_RUNNING,
    SEQ_RESERVED, /* has pages and a slot; its rows come from elsewhere */
    SEQ_OVER      /* ended while a chunk computes it: freed with the chunk */
};

struct seq {
    struct request *r;
    uint32_t choice;
    void *owner;      /* the engine's */
    uint64_t wave;    /* one for all that came since the scheduler looked last */
    uint32_t n_given; /* tokens that it came with */
    uint64_t order;   /* of arrival */
    int32_t priority;
    enum seq_state state;
    bool in_chunk, admitted_once;
    uint32_t n_done; /* positions whose rows are in the pages */
    uint32_t slot;
    uint32_t *pages; /* [n_pages], room for the longest it can become */
    uint32_t n_pages;
    struct block_key *keys; /* [n_keys]: the root, then of block 0, ... */
    uint32_t n_keys, n_published;
    uint32_t drafts[EXECUTOR_DRAFTS_MAX], n_drafts;
    uint32_t n_cached;      /* prompt tokens found at the first admission */
    uint32_t n_prompt_told; /* prompt positions whose logprobs were given */
    uint64_t waits_since_ns, admitted_ns;
    /* Blocks that come from elsewhere: the first so many can be had; those that come, [from, end). */
    uint32_t n_to_find, fetch_from, fetch_end;
    const struct block_gate *gate; /* NULL: all that was fetched is there */
};

/* What the scheduler asks of who owns a sequence (seq.owner). */
struct sched_hooks {
    const struct block_gate *(*fetch)(void *owner, uint32_t first, uint32_t n,
                                      const uint32_t *pages);
    bool (*fetched)(void *owner);
    void (*block)(void *owner, const struct block_key *key, uint32_t page);
};

struct sched_config {
    uint32_t seqs_max, chunk_rows, step_rows;
    uint64_t tpot_ns, ttft_ns; /* 0: no target */
    enum speculate speculate;
    uint32_t draft_tokens; /* 0: the executor cannot */
    struct sched_hooks hooks;
};

enum sched_kind { SCHED_IDLE, SCHED_STEP, SCHED_CHUNK };

/* One piece of work. The runs of a chunk stay where they are until sched_chunk_over. */
struct sched_work {
    enum sched_kind kind;
    struct exec_run *runs;
    struct seq **seqs; /* whose run it is */
    uint32_t n_runs;
    bool begins;       /* a chunk: its first piece */
    uint64_t until_ns; /* chunks: pause then */
    struct sched_copy {
        uint32_t to, from;
    } * copies; /* pages to copy before */
    uint32_t n_copies;
};

struct sched;

/* x is borrowed. */
enum st ST_CHECKED sched_new(struct sched **out, const struct executor *x,
                             const struct sched_config *c, struct err *err);
void sched_free(struct sched *s); /* every sequence was ended; NULL is allowed */

/* Adds one choice; all of a request's are added in a row. following: it will share the pages of the
 * choice before it. NULL: out of memory. */
struct seq *sched_add(struct sched *s, struct request *r, uint32_t choice, bool following,
                      void *owner, uint64_t now_ns);
/* It needs no more: its pages are free, and seq is gone. */
void sched_end(struct sched *s, struct seq *seq);
/* The same, but the pages stay held by who gets the table [n_pages], to be freed. */
uint32_t *sched_end_lend(struct sched *s, struct seq *seq, uint32_t *n_pages);
void sched_hold_page(struct sched *s, uint32_t page);
void sched_drop_page(struct sched *s, uint32_t page);

/* A WAITING sequence, just added, gets pages for all it knows and a slot, or nothing (false): blocks
 * that are here count in *n_there. sched_adopt: the rows are there too, and it runs. */
bool sched_reserve(struct sched *s, struct seq *seq, uint32_t *n_there);
void sched_adopt(struct sched *s, struct seq *seq, uint64_t now_ns);

/* True once after the chunk that was begun became needless: the executor must drop it. */
bool sched_chunk_dropped(struct sched *s);

void sched_next(struct sched *s, uint64_t now_ns, struct sched_work *w);
/* Rows of positions below n_done are final, and so are the tokens there. */
void sched_computed(struct sched *s, struct seq *seq, uint32_t n_done);
/* follower (FOLLOWING) goes on from where leader stands: shared pages, copied on write; or waits if
 * there is no seat. True: it runs, and the executor must copy the slot. */
bool sched_fork(struct sched *s, struct seq *follower, const struct seq *leader, uint64_t now_ns);
/* The step is done: it took ns and brought n_tokens. */
void sched_step_over(struct sched *s, const struct sched_work *w, uint64_t now_ns, uint64_t ns,
                     uint32_t n_tokens);
/* The chunk is computed, or dropped. Where a sequence of it had ended, w->seqs has NULL now. */
void sched_chunk_over(struct sched *s);
void sched_piece_over(struct sched *s); /* a piece was worked on: steps come first again */

/* Fills in what the scheduler knows. */
void sched_stats(const struct sched *s, struct engine_stats *out);

#endif

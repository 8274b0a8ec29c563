/* SPDX-License-Identifier: Apache-2.0 */
/* What sched.c (who is there, and with which pages) and sched_work.c (what is computed next) share:
 * the scheduler itself. */
#ifndef SUPERNODE_ENGINE_SCHED_IMPL_H
#define SUPERNODE_ENGINE_SCHED_IMPL_H

#include "engine/sched.h"

struct seq_list {
    struct seq **v;
    uint32_t len, cap;
};

struct sched {
    struct sched_config c;
    const struct executor *x;
    struct pages pages;
    struct spec spec;
    float expand_cost;
    uint32_t n_parts; /* of a page that comes from elsewhere */
    struct seq_list waiting, running;
    uint32_t n_following, n_reserved;
    uint64_t n_waves, n_arrived;
    uint32_t *slots, n_slots; /* free ones */
    struct exec_run *step_runs, *chunk_runs;
    struct seq **step_seqs, **chunk_seqs;
    uint32_t n_chunk; /* 0: no chunk */
    bool chunk_dropped, chunk_next;
    bool tails_ride; /* short prompts go with the steps at present */
    struct sched_copy *copies;
    uint32_t n_copies;
    bool drafting;     /* in this step */
    uint32_t n_decode; /* sequences of this step that decode */
    /* SLO control */
    uint32_t seqs_now; /* how many may run */
    uint32_t steps_at_size;
    double step_ns, interval_ns; /* moving averages: a step; from one step's end to the next's */
    uint64_t last_step_end_ns;
    uint64_t preemptions, prefix_queries, prefix_hits;
};

static inline uint32_t pages_for(uint32_t n_tokens) {
    return (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static inline uint32_t seq_len(const struct seq *q) {
    return request_len(q->r, q->choice);
}

/* Sequences that have a slot. */
static inline uint32_t seated(const struct sched *s) {
    return s->running.len + s->n_reserved;
}

static inline bool decodes(const struct seq *q) {
    return q->n_done + 1 == seq_len(q) && q->n_done >= q->r->n_prompt;
}

/* Its prompt's logprobs are still to be given: its rows must be computed. */
static inline bool wants_prompt_logprobs(const struct seq *q) {
    return q->r->prompt_logprobs >= 0 && q->n_prompt_told + 1 < q->r->n_prompt;
}

/* Whether rows that somebody else computed will do for this block: not for the last, since somebody
 * must make the logits. */
static inline bool may_be_found(const struct seq *q, uint32_t block) {
    return !wants_prompt_logprobs(q) && (block + 1) * KV_PAGE_TOKENS < seq_len(q);
}

static inline bool place(const struct sched *s, uint32_t slot, uint32_t n_tokens) {
    return !s->x->place || s->x->place(s->x->ctx, slot, n_tokens);
}

/* Keys of all blocks that are full in what is known. */
void sched_keys(struct seq *q);
/* The page where a block of the sequence is found; PAGES_NONE. */
uint32_t sched_find_block(const struct sched *s, const struct seq *q, uint32_t block);
/* It gives all back and waits again. */
void sched_preempt(struct sched *s, struct seq *q, uint64_t now_ns);
/* Looks at what was to come from elsewhere. */
void sched_settle_fetches(struct sched *s);
bool sched_fetch_failed(const struct seq *q);
void sched_admit_waiting(struct sched *s, uint64_t now_ns);

#endif

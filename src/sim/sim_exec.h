/* SPDX-License-Identifier: Apache-2.0 */
/* An executor for the simulator at scale: an instance of many dies whose steps take what a cost model
 * says, and which computes nothing but enough to notice every wrong page. A KV page holds a chain over
 * its rows and the page before it; the next token is drawn from the chain, so a stale, foreign or
 * missing page changes the tokens (as sim/core/standin.h does row by row, which would be too slow and
 * too large here). Whoever knows the prompt can compute the same tokens without pages. */
#ifndef SUPERNODE_SIM_SIM_EXEC_H
#define SUPERNODE_SIM_SIM_EXEC_H

#include "engine/executor.h"

enum { SIM_PAGES_MAX = 1 << 25 /* of all executors of a simulation: some GB */ };

/* What work costs on the instance, in seconds of virtual time. */
struct sim_step {            /* one decode step */
    double requests;         /* of the fullest die */
    double mean_requests;    /* of all dies */
    double kv_tokens;        /* mean over that die's requests */
    double rows;             /* of all dies, drafts and prompt tails counted in */
    double tails, tail_keys; /* of them: rows of prompt tails, and keys before them */
    double drafts, guesses;  /* drafts that are verified, and those that are guessed */
};
struct sim_chunk {                              /* one prompt batch */
    double tokens, key_pairs, cached, requests; /* step.h, struct step_prefill */
};
struct sim_times {
    void *ctx;
    double (*step_s)(void *ctx, const struct sim_step *s);
    double (*chunk_s)(void *ctx, const struct sim_chunk *c);
    /* Of the chunk that chunk_s was asked for last, which is computed in pieces: what there is to do more
     * after a step that came between, and how much later than it should a piece ends that should end when
     * this part of it is computed. NULL, both: a piece takes 1 ms or more. */
    double (*resume_s)(void *ctx, const struct sim_chunk *c);
    double (*over_s)(void *ctx, const struct sim_chunk *c, double part);
};

struct sim_exec_options {
    struct sim_times times;
    const char *model_id;
    uint32_t n_pages, n_slots, max_model_len, rows_max, vocab;
    uint32_t dies;     /* data-parallel ranks that sequences are spread over */
    bool die_bound;    /* a sequence's KV lies on one of them, which has n_pages / dies */
    float expand_cost; /* as in struct executor */
    bool drafts;       /* one draft a token, right with this probability */
    double acceptance;
    void *memory; /* [sim_exec_bytes(n_pages)] of the bus, zeroed and borrowed */
};

struct sim_exec {
    struct executor x;
    struct sim_exec_options o;
    uint64_t now_ns;
    double slow;    /* factor on every time: a slow chip holds up all others */
    uint64_t wrong; /* pages that were not what they should be, when they were read: stays 0 */
    double busy_s;  /* so far, in steps and chunks */
    struct sim_page *pages;
    uint64_t *slots;               /* [n_slots] the chain behind the sequence's last row */
    uint32_t *die_of;              /* [n_slots] where the sequence of a slot is, or none */
    double *die_kv, *die_requests; /* [dies], of this step */
    /* die_bound: pages that lie on each die, by how many sequences; of the sequence in each slot */
    uint32_t *die_pages, *die_seqs, *pages_of;
    bool in_chunk;
    /* Of the chunk: what it took without steps between, and what is left to compute. */
    uint64_t chunk_ns, chunk_left_ns;
    struct sim_chunk chunk;
    bool stepped; /* since the last piece */
};

/* What a page takes: operations on the bus of just this length carry KV, no other has it. */
enum { SIM_PAGE_BYTES = 40 };

struct block_shape sim_exec_shape(void);
uint64_t sim_exec_bytes(uint32_t n_pages);
enum st ST_CHECKED sim_exec_init(struct sim_exec *s, const struct sim_exec_options *o,
                                 struct err *err);
void sim_exec_release(struct sim_exec *s);

/* The chain before the first row (another tenant's rows are other rows), the chain behind a row, and
 * the token that follows it. */
uint64_t sim_root(const struct request *r);
uint64_t sim_chain(uint64_t before, uint32_t token, bool generated);
uint32_t sim_draw(uint64_t chain, int64_t seed, uint32_t vocab);

#endif

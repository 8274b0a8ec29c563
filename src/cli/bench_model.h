/* SPDX-License-Identifier: Apache-2.0 */
/* A model geometry with random weights, ready to step: what bench model measures, and what bench
 * handover disturbs. */
#ifndef SUPERNODE_CLI_BENCH_MODEL_H
#define SUPERNODE_CLI_BENCH_MODEL_H

#include "cli/limits.h"
#include "engine/instance.h"
#include "model/weights_random.h"

struct bench_args {
    uint32_t geometry, weights; /* indices of the flags' words */
    uint32_t layers, threads, prefill, decode, batch, kv;
    bool json;
};

struct cost {
    double
        active; /* weights one decoded token reads: all but the embedding and the experts not chosen */
    double linear; /* multiply-adds of one prompt token in matrices, head left out */
    double active_bytes;
};

struct bench {
    const struct bench_args *a;
    struct model_config c;
    struct weights_random weights;
    struct team *team;
    struct model *m;
    struct kv kv;
    struct step *step;
    struct step_row *rows;
    struct step_seq *seqs;
    uint32_t *pages;
    float *hidden; /* [batch, hidden] before each sequence's next row */
    struct limits limits;
    struct cost cost;
    double fill_s, prefill_s, decode_s;
};

/* Fills b for b->a, measuring the limits on the way; bench_release follows, on failure too. */
enum st ST_CHECKED bench_make(struct bench *b, struct err *err);
void bench_release(struct bench *b);

/* One step of n rows a sequence for sequences [from, to), all at position pos. */
void bench_step(struct bench *b, uint32_t from, uint32_t to, uint32_t pos, uint32_t n,
                enum token_role role);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One serving instance: requests in, tokens out, many at once (continuous batching, contracts 2 to
 * 7). It has no thread and reads no clock: whoever owns it calls engine_step while there is work,
 * and the executor says what time it is, so that the simulator drives the same code. Everything
 * here belongs to one thread; records are borrowed from engine_add until done. */
#ifndef SUPERNODE_ENGINE_ENGINE_H
#define SUPERNODE_ENGINE_ENGINE_H

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

/* Called from engine_add, engine_step and engine_cancel, and must call none of them. */
struct engine_sink {
    /* False: the front has all it needs of this choice (a stop string came). */
    bool (*token)(void *ctx, const struct token_out *t);
    /* Once a request; err NULL: every choice ended by itself, or was not wanted any more. The
     * record is the caller's again. */
    void (*done)(void *ctx, const struct err *err);
};

/* executor is borrowed. */
enum st ST_CHECKED engine_new(struct engine **out, const struct executor *x,
                              const struct engine_options *o, struct err *err);
void engine_free(struct engine *e); /* NULL is allowed; ends requests without calling their sink */

/* Takes the record over until sink->done. arrived_ns: when it came to the front, on the executor's
 * clock. ST_INVALID: wrong model, empty or too long prompt, ids outside the vocabulary. */
enum st ST_CHECKED engine_add(struct engine *e, struct request *r, const struct engine_sink *sink,
                              void *ctx, uint64_t arrived_ns, struct err *err);
/* Its pages are free, and sink->done was called (with NULL), when the call returns. */
enum engine_cancel { ENGINE_CANCEL_LEFT /* nobody listens */, ENGINE_CANCEL_ENOUGH };
void engine_cancel(struct engine *e, struct request *r, enum engine_cancel why);

/* One piece of work: a decode step, or a piece of a prompt chunk. False: there is none. */
bool engine_step(struct engine *e);

const struct engine_stats *engine_stats(struct engine *e);

#endif

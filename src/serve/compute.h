/* SPDX-License-Identifier: Apache-2.0 */
/* What computes tokens behind the front: the engine of this process (serve), or a cluster's router.
 * Everything but wake belongs to the worker's second thread. */
#ifndef SUPERNODE_SERVE_COMPUTE_H
#define SUPERNODE_SERVE_COMPUTE_H

#include <pthread.h>

#include "engine/record.h"

struct compute {
    void *ctx;
    /* As engine_add and engine_cancel. */
    enum st (*add)(void *ctx, struct request *r, const struct engine_sink *sink, void *sink_ctx,
                   uint64_t arrived_ns, struct err *err);
    void (*cancel)(void *ctx, struct request *r, enum engine_cancel why);
    /* Does a piece of work; *progress: one was finished. Returns when it wants to be called again
     * at the latest (clock_now_ns; 0: at once, UINT64_MAX: when there is something new). */
    uint64_t (*step)(void *ctx, bool *progress);
    /* Sleeps until then, or until something is there to do or wake was called since the last wait. */
    void (*wait)(void *ctx, uint64_t until_ns);
    void (*wake)(void *ctx); /* any thread */
    const struct engine_stats *(*stats)(void *ctx);
};

/* An engine; it has work as long as it has sequences, and nothing to wait for otherwise. */
struct compute_engine {
    struct engine *engine;
    struct record *record; /* notes requests down; NULL: nobody does */
    pthread_mutex_t lock;
    pthread_cond_t more;
    bool woken;
};
void compute_engine_init(struct compute_engine *c, struct engine *engine,
                         struct record *record); /* both borrowed */
void compute_engine_release(struct compute_engine *c);
struct compute compute_engine(struct compute_engine *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements compute.h over the engine of this process. */
#include "serve/compute.h"

static enum st add(void *ctx, struct request *r, const struct engine_sink *sink, void *sink_ctx,
                   uint64_t arrived_ns, struct err *err) {
    struct compute_engine *c = ctx;
    if (c->record) record_request(c->record, r->n_prompt, arrived_ns);
    return engine_add(c->engine, r, sink, sink_ctx, arrived_ns, err);
}

static void cancel(void *ctx, struct request *r, enum engine_cancel why) {
    struct compute_engine *c = ctx;
    engine_cancel(c->engine, r, why);
}

static uint64_t step(void *ctx, bool *progress) {
    struct compute_engine *c = ctx;
    *progress = engine_step(c->engine);
    const struct engine_stats *s = engine_stats(c->engine);
    return s->running || s->waiting ? 0 : UINT64_MAX;
}

/* It asks to be called at once, or when there is something new. */
static void wait(void *ctx, uint64_t until_ns) {
    struct compute_engine *c = ctx;
    (void)until_ns;
    pthread_mutex_lock(&c->lock);
    while (!c->woken) pthread_cond_wait(&c->more, &c->lock);
    c->woken = false;
    pthread_mutex_unlock(&c->lock);
}

static void wake(void *ctx) {
    struct compute_engine *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->woken = true;
    pthread_cond_signal(&c->more);
    pthread_mutex_unlock(&c->lock);
}

static const struct engine_stats *stats(void *ctx) {
    struct compute_engine *c = ctx;
    return engine_stats(c->engine);
}

void compute_engine_init(struct compute_engine *c, struct engine *engine, struct record *record) {
    *c = (struct compute_engine){.engine = engine, .record = record};
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->more, NULL);
}

void compute_engine_release(struct compute_engine *c) {
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->more);
}

struct compute compute_engine(struct compute_engine *c) {
    return (struct compute){c, add, cancel, step, wait, wake, stats};
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements compute_router.h. */
#include "serve/compute_router.h"

#include "base/clock.h"

/* Views are large, so they are made this often at most, and what was done meanwhile is seen after so
 * long; of a quiet cluster they are made this often at least. */
static const uint64_t view_ns_min = 100 * 1000000, view_ns_max = 500 * 1000000;

static enum st add(void *ctx, struct request *r, const struct engine_sink *sink, void *sink_ctx,
                   uint64_t arrived_ns, struct err *err) {
    struct compute_router *c = ctx;
    return router_add(c->router, r, sink, sink_ctx, arrived_ns, err);
}

static void cancel(void *ctx, struct request *r, enum engine_cancel why) {
    struct compute_router *c = ctx;
    router_cancel(c->router, r, why);
}

static uint64_t step(void *ctx, bool *progress) {
    struct compute_router *c = ctx;
    uint64_t until_ns = router_step(c->router), now_ns = clock_now_ns();
    *progress = true; /* workers may be slow or gone: that is not this process being stuck */
    /* a member that came, left or drains is seen at once: /health hangs on it */
    uint64_t events = router_events(c->router);
    bool due = now_ns - c->published_ns >= view_ns_min || events != c->events;
    if (due) {
        c->published_ns = now_ns;
        c->events = events;
        router_view(c->router, cluster_watch_next(c->watch));
        cluster_watch_publish(c->watch);
    }
    uint64_t look_ns = c->published_ns + (due ? view_ns_max : view_ns_min);
    return until_ns < look_ns ? until_ns : look_ns;
}

static void wait(void *ctx, uint64_t until_ns) {
    struct compute_router *c = ctx;
    bus_wait(c->bus, until_ns);
}

static void wake(void *ctx) {
    struct compute_router *c = ctx;
    bus_wake(c->bus);
}

static const struct engine_stats *stats(void *ctx) {
    struct compute_router *c = ctx;
    return router_stats(c->router);
}

struct compute compute_router(struct compute_router *c) {
    return (struct compute){c, add, cancel, step, wait, wake, stats};
}

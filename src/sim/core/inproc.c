/* SPDX-License-Identifier: Apache-2.0 */
/* Implements inproc.h: the simulated bus (sim/core) without delays or faults, under one lock, on the
 * real clock. What a call begins is over before the lock is given back. */
#include "sim/core/inproc.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "sim/core/sim_bus.h"

struct inproc_hub {
    pthread_mutex_t lock;
    pthread_cond_t news; /* for any of the endpoints */
    struct sim_net *net;
};

struct inproc_bus {
    struct bus bus;
    struct inproc_hub *hub;
    struct bus *inner;
    bool drained; /* the last next found nothing */
};

struct inproc_queue {
    struct bus_queue queue;
    struct bus_queue *inner;
};

enum st inproc_hub_new(struct inproc_hub **out, struct err *err) {
    struct sim_net_options o = {0};
    struct inproc_hub *h = calloc(1, sizeof *h);
    if (!h) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    enum st st = sim_net_new(&h->net, &o, err);
    if (st) {
        free(h);
        return st;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = h;
    return ST_OK;
}

void inproc_hub_free(struct inproc_hub *h) {
    if (!h) return;
    sim_net_free(h->net);
    pthread_cond_destroy(&h->news);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static struct bus *enter(struct bus *b) {
    struct inproc_bus *i = (struct inproc_bus *)b;
    pthread_mutex_lock(&i->hub->lock);
    return i->inner;
}

static void leave(struct inproc_hub *h) {
    sim_net_advance(h->net, 0);
    pthread_cond_broadcast(&h->news);
    pthread_mutex_unlock(&h->lock);
}

static struct inproc_hub *hub(struct bus *b) {
    return ((struct inproc_bus *)b)->hub;
}

static struct bus_queue *inner(struct bus_queue *q) {
    return ((struct inproc_queue *)q)->inner;
}

static bool inproc_next(struct bus *b, struct bus_event *ev) {
    struct inproc_bus *i = (struct inproc_bus *)b;
    bool any = bus_next(enter(b), ev);
    i->drained = !any;
    pthread_mutex_unlock(&i->hub->lock);
    return any;
}

static void inproc_wait(struct bus *b, uint64_t until_ns) {
    struct inproc_bus *i = (struct inproc_bus *)b;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    struct bus *in = enter(b);
    int rc = 0;
    while (i->drained && !sim_bus_has_news(in) && rc == 0) {
        if (until_ns == UINT64_MAX)
            pthread_cond_wait(&i->hub->news, &i->hub->lock);
        else
            rc = pthread_cond_timedwait(&i->hub->news, &i->hub->lock, &until);
    }
    pthread_mutex_unlock(&i->hub->lock);
}

static void inproc_wake(struct bus *b) {
    bus_wake(enter(b));
    leave(hub(b));
}

static uint64_t inproc_now(struct bus *b) {
    (void)b;
    return clock_now_ns();
}

static bus_id inproc_connect(struct bus *b, const char *address) {
    bus_id id = bus_connect(enter(b), address);
    leave(hub(b));
    return id;
}

static void inproc_close(struct bus *b, bus_id peer) {
    bus_close(enter(b), peer);
    leave(hub(b));
}

static enum st inproc_send(struct bus *b, bus_id peer, const void *data, size_t len) {
    enum st st = bus_send(enter(b), peer, data, len);
    leave(hub(b));
    return st;
}

static enum st inproc_segment_new(struct bus *b, size_t bytes, enum bus_rights rights, bus_id *id,
                                  void **memory, struct err *err) {
    enum st st = bus_segment_new(enter(b), bytes, rights, id, memory, err);
    leave(hub(b));
    return st;
}

static void inproc_segment_free(struct bus *b, bus_id segment) {
    bus_segment_free(enter(b), segment);
    leave(hub(b));
}

static enum st inproc_share(struct bus *b, bus_id peer, bus_id segment, uint64_t tag) {
    enum st st = bus_share(enter(b), peer, segment, tag);
    leave(hub(b));
    return st;
}

static enum st inproc_queue_new(struct bus *b, struct bus_queue **out, struct err *err) {
    struct inproc_queue *q = calloc(1, sizeof *q);
    if (!q) return err_set(err, ST_NO_MEMORY, "bus queue: out of memory");
    q->queue.bus = b;
    enum st st = bus_queue_new(enter(b), &q->inner, err);
    leave(hub(b));
    if (st)
        free(q);
    else
        *out = &q->queue;
    return st;
}

static void inproc_queue_free(struct bus_queue *q) {
    struct inproc_hub *h = hub(q->bus);
    enter(q->bus);
    bus_queue_free(inner(q));
    leave(h);
    free(q);
}

static enum st inproc_read(struct bus_queue *q, bus_id segment, uint64_t offset, void *to,
                           size_t len, uint64_t cookie) {
    enter(q->bus);
    enum st st = bus_read(inner(q), segment, offset, to, len, cookie);
    leave(hub(q->bus));
    return st;
}

static enum st inproc_write(struct bus_queue *q, bus_id segment, uint64_t offset, const void *from,
                            size_t len, bool notify, uint64_t value, uint64_t cookie) {
    enter(q->bus);
    enum st st = notify ? bus_write_notify(inner(q), segment, offset, from, len, value, cookie)
                        : bus_write(inner(q), segment, offset, from, len, cookie);
    leave(hub(q->bus));
    return st;
}

static uint32_t inproc_completions(struct bus_queue *q, struct bus_completion *v, uint32_t max) {
    enter(q->bus);
    uint32_t n = bus_completions(inner(q), v, max);
    pthread_mutex_unlock(&hub(q->bus)->lock);
    return n;
}

static void inproc_free(struct bus *b) {
    struct inproc_hub *h = hub(b);
    bus_free(enter(b));
    leave(h);
    free(b);
}

static const struct bus_ops inproc_ops = {
    .next = inproc_next,
    .wait = inproc_wait,
    .wake = inproc_wake,
    .now = inproc_now,
    .connect = inproc_connect,
    .close = inproc_close,
    .send = inproc_send,
    .segment_new = inproc_segment_new,
    .segment_free = inproc_segment_free,
    .share = inproc_share,
    .queue_new = inproc_queue_new,
    .queue_free = inproc_queue_free,
    .read = inproc_read,
    .write = inproc_write,
    .completions = inproc_completions,
    .free = inproc_free,
};

enum st inproc_bus_new(struct bus **out, struct inproc_hub *h, const char *address,
                       const struct bus_identity *identity, struct err *err) {
    struct inproc_bus *i = calloc(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    i->bus.ops = &inproc_ops;
    i->hub = h;
    pthread_mutex_lock(&h->lock);
    enum st st = sim_bus_new(&i->inner, h->net, address, identity, err);
    leave(h);
    if (st)
        free(i);
    else
        *out = &i->bus;
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements team.h with pthreads. A run is published by raising `round`; every worker takes part
 * in every round exactly once and then raises `idle`, so the caller knows that no worker still
 * reads fn and ctx when it returns. Spin first, since the next round comes microseconds later while
 * a model runs; then sleep on a condition, so that an idle server uses no processor. */
#include "base/team.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SPIN_MAX = 20000, THREADS_MAX = 1024 };

struct worker {
    struct team *team;
    uint32_t index;
    pthread_t thread;
};

struct team {
    uint32_t n_threads;
    team_fn *fn;
    void *ctx;
    uint32_t n_tiles;
    _Alignas(64) atomic_uint next; /* the next tile to hand out */
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_uint idle; /* workers that finished this round */
    _Alignas(64) atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker *workers;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_tiles(struct team *t, uint32_t thread) {
    for (;;) {
        uint32_t tile = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
        if (tile >= t->n_tiles) return;
        t->fn(t->ctx, tile, thread);
    }
}

static unsigned wait_round(struct team *t, unsigned seen) {
    for (int i = 0; i < SPIN_MAX; i++) {
        unsigned r = atomic_load_explicit(&t->round, memory_order_acquire);
        if (r != seen) return r;
        relax();
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->round, memory_order_acquire) == seen)
        pthread_cond_wait(&t->wake, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return atomic_load_explicit(&t->round, memory_order_acquire);
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    struct team *t = w->team;
    unsigned seen = 0;
    for (;;) {
        seen = wait_round(t, seen);
        if (atomic_load(&t->stop)) return NULL;
        take_tiles(t, w->index);
        atomic_fetch_add_explicit(&t->idle, 1, memory_order_release);
    }
}

static void publish(struct team *t) {
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add_explicit(&t->round, 1, memory_order_release);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void team_run(struct team *t, team_fn *fn, void *ctx, uint32_t n_tiles) {
    if (t->n_threads == 1 || n_tiles <= 1) {
        for (uint32_t i = 0; i < n_tiles; i++) fn(ctx, i, 0);
        return;
    }
    t->fn = fn;
    t->ctx = ctx;
    t->n_tiles = n_tiles;
    atomic_store_explicit(&t->next, 0, memory_order_relaxed);
    atomic_store_explicit(&t->idle, 0, memory_order_relaxed);
    publish(t);
    take_tiles(t, 0);
    uint32_t spins = 0;
    while (atomic_load_explicit(&t->idle, memory_order_acquire) != t->n_threads - 1) {
        relax();
        if (++spins % SPIN_MAX == 0) sched_yield();
    }
}

enum st team_new(struct team **out, uint32_t n_threads, struct err *err) {
    if (n_threads < 1 || n_threads > THREADS_MAX)
        return err_set(err, ST_INVALID, "threads: %u, expected 1 to %d", n_threads, THREADS_MAX);
    struct team *t = aligned_alloc(64, sizeof *t);
    struct worker *workers = calloc(n_threads, sizeof *workers);
    if (!t || !workers) {
        free(t);
        free(workers);
        return err_set(err, ST_NO_MEMORY, "out of memory for %u threads", n_threads);
    }
    memset(t, 0, sizeof *t);
    t->n_threads = 1;
    t->workers = workers;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    for (uint32_t i = 1; i < n_threads; i++) {
        workers[i] = (struct worker){.team = t, .index = i};
        int rc = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (rc != 0) {
            team_free(t);
            return err_set(err, ST_NO_MEMORY, "cannot start thread %u of %u: %s", i, n_threads,
                           strerror(rc));
        }
        t->n_threads = i + 1;
    }
    *out = t;
    return ST_OK;
}

void team_free(struct team *t) {
    if (!t) return;
    atomic_store(&t->stop, true);
    publish(t);
    for (uint32_t i = 1; i < t->n_threads; i++) pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t->workers);
    free(t);
}

uint32_t team_size(const struct team *t) {
    return t->n_threads;
}

uint32_t team_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : (uint32_t)n;
}

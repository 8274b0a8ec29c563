/* SPDX-License-Identifier: Apache-2.0 */
/* Implements team.h with pthreads. One word says everything about a round: its number, how many
 * tiles it has and the next to hand out; taking a tile is adding one to it. fn and ctx are read only
 * by who holds a tile, and the round lasts until every tile that was taken is done, so a worker that
 * comes late simply finds none: nobody waits for it (other processes may have its core). Spin
 * first, since the next round comes microseconds later while a model runs, and let others that wait
 * for this core have it meanwhile: taken away in the middle of a tile, it would hold up all. Then sleep
 * on a condition, so that an idle server uses no processor. */
#include "base/team.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { SPIN_MAX = 20000, YIELD_EVERY = 256, THREADS_MAX = 1024 };

struct worker {
    struct team *team;
    uint32_t index;
    pthread_t thread;
};

/* A round: number (16 bits), tiles (24), next tile (24). Late workers add to the last by at most one
 * each, so it does not overflow. */
enum { TILE_BITS = 24, TILES_MAX = (1 << TILE_BITS) - 1 - THREADS_MAX };

struct team {
    uint32_t n_threads;
    team_fn *fn;
    void *ctx;
    _Alignas(64) atomic_uint_least64_t round;
    _Alignas(64) atomic_uint done; /* tiles of this round */
    _Alignas(64) atomic_bool stop;
    atomic_uint sleepers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker *workers;
};

static uint32_t next_of(uint64_t round) {
    return round & ((1u << TILE_BITS) - 1);
}
static uint32_t tiles_of(uint64_t round) {
    return round >> TILE_BITS & ((1u << TILE_BITS) - 1);
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The next tile; UINT32_MAX: there is none. Whoever gets one must say done. */
static uint32_t take_tile(struct team *t) {
    uint64_t round = atomic_load_explicit(&t->round, memory_order_acquire);
    if (next_of(round) >= tiles_of(round)) return UINT32_MAX;
    round = atomic_fetch_add_explicit(&t->round, 1, memory_order_acq_rel);
    return next_of(round) < tiles_of(round) ? next_of(round) : UINT32_MAX;
}

static void run_tile(struct team *t, uint32_t tile, uint32_t thread) {
    t->fn(t->ctx, tile, thread);
    atomic_fetch_add_explicit(&t->done, 1, memory_order_release);
}

static bool has_tile(struct team *t) {
    uint64_t round = atomic_load(&t->round);
    return next_of(round) < tiles_of(round) || atomic_load(&t->stop);
}

static void wait_tile(struct team *t) {
    for (int i = 0; i < SPIN_MAX; i++) {
        if (has_tile(t)) return;
        if (i % YIELD_EVERY == YIELD_EVERY - 1)
            sched_yield();
        else
            relax();
    }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleepers, 1);
    while (!has_tile(t)) pthread_cond_wait(&t->wake, &t->lock);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    struct team *t = w->team;
    while (!atomic_load(&t->stop)) {
        uint32_t tile = take_tile(t);
        if (tile == UINT32_MAX)
            wait_tile(t);
        else
            run_tile(t, tile, w->index);
    }
    return NULL;
}

static void wake_sleepers(struct team *t) {
    if (atomic_load(&t->sleepers) == 0) return;
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

/* No further tile is handed out; returns how many were. */
static uint32_t close_round(struct team *t) {
    uint64_t round = atomic_load(&t->round), closed;
    do closed = round - next_of(round) + TILES_MAX;
    while (!atomic_compare_exchange_weak(&t->round, &round, closed));
    return next_of(round) < tiles_of(round) ? next_of(round) : tiles_of(round);
}

uint32_t team_run_until(struct team *t, team_fn *fn, void *ctx, uint32_t first, uint32_t n_tiles,
                        uint64_t until_ns) {
    assert(n_tiles <= TILES_MAX);
    if (first >= n_tiles) return n_tiles;
    uint64_t number = atomic_load(&t->round) >> (2 * TILE_BITS);
    t->fn = fn;
    t->ctx = ctx;
    atomic_store_explicit(&t->done, 0, memory_order_relaxed);
    atomic_store(&t->round,
                 (number + 1) << (2 * TILE_BITS) | (uint64_t)n_tiles << TILE_BITS | first);
    if (n_tiles - first > 1) wake_sleepers(t);
    uint32_t begun = n_tiles, spins = 0;
    for (uint32_t tile; (tile = take_tile(t)) != UINT32_MAX;) {
        run_tile(t, tile, 0);
        if (until_ns == UINT64_MAX || clock_now_ns() < until_ns) continue;
        begun = close_round(t);
        break;
    }
    while (atomic_load_explicit(&t->done, memory_order_acquire) != begun - first) {
        relax();
        if (++spins % SPIN_MAX == 0) sched_yield();
    }
    return begun;
}

void team_run(struct team *t, team_fn *fn, void *ctx, uint32_t n_tiles) {
    if (t->n_threads > 1 && n_tiles > 1)
        (void)team_run_until(t, fn, ctx, 0, n_tiles, UINT64_MAX);
    else
        for (uint32_t i = 0; i < n_tiles; i++) fn(ctx, i, 0);
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
    wake_sleepers(t);
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

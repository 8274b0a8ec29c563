/* SPDX-License-Identifier: Apache-2.0 */
/* Implements ahead.h. Pages are taken in ascending order until all were used once
 * (engine/pages.h), so one number says how far it must be. No lock: its thread may be put aside for
 * long wherever it is, and who computes must not wait for it. */
#include "engine/ahead.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { AHEAD_BYTES = 64 << 20, HUGE_BYTES = 2 << 20 };

struct ahead {
    const struct kv *kv;
    uint32_t margin, stride; /* pages: how far ahead; at a time */
    pthread_t thread;
    sem_t more; /* wanted grew, or stop */
    atomic_uint wanted, touched;
    atomic_bool stop;
};

/* False: this kernel cannot (before Linux 5.14), or there is no memory; whoever writes finds out. */
static bool touch(const struct ahead *a, uint32_t from, uint32_t n) {
    const struct kv *kv = a->kv;
    uintptr_t os_page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (uint32_t layer = 0; layer < kv->n_layers && !atomic_load(&a->stop); layer++) {
        uintptr_t begin = (uintptr_t)kv_page(kv, layer, from),
                  end = begin + (size_t)n * kv->page_bytes;
        begin = begin / os_page * os_page;
        if (madvise((void *)begin, end - begin, MADV_POPULATE_WRITE) != 0) return false;
    }
    return true;
}

static void *touch_all(void *arg) {
    struct ahead *a = arg;
    const struct sched_param param = {0};
    (void)pthread_setschedparam(pthread_self(), SCHED_IDLE, &param);
    for (uint32_t from = 0; from < a->kv->n_pages && !atomic_load(&a->stop);) {
        if (from >= atomic_load(&a->wanted)) {
            while (sem_wait(&a->more) != 0) continue; /* a signal */
            continue;
        }
        uint32_t left = a->kv->n_pages - from, n = left < a->stride ? left : a->stride;
        atomic_store(&a->touched, from + n);
        if (!touch(a, from, n)) break;
        from += n;
    }
    return NULL;
}

void ahead_used(struct ahead *a, uint32_t page) {
    uint32_t wanted = page + 1 + a->margin;
    if (wanted <= atomic_load_explicit(&a->wanted, memory_order_relaxed)) return;
    atomic_store(&a->wanted, wanted);
    (void)sem_post(&a->more);
}

uint32_t ahead_touched(const struct ahead *a) {
    return atomic_load(&a->touched);
}

enum st ahead_new(struct ahead **out, const struct kv *kv, struct err *err) {
    struct ahead *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ST_NO_MEMORY, "KV cache: out of memory");
    size_t all = kv->page_bytes * kv->n_layers;
    *a = (struct ahead){.kv = kv,
                        .margin = (uint32_t)(AHEAD_BYTES / all),
                        .stride = (uint32_t)(HUGE_BYTES / kv->page_bytes)};
    if (a->stride == 0) a->stride = 1;
    a->wanted = a->margin;
    (void)sem_init(&a->more, 0, 0); /* cannot fail with these */
    int rc = pthread_create(&a->thread, NULL, touch_all, a);
    if (rc != 0) {
        sem_destroy(&a->more);
        free(a);
        return err_set(err, ST_NO_MEMORY, "KV cache: cannot start a thread: %s", strerror(rc));
    }
    *out = a;
    return ST_OK;
}

void ahead_free(struct ahead *a) {
    if (!a) return;
    atomic_store(&a->stop, true);
    (void)sem_post(&a->more);
    pthread_join(a->thread, NULL);
    sem_destroy(&a->more);
    free(a);
}

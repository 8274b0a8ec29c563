/* SPDX-License-Identifier: Apache-2.0 */
/* Implements ahead.h. Pages are taken in ascending order until all were used once
 * (engine/pages.h), so one number says how far it must be. */
#include "engine/ahead.h"

#include <pthread.h>
#include <sched.h>
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
    pthread_mutex_t lock;
    pthread_cond_t more;
    atomic_uint wanted;
    uint32_t touched;
    bool stop;
};

/* False: this kernel cannot (before Linux 5.14), or there is no memory; whoever writes finds out. */
static bool touch(const struct kv *kv, uint32_t from, uint32_t n) {
    uintptr_t os_page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (uint32_t layer = 0; layer < kv->n_layers; layer++) {
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
    pthread_mutex_lock(&a->lock);
    while (!a->stop && a->touched < a->kv->n_pages) {
        uint32_t from = a->touched, left = a->kv->n_pages - from;
        if (from >= atomic_load(&a->wanted)) {
            pthread_cond_wait(&a->more, &a->lock);
            continue;
        }
        a->touched += left < a->stride ? left : a->stride;
        uint32_t n = a->touched - from;
        pthread_mutex_unlock(&a->lock);
        bool ok = touch(a->kv, from, n);
        pthread_mutex_lock(&a->lock);
        if (!ok) break;
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void ahead_used(struct ahead *a, uint32_t page) {
    uint32_t wanted = page + 1 + a->margin;
    if (wanted <= atomic_load_explicit(&a->wanted, memory_order_relaxed)) return;
    pthread_mutex_lock(&a->lock);
    atomic_store(&a->wanted, wanted);
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
}

uint32_t ahead_touched(struct ahead *a) {
    pthread_mutex_lock(&a->lock);
    uint32_t n = a->touched;
    pthread_mutex_unlock(&a->lock);
    return n;
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
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->more, NULL);
    int rc = pthread_create(&a->thread, NULL, touch_all, a);
    if (rc != 0) {
        free(a);
        return err_set(err, ST_NO_MEMORY, "KV cache: cannot start a thread: %s", strerror(rc));
    }
    *out = a;
    return ST_OK;
}

void ahead_free(struct ahead *a) {
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->more);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_cond_destroy(&a->more);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of the SSD by two threads, where io_uring is not allowed; and at once, on the caller's
 * thread, where the order of events must follow from the calls alone (simulation). */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/ssd_impl.h"

enum { THREADS = 2 };

struct line { /* of operations; at most SSD_OPS_MAX are under way */
    uint32_t v[SSD_OPS_MAX], head, len;
};

struct ssd_io {
    int fd;
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t more;
    pthread_t threads[THREADS];
    uint32_t n_threads;
    struct ssd_op *ops[SSD_OPS_MAX];
    struct line todo, done;
    bool ending;
};

static void put(struct line *l, uint32_t op) {
    l->v[(l->head + l->len++) % SSD_OPS_MAX] = op;
}

static uint32_t get(struct line *l) {
    uint32_t op = l->v[l->head];
    l->head = (l->head + 1) % SSD_OPS_MAX;
    l->len--;
    return op;
}

ssize_t ssd_do(int fd, const struct ssd_op *o) {
    uint32_t n = 0;
    while (n < o->len) {
        ssize_t rc = o->what == SSD_WRITE
                         ? pwrite(fd, o->buffer + n, o->len - n, (off_t)(o->at + n))
                         : pread(fd, o->buffer + n, o->len - n, (off_t)(o->at + n));
        if (rc < 0 && errno == EINTR) continue;
        if (rc < 0) return -errno;
        if (rc == 0) break;
        n += (uint32_t)rc;
    }
    return (ssize_t)n;
}

static void *work(void *arg) {
    struct ssd_io *io = arg;
    pthread_mutex_lock(&io->lock);
    for (;;) {
        while (io->todo.len == 0 && !io->ending) pthread_cond_wait(&io->more, &io->lock);
        if (io->todo.len == 0) break;
        uint32_t op = get(&io->todo);
        struct ssd_op *o = io->ops[op];
        pthread_mutex_unlock(&io->lock);
        ssize_t result = ssd_do(io->fd, o);
        pthread_mutex_lock(&io->lock);
        o->result = result;
        put(&io->done, op);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

static void threads_close(struct ssd_io *io) {
    pthread_mutex_lock(&io->lock);
    io->ending = true;
    pthread_cond_broadcast(&io->more);
    pthread_mutex_unlock(&io->lock);
    for (uint32_t i = 0; i < io->n_threads; i++) pthread_join(io->threads[i], NULL);
    pthread_cond_destroy(&io->more);
    pthread_mutex_destroy(&io->lock);
    free(io);
}

static enum st inline_open(struct ssd_io **out, int fd, struct err *err) {
    struct ssd_io *io = calloc(1, sizeof *io);
    if (!io) return err_set(err, ST_NO_MEMORY, "ssd: out of memory");
    io->fd = fd;
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->more, NULL);
    *out = io;
    return ST_OK;
}

static enum st threads_open(struct ssd_io **out, int fd, struct err *err) {
    struct ssd_io *io = NULL;
    enum st st = inline_open(&io, fd, err);
    if (st) return st;
    for (; io->n_threads < THREADS; io->n_threads++) {
        int rc = pthread_create(&io->threads[io->n_threads], NULL, work, io);
        if (rc == 0) continue;
        threads_close(io);
        return err_set(err, st_from_errno(rc), "ssd: cannot start a thread: %s", strerror(rc));
    }
    *out = io;
    return ST_OK;
}

static void threads_submit(struct ssd_io *io, uint32_t op, struct ssd_op *o) {
    pthread_mutex_lock(&io->lock);
    io->ops[op] = o;
    put(&io->todo, op);
    pthread_cond_signal(&io->more);
    pthread_mutex_unlock(&io->lock);
}

static bool threads_poll(struct ssd_io *io, uint32_t *op) {
    pthread_mutex_lock(&io->lock);
    bool any = io->done.len > 0;
    if (any) *op = get(&io->done);
    pthread_mutex_unlock(&io->lock);
    return any;
}

static void inline_submit(struct ssd_io *io, uint32_t op, struct ssd_op *o) {
    io->ops[op] = o;
    o->result = ssd_do(io->fd, o);
    put(&io->done, op);
}

const struct ssd_io_ops ssd_threads = {"threads", threads_open, threads_submit, threads_poll,
                                       threads_close};
const struct ssd_io_ops ssd_inline = {"inline", inline_open, inline_submit, threads_poll,
                                      threads_close};

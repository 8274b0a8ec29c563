/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of the SSD through io_uring. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#include "pool/ssd_impl.h"

struct ssd_io {
    struct io_uring ring;
    int fd;
    uint32_t under_way;
    struct ssd_op *ops[SSD_OPS_MAX];
    bool refused[SSD_OPS_MAX]; /* the ring did not take it: it failed */
};

static enum st uring_open(struct ssd_io **out, int fd, struct err *err) {
    struct ssd_io *io = calloc(1, sizeof *io);
    if (!io) return err_set(err, ST_NO_MEMORY, "ssd: out of memory");
    int rc = io_uring_queue_init(SSD_OPS_MAX, &io->ring, 0);
    if (rc < 0) {
        free(io);
        return err_set(err, ST_UNSUPPORTED, "ssd: no io_uring: %s", strerror(-rc));
    }
    io->fd = fd;
    *out = io;
    return ST_OK;
}

static void uring_submit(struct ssd_io *io, uint32_t op, struct ssd_op *o) {
    io->ops[op] = o;
    struct io_uring_sqe *e = io_uring_get_sqe(&io->ring);
    io->refused[op] = !e;
    if (!e) return;
    if (o->what == SSD_WRITE)
        io_uring_prep_write(e, io->fd, o->buffer, o->len, o->at);
    else
        io_uring_prep_read(e, io->fd, o->buffer, o->len, o->at);
    io_uring_sqe_set_data64(e, op);
    /* not taken (out of memory, busy): it stays in the queue, and the next poll submits it */
    (void)io_uring_submit(&io->ring);
    io->under_way++;
}

static bool uring_poll(struct ssd_io *io, uint32_t *op) {
    for (uint32_t i = 0; i < SSD_OPS_MAX; i++)
        if (io->refused[i]) {
            io->refused[i] = false;
            io->ops[i]->result = -EBUSY;
            *op = i;
            return true;
        }
    if (io->under_way == 0) return false;
    if (io_uring_sq_ready(&io->ring) > 0) (void)io_uring_submit(&io->ring);
    struct io_uring_cqe *c;
    if (io_uring_peek_cqe(&io->ring, &c) != 0) return false;
    *op = (uint32_t)io_uring_cqe_get_data64(c);
    io->ops[*op]->result = c->res;
    io_uring_cqe_seen(&io->ring, c);
    io->under_way--;
    return true;
}

static void uring_close(struct ssd_io *io) {
    struct io_uring_cqe *c;
    while (io->under_way > 0) {
        if (io_uring_submit_and_wait(&io->ring, 1) < 0 && errno != EINTR) {
        }
        while (io_uring_peek_cqe(&io->ring, &c) == 0) {
            io_uring_cqe_seen(&io->ring, c);
            io->under_way--;
        }
    }
    io_uring_queue_exit(&io->ring);
    free(io);
}

const struct ssd_io_ops ssd_uring = {"io_uring", uring_open, uring_submit, uring_poll, uring_close};

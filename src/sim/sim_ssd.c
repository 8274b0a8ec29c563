/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_ssd.h. */
#include "sim/sim_ssd.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ssd_io {
    struct sim_ssd_options o;
    uint32_t head_bytes, head_used, data_bytes; /* used: the rest of a header is zero */
    uint8_t *records;                           /* [n_recs][head_used + data_bytes] */
    uint32_t n_had;
    struct {
        uint64_t at_ns;
        uint32_t op;
        struct ssd_op *o;
    } line[SSD_OPS_MAX]; /* under way, by when they are over */
    uint32_t n_line;
    double free_s;
    struct sim_ssd_stats stats;
};

enum st sim_ssd_new(struct ssd_io **out, const struct sim_ssd_options *o, struct err *err) {
    assert(o->rate_bps > 0 && o->n_recs > 0);
    struct ssd_io *io = calloc(1, sizeof *io);
    if (io) {
        *io = (struct ssd_io){.o = *o,
                              .head_bytes = ssd_head_bytes(&o->shape),
                              .head_used = (uint32_t)(sizeof(struct ssd_head) +
                                                      block_parts(&o->shape) * sizeof(struct sum)),
                              .data_bytes = (uint32_t)block_bytes(&o->shape)};
        io->records = calloc(o->n_recs, io->head_used + io->data_bytes);
    }
    if (!io || !io->records) {
        free(io);
        return err_set(err, ST_NO_MEMORY, "simulated ssd: out of memory");
    }
    *out = io;
    return ST_OK;
}

void sim_ssd_free(struct ssd_io *io) {
    if (io) free(io->records);
    free(io);
}

uint32_t sim_ssd_had(const struct ssd_io *io) {
    return io->n_had;
}

uint64_t sim_ssd_bytes(const struct ssd_io *io) {
    uint64_t data = (io->data_bytes + SSD_ALIGN - 1) / SSD_ALIGN * SSD_ALIGN;
    return SSD_ALIGN + io->o.n_recs * (io->head_bytes + data);
}

const struct sim_ssd_stats *sim_ssd_stats(const struct ssd_io *io) {
    return &io->stats;
}

static void submit(struct ssd_io *io, uint32_t op, struct ssd_op *o) {
    double now_s = (double)sim_net_now(io->o.net) / 1e9,
           bytes = o->what == SSD_LOOK ? io->head_bytes : io->o.block_bytes,
           s = bytes / io->o.rate_bps;
    assert(io->n_line < SSD_OPS_MAX && o->rec < io->o.n_recs);
    io->free_s = fmax(io->free_s, now_s) + s;
    io->stats.busy_s += s;
    *(o->what == SSD_WRITE ? &io->stats.write_bytes : &io->stats.read_bytes) += bytes;
    io->line[io->n_line].at_ns = (uint64_t)((io->free_s + io->o.latency_s) * 1e9);
    io->line[io->n_line].op = op;
    io->line[io->n_line++].o = o;
}

static void perform(struct ssd_io *io, struct ssd_op *o) {
    uint8_t *at = io->records + (size_t)o->rec * (io->head_used + io->data_bytes);
    if (o->what == SSD_WRITE) {
        memcpy(at, o->buffer, io->head_used);
        memcpy(at + io->head_used, o->buffer + io->head_bytes, io->data_bytes);
        if (o->rec >= io->n_had) io->n_had = o->rec + 1;
    } else {
        memset(o->buffer, 0, o->len);
        memcpy(o->buffer, at, io->head_used);
        if (o->what == SSD_READ)
            memcpy(o->buffer + io->head_bytes, at + io->head_used, io->data_bytes);
    }
    o->result = (ssize_t)o->len;
}

static bool poll(struct ssd_io *io, uint32_t *op) {
    if (io->n_line == 0 || io->line[0].at_ns > sim_net_now(io->o.net)) return false;
    *op = io->line[0].op;
    perform(io, io->line[0].o);
    memmove(io->line, io->line + 1, --io->n_line * sizeof *io->line);
    return true;
}

static void close_io(struct ssd_io *io) {
    io->n_line = 0;
}

const struct ssd_io_ops sim_ssd_ops = {
    .name = "simulated", .submit = submit, .poll = poll, .close = close_io};

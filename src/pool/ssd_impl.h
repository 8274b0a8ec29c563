/* SPDX-License-Identifier: Apache-2.0 */
/* Between ssd.c and the ways to do input and output without waiting. */
#ifndef SUPERNODE_POOL_SSD_IMPL_H
#define SUPERNODE_POOL_SSD_IMPL_H

#include <sys/types.h>

#include "pool/ssd.h"

struct ssd_op {
    bool used;
    enum ssd_what what;
    uint32_t rec;
    struct pool_key key;
    uint8_t *buffer; /* SSD_ALIGN; a record */
    uint32_t len;
    uint64_t at;
    ssize_t result; /* bytes, or -errno */
};

struct ssd_io;
struct ssd_io_ops {
    const char *name;
    enum st (*open)(struct ssd_io **out, int fd, struct err *err);
    void (*submit)(struct ssd_io *io, uint32_t op, struct ssd_op *o); /* o lives until polled */
    bool (*poll)(struct ssd_io *io, uint32_t *op);                    /* result is set */
    void (*close)(struct ssd_io *io); /* waits for what was submitted */
};
extern const struct ssd_io_ops ssd_uring, ssd_threads, ssd_inline;

/* Reads or writes it all; bytes done, or -errno. */
ssize_t ssd_do(int fd, const struct ssd_op *o);

#endif

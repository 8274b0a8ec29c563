/* SPDX-License-Identifier: Apache-2.0 */
/* The colder tier: blocks as records of equal size in one file of a directory, read and written
 * without waiting. A record carries its own proof (a checksum of its header, and in it one of every
 * part), so that a torn or damaged one is nothing, and a restart finds what is whole: it looks at one
 * header after the other, as operations like all others. Which block is in which record is decided
 * elsewhere (dir.h). One thread. */
#ifndef SUPERNODE_POOL_SSD_H
#define SUPERNODE_POOL_SSD_H

#include "base/err.h"
#include "pool/index.h"
#include "pool/server.h"

enum ssd_backend { SSD_AUTO, SSD_URING, SSD_THREADS, SSD_INLINE /* at once: for simulation */ };
enum { SSD_OPS_MAX = 8, SSD_ALIGN = 4096 };

struct ssd_io;
struct ssd_io_ops; /* ssd_impl.h */

struct ssd_options {
    const char *dir; /* made if it is not there */
    uint64_t bytes;  /* the file never grows beyond it */
    struct block_shape shape;
    enum ssd_backend backend; /* AUTO: io_uring where the kernel lets us, else threads */
    /* Instead of a file, where records lie otherwise (simulation), n_had of them from before. */
    const struct ssd_io_ops *ops;
    struct ssd_io *io; /* closed with it */
    uint32_t n_had;
};

struct ssd_head {
    uint64_t magic;
    struct sum check; /* of everything that follows, to the end of the header's pages */
    uint32_t version;
    struct block_shape shape;
    uint64_t rec;
    struct pool_key key;
    char tenant[POOL_TENANT_BYTES];
    struct sum sums[]; /* [block_parts] */
};

enum ssd_what { SSD_WRITE, SSD_READ, SSD_LOOK };

struct ssd_done { /* pointers are valid until the next call */
    uint32_t rec;
    enum ssd_what what;
    bool ok; /* a read: the record is whole and of the key asked for; a look: it may hold a block */
    const uint8_t *data;         /* a read's */
    const struct sum *sums;      /* a read's */
    const struct ssd_head *head; /* a look's */
};

struct ssd_stats {
    uint64_t writes, reads, write_errors, read_errors, damaged;
};

/* ST_INVALID: too few bytes for a block, or a stranger's file; ST_IO: cannot be opened, or another
 * server has it. Blocks of another shape are dropped. */
enum st ST_CHECKED ssd_open(struct ssd **out, const struct ssd_options *o, struct err *err);
void ssd_close(struct ssd *s); /* waits for what is under way; NULL is allowed */

uint32_t ssd_n_recs(const struct ssd *s);
uint64_t ssd_rec_bytes(const struct ssd *s);
const char *ssd_backend_name(const struct ssd *s);
/* Records that may have been there at open: the first of the file. */
uint32_t ssd_n_had(const struct ssd *s);

uint32_t ssd_room(const struct ssd *s); /* operations more that can begin now */
/* Begins; there is room. sums[block_parts] and data are copied. A record has one operation at a time. */
void ssd_write(struct ssd *s, uint32_t rec, const char *tenant, const struct pool_key *key,
               const struct sum *sums, const uint8_t *data);
void ssd_read(struct ssd *s, uint32_t rec, const struct pool_key *key);
void ssd_look(struct ssd *s, uint32_t rec); /* what block it holds, by its header alone */
bool ssd_poll(struct ssd *s, struct ssd_done *done);
const struct ssd_stats *ssd_stats(const struct ssd *s);

/* Of the format, for tests. */
uint32_t ssd_head_bytes(const struct block_shape *s);
bool ssd_head_ok(const struct ssd_head *h, const struct block_shape *s, uint32_t rec);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements ssd.h. The file: one page that says what it is, then records of equal size, each its
 * header (whole pages) and the block, written as one piece. Nothing is ever synced: a record that
 * was cut anywhere has a wrong checksum, and a lost block is a miss. */
#include "pool/ssd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pool/ssd_impl.h"

enum { SSD_VERSION = 2, LOCK_TRIES = 200 };
static const uint64_t FILE_MAGIC = 0x31647373706e7573;   /* "sunpssd1" */
static const uint64_t RECORD_MAGIC = 0x31636572706e7573; /* "sunprec1" */

struct file_head {
    uint64_t magic;
    uint32_t version;
    struct block_shape shape;
    uint64_t check; /* of what stands above */
};

struct ssd {
    int fd;
    struct block_shape shape;
    uint32_t head_bytes, n_recs, n_had;
    uint64_t rec_bytes;
    const struct ssd_io_ops *ops;
    struct ssd_io *io;
    struct ssd_op op[SSD_OPS_MAX];
    uint32_t n_used;
    struct ssd_stats stats;
};

static uint64_t whole_pages(uint64_t n) {
    return (n + SSD_ALIGN - 1) / SSD_ALIGN * SSD_ALIGN;
}

uint32_t ssd_head_bytes(const struct block_shape *s) {
    return (uint32_t)whole_pages(sizeof(struct ssd_head) + block_parts(s) * sizeof(struct sum));
}

static struct sum head_sum(const struct ssd_head *h, const struct block_shape *s) {
    return sum_of(&h->version, ssd_head_bytes(s) - offsetof(struct ssd_head, version));
}

bool ssd_head_ok(const struct ssd_head *h, const struct block_shape *s, uint32_t rec) {
    if (h->magic != RECORD_MAGIC || h->version != SSD_VERSION) return false;
    if (h->rec != rec || !block_shape_equal(&h->shape, s)) return false;
    if (h->tenant[0] == '\0' || strnlen(h->tenant, sizeof h->tenant) == sizeof h->tenant)
        return false;
    struct sum check = head_sum(h, s);
    return sum_equal(&check, &h->check);
}

static uint64_t rec_at(const struct ssd *s, uint32_t rec) {
    return SSD_ALIGN + rec * s->rec_bytes;
}

/* --- opening -------------------------------------------------------------------------------- */

/* A server that was killed keeps its lock until the kernel has ended what it had under way. */
static bool lock_file(int fd) {
    static const struct timespec pause = {.tv_nsec = 10000000};
    for (uint32_t i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK || i == LOCK_TRIES) return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static enum st open_file(struct ssd *s, const char *dir, struct err *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/blocks", dir) >= (int)sizeof path)
        return err_set(err, ST_INVALID, "ssd: path of %zu bytes is too long", strlen(dir));
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_set(err, ST_IO, "%s: cannot make it: %s", dir, strerror(errno));
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    s->fd = open(path, flags | O_DIRECT, 0600);
    if (s->fd < 0 && errno == EINVAL) s->fd = open(path, flags, 0600);
    if (s->fd < 0) return err_set(err, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat sb;
    if (fstat(s->fd, &sb) != 0 || !S_ISREG(sb.st_mode))
        return err_set(err, ST_INVALID, "%s: not a regular file", path);
    if (!lock_file(s->fd))
        return err_set(err, ST_IO, "%s: another server has it: %s", path, strerror(errno));
    return ST_OK;
}

static ssize_t page_io(struct ssd *s, uint8_t *page, enum ssd_what what) {
    struct ssd_op o = {.what = what, .buffer = page, .len = SSD_ALIGN};
    ssize_t n = ssd_do(s->fd, &o);
    if (n != -EINVAL) return n;
    /* a filesystem that opens files for direct access and then refuses it */
    if (fcntl(s->fd, F_SETFL, fcntl(s->fd, F_GETFL) & ~O_DIRECT) != 0) return -errno;
    return ssd_do(s->fd, &o);
}

/* Empty, begun by a pool (however far it came), or zeros, which a crash of the machine leaves of a
 * file that nobody synced. What is anything else is somebody's, and no byte of it is touched. */
static bool may_begin(const uint8_t *page, ssize_t n) {
    size_t begin = n < (ssize_t)sizeof FILE_MAGIC ? (size_t)n : sizeof FILE_MAGIC;
    if (memcmp(page, &FILE_MAGIC, begin) == 0) return true;
    for (ssize_t i = 0; i < n; i++)
        if (page[i]) return false;
    return true;
}

/* Reads the first page, or writes it into a file that is new or of another shape. */
static enum st begin_file(struct ssd *s, uint8_t *page, const char *dir, struct err *err) {
    memset(page, 0, SSD_ALIGN);
    ssize_t n = page_io(s, page, SSD_READ);
    if (n < 0) return err_set(err, ST_IO, "%s: cannot read: %s", dir, strerror((int)-n));
    struct file_head *h = (struct file_head *)(void *)page;
    if (!may_begin(page, n))
        return err_set(err, ST_INVALID, "%s/blocks: not a file of a memory pool", dir);
    size_t checked = offsetof(struct file_head, check);
    if (n == SSD_ALIGN && h->magic == FILE_MAGIC && h->version == SSD_VERSION &&
        h->check == sum64_of(h, checked) && block_shape_equal(&h->shape, &s->shape))
        return ST_OK;
    if (ftruncate(s->fd, 0) != 0)
        return err_set(err, ST_IO, "%s: cannot empty it: %s", dir, strerror(errno));
    memset(page, 0, SSD_ALIGN);
    *h = (struct file_head){.magic = FILE_MAGIC, .version = SSD_VERSION, .shape = s->shape};
    h->check = sum64_of(h, checked);
    n = page_io(s, page, SSD_WRITE);
    if (n == SSD_ALIGN) return ST_OK;
    return err_set(err, ST_IO, "%s: cannot write: %s", dir, n < 0 ? strerror((int)-n) : "no space");
}

/* How much of it there is to look at. */
static enum st measure(struct ssd *s, const char *dir, struct err *err) {
    struct stat sb;
    uint64_t end = rec_at(s, s->n_recs);
    if (fstat(s->fd, &sb) != 0 || ((uint64_t)sb.st_size > end && ftruncate(s->fd, (off_t)end) != 0))
        return err_set(err, ST_IO, "%s: cannot cut it to its size: %s", dir, strerror(errno));
    uint64_t had = (uint64_t)sb.st_size < end ? (uint64_t)sb.st_size : end;
    s->n_had = had > SSD_ALIGN ? (uint32_t)((had - SSD_ALIGN) / s->rec_bytes) : 0;
    return ST_OK;
}

static enum st open_io(struct ssd *s, enum ssd_backend backend, struct err *err) {
    static const struct ssd_io_ops *const by_name[] = {
        [SSD_URING] = &ssd_uring, [SSD_THREADS] = &ssd_threads, [SSD_INLINE] = &ssd_inline};
    s->ops = backend == SSD_AUTO ? &ssd_uring : by_name[backend];
    enum st st = s->ops->open(&s->io, s->fd, err);
    if (st && backend == SSD_AUTO) {
        s->ops = &ssd_threads;
        st = s->ops->open(&s->io, s->fd, err);
    }
    return st;
}

static enum st ssd_begin(struct ssd *s, const struct ssd_options *o, struct err *err) {
    uint64_t room = o->bytes > SSD_ALIGN ? (o->bytes - SSD_ALIGN) / s->rec_bytes : 0;
    if (room == 0)
        return err_set(err, ST_INVALID, "%s: %llu bytes, expected at least %llu: one block", o->dir,
                       (unsigned long long)o->bytes, (unsigned long long)s->rec_bytes + SSD_ALIGN);
    s->n_recs = room < 1u << 29 ? (uint32_t)room : 1u << 29;
    for (uint32_t i = 0; i < SSD_OPS_MAX; i++)
        if (posix_memalign((void **)&s->op[i].buffer, SSD_ALIGN, s->rec_bytes) != 0) {
            s->op[i].buffer = NULL;
            return err_set(err, ST_NO_MEMORY, "ssd: out of memory");
        }
    if (o->ops) {
        s->ops = o->ops;
        s->io = o->io;
        s->n_had = o->n_had < s->n_recs ? o->n_had : s->n_recs;
        return ST_OK;
    }
    enum st st = open_file(s, o->dir, err);
    if (!st) st = begin_file(s, s->op[0].buffer, o->dir, err);
    if (!st) st = measure(s, o->dir, err);
    if (!st) st = open_io(s, o->backend, err);
    return st;
}

enum st ssd_open(struct ssd **out, const struct ssd_options *o, struct err *err) {
    if (!block_shape_ok(&o->shape)) return err_set(err, ST_INVALID, "ssd: no shape of a block");
    struct ssd *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "ssd: out of memory");
    s->fd = -1;
    s->shape = o->shape;
    s->head_bytes = ssd_head_bytes(&s->shape);
    s->rec_bytes = s->head_bytes + whole_pages(block_bytes(&s->shape));
    enum st st = ssd_begin(s, o, err);
    if (st)
        ssd_close(s);
    else
        *out = s;
    return st;
}

void ssd_close(struct ssd *s) {
    if (!s) return;
    if (s->io) s->ops->close(s->io);
    if (s->fd >= 0) close(s->fd);
    for (uint32_t i = 0; i < SSD_OPS_MAX; i++) free(s->op[i].buffer);
    free(s);
}

/* --- working -------------------------------------------------------------------------------- */

uint32_t ssd_n_recs(const struct ssd *s) {
    return s->n_recs;
}
uint32_t ssd_n_had(const struct ssd *s) {
    return s->n_had;
}
uint64_t ssd_rec_bytes(const struct ssd *s) {
    return s->rec_bytes;
}
const char *ssd_backend_name(const struct ssd *s) {
    return s->ops->name;
}
uint32_t ssd_room(const struct ssd *s) {
    return SSD_OPS_MAX - s->n_used;
}
const struct ssd_stats *ssd_stats(const struct ssd *s) {
    return &s->stats;
}

static uint32_t free_op(const struct ssd *s) {
    uint32_t i = 0;
    while (i < SSD_OPS_MAX && s->op[i].used) i++;
    assert(i < SSD_OPS_MAX);
    return i;
}

static void submit(struct ssd *s, uint32_t i, enum ssd_what what, uint32_t rec, uint64_t len) {
    struct ssd_op *o = &s->op[i];
    o->used = true;
    o->what = what;
    o->rec = rec;
    o->len = (uint32_t)len;
    o->at = rec_at(s, rec);
    s->n_used++;
    s->ops->submit(s->io, i, o);
}

void ssd_write(struct ssd *s, uint32_t rec, const char *tenant, const struct pool_key *key,
               const struct sum *sums, const uint8_t *data) {
    assert(rec < s->n_recs && strlen(tenant) < POOL_TENANT_BYTES);
    uint32_t i = free_op(s);
    struct ssd_op *o = &s->op[i];
    struct ssd_head *h = (struct ssd_head *)(void *)o->buffer;
    memset(h, 0, s->head_bytes);
    h->magic = RECORD_MAGIC;
    h->version = SSD_VERSION;
    h->shape = s->shape;
    h->rec = rec;
    h->key = *key;
    memcpy(h->tenant, tenant, strlen(tenant));
    memcpy(h->sums, sums, block_parts(&s->shape) * sizeof *sums);
    h->check = head_sum(h, &s->shape);
    uint64_t bytes = block_bytes(&s->shape);
    memcpy(o->buffer + s->head_bytes, data, bytes);
    memset(o->buffer + s->head_bytes + bytes, 0, s->rec_bytes - s->head_bytes - bytes);
    s->stats.writes++;
    submit(s, i, SSD_WRITE, rec, s->rec_bytes);
}

void ssd_read(struct ssd *s, uint32_t rec, const struct pool_key *key) {
    assert(rec < s->n_recs);
    uint32_t i = free_op(s);
    s->op[i].key = *key;
    s->stats.reads++;
    submit(s, i, SSD_READ, rec, s->rec_bytes);
}

void ssd_look(struct ssd *s, uint32_t rec) {
    assert(rec < s->n_recs);
    submit(s, free_op(s), SSD_LOOK, rec, s->head_bytes);
}

static bool record_whole(const struct ssd *s, const struct ssd_op *o) {
    const struct ssd_head *h = (const struct ssd_head *)(void *)o->buffer;
    if (!ssd_head_ok(h, &s->shape, o->rec)) return false;
    if (memcmp(&h->key, &o->key, sizeof h->key) != 0) return false;
    const uint8_t *data = o->buffer + s->head_bytes;
    for (uint32_t part = 0; part < block_parts(&s->shape); part++) {
        struct sum sum =
            sum_of(data + block_part_at(&s->shape, part), block_part_bytes(&s->shape, part));
        if (!sum_equal(&sum, &h->sums[part])) return false;
    }
    return true;
}

bool ssd_poll(struct ssd *s, struct ssd_done *done) {
    uint32_t i;
    if (!s->ops->poll(s->io, &i)) return false;
    struct ssd_op *o = &s->op[i];
    o->used = false; /* its buffer stays as it is until the next call */
    s->n_used--;
    const struct ssd_head *h = (const struct ssd_head *)(void *)o->buffer;
    bool whole = o->result == (ssize_t)o->len;
    *done = (struct ssd_done){.rec = o->rec, .what = o->what, .ok = whole};
    switch (o->what) {
    case SSD_WRITE: s->stats.write_errors += !whole; break;
    case SSD_LOOK:
        done->ok = whole && ssd_head_ok(h, &s->shape, o->rec);
        done->head = h;
        s->stats.read_errors += !whole;
        break;
    case SSD_READ:
        done->ok = whole && record_whole(s, o);
        s->stats.read_errors += !whole;
        s->stats.damaged += whole && !done->ok;
        done->data = o->buffer + s->head_bytes;
        done->sums = h->sums;
        break;
    }
    return true;
}

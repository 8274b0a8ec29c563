/* SPDX-License-Identifier: Apache-2.0 */
/* Memory between processes: memfds and their seals, segments and imports, and operations, which are
 * plain copies and complete at once. */
#include "bus/shm_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus/done.h"

enum { PAGE_BYTES = 4096 };

struct segment {
    bus_id id;
    int fd;
    uint8_t *memory;
    uint64_t bytes, mapped;
    bool writable;
    bus_id *writers; /* [n_writers] peers it was shared with, where they may write */
    uint32_t n_writers;
};

/* --- memfds ----------------------------------------------------------------------------------- */

/* Sealed after it was mapped: its size stays, so that no reader is killed by SIGBUS, and, unless
 * peers may write, no new mapping is writable. Returns the fd, or -1. */
int shm_memfd(const char *name, uint64_t bytes, void **memory, bool peers_write, struct err *err) {
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (peers_write ? 0 : F_SEAL_FUTURE_WRITE);
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *m = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
        m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m != MAP_FAILED && fcntl(fd, F_ADD_SEALS, seals) == 0) {
        *memory = m;
        return fd;
    }
    err_set(err, st_from_errno(errno), "shared memory of %" PRIu64 " bytes: %s", bytes,
            strerror(errno));
    if (m != MAP_FAILED) munmap(m, bytes);
    if (fd >= 0) close(fd);
    return -1;
}

/* Memory that a peer handed over. Its size must be sealed: else the peer could shrink it under us.
 * exact: it has bytes bytes, else at least. NULL: err says why not. */
void *shm_map(int fd, uint64_t bytes, bool exact, bool writable, struct err *err) {
    struct stat s;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &s) != 0 || !(seals & F_SEAL_SHRINK)) {
        err_set(err, ST_INVALID, "what the peer handed over is no memory of a fixed size");
        return NULL;
    }
    uint64_t size = (uint64_t)s.st_size;
    if (size < bytes || (exact && size != bytes) || bytes == 0) {
        err_set(err, ST_INVALID, "the peer handed over %" PRIu64 " bytes, expected %" PRIu64, size,
                bytes);
        return NULL;
    }
    void *m = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    if (m != MAP_FAILED) return m;
    err_set(err, st_from_errno(errno), "the peer's memory cannot be mapped: %s", strerror(errno));
    return NULL;
}

/* --- segments --------------------------------------------------------------------------------- */

enum st shm_segment_new(struct bus *base, size_t bytes, enum bus_rights rights, bus_id *id,
                        void **memory, struct err *err) {
    struct shm_bus *b = shm_self(base);
    if (bytes == 0 || bytes > INT64_MAX - PAGE_BYTES)
        return err_set(err, ST_INVALID, "segment of %zu bytes", bytes);
    struct segment *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "segment: out of memory");
    *s = (struct segment){.bytes = bytes,
                          .mapped = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
                          .writable = rights == BUS_PEERS_WRITE};
    void *m;
    struct err why; /* the caller may want none */
    s->fd = shm_memfd("supernode-segment", s->mapped, &m, s->writable, &why);
    enum st st = s->fd < 0 ? err_set(err, why.code, "%s", why.text) : ST_OK;
    if (!st && !ids_add(&b->segments, b->last_id + 1, s)) {
        munmap(m, s->mapped);
        close(s->fd);
        st = err_set(err, ST_NO_MEMORY, "segment: out of memory");
    }
    if (st) {
        free(s);
        return st;
    }
    s->memory = m;
    *memory = m;
    *id = s->id = ++b->last_id;
    return ST_OK;
}

static void segment_end(struct segment *s) {
    munmap(s->memory, s->mapped);
    close(s->fd);
    free(s->writers);
    free(s);
}

void shm_segment_free(struct bus *base, bus_id segment) {
    struct shm_bus *b = shm_self(base);
    struct segment *s = ids_get(&b->segments, segment);
    if (!s) return;
    struct record freed = {.kind = RECORD_FREED, .segment = segment};
    for (uint32_t i = 0; i < b->peers.len; i++) {
        struct shm_peer *p = b->peers.v[i].thing;
        /* A peer that cannot be told keeps its mapping until it goes, and reads what was there. */
        if (p->state == PEER_UP && shm_out_send(p->out, &freed, NULL, -1)) continue;
    }
    ids_remove(&b->segments, segment);
    segment_end(s);
}

void shm_segments_end(struct shm_bus *b) {
    for (uint32_t i = 0; i < b->segments.len; i++) segment_end(b->segments.v[i].thing);
    ids_release(&b->segments);
}

bool shm_may_notify(const struct shm_bus *b, bus_id segment, bus_id peer) {
    const struct segment *s = ids_get(&b->segments, segment);
    for (uint32_t i = 0; s && i < s->n_writers; i++)
        if (s->writers[i] == peer) return true;
    return false;
}

/* Those that are gone make room. False: out of memory. */
static bool add_writer(const struct shm_bus *b, struct segment *s, bus_id peer) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_writers; i++)
        if (s->writers[i] != peer && ids_get(&b->peers, s->writers[i]))
            s->writers[n++] = s->writers[i];
    s->n_writers = n;
    bus_id *v = realloc(s->writers, (n + 1) * sizeof *v);
    if (!v) return false;
    s->writers = v;
    s->writers[s->n_writers++] = peer;
    return true;
}

enum st shm_share(struct bus *base, bus_id peer, bus_id segment, uint64_t tag) {
    struct shm_bus *b = shm_self(base);
    const struct shm_peer *p = ids_get(&b->peers, peer);
    struct segment *s = ids_get(&b->segments, segment);
    if (!s) return ST_NOT_FOUND;
    if (!p || p->state != PEER_UP) return ST_GONE;
    if (s->writable && !add_writer(b, s, peer)) return ST_NO_MEMORY;
    int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return ST_IO;
    struct record_share share = {s->bytes, s->writable};
    struct record r = {.kind = RECORD_SHARE, .len = sizeof share, .segment = segment, .value = tag};
    return shm_out_send(p->out, &r, &share, fd);
}

/* --- imports ---------------------------------------------------------------------------------- */

enum st shm_import(struct shm_bus *b, struct shm_peer *p, const struct record *r,
                   const struct record_share *s, int fd, bus_id *id, struct err *err) {
    if (p->n_imports == IMPORTS_MAX)
        return err_set(err, ST_FULL, "the peer shares more than %d segments", IMPORTS_MAX);
    if (s->bytes == 0 || s->bytes > INT64_MAX - PAGE_BYTES || s->writable > 1)
        return err_set(err, ST_CORRUPT, "the peer shares a segment of %" PRIu64 " bytes", s->bytes);
    struct import *i = calloc(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    *i = (struct import){.id = b->last_id + 1,
                         .at_owner = r->segment,
                         .refs = 1,
                         .bytes = s->bytes,
                         .mapped = (s->bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES,
                         .writable = s->writable,
                         .out = p->out,
                         .next = p->imports};
    i->memory = shm_map(fd, i->mapped, true, i->writable, err);
    if (!i->memory) {
        free(i);
        return err->code;
    }
    pthread_mutex_lock(&b->lock);
    bool added = ids_add(&b->imports, i->id, i);
    pthread_mutex_unlock(&b->lock);
    if (!added) {
        munmap(i->memory, i->mapped);
        free(i);
        return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    }
    atomic_fetch_add(&p->out->refs, 1);
    p->imports = i;
    p->n_imports++;
    *id = ++b->last_id;
    return ST_OK;
}

/* Unmapped by whoever is the last to use it. */
static void import_put(struct shm_bus *b, struct import *i) {
    pthread_mutex_lock(&b->lock);
    bool last = --i->refs == 0;
    pthread_mutex_unlock(&b->lock);
    if (!last) return;
    munmap(i->memory, i->mapped);
    shm_out_put(i->out);
    free(i);
}

void shm_imports_end(struct shm_bus *b, struct shm_peer *p, bus_id at_owner) {
    for (struct import **at = &p->imports, *i; (i = *at);) {
        if (at_owner && i->at_owner != at_owner) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        p->n_imports--;
        pthread_mutex_lock(&b->lock);
        ids_remove(&b->imports, i->id);
        pthread_mutex_unlock(&b->lock);
        import_put(b, i);
    }
}

/* --- operations ------------------------------------------------------------------------------- */

struct shm_queue {
    struct bus_queue queue;
    struct done done;
};

enum st shm_queue_new(struct bus *b, struct bus_queue **out, struct err *err) {
    struct shm_queue *q = calloc(1, sizeof *q);
    if (!q) return err_set(err, ST_NO_MEMORY, "bus queue: out of memory");
    q->queue.bus = b;
    *out = &q->queue;
    return ST_OK;
}

void shm_queue_free(struct bus_queue *q) {
    free(q);
}

uint32_t shm_completions(struct bus_queue *q, struct bus_completion *v, uint32_t max) {
    return done_take(&((struct shm_queue *)q)->done, v, max);
}

static struct import *import_hold(struct shm_bus *b, bus_id segment) {
    pthread_mutex_lock(&b->lock);
    struct import *i = ids_get(&b->imports, segment);
    if (i) i->refs++;
    pthread_mutex_unlock(&b->lock);
    return i;
}

static bool inside(const struct import *i, uint64_t offset, size_t len) {
    return len <= i->bytes && offset <= i->bytes - len;
}

enum st shm_read(struct bus_queue *base, bus_id segment, uint64_t offset, void *to, size_t len,
                 uint64_t cookie) {
    struct shm_queue *q = (struct shm_queue *)base;
    if (q->done.len == DONE_MAX) return ST_FULL;
    struct shm_bus *b = shm_self(base->bus);
    struct import *i = import_hold(b, segment);
    enum bus_status status = BUS_PEER_GONE;
    if (i) {
        status = inside(i, offset, len) ? BUS_DONE : BUS_DENIED;
        /* The lock before and after keeps reads in their order: a count, the data it speaks of. */
        if (status == BUS_DONE) bus_copy(to, i->memory + offset, len);
        import_put(b, i);
    }
    done_put(&q->done, cookie, status);
    return ST_OK;
}

enum st shm_write(struct bus_queue *base, bus_id segment, uint64_t offset, const void *from,
                  size_t len, bool notify, uint64_t value, uint64_t cookie) {
    struct shm_queue *q = (struct shm_queue *)base;
    if (q->done.len == DONE_MAX) return ST_FULL;
    struct shm_bus *b = shm_self(base->bus);
    struct import *i = import_hold(b, segment);
    enum bus_status status = BUS_PEER_GONE;
    enum st st = ST_OK;
    if (i) {
        status = i->writable && inside(i, offset, len) ? BUS_DONE : BUS_DENIED;
        if (status == BUS_DONE) bus_copy(i->memory + offset, from, len);
        struct record r = {.kind = RECORD_NOTIFY, .segment = i->at_owner, .value = value};
        if (status == BUS_DONE && notify) st = shm_out_send(i->out, &r, NULL, -1);
        if (st == ST_GONE) status = BUS_PEER_GONE, st = ST_OK;
        import_put(b, i);
    }
    if (!st) done_put(&q->done, cookie, status);
    return st;
}

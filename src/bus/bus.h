/* SPDX-License-Identifier: Apache-2.0 */
/* The Unified Bus: memory semantics between processes (contracts 8). An endpoint registers segments
 * and shares them with peers; a peer that imported one reads it, writes it, or writes it and
 * notifies its owner, without the owner's help. Beside that there are messages, in order and whole.
 * The bus does not know what the bytes mean, and it only suspects: who is dead is decided elsewhere.
 *
 * Behind this interface: shared memory between processes of one host (shm.h), one process
 * (sim/core/inproc.h: tests), the simulator (sim/core/sim_bus.h); later TLS over TCP, and UCX.
 *
 * Threads: an endpoint belongs to one thread, but for bus_wake and for queues, each of which belongs
 * to the thread that uses it. Ids count up and are never used again. */
#ifndef SUPERNODE_BUS_BUS_H
#define SUPERNODE_BUS_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    BUS_VERSION = 1,
    BUS_NAME_BYTES = 32,
    BUS_MODEL_ID_BYTES = 65,
    BUS_PROFILE_BYTES = 16,
    BUS_HELLO_BYTES = 256,
    BUS_ADDRESS_BYTES = 108,
    BUS_MESSAGE_MAX = 64 << 20, /* bytes; larger ones are refused */
    /* Bytes that wait for a peer to read; then bus_send says ST_FULL. An endpoint may set less. */
    BUS_UNSENT_MAX = 256 << 20,
};

typedef uint64_t bus_id; /* a peer, or a segment; 0: none */

/* What two endpoints tell each other in the handshake, after both proved that they know the
 * cluster's secret. Refused with a sentence: another version; another model_id or profile, where
 * both have one. hello is the upper layer's and delivered as it is. */
struct bus_identity {
    char name[BUS_NAME_BYTES];
    char model_id[BUS_MODEL_ID_BYTES]; /* "": any */
    char profile[BUS_PROFILE_BYTES];   /* numeric profile; "": any */
    uint8_t hello[BUS_HELLO_BYTES];
    uint32_t hello_len;
};

enum bus_event_kind {
    BUS_UP,      /* a peer is there: asked for by bus_connect, or it came by itself */
    BUS_REFUSED, /* bus_connect's peer never came up: text says why; nothing more of it comes */
    BUS_MESSAGE,
    BUS_SEGMENT,   /* the peer shared a segment: segment is imported, value is its tag */
    BUS_NOTIFY,    /* the peer wrote into our segment and notified: value */
    BUS_SUSPENDED, /* silent for longer than the timeout; not dead */
    BUS_RESUMED,   /* heard again */
    BUS_GONE,      /* closed (at once for a killed process); the peer's last event */
};

struct bus_event { /* pointers are valid until the next call of bus_next */
    enum bus_event_kind kind;
    bus_id peer;
    bus_id segment;                      /* SEGMENT: imported; NOTIFY: ours */
    const struct bus_identity *identity; /* UP: the peer's */
    const void *data;                    /* MESSAGE */
    size_t len;                          /* MESSAGE: bytes; SEGMENT: size of the segment */
    uint64_t value;   /* REFUSED: 1: by the peer, for what we are; 0: nobody answered */
    const char *text; /* REFUSED, GONE */
};

enum bus_rights { BUS_PEERS_READ, BUS_PEERS_WRITE /* and read */ };

enum bus_status {
    BUS_DONE,
    BUS_DENIED,    /* past the segment's end, or no right to write */
    BUS_TIMED_OUT, /* the peer's memory did not answer */
    BUS_FLUSHED,   /* the queue is being freed */
    BUS_PEER_GONE, /* the segment's owner is gone, or its connection was closed here */
};
struct bus_completion {
    uint64_t cookie;
    enum bus_status status;
};

struct bus;
struct bus_queue; /* one-sided operations of one thread */

struct bus_ops {
    bool (*next)(struct bus *b, struct bus_event *ev);
    void (*wait)(struct bus *b, uint64_t until_ns);
    void (*wake)(struct bus *b);
    uint64_t (*now)(struct bus *b);
    bus_id (*connect)(struct bus *b, const char *address);
    void (*close)(struct bus *b, bus_id peer);
    enum st (*send)(struct bus *b, bus_id peer, const void *data, size_t len);
    enum st (*segment_new)(struct bus *b, size_t bytes, enum bus_rights rights, bus_id *id,
                           void **memory, struct err *err);
    void (*segment_free)(struct bus *b, bus_id segment);
    enum st (*share)(struct bus *b, bus_id peer, bus_id segment, uint64_t tag);
    enum st (*queue_new)(struct bus *b, struct bus_queue **out, struct err *err);
    void (*queue_free)(struct bus_queue *q);
    enum st (*read)(struct bus_queue *q, bus_id segment, uint64_t offset, void *to, size_t len,
                    uint64_t cookie);
    enum st (*write)(struct bus_queue *q, bus_id segment, uint64_t offset, const void *from,
                     size_t len, bool notify, uint64_t value, uint64_t cookie);
    uint32_t (*completions)(struct bus_queue *q, struct bus_completion *v, uint32_t max);
    void (*free)(struct bus *b);
};
/* Implementations begin with these. */
struct bus {
    const struct bus_ops *ops;
};
struct bus_queue {
    struct bus *bus;
};

/* The next thing that happened; false: nothing now. Does not wait. */
static inline bool bus_next(struct bus *b, struct bus_event *ev) {
    return b->ops->next(b, ev);
}
/* Sleeps until something happened, bus_wake was called since the last wait, or until_ns (of
 * bus_now). The simulated bus returns at once: its world says when to come again. */
static inline void bus_wait(struct bus *b, uint64_t until_ns) {
    b->ops->wait(b, until_ns);
}
static inline void bus_wake(struct bus *b) { /* any thread */
    b->ops->wake(b);
}
static inline uint64_t bus_now(struct bus *b) { /* ns; any thread */
    return b->ops->now(b);
}

/* Begins to connect; UP or REFUSED comes later, with this id. */
static inline bus_id bus_connect(struct bus *b, const char *address) {
    return b->ops->connect(b, address);
}
/* At once, and nothing more comes of it here; the peer sees GONE. What was sent before may be lost.
 * An unknown peer is ignored. */
static inline void bus_close(struct bus *b, bus_id peer) {
    b->ops->close(b, peer);
}
/* Copied; arrives whole and in order, or the peer goes. ST_GONE, ST_FULL, ST_INVALID (too long). */
static inline enum st ST_CHECKED bus_send(struct bus *b, bus_id peer, const void *data,
                                          size_t len) {
    return b->ops->send(b, peer, data, len);
}

/* Zeroed memory of this endpoint that peers may import: page-aligned, written by plain stores here. */
static inline enum st ST_CHECKED bus_segment_new(struct bus *b, size_t bytes,
                                                 enum bus_rights rights, bus_id *id, void **memory,
                                                 struct err *err) {
    return b->ops->segment_new(b, bytes, rights, id, memory, err);
}
/* Peers' later operations on it fail or read what was there last; the memory is unmapped here. */
static inline void bus_segment_free(struct bus *b, bus_id segment) {
    b->ops->segment_free(b, segment);
}
/* The peer imports it: SEGMENT with this tag, in order with messages. ST_GONE, ST_IO. */
static inline enum st ST_CHECKED bus_share(struct bus *b, bus_id peer, bus_id segment,
                                           uint64_t tag) {
    return b->ops->share(b, peer, segment, tag);
}

/* For the calling thread. */
static inline enum st ST_CHECKED bus_queue_new(struct bus *b, struct bus_queue **out,
                                               struct err *err) {
    return b->ops->queue_new(b, out, err);
}
/* Operations that are not complete are given up; buffers are the caller's again. NULL is allowed. */
static inline void bus_queue_free(struct bus_queue *q) {
    if (q) q->bus->ops->queue_free(q);
}
/* Submits; every accepted operation completes once, in any order, and its buffer is lent until
 * then. What was read may have changed meanwhile: words of 8 aligned bytes are never torn, larger
 * pieces may be. ST_FULL: take completions first. ST_NO_MEMORY. */
static inline enum st ST_CHECKED bus_read(struct bus_queue *q, bus_id segment, uint64_t offset,
                                          void *to, size_t len, uint64_t cookie) {
    return q->bus->ops->read(q, segment, offset, to, len, cookie);
}
static inline enum st ST_CHECKED bus_write(struct bus_queue *q, bus_id segment, uint64_t offset,
                                           const void *from, size_t len, uint64_t cookie) {
    return q->bus->ops->write(q, segment, offset, from, len, false, 0, cookie);
}
/* The owner gets NOTIFY with value, and then sees what was written. */
static inline enum st ST_CHECKED bus_write_notify(struct bus_queue *q, bus_id segment,
                                                  uint64_t offset, const void *from, size_t len,
                                                  uint64_t value, uint64_t cookie) {
    return q->bus->ops->write(q, segment, offset, from, len, true, value, cookie);
}
static inline uint32_t bus_completions(struct bus_queue *q, struct bus_completion *v,
                                       uint32_t max) {
    return q->bus->ops->completions(q, v, max);
}

/* Closes every peer and frees every segment. Queues must have been freed. NULL is allowed. */
static inline void bus_free(struct bus *b) {
    if (b) b->ops->free(b);
}

/* Plain loads and stores of memory that another process may be writing: the one copy that is exempt
 * from TSan (copy.c). 8-byte aligned words are copied whole. */
void bus_copy(void *to, const void *from, size_t len);

#endif

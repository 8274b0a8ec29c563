/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the bus over shared memory. What a peer can write (rings, packets, memory it shares) is
 * checked wherever it is read; indexes that decide anything here have a copy that no peer reaches.
 *
 * The owner's thread runs everything but the heartbeat and queues; those take shm_bus.lock to find a
 * segment, and shm_out.lock to notify. */
#ifndef SUPERNODE_BUS_SHM_IMPL_H
#define SUPERNODE_BUS_SHM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "bus/ids.h"
#include "bus/shm.h"

enum {
    RING_BYTES = 256 << 10,
    BOARD_BYTES = 4096,
    HALF_MAX = 32,      /* handshakes of strangers at a time */
    FDS_MAX = 256,      /* handed over, their record not read yet */
    IMPORTS_MAX = 1024, /* of one peer */
    NONCE_BYTES = 32,
    MAC_BYTES = 32,
    TEXT_BYTES = 256,
};

/* --- shared memory ---------------------------------------------------------------------------- */

/* Written by its owner, read by every peer. */
struct board {
    _Atomic uint64_t beats;
    _Atomic uint32_t sleeps; /* odd: the owner sleeps, and wants a kick when something came */
};

/* A stream of records, written by one peer; made by who reads it. Indexes only grow. */
struct ring {
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint64_t head;
    _Atomic uint32_t writer_waits; /* and wants a kick when there is room */
    _Alignas(4096) uint8_t bytes[RING_BYTES];
};

enum record_kind { RECORD_MESSAGE = 1, RECORD_SHARE, RECORD_FREED, RECORD_NOTIFY };
struct record { /* then len bytes, padded to 8 */
    uint32_t kind, len;
    uint64_t segment, value; /* segment: the owner's id; value: of SHARE the tag */
};
struct record_share {
    uint64_t bytes, writable;
};

/* --- shm_ring.c ------------------------------------------------------------------------------- */

struct ring_in {
    struct ring *ring;
    uint64_t head; /* ours; the one in the ring is for the writer */
    bool begun;
    struct record record;
    uint8_t *data;
    size_t cap, done;
};

static inline bool ring_in_ready(const struct ring_in *in) {
    return atomic_load(&in->ring->tail) != in->head;
}
/* *whole: record and data are there, until the next call. Says what is wrong with the ring. */
enum st ST_CHECKED ring_take(struct ring_in *in, bool *whole, struct err *err);

struct ring_out {
    struct ring *ring;
    uint64_t tail;
};
/* A record on its way: begun, and how much of its data is written. */
struct ring_record {
    struct record record;
    const uint8_t *data;
    size_t done;
    bool begun;
};
/* Writes what there is room for. */
enum st ST_CHECKED ring_put(struct ring_out *out, struct ring_record *r, bool *whole,
                            struct err *err);

/* --- peers ------------------------------------------------------------------------------------ */

struct out_item {
    struct out_item *next;
    struct ring_record r;
    int fd; /* SHARE: goes over the socket first; -1: none, or gone */
    uint8_t data[];
};

/* What goes to a peer: the owner's thread and queues write here. */
struct shm_out {
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    int socket; /* -1: over */
    struct ring_out ring;
    const struct board *board; /* the peer's */
    uint32_t kicked;           /* the sleep for which it was kicked */
    struct out_item *first, **end;
    uint64_t unsent, unsent_max; /* bytes in items */
    _Atomic uint32_t n_items;
};

enum peer_state {
    OUT_CONNECT, /* the listener's queue is full: again later */
    OUT_CHALLENGE,
    OUT_WELCOME,
    IN_HELLO,
    IN_PROOF,
    IN_READY,
    PEER_UP,
    PEER_ENDED,
};

struct import {
    bus_id id, at_owner;
    uint32_t refs; /* under shm_bus.lock: the table, and operations */
    uint8_t *memory;
    uint64_t bytes, mapped;
    bool writable;
    struct shm_out *out; /* to its owner */
    struct import *next; /* of the peer */
};

struct shm_peer {
    struct shm_peer *next_dead;
    bus_id id; /* 0: a stranger */
    enum peer_state state;
    int socket;
    char address[BUS_ADDRESS_BYTES]; /* where we connected */
    struct bus_identity identity, ours;
    uint8_t nonce_client[NONCE_BYTES], nonce_server[NONCE_BYTES];
    uint64_t deadline_ns; /* of the handshake */
    struct ring_in in;
    struct shm_out *out;
    int fds[FDS_MAX];
    uint32_t n_fds;
    struct import *imports;
    uint32_t n_imports;
    uint64_t beats, heard; /* what its board said last; our beats when that was new */
    bool suspended, closed /* by the peer: what is in the ring is still read */;
    bool unwanted; /* it will not have us, or we not it */
    uint64_t closed_tail;
};

struct shm_pend { /* an event that did not come through a ring */
    struct shm_pend *next;
    struct bus_event ev;
    struct bus_identity identity;
    char text[512];
};

struct shm_bus {
    struct bus bus;
    char address[BUS_ADDRESS_BYTES];
    uint8_t *secret;
    size_t secret_len;
    struct bus_identity identity;
    uint64_t handshake_ns, beat_ns, spin_ns, unsent_max;
    uint64_t deaf_until_ns; /* no descriptor for who comes: not listened to; 0: it is */
    uint32_t beats_max;     /* of silence */
    int epoll, listener, wake_fd, board_fd;
    dev_t dev; /* of the socket's file, to remove no other's */
    ino_t ino;
    struct board *board;
    bus_id last_id;
    struct ids peers, segments; /* struct shm_peer (ours that connect, and up), struct segment */
    struct shm_peer *half[HALF_MAX]; /* strangers, the oldest first */
    uint32_t n_half, n_connecting, turn;
    struct shm_peer *dead; /* freed at the next call of next: pointers into it may be out */
    struct shm_pend *first, **end, *taken;
    uint64_t polled_ns, judged; /* judged: at this beat of ours */
    _Atomic bool woken;
    pthread_mutex_t lock;
    struct ids imports; /* struct import */
    pthread_t heart;
    pthread_mutex_t heart_lock;
    pthread_cond_t heart_stop;
    bool heart_over;
};

static inline struct shm_bus *shm_self(struct bus *b) {
    return (struct shm_bus *)b;
}

/* shm.c */
struct bus_event *shm_pend(struct shm_bus *b, enum bus_event_kind kind, bus_id peer,
                           const struct bus_identity *identity, const char *text);
void shm_peer_end(struct shm_bus *b, struct shm_peer *p);
/* The other side's fault, or its end: REFUSED or GONE with the sentence, and the peer ends. */
void shm_peer_fail(struct shm_bus *b, struct shm_peer *p, const char *why);

/* shm_socket.c: the socket, and the handshake over it */
enum st ST_CHECKED shm_listen(struct shm_bus *b, struct err *err);
void shm_listen_end(struct shm_bus *b);
void shm_accept(struct shm_bus *b, uint64_t now_ns);
void shm_connect_step(struct shm_bus *b, struct shm_peer *p);
/* It is readable. False: nothing is left there, or the peer ended. */
bool shm_socket_step(struct shm_bus *b, struct shm_peer *p);
enum st ST_CHECKED shm_watch(struct shm_bus *b, int fd, void *what);
void shm_handshake_step(struct shm_bus *b, struct shm_peer *p, const void *data, size_t len,
                        const int *fds, uint32_t n_fds); /* shm_handshake.c; fds are the caller's */
void shm_handshake_begin(struct shm_bus *b, struct shm_peer *p);
bool shm_socket_send(int socket, const void *data, size_t len, const int *fds, uint32_t n_fds);

/* shm_out.c */
enum st ST_CHECKED shm_out_new(struct shm_out **out, int socket, int ring_fd, int board_fd,
                               struct err *err);
void shm_out_put(struct shm_out *o);
void shm_out_end(struct shm_out *o); /* nothing is sent any more */
/* fd: sent first, and closed; -1: none */
enum st ST_CHECKED shm_out_send(struct shm_out *o, const struct record *r, const void *data,
                                int fd);
enum st ST_CHECKED shm_out_flush(struct shm_out *o, struct err *err);
void shm_out_kick(struct shm_out *o); /* there is room in the ring it writes */

/* shm_memory.c: memfds, segments, imports, queues */
int shm_memfd(const char *name, uint64_t bytes, void **memory, bool peers_write, struct err *err);
void *shm_map(int fd, uint64_t bytes, bool exact, bool writable, struct err *err);
enum st ST_CHECKED shm_import(struct shm_bus *b, struct shm_peer *p, const struct record *r,
                              const struct record_share *s, int fd, bus_id *id, struct err *err);
void shm_imports_end(struct shm_bus *b, struct shm_peer *p, bus_id at_owner /* 0: all */);
/* The segment is there, and the peer was given it to write. */
bool shm_may_notify(const struct shm_bus *b, bus_id segment, bus_id peer);
void shm_segments_end(struct shm_bus *b);
enum st shm_segment_new(struct bus *b, size_t bytes, enum bus_rights rights, bus_id *id,
                        void **memory, struct err *err);
void shm_segment_free(struct bus *b, bus_id segment);
enum st shm_share(struct bus *b, bus_id peer, bus_id segment, uint64_t tag);
enum st shm_queue_new(struct bus *b, struct bus_queue **out, struct err *err);
void shm_queue_free(struct bus_queue *q);
enum st shm_read(struct bus_queue *q, bus_id segment, uint64_t offset, void *to, size_t len,
                 uint64_t cookie);
enum st shm_write(struct bus_queue *q, bus_id segment, uint64_t offset, const void *from,
                  size_t len, bool notify, uint64_t value, uint64_t cookie);
uint32_t shm_completions(struct bus_queue *q, struct bus_completion *v, uint32_t max);

#endif

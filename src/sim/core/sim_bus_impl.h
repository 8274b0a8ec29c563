/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the simulated bus: what endpoints, connections and operations are. A connection has two
 * sides, each the property of one endpoint; whatever is under way holds the connection and comes to
 * a side, which decides at that moment what it means: so a fault changes a state and needs to look
 * for nothing. */
#ifndef SUPERNODE_SIM_CORE_SIM_BUS_IMPL_H
#define SUPERNODE_SIM_CORE_SIM_BUS_IMPL_H

#include "bus/done.h"
#include "bus/ids.h"
#include "sim/core/sim_net.h"

/* Registered memory: held by its owner, by who imported it and by operations under way. */
struct sim_memory {
    uint32_t refs;
    bus_id id; /* the owner's */
    uint64_t bytes;
    enum bus_rights rights;
    bool freed;
    uint8_t *data;
    void *allocated;
};

struct sim_import {
    bus_id id;
    struct sim_memory *memory;
    struct sim_side *side; /* whose peer owns the memory */
    struct sim_import *next;
};

enum sim_side_state {
    SIDE_NONE,
    SIDE_CONNECTING,
    SIDE_UP,
    SIDE_GONE /* told, not taken */,
    SIDE_OVER
};

struct sim_side {
    enum sim_side_state state;
    unsigned index;
    struct sim_conn *conn;
    struct sim_bus *bus; /* NULL: over */
    bus_id id;
    struct bus_identity identity; /* its endpoint's */
    bool sees_silence;            /* SUSPENDED was said */
    bool dead;                    /* its peer was killed */
    uint64_t last_due;            /* of what comes to this side: nothing overtakes */
    uint64_t unread;              /* bytes of messages under way to it, or not taken */
    struct sim_import *imports;
};

struct sim_conn {
    uint32_t refs;
    bool broken;
    struct sim_side side[2]; /* 0: who connected */
    struct sim_conn *next_parked;
    char address[BUS_ADDRESS_BYTES];
};

/* Something that comes to a side. */
struct sim_item {
    struct sim_item *next;
    struct sim_side *to;
    struct bus_event ev;
    /* What the owner says: when it goes out, once its clock is there; how long the sender had stood
     * still before; and how long it then takes. */
    uint64_t from_ns, held_ns, delay_ns;
    struct sim_memory *memory; /* SEGMENT, NOTIFY */
    char bytes[];              /* data, or text */
};

struct sim_op {
    struct sim_queue *queue;    /* NULL: given up */
    struct sim_op *prev, *next; /* of the queue */
    struct sim_op *next_parked;
    struct sim_side *side;     /* NULL: there is no such segment */
    struct sim_memory *memory; /* NULL likewise */
    uint64_t offset, value, cookie, split;
    uint8_t *local;
    size_t len;
    bool write, notify, half_done, upper_first;
};

struct sim_queue {
    struct bus_queue queue;
    struct sim_op *ops;
    uint32_t n_ops;
    struct done done;
};

struct sim_bus {
    struct bus bus;
    struct sim_net *net;
    struct sim_bus *next, **link;
    char address[BUS_ADDRESS_BYTES];
    struct bus_identity identity;
    bus_id last_id;
    struct ids sides, segments, imports;   /* struct sim_side, memory, import */
    struct sim_item *first, **end, *taken; /* taken: the caller still looks at it */
    bool news, stopped, killed;
    const uint64_t *clock_ns;              /* NULL: the net's */
    uint64_t stops, stopped_ns, held_ns;   /* held: for how long it was stopped, all in all */
    struct sim_item *unsaid, **unsaid_end; /* of a stopped endpoint: what it was about to say */
    struct sim_op *parked_ops;             /* of a stopped endpoint: they happen when it goes on */
    struct sim_conn *parked_conns;
};

static inline struct sim_bus *sim_self(struct bus *b) {
    return (struct sim_bus *)b;
}

static inline struct sim_side *sim_other(struct sim_side *s) {
    return &s->conn->side[1 - s->index];
}

struct sim_conn *sim_conn_hold(struct sim_conn *c);
void sim_conn_put(struct sim_conn *c);
void sim_memory_put(struct sim_memory *m); /* NULL is allowed */

struct sim_item *sim_item_new(struct sim_side *to, enum bus_event_kind kind, const void *bytes,
                              size_t len);
/* It comes in its turn, after a delay. */
void sim_post(struct sim_net *n, struct sim_item *i);
/* The same for what the owner says, whose clock may run ahead: it goes out when it is there. */
void sim_say(struct sim_bus *b, struct sim_item *i);

/* sim_memory.c: segments and operations on them, as bus.h has them */
enum st sim_segment_new(struct bus *b, size_t bytes, enum bus_rights rights, bus_id *id,
                        void **memory, struct err *err);
void sim_segment_free(struct bus *b, bus_id segment);
enum st sim_share(struct bus *b, bus_id peer, bus_id segment, uint64_t tag);
enum st sim_queue_new(struct bus *b, struct bus_queue **out, struct err *err);
void sim_queue_free(struct bus_queue *q);
enum st sim_read(struct bus_queue *q, bus_id segment, uint64_t offset, void *to, size_t len,
                 uint64_t cookie);
enum st sim_write(struct bus_queue *q, bus_id segment, uint64_t offset, const void *from,
                  size_t len, bool notify, uint64_t value, uint64_t cookie);
uint32_t sim_completions(struct bus_queue *q, struct bus_completion *v, uint32_t max);
void sim_ops_continue(struct sim_bus *b); /* those that were parked happen now */
void sim_ops_drop(struct sim_bus *b);     /* or never */

#endif

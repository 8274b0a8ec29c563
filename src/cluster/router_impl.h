/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the router, shared by router.c (life, members, ctl), router_flights.c (requests) and
 * router_place.c (who gets them); nobody else includes it. */
#ifndef SUPERNODE_CLUSTER_ROUTER_IMPL_H
#define SUPERNODE_CLUSTER_ROUTER_IMPL_H

#include "cluster/proto.h"
#include "cluster/router.h"

enum {
    HINTS = 1 << 14, /* blocks that a worker is believed to have */
    ROUTE_BUCKETS = 1024,
    CHOICE_ALL = UINT32_MAX
};

struct mate {          /* a member */
    struct mate *next; /* in the order of joining */
    bus_id peer;
    struct member_info info;
    bool broken;                          /* a message to it was lost */
    uint32_t n_flights, n_asked;          /* asked: for room, no answer yet */
    uint64_t prefill_rows;                /* prompt tokens that wait or are computed there */
    uint64_t kv_tokens;                   /* of requests that decode there, or will */
    uint64_t full_until_ns, suspended_ns; /* it had no room; is silent */
    uint64_t *hints; /* [HINTS] first bytes of block keys, where they hash to; prefill workers */
    struct rates {
        uint64_t at_ns, prompt, generated;
    } before;
};

enum flight_state {
    FLIGHT_QUEUED,
    FLIGHT_RESERVING, /* the decode worker was asked for room */
    FLIGHT_PREFILL,   /* the prefill worker computes */
    FLIGHT_DECODE     /* the decode worker has it, or takes it over */
};

/* One attempt at a request, or at one choice of it. */
struct route {                    /* (a flight, from here) */
    struct route *next, *prev;    /* of all, by rank */
    struct route *next_in_bucket; /* by id */
    struct ticket *ticket;
    uint64_t order;  /* of making */
    uint64_t id;     /* the flight's number, new each time room is asked for; 0: not yet */
    uint32_t choice; /* CHOICE_ALL: none has a token yet */
    enum flight_state state;
    struct mate *prefill, *decode;
    struct mate *lender; /* its pages may still be needed: until the first token from decode */
    bool refused;        /* a decode worker had no room: nobody overtakes it now */
    uint32_t attempts;
    uint64_t
        first[REQUEST_CHOICES_MAX / 64]; /* choices that have their next token by this flight */
    uint64_t rows, kv;                   /* counted at its workers */
    uint64_t queued_ns;                  /* since when no worker has it, */
    uint64_t alone_ns;                   /* and since when there is none at all; 0: there is */
    uint64_t retry_ns;                   /* not before */
    uint64_t renew_ns;
};

struct ticket {                 /* a request */
    struct ticket *next, *prev; /* by arrival */
    struct request *q;
    struct engine_sink sink;
    void *ctx;
    int32_t priority; /* the request's, or first of all after a long wait */
    uint64_t order, arrived_ns, deadline_ns, first_ns, last_ns;
    uint32_t n_routes, n_told; /* prompt logprobs */
    uint32_t n_tokens;
};

struct router {
    struct router_options o;
    struct mate *mates;
    struct route *routes, *last_route;
    struct ticket *tickets, *last_ticket;
    struct route *buckets[ROUTE_BUCKETS];
    uint64_t n_routes_ever, n_flights_ever, n_tickets_ever, epoch;
    uint64_t asked_rows;        /* of flights that wait for an answer about room */
    uint32_t n_queued;          /* flights in FLIGHT_QUEUED */
    uint64_t late_ns, renew_ns; /* no request is late, no room to be renewed before */
    bool changed;               /* the list of members is to be told */
    struct buf message;
    struct cluster_view view; /* counters and events */
    struct engine_stats stats;
    uint64_t rate_at_ns, rate_requests;
};

static inline bool in_flight(const struct route *f, uint32_t choice) {
    return f->choice == CHOICE_ALL || f->choice == choice;
}
/* The choice whose rows are the flight's. */
static inline uint32_t leader_of(const struct route *f) {
    const struct request *q = f->ticket->q;
    uint32_t i = 0;
    while (i + 1 < q->n_choices && (q->choices[i].finish || !in_flight(f, i))) i++;
    return i;
}

/* router.c */
struct wire_out router_begin(struct router *r, enum proto_kind kind);
void router_send(struct router *r, struct mate *m, const struct wire_out *w);
void router_tell(struct router *r, struct mate *m, enum proto_kind kind, uint64_t flight);
void router_say(struct router *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool mate_may(const struct mate *m, enum member_role role); /* new work of this kind may go there */

/* router_place.c; NULL: nobody at present */
struct mate *place_prefill(struct router *r, const struct route *f,
                           uint64_t *rows); /* rows: to compute */
struct mate *place_decode(struct router *r, uint64_t now_ns);
bool place_room(const struct router *r); /* some prefill worker may be sent more */

/* router_flights.c */
/* False: it cannot be read. */
bool flights_message(struct router *r, struct mate *m, uint8_t kind, struct wire_in *in);
void flights_mate_gone(struct router *r, struct mate *m);
void flights_dispatch(struct router *r, uint64_t now_ns); /* what waits, deadlines, leases */
uint64_t flights_due(const struct router *r, uint64_t now_ns);
void flights_free(struct router *r);

#endif

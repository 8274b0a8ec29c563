/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the router, shared by router.c (life, members, ctl), router_flights.c (requests and
 * where they are), router_wait.c (what waits, and for what), router_words.c (what workers say) and
 * router_place.c (who gets them); nobody else includes it. */
#ifndef SUPERNODE_CLUSTER_ROUTER_IMPL_H
#define SUPERNODE_CLUSTER_ROUTER_IMPL_H

#include "base/heap.h"
#include "cluster/proto.h"
#include "cluster/router.h"

enum {
    HINTS = 1 << 14, /* blocks that a worker is believed to have */
    BUCKETS = 1 << 14,
    CHOICE_ALL = UINT32_MAX,
    ROUTER_FULL_NS = 5000000 /* a worker without room is asked again after so long */
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
    FLIGHT_DECODE,    /* the decode worker has it, or takes it over */
    FLIGHT_STATES
};

/* The orders in which flights wait, each a heap, so that a message costs the same however many wait.
 * Which of them a flight is in follows from its state alone: wait_file. */
enum route_order {
    ORDER_READY,  /* by rank: queued and may be asked for now, or was refused and is asked for */
    ORDER_RETRY,  /* by retry_ns: what else is queued */
    ORDER_STARVE, /* by queued_ns: queued, and not raised yet */
    ORDER_ALONE,  /* by since_ns: queued */
    ORDER_RENEW,  /* by renew_ns: its room waits for rows */
    ORDER_BUSY,   /* in none: some worker has it */
    ORDER_DUE,    /* by rank, and for a moment: those whose time has come */
    ROUTE_ORDERS
};

/* One attempt at a request, or at one choice of it. */
struct route {                    /* (a flight, from here) */
    struct route *next, *prev;    /* of its request, by making */
    struct route *next_in_bucket; /* by id */
    struct heap_node nodes[ROUTE_ORDERS];
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
    uint64_t queued_ns;                  /* when it was made */
    uint64_t since_ns;                   /* and when it was queued last */
    uint64_t retry_ns;                   /* not before */
    uint64_t renew_ns;
};

struct ticket {                    /* a request */
    struct ticket *next, *prev;    /* by arrival */
    struct ticket *next_in_bucket; /* by q */
    struct route *routes, *last_route;
    struct heap_node late;
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
    struct ticket *tickets, *last_ticket;
    struct route *buckets[BUCKETS];
    struct ticket *ticket_buckets[BUCKETS];
    struct heap orders[ROUTE_ORDERS], late; /* late: of tickets, by deadline */
    uint64_t n_routes_ever, n_flights_ever, n_tickets_ever, epoch;
    uint64_t asked_rows; /* of flights that wait for an answer about room */
    uint32_t n_tickets, n_routes;
    uint32_t n_in[FLIGHT_STATES]; /* flights by state */
    uint64_t late_ns, renew_ns;   /* no request is late, no room to be renewed before */
    uint64_t alone_ns; /* since when a role has had no worker while some were queued; 0: none */
    uint64_t visited;  /* flights looked at one by one, and by the heaps' counts: what it costs */
    bool changed;      /* the list of members is to be told */
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

/* router_flights.c: what a flight goes through */
void route_answered(struct router *r, struct route *f); /* about room, or it needs none now */
void route_set_state(struct router *r, struct route *f, enum flight_state state);
void route_leave_prefill(struct route *f);
void route_leave_decode(struct route *f);             /* and its state is set next */
void route_recall(struct router *r, struct route *f); /* nobody works on it any more */
bool route_reserve(struct router *r, struct route *f, struct mate *m, uint64_t now_ns);
bool route_prefill(struct router *r, struct route *f, uint64_t now_ns);
/* Frees it; moved: somebody died. */
void route_lose(struct router *r, struct route *f, uint64_t now_ns, bool moved);
void ticket_end(struct router *r, struct ticket *t, const struct err *err, bool cancelled);
struct route *route_find(const struct router *r, uint64_t id);
void flights_mate_gone(struct router *r, struct mate *m);
void flights_free(struct router *r);

/* router_wait.c */
void wait_init(struct router *r);
bool wait_reserve(struct router *r);                 /* room for a request and a flight more */
void wait_file(struct router *r, struct route *f);   /* after any change of what it waits for */
void wait_forget(struct router *r, struct route *f); /* before it is freed, or its rank changes */
void wait_due_at(struct router *r, const struct mate *m); /* what it has is due */
struct route *wait_due_first(const struct router *r);
void wait_renew_at(struct router *r, struct route *f, uint64_t at_ns);
uint64_t wait_renew_every(const struct router *r);
void flights_dispatch(struct router *r, uint64_t now_ns); /* what waits, deadlines, leases */
uint64_t flights_due(const struct router *r, uint64_t now_ns);

/* router_words.c */
/* False: it cannot be read. */
bool flights_message(struct router *r, struct mate *m, uint8_t kind, struct wire_in *in);

#endif

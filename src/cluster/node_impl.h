/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a worker, shared by node.c (life, flights, the router's word), node_peers.c (other
 * workers), node_prefill.c (computing for others) and node_decode.c (taking over); nobody else includes
 * it. */
#ifndef SUPERNODE_CLUSTER_NODE_IMPL_H
#define SUPERNODE_CLUSTER_NODE_IMPL_H

#include "cluster/member.h"
#include "cluster/node.h"
#include "cluster/pull.h"

enum { NODE_CHOICES_MAX = REQUEST_CHOICES_MAX, BOARD_NONE = UINT32_MAX };

/* Another worker, over one connection. */
struct node_peer {
    struct node_peer *next;
    bus_id peer;
    char name[BUS_NAME_BYTES];
    uint64_t epoch; /* as it said itself; 0: not yet */
    bus_id pages, board;
    uint32_t n_pages;
    bool up, broken; /* broken: a message to it was lost */
};

enum flight_stage {
    FLIGHT_LOOKUP,   /* prefill: the pool is asked */
    FLIGHT_COMPUTED, /* prefill: the engine has it */
    FLIGHT_LENT,     /* prefill: its pages wait to be copied */
    FLIGHT_RESERVED, /* decode: rows come */
    FLIGHT_DECODED,  /* decode: the engine has it */
    FLIGHT_OVER      /* freed at the end of the step */
};

struct flight {
    struct flight *next, *prev;
    struct node *node;
    uint64_t id;
    struct request r;
    enum flight_stage stage;
    bool closing; /* cancelled, and something still writes to its pages */
    uint64_t lease_ns, renew_ns;
    uint8_t unwanted[NODE_CHOICES_MAX / 8];

    /* prefill: who takes over */
    char other[BUS_NAME_BYTES];
    uint64_t other_epoch;
    struct pool_lookup *lookup;
    struct pool_fetch *fetch;
    struct block_gate gate;
    uint32_t entry; /* of the board; BOARD_NONE */
    struct engine_loan *loan;
    bool handed; /* it was told */

    /* decode */
    struct engine_seat seat;
    struct pull *pull;
    bus_id from; /* the peer it is pulled from */
    bool go;
    uint32_t n_first;
    struct flight_first {
        uint32_t choice, id;
        enum finish_reason finish;
    } * first; /* [n_first] tokens that the other side drew */
};

struct node {
    struct node_options o;
    const struct executor *x;
    struct member m;
    struct engine *engine;
    struct puller *puller;
    struct pool_client *pool;
    struct node_peer *peers;
    char servers[CLUSTER_MEMBERS_MAX][BUS_NAME_BYTES]; /* of the pool */
    uint32_t n_servers;
    struct flight *first, *last; /* by arrival */
    uint32_t n_flights;
    bus_id board_segment;
    uint8_t *board;
    uint32_t entry_bytes, n_entries;
    uint32_t *entries, n_free; /* free ones of the board */
    uint64_t lease_ns, connect_at_ns;
    bool leaving, wants_leave, refused;
    uint32_t n_kept;            /* pages that offers to the pool hold */
    struct buf tokens, message; /* tokens that are to be sent; a message in the making */
    uint32_t n_tokens;
    struct node_stats stats;
    struct histogram_window itl; /* for the load's percentiles */
};

/* node.c */
uint64_t node_now(const struct node *n);
struct flight *flight_find(struct node *n, uint64_t id);
struct flight *flight_new(struct node *n, uint64_t id, enum flight_stage stage);
/* The record, from the rest of a message. Of both: NULL or false, and the router was told why. */
bool flight_read_record(struct flight *f, struct wire_in *r);
/* What all of it holds is given back, now or as soon as nobody writes to its pages. Quiet. */
void flight_close(struct flight *f);
void flight_over(struct flight *f);
/* A message to the router about a flight; tokens go before it. */
void node_tell(struct node *n, enum proto_kind kind, uint64_t flight);
void node_fail(struct node *n, uint64_t flight, enum st st, const char *text);
/* What the engine's sink of either role has in common; ctx is the flight. */
bool node_on_token(void *ctx, const struct token_out *t);
void node_on_block(void *ctx, const struct block_key *key, uint32_t page);
struct wire_out node_begin(struct node *n, enum proto_kind kind);
/* Of the pool: the tenant's; requests without a key have one too. */
const char *flight_namespace(const struct flight *f);

/* Leases of flights in this stage go on; other: only of those that are lent to it, NULL: of all. */
void flights_renew(struct node *n, struct wire_in *r, enum flight_stage stage, const char *other);

/* node_peers.c */
/* The other side counts on every message: after one that was lost the connection goes, at the next
 * step. */
void node_send_peer(struct node *n, bus_id peer, const struct wire_out *w);
struct node_peer *node_peer_ready(struct node *n, const char *name, uint64_t epoch);
void node_peer_event(struct node *n, const struct bus_event *ev);
void node_peer_close(struct node *n, struct node_peer *p);
/* Who we are; again when our epoch is new. */
void node_say_hello(struct node *n, const struct node_peer *p);
/* To those that joined before: every pair once. */
void node_connect_peers(struct node *n, uint64_t now_ns);

/* node_prefill.c */
void prefill_begin(struct node *n, struct wire_in *r);
void prefill_step(struct flight *f, uint64_t now_ns);
void prefill_close(struct flight *f);
void prefill_taken(struct node *n, const struct node_peer *p, struct wire_in *r);
/* What is lent to that life of a worker, or an older one, comes back. */
void prefill_peer_lost(struct node *n, const char *name, uint64_t epoch_at_most);
void prefill_forget_dead(struct node *n); /* the same for all that are not members any more */
void prefill_release(struct flight *f);   /* its last: what only a prefill holds */

/* node_decode.c */
void decode_reserve(struct node *n, struct wire_in *r);
void decode_go(struct node *n, struct wire_in *r);
void decode_table(struct node *n, const struct node_peer *p, struct wire_in *r, bool complete);
void decode_step(struct flight *f, uint64_t now_ns);
void decode_close(struct flight *f);

#endif

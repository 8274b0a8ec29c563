/* SPDX-License-Identifier: Apache-2.0 */
/* A worker: an engine that prefills for others, decodes for others, or both in turn, as the router
 * asks. It joins the router, imports the KV pages of its peers, hands requests over (pull,
 * contracts 8), and uses the memory pool as its context cache. Sans-IO: bus and executor are handed
 * in, time is the bus's, so that the simulator runs it as it is.
 *
 * Two threads: node_step by the owner, node_copy by one that copies. */
#ifndef SUPERNODE_CLUSTER_NODE_H
#define SUPERNODE_CLUSTER_NODE_H

#include "cluster/cluster.h"
#include "engine/engine.h"
#include "pool/client.h"

struct node;

struct node_options {
    struct bus *bus;
    const struct executor *executor; /* with memory of the bus (executor.h) */
    bus_id memory;                   /* its segment */
    struct engine_options engine;
    const char *name, *address; /* ours, as peers reach us */
    const char *router;         /* address */
    enum member_role role;      /* to begin with */
    uint32_t pid;
    uint64_t lease_ns; /* of lent and reserved pages; 0: default */
    uint64_t
        look_ns; /* how often rows that are being computed elsewhere are looked for; 0: default */
    uint32_t offers_max; /* blocks offered to the pool at once; 0: default */
};

enum st ST_CHECKED node_new(struct node **out, const struct node_options *o, struct err *err);
void node_free(struct node *n); /* node_copy is called no more; NULL is allowed */

enum node_state {
    NODE_JOINING,
    NODE_READY,
    NODE_REFUSED, /* by the router, for good: node_why */
    NODE_FAILED,  /* by itself: pool_node_why */
    NODE_LEFT
};

/* Takes what the bus has, then does a piece of the engine's work. Returns when it wants to be called
 * again at the latest: 0 means at once. */
uint64_t node_step(struct node *n);
enum node_state node_state(const struct node *n);
const char *node_why(const struct node *n); /* REFUSED */
enum member_role node_role(const struct node *n);
uint64_t node_epoch(const struct node *n);
/* Asks the router for leave; LEFT when nothing runs here any more. */
void node_drain(struct node *n);

/* Copies what there is to copy: hand-overs and blocks of the pool. False: nothing to do now. */
bool node_copy(struct node *n);

struct node_stats {
    struct member_load load;
    struct engine_stats engine;
    struct pool_client_stats pool;
    uint64_t loans, loans_returned, loans_expired, reservations, reservations_expired;
    uint64_t pulls, pulls_failed, pulled_bytes, stale;
    uint64_t decode_waits; /* times the engine's thread waited for a transfer or copied: stays 0 */
    uint32_t pages_leaked; /* held by nobody known; for tests: stays 0 */
};
void node_stats(struct node *n, struct node_stats *out); /* owner's thread */

#endif

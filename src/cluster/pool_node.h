/* SPDX-License-Identifier: Apache-2.0 */
/* A pool server as a member of a cluster: it joins the router, which tells it the shape of blocks,
 * and serves workers from then on. It keeps its blocks when the router is lost and found again; only
 * the epoch is new. Sans-IO, as node.h. */
#ifndef SUPERNODE_CLUSTER_POOL_NODE_H
#define SUPERNODE_CLUSTER_POOL_NODE_H

#include "cluster/node.h"
#include "pool/server.h"
#include "pool/ssd.h"

struct pool_node;

struct pool_node_options {
    /* Shape and epoch come from the router, and the SSD is opened then; the rest is borrowed. */
    struct pool_server_options pool;
    struct ssd_options ssd;     /* neither dir nor ops: none */
    const char *name, *address; /* ours, as workers reach us */
    const char *router;         /* address */
    uint32_t pid;
};

enum st ST_CHECKED pool_node_new(struct pool_node **out, const struct pool_node_options *o,
                                 struct err *err);
void pool_node_free(struct pool_node *n); /* NULL is allowed */

/* Takes what the bus has, then does a piece of work. Returns when it wants to be called again at the
 * latest: 0 means at once. */
uint64_t pool_node_step(struct pool_node *n);
enum node_state pool_node_state(const struct pool_node *n);
const char *pool_node_why(const struct pool_node *n); /* REFUSED */
uint64_t pool_node_epoch(const struct pool_node *n);
void pool_node_drain(struct pool_node *n); /* LEFT soon: its blocks are lost, or stay on its SSD */

struct pool_node_stats {
    struct member_load load;
    struct pool_server_stats pool;
};
void pool_node_stats(struct pool_node *n, struct pool_node_stats *out);

#endif

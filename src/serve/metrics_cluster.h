/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics of a cluster's parts: the router's view of its members, a worker's hand-overs and its use
 * of the pool, a pool server's blocks. */
#ifndef SUPERNODE_SERVE_METRICS_CLUSTER_H
#define SUPERNODE_SERVE_METRICS_CLUSTER_H

#include "cluster/node.h"
#include "pool/server.h"
#include "serve/json_out.h"

void metrics_cluster(struct json_out *o, const struct cluster_view *v);

struct metrics_member { /* what every member says of itself */
    const char *name, *role;
    bool ready;
    uint64_t epoch;
};
void metrics_member(struct json_out *o, const struct metrics_member *m);
void metrics_node(struct json_out *o, const struct node_stats *s);
void metrics_pool(struct json_out *o, const struct pool_server_stats *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* compute.h over a cluster's router. */
#ifndef SUPERNODE_SERVE_COMPUTE_ROUTER_H
#define SUPERNODE_SERVE_COMPUTE_ROUTER_H

#include "cluster/router.h"
#include "serve/cluster_watch.h"
#include "serve/compute.h"

struct compute_router { /* all borrowed */
    struct router *router;
    struct bus *bus; /* the router's */
    struct cluster_watch *watch;
    uint64_t published_ns, events; /* of the cluster, as published */
};
struct compute compute_router(struct compute_router *c);

#endif

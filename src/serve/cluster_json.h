/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of a cluster, as GET /cluster and `ctl list --json` say it, and as metrics. */
#ifndef SUPERNODE_SERVE_CLUSTER_JSON_H
#define SUPERNODE_SERVE_CLUSTER_JSON_H

#include "cluster/cluster.h"
#include "serve/json_out.h"

void cluster_json_write(struct json_out *o, const struct cluster_view *v);

#endif

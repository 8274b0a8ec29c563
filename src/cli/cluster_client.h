/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator's command asks of a router, over the bus and with the cluster's secret. */
#ifndef SUPERNODE_CLI_CLUSTER_CLIENT_H
#define SUPERNODE_CLI_CLUSTER_CLIENT_H

#include "cli/cluster_args.h"

struct cluster_client;

/* a: opened; borrowed. Connects at the first question, and again after the router was lost. */
enum st ST_CHECKED cluster_client_new(struct cluster_client **out, struct cluster_args *a,
                                      struct err *err);
void cluster_client_free(struct cluster_client *c); /* NULL is allowed */

/* Each waits for the answer for at most timeout_ms: ST_GONE: no router is there, ST_TIMEOUT. */
enum st ST_CHECKED cluster_client_view(struct cluster_client *c, struct cluster_view *out,
                                       uint32_t timeout_ms, struct err *err);
enum st ST_CHECKED cluster_client_drain(struct cluster_client *c, const char *name,
                                        uint32_t timeout_ms, struct err *err);
enum st ST_CHECKED cluster_client_role(struct cluster_client *c, const char *name,
                                       enum member_role role, uint32_t timeout_ms, struct err *err);

#endif

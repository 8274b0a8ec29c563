/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster as a table for people: `ctl list`, and the live one of `up`. */
#ifndef SUPERNODE_CLI_CLUSTER_TABLE_H
#define SUPERNODE_CLI_CLUSTER_TABLE_H

#include <stdio.h>

#include "cluster/cluster.h"

/* A line a member, and what is under way. */
void cluster_table_members(FILE *f, const struct cluster_view *v);
/* A line a role, as wide as a terminal. url: where clients ask. */
void cluster_table_roles(FILE *f, const struct cluster_view *v, const char *url);

#endif

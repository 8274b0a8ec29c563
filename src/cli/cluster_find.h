/* SPDX-License-Identifier: Apache-2.0 */
/* Which clusters of this user run on this host, for commands that were not told. */
#ifndef SUPERNODE_CLI_CLUSTER_FIND_H
#define SUPERNODE_CLI_CLUSTER_FIND_H

#include "cli/cluster_args.h"

/* The directory of the one whose router listens, among those that get their name by default. */
enum st ST_CHECKED cluster_find(char out[CLUSTER_DIR_BYTES], const char *command, struct err *err);

#endif

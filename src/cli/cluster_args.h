/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster on this host as its commands see it: a directory that only its owner may enter, with the
 * cluster's secret, a socket and a lock for each member. */
#ifndef SUPERNODE_CLI_CLUSTER_ARGS_H
#define SUPERNODE_CLI_CLUSTER_ARGS_H

#include "bus/shm.h"
#include "cli/flags.h"
#include "cluster/proto.h"

enum { CLUSTER_FLAGS_MAX = 3, MEMBER_FLAGS_MAX = 3, CLUSTER_DIR_BYTES = 4096 };
#define CLUSTER_UP_PREFIX "supernode-up-" /* of the directories that `up` makes */

struct cluster_args {
    const char *command; /* in errors */
    const char *dir_flag, *secret_file, *name_flag;
    uint32_t peer_timeout_ms;
    uint32_t metrics_port; /* METRICS_PORT_NONE: none */
    uint32_t log_format;   /* enum log_format */
    /* filled by cluster_open and cluster_take_name */
    char dir[CLUSTER_DIR_BYTES];
    uint8_t *secret;
    size_t secret_len;
    int lock_fd; /* held as long as the name is ours; -1: none */
    char name[BUS_NAME_BYTES], address[BUS_ADDRESS_BYTES], router[BUS_ADDRESS_BYTES];
};
enum { METRICS_PORT_NONE = 65536 };

void cluster_args_init(struct cluster_args *a, const char *command); /* the defaults */
/* Append flags; return how many: --cluster, --secret-file, --peer-timeout-ms; and those of members,
 * --name, --metrics-port, --log-format. */
uint32_t cluster_args_flags(struct flag out[CLUSTER_FLAGS_MAX], struct cluster_args *a);
uint32_t member_args_flags(struct flag out[MEMBER_FLAGS_MAX], struct cluster_args *a);

/* Where directories lie that nobody named, and the one of members that were told none. */
const char *cluster_base_dir(void);
void cluster_default_dir(char out[CLUSTER_DIR_BYTES]);

/* Finds or makes the directory and the secret. ST_INVALID: somebody else's, or open to others. */
enum st ST_CHECKED cluster_open(struct cluster_args *a, struct err *err);
/* Takes a name nobody alive has: --name, else the first free of PREFIX0, PREFIX1, ...; "router" and
 * "up" are names, of which there is one. */
enum st ST_CHECKED cluster_take_name(struct cluster_args *a, const char *prefix, struct err *err);
/* Our endpoint; who: the first byte of hello. address NULL: nobody connects to it. */
enum st ST_CHECKED cluster_bus(struct bus **out, const struct cluster_args *a, enum proto_peer who,
                               const char *address, const char *model_id, const char *profile,
                               struct err *err);
/* From here on its handshakes say so. */
void cluster_bus_is_of(struct bus *b, const struct cluster_args *a, enum proto_peer who,
                       const char *model_id, const char *profile);
void cluster_close(struct cluster_args *a);

#endif

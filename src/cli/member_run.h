/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a member's process, whatever its role: a thread that steps it, one that copies, a
 * listener for /metrics, and the main thread, which waits for signals and says what happens. */
#ifndef SUPERNODE_CLI_MEMBER_RUN_H
#define SUPERNODE_CLI_MEMBER_RUN_H

#include "cli/cluster_args.h"
#include "cluster/node.h"
#include "serve/json_out.h"
#include "serve/log.h"

/* On the stepping thread, but for copy (its own) and write (the listener's, under the lock that
 * publish is called under). */
struct member_ops {
    uint64_t (*step)(void *ctx);
    enum node_state (*state)(const void *ctx);
    const char *(*why)(const void *ctx);
    enum member_role (*role)(const void *ctx);
    uint64_t (*epoch)(const void *ctx);
    void (*drain)(void *ctx);
    bool (*copy)(void *ctx);                      /* NULL: nothing is ever copied */
    void (*publish)(void *ctx);                   /* keep what write will say */
    void (*write)(void *ctx, struct json_out *o); /* metrics */
};

/* Signals wait from here on, until member_run: before threads are made. */
void member_run_block_signals(void);
/* Until the member was drained (SIGINT, SIGTERM, ctl drain) or refused for good: ST_INVALID with
 * why. A second signal ends the process at once. */
enum st ST_CHECKED member_run(const struct member_ops *ops, void *ctx, struct bus *bus,
                              const struct cluster_args *a, const struct log *log, struct err *err);

#endif

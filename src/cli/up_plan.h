/* SPDX-License-Identifier: Apache-2.0 */
/* What `up` starts: the flags, and the command lines that come of them, with memory and cores
 * divided so that all parts fit. */
#ifndef SUPERNODE_CLI_UP_PLAN_H
#define SUPERNODE_CLI_UP_PLAN_H

#include "cli/cluster_args.h"
#include "cli/model_args.h"
#include "cli/up_child.h"

enum { UP_FLAGS_MAX = 26, UP_PARTS_MAX = 64 /* of a role */ };

struct up_args {
    const char *model; /* NULL: the default one */
    uint32_t prefill, decode, pool;
    const char *host, *served_name, *key_file;
    uint32_t port, max_model_len, max_num_seqs, max_num_batched_tokens, tpot_ms, drain_s,
        no_worker_s, speculate;
    uint64_t kv_bytes, dram_bytes, ssd_bytes;
    const char *ssd_dir;
    struct model_args model_args; /* threads: of all workers together */
    bool restart, verbose, metrics;
    char dir[CLUSTER_DIR_BYTES]; /* up_make_dir */
};

void up_args_init(struct up_args *a);                                       /* the defaults */
enum st ST_CHECKED up_args_check(const struct up_args *a, struct err *err); /* after parsing */
uint32_t up_args_flags(struct flag out[UP_FLAGS_MAX], struct up_args *a);

/* children[*n], to be freed: the router first, then pool servers and workers. c: opened. Prints what
 * the cluster will be of, as `serve` does. */
enum st ST_CHECKED up_plan(struct child **children, uint32_t *n, struct up_args *a,
                           const struct cluster_args *c, struct err *err);

/* A directory for this cluster alone, in a->dir; removed with what a cluster leaves in it. */
enum st ST_CHECKED up_make_dir(struct up_args *a, struct err *err);
void up_remove_dir(const char *dir);

#endif

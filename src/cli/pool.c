/* SPDX-License-Identifier: Apache-2.0 */
/* supernode pool: a server of a cluster's memory pool. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/human.h"
#include "cli/member_run.h"
#include "cluster/pool_node.h"
#include "serve/metrics_cluster.h"

struct pool_args {
    struct cluster_args cluster;
    uint64_t dram_bytes, ssd_bytes;
    const char *ssd_dir;
    struct flag_list quota_flags;
    struct pool_quota quotas[POOL_NAMESPACES_MAX];
    uint32_t n_quotas;
};

struct serving_pool {
    struct bus *bus;
    struct pool_node *node;
    struct pool_node_stats stats; /* published */
};

static uint64_t step(void *ctx) {
    return pool_node_step(((struct serving_pool *)ctx)->node);
}
static enum node_state state(const void *ctx) {
    return pool_node_state(((const struct serving_pool *)ctx)->node);
}
static const char *why(const void *ctx) {
    return pool_node_why(((const struct serving_pool *)ctx)->node);
}
static enum member_role role_of(const void *ctx) {
    (void)ctx;
    return ROLE_OF_POOL;
}
static uint64_t epoch(const void *ctx) {
    return pool_node_epoch(((const struct serving_pool *)ctx)->node);
}
static void drain(void *ctx) {
    pool_node_drain(((struct serving_pool *)ctx)->node);
}
static void publish(void *ctx) {
    struct serving_pool *p = ctx;
    pool_node_stats(p->node, &p->stats);
}
static void write_metrics(void *ctx, struct json_out *o) {
    metrics_pool(o, &((struct serving_pool *)ctx)->stats.pool);
}

static const struct member_ops ops = {.step = step,
                                      .state = state,
                                      .why = why,
                                      .role = role_of,
                                      .epoch = epoch,
                                      .drain = drain,
                                      .publish = publish,
                                      .write = write_metrics};

/* TENANT=DRAM or TENANT=DRAM,SSD; "=1G" is for requests without a tenant, which share their
 * namespace with a tenant named "default". */
static enum st add_quota(struct pool_args *a, const struct flag_command *cmd, const char *text,
                         struct err *err) {
    const char *equals = strchr(text, '='), *comma = strchr(text, ',');
    struct pool_quota *q = &a->quotas[a->n_quotas];
    char bytes[32];
    if (!equals || (size_t)(equals - text) >= sizeof q->tenant ||
        a->n_quotas == POOL_NAMESPACES_MAX)
        return err_set(err, ST_INVALID,
                       "pool: --quota: found '%.100s', expected TENANT=BYTES or "
                       "TENANT=BYTES,SSD_BYTES",
                       text);
    snprintf(q->tenant, sizeof q->tenant, "%.*s", (int)(equals - text), text);
    if (!q->tenant[0]) strcpy(q->tenant, "default"); /* as workers name it: flight_namespace */
    struct flag f = {"quota", "BYTES", FLAG_BYTES, &q->dram_bytes, 0, 0, "", false};
    int len = comma ? (int)(comma - equals - 1) : (int)strlen(equals + 1);
    snprintf(bytes, sizeof bytes, "%.*s", len, equals + 1);
    enum st st = flags_set(cmd, &f, bytes, err);
    f.out = &q->ssd_bytes;
    if (!st && comma) st = flags_set(cmd, &f, comma + 1, err);
    if (!st) a->n_quotas++;
    return st;
}

static enum st check_args(struct pool_args *a, const struct flag_command *cmd, struct err *err) {
    enum st st = ST_OK;
    if (!a->ssd_dir != !a->ssd_bytes)
        return err_set(err, ST_INVALID, "pool: --ssd and --ssd-bytes need each other");
    for (uint32_t i = 0; i < a->quota_flags.len && !st; i++)
        st = add_quota(a, cmd, a->quota_flags.v[i], err);
    return st;
}

static enum st open_all(struct serving_pool *p, struct pool_args *a, struct err *err) {
    struct cluster_args *c = &a->cluster;
    enum st st = cluster_open(c, err);
    if (!st) st = cluster_take_name(c, "m", err);
    if (!st) st = cluster_bus(&p->bus, c, PROTO_PEER_POOL, c->address, "", "", err);
    if (st) return st;
    struct pool_node_options o = {.pool = {.bus = p->bus,
                                           .dram_bytes = a->dram_bytes,
                                           .quotas = a->quotas,
                                           .n_quotas = a->n_quotas},
                                  .ssd = {.dir = a->ssd_dir, .bytes = a->ssd_bytes},
                                  .name = c->name,
                                  .address = c->address,
                                  .router = c->router,
                                  .pid = (uint32_t)getpid()};
    return pool_node_new(&p->node, &o, err);
}

static void print_memory(const struct pool_args *a) {
    char dram[32], ssd[32];
    printf("memory     %s of DRAM", human_bytes(dram, sizeof dram, (double)a->dram_bytes));
    if (a->ssd_dir)
        printf(", %s of SSD in %s", human_bytes(ssd, sizeof ssd, (double)a->ssd_bytes), a->ssd_dir);
    printf("\n");
}

static int run(struct pool_args *a, struct err *err) {
    struct serving_pool p = {0};
    struct log log = {.fd = STDERR_FILENO, .format = (enum log_format)a->cluster.log_format};
    member_run_block_signals();
    signal(SIGXFSZ, SIG_IGN); /* a file at its limit is a full disk */
    enum st st = open_all(&p, a, err);
    if (!st) {
        print_memory(a);
        st = member_run(&ops, &p, p.bus, &a->cluster, &log, err);
    }
    pool_node_free(p.node);
    bus_free(p.bus);
    cluster_close(&a->cluster);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_pool(int argc, char **argv) {
    struct pool_args a = {.dram_bytes = UINT64_C(1) << 30};
    const char *args[1];
    const struct flag own[] = {
        {"dram", "BYTES", FLAG_BYTES, &a.dram_bytes, 0, 0, "memory for blocks (default 1G)", false},
        {"ssd", "DIR", FLAG_STR, &a.ssd_dir, 0, 0,
         "directory for blocks that leave DRAM; they survive a restart (default: none)", false},
        {"ssd-bytes", "BYTES", FLAG_BYTES, &a.ssd_bytes, 0, 0, "the most they may take there",
         false},
        {"quota", "TENANT=BYTES", FLAG_LIST, &a.quota_flags, 0, 0,
         "the most DRAM of a tenant's blocks; TENANT=BYTES,BYTES: of SSD too; may be repeated",
         true},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    struct flag flags[CLUSTER_FLAGS_MAX + MEMBER_FLAGS_MAX + sizeof own / sizeof *own];
    cluster_args_init(&a.cluster, "pool");
    uint32_t n = cluster_args_flags(flags, &a.cluster);
    n += member_args_flags(flags + n, &a.cluster);
    memcpy(flags + n, own, sizeof own);
    const struct flag_command cmd = {
        .name = "pool",
        .what = "A server of the memory pool: KV blocks that every worker can read.",
        .usage = "supernode pool [flags]",
        .example = "supernode pool --dram 4G --ssd /var/cache/supernode --ssd-bytes 64G",
        .flags = flags,
        .args_max = 0,
    };
    struct err err;
    enum flag_result result;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st) st = check_args(&a, &cmd, &err);
    return st ? cli_fail(CLI_USAGE, &err) : run(&a, &err);
}

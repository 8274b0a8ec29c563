/* SPDX-License-Identifier: Apache-2.0 */
/* supernode prefill, supernode decode: a worker of a cluster. Both run the same code; the name says
 * which role it begins with. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/engine_args.h"
#include "cli/front_args.h"
#include "cli/member_run.h"
#include "serve/metrics.h"
#include "serve/metrics_cluster.h"

struct worker_args {
    struct engine_args engine;
    struct cluster_args cluster;
};

struct work {
    struct bus *bus;
    struct local local;
    struct node *node;
    const char *model_name;
    struct node_stats stats; /* published */
};

static uint64_t step(void *ctx) {
    return node_step(((struct work *)ctx)->node);
}
static enum node_state state(const void *ctx) {
    return node_state(((const struct work *)ctx)->node);
}
static const char *why(const void *ctx) {
    return node_why(((const struct work *)ctx)->node);
}
static enum member_role role_of(const void *ctx) {
    return node_role(((const struct work *)ctx)->node);
}
static uint64_t epoch(const void *ctx) {
    return node_epoch(((const struct work *)ctx)->node);
}
static void drain(void *ctx) {
    node_drain(((struct work *)ctx)->node);
}
static bool copy(void *ctx) {
    return node_copy(((struct work *)ctx)->node);
}
static void publish(void *ctx) {
    struct work *w = ctx;
    node_stats(w->node, &w->stats);
}
static void write_metrics(void *ctx, struct json_out *o) {
    struct work *w = ctx;
    metrics_engine(o, w->model_name, &w->stats.engine);
    metrics_node(o, &w->stats);
}

static const struct member_ops ops = {.step = step,
                                      .state = state,
                                      .why = why,
                                      .role = role_of,
                                      .epoch = epoch,
                                      .drain = drain,
                                      .copy = copy,
                                      .publish = publish,
                                      .write = write_metrics};

static enum st open_node(struct work *w, const struct worker_args *a, enum member_role role,
                         struct err *err) {
    struct node_options o = {.bus = w->bus,
                             .executor = exec_model_executor(w->local.exec),
                             .memory = w->local.in.segment,
                             .engine = a->engine.engine,
                             .name = a->cluster.name,
                             .address = a->cluster.address,
                             .router = a->cluster.router,
                             .role = role,
                             .pid = (uint32_t)getpid()};
    return node_new(&w->node, &o, err);
}

/* The endpoint is there before the model, since the KV pages lie in its memory, and says of which
 * model it is once that is known. */
static enum st open_all(struct work *w, struct worker_args *a, enum member_role role,
                        const char *model, struct err *err) {
    struct cluster_args *c = &a->cluster;
    struct instance_options o;
    enum st st = engine_args_finish(&o, &a->engine, model, err);
    if (!st) st = cluster_open(c, err);
    if (!st) st = cluster_take_name(c, role == ROLE_OF_PREFILL ? "p" : "d", err);
    if (!st) st = cluster_bus(&w->bus, c, PROTO_PEER_WORKER, c->address, "", "", err);
    if (st) return st;
    o.bus = w->bus;
    st = local_open_model(&w->local, &o, &a->engine.engine, err);
    if (st) return st;
    cluster_bus_is_of(w->bus, c, PROTO_PEER_WORKER, w->local.in.model_id, instance_profile);
    return open_node(w, a, role, err);
}

static int run(struct worker_args *a, enum member_role role, const char *model, struct err *err) {
    struct work w = {.model_name = model ? model : "models/tiny"};
    struct log log = {.fd = STDERR_FILENO, .format = (enum log_format)a->cluster.log_format};
    member_run_block_signals();
    enum st st = open_all(&w, a, role, model, err);
    if (!st) {
        front_print_model(w.local.in.ckpt, w.model_name);
        engine_print(&a->engine, &w.local);
        st = member_run(&ops, &w, w.bus, &a->cluster, &log, err);
    }
    node_free(w.node);
    local_close(&w.local);
    bus_free(w.bus);
    cluster_close(&a->cluster);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

static int cli_worker(int argc, char **argv, enum member_role role) {
    struct worker_args a = {0};
    const char *args[1];
    struct flag flags[CLUSTER_FLAGS_MAX + MEMBER_FLAGS_MAX + ENGINE_FLAGS_MAX + 1] = {{0}};
    char usage[64], example[64];
    const char *name = member_role_name(role);
    engine_args_init(&a.engine);
    cluster_args_init(&a.cluster, name);
    uint32_t n = cluster_args_flags(flags, &a.cluster);
    n += member_args_flags(flags + n, &a.cluster);
    (void)engine_args_flags(flags + n, &a.engine);
    snprintf(usage, sizeof usage, "supernode %s [MODEL] [flags]", name);
    snprintf(example, sizeof example, "supernode %s models/tiny --threads 1", name);
    const struct flag_command cmd = {
        .name = name,
        .what =
            role == ROLE_OF_PREFILL
                ? "A worker that computes prompts for others (ctl can change its role)."
                : "A worker that generates from prompts others computed (ctl can change its role).",
        .usage = usage,
        .example = example,
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    return st ? cli_fail(CLI_USAGE, &err) : run(&a, role, args[0], &err);
}

int cli_prefill(int argc, char **argv) {
    return cli_worker(argc, argv, ROLE_OF_PREFILL);
}

int cli_decode(int argc, char **argv) {
    return cli_worker(argc, argv, ROLE_OF_DECODE);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* supernode router: the front of a cluster. It answers OpenAI clients as serve does, and has the
 * tokens computed by the workers that join it; it holds no weights and no KV. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/cluster_args.h"
#include "cli/config.h"
#include "cli/front_args.h"
#include "cli/model_args.h"
#include "cluster/router.h"
#include "serve/compute_router.h"

struct router_args {
    struct front_args front;
    struct cluster_args cluster;
    struct model_args model; /* threads is not used */
    uint32_t max_model_len, no_worker_s;
};

struct routing {
    struct server *server;
    struct ckpt *ckpt;
    char model_id[CKPT_ID_BYTES];
    struct block_shape shape;
    uint32_t max_model_len;
    struct bus *bus;
    struct router *router;
    struct cluster_watch *watch;
    struct compute_router compute;
    struct front front;
};

/* What the workers must agree on; no weight is read but for the checkpoint's identity. */
static enum st open_model(struct routing *r, struct router_args *a, const char *model,
                          struct err *err) {
    struct instance_options o;
    char path[CKPT_PATH_BYTES], weights_id[CKPT_ID_BYTES];
    const char *how;
    enum st st = model_args_options(&o, &a->model, model, err);
    if (!st) st = ckpt_resolve(path, o.model, err);
    if (!st) st = ckpt_open(&r->ckpt, path, err);
    if (!st) st = ckpt_weights_id(r->ckpt, weights_id, &how, err);
    if (st) return st;
    const struct model_config *c = ckpt_config(r->ckpt);
    enum ops_dtype kv = instance_kv_dtype(o.kv, r->ckpt);
    r->max_model_len = a->max_model_len ? a->max_model_len : c->max_positions;
    if (r->max_model_len > c->max_positions)
        return err_set(err, ST_INVALID, "max-model-len: %u exceeds max_position_embeddings %u",
                       r->max_model_len, c->max_positions);
    r->shape = instance_shape(c, kv);
    return instance_model_id(r->model_id, weights_id, kv, err);
}

static enum st open_cluster(struct routing *r, struct router_args *a, struct err *err) {
    struct cluster_args *c = &a->cluster;
    enum st st = cluster_open(c, err);
    if (!st) st = cluster_take_name(c, "router", err);
    if (!st)
        st = cluster_bus(&r->bus, c, PROTO_PEER_ROUTER, c->router, r->model_id, instance_profile,
                         err);
    if (st) return st;
    struct router_options o = {.bus = r->bus,
                               .model_id = r->model_id,
                               .shape = r->shape,
                               .max_model_len = r->max_model_len,
                               .no_worker_ns = a->no_worker_s * UINT64_C(1000000000)};
    return router_new(&r->router, &o, err);
}

static enum st open_all(struct routing *r, struct router_args *a, const char *model,
                        struct err *err) {
    enum st st = front_args_finish(&a->front, err);
    if (!st) st = server_new(&r->server, &a->front.server, err);
    if (!st) st = open_model(r, a, model, err);
    if (!st) st = open_cluster(r, a, err);
    if (st) return st;
    struct front_options f = {.ckpt = r->ckpt,
                              .model_id = r->model_id,
                              .served_name = a->front.served_name,
                              .max_model_len = r->max_model_len,
                              .time_left_ms = a->front.request_timeout_s * 1000,
                              .trust = a->front.trust_message_tokens ? PROMPT_TRUST_MESSAGES
                                                                     : PROMPT_TRUST_NONE};
    st = front_open(&r->front, &f, err);
    if (!st) st = cluster_watch_new(&r->watch, &a->front.log, err);
    if (st) return st;
    r->compute = (struct compute_router){.router = r->router, .bus = r->bus, .watch = r->watch};
    struct compute compute = compute_router(&r->compute);
    return server_start(r->server, &r->front, &compute, r->watch, err);
}

static int run(struct router_args *a, const char *model, struct err *err) {
    uint64_t begun = clock_now_ns();
    struct routing r = {0};
    const char *name = model ? model : "models/tiny";
    if (!a->front.served_name) a->front.served_name = name;
    enum st st = open_all(&r, a, model, err);
    if (!st) {
        front_print_model(r.ckpt, name);
        printf("cluster    %s  (%u tokens the longest; workers join by --cluster)\n",
               a->cluster.dir, r.max_model_len);
        front_print_serving(&a->front, server_port(r.server), r.front.chat != NULL, begun);
        st = server_run(r.server, err);
    }
    server_free(r.server);
    cluster_watch_free(r.watch);
    front_close(&r.front);
    router_free(r.router);
    bus_free(r.bus);
    ckpt_close(r.ckpt);
    cluster_close(&a->cluster);
    front_args_release(&a->front);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_router(int argc, char **argv) {
    struct router_args a = {.no_worker_s = 30};
    const char *args[1];
    const struct flag own[] = {
        {"max-model-len", "N", FLAG_U32, &a.max_model_len, 1, 1 << 24,
         "longest prompt and answer together, tokens; every worker must hold one (default: "
         "max_position_embeddings)",
         false},
        {"no-worker-timeout", "S", FLAG_U32, &a.no_worker_s, 1, 86400,
         "seconds a request waits where no worker of a role is there, then a 503 (default 30)",
         true},
        KV_DTYPE_FLAG(&a.model.kv),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    struct flag flags[FRONT_FLAGS_MAX + CLUSTER_FLAGS_MAX + sizeof own / sizeof *own];
    front_args_init(&a.front, "router");
    cluster_args_init(&a.cluster, "router");
    uint32_t n = front_args_flags(flags, &a.front);
    n += cluster_args_flags(flags + n, &a.cluster);
    memcpy(flags + n, own, sizeof own);
    const struct flag_command cmd = {
        .name = "router",
        .what = "The front of a cluster: serves OpenAI clients from the workers that join it.",
        .usage = "supernode router [MODEL] [flags]",
        .example = "supernode router models/tiny --port 8000",
        .flags = flags,
        .args_max = 1,
    };
    struct config config = {0};
    struct err err;
    enum flag_result result;
    enum st st = config_parse(&config, &result, &cmd, argc, argv, args, &a.front.config, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    int code = st ? cli_fail(CLI_USAGE, &err) : run(&a, args[0], &err);
    config_release(&config);
    return code;
}

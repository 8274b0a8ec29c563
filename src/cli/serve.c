/* SPDX-License-Identifier: Apache-2.0 */
/* supernode serve: opens a model, says what it is, and answers OpenAI clients until it is told to
 * stop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/config.h"
#include "cli/flags.h"
#include "cli/human.h"
#include "cli/model_args.h"
#include "engine/local.h"
#include "serve/compute.h"
#include "serve/front.h"
#include "serve/server.h"

enum { ORIGINS_MAX = 256 };

struct serve_args {
    struct model_args model;
    const char *host, *served_name;
    uint32_t port, max_model_len, speculate, request_timeout_s;
    struct engine_options engine;
    uint64_t kv_bytes;
    bool trust_message_tokens;
    struct server_options server;
    struct log log;
    uint32_t log_format;
    struct auth auth;
    struct flag_list keys, origins;
    char *origin_list[ORIGINS_MAX]; /* origins, lists taken apart; owned */
    uint32_t n_origins;
    const char *key_file, *config;
};

struct serving {
    struct server *server;
    struct local local;
    struct compute_engine compute;
    bool computes; /* compute is there */
    struct front front;
};

/* 0.0.0.0 is no address to go to. */
static void reachable(char *out, size_t size, const char *host) {
    const char *to = strcmp(host, "0.0.0.0") == 0 ? "127.0.0.1"
                     : strcmp(host, "::") == 0    ? "::1"
                                                  : host;
    snprintf(out, size, strchr(to, ':') ? "[%s]" : "%s", to);
}

static void print_ready(const struct serving *s, const struct serve_args *a, const char *model,
                        uint64_t begun_ns) {
    char params[32], active[32], bytes[32], address[256];
    struct ckpt_stats stats;
    ckpt_stats(s->local.in.ckpt, &stats);
    printf("model      %s  %s  %s parameters, %s active, %s, %s\n", model,
           ckpt_facts(s->local.in.ckpt)->architecture,
           human_count(params, sizeof params, (double)stats.params),
           human_count(active, sizeof active, (double)stats.params_active), stats.dtype,
           human_bytes(bytes, sizeof bytes, (double)stats.bytes));
    const struct kv *kv = &s->local.in.kv;
    uint32_t n_pages = exec_model_executor(s->local.exec)->n_pages;
    double page = (double)kv_page_bytes_all(&s->local.in.config, kv->dtype);
    printf(
        "memory     %s for KV: %.0f tokens at %.1f KB each; %u sequences, %u tokens the longest\n",
        human_bytes(bytes, sizeof bytes, page * n_pages), (double)kv->n_pages * KV_PAGE_TOKENS,
        page / KV_PAGE_TOKENS / 1e3, a->engine.max_num_seqs, s->local.in.max_model_len);
    uint32_t threads = team_size(s->local.in.team);
    printf("kernels    %s  (%u thread%s, profile %s)\n", s->local.in.kernels->isa, threads,
           threads == 1 ? "" : "s", instance_profile);
    snprintf(address, sizeof address, strchr(a->host, ':') ? "[%s]" : "%s", a->host);
    const char *scheme = a->server.cert_file ? "https" : "http";
    printf("serving    %s://%s:%u   ready in %.2f s\n\n", scheme, address, server_port(s->server),
           (double)(clock_now_ns() - begun_ns) / 1e9);
    reachable(address, sizeof address, a->host);
    const char *path = s->front.chat ? "chat/completions" : "completions";
    const char *body =
        s->front.chat
            ? "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me a story about a fox.\"}]"
            : "\"prompt\":\"Once upon a time\",\"max_tokens\":100";
    printf("try:\n  curl -N %s://%s:%u/v1/%s -H 'content-type: application/json' %s\\\n    -d "
           "'{%s,\"stream\":true}'\n",
           scheme, address, server_port(s->server), path,
           a->auth.n ? "-H \"authorization: Bearer $SUPERNODE_API_KEY\" " : "", body);
    fflush(stdout);
}

/* A word of the command line, which every user of the machine can list. */
static void hide(const char *arg) {
    for (char *c = (char *)(uintptr_t)arg; *c; c++) *c = '*';
}

static enum st read_keys(struct serve_args *a, struct err *err) {
    const char *env = getenv("SUPERNODE_API_KEY");
    struct auth_limits *l = &a->auth.limits;
    enum st st = ST_OK;
    if (env && *env) st = auth_add(&a->auth, env, "", "SUPERNODE_API_KEY", err);
    for (uint32_t i = 0; i < a->keys.len && !st; i++) {
        st = auth_add(&a->auth, a->keys.v[i], "", "serve: --api-key", err);
        hide(a->keys.v[i]);
    }
    if (!st && a->key_file) st = auth_add_file(&a->auth, a->key_file, err);
    if (!st && a->auth.n == 0 && (l->requests || l->requests_per_minute))
        return err_set(err, ST_INVALID, "serve: %s limits each API key, and there is none",
                       l->requests ? "--max-requests-per-key" : "--max-requests-per-minute");
    return st;
}

/* What a browser sends in Origin has no path, so one that ends in / would never match. */
static enum st add_origin(struct serve_args *a, const char *text, struct err *err) {
    size_t len = strlen(text);
    bool is_origin = strstr(text, "://") && text[len - 1] != '/' && !strchr(text, ',');
    if (strcmp(text, "*") != 0 && !is_origin)
        return err_set(err, ST_INVALID,
                       "serve: --allowed-origins: found '%.100s', expected * or an origin such as "
                       "https://chat.example",
                       text);
    if (a->n_origins == ORIGINS_MAX)
        return err_set(err, ST_INVALID, "serve: --allowed-origins: more than %d", ORIGINS_MAX);
    a->origin_list[a->n_origins] = strdup(text);
    if (!a->origin_list[a->n_origins]) return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    a->n_origins++;
    return ST_OK;
}

/* One of vLLM's JSON lists, or an origin as it is. */
static enum st add_origins(struct serve_args *a, const char *text, struct err *err) {
    json_t *list = NULL, *v;
    size_t i;
    enum st st = ST_OK;
    if (*text != '[') return add_origin(a, text, err);
    st = json_parse(&list, text, strlen(text), "serve: --allowed-origins", err);
    if (st) return st;
    json_array_foreach(list, i, v) {
        if (!json_is_string(v))
            st = err_set(err, ST_INVALID, "serve: --allowed-origins: found %s, expected a string",
                         json_kind(v));
        if (st || (st = add_origin(a, json_string_value(v), err))) break;
    }
    json_decref(list);
    return st;
}

static enum st server_options(struct serve_args *a, struct err *err) {
    a->log = (struct log){.fd = STDERR_FILENO, .format = (enum log_format)a->log_format};
    a->server.host = a->host;
    a->server.port = (uint16_t)a->port;
    a->server.log = &a->log;
    a->server.auth = &a->auth;
    for (uint32_t i = 0; i < a->origins.len; i++) {
        enum st st = add_origins(a, a->origins.v[i], err);
        if (st) return st;
    }
    a->server.origins = (const char *const *)a->origin_list;
    a->server.n_origins = a->n_origins;
    if (!a->server.cert_file != !a->server.key_file)
        return err_set(err, ST_INVALID, "serve: --ssl-certfile and --ssl-keyfile need each other");
    return read_keys(a, err);
}

static enum st open_all(struct serving *s, struct serve_args *a, const char *model,
                        struct err *err) {
    struct instance_options o;
    enum st st = model_args_options(&o, &a->model, model, err);
    if (!st) st = server_options(a, err);
    if (!st) st = server_new(&s->server, &a->server, err);
    if (st) return st;
    o.kv_bytes = a->kv_bytes;
    o.kv_seqs = a->engine.max_num_seqs;
    a->engine.speculate = (enum speculate)a->speculate;
    o.max_model_len = a->max_model_len;
    st = local_open(&s->local, &o, &a->engine, err);
    if (st) return st;
    struct front_options f = {.ckpt = s->local.in.ckpt,
                              .model_id = s->local.in.model_id,
                              .served_name = a->served_name,
                              .max_model_len = s->local.in.max_model_len,
                              .time_left_ms = a->request_timeout_s * 1000,
                              .trust = a->trust_message_tokens ? PROMPT_TRUST_MESSAGES
                                                               : PROMPT_TRUST_NONE};
    st = front_open(&s->front, &f, err);
    if (st) return st;
    compute_engine_init(&s->compute, s->local.engine);
    s->computes = true;
    struct compute compute = compute_engine(&s->compute);
    return server_start(s->server, &s->front, &compute, err);
}

static int run(struct serve_args *a, const char *model, struct err *err) {
    uint64_t begun = clock_now_ns();
    struct serving s = {0};
    const char *name = model ? model : "models/tiny";
    if (!a->served_name) a->served_name = name;
    enum st st = open_all(&s, a, model, err);
    if (!st) {
        print_ready(&s, a, name, begun);
        st = server_run(s.server, err);
    }
    server_free(s.server);
    if (s.computes) compute_engine_release(&s.compute);
    front_close(&s.front);
    local_close(&s.local);
    auth_release(&a->auth);
    for (uint32_t i = 0; i < a->n_origins; i++) free(a->origin_list[i]);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_serve(int argc, char **argv) {
    struct serve_args a = {
        .host = "127.0.0.1",
        .port = 8000,
        .server = {.requests_max = 1024,
                   .bodies_bytes_max = 128 << 20,
                   .client_timeout_s = 60,
                   .drain_s = 30,
                   .stuck_s = 30},
        .engine = {.max_num_seqs = 256, .max_num_batched_tokens = 1024, .draft_tokens = 1}};
    const char *args[1];
    const struct flag flags[] = {
        {"host", "ADDR", FLAG_STR, &a.host, 0, 0,
         "address to listen on (default 127.0.0.1; 0.0.0.0: every one)", false},
        {"port", "N", FLAG_U32, &a.port, 0, 65535, "TCP port (default 8000; 0: any free one)",
         false},
        {"max-model-len", "N", FLAG_U32, &a.max_model_len, 1, 1 << 24,
         "longest prompt and answer together, tokens (default: max_position_embeddings)", false},
        {"served-model-name", "NAME", FLAG_STR, &a.served_name, 0, 0,
         "what requests call the model (default: MODEL as given)", false},
        {"config", "FILE", FLAG_STR, &a.config, 0, 0,
         "YAML with flags as keys, and model; the command line wins", false},
        {"api-key", "KEY", FLAG_LIST, &a.keys, 0, 0,
         "a key that /v1 asks for; may be repeated (default: none asked for)", false},
        {"api-key-file", "FILE", FLAG_STR, &a.key_file, 0, 0, "keys, one a line: KEY or KEY TENANT",
         true},
        {"ssl-certfile", "FILE", FLAG_STR, &a.server.cert_file, 0, 0,
         "certificate chain, PEM: serve HTTPS (TLS 1.2 and 1.3)", true},
        {"ssl-keyfile", "FILE", FLAG_STR, &a.server.key_file, 0, 0,
         "its private key, PEM without a password", true},
        {"max-requests-per-key", "N", FLAG_U32, &a.auth.limits.requests, 0, 65536,
         "requests of one key that run or wait (default 0: no limit)", true},
        {"max-requests-per-minute", "N", FLAG_U32, &a.auth.limits.requests_per_minute, 0, 1000000,
         "requests of one key in a minute (default 0: no limit)", true},
        {"max-concurrent-requests", "N", FLAG_U32, &a.server.requests_max, 1, 65536,
         "requests that run or wait; more get a 503 (default 1024)", true},
        {"max-waiting-bytes", "BYTES", FLAG_BYTES, &a.server.bodies_bytes_max, 0, 0,
         "bodies of requests that run or wait together; more get a 503 (default 128M)", true},
        {"max-num-seqs", "N", FLAG_U32, &a.engine.max_num_seqs, 1, 65536,
         "sequences computed at once; others wait (default 256)", false},
        {"kv-cache-memory", "BYTES", FLAG_BYTES, &a.kv_bytes, 0, 0,
         "for the KV cache, e.g. 8G (default: most of what is free beside the weights)", false},
        {"tpot-ms", "MS", FLAG_U32, &a.engine.tpot_ms, 0, 1000000,
         "target time per output token: the batch grows and shrinks to meet it (default 0: none)",
         false},
        {"ttft-ms", "MS", FLAG_U32, &a.engine.ttft_ms, 0, 100000000,
         "target time to the first token: prompts that wait longer than half of it get a larger "
         "share (default 0: none)",
         true},
        {"max-num-batched-tokens", "N", FLAG_U32, &a.engine.max_num_batched_tokens,
         EXECUTOR_CHUNK_MIN, 65536, "tokens of a prompt chunk (default 1024, at least 512)", true},
        SPECULATE_FLAGS(a.speculate, a.engine.draft_tokens),
        {"allowed-origins", "ORIGIN", FLAG_LIST, &a.origins, 0, 0,
         "whose pages may ask (CORS), e.g. https://a.example, or *; may be repeated (default: "
         "none)",
         true},
        {"client-timeout", "S", FLAG_U32, &a.server.client_timeout_s, 1, 86400,
         "seconds that a client may neither send nor read, or be slow (default 60)", true},
        {"drain-timeout", "S", FLAG_U32, &a.server.drain_s, 0, 86400,
         "seconds that running answers get when told to stop (default 30)", true},
        {"request-timeout", "S", FLAG_U32, &a.request_timeout_s, 0, 4000000,
         "seconds a request may wait and run, then a 504 (default 0: no limit)", true},
        {"stuck-timeout", "S", FLAG_U32, &a.server.stuck_s, 1, 86400,
         "seconds without progress after which /health is red (default 30)", true},
        {"log-format", "text|json", FLAG_CHOICE, &a.log_format, 0, 0, "log lines (default text)",
         true},
        {"enable-log-requests", NULL, FLAG_BOOL, &a.server.log_requests, 0, 0,
         "a log line for every request, without its text", true},
        {"trust-message-tokens", NULL, FLAG_BOOL, &a.trust_message_tokens, 0, 0,
         "let added tokens in users' messages count, as other servers do (default: they are text)",
         true},
        MODEL_ARGS_FLAGS(a.model),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "serve",
        .what = "Serves a model to OpenAI clients over HTTP.",
        .usage = "supernode serve [MODEL] [flags]",
        .example = "supernode serve models/tiny --port 8000",
        .flags = flags,
        .args_max = 1,
    };
    struct config config = {0};
    const char *model = NULL;
    struct err err;
    enum flag_result result;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st && a.config) {
        st = config_read(&config, &cmd, a.config, &model, &err);
        if (!st) st = flags_parse(&result, &cmd, argc, argv, args, &err); /* it wins */
    }
    int code = st ? cli_fail(CLI_USAGE, &err) : run(&a, args[0] ? args[0] : model, &err);
    config_release(&config);
    return code;
}

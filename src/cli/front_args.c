/* SPDX-License-Identifier: Apache-2.0 */
/* Implements front_args.h. */
#include "cli/front_args.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/human.h"

void front_args_init(struct front_args *a, const char *command) {
    *a = (struct front_args){.command = command,
                             .host = "127.0.0.1",
                             .port = 8000,
                             .server = {.requests_max = 1024,
                                        .bodies_bytes_max = 128 << 20,
                                        .client_timeout_s = 60,
                                        .drain_s = 30,
                                        .stuck_s = 30}};
}

uint32_t front_args_flags(struct flag out[FRONT_FLAGS_MAX], struct front_args *a) {
    const struct flag flags[] = {
        {"host", "ADDR", FLAG_STR, &a->host, 0, 0,
         "address to listen on (default 127.0.0.1; 0.0.0.0: every one)", false},
        {"port", "N", FLAG_U32, &a->port, 0, 65535, "TCP port (default 8000; 0: any free one)",
         false},
        {"served-model-name", "NAME", FLAG_STR, &a->served_name, 0, 0,
         "what requests call the model (default: MODEL as given)", false},
        {"config", "FILE", FLAG_STR, &a->config, 0, 0,
         "YAML with flags as keys, and model; the command line wins", false},
        {"api-key", "KEY", FLAG_LIST, &a->keys, 0, 0,
         "a key that /v1 asks for; may be repeated (default: none asked for)", false},
        {"api-key-file", "FILE", FLAG_STR, &a->key_file, 0, 0,
         "keys, one a line: KEY or KEY TENANT", true},
        {"ssl-certfile", "FILE", FLAG_STR, &a->server.cert_file, 0, 0,
         "certificate chain, PEM: serve HTTPS (TLS 1.2 and 1.3)", true},
        {"ssl-keyfile", "FILE", FLAG_STR, &a->server.key_file, 0, 0,
         "its private key, PEM without a password", true},
        {"max-requests-per-key", "N", FLAG_U32, &a->auth.limits.requests, 0, 65536,
         "requests of one key that run or wait (default 0: no limit)", true},
        {"max-requests-per-minute", "N", FLAG_U32, &a->auth.limits.requests_per_minute, 0, 1000000,
         "requests of one key in a minute (default 0: no limit)", true},
        {"max-concurrent-requests", "N", FLAG_U32, &a->server.requests_max, 1, 65536,
         "requests that run or wait; more get a 503 (default 1024)", true},
        {"max-waiting-bytes", "BYTES", FLAG_BYTES, &a->server.bodies_bytes_max, 0, 0,
         "bodies of requests that run or wait together; more get a 503 (default 128M)", true},
        {"allowed-origins", "ORIGIN", FLAG_LIST, &a->origins, 0, 0,
         "whose pages may ask (CORS), e.g. https://a.example, or *; may be repeated (default: "
         "none)",
         true},
        {"client-timeout", "S", FLAG_U32, &a->server.client_timeout_s, 1, 86400,
         "seconds that a client may neither send nor read, or be slow (default 60)", true},
        {"drain-timeout", "S", FLAG_U32, &a->server.drain_s, 0, 86400,
         "seconds that running answers get when told to stop (default 30)", true},
        {"request-timeout", "S", FLAG_U32, &a->request_timeout_s, 0, 4000000,
         "seconds a request may wait and run, then a 504 (default 0: no limit)", true},
        {"stuck-timeout", "S", FLAG_U32, &a->server.stuck_s, 1, 86400,
         "seconds without progress after which /health is red (default 30)", true},
        {"log-format", "text|json", FLAG_CHOICE, &a->log_format, 0, 0, "log lines (default text)",
         true},
        {"enable-log-requests", NULL, FLAG_BOOL, &a->server.log_requests, 0, 0,
         "a log line for every request, without its text", true},
        {"trust-message-tokens", NULL, FLAG_BOOL, &a->trust_message_tokens, 0, 0,
         "let added tokens in users' messages count, as other servers do (default: they are text)",
         true},
    };
    static_assert(sizeof flags / sizeof *flags <= FRONT_FLAGS_MAX, "room for all");
    memcpy(out, flags, sizeof flags);
    return sizeof flags / sizeof *flags;
}

/* --- keys and origins ------------------------------------------------------------------------- */

/* A word of the command line, which every user of the machine can list. */
static void hide(const char *arg) {
    for (char *c = (char *)(uintptr_t)arg; *c; c++) *c = '*';
}

static enum st read_keys(struct front_args *a, struct err *err) {
    const char *env = getenv("SUPERNODE_API_KEY");
    struct auth_limits *l = &a->auth.limits;
    enum st st = ST_OK;
    char place[64];
    snprintf(place, sizeof place, "%s: --api-key", a->command);
    if (env && *env) st = auth_add(&a->auth, env, "", "SUPERNODE_API_KEY", err);
    for (uint32_t i = 0; i < a->keys.len && !st; i++) {
        st = auth_add(&a->auth, a->keys.v[i], "", place, err);
        hide(a->keys.v[i]);
    }
    if (!st && a->key_file) st = auth_add_file(&a->auth, a->key_file, err);
    if (!st && a->auth.n == 0 && (l->requests || l->requests_per_minute))
        return err_set(err, ST_INVALID, "%s: %s limits each API key, and there is none", a->command,
                       l->requests ? "--max-requests-per-key" : "--max-requests-per-minute");
    return st;
}

/* What a browser sends in Origin has no path, so one that ends in / would never match. */
static enum st add_origin(struct front_args *a, const char *text, struct err *err) {
    size_t len = strlen(text);
    bool is_origin = strstr(text, "://") && text[len - 1] != '/' && !strchr(text, ',');
    if (strcmp(text, "*") != 0 && !is_origin)
        return err_set(err, ST_INVALID,
                       "%s: --allowed-origins: found '%.100s', expected * or an origin such as "
                       "https://chat.example",
                       a->command, text);
    if (a->n_origins == ORIGINS_MAX)
        return err_set(err, ST_INVALID, "%s: --allowed-origins: more than %d", a->command,
                       ORIGINS_MAX);
    a->origin_list[a->n_origins] = strdup(text);
    if (!a->origin_list[a->n_origins])
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", a->command);
    a->n_origins++;
    return ST_OK;
}

/* One of vLLM's JSON lists, or an origin as it is. */
static enum st add_origins(struct front_args *a, const char *text, struct err *err) {
    json_t *list = NULL, *v;
    size_t i;
    char place[64];
    if (*text != '[') return add_origin(a, text, err);
    snprintf(place, sizeof place, "%s: --allowed-origins", a->command);
    enum st st = json_parse(&list, text, strlen(text), place, err);
    if (st) return st;
    json_array_foreach(list, i, v) {
        if (!json_is_string(v))
            st = err_set(err, ST_INVALID, "%s: found %s, expected a string", place, json_kind(v));
        if (st || (st = add_origin(a, json_string_value(v), err))) break;
    }
    json_decref(list);
    return st;
}

enum st front_args_finish(struct front_args *a, struct err *err) {
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
        return err_set(err, ST_INVALID, "%s: --ssl-certfile and --ssl-keyfile need each other",
                       a->command);
    return read_keys(a, err);
}

void front_args_release(struct front_args *a) {
    auth_release(&a->auth);
    for (uint32_t i = 0; i < a->n_origins; i++) free(a->origin_list[i]);
}

/* --- what is said at the start ---------------------------------------------------------------- */

void front_print_model(const struct ckpt *c, const char *model) {
    char params[32], active[32], bytes[32];
    struct ckpt_stats stats;
    ckpt_stats(c, &stats);
    printf("model      %s  %s  %s parameters, %s active, %s, %s\n", model,
           ckpt_facts(c)->architecture, human_count(params, sizeof params, (double)stats.params),
           human_count(active, sizeof active, (double)stats.params_active), stats.dtype,
           human_bytes(bytes, sizeof bytes, (double)stats.bytes));
}

/* 0.0.0.0 is no address to go to. */
static void reachable(char *out, size_t size, const char *host) {
    const char *to = strcmp(host, "0.0.0.0") == 0 ? "127.0.0.1"
                     : strcmp(host, "::") == 0    ? "::1"
                                                  : host;
    snprintf(out, size, strchr(to, ':') ? "[%s]" : "%s", to);
}

void front_print_serving(const struct front_args *a, uint16_t port, bool chat, uint64_t begun_ns) {
    char address[256];
    snprintf(address, sizeof address, strchr(a->host, ':') ? "[%s]" : "%s", a->host);
    const char *scheme = a->server.cert_file ? "https" : "http";
    printf("serving    %s://%s:%u   ready in %.2f s\n\n", scheme, address, port,
           (double)(clock_now_ns() - begun_ns) / 1e9);
    reachable(address, sizeof address, a->host);
    const char *path = chat ? "chat/completions" : "completions";
    const char *body =
        chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me a story about a fox.\"}]"
             : "\"prompt\":\"Once upon a time\",\"max_tokens\":100";
    printf("try:\n  curl -N %s://%s:%u/v1/%s -H 'content-type: application/json' %s\\\n    -d "
           "'{%s,\"stream\":true}'\n",
           scheme, address, port, path,
           a->auth.n ? "-H \"authorization: Bearer $SUPERNODE_API_KEY\" " : "", body);
    fflush(stdout);
}

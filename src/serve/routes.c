/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP surface: which path does what, who may ask, and the small answers. What takes a model is
 * in reply.c. As in vLLM, keys protect what costs or tells something (/v1/, /tokenize, /detokenize);
 * health, metrics, version and the page stay open for probes and scrapers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>

#include "base/clock.h"
#include "serve/cluster_json.h"
#include "serve/json_out.h"
#include "serve/metrics_cluster.h"
#include "serve/page.h"
#include "serve/server_impl.h"

enum { SMALL_BODY_MAX = 65536, METRICS_BYTES_MAX = 4 << 20, ASKED_HEADERS_MAX = 1024 };

/* --- sending ---------------------------------------------------------------------------------- */

static const char *route_label(const struct evhttp_request *req);

void server_count(struct server *s, struct evhttp_request *req, int status) {
    metrics_count(&s->metrics, route_label(req), status);
}

static void send_typed(struct server *s, struct evhttp_request *req, int status, const char *type,
                       const struct buf *body) {
    struct evbuffer *b = evbuffer_new();
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    bool with_body = body && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD;
    if (with_body && (!b || evbuffer_add(b, body->data, body->len) != 0)) {
        body = NULL;
        status = 500;
    }
    if (body) evhttp_add_header(h, "Content-Type", type);
    server_count(s, req, status);
    evhttp_send_reply(req, status, api_reason(status), b);
    if (b) evbuffer_free(b);
}

void server_send(struct server *s, struct evhttp_request *req, int status, const struct buf *body) {
    send_typed(s, req, status, "application/json", body);
}

void server_send_error(struct server *s, struct evhttp_request *req, const struct api_error *e) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%u", e->retry_s);
    if (e->retry_s) evhttp_add_header(h, "Retry-After", seconds);
    if (e->status == 401) evhttp_add_header(h, "WWW-Authenticate", "Bearer");
    if (e->code && strcmp(e->code, "shutting_down") == 0)
        evhttp_add_header(h, "Connection", "close");
    bool ok = api_error_write(&body, e) == ST_OK;
    server_send(s, req, e->status, ok ? &body : NULL);
    buf_release(&body);
}

static void send_built(struct server *s, struct evhttp_request *req, const char *type,
                       struct json_out *o) {
    if (!o->st)
        send_typed(s, req, 200, type, o->buf);
    else
        server_send(s, req, 500, NULL);
    buf_release(o->buf);
}

static void send_json(struct server *s, struct evhttp_request *req, struct json_out *o) {
    send_built(s, req, "application/json", o);
}

/* --- small answers ---------------------------------------------------------------------------- */

static void write_model(struct json_out *o, const struct server *s) {
    json_out_raw(o, "{\"id\":");
    json_out_text(o, s->front->model, strlen(s->front->model));
    json_out_raw(o, ",\"object\":\"model\",\"created\":");
    json_out_int(o, s->started_s);
    json_out_raw(o, ",\"owned_by\":\"supernode\",\"max_model_len\":");
    json_out_int(o, s->front->max_model_len);
    json_out_raw(o, "}");
}

static void get_models(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    (void)key;
    json_out_raw(&o, "{\"object\":\"list\",\"data\":[");
    write_model(&o, s);
    json_out_raw(&o, "]}");
    send_json(s, req, &o);
}

static void get_model(struct server *s, struct evhttp_request *req, const char *id) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    struct api_error e;
    if (strcmp(id, s->front->model) == 0) {
        write_model(&o, s);
        send_json(s, req, &o);
        return;
    }
    (void)api_fail(&e, 404, "model", "model_not_found",
                   "model: '%.100s' is not served here; '%.100s' is", id, s->front->model);
    server_send_error(s, req, &e);
}

static void get_live(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    (void)key;
    json_out_raw(&o, "{\"status\":\"ok\"}");
    send_json(s, req, &o);
}

/* Ready: a balancer may send requests. */
static void get_health(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct api_error e;
    uint64_t stuck_s = worker_stuck_ns(s->worker) / 1000000000;
    enum member_role lacking;
    if (s->stopping)
        (void)api_fail(&e, 503, NULL, "shutting_down", "the server is shutting down");
    else if (stuck_s >= s->o.stuck_s)
        (void)api_fail(&e, 503, NULL, "stuck",
                       "no piece of work was finished for %llu s while some waits",
                       (unsigned long long)stuck_s);
    else if (s->cluster && !cluster_watch_ready(s->cluster, &lacking))
        (void)api_fail(&e, 503, NULL, "no_worker", "no %s worker is ready",
                       member_role_name(lacking));
    else {
        get_live(s, req, key);
        return;
    }
    server_send_error(s, req, &e);
}

static void get_version(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    (void)key;
    json_out_raw(&o, "{\"version\":\"" SUPERNODE_VERSION "\"}");
    send_json(s, req, &o);
}

/* To be freed; views are too large for the stack. NULL: o has failed. */
static struct cluster_view *view_of(struct server *s, struct json_out *o) {
    struct cluster_view *view = malloc(sizeof *view);
    if (view)
        cluster_watch_view(s->cluster, view);
    else
        o->st = ST_NO_MEMORY;
    return view;
}

static void get_cluster(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct buf body = {.max = METRICS_BYTES_MAX};
    struct json_out o = {&body, ST_OK};
    struct api_error e;
    (void)key;
    if (!s->cluster) {
        (void)api_fail(&e, 404, NULL, NULL, "/cluster: this server is no cluster's router");
        server_send_error(s, req, &e);
        return;
    }
    struct cluster_view *view = view_of(s, &o);
    if (view) cluster_json_write(&o, view);
    free(view);
    send_json(s, req, &o);
}

static void get_metrics(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    struct buf body = {.max = METRICS_BYTES_MAX};
    struct json_out o = {&body, ST_OK};
    struct engine_stats stats;
    (void)key;
    worker_stats(s->worker, &stats);
    s->metrics.rejected[REJECT_CONNECTIONS] = s->conns.closed_full;
    struct metrics_now now = {.model = s->front->model,
                              .engine = &stats,
                              .http = &s->metrics,
                              .connections = s->conns.n,
                              .requests = s->n_replies,
                              .stuck_s = (double)worker_stuck_ns(s->worker) / 1e9,
                              .started_s = s->started_s};
    metrics_write(&o, &now);
    struct cluster_view *view = s->cluster ? view_of(s, &o) : NULL;
    if (view) metrics_cluster(&o, view);
    free(view);
    send_built(s, req, "text/plain; version=0.0.4; charset=utf-8", &o);
}

static void post_chat(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    reply_begin(s, req, API_CHAT, key);
}
static void post_completion(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    reply_begin(s, req, API_COMPLETION, key);
}

static void post_tokenize(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    reply_begin(s, req, API_TOKENIZE, key);
}
static void post_detokenize(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    reply_begin(s, req, API_DETOKENIZE, key);
}

static void get_page(struct server *s, struct evhttp_request *req, struct auth_key *key) {
    (void)key;
    server_count(s, req, page_send(req));
}

/* --- routes ----------------------------------------------------------------------------------- */

enum access { OPEN, KEYED };
struct route {
    const char *path;
    enum evhttp_cmd_type method; /* GET takes HEAD too */
    enum access access;
    void (*run)(struct server *s, struct evhttp_request *req, struct auth_key *key);
};
static const struct route routes[] = {
    {"/", EVHTTP_REQ_GET, OPEN, get_page},
    {"/page.css", EVHTTP_REQ_GET, OPEN, get_page},
    {"/page.js", EVHTTP_REQ_GET, OPEN, get_page},
    {"/v1/chat/completions", EVHTTP_REQ_POST, KEYED, post_chat},
    {"/v1/completions", EVHTTP_REQ_POST, KEYED, post_completion},
    {"/tokenize", EVHTTP_REQ_POST, KEYED, post_tokenize},
    {"/detokenize", EVHTTP_REQ_POST, KEYED, post_detokenize},
    {"/v1/models", EVHTTP_REQ_GET, KEYED, get_models},
    {"/live", EVHTTP_REQ_GET, OPEN, get_live},
    {"/health", EVHTTP_REQ_GET, OPEN, get_health},
    {"/metrics", EVHTTP_REQ_GET, OPEN, get_metrics},
    {"/cluster", EVHTTP_REQ_GET, OPEN, get_cluster},
    {"/version", EVHTTP_REQ_GET, OPEN, get_version},
};
static const char keyed_prefix[] = "/v1/", model_prefix[] = "/v1/models/";

static bool has_prefix(const char *path, const char *prefix) {
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

static const struct route *route_find(const char *path) {
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (strcmp(path, routes[i].path) == 0) return &routes[i];
    return NULL;
}

/* Decoded, to be freed; NULL for what can be no path of ours: "/%00" is not "/". */
static char *path_of(const struct evhttp_request *req) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *raw = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t len = 0;
    char *path = evhttp_uridecode(raw ? raw : "", 0, &len);
    if (path && strlen(path) == len) return path;
    free(path);
    return NULL;
}

/* What metrics call the path: one of few constants, whatever was asked for. */
static const char *route_label(const struct evhttp_request *req) {
    char *path = path_of(req);
    const struct route *route = path ? route_find(path) : NULL;
    const char *label = route                                    ? route->path
                        : path && has_prefix(path, model_prefix) ? "/v1/models/{name}"
                                                                 : "other";
    free(path);
    return label;
}

/* True: the method may go on. Otherwise the request was answered. */
static bool check_method(struct server *s, struct evhttp_request *req,
                         enum evhttp_cmd_type method) {
    enum evhttp_cmd_type m = evhttp_request_get_command(req);
    const char *allow = method == EVHTTP_REQ_GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    struct api_error e;
    if (m == method || (method == EVHTTP_REQ_GET && m == EVHTTP_REQ_HEAD)) return true;
    evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", allow);
    if (m == EVHTTP_REQ_OPTIONS) {
        server_send(s, req, 204, NULL);
        return false;
    }
    (void)api_fail(&e, 405, NULL, NULL, "%.100s: method not allowed, expected %s",
                   evhttp_request_get_uri(req), allow);
    server_send_error(s, req, &e);
    return false;
}

/* True: the request may go on, by *key (NULL where no keys are asked for). Otherwise it was
 * answered. */
static bool check_key(struct server *s, struct evhttp_request *req, struct auth_key **key) {
    struct api_error e;
    *key = NULL;
    if (s->o.auth->n == 0) return true;
    const char *header = evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");
    *key = auth_find(s->o.auth, header);
    if (*key) return true;
    s->metrics.rejected[REJECT_UNAUTHORIZED]++;
    server_log(s, LINE_UNAUTHORIZED, "serve: API key refused", NULL,
               (struct log_field)LOG_STR("path", route_label(req)));
    (void)api_fail(&e, 401, NULL, "invalid_api_key", "%s",
                   header ? "Authorization: the API key is not known"
                          : "Authorization: expected the header 'Authorization: Bearer KEY'");
    server_send_error(s, req, &e);
    return false;
}

static void route_path(struct server *s, struct evhttp_request *req, const char *path) {
    struct api_error e;
    struct auth_key *key = NULL;
    const struct route *route = route_find(path);
    bool keyed = route ? route->access == KEYED : has_prefix(path, keyed_prefix);
    /* a browser asks for leave (OPTIONS) without the key, and before it says it */
    if (keyed && evhttp_request_get_command(req) != EVHTTP_REQ_OPTIONS && !check_key(s, req, &key))
        return;
    if (route) {
        if (check_method(s, req, route->method)) route->run(s, req, key);
        return;
    }
    if (has_prefix(path, model_prefix)) {
        if (check_method(s, req, EVHTTP_REQ_GET)) get_model(s, req, path + sizeof model_prefix - 1);
        return;
    }
    (void)api_fail(&e, 404, NULL, NULL,
                   "%.100s: unknown path; there are /v1/chat/completions, /v1/completions, "
                   "/tokenize, /detokenize, /v1/models, /live, /health, /metrics, /version",
                   path);
    server_send_error(s, req, &e);
}

/* --- other origins ---------------------------------------------------------------------------- */

/* The names of headers, and nothing else. */
static bool is_list_of_names(const char *text) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "!#$%&'*+-.^_`|~, ";
    size_t len = strlen(text);
    return len > 0 && len <= ASKED_HEADERS_MAX && strspn(text, ok) == len;
}

/* The origin as named by the operator, or NULL. */
static const char *origin_allowed(const struct server *s, const char *origin) {
    for (uint32_t i = 0; origin && i < s->o.n_origins; i++)
        if (strcmp(s->o.origins[i], "*") == 0 || strcmp(s->o.origins[i], origin) == 0)
            return s->o.origins[i];
    return NULL;
}

/* The page at "/" asks with the scheme and host it was loaded from. Without TLS here there may be a
 * proxy in front that has it. */
static bool origin_is_own(const struct server *s, const char *origin, const char *host) {
    if (!host) return false;
    if (strncmp(origin, "https://", 8) == 0) return strcasecmp(origin + 8, host) == 0;
    return !s->tls && strncmp(origin, "http://", 7) == 0 && strcasecmp(origin + 7, host) == 0;
}

/* Lets a page of an allowed origin read the answer, and ask at all (preflight). */
static void add_cors(struct server *s, struct evhttp_request *req, const char *allowed) {
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    const char *asked =
        evhttp_find_header(evhttp_request_get_input_headers(req), "Access-Control-Request-Headers");
    if (s->o.n_origins == 0) return;
    evhttp_add_header(h, "Vary", "Origin");
    if (!allowed) return;
    evhttp_add_header(h, "Access-Control-Allow-Origin", allowed);
    evhttp_add_header(h, "Access-Control-Expose-Headers", "Retry-After");
    if (evhttp_request_get_command(req) != EVHTTP_REQ_OPTIONS) return;
    evhttp_add_header(h, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    evhttp_add_header(h, "Access-Control-Allow-Headers",
                      asked && is_list_of_names(asked) ? asked : "authorization, content-type");
    evhttp_add_header(h, "Access-Control-Max-Age", "600");
}

/* A browser sends some POSTs of any page without asking for leave, and hides only the answer: a page
 * must not make the server compute. True: the request may go on. Otherwise it was answered. */
static bool check_origin(struct server *s, struct evhttp_request *req) {
    struct evkeyvalq *in = evhttp_request_get_input_headers(req);
    const char *origin = evhttp_find_header(in, "Origin");
    const char *allowed = origin_allowed(s, origin);
    struct api_error e;
    add_cors(s, req, allowed);
    if (!origin || allowed || evhttp_request_get_command(req) != EVHTTP_REQ_POST ||
        origin_is_own(s, origin, evhttp_find_header(in, "Host")))
        return true;
    (void)api_fail(&e, 403, NULL, "origin_not_allowed",
                   "Origin: pages of %.100s may not ask this server; --allowed-origins lets them",
                   origin);
    server_send_error(s, req, &e);
    return false;
}

/* --- where a request ends --------------------------------------------------------------------- */

/* Whether it can be told in two ways, of which evhttp took one, and a proxy maybe the other. Debian's
 * evhttp refuses those with Transfer-Encoding by itself, libevent's own 2.1.12 does not. */
static bool end_is_ambiguous(const struct evkeyvalq *in) {
    const char *length = NULL, *coding = NULL;
    const struct evkeyval *h;
    TAILQ_FOREACH(h, in, next) {
        if (strcasecmp(h->key, "Content-Length") == 0) {
            if (length && strcmp(length, h->value) != 0) return true;
            length = h->value;
        } else if (strcasecmp(h->key, "Transfer-Encoding") == 0) {
            if (coding || strcasecmp(h->value, "chunked") != 0) return true;
            coding = h->value;
        }
    }
    return length && coding;
}

/* evhttp does not read the body of a HEAD or of a method it does not know; it would be taken for the
 * next request. */
static bool body_was_left(struct evhttp_request *req) {
    const struct evkeyvalq *in = evhttp_request_get_input_headers(req);
    const char *length = evhttp_find_header(in, "Content-Length");
    switch (evhttp_request_get_command(req)) {
    case EVHTTP_REQ_GET:
    case EVHTTP_REQ_POST:
    case EVHTTP_REQ_PUT:
    case EVHTTP_REQ_PATCH:
    case EVHTTP_REQ_DELETE:
    case EVHTTP_REQ_OPTIONS: return false;
    case EVHTTP_REQ_HEAD:
        return (length && strcmp(length, "0") != 0) || evhttp_find_header(in, "Transfer-Encoding");
    default: return true;
    }
}

static bool check_end(struct server *s, struct evhttp_request *req) {
    struct http_conn *conn = http_conn_of(&s->conns, req);
    bool ambiguous = end_is_ambiguous(evhttp_request_get_input_headers(req));
    struct api_error e;
    if (ambiguous || body_was_left(req)) {
        evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close");
        http_conn_linger(conn);
    }
    if (!ambiguous) return true;
    (void)api_fail(&e, 400, NULL, NULL,
                   "malformed HTTP request: Content-Length and Transfer-Encoding: found more than "
                   "one, or a coding other than chunked");
    server_send_error(s, req, &e);
    return false;
}

void server_request(struct evhttp_request *req, void *arg) {
    struct server *s = arg;
    http_conn_arrived(http_conn_of(&s->conns, req));
    if (!check_end(s, req) || !check_origin(s, req)) return;
    char *path = path_of(req);
    route_path(s, req, path ? path : "");
    free(path);
}

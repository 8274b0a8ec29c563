/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP surface: which path does what, who may ask, and the small answers. What takes a model is
 * in reply.c. As in vLLM, keys protect what costs or tells something (/v1, /tokenize, /detokenize);
 * health, metrics, version and the page stay open for probes and scrapers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>

#include "base/clock.h"
#include "serve/json_out.h"
#include "serve/page.h"
#include "serve/server_impl.h"

enum { SMALL_BODY_MAX = 65536, METRICS_BYTES_MAX = 4 << 20 };

/* --- sending ---------------------------------------------------------------------------------- */

static const char *route_label(const struct evhttp_request *req);

void server_count(struct server *s, struct evhttp_request *req, int status) {
    metrics_http(&s->metrics, route_label(req), status);
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
    if (s->stopping)
        (void)api_fail(&e, 503, NULL, "shutting_down", "the server is shutting down");
    else if (stuck_s >= s->o.stuck_s)
        (void)api_fail(&e, 503, NULL, "stuck",
                       "no piece of work was finished for %llu s while some waits",
                       (unsigned long long)stuck_s);
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
    {"/version", EVHTTP_REQ_GET, OPEN, get_version},
};
static const char model_prefix[] = "/v1/models/";

/* What metrics call the path: one of few constants, whatever was asked for. */
static const char *route_label(const struct evhttp_request *req) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    for (size_t i = 0; path && i < sizeof routes / sizeof *routes; i++)
        if (strcmp(path, routes[i].path) == 0) return routes[i].path;
    return path && strncmp(path, model_prefix, sizeof model_prefix - 1) == 0 ? "/v1/models/{name}"
                                                                             : "other";
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

static bool check(struct server *s, struct evhttp_request *req, enum evhttp_cmd_type method,
                  enum access access, struct auth_key **key) {
    *key = NULL;
    return check_method(s, req, method) && (access == OPEN || check_key(s, req, key));
}

static void route_path(struct server *s, struct evhttp_request *req, const char *path) {
    struct api_error e;
    struct auth_key *key;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(path, routes[i].path) != 0) continue;
        if (check(s, req, routes[i].method, routes[i].access, &key)) routes[i].run(s, req, key);
        return;
    }
    if (strncmp(path, model_prefix, sizeof model_prefix - 1) == 0) {
        if (check(s, req, EVHTTP_REQ_GET, KEYED, &key))
            get_model(s, req, path + sizeof model_prefix - 1);
        return;
    }
    (void)api_fail(&e, 404, NULL, NULL,
                   "%.100s: unknown path; there are /v1/chat/completions, /v1/completions, "
                   "/tokenize, /detokenize, /v1/models, /live, /health, /metrics, /version",
                   path);
    server_send_error(s, req, &e);
}

/* --- other origins ---------------------------------------------------------------------------- */

/* Lets a page of an allowed origin read the answer, and ask at all (preflight). */
static void add_cors(struct server *s, struct evhttp_request *req) {
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    const char *origin = evhttp_find_header(evhttp_request_get_input_headers(req), "Origin");
    const char *allowed = NULL;
    if (s->o.n_origins == 0) return;
    evhttp_add_header(h, "Vary", "Origin");
    for (uint32_t i = 0; origin && !allowed && i < s->o.n_origins; i++)
        if (strcmp(s->o.origins[i], "*") == 0 || strcmp(s->o.origins[i], origin) == 0)
            allowed = s->o.origins[i];
    if (!allowed) return;
    evhttp_add_header(h, "Access-Control-Allow-Origin", allowed);
    if (evhttp_request_get_command(req) != EVHTTP_REQ_OPTIONS) return;
    evhttp_add_header(h, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    evhttp_add_header(h, "Access-Control-Allow-Headers", "authorization, content-type");
    evhttp_add_header(h, "Access-Control-Max-Age", "600");
}

void server_request(struct evhttp_request *req, void *arg) {
    struct server *s = arg;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *raw = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t len = 0;
    char *path = evhttp_uridecode(raw ? raw : "", 0, &len);
    /* the body of a method that evhttp does not know was not read and would be taken for the next
     * request */
    bool unread_body = evhttp_request_get_command(req) &
                       ~(EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_PATCH |
                         EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS);
    if (unread_body && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD)
        evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close");
    http_conn_arrived(http_conn_of(&s->conns, req));
    add_cors(s, req);
    route_path(s, req, path && strlen(path) == len ? path : ""); /* "/%00" is not "/" */
    free(path);
}

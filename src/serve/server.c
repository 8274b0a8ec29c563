/* SPDX-License-Identifier: Apache-2.0 */
/* Implements server.h: life, routes and the small answers. What takes a model is in reply.c. */
#include "serve/server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/listener.h>

#include "base/clock.h"
#include "serve/json_out.h"
#include "serve/server_impl.h"

enum {
    HEADERS_BYTES_MAX = 65536,
    SEND_BYTES_MAX = 256 << 10,
    BACKLOG = 512,
    SMALL_BODY_MAX = 65536,
    RETRY_AFTER_S = 1
};

/* --- small answers ---------------------------------------------------------------------------- */

void server_log(struct server *s, const char *fmt, ...) {
    char line[512];
    uint64_t now = clock_now_ns();
    if (s->log_ns && now - s->log_ns < 1000000000u) {
        s->log_skipped++;
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (s->log_skipped && n > 0 && (size_t)n < sizeof line)
        snprintf(line + n, sizeof line - (size_t)n, " (and %u lines before it)", s->log_skipped);
    s->log_skipped = 0;
    s->log_ns = now;
    s->o.log(line);
}

void server_send(struct server *s, struct evhttp_request *req, int status, const struct buf *body) {
    (void)s;
    struct evbuffer *b = evbuffer_new();
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    bool with_body = body && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD;
    if (with_body && (!b || evbuffer_add(b, body->data, body->len) != 0)) {
        body = NULL;
        status = 500;
    }
    if (body) evhttp_add_header(h, "Content-Type", "application/json");
    evhttp_send_reply(req, status, api_reason(status), b);
    if (b) evbuffer_free(b);
}

void server_send_error(struct server *s, struct evhttp_request *req, const struct api_error *e) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", RETRY_AFTER_S);
    if (e->status == 503) evhttp_add_header(h, "Retry-After", seconds);
    if (e->code && strcmp(e->code, "shutting_down") == 0)
        evhttp_add_header(h, "Connection", "close");
    bool ok = api_error_write(&body, e) == ST_OK;
    server_send(s, req, e->status, ok ? &body : NULL);
    buf_release(&body);
}

static void send_model(struct json_out *o, const struct server *s) {
    json_out_raw(o, "{\"id\":");
    json_out_text(o, s->front->model, strlen(s->front->model));
    json_out_raw(o, ",\"object\":\"model\",\"created\":");
    json_out_int(o, s->started_s);
    json_out_raw(o, ",\"owned_by\":\"supernode\",\"max_model_len\":");
    json_out_int(o, s->front->max_model_len);
    json_out_raw(o, "}");
}

static void send_built(struct server *s, struct evhttp_request *req, struct json_out *o) {
    if (!o->st)
        server_send(s, req, 200, o->buf);
    else
        server_send(s, req, 500, NULL);
    buf_release(o->buf);
}

static void get_models(struct server *s, struct evhttp_request *req) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    json_out_raw(&o, "{\"object\":\"list\",\"data\":[");
    send_model(&o, s);
    json_out_raw(&o, "]}");
    send_built(s, req, &o);
}

static void get_model(struct server *s, struct evhttp_request *req, const char *id) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    struct api_error e;
    if (strcmp(id, s->front->model) == 0) {
        send_model(&o, s);
        send_built(s, req, &o);
        return;
    }
    (void)api_fail(&e, 404, "model", "model_not_found",
                   "model: '%.100s' is not served here; '%.100s' is", id, s->front->model);
    server_send_error(s, req, &e);
}

static void get_health(struct server *s, struct evhttp_request *req) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    struct api_error e;
    if (s->stopping) {
        (void)api_fail(&e, 503, NULL, "shutting_down", "the server is shutting down");
        server_send_error(s, req, &e);
        return;
    }
    json_out_raw(&o, "{\"status\":\"ok\"}");
    send_built(s, req, &o);
}

static void get_version(struct server *s, struct evhttp_request *req) {
    struct buf body = {.max = SMALL_BODY_MAX};
    struct json_out o = {&body, ST_OK};
    json_out_raw(&o, "{\"version\":\"" SUPERNODE_VERSION "\"}");
    send_built(s, req, &o);
}

static void post_chat(struct server *s, struct evhttp_request *req) {
    reply_begin(s, req, API_CHAT);
}
static void post_completion(struct server *s, struct evhttp_request *req) {
    reply_begin(s, req, API_COMPLETION);
}

/* --- routes ----------------------------------------------------------------------------------- */

struct route {
    const char *path;
    enum evhttp_cmd_type method; /* GET takes HEAD too */
    void (*run)(struct server *s, struct evhttp_request *req);
};
static const struct route routes[] = {
    {"/v1/chat/completions", EVHTTP_REQ_POST, post_chat},
    {"/v1/completions", EVHTTP_REQ_POST, post_completion},
    {"/v1/models", EVHTTP_REQ_GET, get_models},
    {"/health", EVHTTP_REQ_GET, get_health},
    {"/version", EVHTTP_REQ_GET, get_version},
};
static const char model_prefix[] = "/v1/models/";

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

static void route_path(struct server *s, struct evhttp_request *req, const char *path) {
    struct api_error e;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(path, routes[i].path) != 0) continue;
        if (check_method(s, req, routes[i].method)) routes[i].run(s, req);
        return;
    }
    if (strncmp(path, model_prefix, sizeof model_prefix - 1) == 0) {
        if (check_method(s, req, EVHTTP_REQ_GET)) get_model(s, req, path + sizeof model_prefix - 1);
        return;
    }
    (void)api_fail(&e, 404, NULL, NULL,
                   "%.100s: unknown path; there are /v1/chat/completions, /v1/completions, "
                   "/v1/models, /health, /version",
                   path);
    server_send_error(s, req, &e);
}

static void on_request(struct evhttp_request *req, void *arg) {
    struct server *s = arg;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *raw = uri ? evhttp_uri_get_path(uri) : NULL;
    char *path = evhttp_uridecode(raw ? raw : "", 0, NULL);
    /* the body of a method that evhttp does not know was not read and would be taken for the next
     * request */
    bool unread_body = evhttp_request_get_command(req) &
                       ~(EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_PATCH |
                         EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS);
    if (unread_body && evhttp_request_get_command(req) != EVHTTP_REQ_HEAD)
        evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close");
    route_path(s, req, path ? path : "");
    free(path);
}

/* --- stopping --------------------------------------------------------------------------------- */

static void stop_if_drained(struct server *s) {
    if (s->stopping && s->n_replies == 0) event_base_loopexit(s->base, NULL);
}

static void on_mail(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    (void)fd;
    (void)what;
    replies_mail(s);
    stop_if_drained(s);
}

/* First what runs may finish; then it is cancelled and has a second for its last words. */
static void on_drain(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    struct timeval last = {1, 0};
    (void)fd;
    (void)what;
    if (s->draining_over) {
        event_base_loopbreak(s->base);
        return;
    }
    s->draining_over = true;
    replies_cancel(s);
    event_add(s->drain, &last);
}

static void on_signal(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    struct timeval limit = {SERVER_DRAIN_S, 0};
    struct api_error why;
    (void)fd;
    (void)what;
    s->stopping = true;
    s->log_ns = 0; /* the operator asked */
    if (s->n_replies)
        server_log(s, "serve: stopping: %u request%s at most %d s (a second signal: at once)",
                   s->n_replies, s->n_replies == 1 ? " has" : "s have", SERVER_DRAIN_S);
    evhttp_del_accept_socket(s->http, s->bound);
    s->bound = NULL;
    event_del(s->interrupt); /* a second signal does what signals do */
    event_del(s->terminate);
    (void)api_fail(&why, 503, NULL, "shutting_down", "the server is shutting down");
    worker_refuse_waiting(s->worker, &why);
    event_add(s->drain, &limit);
    stop_if_drained(s);
}

/* Accepting failed (no descriptor left): it would fail again at once, so it pauses until the next
 * tick. */
static void on_accept_error(struct evconnlistener *listener, void *arg) {
    (void)arg;
    evconnlistener_disable(listener);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    (void)fd;
    (void)what;
    if (s->bound) evconnlistener_enable(evhttp_bound_socket_get_listener(s->bound));
}

/* --- life ------------------------------------------------------------------------------------- */

/* libevent's own warnings concern single connections; what matters comes back as a status. */
static void no_log(int severity, const char *message) {
    (void)severity;
    (void)message;
}

static uint16_t bound_port(int fd, uint16_t asked) {
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0) return asked;
    if (a.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

/* Accepted sockets inherit the options: tokens go out as they come, and a peer that vanished is
 * found in the end. */
static void set_options(int fd) {
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

static enum st bind_address(struct server *s, struct err *err) {
    const char *host = s->o.host;
    uint16_t port = s->o.port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list, *a;
    char service[8];
    int error = 0;
    snprintf(service, sizeof service, "%u", port);
    int bad = getaddrinfo(host, service, &hints, &list);
    if (bad) return err_set(err, ST_INVALID, "serve: --host %s: %s", host, gai_strerror(bad));
    for (a = list; a && s->fd < 0; a = a->ai_next) {
        int fd =
            socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
        if (fd < 0) {
            error = errno;
            continue;
        }
        set_options(fd);
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0) {
            s->fd = fd;
        } else {
            error = errno;
            close(fd);
        }
    }
    freeaddrinfo(list);
    if (s->fd < 0) {
        if (error == EADDRINUSE)
            return err_set(err, ST_IO, "serve: %s port %u is in use; choose another with --port",
                           host, port);
        return err_set(err, ST_IO, "serve: cannot bind %s port %u: %s", host, port,
                       strerror(error));
    }
    s->port = bound_port(s->fd, port);
    return ST_OK;
}

static enum st make_http(struct server *s, struct err *err) {
    event_set_log_callback(no_log);
    s->base = event_base_new();
    s->http = s->base ? evhttp_new(s->base) : NULL;
    if (!s->http) return err_set(err, ST_NO_MEMORY, "serve: cannot make an event loop");
    s->mail = event_new(s->base, s->mailbox.fd, EV_READ | EV_PERSIST, on_mail, s);
    s->interrupt = evsignal_new(s->base, SIGINT, on_signal, s);
    s->terminate = evsignal_new(s->base, SIGTERM, on_signal, s);
    s->tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
    s->drain = evtimer_new(s->base, on_drain, s);
    if (!s->mail || !s->interrupt || !s->terminate || !s->tick || !s->drain)
        return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    http_conns_init(&s->conns, s->base, s->http, SERVER_BODY_BYTES_MAX);
    evhttp_set_max_body_size(s->http, SERVER_BODY_BYTES_MAX);
    evhttp_set_max_headers_size(s->http, HEADERS_BYTES_MAX);
    evhttp_set_timeout(s->http, HTTP_IDLE_S);
    evhttp_set_allowed_methods(s->http, 0xffff); /* on_request knows which */
    evhttp_set_gencb(s->http, on_request, s);
    return ST_OK;
}

enum st server_new(struct server **out, const struct server_options *o, struct err *err) {
    struct server *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    s->fd = s->mailbox.fd = -1;
    s->o = *o;
    enum st st = mailbox_init(&s->mailbox, err);
    if (!st) st = make_http(s, err);
    if (!st) st = bind_address(s, err);
    if (st) {
        server_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

enum st server_start(struct server *s, const struct front *front, struct generator *generator,
                     struct err *err) {
    struct timeval second = {1, 0};
    s->front = front;
    s->started_s = (int64_t)time(NULL);
    signal(SIGPIPE, SIG_IGN);
    enum st st = worker_start(&s->worker, front, generator, &s->mailbox, err);
    if (st) return st;
    if (listen(s->fd, BACKLOG) != 0)
        return err_set(err, ST_IO, "serve: cannot listen on port %u: %s", s->port, strerror(errno));
    s->bound = evhttp_accept_socket_with_handle(s->http, s->fd);
    if (!s->bound) return err_set(err, ST_IO, "serve: cannot listen on port %u", s->port);
    s->fd = -1;
    evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(s->bound), on_accept_error);
    if (event_add(s->mail, NULL) || event_add(s->interrupt, NULL) ||
        event_add(s->terminate, NULL) || event_add(s->tick, &second))
        return err_set(err, ST_IO, "serve: cannot watch for events");
    return ST_OK;
}

uint16_t server_port(const struct server *s) {
    return s->port;
}

enum st server_run(struct server *s, struct err *err) {
    assert(s->worker);
    return event_base_dispatch(s->base) < 0
               ? err_set(err, ST_IO, "serve: the event loop failed: %s", strerror(errno))
               : ST_OK;
}

static void event_free_if(struct event *e) {
    if (e) event_free(e);
}

void server_free(struct server *s) {
    if (!s) return;
    replies_cancel(s);
    worker_stop(s->worker);
    if (s->http)
        evhttp_free(s->http); /* clients that are left are closed, and their replies are over */
    if (s->base && s->worker) replies_mail(s);
    assert(s->n_replies == 0);
    http_conns_release(&s->conns);
    event_free_if(s->mail);
    event_free_if(s->interrupt);
    event_free_if(s->terminate);
    event_free_if(s->tick);
    event_free_if(s->drain);
    if (s->base) event_base_free(s->base);
    mailbox_release(&s->mailbox);
    if (s->fd >= 0) close(s->fd);
    free(s);
}

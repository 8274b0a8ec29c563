/* SPDX-License-Identifier: Apache-2.0 */
/* Implements metrics_http.h with evhttp. */
#include "serve/metrics_http.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <event2/thread.h>

#include "serve/api_error.h"

enum { BODY_MAX = 4 << 20, HEADERS_MAX = 8192, IDLE_S = 30 };

struct metrics_http {
    struct metrics_http_options o;
    struct event_base *base;
    struct evhttp *http;
    uint16_t port;
    pthread_t thread;
};

static void send_text(struct evhttp_request *req, int status, const char *type,
                      const struct json_out *o) {
    struct evbuffer *b = evbuffer_new();
    bool whole = b && !o->st && evbuffer_add(b, o->buf->data, o->buf->len) == 0;
    evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
    if (!whole) status = 500;
    evhttp_send_reply(req, status, api_reason(status), whole ? b : NULL);
    if (b) evbuffer_free(b);
}

static void send_health(struct metrics_http *m, struct evhttp_request *req, struct json_out *o) {
    const char *why = NULL;
    struct api_error e;
    if (m->o.healthy(m->o.ctx, &why)) {
        json_out_raw(o, "{\"status\":\"ok\"}");
        send_text(req, 200, "application/json", o);
        return;
    }
    (void)api_fail(&e, 503, NULL, NULL, "%s", why);
    o->st = api_error_write(o->buf, &e);
    send_text(req, 503, "application/json", o);
}

static void on_request(struct evhttp_request *req, void *arg) {
    struct metrics_http *m = arg;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    struct buf body = {.max = BODY_MAX};
    struct json_out o = {&body, ST_OK};
    struct api_error e;
    if (!path) path = "";
    if (strcmp(path, "/metrics") == 0) {
        m->o.write(m->o.ctx, &o);
        send_text(req, 200, "text/plain; version=0.0.4; charset=utf-8", &o);
    } else if (strcmp(path, "/health") == 0) {
        send_health(m, req, &o);
    } else if (strcmp(path, "/live") == 0) {
        json_out_raw(&o, "{\"status\":\"ok\"}");
        send_text(req, 200, "application/json", &o);
    } else {
        (void)api_fail(&e, 404, NULL, NULL,
                       "%.100s: unknown path; there are /metrics, /health, /live", path);
        o.st = api_error_write(&body, &e);
        send_text(req, 404, "application/json", &o);
    }
    buf_release(&body);
}

static void *run(void *arg) {
    struct metrics_http *m = arg;
    event_base_dispatch(m->base);
    return NULL;
}

static uint16_t port_of(struct evhttp_bound_socket *bound) {
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&a, &len) != 0) return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

static enum st start(struct metrics_http *m, struct err *err) {
    m->base = evthread_use_pthreads() == 0 ? event_base_new() : NULL;
    m->http = m->base ? evhttp_new(m->base) : NULL;
    if (!m->http) return err_set(err, ST_NO_MEMORY, "metrics: cannot make an event loop");
    evhttp_set_allowed_methods(m->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
    evhttp_set_max_body_size(m->http, 0);
    evhttp_set_max_headers_size(m->http, HEADERS_MAX);
    evhttp_set_timeout(m->http, IDLE_S);
    evhttp_set_gencb(m->http, on_request, m);
    struct evhttp_bound_socket *bound =
        evhttp_bind_socket_with_handle(m->http, m->o.host, m->o.port);
    if (!bound)
        return err_set(err, ST_IO, "--metrics-port: cannot listen on %s port %u", m->o.host,
                       m->o.port);
    m->port = port_of(bound);
    if (pthread_create(&m->thread, NULL, run, m))
        return err_set(err, ST_IO, "metrics: cannot start a thread");
    return ST_OK;
}

static void release(struct metrics_http *m) {
    if (m->http) evhttp_free(m->http);
    if (m->base) event_base_free(m->base);
    free(m);
}

enum st metrics_http_start(struct metrics_http **out, const struct metrics_http_options *o,
                           struct err *err) {
    struct metrics_http *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ST_NO_MEMORY, "metrics: out of memory");
    m->o = *o;
    enum st st = start(m, err);
    if (st)
        release(m);
    else
        *out = m;
    return st;
}

uint16_t metrics_http_port(const struct metrics_http *m) {
    return m->port;
}

void metrics_http_stop(struct metrics_http *m) {
    if (!m) return;
    event_base_loopexit(m->base, NULL); /* also where the loop has not begun */
    pthread_join(m->thread, NULL);
    release(m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements http_client.h over libevent's evhttp. Its connections may not be freed from their own
 * callbacks, so a connection that will not be used again waits for the reaper, an event of its own.
 * A kept connection is used again only for a few seconds: a server closes idle ones some time, and
 * a request sent into that moment would count as the server's failure. */
#include "cli/http_client.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/http.h>
#include <openssl/ssl.h>

#include "base/clock.h"

enum { TIMEOUT_S = 6 * 3600, KEEP_NS_MAX = 2000000000, PATH_BYTES_MAX = 2048 };

struct conn {
    struct conn *next;
    struct evhttp_connection *ev;
    uint64_t idle_ns; /* since when; 0: it was not yet */
};

struct http_client {
    struct event_base *base;
    struct event *reap;
    SSL_CTX *tls; /* NULL: http */
    char *url, *host, *prefix, *bearer;
    char address[64];
    uint16_t port;
    struct conn *idle; /* the last used first */
    struct conn *dead;
    struct http_call *calls;
};

struct http_call {
    struct http_call *next, *prev;
    struct http_client *client;
    struct conn *conn;
    struct evhttp_request *req;
    struct http_handler handler;
    enum evhttp_request_error error;
    bool failed, beginning, ended;
    int status; /* 0: no status line yet */
};

/* --- the server ------------------------------------------------------------------------------- */

static enum st resolve(struct http_client *c, const char *host, struct err *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int bad = getaddrinfo(host, NULL, &hints, &list);
    if (bad) return err_set(err, ST_NOT_FOUND, "%s: %s: %s", c->url, host, gai_strerror(bad));
    bad = getnameinfo(list->ai_addr, list->ai_addrlen, c->address, sizeof c->address, NULL, 0,
                      NI_NUMERICHOST);
    freeaddrinfo(list);
    if (bad) return err_set(err, ST_NOT_FOUND, "%s: %s: %s", c->url, host, gai_strerror(bad));
    return ST_OK;
}

/* Without slashes at its end, and without /v1. */
static char *path_prefix(const char *path) {
    size_t len = strlen(path);
    while (len && path[len - 1] == '/') len--;
    if (len >= 3 && memcmp(path + len - 3, "/v1", 3) == 0) len -= 3;
    return strndup(path, len);
}

static enum st take_uri(struct http_client *c, const struct evhttp_uri *uri, struct err *err) {
    const char *scheme = evhttp_uri_get_scheme(uri), *host = evhttp_uri_get_host(uri),
               *path = evhttp_uri_get_path(uri);
    bool tls = scheme && strcasecmp(scheme, "https") == 0;
    int port = evhttp_uri_get_port(uri);
    if (!scheme || (!tls && strcasecmp(scheme, "http") != 0) || !host || !*host || port == 0 ||
        port > 65535 || evhttp_uri_get_query(uri) || evhttp_uri_get_fragment(uri))
        return err_set(err, ST_INVALID, "%s: expected http://HOST:PORT or https://HOST:PORT",
                       c->url);
    c->port = (uint16_t)(port > 0 ? port : tls ? 443 : 80);
    size_t len = strlen(host);
    bool v6 = host[0] == '[' && host[len - 1] == ']';
    c->host = v6 ? strndup(host + 1, len - 2) : strdup(host);
    c->prefix = path_prefix(path ? path : "");
    if (!c->host || !c->prefix) return err_set(err, ST_NO_MEMORY, "%s: out of memory", c->url);
    if (!tls) return ST_OK;
    c->tls = SSL_CTX_new(TLS_client_method());
    if (!c->tls || SSL_CTX_set_default_verify_paths(c->tls) != 1)
        return err_set(err, ST_IO, "%s: cannot set up TLS", c->url);
    SSL_CTX_set_verify(c->tls, SSL_VERIFY_PEER, NULL);
    return ST_OK;
}

static void free_conns(struct conn **list) {
    while (*list) {
        struct conn *k = *list;
        *list = k->next;
        evhttp_connection_free(k->ev);
        free(k);
    }
}

static void on_reap(evutil_socket_t fd, short what, void *arg) {
    struct http_client *c = arg;
    (void)fd;
    (void)what;
    free_conns(&c->dead);
}

static void no_log(int severity, const char *message) {
    (void)severity;
    (void)message;
}

enum st http_client_new(struct http_client **out, struct event_base *base, const char *url,
                        struct err *err) {
    const char *key = getenv("OPENAI_API_KEY");
    struct http_client *c = calloc(1, sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "%s: out of memory", url);
    event_set_log_callback(no_log);
    signal(SIGPIPE, SIG_IGN);
    c->base = base;
    c->url = strdup(url);
    c->reap = event_new(base, -1, 0, on_reap, c);
    if (key && *key && asprintf(&c->bearer, "Bearer %s", key) < 0) c->bearer = NULL;
    struct evhttp_uri *uri = evhttp_uri_parse(url);
    enum st st = ST_OK;
    if (!c->url || !c->reap || (key && *key && !c->bearer))
        st = err_set(err, ST_NO_MEMORY, "%s: out of memory", url);
    else if (!uri)
        st = err_set(err, ST_INVALID, "%s: expected http://HOST:PORT or https://HOST:PORT", url);
    if (!st) st = take_uri(c, uri, err);
    if (!st) st = resolve(c, c->host, err);
    if (uri) evhttp_uri_free(uri);
    if (st) {
        http_client_free(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void http_client_free(struct http_client *c) {
    if (!c) return;
    while (c->calls) http_call_cancel(c->calls);
    free_conns(&c->idle);
    free_conns(&c->dead);
    if (c->reap) event_free(c->reap);
    SSL_CTX_free(c->tls);
    free(c->url);
    free(c->host);
    free(c->prefix);
    free(c->bearer);
    free(c);
}

const char *http_client_url(const struct http_client *c) {
    return c->url;
}

/* --- connections ------------------------------------------------------------------------------ */

static struct bufferevent *tls_socket(struct http_client *c) {
    SSL *ssl = SSL_new(c->tls);
    if (!ssl) return NULL;
    if (SSL_set1_host(ssl, c->host) != 1 || SSL_set_tlsext_host_name(ssl, c->host) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        c->base, -1, ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) SSL_free(ssl);
    return bev;
}

static struct conn *conn_new(struct http_client *c) {
    struct conn *k = calloc(1, sizeof *k);
    struct bufferevent *bev = k && c->tls ? tls_socket(c) : NULL;
    if (k && (bev || !c->tls))
        k->ev = evhttp_connection_base_bufferevent_new(c->base, NULL, bev, c->address, c->port);
    if (!k || !k->ev) {
        if (bev) bufferevent_free(bev);
        free(k);
        return NULL;
    }
    evhttp_connection_set_timeout(k->ev, TIMEOUT_S);
    return k;
}

static struct conn *conn_take(struct http_client *c) {
    struct conn *k = c->idle;
    if (!k) return conn_new(c);
    if (clock_now_ns() - k->idle_ns > KEEP_NS_MAX) { /* and so are all behind it */
        struct conn *last = k;
        while (last->next) last = last->next;
        last->next = c->dead;
        c->dead = k;
        c->idle = NULL;
        event_active(c->reap, 0, 0);
        return conn_new(c);
    }
    c->idle = k->next;
    return k;
}

static void conn_put(struct http_client *c, struct conn *k, bool keep) {
    struct conn **list = keep && !c->tls ? &c->idle : &c->dead;
    k->idle_ns = clock_now_ns();
    k->next = *list;
    *list = k;
    if (list == &c->dead) event_active(c->reap, 0, 0);
}

/* --- calls ------------------------------------------------------------------------------------ */

static void call_free(struct http_call *call, bool keep) {
    if (call->prev)
        call->prev->next = call->next;
    else
        call->client->calls = call->next;
    if (call->next) call->next->prev = call->prev;
    conn_put(call->client, call->conn, keep);
    free(call);
}

static int on_head(struct evhttp_request *req, void *arg) {
    struct http_call *call = arg;
    call->status = evhttp_request_get_response_code(req);
    return 0;
}

static void on_data(struct evhttp_request *req, void *arg) {
    struct http_call *call = arg;
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    size_t len = evbuffer_get_length(in);
    const char *data = len ? (const char *)evbuffer_pullup(in, -1) : NULL;
    if (data) call->handler.data(call->handler.arg, call->status, data, len);
}

static void on_error(enum evhttp_request_error error, void *arg) {
    struct http_call *call = arg;
    call->error = error;
    call->failed = true;
}

static void on_end(struct evhttp_request *req, void *arg) {
    struct http_call *call = arg;
    struct http_handler handler = call->handler;
    int status = call->status;
    if (call->beginning) { /* evhttp may give up at once: no descriptor, no route */
        call->ended = true;
        return;
    }
    bool done = req && status != 0 && !call->failed;
    bool timeout = call->failed && call->error == EVREQ_HTTP_TIMEOUT;
    call_free(call, done);
    handler.end(handler.arg,
                done          ? HTTP_END_DONE
                : timeout     ? HTTP_END_TIMEOUT
                : status == 0 ? HTTP_END_NO_CONNECT
                              : HTTP_END_CUT,
                status);
}

static bool add_headers(struct http_client *c, struct evhttp_request *req, const struct buf *body) {
    struct evkeyvalq *h = evhttp_request_get_output_headers(req);
    char host[320];
    snprintf(host, sizeof host, strchr(c->host, ':') ? "[%s]:%u" : "%s:%u", c->host, c->port);
    if (evhttp_add_header(h, "Host", host) || evhttp_add_header(h, "User-Agent", "supernode"))
        return false;
    if (c->bearer && evhttp_add_header(h, "Authorization", c->bearer)) return false;
    if (c->tls && evhttp_add_header(h, "Connection", "close")) return false;
    if (!body) return true;
    return evhttp_add_header(h, "Content-Type", "application/json") == 0 &&
           evbuffer_add(evhttp_request_get_output_buffer(req), body->data, body->len) == 0;
}

/* A prompt of many segments must not wait for acknowledgements. */
static void no_delay(struct evhttp_connection *ev) {
    int on = 1;
    evutil_socket_t fd = bufferevent_getfd(evhttp_connection_get_bufferevent(ev));
    if (fd >= 0) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

enum st http_call_begin(struct http_call **out, struct http_client *c, const char *path,
                        const struct buf *body, const struct http_handler *handler,
                        struct err *err) {
    char whole[PATH_BYTES_MAX];
    int n = snprintf(whole, sizeof whole, "%s%s", c->prefix, path);
    if (n < 0 || (size_t)n >= sizeof whole)
        return err_set(err, ST_INVALID, "%s: path too long", c->url);
    struct http_call *call = calloc(1, sizeof *call);
    struct evhttp_request *req = call ? evhttp_request_new(on_end, call) : NULL;
    struct conn *k = req && add_headers(c, req, body) ? conn_take(c) : NULL;
    if (!k) {
        if (req) evhttp_request_free(req);
        free(call);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", c->url);
    }
    *call = (struct http_call){.client = c,
                               .conn = k,
                               .req = req,
                               .handler = *handler,
                               .beginning = true,
                               .next = c->calls};
    if (c->calls) c->calls->prev = call;
    c->calls = call;
    evhttp_request_set_header_cb(req, on_head);
    evhttp_request_set_chunked_cb(req, on_data);
    evhttp_request_set_error_cb(req, on_error);
    /* it owns req now, also when it fails */
    int bad = evhttp_make_request(k->ev, req, body ? EVHTTP_REQ_POST : EVHTTP_REQ_GET, whole);
    if (bad || call->ended) {
        call_free(call, false);
        return err_set(err, ST_IO, "%s: cannot connect: %s", c->url, strerror(errno));
    }
    call->beginning = false;
    no_delay(k->ev);
    *out = call;
    return ST_OK;
}

void http_call_cancel(struct http_call *call) {
    evhttp_cancel_request(call->req); /* on_end is not called */
    call_free(call, false);
}

bool http_call_connects(const struct http_call *call) {
    return call->conn->idle_ns == 0;
}

/* Both ends of a connection to this machine have one address. */
static bool is_local(evutil_socket_t fd) {
    struct sockaddr_storage ours, theirs;
    socklen_t ours_len = sizeof ours, theirs_len = sizeof theirs;
    if (getsockname(fd, (struct sockaddr *)&ours, &ours_len) != 0 ||
        getpeername(fd, (struct sockaddr *)&theirs, &theirs_len) != 0)
        return false;
    if (ours.ss_family == AF_INET)
        return ((struct sockaddr_in *)&ours)->sin_addr.s_addr ==
               ((struct sockaddr_in *)&theirs)->sin_addr.s_addr;
    return ours.ss_family == AF_INET6 &&
           IN6_ARE_ADDR_EQUAL(&((struct sockaddr_in6 *)&ours)->sin6_addr,
                              &((struct sockaddr_in6 *)&theirs)->sin6_addr);
}

int http_call_core(const struct http_call *call) {
    int core = -1;
    socklen_t len = sizeof core;
    evutil_socket_t fd = bufferevent_getfd(evhttp_connection_get_bufferevent(call->conn->ev));
    if (fd < 0 || !is_local(fd) || getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &core, &len) != 0)
        return -1;
    return core;
}

/* --- one answer ------------------------------------------------------------------------------- */

struct fetch {
    struct buf *out;
    bool done;
    enum st st;
    enum http_end how;
    int status;
};

static void fetch_data(void *arg, int status, const char *data, size_t len) {
    struct fetch *f = arg;
    (void)status;
    if (!f->st) f->st = buf_append(f->out, data, len);
}

static void fetch_end(void *arg, enum http_end how, int status) {
    struct fetch *f = arg;
    f->done = true;
    f->how = how;
    f->status = status;
}

enum st http_fetch(int *status, struct buf *out, struct http_client *c, const char *path,
                   const struct buf *body, struct err *err) {
    struct fetch f = {.out = out};
    struct http_call *call;
    enum st st = http_call_begin(&call, c, path, body,
                                 &(struct http_handler){fetch_data, fetch_end, &f}, err);
    if (st) return st;
    while (!f.done)
        if (event_base_loop(c->base, EVLOOP_ONCE) != 0) {
            http_call_cancel(call);
            return err_set(err, ST_IO, "%s%s: the event loop failed", c->url, path);
        }
    if (f.st) return err_set(err, f.st, "%s%s: the answer is too long", c->url, path);
    if (f.how == HTTP_END_NO_CONNECT)
        return err_set(err, ST_GONE, "%s: nothing answers there", c->url);
    if (f.how != HTTP_END_DONE)
        return err_set(err, ST_GONE, "%s%s: the answer broke off", c->url, path);
    *status = f.status;
    return ST_OK;
}

/* --- server-sent events ----------------------------------------------------------------------- */

static void sse_line(const struct buf *line, http_sse_fn *event, void *arg) {
    size_t len = line->len;
    if (len && line->data[len - 1] == '\r') line->data[--len] = '\0';
    if (len < 5 || memcmp(line->data, "data:", 5) != 0) return; /* a comment, or another field */
    size_t from = len > 5 && line->data[5] == ' ' ? 6 : 5;
    event(arg, line->data + from, len - from);
}

enum st http_sse_feed(struct http_sse *s, const char *data, size_t len, http_sse_fn *event,
                      void *arg) {
    while (len) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) : len;
        enum st st = buf_append(&s->line, data, n);
        if (st) return st;
        data += n;
        len -= n;
        if (!end) break;
        data++;
        len--;
        sse_line(&s->line, event, arg);
        s->line.len = 0;
    }
    return ST_OK;
}

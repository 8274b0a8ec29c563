/* SPDX-License-Identifier: Apache-2.0 */
/* Implements http_conn.h. A connection's struct is made with its bufferevent, before evhttp has
 * made its own; a callback in the same turn of the loop then finds evhttp's (it is the argument of
 * the bufferevent's callbacks) and ties the two by its close callback. */
#include "serve/http_conn.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>

#include "base/clock.h"
#include "serve/api_error.h"

enum { LINGER_S = 5, PAGE_MAX = 4096 };
static const char page_begin[] = "<HTML><HEAD>"; /* evhttp_send_error's, in every version */

struct http_conn {
    struct http_conns *all;
    struct http_conn *next, **link;
    struct bufferevent *bev;
    struct evhttp_connection *evcon; /* NULL: not attached yet */
    int fd;
    struct evhttp_request *req; /* ours while it is answered */
    http_closed_fn *closed;     /* NULL: not watched */
    void *closed_arg;
    uint64_t turn_ns;  /* since when the client has to send, or to read what is left */
    uint64_t received; /* bytes in that time */
    uint64_t to_read;  /* the most that lay unread in that time */
    bool unwelcome;    /* there were too many: closed when attached */
    bool refused;      /* its body came when others' filled the bound */
};

/* --- lingering -------------------------------------------------------------------------------- */

static void linger_end(struct http_linger *l) {
    event_free(l->ev);
    close(l->fd);
    *l = (struct http_linger){0};
}

static void linger_read(evutil_socket_t fd, short what, void *arg) {
    struct http_linger *l = arg;
    char waste[65536];
    for (int i = 0; i < 16; i++) { /* then others' turn */
        ssize_t n = what & EV_READ ? read(fd, waste, sizeof waste) : 0;
        bool late = clock_now_ns() >= l->end_ns;
        if (n < 0 && errno == EAGAIN && !late) return;
        if (n <= 0 || late) {
            linger_end(l);
            return;
        }
    }
}

/* A second descriptor holds the socket open past evhttp's close, which then only says that we send
 * no more. */
static void linger_begin(struct http_conns *c, int fd) {
    struct http_linger *l = c->lingers;
    while (l < c->lingers + HTTP_LINGER_MAX && l->ev) l++;
    if (l == c->lingers + HTTP_LINGER_MAX) return;
    l->fd = dup(fd);
    if (l->fd < 0) return;
    l->end_ns = clock_now_ns() + LINGER_S * 1000000000ull;
    l->ev = event_new(c->base, l->fd, EV_READ | EV_PERSIST, linger_read, l);
    struct timeval idle = {LINGER_S, 0};
    if (l->ev && event_add(l->ev, &idle) == 0) return;
    if (l->ev) event_free(l->ev);
    close(l->fd);
    *l = (struct http_linger){0};
}

/* --- evhttp's own error pages ----------------------------------------------------------------- */

/* *status is evhttp's, and becomes ours. */
static void describe(const struct http_conn *c, int *status, struct api_error *e) {
    if (c->refused) {
        *status = 503;
        (void)api_fail(e, *status, NULL, "overloaded",
                       "requests on their way hold %llu bytes already; try again later",
                       (unsigned long long)c->all->receiving_bytes);
        return;
    }
    switch (*status) {
    case 413:
        (void)api_fail(e, *status, NULL, NULL,
                       "request body: larger than %llu bytes, or malformed chunks",
                       (unsigned long long)c->all->limits.body_bytes_max);
        break;
    case 417:
        (void)api_fail(e, *status, NULL, NULL, "header Expect: only 100-continue is known");
        break;
    case 501: (void)api_fail(e, *status, NULL, NULL, "unknown HTTP method"); break;
    default: (void)api_fail(e, *status, NULL, NULL, "malformed HTTP request"); break;
    }
}

/* The page, complete in out with its head, is replaced by ours. */
static void replace_page(const struct http_conn *c, struct evbuffer *out, int *status) {
    struct buf body = {.max = PAGE_MAX};
    struct api_error e;
    describe(c, status, &e);
    if (api_error_write(&body, &e) == ST_OK) {
        /* A bufferevent on a socket keeps the front of its output to itself. One with TLS does not,
         * and could never drain what was written if it were frozen. */
        bool frozen = !c->all->tls;
        if (frozen) evbuffer_unfreeze(out, 1);
        evbuffer_drain(out, evbuffer_get_length(out));
        if (frozen) evbuffer_freeze(out, 1);
        evbuffer_add_printf(out,
                            "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: "
                            "%zu\r\nConnection: close\r\n%s\r\n%s",
                            *status, api_reason(*status), body.len,
                            e.retry_s ? "Retry-After: 1\r\n" : "", body.data);
    }
    buf_release(&body);
}

static void output_changed(struct evbuffer *out, const struct evbuffer_cb_info *info, void *arg) {
    struct http_conn *conn = arg;
    char head[sizeof page_begin - 1], line[16];
    struct evbuffer_ptr at;
    int status;
    if (info->n_added < sizeof head || info->orig_size <= info->n_deleted) return;
    if (evbuffer_ptr_set(out, &at, info->orig_size - info->n_deleted, EVBUFFER_PTR_SET) != 0)
        return;
    if (evbuffer_copyout_from(out, &at, head, sizeof head) != (ev_ssize_t)sizeof head) return;
    if (memcmp(head, page_begin, sizeof head) != 0) return;
    ev_ssize_t n = evbuffer_copyout(out, line, sizeof line - 1);
    if (n <= 0) return;
    line[n] = '\0';
    if (sscanf(line, "HTTP/1.%*d %d", &status) != 1 || status < 400 || status > 599) return;
    linger_begin(conn->all, bufferevent_getfd(conn->bev));
    replace_page(conn, out, &status);
    if (conn->all->refused) conn->all->refused(conn->all->refused_arg, status);
}

/* --- pace and room ---------------------------------------------------------------------------- */

static void set_received(struct http_conn *c, uint64_t n) {
    c->all->receiving_bytes += n - c->received;
    c->received = n;
}

static void turn_begins(struct http_conn *c) {
    c->turn_ns = clock_now_ns();
    c->to_read = 0;
}

/* Before evhttp looks at it. A body that others leave no room for gets evhttp's error for those that
 * are too long, which describe() puts right. */
static void input_changed(struct evbuffer *in, const struct evbuffer_cb_info *info, void *arg) {
    struct http_conn *c = arg;
    const struct http_limits *l = &c->all->limits;
    (void)in;
    if (info->n_added == 0) return;
    set_received(c, c->received + info->n_added);
    if (c->refused || !c->evcon || c->all->receiving_bytes <= l->receiving_bytes_max ||
        c->received <= HTTP_SMALL_BYTES)
        return;
    c->refused = true;
    evhttp_connection_set_max_body_size(c->evcon, 0);
}

void http_conn_arrived(struct http_conn *c) {
    if (!c) return;
    if (c->refused) /* it had no body */
        evhttp_connection_set_max_body_size(c->evcon, (ev_ssize_t)c->all->limits.body_bytes_max);
    c->refused = false;
    set_received(c, 0);
    turn_begins(c); /* where nothing watches, the answer is there and the client may read it */
}

static bool its_turn(const struct http_conn *c) {
    return c->evcon && (!c->closed || !c->req);
}

void http_conns_tick(struct http_conns *all, uint64_t now_ns) {
    for (struct http_conn *c = all->first, *next; c; c = next) {
        next = c->next;
        if (!its_turn(c)) continue;
        uint64_t unread = http_conn_unread(c);
        if (unread > c->to_read) c->to_read = unread;
        uint64_t granted_s = all->limits.idle_s + (c->received + c->to_read) / HTTP_PACE_BYTES;
        if (now_ns - c->turn_ns > granted_s * 1000000000u) http_conn_drop(c);
    }
}

/* Makes room for one more connection. False: all there are wait for us. Those that were accepted in
 * the same turn of the loop are not attached yet, and go when they are. */
static bool make_room(struct http_conns *all) {
    struct http_conn *longest = NULL;
    if (all->n < all->limits.conns_max) return true;
    all->closed_full++;
    for (struct http_conn *c = all->first; c; c = c->next)
        if (!c->closed && !c->unwelcome && (!longest || c->turn_ns <= longest->turn_ns))
            longest = c;
    if (!longest) return false;
    if (longest->evcon)
        http_conn_drop(longest);
    else
        longest->unwelcome = true;
    return true;
}

/* --- life ------------------------------------------------------------------------------------- */

static void conn_free(struct http_conn *c) {
    set_received(c, 0);
    c->all->n--;
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    if (c->evcon) c->all->by_fd[c->fd] = NULL;
    free(c);
}

/* evhttp's close callback. Where it found the close itself it has cut the request off from the
 * connection and leaves it to us; where it was told to close it frees the request. */
static void conn_closed(struct evhttp_connection *evcon, void *arg) {
    struct http_conn *c = arg;
    assert(c->evcon == evcon);
    if (c->req && !evhttp_request_get_connection(c->req)) evhttp_request_free(c->req);
    http_closed_fn *closed = c->closed;
    void *closed_arg = c->closed_arg;
    evbuffer_remove_cb(bufferevent_get_output(c->bev), output_changed, c);
    evbuffer_remove_cb(bufferevent_get_input(c->bev), input_changed, c);
    conn_free(c);
    if (closed) closed(closed_arg);
}

static bool table_reserve(struct http_conns *all, int fd) {
    size_t n = all->n_by_fd ? all->n_by_fd : 64;
    while (n <= (size_t)fd) n *= 2;
    if (n == all->n_by_fd) return true;
    struct http_conn **v = realloc(all->by_fd, n * sizeof *v);
    if (!v) return false;
    memset(v + all->n_by_fd, 0, (n - all->n_by_fd) * sizeof *v);
    all->by_fd = v;
    all->n_by_fd = n;
    return true;
}

static void conn_attach(evutil_socket_t none, short what, void *arg) {
    (void)none;
    (void)what;
    struct http_conn *c = arg;
    void *evcon = NULL;
    int fd = bufferevent_getfd(c->bev);
    bufferevent_getcb(c->bev, NULL, NULL, NULL, &evcon);
    bool alive = evcon && fd >= 0; /* else evhttp gave up on it at once */
    if (alive && table_reserve(c->all, fd)) {
        c->evcon = evcon;
        c->fd = fd;
        c->all->by_fd[fd] = c;
        evhttp_connection_set_closecb(evcon, conn_closed, c);
        bufferevent_decref(c->bev);
        if (c->unwelcome) http_conn_drop(c);
        return;
    }
    evbuffer_remove_cb(bufferevent_get_output(c->bev), output_changed, c);
    evbuffer_remove_cb(bufferevent_get_input(c->bev), input_changed, c);
    bufferevent_decref(c->bev);
    conn_free(c);
}

/* As evhttp makes its own, or with TLS (whose object goes with it). */
static struct bufferevent *bev_new(struct event_base *base, SSL_CTX *tls) {
    SSL *ssl = tls ? SSL_new(tls) : NULL;
    if (!tls) return bufferevent_socket_new(base, -1, 0);
    if (!ssl) return NULL;
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) SSL_free(ssl);
    return bev;
}

/* NULL makes evhttp make a plain one of its own, so with TLS the process cannot go on from out of
 * memory there: a client that expects TLS finds none and leaves. */
static struct bufferevent *conn_new(struct event_base *base, void *arg) {
    struct http_conns *all = arg;
    struct timeval now = {0, 0};
    bool welcome = make_room(all);
    struct bufferevent *bev = bev_new(base, all->tls);
    struct http_conn *c = bev ? calloc(1, sizeof *c) : NULL;
    if (!c) return bev;
    *c = (struct http_conn){
        .all = all, .bev = bev, .next = all->first, .link = &all->first, .unwelcome = !welcome};
    turn_begins(c);
    if (!evbuffer_add_cb(bufferevent_get_output(bev), output_changed, c)) goto free_conn;
    if (!evbuffer_add_cb(bufferevent_get_input(bev), input_changed, c)) goto remove_output_cb;
    if (event_base_once(base, -1, EV_TIMEOUT, conn_attach, c, &now) != 0) goto remove_input_cb;
    bufferevent_incref(bev); /* until conn_attach */
    if (all->first) all->first->link = &c->next;
    all->first = c;
    all->n++;
    return bev;
remove_input_cb:
    evbuffer_remove_cb(bufferevent_get_input(bev), input_changed, c);
remove_output_cb:
    evbuffer_remove_cb(bufferevent_get_output(bev), output_changed, c);
free_conn:
    free(c);
    return bev;
}

void http_conns_init(struct http_conns *c, struct event_base *base, struct evhttp *http,
                     struct http_limits limits) {
    *c = (struct http_conns){.base = base, .limits = limits};
    evhttp_set_bevcb(http, conn_new, c);
}

void http_conns_release(struct http_conns *c) {
    while (c->first) { /* accepted, and never attached */
        assert(!c->first->evcon);
        bufferevent_decref(c->first->bev);
        conn_free(c->first);
    }
    for (int i = 0; i < HTTP_LINGER_MAX; i++)
        if (c->lingers[i].ev) linger_end(&c->lingers[i]);
    free(c->by_fd);
    *c = (struct http_conns){0};
}

/* --- watching --------------------------------------------------------------------------------- */

struct http_conn *http_conn_of(const struct http_conns *c, struct evhttp_request *req) {
    struct evhttp_connection *evcon = evhttp_request_get_connection(req);
    int fd = evcon ? bufferevent_getfd(evhttp_connection_get_bufferevent(evcon)) : -1;
    struct http_conn *conn = fd >= 0 && (size_t)fd < c->n_by_fd ? c->by_fd[fd] : NULL;
    assert(!conn || conn->evcon == evcon);
    return conn;
}

void http_conn_watch(struct http_conn *c, struct evhttp_request *req, http_closed_fn *closed,
                     void *arg) {
    assert(!c->closed);
    struct timeval idle = {c->all->limits.idle_s, 0};
    bufferevent_data_cb write_cb;
    bufferevent_event_cb event_cb;
    void *cb_arg;
    c->req = req;
    c->closed = closed;
    c->closed_arg = arg;
    bufferevent_getcb(c->bev, NULL, &write_cb, &event_cb, &cb_arg);
    bufferevent_setcb(c->bev, NULL, write_cb, event_cb,
                      cb_arg); /* evhttp's read callback aborts when data comes now */
    bufferevent_setwatermark(c->bev, EV_READ, 0, HTTP_PIPELINED_MAX);
    bufferevent_set_timeouts(c->bev, NULL,
                             &idle); /* the client has nothing to say while it waits */
    bufferevent_enable(c->bev, EV_READ);
}

void http_conn_replied(struct http_conn *c) {
    c->req = NULL;
    turn_begins(c);
}

void http_conn_unwatch(struct http_conn *c) {
    struct timeval idle = {c->all->limits.idle_s, 0};
    c->req = NULL;
    c->closed = NULL;
    turn_begins(c);
    bufferevent_set_timeouts(c->bev, &idle, &idle);
    bufferevent_setwatermark(c->bev, EV_READ, 0, 0);
}

size_t http_conn_unread(const struct http_conn *c) {
    return evbuffer_get_length(bufferevent_get_output(c->bev));
}

void http_conn_linger(struct http_conn *c) {
    if (c) linger_begin(c->all, c->fd);
}

void http_conn_drop(struct http_conn *c) {
    evhttp_connection_free(c->evcon);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements server.h: binding, starting, stopping. What it answers is in routes.c and reply.c. */
#include "serve/server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <event2/listener.h>

#include "base/clock.h"
#include "base/turn.h"
#include "serve/server_impl.h"
#include "serve/tls.h"

enum { HEADERS_BYTES_MAX = 65536, SEND_BYTES_MAX = 256 << 10, BACKLOG = 512 };

/* --- log -------------------------------------------------------------------------------------- */

void server_log(struct server *s, enum server_line kind, const char *event, const char *id,
                struct log_field more) {
    uint32_t skipped;
    if (!log_may(&s->limits[kind], clock_now_ns(), &skipped)) return;
    struct log_field fields[4] = {{0}};
    uint32_t n = 0;
    if (id) fields[n++] = (struct log_field)LOG_STR("id", id);
    if (more.name) fields[n++] = more;
    if (skipped) fields[n] = (struct log_field)LOG_NUM("more_like_it", skipped);
    log_event(s->o.log, LOG_WARN, event, fields);
}

/* --- stopping --------------------------------------------------------------------------------- */

static void stop_if_drained(struct server *s) {
    if (s->stopping && s->n_replies == 0) event_base_loopexit(s->base, NULL);
}

static void on_mail(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    (void)fd;
    (void)what;
    worker_keep_off(s->worker);
    worker_begin(s->worker); /* what came in this pass does not wait for the mail */
    (void)replies_mail(s);   /* the descriptor stays readable while there is more */
    stop_if_drained(s);
}

/* A timer of no time, begun by a request: it comes behind all that is read in the next pass. Of one
 * burst, bodies of over 4 KiB and those on new connections are whole a pass later than the others, or more. */
static void on_submitted(evutil_socket_t fd, short what, void *arg) {
    struct server *s = arg;
    (void)fd;
    (void)what;
    worker_begin(s->worker);
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
    struct timeval limit = {s->o.drain_s, 0};
    struct api_error why;
    (void)fd;
    (void)what;
    s->stopping = true;
    log_event(s->o.log, LOG_INFO, "serve: stopping (a second signal: at once)",
              LOG_FIELDS(LOG_NUM("requests", s->n_replies), LOG_NUM("seconds", s->o.drain_s)));
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
    http_conns_tick(&s->conns, clock_now_ns());
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

static void on_refused(void *arg, int status) {
    struct server *s = arg;
    metrics_count(&s->metrics, "malformed", status);
    if (status == 503) s->metrics.rejected[REJECT_BODIES]++;
}

/* Descriptors for every connection there may be; fewer connections where the system gives fewer. */
static void raise_files(struct server *s) {
    struct rlimit files;
    uint64_t wanted = (uint64_t)s->conns.limits.conns_max + SERVER_FDS_OTHER;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= wanted) return;
    uint64_t left = files.rlim_cur > 2 * SERVER_FDS_OTHER ? files.rlim_cur - SERVER_FDS_OTHER
                                                          : files.rlim_cur / 2;
    s->conns.limits.conns_max = (uint32_t)left;
    log_event(s->o.log, LOG_WARN, "serve: too few file descriptors (ulimit -n)",
              LOG_FIELDS(LOG_NUM("found", files.rlim_cur), LOG_NUM("wanted", wanted),
                         LOG_NUM("connections_max", left)));
}

static enum st make_http(struct server *s, struct err *err) {
    event_set_log_callback(no_log);
    s->base = event_base_new();
    s->http = s->base ? evhttp_new(s->base) : NULL;
    if (!s->http) return err_set(err, ST_NO_MEMORY, "serve: cannot make an event loop");
    s->mail = event_new(s->base, s->mailbox.fd, EV_READ | EV_PERSIST, on_mail, s);
    s->submitted = evtimer_new(s->base, on_submitted, s);
    s->interrupt = evsignal_new(s->base, SIGINT, on_signal, s);
    s->terminate = evsignal_new(s->base, SIGTERM, on_signal, s);
    s->tick = event_new(s->base, -1, EV_PERSIST, on_tick, s);
    s->drain = evtimer_new(s->base, on_drain, s);
    if (!s->mail || !s->submitted || !s->interrupt || !s->terminate || !s->tick || !s->drain)
        return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    struct http_limits limits = {.body_bytes_max = SERVER_BODY_BYTES_MAX,
                                 .receiving_bytes_max = SERVER_RECEIVING_BYTES_MAX,
                                 .conns_max = s->o.requests_max + SERVER_CONNS_IDLE,
                                 .idle_s = s->o.client_timeout_s};
    http_conns_init(&s->conns, s->base, s->http, limits);
    s->conns.refused = on_refused;
    s->conns.refused_arg = s;
    evhttp_set_max_body_size(s->http, SERVER_BODY_BYTES_MAX);
    evhttp_set_max_headers_size(s->http, HEADERS_BYTES_MAX);
    evhttp_set_timeout(s->http, (int)s->o.client_timeout_s);
    evhttp_set_allowed_methods(s->http, 0xffff); /* on_request knows which */
    evhttp_set_gencb(s->http, server_request, s);
    return ST_OK;
}

enum st server_new(struct server **out, const struct server_options *o, struct err *err) {
    struct server *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    s->fd = s->mailbox.fd = -1;
    s->o = *o;
    enum st st = mailbox_init(&s->mailbox, err);
    if (!st) st = make_http(s, err);
    if (!st && o->cert_file) st = tls_new(&s->tls, o->cert_file, o->key_file, err);
    if (!st) st = bind_address(s, err);
    s->conns.tls = s->tls;
    if (st) {
        server_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

enum st server_start(struct server *s, const struct front *front, const struct compute *compute,
                     struct cluster_watch *cluster, struct err *err) {
    struct timeval second = {1, 0};
    s->front = front;
    s->cluster = cluster;
    s->started_s = (int64_t)time(NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_files(s);
    enum st st = worker_start(&s->worker, front, compute, &s->mailbox, err);
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
    turn_short();
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
    while (s->base && s->worker && replies_mail(s)) continue;
    assert(s->n_replies == 0);
    http_conns_release(&s->conns);
    event_free_if(s->mail);
    event_free_if(s->submitted);
    event_free_if(s->interrupt);
    event_free_if(s->terminate);
    event_free_if(s->tick);
    event_free_if(s->drain);
    if (s->base) event_base_free(s->base);
    SSL_CTX_free(s->tls);
    mailbox_release(&s->mailbox);
    if (s->fd >= 0) close(s->fd);
    free(s);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What evhttp (libevent 2.1) leaves to do at a connection:
 * - It stops reading while a request is answered, so a client that leaves during a long prefill
 * would go unnoticed. Watching reads on, without taking the next request, and says when the other
 * side closed.
 * - It refuses some requests before any callback of ours (a body over the limit, a garbled request
 * line) with an HTML page. The page becomes OpenAI's error object.
 * - It then closes with bytes unread, which is a reset, and a reset takes the answer with it. What
 * the client still sends is read and thrown away for a while. All of it runs on the event loop's
 * thread. */
#ifndef SUPERNODE_SERVE_HTTP_CONN_H
#define SUPERNODE_SERVE_HTTP_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>

enum {
    HTTP_LINGER_MAX = 64, /* connections that are drained at once; more are closed hard */
    HTTP_IDLE_S = 60,     /* a client may be silent while it is its turn to send, or to read */
    HTTP_PIPELINED_MAX = 65536, /* bytes read ahead while a request is answered */
};

struct http_conn;
typedef void http_closed_fn(void *arg);

struct http_linger {
    struct event *ev; /* NULL: free */
    int fd;
    uint64_t end_ns;
};

struct http_conns {
    struct event_base *base;
    uint64_t body_bytes_max;
    struct http_conn *first;                /* all */
    uint32_t n;                             /* of them */
    void (*refused)(void *arg, int status); /* evhttp answered by itself; may be NULL */
    void *refused_arg;
    struct http_conn **by_fd; /* [n_by_fd], NULL where there is none */
    size_t n_by_fd;
    struct http_linger lingers[HTTP_LINGER_MAX];
};

/* http's connections are made here from now on; body_bytes_max is what it was told. Release after
 * evhttp_free. */
void http_conns_init(struct http_conns *c, struct event_base *base, struct evhttp *http,
                     uint64_t body_bytes_max);
void http_conns_release(struct http_conns *c);

/* The connection of a request that is being answered; NULL when memory was out as it came. */
struct http_conn *http_conn_of(const struct http_conns *c, struct evhttp_request *req);

/* From here to http_conn_unwatch a close by the client (or by a write that stands still for
 * HTTP_IDLE_S) calls closed(arg) once. The connection is gone then; the request is freed unless
 * evhttp is about to. */
void http_conn_watch(struct http_conn *c, struct evhttp_request *req, http_closed_fn *closed,
                     void *arg);
/* The answer was handed to evhttp whole: it owns the request again. closed(arg) is still called if
 * the connection is lost. */
void http_conn_replied(struct http_conn *c);
void http_conn_unwatch(struct http_conn *c);

size_t http_conn_unread(
    const struct http_conn *c); /* bytes the client has not taken, beside what the kernel holds */
void http_conn_drop(struct http_conn *c); /* closes now; closed(arg) is called */

#endif

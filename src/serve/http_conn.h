/* SPDX-License-Identifier: Apache-2.0 */
/* What evhttp (libevent 2.1) leaves to do at a connection:
 * - It stops reading while a request is answered, so a client that leaves during a long prefill
 * would go unnoticed. Watching reads on, without taking the next request, and says when the other
 * side closed.
 * - It refuses some requests before any callback of ours (a body over the limit, a garbled request
 * line) with an HTML page. The page becomes OpenAI's error object.
 * - It then closes with bytes unread, which is a reset, and a reset takes the answer with it. What
 * the client still sends is read and thrown away for a while.
 * - It bounds neither connections nor what all of them upload together, and a byte a minute keeps
 * one open for ever. Here a client whose turn it is must keep a pace, and where there are too many
 * the one whose turn is longest goes.
 * All of it runs on the event loop's thread. */
#ifndef SUPERNODE_SERVE_HTTP_CONN_H
#define SUPERNODE_SERVE_HTTP_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <openssl/ssl.h>

enum {
    HTTP_LINGER_MAX = 64,       /* connections that are drained at once; more are closed hard */
    HTTP_PIPELINED_MAX = 65536, /* bytes read ahead while a request is answered */
    HTTP_PACE_BYTES = 65536,    /* beyond idle_s, a second is granted for so many */
    HTTP_SMALL_BYTES = 65536,   /* a request so small is not refused because of others */
};

struct http_conn;
typedef void http_closed_fn(void *arg);

struct http_linger {
    struct event *ev; /* NULL: free */
    int fd;
    uint64_t end_ns;
};

struct http_limits {
    uint64_t body_bytes_max;      /* what evhttp was told */
    uint64_t receiving_bytes_max; /* of all requests that are not there whole */
    uint32_t conns_max;
    uint32_t idle_s; /* a client may be silent while it is its turn to send, or to read */
};

struct http_conns {
    struct event_base *base;
    SSL_CTX *tls; /* borrowed; NULL: plain */
    struct http_limits limits;
    uint64_t receiving_bytes;               /* came in, and belongs to no whole request yet */
    uint64_t closed_full;                   /* connections closed because there were too many */
    struct http_conn *first;                /* all */
    uint32_t n;                             /* of them */
    void (*refused)(void *arg, int status); /* evhttp answered by itself; may be NULL */
    void *refused_arg;
    struct http_conn **by_fd; /* [n_by_fd], NULL where there is none */
    size_t n_by_fd;
    struct http_linger lingers[HTTP_LINGER_MAX];
};

/* http's connections are made here from now on. Release after evhttp_free. */
void http_conns_init(struct http_conns *c, struct event_base *base, struct evhttp *http,
                     struct http_limits limits);
void http_conns_release(struct http_conns *c);
/* To be called about once a second: closes those that are too slow. */
void http_conns_tick(struct http_conns *c, uint64_t now_ns);

/* The connection of a request that is being answered; NULL when memory was out as it came. */
struct http_conn *http_conn_of(const struct http_conns *c, struct evhttp_request *req);

/* A request is there whole: it is not the client's turn any more. conn may be NULL. */
void http_conn_arrived(struct http_conn *c);

/* From here to http_conn_unwatch a close by the client (or by a write that stands still for
 * idle_s) calls closed(arg) once. The connection is gone then; the request is freed unless
 * evhttp is about to. */
void http_conn_watch(struct http_conn *c, struct evhttp_request *req, http_closed_fn *closed,
                     void *arg);
/* The answer was handed to evhttp whole: it owns the request again. closed(arg) is still called if
 * the connection is lost. */
void http_conn_replied(struct http_conn *c);
void http_conn_unwatch(struct http_conn *c);

size_t http_conn_unread(
    const struct http_conn *c); /* bytes the client has not taken, beside what the kernel holds */
/* To be called before an answer that closes the connection although the client may still send: so it
 * gets to read it. c may be NULL. */
void http_conn_linger(struct http_conn *c);
void http_conn_drop(struct http_conn *c); /* closes now; closed(arg) is called */

#endif

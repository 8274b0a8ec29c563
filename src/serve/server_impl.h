/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by server.c (life, routes) and reply.c (one request's answer); nobody else includes it. */
#ifndef SUPERNODE_SERVE_SERVER_IMPL_H
#define SUPERNODE_SERVE_SERVER_IMPL_H

#include <event2/event.h>
#include <event2/http.h>

#include "serve/answer.h"
#include "serve/http_conn.h"
#include "serve/mailbox.h"
#include "serve/server.h"
#include "serve/worker.h"

/* OPEN: the client waits. SENT: evhttp has the whole answer and writes it. OVER: nothing is owed to
 * the client, or it left. */
enum reply_state { REPLY_OPEN, REPLY_SENT, REPLY_OVER };

struct reply {
    struct reply *next, **link; /* in the server's list */
    struct reply *over_next;    /* in its list of those to free */
    struct server *server;
    struct job *job;
    struct http_conn *conn;     /* not OVER */
    struct evhttp_request *req; /* OPEN only */
    enum reply_state state;
    bool streaming; /* the head of the answer is out */
    bool answering; /* answer is set up: a token came */
    bool done;      /* the job is */
    struct answer answer;
    struct buf out;
};

struct server {
    struct server_options o;
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *bound;
    struct http_conns conns;
    int fd; /* bound, not yet listening; -1: evhttp has it */
    uint16_t port;
    uint64_t log_ns; /* of the last line that a stranger caused */
    uint32_t log_skipped;

    const struct front *front;
    struct mailbox mailbox;
    struct worker *worker;
    int64_t started_s;

    struct event *mail, *interrupt, *terminate, *tick, *drain;
    bool stopping, draining_over;
    struct reply *replies; /* all that wait or run */
    struct reply *over;    /* of them, those whose job and client are both through */
    uint32_t n_replies;
    uint64_t body_bytes; /* of their bodies */
};

/* server.c */
void server_log(struct server *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* at most one a second */
void server_send(struct server *s, struct evhttp_request *req, int status,
                 const struct buf *body); /* JSON; NULL: no body */
void server_send_error(struct server *s, struct evhttp_request *req, const struct api_error *e);

/* reply.c */
void reply_begin(struct server *s, struct evhttp_request *req,
                 enum api_kind kind);  /* a POST with a body */
void replies_mail(struct server *s);   /* takes what the mailbox has */
void replies_cancel(struct server *s); /* stops all that run */

#endif

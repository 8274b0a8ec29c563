/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by server.c (life), routes.c (paths, small answers) and reply.c (one request's answer);
 * nobody else includes it. */
#ifndef SUPERNODE_SERVE_SERVER_IMPL_H
#define SUPERNODE_SERVE_SERVER_IMPL_H

#include <event2/event.h>
#include <event2/http.h>

#include "serve/answer.h"
#include "serve/cluster_watch.h"
#include "serve/http_conn.h"
#include "serve/mailbox.h"
#include "serve/metrics.h"
#include "serve/server.h"
#include "serve/worker.h"

/* OPEN: the client waits. SENT: evhttp has the whole answer and writes it. OVER: nothing is owed to
 * the client, or it left. */
enum reply_state { REPLY_OPEN, REPLY_SENT, REPLY_OVER };

/* Log lines that strangers can cause. */
enum server_line { LINE_UNKNOWN_FIELDS, LINE_NOT_READING, LINE_UNAUTHORIZED, SERVER_LINES };

struct reply {
    struct reply *next, **link; /* in the server's list */
    struct reply *over_next;    /* in its list of those to free */
    struct server *server;
    struct job *job;
    struct http_conn *conn;     /* not OVER */
    struct evhttp_request *req; /* OPEN only */
    enum reply_state state;
    bool streaming;              /* the head of the answer is out */
    bool answering;              /* answer is set up: a token came */
    bool done;                   /* the job is */
    struct auth_key *key;        /* NULL: no keys are asked for */
    uint64_t begun_ns, first_ns; /* arrival, first token; 0: none yet */
    uint32_t n_tokens;
    const char *finish;       /* of its first choice; NULL: none */
    int status;               /* of the answer's head; 0: none was sent */
    enum metrics_abort abort; /* why, if the client did not get everything */
    bool aborted;
    struct answer answer;
    struct buf out;
    size_t sent_bytes; /* of the whole answer, with evhttp */
    size_t held_bytes; /* its part of the server's */
};

struct server {
    struct server_options o;
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *bound;
    struct http_conns conns;
    SSL_CTX *tls; /* NULL: plain */
    int fd;       /* bound, not yet listening; -1: evhttp has it */
    uint16_t port;
    struct log_limit limits[SERVER_LINES];
    struct metrics metrics;

    const struct front *front;
    struct cluster_watch *cluster; /* NULL: serve */
    struct mailbox mailbox;
    struct worker *worker;
    int64_t started_s;

    struct event *mail, *submitted, *interrupt, *terminate, *tick, *drain;
    bool stopping, draining_over;
    struct reply *replies; /* all that wait or run */
    struct reply *over;    /* of them, those whose job and client are both through */
    uint32_t n_replies;
    uint64_t body_bytes; /* of their bodies */
    uint64_t held_bytes; /* of their answers */
};

/* server.c */
/* A warning about a request (id may be NULL); at most one a second and kind. more: a further field,
 * or {0}. */
void server_log(struct server *s, enum server_line kind, const char *event, const char *id,
                struct log_field more);

/* routes.c */
void server_request(struct evhttp_request *req, void *server); /* evhttp's callback */
/* Sends a whole answer, and counts it. */
void server_send(struct server *s, struct evhttp_request *req, int status,
                 const struct buf *body); /* JSON; NULL: no body */
void server_send_error(struct server *s, struct evhttp_request *req, const struct api_error *e);
void server_count(struct server *s, struct evhttp_request *req, int status); /* a stream begun */

/* admission.c */
/* False: refused, counted, and e says why. Otherwise key, if any, has one request more. */
bool reply_admit(struct server *s, struct auth_key *key, size_t body_len, struct api_error *e);
void reply_abort(struct reply *r, enum metrics_abort why); /* the first call counts */
void reply_account(struct reply *r);                       /* its end: key, metrics, log */

/* reply.c */
void reply_begin(struct server *s, struct evhttp_request *req, enum api_kind kind,
                 struct auth_key *key);  /* a POST with a body; key may be NULL */
uint32_t replies_mail(struct server *s); /* takes some of what the mailbox has; how many */
void replies_cancel(struct server *s);   /* stops all that run */

#endif

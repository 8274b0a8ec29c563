/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server: OpenAI's endpoints on libevent's evhttp, on the thread that calls server_run. It
 * never computes: bodies go to the worker, tokens come back through the mailbox, and /health
 * answers meanwhile. */
#ifndef SUPERNODE_SERVE_SERVER_H
#define SUPERNODE_SERVE_SERVER_H

#include <stdint.h>

#include "serve/auth.h"
#include "serve/front.h"
#include "serve/log.h"

enum {
    SERVER_BODY_BYTES_MAX = 32 << 20, /* one request's */
    SERVER_RECEIVING_BYTES_MAX = 128
                                 << 20, /* of all requests on their way; small ones may pass it */
    SERVER_CONNS_IDLE = 512,            /* connections beside those that wait for an answer */
    SERVER_FDS_OTHER = 256, /* descriptors for everything else: weights, lingering sockets, logs */
    SERVER_UNREAD_BYTES_MAX = 4 << 20, /* sent and not read by the client: then it is dropped */
};

struct server;
struct compute;
struct cluster_watch;

struct server_options { /* what they point to is borrowed until server_free */
    const char *host;
    uint16_t port;
    const struct log *log;
    bool log_requests;                /* a line at the end of each */
    struct auth *auth;                /* without keys: everyone may ask */
    const char *cert_file, *key_file; /* TLS; NULL: plain */
    const char *const *origins;       /* [n_origins] whose pages may ask; "*": all */
    uint32_t n_origins;
    uint32_t requests_max;     /* that wait or run */
    uint64_t bodies_bytes_max; /* of all that wait or run: a token is at least a byte */
    uint32_t client_timeout_s; /* for how long a client may neither send nor read */
    uint32_t drain_s;          /* what running answers get when the server is told to stop */
    uint32_t stuck_s;          /* /health is red when the engine finished nothing for so long */
};

/* Binds the address, so that a port in use is known before a model is read, and listens from
 * server_start on; until then clients are refused. */
enum st ST_CHECKED server_new(struct server **out, const struct server_options *o, struct err *err);
/* Begins to accept. What they point to is borrowed until server_free; cluster: what /cluster,
 * /metrics and /health look at, NULL where there is none. SIGPIPE is ignored from here on. */
enum st ST_CHECKED server_start(struct server *s, const struct front *front,
                                const struct compute *compute, struct cluster_watch *cluster,
                                struct err *err);
uint16_t server_port(const struct server *s); /* the bound one, also where 0 was asked for */
/* Serves until SIGINT or SIGTERM came and what ran is finished or given up; a second signal ends
 * the process at once. */
enum st ST_CHECKED server_run(struct server *s, struct err *err);
void server_free(struct server *s); /* NULL is allowed */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A client of one HTTP server for the commands that talk to one: many answers at once on one event
 * loop, each handed over piece by piece as it comes, and reading of server-sent events. http and
 * https URLs; certificates are checked against the system's store. Connections are kept and used
 * again (not with TLS). OPENAI_API_KEY of the environment goes along as a bearer token. All of it
 * runs on the loop's thread. */
#ifndef SUPERNODE_CLI_HTTP_CLIENT_H
#define SUPERNODE_CLI_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include <event2/event.h>

#include "base/bytes.h"
#include "base/err.h"

struct http_client;
struct http_call;

/* Resolves the host once. A path in the URL stands before every path asked for; a trailing /v1 is
 * dropped, since OpenAI's own clients want it in the URL. ST_INVALID, ST_NOT_FOUND (no such host).
 */
enum st ST_CHECKED http_client_new(struct http_client **out, struct event_base *base,
                                   const char *url, struct err *err);
void http_client_free(struct http_client *c); /* cancels what is under way */
const char *http_client_url(const struct http_client *c);

enum http_end {
    HTTP_END_DONE,       /* an answer, whole; its status may still be an error */
    HTTP_END_NO_CONNECT, /* nobody answered, or the connection broke before a status line */
    HTTP_END_CUT,        /* the answer broke off */
    HTTP_END_TIMEOUT,    /* six hours without a byte */
};

struct http_handler {
    void (*data)(void *arg, int status, const char *data, size_t len);
    void (*end)(void *arg, enum http_end how, int status); /* once; the call is gone after it */
    void *arg;
};

/* GET without a body (NULL), POST with one (JSON, copied). Handlers are called from the loop only.
 * A call may be cancelled from any handler; end is not called then. */
enum st ST_CHECKED http_call_begin(struct http_call **out, struct http_client *c, const char *path,
                                   const struct buf *body, const struct http_handler *handler,
                                   struct err *err);
void http_call_cancel(struct http_call *call);
/* Whether a new connection was made for it: none was kept. */
bool http_call_connects(const struct http_call *call);
/* The core on which its answer comes in from a server of this machine, mostly that on which its
 * sending thread runs. -1: not known, or the server is elsewhere. */
int http_call_core(const struct http_call *call);

/* Runs the loop until this one answer is there; out->max bounds it. An answer with an error status
 * is ST_OK. */
enum st ST_CHECKED http_fetch(int *status, struct buf *out, struct http_client *c, const char *path,
                              const struct buf *body, struct err *err);

/* Server-sent events: calls event for the data of each line "data: ..."; the text is
 * NUL-terminated and lives for the call. Returns ST_FULL for a line over HTTP_SSE_LINE_MAX.
 * Zero-initialise with { .line = { .max = HTTP_SSE_LINE_MAX } }; release line. */
enum { HTTP_SSE_LINE_MAX = 4 << 20 };
struct http_sse {
    struct buf line;
};
typedef void http_sse_fn(void *arg, const char *data, size_t len);
enum st ST_CHECKED http_sse_feed(struct http_sse *s, const char *data, size_t len,
                                 http_sse_fn *event, void *arg);

#endif

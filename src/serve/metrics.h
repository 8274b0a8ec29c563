/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics in Prometheus' text format. Names are vLLM's with supernode_ for vllm: (a colon is for
 * recording rules, promtool refuses it), so that dashboards need one replacement. Engine figures
 * come from engine/stats.h; what HTTP counts is counted here, on its thread. */
#ifndef SUPERNODE_SERVE_METRICS_H
#define SUPERNODE_SERVE_METRICS_H

#include "engine/stats.h"
#include "serve/json_out.h"

enum metrics_reject {
    REJECT_OVERLOADED,   /* too many requests wait or run */
    REJECT_BODIES,       /* their bodies, or those on their way, are too large together */
    REJECT_KEY_REQUESTS, /* of one API key at once */
    REJECT_KEY_RATE,     /* of one API key a minute */
    REJECT_UNAUTHORIZED, /* no key, or a wrong one */
    REJECT_STOPPING,     /* the server is told to stop */
    REJECT_CONNECTIONS,  /* connections closed unanswered: there are too many */
    METRICS_REJECTS
};
/* Why the answer to a request that had begun never reached its client whole. */
enum metrics_abort {
    ABORT_LEFT_WAITING, /* the client hung up before the first token */
    ABORT_LEFT_READING, /* ... during the answer */
    ABORT_NOT_READING,  /* it let too much lie unread, or read too slowly */
    ABORT_STOPPED,      /* the server was told to stop and the time was up */
    ABORT_ERROR,
    METRICS_ABORTS
};

enum { METRICS_HTTP_MAX = 128 };
struct metrics {
    struct {
        const char *path; /* a constant */
        int status;
        uint64_t n;
    } http[METRICS_HTTP_MAX]; /* what there was, in order of appearance */
    uint32_t n_http;
    uint64_t rejected[METRICS_REJECTS], aborted[METRICS_ABORTS];
};

const char *metrics_abort_name(enum metrics_abort why);
/* path: a constant, one of few. */
void metrics_count(struct metrics *m, const char *path, int status);

struct metrics_now { /* what is true as /metrics is asked for */
    const char *model;
    const struct engine_stats *engine;
    const struct metrics *http;
    uint32_t connections, requests; /* requests: that wait or run */
    double stuck_s;
    int64_t started_s; /* since 1970 */
};

/* Calls on the HTTP thread: the CPU time it reports is the calling thread's. */
void metrics_write(struct json_out *o, const struct metrics_now *now);

/* Parts of it that other roles have too. */
void metrics_engine(struct json_out *o, const char *model, const struct engine_stats *s);
void metrics_process(struct json_out *o, int64_t started_s);

#endif

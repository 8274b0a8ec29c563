/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics, /health and /live of a process that serves no requests (workers, pool servers): a small
 * HTTP listener on a thread of its own. */
#ifndef SUPERNODE_SERVE_METRICS_HTTP_H
#define SUPERNODE_SERVE_METRICS_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "serve/json_out.h"

struct metrics_http;

struct metrics_http_options {
    const char *host; /* borrowed */
    uint16_t port;    /* 0: any free one */
    void *ctx;
    /* Both are called on the listener's thread. */
    void (*write)(void *ctx, struct json_out *o); /* the text of /metrics */
    bool (*healthy)(void *ctx, const char **why); /* false: /health is a 503, and why says why */
};

enum st ST_CHECKED metrics_http_start(struct metrics_http **out,
                                      const struct metrics_http_options *o, struct err *err);
uint16_t metrics_http_port(const struct metrics_http *m);
void metrics_http_stop(struct metrics_http *m); /* NULL is allowed */

#endif

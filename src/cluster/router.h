/* SPDX-License-Identifier: Apache-2.0 */
/* The router: members join it, requests go through it. It holds each request's record and the place
 * where it is computed; when a worker dies, the record goes on elsewhere with the very next token
 * (contracts 6, 8). Sans-IO: it uses a bus and is told the time, so the simulator runs it as it is.
 * It is the one authority that fences: only it decides that a member is dead. */
#ifndef SUPERNODE_CLUSTER_ROUTER_H
#define SUPERNODE_CLUSTER_ROUTER_H

#include "cluster/cluster.h"
#include "engine/engine.h"
#include "pool/block.h"

struct router;

struct router_options {
    struct bus *bus; /* borrowed; its address is what members connect to */
    const char *model_id;
    struct block_shape shape; /* of the model's KV; members must agree */
    uint32_t max_model_len;   /* members must hold that much */
    uint64_t fence_ns;        /* a suspended member is declared dead after so long (0: at once) */
    uint64_t renew_ns; /* reserved room is renewed so often; 0: default, for node's default */
    uint64_t
        no_worker_ns; /* how long a request waits where every worker of a role is gone or drains */
    uint32_t prefill_tokens; /* prompt tokens that may wait at one prefill worker; 0: default */
    uint32_t attempts_max;   /* of one request; then it fails. 0: default */
};

enum st ST_CHECKED router_new(struct router **out, const struct router_options *o, struct err *err);
/* Requests end without a word to their sinks. NULL is allowed. */
void router_free(struct router *r);

/* As engine_add and engine_cancel, and with the same sinks: tokens come in order, none twice. What
 * err says when it cannot go on: ST_GONE: no worker was alive in time; ST_TIMEOUT: its own limit. */
enum st ST_CHECKED router_add(struct router *r, struct request *q, const struct engine_sink *sink,
                              void *ctx, uint64_t arrived_ns, struct err *err);
void router_cancel(struct router *r, struct request *q, enum engine_cancel why);

/* Takes what the bus has and does what is due at bus_now. Returns when it wants to be called again
 * at the latest, if nothing comes over the bus before. */
uint64_t router_step(struct router *r);

/* What an operator may do; ctl does it over the bus. ST_NOT_FOUND, ST_INVALID with a sentence. */
enum st ST_CHECKED router_drain(struct router *r, const char *name, struct err *err);
enum st ST_CHECKED router_set_role(struct router *r, const char *name, enum member_role role,
                                   struct err *err);

void router_view(const struct router *r, struct cluster_view *out);
uint64_t router_events(const struct router *r); /* as the view's events_total */
/* Since the start, as an engine counts: ttft, itl, finished, ... of requests seen from here. */
const struct engine_stats *router_stats(struct router *r);

#endif

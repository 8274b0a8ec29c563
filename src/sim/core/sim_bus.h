/* SPDX-License-Identifier: Apache-2.0 */
/* The bus in simulation: virtual time, delays, breaks and deaths drawn from one seed, and nothing
 * else decides. Messages between two endpoints keep their order; a read happens at two moments,
 * half its bytes at each, so that memory which changes meanwhile arrives torn. */
#ifndef SUPERNODE_SIM_CORE_SIM_BUS_H
#define SUPERNODE_SIM_CORE_SIM_BUS_H

#include "bus/bus.h"

struct sim_net; /* all endpoints, and the time */

struct sim_net_options {
    uint64_t seed;
    uint64_t delay_ns_min, delay_ns_max; /* of a message or a read */
    uint32_t slow_permille;              /* of them take a hundred times as long */
    uint64_t peer_timeout_ns, close_ns;  /* until silence is suspected, until a close is seen */
    /* How long an operation of an endpoint (by) on another one's memory takes; then it happens at one
     * moment. NULL: a delay as above, in two halves. of is NULL where its owner is gone; cookie: what
     * by gave the operation. */
    uint64_t (*op_ns)(void *ctx, struct bus *by, struct bus *of, bool write, size_t len,
                      uint64_t cookie);
    void *op_ctx;
};

enum st ST_CHECKED sim_net_new(struct sim_net **out, const struct sim_net_options *o,
                               struct err *err);
void sim_net_free(struct sim_net *n); /* its endpoints were freed; NULL is allowed */

/* Virtual time: it moves only by sim_net_advance, which delivers what is due, in order of time and
 * then of submission. */
uint64_t sim_net_now(const struct sim_net *n);
void sim_net_advance(struct sim_net *n, uint64_t to_ns);
/* When the next thing is due; UINT64_MAX: nothing is under way. */
uint64_t sim_net_next(const struct sim_net *n);
/* True once after something was delivered to the endpoint (or bus_wake): it should be stepped. */
bool sim_bus_has_news(struct bus *b);

enum st ST_CHECKED sim_bus_new(struct bus **out, struct sim_net *n, const char *address,
                               const struct bus_identity *identity, struct err *err);

/* Its owner's clock, which runs ahead while it computes: messages go out when it has. Who is killed
 * before never sends them, who is stopped before sends them later by as long. NULL: it never does.
 * Operations on memory are begun by a thread of its own, and wait for nothing. */
void sim_bus_clock(struct bus *b, const uint64_t *clock_ns);

/* Faults. kill: peers see GONE after close_ns, its memory can be read until then and completes with
 * PEER_GONE after; the endpoint must be freed by the caller (bus_free) and never stepped again. */
void sim_bus_kill(struct bus *b);
/* Stopped: it receives nothing and answers nothing, and peers see SUSPENDED after the timeout; its
 * memory stays readable. Its owner must not be stepped. Undone by sim_bus_continue. */
void sim_bus_stop(struct bus *b);
void sim_bus_continue(struct bus *b);
/* The connection between two endpoints breaks: messages under way are lost, both see GONE. */
void sim_bus_break(struct bus *a, struct bus *b);

#endif

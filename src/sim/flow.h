/* SPDX-License-Identifier: Apache-2.0 */
/* The network as links that flows share: each flow crosses a list of links and gets its max-min fair
 * share of them (progressive filling), bounded by its own rate. Advanced from one event to the next
 * (a flow begins or ends); nothing is sampled. Deterministic: ties go to the lower id. */
#ifndef SUPERNODE_SIM_FLOW_H
#define SUPERNODE_SIM_FLOW_H

#include "sim/machine.h"

struct flow_net;

enum { FLOW_LINKS_MAX = 16 };

/* The links of a plane of this machine: dies, CPU sockets, nodes' uplinks by sub-plane, switches. */
enum st ST_CHECKED flow_net_new(struct flow_net **out, const struct machine *m,
                                const struct machine_plane *plane, struct err *err);
void flow_net_free(struct flow_net *n); /* NULL is allowed */

struct flow_end {   /* a place on the plane */
    bool cpu;       /* else a die */
    uint32_t index; /* of all dies, or of all CPU sockets, of the machine */
};

/* Begins at now_s (not before the last event) and returns its id (>= 1); 0: out of memory, or this
 * plane has no such path. The path's start-up is counted before its bytes flow: as much of it as the
 * wire does not hide when the flow is alone, so that transfer_s is its time then. */
uint64_t flow_begin(struct flow_net *n, double now_s, enum machine_transfer what,
                    struct flow_end of, struct flow_end with, double bytes);
/* When a flow's bytes begin to flow or a flow ends, if none begins before; INFINITY: none is under
 * way. */
double flow_next(const struct flow_net *n);
/* Goes to flow_next. Returns the flow that ends then, which is gone; 0: none does, bytes began. */
uint64_t flow_end_next(struct flow_net *n);

/* Faults and figures by link: share 0 to 1 of its rate is left. Links have names for that:
 * "die 17", "cpu 3" (both ways), "node 2 up", "node 2 down", "node 2" (of a plane with one link a
 * node), and, of a plane that has them, "node 2 sub-plane 4" and "sub-plane 4" (everywhere), whose
 * traffic goes over the others. ST_NOT_FOUND. */
enum st ST_CHECKED flow_degrade(struct flow_net *n, double now_s, const char *link, double share,
                                struct err *err);
double flow_link_bytes(const struct flow_net *n,
                       const char *link); /* so far; 0: unknown, or a sub-plane */

/* --- closed forms, which tests check against the flows -------------------------------------------- */

/* One flow alone; INFINITY: the plane has no such path. */
double transfer_s(const struct machine_plane *p, enum machine_transfer what, bool other_node,
                  double bytes);
enum collective { ALL_GATHER, ALL_TO_ALL, REDUCE_SCATTER, ALL_REDUCE, COLLECTIVES };
extern const char *const collective_names[COLLECTIVES + 1];
/* bytes: what each of n ranks holds in the end (all-gather), sends in all (all-to-all), holds at the
 * beginning (reduce-scatter, all-reduce). Ranks are packed into nodes; each writes to every other
 * directly. What p's domain does not reach goes over the machine's widest plane that does, once to a
 * domain where all its ranks want the same. */
double collective_s(const struct machine *m, const struct machine_plane *p, enum collective what,
                    uint32_t n_ranks, double bytes);
/* Of that, what is left of the start that no message's wire hides. */
double collective_start_s(const struct machine *m, const struct machine_plane *p,
                          enum collective what, uint32_t n_ranks, double bytes);
/* The same with its numbers, in words. */
void collective_formula(char *out, size_t size, const struct machine *m,
                        const struct machine_plane *p, enum collective what, uint32_t n_ranks,
                        double bytes);

#endif

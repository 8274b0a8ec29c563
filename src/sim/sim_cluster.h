/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster in virtual time: the real router, workers, engines, schedulers and pool servers on the
 * simulated bus. One thread, one seed; every event in an order that follows from it alone. Members can
 * be killed, stopped, cut off and started again. Who builds one says what a member is made of: an
 * executor at the scale of a machine (run.h), or one that looks at every row (the tests'). */
#ifndef SUPERNODE_SIM_SIM_CLUSTER_H
#define SUPERNODE_SIM_SIM_CLUSTER_H

#include "cluster/node.h"
#include "cluster/pool_node.h"
#include "cluster/router.h"
#include "sim/core/sim_bus.h"

/* Embedded by who owns it, with name and role set. */
struct sim_member {
    char name[BUS_NAME_BYTES];
    enum member_role role;
    bool there, stopped, left; /* there: its process exists; left: it ended by itself */
    struct bus *bus;
    struct node *node;        /* workers, */
    struct pool_node *pool;   /* pool servers */
    uint64_t *clock_ns;       /* the executor's */
    bool news;                /* came while it was busy */
    uint64_t due_ns, busy_ns; /* wants to be stepped; cannot be before */
    uint64_t stopped_ns;      /* since when it stands still */
    uint64_t copy_ns;         /* its copying thread gets no core before */
    uint32_t lives;
};

struct sim_cluster_options {
    struct sim_net_options net;
    struct router_options router; /* but its bus */
    /* How often a copying thread looks for work; 0: it is there as soon as something comes. */
    uint64_t copy_every_ns;
    void *ctx;
    /* Completes the options of a member that begins; those of the cluster (bus, name, router, role) are
     * set. worker: its executor with memory of the bus, and m->clock_ns. */
    enum st (*worker)(void *ctx, struct sim_member *m, struct node_options *o, struct err *err);
    enum st (*pool)(void *ctx, struct sim_member *m, struct pool_node_options *o, struct err *err);
    /* The node is freed, or worker failed: the executor goes. */
    void (*worker_end)(void *ctx, struct sim_member *m);
};

struct sim_cluster {
    struct sim_cluster_options o;
    struct sim_net *net;
    struct bus *bus; /* the router's */
    struct router *router;
    uint64_t router_due_ns;                    /* earlier: what came from elsewhere is news to it */
    struct sim_member *v[CLUSTER_MEMBERS_MAX]; /* [n] borrowed */
    uint32_t n;
    uint64_t events;
};

/* sim_cluster_free follows in any case. */
enum st ST_CHECKED sim_cluster_new(struct sim_cluster *c, const struct sim_cluster_options *o,
                                   struct err *err);
void sim_cluster_free(struct sim_cluster *c);
uint64_t sim_cluster_now(const struct sim_cluster *c);
/* To the next thing that happens, at the latest until_ns; then, and after what the caller did at that
 * time, everybody acts who has something to do. */
void sim_cluster_advance(struct sim_cluster *c, uint64_t until_ns);
void sim_cluster_act(struct sim_cluster *c);

/* One more member takes part, and begins. */
enum st ST_CHECKED sim_cluster_add(struct sim_cluster *c, struct sim_member *m, struct err *err);
enum st ST_CHECKED sim_member_begin(struct sim_cluster *c, struct sim_member *m, struct err *err);
enum node_state sim_member_state(const struct sim_member *m);      /* there */
void sim_member_kill(struct sim_cluster *c, struct sim_member *m); /* there */
void sim_member_stop(struct sim_member *m);
void sim_member_continue(struct sim_cluster *c, struct sim_member *m);

#endif

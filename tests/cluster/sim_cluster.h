/* SPDX-License-Identifier: Apache-2.0 */
/* A whole cluster in virtual time: the real router, workers, engines, schedulers and pool on the simulated
 * bus and the stand-in executor. One thread, one seed; every event in an order that follows from it
 * alone. Members can be killed, stopped, cut off, drained and started again. */
#ifndef SUPERNODE_TESTS_CLUSTER_SIM_CLUSTER_H
#define SUPERNODE_TESTS_CLUSTER_SIM_CLUSTER_H

#include "cluster/node.h"
#include "cluster/pool_node.h"
#include "cluster/router.h"
#include "sim/core/sim_bus.h"
#include "sim/core/standin.h"

enum { SIM_MEMBERS_MAX = 16, SIM_MODEL_LEN = 2048 };

struct sim_member {
    char name[BUS_NAME_BYTES];
    enum member_role role;
    bool there, stopped, left; /* there: its process exists */
    struct bus *bus;
    bus_id memory;
    struct standin x;
    struct node *node;      /* workers, */
    struct pool_node *pool; /* pool servers */
    uint64_t due_ns, busy_ns, copy_ns;
    uint64_t start_ns, continue_ns; /* 0: not planned */
    uint32_t lives;
};

struct sim_cluster_options {
    uint64_t seed;
    uint32_t n_prefill, n_decode, n_pool, n_pages, seqs, vocab;
    uint64_t pool_bytes;
    uint64_t peer_timeout_ns, lease_ns, no_worker_ns;
    uint64_t delay_ns_max;  /* of a message or a read; */
    uint32_t slow_permille; /* so many take a hundred times as long */
    uint32_t slow_percent;  /* of steps take ten times as long */
    bool speculate;
};

struct sim_cluster {
    struct sim_cluster_options o;
    struct sim_net *net;
    struct bus *bus; /* the router's */
    struct router *router;
    uint64_t router_due_ns;
    struct sim_member v[SIM_MEMBERS_MAX];
    uint32_t n;
};

void sim_cluster_start(struct sim_cluster *c, const struct sim_cluster_options *o);
void sim_cluster_stop(struct sim_cluster *c);
uint64_t sim_cluster_now(const struct sim_cluster *c);
/* Goes on to the next thing that happens, at the latest until_ns. */
void sim_cluster_step(struct sim_cluster *c, uint64_t until_ns);

void sim_member_begin(struct sim_cluster *c, struct sim_member *m);
enum node_state sim_member_state(const struct sim_member *m); /* there */
void sim_member_kill(struct sim_cluster *c, struct sim_member *m);
void sim_member_pause(struct sim_cluster *c, struct sim_member *m);
void sim_member_continue(struct sim_cluster *c, struct sim_member *m);

/* Nothing of a request is left anywhere: NULL, or what is. */
const char *sim_cluster_leftovers(struct sim_cluster *c);

#endif

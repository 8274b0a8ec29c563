/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a run: run.c (the loop, the report), run_members.c (who takes part, how long what they do
 * takes, faults). */
#ifndef SUPERNODE_SIM_RUN_IMPL_H
#define SUPERNODE_SIM_RUN_IMPL_H

#include "base/heap.h"
#include "sim/run_load.h"
#include "sim/sim_cluster.h"
#include "sim/sim_exec.h"
#include "sim/sim_ssd.h"

enum { RUN_PLANES = 2, RUN_STEPS = 4096 /* kept */ };

/* What a member shares with its peers: bytes wait for those that came before (first come, first
 * served), which conserves the rate however they interleave. */
struct run_link {
    double share;  /* of its wire: what faults have left */
    double free_s; /* when all that was begun is through */
    double busy_s;
};
/* Those of one plane, alike: one a die, or one for all of the member. */
struct run_links {
    double rate_bps;  /* of each: what the path reaches on it */
    double wire_bps;  /* what each could carry, at least that: a fault takes a part of it */
    uint32_t n, next; /* next: whose turn it is, where pages are spread over all */
    struct run_link *v;
};

struct run_member {
    struct sim_member m;          /* the first: a member of the cluster is one of the run */
    uint32_t first_chip, n_chips; /* of the machine; a pool server: its node's */
    struct sim_exec exec;
    struct ssd_io *ssd;             /* a pool server's; stays when it dies */
    const struct step_setup *setup; /* NULL: a pool server */
    double slow;                    /* factor of the slowest of its chips */
    uint64_t up_since_ns;
    double up_s, busy_s; /* of earlier lives */
    struct run_step {    /* what decode steps take, by what they compute; key 0: none */
        uint64_t key;
        double s;
    } steps[RUN_STEPS];
    struct run_counts {
        uint64_t wrong_pages, preemptions, stored, unstored, pool_tokens;
        uint64_t leaked_pages;                        /* now, where no request is under way */
    } past;                                           /* of earlier lives */
    uint32_t down, hung;                              /* faults that keep it so */
    struct run_links in[RUN_PLANES], out[RUN_PLANES]; /* hand-over, pool */
};

struct run {
    const struct run_config *c;
    struct sim_cluster cluster;
    struct run_member *members; /* [n_members] */
    uint32_t n_members;
    const struct machine_plane *planes[RUN_PLANES];
    uint64_t chance;
    double wall_s;
    struct run_load load;
    /* faults */
    struct heap faults;                                /* those to come, run_faults.c */
    uint64_t n_faults_ever, n_faults, n_faults_unused; /* the latter two: that came */
    struct run_fault *worse; /* [n_worse] slow chips, links and sub-planes now; room for all */
    uint32_t n_worse;
    double handover_bytes, pool_read_bytes, pool_write_bytes;
    struct err err;
    bool broken; /* err says why it cannot go on */
};

/* sim_cluster.h: what members are made of, and how long an operation between two of them takes. */
enum st ST_CHECKED run_worker(void *ctx, struct sim_member *m, struct node_options *o,
                              struct err *err);
enum st ST_CHECKED run_pool(void *ctx, struct sim_member *m, struct pool_node_options *o,
                            struct err *err);
void run_worker_end(void *ctx, struct sim_member *m);
uint64_t run_op_ns(void *ctx, struct bus *by, struct bus *of, bool write, size_t len,
                   uint64_t cookie);

enum st ST_CHECKED run_members_new(struct run *r, struct err *err);
void run_members_free(struct run *r); /* the cluster was freed */
enum st ST_CHECKED run_member_begin(struct run *r, struct run_member *m, struct err *err);
void run_member_end(struct run *r, struct run_member *m);
/* Brings up_s and busy_s up to date, and returns what was counted in all of its lives. */
struct run_counts run_member_account(struct run_member *m, uint64_t now_ns);

enum st ST_CHECKED run_faults_new(struct run *r, struct err *err);
void run_faults_free(struct run *r);
double run_faults_next(const struct run *r);
void run_faults_apply(struct run *r);
void run_faults_report(const struct run *r, struct run_report *o);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a run: run.c (the loop, the report), run_members.c (who takes part, how long what they do
 * takes, faults), run_load.c (requests, and whether their answers are right). */
#ifndef SUPERNODE_SIM_RUN_IMPL_H
#define SUPERNODE_SIM_RUN_IMPL_H

#include "cluster/node.h"
#include "cluster/pool_node.h"
#include "cluster/proto.h"
#include "cluster/router.h"
#include "pool/index.h"
#include "sim/core/sim_bus.h"
#include "sim/run.h"
#include "sim/sim_exec.h"

#define RUN_MODEL_ID "simulated"

enum { RUN_MEMBERS_MAX = CLUSTER_MEMBERS_MAX, RUN_PLANES = 2 };

/* What a member shares with its peers: bytes wait for those that came before (first come, first
 * served), which conserves the rate however they interleave. */
struct run_link {
    double rate_bps, share; /* share: what faults have left */
    double free_s;          /* when all that was begun is through */
    double busy_s, bytes;
};

struct run_member {
    char name[16];
    enum member_role role;
    uint32_t first_chip, n_chips; /* of the machine; a pool server: its node's */
    struct bus *bus;
    bus_id memory;
    struct sim_exec exec;
    struct node *node;
    struct pool_node *pool;
    struct sim_times times;
    const struct step_setup *setup;
    bool there;
    bool news;                /* came while it was busy */
    uint64_t due_ns, busy_ns; /* wants to be stepped; cannot be before */
    uint64_t up_since_ns, lives;
    double up_s, busy_s; /* of earlier lives */
    struct run_counts {
        uint64_t wrong_pages, preemptions, offers_refused, stored, pool_tokens, leaked_pages;
    } past;                                          /* of earlier lives */
    uint32_t down;                                   /* faults that keep it down */
    struct run_link in[RUN_PLANES], out[RUN_PLANES]; /* hand-over, pool */
};

struct run_request {
    struct run_request *next; /* free ones */
    struct request r;
    struct request_choice choice;
    struct role_run role;
    struct run *run;
    uint64_t chain; /* behind what was told: what comes next follows from it */
    double arrived_s, first_s, last_s;
    uint32_t n_told, cap_prompt, cap_ids;
};

/* What is kept of each request that ended. */
struct run_record {
    float ttft_s, tpot_s, e2e_s;
};

struct run {
    const struct run_config *c;
    struct sim_net *net;
    struct bus *bus;
    struct router *router;
    uint64_t router_due_ns;
    struct run_member *members; /* [n_members] */
    uint32_t n_members;
    const struct machine_plane *planes[RUN_PLANES];
    uint64_t chance;
    uint64_t events;
    double wall_s;
    /* load */
    struct trace trace;
    double next_arrival_s; /* INFINITY: none */
    uint64_t n_arrived, n_open;
    bool arrivals_over;
    struct run_request *free_requests;
    uint32_t n_again; /* closed loop: clients whose next request is due now */
    struct run_record *records;
    uint64_t n_records, cap_records, n_good;
    uint64_t finished, failed, wrong_tokens;
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    double first_arrival_s, last_end_s;
    /* faults */
    struct run_due_fault {
        double at_s;
        bool ends;
        struct run_fault fault;
    } * faults; /* by time */
    uint32_t n_faults, cap_faults;
    struct err err;
    bool broken; /* err says why it cannot go on */
};

uint64_t run_ns(double s);
double run_s(uint64_t ns);
double run_draw(struct run *r);             /* [0, 1) */
double run_draw_exponential(struct run *r); /* of mean 1 */

enum st ST_CHECKED run_members_new(struct run *r, struct err *err);
void run_members_free(struct run *r);
void run_member_step(struct run *r, struct run_member *m, uint64_t now_ns);
uint64_t run_member_due(const struct run_member *m); /* UINT64_MAX: not by itself */
uint64_t run_op_ns(void *ctx, struct bus *by, struct bus *of, bool write, size_t len);
/* Brings up_s and busy_s up to date, and returns what was counted in all of its lives. */
struct run_counts run_member_account(struct run_member *m, uint64_t now_ns);

enum st ST_CHECKED run_faults_new(struct run *r, struct err *err);
double run_faults_next(const struct run *r);
void run_faults_apply(struct run *r);

enum st ST_CHECKED run_load_new(struct run *r, struct err *err);
void run_load_free(struct run *r);
void run_load_arrive(struct run *r, double now_s); /* those that are due */

#endif

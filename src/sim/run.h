/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster's control code in virtual time: the router, workers and pool servers that serve for real,
 * on a simulated bus, with instances whose steps take what the operator model says (step.h). One seed
 * gives one run, on every machine. What a real cluster promises is checked as it goes: no request
 * lost, no stream that repeats or skips a token, no page leaked, no block of another tenant read. */
#ifndef SUPERNODE_SIM_RUN_H
#define SUPERNODE_SIM_RUN_H

#include "cluster/cluster.h"
#include "sim/step.h"
#include "sim/trace.h"

enum { RUN_MEMBERS_MAX = CLUSTER_MEMBERS_MAX };
#define RUN_SECONDS_MAX 1e7 /* of virtual time that a description may ask for */
#define RUN_STEP_S_MAX  1e4 /* of the largest batch that it may ask for, where no chip is slow */

enum run_arrivals { RUN_TRACE, RUN_POISSON, RUN_CLOSED };
enum run_fault_kind {
    RUN_CHIP,      /* dies: its instance with it */
    RUN_NODE,      /* all instances and pool servers that have a part of it */
    RUN_LINK,      /* a chip's link to the hand-over's plane has `share` of its rate left */
    RUN_SUB_PLANE, /* of the scale-up plane */
    RUN_POOL,      /* a pool server is killed */
    RUN_SLOW,      /* a chip takes `slow` times as long: its instance waits for it */
    RUN_HANG,      /* a node: what has a part of it stands still, and says nothing */
    RUN_CUT, /* a node: at one moment all connections of those break, with what is under way */
    RUN_FAULTS
};
extern const char *const run_fault_names[RUN_FAULTS + 1];

struct run_fault {
    enum run_fault_kind kind;
    uint32_t index; /* of the chip, node, sub-plane or pool server (its node) */
    double at_s, for_s;
    double share, slow;
};

struct run_instances {
    uint32_t n;                /* instances */
    uint32_t chips;            /* of each */
    uint32_t requests_per_die; /* sequences at once; decode */
    uint32_t batch_tokens;     /* of a prompt batch a chip; prefill */
    double restart_s;          /* until it is back after a fault */
    struct step_setup setup;
};

struct run_config {
    char server[4096];   /* a calibration (calibration.h): then it is that server, and no cluster */
    char server_at[512]; /* who names it, for errors: "FILE: line N: server: " */
    char hardware[4096], model[4096];
    struct machine machine;
    uint64_t seed;
    uint32_t max_model_len;
    struct run_instances prefill, decode;
    struct {
        uint32_t n;                   /* servers, one a node */
        double dram_bytes, ssd_bytes; /* of each; SSD 0: none */
        char plane[MACHINE_NAME_MAX];
    } pool;
    char handover_plane[MACHINE_NAME_MAX];
    struct {
        enum run_arrivals arrivals;
        char trace[4096], trace_at[512]; /* as server_at */
        double rate_scale;               /* of a trace's arrivals */
        double rate;                     /* requests/s; Poisson */
        uint32_t clients;                /* closed loop */
        uint32_t n_in, n_out;            /* without a trace: each request's */
        uint64_t requests;               /* at most; 0: no limit */
        double duration_s;               /* arrivals stop; then what is under way ends */
        uint32_t tenants;
        double leave_share, leave_after_s; /* clients that go away; after that time, at the mean */
        double length_divisor; /* of a trace's lengths and blocks: for models with short contexts */
        bool spread; /* arrivals that stand at one instant are spread until the next one */
    } load;
    double slo_ttft_s, slo_tpot_s; /* 0: none */
    uint32_t n_faults;
    struct run_fault faults[256];
    double mtbf_s[RUN_FAULTS]; /* of the whole machine, at random; 0: never */
    double repair_s;
    double no_worker_s;
};

/* What goes before the description: KEY of SECTION (NULL: of none), and who says so, for errors. */
struct run_override {
    const char *section, *key, *text, *by;
};
/* A description in YAML, as those under examples/. */
enum st ST_CHECKED run_config_open(struct run_config *c, const char *path,
                                   const struct run_override *v, uint32_t n, struct err *err);
enum st ST_CHECKED run_config_read(struct run_config *c, const void *bytes, size_t len,
                                   const char *name, struct err *err);

/* The ways between members of a plane: between nodes, or of the only one there is. */
const struct machine_path *run_paths(const struct run_config *c, const struct machine_plane *p);
/* How many chips, nodes, ... there are that such a fault can hit. */
uint32_t run_fault_places(const struct run_config *c, enum run_fault_kind kind);
/* How many of them, from the first on, matter to anybody: the rest of the machine may break, and nothing
 * comes of it. */
uint32_t run_fault_used(const struct run_config *c, enum run_fault_kind kind);
/* Of a KV page, wherever it lies: prefill's has the draft layer's rows too, where decode drafts. */
double run_page_bytes(const struct run_config *c);
/* KV pages of an instance of that role. ST_INVALID: "max_model_len: ...", it has no room for one request
 * of that length. */
enum st ST_CHECKED run_kv_pages(const struct run_config *c, enum member_role role, uint32_t *out,
                                struct err *err);

struct run_percentiles { /* NAN: of none */
    double mean, p50, p90, p99, max;
};

struct run_report {
    double virtual_s, wall_s;
    uint64_t events, requests, finished, failed, left, moved; /* left: by their clients */
    uint64_t
        cut; /* requests that were longer than max_model_len, and were cut to it: the answer first, then the prompt */
    uint64_t prompt_tokens, cached_tokens, pool_tokens,
        output_tokens; /* prompts: those that got a token */
    double first_arrival_s, last_end_s;
    struct run_percentiles ttft_s, tpot_s, e2e_s;
    uint64_t good;                    /* requests inside both SLOs */
    double prefill_busy, decode_busy; /* shares of the time they were up */
    double handover_bytes, pool_read_bytes, pool_write_bytes;
    double ssd_read_bytes, ssd_write_bytes;
    double handover_use, pool_use, ssd_use; /* busiest one's share of its time */
    double energy_j;                        /* 0: power is not known */
    uint64_t handovers, deaths, joins, preemptions, blocks_stored;
    uint64_t blocks_unstored; /* the pool had no room, or was busy */
    /* that came; of them on hardware that nobody uses; that would have come after the end */
    uint64_t faults, faults_unused, faults_late;
    /* invariants: all 0, or the run is wrong */
    uint64_t wrong_tokens, wrong_pages, lost_requests, leaked_pages;
};

struct run;
/* The config is borrowed. */
enum st ST_CHECKED run_new(struct run **out, const struct run_config *c, struct err *err);
void run_free(struct run *r); /* NULL is allowed */
/* Goes on until about that virtual time; false: it is over. */
bool run_until(struct run *r, double virtual_s);
double run_now_s(const struct run *r);
uint64_t run_finished(const struct run *r);
/* How long no request that is under way was told anything. */
double run_stuck_s(const struct run *r);
/* How long that may be: after ten of the longest batches on the slowest chip that its faults make, nothing
 * moves any more. */
double run_stuck_s_max(const struct run_config *c);
/* At the end, or where nothing moves any more: what has not ended is lost. */
enum st ST_CHECKED run_report(struct run *r, struct run_report *out, struct err *err);

#endif

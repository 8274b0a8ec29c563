/* SPDX-License-Identifier: Apache-2.0 */
/* The requests of a run in virtual time: when they come, what their prompts are, and whether each
 * token that comes back is the one that must come next. Whoever serves them (a cluster's router,
 * run.h; one engine alone, solo.h) says what time it is and takes them. */
#ifndef SUPERNODE_SIM_RUN_LOAD_H
#define SUPERNODE_SIM_RUN_LOAD_H

#include "base/heap.h"
#include "engine/engine.h"
#include "sim/run.h"

#define RUN_MODEL_ID "simulated"

struct run_request {
    struct run_request *next;  /* free ones, or those of who took it */
    struct run_request *older; /* all there are */
    struct request r;
    struct request_choice choice;
    struct role_run role;
    struct run_load *load;
    uint64_t chain; /* behind what was told: what comes next follows from it */
    double arrived_s, first_s, last_s;
    uint32_t n_told, n_left, cap_prompt, cap_ids; /* left: of who took it */
    uint64_t n;                                   /* which one it is */
    struct heap_node leaving;                     /* its client goes away at leave_s */
    double leave_s;
    bool open, left;
    bool early; /* of who took it */
};

/* What is kept of each request that ended. */
struct run_record {
    float ttft_s, tpot_s, e2e_s;
};

struct run_load {
    const struct run_config *c;
    uint32_t vocab, max_model_len;
    uint64_t *chance;              /* whose draws arrivals come from */
    double first_token_s, token_s; /* until the client has a token that was computed */
    void *ctx;                     /* of who serves */
    uint64_t (*now)(void *ctx);
    /* Takes the request until run_load_sink's done. */
    enum st (*add)(void *ctx, struct run_request *q, struct err *err);
    /* The client is gone: done comes at once. NULL: c->load.leave_share is 0. */
    void (*cancel)(void *ctx, struct run_request *q);
    struct trace trace;
    uint64_t burst_from, burst_to;                  /* rows of the instant that was spread last */
    double next_arrival_s;                          /* INFINITY: none */
    uint64_t n_arrived, n_open, open_tokens, n_cut; /* n_cut: were longer than max_model_len */
    bool arrivals_over;
    struct run_request *free_requests, *newest;
    struct heap leaving; /* requests whose clients will go away, where they are not over by then */
    /* Closed loop: when clients ask again that wait for nothing, a ring of [c->load.clients]. */
    double *again_s;
    uint32_t again, n_again;
    struct run_record *records;
    uint64_t n_records, cap_records, n_good;
    uint64_t finished, failed, left, wrong_tokens;
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    double first_arrival_s, last_end_s,
        moved_s; /* moved: a request came, was told a token, or ended */
    bool broken; /* err says why it cannot go on */
    struct err err;
};

extern const struct engine_sink run_load_sink; /* its ctx is the struct run_request */

/* All up to add are set; first_token_s and token_s may be 0. run_load_free follows in any case. */
enum st ST_CHECKED run_load_new(struct run_load *l, struct err *err);
void run_load_free(struct run_load *l); /* whoever took requests was freed */
/* When clients come or go next; those that are due do. */
double run_load_next(const struct run_load *l);
void run_load_arrive(struct run_load *l);
/* How long no request that is under way was told anything; 0 where none is. */
double run_load_stuck_s(const struct run_load *l);
/* Times and counts of the requests. */
enum st ST_CHECKED run_load_report(const struct run_load *l, struct run_report *o, struct err *err);

uint64_t run_ns(double s);
double run_s(uint64_t ns);
double run_draw(uint64_t *chance);             /* [0, 1) */
double run_draw_exponential(uint64_t *chance); /* of mean 1 */

#endif

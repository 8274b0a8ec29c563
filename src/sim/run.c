/* SPDX-License-Identifier: Apache-2.0 */
/* Implements run.h: the loop over what is due, and what is told of it at the end. */
#include "sim/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sim/core/mix.h"
#include "sim/portable.h"
#include "sim/run_impl.h"

static const uint64_t message_ns_min = 20000, message_ns_max = 60000, peer_timeout_ns = 3000000000,
                      close_ns = 200000000, settle_ns = 25000000000 /* no lease lasts so long */;

uint64_t run_ns(double s) {
    return s <= 0 ? 0 : s >= 9e9 ? UINT64_MAX : (uint64_t)llround(s * 1e9);
}

double run_s(uint64_t ns) {
    return (double)ns / 1e9;
}

double run_draw(uint64_t *chance) {
    return (double)(sim_mix_draw(chance) >> 11) * 0x1p-53;
}

double run_draw_exponential(uint64_t *chance) {
    return -portable_ln(1 - run_draw(chance));
}

/* --- life ------------------------------------------------------------------------------------- */

static enum st begin_cluster(struct run *r, struct err *err) {
    const struct run_config *c = r->c;
    uint64_t batch = (uint64_t)c->prefill.batch_tokens * c->prefill.chips;
    struct sim_cluster_options o = {
        .net = {.seed = c->seed,
                .delay_ns_min = message_ns_min,
                .delay_ns_max = message_ns_max,
                .peer_timeout_ns = peer_timeout_ns,
                .close_ns = close_ns,
                .op_ns = run_op_ns,
                .op_ctx = r},
        .router = {.model_id = RUN_MODEL_ID,
                   .shape = sim_exec_shape(),
                   .max_model_len = c->max_model_len,
                   .no_worker_ns = run_ns(c->no_worker_s),
                   .prefill_tokens = batch * 2 > UINT32_MAX ? UINT32_MAX : (uint32_t)(batch * 2)},
        .ctx = r,
        .worker = run_worker,
        .pool = run_pool,
        .worker_end = run_worker_end};
    return sim_cluster_new(&r->cluster, &o, err);
}

static uint64_t load_now(void *ctx) {
    return sim_cluster_now(&((struct run *)ctx)->cluster);
}

static enum st load_add(void *ctx, struct run_request *q, struct err *err) {
    struct run *r = ctx;
    return router_add(r->cluster.router, &q->r, &run_load_sink, q, load_now(r), err);
}

static void load_cancel(void *ctx, struct run_request *q) {
    struct run *r = ctx;
    router_cancel(r->cluster.router, &q->r, ENGINE_CANCEL_LEFT);
    r->cluster.router_due_ns = 0; /* room may be free */
}

static enum st begin_load(struct run *r, struct err *err) {
    r->load = (struct run_load){.c = r->c,
                                .vocab = r->c->prefill.setup.model.vocab,
                                .max_model_len = r->c->max_model_len,
                                .chance = &r->chance,
                                .ctx = r,
                                .now = load_now,
                                .add = load_add,
                                .cancel = load_cancel};
    return run_load_new(&r->load, err);
}

enum st run_new(struct run **out, const struct run_config *c, struct err *err) {
    struct run *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "run: out of memory");
    r->c = c;
    r->chance = c->seed ^ 0x5eed;
    enum st st = begin_cluster(r, err);
    if (!st) st = run_members_new(r, err);
    if (!st) st = run_faults_new(r, err);
    if (!st) st = begin_load(r, err);
    if (st)
        run_free(r);
    else
        *out = r;
    return st;
}

void run_free(struct run *r) {
    if (!r) return;
    sim_cluster_free(&r->cluster);
    run_members_free(r);
    run_load_free(&r->load);
    run_faults_free(r);
    free(r);
}

/* --- the loop --------------------------------------------------------------------------------- */

static void sooner(uint64_t *at, double s) {
    if (s < INFINITY && run_ns(s) < *at) *at = run_ns(s);
}

/* settles: all requests ended, and nothing breaks or is mended any more. */
static void step(struct run *r, uint64_t until_ns, bool settles) {
    sooner(&until_ns, run_load_next(&r->load));
    if (!settles) sooner(&until_ns, run_faults_next(r));
    sim_cluster_advance(&r->cluster, until_ns);
    if (!settles) run_faults_apply(r);
    uint64_t arrived = r->load.n_arrived;
    run_load_arrive(&r->load);
    if (arrived != r->load.n_arrived) r->cluster.router_due_ns = 0;
    sim_cluster_act(&r->cluster);
}

static bool over(const struct run *r) {
    return r->broken || r->load.broken || (r->load.n_open == 0 && r->load.arrivals_over);
}

bool run_until(struct run *r, double virtual_s) {
    uint64_t begun = clock_now_ns(), until = run_ns(virtual_s);
    while (sim_cluster_now(&r->cluster) < until && !over(r)) step(r, until, false);
    r->wall_s += run_s(clock_now_ns() - begun);
    return !over(r);
}

double run_now_s(const struct run *r) {
    return run_s(sim_cluster_now(&r->cluster));
}
uint64_t run_finished(const struct run *r) {
    return r->load.finished;
}

double run_stuck_s(const struct run *r) {
    return run_load_stuck_s(&r->load);
}

/* --- what is told ----------------------------------------------------------------------------- */

static void use_of(const struct run_links *l, double span_s, double *most) {
    for (uint32_t i = 0; i < l->n && span_s > 0; i++) *most = fmax(*most, l->v[i].busy_s / span_s);
}

static void report_busy(struct run *r, struct run_report *o) {
    double up[MEMBER_ROLES] = {0}, busy[MEMBER_ROLES] = {0};
    for (uint32_t i = 0; i < r->n_members; i++) {
        struct run_member *m = &r->members[i];
        (void)run_member_account(m, sim_cluster_now(&r->cluster));
        up[m->m.role] += m->up_s;
        busy[m->m.role] += m->busy_s;
    }
    o->prefill_busy = up[ROLE_OF_PREFILL] > 0 ? busy[ROLE_OF_PREFILL] / up[ROLE_OF_PREFILL] : 0;
    o->decode_busy = up[ROLE_OF_DECODE] > 0 ? busy[ROLE_OF_DECODE] / up[ROLE_OF_DECODE] : 0;
}

static void report_members(struct run *r, struct run_report *o) {
    for (uint32_t i = 0; i < r->n_members; i++) {
        struct run_member *m = &r->members[i];
        struct run_counts c = run_member_account(m, sim_cluster_now(&r->cluster));
        o->wrong_pages += c.wrong_pages;
        o->preemptions += c.preemptions;
        o->blocks_stored += c.stored;
        o->blocks_unstored += c.unstored;
        o->pool_tokens += c.pool_tokens;
        o->leaked_pages += c.leaked_pages;
        if (m->ssd) {
            const struct sim_ssd_stats *ssd = sim_ssd_stats(m->ssd);
            o->ssd_read_bytes += ssd->read_bytes;
            o->ssd_write_bytes += ssd->write_bytes;
            if (o->last_end_s > 0) o->ssd_use = fmax(o->ssd_use, ssd->busy_s / o->last_end_s);
        }
        for (int p = 0; p < RUN_PLANES; p++) {
            double *use = p ? &o->pool_use : &o->handover_use;
            use_of(&m->in[p], o->last_end_s, use);
            use_of(&m->out[p], o->last_end_s, use);
        }
    }
    o->handover_bytes = r->handover_bytes;
    o->pool_read_bytes = r->pool_read_bytes;
    o->pool_write_bytes = r->pool_write_bytes;
}

/* Chips of the instances, as busy or not; a machine's whole power counts in proportion. */
static double energy(const struct run *r, double span_s) {
    const struct machine *m = &r->c->machine;
    double chips = 0, of_all = (double)m->n_nodes * m->chips_per_node;
    for (uint32_t i = 0; i < r->n_members; i++)
        if (r->members[i].m.role != ROLE_OF_POOL) chips += r->members[i].n_chips;
    if (m->machine_w > 0) return m->machine_w * chips / of_all * span_s;
    if (m->node_w > 0) return m->node_w * chips / m->chips_per_node * span_s;
    return m->chip_w * chips * span_s;
}

enum st run_report(struct run *r, struct run_report *o, struct err *err) {
    if (r->broken || r->load.broken) {
        *err = r->broken ? r->err : r->load.err;
        return err->code;
    }
    struct cluster_view *v = malloc(sizeof *v);
    if (!v) return err_set(err, ST_NO_MEMORY, "run: out of memory");
    *o = (struct run_report){.virtual_s = run_now_s(r)};
    report_busy(r, o);
    uint64_t until = sim_cluster_now(&r->cluster) + settle_ns; /* pages go back, offers end */
    while (!r->broken && sim_cluster_now(&r->cluster) < until) step(r, until, true);
    router_view(r->cluster.router, v);
    o->wall_s = r->wall_s;
    o->events = r->cluster.events;
    o->moved = v->moved;
    o->handovers = v->handovers;
    o->deaths = v->deaths;
    o->joins = v->joins;
    free(v);
    enum st st = run_load_report(&r->load, o, err);
    report_members(r, o);
    run_faults_report(r, o);
    o->energy_j = energy(r, o->last_end_s - o->first_arrival_s);
    return st;
}

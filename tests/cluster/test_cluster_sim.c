/* SPDX-License-Identifier: Apache-2.0 */
/* Clusters under a virtual clock: random requests, and members that are killed, stopped, cut off,
 * drained, given other roles and started again, all from a seed. Every request gets the one answer
 * it would get undisturbed, token after token and none twice; and when it is over, nobody holds a
 * page. SEEDS=N runs more, SEED=N that one alone, FROM=N begins there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "../engine/asked.h"
#include "sim/core/standin.h"
#include "sim/sim_cluster.h"

enum { REQUESTS_MAX = 40, SHORT_LENS = 7, MEMBERS_MAX = 16, MODEL_LEN = 2048 };
static const uint64_t ms = 1000000;

struct world_options {
    uint64_t seed;
    uint32_t n_prefill, n_decode, n_pool, n_pages, seqs;
    uint64_t pool_bytes;
    uint64_t peer_timeout_ns, lease_ns;
    uint64_t delay_ns_max;  /* of a message or a read; */
    uint32_t slow_permille; /* so many take a hundred times as long */
    uint32_t slow_percent;  /* of steps take ten times as long */
    bool speculate;
};

struct world_member {
    struct sim_member m; /* the first */
    struct standin x;
    uint64_t start_ns, continue_ns; /* 0: not planned */
};

struct world {
    struct world_options o;
    struct sim_cluster c;
    struct world_member members[MEMBERS_MAX]; /* [c.n] */
    struct asked v[REQUESTS_MAX];
    uint32_t n, n_faults;
    struct rng g;
};

/* What all histories together went through: a test in which nothing happens shows here. */
static struct {
    uint64_t requests, faults, handovers, moved, deaths, joins, stale, preemptions, lost_pulls,
        from_pool, pool_bad;
} sum;

static void ok(enum st st, const struct err *err) {
    if (st) fail_msg("%s", err->text);
}

/* --- members ---------------------------------------------------------------------------------- */

/* The copying thread has a core of its own. */
static void copy_meanwhile(void *ctx) {
    struct world_member *m = ctx;
    if (m->m.node && m->x.now_ns >= m->m.copy_ns) (void)node_copy(m->m.node);
}

static enum st make_worker(void *ctx, struct sim_member *sim, struct node_options *o,
                           struct err *err) {
    const struct world_options *w = &((struct world *)ctx)->o;
    struct world_member *m = (struct world_member *)sim;
    struct standin_options x = {.n_pages = w->n_pages,
                                .n_slots = w->seqs,
                                .max_model_len = MODEL_LEN,
                                .rows_max = w->seqs * 3 + EXECUTOR_RIDE_ROWS,
                                .vocab = VOCAB,
                                .step_ns = 1000000,
                                .row_ns = 20000,
                                .draft_ns = 200000,
                                .draft_right_percent = 60,
                                .slow_percent = w->slow_percent,
                                .seed = w->seed + sim->lives,
                                .meanwhile = copy_meanwhile,
                                .meanwhile_ctx = m};
    enum st st = bus_segment_new(sim->bus, standin_bytes(w->n_pages), BUS_PEERS_READ, &o->memory,
                                 &x.memory, err);
    if (!st) st = standin_init(&m->x, &x, err);
    sim->clock_ns = &m->x.now_ns;
    o->executor = &m->x.x;
    o->engine = (struct engine_options){.max_num_seqs = w->seqs,
                                        .max_num_batched_tokens = EXECUTOR_CHUNK_MIN,
                                        .speculate = w->speculate ? SPECULATE_ON : SPECULATE_OFF,
                                        .draft_tokens = 2};
    o->lease_ns = w->lease_ns;
    return st;
}

static void worker_end(void *ctx, struct sim_member *m) {
    (void)ctx;
    standin_release(&((struct world_member *)m)->x);
}

static enum st make_pool(void *ctx, struct sim_member *m, struct pool_node_options *o,
                         struct err *err) {
    (void)m;
    (void)err;
    o->pool.dram_bytes = ((struct world *)ctx)->o.pool_bytes;
    return ST_OK;
}

static void add_members(struct world *w, enum member_role role, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct sim_member *m = &w->members[w->c.n].m;
        struct err err;
        snprintf(m->name, sizeof m->name, "%c%u", "pdm"[role], i);
        m->role = role;
        ok(sim_cluster_add(&w->c, m, &err), &err);
    }
}

static void start(struct world *w) {
    const struct world_options *o = &w->o;
    struct err err;
    struct sim_cluster_options c = {.net = {.seed = o->seed,
                                            .delay_ns_min = 5000,
                                            .delay_ns_max = o->delay_ns_max,
                                            .slow_permille = o->slow_permille,
                                            .peer_timeout_ns = o->peer_timeout_ns,
                                            .close_ns = 2000000},
                                    .router = {.model_id = "stand-in",
                                               .shape = standin_shape(),
                                               .max_model_len = MODEL_LEN,
                                               .renew_ns = o->lease_ns / 3,
                                               .no_worker_ns = 60000 * ms,
                                               .attempts_max = 100000},
                                    .copy_every_ns = 300000,
                                    .ctx = w,
                                    .worker = make_worker,
                                    .pool = make_pool,
                                    .worker_end = worker_end};
    ok(sim_cluster_new(&w->c, &c, &err), &err);
    add_members(w, ROLE_OF_PREFILL, o->n_prefill);
    add_members(w, ROLE_OF_DECODE, o->n_decode);
    add_members(w, ROLE_OF_POOL, o->n_pool);
}

/* Nothing of a request is left anywhere: NULL, or what is. */
static const char *leftovers(struct world *w) {
    static char text[160];
    struct cluster_view *v = malloc(sizeof *v);
    router_view(w->c.router, v);
    uint32_t open = v->queued + v->prefilling + v->decoding;
    free(v);
    snprintf(text, sizeof text, "router: %u flights", open);
    if (open) return text;
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct sim_member *m = w->c.v[i];
        struct node_stats s;
        if (!m->there || !m->node) continue;
        node_stats(m->node, &s);
        uint32_t held = s.load.pages_used, seqs = s.engine.running + s.engine.waiting;
        snprintf(text, sizeof text, "%s: %u pages held, %u sequences, %u lent, %u reserved",
                 m->name, held, seqs, s.load.lent, s.load.reserved);
        if (held || seqs || s.load.lent || s.load.reserved) return text;
    }
    return NULL;
}

/* --- clients ---------------------------------------------------------------------------------- */

static bool on_token(void *ctx, const struct token_out *t) {
    struct asked *a = ctx;
    if (t->position < a->r.n_prompt) {
        assert_int_equal(t->position, ++a->n_prompt_told);
        assert_int_equal(t->id, a->r.prompt[t->position]);
        a->told[t->position] = t->logprob;
        return true;
    }
    assert_int_equal(t->position, a->r.n_prompt + a->n_tokens[t->choice]);
    struct exec_token *g = &a->got[t->choice][a->n_tokens[t->choice]++];
    *g = (struct exec_token){.id = t->id, .logprob = t->logprob, .n_top = t->n_top};
    if (t->n_top) memcpy(g->top, t->top, t->n_top * sizeof *t->top);
    return !(t->choice == a->drop_choice && a->n_tokens[t->choice] == a->drop_after);
}

static const struct engine_sink sink = {.token = on_token, .done = on_done};

static void arrive(struct world *w, struct asked *a, uint64_t now) {
    struct err err;
    a->added = true;
    lend(a);
    if (router_add(w->c.router, &a->lent, &sink, a, now, &err)) fail_msg("%s", err.text);
}

/* Requests that are due come, and those that are due leave. Returns how many are not over. */
static uint32_t drive_clients(struct world *w, uint64_t now, uint64_t *next) {
    uint32_t left = 0;
    bool news = false;
    for (uint32_t i = 0; i < w->n; i++) {
        struct asked *a = &w->v[i];
        bool comes = !a->added && a->arrives_ns <= now;
        news = news || comes;
        if (comes) arrive(w, a, now);
        if (a->added && !a->done && a->cancel_ns && a->cancel_ns <= now) {
            news = true;
            a->cancelled = true;
            router_cancel(w->c.router, &a->lent, ENGINE_CANCEL_LEFT);
            assert_true(a->done);
        }
        left += !a->done;
        if (!a->added && a->arrives_ns < *next) *next = a->arrives_ns;
        if (a->added && !a->done && a->cancel_ns > now && a->cancel_ns < *next)
            *next = a->cancel_ns;
    }
    if (news) w->c.router_due_ns = now;
    return left;
}

/* --- faults ----------------------------------------------------------------------------------- */

static void start_again(struct world *w, uint64_t now) {
    struct err err;
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct world_member *x = &w->members[i];
        struct sim_member *m = &x->m;
        if (!m->there && m->left && !x->start_ns) x->start_ns = now + 20 * ms;
        if (!m->there && x->start_ns && x->start_ns <= now) {
            x->start_ns = 0;
            ok(sim_member_begin(&w->c, m, &err), &err);
        }
        if (m->there && m->stopped && x->continue_ns <= now) sim_member_continue(&w->c, m);
    }
}

/* False: it could not be done now. */
static bool one_fault(struct world *w, uint64_t now) {
    struct world_member *x = &w->members[below(&w->g, w->c.n)];
    struct sim_member *m = &x->m, *other = w->c.v[below(&w->g, w->c.n)];
    struct err err;
    uint32_t kind = below(&w->g, 7);
    if (!m->there || m->stopped) return false;
    switch (kind) {
    case 0: /* killed, and started again after a while */
        sim_member_kill(&w->c, m);
        x->start_ns = now + (1 + below(&w->g, 60)) * ms;
        break;
    case 1: /* stopped for less or more than it takes to be given up */
        sim_member_stop(m);
        x->continue_ns = now + (1 + below(&w->g, 120)) * ms;
        break;
    case 2:
        if (!other->there || other == m) return false;
        sim_bus_break(m->bus, other->bus);
        break;
    case 3: sim_bus_break(m->bus, w->c.bus); break;
    case 4:
        if (router_drain(w->c.router, m->name, &err)) return false;
        break;
    case 5:
        if (router_set_role(w->c.router, m->name,
                            below(&w->g, 2) ? ROLE_OF_PREFILL : ROLE_OF_DECODE, &err))
            return false;
        break;
    case 6: /* copying threads get no core for long, and a worker's old life ends meanwhile */
        for (uint32_t i = 0; i < w->c.n; i++)
            w->c.v[i]->copy_ns = now + (100 + below(&w->g, 900)) * ms;
        sim_bus_break(m->bus, w->c.bus);
        break;
    }
    w->n_faults++;
    return true;
}

/* Nobody is without somebody of each role for good. */
static void mend_roles(struct world *w) {
    struct err err;
    uint32_t n[MEMBER_ROLES] = {0};
    struct sim_member *any = NULL;
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct sim_member *m = w->c.v[i];
        if (!m->there || m->stopped || !m->node || sim_member_state(m) != NODE_READY) continue;
        n[node_role(m->node)]++;
        any = m;
    }
    if (!any) return;
    if (n[ROLE_OF_PREFILL] == 0 && n[ROLE_OF_DECODE] > 1)
        (void)!router_set_role(w->c.router, any->name, ROLE_OF_PREFILL, &err);
    if (n[ROLE_OF_DECODE] == 0 && n[ROLE_OF_PREFILL] > 1)
        (void)!router_set_role(w->c.router, any->name, ROLE_OF_DECODE, &err);
}

/* --- histories -------------------------------------------------------------------------------- */

/* For who looks for the reason. */
static void show(struct world *w) {
    struct cluster_view *v = malloc(sizeof *v);
    router_view(w->c.router, v);
    print_message("# router: %u queued, %u prefilling, %u decoding\n", v->queued, v->prefilling,
                  v->decoding);
    for (uint32_t i = 0; i < v->n_members; i++)
        print_message("# %s: %s %s epoch %llu, %u flights\n", v->members[i].name,
                      member_role_name(v->members[i].role), member_state_name(v->members[i].state),
                      (unsigned long long)v->members[i].epoch, v->members[i].flights);
    for (uint32_t i = v->n_events; i-- > 0;) print_message("# event: %s\n", v->events[i].text);
    for (uint32_t i = 0; i < w->c.n; i++) {
        const struct sim_member *m = w->c.v[i];
        struct node_stats s;
        print_message("# %s: there %d stopped %d left %d\n", m->name, m->there, m->stopped,
                      m->left);
        if (!m->there || !m->node) continue;
        node_stats(m->node, &s);
        print_message(
            "#   state %d, role %s, %u running, %u waiting, %u reserved, %u lent, %u of %u pages\n",
            node_state(m->node), member_role_name(node_role(m->node)), s.engine.running,
            s.engine.waiting, s.load.reserved, s.load.lent, s.load.pages_used, s.load.pages);
    }
    free(v);
}

static void run(struct world *w, uint32_t faults_left) {
    uint64_t limit = 600000 * ms, next_fault = 30 * ms, quiet_since = 0;
    for (;;) {
        uint64_t now = sim_cluster_now(&w->c), next = now + 10 * ms;
        uint32_t left = drive_clients(w, now, &next);
        start_again(w, now);
        if (now >= next_fault && faults_left > 0) {
            faults_left -= one_fault(w, now);
            next_fault = now + (1 + below(&w->g, 40)) * ms;
        }
        if (faults_left == 0 && w->n_faults > 0) mend_roles(w);
        if (left == 0 && faults_left == 0) {
            if (!leftovers(w)) return;
            if (!quiet_since) quiet_since = now;
            if (now - quiet_since > 3 * w->o.lease_ns + 2000 * ms) fail_msg("%s", leftovers(w));
        }
        if (now > limit) show(w);
        if (now > limit) fail_msg("no progress: %u requests left", left);
        sim_cluster_advance(&w->c, next);
        sim_cluster_act(&w->c);
    }
}

/* Begins as an earlier one did, so that its blocks may be found somewhere. */
static void begin_like(struct asked *a, const struct asked *earlier) {
    uint32_t n = a->r.n_prompt < earlier->r.n_prompt ? a->r.n_prompt : earlier->r.n_prompt;
    memcpy(a->r.prompt, earlier->r.prompt, n * sizeof *a->r.prompt);
    memcpy(a->r.salt, earlier->r.salt, sizeof a->r.salt);
}

static void count(struct world *w) {
    struct cluster_view *v = malloc(sizeof *v);
    router_view(w->c.router, v);
    sum.requests += v->requests;
    sum.faults += w->n_faults;
    sum.handovers += v->handovers;
    sum.moved += v->moved;
    sum.deaths += v->deaths;
    sum.joins += v->joins;
    sum.stale += v->stale;
    free(v);
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct node_stats s;
        if (!w->c.v[i]->there || !w->c.v[i]->node) continue;
        node_stats(w->c.v[i]->node, &s);
        sum.from_pool += s.pool.blocks_fetched;
        sum.pool_bad += s.pool.blocks_bad;
        sum.preemptions += s.engine.preemptions;
        sum.lost_pulls += s.pulls_failed;
    }
}

/* Where nothing went wrong nothing was begun twice, and no lease had to end anything. */
static void check_calm(struct world *w) {
    struct cluster_view *v = malloc(sizeof *v);
    router_view(w->c.router, v);
    assert_int_equal(v->moved, 0);
    assert_int_equal(v->deaths, 0);
    free(v);
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct node_stats s;
        if (!w->c.v[i]->node) continue;
        node_stats(w->c.v[i]->node, &s);
        assert_int_equal(s.loans_expired, 0);
        assert_int_equal(s.reservations_expired, 0);
    }
}

/* calm: no faults, and nothing slow. */
static void random_history(uint64_t seed, bool calm) {
    static struct world w;
    w = (struct world){.g = {seed * 2654435761u + 99}};
    for (int i = 0; i < 4; i++) below(&w.g, 2);
    struct world_options o = {
        .seed = seed,
        .n_prefill = 1 + below(&w.g, 3),
        .n_decode = 1 + below(&w.g, 3),
        .n_pool = below(&w.g, 3),
        .n_pages = engine_pages_min(MODEL_LEN) + below(&w.g, below(&w.g, 2) ? 40 : 6),
        .pool_bytes = (8 + below(&w.g, below(&w.g, 2) ? 200 : 12)) * UINT64_C(4096),
        .seqs = 2 + below(&w.g, 10),
        .peer_timeout_ns = (below(&w.g, 2) ? 50 : 200) * ms,
        .lease_ns = (below(&w.g, 2) ? 60 : 400) * ms,
        .delay_ns_max = 10000 * (1 + below(&w.g, 100)),
        .slow_permille = below(&w.g, 2) ? 0 : below(&w.g, 60),
        .slow_percent = below(&w.g, 2) ? 0 : 5,
        .speculate = below(&w.g, 2)};
    if (below(&w.g, 4) == 0) { /* a slow network: leases run out while rows are on their way */
        o.delay_ns_max = 2 * ms;
        o.slow_permille = 50 + below(&w.g, 150);
        o.lease_ns = 150 * ms;
    }
    if (calm) {
        o.lease_ns = 80 * ms;
        o.slow_permille = 0;
    }
    w.o = o;
    start(&w);
    w.n = 20 + below(&w.g, 12);
    uint32_t spread = 1 + below(&w.g, 4);
    for (uint32_t i = 0; i < w.n; i++) {
        random_request(&w.v[i], i, SHORT_LENS, &w.g);
        if (i > 0 && below(&w.g, 4)) begin_like(&w.v[i], &w.v[below(&w.g, i)]);
        w.v[i].arrives_ns *= spread;
        if (w.v[i].cancel_ns) w.v[i].cancel_ns += w.v[i].arrives_ns;
        w.v[i].r.time_left_ms = w.v[i].r.time_left_ms ? 20 + below(&w.g, 300) : 0;
    }
    run(&w, calm ? 0 : 3 + below(&w.g, 4));
    if (calm) check_calm(&w);
    for (uint32_t i = 0; i < w.n; i++) {
        const struct asked *a = &w.v[i];
        for (uint32_t c = 0; c < a->r.n_choices; c++) check_answer(a, c);
        assert_true(a->ended == ST_OK || (a->ended == ST_TIMEOUT && a->r.time_left_ms));
        if (a->r.prompt_logprobs >= 0 && !a->cancelled && !a->ended)
            assert_int_equal(a->n_prompt_told, a->r.n_prompt - 1);
    }
    count(&w);
    sim_cluster_free(&w.c);
    for (uint32_t i = 0; i < w.n; i++) asked_release(&w.v[i]);
}

static void run_seeds(uint64_t n, bool calm) {
    const char *one = getenv("SEED"), *many = getenv("SEEDS"), *from = getenv("FROM");
    uint64_t first = one ? strtoull(one, NULL, 10) : from ? strtoull(from, NULL, 10) : 1;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    n /= 10; /* they take ten times as long there */
#endif
    if (many) n = strtoull(many, NULL, 10);
    if (one) n = 1;
    for (uint64_t seed = first; seed < first + n; seed++) {
        fprintf(stderr, "# seed %llu\r", (unsigned long long)seed);
        random_history(seed, calm);
    }
}

static void where_nothing_goes_wrong_nothing_is_lost_or_begun_twice(void **state) {
    (void)state;
    run_seeds(300, true);
}

static void random_histories_give_each_request_its_one_answer(void **state) {
    (void)state;
    run_seeds(2000, false);
    print_message(
        "# %llu requests, %llu faults: %llu hand-overs, %llu moved, %llu deaths, %llu joins, "
        "%llu stale, %llu preempted, %llu pulls lost, %llu blocks from the pool, %llu bad\n",
        (unsigned long long)sum.requests, (unsigned long long)sum.faults,
        (unsigned long long)sum.handovers, (unsigned long long)sum.moved,
        (unsigned long long)sum.deaths, (unsigned long long)sum.joins,
        (unsigned long long)sum.stale, (unsigned long long)sum.preemptions,
        (unsigned long long)sum.lost_pulls, (unsigned long long)sum.from_pool,
        (unsigned long long)sum.pool_bad);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories_give_each_request_its_one_answer),
        cmocka_unit_test(where_nothing_goes_wrong_nothing_is_lost_or_begun_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

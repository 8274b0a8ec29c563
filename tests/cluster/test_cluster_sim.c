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
#include "sim_cluster.h"

enum { REQUESTS_MAX = 40, SHORT_LENS = 7 };
static const uint64_t ms = 1000000;

struct world {
    struct sim_cluster c;
    struct asked v[REQUESTS_MAX];
    uint32_t n, n_faults;
    struct rng g;
};

/* What all histories together went through: a test in which nothing happens shows here. */
static struct {
    uint64_t requests, faults, handovers, moved, deaths, joins, stale, preemptions, lost_pulls,
        from_pool, pool_bad;
} sum;

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
    for (uint32_t i = 0; i < w->c.n; i++) {
        struct sim_member *m = &w->c.v[i];
        if (!m->there && m->left && !m->start_ns) m->start_ns = now + 20 * ms;
        if (!m->there && m->start_ns && m->start_ns <= now) sim_member_begin(&w->c, m);
        if (m->there && m->stopped && m->continue_ns <= now) sim_member_continue(&w->c, m);
    }
}

/* False: it could not be done now. */
static bool one_fault(struct world *w, uint64_t now) {
    struct sim_member *m = &w->c.v[below(&w->g, w->c.n)], *other = &w->c.v[below(&w->g, w->c.n)];
    struct err err;
    uint32_t kind = below(&w->g, 7);
    if (!m->there || m->stopped) return false;
    switch (kind) {
    case 0: /* killed, and started again after a while */
        sim_member_kill(&w->c, m);
        m->start_ns = now + (1 + below(&w->g, 60)) * ms;
        break;
    case 1: /* stopped for less or more than it takes to be given up */
        sim_member_pause(&w->c, m);
        m->continue_ns = now + (1 + below(&w->g, 120)) * ms;
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
            w->c.v[i].copy_ns = now + (100 + below(&w->g, 900)) * ms;
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
        struct sim_member *m = &w->c.v[i];
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
        const struct sim_member *m = &w->c.v[i];
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
            if (!sim_cluster_leftovers(&w->c)) return;
            if (!quiet_since) quiet_since = now;
            if (now - quiet_since > 3 * w->c.o.lease_ns + 2000 * ms)
                fail_msg("%s", sim_cluster_leftovers(&w->c));
        }
        if (now > limit) show(w);
        if (now > limit) fail_msg("no progress: %u requests left", left);
        sim_cluster_step(&w->c, next);
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
        if (!w->c.v[i].there || !w->c.v[i].node) continue;
        node_stats(w->c.v[i].node, &s);
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
        if (!w->c.v[i].node) continue;
        node_stats(w->c.v[i].node, &s);
        assert_int_equal(s.loans_expired, 0);
        assert_int_equal(s.reservations_expired, 0);
    }
}

/* calm: no faults, and nothing slow. */
static void random_history(uint64_t seed, bool calm) {
    static struct world w;
    w = (struct world){.g = {seed * 2654435761u + 99}};
    for (int i = 0; i < 4; i++) below(&w.g, 2);
    struct sim_cluster_options o = {
        .seed = seed,
        .n_prefill = 1 + below(&w.g, 3),
        .n_decode = 1 + below(&w.g, 3),
        .n_pool = below(&w.g, 3),
        .n_pages = engine_pages_min(SIM_MODEL_LEN) + below(&w.g, below(&w.g, 2) ? 40 : 6),
        .pool_bytes = (8 + below(&w.g, below(&w.g, 2) ? 200 : 12)) * UINT64_C(4096),
        .seqs = 2 + below(&w.g, 10),
        .vocab = VOCAB,
        .peer_timeout_ns = (below(&w.g, 2) ? 50 : 200) * ms,
        .lease_ns = (below(&w.g, 2) ? 60 : 400) * ms,
        .no_worker_ns = 60000 * ms,
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
        o.lease_ns = 400 * ms;
        o.slow_permille = 0;
    }
    sim_cluster_start(&w.c, &o);
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
    sim_cluster_stop(&w.c);
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

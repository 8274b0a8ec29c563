/* SPDX-License-Identifier: Apache-2.0 */
/* The load of a run, served by nobody but this file. */
#include "sim/run_load.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim/sim_exec.h"

enum { REQUESTS = 4000, VOCAB = 1000 };

struct server {
    struct run_load load;
    struct run_config c;
    uint64_t chance, now_ns;
    struct run_request *held[REQUESTS];
    uint32_t n;
    double left_s; /* when the last one left */
};

static uint64_t now(void *ctx) {
    return ((struct server *)ctx)->now_ns;
}

static enum st add(void *ctx, struct run_request *q, struct err *err) {
    struct server *s = ctx;
    (void)err;
    s->held[s->n++] = q;
    return ST_OK;
}

static void cancel(void *ctx, struct run_request *q) {
    struct server *s = ctx;
    assert_true(q->leave_s >= s->left_s);
    s->left_s = q->leave_s;
    run_load_sink.done(q, NULL);
}

static void token(struct run_request *q) {
    struct token_out t = {.id = sim_draw(q->chain, q->r.seed, VOCAB),
                          .position = q->r.n_prompt + q->n_told};
    assert_true(run_load_sink.token(q, &t));
}

static void answer(struct server *s, struct run_request *q) {
    (void)s;
    token(q);
    run_load_sink.done(q, NULL);
}

static struct server *server_new(void) {
    struct server *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->c.load.requests = REQUESTS;
    s->c.load.n_in = s->c.load.n_out = s->c.load.tenants = 1;
    s->c.load.length_divisor = 1;
    s->load = (struct run_load){.c = &s->c,
                                .vocab = VOCAB,
                                .max_model_len = 16,
                                .chance = &s->chance,
                                .ctx = s,
                                .now = now,
                                .add = add,
                                .cancel = cancel};
    return s;
}

static struct server *begin(double leave_after_s) {
    struct server *s = server_new();
    struct err err;
    s->c.load.arrivals = RUN_POISSON;
    s->c.load.rate = 1;
    s->c.load.leave_share = 1;
    s->c.load.leave_after_s = leave_after_s;
    assert_int_equal(run_load_new(&s->load, &err), ST_OK);
    return s;
}

static bool go(struct server *s) {
    double next = run_load_next(&s->load);
    if (next == INFINITY) return false;
    s->now_ns = run_ns(next);
    run_load_arrive(&s->load);
    return true;
}

static void end(struct server *s) {
    assert_int_equal(s->load.wrong_tokens, 0);
    assert_int_equal(s->load.n_open, 0);
    run_load_free(&s->load);
    free(s);
}

/* Else all of a long run's were kept until then. */
static void who_has_its_answer_is_not_waited_for_to_leave(void **state) {
    (void)state;
    struct server *s = begin(1e6);
    uint64_t events = 0;
    for (; go(s); events++) {
        while (s->n > 0) answer(s, s->held[--s->n]);
        assert_int_equal(s->load.leaving.len, 0);
    }
    assert_int_equal(s->load.finished, REQUESTS - s->load.left);
    assert_int_equal(events, REQUESTS);
    end(s);
}

static void clients_leave_in_the_order_of_their_times(void **state) {
    (void)state;
    struct server *s = begin(1e4);
    while (go(s)) continue;
    assert_int_equal(s->load.left, REQUESTS);
    assert_true(s->load.leaving.compared < 40 * REQUESTS); /* not each with each */
    end(s);
}

/* Hours between two requests are no standstill; a request that nobody answers is. */
static void who_waits_for_requests_is_not_stuck(void **state) {
    (void)state;
    struct server *s = begin(1e9);
    assert_true(go(s) && run_load_stuck_s(&s->load) < 1e-6);
    s->now_ns += 5000000000;
    assert_true(fabs(run_load_stuck_s(&s->load) - 5) < 1e-6);
    answer(s, s->held[--s->n]);
    s->now_ns += 5000000000;
    assert_true(run_load_stuck_s(&s->load) == 0);
    s->load.arrivals_over = true;
    end(s);
}

/* Each client by itself, in the order of their times, though whoever serves is busy when the first could
 * ask: one has a first token, which takes longest, one a later one, and one is refused. */
static void clients_of_a_closed_loop_ask_again_when_they_have_their_answers(void **state) {
    (void)state;
    struct server *s = server_new();
    struct err err;
    s->c.load.arrivals = RUN_CLOSED;
    s->c.load.clients = 3;
    s->c.load.requests = 6;
    s->c.load.n_out = 2;
    s->load.first_token_s = 0.25;
    s->load.token_s = 0.0625;
    assert_int_equal(run_load_new(&s->load, &err), ST_OK);
    assert_true(go(s));
    assert_int_equal(s->n, 3);
    s->held[0]->r.max_tokens = 1;
    token(s->held[1]);
    s->now_ns = 1000000000;
    answer(s, s->held[0]);
    s->now_ns = 1125000000;
    answer(s, s->held[1]);
    (void)err_set(&err, ST_FULL, "refused");
    run_load_sink.done(s->held[2], &err);
    while (go(s)) continue;
    assert_int_equal(s->n, 6);
    const double at_s[] = {1.125, 1.1875, 1.25};
    for (uint32_t i = 0; i < 3; i++) assert_true(fabs(s->held[3 + i]->arrived_s - at_s[i]) < 1e-6);
    for (uint32_t i = 3; i < 6; i++) {
        s->held[i]->r.max_tokens = 1;
        answer(s, s->held[i]);
    }
    assert_true(fabs(s->load.last_end_s - 1.5) < 1e-6);
    assert_int_equal(s->load.failed, 1);
    end(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_has_its_answer_is_not_waited_for_to_leave),
        cmocka_unit_test(who_waits_for_requests_is_not_stuck),
        cmocka_unit_test(clients_leave_in_the_order_of_their_times),
        cmocka_unit_test(clients_of_a_closed_loop_ask_again_when_they_have_their_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

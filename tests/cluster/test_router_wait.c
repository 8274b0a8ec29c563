/* SPDX-License-Identifier: Apache-2.0 */
/* What a message costs the router while many requests wait: flights looked at are counted, not time,
 * so it looks inside. Workers are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/router_impl.h"
#include "router_test.h"

enum { FEW = 500, MANY = 16000, ROUNDS = 50 };

static uint64_t looks(const struct router *r) {
    uint64_t n = r->visited + r->late.compared;
    for (int i = 0; i < ROUTE_ORDERS; i++) n += r->orders[i].compared;
    return n;
}

static void queue_up(struct world *w, struct asked *v, uint32_t n) {
    struct err err;
    for (uint32_t i = 0; i < n; i++) {
        make(&v[i], 20, 9, 1);
        v[i].r.priority = (int32_t)(i % 7);
        v[i].r.time_left_ms = i % 3 ? 0 : 3600000 - i;
        lend(&v[i]);
        assert_int_equal(
            router_add(w->r, &v[i].lent, &router_sink, &v[i], sim_net_now(w->net), &err), ST_OK);
    }
    settle(w);
}

/* Two decode, one computes, n wait; looks for what then happens, ROUNDS times each. */
struct costs {
    uint64_t load, token, place, cancel, death;
};

static struct costs costs_with(uint32_t n) {
    struct world w;
    struct router_options o = {.prefill_tokens = 1, .no_worker_ns = 3600000 * ms};
    struct asked front, *v = calloc(n, sizeof *v);
    struct costs c = {0};
    struct member_load load = {0};
    start(&w, &o);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    make(&front, 20, 1000, 1);
    uint64_t flight = until_prefill(&w, &front, p0, d0);
    d0->deaf |= UINT64_C(1) << PROTO_CANCEL | UINT64_C(1) << PROTO_RESERVE;
    queue_up(&w, v, n);

    uint64_t before = looks(w.r);
    for (int i = 0; i < ROUNDS; i++) {
        struct wire_out out = played_say(p0, PROTO_LOAD);
        proto_put_load(&out, &load);
        played_send(p0, &out);
        settle(&w);
    }
    c.load = looks(w.r) - before;

    says_token(&w, p0, flight, 0, 20, 9, FINISH_NONE);
    before = looks(w.r);
    says(&w, p0, PROTO_LENT, flight); /* room for the first that wait */
    c.place = looks(w.r) - before;

    before = looks(w.r);
    for (uint32_t i = 0; i < ROUNDS; i++) says_token(&w, d0, flight, 0, 21 + i, 9, FINISH_NONE);
    c.token = looks(w.r) - before;

    before = looks(w.r);
    for (uint32_t i = 0; i < ROUNDS; i++)
        router_cancel(w.r, &v[n / 2 + i].lent, ENGINE_CANCEL_LEFT);
    c.cancel = looks(w.r) - before;

    before = looks(w.r);
    dies(&w, d0);
    c.death = looks(w.r) - before;
    assert_int_equal(view(&w)->queued, n - ROUNDS + 1);
    stop(&w);
    for (uint32_t i = 0; i < n; i++) {
        if (!v[i].done) request_release(&v[i].lent);
        asked_release(&v[i]);
    }
    request_release(&front.lent);
    asked_release(&front);
    free(v);
    return c;
}

static void a_message_costs_no_more_with_many_that_wait(void **state) {
    (void)state;
    struct costs few = costs_with(FEW), many = costs_with(MANY);
    /* 32 times as many: 5 levels more of each heap */
    assert_true(few.load == many.load && few.load < 10 * ROUNDS);
    assert_true(few.token == many.token && few.token < 10 * ROUNDS);
    assert_true(many.place <= few.place + 100 && few.place < 100);
    assert_true(many.cancel <= few.cancel + 40 * ROUNDS && few.cancel < 40 * ROUNDS);
    assert_true(many.death <= few.death + 100 && few.death < 200);
}

/* --- long waits ------------------------------------------------------------------------------- */

static void who_waited_long_goes_first_with_all_choices(void **state) {
    (void)state;
    struct world w;
    struct asked a, b;
    struct router_options o = {.no_worker_ns = 3600000 * ms};
    start(&w, &o);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    d0->deaf |= UINT64_C(1) << PROTO_CANCEL;
    make(&a, 300, 9, 2);
    a.r.priority = 5;
    (void)until_decode(&w, &a, p0, d0);
    dies(&w, d0); /* its choices have a token, and wait one by one */
    go_on(&w, 20000 * ms);
    make(&b, 20, 9, 1);
    ask(&w, &b);
    go_on(&w, 11000 * ms);
    struct played *d1 = join(&w, "d1", ROLE_OF_DECODE);
    for (int i = 0; i < 3; i++) {
        struct request rec;
        (void)hears_reserve(d1, &rec);
        assert_int_equal(rec.n_prompt, i < 2 ? 300 : 20);
        request_release(&rec);
    }
    stop(&w);
    request_release(&a.lent);
    request_release(&b.lent);
    asked_release(&a);
    asked_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_costs_no_more_with_many_that_wait),
        cmocka_unit_test(who_waited_long_goes_first_with_all_choices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

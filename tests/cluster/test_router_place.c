/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker a request goes to, when, and what happens while there is none. Workers are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router_test.h"

static const struct router_options defaults;

static void begin_asked(struct asked *v, uint32_t n, uint32_t n_prompt) {
    for (uint32_t i = 0; i < n; i++) make(&v[i], n_prompt, 9, 1);
}

static void release_asked(struct asked *v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (!v[i].done) request_release(&v[i].lent);
        asked_release(&v[i]);
    }
}

/* --- decode workers --------------------------------------------------------------------------- */

static void the_decode_worker_with_the_least_kv_is_chosen(void **state) {
    (void)state;
    struct world w;
    struct asked v[4];
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE),
                  *d1 = join(&w, "d1", ROLE_OF_DECODE);
    make(&v[0], 500, 9, 1);
    make(&v[1], 100, 9, 1);
    make(&v[2], 300, 9, 1);
    make(&v[3], 50, 9, 1);
    uint64_t flight = until_decode(&w, &v[0], p0, d0);
    (void)until_decode(&w, &v[1], p0, d1);
    (void)until_decode(&w, &v[2], p0, d1);
    says_token(&w, d0, flight, 0, 501, 9, FINISH_LENGTH);
    says(&w, d0, PROTO_ENDED, flight);
    (void)played_take(d0, PROTO_CANCEL);
    (void)until_decode(&w, &v[3], p0, d0); /* it has nothing now */
    played_quiet(d1);
    stop(&w);
    release_asked(v, 4);
}

static void a_full_one_is_passed_over_and_asked_again_later(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    start(&w, &defaults);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE), *d1 = join(&w, "d1", ROLE_OF_DECODE);
    begin_asked(&a, 1, 300);
    ask(&w, &a);
    uint64_t flight = hears_reserve(d0, NULL);
    says(&w, d0, PROTO_NO_ROOM, flight);
    uint64_t next = hears_reserve(d1, NULL);
    assert_true(next > flight); /* a number is never used again */
    played_tell(d1, PROTO_NO_ROOM, next);
    go_on(&w, 2 * ms);
    played_quiet(d0);
    played_quiet(d1);
    go_on(&w, 8 * ms);
    flight = hears_reserve(d0, NULL);
    assert_true(flight > next);
    says(&w, d0, PROTO_RESERVED, flight);
    assert_int_equal(view(&w)->prefilling, 1);
    stop(&w);
    release_asked(&a, 1);
}

static void reserved_room_is_renewed_until_the_rows_are_there(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct router_options o = {.renew_ns = 50 * ms};
    start(&w, &o);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    begin_asked(&a, 1, 300);
    uint64_t flight = until_prefill(&w, &a, p0, d0);
    d0->deaf = UINT64_C(1) << PROTO_VIEW;
    for (int i = 0; i < 3; i++) {
        go_on(&w, 50 * ms);
        struct wire_in r = played_take(d0, PROTO_RENEW);
        assert_int_equal(wire_get_count(&r, 8), 1);
        assert_true(wire_get_u64(&r) == flight);
        played_quiet(d0);
    }
    says_token(&w, p0, flight, 0, 300, 9, FINISH_NONE);
    says(&w, p0, PROTO_LENT, flight);
    (void)played_take(d0, PROTO_GO);
    go_on(&w, 60 * ms); /* they may still be on their way, */
    (void)played_take(d0, PROTO_RENEW);
    says_token(&w, d0, flight, 0, 301, 9, FINISH_NONE); /* until it has gone on from them */
    played_forget(d0);
    go_on(&w, 200 * ms);
    played_quiet(d0);
    stop(&w);
    release_asked(&a, 1);
}

static void nobody_overtakes_one_that_was_refused(void **state) {
    (void)state;
    struct world w;
    struct asked v[2];
    start(&w, &defaults);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    make(&v[0], 1500, 9, 1);
    make(&v[1], 10, 9, 1);
    ask(&w, &v[0]);
    for (int i = 0; i < 5; i++) { /* a smaller one comes meanwhile */
        struct request rec;
        uint64_t flight = hears_reserve(d0, &rec);
        assert_int_equal(rec.n_prompt, 1500);
        request_release(&rec);
        played_quiet(d0);
        if (i == 1) ask(&w, &v[1]);
        played_quiet(d0);
        if (i < 4)
            played_tell(d0, PROTO_NO_ROOM, flight);
        else
            played_tell(d0, PROTO_RESERVED, flight);
        go_on(&w, 10 * ms);
    }
    (void)hears_reserve(d0, NULL); /* its turn */
    stop(&w);
    release_asked(v, 2);
}

/* --- prefill workers -------------------------------------------------------------------------- */

/* Begins it, and says where it is computed. */
static struct played *computes(struct world *w, struct asked *a, struct played *d,
                               struct played *const p[2], uint64_t *flight) {
    char other[BUS_NAME_BYTES];
    uint64_t epoch;
    ask(w, a);
    *flight = hears_reserve(d, NULL);
    says(w, d, PROTO_RESERVED, *flight);
    struct played *at = p[p[1]->n_in > 0];
    assert_true(hears_prefill(at, other, &epoch, NULL) == *flight);
    return at;
}

static void the_prefill_worker_with_the_least_to_do_is_chosen(void **state) {
    (void)state;
    struct world w;
    struct asked v[3];
    uint64_t flight;
    start(&w, &defaults);
    struct played *p[] = {join(&w, "p0", ROLE_OF_PREFILL), join(&w, "p1", ROLE_OF_PREFILL)},
                  *d0 = join(&w, "d0", ROLE_OF_DECODE);
    make(&v[0], 700, 9, 1);
    make(&v[1], 300, 9, 1);
    make(&v[2], 10, 9, 1);
    assert_ptr_equal(computes(&w, &v[0], d0, p, &flight), p[0]);
    assert_ptr_equal(computes(&w, &v[1], d0, p, &flight), p[1]);
    assert_ptr_equal(computes(&w, &v[2], d0, p, &flight), p[1]);
    stop(&w);
    release_asked(v, 3);
}

static void the_prefill_worker_that_has_the_beginning_is_chosen(void **state) {
    (void)state;
    struct world w;
    struct asked v[5];
    uint64_t flight[5];
    start(&w, &defaults);
    struct played *p[] = {join(&w, "p0", ROLE_OF_PREFILL), join(&w, "p1", ROLE_OF_PREFILL)},
                  *d0 = join(&w, "d0", ROLE_OF_DECODE);
    begin_asked(v, 5, 700);
    memcpy(v[2].r.prompt, v[1].r.prompt, 700 * sizeof *v[2].r.prompt);
    memcpy(v[3].r.prompt, v[1].r.prompt, 700 * sizeof *v[3].r.prompt);
    strcpy(v[3].r.salt, "another"); /* it shares nothing */
    assert_ptr_equal(computes(&w, &v[0], d0, p, &flight[0]), p[0]);
    assert_ptr_equal(computes(&w, &v[1], d0, p, &flight[1]), p[1]);
    for (int i = 0; i < 2; i++) { /* both are idle again */
        says_token(&w, p[i], flight[i], 0, 700, 9, FINISH_NONE);
        says(&w, p[i], PROTO_LENT, flight[i]);
        (void)played_take(d0, PROTO_GO);
    }
    assert_ptr_equal(computes(&w, &v[2], d0, p, &flight[2]), p[1]);
    assert_ptr_equal(computes(&w, &v[3], d0, p, &flight[3]), p[0]);
    stop(&w);
    release_asked(v, 5);
}

static void a_prefill_worker_with_enough_to_do_is_passed_over_whatever_it_has(void **state) {
    (void)state;
    struct world w;
    struct asked v[3];
    uint64_t flight;
    struct router_options o = {.prefill_tokens = 700};
    start(&w, &o);
    struct played *p[] = {join(&w, "p0", ROLE_OF_PREFILL), join(&w, "p1", ROLE_OF_PREFILL)},
                  *d0 = join(&w, "d0", ROLE_OF_DECODE);
    make(&v[0], 2000, 9, 1);
    make(&v[1], 700, 9, 1);
    make(&v[2], 2000, 9, 1);
    memcpy(v[2].r.prompt, v[0].r.prompt, 2000 * sizeof *v[2].r.prompt);
    assert_ptr_equal(computes(&w, &v[0], d0, p, &flight), p[0]);
    says_token(&w, p[0], flight, 0, 2000, 9, FINISH_NONE);
    says(&w, p[0], PROTO_LENT, flight);
    (void)played_take(d0, PROTO_GO);
    assert_ptr_equal(computes(&w, &v[1], d0, p, &flight), p[0]);
    assert_ptr_equal(computes(&w, &v[2], d0, p, &flight), p[1]);
    stop(&w);
    release_asked(v, 3);
}

static void requests_wait_while_enough_waits_at_the_prefill_workers(void **state) {
    (void)state;
    struct world w;
    struct asked v[2];
    struct router_options o = {.prefill_tokens = 700};
    start(&w, &o);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    begin_asked(v, 2, 700);
    uint64_t flight = until_prefill(&w, &v[0], p0, d0);
    ask(&w, &v[1]);
    go_on(&w, 50 * ms);
    played_quiet(d0); /* nor is room taken where nothing can come */
    assert_int_equal(view(&w)->queued, 1);
    says_token(&w, p0, flight, 0, 700, 9, FINISH_NONE);
    says(&w, p0, PROTO_LENT, flight);
    (void)played_take(d0, PROTO_GO);
    (void)hears_reserve(d0, NULL);
    stop(&w);
    release_asked(v, 2);
}

static void where_the_prefill_worker_died_meanwhile_the_room_is_given_back(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    begin_asked(&a, 1, 700);
    ask(&w, &a);
    uint64_t flight = hears_reserve(d0, NULL);
    dies(&w, p0);
    says(&w, d0, PROTO_RESERVED, flight);
    played_hears(d0, PROTO_CANCEL, flight);
    go_on(&w, 10 * ms);
    assert_false(a.done);
    stop(&w);
    release_asked(&a, 1);
}

static void lower_priorities_go_first_then_who_came_first(void **state) {
    (void)state;
    struct world w;
    struct asked v[4];
    static const int32_t priority[] = {0, 5, -1, 5};
    static const int order[] = {2, 1, 3};
    struct router_options o = {.prefill_tokens = 1};
    start(&w, &o);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    d0->deaf |= UINT64_C(1) << PROTO_CANCEL;
    begin_asked(v, 4, 20);
    uint64_t flight = until_prefill(&w, &v[0], p0, d0);
    for (int i = 1; i < 4; i++) {
        v[i].r.priority = priority[i];
        ask(&w, &v[i]);
    }
    for (int i = 0; i < 3; i++) {
        char other[BUS_NAME_BYTES];
        uint64_t epoch;
        struct request rec;
        says_token(&w, p0, flight, 0, 20, 9, FINISH_NONE);
        says(&w, p0, PROTO_LENT, flight);
        (void)played_take(d0, PROTO_GO);
        /* all that wait are asked for; the first to have room takes the worker */
        flight = hears_reserve(d0, &rec);
        assert_int_equal(rec.seed, v[order[i]].r.seed);
        request_release(&rec);
        says(&w, d0, PROTO_RESERVED, flight);
        assert_true(hears_prefill(p0, other, &epoch, NULL) == flight);
        while (d0->n_in > 0) says(&w, d0, PROTO_RESERVED, hears_reserve(d0, NULL));
        go_on(&w, 10 * ms); /* they came too late, and wait again */
    }
    stop(&w);
    release_asked(v, 4);
}

/* --- nobody there ----------------------------------------------------------------------------- */

static void without_a_worker_of_a_role_requests_end_in_time_with_a_sentence(void **state) {
    (void)state;
    static const char *const sentences[] = {"no prefill worker was alive for 2 s",
                                            "no decode worker was alive for 2 s"};
    for (int missing = 0; missing < 2; missing++) {
        struct world w;
        struct asked a;
        struct router_options o = {.no_worker_ns = 2000 * ms};
        start(&w, &o);
        (void)join(&w, "w0", missing ? ROLE_OF_PREFILL : ROLE_OF_DECODE);
        begin_asked(&a, 1, 20);
        ask(&w, &a);
        go_on(&w, 1990 * ms);
        assert_false(a.done);
        go_on(&w, 20 * ms);
        assert_true(a.done && a.ended == ST_GONE);
        assert_string_equal(router_said, sentences[missing]);
        stop(&w);
        release_asked(&a, 1);
    }
}

static void only_time_alone_counts_and_it_counts_anew(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct router_options o = {.no_worker_ns = 2000 * ms};
    start(&w, &o);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    begin_asked(&a, 1, 20);
    ask(&w, &a);
    go_on(&w, 1500 * ms);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    go_on(&w, 10 * ms);
    says(&w, d0, PROTO_NO_ROOM, hears_reserve(d0, NULL));
    dies(&w, d0);
    go_on(&w, 1500 * ms);
    assert_false(a.done);
    go_on(&w, 600 * ms);
    assert_true(a.done && a.ended == ST_GONE);
    stop(&w);
    release_asked(&a, 1);
}

static void a_worker_that_comes_in_time_takes_what_waits(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct router_options o = {.no_worker_ns = 2000 * ms};
    start(&w, &o);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    begin_asked(&a, 1, 20);
    ask(&w, &a);
    go_on(&w, 1500 * ms);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    go_on(&w, 10 * ms);
    (void)hears_reserve(d0, NULL);
    dies(&w, d0);
    go_on(&w, 1500 * ms);
    assert_false(a.done); /* it was alone for less than that, twice */
    go_on(&w, 1000 * ms);
    assert_true(a.done && a.ended == ST_GONE);
    stop(&w);
    release_asked(&a, 1);
}

static void a_worker_that_drains_is_none_for_what_waits(void **state) {
    (void)state;
    for (int draining = 0; draining < 2; draining++) {
        struct world w;
        struct asked a[2];
        struct err err;
        struct router_options o = {.no_worker_ns = 2000 * ms};
        start(&w, &o);
        struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
        begin_asked(a, 2, 20);
        uint64_t flight = until_decode(&w, &a[0], p0, d0);
        assert_int_equal(router_drain(w.r, draining ? "d0" : "p0", &err), ST_OK);
        ask(&w, &a[1]);
        (void)played_take(draining ? d0 : p0, PROTO_DRAIN);
        go_on(&w, 1990 * ms);
        assert_false(a[1].done);
        go_on(&w, 20 * ms);
        assert_true(a[1].done && a[1].ended == ST_GONE);
        assert_string_equal(router_said, draining ? "no decode worker was alive for 2 s"
                                                  : "no prefill worker was alive for 2 s");
        /* what it has goes on there */
        says_token(&w, d0, flight, 0, 21, 8, FINISH_LENGTH);
        says(&w, d0, PROTO_ENDED, flight);
        assert_true(a[0].done && a[0].ended == ST_OK);
        stop(&w);
        release_asked(a, 2);
    }
}

static void one_that_is_silent_may_be_heard_again(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct router_options o = {.no_worker_ns = 2000 * ms, .fence_ns = 10000 * ms};
    start(&w, &o);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    sim_bus_stop(d0->bus);
    go_on(&w, 200 * ms);
    assert_int_equal(view(&w)->members[1].state, MEMBER_SUSPENDED);
    begin_asked(&a, 1, 20);
    ask(&w, &a);
    go_on(&w, 3000 * ms);
    assert_false(a.done);
    stop(&w);
    release_asked(&a, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_decode_worker_with_the_least_kv_is_chosen),
        cmocka_unit_test(a_full_one_is_passed_over_and_asked_again_later),
        cmocka_unit_test(nobody_overtakes_one_that_was_refused),
        cmocka_unit_test(reserved_room_is_renewed_until_the_rows_are_there),
        cmocka_unit_test(the_prefill_worker_with_the_least_to_do_is_chosen),
        cmocka_unit_test(the_prefill_worker_that_has_the_beginning_is_chosen),
        cmocka_unit_test(a_prefill_worker_with_enough_to_do_is_passed_over_whatever_it_has),
        cmocka_unit_test(requests_wait_while_enough_waits_at_the_prefill_workers),
        cmocka_unit_test(where_the_prefill_worker_died_meanwhile_the_room_is_given_back),
        cmocka_unit_test(lower_priorities_go_first_then_who_came_first),
        cmocka_unit_test(without_a_worker_of_a_role_requests_end_in_time_with_a_sentence),
        cmocka_unit_test(only_time_alone_counts_and_it_counts_anew),
        cmocka_unit_test(a_worker_that_comes_in_time_takes_what_waits),
        cmocka_unit_test(a_worker_that_drains_is_none_for_what_waits),
        cmocka_unit_test(one_that_is_silent_may_be_heard_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

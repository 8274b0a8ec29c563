/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on their way through the router: where they go, whose word counts, what is sent again when
 * somebody is lost. Workers are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router_test.h"

static const struct router_options defaults;

/* One prefill and two decode workers, and a request or more. */
struct trio {
    struct world w;
    struct played *p0, *d0, *d1;
    struct asked a, b, c;
};

static void begin(struct trio *t, const struct router_options *o) {
    *t = (struct trio){0};
    start(&t->w, o);
    t->p0 = join(&t->w, "p0", ROLE_OF_PREFILL);
    t->d0 = join(&t->w, "d0", ROLE_OF_DECODE);
    t->d1 = join(&t->w, "d1", ROLE_OF_DECODE);
}

static void end(struct trio *t) {
    stop(&t->w);
    struct asked *v[] = {&t->a, &t->b, &t->c};
    for (int i = 0; i < 3; i++) {
        if (!v[i]->r.prompt) continue;
        if (!v[i]->done) request_release(&v[i]->lent);
        asked_release(v[i]);
    }
}

/* --- the way of one --------------------------------------------------------------------------- */

static void it_reserves_prefills_and_decodes(void **state) {
    (void)state;
    struct trio t;
    char other[BUS_NAME_BYTES];
    uint64_t epoch;
    struct request rec;
    begin(&t, &defaults);
    make(&t.a, 300, 3, 1);
    ask(&t.w, &t.a);
    uint64_t flight = hears_reserve(t.d0, &rec);
    assert_int_equal(rec.n_prompt, 300);
    assert_memory_equal(rec.prompt, t.a.r.prompt, 300 * sizeof *rec.prompt);
    request_release(&rec);
    played_quiet(t.p0);
    says(&t.w, t.d0, PROTO_RESERVED, flight);
    assert_true(hears_prefill(t.p0, other, &epoch, NULL) == flight);
    assert_string_equal(other, "d0");
    assert_true(epoch == t.w.epochs[t.d0 - t.w.v]);
    says_token(&t.w, t.p0, flight, 0, 300, 41, FINISH_NONE);
    assert_int_equal(t.a.n_tokens[0], 1);
    says(&t.w, t.p0, PROTO_LENT, flight);
    struct wire_in r = played_take(t.d0, PROTO_GO);
    assert_true(wire_get_u64(&r) == flight);
    assert_int_equal(wire_get_u32(&r), 1);
    assert_int_equal(wire_get_u32(&r), 0);
    assert_int_equal(wire_get_u32(&r), 41);
    assert_int_equal(wire_get_u8(&r), FINISH_NONE);
    assert_true(wire_get_end(&r));
    says_token(&t.w, t.d0, flight, 0, 301, 42, FINISH_NONE);
    says_token(&t.w, t.d0, flight, 0, 302, 43, FINISH_LENGTH);
    assert_false(t.a.done);
    says(&t.w, t.d0, PROTO_ENDED, flight);
    assert_true(t.a.done && t.a.ended == ST_OK);
    assert_int_equal(t.a.n_tokens[0], 3);
    assert_int_equal(view(&t.w)->handovers, 1);
    assert_int_equal(t.w.view.finished, 1);
    played_quiet(t.p0);
    end(&t);
}

static void one_that_ends_with_its_first_token_is_not_handed_over(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 1, 1);
    uint64_t flight = until_prefill(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.p0, flight, 0, 5, 41, FINISH_LENGTH);
    says(&t.w, t.p0, PROTO_LENT, flight);
    assert_true(t.a.done && t.a.ended == ST_OK);
    played_hears(t.d0, PROTO_CANCEL, flight); /* its room is given back */
    end(&t);
}

static void what_does_not_fit_is_refused_at_once(void **state) {
    (void)state;
    struct trio t;
    struct err err;
    begin(&t, &defaults);
    make(&t.a, MODEL_LEN - 5, 6, 1);
    lend(&t.a);
    assert_int_equal(router_add(t.w.r, &t.a.lent, &router_sink, &t.a, 0, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "exceeds max-model-len 2048"));
    end(&t);
}

/* --- whose word counts ------------------------------------------------------------------------ */

static void tokens_count_only_from_the_flights_worker(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 1);
    uint64_t flight = until_prefill(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.d0, flight, 0, 5, 41, FINISH_NONE); /* it only has the room */
    says_token(&t.w, t.d1, flight, 0, 5, 41, FINISH_NONE);
    says_token(&t.w, t.p0, flight + 1, 0, 5, 41, FINISH_NONE);
    assert_int_equal(t.a.n_tokens[0], 0);
    assert_int_equal(view(&t.w)->stale, 3);
    says_token(&t.w, t.p0, flight, 0, 5, 42, FINISH_NONE);
    says(&t.w, t.p0, PROTO_LENT, flight);
    (void)played_take(t.d0, PROTO_GO);
    says_token(&t.w, t.p0, flight, 0, 6, 43, FINISH_NONE); /* not any more */
    says(&t.w, t.p0, PROTO_ENDED, flight);
    says(&t.w, t.d1, PROTO_ENDED, flight);
    assert_int_equal(t.a.n_tokens[0], 1);
    assert_int_equal(view(&t.w)->stale, 6);
    assert_false(t.a.done);
    end(&t);
}

static void a_token_that_is_not_the_next_begins_the_flight_anew(void **state) {
    (void)state;
    struct trio t;
    struct request rec;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 1);
    uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.d0, flight, 0, 7, 50, FINISH_NONE); /* 6 is missing */
    assert_int_equal(t.a.n_tokens[0], 1);
    played_hears(t.d0, PROTO_CANCEL, flight);
    played_quiet(t.d0); /* not at once: whatever it was may last */
    go_on(&t.w, 25 * ms);
    assert_true(hears_reserve(t.d0, &rec) > flight);
    assert_int_equal(rec.choices[0].n_ids, 1);
    assert_int_equal(rec.choices[0].ids[0], 9);
    request_release(&rec);
    says_token(&t.w, t.d0, flight, 0, 6, 50, FINISH_NONE); /* of the older attempt */
    assert_int_equal(t.a.n_tokens[0], 1);
    end(&t);
}

static void who_wants_no_more_of_a_choice_drops_it(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 2);
    t.a.drop_choice = 1;
    t.a.drop_after = 2;
    uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.d0, flight, 1, 6, 10, FINISH_NONE);
    struct wire_in r = played_take(t.d0, PROTO_DROP);
    assert_true(wire_get_u64(&r) == flight);
    assert_int_equal(wire_get_u32(&r), 1);
    says_token(&t.w, t.d0, flight, 1, 7, 11, FINISH_NONE); /* it did not know yet */
    assert_int_equal(t.a.n_tokens[1], 2);
    says_token(&t.w, t.d0, flight, 0, 6, 12, FINISH_STOP);
    says(&t.w, t.d0, PROTO_ENDED, flight);
    assert_true(t.a.done && t.a.ended == ST_OK);
    assert_int_equal(t.a.r.choices[1].finish, FINISH_CANCELLED);
    assert_int_equal(t.a.r.choices[0].finish, FINISH_STOP);
    end(&t);
}

/* --- losses ----------------------------------------------------------------------------------- */

static void a_dead_prefill_worker_begins_it_anew_elsewhere(void **state) {
    (void)state;
    struct trio t;
    char other[BUS_NAME_BYTES];
    uint64_t epoch;
    begin(&t, &defaults);
    struct played *p1 = join(&t.w, "p1", ROLE_OF_PREFILL);
    make(&t.a, 300, 9, 2);
    uint64_t flight = until_prefill(&t.w, &t.a, t.p0, t.d0);
    dies(&t.w, t.p0);
    played_hears(t.d0, PROTO_CANCEL, flight);
    uint64_t again = hears_reserve(t.d0, NULL); /* at once, with both choices */
    assert_true(again > flight);
    says(&t.w, t.d0, PROTO_RESERVED, again);
    assert_true(hears_prefill(p1, other, &epoch, NULL) == again);
    assert_int_equal(view(&t.w)->moved, 1);
    assert_int_equal(t.w.view.deaths, 1);
    assert_false(t.a.done);
    end(&t);
}

static void a_dead_decode_worker_costs_nothing_that_was_delivered(void **state) {
    (void)state;
    struct trio t;
    struct request rec;
    begin(&t, &defaults);
    make(&t.a, 300, 9, 1);
    uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.d0, flight, 0, 301, 50, FINISH_NONE);
    dies(&t.w, t.d0);
    (void)hears_reserve(t.d1, &rec);
    assert_int_equal(rec.n_prompt, 300);
    assert_int_equal(rec.choices[0].n_ids, 2);
    assert_int_equal(rec.choices[0].ids[1], 50);
    request_release(&rec);
    assert_int_equal(view(&t.w)->moved, 1);
    end(&t);
}

static void who_lends_counts_until_the_first_token_from_elsewhere(void **state) {
    (void)state;
    for (int told = 0; told < 2; told++) {
        struct trio t;
        struct request rec;
        begin(&t, &defaults);
        make(&t.a, 300, 9, 1);
        uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
        if (told) says_token(&t.w, t.d0, flight, 0, 301, 50, FINISH_NONE);
        says_failed(&t.w, t.p0, flight, ST_TIMEOUT, "its pages were lent for too long");
        go_on(&t.w, 25 * ms);
        assert_int_equal(view(&t.w)->stale, told);
        if (!told) {
            played_hears(t.d0, PROTO_CANCEL, flight);
            assert_true(hears_reserve(t.d0, &rec) > flight);
            assert_int_equal(rec.choices[0].n_ids, 1);
            request_release(&rec);
        }
        played_quiet(t.d0);
        end(&t);
    }
}

static void choices_that_have_tokens_go_on_one_by_one(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 300, 9, 3);
    uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.d0, flight, 0, 301, 50, FINISH_NONE);
    says_token(&t.w, t.d0, flight, 1, 301, 51, FINISH_STOP); /* this one is over */
    dies(&t.w, t.d0);
    for (uint32_t choice = 0; choice < 3; choice += 2) {
        struct request rec;
        uint64_t again = hears_reserve(t.d1, &rec);
        assert_true(again > flight);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(rec.choices[i].finish, i == choice ? FINISH_NONE : FINISH_CANCELLED);
            assert_int_equal(rec.choices[i].n_ids, i != choice ? 0 : choice == 0 ? 2 : 1);
        }
        request_release(&rec);
    }
    played_quiet(t.d1);
    end(&t);
}

static void where_one_choice_is_over_the_others_go_on_one_by_one(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    (void)join(&t.w, "p1", ROLE_OF_PREFILL);
    make(&t.a, 300, 9, 3);
    uint64_t flight = until_prefill(&t.w, &t.a, t.p0, t.d0);
    says_token(&t.w, t.p0, flight, 0, 300, 9, FINISH_STOP);
    dies(&t.w, t.p0);
    played_hears(t.d0, PROTO_CANCEL, flight);
    for (uint32_t choice = 1; choice < 3; choice++) {
        struct request rec;
        (void)hears_reserve(choice == 1 ? t.d0 : t.d1, &rec);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(rec.choices[i].finish, i == choice ? FINISH_NONE : FINISH_CANCELLED);
        request_release(&rec);
    }
    assert_int_equal(t.a.n_tokens[0], 1);
    end(&t);
}

static void what_a_worker_cannot_do_now_is_tried_again_and_not_for_ever(void **state) {
    (void)state;
    struct trio t;
    struct router_options o = {.attempts_max = 3};
    begin(&t, &o);
    make(&t.a, 5, 9, 1);
    ask(&t.w, &t.a);
    for (int i = 0; i < 4; i++) {
        assert_false(t.a.done);
        says_failed(&t.w, t.d0, hears_reserve(t.d0, NULL), ST_NO_MEMORY, "out of memory");
        played_forget(t.d0);
        go_on(&t.w, 25 * ms);
    }
    assert_true(t.a.done && t.a.ended == ST_GONE);
    assert_string_equal(router_said, "the request was lost 4 times");
    assert_int_equal(view(&t.w)->failed, 1);
    end(&t);
}

static void what_no_worker_can_do_ends_with_its_sentence(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 1);
    uint64_t flight = until_prefill(&t.w, &t.a, t.p0, t.d0);
    says_failed(&t.w, t.p0, flight, ST_INVALID, "prompt: token 3 is odd");
    assert_true(t.a.done && t.a.ended == ST_INVALID);
    assert_string_equal(router_said, "prompt: token 3 is odd");
    played_hears(t.d0, PROTO_CANCEL, flight);
    end(&t);
}

/* --- leaving ---------------------------------------------------------------------------------- */

static void cancelling_tells_whoever_has_it(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 1);
    ask(&t.w, &t.a); /* reserving */
    uint64_t flight = hears_reserve(t.d0, NULL);
    router_cancel(t.w.r, &t.a.lent, ENGINE_CANCEL_LEFT);
    assert_true(t.a.done && t.a.ended == ST_OK);
    settle(&t.w);
    played_hears(t.d0, PROTO_CANCEL, flight);

    make(&t.b, 5, 9, 1);
    flight = until_prefill(&t.w, &t.b, t.p0, t.d0);
    router_cancel(t.w.r, &t.b.lent, ENGINE_CANCEL_LEFT);
    settle(&t.w);
    played_hears(t.p0, PROTO_CANCEL, flight);
    played_hears(t.d0, PROTO_CANCEL, flight);

    make(&t.c, 5, 9, 1);
    flight = until_decode(&t.w, &t.c, t.p0, t.d0);
    router_cancel(t.w.r, &t.c.lent, ENGINE_CANCEL_LEFT);
    settle(&t.w);
    played_hears(t.d0, PROTO_CANCEL, flight);
    played_quiet(t.p0);
    assert_true(t.b.done && t.c.done);
    assert_int_equal(view(&t.w)->cancelled, 3);
    assert_int_equal(t.w.view.queued + t.w.view.prefilling + t.w.view.decoding, 0);
    end(&t);
}

static void one_that_waits_leaves_without_a_word(void **state) {
    (void)state;
    struct trio t;
    struct router_options o = {.prefill_tokens = 1};
    begin(&t, &o);
    make(&t.a, 5, 9, 1);
    make(&t.b, 5, 9, 1);
    (void)until_prefill(&t.w, &t.a, t.p0, t.d0);
    ask(&t.w, &t.b);
    router_cancel(t.w.r, &t.b.lent, ENGINE_CANCEL_LEFT);
    settle(&t.w);
    assert_true(t.b.done && !t.a.done);
    played_quiet(t.p0);
    played_quiet(t.d0);
    played_quiet(t.d1);
    end(&t);
}

static void a_request_ends_at_its_deadline(void **state) {
    (void)state;
    struct trio t;
    begin(&t, &defaults);
    make(&t.a, 5, 9, 1);
    t.a.r.time_left_ms = 50;
    uint64_t flight = until_decode(&t.w, &t.a, t.p0, t.d0);
    go_on(&t.w, 40 * ms);
    assert_false(t.a.done);
    go_on(&t.w, 20 * ms);
    assert_true(t.a.done && t.a.ended == ST_TIMEOUT);
    assert_string_equal(router_said, "the request took longer than 50 ms");
    played_hears(t.d0, PROTO_CANCEL, flight);
    end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_reserves_prefills_and_decodes),
        cmocka_unit_test(one_that_ends_with_its_first_token_is_not_handed_over),
        cmocka_unit_test(what_does_not_fit_is_refused_at_once),
        cmocka_unit_test(tokens_count_only_from_the_flights_worker),
        cmocka_unit_test(a_token_that_is_not_the_next_begins_the_flight_anew),
        cmocka_unit_test(who_wants_no_more_of_a_choice_drops_it),
        cmocka_unit_test(a_dead_prefill_worker_begins_it_anew_elsewhere),
        cmocka_unit_test(a_dead_decode_worker_costs_nothing_that_was_delivered),
        cmocka_unit_test(who_lends_counts_until_the_first_token_from_elsewhere),
        cmocka_unit_test(choices_that_have_tokens_go_on_one_by_one),
        cmocka_unit_test(where_one_choice_is_over_the_others_go_on_one_by_one),
        cmocka_unit_test(what_a_worker_cannot_do_now_is_tried_again_and_not_for_ever),
        cmocka_unit_test(what_no_worker_can_do_ends_with_its_sentence),
        cmocka_unit_test(cancelling_tells_whoever_has_it),
        cmocka_unit_test(one_that_waits_leaves_without_a_word),
        cmocka_unit_test(a_request_ends_at_its_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

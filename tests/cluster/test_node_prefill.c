/* SPDX-License-Identifier: Apache-2.0 */
/* A worker that computes for others: what it lends, whom it tells, and how it gets its pages back. Router
 * and the worker that takes over are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node_test.h"

enum { FLIGHT = 5 };

/* Its pages are lent, and both were told. */
static void until_lent(struct world *w, struct job *j) {
    start(w, ROLE_OF_PREFILL);
    begin_job(j, 300, 20, 2);
    say_record(w, PROTO_PREFILL, FLIGHT, OTHER_EPOCH, &j->a.r);
    go_on(w, 20 * ms);
    hears_tokens(w, FLIGHT, j);
    played_hears(&w->router, PROTO_LENT, FLIGHT);
    assert_int_equal(stats(w)->loans, 1);
    assert_int_equal(w->stats.load.lent, 1);
    assert_int_equal(held(w), 3);
}

/* The table as it was handed over; to pages[3]. */
static void hears_handed(struct world *w, uint32_t pages[3], uint64_t generations[3]) {
    struct wire_in r = played_take(&w->other, PROTO_HANDED);
    assert_true(wire_get_u64(&r) == FLIGHT);
    (void)wire_get_u32(&r);
    assert_int_equal(wire_get_u32(&r), 300);
    assert_int_equal(wire_get_u32(&r), 3);
    for (int i = 0; i < 3; i++) {
        pages[i] = wire_get_u32(&r);
        generations[i] = wire_get_u64(&r);
        assert_true(w->x.x.generations[pages[i]] == generations[i]);
    }
    assert_true(wire_get_end(&r));
}

static void end(struct world *w, struct job *j) {
    assert_int_equal(held(w), 0);
    assert_int_equal(w->stats.load.lent, 0);
    end_job(j);
    stop(w);
}

static void it_draws_the_next_tokens_and_lends_until_they_are_taken(void **state) {
    (void)state;
    struct world w;
    struct job j;
    uint32_t pages[3];
    uint64_t generations[3];
    until_lent(&w, &j);
    for (uint32_t c = 0; c < 2; c++) {
        assert_int_equal(j.a.n_tokens[c], 1);
        check_begun(&j, c);
    }
    hears_handed(&w, pages, generations);
    go_on(&w, 50 * ms);
    assert_int_equal(held(&w), 3);
    other_tells(&w, PROTO_TAKEN, FLIGHT);
    assert_int_equal(stats(&w)->loans_returned, 1);
    played_quiet(&w.router);
    other_tells(&w, PROTO_TAKEN, FLIGHT); /* once is enough */
    assert_int_equal(stats(&w)->stale, 1);
    end(&w, &j);
}

static void it_tells_of_rows_while_it_computes(void **state) {
    (void)state;
    struct world w;
    struct job j;
    start(&w, ROLE_OF_PREFILL);
    w.other.deaf = 0;
    begin_job(&j, 1100, 20, 1);
    say_record(&w, PROTO_PREFILL, FLIGHT, OTHER_EPOCH, &j.a.r);
    go_on(&w, 60 * ms);
    static const uint32_t blocks[] = {4, 8, 9}; /* chunks of 512 rows */
    for (int i = 0; i < 3; i++) {
        struct wire_in r = played_take(&w.other, PROTO_ROWS);
        assert_true(wire_get_u64(&r) == FLIGHT);
        (void)wire_get_u32(&r);
        assert_int_equal(wire_get_count(&r, 12), blocks[i]);
    }
    (void)played_take(&w.other, PROTO_HANDED);
    other_tells(&w, PROTO_TAKEN, FLIGHT);
    end(&w, &j);
}

static void the_death_of_who_takes_over_ends_the_loan(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_lent(&w, &j);
    other_dies(&w);
    hears_failed(&w.router, FLIGHT, ST_GONE, "takes over is gone");
    end(&w, &j);
}

static void a_new_life_of_who_takes_over_ends_the_loan(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_lent(&w, &j);
    played_forget(&w.other);
    say_hello(&w, "other", OTHER_EPOCH + 5, &w.x.x.shape);
    hears_failed(&w.router, FLIGHT, ST_GONE, "takes over is gone");
    end(&w, &j);
}

static void a_loan_ends_with_its_lease_unless_it_is_renewed(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_lent(&w, &j);
    for (int i = 0; i < 3; i++) {
        go_on(&w, lease_ns / 2);
        say_renew(&w, &w.other, FLIGHT);
    }
    assert_int_equal(held(&w), 3);
    go_on(&w, lease_ns + ms);
    hears_failed(&w.router, FLIGHT, ST_TIMEOUT, "lent for too long");
    assert_int_equal(stats(&w)->loans_expired, 1);
    end(&w, &j);
}

/* It knows the flight's number, and is nobody to it. */
static void what_a_third_worker_says_of_a_loan_changes_nothing(void **state) {
    (void)state;
    struct world w;
    struct job j;
    struct played third;
    until_lent(&w, &j);
    played_begin(&third, w.net, "third", PROTO_PEER_WORKER);
    (void)bus_connect(third.bus, "w0");
    settle(&w);
    played_step(&third);
    struct wire_out o = played_say(&third, PROTO_HELLO);
    wire_put_text(&o, "third");
    wire_put_u64(&o, OTHER_EPOCH + 1);
    proto_put_shape(&o, &w.x.x.shape);
    wire_put_u32(&o, PAGES + 1);
    wire_put_u32(&o, proto_entry_bytes(PARTS, sizeof(uint64_t)));
    played_send(&third, &o);
    played_tell(&third, PROTO_TAKEN, FLIGHT);
    settle(&w);
    assert_int_equal(held(&w), 3);
    assert_int_equal(w.stats.stale, 1);
    go_on(&w, lease_ns / 2);
    say_renew(&w, &third, FLIGHT);
    go_on(&w, lease_ns / 2 + ms);
    hears_failed(&w.router, FLIGHT, ST_TIMEOUT, "lent for too long");
    played_end(&third);
    end(&w, &j);
}

static void cancelling_gives_all_back_without_a_word(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_lent(&w, &j);
    router_tells(&w, PROTO_CANCEL, FLIGHT);
    played_quiet(&w.router);
    assert_int_equal(held(&w), 0);
    struct job longer;
    begin_job(&longer, 1100, 20, 1);
    say_record(&w, PROTO_PREFILL, FLIGHT + 1, OTHER_EPOCH, &longer.a.r);
    assert_true(held(&w) > 0);
    router_tells(&w, PROTO_CANCEL, FLIGHT + 1); /* while it computes */
    go_on(&w, 40 * ms);
    played_quiet(&w.router);
    end_job(&longer);
    end(&w, &j);
}

static void who_takes_over_is_told_when_it_is_there(void **state) {
    (void)state;
    struct world w;
    struct job j;
    uint32_t pages[3];
    uint64_t generations[3];
    start(&w, ROLE_OF_PREFILL);
    begin_job(&j, 300, 20, 1);
    say_record(&w, PROTO_PREFILL, FLIGHT, OTHER_EPOCH + 5, &j.a.r); /* a life it does not know */
    go_on(&w, 20 * ms);
    played_quiet(&w.other);
    say_hello(&w, "other", OTHER_EPOCH + 5, &w.x.x.shape);
    hears_handed(&w, pages, generations);
    other_tells(&w, PROTO_TAKEN, FLIGHT);
    end(&w, &j);
}

static void what_is_not_wanted_any_more_is_not_lent(void **state) {
    (void)state;
    struct world w;
    struct job j;
    start(&w, ROLE_OF_PREFILL);
    begin_job(&j, 1100, 20, 1);
    say_record(&w, PROTO_PREFILL, FLIGHT, OTHER_EPOCH, &j.a.r);
    struct wire_out o = played_say(&w.router, PROTO_DROP);
    wire_put_u64(&o, FLIGHT);
    wire_put_u32(&o, 0);
    played_send(&w.router, &o);
    go_on(&w, 60 * ms);
    hears_tokens(&w, FLIGHT, &j);
    played_hears(&w.router, PROTO_LENT, FLIGHT); /* nothing is left to hand over */
    played_quiet(&w.other);
    assert_int_equal(stats(&w)->loans, 0);
    end(&w, &j);
}

static void a_record_that_cannot_be_read_or_computed_fails(void **state) {
    (void)state;
    struct world w;
    struct job j;
    start(&w, ROLE_OF_PREFILL);
    begin_job(&j, 300, 20, 1);
    struct wire_out o = played_say(&w.router, PROTO_PREFILL);
    wire_put_u64(&o, FLIGHT);
    wire_put_text(&o, "other");
    wire_put_u64(&o, OTHER_EPOCH);
    wire_put_text(&o, "nothing like a record");
    played_send(&w.router, &o);
    settle(&w);
    hears_failed(&w.router, FLIGHT, ST_INVALID, "");
    j.a.r.prompt[7] = VOCAB;
    say_record(&w, PROTO_PREFILL, FLIGHT + 1, OTHER_EPOCH, &j.a.r);
    hears_failed(&w.router, FLIGHT + 1, ST_INVALID, "the vocabulary has 211");
    j.a.r.prompt[7] = 1;
    strcpy(j.a.r.model_id, "another");
    say_record(&w, PROTO_PREFILL, FLIGHT + 2, OTHER_EPOCH, &j.a.r);
    hears_failed(&w.router, FLIGHT + 2, ST_INVALID, "made for model another");
    end(&w, &j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_draws_the_next_tokens_and_lends_until_they_are_taken),
        cmocka_unit_test(it_tells_of_rows_while_it_computes),
        cmocka_unit_test(the_death_of_who_takes_over_ends_the_loan),
        cmocka_unit_test(a_new_life_of_who_takes_over_ends_the_loan),
        cmocka_unit_test(a_loan_ends_with_its_lease_unless_it_is_renewed),
        cmocka_unit_test(what_a_third_worker_says_of_a_loan_changes_nothing),
        cmocka_unit_test(cancelling_gives_all_back_without_a_word),
        cmocka_unit_test(who_takes_over_is_told_when_it_is_there),
        cmocka_unit_test(what_is_not_wanted_any_more_is_not_lent),
        cmocka_unit_test(a_record_that_cannot_be_read_or_computed_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

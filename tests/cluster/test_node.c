/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's life: joining, other workers, the end of an epoch, roles, draining, and messages that come too
 * late. Router and the other worker are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node_test.h"

/* One flight whose pages are lent, and one for which room is reserved. */
static void until_both(struct world *w, struct job *j) {
    start(w, ROLE_OF_PREFILL);
    begin_job(j, 300, 20, 1);
    say_record(w, PROTO_PREFILL, 1, OTHER_EPOCH, &j->a.r);
    go_on(w, 20 * ms);
    say_record(w, PROTO_RESERVE, 2, 0, &j->a.r);
    assert_int_equal(stats(w)->load.lent, 1);
    assert_int_equal(w->stats.load.reserved, 1);
    assert_true(held(w) > 0);
    played_forget(&w->router);
    played_forget(&w->other);
}

static void end(struct world *w, struct job *j) {
    end_job(j);
    stop(w);
}

static void router_goes(struct world *w) {
    bus_close(w->router.bus, w->router.peer);
    w->router.peer = 0;
    settle(w);
}

/* --- epochs ----------------------------------------------------------------------------------- */

static void without_a_router_all_it_had_is_dropped(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    router_goes(&w);
    assert_int_equal(node_state(w.n), NODE_JOINING);
    assert_true(node_epoch(w.n) == 0);
    assert_int_equal(held(&w), 0);
    assert_int_equal(w.stats.load.lent + w.stats.load.reserved, 0);
    assert_int_equal(w.stats.pages_leaked, 0);
    end(&w, &j);
}

static uint64_t board_epoch(struct world *w) {
    struct bus_queue *q;
    struct bus_completion done;
    struct err err;
    uint64_t epoch = 0;
    assert_int_equal(bus_queue_new(w->other.bus, &q, &err), ST_OK);
    assert_int_equal(
        bus_read(q, w->other.segments[PROTO_SEGMENT_BOARD], 0, &epoch, sizeof epoch, 1), ST_OK);
    settle(w);
    assert_int_equal(bus_completions(q, &done, 1), 1);
    assert_int_equal(done.status, BUS_DONE);
    bus_queue_free(q);
    return epoch;
}

static void its_board_tells_its_epoch(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    assert_true(board_epoch(&w) == EPOCH);
    router_goes(&w);
    assert_true(board_epoch(&w) == 0); /* whoever copies now will not count it */
    go_on(&w, 250 * ms);
    take_in(&w, EPOCH + 30);
    assert_true(board_epoch(&w) == EPOCH + 30);
    end(&w, &j);
}

static void under_a_new_epoch_it_greets_again_and_knows_nothing_of_before(void **state) {
    (void)state;
    struct world w;
    struct job j;
    char name[BUS_NAME_BYTES];
    until_both(&w, &j);
    router_goes(&w);
    go_on(&w, 250 * ms);
    take_in(&w, EPOCH + 30);
    struct wire_in r = played_take(&w.other, PROTO_HELLO);
    wire_get_text(&r, name, sizeof name);
    assert_true(wire_get_u64(&r) == EPOCH + 30);
    uint64_t before = stats(&w)->stale;
    other_tells(&w, PROTO_TAKEN, 1);
    struct wire_out o = played_say(&w.router, PROTO_GO);
    wire_put_u64(&o, 2);
    wire_put_u32(&o, 0);
    played_send(&w.router, &o);
    settle(&w);
    assert_int_equal(stats(&w)->stale, before + 2);
    assert_int_equal(held(&w), 0);
    end(&w, &j);
}

static void a_refusal_is_for_good(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    router_goes(&w);
    go_on(&w, 250 * ms);
    (void)played_take(&w.router, PROTO_JOIN);
    struct wire_out o = played_say(&w.router, PROTO_REFUSED);
    wire_put_text(&o, "another layout");
    played_send(&w.router, &o);
    settle(&w);
    assert_int_equal(node_state(w.n), NODE_REFUSED);
    assert_string_equal(node_why(w.n), "another layout");
    end(&w, &j);
}

/* --- late and odd ----------------------------------------------------------------------------- */

static void messages_about_what_it_does_not_have_are_counted(void **state) {
    (void)state;
    struct world w;
    start(&w, ROLE_OF_DECODE);
    other_tells(&w, PROTO_TAKEN, 9);
    assert_int_equal(stats(&w)->stale, 1);
    struct wire_out o = played_say(&w.other, PROTO_HANDED);
    wire_put_u64(&o, 9);
    wire_put_u32(&o, 0);
    wire_put_u32(&o, 0);
    wire_put_u32(&o, 0);
    played_send(&w.other, &o);
    settle(&w);
    assert_int_equal(stats(&w)->stale, 2);
    played_hears(&w.other, PROTO_TAKEN, 9); /* so that its pages are not lent for nothing */
    o = played_say(&w.router, PROTO_GO);
    wire_put_u64(&o, 9);
    wire_put_u32(&o, 0);
    played_send(&w.router, &o);
    router_tells(&w, PROTO_CANCEL, 9); /* that is no surprise */
    router_tells(&w, PROTO_CTL_LIST, 9);
    assert_int_equal(stats(&w)->stale, 4);
    played_quiet(&w.router);
    stop(&w);
}

static void a_worker_with_other_pages_or_another_name_is_left(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        struct world w;
        start(&w, ROLE_OF_DECODE);
        struct block_shape shape = w.x.x.shape;
        if (which == 1) shape.n_layers++;
        say_hello(&w, which == 0 ? "another" : "other", OTHER_EPOCH + 1, &shape);
        if (which < 2) assert_true(w.other.peer == 0);
        if (which == 2) { /* as it should be; and then an older one */
            assert_true(w.other.peer != 0);
            say_hello(&w, "other", OTHER_EPOCH, &shape);
            assert_int_equal(stats(&w)->stale, 1);
            other_tells(&w, PROTO_RESERVED, 1); /* that is for routers */
            assert_true(w.other.peer == 0);
        }
        stop(&w);
    }
}

static void who_is_no_member_any_more_is_left(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    say_members(&w, 0);
    settle(&w);
    assert_true(w.other.peer == 0);
    hears_failed(&w.router, 1, ST_GONE, "takes over is gone");
    assert_int_equal(stats(&w)->load.lent, 0);
    router_tells(&w, PROTO_CANCEL, 2);
    assert_int_equal(held(&w), 0);
    end(&w, &j);
}

static void what_is_lent_to_an_older_life_of_a_member_comes_back(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    say_members(&w, OTHER_EPOCH);
    settle(&w);
    assert_int_equal(stats(&w)->load.lent, 1);
    say_members(&w, OTHER_EPOCH + 5); /* the router knows it first */
    settle(&w);
    hears_failed(&w.router, 1, ST_GONE, "takes over is gone");
    assert_int_equal(stats(&w)->load.lent, 0);
    assert_true(w.other.peer != 0); /* it says itself who it is now */
    end(&w, &j);
}

/* --- roles and leaving ------------------------------------------------------------------------ */

static void it_takes_the_role_that_it_is_given(void **state) {
    (void)state;
    struct world w;
    start(&w, ROLE_OF_PREFILL);
    for (uint8_t role = MEMBER_ROLES; role-- > 0;) {
        struct wire_out o = played_say(&w.router, PROTO_ROLE);
        wire_put_u8(&o, role);
        played_send(&w.router, &o);
        settle(&w);
        /* never a pool server's: it stays what it was */
        assert_int_equal(node_role(w.n), role == ROLE_OF_POOL ? ROLE_OF_PREFILL : role);
    }
    stop(&w);
}

static void it_leaves_when_all_it_has_is_over(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    node_drain(w.n);
    settle(&w);
    (void)played_take(&w.router, PROTO_LEAVE); /* the router decides */
    assert_int_equal(node_state(w.n), NODE_READY);
    struct wire_out o = played_say(&w.router, PROTO_DRAIN);
    played_send(&w.router, &o);
    settle(&w);
    assert_int_equal(node_state(w.n), NODE_READY);
    other_tells(&w, PROTO_TAKEN, 1);
    assert_int_equal(node_state(w.n), NODE_READY);
    router_tells(&w, PROTO_CANCEL, 2);
    assert_int_equal(node_state(w.n), NODE_LEFT);
    end(&w, &j);
}

static void where_the_router_dies_before_it_answers_it_leaves_too(void **state) {
    (void)state;
    struct world w;
    struct job j;
    until_both(&w, &j);
    node_drain(w.n);
    settle(&w);
    router_goes(&w);
    assert_int_equal(node_state(w.n), NODE_LEFT);
    end(&w, &j);
}

static void where_nobody_knows_it_it_leaves_at_once(void **state) {
    (void)state;
    struct world w;
    start(&w, ROLE_OF_PREFILL);
    router_goes(&w);
    node_drain(w.n);
    assert_int_equal(node_state(w.n), NODE_LEFT);
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_router_all_it_had_is_dropped),
        cmocka_unit_test(its_board_tells_its_epoch),
        cmocka_unit_test(under_a_new_epoch_it_greets_again_and_knows_nothing_of_before),
        cmocka_unit_test(a_refusal_is_for_good),
        cmocka_unit_test(messages_about_what_it_does_not_have_are_counted),
        cmocka_unit_test(a_worker_with_other_pages_or_another_name_is_left),
        cmocka_unit_test(who_is_no_member_any_more_is_left),
        cmocka_unit_test(what_is_lent_to_an_older_life_of_a_member_comes_back),
        cmocka_unit_test(it_takes_the_role_that_it_is_given),
        cmocka_unit_test(it_leaves_when_all_it_has_is_over),
        cmocka_unit_test(where_the_router_dies_before_it_answers_it_leaves_too),
        cmocka_unit_test(where_nobody_knows_it_it_leaves_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

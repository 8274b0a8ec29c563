/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on their way from one worker's pages to another's: what is copied, when, and what fails it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pull_test.h"

/* --- what arrives ----------------------------------------------------------------------------- */

static void rows_and_state_arrive_bit_for_bit(void **state) {
    (void)state;
    struct world w;
    struct puller_stats s;
    start(&w);
    struct pull *u = begin(&w, 0);
    give_table(&w, u, from, 3, true);
    ends(&w, u, true, 0);
    all_there(&w, from, 0);
    puller_stats(w.p, &s);
    assert_int_equal(s.bytes, 3 * block_bytes(&shape));
    assert_int_equal(s.pulls, 1);
    stop(&w);
}

static void layers_come_as_the_board_tells_while_the_other_side_computes(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = begin(&w, 0);
    copy_for(&w, 5 * ms); /* nothing is known of it */
    give_table(&w, u, from, 2, false);
    tell(&w, 0, 257);
    tell(&w, 1, 128);
    tell(&w, 2, 127);
    copy_for(&w, 5 * ms);
    assert_true(not_over(u));
    assert_true(is_there(&w, 0, 5, 2) && is_there(&w, 0, 1, 0) && is_there(&w, 1, 5, 2));
    assert_true(untouched(&w, 1, 0) && untouched(&w, 2, 2) && untouched(&w, 0, 7));
    tell(&w, 1, 256);
    copy_for(&w, 5 * ms);
    assert_true(is_there(&w, 1, 1, 0) && untouched(&w, 2, 2) && untouched(&w, 1, 7));
    give_table(&w, u, from, 3, true);
    ends(&w, u, true, 0);
    all_there(&w, from, 0);
    stop(&w);
}

static void an_entry_of_another_flight_tells_nothing(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = begin(&w, 0);
    give_table(&w, u, from, 2, false);
    set_flight(&w, FLIGHT + 1);
    tell(&w, 0, 256);
    copy_for(&w, 5 * ms);
    assert_true(not_over(u) && untouched(&w, 0, 2));
    set_flight(&w, FLIGHT);
    copy_for(&w, 5 * ms);
    assert_true(is_there(&w, 0, 5, 2));
    pull_cancel(u);
    ends(&w, u, false, 0);
    stop(&w);
}

static void a_table_whose_pages_change_is_copied_again(void **state) {
    (void)state;
    static const uint32_t later[] = {5, 9, 8};
    struct world w;
    start(&w);
    struct pull *u = begin(&w, 0);
    give_table(&w, u, from, 2, false);
    for (uint32_t part = 0; part < PARTS; part++) tell(&w, part, 256);
    copy_for(&w, 5 * ms);
    assert_true(is_there(&w, 0, 1, 0));
    /* preempted, and begun again at a lower row, in another page */
    for (uint32_t part = 0; part < PARTS; part++) tell(&w, part, 128);
    give_table(&w, u, later, 2, false);
    copy_for(&w, 5 * ms);
    assert_true(is_there(&w, 0, 1, 0)); /* what the board said before was of the old page */
    for (uint32_t part = 0; part < PARTS; part++) tell(&w, part, 256);
    copy_for(&w, 5 * ms);
    assert_true(is_there(&w, 0, 9, 0) && is_there(&w, 2, 9, 0));
    *generation(&w, 1) += 1; /* the old page may be anybody's */
    give_table(&w, u, later, 3, true);
    ends(&w, u, true, 0);
    all_there(&w, later, 0);
    stop(&w);
}

static void what_the_board_said_of_older_pages_does_not_count_for_new_ones(void **state) {
    (void)state;
    static const uint32_t later[] = {5, 9, 8};
    for (uint32_t moment = 0; moment < 40; moment++) {
        struct world w;
        uint8_t rows[64];
        start(&w);
        memcpy(rows, rows_of(&w, 0, 9), sizeof rows);
        struct pull *u = begin(&w, 0);
        give_table(&w, u, from, 2, false);
        tell(&w, 0, 256);
        for (uint32_t i = 0; i < moment; i++) { /* in the middle of looking at it */
            (void)puller_copy(w.p);
            sim_net_advance(w.net, sim_net_now(w.net) + 250);
        }
        tell(&w, 0, 128);
        memset(rows_of(&w, 0, 9), 0, sizeof rows); /* not computed yet */
        give_table(&w, u, later, 2, false);
        copy_for(&w, 3 * ms);
        memcpy(rows_of(&w, 0, 9), rows, sizeof rows);
        tell(&w, 0, 256);
        give_table(&w, u, later, 3, true);
        ends(&w, u, true, 0);
        all_there(&w, later, 0);
        stop(&w);
    }
}

static void the_same_page_in_another_generation_is_copied_again(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = begin(&w, 0);
    give_table(&w, u, from, 2, false);
    tell(&w, 0, 256);
    copy_for(&w, 5 * ms);
    *generation(&w, 1) += 1;
    memset(rows_of(&w, 0, 1), 0x77, shape.layer_bytes);
    give_table(&w, u, from, 3, true);
    ends(&w, u, true, 0);
    all_there(&w, from, 0);
    stop(&w);
}

static void blocks_that_are_there_already_are_not_copied(void **state) {
    (void)state;
    struct world w;
    struct puller_stats s;
    start(&w);
    struct pull *u = begin(&w, 2);
    give_table(&w, u, from, 3, true);
    *generation(&w, from[0]) += 1; /* nor does anybody care what they are there */
    ends(&w, u, true, 0);
    all_there(&w, from, 2);
    for (uint32_t part = 0; part < PARTS; part++)
        assert_true(untouched(&w, part, to[0]) && untouched(&w, part, to[1]));
    puller_stats(w.p, &s);
    assert_int_equal(s.bytes, block_bytes(&shape));
    stop(&w);
}

/* --- what fails it ---------------------------------------------------------------------------- */

/* All rows are copied, and looked at again only afterwards. */
static struct pull *copied(struct world *w) {
    struct puller_stats s;
    struct pull *u = begin(w, 0);
    give_table(w, u, from, 3, true);
    do {
        (void)puller_copy(w->p);
        sim_net_advance(w->net, sim_net_now(w->net) + 100);
        puller_stats(w->p, &s);
    } while (s.bytes < 3 * block_bytes(&shape));
    assert_true(not_over(u));
    return u;
}

static void a_page_that_was_used_anew_fails_it(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 3; b++) {
        struct world w;
        start(&w);
        struct pull *u = copied(&w);
        *generation(&w, from[b]) += 1;
        ends(&w, u, false, 1);
        stop(&w);
    }
}

static void another_epoch_fails_it(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = copied(&w);
    set_epoch(&w, EPOCH + 1);
    ends(&w, u, false, 1);
    stop(&w);
}

static void an_entry_that_is_anothers_fails_it(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = copied(&w);
    set_flight(&w, FLIGHT + 1);
    ends(&w, u, false, 1);
    stop(&w);
}

static void a_state_that_becomes_anothers_on_its_way_is_not_taken(void **state) {
    (void)state;
    uint32_t n_ok = 0, n_failed = 0;
    for (uint32_t moment = 0; moment < 120; moment++) {
        struct world w;
        uint8_t mine[SLOT];
        const void *got;
        bool ok = true;
        start(&w);
        memset(mine, 0xab, sizeof mine);
        struct pull *u = copied(&w);
        for (uint32_t i = 0; i < moment; i++) {
            (void)puller_copy(w.p);
            sim_net_advance(w.net, sim_net_now(w.net) + 250);
        }
        set_flight(&w, FLIGHT + 1); /* as its owner gives the entry to another */
        memset(entry(&w) + proto_entry_state_at(PARTS), 0xcd, SLOT);
        copy_for(&w, ms);
        assert_true(pull_over(u, &ok, &got));
        if (ok) assert_memory_equal(got, mine, SLOT);
        *(ok ? &n_ok : &n_failed) += 1;
        pull_free(u);
        stop(&w);
    }
    assert_true(n_ok > 10 && n_failed > 10); /* before it was read, after it, and in between */
}

static void a_source_that_goes_away_fails_it(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *u = copied(&w), *waits = begin(&w, 0);
    give_table(&w, waits, from, 2, false);
    sim_bus_kill(w.from);
    sim_net_advance(w.net, sim_net_now(w.net) + 2 * ms);
    ends(&w, u, false, 2);
    ends(&w, waits, false, 2);
    stop(&w);
}

static void a_cancelled_one_is_over_soon_and_no_failure(void **state) {
    (void)state;
    struct world w;
    start(&w);
    struct pull *idle = begin(&w, 0), *busy = copied(&w), *other = begin(&w, 0);
    pull_cancel(idle);
    pull_cancel(busy);
    give_table(&w, other, from, 3, true);
    ends(&w, idle, false, 0);
    ends(&w, busy, false, 0);
    ends(&w, other, true, 0);
    stop(&w);
}

static void a_table_that_does_not_fit_is_refused(void **state) {
    (void)state;
    struct world w;
    struct pull_page table[4] = {{5, 105}, {1, 101}, {FROM_PAGES, 0}, {0, 0}};
    start(&w);
    struct pull *u = begin(&w, 0);
    assert_int_equal(pull_table(u, table, 3, true), ST_INVALID); /* no such page */
    table[2].page = UINT32_MAX;
    assert_int_equal(pull_table(u, table, 3, false), ST_INVALID);
    table[2] = (struct pull_page){8, 108};
    assert_int_equal(pull_table(u, table, 4, false), ST_INVALID); /* longer than was asked for */
    assert_int_equal(pull_table(u, table, 2, true), ST_INVALID);  /* not all */
    assert_int_equal(pull_table(u, table, 3, true), ST_OK);
    ends(&w, u, true, 0);
    all_there(&w, from, 0);
    stop(&w);
}

static void one_without_rows_brings_the_state_alone(void **state) {
    (void)state;
    struct pull_page none = {0};
    struct world w;
    start(&w);
    struct pull *u = pull_begin(w.p, &w.source, to, 3, 0, 0);
    assert_int_equal(pull_table(u, &none, 0, true), ST_OK);
    ends(&w, u, true, 0);
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_and_state_arrive_bit_for_bit),
        cmocka_unit_test(layers_come_as_the_board_tells_while_the_other_side_computes),
        cmocka_unit_test(an_entry_of_another_flight_tells_nothing),
        cmocka_unit_test(a_table_whose_pages_change_is_copied_again),
        cmocka_unit_test(what_the_board_said_of_older_pages_does_not_count_for_new_ones),
        cmocka_unit_test(the_same_page_in_another_generation_is_copied_again),
        cmocka_unit_test(blocks_that_are_there_already_are_not_copied),
        cmocka_unit_test(a_page_that_was_used_anew_fails_it),
        cmocka_unit_test(another_epoch_fails_it),
        cmocka_unit_test(an_entry_that_is_anothers_fails_it),
        cmocka_unit_test(a_state_that_becomes_anothers_on_its_way_is_not_taken),
        cmocka_unit_test(a_source_that_goes_away_fails_it),
        cmocka_unit_test(a_cancelled_one_is_over_soon_and_no_failure),
        cmocka_unit_test(a_table_that_does_not_fit_is_refused),
        cmocka_unit_test(one_without_rows_brings_the_state_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

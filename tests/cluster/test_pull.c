/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on their way from one worker's pages to another's: what is copied, when, and what fails it. Both
 * sides are played here, over the simulated bus, in one thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cluster/proto.h"
#include "cluster/pull.h"
#include "sim/core/sim_bus.h"

enum { FROM_PAGES = 12, TO_PAGES = 10, SLOT = 24, ENTRY = 2, FLIGHT = 7, EPOCH = 31, PARTS = 3 };
static const struct block_shape shape = {.n_layers = 2, .layer_bytes = 64, .tail_bytes = 16};
static const uint64_t ms = 1000000;

struct world {
    struct sim_net *net;
    struct bus *from, *to;
    uint8_t *pages, *board; /* the source's */
    struct pull_source source;
    struct puller *p;
    uint8_t memory[4096];
};

static uint64_t *generation(struct world *w, uint32_t page) {
    return (uint64_t *)(void *)(w->pages + paged_generation_at(&shape, FROM_PAGES, page));
}

static uint8_t *entry(struct world *w) {
    return w->board + proto_entry_at(ENTRY, proto_entry_bytes(PARTS, SLOT));
}

static uint8_t *rows_of(struct world *w, uint32_t part, uint32_t page) {
    return w->pages + paged_at(&shape, FROM_PAGES, part, page);
}

static uint8_t *arrived(struct world *w, uint32_t part, uint32_t page) {
    return w->memory + paged_at(&shape, TO_PAGES, part, page);
}

static void tell(struct world *w, uint32_t part, uint32_t rows) {
    memcpy(entry(w) + sizeof(uint64_t) + 4 * part, &rows, sizeof rows);
}

static void set_flight(struct world *w, uint64_t flight) {
    memcpy(entry(w), &flight, sizeof flight);
}

static void set_epoch(struct world *w, uint64_t epoch) {
    memcpy(w->board, &epoch, sizeof epoch);
}

static struct bus *endpoint(struct sim_net *net, const char *name) {
    struct bus *b;
    struct err err;
    struct bus_identity who = {.hello_len = 0};
    strcpy(who.name, name);
    assert_int_equal(sim_bus_new(&b, net, name, &who, &err), ST_OK);
    return b;
}

static void import(struct world *w) {
    struct bus_event ev;
    bus_id peer = 0, pages, board;
    void *memory;
    struct err err;
    assert_int_equal(bus_segment_new(w->from, paged_bytes(&shape, FROM_PAGES), BUS_PEERS_READ,
                                     &pages, &memory, &err),
                     ST_OK);
    w->pages = memory;
    assert_int_equal(bus_segment_new(w->from, proto_entry_at(4, proto_entry_bytes(PARTS, SLOT)),
                                     BUS_PEERS_READ, &board, &memory, &err),
                     ST_OK);
    w->board = memory;
    bus_connect(w->to, "from");
    sim_net_advance(w->net, ms);
    while (bus_next(w->from, &ev)) peer = ev.peer;
    assert_int_equal(bus_share(w->from, peer, pages, PROTO_SEGMENT_PAGES), ST_OK);
    assert_int_equal(bus_share(w->from, peer, board, PROTO_SEGMENT_BOARD), ST_OK);
    sim_net_advance(w->net, 2 * ms);
    while (bus_next(w->to, &ev))
        if (ev.kind == BUS_SEGMENT)
            *(ev.value == PROTO_SEGMENT_PAGES ? &w->source.pages : &w->source.board) = ev.segment;
}

static void start(struct world *w) {
    struct err err;
    struct sim_net_options o = {.seed = 1,
                                .delay_ns_min = 1000,
                                .delay_ns_max = 9000,
                                .peer_timeout_ns = 100 * ms,
                                .close_ns = ms};
    *w = (struct world){.source = {.n_pages = FROM_PAGES, .entry = ENTRY}};
    w->source.flight = FLIGHT;
    w->source.epoch = EPOCH;
    assert_int_equal(sim_net_new(&w->net, &o, &err), ST_OK);
    w->from = endpoint(w->net, "from");
    w->to = endpoint(w->net, "to");
    import(w);
    for (uint32_t page = 0; page < FROM_PAGES; page++) {
        *generation(w, page) = 100 + page;
        for (uint32_t part = 0; part < PARTS; part++)
            for (uint32_t i = 0; i < block_part_bytes(&shape, part); i++)
                rows_of(w, part, page)[i] = (uint8_t)(1 + page * 17 + part * 5 + i);
    }
    set_epoch(w, EPOCH);
    set_flight(w, FLIGHT);
    memset(entry(w) + proto_entry_state_at(PARTS), 0xab, SLOT);
    assert_int_equal(puller_new(&w->p, w->to, &shape, w->memory, TO_PAGES, SLOT, &err), ST_OK);
}

static void stop(struct world *w) {
    struct puller_stats s;
    puller_stats(w->p, &s);
    assert_int_equal(s.waits, 0);
    puller_free(w->p);
    bus_free(w->to);
    bus_free(w->from);
    sim_net_free(w->net);
}

static void copy_for(struct world *w, uint64_t ns) {
    for (uint64_t end = sim_net_now(w->net) + ns; sim_net_now(w->net) < end;) {
        while (puller_copy(w->p)) continue;
        sim_net_advance(w->net, sim_net_now(w->net) + 1000);
    }
    while (puller_copy(w->p)) continue;
}

/* Block i of a table lies in from[i] there, to[i] here. */
static const uint32_t from[] = {5, 1, 8}, to[] = {2, 0, 7};

static void give_table(struct world *w, struct pull *u, const uint32_t *pages, uint32_t n,
                       bool complete) {
    struct pull_page table[8];
    for (uint32_t i = 0; i < n; i++)
        table[i] = (struct pull_page){pages[i], *generation(w, pages[i])};
    assert_int_equal(pull_table(u, table, n, complete), ST_OK);
}

static bool is_there(struct world *w, uint32_t part, uint32_t page, uint32_t at) {
    return memcmp(arrived(w, part, at), rows_of(w, part, page), block_part_bytes(&shape, part)) ==
           0;
}

static bool untouched(struct world *w, uint32_t part, uint32_t at) {
    static const uint8_t zeros[64];
    return memcmp(arrived(w, part, at), zeros, block_part_bytes(&shape, part)) == 0;
}

static struct pull *begin(struct world *w, uint32_t n_there) {
    struct pull *u = pull_begin(w->p, &w->source, to, 3, n_there, 300);
    assert_non_null(u);
    return u;
}

static bool not_over(struct pull *u) {
    bool ok;
    const void *state;
    return !pull_over(u, &ok, &state);
}

/* It is over: as expected, and freed. */
static void ends(struct world *w, struct pull *u, bool expected, uint64_t n_failed) {
    bool ok = !expected;
    const void *state;
    struct puller_stats s;
    copy_for(w, 5 * ms);
    assert_true(pull_over(u, &ok, &state));
    assert_int_equal(ok, expected);
    if (ok) assert_memory_equal(state, entry(w) + proto_entry_state_at(PARTS), SLOT);
    puller_stats(w->p, &s);
    assert_int_equal(s.failed, n_failed);
    pull_free(u);
}

static void all_there(struct world *w, const uint32_t *pages, uint32_t first) {
    for (uint32_t b = first; b < 3; b++)
        for (uint32_t part = 0; part < PARTS; part++)
            assert_true(is_there(w, part, pages[b], to[b]));
}

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

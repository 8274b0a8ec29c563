/* SPDX-License-Identifier: Apache-2.0 */
/* A worker that takes requests over: room, rows that come, tokens that go on, and everything that can be
 * wrong with what it is told. Router and the worker that computed are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "node_test.h"

enum { FLIGHT = 7 };

/* A request that was computed to its next token, in an engine of the test's, whose rows lie in the other's
 * memory now. */
struct computed {
    struct job j;
    uint32_t n_pages, pages[BLOCKS_MAX];
    uint32_t ids[8]; /* the next token of each choice */
};

static void compute(struct world *w, struct computed *c, uint32_t n_prompt, uint32_t max_tokens,
                    uint32_t n) {
    struct side s;
    uint64_t flight = FLIGHT;
    begin_side(&s, PAGES);
    begin_job(&c->j, n_prompt, max_tokens, n);
    add_prefill(&s, &c->j, 0);
    run(&s, &c->j);
    c->n_pages = c->j.loan->n_pages;
    memcpy(c->pages, c->j.loan->pages, c->n_pages * sizeof *c->pages);
    memcpy(w->pages, s.memory, standin_bytes(PAGES));
    uint32_t entry_bytes = proto_entry_bytes(PARTS, sizeof c->j.slot);
    uint8_t *entry = w->board + proto_entry_at(ENTRY, entry_bytes);
    memcpy(entry, &flight, sizeof flight);
    memcpy(entry + proto_entry_state_at(PARTS), &c->j.slot, sizeof c->j.slot);
    for (uint32_t i = 0; i < n; i++) { /* the record is as it was before */
        c->ids[i] = c->j.a.r.choices[i].ids[0];
        c->j.a.r.choices[i].n_ids = 0;
    }
    give_back(&s, &c->j);
    end_side(&s);
}

static uint64_t generation(struct world *w, uint32_t page) {
    uint64_t v;
    memcpy(&v, w->pages + paged_generation_at(&w->x.x.shape, PAGES + 1, page), sizeof v);
    return v;
}

static void say_handed(struct world *w, const struct computed *c, uint64_t generations_off) {
    struct wire_out o = played_say(&w->other, PROTO_HANDED);
    wire_put_u64(&o, FLIGHT);
    wire_put_u32(&o, ENTRY);
    wire_put_u32(&o, c->j.a.r.n_prompt);
    wire_put_u32(&o, c->n_pages);
    for (uint32_t i = 0; i < c->n_pages; i++) {
        wire_put_u32(&o, c->pages[i]);
        wire_put_u64(&o, generation(w, c->pages[i]) + generations_off);
    }
    played_send(&w->other, &o);
    settle(w);
}

static void say_go(struct world *w, const struct computed *c) {
    struct wire_out o = played_say(&w->router, PROTO_GO);
    wire_put_u64(&o, FLIGHT);
    wire_put_u32(&o, c->j.a.r.n_choices);
    for (uint32_t i = 0; i < c->j.a.r.n_choices; i++) {
        wire_put_u32(&o, i);
        wire_put_u32(&o, c->ids[i]);
        wire_put_u8(&o, FINISH_NONE);
    }
    played_send(&w->router, &o);
    settle(w);
}

static void until_reserved(struct world *w, struct computed *c, uint32_t n_prompt, uint32_t n) {
    start(w, ROLE_OF_DECODE);
    compute(w, c, n_prompt, 30, n);
    say_record(w, PROTO_RESERVE, FLIGHT, 0, &c->j.a.r);
    played_hears(&w->router, PROTO_RESERVED, FLIGHT);
    assert_int_equal(stats(w)->load.reserved, 1);
    assert_int_equal(held(w), (n_prompt + 127) / 128);
}

static void end(struct world *w, struct computed *c) {
    assert_int_equal(held(w), 0);
    assert_int_equal(w->stats.load.reserved, 0);
    end_job(&c->j);
    stop(w);
}

/* --- as it should be -------------------------------------------------------------------------- */

static void it_pulls_the_rows_and_goes_on_with_the_very_next_token(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 3; n += 2)
        for (int go_first = 0; go_first < 2; go_first++) {
            struct world w;
            struct computed c;
            until_reserved(&w, &c, 300, n);
            if (go_first) say_go(&w, &c);
            say_handed(&w, &c, 0);
            if (!go_first) say_go(&w, &c);
            played_hears(&w.other, PROTO_TAKEN, FLIGHT);
            go_on(&w, 100 * ms);
            hears_tokens(&w, FLIGHT, &c.j);
            played_hears(&w.router, PROTO_ENDED, FLIGHT);
            for (uint32_t i = 0; i < n; i++) check_answer(&c.j.a, i);
            assert_int_equal(stats(&w)->pulls, 1);
            assert_int_equal(w.stats.pulls_failed, 0);
            assert_int_equal(w.stats.engine.prompt_tokens_computed, 0);
            end(&w, &c);
        }
}

static void one_that_waits_renews_the_loan_until_it_is_over(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 1);
    w.other.deaf = 0;
    say_handed(&w, &c, 0);
    go_on(&w, lease_ns / 2); /* GO is missing */
    for (int i = 0; i < 2; i++) {
        struct wire_in r = played_take(&w.other, PROTO_RENEW);
        assert_int_equal(wire_get_count(&r, 8), 1);
        assert_true(wire_get_u64(&r) == FLIGHT);
    }
    assert_int_equal(stats(&w)->load.reserved, 1);
    router_tells(&w, PROTO_CANCEL, FLIGHT);
    played_hears(&w.other, PROTO_TAKEN, FLIGHT);
    played_quiet(&w.router);
    end(&w, &c);
}

static void a_choice_that_is_dropped_ends(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 2);
    struct wire_out o = played_say(&w.router, PROTO_DROP);
    wire_put_u64(&o, FLIGHT);
    wire_put_u32(&o, 1);
    played_send(&w.router, &o);
    say_handed(&w, &c, 0);
    say_go(&w, &c);
    go_on(&w, 100 * ms);
    hears_tokens(&w, FLIGHT, &c.j);
    played_hears(&w.router, PROTO_ENDED, FLIGHT);
    check_answer(&c.j.a, 0);
    assert_int_equal(c.j.a.n_tokens[1], 2); /* one more, and then it was told */
    end(&w, &c);
}

/* --- room ------------------------------------------------------------------------------------- */

static void without_room_it_says_so(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    struct job large;
    until_reserved(&w, &c, 1500, 1);
    begin_job(&large, 1500, 20, 1);
    say_record(&w, PROTO_RESERVE, FLIGHT + 1, 0, &large.a.r);
    played_hears(&w.router, PROTO_NO_ROOM, FLIGHT + 1);
    router_tells(&w, PROTO_CANCEL, FLIGHT);
    say_record(&w, PROTO_RESERVE, FLIGHT + 2, 0, &large.a.r);
    played_hears(&w.router, PROTO_RESERVED, FLIGHT + 2);
    router_tells(&w, PROTO_CANCEL, FLIGHT + 2);
    played_quiet(&w.router);
    end_job(&large);
    end(&w, &c);
}

static void reserved_room_ends_with_its_lease_unless_it_is_renewed(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 1);
    for (int i = 0; i < 3; i++) {
        go_on(&w, lease_ns / 2);
        say_renew(&w, &w.router, FLIGHT);
    }
    played_quiet(&w.router);
    go_on(&w, lease_ns + ms);
    hears_failed(&w.router, FLIGHT, ST_TIMEOUT, "reserved for too long");
    assert_int_equal(stats(&w)->reservations_expired, 1);
    end(&w, &c);
}

/* --- what goes wrong -------------------------------------------------------------------------- */

static void rows_that_were_overwritten_fail_it(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 1);
    say_go(&w, &c);
    say_handed(&w, &c, 1);
    hears_failed(&w.router, FLIGHT, ST_GONE, "rows were lost on their way");
    played_hears(&w.other, PROTO_TAKEN, FLIGHT);
    assert_int_equal(stats(&w)->pulls_failed, 1);
    end(&w, &c);
}

static void the_death_of_who_lends_fails_it(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 1);
    struct wire_out o = played_say(&w.other, PROTO_ROWS);
    wire_put_u64(&o, FLIGHT);
    wire_put_u32(&o, ENTRY);
    wire_put_u32(&o, 1);
    wire_put_u32(&o, c.pages[0]);
    wire_put_u64(&o, generation(&w, c.pages[0]));
    played_send(&w.other, &o);
    settle(&w);
    other_dies(&w);
    go_on(&w, 10 * ms);
    hears_failed(&w.router, FLIGHT, ST_GONE, "rows were lost on their way");
    end(&w, &c);
}

static void a_table_that_does_not_fit_fails_it(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        struct world w;
        struct computed c;
        until_reserved(&w, &c, 300, 1);
        if (which == 0) c.n_pages--;
        if (which == 1) c.pages[1] = PAGES + 1; /* no such page */
        if (which == 2) c.j.a.r.n_prompt++;     /* rows */
        say_handed(&w, &c, 0);
        if (which == 2) c.j.a.r.n_prompt--;
        hears_failed(&w.router, FLIGHT, ST_CORRUPT, "does not fit");
        end(&w, &c);
    }
}

static void next_tokens_that_do_not_fit_fail_it(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        struct world w;
        struct computed c;
        until_reserved(&w, &c, 300, 2);
        say_handed(&w, &c, 0);
        struct wire_out o = played_say(&w.router, PROTO_GO);
        wire_put_u64(&o, FLIGHT);
        wire_put_u32(&o, 1);
        wire_put_u32(&o, which == 0 ? 2 : 0);
        wire_put_u32(&o, which == 1 ? VOCAB : 1);
        wire_put_u8(&o, FINISH_NONE); /* 2: the other choice's is missing */
        played_send(&w.router, &o);
        settle(&w);
        hears_failed(&w.router, FLIGHT, ST_CORRUPT, "the next tokens do not fit the request");
        end(&w, &c);
    }
}

static void a_record_that_cannot_be_read_or_moved_fails(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    struct job j;
    until_reserved(&w, &c, 300, 1);
    router_tells(&w, PROTO_CANCEL, FLIGHT);
    played_tell(&w.router, PROTO_RESERVE, FLIGHT + 1); /* no record */
    settle(&w);
    hears_failed(&w.router, FLIGHT + 1, ST_INVALID, "");
    begin_job(&j, 300, 20, 2);
    j.a.r.choices[0].n_ids = 1;
    say_record(&w, PROTO_RESERVE, FLIGHT + 2, 0, &j.a.r);
    hears_failed(&w.router, FLIGHT + 2, ST_INVALID, "cannot be moved together");
    end_job(&j);
    end(&w, &c);
}

static void cancelling_frees_a_running_one(void **state) {
    (void)state;
    struct world w;
    struct computed c;
    until_reserved(&w, &c, 300, 2);
    say_handed(&w, &c, 0);
    say_go(&w, &c);
    assert_int_equal(stats(&w)->engine.running, 2);
    router_tells(&w, PROTO_CANCEL, FLIGHT);
    hears_tokens(&w, FLIGHT, &c.j);
    go_on(&w, 20 * ms);
    played_quiet(&w.router);
    end(&w, &c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_pulls_the_rows_and_goes_on_with_the_very_next_token),
        cmocka_unit_test(one_that_waits_renews_the_loan_until_it_is_over),
        cmocka_unit_test(a_choice_that_is_dropped_ends),
        cmocka_unit_test(without_room_it_says_so),
        cmocka_unit_test(reserved_room_ends_with_its_lease_unless_it_is_renewed),
        cmocka_unit_test(rows_that_were_overwritten_fail_it),
        cmocka_unit_test(the_death_of_who_lends_fails_it),
        cmocka_unit_test(a_table_that_does_not_fit_fails_it),
        cmocka_unit_test(next_tokens_that_do_not_fit_fail_it),
        cmocka_unit_test(a_record_that_cannot_be_read_or_moved_fails),
        cmocka_unit_test(cancelling_frees_a_running_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

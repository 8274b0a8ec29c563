/* SPDX-License-Identifier: Apache-2.0 */
/* An engine as a part of a cluster: pages that are lent, room that is reserved, and requests that go on in
 * another engine to the tokens they would have had in one. Blocks from elsewhere: test_fetched.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lending.h"

/* --- prefill ---------------------------------------------------------------------------------- */

static void a_prefill_draws_one_token_for_every_choice_and_lends_its_pages(void **state) {
    (void)state;
    struct side s;
    struct job j;
    begin_side(&s, 40);
    begin_job(&j, 300, 20, 3);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    assert_non_null(j.loan);
    assert_int_equal(j.loan->n_rows, 300);
    assert_int_equal(j.loan->n_pages, 3);
    for (uint32_t c = 0; c < 3; c++) {
        assert_int_equal(j.a.n_tokens[c], 1);
        assert_int_equal(j.a.r.choices[c].n_ids, 1);
        check_begun(&j, c);
    }
    while (engine_step(s.e)) continue;
    assert_int_equal(engine_stats(s.e)->running, 0);
    assert_int_equal(used(&s), 3);
    give_back(&s, &j);
    assert_int_equal(used(&s), 0);
    end_job(&j);
    end_side(&s);
}

static void one_that_ends_with_its_first_token_lends_nothing(void **state) {
    (void)state;
    struct side s;
    struct job j;
    begin_side(&s, 40);
    begin_job(&j, 300, 1, 2);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    assert_null(j.loan);
    assert_int_equal(used(&s), 0);
    assert_int_equal(j.a.r.choices[1].finish, FINISH_LENGTH);
    end_job(&j);
    end_side(&s);
}

static void nobody_gets_lent_pages_before_they_are_returned(void **state) {
    (void)state;
    struct side s;
    struct job j, other;
    uint8_t before[3][1024];
    uint64_t generations[3];
    begin_side(&s, engine_pages_min(MODEL_LEN) + 3);
    begin_job(&j, 300, 20, 1);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    for (uint32_t b = 0; b < 3; b++) {
        memcpy(before[b], piece(&s, 1, j.loan->pages[b]), sizeof before[b]);
        generations[b] = s.x.x.generations[j.loan->pages[b]];
    }
    begin_job(&other, 2000, 40, 1); /* all other pages */
    add(&s, &other);
    run(&s, &other);
    for (uint32_t b = 0; b < 3; b++) {
        assert_memory_equal(before[b], piece(&s, 1, j.loan->pages[b]), sizeof before[b]);
        assert_true(s.x.x.generations[j.loan->pages[b]] == generations[b]);
    }
    check_answer(&other.a, 0);
    end_job(&other);
    give_back(&s, &j);
    end_job(&j);
    end_side(&s);
}

static void a_generation_rises_before_its_page_is_used_anew(void **state) {
    (void)state;
    struct side s;
    struct job j, other;
    uint32_t pages[3];
    uint64_t generations[3];
    begin_side(&s, engine_pages_min(MODEL_LEN));
    begin_job(&j, 300, 20, 1);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    for (uint32_t b = 0; b < 3; b++) {
        pages[b] = j.loan->pages[b];
        generations[b] = s.x.x.generations[pages[b]];
    }
    give_back(&s, &j);
    for (uint32_t b = 0; b < 3; b++) /* what it held is there until then */
        assert_true(s.x.x.generations[pages[b]] == generations[b]);
    for (int i = 0; i < 2; i++) { /* all pages but one, and then that one too */
        begin_job(&other, 2000, 40, 1);
        add(&s, &other);
        run(&s, &other);
        end_job(&other);
    }
    for (uint32_t b = 0; b < 3; b++) assert_true(s.x.x.generations[pages[b]] > generations[b]);
    end_job(&j);
    end_side(&s);
}

static void it_tells_chunk_by_chunk_which_rows_are_final(void **state) {
    (void)state;
    struct side s;
    struct job j;
    begin_side(&s, 40);
    begin_job(&j, 1300, 20, 1);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    assert_int_equal(j.n_told, 1300);
    assert_int_equal(j.n_chunks, 3);
    assert_int_equal(j.rows[0], 1300);
    assert_int_equal(j.rows[1], 1300);
    give_back(&s, &j);
    end_job(&j);
    end_side(&s);
}

/* --- going on elsewhere ----------------------------------------------------------------------- */

static void it_goes_on_elsewhere_to_the_tokens_it_would_have_had(void **state) {
    (void)state;
    static const uint32_t lens[] = {1, 127, 128, 129, 255, 256, 300};
    for (uint32_t i = 0; i < sizeof lens / sizeof *lens; i++)
        for (uint32_t n = 1; n <= 3; n++) {
            struct side p, d;
            struct job j;
            begin_side(&p, 40);
            begin_side(&d, 30);
            begin_job(&j, lens[i], 150, n);
            j.a.r.logprobs = 2;
            add_prefill(&p, &j, 0);
            run(&p, &j);
            reserve(&d, &j, ST_OK);
            assert_int_equal(j.seat.n_rows, lens[i]);
            assert_int_equal(j.seat.n_there, 0);
            hand_over(&p, &d, &j);
            assert_int_equal(used(&p), 0);
            run(&d, &j);
            for (uint32_t c = 0; c < n; c++) check_answer(&j.a, c);
            assert_int_equal(used(&d), 0);
            assert_int_equal(engine_stats(d.e)->prompt_tokens_computed, 0);
            end_job(&j);
            end_side(&p);
            end_side(&d);
        }
}

static void a_choice_that_stopped_at_once_stays_over(void **state) {
    (void)state;
    struct side p, d;
    struct job j;
    begin_side(&p, 40);
    begin_side(&d, 40);
    begin_job(&j, 200, 30, 3);
    j.a.drop_choice = 0; /* the one whose rows are everybody's */
    j.a.drop_after = 1;
    add_prefill(&p, &j, 0);
    run(&p, &j);
    assert_int_equal(j.a.r.choices[0].finish, FINISH_CANCELLED);
    assert_non_null(j.loan);
    j.a.r.choices[0].finish = FINISH_NONE; /* it was asked for when room was reserved, */
    reserve(&d, &j, ST_OK);
    j.a.lent.choices[0].finish = FINISH_CANCELLED; /* and GO says that it is over */
    hand_over(&p, &d, &j);
    run(&d, &j);
    for (uint32_t c = 0; c < 3; c++) check_answer(&j.a, c);
    assert_int_equal(j.a.n_tokens[0], 1);
    assert_int_equal(used(&d), 0);
    end_job(&j);
    end_side(&p);
    end_side(&d);
}

static void choices_share_the_pages_that_came(void **state) {
    (void)state;
    struct side p, d;
    struct job j;
    begin_side(&p, 40);
    begin_side(&d, 40);
    begin_job(&j, 300, 10, 3);
    add_prefill(&p, &j, 0);
    run(&p, &j);
    reserve(&d, &j, ST_OK);
    uint32_t before = used(&d);
    hand_over(&p, &d, &j);
    assert_int_equal(used(&d), before);
    assert_int_equal(engine_stats(d.e)->running, 3);
    run(&d, &j);
    for (uint32_t c = 0; c < 3; c++) check_answer(&j.a, c);
    end_job(&j);
    end_side(&p);
    end_side(&d);
}

static void blocks_that_are_here_already_need_not_come(void **state) {
    (void)state;
    struct side p, d;
    struct job j, before;
    begin_side(&p, 40);
    begin_side(&d, 40);
    begin_job(&before, 300, 10, 1);
    add(&d, &before);
    run(&d, &before);
    begin_job(&j, 300, 50, 1);
    memcpy(j.a.r.prompt, before.a.r.prompt, 300 * sizeof *j.a.r.prompt);
    add_prefill(&p, &j, 0);
    run(&p, &j);
    reserve(&d, &j, ST_OK);
    assert_int_equal(j.seat.n_there, 2);
    hand_over(&p, &d, &j);
    run(&d, &j);
    check_answer(&j.a, 0);
    end_job(&before);
    end_job(&j);
    end_side(&p);
    end_side(&d);
}

/* --- reserving -------------------------------------------------------------------------------- */

static void where_there_is_no_room_nothing_is_taken(void **state) {
    (void)state;
    struct side s;
    struct job large, j;
    begin_side(&s, engine_pages_min(MODEL_LEN));
    begin_job(&large, 1500, 40, 1);
    add(&s, &large);
    for (int i = 0; i < 3; i++) (void)engine_step(s.e);
    uint32_t before = used(&s);
    assert_true(before >= 12);
    begin_job(&j, 900, 20, 1);
    reserve(&s, &j, ST_FULL);
    assert_int_equal(used(&s), before);
    assert_int_equal(engine_stats(s.e)->reserved, 0);
    run(&s, &large);
    reserve(&s, &j, ST_OK); /* later it works */
    assert_int_equal(engine_stats(s.e)->reserved, 1);
    assert_int_equal(used(&s), j.seat.n_pages);
    engine_cancel(s.e, &j.a.lent, ENGINE_CANCEL_LEFT); /* and is given back */
    assert_true(j.a.done);
    assert_int_equal(used(&s), 0);
    assert_int_equal(engine_stats(s.e)->reserved, 0);
    end_job(&large);
    end_job(&j);
    end_side(&s);
}

static void blocks_that_are_found_are_no_free_room_too(void **state) {
    (void)state;
    struct side s;
    struct job before, large, j;
    begin_side(&s, 17);
    begin_job(&before, 1024, 1, 1); /* leaves 8 blocks */
    add(&s, &before);
    run(&s, &before);
    begin_job(&large, 1000, 20, 1); /* takes 8 of the other 9 pages */
    add(&s, &large);
    for (int i = 0; i < 3; i++) (void)engine_step(s.e);
    assert_int_equal(used(&s), 8);
    begin_job(&j, 1280, 20, 1); /* 8 blocks are found; 2 pages are missing, and there is one */
    memcpy(j.a.r.prompt, before.a.r.prompt, 1024 * sizeof *j.a.r.prompt);
    reserve(&s, &j, ST_FULL);
    assert_int_equal(used(&s), 8);
    run(&s, &large);
    check_answer(&large.a, 0);
    end_job(&before);
    end_job(&large);
    end_job(&j);
    end_side(&s);
}

static void reserved_room_does_not_stand_in_the_way_of_others(void **state) {
    (void)state;
    struct side s;
    struct job j, other;
    begin_side(&s, 40);
    begin_job(&j, 300, 20, 1);
    begin_job(&other, 300, 60, 1);
    reserve(&s, &j, ST_OK);
    assert_false(engine_step(s.e)); /* it waits for rows, and is no work */
    add(&s, &other);
    run(&s, &other);
    check_answer(&other.a, 0);
    assert_int_equal(engine_stats(s.e)->reserved, 1);
    engine_cancel(s.e, &j.a.lent, ENGINE_CANCEL_LEFT);
    end_job(&j);
    end_job(&other);
    end_side(&s);
}

static void choices_with_tokens_of_their_own_do_not_move_together(void **state) {
    (void)state;
    struct side s;
    struct job j;
    struct err err;
    struct engine_how how = {.prefill = true};
    begin_side(&s, 40);
    begin_job(&j, 300, 20, 2);
    j.a.r.choices[1].n_ids = 1;
    reserve(&s, &j, ST_INVALID);
    lend(&j.a);
    assert_int_equal(engine_add_how(s.e, &j.a.lent, &how, &sink, &j, 0, &err), ST_INVALID);
    assert_string_equal(err.text,
                        "request: choices with different tokens cannot be moved together");
    request_release(&j.a.lent);
    assert_int_equal(used(&s), 0);
    end_job(&j);
    end_side(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prefill_draws_one_token_for_every_choice_and_lends_its_pages),
        cmocka_unit_test(one_that_ends_with_its_first_token_lends_nothing),
        cmocka_unit_test(nobody_gets_lent_pages_before_they_are_returned),
        cmocka_unit_test(a_generation_rises_before_its_page_is_used_anew),
        cmocka_unit_test(it_tells_chunk_by_chunk_which_rows_are_final),
        cmocka_unit_test(it_goes_on_elsewhere_to_the_tokens_it_would_have_had),
        cmocka_unit_test(a_choice_that_stopped_at_once_stays_over),
        cmocka_unit_test(choices_share_the_pages_that_came),
        cmocka_unit_test(blocks_that_are_here_already_need_not_come),
        cmocka_unit_test(where_there_is_no_room_nothing_is_taken),
        cmocka_unit_test(blocks_that_are_found_are_no_free_room_too),
        cmocka_unit_test(reserved_room_does_not_stand_in_the_way_of_others),
        cmocka_unit_test(choices_with_tokens_of_their_own_do_not_move_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

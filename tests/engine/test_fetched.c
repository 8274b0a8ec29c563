/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that an engine gets from elsewhere instead of computing them, and those that it offers: the pool is
 * played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lending.h"

enum { PROMPT = 700, BLOCKS = 5 /* whole ones before its last token */ };

/* One engine has computed the prompt, and another begins the same. */
struct pair {
    struct side has, wants;
    struct job before, j;
};

static void begin(struct pair *p) {
    begin_side(&p->has, 40);
    begin_side(&p->wants, 40);
    begin_job(&p->before, PROMPT, 20, 1);
    add_prefill(&p->has, &p->before, 0);
    run(&p->has, &p->before);
    begin_job(&p->j, PROMPT, 20, 1);
    memcpy(p->j.a.r.prompt, p->before.a.r.prompt, PROMPT * sizeof *p->j.a.r.prompt);
}

static void end(struct pair *p) {
    give_back(&p->has, &p->before);
    end_job(&p->before);
    end_job(&p->j);
    end_side(&p->has);
    end_side(&p->wants);
}

static void ask(struct pair *p, uint32_t n_to_find) {
    struct err err;
    struct engine_how how = {.n_to_find = n_to_find};
    lend(&p->j.a);
    assert_int_equal(engine_add_how(p->wants.e, &p->j.a.lent, &how, &sink, &p->j, 1, &err), ST_OK);
}

static void steps(struct pair *p, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) (void)engine_step(p->wants.e);
}

static void part_comes(struct pair *p, uint32_t part) {
    for (uint32_t b = 0; b < p->j.n; b++)
        memcpy(piece(&p->wants, part, p->j.pages[b]),
               piece(&p->has, part, p->before.loan->pages[p->j.first + b]),
               block_part_bytes(&p->wants.x.x.shape, part));
    p->j.gate.parts = part + 1;
}

static void all_comes(struct pair *p) {
    for (uint32_t part = 0; part < PARTS; part++) part_comes(p, part);
    p->j.fetched = true;
}

static void goes_bad(struct pair *p, uint32_t block) {
    p->j.gate.bad = block;
}

static uint32_t computed(struct pair *p) {
    return (uint32_t)engine_stats(p->wants.e)->prompt_tokens_computed;
}

static void it_waits_for_its_parts_and_computes_only_the_rest(void **state) {
    (void)state;
    struct pair p;
    begin(&p);
    ask(&p, 4);
    steps(&p, 50);
    assert_int_equal(p.j.n_fetches, 1);
    assert_int_equal(p.j.first, 0);
    assert_int_equal(p.j.n, 4);
    assert_int_equal(p.j.a.n_tokens[0], 0);
    part_comes(&p, 0);
    steps(&p, 50);
    assert_int_equal(p.j.a.n_tokens[0], 0); /* the other layer is missing */
    part_comes(&p, 1);
    p.j.fetched = true;
    run(&p.wants, &p.j);
    check_answer(&p.j.a, 0);
    assert_int_equal(computed(&p), PROMPT - 4 * 128);
    assert_int_equal(p.j.a.n_cached, 4 * 128);
    end(&p);
}

static void only_what_is_not_here_already_is_asked_for(void **state) {
    (void)state;
    struct pair p;
    struct job shorter;
    begin(&p);
    begin_job(&shorter, 300, 5, 1);
    memcpy(shorter.a.r.prompt, p.j.a.r.prompt, 300 * sizeof *shorter.a.r.prompt);
    add(&p.wants, &shorter);
    run(&p.wants, &shorter);
    ask(&p, BLOCKS);
    steps(&p, 1);
    assert_int_equal(p.j.first, 2);
    assert_int_equal(p.j.n, 3);
    all_comes(&p);
    run(&p.wants, &p.j);
    check_answer(&p.j.a, 0);
    assert_int_equal(computed(&p), 300 + PROMPT - BLOCKS * 128);
    end_job(&shorter);
    end(&p);
}

static void from_a_bad_block_on_it_is_computed(void **state) {
    (void)state;
    for (uint32_t bad = 0; bad < 4; bad++) {
        struct pair p;
        begin(&p);
        ask(&p, 4);
        steps(&p, 5);
        part_comes(&p, 0);
        goes_bad(&p, bad);
        steps(&p, 5);
        assert_int_equal(p.j.n_fetches, 1); /* somebody still writes to the pages */
        assert_int_equal(p.j.a.n_tokens[0], 0);
        p.j.fetched = true;
        steps(&p, 5);
        assert_int_equal(p.j.n_fetches, bad ? 2 : 1); /* those before it are asked for again */
        if (bad) {
            assert_int_equal(p.j.first, 0);
            assert_int_equal(p.j.n, bad);
            all_comes(&p);
        }
        run(&p.wants, &p.j);
        check_answer(&p.j.a, 0);
        assert_int_equal(computed(&p), PROMPT - bad * 128);
        assert_int_equal(p.j.a.n_cached, bad * 128);
        assert_int_equal(used(&p.wants), 0);
        end(&p);
    }
}

static void what_cannot_be_fetched_after_all_is_computed(void **state) {
    (void)state;
    struct pair p;
    begin(&p);
    p.j.no_fetch = true;
    ask(&p, 4);
    run(&p.wants, &p.j);
    assert_int_equal(p.j.n_fetches, 1);
    check_answer(&p.j.a, 0);
    assert_int_equal(computed(&p), PROMPT);
    end(&p);
}

static void one_that_waits_for_blocks_is_cancelled(void **state) {
    (void)state;
    for (uint32_t after = 0; after < 20; after += 19) {
        struct pair p;
        begin(&p);
        ask(&p, 4);
        steps(&p, 1 + after);
        assert_int_equal(p.j.n_fetches, 1);
        goes_bad(&p, 0);
        p.j.fetched = true;
        engine_cancel(p.wants.e, &p.j.a.lent, ENGINE_CANCEL_LEFT);
        assert_true(p.j.a.done);
        assert_int_equal(used(&p.wants), 0);
        while (engine_step(p.wants.e)) continue;
        end(&p);
    }
}

static void others_are_served_while_one_waits(void **state) {
    (void)state;
    struct pair p;
    struct job other;
    begin(&p);
    begin_job(&other, 20, 50, 1);
    add(&p.wants, &other);
    steps(&p, 3);
    ask(&p, 4);
    run(&p.wants, &other);
    check_answer(&other.a, 0);
    assert_int_equal(p.j.a.n_tokens[0], 0);
    all_comes(&p);
    run(&p.wants, &p.j);
    check_answer(&p.j.a, 0);
    end_job(&other);
    end(&p);
}

/* --- blocks that are offered ------------------------------------------------------------------ */

static void every_full_block_is_told_once(void **state) {
    (void)state;
    struct side s;
    struct job j;
    begin_side(&s, 40);
    begin_job(&j, 300, 200, 1);
    add(&s, &j);
    run(&s, &j);
    assert_int_equal(j.n_blocks, 3); /* of 499 rows; job_block sees that none comes twice */
    end_job(&j);
    end_side(&s);
}

static void blocks_that_were_fetched_are_not_told(void **state) {
    (void)state;
    struct pair p;
    begin(&p);
    assert_int_equal(p.before.n_blocks, BLOCKS);
    ask(&p, 4);
    steps(&p, 1);
    all_comes(&p);
    run(&p.wants, &p.j);
    assert_int_equal(p.j.n_blocks, 1);
    assert_memory_equal(&p.j.blocks[0], &p.before.blocks[4], sizeof p.j.blocks[0]);
    end(&p);
}

static void a_kept_page_is_nobody_elses(void **state) {
    (void)state;
    struct side s;
    struct job j, other;
    begin_side(&s, engine_pages_min(MODEL_LEN) + 1);
    begin_job(&j, 130, 20, 1);
    add_prefill(&s, &j, 0);
    run(&s, &j);
    uint32_t page = j.loan->pages[0];
    engine_keep(s.e, page);
    give_back(&s, &j);
    assert_int_equal(used(&s), 1);
    uint64_t generation = s.x.x.generations[page];
    begin_job(&other, 2000, 40, 1);
    add(&s, &other);
    run(&s, &other);
    assert_true(s.x.x.generations[page] == generation);
    engine_unkeep(s.e, page);
    assert_int_equal(used(&s), 0);
    end_job(&j);
    end_job(&other);
    end_side(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_waits_for_its_parts_and_computes_only_the_rest),
        cmocka_unit_test(only_what_is_not_here_already_is_asked_for),
        cmocka_unit_test(from_a_bad_block_on_it_is_computed),
        cmocka_unit_test(what_cannot_be_fetched_after_all_is_computed),
        cmocka_unit_test(one_that_waits_for_blocks_is_cancelled),
        cmocka_unit_test(others_are_served_while_one_waits),
        cmocka_unit_test(every_full_block_is_told_once),
        cmocka_unit_test(blocks_that_were_fetched_are_not_told),
        cmocka_unit_test(a_kept_page_is_nobody_elses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

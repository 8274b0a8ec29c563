/* SPDX-License-Identifier: Apache-2.0 */
/* Whether to draft: the faster way is found, kept, and found again when things change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/spec.h"

/* Runs steps of n sequences; a drafting step takes `ns` and brings `tokens_x100` / 100 a sequence,
 * a plain one 1000 ns and one. Returns the time all took, per token. */
static double steps(struct spec *s, uint32_t n, uint32_t count, uint64_t ns, uint32_t tokens_x100) {
    bool had = false; /* drafts from the step before */
    uint64_t time = 0, tokens = 0, fraction = 0;
    for (uint32_t i = 0; i < count; i++) {
        bool want = spec_wanted(s, n);
        uint64_t took = had || want ? ns : 1000;
        uint32_t got = n;
        if (had) {
            fraction += (uint64_t)n * tokens_x100;
            got = (uint32_t)(fraction / 100);
            fraction %= 100;
        }
        if (had == want) spec_measured(s, n, had, took, got);
        time += took;
        tokens += got;
        had = want;
    }
    return (double)time / (double)tokens;
}

static void drafting_is_taken_where_it_is_faster(void **state) {
    (void)state;
    struct spec s;
    spec_init(&s, SPECULATE_AUTO);
    double per_token = steps(&s, 4, 2000, 1100, 170);
    assert_true(per_token < 0.68 * 250); /* 1100 / 6.8 = 162 against 250 */
    assert_true(spec_wanted(&s, 4));
}

static void trials_that_lose_cost_under_two_percent(void **state) {
    (void)state;
    struct spec s;
    spec_init(&s, SPECULATE_AUTO);
    (void)steps(&s, 4, 300, 2000, 130);
    double per_token = steps(&s, 4, 4000, 2000, 130);
    assert_true(per_token < 1.02 * 250);
}

static void batch_sizes_are_judged_apart(void **state) {
    (void)state;
    struct spec s;
    spec_init(&s, SPECULATE_AUTO);
    for (int i = 0; i < 5; i++) {
        (void)steps(&s, 1, 200, 1100, 170);
        (void)steps(&s, 64, 200, 2500, 170);
    }
    assert_true(spec_wanted(&s, 1));
    (void)steps(&s, 64, 20, 2500, 170);
    assert_false(spec_wanted(&s, 64));
}

static void a_change_is_noticed(void **state) {
    (void)state;
    struct spec s;
    spec_init(&s, SPECULATE_AUTO);
    (void)steps(&s, 2, 1000, 1100, 180);
    assert_true(spec_wanted(&s, 2));
    double per_token = steps(&s, 2, 20000, 1900, 110); /* the drafts stopped being good */
    assert_false(spec_wanted(&s, 2));
    assert_true(per_token < 1.2 * 500);
}

static void on_and_off_are_orders(void **state) {
    (void)state;
    struct spec s;
    spec_init(&s, SPECULATE_ON);
    (void)steps(&s, 2, 1000, 9000, 100);
    assert_true(spec_wanted(&s, 2));
    spec_init(&s, SPECULATE_OFF);
    assert_false(spec_wanted(&s, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drafting_is_taken_where_it_is_faster),
        cmocka_unit_test(trials_that_lose_cost_under_two_percent),
        cmocka_unit_test(batch_sizes_are_judged_apart),
        cmocka_unit_test(a_change_is_noticed),
        cmocka_unit_test(on_and_off_are_orders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

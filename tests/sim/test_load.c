/* SPDX-License-Identifier: Apache-2.0 */
/* Loading and switching of models against P3 Table 1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "sim/load.h"

static struct load_times times(const struct load_setup *s, enum load_cache c) {
    struct load_times t;
    load_times(&t, s, c);
    return t;
}

static void cold_and_warm_starts_are_the_papers(void **state) {
    (void)state;
    struct load_setup s;
    load_setup_default(&s);
    struct load_times none = times(&s, LOAD_NO_CACHE), dram = times(&s, LOAD_LOCAL_DRAM),
                      pool = times(&s, LOAD_POOL);
    assert_true(fabs(none.cold_s / 2560 - 1) < 0.01 && fabs(dram.cold_s / 2560 - 1) < 0.01);
    assert_true(fabs(pool.cold_s / 320 - 1) < 0.01);
    assert_true(isinf(none.warm_s) && dram.warm_s == 5 && pool.warm_s == 5);
    assert_true(none.dram == 0 && dram.dram == 8 && pool.dram == 1);
}

/* A bucket may be faster than the published warm start. */
static void a_warm_start_is_no_slower_than_a_copy_out_of_the_bucket(void **state) {
    (void)state;
    struct load_setup s;
    load_setup_default(&s);
    s.bucket_bps = 1e12;
    struct load_times none = times(&s, LOAD_NO_CACHE), pool = times(&s, LOAD_POOL);
    assert_true(pool.warm_s == pool.cold_s && pool.switch_s == none.switch_s);
    assert_true(times(&s, LOAD_LOCAL_DRAM).switch_s <= none.switch_s);
}

static void a_switch_hits_as_often_as_its_model_is_held(void **state) {
    (void)state;
    struct load_setup s;
    load_setup_default(&s);
    struct load_times none = times(&s, LOAD_NO_CACHE), dram = times(&s, LOAD_LOCAL_DRAM),
                      pool = times(&s, LOAD_POOL);
    assert_true(none.hit == 0 && dram.hit == 0.125 && pool.hit == 1);
    assert_true(fabs(none.switch_s - 319.5) < 0.1 && pool.switch_s == 5);
    assert_true(fabs(dram.switch_s - (0.875 * none.switch_s + 0.125 * 5)) < 1e-9);
    assert_true(pool.switch_dram == 8 && dram.switch_dram == 8 && none.switch_dram == 0);
    s.models = 1;
    assert_true(times(&s, LOAD_LOCAL_DRAM).switch_s == 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cold_and_warm_starts_are_the_papers),
        cmocka_unit_test(a_warm_start_is_no_slower_than_a_copy_out_of_the_bucket),
        cmocka_unit_test(a_switch_hits_as_often_as_its_model_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms: what came lately, and its quantiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/stats.h"

static void a_window_forgets_what_is_two_spans_old(void **state) {
    (void)state;
    struct engine_stats s;
    struct histogram_window w = {0};
    engine_stats_init(&s);
    histogram_window_move(&w, &s.itl, 10, 10);
    assert_true(histogram_window_quantile(&w, &s.itl, 0.5) == 0);
    for (int i = 0; i < 100; i++) histogram_add(&s.itl, 0.004); /* in (0.0025, 0.005] */
    double median = histogram_window_quantile(&w, &s.itl, 0.5);
    assert_true(median > 0.0025 && median < 0.005);
    histogram_window_move(&w, &s.itl, 20, 10);
    histogram_add(&s.itl, 1e9); /* over the last bound */
    assert_true(histogram_window_quantile(&w, &s.itl, 0.5) < 0.005);
    assert_true(histogram_window_quantile(&w, &s.itl, 1) == s.itl.bounds[s.itl.n - 1]);
    histogram_window_move(&w, &s.itl, 25, 10); /* too soon */
    assert_true(histogram_window_quantile(&w, &s.itl, 0.5) < 0.005);
    histogram_window_move(&w, &s.itl, 30, 10);
    assert_true(histogram_window_quantile(&w, &s.itl, 0.5) > 1);
    histogram_window_move(&w, &s.itl, 40, 10);
    assert_true(histogram_window_quantile(&w, &s.itl, 0.5) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_window_forgets_what_is_two_spans_old),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

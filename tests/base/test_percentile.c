/* SPDX-License-Identifier: Apache-2.0 */
#include "base/percentile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* numpy.percentile([1, 2, 4, 8], p) */
static void a_percentile_is_linear_between_its_neighbours(void **state) {
    (void)state;
    double v[] = {8, 1, 4, 2};
    qsort(v, 4, sizeof *v, percentile_compare);
    static const double expected[][2] = {{0, 1}, {25, 1.75}, {50, 3}, {90, 6.8}, {100, 8}};
    for (int i = 0; i < 5; i++)
        assert_float_equal(percentile(v, 4, expected[i][0]), expected[i][1], 1e-12);
}

static void one_value_is_every_percentile_and_none_is_0(void **state) {
    (void)state;
    const double v = 3;
    for (int p = 0; p <= 100; p += 50) assert_float_equal(percentile(&v, 1, p), 3, 0);
    assert_float_equal(percentile(NULL, 0, 50), 0, 0);
}

static void the_middle_is_one_of_the_values_whatever_their_order(void **state) {
    (void)state;
    double odd[] = {8, 1, 4}, even[] = {8, 1, 4, 2};
    assert_float_equal(percentile_middle(odd, 3), 4, 0);
    assert_float_equal(percentile_middle(even, 4), 4, 0);
    assert_float_equal(percentile_middle(NULL, 0), 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_percentile_is_linear_between_its_neighbours),
        cmocka_unit_test(the_middle_is_one_of_the_values_whatever_their_order),
        cmocka_unit_test(one_value_is_every_percentile_and_none_is_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

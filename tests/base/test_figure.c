/* SPDX-License-Identifier: Apache-2.0 */
/* Figures have four digits and no exponent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/figure.h"

static void figures_have_four_digits_and_no_exponent(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *text;
    } rows[] = {{0, "0"},
                {1, "1"},
                {10, "10"},
                {100, "100"},
                {1000, "1000"},
                {9999.6, "10000"},
                {10280.4, "10280"},
                {123456789, "123456789"},
                {5.6, "5.6"},
                {4.6437, "4.644"},
                {138.04, "138"},
                {0.03482, "0.03482"},
                {3.4816e-5, "0.000035"},
                {2e-9, "0"},
                {-2e-9, "0"},
                {-1.5, "-1.5"},
                {1e16, "1e+16"},
                {(double)INFINITY, "inf"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(figure_of(rows[i].v).text, rows[i].text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_have_four_digits_and_no_exponent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/portable.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void near(double found, double expected) {
    double most = 4e-15 * fmax(1, fabs(expected));
    if (!(fabs(found - expected) <= most)) fail_msg("found %.17g, expected %.17g", found, expected);
}

static void ln_is_libms(void **state) {
    (void)state;
    for (double x = 1e-12; x < 1e12; x *= 1.37) near(portable_ln(x), log(x));
    assert_true(portable_ln(1) == 0);
}

static void pow_is_libms(void **state) {
    (void)state;
    for (double x = 1e-3; x <= 1; x += 0.0037)
        for (double y = 0; y < 300; y += 7.3)
            assert_true(fabs(portable_pow(x, y) - pow(x, y)) <= 1e-12 * pow(x, y) + 1e-300);
    near(portable_pow(2, 10), 1024);
    assert_true(portable_pow(0, 3) == 0 && portable_pow(0, 0) == 1 && portable_pow(1, 1e9) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ln_is_libms),
                                       cmocka_unit_test(pow_is_libms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

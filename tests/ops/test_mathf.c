/* SPDX-License-Identifier: Apache-2.0 */
/* Elementary functions against libm in float64, in units of the last place of the F32 result, over
 * bit patterns that step through the whole range. */
#include "ops/mathf.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Distance of got from the exact value in units of the last place at that value (denormals have
 * 2^-149). */
static double ulps(float got, double exact) {
    if (isinf(got)) return fabs(exact) >= (double)FLT_MAX * (1 + 0x1p-25) ? 0 : INFINITY;
    int e = exact == 0 ? -149 : ilogb(exact) - 23;
    return fabs((double)got - exact) / ldexp(1, e < -149 ? -149 : e);
}

static void exp_is_within_2_ulp(void **state) {
    (void)state;
    double worst = 0;
    for (uint64_t i = 0; i < 0x100000000; i += 977) {
        float x = float_of((uint32_t)i);
        if (!isfinite(x)) continue;
        double u = ulps(ops_expf(x), exp((double)x));
        if (u > worst) worst = u;
    }
    print_message("# exp: worst %.3f ulp\n", worst);
    assert_true(worst < 2);
    for (int i = -1060000; i <= 900000; i++) {
        float x = (float)i * 1e-4f;
        assert_true(ulps(ops_expf(x), exp((double)x)) < 2);
    }
}

static void exp_has_exact_ends(void **state) {
    (void)state;
    assert_true(ops_expf(0.0f) == 1.0f && ops_expf(-0.0f) == 1.0f);
    assert_true(ops_expf(-INFINITY) == 0.0f && !signbit(ops_expf(-INFINITY)));
    assert_true(ops_expf(INFINITY) == INFINITY && ops_expf(88.8f) == INFINITY);
    assert_true(ops_expf(-100.0f) > 0 && ops_expf(-100.0f) < FLT_MIN); /* denormals are kept */
    assert_true(isnan(ops_expf(NAN)) && isnan(ops_expf(-NAN)));
    assert_true(ops_sigmoidf(-INFINITY) == 0 && ops_sigmoidf(INFINITY) == 1);
    assert_true(ops_sigmoidf(0) == 0.5f && isnan(ops_sigmoidf(NAN)));
}

static void log_is_within_2_ulp(void **state) {
    (void)state;
    double worst = 0;
    for (uint32_t i = 1; i < 0x7f800000; i += 487) {
        float x = float_of(i);
        double u = ulps(ops_logf(x), log((double)x));
        if (u > worst) worst = u;
    }
    for (uint32_t i = 0x3f700000; i < 0x3f900000; i += 3) { /* around 1 */
        double u = ulps(ops_logf(float_of(i)), log((double)float_of(i)));
        if (u > worst) worst = u;
    }
    print_message("# log: worst %.3f ulp\n", worst);
    assert_true(worst < 2);
    assert_true(ops_logf(1) == 0 && ops_logf(0) == -INFINITY && ops_logf(INFINITY) == INFINITY);
    assert_true(isnan(ops_logf(-1)) && isnan(ops_logf(NAN)));
}

static void check_sincos(float x, double *worst) {
    float s, c;
    ops_sincosf(x, &s, &c);
    double us = ulps(s, sin((double)x)), uc = ulps(c, cos((double)x));
    *worst = fmax(*worst, fmax(us, uc));
}

static void sin_and_cos_are_within_1_ulp(void **state) {
    (void)state;
    double worst = 0;
    for (uint32_t i = 1; i <= 0x49800000; i += 1511) { /* 2^20 */
        check_sincos(float_of(i), &worst);
        check_sincos(-float_of(i), &worst);
    }
    for (uint32_t i = 0; i < 1u << 20; i++) {
        check_sincos((float)i, &worst);
        check_sincos((float)((double)i * M_PI_2), &worst); /* where one of them nearly vanishes */
    }
    print_message("# sin, cos: worst %.3f ulp\n", worst);
    assert_true(worst <= 1);
    float s, c;
    ops_sincosf(0, &s, &c);
    assert_true(s == 0 && c == 1);
    ops_sincosf(INFINITY, &s, &c);
    assert_true(isnan(s) && isnan(c));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_2_ulp),
        cmocka_unit_test(exp_has_exact_ends),
        cmocka_unit_test(log_is_within_2_ulp),
        cmocka_unit_test(sin_and_cos_are_within_1_ulp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

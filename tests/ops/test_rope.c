/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary embedding: known YaRN frequencies (computed by transformers' _compute_yarn_parameters),
 * rotations in float64, and the one property that matters: a product of rotated vectors depends on
 * the distance alone. */
#include "ops/rope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops_test.h"

static void plain_frequencies_are_powers_of_theta(void **state) {
    (void)state;
    struct ops_rope_config c = {.dim = 64, .theta = 10000};
    float f[32];
    ops_rope_inv_freq(f, &c);
    for (int i = 0; i < 32; i++) assert_true(f[i] == (float)pow(10000, -i / 32.0));
}

static void yarn_matches_transformers(void **state) {
    (void)state;
    struct ops_rope_config c = {.dim = 64,
                                .theta = 10000,
                                .yarn = true,
                                .factor = 40,
                                .beta_fast = 32,
                                .beta_slow = 1,
                                .original_positions = 4096,
                                .truncate = true};
    float f[32];
    ops_rope_inv_freq(f, &c);
    static const double v3[32] = {1,
                                  0.749894202,
                                  0.562341332,
                                  0.421696514,
                                  0.316227764,
                                  0.237137362,
                                  0.177827939,
                                  0.133352146,
                                  0.100000001,
                                  0.0749894157,
                                  0.0562341288,
                                  0.0390069261,
                                  0.0268793609,
                                  0.0183781441,
                                  0.012447956,
                                  0.0083345091,
                                  0.00550000044,
                                  0.00356199732,
                                  0.00224936521,
                                  0.00137051346,
                                  0.000790569407,
                                  0.000414990413,
                                  0.00017782794,
                                  3.3338034e-05,
                                  2.49999994e-05,
                                  1.87473543e-05,
                                  1.40585325e-05,
                                  1.05424124e-05,
                                  7.90569447e-06,
                                  5.92843435e-06,
                                  4.44569832e-06,
                                  3.33380353e-06};
    for (int i = 0; i < 32; i++) assert_true(fabs(f[i] - v3[i]) <= v3[i] * 5e-7);
    c.truncate = false;
    ops_rope_inv_freq(f, &c);
    /* transformers computes the ramp in F32, which costs it up to factor * 2^-24 */
    static const double v3_exact[32] = {1,
                                        0.749894202,
                                        0.562341332,
                                        0.421696514,
                                        0.316227764,
                                        0.237137362,
                                        0.177827939,
                                        0.133352146,
                                        0.100000001,
                                        0.0749894157,
                                        0.0562341288,
                                        0.0403675847,
                                        0.0277108587,
                                        0.0188600607,
                                        0.0127031431,
                                        0.00844623521,
                                        0.00552406255,
                                        0.00353525812,
                                        0.00219573081,
                                        0.00130510959,
                                        0.000722638157,
                                        0.000349887385,
                                        0.000118387645,
                                        3.3338034e-05,
                                        2.49999994e-05,
                                        1.87473543e-05,
                                        1.40585325e-05,
                                        1.05424124e-05,
                                        7.90569447e-06,
                                        5.92843435e-06,
                                        4.44569832e-06,
                                        3.33380353e-06};
    for (int i = 0; i < 32; i++) assert_true(fabs(f[i] - v3_exact[i]) <= v3_exact[i] * 5e-6);
}

static void angles_are_rounded_like_transformers(void **state) {
    (void)state;
    float f[2] = {1, 0.1f}, c[2], s[2];
    for (uint32_t pos = 0; pos < 200000; pos += 777) {
        ops_rope_angles(c, s, f, 2, pos, 1.5f);
        for (int i = 0; i < 2; i++) {
            double angle = (float)pos * f[i];
            assert_true(fabs(c[i] - 1.5 * cos(angle)) < 2e-7 &&
                        fabs(s[i] - 1.5 * sin(angle)) < 2e-7);
        }
    }
}

static void products_depend_on_the_distance_alone(void **state) {
    (void)state;
    struct ops_rope_config cfg = {.dim = 32, .theta = 100};
    struct rng r = {1};
    float f[16], q0[32], k0[32];
    ops_rope_inv_freq(f, &cfg);
    fill_random(&r, q0, 32);
    fill_random(&r, k0, 32);
    for (int pairs = OPS_ROPE_INTERLEAVED; pairs <= OPS_ROPE_HALVES; pairs++) {
        double first = 0;
        for (uint32_t shift = 0; shift < 100; shift += 9) {
            float q[32], k[32], c[16], s[16];
            memcpy(q, q0, sizeof q);
            memcpy(k, k0, sizeof k);
            ops_rope_angles(c, s, f, 16, shift + 7, 1);
            ops_rope(q, c, s, 16, pairs);
            ops_rope_angles(c, s, f, 16, shift, 1);
            ops_rope(k, c, s, 16, pairs);
            double dot = 0;
            for (int i = 0; i < 32; i++) dot += (double)q[i] * k[i];
            if (shift == 0) first = dot;
            assert_true(fabs(dot - first) < 1e-4);
        }
        assert_true(fabs(first) > 1e-2);
    }
}

static void pairs_are_neighbours_or_halves(void **state) {
    (void)state;
    float c[2] = {0, 1}, s[2] = {1, 0}; /* a quarter turn for pair 0, none for pair 1 */
    float a[4] = {1, 2, 3, 4}, b[4] = {1, 2, 3, 4};
    ops_rope(a, c, s, 2, OPS_ROPE_INTERLEAVED);
    assert_true(a[0] == -2 && a[1] == 1 && a[2] == 3 && a[3] == 4);
    ops_rope(b, c, s, 2, OPS_ROPE_HALVES);
    assert_true(b[0] == -3 && b[1] == 2 && b[2] == 1 && b[3] == 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_frequencies_are_powers_of_theta),
        cmocka_unit_test(yarn_matches_transformers),
        cmocka_unit_test(angles_are_rounded_like_transformers),
        cmocka_unit_test(products_depend_on_the_distance_alone),
        cmocka_unit_test(pairs_are_neighbours_or_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

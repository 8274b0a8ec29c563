/* SPDX-License-Identifier: Apache-2.0 */
/* The reference kernels, which define the bits: by hand where a sum is small enough to write out,
 * in float64 where it is not, and every stored code against an independent decoding. */
#include "ops/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops/mathf.h"
#include "ops_test.h"

static const struct ops_kernels *ref(void) {
    const struct ops_kernels *k;
    struct err err;
    assert_int_equal(ops_kernels_select(&k, "ref", &err), ST_OK);
    return k;
}

static float dot1(const struct ops_kernels *k, const float *x, const struct ops_weight *w,
                  uint32_t row) {
    float out;
    void *ws = aligned_alloc(64, (ops_dot_workspace_bytes(w->cols) + 64) / 64 * 64);
    k->dot(&out, 1, x, w->cols, 1, w, row, 1, ws);
    free(ws);
    return out;
}

static struct ops_weight f32_matrix(const float *data, uint32_t rows, uint32_t cols) {
    return (struct ops_weight){
        .dtype = OPS_F32, .rows = rows, .cols = cols, .data = data, .stride_bytes = cols * 4};
}

static double decode(unsigned code, int exp_bits, int man_bits) {
    int bias = (1 << (exp_bits - 1)) - 1, e = code >> man_bits & ((1 << exp_bits) - 1);
    double m = code & ((1u << man_bits) - 1), sign = code >> (exp_bits + man_bits) ? -1 : 1;
    if (e == 0) return sign * ldexp(m, 1 - bias - man_bits);
    return sign * ldexp(m + (1 << man_bits), e - bias - man_bits);
}

static void every_code_widens_exactly(void **state) {
    (void)state;
    for (unsigned c = 0; c < 65536; c++) {
        float h = ops_f16_to_f32((uint16_t)c), b = ops_bf16_to_f32((uint16_t)c);
        unsigned he = c >> 10 & 31, be = c >> 7 & 255;
        if (he < 31)
            assert_true((double)h == decode(c, 5, 10) && !signbit(h) == !(c >> 15));
        else
            assert_true(c & 0x3ff ? isnan(h) : isinf(h) && (h < 0) == (c >> 15));
        if (be < 255)
            assert_true((double)b == decode(c, 8, 7) && !signbit(b) == !(c >> 15));
        else
            assert_true(c & 0x7f ? isnan(b) : isinf(b) && (b < 0) == (c >> 15));
        assert_true(isnan(b) ? isnan(ops_bf16_to_f32(ops_f32_to_bf16(b)))
                             : ops_f32_to_bf16(b) == c);
    }
    for (unsigned c = 0; c < 256; c++) {
        float f = ops_f8_to_f32((uint8_t)c);
        if ((c & 127) == 127)
            assert_true(isnan(f));
        else
            assert_true((double)f == decode(c, 4, 3) && !signbit(f) == !(c >> 7));
    }
    assert_int_equal(ops_f32_to_bf16(0x1.01p0f), 0x3f80); /* halves go to even: down here, */
    assert_int_equal(ops_f32_to_bf16(0x1.03p0f), 0x3f82); /* up here */
    assert_int_equal(ops_f32_to_bf16(3.4e38f), 0x7f80);
}

/* 2^24 + 1 is 2^24 in F32, so the order of a sum shows in its value. */
static void lanes_and_tree_are_as_defined(void **state) {
    (void)state;
    float x[40], w[40];
    for (int i = 0; i < 40; i++) {
        x[i] = 1;
        w[i] = 0;
    }
    /* Lane 0: 2^24 + 1 + 1 from k = 0, 16, 32 loses both ones; lane 8 joins first with -2^24. */
    w[0] = 0x1p24f;
    w[16] = w[32] = 1;
    w[8] = -0x1p24f;
    struct ops_weight m = f32_matrix(w, 1, 40);
    assert_true(dot1(ref(), x, &m, 0) == 0);
    /* The ones in lanes 1 and 9: they meet each other (2) before they meet lane 0's 2^24. */
    w[16] = w[32] = w[8] = 0;
    w[1] = w[9] = 1;
    assert_true(dot1(ref(), x, &m, 0) == 0x1p24f + 2);
    /* In lanes 1 and 2 they come to lane 0 one after the other: both lost. */
    w[9] = 0;
    w[2] = 1;
    assert_true(dot1(ref(), x, &m, 0) == 0x1p24f);
}

static void a_lane_without_a_product_is_untouched(void **state) {
    (void)state;
    float x[17], w[17];
    for (int i = 0; i < 17; i++) {
        x[i] = i == 16 ? INFINITY : 1;
        w[i] = 1;
    }
    struct ops_weight m = f32_matrix(w, 1, 17);
    assert_true(dot1(ref(), x, &m, 0) == INFINITY); /* a padded 0 * inf would be NaN */
    m.cols = 0;
    assert_true(dot1(ref(), x, &m, 0) == 0);
    /* fmaf from +0: one rounding, so the product's low half survives. */
    float a[17] = {1 + 0x1p-12f}, b[17] = {1 + 0x1p-12f};
    a[16] = -1;
    b[16] = 1 + 0x1p-11f;
    m = f32_matrix(b, 1, 17);
    assert_true(dot1(ref(), a, &m, 0) == 0);
    m.cols = 16;
    assert_true(dot1(ref(), a, &m, 0) == 1 + 0x1p-11f);
}

static void dot_matches_float64_for_every_type(void **state) {
    (void)state;
    struct rng r = {1};
    const struct ops_kernels *k = ref();
    for (int d = OPS_F32; d <= OPS_F8; d++) {
        enum { ROWS = 300, COLS = 333, TOK = 3 };
        struct test_matrix m = matrix_new(&r, d, ROWS, COLS, 5, 77, CODES_TAME);
        static float x[TOK * COLS], out[TOK * ROWS], row[COLS];
        fill_random(&r, x, TOK * COLS);
        void *ws = aligned_alloc(64, (ops_dot_workspace_bytes(COLS) + 63) / 64 * 64);
        k->dot(out, ROWS, x, COLS, TOK, &m.w, 0, ROWS, ws);
        for (uint32_t i = 0; i < ROWS; i++) {
            ops_weight_row(row, &m.w, i, 0, COLS);
            for (uint32_t t = 0; t < TOK; t++) {
                double sum = 0, size = 0;
                for (uint32_t c = 0; c < COLS; c++) {
                    sum += (double)row[c] * x[t * COLS + c];
                    size += fabs((double)row[c] * x[t * COLS + c]);
                }
                assert_true(fabs(out[t * ROWS + i] - sum) <= size * 1e-6);
            }
        }
        free(ws);
        matrix_free(&m);
    }
}

static void chain_is_one_sum_down_the_rows(void **state) {
    (void)state;
    struct rng r = {2};
    for (int d = OPS_F32; d <= OPS_F8; d++) {
        enum { ROWS = 290, COLS = 200, TOK = 2, ROW0 = 9, DEPTH = 270 };
        struct test_matrix m = matrix_new(&r, d, ROWS, COLS, 3, 100, CODES_TAME);
        float x[TOK * DEPTH], acc[TOK * COLS], start[TOK * COLS], row[COLS];
        double sum[TOK * COLS], size[TOK * COLS];
        uint32_t depth[TOK] = {DEPTH, 131};
        fill_random(&r, x, TOK * DEPTH);
        fill_random(&r, start, TOK * COLS);
        memcpy(acc, start, sizeof acc);
        for (int i = 0; i < TOK * COLS; i++) size[i] = fabs(sum[i] = start[i]);
        ref()->chain(acc, COLS, x, DEPTH, TOK, depth, DEPTH, &m.w, ROW0, COLS);
        for (uint32_t i = 0; i < DEPTH; i++) {
            ops_weight_row(row, &m.w, ROW0 + i, 0, COLS);
            for (uint32_t t = 0; t < TOK; t++) {
                for (uint32_t c = 0; c < COLS && i < depth[t]; c++) {
                    sum[t * COLS + c] += (double)x[t * DEPTH + i] * row[c];
                    size[t * COLS + c] += fabs((double)x[t * DEPTH + i] * row[c]);
                }
            }
        }
        for (int i = 0; i < TOK * COLS; i++) assert_true(fabs(acc[i] - sum[i]) <= size[i] * 1e-5);
        matrix_free(&m);
    }
    /* The order: 2^24 first loses the ones, last keeps them. */
    float down[4] = {0x1p24f, 1, 1, 1}, ones[4] = {1, 1, 1, 1}, acc = 0;
    struct ops_weight m = f32_matrix(down, 4, 1);
    ref()->chain(&acc, 1, ones, 4, 1, NULL, 4, &m, 0, 1);
    assert_true(acc == 0x1p24f);
    float up[4] = {1, 1, 1, 0x1p24f};
    m.data = up;
    acc = 0;
    ref()->chain(&acc, 1, ones, 4, 1, NULL, 4, &m, 0, 1);
    assert_true(acc == 0x1p24f + 4); /* 2^24 + 3 rounds to even */
}

static void fp8_scales_follow_the_absolute_block(void **state) {
    (void)state;
    enum { ROWS = 4, COLS = 130, BASE = 126 };
    uint8_t codes[ROWS * COLS];
    float x[COLS], scales[4] = {1, 10, 100, 1000}, out[ROWS], acc[COLS] = {0};
    memset(codes, 0x38, sizeof codes); /* 1.0 */
    for (int i = 0; i < COLS; i++) x[i] = 1;
    struct ops_weight w = {.dtype = OPS_F8,
                           .rows = ROWS,
                           .cols = COLS,
                           .data = codes,
                           .stride_bytes = COLS,
                           .scales = scales,
                           .scale_stride = 2,
                           .row_base = BASE};
    for (uint32_t i = 0; i < ROWS; i++) out[i] = dot1(ref(), x, &w, i);
    assert_true(out[0] == 128 + 20 && out[1] == 128 + 20);
    assert_true(out[2] == 12800 + 2000 && out[3] == 12800 + 2000);
    ref()->chain(acc, COLS, x, COLS, 1, NULL, 3, &w, 1, COLS); /* rows 127, 128, 129 */
    assert_true(acc[0] == 1 + 200 && acc[127] == 201 && acc[128] == 10 + 2000);
}

static void softmax_block_matches_float64(void **state) {
    (void)state;
    struct rng r = {3};
    for (uint32_t first = 0; first < 2; first++) {
        for (uint32_t n = first + 1; n <= 128; n++) {
            float s[2][128], p[2][128], m = -INFINITY, l = 0, a[2];
            fill_random(&r, s[0], 256);
            memcpy(p, s, sizeof s);
            for (int b = 0; b < 2; b++) a[b] = ref()->softmax_block(p[b], first, n, 3.0f, &m, &l);
            double top = -INFINITY, sum = 0;
            for (int b = 0; b < 2; b++)
                for (uint32_t k = first; k < n; k++) top = fmax(top, (double)(s[b][k] * 3.0f));
            for (int b = 0; b < 2; b++)
                for (uint32_t k = first; k < n; k++) sum += exp((double)(s[b][k] * 3.0f) - top);
            assert_true(a[0] == 0 && (double)m == top && fabs(l - sum) < sum * 1e-6);
            for (uint32_t k = first; k < n;
                 k++) { /* p of the first block is on that block's scale */
                double e0 = exp((double)(s[0][k] * 3.0f) - top);
                double e1 = exp((double)(s[1][k] * 3.0f) - top);
                assert_true(fabs(p[0][k] * a[1] - e0) <= e0 * 4e-6 + 1e-37);
                assert_true(fabs(p[1][k] - e1) <= e1 * 4e-6 + 1e-37);
            }
        }
    }
}

static void swiglu_and_norm_match_float64(void **state) {
    (void)state;
    struct rng r = {4};
    enum { N = 1000 };
    float g[N], u[N], out[N], w[N];
    fill_random(&r, g, N);
    fill_random(&r, u, N);
    fill_random(&r, w, N);
    g[0] = -200, g[1] = 200, g[2] = 0;
    ref()->swiglu(out, g, u, N);
    for (int i = 0; i < N; i++) {
        double y = g[i] / (1 + exp(-(double)g[i])) * u[i];
        assert_true(fabs(out[i] - y) <= fabs(y) * 1e-6 + 1e-37);
    }
    for (uint32_t n = 1; n <= N; n += 37) {
        double ss = 0;
        for (uint32_t i = 0; i < n; i++) ss += (double)u[i] * u[i];
        ref()->rms_norm(out, u, w, n, 1e-6f);
        for (uint32_t i = 0; i < n; i++) {
            double y = w[i] * (u[i] / sqrt(ss / n + 1e-6));
            assert_true(fabs(out[i] - y) <= fabs(y) * 1e-6);
        }
    }
}

static void select_names_the_choices(void **state) {
    (void)state;
    const struct ops_kernels *k = NULL;
    struct err err;
    assert_int_equal(ops_kernels_select(&k, "sse9", &err), ST_INVALID);
    assert_non_null(strstr(err.text, "sse9"));
    assert_non_null(strstr(err.text, "ref"));
    assert_null(k);
    const struct ops_kernels *all[OPS_TABLES_MAX];
    uint32_t n = ops_kernels_all(all);
    assert_true(n >= 1);
    assert_string_equal(all[n - 1]->isa, "ref");
    assert_int_equal(ops_kernels_select(&k, NULL, &err), ST_OK);
    assert_ptr_equal(k, all[0]);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(ops_kernels_select(&k, all[i]->isa, &err), ST_OK);
        assert_ptr_equal(k, all[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_widens_exactly),
        cmocka_unit_test(lanes_and_tree_are_as_defined),
        cmocka_unit_test(a_lane_without_a_product_is_untouched),
        cmocka_unit_test(dot_matches_float64_for_every_type),
        cmocka_unit_test(chain_is_one_sum_down_the_rows),
        cmocka_unit_test(fp8_scales_follow_the_absolute_block),
        cmocka_unit_test(softmax_block_matches_float64),
        cmocka_unit_test(swiglu_and_norm_match_float64),
        cmocka_unit_test(select_names_the_choices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

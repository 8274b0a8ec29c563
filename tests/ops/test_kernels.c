/* SPDX-License-Identifier: Apache-2.0 */
/* Every instruction set gives the reference's bits, over shapes, strides, alignments, types and
 * strange values. All inputs end at pages that must not be touched, outputs are checked around
 * their edges. A failure prints the seed; OPS_TEST_SEED=N starts there. */
#include "ops/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops_test.h"

static const struct ops_kernels *tables[OPS_TABLES_MAX];
static uint32_t n_tables;

static uint64_t first_seed(void) {
    const char *s = getenv("OPS_TEST_SEED");
    return s ? strtoull(s, NULL, 10) : 20250101;
}

static const float strange[] = {0.0f,    -0.0f,  INFINITY, -INFINITY, NAN,    1e-45f,
                                -1e-45f, 1e-38f, 3.4e38f,  -3.4e38f,  1e-20f, -1e-20f};

/* Rows of floats with a stride, ending at a guard page, at any alignment that floats may have and
 * (odd) some that they may not. */
struct floats {
    struct guarded g;
    float *p;
    size_t n;
};
static struct floats floats_new(struct rng *r, size_t rows, size_t cols, size_t stride, int wild) {
    struct floats f = {.n = rows ? (rows - 1) * stride + cols : 0};
    f.g = guarded_new(f.n * sizeof(float));
    f.p = f.g.data;
    for (size_t i = 0; i < f.n; i++) {
        f.p[i] = rng_float(r);
        if (wild && rng_below(r, 200) == 0) f.p[i] = strange[rng_below(r, 12)];
    }
    return f;
}

static void same(const float *a, const float *b, size_t n, const char *what, const char *isa,
                 uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i]))
            fail_msg("%s, %s, seed %llu: place %zu is %a, expected %a", what, isa,
                     (unsigned long long)seed, i, (double)b[i], (double)a[i]);
}

struct dot_case {
    uint32_t n_tok, n_rows, cols, row0, row_base;
    enum ops_dtype dtype;
    enum test_codes codes;
    size_t pad;
    int wild;
};

static void check_dot(const struct dot_case *c, uint64_t seed) {
    struct rng r = {seed};
    struct test_matrix m =
        matrix_new(&r, c->dtype, c->row0 + c->n_rows, c->cols, c->pad, c->row_base, c->codes);
    size_t x_stride = c->cols + rng_below(&r, 9), out_stride = c->n_rows + rng_below(&r, 9);
    struct floats x = floats_new(&r, c->n_tok, c->cols, x_stride, c->wild);
    size_t n_out = c->n_tok ? (c->n_tok - 1) * out_stride + c->n_rows : 0;
    struct guarded out[2] = {guarded_new(n_out * 4), guarded_new(n_out * 4)};
    size_t ws_bytes = (ops_dot_workspace_bytes(c->cols) + 63) / 64 * 64;
    struct guarded ws = guarded_new(ws_bytes);
    for (uint32_t v = 0; v + 1 < n_tables; v++) {
        for (int i = 0; i < 2; i++) { /* strange bytes in the scratch must not matter */
            memset(out[i].data, 0xa5, n_out * 4);
            memset(ws.data, 0xff, ws_bytes);
            const struct ops_kernels *k = i == 0 ? tables[n_tables - 1] : tables[v];
            k->dot(out[i].data, out_stride, x.p, x_stride, c->n_tok, &m.w, c->row0, c->n_rows,
                   ws.data);
        }
        same(out[0].data, out[1].data, n_out, "dot", tables[v]->isa, seed);
    }
    matrix_free(&m);
    guarded_free(&x.g);
    guarded_free(&out[0]);
    guarded_free(&out[1]);
    guarded_free(&ws);
}

static const uint32_t counts[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 31, 33, 97, 130};
static const uint32_t widths[] = {0,   1,   2,   7,   8,   15,  16,  17,  31,  32,  33,
                                  48,  63,  64,  65,  100, 127, 128, 129, 143, 144, 145,
                                  160, 192, 255, 256, 257, 511, 512, 513, 640, 777, 1030};
enum { N_COUNTS = sizeof counts / sizeof *counts, N_WIDTHS = sizeof widths / sizeof *widths };

static uint32_t count(struct rng *r) {
    return counts[rng_below(r, N_COUNTS)];
}
static uint32_t width(struct rng *r) {
    return widths[rng_below(r, N_WIDTHS)];
}

static void dot_is_the_reference_for_every_type_and_width(void **state) {
    (void)state;
    uint64_t seed = first_seed();
    for (int d = OPS_F32; d <= OPS_F8; d++) {
        for (int i = 0; i < N_WIDTHS; i++) {
            for (uint32_t n_tok = 0; n_tok < 12; n_tok++) {
                struct dot_case c = {.n_tok = n_tok,
                                     .n_rows = 11,
                                     .cols = widths[i],
                                     .dtype = d,
                                     .row_base = 120,
                                     .row0 = n_tok % 3,
                                     .pad = n_tok % 2};
                c.codes = n_tok & 4 ? CODES_WILD : CODES_TAME;
                check_dot(&c, seed++);
            }
        }
    }
}

static void dot_is_the_reference_over_random_cases(void **state) {
    (void)state;
    for (uint64_t seed = first_seed(), end = seed + 1200; seed < end; seed++) {
        struct rng r = {~seed};
        struct dot_case c = {.n_tok = count(&r), .n_rows = count(&r), .cols = width(&r)};
        c.row0 = rng_below(&r, 5);
        c.row_base = rng_below(&r, 2) ? rng_below(&r, 300) : 0;
        c.dtype = rng_below(&r, 4);
        c.codes = rng_below(&r, 2);
        c.pad = rng_below(&r, 3) ? 0 : rng_below(&r, 70);
        c.wild = rng_below(&r, 2) != 0;
        check_dot(&c, seed);
    }
}

/* Every code at every place of a register, against 1, so that its own value is the result. */
static void dot_widens_every_f8_code_everywhere(void **state) {
    (void)state;
    enum { COLS = 150 };
    float scale[2] = {1, 1}, x[COLS] = {0};
    for (uint32_t v = 0; v < n_tables; v++) {
        void *ws = aligned_alloc(64, (ops_dot_workspace_bytes(COLS) + 63) / 64 * 64);
        uint8_t codes[5 * COLS] = {0};
        struct ops_weight w = {.dtype = OPS_F8,
                               .rows = 5,
                               .cols = COLS,
                               .data = codes,
                               .stride_bytes = COLS,
                               .scales = scale,
                               .scale_stride = 2};
        for (uint32_t at = 0; at < COLS; at++) {
            x[at] = 1;
            for (unsigned code = 0; code < 256; code++) {
                float out[5 * 5], exact = ops_f8_to_f32((uint8_t)code) + 0.0f;
                codes[at] = codes[4 * COLS + at] = (uint8_t)code;
                tables[v]->dot(out, 5, x, 0, code % 2 ? 1 : 5, &w, 0, 5, ws);
                assert_true(same_float(out[0], exact) && same_float(out[4], exact));
                assert_true(out[1] == 0);
            }
            codes[at] = codes[4 * COLS + at] = 0;
            x[at] = 0;
        }
        free(ws);
    }
}

/* --- chain ------------------------------------------------------------------------------------ */

static void check_chain(struct dot_case *c, int use_depth, uint64_t seed) {
    struct rng r = {seed};
    uint32_t n_depth = c->n_rows, n_cols = c->cols;
    struct test_matrix m =
        matrix_new(&r, c->dtype, c->row0 + n_depth, n_cols, c->pad, c->row_base, c->codes);
    m.w.cols = n_cols;
    if (n_cols > 3 && rng_below(&r, 2)) n_cols -= rng_below(&r, 3); /* fewer than the matrix has */
    size_t x_stride = n_depth + rng_below(&r, 9), acc_stride = n_cols + rng_below(&r, 9);
    struct floats x = floats_new(&r, c->n_tok, n_depth, x_stride, c->wild);
    struct floats acc = floats_new(&r, c->n_tok, n_cols, acc_stride, c->wild);
    struct guarded out[2] = {guarded_new(acc.n * 4), guarded_new(acc.n * 4)};
    struct guarded depth = guarded_new(c->n_tok * sizeof(uint32_t));
    uint32_t *d = depth.data;
    for (uint32_t t = 0; t < c->n_tok; t++) d[t] = rng_below(&r, n_depth + 1);
    for (uint32_t v = 0; v + 1 < n_tables; v++) {
        for (int i = 0; i < 2; i++) {
            const struct ops_kernels *k = i == 0 ? tables[n_tables - 1] : tables[v];
            memcpy(out[i].data, acc.p, acc.n * 4);
            k->chain(out[i].data, acc_stride, x.p, x_stride, c->n_tok, use_depth ? d : NULL,
                     n_depth, &m.w, c->row0, n_cols);
        }
        same(out[0].data, out[1].data, acc.n, "chain", tables[v]->isa, seed);
    }
    matrix_free(&m);
    guarded_free(&x.g);
    guarded_free(&acc.g);
    guarded_free(&out[0]);
    guarded_free(&out[1]);
    guarded_free(&depth);
}

static void chain_is_the_reference_over_random_cases(void **state) {
    (void)state;
    for (uint64_t seed = first_seed(), end = seed + 2500; seed < end; seed++) {
        struct rng r = {~seed};
        struct dot_case c = {.n_tok = rng_below(&r, 20), .n_rows = count(&r), .cols = width(&r)};
        if (rng_below(&r, 8) == 0) c.n_rows = 300; /* over two scale blocks */
        c.row0 = rng_below(&r, 5);
        c.row_base = rng_below(&r, 2) ? rng_below(&r, 300) : 0;
        c.dtype = rng_below(&r, 4);
        c.codes = rng_below(&r, 2);
        c.pad = rng_below(&r, 3) ? 0 : rng_below(&r, 70);
        c.wild = rng_below(&r, 2) != 0;
        check_chain(&c, (int)rng_below(&r, 2), seed);
    }
}

/* --- rows ------------------------------------------------------------------------------------- */

static void softmax_is_the_reference_for_every_first_and_n(void **state) {
    (void)state;
    struct rng r = {first_seed()};
    for (uint32_t first = 0; first < 40; first++) {
        for (uint32_t n = first + 1; n <= 128; n++) {
            struct floats s = floats_new(&r, 1, n, n, n % 5 == 0);
            struct guarded p[2] = {guarded_new(n * 4), guarded_new(n * 4)};
            float m0 = n % 3 ? rng_float(&r) : -INFINITY, l0 = n % 3 ? 7.5f : 0;
            if (n % 11 == 0)
                for (uint32_t k = 0; k < n; k++) s.p[k] = -INFINITY;
            for (uint32_t k = 0; k < n && n % 7 == 0; k++) s.p[k] *= 60; /* underflow in places */
            for (uint32_t v = 0; v + 1 < n_tables; v++) {
                float m[2] = {m0, m0}, l[2] = {l0, l0}, a[2];
                for (int i = 0; i < 2; i++) {
                    memcpy(p[i].data, s.p, n * 4);
                    a[i] = tables[i ? v : n_tables - 1]->softmax_block(p[i].data, first, n, 0.7f,
                                                                       m + i, l + i);
                }
                same(p[0].data, p[1].data, n, "softmax", tables[v]->isa, first * 1000 + n);
                same(m, m + 1, 1, "softmax m", tables[v]->isa, first * 1000 + n);
                same(l, l + 1, 1, "softmax l", tables[v]->isa, first * 1000 + n);
                same(a, a + 1, 1, "softmax a", tables[v]->isa, first * 1000 + n);
            }
            guarded_free(&s.g);
            guarded_free(&p[0]);
            guarded_free(&p[1]);
        }
    }
}

static void swiglu_and_norm_are_the_reference(void **state) {
    (void)state;
    struct rng r = {first_seed()};
    for (uint32_t n = 1; n < 300; n++) {
        struct floats g = floats_new(&r, 1, n, n, 1), u = floats_new(&r, 1, n, n, n % 2);
        struct guarded out[2] = {guarded_new(n * 4), guarded_new(n * 4)};
        for (uint32_t i = 0; i < n && n % 3 == 0; i++) g.p[i] *= 50;
        for (uint32_t v = 0; v + 1 < n_tables; v++) {
            for (int i = 0; i < 2; i++)
                tables[i ? v : n_tables - 1]->swiglu(out[i].data, g.p, u.p, n);
            same(out[0].data, out[1].data, n, "swiglu", tables[v]->isa, n);
            for (int i = 0; i < 2; i++) { /* in place */
                memcpy(out[i].data, u.p, n * 4);
                tables[i ? v : n_tables - 1]->swiglu(out[i].data, g.p, out[i].data, n);
            }
            same(out[0].data, out[1].data, n, "swiglu in place", tables[v]->isa, n);
            for (int i = 0; i < 2; i++) {
                memcpy(out[i].data, u.p, n * 4);
                tables[i ? v : n_tables - 1]->rms_norm(out[i].data, out[i].data, g.p, n, 1e-6f);
            }
            same(out[0].data, out[1].data, n, "rms_norm", tables[v]->isa, n);
        }
        guarded_free(&g.g);
        guarded_free(&u.g);
        guarded_free(&out[0]);
        guarded_free(&out[1]);
    }
}

/* Bits of one output do not depend on what shares the call: any cut of tokens and rows gives the
 * same. */
static void dot_does_not_depend_on_how_calls_are_cut(void **state) {
    (void)state;
    struct rng r = {first_seed()};
    enum { ROWS = 70, COLS = 300, TOK = 40 };
    for (uint32_t v = 0; v < n_tables; v++) {
        for (int d = OPS_F32; d <= OPS_F8; d++) {
            struct test_matrix m = matrix_new(&r, d, ROWS, COLS, 0, 50, CODES_TAME);
            struct floats x = floats_new(&r, TOK, COLS, COLS, 0);
            static float whole[TOK * ROWS], cut[TOK * ROWS];
            void *ws = aligned_alloc(64, (ops_dot_workspace_bytes(COLS) + 63) / 64 * 64);
            tables[v]->dot(whole, ROWS, x.p, COLS, TOK, &m.w, 0, ROWS, ws);
            for (uint32_t t = 0, nt; t < TOK; t += nt) {
                nt = 1 + rng_below(&r, TOK - t);
                for (uint32_t i = 0, ni; i < ROWS; i += ni) {
                    ni = 1 + rng_below(&r, ROWS - i);
                    tables[v]->dot(cut + t * ROWS + i, ROWS, x.p + t * COLS, COLS, nt, &m.w, i, ni,
                                   ws);
                }
            }
            assert_memory_equal(whole, cut, sizeof whole);
            free(ws);
            matrix_free(&m);
            guarded_free(&x.g);
        }
    }
}

int main(void) {
    n_tables = ops_kernels_all(tables);
    printf("# tables:");
    for (uint32_t i = 0; i < n_tables; i++) printf(" %s", tables[i]->isa);
    printf("\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot_is_the_reference_for_every_type_and_width),
        cmocka_unit_test(dot_is_the_reference_over_random_cases),
        cmocka_unit_test(dot_widens_every_f8_code_everywhere),
        cmocka_unit_test(dot_does_not_depend_on_how_calls_are_cut),
        cmocka_unit_test(chain_is_the_reference_over_random_cases),
        cmocka_unit_test(softmax_is_the_reference_for_every_first_and_n),
        cmocka_unit_test(swiglu_and_norm_are_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

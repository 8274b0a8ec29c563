/* SPDX-License-Identifier: Apache-2.0 */
/* chain for AVX2: a register is 8 columns, each with its own sum down the rows. The plan is that of
 * avx512/chain.c with half the registers: 12 sums of 16 columns for 6 tokens; one token takes 64
 * columns at once. */
#include "ops/avx2/avx2.h"

#include <assert.h>

#include "ops/avx2/lanes.h"

enum { TOKENS = 6, PAIR = 2, ONE_WIDE = 4 /* of 16 columns */, AHEAD_ROWS = 8 };

struct matrix {
    const uint8_t *data; /* row 0, column 0 of the call */
    size_t stride;
    const float *scales; /* F8: of the stored tensor's first scale row */
    size_t scale_stride;
    uint32_t absolute; /* F8: stored row of row 0 */
};

/* sum[t][c] over rows [d, end). Only the last 16 columns may be ragged (n < 16, n_c = 1). */
INLINE void run(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_c,
                struct lanes sum[TOKENS][ONE_WIDE], const float *x, size_t x_stride,
                const struct matrix *w, uint32_t c, uint32_t d, uint32_t end, uint32_t n) {
    const size_t size = ops_dtype_bytes(dtype);
    const uint8_t *p = w->data + d * w->stride + c * size;
    for (; d < end; d++, p += w->stride) {
        EACH(i, n_c) {
            struct lanes v = n == 16 ? load_codes(dtype, p + 16 * i * size)
                                     : load_codes_first(dtype, p + 16 * i * size, n);
            if (n_t == 1 && i * 16 * size % 64 == 0)
                _mm_prefetch((const char *)p + AHEAD_ROWS * w->stride + i * 16 * size, _MM_HINT_T0);
            EACH(t, n_t) {
                __m256 xt = _mm256_broadcast_ss(x + t * x_stride + d);
                sum[t][i] = lanes_fma((struct lanes){xt, xt}, v, sum[t][i]);
            }
        }
    }
}

INLINE void tile(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_c, float *acc,
                 size_t acc_stride, const float *x, size_t x_stride, const struct matrix *w,
                 uint32_t c, uint32_t d, uint32_t end, uint32_t n) {
    struct lanes sum[TOKENS][ONE_WIDE];
    while (d < end) {
        uint32_t absolute = w->absolute + d;
        uint32_t stop = dtype == OPS_F8 ? d + OPS_SCALE_BLOCK - absolute % OPS_SCALE_BLOCK : end;
        if (stop > end) stop = end;
        EACH(t, n_t)
            EACH(i, n_c)
                sum[t][i] = dtype == OPS_F8
                                ? lanes_zero()
                                : lanes_load_first(n, acc + t * acc_stride + c + 16 * i);
        run(dtype, n_t, n_c, sum, x, x_stride, w, c, d, stop, n);
        EACH(i, n_c) {
            __m256 scale = _mm256_setzero_ps();
            if (dtype == OPS_F8)
                scale = _mm256_set1_ps(w->scales[absolute / OPS_SCALE_BLOCK * w->scale_stride +
                                                 (c + 16 * i) / OPS_SCALE_BLOCK]);
            EACH(t, n_t) {
                float *to = acc + t * acc_stride + c + 16 * i;
                if (dtype == OPS_F8)
                    sum[t][i] =
                        lanes_fma(sum[t][i], (struct lanes){scale, scale}, lanes_load_first(n, to));
                lanes_store_first(n, to, sum[t][i]);
            }
        }
        d = stop;
    }
}

/* Tokens of one tile share the rows that all of them take; the rest of each follows alone. In F8 a
 * chain may not be cut there, so tokens of unlike depth run alone from the start. */
INLINE void tokens(enum ops_dtype dtype, const uint32_t n_t, float *acc, size_t acc_stride,
                   const float *x, size_t x_stride, const uint32_t *depth, uint32_t n_depth,
                   const struct matrix *w, uint32_t c, uint32_t n) {
    uint32_t common = n_depth;
    for (uint32_t t = 0; depth && t < n_t; t++)
        if (depth[t] < common) common = depth[t];
    for (uint32_t t = 0; dtype == OPS_F8 && depth && t < n_t; t++)
        if (depth[t] != common) common = 0;
    tile(dtype, n_t, 1, acc, acc_stride, x, x_stride, w, c, 0, common, n);
    for (uint32_t t = 0; depth && t < n_t; t++)
        if (depth[t] > common)
            tile(dtype, 1, 1, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride, w, c,
                 common, depth[t], n);
}

/* One strip of 16 columns or the ragged end, all tokens. */
INLINE void strip(enum ops_dtype dtype, float *acc, size_t acc_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const uint32_t *depth, uint32_t n_depth,
                  const struct matrix *w, uint32_t c, uint32_t n) {
    uint32_t t = 0;
    for (; t + TOKENS <= n_tok; t += TOKENS)
        tokens(dtype, TOKENS, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, n);
    for (; t + PAIR <= n_tok; t += PAIR)
        tokens(dtype, PAIR, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, n);
    if (t < n_tok)
        tokens(dtype, 1, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, n);
}

INLINE void chain(enum ops_dtype dtype, float *acc, size_t acc_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const uint32_t *depth, uint32_t n_depth,
                  const struct matrix *w, uint32_t n_cols) {
    uint32_t c = 0;
    if (n_tok == 1)
        for (; c + 16 * ONE_WIDE <= n_cols; c += 16 * ONE_WIDE)
            tile(dtype, 1, ONE_WIDE, acc, acc_stride, x, x_stride, w, c, 0,
                 depth ? depth[0] : n_depth, 16);
    for (; c + 16 <= n_cols; c += 16)
        strip(dtype, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, w, c, 16);
    if (c < n_cols)
        strip(dtype, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, w, c, n_cols - c);
}

void avx2_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w, uint32_t row0,
                uint32_t n_cols) {
    assert((uint64_t)row0 + n_depth <= w->rows && n_cols <= w->cols);
    struct matrix m = {.data = (const uint8_t *)w->data + row0 * w->stride_bytes,
                       .stride = w->stride_bytes,
                       .scales = w->scales,
                       .scale_stride = w->scale_stride,
                       .absolute = w->row_base + row0};
    switch (w->dtype) {
    case OPS_F32:
        chain(OPS_F32, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, &m, n_cols);
        return;
    case OPS_BF16:
        chain(OPS_BF16, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, &m, n_cols);
        return;
    case OPS_F16:
        chain(OPS_F16, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, &m, n_cols);
        return;
    case OPS_F8:
        chain(OPS_F8, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, &m, n_cols);
        return;
    }
}

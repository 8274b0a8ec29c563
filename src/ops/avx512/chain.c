/* SPDX-License-Identifier: Apache-2.0 */
/* chain for AVX-512: a register is 16 columns, each with its own sum down the rows.
 *
 * Floor: prompts, 24 FMAs of 4 x 16 columns for 6 tokens a row against 4 loads and 6 broadcasts;
 * generated tokens, the bytes of w. The 64 columns of 128 rows stay in the first-level cache for
 * all tokens, so rows must not lie a multiple of 512 bytes apart (attention.c pads them: 16 rows on
 * one set of 12 ways cost a third of the speed). One token takes 256 columns at once: 16
 * independent chains hide the FMA's latency, and the reads of a row are long enough for the
 * hardware to follow. */
#include "ops/avx512/avx512.h"

#include <assert.h>

#include "ops/avx512/lanes.h"

enum { TOKENS = 6, PAIR = 2, WIDE = 4, ONE_WIDE = 16, AHEAD_ROWS = 8 };

struct matrix {
    const uint8_t *data; /* row 0, column 0 of the call */
    size_t stride;
    const float *scales; /* F8: of the stored tensor's first scale row */
    size_t scale_stride;
    uint32_t absolute; /* F8: stored row of row 0 */
};

/* Row p as n_c registers; mask is for the only register of a ragged end (n_c = 1). */
INLINE void load_row(enum ops_dtype dtype, const uint32_t n_c, __m512 v[ONE_WIDE], const uint8_t *p,
                     __mmask16 mask, const struct f8_tables *tables) {
    const size_t step = 16 * ops_dtype_bytes(dtype);
    if (n_c == 1) {
        v[0] = load_codes_masked(dtype, p, mask);
        return;
    }
    for (uint32_t i = 0; i < n_c; i += 4) {
        if (dtype == OPS_F8)
            widen_f8x64(v + i, _mm512_loadu_si512(p + i * step), tables);
        else
            for (uint32_t j = i; j < i + 4; j++) v[j] = load_codes(dtype, p + j * step);
    }
}

/* sum[t][c] over rows [d, end). */
INLINE void run(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_c,
                __m512 sum[TOKENS][ONE_WIDE], const float *x, size_t x_stride,
                const struct matrix *w, uint32_t c, uint32_t d, uint32_t end, __mmask16 mask) {
    const struct f8_tables tables = f8_tables_load();
    const size_t size = ops_dtype_bytes(dtype);
    const uint8_t *p = w->data + d * w->stride + c * size;
    for (; d < end; d++, p += w->stride) {
        __m512 v[ONE_WIDE];
        load_row(dtype, n_c, v, p, mask, &tables);
        if (n_t == 1)
            for (size_t b = 0; b < n_c * 16 * size; b += 64)
                _mm_prefetch((const char *)p + AHEAD_ROWS * w->stride + b, _MM_HINT_T0);
        EACH(t, n_t) {
            __m512 xt = _mm512_set1_ps(x[t * x_stride + d]);
            EACH(i, n_c) sum[t][i] = _mm512_fmadd_ps(xt, v[i], sum[t][i]);
        }
    }
}

INLINE void store(float *acc, __m512 v, __mmask16 mask) {
    _mm512_mask_storeu_ps(acc, mask, v);
}

INLINE void tile(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_c, float *acc,
                 size_t acc_stride, const float *x, size_t x_stride, const struct matrix *w,
                 uint32_t c, uint32_t d, uint32_t end, __mmask16 mask) {
    __m512 sum[TOKENS][ONE_WIDE];
    while (d < end) {
        uint32_t absolute = w->absolute + d;
        uint32_t stop = dtype == OPS_F8 ? d + OPS_SCALE_BLOCK - absolute % OPS_SCALE_BLOCK : end;
        if (stop > end) stop = end;
        EACH(t, n_t)
            EACH(i, n_c)
                sum[t][i] = dtype == OPS_F8
                                ? _mm512_setzero_ps()
                                : _mm512_maskz_loadu_ps(mask, acc + t * acc_stride + c + 16 * i);
        run(dtype, n_t, n_c, sum, x, x_stride, w, c, d, stop, mask);
        EACH(i, n_c) {
            __m512 scale = _mm512_setzero_ps();
            if (dtype == OPS_F8)
                scale = _mm512_set1_ps(w->scales[absolute / OPS_SCALE_BLOCK * w->scale_stride +
                                                 (c + 16 * i) / OPS_SCALE_BLOCK]);
            EACH(t, n_t) {
                float *to = acc + t * acc_stride + c + 16 * i;
                if (dtype == OPS_F8)
                    sum[t][i] = _mm512_fmadd_ps(sum[t][i], scale, _mm512_maskz_loadu_ps(mask, to));
                store(to, sum[t][i], mask);
            }
        }
        d = stop;
    }
}

/* Tokens of one tile share the rows that all of them take; the rest of each follows alone. In F8 a
 * chain may not be cut there, so tokens of unlike depth run alone from the start. */
INLINE void tokens(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_c, float *acc,
                   size_t acc_stride, const float *x, size_t x_stride, const uint32_t *depth,
                   uint32_t n_depth, const struct matrix *w, uint32_t c, __mmask16 mask) {
    uint32_t common = n_depth;
    for (uint32_t t = 0; depth && t < n_t; t++)
        if (depth[t] < common) common = depth[t];
    for (uint32_t t = 0; dtype == OPS_F8 && depth && t < n_t; t++)
        if (depth[t] != common) common = 0;
    tile(dtype, n_t, n_c, acc, acc_stride, x, x_stride, w, c, 0, common, mask);
    for (uint32_t t = 0; depth && t < n_t; t++)
        if (depth[t] > common)
            tile(dtype, 1, n_c, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride, w, c,
                 common, depth[t], mask);
}

/* One strip of n_c x 16 columns, all tokens. */
INLINE void strip(enum ops_dtype dtype, const uint32_t n_c, float *acc, size_t acc_stride,
                  const float *x, size_t x_stride, uint32_t n_tok, const uint32_t *depth,
                  uint32_t n_depth, const struct matrix *w, uint32_t c, __mmask16 mask) {
    uint32_t t = 0;
    for (; t + TOKENS <= n_tok; t += TOKENS)
        tokens(dtype, TOKENS, n_c, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, mask);
    for (; t + PAIR <= n_tok; t += PAIR)
        tokens(dtype, PAIR, n_c, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, mask);
    if (t < n_tok)
        tokens(dtype, 1, n_c, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
               depth ? depth + t : NULL, n_depth, w, c, mask);
}

INLINE void chain(enum ops_dtype dtype, float *acc, size_t acc_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const uint32_t *depth, uint32_t n_depth,
                  const struct matrix *w, uint32_t n_cols) {
    uint32_t c = 0;
    if (n_tok == 1)
        for (; c + 16 * ONE_WIDE <= n_cols; c += 16 * ONE_WIDE)
            tile(dtype, 1, ONE_WIDE, acc, acc_stride, x, x_stride, w, c, 0,
                 depth ? depth[0] : n_depth, 0xffff);
    for (; c + 16 * WIDE <= n_cols; c += 16 * WIDE)
        strip(dtype, WIDE, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, w, c, 0xffff);
    for (; c < n_cols; c += 16)
        strip(dtype, 1, acc, acc_stride, x, x_stride, n_tok, depth, n_depth, w, c,
              first_lanes(n_cols - c));
}

void avx512_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                  const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w,
                  uint32_t row0, uint32_t n_cols) {
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

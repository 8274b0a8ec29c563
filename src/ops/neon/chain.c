/* SPDX-License-Identifier: Apache-2.0 */
/* chain for NEON: four registers are 16 columns, each with its own sum down the rows; four tokens
 * share a row. Checked for bits under emulation; its speed has not been measured on a real
 * processor. */
#include "ops/neon/neon.h"

#include <assert.h>

#include "ops/neon/lanes.h"

enum { TOKENS = 4 };

struct matrix {
    const uint8_t *data; /* row 0, column 0 of the call */
    size_t stride;
    const float *scales; /* F8: of the stored tensor's first scale row */
    size_t scale_stride;
    uint32_t absolute; /* F8: stored row of row 0 */
};

/* sum[t] over rows [d, end), n <= 16 columns from c on. */
INLINE void run(enum ops_dtype dtype, const uint32_t n_t, lanes sum[TOKENS], const float *x,
                size_t x_stride, const struct matrix *w, uint32_t c, uint32_t d, uint32_t end,
                uint32_t n) {
    const uint8_t *p = w->data + d * w->stride + c * ops_dtype_bytes(dtype);
    for (; d < end; d++, p += w->stride) {
        lanes v = n == 16 ? load_codes(dtype, p) : load_codes_first(dtype, p, n);
        for (uint32_t t = 0; t < n_t; t++)
            sum[t] = lanes_fma(lanes_set(x[t * x_stride + d]), v, sum[t]);
    }
}

INLINE void tile(enum ops_dtype dtype, const uint32_t n_t, float *acc, size_t acc_stride,
                 const float *x, size_t x_stride, const struct matrix *w, uint32_t c, uint32_t d,
                 uint32_t end, uint32_t n) {
    lanes sum[TOKENS];
    while (d < end) {
        uint32_t absolute = w->absolute + d;
        uint32_t stop = dtype == OPS_F8 ? d + OPS_SCALE_BLOCK - absolute % OPS_SCALE_BLOCK : end;
        if (stop > end) stop = end;
        for (uint32_t t = 0; t < n_t; t++) {
            const float *from = acc + t * acc_stride + c;
            sum[t] = dtype == OPS_F8 ? lanes_set(0)
                     : n == 16       ? lanes_load(from)
                                     : lanes_load_first(n, from);
        }
        run(dtype, n_t, sum, x, x_stride, w, c, d, stop, n);
        for (uint32_t t = 0; t < n_t; t++) {
            float *to = acc + t * acc_stride + c;
            if (dtype == OPS_F8) {
                lanes scale = lanes_set(
                    w->scales[absolute / OPS_SCALE_BLOCK * w->scale_stride + c / OPS_SCALE_BLOCK]);
                sum[t] =
                    lanes_fma(sum[t], scale, n == 16 ? lanes_load(to) : lanes_load_first(n, to));
            }
            lanes_store_first(n, to, sum[t]);
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
    tile(dtype, n_t, acc, acc_stride, x, x_stride, w, c, 0, common, n);
    for (uint32_t t = 0; depth && t < n_t; t++)
        if (depth[t] > common)
            tile(dtype, 1, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride, w, c,
                 common, depth[t], n);
}

INLINE void chain(enum ops_dtype dtype, float *acc, size_t acc_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const uint32_t *depth, uint32_t n_depth,
                  const struct matrix *w, uint32_t n_cols) {
    for (uint32_t c = 0; c < n_cols; c += 16) {
        uint32_t n = n_cols - c < 16 ? n_cols - c : 16, t = 0;
        for (; t + TOKENS <= n_tok; t += TOKENS)
            tokens(dtype, TOKENS, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
                   depth ? depth + t : NULL, n_depth, w, c, n);
        for (; t < n_tok; t++)
            tokens(dtype, 1, acc + t * acc_stride, acc_stride, x + t * x_stride, x_stride,
                   depth ? depth + t : NULL, n_depth, w, c, n);
    }
}

void neon_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
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

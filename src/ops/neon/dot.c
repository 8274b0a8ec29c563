/* SPDX-License-Identifier: Apache-2.0 */
/* dot for NEON: four registers are the 16 lanes of one output. One token takes its weights straight
 * from memory; more tokens meet two rows that were widened once into the scratch, three tokens at a
 * time: 24 sums in 32 registers, 20 loads for 24 FMAs a step. Checked for bits under emulation; its
 * speed has not been measured on a real processor. */
#include "ops/neon/neon.h"

#include <assert.h>

#include "ops/neon/lanes.h"

enum { TILE_ROWS = NEON_DOT_ROWS, TILE_TOKENS = 3 };

struct rows {
    const uint8_t *data; /* the first row of the call */
    size_t stride;
    const float *scales; /* F8: of the stored tensor's first scale row */
    size_t scale_stride;
    uint32_t absolute; /* F8: stored row of the first row */
    uint32_t cols;
};

/* acc[t][r] += x row t * w row r over n columns; w has rows w_stride bytes apart. */
INLINE void run(enum ops_dtype dtype, const uint32_t n_t, const uint32_t n_r,
                lanes acc[TILE_TOKENS][TILE_ROWS], const float *x, size_t x_stride,
                const uint8_t *w, size_t w_stride, uint32_t n) {
    const size_t size = ops_dtype_bytes(dtype);
    uint32_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lanes xv[TILE_TOKENS];
        for (uint32_t t = 0; t < n_t; t++) xv[t] = lanes_load(x + t * x_stride + k);
        for (uint32_t r = 0; r < n_r; r++) {
            lanes wv = load_codes(dtype, w + r * w_stride + k * size);
            for (uint32_t t = 0; t < n_t; t++) acc[t][r] = lanes_fma(xv[t], wv, acc[t][r]);
        }
    }
    if (k == n) return;
    for (uint32_t r = 0; r < n_r; r++) {
        lanes wv = load_codes_first(dtype, w + r * w_stride + k * size, n - k);
        for (uint32_t t = 0; t < n_t; t++) {
            lanes xv = lanes_load_first(n - k, x + t * x_stride + k);
            acc[t][r] = lanes_first(n - k, lanes_fma(xv, wv, acc[t][r]), acc[t][r]);
        }
    }
}

/* One tile: stored is the type of the matrix (F8 has scales), dtype that of the bytes at data (F32
 * once widened). */
INLINE void tile(enum ops_dtype stored, enum ops_dtype dtype, const uint32_t n_t,
                 const uint32_t n_r, float *out, size_t out_stride, const float *x, size_t x_stride,
                 const uint8_t *data, size_t stride, const struct rows *w, uint32_t r0) {
    lanes acc[TILE_TOKENS][TILE_ROWS], part[TILE_TOKENS][TILE_ROWS];
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t r = 0; r < n_r; r++) acc[t][r] = lanes_set(0);
    if (stored != OPS_F8) run(dtype, n_t, n_r, acc, x, x_stride, data, stride, w->cols);
    for (uint32_t k = 0; stored == OPS_F8 && k < w->cols; k += OPS_SCALE_BLOCK) {
        uint32_t len = w->cols - k < OPS_SCALE_BLOCK ? w->cols - k : OPS_SCALE_BLOCK;
        for (uint32_t t = 0; t < n_t; t++)
            for (uint32_t r = 0; r < n_r; r++) part[t][r] = lanes_set(0);
        run(dtype, n_t, n_r, part, x + k, x_stride, data + k * ops_dtype_bytes(dtype), stride, len);
        for (uint32_t r = 0; r < n_r; r++) {
            size_t scale_row = (w->absolute + r0 + r) / OPS_SCALE_BLOCK * w->scale_stride;
            lanes scale = lanes_set(w->scales[scale_row + k / OPS_SCALE_BLOCK]);
            for (uint32_t t = 0; t < n_t; t++)
                acc[t][r] = lanes_first(len, lanes_fma(part[t][r], scale, acc[t][r]), acc[t][r]);
        }
    }
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t r = 0; r < n_r; r++) out[t * out_stride + r0 + r] = tree_sum(acc[t][r]);
}

INLINE void widen_row(enum ops_dtype dtype, float *to, const uint8_t *from, uint32_t n) {
    const size_t size = ops_dtype_bytes(dtype);
    uint32_t k = 0;
    for (; k + 16 <= n; k += 16) lanes_store(to + k, load_codes(dtype, from + k * size));
    if (k < n) lanes_store_first(n - k, to + k, load_codes_first(dtype, from + k * size, n - k));
}

/* n_r rows from r0 on, all tokens. */
INLINE void rows_many(enum ops_dtype dtype, const uint32_t n_r, float *out, size_t out_stride,
                      const float *x, size_t x_stride, uint32_t n_tok, const struct rows *w,
                      uint32_t r0, float *ws) {
    const uint8_t *data = (const uint8_t *)ws;
    uint32_t t = 0;
    for (uint32_t r = 0; r < n_r; r++)
        widen_row(dtype, ws + (size_t)r * w->cols, w->data + (r0 + r) * w->stride, w->cols);
    for (; t + TILE_TOKENS <= n_tok; t += TILE_TOKENS)
        tile(dtype, OPS_F32, TILE_TOKENS, n_r, out + t * out_stride, out_stride, x + t * x_stride,
             x_stride, data, w->cols * sizeof(float), w, r0);
    for (; t < n_tok; t++)
        tile(dtype, OPS_F32, 1, n_r, out + t * out_stride, out_stride, x + t * x_stride, x_stride,
             data, w->cols * sizeof(float), w, r0);
}

INLINE void dot(enum ops_dtype dtype, float *out, size_t out_stride, const float *x,
                size_t x_stride, uint32_t n_tok, const struct rows *w, uint32_t n_rows, void *ws) {
    uint32_t r = 0;
    for (; n_tok == 1 && r < n_rows; r++)
        tile(dtype, dtype, 1, 1, out, out_stride, x, x_stride, w->data + r * w->stride, w->stride,
             w, r);
    for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
        rows_many(dtype, TILE_ROWS, out, out_stride, x, x_stride, n_tok, w, r, ws);
    for (; r < n_rows; r++) rows_many(dtype, 1, out, out_stride, x, x_stride, n_tok, w, r, ws);
}

void neon_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
              const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws) {
    assert((uint64_t)row0 + n_rows <= w->rows);
    struct rows rows = {.data = (const uint8_t *)w->data + row0 * w->stride_bytes,
                        .stride = w->stride_bytes,
                        .scales = w->scales,
                        .scale_stride = w->scale_stride,
                        .absolute = w->row_base + row0,
                        .cols = w->cols};
    switch (w->dtype) {
    case OPS_F32: dot(OPS_F32, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_BF16: dot(OPS_BF16, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_F16: dot(OPS_F16, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_F8: dot(OPS_F8, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    }
}

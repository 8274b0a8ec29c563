/* SPDX-License-Identifier: Apache-2.0 */
/* The dot product, defined: 16 lanes take the products in turn with fmaf, then a tree adds the
 * lanes (contracts 1). One 512-bit, two 256-bit or four 128-bit registers can hold the lanes, so
 * every instruction set can repeat these steps exactly. A row of codes is widened once into the
 * scratch and then meets every token. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* lane[j] takes x[k] * w[k] for k = j, j + 16, ... < n. */
static void gather(float lane[OPS_LANES], const float *x, const float *w, uint32_t n) {
    uint32_t k = 0;
    for (; k + OPS_LANES <= n; k += OPS_LANES)
        for (int j = 0; j < OPS_LANES; j++) lane[j] = fmaf(x[k + j], w[k + j], lane[j]);
    for (uint32_t j = 0; k + j < n; j++) lane[j] = fmaf(x[k + j], w[k + j], lane[j]);
}

static float dot_plain(const float *x, const float *w, uint32_t n) {
    float lane[OPS_LANES] = {0};
    gather(lane, x, w, n);
    return ref_tree_sum(lane);
}

/* Products of one scale block gather in lanes of their own; only lanes that had one take the scaled
 * partial sum. */
static float dot_scaled(const float *x, const float *w, uint32_t n, const float *scales) {
    float lane[OPS_LANES] = {0};
    for (uint32_t k = 0; k < n; k += OPS_SCALE_BLOCK) {
        uint32_t len = n - k < OPS_SCALE_BLOCK ? n - k : OPS_SCALE_BLOCK;
        uint32_t used = len < OPS_LANES ? len : OPS_LANES;
        float part[OPS_LANES] = {0};
        gather(part, x + k, w + k, len);
        for (uint32_t j = 0; j < used; j++)
            lane[j] = fmaf(part[j], scales[k / OPS_SCALE_BLOCK], lane[j]);
    }
    return ref_tree_sum(lane);
}

void ref_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
             const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws) {
    assert((uint64_t)row0 + n_rows <= w->rows);
    float *row = ws;
    for (uint32_t r = 0; r < n_rows; r++) {
        ops_weight_codes(row, w, row0 + r, 0, w->cols);
        size_t scale_row = ((size_t)w->row_base + row0 + r) / OPS_SCALE_BLOCK;
        for (uint32_t t = 0; t < n_tok; t++) {
            const float *xt = x + t * x_stride;
            out[t * out_stride + r] =
                w->dtype == OPS_F8
                    ? dot_scaled(xt, row, w->cols, w->scales + scale_row * w->scale_stride)
                    : dot_plain(xt, row, w->cols);
        }
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Products with a matrix that is not transposed, defined: one fmaf chain an output, down the rows
 * (contracts 1, "Absorbed W_UK"; P V of attention). Every output is a chain of its own, so a vector
 * runs across columns. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>

enum { TILE = 64 }; /* columns worked on at once: small enough for the stack */

/* Rows [r, end) of w onto one tile of accumulators. */
static void run(float *acc, const float *x, const struct ops_weight *w, uint32_t r, uint32_t end,
                uint32_t c, uint32_t n) {
    float row[TILE];
    for (; r < end; r++, x++) {
        ops_weight_codes(row, w, r, c, n);
        for (uint32_t i = 0; i < n; i++) acc[i] = fmaf(*x, row[i], acc[i]);
    }
}

/* F8: a chain from +0 to every 128-row boundary of the stored tensor, then on to acc by the scale
 * of each column. */
static void run_scaled(float *acc, const float *x, const struct ops_weight *w, uint32_t r,
                       uint32_t end, uint32_t c, uint32_t n) {
    while (r < end) {
        uint32_t absolute = w->row_base + r;
        uint32_t stop = r + OPS_SCALE_BLOCK - absolute % OPS_SCALE_BLOCK;
        if (stop > end) stop = end;
        const float *scales = w->scales + (size_t)(absolute / OPS_SCALE_BLOCK) * w->scale_stride;
        float part[TILE] = {0};
        run(part, x, w, r, stop, c, n);
        for (uint32_t i = 0; i < n; i++)
            acc[i] = fmaf(part[i], scales[(c + i) / OPS_SCALE_BLOCK], acc[i]);
        x += stop - r;
        r = stop;
    }
}

void ref_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
               const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w, uint32_t row0,
               uint32_t n_cols) {
    assert((uint64_t)row0 + n_depth <= w->rows && n_cols <= w->cols);
    for (uint32_t t = 0; t < n_tok; t++) {
        uint32_t end = row0 + (depth ? depth[t] : n_depth);
        for (uint32_t c = 0; c < n_cols; c += TILE) {
            uint32_t n = n_cols - c < TILE ? n_cols - c : TILE;
            float *a = acc + t * acc_stride + c;
            if (w->dtype == OPS_F8)
                run_scaled(a, x + t * x_stride, w, row0, end, c, n);
            else
                run(a, x + t * x_stride, w, row0, end, c, n);
        }
    }
}

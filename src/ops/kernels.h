/* SPDX-License-Identifier: Apache-2.0 */
/* The operators that cost time, one table per instruction set. The plain-C table in ref/ defines
 * every result to the last bit (contracts 1, profile "f32"); every other table returns the same
 * bits, whatever the number of rows in the call and whichever way a caller cuts rows and outputs
 * into calls.
 *
 * Common rules: pointers need no alignment; nothing allocates, fails, or reads past the stated
 * shapes; outputs never overlap inputs unless a line says "in place". Any thread. Rounding to
 * nearest, no flush to zero. Any NaN equals any NaN. */
#ifndef SUPERNODE_OPS_KERNELS_H
#define SUPERNODE_OPS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "ops/weight.h"

enum { OPS_LANES = 16 };

struct ops_kernels {
    const char *isa; /* "ref", "avx2", "avx512", "neon" */

    /* Matmul, "NT": out[t * out_stride + r] = dot(x row t, w row row0 + r), t < n_tok, r < n_rows.
     *   x   [n_tok, w->cols] F32, rows x_stride floats apart
     *   ws  scratch of ops_dot_workspace_bytes(w->cols), 64-byte aligned, one per thread
     * dot: lane j of 16 takes the products k = j, j + 16, ... in that order with fmaf from +0, a
     * lane without a product is left untouched, then the tree 16 -> 8 -> 4 -> 2 -> 1
     * (l[i] += l[i + 8], ...). F8: per 128-column block the products gather in lanes of their own
     * from +0, then lane = fmaf(partial, scale, lane) for the lanes that had a product. */
    void (*dot)(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
                const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws);

    /* Matmul, "NN", as chains: for t < n_tok, c < n_cols, and d ascending from 0 to depth[t] - 1:
     *   acc[t * acc_stride + c] = fmaf(x[t * x_stride + d], w[row0 + d][c], acc[...])
     * depth NULL: n_depth for every t; else depth[t] <= n_depth. In place on acc. Used for P V
     * (w = values or latents) and for the absorbed W_UK. F8: a partial chain from +0 runs to each
     * 128-row boundary of the stored tensor (absolute row, row_base counted), then
     * acc = fmaf(partial, scale, acc); a t with no d in a block leaves acc. */
    void (*chain)(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                  const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w,
                  uint32_t row0, uint32_t n_cols);

    /* One block of keys of an online softmax, for one query: s[first .. n) are raw scores and
     * become p, in place. With max and sum in lanes k % 16 and tree, max(a, b) = a > b ? a : b:
     *   s[k] *= scale;  m' = max(m, s[first .. n));  a = exp(m - m');
     *   s[k] = exp(s[k] - m');  l = fmaf(l, a, sum of s[first .. n));  m = m'.
     * Returns a, by which the caller multiplies the values gathered so far. Start with m = -inf,
     * l = 0. first < n <= 128. Lanes are by absolute k: lane 0 is not the first key if first > 0.
     */
    float (*softmax_block)(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l);

    /* out[i] = (g[i] * sigmoid(g[i])) * u[i], sigmoid(x) = 1 / (1 + exp(-x)). out may be g or u. */
    void (*swiglu)(float *out, const float *g, const float *u, size_t n);

    /* RMSNorm (HF DeepseekV3RMSNorm): ss = sum of x*x by the lanes and tree of dot;
     * out[i] = w[i] * (x[i] * (1 / sqrtf(ss / n + eps))). In place allowed. */
    void (*rms_norm)(float *out, const float *x, const float *w, uint32_t n, float eps);
};

/* Scratch for one dot call on rows of this many columns. */
size_t ops_dot_workspace_bytes(uint32_t cols);

/* Best table this processor can run; isa NULL or "" for the best, else one by name. ST_INVALID
 * names the choices when the name is unknown, ST_UNSUPPORTED when this processor lacks it. The
 * table is static: never freed. */
enum st ST_CHECKED ops_kernels_select(const struct ops_kernels **out, const char *isa,
                                      struct err *err);

/* Every table that this build has and this processor can run, best first, the reference last.
 * Returns the count. */
enum { OPS_TABLES_MAX = 4 };
uint32_t ops_kernels_all(const struct ops_kernels *out[OPS_TABLES_MAX]);

#endif

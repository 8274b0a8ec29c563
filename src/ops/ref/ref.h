/* SPDX-License-Identifier: Apache-2.0 */
/* The reference operators by name, for the table and for variants that leave rare cases to them.
 * Contracts as in ops/kernels.h. */
#ifndef SUPERNODE_OPS_REF_REF_H
#define SUPERNODE_OPS_REF_REF_H

#include "ops/kernels.h"

void ref_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
             const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws);
void ref_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
               const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w, uint32_t row0,
               uint32_t n_cols);
float ref_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l);
void ref_swiglu(float *out, const float *g, const float *u, size_t n);
void ref_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps);

/* The tree 16 -> 8 -> 4 -> 2 -> 1 over lanes, destroying them. */
static inline float ref_tree_sum(float lane[OPS_LANES]) {
    for (int half = OPS_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
static inline float ref_max(float a, float b) {
    return a > b ? a : b;
}
static inline float ref_tree_max(float lane[OPS_LANES]) {
    for (int half = OPS_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = ref_max(lane[i], lane[i + half]);
    return lane[0];
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX2 operators by name, for the table. Contracts as in ops/kernels.h. They need AVX2, FMA and
 * F16C: every x86-64-v3 processor. */
#ifndef SUPERNODE_OPS_AVX2_AVX2_H
#define SUPERNODE_OPS_AVX2_AVX2_H

#include "ops/kernels.h"

enum { AVX2_DOT_WORKSPACE_BYTES = 212992 };

void avx2_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
              const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws);
void avx2_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w, uint32_t row0,
                uint32_t n_cols);
float avx2_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l);
void avx2_swiglu(float *out, const float *g, const float *u, size_t n);
void avx2_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-512 operators by name, for the table. Contracts as in ops/kernels.h. They need F, BW, DQ,
 * VL and VBMI: Ice Lake, Zen 4 and what came after. */
#ifndef SUPERNODE_OPS_AVX512_AVX512_H
#define SUPERNODE_OPS_AVX512_AVX512_H

#include "ops/kernels.h"

enum { AVX512_DOT_WORKSPACE_BYTES = 286720 };

void avx512_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
                const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws);
void avx512_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                  const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w,
                  uint32_t row0, uint32_t n_cols);
float avx512_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l);
void avx512_swiglu(float *out, const float *g, const float *u, size_t n);
void avx512_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps);

#endif

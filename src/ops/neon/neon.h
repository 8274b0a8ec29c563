/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON operators by name, for the table. Contracts as in ops/kernels.h. Base ARMv8-A, so every
 * such processor has them. */
#ifndef SUPERNODE_OPS_NEON_NEON_H
#define SUPERNODE_OPS_NEON_NEON_H

#include "ops/kernels.h"

enum { NEON_DOT_ROWS = 2 }; /* rows of floats that dot keeps in its scratch */

void neon_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
              const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws);
void neon_chain(float *acc, size_t acc_stride, const float *x, size_t x_stride, uint32_t n_tok,
                const uint32_t *depth, uint32_t n_depth, const struct ops_weight *w, uint32_t row0,
                uint32_t n_cols);

#endif

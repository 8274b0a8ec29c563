/* SPDX-License-Identifier: Apache-2.0 */
/* The gated activation of every FFN and expert (SwiGLU, Shazeer 2020): silu(g) * u. */
#include "ops/ref/ref.h"

#include "ops/mathf.h"

void ref_swiglu(float *out, const float *g, const float *u, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (g[i] * ops_sigmoidf(g[i])) * u[i];
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Our own elementary functions, so that every machine gives the same bits: libm differs between
 * versions. Plain IEEE operations in a fixed order, no contraction. Written once, in ref/mathf.c;
 * vector tables repeat the same steps. */
#ifndef SUPERNODE_OPS_MATHF_H
#define SUPERNODE_OPS_MATHF_H

/* Within 2 ulp; exp(0) = 1 and exp(-inf) = 0 exactly, exp(inf) = inf, NaN for NaN. */
float ops_expf(float x);
/* Natural logarithm within 2 ulp; log(0) = -inf, negative: NaN. */
float ops_logf(float x);
float ops_sigmoidf(float x); /* 1 / (1 + exp(-x)) */
/* Within 1 ulp for |x| <= 2^20. */
void ops_sincosf(float x, float *sin_out, float *cos_out);

#endif

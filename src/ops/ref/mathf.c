/* SPDX-License-Identifier: Apache-2.0 */
/* Our own exp, log, sin and cos, so that a result does not depend on a libm's version. exp is in
 * F32 with fmaf only, since vectors repeat it step by step; the others are rare and run in float64,
 * far more exact than their one rounding to F32. Polynomials are Taylor's: on ranges this small a
 * minimax fit saves one term and costs the reader the proof. */
#include "ops/mathf.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* e^x = 2^n e^r, |r| <= ln(2) / 2, r from two pieces of ln(2). Adding 1.5 * 2^23 rounds to an
 * integer and leaves it in the low bits of the float, so NaN needs no branch. 2^n is multiplied in
 * two halves: the first product is exact, the second overflows or becomes denormal with one
 * rounding. */
float ops_expf(float x) {
    static const float shift = 0x1.8p23f;
    x = x > 89.0f ? 89.0f : x; /* e^89 is over FLT_MAX, e^-104 rounds to 0 */
    x = x < -104.0f ? -104.0f : x;
    float t = fmaf(x, 0x1.715476p0f, shift);
    float n = t - shift;
    float r = fmaf(n, -0x1.62e4p-1f, x); /* 15 bits, so n times it is exact */
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    float q = 1.0f / 5040;
    q = fmaf(q, r, 1.0f / 720);
    q = fmaf(q, r, 1.0f / 120);
    q = fmaf(q, r, 1.0f / 24);
    q = fmaf(q, r, 1.0f / 6);
    q = fmaf(q, r, 1.0f / 2);
    float p = fmaf(q, r * r, r) + 1.0f;
    uint32_t k = bits_of(t) - bits_of(shift); /* n as two's complement */
    uint32_t half = (uint32_t)((int32_t)k >> 1);
    return p * float_of((half + 127) << 23) * float_of((k - half + 127) << 23);
}

float ops_sigmoidf(float x) {
    return 1.0f / (1.0f + ops_expf(-x));
}

/* x = 2^e f, f in [sqrt(1/2), sqrt(2)); log(f) = 2 artanh(s), s = (f - 1) / (f + 1), |s| < 0.172.
 */
float ops_logf(float x) {
    static const double ln2 = 0x1.62e42fefa39efp-1;
    if (x == 0.0f) return -INFINITY;
    if (!(x > 0.0f)) return NAN;
    if (isinf(x)) return x;
    int e;
    double f = frexp((double)x, &e);
    if (f < 0x1.6a09e667f3bcdp-1) {
        f *= 2;
        e--;
    }
    double s = (f - 1) / (f + 1), s2 = s * s, q = 0;
    for (int k = 17; k >= 1; k -= 2) q = q * s2 + 1.0 / k;
    return (float)(2 * s * q + e * ln2);
}

/* x = n pi / 2 + r, |r| <= pi / 4. The first piece of pi / 2 has 33 bits, so n times it is exact
 * for |n| < 2^20. */
void ops_sincosf(float x, float *sin_out, float *cos_out) {
    static const double shift = 0x1.8p52;
    double n = ((double)x * 0x1.45f306dc9c883p-1 + shift) - shift;
    double r = (double)x - n * 0x1.921fb544p0;
    r -= n * 0x1.0b4611a626331p-34;
    double r2 = r * r, s = 0, c = 0;
    for (int k = 16; k >= 2; k -= 2) {
        s = (1 - s) * r2 / (k * (k + 1));
        c = (1 - c) * r2 / (k * (k - 1));
    }
    s = (1 - s) * r;
    c = 1 - c;
    if (!isfinite(x)) s = c = NAN;
    uint32_t quadrant = isfinite(x) ? (uint32_t)(int64_t)n & 3 : 0;
    double sn = quadrant & 1 ? c : s, cs = quadrant & 1 ? s : c;
    *sin_out = (float)(quadrant & 2 ? -sn : sn);
    *cos_out = (float)((quadrant + 1) & 2 ? -cs : cs);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements portable.h: ln(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)); e^x = 2^k e^r with the
 * series of e^r for |r| <= ln 2 / 2. */
#include "sim/portable.h"

#include <math.h>

static const double ln2 = 0.69314718055994530942;

double portable_ln(double x) {
    int e;
    double m = frexp(x, &e); /* 1/2 to 1 */
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    double t = (m - 1) / (m + 1), power = t, sum = 0;
    for (int k = 1; k < 30; k += 2, power *= t * t) sum += power / k;
    return e * ln2 + 2 * sum;
}

double portable_pow(double x, double y) {
    if (x <= 0) return y == 0;
    double z = y * portable_ln(x);
    if (z < -745) return 0;
    if (z > 709) return INFINITY;
    double k = floor(z / ln2 + 0.5), r = z - k * ln2, term = 1, sum = 1;
    for (int i = 1; i < 18; i++) sum += term *= r / i;
    return ldexp(sum, (int)k);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements percentile.h. */
#include "base/percentile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int percentile_compare(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

double percentile(const double *v, size_t len, double p) {
    if (len == 0) return 0;
    double at = p / 100 * (double)(len - 1);
    size_t low = (size_t)floor(at), high = low + 1 < len ? low + 1 : low;
    return v[low] + (v[high] - v[low]) * (at - (double)low);
}

double percentile_middle(double *v, size_t len) {
    if (len == 0) return 0;
    qsort(v, len, sizeof *v, percentile_compare);
    return v[len / 2];
}

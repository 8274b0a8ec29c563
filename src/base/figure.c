/* SPDX-License-Identifier: Apache-2.0 */
/* Implements figure.h. */
#include "base/figure.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { DIGITS = 4, DECIMALS_MAX = 6 };

struct figure figure_of(double v) {
    struct figure f;
    if (!(fabs(v) < 1e15)) {
        snprintf(f.text, sizeof f.text, "%.4g", v);
        return f;
    }
    int decimals = v == 0 ? 0 : DIGITS - 1 - (int)floor(log10(fabs(v)));
    if (decimals < 0) decimals = 0;
    if (decimals > DECIMALS_MAX) decimals = DECIMALS_MAX;
    int n = snprintf(f.text, sizeof f.text, "%.*f", decimals, v);
    while (strchr(f.text, '.') && (f.text[n - 1] == '0' || f.text[n - 1] == '.')) {
        bool point = f.text[n - 1] == '.';
        f.text[--n] = '\0';
        if (point) break;
    }
    if (strcmp(f.text, "-0") == 0) strcpy(f.text, "0");
    return f;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements human.h. */
#include "cli/human.h"

#include <stdio.h>

const char *human_count(char *out, size_t size, double v) {
    static const char units[] = " KMBT";
    int u = 0;
    while (v >= 999.5 && u < 4) v /= 1000, u++;
    snprintf(out, size,
             v < 100 && u >= 3 ? "%.2f %c"
             : v < 100         ? "%.1f %c"
                               : "%.0f %c",
             v, units[u]);
    return out;
}

const char *human_bytes(char *out, size_t size, double v) {
    static const char *const units[] = {"B", "KB", "MB", "GB", "TB"};
    int u = 0;
    while (v >= 999.5 && u < 4) v /= 1000, u++;
    snprintf(out, size, v < 100 && u > 0 ? "%.1f %s" : "%.0f %s", v, units[u]);
    return out;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements near.h, a row of the table at a time. */
#include "base/near.h"

#include <string.h>

uint32_t near_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    uint32_t row[NEAR_BYTES_MAX + 1];
    if (m > NEAR_BYTES_MAX) return UINT32_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t diag = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint32_t best = diag + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diag = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

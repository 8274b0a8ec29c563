/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles of measured values, the same for what was measured and what was simulated. */
#ifndef SUPERNODE_BASE_PERCENTILE_H
#define SUPERNODE_BASE_PERCENTILE_H

#include <stddef.h>

int percentile_compare(const void *a, const void *b); /* of doubles, upwards, for qsort */

/* v[len] sorted upwards, 0 <= p <= 100, linear between neighbours as numpy has it; 0 if empty. */
double percentile(const double *v, size_t len, double p);

/* Sorts v[len]; one of them: of two in the middle the larger. 0 if empty. */
double percentile_middle(double *v, size_t len);

#endif

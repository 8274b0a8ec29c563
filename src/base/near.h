/* SPDX-License-Identifier: Apache-2.0 */
/* How far a word is from another, so that a wrong one can be answered with the one that was meant. */
#ifndef SUPERNODE_BASE_NEAR_H
#define SUPERNODE_BASE_NEAR_H

#include <stdint.h>

enum { NEAR_BYTES_MAX = 64 };

/* Levenshtein distance in bytes; UINT32_MAX where b is longer than NEAR_BYTES_MAX. */
uint32_t near_distance(const char *a, const char *b);

#endif

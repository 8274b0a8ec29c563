/* SPDX-License-Identifier: Apache-2.0 */
/* The one place that reads a clock. Control code never includes this: it is handed the time
 * (contracts 9). */
#ifndef SUPERNODE_BASE_CLOCK_H
#define SUPERNODE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif

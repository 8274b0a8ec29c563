/* SPDX-License-Identifier: Apache-2.0 */
/* Completions that nobody has taken yet, oldest first. */
#ifndef SUPERNODE_BUS_DONE_H
#define SUPERNODE_BUS_DONE_H

#include "bus/bus.h"

enum { DONE_MAX = 1024 }; /* operations of a queue that are not complete, or not taken */

struct done {
    struct bus_completion v[DONE_MAX];
    uint32_t first, len;
};

/* The caller made sure that there is room. */
static inline void done_put(struct done *d, uint64_t cookie, enum bus_status status) {
    d->v[(d->first + d->len++) % DONE_MAX] = (struct bus_completion){cookie, status};
}

static inline uint32_t done_take(struct done *d, struct bus_completion *v, uint32_t max) {
    uint32_t n = d->len < max ? d->len : max;
    for (uint32_t i = 0; i < n; i++) v[i] = d->v[(d->first + i) % DONE_MAX];
    d->first = (d->first + n) % DONE_MAX;
    d->len -= n;
    return n;
}

#endif

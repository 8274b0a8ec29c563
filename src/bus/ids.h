/* SPDX-License-Identifier: Apache-2.0 */
/* Things by their id. Ids count up, so what is added goes to the end and the table stays sorted. */
#ifndef SUPERNODE_BUS_IDS_H
#define SUPERNODE_BUS_IDS_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"

struct ids {
    struct ids_entry {
        bus_id id;
        void *thing;
    } * v;
    uint32_t len, cap;
};

/* The first entry whose id is not less. */
static inline uint32_t ids_at(const struct ids *t, bus_id id) {
    uint32_t lo = 0, hi = t->len;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->v[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static inline void *ids_get(const struct ids *t, bus_id id) {
    uint32_t i = ids_at(t, id);
    return i < t->len && t->v[i].id == id ? t->v[i].thing : NULL;
}

/* False: out of memory. */
static inline bool ids_add(struct ids *t, bus_id id, void *thing) {
    assert(thing && (t->len == 0 || t->v[t->len - 1].id < id));
    if (t->len == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 16;
        struct ids_entry *v = realloc(t->v, cap * sizeof *v);
        if (!v) return false;
        t->v = v;
        t->cap = cap;
    }
    t->v[t->len++] = (struct ids_entry){id, thing};
    return true;
}

static inline void ids_remove(struct ids *t, bus_id id) {
    uint32_t i = ids_at(t, id);
    if (i == t->len || t->v[i].id != id) return;
    memmove(&t->v[i], &t->v[i + 1], (t->len - i - 1) * sizeof *t->v);
    t->len--;
}

static inline void ids_release(struct ids *t) {
    free(t->v);
    *t = (struct ids){0};
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements ring.h. With 256 places a server has its share within about 6% (1/sqrt(256)) of the
 * mean, one standard deviation. */
#include "pool/ring.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum st ring_init(struct ring *r, struct err *err) {
    *r = (struct ring){0};
    r->points = calloc((size_t)RING_SERVERS_MAX * RING_POINTS, sizeof *r->points);
    if (!r->points)
        return err_set(err, ST_NO_MEMORY, "pool: out of memory for the list of servers");
    return ST_OK;
}

void ring_release(struct ring *r) {
    free(r->points);
    *r = (struct ring){0};
}

int ring_slot(const struct ring *r, const char *name) {
    for (int i = 0; i < RING_SERVERS_MAX; i++)
        if (r->names[i][0] && strcmp(r->names[i], name) == 0) return i;
    return RING_NONE;
}

static bool before(const struct ring *r, const struct ring_point *a, const struct ring_point *b) {
    if (a->at != b->at) return a->at < b->at;
    return strcmp(r->names[a->server], r->names[b->server]) < 0;
}

static void insert(struct ring *r, struct ring_point p) {
    uint32_t i = r->n_points++;
    for (; i > 0 && before(r, &p, &r->points[i - 1]); i--) r->points[i] = r->points[i - 1];
    r->points[i] = p;
}

int ring_add(struct ring *r, const char *name) {
    size_t len = strlen(name);
    int slot = ring_slot(r, name);
    if (slot != RING_NONE || len == 0 || len >= BUS_NAME_BYTES) return slot;
    for (slot = 0; slot < RING_SERVERS_MAX && r->names[slot][0]; slot++) {
    }
    if (slot == RING_SERVERS_MAX) return RING_NONE;
    memcpy(r->names[slot], name, len + 1);
    for (uint32_t i = 0; i < RING_POINTS; i++) {
        char text[BUS_NAME_BYTES + 16];
        int n = snprintf(text, sizeof text, "%s/%u", name, i);
        insert(r, (struct ring_point){XXH3_64bits(text, (size_t)n), (uint32_t)slot});
    }
    return slot;
}

void ring_remove(struct ring *r, const char *name) {
    int slot = ring_slot(r, name);
    if (slot == RING_NONE) return;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_points; i++)
        if (r->points[i].server != (uint32_t)slot) r->points[kept++] = r->points[i];
    r->n_points = kept;
    r->names[slot][0] = '\0';
}

int ring_find(const struct ring *r, const struct pool_key *key) {
    if (r->n_points == 0) return RING_NONE;
    uint64_t at = XXH3_64bits(key->bytes, sizeof key->bytes);
    uint32_t low = 0, high = r->n_points; /* the first point at or after the key */
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (r->points[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    return (int)r->points[low == r->n_points ? 0 : low].server;
}

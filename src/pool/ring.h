/* SPDX-License-Identifier: Apache-2.0 */
/* Where a key lives: consistent hashing with virtual nodes. Every server of the list stands at
 * RING_POINTS places of a circle, and a key belongs to the next one clockwise. The places are hashes
 * of the server's name, so all peers agree from the list of names alone, in whatever order they
 * heard of it, and a server that comes or goes moves only its share. */
#ifndef SUPERNODE_POOL_RING_H
#define SUPERNODE_POOL_RING_H

#include "bus/bus.h"
#include "pool/client.h"

enum { RING_SERVERS_MAX = POOL_SERVERS_MAX, RING_POINTS = 256, RING_NONE = -1 };

struct ring_point {
    uint64_t at;
    uint32_t server; /* slot in names */
};
struct ring {
    char names[RING_SERVERS_MAX][BUS_NAME_BYTES]; /* "": a free slot */
    struct ring_point *points;                    /* by place, then by name */
    uint32_t n_points;
};

enum st ST_CHECKED ring_init(struct ring *r, struct err *err);
void ring_release(struct ring *r);

/* Slot of the server, which stays while it is in the list; its old one if it is there already.
 * RING_NONE: no room, or a name that is empty or too long. */
int ring_add(struct ring *r, const char *name);
void ring_remove(struct ring *r, const char *name); /* an unknown name is ignored */
int ring_slot(const struct ring *r, const char *name);
/* Slot of the server that has the key; RING_NONE: the list is empty. */
int ring_find(const struct ring *r, const struct pool_key *key);

#endif

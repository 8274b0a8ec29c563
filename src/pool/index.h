/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a pool server that clients read by themselves: the index, which says where a block
 * is, and the slots that hold blocks. Everything in it is checked by who reads it: the server may be
 * writing it at that moment, be older than we think, or be damaged.
 *
 * Index: a header, then buckets of INDEX_BUCKET entries. A key may stand in either of two buckets.
 * Data: segments ("extents") of slots, each belonging to one namespace while it lives; a slot is its
 * header, then the block (block.h). A slot's generation is raised before its bytes change. */
#ifndef SUPERNODE_POOL_INDEX_H
#define SUPERNODE_POOL_INDEX_H

#include "pool/block.h"
#include "pool/client.h"
#include "pool/sum.h"

enum {
    INDEX_VERSION = 1,
    INDEX_BUCKET = 8,
    INDEX_HEADER_BYTES = 4096,
    INDEX_BUCKET_BYTES = INDEX_BUCKET * 64,
    EXTENTS_MAX = 64, /* at one time */
    SLOT_BYTES_MAX = 1 << 30,
};

enum place { PLACE_NONE, PLACE_DRAM, PLACE_SSD };

struct index_header {
    uint64_t magic;
    uint32_t version;
    struct block_shape shape;
    uint64_t n_buckets; /* a power of two */
    uint64_t check;     /* of what stands above */
    uint64_t epoch;
};

/* All zero: free. Written under a sequence lock: odd while it changes; check covers sequence too. */
struct index_entry {
    uint64_t sequence;
    struct pool_key key;
    uint64_t generation; /* of the slot */
    uint32_t tenant;     /* index_tenant */
    uint32_t segment;    /* DRAM: serial << 8 | extent */
    uint32_t slot;       /* DRAM: in the segment; with the place in the low 2 bits */
    uint32_t check;
};

struct slot_header {
    uint64_t generation;
    uint64_t check; /* of all that follows, sums included */
    struct pool_key key;
    uint32_t tenant, n_parts;
    uint64_t zero;
    struct sum sums[]; /* [n_parts] */
};

static inline enum place index_place(const struct index_entry *e) {
    return (enum place)(e->slot & 3);
}
static inline uint32_t index_slot(const struct index_entry *e) {
    return e->slot >> 2;
}
static inline uint32_t segment_extent(uint32_t segment) {
    return segment & 255;
}

/* Whether a shape is one we can hold. */
bool block_shape_ok(const struct block_shape *s);

static inline uint32_t slot_header_bytes(const struct block_shape *s) {
    return (uint32_t)((sizeof(struct slot_header) + block_parts(s) * sizeof(struct sum) + 63) / 64 *
                      64);
}
static inline uint64_t slot_bytes(const struct block_shape *s) {
    return slot_header_bytes(s) + (block_bytes(s) + 63) / 64 * 64;
}

uint32_t index_tenant(const char *tenant);
/* The two buckets of a key; they may be the same. */
void index_buckets(const struct pool_key *key, uint64_t n_buckets, uint64_t at[2]);
static inline uint64_t index_bucket_at(uint64_t bucket) { /* bytes from the segment's start */
    return INDEX_HEADER_BYTES + bucket * INDEX_BUCKET_BYTES;
}

void index_header_seal(struct index_header *h);
/* Whether this is the index of a server of our shape, and fits into its segment. */
bool index_header_ok(const struct index_header *h, const struct block_shape *shape,
                     uint64_t segment_bytes);

uint32_t index_entry_check(const struct index_entry *e);
enum index_found {
    INDEX_ABSENT,
    INDEX_HERE,
    INDEX_UNCLEAR, /* an entry is being written, or damaged: look again */
};
/* Looks for a key in a copy of a bucket; its place in it goes to *i. */
enum index_found index_find(const struct index_entry bucket[INDEX_BUCKET],
                            const struct pool_key *key, uint32_t tenant, uint32_t *i);

void slot_header_seal(struct slot_header *h, const struct block_shape *s);
/* Whether a copy of a slot's header belongs to the entry and is whole. */
bool slot_header_ok(const struct slot_header *h, const struct block_shape *s,
                    const struct index_entry *e);

#endif

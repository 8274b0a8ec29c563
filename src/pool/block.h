/* SPDX-License-Identifier: Apache-2.0 */
/* A block of KV as bus and pool see it: one page of a model (contracts 4), which is a piece for each
 * layer and then a tail (the hidden state, where there is MTP). Two layouts: paged memory, where
 * pieces of one layer lie side by side ([layer][page]), and a block on its own, piece after piece. */
#ifndef SUPERNODE_POOL_BLOCK_H
#define SUPERNODE_POOL_BLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { BLOCK_LAYERS_MAX = 254, BLOCK_PARTS_MAX = BLOCK_LAYERS_MAX + 1 };

struct block_shape {
    uint32_t n_layers, layer_bytes; /* MTP's layer counted; layer_bytes is a multiple of 8 */
    uint32_t tail_bytes;            /* 0: none; a multiple of 4 */
};

static inline uint32_t block_parts(const struct block_shape *s) {
    return s->n_layers + (s->tail_bytes > 0);
}
static inline uint32_t block_part_bytes(const struct block_shape *s, uint32_t part) {
    return part < s->n_layers ? s->layer_bytes : s->tail_bytes;
}
static inline uint64_t block_bytes(const struct block_shape *s) {
    return (uint64_t)s->n_layers * s->layer_bytes + s->tail_bytes;
}
static inline bool block_shape_equal(const struct block_shape *a, const struct block_shape *b) {
    return a->n_layers == b->n_layers && a->layer_bytes == b->layer_bytes &&
           a->tail_bytes == b->tail_bytes;
}
/* Of a part in a block on its own. */
static inline uint64_t block_part_at(const struct block_shape *s, uint32_t part) {
    return (uint64_t)part * s->layer_bytes;
}

/* Paged memory of n_pages pages: rows [n_layers][n_pages][layer_bytes], tails [n_pages][tail_bytes],
 * and, where it is shared, a generation (uint64_t) for each page, which its owner raises before it
 * uses the page anew. */
static inline uint64_t paged_at(const struct block_shape *s, uint32_t n_pages, uint32_t part,
                                uint32_t page) {
    uint64_t rows =
        (uint64_t)part * n_pages * s->layer_bytes; /* part n_layers: where tails begin */
    return rows + (uint64_t)page * block_part_bytes(s, part);
}
static inline uint64_t paged_generation_at(const struct block_shape *s, uint32_t n_pages,
                                           uint32_t page) {
    uint64_t data = block_bytes(s) * n_pages;
    return (data + 63) / 64 * 64 + (uint64_t)page * sizeof(uint64_t);
}
static inline uint64_t paged_bytes(const struct block_shape *s, uint32_t n_pages) {
    return paged_generation_at(s, n_pages, n_pages);
}

/* How far blocks that come from elsewhere have arrived: written by who copies, read by who computes.
 * Every block's parts [0, parts) are there and checked. bad: a block that will not come; once set,
 * parts stays, and since parts of all blocks come together, no block is whole then. */
enum { BLOCK_GATE_GOOD = UINT32_MAX };
struct block_gate {
    _Atomic uint32_t parts;
    _Atomic uint32_t bad;
};
static inline void block_gate_init(struct block_gate *g) {
    atomic_init(&g->parts, 0);
    atomic_init(&g->bad, BLOCK_GATE_GOOD);
}

#endif

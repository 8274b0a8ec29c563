/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums against damage (XXH3-128; no defence against an attacker), and a piece of a block that
 * is copied through the bus and hashed tile by tile, each tile while it is still in the cache. */
#ifndef SUPERNODE_POOL_SUM_H
#define SUPERNODE_POOL_SUM_H

#include "bus/bus.h"

struct sum {
    uint64_t low, high;
};

static inline bool sum_equal(const struct sum *a, const struct sum *b) {
    return a->low == b->low && a->high == b->high;
}
struct sum sum_of(const void *data, size_t len);
uint64_t sum64_of(const void *data, size_t len); /* XXH3-64 */

/* Measured on a Zen 5 core, copy and hash as a part of memcpy's bandwidth (24 GB/s): tiles of 8 KiB
 * 0.67, 32 KiB 0.71, 64 KiB 0.72, and with AVX-512 0.75; larger ones gain little and want more L2. */
enum { PIECE_TILE_BYTES = 64 << 10, SUM_STATE_BYTES = 576 };

/* One piece on its way, at most one tile of it in flight. */
struct piece {
    _Alignas(64) uint8_t state[SUM_STATE_BYTES]; /* XXH3_state_t */
    bus_id segment;
    uint64_t offset;
    uint8_t *to;
    uint32_t len, copied, flying; /* bytes */
};

void piece_begin(struct piece *p, bus_id segment, uint64_t offset, void *to, uint32_t len);
/* Submits the next tile; the piece is not complete and nothing is in flight. As bus_read. */
enum st ST_CHECKED piece_submit(struct piece *p, struct bus_queue *q, uint64_t cookie);
/* The tile arrived: hashes it. True: that was the last, and sum is set. */
bool piece_arrived(struct piece *p, struct sum *sum);

/* Of XXH3_128bits_update; x86 with AVX-512 F, VL, BW, DQ and CD only. */
void sum_update_avx512(void *state, const void *data, size_t len);

/* A whole piece at once, waiting for the bus: for measurements. ST_GONE: it cannot be read. */
enum st ST_CHECKED piece_copy(struct bus_queue *q, bus_id segment, uint64_t offset, void *to,
                              uint32_t len, struct sum *sum);

#endif

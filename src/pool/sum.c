/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sum.h by XXH3, compiled here for the vector width of the build. */
#include "pool/sum.h"

#include <assert.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static_assert(sizeof(XXH3_state_t) <= SUM_STATE_BYTES, "the state of XXH3 fits");
static_assert(_Alignof(XXH3_state_t) <= 64, "and is aligned");

struct sum sum_of(const void *data, size_t len) {
    XXH128_hash_t h = XXH3_128bits(data, len);
    return (struct sum){h.low64, h.high64};
}

uint64_t sum64_of(const void *data, size_t len) {
    return XXH3_64bits(data, len);
}

static XXH3_state_t *state_of(struct piece *p) {
    return (XXH3_state_t *)(void *)p->state;
}

static void update(XXH3_state_t *state, const void *data, size_t len) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512cd")) {
        sum_update_avx512(state, data, len);
        return;
    }
#endif
    XXH3_128bits_update(state, data, len);
}

void piece_begin(struct piece *p, bus_id segment, uint64_t offset, void *to, uint32_t len) {
    p->segment = segment;
    p->offset = offset;
    p->to = to;
    p->len = len;
    p->copied = p->flying = 0;
    XXH3_INITSTATE(state_of(p));
    XXH3_128bits_reset(state_of(p));
}

enum st piece_submit(struct piece *p, struct bus_queue *q, uint64_t cookie) {
    assert(p->flying == 0 && p->copied < p->len);
    uint32_t n = p->len - p->copied;
    if (n > PIECE_TILE_BYTES) n = PIECE_TILE_BYTES;
    enum st st = bus_read(q, p->segment, p->offset + p->copied, p->to + p->copied, n, cookie);
    if (!st) p->flying = n;
    return st;
}

bool piece_arrived(struct piece *p, struct sum *sum) {
    assert(p->flying > 0);
    update(state_of(p), p->to + p->copied, p->flying);
    p->copied += p->flying;
    p->flying = 0;
    if (p->copied < p->len) return false;
    XXH128_hash_t h = XXH3_128bits_digest(state_of(p));
    *sum = (struct sum){h.low64, h.high64};
    return true;
}

enum st piece_copy(struct bus_queue *q, bus_id segment, uint64_t offset, void *to, uint32_t len,
                   struct sum *sum) {
    struct piece p;
    struct bus_completion done;
    piece_begin(&p, segment, offset, to, len);
    do {
        enum st st = piece_submit(&p, q, 0);
        if (st) return st;
        while (bus_completions(q, &done, 1) == 0) {
        }
        if (done.status != BUS_DONE) return ST_GONE;
    } while (!piece_arrived(&p, sum));
    return ST_OK;
}

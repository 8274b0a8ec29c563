/* SPDX-License-Identifier: Apache-2.0 */
/* Implements index.h: checks of what was read from memory that somebody else writes. */
#include "pool/index.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"

static const uint64_t INDEX_MAGIC = 0x31786469706e7573; /* "sunpidx1" */

static_assert(sizeof(struct index_entry) == 64, "an entry is a cache line");
static_assert(sizeof(struct slot_header) == 64, "sums begin at 64");
static_assert(sizeof(struct index_header) <= INDEX_HEADER_BYTES, "the header has its page");

bool block_shape_ok(const struct block_shape *s) {
    if (s->n_layers == 0 || s->n_layers > BLOCK_LAYERS_MAX) return false;
    if (s->layer_bytes == 0 || s->layer_bytes % 8 != 0 || s->tail_bytes % 4 != 0) return false;
    return s->tail_bytes <= SLOT_BYTES_MAX / 4 && block_bytes(s) <= SLOT_BYTES_MAX / 2;
}

uint32_t index_tenant(const char *tenant) {
    return (uint32_t)sum64_of(tenant, strlen(tenant));
}

void index_buckets(const struct pool_key *key, uint64_t n_buckets, uint64_t at[2]) {
    at[0] = rd_u64le(key->bytes) & (n_buckets - 1);
    at[1] = rd_u64le(key->bytes + 8) & (n_buckets - 1);
}

static uint64_t header_check(const struct index_header *h) {
    return sum64_of(h, offsetof(struct index_header, check));
}

void index_header_seal(struct index_header *h) {
    h->magic = INDEX_MAGIC;
    h->version = INDEX_VERSION;
    h->check = header_check(h);
}

bool index_header_ok(const struct index_header *h, const struct block_shape *shape,
                     uint64_t segment_bytes) {
    if (h->magic != INDEX_MAGIC || h->version != INDEX_VERSION) return false;
    if (h->check != header_check(h) || !block_shape_equal(&h->shape, shape)) return false;
    uint64_t n = h->n_buckets;
    if (n == 0 || (n & (n - 1)) != 0 || segment_bytes < INDEX_HEADER_BYTES) return false;
    return n <= (segment_bytes - INDEX_HEADER_BYTES) / INDEX_BUCKET_BYTES;
}

uint32_t index_entry_check(const struct index_entry *e) {
    return (uint32_t)sum64_of(e, offsetof(struct index_entry, check));
}

static bool is_free(const struct index_entry *e) {
    static const struct index_entry none;
    return memcmp(e, &none, sizeof none) == 0;
}

enum index_found index_find(const struct index_entry bucket[INDEX_BUCKET],
                            const struct pool_key *key, uint32_t tenant, uint32_t *i) {
    enum index_found found = INDEX_ABSENT;
    for (uint32_t k = 0; k < INDEX_BUCKET; k++) {
        const struct index_entry *e = &bucket[k];
        if (is_free(e)) continue;
        if (e->sequence % 2 != 0 || e->check != index_entry_check(e)) {
            found = INDEX_UNCLEAR;
            continue;
        }
        bool live = index_place(e) == PLACE_DRAM || index_place(e) == PLACE_SSD;
        if (!live || e->tenant != tenant || memcmp(&e->key, key, sizeof *key) != 0) continue;
        *i = k;
        return INDEX_HERE;
    }
    return found;
}

static uint64_t slot_check(const struct slot_header *h, const struct block_shape *s) {
    return sum64_of(&h->key, slot_header_bytes(s) - offsetof(struct slot_header, key));
}

void slot_header_seal(struct slot_header *h, const struct block_shape *s) {
    h->check = slot_check(h, s);
}

bool slot_header_ok(const struct slot_header *h, const struct block_shape *s,
                    const struct index_entry *e) {
    return h->generation == e->generation && h->n_parts == block_parts(s) &&
           h->tenant == e->tenant && memcmp(&h->key, &e->key, sizeof h->key) == 0 &&
           h->check == slot_check(h, s);
}

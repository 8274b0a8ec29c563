/* SPDX-License-Identifier: Apache-2.0 */
/* Implements dir.h: namespaces, blocks and the index. Who has to go is dir_room.c. */
#include "pool/dir.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static uint32_t at_most(uint64_t n, uint32_t max) {
    return n < max ? (uint32_t)n : max;
}

static enum st measure(struct dir *d, uint64_t dram_bytes, struct err *err) {
    uint64_t slots = dram_bytes / d->slot_bytes;
    if (slots == 0)
        return err_set(err, ST_INVALID,
                       "pool: %llu bytes of DRAM, expected at least %llu: one block",
                       (unsigned long long)dram_bytes, (unsigned long long)d->slot_bytes);
    slots = at_most(slots, 1u << 29);
    d->per_extent = (uint32_t)((slots + EXTENTS_MAX - 1) / EXTENTS_MAX);
    if (d->per_extent >= 1u << 24)
        return err_set(err, ST_INVALID, "pool: %u blocks a segment, expected under 2^24",
                       d->per_extent);
    d->n_extents = (uint32_t)(slots / d->per_extent);
    d->n_slots = d->n_extents * d->per_extent;
    uint64_t buckets = 2;
    while (buckets * INDEX_BUCKET < 2 * ((uint64_t)d->n_slots + d->n_recs)) buckets *= 2;
    d->n_buckets = buckets;
    return ST_OK;
}

enum st dir_init(struct dir *d, const struct block_shape *shape, uint64_t dram_bytes,
                 uint32_t n_recs, uint64_t rec_bytes, const struct pool_quota *quotas,
                 uint32_t n_quotas, struct err *err) {
    *d = (struct dir){.shape = *shape,
                      .n_recs = n_recs,
                      .rec_bytes = rec_bytes,
                      .vacating = DIR_NONE,
                      .quotas = quotas,
                      .n_quotas = n_quotas};
    if (!block_shape_ok(shape))
        return err_set(err, ST_INVALID, "pool: a block of %u layers of %u bytes and a tail of %u",
                       shape->n_layers, shape->layer_bytes, shape->tail_bytes);
    d->slot_bytes = slot_bytes(shape);
    enum st st = measure(d, dram_bytes, err);
    if (st) return st;
    d->blocks = calloc(d->n_buckets * INDEX_BUCKET, sizeof *d->blocks);
    d->slots = calloc(d->n_slots, sizeof *d->slots);
    d->recs = calloc(n_recs ? n_recs : 1, sizeof *d->recs);
    if (!d->blocks || !d->slots || !d->recs) {
        dir_release(d);
        return err_set(err, ST_NO_MEMORY, "pool: out of memory for a directory of %u blocks",
                       d->n_slots);
    }
    for (uint32_t i = 0; i < n_recs; i++) d->recs[i].block = DIR_NONE;
    return ST_OK;
}

void dir_release(struct dir *d) {
    free(d->blocks);
    free(d->slots);
    free(d->recs);
    *d = (struct dir){0};
}

uint64_t dir_index_bytes(const struct dir *d) {
    return index_bucket_at(d->n_buckets);
}

void dir_set_index(struct dir *d, void *memory, uint64_t epoch) {
    struct index_header *h = memory;
    d->index = memory;
    *h = (struct index_header){.shape = d->shape, .n_buckets = d->n_buckets, .epoch = epoch};
    index_header_seal(h);
}

void dir_set_epoch(struct dir *d, uint64_t epoch) {
    struct index_header *h = (struct index_header *)(void *)d->index;
    __atomic_store_n(&h->epoch, epoch, __ATOMIC_RELEASE);
}

/* --- namespaces ----------------------------------------------------------------------------- */

static void set_quota(const struct dir *d, struct dir_namespace *n) {
    n->n_slots_max = n->n_recs_max = UINT32_MAX;
    for (uint32_t i = 0; i < d->n_quotas; i++) {
        const struct pool_quota *q = &d->quotas[i];
        if (strncmp(q->tenant, n->tenant, POOL_TENANT_BYTES) != 0) continue;
        if (q->dram_bytes) n->n_slots_max = at_most(q->dram_bytes / d->slot_bytes, UINT32_MAX);
        if (q->ssd_bytes && d->rec_bytes)
            n->n_recs_max = at_most(q->ssd_bytes / d->rec_bytes, UINT32_MAX);
    }
}

uint32_t dir_namespace_of(const struct dir *d, const char *tenant) {
    for (uint32_t i = 0; i < d->n_ns; i++)
        if (strcmp(d->ns[i].tenant, tenant) == 0) return i;
    return DIR_NONE;
}

/* One that holds nothing, where every one is some tenant's. */
static uint32_t idle_namespace(const struct dir *d) {
    for (uint32_t i = 0; i < d->n_ns; i++)
        if (d->ns[i].n_extents == 0 && d->ns[i].n_recs == 0) return i;
    return DIR_NONE;
}

static uint32_t begin_namespace(struct dir *d, uint32_t ns, const char *tenant) {
    struct dir_namespace *n = &d->ns[ns];
    *n = (struct dir_namespace){.used = true};
    memcpy(n->tenant, tenant, strlen(tenant) + 1);
    n->tag = index_tenant(tenant);
    set_quota(d, n);
    return ns;
}

uint32_t dir_namespace(struct dir *d, const char *tenant) {
    size_t len = strnlen(tenant, POOL_TENANT_BYTES);
    if (len == 0 || len == POOL_TENANT_BYTES) return DIR_NONE;
    uint32_t ns = dir_namespace_of(d, tenant);
    if (ns != DIR_NONE) return ns;
    ns = d->n_ns < POOL_NAMESPACES_MAX ? d->n_ns++ : idle_namespace(d);
    return ns == DIR_NONE ? DIR_NONE : begin_namespace(d, ns, tenant);
}

/* False: the SSD works on one of its records. */
static bool forget_records(struct dir *d, uint32_t ns) {
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t rec = 0; rec < d->recs_begun; rec++) {
            const struct dir_rec *r = &d->recs[rec];
            if (r->block == DIR_NONE || d->blocks[r->block].ns != ns) continue;
            if (pass == 0 && r->busy) return false;
            if (pass == 1) dir_rec_lost(d, rec);
        }
    return true;
}

uint32_t dir_namespace_take(struct dir *d, const char *tenant) {
    uint32_t ns = dir_namespace(d, tenant);
    size_t len = strnlen(tenant, POOL_TENANT_BYTES);
    if (ns != DIR_NONE || len == 0 || len == POOL_TENANT_BYTES) return ns;
    for (uint32_t i = 0; i < d->n_ns; i++) {
        struct dir_namespace *n = &d->ns[ns = d->ns_hand];
        d->ns_hand = (d->ns_hand + 1) % d->n_ns;
        bool used = n->used;
        n->used = false;
        if (!used && n->n_extents == 0 && forget_records(d, ns))
            return begin_namespace(d, ns, tenant);
    }
    return DIR_NONE;
}

/* --- blocks and their entries --------------------------------------------------------------- */

uint32_t dir_find(const struct dir *d, uint32_t ns, const struct pool_key *key) {
    uint64_t buckets[2];
    index_buckets(key, d->n_buckets, buckets);
    for (int b = 0; b < 2; b++) {
        uint32_t at = (uint32_t)(buckets[b] * INDEX_BUCKET);
        for (uint32_t i = at; i < at + INDEX_BUCKET; i++) {
            const struct dir_block *k = &d->blocks[i];
            if (k->used && k->ns == ns && memcmp(&k->key, key, sizeof *key) == 0) return i;
        }
    }
    return DIR_NONE;
}

/* A free position in the emptier of the key's buckets. */
static uint32_t position(const struct dir *d, const struct pool_key *key) {
    uint64_t buckets[2];
    uint32_t best = DIR_NONE, most = 0;
    index_buckets(key, d->n_buckets, buckets);
    for (int b = 0; b < 2; b++) {
        uint32_t at = (uint32_t)(buckets[b] * INDEX_BUCKET), n_free = 0, first = DIR_NONE;
        for (uint32_t i = at + INDEX_BUCKET; i-- > at;)
            if (!d->blocks[i].used) {
                n_free++;
                first = i;
            }
        if (n_free <= most) continue;
        most = n_free;
        best = first;
    }
    return best;
}

const struct index_entry *dir_entry(const struct dir *d, uint32_t block, uint64_t *at) {
    *at = INDEX_HEADER_BYTES + (uint64_t)block * sizeof(struct index_entry);
    return (const struct index_entry *)(const void *)(d->index + *at);
}

/* Writes the entry anew under its sequence lock; readers see the old one, an odd sequence, or the
 * new one. A free entry is all zero. */
static void write_entry(struct dir *d, uint32_t block) {
    struct index_entry *e = (struct index_entry *)(void *)(d->index + INDEX_HEADER_BYTES) + block;
    const struct dir_block *b = &d->blocks[block];
    struct index_entry now = {0};
    if (b->used) {
        now = (struct index_entry){.sequence = (e->sequence | 1) + 1,
                                   .key = b->key,
                                   .tenant = d->ns[b->ns].tag,
                                   .slot = PLACE_SSD};
        if (b->slot != DIR_NONE) {
            now.generation = d->slots[b->slot].generation;
            now.segment = d->extents[b->slot / d->per_extent].segment;
            now.slot = (b->slot % d->per_extent) << 2 | PLACE_DRAM;
        }
        now.check = index_entry_check(&now);
    }
    __atomic_store_n(&e->sequence, e->sequence | 1, __ATOMIC_RELAXED);
    __sync_synchronize(); /* a fence that TSan bears */
    memcpy(&e->key, &now.key, sizeof now - offsetof(struct index_entry, key));
    __atomic_store_n(&e->sequence, now.sequence, __ATOMIC_RELEASE);
}

static uint32_t add_block(struct dir *d, uint32_t ns, const struct pool_key *key) {
    if (dir_find(d, ns, key) != DIR_NONE) return DIR_NONE;
    uint32_t block = position(d, key);
    if (block != DIR_NONE)
        d->blocks[block] = (struct dir_block){
            .key = *key, .slot = DIR_NONE, .rec = DIR_NONE, .ns = ns, .used = true};
    return block;
}

/* A block that is nowhere any more is gone. */
static void settle(struct dir *d, uint32_t block) {
    struct dir_block *b = &d->blocks[block];
    if (b->slot == DIR_NONE && b->rec == DIR_NONE) *b = (struct dir_block){0};
    write_entry(d, block);
}

void dir_hit_block(struct dir *d, uint32_t block) {
    const struct dir_block *b = &d->blocks[block];
    d->ns[b->ns].used = true;
    if (b->slot != DIR_NONE) d->slots[b->slot].hit = true;
    if (b->rec != DIR_NONE) d->recs[b->rec].hit = true;
}

bool dir_hit(struct dir *d, uint64_t word) {
    uint32_t segment = (uint32_t)(word >> 32), slot = (uint32_t)word >> 8;
    uint32_t extent = segment_extent(segment);
    if (extent >= d->n_extents || slot >= d->per_extent) return false;
    const struct dir_extent *x = &d->extents[extent];
    const struct dir_slot *s = &d->slots[extent * d->per_extent + slot];
    if (!x->memory || x->segment != segment || s->block == DIR_NONE) return false;
    if ((s->generation & 0xff) != (word & 0xff)) return false;
    dir_hit_block(d, s->block);
    return true;
}

/* --- slots ---------------------------------------------------------------------------------- */

struct slot_header *dir_slot_header(const struct dir *d, uint32_t slot) {
    uint8_t *memory = d->extents[slot / d->per_extent].memory;
    assert(memory);
    return (struct slot_header *)(void *)(memory + slot % d->per_extent * d->slot_bytes);
}

uint8_t *dir_slot_data(const struct dir *d, uint32_t slot) {
    return (uint8_t *)dir_slot_header(d, slot) + slot_header_bytes(&d->shape);
}

static void seal(struct dir *d, uint32_t slot, uint32_t ns, const struct pool_key *key) {
    struct slot_header *h = dir_slot_header(d, slot);
    h->key = *key;
    h->tenant = d->ns[ns].tag;
    h->n_parts = block_parts(&d->shape);
    h->zero = 0;
    slot_header_seal(h, &d->shape);
}

static void fill(struct dir *d, uint32_t slot, uint32_t block) {
    struct dir_slot *s = &d->slots[slot];
    assert(s->taken && s->block == DIR_NONE);
    s->block = block;
    s->hit = false;
    d->extents[slot / d->per_extent].n_filling--;
    d->blocks[block].slot = slot;
    d->ns[d->blocks[block].ns].used = true;
    write_entry(d, block);
}

bool dir_publish(struct dir *d, uint32_t slot, uint32_t ns, const struct pool_key *key) {
    uint32_t block = add_block(d, ns, key);
    if (block == DIR_NONE) {
        dir_give_back(d, slot);
        return false;
    }
    seal(d, slot, ns, key);
    fill(d, slot, block);
    return true;
}

void dir_promote(struct dir *d, uint32_t block, uint32_t slot) {
    const struct dir_block *b = &d->blocks[block];
    assert(b->used && b->slot == DIR_NONE);
    seal(d, slot, b->ns, &b->key);
    fill(d, slot, block);
    d->slots[slot].hit = true; /* somebody waits for it */
}

static void release_slot(struct dir *d, uint32_t slot) {
    struct dir_extent *x = &d->extents[slot / d->per_extent];
    struct dir_slot *s = &d->slots[slot];
    s->taken = s->hit = false;
    s->block = DIR_NONE;
    s->next_free = x->free;
    x->free = slot;
    x->n_taken--;
    d->ns[x->ns].n_slots--;
    d->used_slots--;
}

void dir_give_back(struct dir *d, uint32_t slot) {
    assert(d->slots[slot].taken && d->slots[slot].block == DIR_NONE);
    d->extents[slot / d->per_extent].n_filling--;
    release_slot(d, slot);
}

void dir_evict(struct dir *d, uint32_t block) {
    struct dir_block *b = &d->blocks[block];
    assert(b->used && b->slot != DIR_NONE);
    uint32_t slot = b->slot;
    b->slot = DIR_NONE;
    settle(d, block); /* out of the index before anybody may take the slot */
    release_slot(d, slot);
}

/* --- records of the SSD --------------------------------------------------------------------- */

void dir_rec_set(struct dir *d, uint32_t rec, uint32_t block) {
    assert(d->recs[rec].block == DIR_NONE && d->blocks[block].rec == DIR_NONE);
    d->recs[rec] = (struct dir_rec){.block = block, .busy = d->recs[rec].busy};
    d->blocks[block].rec = rec;
    d->ns[d->blocks[block].ns].n_recs++;
    d->used_recs++;
    if (d->blocks[block].slot == DIR_NONE) write_entry(d, block);
}

void dir_rec_lost(struct dir *d, uint32_t rec) {
    uint32_t block = d->recs[rec].block;
    if (block == DIR_NONE) return;
    d->recs[rec].block = DIR_NONE;
    d->ns[d->blocks[block].ns].n_recs--;
    d->used_recs--;
    d->blocks[block].rec = DIR_NONE;
    if (d->blocks[block].slot == DIR_NONE) settle(d, block);
}

void dir_recs_had(struct dir *d, uint32_t n) {
    assert(d->recs_begun == 0 && n <= d->n_recs);
    for (uint32_t i = 0; i < n; i++) d->recs[i].busy = true;
    d->recs_begun = n;
}

bool dir_restore(struct dir *d, uint32_t rec, uint32_t ns, const struct pool_key *key) {
    assert(rec < d->recs_begun && d->recs[rec].block == DIR_NONE);
    if (d->ns[ns].n_recs >= d->ns[ns].n_recs_max) return false;
    uint32_t block = dir_find(d, ns, key); /* it may have come anew since the start */
    if (block == DIR_NONE) block = add_block(d, ns, key);
    if (block == DIR_NONE || d->blocks[block].rec != DIR_NONE) return false;
    dir_rec_set(d, rec, block);
    return true;
}

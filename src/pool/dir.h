/* SPDX-License-Identifier: Apache-2.0 */
/* The directory of a pool server: which block is in which slot of DRAM and which record of the SSD,
 * who goes when room is needed, and the index that clients read. It does no input or output: memory
 * is handed in, and what must be done outside (make a segment, write a block to the SSD) is an
 * answer of dir_need.
 *
 * DRAM is divided into at most EXTENTS_MAX extents of equal size; each belongs to one namespace
 * while it lives, so that data of two tenants never share a segment, and the sum is bounded. Room is
 * found by second chance: within the namespace at its quota, else over all slots. The victim of
 * another namespace costs that one its whole extent, which it must give if it has more of them than
 * who asks, or if nothing in it was used lately; else the asker evicts from its own. */
#ifndef SUPERNODE_POOL_DIR_H
#define SUPERNODE_POOL_DIR_H

#include "base/err.h"
#include "pool/index.h"
#include "pool/server.h"

enum { DIR_NONE = UINT32_MAX };

struct dir_block { /* at its entry's position in the index */
    struct pool_key key;
    uint32_t slot, rec; /* or DIR_NONE */
    uint32_t ns;
    bool used;
};

struct dir_slot {
    uint64_t generation;
    uint32_t block;     /* DIR_NONE: free or being filled */
    uint32_t next_free; /* in its extent */
    bool taken, hit;
};

struct dir_extent {
    uint8_t *memory;  /* NULL: not there */
    uint32_t segment; /* serial << 8 | number */
    uint32_t ns, free, n_taken, n_filling;
};

struct dir_rec {
    uint32_t block;
    bool hit, busy; /* busy: an operation of the SSD is under way, or it was not looked at yet */
    bool failed;    /* to be written; left alone for a while */
};

struct dir_namespace {
    char tenant[POOL_TENANT_BYTES];
    uint32_t tag; /* index_tenant */
    uint32_t n_extents, n_slots, n_slots_max, n_recs, n_recs_max;
    uint32_t hand; /* its own clock, over all slots */
    bool used;     /* since it was last looked at for one that could go */
};

struct dir {
    struct block_shape shape;
    uint64_t slot_bytes, rec_bytes;
    uint32_t per_extent, n_extents, n_slots, n_recs; /* room */
    uint32_t used_slots, used_recs;
    uint64_t n_buckets;
    uint8_t *index;
    struct dir_block *blocks; /* [n_buckets * INDEX_BUCKET] */
    struct dir_slot *slots;   /* [n_slots], extent by extent */
    struct dir_rec *recs;
    struct dir_extent extents[EXTENTS_MAX];
    struct dir_namespace ns[POOL_NAMESPACES_MAX];
    uint32_t n_ns, ns_hand, serial;
    uint32_t hand, rec_hand, recs_begun, vacating; /* recs_begun: records that were ever used */
    uint32_t n_failed, no_grow; /* records; calls of dir_rec_need before more are tried */
    uint32_t no_make;           /* calls of dir_need before memory is asked for again */
    const struct pool_quota *quotas;
    uint32_t n_quotas;
};

/* dram_bytes must have room for one block: ST_INVALID. quotas are borrowed. */
enum st ST_CHECKED dir_init(struct dir *d, const struct block_shape *shape, uint64_t dram_bytes,
                            uint32_t n_recs, uint64_t rec_bytes, const struct pool_quota *quotas,
                            uint32_t n_quotas, struct err *err);
void dir_release(struct dir *d);

/* Zeroed memory of this size, which clients read; used until dir_release. */
uint64_t dir_index_bytes(const struct dir *d);
void dir_set_index(struct dir *d, void *memory, uint64_t epoch);
void dir_set_epoch(struct dir *d, uint64_t epoch);
static inline uint64_t dir_extent_bytes(const struct dir *d) {
    return d->per_extent * d->slot_bytes;
}

/* Number of a tenant's namespace, or DIR_NONE. */
uint32_t dir_namespace_of(const struct dir *d, const char *tenant);
/* The same, made if need be, in the place of one that holds nothing if all are taken; DIR_NONE: all
 * hold something, or no name. */
uint32_t dir_namespace(struct dir *d, const char *tenant);
/* The same, if need be in the place of one that has nothing in DRAM and was not used lately: what it
 * has on SSD is forgotten. */
uint32_t dir_namespace_take(struct dir *d, const char *tenant);
/* The block, or DIR_NONE. */
uint32_t dir_find(const struct dir *d, uint32_t ns, const struct pool_key *key);
void dir_hit_block(struct dir *d, uint32_t block);
/* Where its entry is in the index segment, and a copy of it. */
const struct index_entry *dir_entry(const struct dir *d, uint32_t block, uint64_t *at);
/* A client's word about a hit (hit_word); anything that does not fit is ignored. */
bool dir_hit(struct dir *d, uint64_t word);
static inline uint64_t hit_word(const struct index_entry *e) {
    return (uint64_t)e->segment << 32 | (uint64_t)(index_slot(e) & 0xffffff) << 8 |
           (e->generation & 0xff);
}

enum dir_need {
    DIR_TOOK,  /* value: a slot, its generation raised; publish it or give it back */
    DIR_MAKE,  /* value: an extent: make memory for it, dir_extent_add, ask again */
    DIR_EVICT, /* value: a block in DRAM: save it if worthwhile, dir_evict, ask again */
    DIR_DROP,  /* value: an extent, now empty: dir_extent_remove, free its memory, ask again */
    DIR_NO,    /* no room now */
};
/* Whether dir_need will find room without evicting anybody. */
bool dir_has_room(const struct dir *d, uint32_t ns);
enum dir_need dir_need(struct dir *d, uint32_t ns, uint32_t *value);
void dir_extent_add(struct dir *d, uint32_t extent, uint32_t ns, void *memory); /* zeroed */
/* There was no memory for it: for a while, room is made within what there is. */
void dir_extent_failed(struct dir *d);
void dir_extent_remove(struct dir *d, uint32_t extent);

struct slot_header *dir_slot_header(const struct dir *d, uint32_t slot);
uint8_t *dir_slot_data(const struct dir *d, uint32_t slot);

/* The slot's header and data are complete, but for key and tenant, which this writes. False: the
 * index has no room there (the slot is given back) or the block is known. */
bool dir_publish(struct dir *d, uint32_t slot, uint32_t ns, const struct pool_key *key);
void dir_give_back(struct dir *d, uint32_t slot);
/* Out of DRAM; it stays on the SSD if it is there. */
void dir_evict(struct dir *d, uint32_t block);
/* A block that is only on SSD is in this slot too. */
void dir_promote(struct dir *d, uint32_t block, uint32_t slot);

/* A record for one more block of a namespace, with whoever has to go for it gone; DIR_NONE. */
uint32_t dir_rec_need(struct dir *d, uint32_t ns);
void dir_rec_set(struct dir *d, uint32_t rec, uint32_t block);
/* The record has nothing any more; a block that was only there is gone. */
void dir_rec_lost(struct dir *d, uint32_t rec);
/* It could not be written, as where the disk is smaller than we were told: lost, and for a while
 * nothing is written but what was written before. */
void dir_rec_failed(struct dir *d, uint32_t rec);
/* The first n records may hold something from before: they are busy until somebody looked. */
void dir_recs_had(struct dir *d, uint32_t n);
/* What such a record was found to hold. False: no room, or there is another of that block. */
bool dir_restore(struct dir *d, uint32_t rec, uint32_t ns, const struct pool_key *key);

#endif

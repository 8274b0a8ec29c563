/* SPDX-License-Identifier: Apache-2.0 */
/* Room in DRAM and on SSD: who has to go (dir.h). Clocks give a second chance: a block that was hit
 * since the hand last passed loses its mark and stays. */
#include "pool/dir.h"

#include <assert.h>

enum { NO_MAKE = 1000, NO_GROW = 1000 };

/* Moves a hand until it finds a block that may go, of one namespace or (DIR_NONE) of any. *idle: it
 * was not hit since the hand last came by; else it is one of many that were, and has lost its mark
 * only now. */
static uint32_t clock_victim(struct dir *d, uint32_t *hand, uint32_t ns, bool *idle) {
    for (uint64_t i = 0; i < 2 * (uint64_t)d->n_slots; i++) {
        uint32_t slot = *hand;
        const struct dir_extent *x = &d->extents[slot / d->per_extent];
        if (!x->memory || (ns != DIR_NONE && x->ns != ns)) { /* past the extent */
            uint32_t next = (slot / d->per_extent + 1) * d->per_extent;
            i += next - slot - 1;
            *hand = next % d->n_slots;
            continue;
        }
        *hand = (slot + 1) % d->n_slots;
        struct dir_slot *s = &d->slots[slot];
        if (s->block == DIR_NONE) continue;
        *idle = i < d->n_slots;
        if (!s->hit) return slot;
        s->hit = false;
    }
    return DIR_NONE;
}

static bool lately_used(const struct dir *d, uint32_t extent) {
    for (uint32_t i = 0; i < d->per_extent; i++)
        if (d->slots[extent * d->per_extent + i].hit) return true;
    return false;
}

static enum dir_need evict_own(struct dir *d, uint32_t ns, uint32_t *value) {
    bool idle;
    uint32_t slot = clock_victim(d, &d->ns[ns].hand, ns, &idle);
    if (slot == DIR_NONE) return DIR_NO;
    *value = d->slots[slot].block;
    return DIR_EVICT;
}

static enum dir_need vacate(struct dir *d, uint32_t *value) {
    for (uint32_t i = 0; i < d->per_extent; i++) {
        const struct dir_slot *s = &d->slots[d->vacating * d->per_extent + i];
        if (s->block == DIR_NONE) continue;
        *value = s->block;
        return DIR_EVICT;
    }
    *value = d->vacating;
    return DIR_DROP;
}

static enum dir_need evict_any(struct dir *d, uint32_t ns, uint32_t *value) {
    bool idle;
    uint32_t slot = clock_victim(d, &d->hand, DIR_NONE, &idle);
    if (slot == DIR_NONE) return DIR_NO;
    uint32_t extent = slot / d->per_extent;
    const struct dir_extent *x = &d->extents[extent];
    if (x->ns == ns) {
        *value = d->slots[slot].block;
        return DIR_EVICT;
    }
    bool gives = d->ns[x->ns].n_extents > d->ns[ns].n_extents || (idle && !lately_used(d, extent));
    if (!gives || x->n_filling > 0) return evict_own(d, ns, value);
    d->vacating = extent;
    return vacate(d, value);
}

static uint32_t take(struct dir *d, uint32_t ns) {
    for (uint32_t e = 0; e < d->n_extents; e++) {
        struct dir_extent *x = &d->extents[e];
        if (!x->memory || x->ns != ns || x->free == DIR_NONE) continue;
        uint32_t slot = x->free;
        struct dir_slot *s = &d->slots[slot];
        x->free = s->next_free;
        s->taken = true;
        s->generation++;
        x->n_taken++;
        x->n_filling++;
        d->ns[ns].n_slots++;
        d->used_slots++;
        /* before any byte of it changes: who copies the old block looks at it after the copy */
        __atomic_store_n(&dir_slot_header(d, slot)->generation, s->generation, __ATOMIC_RELAXED);
        __sync_synchronize(); /* a fence that TSan bears */
        return slot;
    }
    return DIR_NONE;
}

bool dir_has_room(const struct dir *d, uint32_t ns) {
    if (d->vacating != DIR_NONE || d->ns[ns].n_slots >= d->ns[ns].n_slots_max) return false;
    for (uint32_t e = 0; e < d->n_extents; e++) {
        const struct dir_extent *x = &d->extents[e];
        if (x->memory ? x->ns == ns && x->free != DIR_NONE : d->no_make == 0) return true;
    }
    return false;
}

enum dir_need dir_need(struct dir *d, uint32_t ns, uint32_t *value) {
    if (d->no_make > 0) d->no_make--;
    if (d->vacating != DIR_NONE) return vacate(d, value);
    if (d->ns[ns].n_slots >= d->ns[ns].n_slots_max) return evict_own(d, ns, value);
    *value = take(d, ns);
    if (*value != DIR_NONE) return DIR_TOOK;
    for (uint32_t e = 0; e < d->n_extents && d->no_make == 0; e++)
        if (!d->extents[e].memory) {
            *value = e;
            return DIR_MAKE;
        }
    for (uint32_t e = 0; e < d->n_extents; e++)
        if (d->extents[e].memory &&
            d->extents[e].n_taken == 0) { /* another's, and it has nothing there */
            d->vacating = *value = e;
            return DIR_DROP;
        }
    return evict_any(d, ns, value);
}

void dir_extent_add(struct dir *d, uint32_t extent, uint32_t ns, void *memory) {
    struct dir_extent *x = &d->extents[extent];
    assert(!x->memory);
    *x = (struct dir_extent){
        .memory = memory, .segment = ++d->serial << 8 | extent, .ns = ns, .free = DIR_NONE};
    for (uint32_t i = d->per_extent; i-- > 0;) {
        uint32_t slot = extent * d->per_extent + i;
        d->slots[slot] = (struct dir_slot){
            .generation = d->slots[slot].generation, .block = DIR_NONE, .next_free = x->free};
        x->free = slot;
    }
    d->ns[ns].n_extents++;
}

void dir_extent_failed(struct dir *d) {
    d->no_make = NO_MAKE;
}

void dir_extent_remove(struct dir *d, uint32_t extent) {
    struct dir_extent *x = &d->extents[extent];
    assert(x->memory && x->n_taken == 0);
    d->ns[x->ns].n_extents--;
    *x = (struct dir_extent){0};
    if (d->vacating == extent) d->vacating = DIR_NONE;
    d->no_make = 0; /* its memory is free */
}

/* --- records of the SSD --------------------------------------------------------------------- */

static uint32_t rec_victim(struct dir *d, uint32_t ns) {
    for (uint64_t i = 0; i < 2 * (uint64_t)d->recs_begun; i++) {
        uint32_t rec = d->rec_hand;
        struct dir_rec *r = &d->recs[rec];
        d->rec_hand = (rec + 1) % d->recs_begun;
        if (r->busy || r->failed) continue;
        if (ns != DIR_NONE && (r->block == DIR_NONE || d->blocks[r->block].ns != ns)) continue;
        if (!r->hit) return rec;
        r->hit = false;
    }
    return DIR_NONE;
}

void dir_rec_failed(struct dir *d, uint32_t rec) {
    dir_rec_lost(d, rec);
    d->recs[rec].failed = true;
    d->n_failed++;
    d->no_grow = NO_GROW;
}

/* A record that holds nothing: one that failed before, or one more of the file. */
static uint32_t rec_fresh(struct dir *d) {
    for (uint32_t rec = 0; rec < d->recs_begun && d->n_failed > 0; rec++)
        if (d->recs[rec].failed) {
            d->recs[rec].failed = false;
            d->n_failed--;
            return rec;
        }
    return d->recs_begun < d->n_recs ? d->recs_begun++ : DIR_NONE;
}

uint32_t dir_rec_need(struct dir *d, uint32_t ns) {
    if (d->no_grow > 0) d->no_grow--;
    bool at_quota = d->ns[ns].n_recs >= d->ns[ns].n_recs_max;
    uint32_t rec = at_quota || d->no_grow > 0 ? DIR_NONE : rec_fresh(d);
    if (rec != DIR_NONE) return rec;
    rec = rec_victim(d, at_quota ? ns : DIR_NONE);
    if (rec != DIR_NONE) dir_rec_lost(d, rec);
    return rec;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Between DRAM and SSD: blocks that leave DRAM are written, blocks that are asked for come back
 * into a slot and are then read from there like any other. A want stays in its client's list until
 * its block is in DRAM or gone. What was on the SSD at start is found while the server works: a large
 * one has hundreds of thousands of headers to read. */
#include <assert.h>
#include <string.h>

#include "pool/server_impl.h"

enum { LOOKS_LEAVE = 4 }; /* operations that looking at old records leaves to what is asked for */

void server_ssd_save(struct pool_server *s, uint32_t block) {
    const struct dir_block *b = &s->dir.blocks[block];
    if (!s->ssd || b->rec != DIR_NONE) return;
    uint32_t rec = dir_rec_need(&s->dir, b->ns);
    if (rec == DIR_NONE) return;
    dir_rec_set(&s->dir, rec, block);
    s->dir.recs[rec].busy = true;
    ssd_write(s->ssd, rec, s->dir.ns[b->ns].tenant, &b->key,
              dir_slot_header(&s->dir, b->slot)->sums, dir_slot_data(&s->dir, b->slot));
}

static void promoted(struct pool_server *s, const struct ssd_done *done) {
    struct server_promotion *p = s->promotions;
    while (!p->used || p->rec != done->rec) p++;
    p->used = false;
    struct dir_block *b = &s->dir.blocks[p->block];
    if (!done->ok) {
        s->stats.ssd_bad++;
        dir_give_back(&s->dir, p->slot);
        dir_rec_lost(&s->dir, done->rec);
        return;
    }
    assert(b->used && b->rec == done->rec && b->slot == DIR_NONE); /* the record was busy */
    struct slot_header *h = dir_slot_header(&s->dir, p->slot);
    memset(h->sums, 0, slot_header_bytes(&s->dir.shape) - sizeof *h);
    memcpy(h->sums, done->sums, block_parts(&s->dir.shape) * sizeof *h->sums);
    memcpy(dir_slot_data(&s->dir, p->slot), done->data, block_bytes(&s->dir.shape));
    dir_promote(&s->dir, p->block, p->slot);
    s->stats.promoted++;
}

static void looked(struct pool_server *s, const struct ssd_done *done) {
    uint32_t ns = done->ok ? dir_namespace(&s->dir, done->head->tenant) : DIR_NONE;
    /* one too many for its namespace, or another of the same block: room */
    if (ns != DIR_NONE && dir_restore(&s->dir, done->rec, ns, &done->head->key)) return;
}

static bool poll_ssd(struct pool_server *s) {
    struct ssd_done done;
    if (!s->ssd || !ssd_poll(s->ssd, &done)) return false;
    s->dir.recs[done.rec].busy = false;
    switch (done.what) {
    case SSD_READ: promoted(s, &done); break;
    case SSD_LOOK: looked(s, &done); break;
    case SSD_WRITE:
        if (!done.ok) dir_rec_failed(&s->dir, done.rec);
        break;
    }
    return true;
}

static void look_at_old(struct pool_server *s) {
    while (s->ssd && s->n_looked < ssd_n_had(s->ssd) && ssd_room(s->ssd) > LOOKS_LEAVE)
        ssd_look(s->ssd, s->n_looked++);
}

/* False: later. */
static bool promote(struct pool_server *s, uint32_t block) {
    const struct dir_block *b = &s->dir.blocks[block];
    uint32_t rec = b->rec, slot;
    if (s->dir.recs[rec].busy || ssd_room(s->ssd) == 0) return false;
    s->dir.recs[rec].busy = true; /* nobody may take the record while room is made */
    enum room room = server_room(s, b->ns, &slot);
    s->dir.recs[rec].busy = room == ROOM_TAKEN;
    if (room == ROOM_LATER) s->want_waits = true;
    if (room != ROOM_TAKEN) return room == ROOM_NONE;
    struct server_promotion *p = s->promotions;
    while (p->used) p++;
    *p = (struct server_promotion){true, rec, slot, block};
    ssd_read(s->ssd, rec, &b->key);
    return false;
}

/* True: the want was answered. */
static bool serve(struct pool_server *s, struct server_client *c, struct server_want *w) {
    uint32_t ns = dir_namespace_of(&s->dir, w->want.tenant);
    uint32_t block = ns == DIR_NONE ? DIR_NONE : dir_find(&s->dir, ns, &w->want.key);
    struct wire_found found = {.id = w->want.id};
    if (!w->counted) s->stats.ssd_asked++;
    w->counted = true;
    if (block != DIR_NONE && s->dir.blocks[block].slot != DIR_NONE) {
        found.entry = *dir_entry(&s->dir, block, &found.at);
        dir_hit_block(&s->dir, block);
        s->stats.ssd_found++;
    } else if (block != DIR_NONE && !promote(s, block)) {
        return false;
    }
    c->founds[c->n_founds++] = found;
    return true;
}

static bool serve_all(struct pool_server *s, struct server_client *c) {
    uint32_t kept = 0, n = c->n_wants;
    for (uint32_t i = 0; i < n; i++)
        if (c->n_founds == WIRE_ITEMS_MAX || !serve(s, c, &c->wants[i]))
            c->wants[kept++] = c->wants[i];
    c->n_wants = kept;
    return kept < n;
}

bool server_ssd_step(struct pool_server *s) {
    bool did = poll_ssd(s);
    look_at_old(s);
    s->want_waits = false;
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        struct server_client *c = s->clients[i];
        if (c && !c->gone && c->n_wants > 0 && serve_all(s, c)) did = true;
    }
    return did;
}

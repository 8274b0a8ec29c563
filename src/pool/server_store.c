/* SPDX-License-Identifier: Apache-2.0 */
/* Room for blocks, and the pull of what was offered: part by part from the client's pages into a
 * slot that nobody can find yet, hashed on the way; then the page's generation is read again, and
 * only if it is the one that was offered the block is published. */
#include <string.h>

#include "pool/server_impl.h"

enum { COOKIE_PULL, COOKIE_RING };

static uint64_t cookie(uint32_t kind, uint32_t i) {
    return (uint64_t)kind << 32 | i;
}

/* --- hits that clients logged, read before anything is evicted ------------------------------- */

static void count_hits(struct pool_server *s, struct server_client *c) {
    uint64_t head = c->ring.head;
    if (head - c->ring_seen > HIT_WORDS) c->ring_seen = head - HIT_WORDS; /* some were lost */
    for (; c->ring_seen != head; c->ring_seen++)
        s->stats.hits_logged += dir_hit(&s->dir, c->ring.words[c->ring_seen % HIT_WORDS]);
}

static void read_rings(struct pool_server *s) {
    s->rings_flying = false;
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        struct server_client *c = s->clients[i];
        if (!c || c->gone || !c->hits || c->ring_flying) continue;
        /* refused (queue full): its hits are not counted this time, which is harmless */
        if (bus_read(s->queue, c->hits, 0, &c->ring, sizeof c->ring, cookie(COOKIE_RING, i)) ==
            ST_OK)
            c->ring_flying = s->rings_flying = true;
    }
    s->rings_read = !s->rings_flying;
}

static void ring_arrived(struct pool_server *s, struct server_client *c, enum bus_status status) {
    c->ring_flying = false;
    if (status == BUS_DONE && !c->gone) count_hits(s, c);
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++)
        if (s->clients[i] && s->clients[i]->ring_flying) return;
    s->rings_flying = false;
    s->rings_read = true;
}

/* --- room ------------------------------------------------------------------------------------ */

static bool make_extent(struct pool_server *s, uint32_t extent, uint32_t ns) {
    void *memory;
    enum st st = bus_segment_new(s->bus, dir_extent_bytes(&s->dir), BUS_PEERS_READ,
                                 &s->extents[extent], &memory, NULL);
    if (st) return false;
    dir_extent_add(&s->dir, extent, ns, memory);
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        struct server_client *c = s->clients[i];
        uint64_t tag = wire_tag(WIRE_DATA, s->dir.extents[extent].segment);
        /* one that does not get it misses what is there, or is gone */
        if (c && c->ready && !c->gone && bus_share(s->bus, c->peer, s->extents[extent], tag))
            continue;
    }
    return true;
}

static void evict(struct pool_server *s, uint32_t block) {
    server_ssd_save(s, block);
    if (s->dir.blocks[block].rec == DIR_NONE)
        s->stats.evicted++;
    else
        s->stats.evicted_to_ssd++;
    dir_evict(&s->dir, block);
}

static enum room make_room(struct pool_server *s, uint32_t ns, uint32_t *slot, bool *evicted) {
    for (;;) {
        if (!dir_has_room(&s->dir, ns)) {
            if (!s->rings_read && !s->rings_flying) read_rings(s);
            if (!s->rings_read || (s->ssd && ssd_room(s->ssd) < 2)) return ROOM_LATER;
        }
        uint32_t value;
        switch (dir_need(&s->dir, ns, &value)) {
        case DIR_TOOK: *slot = value; return ROOM_TAKEN;
        case DIR_MAKE:
            if (!make_extent(s, value, ns)) dir_extent_failed(&s->dir);
            break;
        case DIR_EVICT:
            evict(s, value);
            *evicted = true;
            break;
        case DIR_DROP:
            dir_extent_remove(&s->dir, value);
            bus_segment_free(s->bus, s->extents[value]);
            s->extents[value] = 0;
            break;
        case DIR_NO: return ROOM_NONE;
        }
    }
}

enum room server_room(struct pool_server *s, uint32_t ns, uint32_t *slot) {
    bool evicted = false;
    enum room room = make_room(s, ns, slot, &evicted);
    if (evicted) s->rings_read = false;
    return room;
}

/* --- pulls ----------------------------------------------------------------------------------- */

static void answer(struct pool_server *s, struct server_client *c, uint64_t id,
                   enum wire_result result) {
    s->stats.stored += result == WIRE_STORED;
    s->stats.known += result == WIRE_KNOWN;
    s->stats.refused += result == WIRE_REFUSED;
    if (!c->gone) c->answers[c->n_answers++] = (struct wire_answer){id, result};
}

static void pull_end(struct pool_server *s, struct server_pull *p, enum wire_result result) {
    p->client->n_pulls--;
    p->state = PULL_FREE;
    answer(s, p->client, p->offer.id, result);
}

static void pull_fail(struct pool_server *s, struct server_pull *p) {
    dir_give_back(&s->dir, p->slot);
    s->stats.bad_offers++;
    pull_end(s, p, WIRE_REFUSED);
}

static void begin_part(struct pool_server *s, struct server_pull *p) {
    const struct block_shape *shape = &s->dir.shape;
    uint64_t from = paged_at(shape, p->client->n_pages, p->part, (uint32_t)p->offer.page);
    piece_begin(&p->piece, p->client->pages, from,
                dir_slot_data(&s->dir, p->slot) + block_part_at(shape, p->part),
                block_part_bytes(shape, p->part));
}

static bool pull_submit(struct pool_server *s, struct server_pull *p) {
    uint64_t id = cookie(COOKIE_PULL, (uint32_t)(p - s->pulls));
    enum st st;
    if (p->state == PULL_COPYING)
        st = piece_submit(&p->piece, s->queue, id);
    else
        st = bus_read(
            s->queue, p->client->pages,
            paged_generation_at(&s->dir.shape, p->client->n_pages, (uint32_t)p->offer.page),
            &p->generation, sizeof p->generation, id);
    p->flying = st == ST_OK;
    if (st && st != ST_FULL) pull_fail(s, p);
    return st != ST_FULL;
}

static void pull_arrived(struct pool_server *s, struct server_pull *p, enum bus_status status) {
    p->flying = false;
    if (status != BUS_DONE || p->client->gone) {
        pull_fail(s, p);
    } else if (p->state == PULL_CHECKING) {
        if (p->generation != p->offer.generation)
            pull_fail(s, p);
        else if (dir_publish(&s->dir, p->slot, p->ns, &p->offer.key))
            pull_end(s, p, WIRE_STORED);
        else
            pull_end(s, p, WIRE_REFUSED);
    } else if (piece_arrived(&p->piece, &dir_slot_header(&s->dir, p->slot)->sums[p->part])) {
        if (++p->part < block_parts(&s->dir.shape))
            begin_part(s, p);
        else
            p->state = PULL_CHECKING;
    }
}

static bool being_pulled(const struct pool_server *s, uint32_t ns, const struct pool_key *key) {
    for (uint32_t i = 0; i < SERVER_PULLS_MAX; i++) {
        const struct server_pull *p = &s->pulls[i];
        if (p->state != PULL_FREE && p->ns == ns && memcmp(&p->offer.key, key, sizeof *key) == 0)
            return true;
    }
    return false;
}

/* False: it must wait. */
static bool pull_begin(struct pool_server *s, struct server_pull *p, struct server_client *c,
                       const struct wire_offer *o) {
    uint32_t slot, ns = dir_namespace_take(&s->dir, o->tenant);
    if (ns == DIR_NONE || !c->pages || o->page >= c->n_pages) {
        s->stats.bad_offers++;
        answer(s, c, o->id, WIRE_REFUSED);
        return true;
    }
    uint32_t block = dir_find(&s->dir, ns, &o->key);
    if (block != DIR_NONE || being_pulled(s, ns, &o->key)) {
        if (block != DIR_NONE) dir_hit_block(&s->dir, block);
        answer(s, c, o->id, WIRE_KNOWN);
        return true;
    }
    if (s->want_waits && !dir_has_room(&s->dir, ns)) return false;
    enum room room = server_room(s, ns, &slot);
    if (room == ROOM_LATER) return false;
    if (room == ROOM_NONE) {
        answer(s, c, o->id, WIRE_REFUSED);
        return true;
    }
    p->state = PULL_COPYING;
    p->client = c;
    p->offer = *o;
    p->ns = ns;
    p->slot = slot;
    p->part = 0;
    c->n_pulls++;
    memset(dir_slot_header(&s->dir, slot)->sums, 0,
           slot_header_bytes(&s->dir.shape) - sizeof(struct slot_header));
    begin_part(s, p);
    return true;
}

/* The next offer, clients taking turns; false: none, or it must wait. */
static bool begin_next(struct pool_server *s, struct server_pull *p) {
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        uint32_t at = (s->next_client + i) % SERVER_CLIENTS_MAX;
        struct server_client *c = s->clients[at];
        if (!c || c->gone || c->n_offers == 0) continue;
        if (c->n_answers + c->n_pulls >= WIRE_ITEMS_MAX) continue; /* it does not read them */
        struct wire_offer o = c->offers[c->offers_head];
        if (!pull_begin(s, p, c, &o)) return false;
        c->offers_head = (c->offers_head + 1) % SERVER_QUEUE_MAX;
        c->n_offers--;
        s->next_client = (at + 1) % SERVER_CLIENTS_MAX;
        return true;
    }
    return false;
}

static bool completions(struct pool_server *s) {
    struct bus_completion v[16];
    uint32_t n = bus_completions(s->queue, v, 16);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (uint32_t)v[i].cookie;
        if (v[i].cookie >> 32 == COOKIE_RING)
            ring_arrived(s, s->clients[at], v[i].status);
        else
            pull_arrived(s, &s->pulls[at], v[i].status);
    }
    return n > 0;
}

bool server_store_step(struct pool_server *s) {
    bool did = completions(s);
    for (uint32_t i = 0; i < SERVER_PULLS_MAX; i++) {
        struct server_pull *p = &s->pulls[i];
        if (p->state == PULL_FREE && begin_next(s, p)) did = true;
        if (p->state == PULL_FREE || p->flying) continue;
        if (pull_submit(s, p)) did = true;
        completions(s); /* a tile that is here already is hashed while it is in the cache */
    }
    return did;
}

void server_store_drop(struct pool_server *s, struct server_client *c) {
    c->n_offers = 0;
    for (uint32_t i = 0; i < SERVER_PULLS_MAX; i++) {
        struct server_pull *p = &s->pulls[i];
        if (p->state != PULL_FREE && p->client == c && !p->flying) pull_fail(s, p);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The copying thread of the pool client. A fetch goes through phases, each over all its blocks: the
 * headers of their slots; then for every part of a block, the copy (hashed on the way), and a second
 * look at entry, generation and epoch, after which the gate tells that the part is there. Fetches
 * are served oldest first; one that waits for the SSD lets the next go on.
 *
 * Nothing here is shared but the inbox (locked), a block's state, and the gate. */
#include <string.h>

#include "pool/client_impl.h"

static void fail(struct pool_fetch *f, uint32_t block) {
    if (f->failed) return;
    f->failed = true;
    atomic_store_explicit(&f->gate->bad, block, memory_order_release);
    atomic_fetch_add_explicit(&f->client->n_bad, 1, memory_order_relaxed);
}

static void fail_damaged(struct pool_fetch *f, uint32_t block) {
    if (!f->failed) f->damaged = block;
    fail(f, block);
}

/* --- one block's turn ------------------------------------------------------------------------ */

static enum st lane_read(struct pool_client *c, struct lane *n) {
    const struct fetch_block *b = &n->fetch->blocks[n->block];
    uint64_t id = (uint64_t)(n - c->lanes);
    struct bus_queue *q = c->copy_queue;
    if (n->kind == LANE_PIECE) return piece_submit(&n->piece, q, id);
    if (n->kind == LANE_HEADER)
        return bus_read(q, b->segment, b->offset, b->header, slot_header_bytes(&c->o.shape), id);
    switch (n->submitted) {
    case 0: return bus_read(q, b->segment, b->offset, &n->generation, sizeof n->generation, id);
    case 1: return bus_read(q, b->index, b->at, &n->entry, sizeof n->entry, id);
    default:
        return bus_read(q, b->index, offsetof(struct index_header, epoch), &n->epoch,
                        sizeof n->epoch, id);
    }
}

/* Submits what the lane still has to; false: it could not. */
static bool lane_submit(struct pool_client *c, struct lane *n) {
    uint32_t reads = n->kind == LANE_CHECK ? 3 : 1;
    while (n->submitted < reads && !n->failed) {
        enum st st = lane_read(c, n);
        if (st == ST_FULL) return false;
        if (st) n->failed = true;
        if (!st) {
            n->submitted++;
            n->flying++;
        }
    }
    return true;
}

static void lane_end(struct lane *n) {
    n->used = false;
    n->fetch->under_way--;
}

/* Everything the lane asked for is here. */
static void lane_arrived(struct pool_client *c, struct lane *n) {
    struct pool_fetch *f = n->fetch;
    const struct fetch_block *b = &f->blocks[n->block];
    struct sum sum;
    if (n->failed) {
        fail(f, n->block);
    } else if (n->kind == LANE_HEADER) {
        /* a header that does not fit its entry was overwritten, or is damaged */
        if (!slot_header_ok(b->header, &c->o.shape, &b->entry)) fail_damaged(f, n->block);
    } else if (n->kind == LANE_CHECK) {
        bool same = memcmp(&n->entry, &b->entry, sizeof n->entry) == 0 &&
                    n->generation == b->entry.generation && n->epoch == b->epoch;
        if (!same) fail(f, n->block);
    } else if (!piece_arrived(&n->piece, &sum)) {
        n->submitted = 0;
        return;
    } else if (!sum_equal(&sum, &b->header->sums[f->part])) {
        fail_damaged(f, n->block);
    }
    lane_end(n);
}

static bool completions(struct pool_client *c) {
    struct bus_completion v[3 * CLIENT_LANES];
    uint32_t n = bus_completions(c->copy_queue, v, 3 * CLIENT_LANES);
    for (uint32_t i = 0; i < n; i++) {
        struct lane *l = &c->lanes[v[i].cookie];
        l->flying--;
        if (v[i].status != BUS_DONE) l->failed = true;
    }
    for (uint32_t i = 0; i < CLIENT_LANES; i++) {
        struct lane *l = &c->lanes[i];
        bool whole = l->failed || l->submitted == (l->kind == LANE_CHECK ? 3u : 1u);
        if (l->used && l->flying == 0 && whole) lane_arrived(c, l);
    }
    return n > 0;
}

/* --- a fetch's turn -------------------------------------------------------------------------- */

static void end(struct pool_client *c, struct pool_fetch *f) {
    struct pool_fetch **at = &c->active;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    if (!f->failed && f->part == block_parts(&c->o.shape)) {
        atomic_fetch_add_explicit(&c->n_fetched, f->n, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->n_bytes, f->n * block_bytes(&c->o.shape),
                                  memory_order_relaxed);
    }
    atomic_store_explicit(&f->over, true, memory_order_release); /* its owner may free it now */
}

/* A phase is complete. True: so is the fetch. */
static bool next_phase(struct pool_client *c, struct pool_fetch *f) {
    f->begun = 0;
    if (f->phase == FETCH_CHECK) {
        f->part++;
        atomic_store_explicit(&f->gate->parts, f->part, memory_order_release);
    }
    f->phase = f->phase == FETCH_COPY ? FETCH_CHECK : FETCH_COPY;
    return f->part == block_parts(&c->o.shape);
}

static void lane_begin(struct pool_client *c, struct lane *n, struct pool_fetch *f) {
    static const enum lane_kind kinds[] = {
        [FETCH_HEADERS] = LANE_HEADER, [FETCH_COPY] = LANE_PIECE, [FETCH_CHECK] = LANE_CHECK};
    const struct block_shape *s = &c->o.shape;
    n->used = true;
    n->failed = false;
    n->kind = kinds[f->phase];
    n->fetch = f;
    n->block = f->begun++;
    n->submitted = n->flying = 0;
    f->under_way++;
    if (n->kind != LANE_PIECE) return;
    const struct fetch_block *b = &f->blocks[n->block];
    piece_begin(&n->piece, b->segment, b->offset + slot_header_bytes(s) + block_part_at(s, f->part),
                c->o.memory + paged_at(s, c->o.n_pages, f->part, b->page),
                block_part_bytes(s, f->part));
}

enum turn { TURN_LANE, TURN_MOVED, TURN_WAITS };
/* Gives the lane a block of the fetch, or moves the fetch on. */
static enum turn fetch_turn(struct pool_client *c, struct pool_fetch *f, struct lane *n) {
    bool stops = f->failed || atomic_load_explicit(&f->cancelled, memory_order_acquire);
    if (!stops && f->begun < f->n) {
        uint32_t state = atomic_load_explicit(&f->blocks[f->begun].state, memory_order_acquire);
        if (state == BLOCK_READY) {
            lane_begin(c, n, f);
            return TURN_LANE;
        }
        if (state != BLOCK_LOST) return TURN_WAITS;
        fail(f, f->begun);
        return TURN_MOVED;
    }
    if (f->under_way > 0) return TURN_WAITS;
    if (!stops && !next_phase(c, f)) return TURN_MOVED;
    end(c, f);
    return TURN_MOVED;
}

/* Fills a free lane from the oldest fetch that has work; false: none has. */
static bool fill(struct pool_client *c, struct lane *n, bool *moved) {
    struct pool_fetch *f = c->active;
    while (f) {
        struct pool_fetch *next = f->next; /* f may end */
        enum turn t = fetch_turn(c, f, n);
        if (t == TURN_LANE) return true;
        if (t == TURN_MOVED) *moved = true;
        f = t == TURN_MOVED ? c->active : next;
    }
    return false;
}

static void take_inbox(struct pool_client *c) {
    pthread_mutex_lock(&c->lock);
    struct pool_fetch *f = c->inbox;
    c->inbox = NULL;
    pthread_mutex_unlock(&c->lock);
    struct pool_fetch **at = &c->active;
    while (*at) at = &(*at)->next;
    *at = f;
}

bool pool_client_copy(struct pool_client *c) {
    take_inbox(c);
    bool did = completions(c);
    for (uint32_t i = 0; i < CLIENT_LANES; i++) {
        struct lane *n = &c->lanes[i];
        if (!n->used && !fill(c, n, &did)) continue;
        /* where reads are done at once, the piece is copied here, each tile hashed while hot */
        while (n->used && n->flying == 0 && lane_submit(c, n)) {
            did = true;
            completions(c);
        }
    }
    return did;
}

void pool_client_stop(struct pool_client *c) {
    take_inbox(c);
    bus_queue_free(c->copy_queue);
    c->copy_queue = NULL;
    while (c->active) {
        struct pool_fetch *f = c->active;
        if (!f->failed) atomic_store_explicit(&f->gate->bad, 0, memory_order_release);
        end(c, f);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Fetches as their owner sees them: where each block is, asking for those on SSD, and telling a
 * server about a block that failed its checksum. The copying is copy.c. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pool/client_impl.h"
#include "pool/dir.h"

static enum block_state state_of(const struct fetch_block *b) {
    return (enum block_state)atomic_load_explicit(&b->state, memory_order_relaxed);
}

static void set_state(struct fetch_block *b, enum block_state state) {
    atomic_store_explicit(&b->state, state, memory_order_release);
}

/* The server reads this before it evicts; that it may miss some is harmless. */
static void log_hit(struct server_link *l, const struct index_entry *e) {
    if (!l->ring) return;
    uint64_t head = l->ring->head;
    __atomic_store_n(&l->ring->words[head % HIT_WORDS], hit_word(e), __ATOMIC_RELAXED);
    __atomic_store_n(&l->ring->head, head + 1, __ATOMIC_RELEASE);
}

void fetch_place(struct pool_client *c, struct fetch_block *b) {
    struct server_link *l = &c->links[b->slot];
    const struct extent_link *x = &l->extents[segment_extent(b->entry.segment) % EXTENTS_MAX];
    uint64_t bytes = slot_bytes(&c->o.shape);
    if (l->peer != b->peer || x->segment != b->entry.segment || !x->id ||
        index_slot(&b->entry) >= x->bytes / bytes) {
        set_state(b, BLOCK_LOST);
        return;
    }
    b->segment = x->id;
    b->offset = index_slot(&b->entry) * bytes;
    log_hit(l, &b->entry);
    set_state(b, BLOCK_READY);
}

static void place_all(struct pool_client *c, struct pool_fetch *f, const struct pool_lookup *l,
                      uint32_t first, const uint32_t *pages) {
    uint32_t header_bytes = slot_header_bytes(&c->o.shape);
    for (uint32_t i = 0; i < f->n; i++) {
        const struct found_block *from = &l->blocks[first + i];
        const struct server_link *link = &c->links[from->slot];
        struct fetch_block *b = &f->blocks[i];
        b->slot = from->slot;
        b->page = pages[i];
        b->peer = from->peer;
        b->index = link->index;
        b->epoch = link->epoch;
        b->at = from->at;
        b->entry = from->entry;
        b->header = (struct slot_header *)(void *)(f->headers + (size_t)i * header_bytes);
        assert(b->page < c->o.n_pages);
        if (link->peer != from->peer)
            set_state(b, BLOCK_LOST);
        else if (index_place(&b->entry) == PLACE_SSD)
            set_state(b, BLOCK_WANTED);
        else
            fetch_place(c, b);
    }
}

struct pool_fetch *pool_fetch_begin(struct pool_client *c, const struct pool_lookup *l,
                                    uint32_t first, uint32_t n, const uint32_t *pages,
                                    struct block_gate *gate) {
    assert(l->over && n > 0 && first <= l->limit && n <= l->limit - first);
    struct pool_fetch *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->blocks = calloc(n, sizeof *f->blocks);
    f->headers = calloc(n, slot_header_bytes(&c->o.shape));
    if (!f->blocks || !f->headers) {
        free(f->blocks);
        free(f->headers);
        free(f);
        return NULL;
    }
    c->now_ns = bus_now(c->o.bus);
    f->client = c;
    f->id = ++c->ids & UINT32_MAX;
    f->n = n;
    f->gate = gate;
    f->damaged = BLOCK_GATE_GOOD;
    memcpy(f->tenant, l->tenant, sizeof f->tenant);
    block_gate_init(gate);
    place_all(c, f, l, first, pages);
    f->before = c->last_fetch;
    *(c->last_fetch ? &c->last_fetch->after : &c->first_fetch) = f;
    c->last_fetch = f;
    fetches_step(c);
    pthread_mutex_lock(&c->lock);
    struct pool_fetch **end = &c->inbox;
    while (*end) end = &(*end)->next;
    *end = f;
    pthread_mutex_unlock(&c->lock);
    return f;
}

bool pool_fetch_over(const struct pool_fetch *f) {
    return atomic_load_explicit(&f->over, memory_order_acquire);
}

void pool_fetch_cancel(struct pool_fetch *f) {
    atomic_store_explicit(&f->cancelled, true, memory_order_release);
}

/* The server looks for itself, and drops the block if it is so. */
static void tell_damage(struct pool_client *c, const struct pool_fetch *f) {
    const struct fetch_block *b = &f->blocks[f->damaged];
    struct wire_doubt d = {.generation = b->entry.generation, .key = b->entry.key};
    memcpy(d.tenant, f->tenant, sizeof d.tenant);
    if (c->links[b->slot].peer == b->peer && wire_send(c->o.bus, b->peer, WIRE_DOUBT, &d, 1))
        return; /* it does not listen, or is gone: the next reader will notice too */
}

void pool_fetch_free(struct pool_fetch *f) {
    if (!f) return;
    assert(pool_fetch_over(f));
    struct pool_client *c = f->client;
    for (uint32_t i = 0; i < f->n; i++) { /* an answer that still comes finds nobody */
        struct fetch_block *b = &f->blocks[i];
        struct server_link *l = &c->links[b->slot];
        if (state_of(b) == BLOCK_ASKED && l->peer == b->peer) l->n_wants--;
    }
    if (f->damaged != BLOCK_GATE_GOOD) tell_damage(c, f);
    *(f->before ? &f->before->after : &c->first_fetch) = f->after;
    *(f->after ? &f->after->before : &c->last_fetch) = f->before;
    free(f->blocks);
    free(f->headers);
    free(f);
}

/* --- blocks on SSD --------------------------------------------------------------------------- */

void fetches_found(struct pool_client *c, uint32_t slot, const struct wire_found *v) {
    uint32_t i = (uint32_t)v->id;
    for (struct pool_fetch *f = c->first_fetch; f; f = f->after) {
        if (f->id != v->id >> 32 || i >= f->n) continue;
        struct fetch_block *b = &f->blocks[i];
        struct server_link *l = &c->links[slot];
        if (b->slot != slot || b->peer != l->peer || state_of(b) != BLOCK_ASKED) return;
        l->n_wants--;
        f->asked_until_ns = c->now_ns + c->o.timeout_ns;
        const struct index_entry *e = &v->entry;
        bool good = index_place(e) == PLACE_DRAM && e->check == index_entry_check(e) &&
                    e->sequence % 2 == 0 && e->tenant == b->entry.tenant &&
                    memcmp(&e->key, &b->entry.key, sizeof e->key) == 0 && v->at == b->at;
        if (!good) {
            set_state(b, BLOCK_LOST);
            return;
        }
        c->stats.blocks_from_ssd++;
        b->entry = *e;
        fetch_place(c, b);
        return;
    }
}

void fetches_lost(struct pool_client *c, bus_id peer) {
    for (struct pool_fetch *f = c->first_fetch; f; f = f->after)
        for (uint32_t i = 0; i < f->n; i++) {
            struct fetch_block *b = &f->blocks[i];
            if (b->peer != peer) continue;
            if (state_of(b) == BLOCK_WANTED || state_of(b) == BLOCK_ASKED) set_state(b, BLOCK_LOST);
        }
}

/* Asks one server for what a fetch still wants of it. */
static void ask(struct pool_client *c, struct pool_fetch *f, struct server_link *l) {
    struct wire_want wants[WIRE_ITEMS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n && l->n_wants + n < CLIENT_WANTS_MAX; i++) {
        struct fetch_block *b = &f->blocks[i];
        if (b->peer != l->peer || state_of(b) != BLOCK_WANTED) continue;
        wants[n] = (struct wire_want){.id = f->id << 32 | i, .key = b->entry.key};
        memcpy(wants[n++].tenant, f->tenant, sizeof f->tenant);
    }
    if (n == 0 || wire_send(c->o.bus, l->peer, WIRE_WANT, wants, n)) return;
    for (uint32_t i = 0; i < n; i++) set_state(&f->blocks[(uint32_t)wants[i].id], BLOCK_ASKED);
    l->n_wants += n;
    f->asked_until_ns = c->now_ns + c->o.timeout_ns;
}

static bool waits(struct pool_client *c, struct pool_fetch *f) {
    bool waiting = false;
    for (uint32_t i = 0; i < f->n; i++) {
        struct fetch_block *b = &f->blocks[i];
        struct server_link *l = &c->links[b->slot];
        if (state_of(b) == BLOCK_WANTED && l->peer == b->peer && l->n_wants < CLIENT_WANTS_MAX)
            ask(c, f, l);
        waiting |= state_of(b) == BLOCK_WANTED || state_of(b) == BLOCK_ASKED;
    }
    return waiting;
}

void fetches_step(struct pool_client *c) {
    for (struct pool_fetch *f = c->first_fetch; f; f = f->after) {
        if (pool_fetch_over(f)) continue;
        if (f->asked_until_ns == 0) f->asked_until_ns = c->now_ns + c->o.timeout_ns;
        if (!waits(c, f) || c->now_ns < f->asked_until_ns) continue;
        for (uint32_t i = 0; i < f->n; i++) { /* the server is too late with what is missing */
            struct fetch_block *b = &f->blocks[i];
            if (state_of(b) == BLOCK_ASKED && c->links[b->slot].peer == b->peer)
                c->links[b->slot].n_wants--;
            if (state_of(b) == BLOCK_ASKED || state_of(b) == BLOCK_WANTED) set_state(b, BLOCK_LOST);
        }
    }
}

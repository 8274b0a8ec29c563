/* SPDX-License-Identifier: Apache-2.0 */
/* Implements server.h: clients, what they say, and what they are told. */
#include "pool/server.h"

#include <stdlib.h>
#include <string.h>

#include "pool/server_impl.h"

/* --- clients --------------------------------------------------------------------------------- */

static struct server_client *client_of(struct pool_server *s, bus_id peer) {
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++)
        if (s->clients[i] && s->clients[i]->peer == peer && !s->clients[i]->gone)
            return s->clients[i];
    return NULL;
}

static void client_up(struct pool_server *s, bus_id peer) {
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        if (s->clients[i]) continue;
        s->clients[i] = calloc(1, sizeof *s->clients[i]);
        if (!s->clients[i]) break;
        s->clients[i]->peer = peer;
        s->stats.clients++;
        return;
    }
    bus_close(s->bus, peer);
}

static void client_gone(struct pool_server *s, struct server_client *c) {
    c->gone = true;
    c->n_wants = 0;
    s->stats.clients--;
    server_store_drop(s, c);
}

/* Once nothing reads into it any more. */
static void free_the_gone(struct pool_server *s) {
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        struct server_client *c = s->clients[i];
        if (!c || !c->gone || c->ring_flying || c->n_pulls > 0) continue;
        free(c);
        s->clients[i] = NULL;
    }
}

static void refuse(struct pool_server *s, struct server_client *c) {
    bus_close(s->bus, c->peer);
    client_gone(s, c);
}

/* --- what they say --------------------------------------------------------------------------- */

static void hello(struct pool_server *s, struct server_client *c, const struct wire_hello *h) {
    struct wire_hello mine = {.version = WIRE_VERSION, .shape = s->dir.shape, .name = "pool"};
    bool fits = block_shape_equal(&h->shape, &s->dir.shape) && !c->ready;
    enum st st = wire_send(s->bus, c->peer, WIRE_HELLO, &mine, 1);
    /* the index last: with it the client begins to look */
    for (uint32_t i = 0; i < s->dir.n_extents && fits && !st; i++)
        if (s->extents[i])
            st = bus_share(s->bus, c->peer, s->extents[i],
                           wire_tag(WIRE_DATA, s->dir.extents[i].segment));
    if (!st && fits) st = bus_share(s->bus, c->peer, s->index_segment, wire_tag(WIRE_INDEX, 0));
    if (st || !fits) {
        refuse(s, c);
        return;
    }
    c->ready = true;
    c->n_pages = h->n_pages;
}

static void offer(struct pool_server *s, struct server_client *c, const struct wire_offer *o) {
    if (c->n_offers == SERVER_QUEUE_MAX) { /* more than it may have under way */
        s->stats.bad_offers++;
        return;
    }
    c->offers[(c->offers_head + c->n_offers++) % SERVER_QUEUE_MAX] = *o;
}

static void want(struct server_client *c, const struct wire_want *w) {
    if (c->n_wants < SERVER_QUEUE_MAX) c->wants[c->n_wants++] = (struct server_want){.want = *w};
}

/* One too many is forgotten: a block that is damaged is doubted again by who reads it next. */
static void doubt(struct server_client *c, const struct wire_doubt *d) {
    if (c->n_doubts < SERVER_DOUBTS_MAX)
        c->doubts[(c->doubts_head + c->n_doubts++) % SERVER_DOUBTS_MAX] = *d;
}

/* A client says that a block is damaged: looks for itself. */
static void look_at(struct pool_server *s, const struct wire_doubt *d) {
    uint32_t ns = dir_namespace_of(&s->dir, d->tenant);
    uint32_t block = ns == DIR_NONE ? DIR_NONE : dir_find(&s->dir, ns, &d->key);
    if (block == DIR_NONE || s->dir.blocks[block].slot == DIR_NONE) return;
    uint32_t slot = s->dir.blocks[block].slot;
    uint64_t at;
    const struct slot_header *h = dir_slot_header(&s->dir, slot);
    const struct block_shape *shape = &s->dir.shape;
    if (s->dir.slots[slot].generation != d->generation) return;
    bool whole = slot_header_ok(h, shape, dir_entry(&s->dir, block, &at));
    for (uint32_t part = 0; part < block_parts(shape) && whole; part++) {
        struct sum sum = sum_of(dir_slot_data(&s->dir, slot) + block_part_at(shape, part),
                                block_part_bytes(shape, part));
        whole = sum_equal(&sum, &h->sums[part]);
    }
    if (whole) return;
    s->stats.dram_bad++;
    dir_evict(&s->dir, block);
}

static void message(struct pool_server *s, struct server_client *c, const struct bus_event *ev) {
    struct wire_message m;
    union wire_item v;
    if (!wire_parse(&m, ev->data, ev->len) || (m.kind != WIRE_HELLO && !c->ready)) {
        refuse(s, c);
        return;
    }
    for (uint32_t i = 0; i < m.n && !c->gone; i++) {
        wire_item(&m, i, &v);
        switch (m.kind) {
        case WIRE_HELLO: hello(s, c, &v.hello); break;
        case WIRE_OFFER: offer(s, c, &v.offer); break;
        case WIRE_WANT: want(c, &v.want); break;
        case WIRE_DOUBT: doubt(c, &v.doubt); break;
        default: refuse(s, c);
        }
    }
}

static void segment(struct pool_server *s, struct server_client *c, const struct bus_event *ev) {
    if (!c->ready) {
        refuse(s, c);
    } else if (ev->value == wire_tag(WIRE_PAGES, 0)) {
        if (ev->len >= paged_bytes(&s->dir.shape, c->n_pages))
            c->pages = ev->segment;
        else
            refuse(s, c);
    } else if (ev->value == wire_tag(WIRE_HITS, 0) && ev->len >= sizeof(struct hit_ring)) {
        c->hits = ev->segment;
    }
}

void pool_server_event(struct pool_server *s, const struct bus_event *ev) {
    struct server_client *c = client_of(s, ev->peer);
    if (ev->kind == BUS_UP && !c) client_up(s, ev->peer);
    if (!c) return;
    if (ev->kind == BUS_MESSAGE) message(s, c, ev);
    if (ev->kind == BUS_SEGMENT) segment(s, c, ev);
    if (ev->kind == BUS_GONE) client_gone(s, c);
}

/* --- working --------------------------------------------------------------------------------- */

/* One of a client's in a step: to look at one is to hash a block, and others wait. */
static bool take_doubt(struct pool_server *s, struct server_client *c) {
    if (c->n_doubts == 0) return false;
    look_at(s, &c->doubts[c->doubts_head]);
    c->doubts_head = (c->doubts_head + 1) % SERVER_DOUBTS_MAX;
    c->n_doubts--;
    return true;
}

/* Who asks without end and reads nothing is let go: what waits for it is memory. */
static bool tell(struct pool_server *s, struct server_client *c) {
    enum st st = ST_OK;
    bool any = c->n_answers > 0 || c->n_founds > 0;
    if (c->n_answers > 0) st = wire_send(s->bus, c->peer, WIRE_ANSWER, c->answers, c->n_answers);
    if (c->n_founds > 0 && st != ST_FULL)
        st = wire_send(s->bus, c->peer, WIRE_FOUND, c->founds, c->n_founds);
    c->n_answers = c->n_founds = 0;
    if (st == ST_FULL) refuse(s, c);
    return any;
}

bool pool_server_step(struct pool_server *s, uint64_t now_ns) {
    (void)now_ns; /* nothing here depends on time */
    bool did = server_ssd_step(s);
    if (server_store_step(s)) did = true;
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) {
        struct server_client *c = s->clients[i];
        if (!c || c->gone) continue;
        if (take_doubt(s, c)) did = true;
        if (tell(s, c)) did = true;
    }
    free_the_gone(s);
    return did;
}

void pool_server_set_epoch(struct pool_server *s, uint64_t epoch) {
    s->epoch = epoch;
    dir_set_epoch(&s->dir, epoch);
}

const struct pool_server_stats *pool_server_stats(struct pool_server *s) {
    struct pool_server_stats *t = &s->stats;
    t->blocks_dram = s->dir.used_slots;
    t->blocks_dram_max = s->dir.n_slots;
    t->blocks_ssd = s->dir.used_recs;
    t->blocks_ssd_max = s->dir.n_recs;
    t->bytes_dram = s->dir.used_slots * s->dir.slot_bytes;
    t->bytes_ssd = s->dir.used_recs * s->dir.rec_bytes;
    t->namespaces = s->dir.n_ns;
    return t;
}

/* --- life ------------------------------------------------------------------------------------ */

static enum st begin(struct pool_server *s, const struct pool_server_options *o, struct err *err) {
    void *index;
    if (o->n_quotas > 0) {
        s->quotas = calloc(o->n_quotas, sizeof *s->quotas);
        if (!s->quotas) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
        memcpy(s->quotas, o->quotas, o->n_quotas * sizeof *s->quotas);
    }
    enum st st = dir_init(&s->dir, &o->shape, o->dram_bytes, o->ssd ? ssd_n_recs(o->ssd) : 0,
                          o->ssd ? ssd_rec_bytes(o->ssd) : 0, s->quotas, o->n_quotas, err);
    if (!st)
        st = bus_segment_new(s->bus, dir_index_bytes(&s->dir), BUS_PEERS_READ, &s->index_segment,
                             &index, err);
    if (st) return st;
    dir_set_index(&s->dir, index, s->epoch);
    if (s->ssd) dir_recs_had(&s->dir, ssd_n_had(s->ssd));
    return bus_queue_new(s->bus, &s->queue, err);
}

enum st pool_server_new(struct pool_server **out, const struct pool_server_options *o,
                        struct err *err) {
    struct pool_server *s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64); /* pieces are so */
    if (!s) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
    memset(s, 0, sizeof *s);
    s->bus = o->bus;
    s->ssd = o->ssd;
    s->epoch = o->epoch;
    enum st st = begin(s, o, err);
    if (st)
        pool_server_free(s);
    else
        *out = s;
    return st;
}

void pool_server_free(struct pool_server *s) {
    if (!s) return;
    bus_queue_free(s->queue);
    for (uint32_t i = 0; i < SERVER_CLIENTS_MAX; i++) free(s->clients[i]);
    for (uint32_t i = 0; i < EXTENTS_MAX; i++)
        if (s->extents[i]) bus_segment_free(s->bus, s->extents[i]);
    if (s->index_segment) bus_segment_free(s->bus, s->index_segment);
    dir_release(&s->dir);
    free(s->quotas);
    free(s);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements client.h: the list of servers, their connections, and what they say. */
#include "pool/client.h"

#include <stdlib.h>
#include <string.h>

#include "pool/client_impl.h"

/* --- connections ----------------------------------------------------------------------------- */

static void call(struct pool_client *c, struct server_link *l) {
    l->peer = bus_connect(c->o.bus, l->address);
    l->state = l->peer ? LINK_CALLING : LINK_NONE;
    l->retry_ns = c->now_ns + c->o.timeout_ns;
}

/* Everything that hangs on the connection ends; the server stays in the list. */
static void hang_up(struct pool_client *c, uint32_t slot, enum link_state state) {
    struct server_link *l = &c->links[slot];
    bus_id peer = l->peer, hits = l->hits;
    if (peer) bus_close(c->o.bus, peer);
    l->peer = l->index = l->hits = 0;
    l->ring = NULL;
    l->state = state;
    l->suspended = false;
    l->n_offers = l->n_wants = 0;
    l->retry_ns = c->now_ns + c->o.timeout_ns;
    memset(l->extents, 0, sizeof l->extents);
    if (hits) bus_segment_free(c->o.bus, hits);
    if (peer) fetches_lost(c, peer);
    offers_drop(c, slot);
}

void pool_client_server(struct pool_client *c, const char *name, const char *address,
                        uint64_t epoch) {
    int slot = ring_add(&c->ring, name);
    if (slot == RING_NONE || strlen(address) >= BUS_ADDRESS_BYTES) return;
    struct server_link *l = &c->links[slot];
    if (l->listed && l->epoch == epoch && strcmp(l->address, address) == 0) return;
    c->now_ns = bus_now(c->o.bus);
    hang_up(c, (uint32_t)slot, LINK_NONE);
    l->listed = true;
    l->epoch = epoch;
    strcpy(l->address, address);
    l->first_until_ns = c->now_ns + c->o.timeout_ns;
    call(c, l);
}

void pool_client_server_gone(struct pool_client *c, const char *name) {
    int slot = ring_slot(&c->ring, name);
    if (slot == RING_NONE) return;
    hang_up(c, (uint32_t)slot, LINK_NONE);
    c->links[slot].listed = false;
    ring_remove(&c->ring, name);
}

struct server_link *client_link(struct pool_client *c, const struct pool_key *key, uint32_t *slot) {
    int s = ring_find(&c->ring, key);
    if (s == RING_NONE || c->links[s].state != LINK_READY) return NULL;
    *slot = (uint32_t)s;
    return &c->links[s];
}

/* A worker that just joined is given work at once, all that waited for it: what it then did not find
 * it would compute, with its servers a millisecond away. Only once: one that does not answer must not
 * cost every prompt its time. */
bool client_link_comes(const struct pool_client *c, const struct pool_key *key) {
    int s = ring_find(&c->ring, key);
    const struct server_link *l = s == RING_NONE ? NULL : &c->links[s];
    return l && (l->state == LINK_CALLING || l->state == LINK_MEETING) && !l->suspended &&
           c->now_ns < l->first_until_ns;
}

/* --- meeting a server ------------------------------------------------------------------------ */

static void greet(struct pool_client *c, uint32_t slot) {
    struct server_link *l = &c->links[slot];
    struct wire_hello h = {.version = WIRE_VERSION, .n_pages = c->o.n_pages, .shape = c->o.shape};
    memcpy(h.name, c->name, sizeof h.name);
    void *ring;
    l->state = LINK_MEETING;
    l->retry_ns = c->now_ns + c->o.timeout_ns;
    enum st st = wire_send(c->o.bus, l->peer, WIRE_HELLO, &h, 1);
    if (!st) st = bus_share(c->o.bus, l->peer, c->o.segment, wire_tag(WIRE_PAGES, 0));
    if (!st && !bus_segment_new(c->o.bus, sizeof *l->ring, BUS_PEERS_READ, &l->hits, &ring, NULL)) {
        l->ring = ring;
        st = bus_share(c->o.bus, l->peer, l->hits, wire_tag(WIRE_HITS, 0));
    }
    if (st) hang_up(c, slot, LINK_NONE);
}

static void read_index_header(struct pool_client *c, uint32_t slot) {
    struct server_link *l = &c->links[slot];
    struct header_read *r = &l->header;
    enum st st = ST_FULL; /* an old connection's read is still under way */
    if (!r->flying) {
        *r = (struct header_read){.op.kind = OP_HEADER, .slot = slot, .peer = l->peer};
        st = bus_read(c->queue, l->index, 0, &r->header, sizeof r->header, op_cookie(&r->op));
        r->flying = st == ST_OK;
    }
    if (st) hang_up(c, slot, LINK_NONE); /* and tries again */
}

static void header_arrived(struct pool_client *c, struct header_read *r, enum bus_status status) {
    struct server_link *l = &c->links[r->slot];
    r->flying = false;
    if (l->peer != r->peer || l->state != LINK_MEETING) return;
    if (status == BUS_DONE && index_header_ok(&r->header, &c->o.shape, l->index_bytes)) {
        l->n_buckets = r->header.n_buckets;
        l->state = LINK_READY;
    } else {
        hang_up(c, r->slot, LINK_NONE);
    }
}

bool client_completions(struct pool_client *c) {
    struct bus_completion v[32];
    uint32_t n = bus_completions(c->queue, v, 32);
    for (uint32_t i = 0; i < n; i++) {
        struct op *op = (struct op *)(uintptr_t)v[i].cookie;
        if (op->kind == OP_HEADER)
            header_arrived(c, (struct header_read *)(void *)op, v[i].status);
        else
            lookup_arrived((struct probe *)(void *)op, v[i].status);
    }
    return n > 0;
}

/* --- what servers say ------------------------------------------------------------------------ */

static void message(struct pool_client *c, uint32_t slot, const struct bus_event *ev) {
    struct server_link *l = &c->links[slot];
    struct wire_message m;
    union wire_item v;
    bool good = wire_parse(&m, ev->data, ev->len) &&
                (m.kind == WIRE_HELLO || m.kind == WIRE_ANSWER || m.kind == WIRE_FOUND);
    if (!good) {
        hang_up(c, slot, LINK_NONE);
        return;
    }
    for (uint32_t i = 0; i < m.n && l->peer == ev->peer; i++) {
        wire_item(&m, i, &v);
        if (m.kind == WIRE_ANSWER)
            offers_answer(c, slot, &v.answer);
        else if (m.kind == WIRE_FOUND)
            fetches_found(c, slot, &v.found);
        else if (!block_shape_equal(&v.hello.shape, &c->o.shape))
            hang_up(c, slot, LINK_USELESS);
    }
}

static void segment(struct pool_client *c, uint32_t slot, const struct bus_event *ev) {
    struct server_link *l = &c->links[slot];
    uint32_t number = (uint32_t)ev->value, extent = segment_extent(number);
    if (ev->value == wire_tag(WIRE_INDEX, 0) && !l->index) {
        l->index = ev->segment;
        l->index_bytes = ev->len;
        read_index_header(c, slot);
    } else if (ev->value >> 32 == WIRE_DATA && extent < EXTENTS_MAX) {
        l->extents[extent] = (struct extent_link){number, ev->segment, ev->len};
    }
}

static int slot_of(const struct pool_client *c, bus_id peer) {
    for (int i = 0; i < RING_SERVERS_MAX; i++)
        if (peer && c->links[i].peer == peer) return i;
    return RING_NONE;
}

bool pool_client_event(struct pool_client *c, const struct bus_event *ev) {
    int found = slot_of(c, ev->peer);
    if (found == RING_NONE) return false;
    uint32_t slot = (uint32_t)found;
    struct server_link *l = &c->links[slot];
    c->now_ns = bus_now(c->o.bus);
    switch (ev->kind) {
    case BUS_UP: greet(c, slot); break;
    case BUS_MESSAGE: message(c, slot, ev); break;
    case BUS_SEGMENT: segment(c, slot, ev); break;
    case BUS_SUSPENDED: l->suspended = true; break;
    case BUS_RESUMED: l->suspended = false; break;
    case BUS_REFUSED:
    case BUS_GONE:
        l->peer = 0;
        fetches_lost(c, ev->peer);
        hang_up(c, slot, LINK_NONE);
        break;
    case BUS_NOTIFY: break;
    }
    lookups_step(c);
    offers_step(c);
    fetches_step(c);
    return true;
}

void pool_client_step(struct pool_client *c, uint64_t now_ns) {
    c->now_ns = now_ns;
    lookups_step(c);
    for (uint32_t i = 0; i < RING_SERVERS_MAX; i++) {
        struct server_link *l = &c->links[i];
        if (l->state == LINK_MEETING && now_ns >= l->retry_ns) hang_up(c, i, LINK_NONE);
        if (l->listed && l->state == LINK_NONE && now_ns >= l->retry_ns) call(c, l);
        if (l->state == LINK_READY && l->n_offers > 0) offers_send(c, l);
    }
    offers_step(c);
    fetches_step(c);
}

const struct pool_client_stats *pool_client_stats(struct pool_client *c) {
    c->stats.blocks_fetched = atomic_load_explicit(&c->n_fetched, memory_order_relaxed);
    c->stats.bytes_fetched = atomic_load_explicit(&c->n_bytes, memory_order_relaxed);
    c->stats.blocks_bad = atomic_load_explicit(&c->n_bad, memory_order_relaxed);
    c->stats.servers = 0;
    for (uint32_t i = 0; i < RING_SERVERS_MAX; i++)
        c->stats.servers += c->links[i].state == LINK_READY;
    return &c->stats;
}

/* --- life ------------------------------------------------------------------------------------ */

static enum st begin(struct pool_client *c, struct err *err) {
    if (!block_shape_ok(&c->o.shape) || c->o.n_pages == 0 || !c->o.memory)
        return err_set(err, ST_INVALID, "pool: a client without pages or shape of a block");
    c->links = calloc(RING_SERVERS_MAX, sizeof *c->links);
    if (!c->links) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
    enum st st = ring_init(&c->ring, err);
    if (!st) st = offers_init(c, err);
    if (!st) st = bus_queue_new(c->o.bus, &c->queue, err);
    if (!st) st = bus_queue_new(c->o.bus, &c->copy_queue, err);
    return st;
}

enum st pool_client_new(struct pool_client **out, const struct pool_client_options *o,
                        struct err *err) {
    size_t len = strlen(o->name);
    if (len == 0 || len >= BUS_NAME_BYTES)
        return err_set(err, ST_INVALID, "pool: a client's name of %zu bytes, expected 1 to %d", len,
                       BUS_NAME_BYTES - 1);
    struct pool_client *c = aligned_alloc(64, (sizeof *c + 63) / 64 * 64); /* pieces are so */
    if (!c) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
    memset(c, 0, sizeof *c);
    c->o = *o;
    memcpy(c->name, o->name, len);
    pthread_mutex_init(&c->lock, NULL);
    enum st st = begin(c, err);
    if (st)
        pool_client_free(c);
    else
        *out = c;
    return st;
}

void pool_client_free(struct pool_client *c) {
    if (!c) return;
    for (uint32_t i = 0; i < RING_SERVERS_MAX && c->links; i++)
        if (c->links[i].listed) hang_up(c, i, LINK_NONE);
    while (c->queue && client_completions(c)) {
    }
    bus_queue_free(c->queue);
    bus_queue_free(c->copy_queue);
    lookups_free(c);
    ring_release(&c->ring);
    offers_release(c);
    free(c->links);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Lookups: for each key of a chain, two buckets and the epoch are read from the index of the server
 * that the ring names; some keys at once, none after the first that is missing. */
#include <stdlib.h>
#include <string.h>

#include "pool/client_impl.h"

enum { READS = 3 };

static enum st read_one(struct probe *p, uint32_t i) {
    struct bus_queue *q = p->lookup->client->queue;
    if (i < 2)
        return bus_read(q, p->index, index_bucket_at(p->buckets[i]), p->entries[i],
                        INDEX_BUCKET_BYTES, op_cookie(&p->op));
    return bus_read(q, p->index, offsetof(struct index_header, epoch), &p->epoch, sizeof p->epoch,
                    op_cookie(&p->op));
}

static void submit(struct probe *p) {
    while (p->submitted < READS && !p->failed) {
        enum st st = read_one(p, p->submitted);
        if (st == ST_FULL) return; /* the rest at the next step */
        if (st) {
            p->failed = true;
            return;
        }
        p->submitted++;
        p->flying++;
    }
}

static void missing(struct pool_lookup *l, uint32_t key) {
    if (key < l->limit) l->limit = key;
}

/* False: its server is only being met. */
static bool begin(struct pool_lookup *l, struct probe *p) {
    struct pool_client *c = l->client;
    uint32_t key = l->next, slot;
    const struct server_link *link = client_link(c, &l->keys[key], &slot);
    if (!link && client_link_comes(c, &l->keys[key])) return false;
    l->next++;
    if (!link) {
        missing(l, key);
        return true;
    }
    p->used = true;
    p->failed = false;
    p->key = key;
    p->submitted = p->tries = 0;
    p->peer = link->peer;
    p->index = link->index;
    index_buckets(&l->keys[key], link->n_buckets, p->buckets);
    l->blocks[key].slot = slot;
    l->blocks[key].peer = link->peer;
    submit(p);
    return true;
}

/* Whether we have the segment already that an entry speaks of: it may still be on its way to us. */
static bool reachable(const struct server_link *l, const struct index_entry *e) {
    uint32_t extent = segment_extent(e->segment);
    if (index_place(e) == PLACE_SSD) return true;
    return extent < EXTENTS_MAX && l->extents[extent].segment == e->segment;
}

/* All reads of a probe are back: is its key there? */
static void judge(struct pool_client *c, struct probe *p) {
    struct pool_lookup *l = p->lookup;
    struct found_block *b = &l->blocks[p->key];
    const struct server_link *link = &c->links[b->slot];
    bool good = !p->failed && link->peer == p->peer && link->epoch == p->epoch;
    bool unclear = false;
    p->used = false;
    for (int i = 0; i < 2 && good; i++) {
        uint32_t at;
        enum index_found f = index_find(p->entries[i], &l->keys[p->key], l->tag, &at);
        if (f == INDEX_UNCLEAR) unclear = true;
        if (f != INDEX_HERE) continue;
        b->entry = p->entries[i][at];
        if (!reachable(link, &b->entry)) break;
        b->known = true;
        b->at = index_bucket_at(p->buckets[i]) + at * sizeof b->entry;
        return;
    }
    if (unclear && ++p->tries < CLIENT_PROBE_TRIES) { /* it was being written: look again */
        p->used = true;
        p->submitted = 0;
        submit(p);
        return;
    }
    if (unclear) atomic_fetch_add_explicit(&c->n_bad, 1, memory_order_relaxed);
    missing(l, p->key);
}

void lookup_arrived(struct probe *p, enum bus_status status) {
    p->flying--;
    if (status != BUS_DONE) p->failed = true;
}

static bool in_flight(const struct pool_lookup *l) {
    for (uint32_t i = 0; i < CLIENT_PROBES; i++)
        if (l->probes[i].flying > 0) return true;
    return false;
}

static void finish(struct pool_lookup *l) {
    uint32_t n = 0;
    while (n < l->limit && l->blocks[n].known) n++;
    l->limit = n;
    l->over = true;
    l->client->stats.blocks_found += n;
}

/* True: something moved. */
static bool lookup_step(struct pool_client *c, struct pool_lookup *l) {
    bool moved = false, busy = false;
    for (uint32_t i = 0; i < CLIENT_PROBES; i++) {
        struct probe *p = &l->probes[i];
        if (p->used && p->flying == 0 && (p->submitted == READS || p->failed)) {
            judge(c, p);
            moved = true;
        }
        if (p->used && p->submitted < READS) submit(p);
        if (!p->used && l->next < l->limit && !l->over && begin(l, p)) moved = true;
        busy |= p->used;
    }
    if (!l->over && !busy && l->next >= l->limit) {
        finish(l);
        moved = true;
    }
    return moved;
}

static void unlink_free(struct pool_lookup *l) {
    struct pool_client *c = l->client;
    *(l->before ? &l->before->after : &c->first_lookup) = l->after;
    *(l->after ? &l->after->before : &c->last_lookup) = l->before;
    free(l->keys);
    free(l->blocks);
    free(l);
}

void lookups_step(struct pool_client *c) {
    bool moved = true;
    while (moved) {
        moved = client_completions(c);
        for (struct pool_lookup *l = c->first_lookup; l; l = l->after)
            if (!l->over && lookup_step(c, l)) moved = true;
    }
    for (struct pool_lookup *l = c->first_lookup, *after; l; l = after) {
        after = l->after;
        if (!l->over && c->now_ns >= l->until_ns) finish(l);
        if (l->freed && !in_flight(l)) unlink_free(l);
    }
}

struct pool_lookup *pool_lookup_begin(struct pool_client *c, const char *tenant,
                                      const struct pool_key *keys, uint32_t n) {
    size_t len = strlen(tenant);
    struct pool_lookup *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->keys = calloc(n ? n : 1, sizeof *l->keys);
    l->blocks = calloc(n ? n : 1, sizeof *l->blocks);
    if (!l->keys || !l->blocks) {
        free(l->keys);
        free(l->blocks);
        free(l);
        return NULL;
    }
    memcpy(l->keys, keys, n * sizeof *keys);
    l->client = c;
    l->n = n;
    l->limit = len > 0 && len < POOL_TENANT_BYTES ? n : 0; /* such a namespace has nothing */
    if (l->limit) memcpy(l->tenant, tenant, len);
    l->tag = index_tenant(tenant);
    c->now_ns = bus_now(c->o.bus);
    l->until_ns = c->now_ns + c->o.timeout_ns;
    for (uint32_t i = 0; i < CLIENT_PROBES; i++) {
        l->probes[i].op.kind = OP_PROBE;
        l->probes[i].lookup = l;
    }
    l->before = c->last_lookup;
    *(c->last_lookup ? &c->last_lookup->after : &c->first_lookup) = l;
    c->last_lookup = l;
    c->stats.lookups++;
    c->stats.blocks_asked += n;
    lookups_step(c);
    return l;
}

bool pool_lookup_over(const struct pool_lookup *l, uint32_t *n_found) {
    if (l->over) *n_found = l->limit;
    return l->over;
}

void pool_lookup_free(struct pool_lookup *l) {
    if (!l) return;
    l->freed = l->over = true;
    if (!in_flight(l)) unlink_free(l); /* else when its buffers come back */
}

void lookups_free(struct pool_client *c) {
    while (c->first_lookup) unlink_free(c->first_lookup);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Offers of new blocks: sent in batches, each until it is answered, its time is over, or its server
 * is gone. A server may still be copying a page whose offer ended: its generation tells. */
#include <string.h>

#include "pool/client_impl.h"

static void offer_end(struct client_offer *o) {
    struct client_offer was = *o;
    o->used = false; /* before done, which may offer again */
    was.done(was.ctx, was.page);
}

bool pool_offer(struct pool_client *c, const char *tenant, const struct pool_key *key,
                uint32_t page, pool_offer_fn *done, void *ctx) {
    uint32_t slot, i = 0;
    struct server_link *l = client_link(c, key, &slot);
    size_t len = strlen(tenant);
    if (!l || l->suspended || page >= c->o.n_pages || len == 0 || len >= POOL_TENANT_BYTES)
        return false;
    while (i < CLIENT_OFFERS_MAX && c->offers[i].used) i++;
    if (i == CLIENT_OFFERS_MAX || l->n_offers == CLIENT_OFFERS_MAX) return false;
    struct wire_offer *w = &l->offers[l->n_offers++];
    *w = (struct wire_offer){.id = ++c->ids, .key = *key, .page = page};
    const uint8_t *at = c->o.memory + paged_generation_at(&c->o.shape, c->o.n_pages, page);
    w->generation = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE);
    memcpy(w->tenant, tenant, len);
    c->offers[i] = (struct client_offer){.used = true,
                                         .id = w->id,
                                         .until_ns = bus_now(c->o.bus) + c->o.timeout_ns,
                                         .slot = slot,
                                         .page = page,
                                         .done = done,
                                         .ctx = ctx};
    c->stats.offers++;
    if (l->n_offers >= CLIENT_OFFERS_MAX / 4) offers_send(c, l);
    return true;
}

void offers_send(struct pool_client *c, struct server_link *l) {
    enum st st = wire_send(c->o.bus, l->peer, WIRE_OFFER, l->offers, l->n_offers);
    if (st != ST_FULL) l->n_offers = 0; /* gone: its event ends them */
}

void offers_answer(struct pool_client *c, uint32_t slot, const struct wire_answer *a) {
    for (uint32_t i = 0; i < CLIENT_OFFERS_MAX; i++) {
        struct client_offer *o = &c->offers[i];
        if (!o->used || o->id != a->id || o->slot != slot) continue;
        c->stats.stored += a->result == WIRE_STORED;
        c->stats.known += a->result == WIRE_KNOWN;
        c->stats.refused += a->result == WIRE_REFUSED;
        offer_end(o);
        return;
    }
}

void offers_drop(struct pool_client *c, uint32_t slot) {
    for (uint32_t i = 0; i < CLIENT_OFFERS_MAX; i++)
        if (c->offers[i].used && c->offers[i].slot == slot) c->offers[i].until_ns = 0;
}

void offers_step(struct pool_client *c) {
    for (uint32_t i = 0; i < CLIENT_OFFERS_MAX; i++)
        if (c->offers[i].used && c->now_ns >= c->offers[i].until_ns) offer_end(&c->offers[i]);
}

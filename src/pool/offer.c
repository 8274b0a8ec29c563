/* SPDX-License-Identifier: Apache-2.0 */
/* Offers of new blocks: sent in batches, each until it is answered, its time is over, or its server
 * is gone. A server may still be copying a page whose offer ended: its generation tells. */
#include <stdlib.h>
#include <string.h>

#include "pool/client_impl.h"

static void offer_end(struct pool_client *c, struct client_offer *o) {
    struct client_offer was = *o;
    o->id = 0; /* before done, which may offer again */
    c->free_offers[c->n_free_offers++] = (uint32_t)(o - c->offers);
    was.done(was.ctx, was.page);
}

bool pool_offer(struct pool_client *c, const char *tenant, const struct pool_key *key,
                uint32_t page, pool_offer_fn *done, void *ctx) {
    uint32_t slot;
    struct server_link *l = client_link(c, key, &slot);
    size_t len = strlen(tenant);
    if (!l || l->suspended || page >= c->o.n_pages || len == 0 || len >= POOL_TENANT_BYTES)
        return false;
    if (c->n_free_offers == 0 || l->n_offers == CLIENT_OFFERS_SENT) {
        c->stats.not_offered++;
        return false;
    }
    uint32_t i = c->free_offers[--c->n_free_offers];
    struct wire_offer *w = &l->offers[l->n_offers++];
    *w = (struct wire_offer){.id = ++c->ids * c->n_offers + i, .key = *key, .page = page};
    const uint8_t *at = c->o.memory + paged_generation_at(&c->o.shape, c->o.n_pages, page);
    w->generation = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_ACQUIRE);
    memcpy(w->tenant, tenant, len);
    c->offers[i] = (struct client_offer){.id = w->id,
                                         .until_ns = bus_now(c->o.bus) + c->o.timeout_ns,
                                         .slot = slot,
                                         .page = page,
                                         .done = done,
                                         .ctx = ctx};
    c->stats.offers++;
    if (l->n_offers >= CLIENT_OFFERS_SENT / 4) offers_send(c, l);
    return true;
}

void offers_send(struct pool_client *c, struct server_link *l) {
    enum st st = wire_send(c->o.bus, l->peer, WIRE_OFFER, l->offers, l->n_offers);
    if (st != ST_FULL) l->n_offers = 0; /* gone: its event ends them */
}

void offers_answer(struct pool_client *c, uint32_t slot, const struct wire_answer *a) {
    struct client_offer *o = &c->offers[a->id % c->n_offers];
    if (a->id == 0 || o->id != a->id || o->slot != slot) return;
    c->stats.stored += a->result == WIRE_STORED;
    c->stats.known += a->result == WIRE_KNOWN;
    c->stats.refused += a->result == WIRE_REFUSED;
    offer_end(c, o);
}

void offers_drop(struct pool_client *c, uint32_t slot) {
    for (uint32_t i = 0; i < c->n_offers; i++)
        if (c->offers[i].id && c->offers[i].slot == slot) c->offers[i].until_ns = 0;
    c->offers_due_ns = 0;
}

void offers_step(struct pool_client *c) {
    if (c->n_free_offers == c->n_offers || c->now_ns < c->offers_due_ns) return;
    uint64_t due = c->now_ns + c->o.timeout_ns; /* of one that is offered right now */
    for (uint32_t i = 0; i < c->n_offers; i++) {
        struct client_offer *o = &c->offers[i];
        if (!o->id) continue;
        if (c->now_ns >= o->until_ns)
            offer_end(c, o);
        else if (o->until_ns < due)
            due = o->until_ns;
    }
    c->offers_due_ns = due;
}

enum st offers_init(struct pool_client *c, struct err *err) {
    c->n_offers = c->o.offers_max ? c->o.offers_max : CLIENT_OFFERS;
    c->offers = calloc(c->n_offers, sizeof *c->offers);
    c->free_offers = malloc(c->n_offers * sizeof *c->free_offers);
    if (!c->offers || !c->free_offers) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
    for (uint32_t i = 0; i < c->n_offers; i++)
        c->free_offers[c->n_free_offers++] = c->n_offers - 1 - i;
    return ST_OK;
}

void offers_release(struct pool_client *c) {
    free(c->offers);
    free(c->free_offers);
}

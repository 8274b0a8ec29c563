/* SPDX-License-Identifier: Apache-2.0 */
/* Implements pages.h: an array of pages, a chained hash table over their keys, and a list of the
 * free ones in the order in which they will be taken. */
#include "engine/pages.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct page {
    struct block_key key;
    bool keyed;
    uint32_t holders;
    uint32_t next_in_bucket;
    uint32_t prev, next; /* in the list of free pages */
};

enum st pages_init(struct pages *p, uint32_t n, _Atomic uint64_t *generations, struct err *err) {
    assert(n > 0 && n < UINT32_MAX / 2);
    *p = (struct pages){.n = n,
                        .n_buckets = 1,
                        .first = PAGES_NONE,
                        .last = PAGES_NONE,
                        .generations = generations};
    while (p->n_buckets < n) p->n_buckets *= 2;
    p->v = calloc(n, sizeof *p->v);
    p->buckets = malloc(p->n_buckets * sizeof *p->buckets);
    if (!p->v || !p->buckets) {
        pages_release(p);
        return err_set(err, ST_NO_MEMORY, "KV cache: out of memory for %u pages", n);
    }
    memset(p->buckets, 0xff, p->n_buckets * sizeof *p->buckets);
    for (uint32_t i = n; i-- > 0;) {
        p->v[i].holders = 1;
        pages_drop(p, i);
    }
    return ST_OK;
}

void pages_release(struct pages *p) {
    free(p->v);
    free(p->buckets);
    *p = (struct pages){0};
}

/* --- keys ------------------------------------------------------------------------------------- */

static uint32_t *bucket_of(const struct pages *p, const struct block_key *key) {
    uint32_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &p->buckets[h & (p->n_buckets - 1)];
}

uint32_t pages_find(const struct pages *p, const struct block_key *key) {
    uint32_t i = *bucket_of(p, key);
    while (i != PAGES_NONE && memcmp(&p->v[i].key, key, sizeof *key) != 0)
        i = p->v[i].next_in_bucket;
    return i;
}

static void forget(struct pages *p, uint32_t page) {
    uint32_t *at = bucket_of(p, &p->v[page].key);
    while (*at != page) at = &p->v[*at].next_in_bucket;
    *at = p->v[page].next_in_bucket;
    p->v[page].keyed = false;
}

void pages_publish(struct pages *p, uint32_t page, const struct block_key *key) {
    struct page *g = &p->v[page];
    assert(g->holders > 0);
    if (g->keyed || pages_find(p, key) != PAGES_NONE) return;
    uint32_t *bucket = bucket_of(p, key);
    g->key = *key;
    g->keyed = true;
    g->next_in_bucket = *bucket;
    *bucket = page;
}

/* --- free pages ------------------------------------------------------------------------------- */

static void unlink_free(struct pages *p, uint32_t page) {
    struct page *g = &p->v[page];
    *(g->prev == PAGES_NONE ? &p->first : &p->v[g->prev].next) = g->next;
    *(g->next == PAGES_NONE ? &p->last : &p->v[g->next].prev) = g->prev;
    p->n_free--;
    p->n_cached -= g->keyed;
}

/* Pages without a key are taken first: they go to the front. */
static void link_free(struct pages *p, uint32_t page) {
    struct page *g = &p->v[page];
    g->prev = g->keyed ? p->last : PAGES_NONE;
    g->next = g->keyed ? PAGES_NONE : p->first;
    *(g->prev == PAGES_NONE ? &p->first : &p->v[g->prev].next) = page;
    *(g->next == PAGES_NONE ? &p->last : &p->v[g->next].prev) = page;
    p->n_free++;
    p->n_cached += g->keyed;
}

uint32_t pages_take(struct pages *p) {
    uint32_t page = p->first;
    if (page == PAGES_NONE) return PAGES_NONE;
    unlink_free(p, page);
    if (p->v[page].keyed) forget(p, page);
    p->v[page].holders = 1;
    if (p->generations) {
        atomic_fetch_add_explicit(&p->generations[page], 1, memory_order_relaxed);
        /* whoever sees a row of the new use sees the new generation */
        __sync_synchronize(); /* a fence that TSan takes */
    }
    return page;
}

void pages_hold(struct pages *p, uint32_t page) {
    if (p->v[page].holders++ == 0) unlink_free(p, page);
}

void pages_drop(struct pages *p, uint32_t page) {
    assert(p->v[page].holders > 0);
    if (--p->v[page].holders == 0) link_free(p, page);
}

uint32_t pages_holders(const struct pages *p, uint32_t page) {
    return p->v[page].holders;
}

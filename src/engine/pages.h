/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds which KV page, and which blocks can be found again (contracts 4, 5). A page is held by
 * the sequences whose block tables name it (a reference each). A page that holds a full block has
 * its key; when nobody holds it any more it stays findable until the memory is wanted: pages
 * without a key go first, then those with one, least recently used first. Numbers only: rows are
 * the executor's. */
#ifndef SUPERNODE_ENGINE_PAGES_H
#define SUPERNODE_ENGINE_PAGES_H

#include "engine/block_key.h"

enum { PAGES_NONE = UINT32_MAX };

struct page; /* one page's state */
struct pages {
    uint32_t n, n_free; /* free: held by nobody; n_cached of them have a key */
    uint32_t n_cached;
    struct page *v;                /* [n] */
    uint32_t *buckets;             /* [n_buckets] first page of a chain, PAGES_NONE: empty */
    uint32_t n_buckets;            /* a power of two */
    uint32_t first, last;          /* free pages, the next to be taken first */
    _Atomic uint64_t *generations; /* [n], where others read the pages; NULL */
};

/* generations: of pages that others may be reading, raised before a page is used anew; borrowed, or
 * NULL. */
enum st ST_CHECKED pages_init(struct pages *p, uint32_t n, _Atomic uint64_t *generations,
                              struct err *err);
void pages_release(struct pages *p);

/* A page for new rows, held once; PAGES_NONE: all are held. What it held is forgotten. */
uint32_t pages_take(struct pages *p);
/* The page of a key, not held anew; PAGES_NONE. */
uint32_t pages_find(const struct pages *p, const struct block_key *key);
void pages_hold(struct pages *p, uint32_t page); /* once more */
void pages_drop(struct pages *p, uint32_t page); /* once less */
uint32_t pages_holders(const struct pages *p, uint32_t page);
/* The page's block is full and final. Where another page has the key already, that one stays the
 * one that is found. */
void pages_publish(struct pages *p, uint32_t page, const struct block_key *key);

#endif

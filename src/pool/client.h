/* SPDX-License-Identifier: Apache-2.0 */
/* The context cache as a worker sees it: which blocks the pool has, getting them, giving new ones.
 * Where a key lives follows from the list of servers alone (ring.h); what a server has in DRAM is
 * read from its index without asking it; a block on SSD is asked for first. Nothing here decides
 * bits: a block that is damaged, stale, foreign or late is a miss.
 *
 * Two threads: the endpoint's owner calls everything but pool_client_copy, which a thread of its own
 * calls again and again. */
#ifndef SUPERNODE_POOL_CLIENT_H
#define SUPERNODE_POOL_CLIENT_H

#include "bus/bus.h"
#include "pool/block.h"

/* The longest list of servers; peers agree on where keys live only up to here. */
enum { POOL_SERVERS_MAX = 64 };

struct pool_key {
    uint8_t bytes[32];
};

struct pool_client;
struct pool_lookup;
struct pool_fetch;

struct pool_client_options {
    struct bus *bus;
    const char *name;         /* ours, in messages and logs */
    struct block_shape shape; /* of every block */
    uint32_t n_pages;         /* paged memory (block.h) where blocks arrive and offers come from */
    uint8_t *memory;
    bus_id segment;      /* the same, registered: servers pull offers from it */
    uint64_t timeout_ns; /* for an answer of a server; then it is a miss */
    uint32_t offers_max; /* under way at once; 0: default */
};

struct pool_client_stats {
    uint32_t servers;                                     /* met, their index at hand */
    uint64_t lookups, blocks_asked, blocks_found;         /* blocks of them that had an entry */
    uint64_t blocks_fetched, blocks_from_ssd, blocks_bad; /* bad: found, but not to be had */
    uint64_t bytes_fetched;
    uint64_t offers, stored, known, refused; /* known: the pool had it already */
    uint64_t not_offered;                    /* too many were under way */
};

enum st ST_CHECKED pool_client_new(struct pool_client **out, const struct pool_client_options *o,
                                   struct err *err);
/* Lookups and fetches were freed, the copying thread has ended. NULL is allowed. */
void pool_client_free(struct pool_client *c);

/* The list of servers, as membership has it. A server with a new epoch is another one. */
void pool_client_server(struct pool_client *c, const char *name, const char *address,
                        uint64_t epoch);
void pool_client_server_gone(struct pool_client *c, const char *name);

/* Every event of the endpoint is shown to the client first; true: it was a server's. */
bool pool_client_event(struct pool_client *c, const struct bus_event *ev);
/* Timeouts, retries; now and then. */
void pool_client_step(struct pool_client *c, uint64_t now_ns);

/* Asks how many of the first blocks of a chain the pool has: tenant names the namespace. Keys are
 * copied. NULL: out of memory. */
struct pool_lookup *pool_lookup_begin(struct pool_client *c, const char *tenant,
                                      const struct pool_key *keys, uint32_t n);
/* True: it is known how many (n_found, from the first on). */
bool pool_lookup_over(const struct pool_lookup *l, uint32_t *n_found);
void pool_lookup_free(struct pool_lookup *l); /* any time; NULL is allowed */

/* Gets blocks [first, first + n) of a lookup that is over into pages[n], in layer order over all
 * blocks; gate is initialised, told as they arrive, and must live until the fetch is over. Once
 * gate->bad is set no block of the fetch counts, since parts of all blocks come together. The lookup
 * may be freed at once. NULL: out of memory. */
struct pool_fetch *pool_fetch_begin(struct pool_client *c, const struct pool_lookup *l,
                                    uint32_t first, uint32_t n, const uint32_t *pages,
                                    struct block_gate *gate);
bool pool_fetch_over(const struct pool_fetch *f); /* nobody writes to the pages any more */
void pool_fetch_cancel(struct pool_fetch *f);     /* over soon */
void pool_fetch_free(struct pool_fetch *f);       /* it is over; NULL is allowed */

/* Offers a full, final block; the page is the offer's until done was called (from
 * pool_client_event or pool_client_step; stored or not). False: it was not taken (too many are
 * under way, no server, the pool has it): done is not called. */
typedef void pool_offer_fn(void *ctx, uint32_t page);
bool pool_offer(struct pool_client *c, const char *tenant, const struct pool_key *key,
                uint32_t page, pool_offer_fn *done, void *ctx);

/* The copying thread has ended: fetches that are not over now are, and failed. */
void pool_client_stop(struct pool_client *c);

/* Copies what there is to copy, and checks it. False: there was nothing to do. */
bool pool_client_copy(struct pool_client *c);

const struct pool_client_stats *pool_client_stats(struct pool_client *c);

#endif

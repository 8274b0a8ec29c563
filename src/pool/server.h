/* SPDX-License-Identifier: Apache-2.0 */
/* One server of the memory pool: blocks in DRAM that clients read without it, colder ones on SSD,
 * found through an index that clients map. It pulls what is offered, checks it, and then publishes
 * it (contracts 8). Time and bus are handed in; the SSD is behind ssd.h. */
#ifndef SUPERNODE_POOL_SERVER_H
#define SUPERNODE_POOL_SERVER_H

#include "bus/bus.h"
#include "pool/block.h"

enum { POOL_NAMESPACES_MAX = 65, POOL_TENANT_BYTES = 64 };

struct pool_server;
struct ssd; /* ssd.h */

struct pool_quota {
    char tenant[POOL_TENANT_BYTES];
    uint64_t dram_bytes, ssd_bytes; /* at most; 0: no limit but the server's */
};

struct pool_server_options {
    struct bus *bus;
    struct block_shape shape; /* of every block; told by the router at the first join */
    uint64_t dram_bytes;
    struct ssd *ssd; /* NULL: none; borrowed */
    const struct pool_quota *quotas;
    uint32_t n_quotas;
    uint64_t epoch;
};

struct pool_server_stats {
    uint64_t blocks_dram, blocks_dram_max, blocks_ssd, blocks_ssd_max; /* now, and room */
    uint64_t bytes_dram, bytes_ssd;
    uint32_t namespaces, clients;
    uint64_t stored, known, refused, bad_offers; /* bad: stale, changed while copied, owner gone */
    uint64_t evicted_to_ssd, evicted, promoted;  /* promoted: from SSD back to DRAM */
    uint64_t hits_logged, ssd_asked, ssd_found, ssd_bad; /* bad: damaged on SSD */
    uint64_t dram_bad;                                   /* damaged in DRAM, as a client noticed */
};

enum st ST_CHECKED pool_server_new(struct pool_server **out, const struct pool_server_options *o,
                                   struct err *err);
void pool_server_free(struct pool_server *s); /* what is in DRAM is lost; NULL is allowed */

/* Every event of the endpoint that is not the router's. */
void pool_server_event(struct pool_server *s, const struct bus_event *ev);
/* A piece of work (a store, an eviction, what the SSD finished); false: nothing to do. */
bool pool_server_step(struct pool_server *s, uint64_t now_ns);
/* The server joined again: clients see the new epoch, and the blocks stay. */
void pool_server_set_epoch(struct pool_server *s, uint64_t epoch);

const struct pool_server_stats *pool_server_stats(struct pool_server *s);

#endif

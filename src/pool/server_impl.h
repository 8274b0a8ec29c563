/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the pool server: server.c (clients and what they say), server_store.c (room,
 * and pulling what was offered), server_ssd.c (what goes to the SSD and comes back). */
#ifndef SUPERNODE_POOL_SERVER_IMPL_H
#define SUPERNODE_POOL_SERVER_IMPL_H

#include "pool/dir.h"
#include "pool/server.h"
#include "pool/ssd.h"
#include "pool/sum.h"
#include "pool/wire.h"

enum {
    SERVER_CLIENTS_MAX = 256,
    SERVER_PULLS_MAX = 4,
    SERVER_QUEUE_MAX = 128,
    SERVER_DOUBTS_MAX = 32
};

struct server_want {
    struct wire_want want;
    bool counted;
};

struct server_client {
    bus_id peer;
    bool ready, gone; /* ready: its hello fits; gone: freed once nothing of it is in flight */
    uint32_t n_pages;
    bus_id pages, hits; /* its segments, imported */
    struct wire_offer offers[SERVER_QUEUE_MAX];
    uint32_t offers_head, n_offers;
    struct server_want wants[SERVER_QUEUE_MAX];
    uint32_t n_wants;
    struct wire_doubt doubts[SERVER_DOUBTS_MAX];
    uint32_t doubts_head, n_doubts;
    struct wire_answer answers[WIRE_ITEMS_MAX];
    uint32_t n_answers;
    struct wire_found founds[WIRE_ITEMS_MAX];
    uint32_t n_founds;
    struct hit_ring ring; /* a copy */
    uint64_t ring_seen;   /* words of it that were counted */
    bool ring_flying;
    uint32_t n_pulls;
};

enum pull_state { PULL_FREE, PULL_COPYING, PULL_CHECKING };
struct server_pull {
    enum pull_state state;
    struct server_client *client;
    struct wire_offer offer;
    uint32_t ns, slot, part;
    bool flying; /* a read is in flight: the slot cannot be given back */
    uint64_t generation;
    struct piece piece;
};

struct server_promotion {
    bool used;
    uint32_t rec, slot, block;
};

struct pool_server {
    struct bus *bus;
    struct bus_queue *queue;
    struct dir dir;
    struct ssd *ssd;
    uint64_t epoch;
    bus_id index_segment, extents[EXTENTS_MAX];
    struct server_client *clients[SERVER_CLIENTS_MAX];
    uint32_t next_client; /* whose offer is next: they take turns */
    struct server_pull pulls[SERVER_PULLS_MAX];
    struct server_promotion promotions[SSD_OPS_MAX];
    uint32_t n_looked; /* records that were there at start, and were looked at or will be now */
    bool rings_read, rings_flying; /* read: since the last eviction */
    bool want_waits;               /* for room: stores that would have to make some are next */
    struct pool_quota *quotas;
    struct pool_server_stats stats;
};

enum room { ROOM_TAKEN, ROOM_LATER, ROOM_NONE };
/* A slot for a namespace. LATER: something must finish first. An eviction leaves the SSD room for
 * one operation more: a read's. */
enum room server_room(struct pool_server *s, uint32_t ns, uint32_t *slot);
bool server_store_step(struct pool_server *s);
/* Nothing of the client is worked on any more; reads in flight end by themselves. */
void server_store_drop(struct pool_server *s, struct server_client *c);

/* Before a block leaves DRAM; the SSD, if there is one, has room. */
void server_ssd_save(struct pool_server *s, uint32_t block);
bool server_ssd_step(struct pool_server *s);

#endif

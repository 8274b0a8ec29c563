/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the pool client: client.c (servers and what they say), offer.c, lookup.c,
 * fetch.c (the owner's side of a fetch), copy.c (the copying thread). */
#ifndef SUPERNODE_POOL_CLIENT_IMPL_H
#define SUPERNODE_POOL_CLIENT_IMPL_H

#include <pthread.h>

#include "pool/client.h"
#include "pool/index.h"
#include "pool/ring.h"
#include "pool/wire.h"

enum {
    CLIENT_OFFERS = 64,      /* under way at once, by default */
    CLIENT_OFFERS_SENT = 64, /* at most in one message to a server */
    CLIENT_WANTS_MAX = 64,   /* of one server under way */
    CLIENT_PROBES = 16,      /* keys of a lookup that are looked for at once */
    CLIENT_PROBE_TRIES = 4,
    CLIENT_LANES = 4, /* pieces of fetches that are copied at once */
};

enum link_state {
    LINK_NONE,    /* not in the list, or waiting to try again */
    LINK_CALLING, /* connect was asked for */
    LINK_MEETING, /* it is up: hello and index are awaited */
    LINK_READY,
    LINK_USELESS, /* another shape: until its epoch changes */
};

struct extent_link {
    uint32_t segment; /* as entries have it; 0: none */
    bus_id id;
    uint64_t bytes;
};

/* What a completion of the owner's queue is about: the cookie is its address. */
enum op_kind { OP_HEADER, OP_PROBE };
struct op {
    enum op_kind kind;
};
struct header_read {
    struct op op;
    uint32_t slot;
    bus_id peer; /* whose it was when it was asked for */
    bool flying;
    struct index_header header;
};

struct server_link { /* at the server's slot of the ring */
    enum link_state state;
    bool listed, suspended;
    char address[BUS_ADDRESS_BYTES];
    uint64_t epoch, retry_ns;
    uint64_t first_until_ns; /* it was listed just now: lookups wait for it until then */
    bus_id peer, index, hits;
    uint64_t index_bytes, n_buckets;
    struct extent_link extents[EXTENTS_MAX];
    struct header_read header;
    struct hit_ring *ring;
    struct wire_offer offers[CLIENT_OFFERS_SENT]; /* not sent yet */
    uint32_t n_offers, n_wants;                   /* wants: under way */
};

struct probe {
    struct op op;
    struct pool_lookup *lookup;
    uint32_t key, submitted, flying, tries; /* reads: two buckets and the epoch */
    bool used, failed;
    bus_id peer, index;
    uint64_t buckets[2], epoch;
    struct index_entry entries[2][INDEX_BUCKET];
};

struct found_block {
    bool known; /* looked for; found, unless the lookup ends before it */
    uint32_t slot;
    bus_id peer;
    uint64_t at; /* of the entry in the index segment */
    struct index_entry entry;
};

struct pool_lookup {
    struct pool_client *client;
    struct pool_lookup *before, *after; /* in the client's list, oldest first */
    char tenant[POOL_TENANT_BYTES];
    uint32_t tag, n, next, limit; /* limit: nothing from here on counts */
    bool over, freed;
    uint64_t until_ns;
    struct pool_key *keys;
    struct found_block *blocks;
    struct probe probes[CLIENT_PROBES];
};

enum block_state {
    BLOCK_WANTED /* on SSD, not asked for yet */,
    BLOCK_ASKED,
    BLOCK_READY,
    BLOCK_LOST
};
struct fetch_block {
    _Atomic uint32_t state;
    uint32_t slot, page;
    bus_id peer, index, segment;
    uint64_t epoch, at, offset; /* at: of the entry in the index; offset: of the slot */
    struct index_entry entry;
    struct slot_header *header;
};

enum fetch_phase { FETCH_HEADERS, FETCH_COPY, FETCH_CHECK };
struct pool_fetch {
    struct pool_client *client;
    struct pool_fetch *before, *after; /* the owner's list, oldest first */
    struct pool_fetch *next;           /* inbox, then the copying thread's list */
    uint64_t id, asked_until_ns;
    char tenant[POOL_TENANT_BYTES];
    uint32_t n;
    struct block_gate *gate;
    struct fetch_block *blocks;
    uint8_t *headers;
    _Atomic bool cancelled, over;
    /* the copying thread's, and the owner's again once it is over */
    enum fetch_phase phase;
    uint32_t part, begun, under_way; /* blocks of this phase */
    bool failed;
    uint32_t damaged; /* block, or BLOCK_GATE_GOOD */
};

enum lane_kind { LANE_HEADER, LANE_PIECE, LANE_CHECK };
struct lane {
    bool used, failed;
    enum lane_kind kind;
    struct pool_fetch *fetch;
    uint32_t block, submitted, flying; /* reads */
    struct piece piece;
    struct index_entry entry;
    uint64_t generation, epoch;
};

struct client_offer {
    uint64_t id; /* 0: free; its place is id modulo the number of places */
    uint64_t until_ns;
    uint32_t slot, page;
    pool_offer_fn *done;
    void *ctx;
};

struct pool_client {
    struct pool_client_options o;
    char name[BUS_NAME_BYTES];
    struct ring ring;
    struct server_link *links; /* [RING_SERVERS_MAX] */
    struct bus_queue *queue;   /* the owner's */
    struct pool_lookup *first_lookup, *last_lookup;
    struct pool_fetch *first_fetch, *last_fetch;
    struct client_offer *offers; /* [n_offers] */
    uint32_t n_offers, *free_offers, n_free_offers;
    uint64_t offers_due_ns; /* none ends for lack of an answer before */
    uint64_t ids, now_ns;
    struct pool_client_stats stats;

    pthread_mutex_t lock; /* of inbox */
    struct pool_fetch *inbox;
    _Atomic uint64_t n_fetched, n_bad, n_bytes; /* written by the copying thread */

    struct bus_queue *copy_queue; /* from here on the copying thread's */
    struct pool_fetch *active;
    struct lane lanes[CLIENT_LANES];
};

/* The ready link of a key's server, or NULL. */
struct server_link *client_link(struct pool_client *c, const struct pool_key *key, uint32_t *slot);
/* It is not, and worth waiting for: its server was listed just now and is being met. */
bool client_link_comes(const struct pool_client *c, const struct pool_key *key);
/* Takes completions of the owner's queue; false: there were none. */
bool client_completions(struct pool_client *c);
static inline uint64_t op_cookie(struct op *op) {
    return (uint64_t)(uintptr_t)op;
}

enum st ST_CHECKED offers_init(struct pool_client *c, struct err *err);
void offers_release(struct pool_client *c);
void offers_answer(struct pool_client *c, uint32_t slot, const struct wire_answer *a);
void offers_send(struct pool_client *c, struct server_link *l);
void offers_drop(struct pool_client *c, uint32_t slot); /* the server is gone: they end at once */
void offers_step(struct pool_client *c);

void lookup_arrived(struct probe *p, enum bus_status status);
void lookups_step(struct pool_client *c);
void lookups_free(struct pool_client *c); /* nothing is in flight any more */

void fetches_found(struct pool_client *c, uint32_t slot, const struct wire_found *f);
void fetches_lost(struct pool_client *c, bus_id peer);
void fetches_step(struct pool_client *c);
/* Fills in where a block is in DRAM and says that it is ready; or that it is lost. */
void fetch_place(struct pool_client *c, struct fetch_block *b);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What clients and servers of the pool say to each other: one kind a message, then items of equal
 * size, in the byte order of the hosts (little-endian). */
#ifndef SUPERNODE_POOL_WIRE_H
#define SUPERNODE_POOL_WIRE_H

#include "bus/bus.h"
#include "pool/index.h"
#include "pool/server.h"

enum { WIRE_VERSION = 1, WIRE_ITEMS_MAX = 64 };

enum wire_kind {
    WIRE_HELLO = 1, /* both ways, first; then segments are shared */
    WIRE_OFFER,     /* client */
    WIRE_ANSWER,    /* server, one for each offer */
    WIRE_WANT,      /* client: blocks that are on SSD */
    WIRE_FOUND,     /* server, one for each of them */
    WIRE_DOUBT,     /* client: a block failed its checksum */
    WIRE_KINDS
};

struct wire_hello {
    uint32_t version, n_pages; /* of the client's paged memory */
    struct block_shape shape;
    char name[BUS_NAME_BYTES];
};
struct wire_offer {
    uint64_t id, generation;
    struct pool_key key;
    char tenant[POOL_TENANT_BYTES];
    uint64_t page;
};
enum wire_result { WIRE_STORED, WIRE_KNOWN, WIRE_REFUSED, WIRE_RESULTS };
struct wire_answer {
    uint64_t id, result;
};
struct wire_want {
    uint64_t id;
    struct pool_key key;
    char tenant[POOL_TENANT_BYTES];
};
struct wire_found {
    uint64_t id, at;          /* at: of the entry, in the index segment */
    struct index_entry entry; /* place NONE: missing */
};
struct wire_doubt {
    uint64_t generation;
    struct pool_key key;
    char tenant[POOL_TENANT_BYTES];
};
union wire_item {
    struct wire_hello hello;
    struct wire_offer offer;
    struct wire_answer answer;
    struct wire_want want;
    struct wire_found found;
    struct wire_doubt doubt;
};

struct wire_message {
    enum wire_kind kind;
    uint32_t n;
    const uint8_t *items;
};
/* False: no such message; every count, length, name and enumeration is checked. */
bool wire_parse(struct wire_message *m, const void *data, size_t len);
void wire_item(const struct wire_message *m, uint32_t i, union wire_item *out);
/* n >= 1 items of the kind, one after the other. */
enum st ST_CHECKED wire_send(struct bus *b, bus_id peer, enum wire_kind kind, const void *items,
                             uint32_t n);

/* Tags of segments. */
enum wire_segment { WIRE_INDEX = 1, WIRE_DATA, WIRE_PAGES, WIRE_HITS };
static inline uint64_t wire_tag(enum wire_segment kind, uint32_t number) {
    return (uint64_t)kind << 32 | number;
}

/* The segment in which a client logs its hits. */
enum { HIT_WORDS = 504 };
struct hit_ring {
    uint64_t head; /* words written so far */
    uint64_t zero[7];
    uint64_t words[HIT_WORDS]; /* hit_word (dir.h), word i at i % HIT_WORDS */
};

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker and a pool server have in common: joining the router, staying joined, coming again
 * after it was lost. The owner drops all its work whenever the epoch ends (contracts 8): what
 * belonged to an older one is nobody's. */
#ifndef SUPERNODE_CLUSTER_MEMBER_H
#define SUPERNODE_CLUSTER_MEMBER_H

#include "cluster/proto.h"

struct member_options {
    struct bus *bus;
    const char *name, *address; /* ours */
    const char *router;         /* its address */
    enum member_role role;
    uint32_t pid, max_model_len;
    struct block_shape shape; /* pool servers: {0}; they are told */
};

struct member_peer {
    char name[BUS_NAME_BYTES], address[BUS_ADDRESS_BYTES];
    enum member_role role;
    uint64_t epoch;
};

enum member_stage { MEMBER_AWAY, MEMBER_ASKING, MEMBER_IN, MEMBER_REFUSED_STAGE };

struct member {
    struct member_options o;
    enum member_stage stage;
    bus_id router;
    uint64_t epoch, epoch_seen; /* ours; the highest of anybody's */
    uint64_t try_at_ns, load_at_ns;
    bool broken;              /* a message to the router was lost: member_drop */
    struct block_shape shape; /* the cluster's, once joined */
    char why[192];            /* of a refusal */
    struct member_peer peers[CLUSTER_MEMBERS_MAX];
    uint32_t n_peers; /* as the router said last, ourselves not counted */
};

enum member_news {
    MEMBER_NOT_ITS, /* the event is not the router's */
    MEMBER_NOTHING,
    MEMBER_JOINED,  /* epoch is new */
    MEMBER_LOST,    /* the router is gone, and the epoch with it */
    MEMBER_REFUSED, /* for good: why */
    MEMBER_PEERS,   /* the list of members changed */
    MEMBER_MESSAGE, /* the router says something else */
};

void member_init(struct member *m, const struct member_options *o);
/* Every event of the endpoint. */
enum member_news member_event(struct member *m, uint64_t now_ns, const struct bus_event *ev);
/* Connects where that is due. Returns when it wants to be called again. */
uint64_t member_step(struct member *m, uint64_t now_ns);
/* True: a load is due, and next time in a while. */
bool member_load_due(struct member *m, uint64_t now_ns);
/* Leaves the router, to come again: MEMBER_LOST or MEMBER_NOTHING. */
enum member_news member_drop(struct member *m, uint64_t now_ns);
/* To the router; ignored when it is away. */
void member_send(struct member *m, const struct buf *message);
/* NULL: no such member, as far as we know. */
const struct member_peer *member_find(const struct member *m, const char *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the members of a cluster say to each other: one byte of kind, then fields (base/wire.h) in
 * the order given here. A message that cannot be read ends the connection it came over.
 *
 * A *flight* is one attempt at computing a request, or one of its choices: the router numbers them,
 * and never uses a number again, so a number says request and attempt. Epochs say which life of a
 * member is meant. */
#ifndef SUPERNODE_CLUSTER_PROTO_H
#define SUPERNODE_CLUSTER_PROTO_H

#include "base/wire.h"
#include "cluster/cluster.h"
#include "pool/block.h"

enum proto_kind {
    /* --- a member to the router --- */
    PROTO_JOIN =
        1, /* name, address, u8 role, u64 highest epoch seen, u32 pid, shape, u32 max_model_len */
    PROTO_LOAD,     /* member_load */
    PROTO_LEAVE,    /* - : it wants to be drained */
    PROTO_RESERVED, /* flight: a decode worker has room */
    PROTO_NO_ROOM,  /* flight: not now */
    PROTO_TOKENS,   /* u32 count x proto_token */
    PROTO_LENT,     /* flight: all its next tokens were sent, its rows wait to be copied */
    PROTO_ENDED,    /* flight: every choice of it is over */
    PROTO_FAILED,   /* flight, u8 st, text: it cannot go on there */

    /* --- the router to a member --- */
    PROTO_JOINED,  /* u64 epoch, shape */
    PROTO_REFUSED, /* text: for good */
    PROTO_VIEW,    /* u64 epoch, u32 count x (name, address, u8 role, u64 epoch) */
    PROTO_RESERVE, /* flight, record: a decode worker makes room */
    PROTO_PREFILL, /* flight, name and u64 epoch of the decode worker, record */
    PROTO_GO, /* flight, u32 count x (u32 choice, u32 id, u8 finish): decode once the rows are there */
    PROTO_CANCEL, /* flight */
    PROTO_DROP,   /* flight, u32 choice: no more tokens of it are wanted */
    PROTO_RENEW,  /* u32 count x flight: leases go on (also a decode worker to a prefill worker) */
    PROTO_DRAIN,  /* - : nothing new will come; leave when all is over */
    PROTO_ROLE,   /* u8 role */

    /* --- a worker to a worker --- */
    PROTO_HELLO, /* name, u64 epoch, shape, u32 pages of its memory, u32 bytes of a board's entry */
    PROTO_ROWS,  /* flight, u32 entry, u32 count x (u32 page, u64 generation): block table so far */
    PROTO_HANDED, /* the same, complete, with u32 rows before the count */
    PROTO_TAKEN,  /* flight: copied, or not wanted any more */

    /* --- ctl and the router --- */
    PROTO_CTL_LIST,  /* - */
    PROTO_CTL_DRAIN, /* name */
    PROTO_CTL_ROLE,  /* name, u8 role */
    PROTO_CTL_VIEW,  /* the answer to LIST: cluster_view (proto_put_view) */
    PROTO_CTL_DONE,  /* the answer to the others: u8 st, text */
};

/* Tags of shared segments. */
enum { PROTO_SEGMENT_PAGES = 1, PROTO_SEGMENT_BOARD = 2 };

/* The first bytes of bus_identity.hello. */
enum proto_peer { PROTO_PEER_ROUTER, PROTO_PEER_WORKER, PROTO_PEER_POOL, PROTO_PEER_CTL };

void proto_put_shape(struct wire_out *w, const struct block_shape *s);
void proto_get_shape(struct wire_in *r, struct block_shape *s);
void proto_put_load(struct wire_out *w, const struct member_load *l);
void proto_get_load(struct wire_in *r, struct member_load *l);
void proto_put_view(struct wire_out *w, const struct cluster_view *v);
void proto_get_view(struct wire_in *r, struct cluster_view *v);

/* A worker's board: what it tells of requests it computes for others, read by who takes them over.
 * A header of 64 bytes that begins with the owner's epoch (u64), then entries:
 * {u64 flight, u32 rows_done[parts], padding to 8; the executor's slot state} of one size, a multiple
 * of 64. */
enum { PROTO_BOARD_HEADER_BYTES = 64 };
static inline uint32_t proto_entry_state_at(uint32_t n_parts) {
    return (8 + 4 * n_parts + 7) / 8 * 8;
}
static inline uint32_t proto_entry_bytes(uint32_t n_parts, uint32_t slot_bytes) {
    return (proto_entry_state_at(n_parts) + slot_bytes + 63) / 64 * 64;
}
static inline uint64_t proto_entry_at(uint32_t entry, uint32_t entry_bytes) {
    return PROTO_BOARD_HEADER_BYTES + (uint64_t)entry * entry_bytes;
}

#endif

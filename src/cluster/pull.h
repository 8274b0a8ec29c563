/* SPDX-License-Identifier: Apache-2.0 */
/* Taking rows over from a prefill worker (contracts 8, hand-over is pull): copied layer by layer out
 * of its pages while it still computes, by a thread that does nothing else. What was copied counts
 * only if afterwards every page still has the generation that was told, and its owner the epoch:
 * anything else is a loss, and the request is computed again somewhere.
 *
 * Two threads: the owner calls everything but puller_copy. The owner never waits for a copy: it
 * leaves what it knows in an inbox, under a lock that is only ever held to read or write that. */
#ifndef SUPERNODE_CLUSTER_PULL_H
#define SUPERNODE_CLUSTER_PULL_H

#include "bus/bus.h"
#include "pool/block.h"

struct puller;
struct pull;

/* A page of the other side as it told of it. */
struct pull_page {
    uint32_t page;
    uint64_t generation;
};

struct pull_source {
    bus_id pages, board; /* imported */
    uint32_t n_pages;    /* of its memory */
    uint32_t entry;      /* of the board */
    uint64_t flight, epoch;
};

struct puller_stats {
    uint64_t pulls, failed, bytes; /* failed: cancelled ones not counted */
    uint64_t waits;                /* times the owner met the lock taken */
};

/* memory: paged memory of n_pages, where rows go; slot_bytes of state come with them. The board is
 * looked at every look_ns (0: default) while rows are computed. */
enum st ST_CHECKED puller_new(struct puller **out, struct bus *bus, const struct block_shape *shape,
                              uint8_t *memory, uint32_t n_pages, uint32_t slot_bytes,
                              uint64_t look_ns, struct err *err);
void puller_free(
    struct puller *p); /* the copying thread has ended; pulls that are not over go with it */

/* Rows below n_rows go to pages [n_pages], borrowed until it is over; the first n_there blocks are
 * there already. NULL: out of memory. */
struct pull *pull_begin(struct puller *p, const struct pull_source *from, const uint32_t *pages,
                        uint32_t n_pages, uint32_t n_there, uint32_t n_rows);
/* The other side's block table, as far as it goes; a later one replaces it. complete: all its rows
 * are final. ST_INVALID: it does not fit. */
enum st ST_CHECKED pull_table(struct pull *u, const struct pull_page *pages, uint32_t n,
                              bool complete);
void pull_cancel(struct pull *u); /* over soon, and failed */

/* True: nothing is copied any more; *ok: every row is there, and *state [slot_bytes] too. */
bool pull_over(struct pull *u, bool *ok, const void **state);
void pull_free(struct pull *u); /* it is over */

/* Copies what there is to copy. False: nothing to do now. */
bool puller_copy(struct puller *p);
void puller_stats(struct puller *p, struct puller_stats *out); /* owner's thread */

#endif

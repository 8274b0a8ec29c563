/* SPDX-License-Identifier: Apache-2.0 */
/* A team of threads that works through numbered tiles. Tiles are handed out by an atomic counter,
 * so a slow core takes fewer; which thread computes a tile never changes its bits, since tiles
 * write disjoint outputs. Workers spin briefly between calls (a decode step makes thousands) and
 * then sleep. */
#ifndef SUPERNODE_BASE_TEAM_H
#define SUPERNODE_BASE_TEAM_H

#include <stdint.h>

#include "base/err.h"

struct team;

/* One tile. thread is 0..n_threads-1: the index of per-thread scratch. */
typedef void team_fn(void *ctx, uint32_t tile, uint32_t thread);

/* n_threads >= 1, the calling thread included; n_threads - 1 are started. */
enum st ST_CHECKED team_new(struct team **out, uint32_t n_threads, struct err *err);
void team_free(struct team *t); /* NULL is allowed */
uint32_t team_size(const struct team *t);

/* Runs fn for every tile in [0, n_tiles) and returns when all are done. One caller at a time; not
 * from a tile. */
void team_run(struct team *t, team_fn *fn, void *ctx, uint32_t n_tiles);

/* The same for tiles [first, n_tiles), but none is begun once the calling thread has seen, after a
 * tile of its own, that it is until_ns (clock.h); at least one is run. Returns the first tile that was not begun, n_tiles when all are done. */
uint32_t team_run_until(struct team *t, team_fn *fn, void *ctx, uint32_t first, uint32_t n_tiles,
                        uint64_t until_ns);

/* Cores this process may run on (affinity mask), at least 1. */
uint32_t team_cores(void);

#endif

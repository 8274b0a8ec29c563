/* SPDX-License-Identifier: Apache-2.0 */
/* What the context cache does to a prompt batch: the tokens whose KV is found are loaded from the
 * memory pool over a plane, and the rest is computed. */
#ifndef SUPERNODE_SIM_CACHE_H
#define SUPERNODE_SIM_CACHE_H

#include "sim/step.h"

struct cache_shape {
    const struct step_setup *setup;
    const struct machine_plane *plane; /* NULL: no cache, all is computed */
    double batch_tokens;               /* a chip */
    double prompt;                     /* tokens each */
    double reuse;                      /* share of them that is found, 0 to 1 */
};

struct cache_cost {
    double compute_s, load_s;
    double batch_s;      /* time to first token of the batch */
    double tokens_per_s; /* a chip, found ones counted */
    double load_bytes;   /* over the instance */
};

/* Layer by layer: while one is computed the next one's KV is loaded. */
void cache_cost(struct cache_cost *out, const struct cache_shape *s);

#endif

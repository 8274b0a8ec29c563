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
    double batch_s;      /* time to first token of the batch: one after the other */
    double tokens_per_s; /* a chip, found ones counted */
    double load_bytes;   /* over the instance */
    double load_bps;     /* of a die while all load */
};

/* Whether dies read CPU memory over the plane. */
bool cache_plane_reaches(const struct machine_plane *p);
/* plane: NULL or one that reaches. Loads come first and computing waits for them, in the order the
 * paper tells it in (4.4.2); how far they overlap is not published. Each die loads its share of what
 * is found, once; staged attention then gathers it with the rest (step_prefill_s). */
void cache_cost(struct cache_cost *out, const struct cache_shape *s);
/* Whether found and computed ones fit beside the weights; else ST_INVALID, with a sentence. */
enum st ST_CHECKED cache_fits(const struct cache_shape *s, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements load.h. The bucket is the bottleneck of every cold start, so what counts is how many
 * copies come out of it: one for each instance, or one for all. Against minutes of that, UB's
 * fractions of a second from the pool to the dies are part of the fixed warm start. */
#include "sim/load.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

const char *const load_cache_names[LOAD_CACHES + 1] = {"no cache", "local DRAM", "pool", NULL};

void load_setup_default(struct load_setup *s) {
    *s = (struct load_setup){.model_bytes = 671e9,
                             .instances = 8,
                             .models = 8,
                             .bucket_bps = 2.5e9,
                             .bucket_share = 0.84,
                             .warm_s = 5};
}

void load_times(struct load_times *out, const struct load_setup *s, enum load_cache cache) {
    assert(s->instances > 0 && s->models > 0 && s->bucket_bps > 0 && s->bucket_share > 0);
    double once = s->model_bytes / (s->bucket_bps * s->bucket_share);
    bool pool = cache == LOAD_POOL;
    out->cold_s = pool ? once : once * s->instances;
    double warm = fmin(s->warm_s, once); /* nobody starts from DRAM what comes sooner without */
    out->warm_s = cache == LOAD_NO_CACHE ? INFINITY : warm;
    out->dram = cache == LOAD_NO_CACHE ? 0 : pool ? 1 : s->instances;
    /* A node's DRAM holds one model, the pool all of them. */
    out->hit = cache == LOAD_NO_CACHE ? 0 : pool ? 1 : 1.0 / s->models;
    out->switch_s = (1 - out->hit) * once + (out->hit > 0 ? out->hit * warm : 0);
    out->switch_dram = cache == LOAD_NO_CACHE ? 0 : pool ? s->models : s->instances;
}

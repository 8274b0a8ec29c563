/* SPDX-License-Identifier: Apache-2.0 */
/* How long instances wait for a model's weights: from a bucket of object storage that all share, from a
 * cache in their own nodes' DRAM, or from the pool (EMS), where one copy serves all. In closed form
 * (CloudMatrix paper 4.4.3, P3 Table 1). */
#ifndef SUPERNODE_SIM_LOAD_H
#define SUPERNODE_SIM_LOAD_H

#include <stdint.h>

enum load_cache { LOAD_NO_CACHE, LOAD_LOCAL_DRAM, LOAD_POOL, LOAD_CACHES };
extern const char *const load_cache_names[LOAD_CACHES + 1];

struct load_setup {
    double model_bytes;
    uint32_t instances; /* that load the same model at the same time */
    uint32_t models;    /* active ones; an instance switches to one of them, all as likely */
    double bucket_bps, bucket_share; /* its rate, and what of it is reached */
    double warm_s;                   /* from DRAM, any: a fixed time */
};

struct load_times {
    double cold_s;      /* all instances ready, nothing cached */
    double warm_s;      /* the model is in the cache; INFINITY: there is no cache */
    double dram;        /* used, in sizes of the model, after a cold start */
    double hit;         /* of switches, those whose model is cached */
    double switch_s;    /* one switch, on average */
    double switch_dram; /* to hold what is cached then, in sizes of a model */
};

/* P3 Table 1: 671 GB, 8 instances, 8 models, 2.5 GB/s of which 0.84
 * are reached (320 s), warm in 5 s. */
void load_setup_default(struct load_setup *s);
void load_times(struct load_times *out, const struct load_setup *s, enum load_cache cache);

#endif

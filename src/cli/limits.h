/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine can do at most, measured: the figures a benchmark stands beside. */
#ifndef SUPERNODE_CLI_LIMITS_H
#define SUPERNODE_CLI_LIMITS_H

#include <stdint.h>

#include "base/err.h"
#include "base/team.h"

struct limits {
    char cpu[128];   /* model name */
    double read_gbs; /* best of five streaming reads of 1 GiB by all threads, 10^9 bytes a second */
    double fma_gflops; /* best of five runs of independent F32 FMAs, 2 operations each */
    /* A cache line from one thread to the next, best of five; 0: there is one thread. How far apart
     * the cores are, which on shared machines changes from minute to minute. */
    double hop_ns;
    const char *fma_isa; /* the widest vectors found: "avx512", "avx2", "neon" */
};

/* Keeps the better of what *out holds and what it measures: shared machines have slow seconds, so a
 * benchmark measures before and after. Zero-initialise. */
enum st ST_CHECKED limits_measure(struct limits *out, struct team *team, struct err *err);

/* hop_ns alone, in about so long; beside what else computes it should be short, and so should the turns
 * of the team's threads (base/turn.h), so that all have a core at the same time. */
enum { LIMITS_BESIDE_NS = 200000, LIMITS_BESIDE_EVERY_US = 200000 };
double limits_hop_ns(struct team *team, uint64_t for_ns);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a cluster are called and what is known of them: shared by router, workers, pool
 * servers, ctl, metrics and the page. */
#ifndef SUPERNODE_CLUSTER_CLUSTER_H
#define SUPERNODE_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"

enum { CLUSTER_MEMBERS_MAX = 256, CLUSTER_EVENT_BYTES = 192, CLUSTER_EVENTS = 32 };

enum member_role { ROLE_OF_PREFILL, ROLE_OF_DECODE, ROLE_OF_POOL, MEMBER_ROLES };
const char *member_role_name(enum member_role role); /* "prefill", "decode", "pool" */

enum member_state { MEMBER_READY, MEMBER_SUSPENDED, MEMBER_DRAINING };
const char *member_state_name(enum member_state state); /* "ready", "suspended", "draining" */

/* What a member tells the router of itself, several times a second. Counters are since its start;
 * a field that means nothing for its role is 0. */
struct member_load {
    uint32_t running, waiting;                /* sequences; of a pool server: clients, 0 */
    uint32_t pages, pages_used, pages_cached; /* of a pool server: blocks DRAM holds, in use, 0 */
    uint32_t lent, reserved;                  /* requests whose pages are lent, or reserved */
    uint64_t prompt_tokens, prompt_cached;    /* prompts begun, and what was found of them, */
    uint64_t prompt_from_pool;                /* of that in the pool */
    uint64_t computed_tokens, generated_tokens;
    uint64_t bytes_dram, bytes_dram_max, bytes_ssd, bytes_ssd_max; /* pool servers */
    uint64_t pulled_bytes, pulls, pulls_failed;                    /* hand-overs taken in */
    uint64_t pool_bad;                 /* blocks found in the pool that were not to be had */
    uint32_t tpot_us_p50, tpot_us_p99; /* of the last seconds; 0: no tokens */
};

struct member_info {
    char name[BUS_NAME_BYTES], address[BUS_ADDRESS_BYTES];
    enum member_role role;
    enum member_state state;
    uint64_t epoch;
    uint64_t since_ns; /* joined, on the router's clock */
    uint32_t pid;
    uint32_t flights; /* requests that the router has there */
    struct member_load load;
    double prompt_rate, token_rate; /* tokens a second, over the last seconds */
};

/* Everything the router shows: a copy that any thread may read. */
struct cluster_view {
    uint64_t now_ns, epoch; /* epoch: the highest issued */
    uint32_t n_members;
    struct member_info members[CLUSTER_MEMBERS_MAX]; /* by role, then name */
    uint32_t queued, prefilling, decoding;           /* requests */
    uint64_t requests, finished, failed, cancelled;  /* since the start */
    uint64_t moved; /* a worker died or failed, it went on elsewhere */
    uint64_t handovers, handover_tokens;
    uint64_t joins, deaths, drains,
        stale; /* stale: messages of older attempts or epochs, refused */
    double request_rate;
    uint64_t events_total; /* since the start, so that a reader knows which are new to it */
    uint32_t n_events;     /* the last ones, newest first */
    struct cluster_event {
        uint64_t at_ns; /* on the router's clock, as now_ns */
        char text[CLUSTER_EVENT_BYTES];
    } events[CLUSTER_EVENTS];
};

#endif

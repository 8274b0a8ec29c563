/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the simulated bus: the time, what is due when, and chance. A simulation that runs out of
 * memory is over: it asserts, since what it stands for could go on. */
#ifndef SUPERNODE_SIM_CORE_SIM_NET_H
#define SUPERNODE_SIM_CORE_SIM_NET_H

#include "sim/core/sim_bus.h"

/* Does what is due; the thing is its own again. n->over: nothing happens any more, only free it. */
typedef void sim_due_fn(struct sim_net *n, void *thing);

struct sim_due {
    uint64_t at_ns, seq;
    sim_due_fn *run;
    void *thing;
};

struct sim_net {
    struct sim_net_options o;
    uint64_t now_ns, seq, chance;
    struct sim_due *heap; /* the earliest first, then the first submitted */
    size_t len, cap;
    struct sim_bus *buses; /* the newest first */
    bool over;
};

void sim_net_post(struct sim_net *n, uint64_t at_ns, sim_due_fn *run, void *thing);
uint64_t sim_net_draw(struct sim_net *n);  /* 64 random bits */
uint64_t sim_net_delay(struct sim_net *n); /* of a message or a read */
void *sim_net_alloc(size_t bytes);         /* zeroed; to be freed */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a step: chains of operators, one a microbatch, laid on what executes them. */
#ifndef SUPERNODE_SIM_STEP_IMPL_H
#define SUPERNODE_SIM_STEP_IMPL_H

#include "sim/step.h"

enum { CHAIN_MAX = 16, CHAINS_MAX = 2, STREAMS_MAX = 3 };

struct step_link { /* of a chain */
    enum op op;
    uint32_t stream;
    struct op_cost cost;
};
struct step_chain { /* what one microbatch does in one layer, in order */
    uint32_t n;
    uint32_t second; /* where its second phase begins; 0: it has one */
    double s;        /* all of it */
    struct step_link v[CHAIN_MAX];
};

/* A step under way: when each stream is free, when each microbatch is ready. */
struct step_clock {
    double stream[STREAMS_MAX], ready[CHAINS_MAX];
    struct step_trace *trace;
};

void step_chain_add(struct step_chain *c, const struct step_setup *s, const struct op_place *p,
                    enum op op, const struct op_shape *shape, uint32_t stream);
void step_chain_fixed(struct step_chain *c, double s, uint32_t stream);

/* Layers first to end of n microbatches, each doing the chain in every layer. Every stream serves them
 * in one order: layer by layer, phase by phase, microbatch by microbatch. A fixed order makes the time
 * grow with each of its parts, which choosing as one goes does not. */
void step_lay(struct step_clock *k, const struct step_chain *c, uint32_t n_chains, uint32_t first,
              uint32_t end);
/* All wait for all: what comes next begins when everything before has ended. */
void step_join(struct step_clock *k);
double step_now(const struct step_clock *k);

/* What all operators of the instance share. */
struct op_shape step_shape(const struct step_setup *s, double tokens);
/* Whether a die has room for the KV of so many tokens. */
enum st ST_CHECKED step_room_for(const struct step_setup *s, bool prefill, double tokens,
                                 struct err *err);

#endif

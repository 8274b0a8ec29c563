/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the operators: what operators.c (on a die) and op_network.c (between dies) share. */
#ifndef SUPERNODE_SIM_OP_IMPL_H
#define SUPERNODE_SIM_OP_IMPL_H

#include "sim/operators.h"

struct op_work { /* one operator under way */
    const struct machine *m;
    struct op_place p;
    const struct op_shape *s;
    struct op_cost *c;
};

/* Appends to the formula, if it was asked for. */
void op_say(struct op_work *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
double op_memory_bps(const struct op_work *w); /* that streaming reaches */
/* Work on rows by vector cores that nothing hides: `name`'s fixed time each. */
void op_on_vectors(struct op_work *w, const char *name, double rows);

/* The two loads that can be the busiest: a rank of routed experts, and one of the shared expert. */
double op_rows_routed(const struct op_shape *s);
double op_rows_shared(const struct op_shape *s); /* 0: there are no such ranks */
uint32_t op_experts_held(const struct op_shape *s);

void op_exchange(struct op_work *w, bool dispatch);
void op_collective(struct op_work *w, enum collective what);

/* What the largest of n draws from a normal distribution is on average, in standard deviations. */
double op_expected_max(double n);

#endif

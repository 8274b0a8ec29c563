/* SPDX-License-Identifier: Apache-2.0 */
/* The constants of operators (operators.h): what each means, its default for a chip whose file says
 * nothing, and the bounds a file must keep. Defaults are round figures in the middle of what Ascend
 * and Hopper show; docs/simulator.md says which published rows the files' own were calibrated on. */
#include <string.h>

#include "sim/operators.h"

#define US 1e-6

const struct op_constants op_constants[] = {
    {"memory", NULL, "of the memory's peak that streaming reaches", 0, 0, 0, 0.85, 0.5, 1},
    {"kernel", "start of an operator inside a launched graph", NULL, 4 * US, 0, 60 * US, 0, 0, 0},
    {"mla_prolog", "of a row on one vector core: norms, rope, quantising, cache layout", NULL, 0, 0,
     60 * US, 0, 0, 0},
    {"o_proj", "of a row on one vector core: quantising, residual sum", NULL, 0, 0, 60 * US, 0, 0,
     0},
    {"gate", "of a row on one vector core: the choice of its experts", NULL, 0, 0, 60 * US, 0, 0,
     0},
    {"quantise", "of a row's copies on one vector core, before dispatch sends them", NULL, 0, 0,
     60 * US, 0, 0, 0},
    {"attention", NULL, "of the peak, absorbed form", 0, 0, 0, 0.65, 0.2, 1},
    {"attention_wide", NULL, "of the peak, expanded heads", 0, 0, 0, 0.6, 0.2, 1},
    {"dispatch", "start, counts and flags",
     "of the wire time that each standard deviation of the slowest peer adds", 20 * US, 0, 200 * US,
     0.1, 0, 1},
    {"combine", "start and flags",
     "of the wire time that each standard deviation of the slowest peer adds", 20 * US, 0, 200 * US,
     0.04, 0, 1},
    {"gmm", "start of a wave of tiles, while the last is stored; all matmuls",
     "of the peak inside a tile; all matmuls", 0, 0, 5 * US, 0.85, 0.3, 1},
    {"sample", "sort, sums, filter of one batch", NULL, 200 * US, 0, 2000 * US, 0, 0, 0},
    {"prefill_layer", "of a prompt batch in each layer over 32 dies, which no roofline explains",
     NULL, 0, 0, 12e-3, 0, 0, 0},
    {"pool_card", NULL, "of a node's own card, which loading from the pool over TCP reaches", 0, 0,
     0, 0.35, 0.1, 1},
    {NULL, NULL, NULL, 0, 0, 0, 0, 0, 0},
};

const struct op_constants *op_constants_find(const char *name) {
    for (const struct op_constants *c = op_constants; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

enum st op_constants_check(const struct machine_operator *o, struct err *err) {
    const struct op_constants *c = op_constants_find(o->name);
    if (!c)
        return err_set(
            err, ST_INVALID, "operator %s: found no such constants, expected %s", o->name,
            "memory, kernel, mla_prolog, o_proj, gate, quantise, attention, attention_wide, "
            "dispatch, combine, gmm, sample, prefill_layer or pool_card");
    if (!(o->fixed_s >= c->fixed_min && o->fixed_s <= c->fixed_max))
        return err_set(err, ST_INVALID,
                       "operator %s: found a fixed time of %g us, expected %g to %g", o->name,
                       o->fixed_s * 1e6, c->fixed_min * 1e6, c->fixed_max * 1e6);
    if (!(o->share >= c->share_min && o->share <= c->share_max))
        return err_set(err, ST_INVALID, "operator %s: found a share of %g, expected %g to %g",
                       o->name, o->share, c->share_min, c->share_max);
    return ST_OK;
}

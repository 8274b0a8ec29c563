/* SPDX-License-Identifier: Apache-2.0 */
/* A model on this machine with an engine over it: what `serve` and `generate` run. */
#ifndef SUPERNODE_ENGINE_LOCAL_H
#define SUPERNODE_ENGINE_LOCAL_H

#include "engine/engine.h"
#include "engine/exec_model.h"

struct local {
    struct instance in;
    struct exec_model *exec;
    struct engine *engine;
};

/* On failure nothing is held. */
enum st ST_CHECKED local_open(struct local *l, const struct instance_options *i,
                              const struct engine_options *o, struct err *err);
/* Without an engine: for who has one of its own (a cluster's worker). */
enum st ST_CHECKED local_open_model(struct local *l, const struct instance_options *i,
                                    const struct engine_options *o, struct err *err);
void local_close(struct local *l);

#endif

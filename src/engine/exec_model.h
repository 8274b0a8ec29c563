/* SPDX-License-Identifier: Apache-2.0 */
/* The executor that computes with a model on this machine: a workspace for steps and one for the
 * prompt chunk that pauses between them, both over the instance's pages and team. */
#ifndef SUPERNODE_ENGINE_EXEC_MODEL_H
#define SUPERNODE_ENGINE_EXEC_MODEL_H

#include "engine/executor.h"
#include "engine/instance.h"

struct exec_model;

struct exec_model_options {
    uint32_t max_num_seqs, max_num_batched_tokens;
    uint32_t draft_tokens; /* 0: never asked to guess */
};

/* What it will make beside the cache, for whoever divides the memory. */
void exec_model_workspaces(struct step_limits limits[2], const struct exec_model_options *o);
/* in is borrowed. */
enum st ST_CHECKED exec_model_new(struct exec_model **out, struct instance *in,
                                  const struct exec_model_options *o, struct err *err);
void exec_model_free(struct exec_model *x); /* NULL is allowed */

/* Lives as long as x. */
const struct executor *exec_model_executor(const struct exec_model *x);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes of models for the simulator: some by name, others from a checkpoint's config.json. */
#ifndef SUPERNODE_SIM_MODELS_H
#define SUPERNODE_SIM_MODELS_H

#include "model/config.h"

/* name: of an embedded shape ("deepseek-r1"), a checkpoint's folder, or a config.json (a path has a
 * '/' or ends in .json). */
enum st ST_CHECKED sim_model_open(struct model_config *c, const char *name, struct err *err);
bool sim_model_is_path(const char *name);

#endif

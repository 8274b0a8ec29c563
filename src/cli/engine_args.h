/* SPDX-License-Identifier: Apache-2.0 */
/* What every command that serves from an engine takes: `serve`, `prefill`, `decode`. */
#ifndef SUPERNODE_CLI_ENGINE_ARGS_H
#define SUPERNODE_CLI_ENGINE_ARGS_H

#include "cli/model_args.h"
#include "engine/local.h"

enum { ENGINE_FLAGS_MAX = 10 };

struct engine_args {
    struct model_args model;
    uint32_t max_model_len, speculate;
    uint64_t kv_bytes;
    struct engine_options engine;
};

void engine_args_init(struct engine_args *a); /* the defaults */
/* Appends the flags; returns how many. */
uint32_t engine_args_flags(struct flag out[ENGINE_FLAGS_MAX], struct engine_args *a);
/* Flags become *o and a->engine. model NULL: the embedded default model. */
enum st ST_CHECKED engine_args_finish(struct instance_options *o, struct engine_args *a,
                                      const char *model, struct err *err);

/* "memory ..." and "kernels ...". */
void engine_print(const struct engine_args *a, const struct local *l);

#endif

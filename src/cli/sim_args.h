/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands that ask the cost model take: --hardware, --model, types. */
#ifndef SUPERNODE_CLI_SIM_ARGS_H
#define SUPERNODE_CLI_SIM_ARGS_H

#include <jansson.h>

#include "cli/flags.h"
#include "sim/step.h"

struct sim_args {
    const struct flag_command *cmd; /* with given, so that a flag that means nothing is refused */
    bool given[FLAGS_MAX];
    const char *hardware, *model;
    uint32_t weights; /* of sim_type_words */
    float kv_bytes;
};

#define SIM_TYPE_WORDS "auto|bf16|int8|fp8|fp4"
#define SIM_ARGS_FLAGS(a)                                                                          \
    {"hardware",                                                                                   \
     "NAME|FILE.yaml",                                                                             \
     FLAG_STR,                                                                                     \
     &(a).hardware,                                                                                \
     0,                                                                                            \
     0,                                                                                            \
     "machine (default cloudmatrix384)",                                                           \
     false},                                                                                       \
        {"model",                                                                                  \
         "NAME|DIR",                                                                               \
         FLAG_STR,                                                                                 \
         &(a).model,                                                                               \
         0,                                                                                        \
         0,                                                                                        \
         "shape by name, a checkpoint's folder or a config.json (default deepseek-r1)",            \
         false},                                                                                   \
        {"dtype",                                                                                  \
         SIM_TYPE_WORDS,                                                                           \
         FLAG_CHOICE,                                                                              \
         &(a).weights,                                                                             \
         0,                                                                                        \
         0,                                                                                        \
         "type of weights and of what is dispatched; auto: int8 or fp8, as the chip has",          \
         false},                                                                                   \
    {                                                                                              \
        "kv-bytes", "N", FLAG_F32, &(a).kv_bytes, 0.25, 4,                                         \
            "bytes of a value in the KV cache (default 2)", true                                   \
    }

struct sim_asked {
    struct machine machine;
    struct model_config model;
    enum machine_type weights;
};
const char *sim_args_model(const struct sim_args *a); /* as it was given, or the default */
/* A number as it was written: 1.55 and not 1.5499999523. */
double sim_args_written(float v);
/* An empty line and then each string of the list, which is freed. */
void sim_args_print_lines(json_t *list);
/* A line on a type of weights that the chip has no units for; nothing where it has. */
void sim_args_print_type(const struct sim_asked *s);
/* Reads the flags and runs: what was asked (a) and the command's argument, NULL if it takes none. Returns
 * the exit code, having said what went wrong. */
typedef enum st sim_args_run(void *a, const char *argument, struct err *err);
int sim_args_main(const struct flag_command *cmd, int argc, char **argv, sim_args_run *run,
                  void *a);

enum st ST_CHECKED sim_args_open(struct sim_asked *out, const struct sim_args *a, struct err *err);
/* The plane of that name; "" or NULL: NULL. ST_NOT_FOUND names those there are. */
enum st ST_CHECKED sim_args_plane(const struct machine_plane **out, const struct machine *m,
                                  const char *name, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What every command that runs a model takes: MODEL, --threads, --kv-dtype; and lists of ids. */
#ifndef SUPERNODE_CLI_MODEL_ARGS_H
#define SUPERNODE_CLI_MODEL_ARGS_H

#include "cli/flags.h"
#include "engine/instance.h"

struct model_args {
    uint32_t threads;
    uint32_t kv;                         /* enum kv_choice, in the order of the flag's words */
    char default_model[CKPT_PATH_BYTES]; /* filled when no MODEL is given */
};

#define KV_DTYPE_FLAG(out)                                                                         \
    {                                                                                              \
        "kv-dtype", "auto|f32|bf16", FLAG_CHOICE, (out), 0, 0,                                     \
            "type of the KV cache; auto: f32 for F32 checkpoints, else bf16", true                 \
    }
#define SPECULATE_FLAGS(mode, k)                                                                   \
    {"speculate",                                                                                  \
     "auto|off|on",                                                                                \
     FLAG_CHOICE,                                                                                  \
     &(mode),                                                                                      \
     0,                                                                                            \
     0,                                                                                            \
     "guess tokens with the model's MTP layer and verify them; same answers (default auto: where " \
     "it is faster)",                                                                              \
     true},                                                                                        \
    {                                                                                              \
        "draft-tokens", "K", FLAG_U32, &(k), 1, EXECUTOR_DRAFTS_MAX,                               \
            "tokens to guess at a time (default 1)", true                                          \
    }
#define MODEL_ARGS_FLAGS(m)                                                                        \
    {"threads",                                                                                    \
     "N",                                                                                          \
     FLAG_U32,                                                                                     \
     &(m).threads,                                                                                 \
     0,                                                                                            \
     1024,                                                                                         \
     "threads to compute with (default 0: every core allowed)",                                    \
     false},                                                                                       \
        KV_DTYPE_FLAG(&(m).kv)

/* Fills model, threads and kv of *o; chunk and length are the caller's. model NULL: the embedded
 * default model. */
enum st ST_CHECKED model_args_options(struct instance_options *o, struct model_args *a,
                                      const char *model, struct err *err);

/* "0,17,4" -> ids; the caller frees *out. */
enum st ST_CHECKED ids_parse(uint32_t **out, uint32_t *n, const char *text, struct err *err);
enum st ST_CHECKED ids_check(const uint32_t *ids, uint32_t n, uint32_t vocab, struct err *err);

#endif

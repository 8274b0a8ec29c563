/* SPDX-License-Identifier: Apache-2.0 */
/* Reads config.json and generation_config.json of a DeepSeek-V2 or V3 checkpoint, with the defaults
 * of transformers' DeepseekV2Config and DeepseekV3Config for keys that are missing. */
#ifndef SUPERNODE_MODEL_CONFIG_JSON_H
#define SUPERNODE_MODEL_CONFIG_JSON_H

#include <jansson.h>

#include "base/err.h"
#include "model/config.h"

enum { CONFIG_BYTES_MAX = 1 << 20, CONFIG_EOS_MAX = 16 };

/* What config.json says beside the shape of the forward pass. */
struct config_facts {
    const char *architecture; /* a constant: "DeepseekV3ForCausalLM" or "DeepseekV2ForCausalLM" */
    int64_t bos, eos[CONFIG_EOS_MAX]; /* -1: none */
    uint32_t n_eos;
};

/* name stands in errors (the file's path). */
enum st ST_CHECKED config_from_json(struct model_config *c, struct config_facts *facts,
                                    const json_t *json, const char *name, struct err *err);

/* Sampling defaults of the checkpoint; what generation_config.json does not say is neutral. */
struct generation_config {
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k;
    uint32_t max_new_tokens; /* 0: not said */
    int64_t eos[CONFIG_EOS_MAX];
    uint32_t n_eos; /* 0: those of config.json */
};
void generation_config_init(struct generation_config *g);
enum st ST_CHECKED generation_config_from_json(struct generation_config *g, const json_t *json,
                                               const char *name, struct err *err);

#endif

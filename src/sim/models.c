/* SPDX-License-Identifier: Apache-2.0 */
/* Implements models.h. Embedded shapes are the config.json of the public checkpoints, as far as a cost
 * model looks at them. */
#include "sim/models.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "model/config_json.h"

#define V3_SHAPE                                                                                   \
    "\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\","                \
    "\"vocab_size\":129280,\"hidden_size\":7168,\"intermediate_size\":18432,"                      \
    "\"moe_intermediate_size\":2048,\"num_hidden_layers\":61,\"num_nextn_predict_layers\":1,"      \
    "\"num_attention_heads\":128,\"num_key_value_heads\":128,\"n_shared_experts\":1,"              \
    "\"n_routed_experts\":256,\"routed_scaling_factor\":2.5,\"kv_lora_rank\":512,"                 \
    "\"q_lora_rank\":1536,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"qk_nope_head_dim\":128,"    \
    "\"n_group\":8,\"topk_group\":4,\"num_experts_per_tok\":8,\"first_k_dense_replace\":3,"        \
    "\"norm_topk_prob\":true,\"max_position_embeddings\":163840"

static const char *const names[] = {"deepseek-r1", "deepseek-v3", "deepseek-v2-lite", NULL};
static const char *const configs[] = {
    "{" V3_SHAPE "}", "{" V3_SHAPE "}",
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\","
    "\"vocab_size\":102400,\"hidden_size\":2048,\"intermediate_size\":10944,"
    "\"moe_intermediate_size\":1408,\"num_hidden_layers\":27,\"num_attention_heads\":16,"
    "\"num_key_value_heads\":16,\"n_shared_experts\":2,\"n_routed_experts\":64,"
    "\"routed_scaling_factor\":1.0,\"kv_lora_rank\":512,\"q_lora_rank\":null,"
    "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"qk_nope_head_dim\":128,\"topk_method\":"
    "\"greedy\","
    "\"n_group\":1,\"topk_group\":1,\"num_experts_per_tok\":6,\"first_k_dense_replace\":1,"
    "\"norm_topk_prob\":false,\"max_position_embeddings\":163840}"};

bool sim_model_is_path(const char *name) {
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".json") == 0);
}

static enum st open_path(json_t **out, const char *name, struct err *err) {
    struct stat s;
    char path[4096];
    bool folder = stat(name, &s) == 0 && S_ISDIR(s.st_mode);
    snprintf(path, sizeof path, folder ? "%s/config.json" : "%s", name);
    return json_read_file(out, path, CONFIG_BYTES_MAX, err);
}

enum st sim_model_open(struct model_config *c, const char *name, struct err *err) {
    struct config_facts facts;
    json_t *json = NULL;
    enum st st = ST_OK;
    uint32_t i = 0;
    while (names[i] && strcmp(names[i], name) != 0) i++;
    if (names[i])
        st = json_parse(&json, configs[i], strlen(configs[i]), name, err);
    else if (sim_model_is_path(name))
        st = open_path(&json, name, err);
    else
        st = err_set(err, ST_NOT_FOUND,
                     "model %s: found no such shape, expected %s, %s, %s or the path of a "
                     "checkpoint's folder or config.json",
                     name, names[0], names[1], names[2]);
    if (!st) st = config_from_json(c, &facts, json, name, err);
    json_decref(json);
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements config_json.h. Every model of the family comes through here; the choices follow
 * transformers and, where it differs from DeepSeek's own code (V2's norm_topk_prob), DeepSeek. What
 * would change the result and is not supported is refused by key; keys that do not touch the
 * forward pass are ignored. */
#include "model/config_json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "ops/weight.h"

enum arch { ARCH_V2, ARCH_V3 };

/* Reads a row of integers with the defaults of V2 and V3 side by side. */
struct u32_row {
    const char *key;
    size_t offset;
    uint32_t fallback[2];
};

#define ROW(key, field, v2, v3)                                                                    \
    {                                                                                              \
        key, offsetof(struct model_config, field), {                                               \
            v2, v3                                                                                 \
        }                                                                                          \
    }

static const struct u32_row u32_rows[] = {
    ROW("vocab_size", vocab, 102400, 129280),
    ROW("hidden_size", hidden, 4096, 7168),
    ROW("num_hidden_layers", n_layers, 32, 61),
    ROW("num_attention_heads", n_heads, 32, 128),
    ROW("kv_lora_rank", kv_lora, 512, 512),
    ROW("qk_nope_head_dim", nope, 128, 128),
    ROW("qk_rope_head_dim", rope, 64, 64),
    ROW("v_head_dim", v_dim, 128, 128),
    ROW("intermediate_size", dense_inter, 11008, 18432),
    ROW("first_k_dense_replace", first_dense, 0, 3),
    ROW("moe_layer_freq", moe_freq, 1, 1),
    ROW("moe_intermediate_size", moe_inter, 1407, 2048),
    ROW("max_position_embeddings", max_positions, 2048, 4096),
    ROW("num_nextn_predict_layers", n_mtp, 0, 0),
};

static enum st read_architecture(enum arch *arch, const json_t *json, const char *name,
                                 struct err *err) {
    const json_t *list = json_at(json, "architectures"),
                 *first = json_is_array(list) ? json_array_get(list, 0) : NULL;
    const char *a = json_string_value(first);
    if (!a)
        return err_set(
            err, ST_INVALID, "%s: architectures: found %s%s, expected a list of one name", name,
            json_is_array(list) ? "a list of " : "", json_kind(json_is_array(list) ? first : list));
    if (strcmp(a, "DeepseekV3ForCausalLM") == 0)
        *arch = ARCH_V3;
    else if (strcmp(a, "DeepseekV2ForCausalLM") == 0)
        *arch = ARCH_V2;
    else
        return err_set(err, ST_UNSUPPORTED,
                       "%s: architecture %.64s is not supported (DeepseekV3ForCausalLM, "
                       "DeepseekV2ForCausalLM are)",
                       name, a);
    return ST_OK;
}

/* *out: the member, NULL if it is missing. */
static enum st get_object(const json_t **out, const json_t *json, const char *key, const char *name,
                          struct err *err) {
    *out = json_at(json, key);
    if (!*out || json_is_object(*out)) return ST_OK;
    return err_set(err, ST_INVALID, "%s: %s: found %s, expected an object", name, key,
                   json_kind(*out));
}

/* The only quantisation we run is the official one of V3 and R1: FP8 with a scale for every 128 x
 * 128 weights. */
static enum st check_quantization(const json_t *json, const char *name, struct err *err) {
    const json_t *q, *block;
    const char *method, *fmt;
    enum st st = get_object(&q, json, "quantization_config", name, err);
    if (!st)
        st = json_get_str(&method, json, "quantization_config.quant_method", "nothing", name, err);
    if (!st) st = json_get_str(&fmt, json, "quantization_config.fmt", "e4m3", name, err);
    if (st || !q) return st;
    if (strcmp(method, "fp8") != 0)
        return err_set(err, ST_UNSUPPORTED,
                       "%s: quantization_config.quant_method: found %.32s, only fp8 is supported",
                       name, method);
    if (strcmp(fmt, "e4m3") != 0)
        return err_set(err, ST_UNSUPPORTED,
                       "%s: quantization_config.fmt: found %.32s, only e4m3 is supported", name,
                       fmt);
    block = json_at(q, "weight_block_size");
    if (!block) return ST_OK;
    char text[64];
    snprintf(text, sizeof text, "%s", json_kind(block));
    if (json_array_size(block) == 2)
        snprintf(text, sizeof text, "[%lld,%lld]",
                 (long long)json_integer_value(json_array_get(block, 0)),
                 (long long)json_integer_value(json_array_get(block, 1)));
    if (strcmp(text, "[128,128]") != 0)
        return err_set(
            err, ST_UNSUPPORTED,
            "%s: quantization_config.weight_block_size: found %s, only [128,128] is supported",
            name, text);
    return ST_OK;
}

/* Refuses what we would silently compute wrongly. */
static enum st check_unsupported(const json_t *json, const char *name, struct err *err) {
    bool bias, mlp_bias;
    const char *act;
    enum st st = json_get_bool(&bias, json, "attention_bias", false, name, err);
    if (!st) st = json_get_bool(&mlp_bias, json, "mlp_bias", false, name, err);
    if (!st) st = json_get_str(&act, json, "hidden_act", "silu", name, err);
    if (st) return st;
    if (bias || mlp_bias)
        return err_set(err, ST_UNSUPPORTED, "%s: %s: true is not supported", name,
                       bias ? "attention_bias" : "mlp_bias");
    if (strcmp(act, "silu") != 0)
        return err_set(err, ST_UNSUPPORTED, "%s: hidden_act: found %.32s, only silu is supported",
                       name, act);
    return ST_OK;
}

static double get_mscale(double factor, double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* YaRN, from "rope_scaling" (published checkpoints) or "rope_parameters" (newer transformers). */
static enum st read_yarn(struct model_config *c, const json_t *r, double *softmax_mscale,
                         const char *name, struct err *err) {
    struct ops_rope_config *o = &c->rotary;
    double mscale, all_dim, attention_factor;
    uint32_t original;
    enum st st = json_get_f64(&o->factor, r, "factor", 1e-3, 1e6, 0, name, err);
    if (!st) st = json_get_f64(&o->beta_fast, r, "beta_fast", 0, 1e6, 32, name, err);
    if (!st) st = json_get_f64(&o->beta_slow, r, "beta_slow", 0, 1e6, 1, name, err);
    if (!st) st = json_get_f64(&mscale, r, "mscale", 0, 1e3, 0, name, err);
    if (!st) st = json_get_f64(&all_dim, r, "mscale_all_dim", 0, 1e3, 0, name, err);
    if (!st) st = json_get_f64(&attention_factor, r, "attention_factor", 0, 1e3, 0, name, err);
    if (!st) st = json_get_bool(&o->truncate, r, "truncate", true, name, err);
    if (!st)
        st = json_get_u32(&original, r, "original_max_position_embeddings", 1, 1u << 24,
                          c->max_positions, name, err);
    if (st) return st;
    if (!(o->theta > 1))
        return err_set(err, ST_INVALID,
                       "%s: rope_theta: found %.15g, expected more than 1 for yarn", name,
                       o->theta);
    if (o->factor <= 0) o->factor = (double)c->max_positions / original;
    if (o->beta_fast == 0) o->beta_fast = 32; /* as `or` has it in transformers */
    if (o->beta_slow == 0) o->beta_slow = 1;
    o->yarn = true;
    o->original_positions = original;
    if (attention_factor == 0)
        attention_factor = mscale != 0 && all_dim != 0
                               ? get_mscale(o->factor, mscale) / get_mscale(o->factor, all_dim)
                               : get_mscale(o->factor, 1);
    o->cos_sin_scale = (float)attention_factor;
    *softmax_mscale = all_dim != 0 ? get_mscale(o->factor, all_dim) : 1;
    return ST_OK;
}

static enum st read_rope(struct model_config *c, const json_t *json, const char *name,
                         struct err *err) {
    const json_t *r, *params;
    const char *type = NULL, *old_type;
    bool interleave;
    double theta, softmax_mscale = 1;
    c->rotary = (struct ops_rope_config){.dim = c->rope, .cos_sin_scale = 1};
    enum st st = get_object(&r, json, "rope_scaling", name, err);
    if (!st) st = get_object(&params, json, "rope_parameters", name, err);
    if (st) return st;
    char place[sizeof err->text], place_of_params[sizeof err->text];
    snprintf(place, sizeof place, "%s: %s", name, r ? "rope_scaling" : "rope_parameters");
    snprintf(place_of_params, sizeof place_of_params, "%s: rope_parameters", name);
    if (!r) r = params;
    st = json_get_f64(&theta, json, "rope_theta", 1, 1e15, 10000, name, err);
    if (!st)
        st = json_get_f64(&c->rotary.theta, params, "rope_theta", 1, 1e15, theta, place_of_params,
                          err);
    if (!st) st = json_get_bool(&interleave, json, "rope_interleave", true, name, err);
    if (!st) st = json_get_str(&old_type, r, "type", "default", place, err);
    if (!st) st = json_get_str(&type, r, "rope_type", old_type, place, err);
    if (st) return st;
    if (r && strcmp(type, "yarn") == 0)
        st = read_yarn(c, r, &softmax_mscale, place, err);
    else if (r && strcmp(type, "default") != 0)
        st = err_set(err, ST_UNSUPPORTED, "%s: type %.32s is not supported (yarn, default are)",
                     place, type);
    c->rope_pairs = interleave ? OPS_ROPE_INTERLEAVED : OPS_ROPE_HALVES;
    c->attn_scale = (float)(pow((double)c->nope + c->rope, -0.5) * softmax_mscale * softmax_mscale);
    return st;
}

/* An explicit null means "none" where a missing key means transformers' default. */
static enum st get_u32_or_null(uint32_t *out, const json_t *json, const char *key, uint32_t if_null,
                               uint32_t if_missing, const char *name, struct err *err) {
    bool null = json_is_null(json_object_get(json, key));
    return json_get_u32(out, json, key, 0, UINT32_MAX, null ? if_null : if_missing, name, err);
}

/* The gate of V3 is always "noaux_tc"; V2 names its own. One group is no group. */
static enum st read_gate(struct model_config *c, enum arch arch, const json_t *json,
                         const char *name, struct err *err) {
    struct ops_gate_config *g = &c->gate;
    const char *method, *score;
    double scale;
    bool v3 = arch == ARCH_V3;
    enum st st =
        json_get_u32(&g->top_k, json, "num_experts_per_tok", 0, UINT32_MAX, v3 ? 8 : 0, name, err);
    if (!st) st = get_u32_or_null(&g->n_groups, json, "n_group", 1, v3 ? 8 : 1, name, err);
    if (!st) st = get_u32_or_null(&g->topk_groups, json, "topk_group", 1, v3 ? 4 : 1, name, err);
    if (!st) st = json_get_bool(&g->normalize, json, "norm_topk_prob", v3, name, err);
    if (!st)
        st =
            json_get_f64(&scale, json, "routed_scaling_factor", -1e6, 1e6, v3 ? 2.5 : 1, name, err);
    if (!st) st = json_get_str(&method, json, "topk_method", v3 ? "noaux_tc" : "greedy", name, err);
    if (!st) st = json_get_str(&score, json, "scoring_func", v3 ? "sigmoid" : "softmax", name, err);
    if (st) return st;
    if (strcmp(score, v3 ? "sigmoid" : "softmax") != 0)
        return err_set(err, ST_UNSUPPORTED, "%s: scoring_func: found %.32s, expected %s", name,
                       score, v3 ? "sigmoid" : "softmax");
    g->n_experts = c->n_experts;
    g->score = v3 ? OPS_GATE_SIGMOID : OPS_GATE_SOFTMAX;
    if (strcmp(method, "noaux_tc") == 0 && v3)
        g->group = OPS_GATE_GROUP_TOP2;
    else if (strcmp(method, "group_limited_greedy") == 0 && !v3)
        g->group = OPS_GATE_GROUP_MAX;
    else if (strcmp(method, "greedy") == 0 && !v3)
        g->group = OPS_GATE_GROUP_NONE;
    else
        return err_set(err, ST_UNSUPPORTED, "%s: topk_method: found %.32s, expected %s", name,
                       method, v3 ? "noaux_tc" : "greedy or group_limited_greedy");
    if (g->n_groups <= 1) g->group = OPS_GATE_GROUP_NONE;
    /* V2's own code (modeling_deepseek.py) scales only what it does not normalise, and never
     * normalises one expert. */
    if (!v3 && g->top_k == 1) g->normalize = false;
    g->weight_scale = !v3 && g->normalize ? 1.0f : (float)scale;
    return ST_OK;
}

static enum st read_token_ids(int64_t *ids, uint32_t *n, const json_t *json, const char *key,
                              const char *name, struct err *err) {
    const json_t *v = json_at(json, key);
    *n = 0;
    size_t len = json_is_array(v) ? json_array_size(v) : v != NULL;
    if (len > CONFIG_EOS_MAX)
        return err_set(err, ST_INVALID, "%s: %s: %zu ids, expected at most %d", name, key, len,
                       CONFIG_EOS_MAX);
    for (size_t i = 0; i < len; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(e))
            return err_set(err, ST_INVALID, "%s: %s: found %s, expected a token id", name, key,
                           json_kind(e));
        if (json_integer_value(e) < 0 || json_integer_value(e) > UINT32_MAX)
            return err_set(err, ST_INVALID, "%s: %s: found %lld, expected a token id", name, key,
                           (long long)json_integer_value(e));
        ids[(*n)++] = json_integer_value(e);
    }
    return ST_OK;
}

enum st config_from_json(struct model_config *c, struct config_facts *facts, const json_t *json,
                         const char *name, struct err *err) {
    enum arch arch = ARCH_V3;
    double eps;
    uint32_t n_bos;
    int64_t bos[CONFIG_EOS_MAX];
    if (!json_is_object(json))
        return err_set(err, ST_INVALID, "%s: found %s, expected an object", name, json_kind(json));
    *c = (struct model_config){0};
    *facts = (struct config_facts){0};
    enum st st = read_architecture(&arch, json, name, err);
    if (!st) st = check_unsupported(json, name, err);
    if (!st) st = check_quantization(json, name, err);
    for (size_t i = 0; i < sizeof u32_rows / sizeof *u32_rows && !st; i++) {
        const struct u32_row *r = &u32_rows[i];
        uint32_t *out = (uint32_t *)(void *)((char *)c + r->offset);
        st = json_get_u32(out, json, r->key, 0, UINT32_MAX, r->fallback[arch], name, err);
    }
    if (!st) st = get_u32_or_null(&c->q_lora, json, "q_lora_rank", 0, 1536, name, err);
    if (!st)
        st = get_u32_or_null(&c->n_shared, json, "n_shared_experts", 0, arch == ARCH_V3 ? 1 : 2,
                             name, err);
    if (!st)
        st = get_u32_or_null(&c->n_experts, json, "n_routed_experts", 0, arch == ARCH_V3 ? 256 : 64,
                             name, err);
    if (!st) st = json_get_bool(&c->tied, json, "tie_word_embeddings", false, name, err);
    if (!st) st = json_get_f64(&eps, json, "rms_norm_eps", 0, 1, 1e-6, name, err);
    if (!st) st = read_rope(c, json, name, err);
    if (!st && c->n_experts > 0) st = read_gate(c, arch, json, name, err);
    if (!st) st = read_token_ids(bos, &n_bos, json, "bos_token_id", name, err);
    if (!st) st = read_token_ids(facts->eos, &facts->n_eos, json, "eos_token_id", name, err);
    if (st) return st;
    c->eps = (float)eps;
    facts->bos = n_bos > 0 ? bos[0] : -1;
    facts->architecture = arch == ARCH_V3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM";
    st = config_check(c, err);
    if (st) err_prefix(err, "%s: ", name);
    return st;
}

void generation_config_init(struct generation_config *g) {
    *g = (struct generation_config){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

enum st generation_config_from_json(struct generation_config *g, const json_t *json,
                                    const char *name, struct err *err) {
    double t, top_p, min_p, rep, top_k;
    uint32_t max_new;
    bool do_sample;
    if (!json_is_object(json))
        return err_set(err, ST_INVALID, "%s: found %s, expected an object", name, json_kind(json));
    enum st st = json_get_f64(&t, json, "temperature", 0, 100, 1, name, err);
    if (!st) st = json_get_f64(&top_p, json, "top_p", 0, 1, 1, name, err);
    if (!st) st = json_get_f64(&min_p, json, "min_p", 0, 1, 0, name, err);
    if (!st) st = json_get_f64(&rep, json, "repetition_penalty", 1e-3, 100, 1, name, err);
    if (!st) st = json_get_f64(&top_k, json, "top_k", -1, UINT32_MAX, 0, name, err);
    if (!st) st = json_get_bool(&do_sample, json, "do_sample", true, name, err);
    if (!st) st = json_get_u32(&max_new, json, "max_new_tokens", 0, UINT32_MAX, 0, name, err);
    if (!st) st = read_token_ids(g->eos, &g->n_eos, json, "eos_token_id", name, err);
    if (st) return st;
    g->temperature = do_sample ? (float)t : 0;  /* transformers: greedy */
    g->top_k = top_k > 0 ? (uint32_t)top_k : 0; /* vLLM writes -1 for all */
    g->max_new_tokens = max_new;
    g->top_p = (float)top_p;
    g->min_p = (float)min_p;
    g->repetition_penalty = (float)rep;
    return ST_OK;
}

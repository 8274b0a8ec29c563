/* SPDX-License-Identifier: Apache-2.0 */
/* What a config.json may say and may not: each row is a patch of one good V3 configuration (a key
 * with null is removed) and either the sentence that refuses it or the field it must change.
 * Numbers are hostile: negative, fractional, 2^31, 1e300. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/config_json.h"

static const char base[] = "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"vocab_size\":96,"
                           "\"hidden_size\":16,\"num_hidden_layers\":2,"
                           "\"num_attention_heads\":2,\"q_lora_rank\":8,\"kv_lora_rank\":8,\"qk_"
                           "nope_head_dim\":8,\"qk_rope_head_dim\":4,\"v_head_dim\":8,"
                           "\"intermediate_size\":24,\"first_k_dense_replace\":1,\"n_routed_"
                           "experts\":8,\"n_shared_experts\":1,\"moe_intermediate_size\":8,"
                           "\"num_experts_per_tok\":2,\"n_group\":4,\"topk_group\":2,\"max_"
                           "position_embeddings\":512,\"num_nextn_predict_layers\":1}";

static enum st read_patched(struct model_config *c, struct config_facts *facts, const char *patch,
                            struct err *err) {
    json_t *json, *over;
    const char *key;
    json_t *value;
    assert_int_equal(json_parse(&json, base, sizeof base - 1, "base", err), ST_OK);
    assert_int_equal(json_parse(&over, patch, strlen(patch), "patch", err), ST_OK);
    json_object_foreach(over, key, value) {
        if (json_is_null(value))
            json_object_del(json, key);
        else
            json_object_set(json, key, value);
    }
    enum st st = config_from_json(c, facts, json, "config.json", err);
    json_decref(json);
    json_decref(over);
    return st;
}

static const struct refusal {
    const char *patch;
    enum st st;
    const char *sentence;
} refusals[] = {
    {"{\"architectures\":[\"LlamaForCausalLM\"]}", ST_UNSUPPORTED,
     "config.json: architecture LlamaForCausalLM is not supported (DeepseekV3ForCausalLM, "
     "DeepseekV2ForCausalLM are)"},
    {"{\"architectures\":[\"DeepseekV32ForCausalLM\"]}", ST_UNSUPPORTED,
     "config.json: architecture DeepseekV32ForCausalLM is not supported (DeepseekV3ForCausalLM, "
     "DeepseekV2ForCausalLM are)"},
    {"{\"architectures\":null}", ST_INVALID,
     "config.json: architectures: found nothing, expected a list of one name"},
    {"{\"architectures\":\"DeepseekV3ForCausalLM\"}", ST_INVALID,
     "config.json: architectures: found a string, expected a list of one name"},
    {"{\"architectures\":[]}", ST_INVALID,
     "config.json: architectures: found a list of nothing, expected a list of one name"},
    {"{\"architectures\":[3]}", ST_INVALID,
     "config.json: architectures: found a list of an integer, expected a list of one name"},

    {"{\"hidden_act\":\"gelu\"}", ST_UNSUPPORTED,
     "config.json: hidden_act: found gelu, only silu is supported"},
    {"{\"hidden_act\":7}", ST_INVALID,
     "config.json: hidden_act: found an integer, expected a string"},
    {"{\"attention_bias\":true}", ST_UNSUPPORTED,
     "config.json: attention_bias: true is not supported"},
    {"{\"mlp_bias\":true}", ST_UNSUPPORTED, "config.json: mlp_bias: true is not supported"},
    {"{\"attention_bias\":1}", ST_INVALID,
     "config.json: attention_bias: found an integer, expected true or false"},
    {"{\"tie_word_embeddings\":\"yes\"}", ST_INVALID,
     "config.json: tie_word_embeddings: found a string, expected true or false"},

    {"{\"quantization_config\":\"fp8\"}", ST_INVALID,
     "config.json: quantization_config: found a string, expected an object"},
    {"{\"quantization_config\":{}}", ST_UNSUPPORTED,
     "config.json: quantization_config.quant_method: found nothing, only fp8 is supported"},
    {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}", ST_UNSUPPORTED,
     "config.json: quantization_config.quant_method: found compressed-tensors, only fp8 is "
     "supported"},
    {"{\"quantization_config\":{\"quant_method\":8}}", ST_INVALID,
     "config.json: quantization_config.quant_method: found an integer, expected a string"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}}", ST_UNSUPPORTED,
     "config.json: quantization_config.fmt: found e5m2, only e4m3 is supported"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}}",
     ST_UNSUPPORTED,
     "config.json: quantization_config.weight_block_size: found [64,128], only [128,128] is "
     "supported"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":128}}",
     ST_UNSUPPORTED,
     "config.json: quantization_config.weight_block_size: found an integer, only [128,128] is "
     "supported"},

    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", ST_UNSUPPORTED,
     "config.json: rope_scaling: type linear is not supported (yarn, default are)"},
    {"{\"rope_parameters\":{\"rope_type\":\"llama3\"}}", ST_UNSUPPORTED,
     "config.json: rope_parameters: type llama3 is not supported (yarn, default are)"},
    {"{\"rope_scaling\":[]}", ST_INVALID,
     "config.json: rope_scaling: found an array, expected an object"},
    {"{\"rope_parameters\":\"yarn\"}", ST_INVALID,
     "config.json: rope_parameters: found a string, expected an object"},
    {"{\"rope_scaling\":{\"type\":1}}", ST_INVALID,
     "config.json: rope_scaling: type: found an integer, expected a string"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":\"40\"}}", ST_INVALID,
     "config.json: rope_scaling: factor: found a string, expected a number"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":-40}}", ST_INVALID,
     "config.json: rope_scaling: factor: found -40, expected 0.001 to 1000000"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":1e300}}", ST_INVALID,
     "config.json: rope_scaling: factor: found 1e+300, expected 0.001 to 1000000"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}}",
     ST_INVALID,
     "config.json: rope_scaling: original_max_position_embeddings: found 0, expected 1 to "
     "16777216"},
    {"{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":1e9}}", ST_INVALID,
     "config.json: rope_scaling: mscale: found 1000000000, expected 0 to 1000"},
    {"{\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", ST_INVALID,
     "config.json: rope_scaling: rope_theta: found 1, expected more than 1 for yarn"},
    {"{\"rope_theta\":0}", ST_INVALID, "config.json: rope_theta: found 0, expected 1 to 1e+15"},
    {"{\"rope_theta\":1e300}", ST_INVALID,
     "config.json: rope_theta: found 1e+300, expected 1 to 1e+15"},

    {"{\"vocab_size\":\"96\"}", ST_INVALID,
     "config.json: vocab_size: found a string, expected an integer"},
    {"{\"vocab_size\":[96]}", ST_INVALID,
     "config.json: vocab_size: found an array, expected an integer"},
    {"{\"vocab_size\":true}", ST_INVALID,
     "config.json: vocab_size: found true, expected an integer"},
    {"{\"vocab_size\":96.5}", ST_INVALID,
     "config.json: vocab_size: found a real number, expected an integer"},
    {"{\"vocab_size\":0}", ST_INVALID, "config.json: vocab_size: 0, expected 1 to 4194304"},
    {"{\"vocab_size\":2147483648}", ST_INVALID,
     "config.json: vocab_size: 2147483648, expected 1 to 4194304"},
    {"{\"hidden_size\":-16}", ST_INVALID,
     "config.json: hidden_size: found -16, expected 0 to 4294967295"},
    {"{\"hidden_size\":1e300}", ST_INVALID,
     "config.json: hidden_size: found 1e+300, expected 0 to 4294967295"},
    {"{\"hidden_size\":4294967296}", ST_INVALID,
     "config.json: hidden_size: found 4294967296, expected 0 to 4294967295"},
    {"{\"hidden_size\":65537}", ST_INVALID, "config.json: hidden_size: 65537, expected 1 to 65536"},
    {"{\"num_hidden_layers\":1000000000}", ST_INVALID,
     "config.json: num_hidden_layers: 1000000000, expected 1 to 1024"},
    {"{\"num_hidden_layers\":0}", ST_INVALID,
     "config.json: num_hidden_layers: 0, expected 1 to 1024"},
    {"{\"num_attention_heads\":1025}", ST_INVALID,
     "config.json: num_attention_heads: 1025, expected 1 to 1024"},
    {"{\"q_lora_rank\":-1}", ST_INVALID,
     "config.json: q_lora_rank: found -1, expected 0 to 4294967295"},
    {"{\"kv_lora_rank\":0}", ST_INVALID, "config.json: kv_lora_rank: 0, expected 1 to 8192"},
    {"{\"qk_nope_head_dim\":0}", ST_INVALID,
     "config.json: qk_nope_head_dim: 0, expected 1 to 4096"},
    {"{\"qk_rope_head_dim\":5}", ST_INVALID,
     "config.json: qk_rope_head_dim: 5, expected an even number"},
    {"{\"v_head_dim\":2147483648}", ST_INVALID,
     "config.json: v_head_dim: 2147483648, expected 1 to 4096"},
    {"{\"intermediate_size\":0}", ST_INVALID,
     "config.json: intermediate_size: 0, expected 1 to 262144"},
    {"{\"moe_layer_freq\":0}", ST_INVALID, "config.json: moe_layer_freq: 0, expected 1 to 1024"},
    {"{\"moe_layer_freq\":[0,1]}", ST_INVALID,
     "config.json: moe_layer_freq: found an array, expected an integer"},
    {"{\"max_position_embeddings\":0}", ST_INVALID,
     "config.json: max_position_embeddings: 0, expected 1 to 16777216"},
    {"{\"num_nextn_predict_layers\":2}", ST_INVALID,
     "config.json: num_nextn_predict_layers: 2, expected 0 to 1"},
    {"{\"rms_norm_eps\":0}", ST_INVALID,
     "config.json: rms_norm_eps: 0, expected a positive number"},
    {"{\"rms_norm_eps\":-1e-6}", ST_INVALID,
     "config.json: rms_norm_eps: found -1e-06, expected 0 to 1"},
    {"{\"rms_norm_eps\":1e-300}", ST_INVALID,
     "config.json: rms_norm_eps: 0, expected a positive number"},

    {"{\"n_routed_experts\":8192}", ST_INVALID,
     "config.json: n_routed_experts: 8192, expected 0 to 4096"},
    {"{\"n_shared_experts\":2147483648}", ST_INVALID,
     "config.json: n_shared_experts: 2147483648, expected 0 to 64"},
    {"{\"moe_intermediate_size\":0}", ST_INVALID,
     "config.json: moe_intermediate_size: 0, expected 1 to 65536"},
    {"{\"num_experts_per_tok\":0}", ST_INVALID,
     "config.json: num_experts_per_tok: 0, expected 1 to 64 and at most n_routed_experts 8"},
    {"{\"num_experts_per_tok\":9}", ST_INVALID,
     "config.json: num_experts_per_tok: 9, expected 1 to 64 and at most n_routed_experts 8"},
    {"{\"num_experts_per_tok\":5}", ST_INVALID,
     "config.json: num_experts_per_tok: 5, but topk_group 2 groups hold 4 experts"},
    {"{\"n_group\":3}", ST_INVALID,
     "config.json: n_group: 3, expected a divisor of n_routed_experts 8"},
    {"{\"n_group\":8}", ST_INVALID,
     "config.json: n_group: 8 groups of 1 expert, expected 2 experts or more in each"},
    {"{\"topk_group\":5}", ST_INVALID, "config.json: topk_group: 5, expected 1 to n_group 4"},
    {"{\"topk_group\":0}", ST_INVALID, "config.json: topk_group: 0, expected 1 to n_group 4"},
    {"{\"topk_method\":\"greedy\"}", ST_UNSUPPORTED,
     "config.json: topk_method: found greedy, expected noaux_tc"},
    {"{\"scoring_func\":\"softmax\"}", ST_UNSUPPORTED,
     "config.json: scoring_func: found softmax, expected sigmoid"},
    {"{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"topk_method\":\"noaux_tc\"}", ST_UNSUPPORTED,
     "config.json: topk_method: found noaux_tc, expected greedy or group_limited_greedy"},
    {"{\"norm_topk_prob\":\"true\"}", ST_INVALID,
     "config.json: norm_topk_prob: found a string, expected true or false"},
    {"{\"routed_scaling_factor\":1e300}", ST_INVALID,
     "config.json: routed_scaling_factor: found 1e+300, expected -1000000 to 1000000"},
    {"{\"eos_token_id\":\"</s>\"}", ST_INVALID,
     "config.json: eos_token_id: found a string, expected a token id"},
    {"{\"eos_token_id\":-1}", ST_INVALID,
     "config.json: eos_token_id: found -1, expected a token id"},
    {"{\"eos_token_id\":[1,4294967296]}", ST_INVALID,
     "config.json: eos_token_id: found 4294967296, expected a token id"},
    {"{\"eos_token_id\":[1,[2]]}", ST_INVALID,
     "config.json: eos_token_id: found an array, expected a token id"},
    {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", ST_INVALID,
     "config.json: eos_token_id: 17 ids, expected at most 16"},
    {"{\"bos_token_id\":1.5}", ST_INVALID,
     "config.json: bos_token_id: found a real number, expected a token id"},
};

static void faults_are_named(void **state) {
    (void)state;
    int bad = 0;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct model_config c;
        struct config_facts facts;
        struct err err = {.text = "accepted"};
        enum st st = read_patched(&c, &facts, r->patch, &err);
        bool same = strcmp(err.text, r->sentence) == 0 && st == r->st && err.code == r->st;
        if (!same)
            print_message("%s\n  gave     %d %s\n  expected %d %s\n", r->patch, st, err.text, r->st,
                          r->sentence);
        bad += !same;
    }
    assert_int_equal(bad, 0);
}

static void what_is_no_object_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"[]", "7", "\"x\"", "null"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *json;
        struct model_config c;
        struct config_facts facts;
        struct generation_config g;
        struct err err;
        assert_int_equal(json_parse(&json, texts[i], strlen(texts[i]), "t", &err), ST_OK);
        assert_int_equal(config_from_json(&c, &facts, json, "config.json", &err), ST_INVALID);
        assert_non_null(strstr(err.text, ", expected an object"));
        assert_int_equal(generation_config_from_json(&g, json, "g.json", &err), ST_INVALID);
        json_decref(json);
    }
    /* What Python writes for numbers that JSON does not have. */
    static const char *const numbers[] = {"{\"rope_theta\":NaN}", "{\"rope_theta\":Infinity}",
                                          "{\"rope_theta\":1e400}", "{\"a\":1,\"a\":1}"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        json_t *json;
        struct err err;
        assert_int_equal(json_parse(&json, numbers[i], strlen(numbers[i]), "config.json", &err),
                         ST_INVALID);
        assert_non_null(strstr(err.text, "config.json: line 1 column"));
    }
}

static struct model_config good(const char *patch) {
    struct model_config c;
    struct config_facts facts;
    struct err err = {.text = ""};
    if (read_patched(&c, &facts, patch, &err)) print_message("%s: %s\n", patch, err.text);
    assert_string_equal(err.text, "");
    return c;
}

static void published_spellings_are_read(void **state) {
    (void)state;
    struct model_config c = good("{}");
    assert_int_equal(c.n_mtp, 1);
    assert_int_equal(c.gate.group, OPS_GATE_GROUP_TOP2);
    assert_int_equal(c.moe_freq, 1);
    assert_false(c.tied);
    assert_true(c.gate.weight_scale == 2.5f);
    assert_true(fabs(c.attn_scale - 1 / sqrt(12)) < 1e-7);

    c = good("{\"hidden_size\":16.0,\"n_group\":1,\"topk_group\":1}");
    assert_int_equal(c.hidden, 16);
    assert_int_equal(c.gate.group, OPS_GATE_GROUP_NONE);

    c = good("{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_"
             "size\":[128,128],\"activation_scheme\":\"dynamic\"}}");

    /* R1's own: 0.1 ln 40 + 1 = 1.36889, squared into the softmax scale. */
    c = good("{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,\"beta_slow\":1,"
             "\"mscale\":1.0,\"mscale_all_dim\":1.0,"
             "\"original_max_position_embeddings\":4096}}");
    assert_true(c.rotary.yarn);
    assert_true(c.rotary.cos_sin_scale == 1.0f);
    assert_true(fabs(c.attn_scale - 1.8738527 / sqrt(12)) < 1e-6);

    c = good("{\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":50000.0}}");
    assert_false(c.rotary.yarn);
    assert_true(c.rotary.theta == 50000);

    c = good("{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"topk_method\":\"group_limited_"
             "greedy\",\"routed_scaling_factor\":16}");
    assert_int_equal(c.gate.group, OPS_GATE_GROUP_MAX);
    assert_int_equal(c.gate.score, OPS_GATE_SOFTMAX);
    assert_true(c.gate.weight_scale == 16);
}

/* null is "none" for these three, a missing key the default of transformers. */
static void null_is_none(void **state) {
    (void)state;
    struct err err;
    struct config_facts facts;
    struct model_config c;
    json_t *json;
    assert_int_equal(json_parse(&json, base, sizeof base - 1, "base", &err), ST_OK);
    json_object_set_new(json, "q_lora_rank", json_null());
    json_object_set_new(json, "n_shared_experts", json_null());
    json_object_set_new(json, "eos_token_id", json_pack("[i,i]", 1, 7));
    assert_int_equal(config_from_json(&c, &facts, json, "config.json", &err), ST_OK);
    assert_int_equal(c.q_lora, 0);
    assert_int_equal(c.n_shared, 0);
    assert_int_equal(facts.n_eos, 2);
    assert_int_equal(facts.eos[1], 7);
    assert_int_equal(facts.bos, -1);
    json_object_set_new(json, "n_routed_experts", json_null());
    assert_int_equal(config_from_json(&c, &facts, json, "config.json", &err), ST_OK);
    assert_int_equal(c.n_experts, 0);
    assert_false(config_layer_is_moe(&c, 1));
    json_decref(json);
}

static const struct refusal generation[] = {
    {"{\"temperature\":\"hot\"}", ST_INVALID,
     "g.json: temperature: found a string, expected a number"},
    {"{\"temperature\":-1}", ST_INVALID, "g.json: temperature: found -1, expected 0 to 100"},
    {"{\"temperature\":1e300}", ST_INVALID, "g.json: temperature: found 1e+300, expected 0 to 100"},
    {"{\"top_p\":1.5}", ST_INVALID, "g.json: top_p: found 1.5, expected 0 to 1"},
    {"{\"min_p\":-0.5}", ST_INVALID, "g.json: min_p: found -0.5, expected 0 to 1"},
    {"{\"top_k\":-5}", ST_INVALID, "g.json: top_k: found -5, expected -1 to 4294967295"},
    {"{\"top_k\":[2]}", ST_INVALID, "g.json: top_k: found an array, expected a number"},
    {"{\"do_sample\":0}", ST_INVALID,
     "g.json: do_sample: found an integer, expected true or false"},
    {"{\"repetition_penalty\":0}", ST_INVALID,
     "g.json: repetition_penalty: found 0, expected 0.001 to 100"},
    {"{\"eos_token_id\":{}}", ST_INVALID,
     "g.json: eos_token_id: found an object, expected a token id"},
    {"{\"eos_token_id\":[1,null]}", ST_INVALID,
     "g.json: eos_token_id: found null, expected a token id"},
};

static void generation_configs_are_read_or_refused(void **state) {
    (void)state;
    struct generation_config g;
    struct err err;
    json_t *json;
    int bad = 0;
    for (size_t i = 0; i < sizeof generation / sizeof *generation; i++) {
        const struct refusal *r = &generation[i];
        assert_int_equal(json_parse(&json, r->patch, strlen(r->patch), "t", &err), ST_OK);
        enum st st = generation_config_from_json(&g, json, "g.json", &err);
        bool same = st == r->st && strcmp(err.text, r->sentence) == 0;
        if (!same)
            print_message("%s\n  gave     %d %s\n  expected %d %s\n", r->patch, st, err.text, r->st,
                          r->sentence);
        bad += !same;
        json_decref(json);
    }
    assert_int_equal(bad, 0);
    /* DeepSeek-V3's own, and one that says nothing. */
    static const char v3[] = "{\"_from_model_config\":true,\"bos_token_id\":0,\"eos_token_id\":1,"
                             "\"do_sample\":true,\"temperature\":0.6,"
                             "\"top_p\":0.95,\"top_k\":null,\"transformers_version\":\"4.39.3\"}";
    assert_int_equal(json_parse(&json, v3, sizeof v3 - 1, "t", &err), ST_OK);
    assert_int_equal(generation_config_from_json(&g, json, "g.json", &err), ST_OK);
    assert_true(g.temperature == 0.6f && g.top_p == 0.95f && g.min_p == 0 &&
                g.repetition_penalty == 1);
    assert_int_equal(g.top_k, 0);
    assert_int_equal(g.n_eos, 1);
    json_decref(json);
    static const char all[] = "{\"do_sample\":false,\"temperature\":0.6,\"top_k\":-1,\"max_"
                              "length\":1000000000000000000000000000000}";
    assert_int_equal(json_parse(&json, all, sizeof all - 1, "t", &err), ST_OK);
    assert_int_equal(generation_config_from_json(&g, json, "g.json", &err), ST_OK);
    assert_true(g.temperature == 0 && g.top_k == 0);
    json_decref(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(published_spellings_are_read),
        cmocka_unit_test(null_is_none),
        cmocka_unit_test(generation_configs_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Whole folders: what ckpt_open refuses, and in which words. Each row makes a good checkpoint and
 * spoils one thing. */
#include "ckpt_test.h"

#include "model/model.h"

/* --- tensors ---------------------------------------------------------------------------------- */

static void reshape(struct checkpoint *k, const char *name, uint32_t n_dims, uint64_t d0,
                    uint64_t d1) {
    struct tensor *t = checkpoint_find(k, name);
    t->n_dims = n_dims;
    t->dims[0] = d0;
    t->dims[1] = d1;
    tensor_fill(t);
}
static void retype(struct checkpoint *k, const char *name, const char *dtype) {
    struct tensor *t = checkpoint_find(k, name);
    t->dtype = dtype;
    tensor_fill(t);
}

static void drop_router(struct checkpoint *k) {
    checkpoint_drop(k, "model.layers.1.mlp.gate.weight");
}
static void drop_bias(struct checkpoint *k) {
    checkpoint_drop(k, "model.layers.1.mlp.gate.e_score_correction_bias");
}
static void drop_many(struct checkpoint *k) {
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    for (int e = 3; e < 8; e++)
        for (int p = 0; p < 3; p++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.%s.weight", e, parts[p]);
            checkpoint_drop(k, name);
        }
}
static void drop_mtp_norm(struct checkpoint *k) {
    checkpoint_drop(k, "model.layers.2.shared_head.norm.weight");
}
static void drop_mtp_proj(struct checkpoint *k) {
    checkpoint_drop(k, "model.layers.2.eh_proj.weight");
}
static void drop_embed(struct checkpoint *k) {
    checkpoint_drop(k, "model.embed_tokens.weight");
}
static void drop_head(struct checkpoint *k) {
    checkpoint_drop(k, "lm_head.weight");
}
static void fewer_experts(struct checkpoint *k) {
    reshape(k, "model.layers.1.mlp.gate.weight", 2, 4, 18);
}
static void transposed(struct checkpoint *k) {
    reshape(k, "model.layers.0.self_attn.kv_b_proj.weight", 2, 9, 36);
}
static void flat_matrix(struct checkpoint *k) {
    reshape(k, "model.layers.0.self_attn.o_proj.weight", 1, 18 * 15, 0);
}
static void long_norm(struct checkpoint *k) {
    reshape(k, "model.norm.weight", 1, 19, 0);
}
static void column_norm(struct checkpoint *k) {
    reshape(k, "model.norm.weight", 2, 18, 1);
}
static void scalar_norm(struct checkpoint *k) {
    reshape(k, "model.norm.weight", 0, 0, 0);
}
static void empty_matrix(struct checkpoint *k) {
    reshape(k, "lm_head.weight", 2, 0, 18);
}
static void mtp_width(struct checkpoint *k) {
    reshape(k, "model.layers.2.eh_proj.weight", 2, 18, 18);
}
static void integers(struct checkpoint *k) {
    retype(k, "model.layers.0.mlp.up_proj.weight", "I64");
}
static void e5m2(struct checkpoint *k) {
    retype(k, "model.layers.0.mlp.up_proj.weight", "F8_E5M2");
}
static void f8_alone(struct checkpoint *k) {
    retype(k, "model.layers.0.mlp.up_proj.weight", "F8_E4M3");
}
static void no_scale(struct checkpoint *k) {
    checkpoint_drop(k, "model.layers.1.mlp.experts.7.down_proj.weight_scale_inv");
}
static void wide_scale(struct checkpoint *k) {
    reshape(k, "lm_head.weight_scale_inv", 2, 1, 2);
}
static void flat_scale(struct checkpoint *k) {
    reshape(k, "lm_head.weight_scale_inv", 1, 1, 0);
}
static void f8_scale(struct checkpoint *k) {
    retype(k, "lm_head.weight_scale_inv", "F8_E4M3");
}
static void integer_scale(struct checkpoint *k) {
    retype(k, "lm_head.weight_scale_inv", "I32");
}
static void e8m0_scale(struct checkpoint *k) {
    retype(k, "lm_head.weight_scale_inv", "F8_E8M0");
}

static const struct refusal {
    const char *patch, *dtype;
    void (*spoil)(struct checkpoint *k);
    enum st st;
    const char *sentence;
} refusals[] = {
    {"{}", "BF16", drop_router, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.1.mlp.gate.weight: missing, expected [8,18] "
     "(n_routed_experts, hidden_size)"},
    {"{}", "BF16", drop_bias, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.1.mlp.gate.e_score_correction_bias: missing, "
     "expected [8] (n_routed_experts)"},
    {"{}", "BF16", drop_many, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.1.mlp.experts.3.gate_proj.weight: missing, expected "
     "[6,18] (moe_intermediate_size, hidden_size)"},
    {"{}", "BF16", drop_mtp_norm, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.2.shared_head.norm.weight: missing, expected [18] "
     "(hidden_size)"},
    {"{}", "BF16", drop_mtp_proj, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.2.eh_proj.weight: missing, expected [18,36] "
     "(hidden_size, 2 hidden_size)"},
    {"{}", "BF16", drop_embed, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.embed_tokens.weight: missing, expected [40,18] "
     "(vocab_size, hidden_size)"},
    {"{}", "F32", drop_head, ST_NOT_FOUND,
     "D/model.safetensors: tensor lm_head.weight: missing, expected [40,18] (vocab_size, "
     "hidden_size)"},
    {"{}", "BF16", fewer_experts, ST_INVALID,
     "D/model.safetensors: tensor model.layers.1.mlp.gate.weight: shape [4,18], expected [8,18] "
     "(n_routed_experts, hidden_size)"},
    {"{}", "BF16", transposed, ST_INVALID,
     "D/model.safetensors: tensor model.layers.0.self_attn.kv_b_proj.weight: shape [9,36], "
     "expected [36,9] (num_attention_heads "
     "(qk_nope_head_dim + v_head_dim), kv_lora_rank)"},
    {"{}", "BF16", flat_matrix, ST_INVALID,
     "D/model.safetensors: tensor model.layers.0.self_attn.o_proj.weight: shape [270], expected "
     "[18,15] (hidden_size, "
     "num_attention_heads v_head_dim)"},
    {"{}", "BF16", long_norm, ST_INVALID,
     "D/model.safetensors: tensor model.norm.weight: shape [19], expected [18] (hidden_size)"},
    {"{}", "BF16", column_norm, ST_INVALID,
     "D/model.safetensors: tensor model.norm.weight: shape [18,1], expected [18] (hidden_size)"},
    {"{}", "BF16", scalar_norm, ST_INVALID,
     "D/model.safetensors: tensor model.norm.weight: shape [], expected [18] (hidden_size)"},
    {"{}", "BF16", empty_matrix, ST_INVALID,
     "D/model.safetensors: tensor lm_head.weight: shape [0,18], expected [40,18] (vocab_size, "
     "hidden_size)"},
    {"{}", "BF16", mtp_width, ST_INVALID,
     "D/model.safetensors: tensor model.layers.2.eh_proj.weight: shape [18,18], expected [18,36] "
     "(hidden_size, 2 hidden_size)"},
    {"{}", "F16", integers, ST_UNSUPPORTED,
     "D/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: dtype I64 is not supported "
     "(F32, BF16, F16, F8_E4M3 are)"},
    {"{}", "F16", e5m2, ST_UNSUPPORTED,
     "D/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: dtype F8_E5M2 is not "
     "supported (F32, BF16, F16, F8_E4M3 are)"},
    {"{}", "F16", f8_alone, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: dtype F8_E4M3, but "
     "model.layers.0.mlp.up_proj.weight_scale_inv "
     "is missing"},
    {"{}", "F8_E4M3", no_scale, ST_NOT_FOUND,
     "D/model.safetensors: tensor model.layers.1.mlp.experts.7.down_proj.weight: dtype F8_E4M3, "
     "but "
     "model.layers.1.mlp.experts.7.down_proj.weight_scale_inv is missing"},
    {"{}", "F8_E4M3", wide_scale, ST_INVALID,
     "D/model.safetensors: tensor lm_head.weight_scale_inv: shape [1,2], expected [1,1] (one scale "
     "for 128 x 128 weights)"},
    {"{}", "F8_E4M3", flat_scale, ST_INVALID,
     "D/model.safetensors: tensor lm_head.weight_scale_inv: shape [1], expected [1,1] (one scale "
     "for 128 x 128 weights)"},
    {"{}", "F8_E4M3", f8_scale, ST_UNSUPPORTED,
     "D/model.safetensors: tensor lm_head.weight_scale_inv: dtype F8_E4M3, expected F32, BF16 or "
     "F16"},
    {"{}", "F8_E4M3", integer_scale, ST_UNSUPPORTED,
     "D/model.safetensors: tensor lm_head.weight_scale_inv: dtype I32, expected F32, BF16 or F16"},
    {"{}", "F8_E4M3", e8m0_scale, ST_UNSUPPORTED,
     "D/model.safetensors: tensor lm_head.weight_scale_inv: dtype F8_E8M0, expected F32, BF16 or "
     "F16"},
};

static void faults_of_tensors_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct checkpoint k;
        checkpoint_make(&k, r->patch, r->dtype);
        r->spoil(&k);
        checkpoint_write(&k);
        refuse(&k, r->st, r->sentence);
        checkpoint_remove(&k);
    }
}

/* A configuration that asks for more than there is: refused by name, whatever it would take to hold
 * the model. */
static void a_large_configuration_is_refused_by_its_first_tensor(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int value;
        const char *sentence;
    } rows[] = {
        {"num_hidden_layers", 1000000000,
         "D/config.json: num_hidden_layers: 1000000000, expected 1 to 1024"},
        {"num_hidden_layers", 1024,
         "D/model.safetensors: tensor model.layers.2.self_attn.q_a_proj.weight: missing, expected "
         "[10,18] (q_lora_rank, hidden_size)"},
        {"n_routed_experts", 4096,
         "D/model.safetensors: tensor model.layers.1.mlp.gate.weight: shape [8,18], expected "
         "[4096,18] (n_routed_experts, hidden_size)"},
        {"hidden_size", 65536,
         "D/model.safetensors: tensor model.embed_tokens.weight: shape [40,18], expected "
         "[40,65536] (vocab_size, hidden_size)"},
        {"vocab_size", 4194304,
         "D/model.safetensors: tensor model.embed_tokens.weight: shape [40,18], expected "
         "[4194304,18] (vocab_size, hidden_size)"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct checkpoint k;
        checkpoint_make(&k, i == 1 ? "{\"num_nextn_predict_layers\":null}" : "{}", "BF16");
        if (i == 1) checkpoint_add(&k, "model.layers.2.input_layernorm.weight", "F32", 1, 18, 0);
        json_object_set_new(k.config, rows[i].key, json_integer(rows[i].value));
        checkpoint_write(&k);
        refuse(&k, i != 1 ? ST_INVALID : ST_NOT_FOUND, rows[i].sentence);
        checkpoint_remove(&k);
    }
}

/* --- the index -------------------------------------------------------------------------------- */

static void faults_of_the_index_are_named(void **state) {
    (void)state;
    static const struct {
        const char *index;
        enum st st;
        const char *sentence;
    } rows[] = {
        {"{", ST_INVALID,
         "D/model.safetensors.index.json: line 1 column 1: string or '}' expected near end of "
         "file"},
        {"[]", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: found nothing, expected an object"},
        {"{\"weight_map\":[]}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: found an array, expected an object"},
        {"{\"weight_map\":{}}", ST_NOT_FOUND,
         "D/model.safetensors.index.json: tensor model.embed_tokens.weight: missing, expected "
         "[40,18] (vocab_size, hidden_size)"},
        {"{\"weight_map\":{\"t\":7}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found an integer, expected a file name"},
        {"{\"weight_map\":{\"t\":\"../x\"}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found ../x, expected a file name"},
        {"{\"weight_map\":{\"t\":\"/etc/passwd\"}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found /etc/passwd, expected a file name"},
        {"{\"weight_map\":{\"t\":\"a/model.safetensors\"}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found a/model.safetensors, expected a "
         "file name"},
        {"{\"weight_map\":{\"t\":\"..\"}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found .., expected a file name"},
        {"{\"weight_map\":{\"t\":\"\"}}", ST_INVALID,
         "D/model.safetensors.index.json: weight_map: t: found , expected a file name"},
        {"{\"weight_map\":{\"t\":\"none.safetensors\"}}", ST_NOT_FOUND,
         "D/none.safetensors: cannot open: No such file or directory"},
        {"{\"weight_map\":{\"t\":\"config.json\"}}", ST_CORRUPT, NULL},
        {"{\"weight_map\":{\"t\":\"model.safetensors\"}}", ST_CORRUPT,
         "D/model.safetensors.index.json: tensor t: not in model.safetensors, where the index has "
         "it"},
        {"{\"weight_map\":{\"lm_head.weight\":\"other.safetensors\"}}", ST_CORRUPT,
         "D/model.safetensors.index.json: tensor lm_head.weight: not in other.safetensors, where "
         "the index has it"},
        {"{\"weight_map\":{\"lm_head.weight\":\"model.safetensors\"}}", ST_NOT_FOUND,
         "D/model.safetensors.index.json: tensor model.embed_tokens.weight: missing, expected "
         "[40,18] (vocab_size, hidden_size)"},
    };
    struct checkpoint k;
    checkpoint_make(&k, "{}", "BF16");
    checkpoint_write(&k);
    checkpoint_put(&k, "other.safetensors", "\x02\0\0\0\0\0\0\0{}", 10);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        checkpoint_put_text(&k, "model.safetensors.index.json", rows[i].index);
        if (rows[i].sentence) {
            refuse(&k, rows[i].st, rows[i].sentence);
            continue;
        }
        struct ckpt *c;
        struct err err;
        assert_int_equal(ckpt_open(&c, k.dir, &err), rows[i].st);
        assert_non_null(strstr(err.text, "/config.json: header length: found "));
    }
    checkpoint_remove(&k);
}

static void shards_may_hold_anything_in_any_order(void **state) {
    (void)state;
    struct checkpoint k;
    checkpoint_make(&k, "{}", "F8_E4M3");
    for (size_t i = 0; i < k.len; i++)
        snprintf(k.v[i].shard, sizeof k.v[i].shard, "model-%zu.safetensors", (i * 7 + i / 3) % 4);
    checkpoint_write(&k);
    struct ckpt *c = open_good(&k);
    struct ckpt_stats stats;
    ckpt_stats(c, &stats);
    assert_int_equal(stats.n_shards, 4);
    assert_string_equal(stats.dtype, "F8_E4M3");
    /* Each tensor is the one that was written, scales too. */
    struct weight_source source = ckpt_source(c);
    for (uint32_t e = 0; e < 8; e++) {
        struct weight_key key = {.kind = W_EXPERT_DOWN, .layer = 1, .expert = e};
        struct ops_weight w;
        struct err err;
        char name[WEIGHT_NAME_BYTES + 16];
        assert_int_equal(source.get(source.self, key, 0, 18, &w, &err), ST_OK);
        weight_name(name, key);
        const struct tensor *t = checkpoint_find(&k, name);
        assert_memory_equal(w.data, t->data, t->bytes);
        strcat(name, "_scale_inv");
        assert_memory_equal(w.scales, checkpoint_find(&k, name)->data, 4);
        assert_int_equal(source.get(source.self, key, 17, 2, &w, &err), ST_INVALID);
        char text[sizeof err.text];
        if (e == 2)
            assert_string_equal(sentence(text, &err, k.dir),
                                "D: tensor model.layers.1.mlp.experts.2.down_proj.weight: rows 17 "
                                "and 2 more, but it has 18");
    }
    ckpt_close(c);
    checkpoint_remove(&k);
}

static void too_many_shards_are_refused(void **state) {
    (void)state;
    struct checkpoint k;
    struct buf index = {.max = 1 << 20};
    checkpoint_make(&k, "{}", "BF16");
    checkpoint_write(&k);
    enum st st = buf_append_str(&index, "{\"weight_map\":{\"t\":\"x\"");
    for (int i = 0; i < 4096 && !st; i++) st = buf_printf(&index, ",\"t%d\":\"x%d\"", i, i);
    if (!st) st = buf_append_str(&index, "}}");
    assert_int_equal(st, ST_OK);
    checkpoint_put(&k, "model.safetensors.index.json", index.data, index.len);
    refuse(&k, ST_INVALID,
           "D/model.safetensors.index.json: weight_map: found 4097 shards, expected at most 4096");
    buf_release(&index);
    checkpoint_remove(&k);
}

/* --- what must work --------------------------------------------------------------------------- */

static void forms_that_published_checkpoints_have_are_read(void **state) {
    (void)state;
    struct checkpoint k;
    struct ckpt *c;

    /* MTP in the configuration, not in the file. */
    checkpoint_make(&k, "{\"num_nextn_predict_layers\":null}", "BF16");
    json_object_set_new(k.config, "num_nextn_predict_layers", json_integer(1));
    checkpoint_write(&k);
    c = open_good(&k);
    assert_int_equal(ckpt_config(c)->n_mtp, 0);
    ckpt_close(c);
    checkpoint_remove(&k);

    /* MTP without embedding and head of its own; a row vector; BF16 scales; tensors nobody asked
     * for. */
    checkpoint_make(&k, "{}", "F8_E4M3");
    checkpoint_drop(&k, "model.layers.2.embed_tokens.weight");
    checkpoint_drop(&k, "model.layers.2.shared_head.head.weight");
    reshape(&k, "model.norm.weight", 2, 1, 18);
    retype(&k, "lm_head.weight_scale_inv", "BF16");
    checkpoint_add(&k, "model.layers.0.self_attn.rotary_emb.inv_freq", "F64", 1, 2, 0);
    checkpoint_write(&k);
    c = open_good(&k);
    assert_int_equal(ckpt_config(c)->n_mtp, 1);
    ckpt_close(c);
    checkpoint_remove(&k);

    /* Tied, and a head in the file all the same; an index for one shard. */
    checkpoint_make(&k, "{\"tie_word_embeddings\":true}", "F16");
    checkpoint_add(&k, "lm_head.weight", "F16", 2, 3, 3);
    k.index = true;
    checkpoint_write(&k);
    c = open_good(&k);
    struct weight_source source = ckpt_source(c);
    struct ops_weight w;
    struct err err;
    assert_int_equal(source.get(source.self, (struct weight_key){.kind = W_HEAD}, 3, 2, &w, &err),
                     ST_OK);
    const struct tensor *embed = checkpoint_find(&k, "model.embed_tokens.weight");
    assert_memory_equal(w.data, embed->data + 3 * 18 * 2, 2 * 18 * 2);
    assert_int_equal(w.row_base, 3);
    ckpt_close(c);
    checkpoint_remove(&k);
}

/* --- files ------------------------------------------------------------------------------------ */

static void faults_of_files_are_named(void **state) {
    (void)state;
    struct checkpoint k;
    char path[128], big[2 << 20];
    checkpoint_make(&k, "{}", "BF16");
    refuse(&k, ST_NOT_FOUND, "D/config.json: cannot open: No such file or directory");
    checkpoint_write(&k);
    ckpt_close(open_good(&k));

    checkpoint_put_text(&k, "generation_config.json", "{\"temperature\":-1}");
    refuse(&k, ST_INVALID, "D/generation_config.json: temperature: found -1, expected 0 to 100");
    checkpoint_put_text(&k, "generation_config.json",
                        "{\"temperature\":0.25,\"eos_token_id\":[1,5]}");
    struct ckpt *c = open_good(&k);
    assert_true(ckpt_generation(c)->temperature == 0.25f);
    assert_int_equal(ckpt_generation(c)->n_eos, 2);
    ckpt_close(c);

    snprintf(path, sizeof path, "%s/model.safetensors", k.dir);
    unlink(path);
    refuse(&k, ST_NOT_FOUND,
           "D: neither model.safetensors nor model.safetensors.index.json can be found");
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse(&k, ST_INVALID, "D/model.safetensors: not a regular file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    refuse(&k, ST_INVALID, "D/model.safetensors: not a regular file");
    rmdir(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    refuse(&k, ST_INVALID, "D/model.safetensors: not a regular file");
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", k.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    refuse(&k, ST_INVALID, "D/model.safetensors.index.json: not a regular file");
    rmdir(path);

    memset(big, ' ', sizeof big);
    checkpoint_put(&k, "config.json", big, sizeof big);
    refuse(&k, ST_FULL, "D/config.json: larger than 1048576 bytes");
    checkpoint_put_text(&k, "config.json", "");
    refuse(&k, ST_INVALID, "D/config.json: line 1 column 0: unexpected token near end of file");
    snprintf(path, sizeof path, "%s/config.json", k.dir);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse(&k, ST_INVALID, "D/config.json: not a regular file");
    unlink(path);
    checkpoint_remove(&k);
}

static void long_paths_are_refused(void **state) {
    (void)state;
    char *dir = malloc(10000);
    struct ckpt *c;
    struct err err;
    memset(dir, 'x', 9999);
    dir[9999] = '\0';
    assert_int_equal(ckpt_open(&c, dir, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "xxx...: path too long"));
    dir[4000] = '\0';
    assert_int_not_equal(ckpt_open(&c, dir, &err), ST_OK);
    free(dir);
}

/* Cut anywhere a checkpoint is refused with a sentence: bytes one by one over the header, then
 * every 7th. */
static void every_truncation_is_refused(void **state) {
    (void)state;
    struct checkpoint k;
    char path[128];
    checkpoint_make(
        &k,
        "{\"n_routed_experts\":2,\"n_group\":1,\"topk_group\":1,\"num_nextn_predict_layers\":null}",
        "F16");
    checkpoint_write(&k);
    ckpt_close(open_good(&k));
    snprintf(path, sizeof path, "%s/model.safetensors", k.dir);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    for (off_t n = sb.st_size - 1; n >= 0; n -= n > 4000 ? 7 : 1) {
        struct ckpt *c;
        struct err err;
        assert_int_equal(truncate(path, n), 0);
        assert_int_equal(ckpt_open(&c, k.dir, &err), ST_CORRUPT);
        assert_non_null(strstr(err.text, "model.safetensors: "));
    }
    checkpoint_remove(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_of_tensors_are_named),
        cmocka_unit_test(a_large_configuration_is_refused_by_its_first_tensor),
        cmocka_unit_test(faults_of_the_index_are_named),
        cmocka_unit_test(shards_may_hold_anything_in_any_order),
        cmocka_unit_test(too_many_shards_are_refused),
        cmocka_unit_test(forms_that_published_checkpoints_have_are_read),
        cmocka_unit_test(faults_of_files_are_named),
        cmocka_unit_test(long_paths_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A small checkpoint in a folder of its own, for tests: every tensor its configuration asks for,
 * each of which a test may change, drop or move to another shard before it is written. */
#ifndef SUPERNODE_TESTS_MODEL_CKPT_TEST_H
#define SUPERNODE_TESTS_MODEL_CKPT_TEST_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/json.h"
#include "model/ckpt.h"

/* Two layers, the first dense; MTP; every width odd to its neighbour. */
static const char ckpt_test_config[] =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"vocab_size\":40,\"hidden_size\":18,\"num_"
    "hidden_layers\":2,"
    "\"num_attention_heads\":3,\"q_lora_rank\":10,\"kv_lora_rank\":9,\"qk_nope_head_dim\":7,\"qk_"
    "rope_head_dim\":4,\"v_head_dim\":5,"
    "\"intermediate_size\":21,\"first_k_dense_replace\":1,\"n_routed_experts\":8,\"n_shared_"
    "experts\":1,\"moe_intermediate_size\":6,"
    "\"num_experts_per_tok\":2,\"n_group\":4,\"topk_group\":2,\"max_position_embeddings\":512,"
    "\"num_nextn_predict_layers\":1}";

struct tensor {
    char name[WEIGHT_NAME_BYTES + 16], shard[64];
    const char *dtype;
    uint32_t n_dims;
    uint64_t dims[4], bytes;
    uint8_t *data; /* [bytes] */
};

struct checkpoint {
    char dir[64];
    json_t *config;
    bool index; /* write an index even for one shard */
    struct tensor *v;
    size_t len, cap;
};

static inline uint64_t ckpt_test_dtype_bytes(const char *dtype) {
    return strcmp(dtype, "F64") == 0 || strcmp(dtype, "I64") == 0 ? 8
           : strchr(dtype, '3') && dtype[1] == '3'                ? 4
           : dtype[1] == '8'                                      ? 1
                                                                  : 2;
}

/* Small finite values in any of the float types. */
static inline void tensor_fill(struct tensor *t) {
    t->bytes = ckpt_test_dtype_bytes(t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++) t->bytes *= t->dims[i];
    t->data = realloc(t->data, t->bytes ? t->bytes : 1);
    assert_non_null(t->data);
    uint64_t x = 88172645463325252u;
    for (const char *c = t->name; *c; c++) x = x * 1099511628211u + (unsigned char)*c;
    for (uint64_t i = 0; i < t->bytes; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        t->data[i] = (uint8_t)(x & 0xbf); /* the exponent's top bit is clear: below 2 */
    }
}

static inline struct tensor *checkpoint_add(struct checkpoint *k, const char *name,
                                            const char *dtype, uint32_t n_dims, uint64_t d0,
                                            uint64_t d1) {
    if (k->len == k->cap) k->v = realloc(k->v, (k->cap = k->cap * 2 + 64) * sizeof *k->v);
    assert_non_null(k->v);
    struct tensor *t = &k->v[k->len++];
    *t = (struct tensor){.dtype = dtype, .n_dims = n_dims, .dims = {d0, d1}};
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->shard, sizeof t->shard, "model.safetensors");
    tensor_fill(t);
    return t;
}

struct ckpt_test_add {
    struct checkpoint *k;
    const char *dtype;
};

static inline enum st ckpt_test_add_one(void *ctx, struct weight_key key, uint32_t rows,
                                        uint32_t cols, struct err *err) {
    struct ckpt_test_add *add = ctx;
    char name[WEIGHT_NAME_BYTES + 16];
    (void)err;
    weight_name(name, key);
    bool norm = strstr(name, "norm") || strstr(name, "e_score"),
         f8 = !norm && strcmp(add->dtype, "F8_E4M3") == 0;
    checkpoint_add(add->k, name, norm ? "F32" : add->dtype, norm ? 1 : 2, norm ? cols : rows, cols);
    if (f8) {
        strcat(name, "_scale_inv");
        checkpoint_add(add->k, name, "F32", 2, (rows + 127) / 128, (cols + 127) / 128);
    }
    return ST_OK;
}

/* The base configuration with the members of patch put over it (null removes one); matrices in
 * dtype, norms F32. */
static inline void checkpoint_make(struct checkpoint *k, const char *patch, const char *dtype) {
    struct model_config c;
    struct config_facts facts;
    struct err err = {.text = ""};
    json_t *over;
    const char *key;
    json_t *value;
    *k = (struct checkpoint){.dir = "/tmp/supernode-test-XXXXXX"};
    assert_non_null(mkdtemp(k->dir));
    assert_int_equal(
        json_parse(&k->config, ckpt_test_config, sizeof ckpt_test_config - 1, "base", &err), ST_OK);
    assert_int_equal(json_parse(&over, patch, strlen(patch), "patch", &err), ST_OK);
    json_object_foreach(over, key, value) {
        if (json_is_null(value))
            json_object_del(k->config, key);
        else
            json_object_set(k->config, key, value);
    }
    json_decref(over);
    enum st st = config_from_json(&c, &facts, k->config, "config", &err);
    assert_string_equal(err.text, "");
    struct ckpt_test_add add = {.k = k, .dtype = dtype};
    if (!st) st = weight_visit(&c, ckpt_test_add_one, &add, &err);
    assert_int_equal(st, ST_OK);
}

static inline struct tensor *checkpoint_find(struct checkpoint *k, const char *name) {
    for (size_t i = 0; i < k->len; i++)
        if (strcmp(k->v[i].name, name) == 0) return &k->v[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static inline void checkpoint_drop(struct checkpoint *k, const char *name) {
    struct tensor *t = checkpoint_find(k, name);
    free(t->data);
    memmove(t, t + 1, (size_t)(k->v + --k->len - t) * sizeof *t);
}

static inline void checkpoint_put(const struct checkpoint *k, const char *name, const void *data,
                                  size_t len) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", k->dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (len) assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static inline void checkpoint_put_text(const struct checkpoint *k, const char *name,
                                       const char *text) {
    checkpoint_put(k, name, text, strlen(text));
}

static inline void ckpt_test_write_shard(const struct checkpoint *k, const char *shard) {
    struct buf file = {.max = 1 << 30}, header = {.max = 1 << 30};
    uint64_t at = 0;
    enum st st = buf_append_str(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < k->len && !st; i++) {
        const struct tensor *t = &k->v[i];
        if (strcmp(t->shard, shard) != 0) continue;
        st = buf_printf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
        for (uint32_t d = 0; d < t->n_dims && !st; d++)
            st = buf_printf(&header, "%s%llu", d ? "," : "", (unsigned long long)t->dims[d]);
        if (!st)
            st = buf_printf(&header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                            (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    if (!st) st = buf_append_str(&header, "}");
    uint64_t len = header.len;
    if (!st) st = buf_append(&file, &len, sizeof len);
    if (!st) st = buf_append(&file, header.data, header.len);
    for (size_t i = 0; i < k->len && !st; i++)
        if (strcmp(k->v[i].shard, shard) == 0) st = buf_append(&file, k->v[i].data, k->v[i].bytes);
    assert_int_equal(st, ST_OK);
    checkpoint_put(k, shard, file.data, file.len);
    buf_release(&file);
    buf_release(&header);
}

static inline void checkpoint_write(const struct checkpoint *k) {
    char *config = json_dumps(k->config, 0);
    checkpoint_put_text(k, "config.json", config);
    free(config);
    json_t *map = json_object();
    bool index = k->index;
    for (size_t i = 0; i < k->len; i++) {
        json_object_set_new(map, k->v[i].name, json_string(k->v[i].shard));
        bool first = true;
        for (size_t j = 0; j < i; j++) first = first && strcmp(k->v[j].shard, k->v[i].shard) != 0;
        if (first) ckpt_test_write_shard(k, k->v[i].shard);
        index = index || strcmp(k->v[i].shard, "model.safetensors") != 0;
    }
    json_t *root = json_pack("{s:o}", "weight_map", map);
    char *text = json_dumps(root, 0);
    if (index) checkpoint_put_text(k, "model.safetensors.index.json", text);
    free(text);
    json_decref(root);
}

static inline int ckpt_test_remove_one(const char *path, const struct stat *sb, int kind,
                                       struct FTW *ftw) {
    (void)sb, (void)kind, (void)ftw;
    return remove(path);
}
static inline void folder_remove(const char *dir) {
    nftw(dir, ckpt_test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void checkpoint_remove(struct checkpoint *k) {
    folder_remove(k->dir);
    for (size_t i = 0; i < k->len; i++) free(k->v[i].data);
    free(k->v);
    json_decref(k->config);
}

/* The sentence of err with the folder's name replaced by "D". */
static inline const char *sentence(char out[sizeof((struct err){0}.text)], const struct err *err,
                                   const char *dir) {
    size_t n = 0;
    for (const char *s = err->text; *s && n + 1 < sizeof err->text;) {
        bool hit = strncmp(s, dir, strlen(dir)) == 0;
        out[n++] = hit ? 'D' : *s;
        s += hit ? strlen(dir) : 1;
    }
    out[n] = '\0';
    return out;
}

/* Opens the folder and expects this refusal. */
static inline void refuse(const struct checkpoint *k, enum st st, const char *want) {
    struct ckpt *c = NULL;
    struct err err = {.text = "accepted"};
    char text[sizeof err.text];
    enum st got = ckpt_open(&c, k->dir, &err);
    assert_string_equal(sentence(text, &err, k->dir), want);
    assert_int_equal(got, st);
    assert_null(c);
}

static inline struct ckpt *open_good(const struct checkpoint *k) {
    struct ckpt *c = NULL;
    struct err err = {.text = ""};
    enum st st = ckpt_open(&c, k->dir, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(st, ST_OK);
    return c;
}

#endif

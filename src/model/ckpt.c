/* SPDX-License-Identifier: Apache-2.0 */
/* Implements ckpt.h: opens the shards, gathers their tensors into one sorted table, checks it
 * against the configuration. The index decides which shard a tensor comes from; scales of FP8
 * tensors may lie in another shard than their tensor. */
#include "model/ckpt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/json.h"
#include "model/ckpt_impl.h"

enum { INDEX_BYTES_MAX = 64 << 20, SHARDS_MAX = 4096 };
static const size_t scales_bytes_max = (size_t)8 << 30;
static const char index_name[] = "model.safetensors.index.json",
                  single_name[] = "model.safetensors";

/* --- the table of tensors --------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    const struct safetensors_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static const struct safetensors_tensor *find(const struct ckpt *c, const char *name) {
    struct safetensors_tensor key = {.name = (char *)(uintptr_t)name};
    const struct safetensors_tensor *k = &key;
    const struct safetensors_tensor *const *hit =
        bsearch(&k, c->by_name, c->n_by_name, sizeof *c->by_name, by_name);
    return hit ? *hit : NULL;
}

/* The shard that holds t: for error sentences only. */
static const char *shard_of(const struct ckpt *c, const struct safetensors_tensor *t) {
    for (uint32_t i = 0; i < c->n_shards; i++)
        if (t >= c->shards[i].tensors && t < c->shards[i].tensors + c->shards[i].n_tensors)
            return c->shard_names[i];
    return "?";
}

/* Takes the tensors of every shard; with an index only those that it says are there. */
static enum st gather(struct ckpt *c, const json_t *weight_map, struct err *err) {
    size_t n = 0;
    for (uint32_t i = 0; i < c->n_shards; i++) n += c->shards[i].n_tensors;
    c->by_name = calloc(n + 1, sizeof *c->by_name);
    if (!c->by_name)
        return err_set(err, ST_NO_MEMORY, "%s: out of memory for %zu tensors", c->dir, n);
    for (uint32_t i = 0; i < c->n_shards; i++) {
        for (size_t j = 0; j < c->shards[i].n_tensors; j++) {
            const struct safetensors_tensor *t = &c->shards[i].tensors[j];
            const char *where =
                weight_map ? json_string_value(json_object_get(weight_map, t->name)) : NULL;
            if (weight_map && (!where || strcmp(where, c->shard_names[i]) != 0)) continue;
            c->by_name[c->n_by_name++] = t;
        }
    }
    qsort(c->by_name, c->n_by_name, sizeof *c->by_name, by_name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)weight_map, key, value) {
        if (!find(c, key))
            return err_set(err, ST_CORRUPT,
                           "%s/%s: tensor %.200s: not in %.100s, where the index has it", c->dir,
                           index_name, key, json_string_value(value));
    }
    return ST_OK;
}

/* --- shards ----------------------------------------------------------------------------------- */

static enum st add_shard(struct ckpt *c, const char *name, struct err *err) {
    char path[CKPT_PATH_BYTES + 8];
    int len = snprintf(path, sizeof path, "%s/%s", c->dir, name);
    if (len < 0 || (size_t)len >= sizeof path)
        return err_set(err, ST_INVALID, "%.200s: shard %.100s: path too long", c->dir, name);
    char *copy = strdup(name);
    if (!copy) return err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    enum st st = safetensors_open(&c->shards[c->n_shards], path, err);
    if (st) {
        free(copy);
        return st;
    }
    c->shard_names[c->n_shards++] = copy;
    return ST_OK;
}

static enum st alloc_shards(struct ckpt *c, size_t n, struct err *err) {
    c->shards = calloc(n, sizeof *c->shards);
    c->shard_names = calloc(n, sizeof *c->shard_names);
    return c->shards && c->shard_names
               ? ST_OK
               : err_set(err, ST_NO_MEMORY, "%s: out of memory for %zu shards", c->dir, n);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the weight map in ascending order: identity must not depend on the
 * order of its keys. */
static enum st list_shards(const char ***out, size_t *n, const json_t *map, const char *index_path,
                           struct err *err) {
    const char *key, **names = calloc(json_object_size(map) + 1, sizeof *names);
    json_t *value;
    size_t len = 0, kept = 0;
    enum st st = names ? ST_OK : err_set(err, ST_NO_MEMORY, "%s: out of memory", index_path);
    if (!st) json_object_foreach((json_t *)(uintptr_t)map, key, value) {
            const char *name = json_string_value(value);
            /* A name with a slash would reach out of the directory. */
            if (!name || strchr(name, '/') || name[0] == '.' || name[0] == '\0') {
                st = err_set(err, ST_INVALID,
                             "%s: weight_map: %.200s: found %.100s, expected a file name",
                             index_path, key, name ? name : json_kind(value));
                break;
            }
            names[len++] = name;
        }
    if (!st) {
        qsort(names, len, sizeof *names, by_text);
        for (size_t i = 0; i < len; i++)
            if (i == 0 || strcmp(names[i], names[i - 1]) != 0) names[kept++] = names[i];
        if (kept > SHARDS_MAX)
            st = err_set(err, ST_INVALID, "%s: weight_map: found %zu shards, expected at most %d",
                         index_path, kept, SHARDS_MAX);
    }
    if (st)
        free(names);
    else
        *out = names, *n = kept;
    return st;
}

static enum st open_index(struct ckpt *c, const char *index_path, struct err *err) {
    json_t *index;
    const char **names = NULL;
    size_t n = 0;
    enum st st = json_read_file(&index, index_path, INDEX_BYTES_MAX, err);
    if (st) return st;
    const json_t *map = json_at(index, "weight_map");
    if (!json_is_object(map))
        st = err_set(err, ST_INVALID, "%s: weight_map: found %s, expected an object", index_path,
                     json_kind(map));
    if (!st) st = list_shards(&names, &n, map, index_path, err);
    if (!st) st = alloc_shards(c, n, err);
    for (size_t i = 0; i < n && !st; i++) st = add_shard(c, names[i], err);
    if (!st) st = gather(c, map, err);
    free(names);
    json_decref(index);
    return st;
}

static enum st open_shards(struct ckpt *c, struct err *err) {
    char path[CKPT_PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", c->dir, index_name);
    c->list = access(path, F_OK) == 0 ? index_name : single_name;
    if (c->list == index_name) return open_index(c, path, err);
    snprintf(path, sizeof path, "%s/%s", c->dir, single_name);
    if (access(path, F_OK) != 0)
        return err_set(err, st_from_errno(errno), "%s: neither %s nor %s can be found", c->dir,
                       single_name, index_name);
    enum st st = alloc_shards(c, 1, err);
    if (!st) st = add_shard(c, single_name, err);
    return st ? st : gather(c, NULL, err);
}

/* --- tensors as weights ----------------------------------------------------------------------- */

static enum st dtype_of(enum ops_dtype *out, const struct ckpt *c,
                        const struct safetensors_tensor *t, struct err *err) {
    static const struct {
        const char *name;
        enum ops_dtype dtype;
    } known[] = {{"F32", OPS_F32}, {"BF16", OPS_BF16}, {"F16", OPS_F16}, {"F8_E4M3", OPS_F8}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, t->dtype) != 0) continue;
        *out = known[i].dtype;
        return ST_OK;
    }
    return err_set(err, ST_UNSUPPORTED,
                   "%s/%s: tensor %.200s: dtype %s is not supported (F32, BF16, F16, F8_E4M3 are)",
                   c->dir, shard_of(c, t), t->name, t->dtype);
}

static void shape_text(char *out, size_t size, const struct safetensors_tensor *t) {
    size_t n = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%" PRIu64, i ? "," : "", t->dims[i]);
    if (n < size) snprintf(out + n, size - n, "]");
}

static bool shape_is(const struct safetensors_tensor *t, uint32_t rows, uint32_t cols,
                     bool vector) {
    if (vector)
        return (t->n_dims == 1 && t->dims[0] == cols) ||
               (t->n_dims == 2 && t->dims[0] == 1 && t->dims[1] == cols);
    return t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols;
}

static void want_text(char *out, size_t size, uint32_t rows, uint32_t cols, bool vector) {
    if (vector)
        snprintf(out, size, "[%u]", cols);
    else
        snprintf(out, size, "[%u,%u]", rows, cols);
}

/* keys: what of config.json the expected shape comes from. */
static enum st check_shape(const struct ckpt *c, const struct safetensors_tensor *t, uint32_t rows,
                           uint32_t cols, bool vector, const char *keys, struct err *err) {
    if (shape_is(t, rows, cols, vector)) return ST_OK;
    char found[200], want[64];
    shape_text(found, sizeof found, t);
    want_text(want, sizeof want, rows, cols, vector);
    return err_set(err, ST_INVALID, "%s/%s: tensor %.200s: shape %s, expected %s (%s)", c->dir,
                   shard_of(c, t), t->name, found, want, keys);
}

/* Scales are used as aligned floats in place where the file allows it, else copied (once, at
 * opening). */
static enum st find_scales(struct ckpt *c, struct ops_weight *w, const struct safetensors_tensor *t,
                           struct err *err) {
    char name[WEIGHT_NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s_scale_inv", t->name);
    const struct safetensors_tensor *s = find(c, name);
    if (!s)
        return err_set(err, ST_NOT_FOUND,
                       "%s/%s: tensor %.200s: dtype F8_E4M3, but %.200s is missing", c->dir,
                       shard_of(c, t), t->name, name);
    uint32_t rows = (w->rows + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK;
    uint32_t cols = (w->cols + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK;
    enum st st = check_shape(c, s, rows, cols, false, "one scale for 128 x 128 weights", err);
    if (st) return st;
    enum ops_dtype dtype;
    if (dtype_of(&dtype, c, s, NULL) || dtype == OPS_F8)
        return err_set(err, ST_UNSUPPORTED,
                       "%s/%s: tensor %.200s: dtype %s, expected F32, BF16 or F16", c->dir,
                       shard_of(c, s), s->name, s->dtype);
    w->scale_stride = cols;
    if (dtype == OPS_F32 && (uintptr_t)s->data % sizeof(float) == 0) {
        w->scales = (const float *)(const void *)s->data;
        return ST_OK;
    }
    float *copy = arena_alloc(&c->scales, (size_t)rows * cols * sizeof *copy);
    if (!copy) return err_set(err, ST_NO_MEMORY, "%s: out of memory for scales", c->dir);
    struct ops_weight as = {.dtype = dtype,
                            .rows = rows,
                            .cols = cols,
                            .data = s->data,
                            .stride_bytes = cols * ops_dtype_bytes(dtype)};
    for (uint32_t r = 0; r < rows; r++) ops_weight_row(copy + (size_t)r * cols, &as, r, 0, cols);
    w->scales = copy;
    return ST_OK;
}

/* The MTP layer of published checkpoints repeats embedding and head; others leave them out. Tied:
 * the head is the embedding. */
static const struct safetensors_tensor *find_key(const struct ckpt *c, struct weight_key key,
                                                 char name[WEIGHT_NAME_BYTES]) {
    weight_name(name, key);
    const struct safetensors_tensor *t = find(c, name);
    if (!t && key.kind == W_MTP_EMBED)
        return find_key(c, (struct weight_key){.kind = W_EMBED}, name);
    if (!t && key.kind == W_MTP_HEAD) return find_key(c, (struct weight_key){.kind = W_HEAD}, name);
    if (key.kind == W_HEAD && c->config.tied)
        return find_key(c, (struct weight_key){.kind = W_EMBED}, name);
    return t;
}

static bool is_vector(enum weight_kind kind) {
    return kind == W_FINAL_NORM || kind == W_ATTN_NORM || kind == W_Q_A_NORM ||
           kind == W_KV_A_NORM || kind == W_FFN_NORM || kind == W_ROUTER_BIAS ||
           kind == W_MTP_ENORM || kind == W_MTP_HNORM || kind == W_MTP_NORM;
}

static enum st missing(const struct ckpt *c, struct weight_key key, uint32_t rows, uint32_t cols,
                       const char *name, struct err *err) {
    char want[64];
    want_text(want, sizeof want, rows, cols, is_vector(key.kind));
    return err_set(err, ST_NOT_FOUND, "%s/%s: tensor %s: missing, expected %s (%s)", c->dir,
                   c->list, name, want, weight_shape_keys(key.kind));
}

/* Finds the tensor of key and checks its shape. */
static enum st find_checked(const struct safetensors_tensor **out, const struct ckpt *c,
                            struct weight_key key, uint32_t rows, uint32_t cols, struct err *err) {
    char name[WEIGHT_NAME_BYTES];
    *out = find_key(c, key, name);
    if (!*out) return missing(c, key, rows, cols, name, err);
    return check_shape(c, *out, rows, cols, is_vector(key.kind), weight_shape_keys(key.kind), err);
}

static enum st check_present(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                             struct err *err) {
    const struct safetensors_tensor *t;
    return find_checked(&t, ctx, key, rows, cols, err);
}

static enum st load_tensor(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                           struct err *err) {
    struct ckpt *c = ctx;
    const struct safetensors_tensor *t;
    enum ops_dtype dtype;
    enum st st = find_checked(&t, c, key, rows, cols, err);
    if (!st) st = dtype_of(&dtype, c, t, err);
    if (st) return st;
    struct ops_weight w = {.dtype = dtype,
                           .rows = rows,
                           .cols = cols,
                           .data = t->data,
                           .stride_bytes = cols * ops_dtype_bytes(dtype)};
    if (dtype == OPS_F8) st = find_scales(c, &w, t, err);
    if (!st) weight_table_add(&c->weights, key, &w);
    return st;
}

static bool has_layer(const struct ckpt *c, uint32_t layer) {
    char prefix[64];
    int n = snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    for (size_t i = 0; i < c->n_by_name; i++)
        if (strncmp(c->by_name[i]->name, prefix, (size_t)n) == 0) return true;
    return false;
}

static enum st load_tensors(struct ckpt *c, struct err *err) {
    /* Repackaged checkpoints often drop the whole MTP layer and keep the key in config.json. */
    if (c->config.n_mtp && !has_layer(c, c->config.n_layers)) c->config.n_mtp = 0;
    /* A config that asks for more tensors than there are (two may stand for two more, see find_key)
     * must not decide how much memory we take: the first that is missing or has another shape is
     * named before the table is made. */
    enum st st = ST_OK;
    if (weight_count(&c->config) > c->n_by_name + 2)
        st = weight_visit(&c->config, check_present, c, err);
    if (!st) st = weight_table_init(&c->weights, &c->config, c->dir, err);
    return st ? st : weight_visit(&c->config, load_tensor, c, err);
}

/* --- opening ---------------------------------------------------------------------------------- */

static enum st read_configs(struct ckpt *c, struct err *err) {
    char path[CKPT_PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/config.json", c->dir);
    enum st st = json_read_file(&c->config_json, path, CONFIG_BYTES_MAX, err);
    if (!st) st = config_from_json(&c->config, &c->facts, c->config_json, path, err);
    if (st) return st;
    generation_config_init(&c->generation);
    snprintf(path, sizeof path, "%s/generation_config.json", c->dir);
    if (access(path, F_OK) != 0) return ST_OK;
    json_t *json;
    st = json_read_file(&json, path, CONFIG_BYTES_MAX, err);
    if (st) return st;
    st = generation_config_from_json(&c->generation, json, path, err);
    json_decref(json);
    return st;
}

enum st ckpt_open(struct ckpt **out, const char *dir, struct err *err) {
    struct ckpt *c = calloc(1, sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "%s: out of memory", dir);
    c->scales.max = scales_bytes_max;
    enum st st = ST_OK;
    if (strlen(dir) >= sizeof c->dir)
        st = err_set(err, ST_INVALID, "%.100s...: path too long", dir);
    else
        strcpy(c->dir, dir);
    if (!st) st = read_configs(c, err);
    if (!st) st = open_shards(c, err);
    if (!st) st = load_tensors(c, err);
    if (st)
        ckpt_close(c);
    else
        *out = c;
    return st;
}

void ckpt_close(struct ckpt *c) {
    if (!c) return;
    for (uint32_t i = 0; i < c->n_shards; i++) {
        safetensors_close(&c->shards[i]);
        free(c->shard_names[i]);
    }
    free(c->shards);
    free(c->shard_names);
    free(c->by_name);
    weight_table_release(&c->weights);
    arena_release(&c->scales);
    json_decref(c->config_json);
    free(c);
}

const char *ckpt_dir(const struct ckpt *c) {
    return c->dir;
}
const struct model_config *ckpt_config(const struct ckpt *c) {
    return &c->config;
}
const struct config_facts *ckpt_facts(const struct ckpt *c) {
    return &c->facts;
}
const struct generation_config *ckpt_generation(const struct ckpt *c) {
    return &c->generation;
}

struct weight_source ckpt_source(struct ckpt *c) {
    return weight_table_source(&c->weights);
}

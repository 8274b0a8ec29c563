/* SPDX-License-Identifier: Apache-2.0 */
/* Implements flat.h: lines of words up to "end", then data at the offsets that the lines name. */
#include "flat.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum field_type { FIELD_U32, FIELD_BOOL, FIELD_F32, FIELD_F64 };

static const struct field {
    const char *key;
    enum field_type type;
    size_t offset;
} fields[] = {
#define U32(name)                                                                                  \
    { #name, FIELD_U32, offsetof(struct model_config, name) }
#define BOOL(name)                                                                                 \
    { #name, FIELD_BOOL, offsetof(struct model_config, name) }
#define F32(name)                                                                                  \
    { #name, FIELD_F32, offsetof(struct model_config, name) }
#define F64(name)                                                                                  \
    { #name, FIELD_F64, offsetof(struct model_config, name) }
    U32(vocab),
    U32(hidden),
    U32(n_layers),
    U32(n_mtp),
    U32(n_heads),
    U32(q_lora),
    U32(kv_lora),
    U32(nope),
    U32(rope),
    U32(v_dim),
    U32(dense_inter),
    U32(first_dense),
    U32(moe_freq),
    U32(n_experts),
    U32(n_shared),
    U32(moe_inter),
    BOOL(tied),
    F32(eps),
    F32(attn_scale),
    U32(max_positions),
    U32(rotary.dim),
    F64(rotary.theta),
    BOOL(rotary.yarn),
    F64(rotary.factor),
    F64(rotary.beta_fast),
    F64(rotary.beta_slow),
    U32(rotary.original_positions),
    BOOL(rotary.truncate),
    F32(rotary.cos_sin_scale),
    U32(rope_pairs),
    U32(gate.score),
    U32(gate.group),
    U32(gate.n_experts),
    U32(gate.n_groups),
    U32(gate.topk_groups),
    U32(gate.top_k),
    BOOL(gate.normalize),
    F32(gate.weight_scale),
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

static_assert(sizeof(enum ops_rope_pairs) == sizeof(uint32_t), "enums are read as u32");
static_assert(sizeof(enum ops_gate_score) == sizeof(uint32_t), "enums are read as u32");
static_assert(sizeof(enum ops_gate_group) == sizeof(uint32_t), "enums are read as u32");

/* The fields must come in the order of the table, all of them. */
static bool set_field(struct model_config *c, uint32_t index, const char *key, double v) {
    if (index >= N_FIELDS || strcmp(fields[index].key, key) != 0) return false;
    void *at = (char *)c + fields[index].offset;
    switch (fields[index].type) {
    case FIELD_U32: *(uint32_t *)at = (uint32_t)v; break;
    case FIELD_BOOL: *(bool *)at = v != 0; break;
    case FIELD_F32: *(float *)at = (float)v; break;
    case FIELD_F64: *(double *)at = v; break;
    }
    return true;
}

static bool read_dtype(enum ops_dtype *out, const char *name) {
    static const char *const names[] = {
        [OPS_F32] = "F32", [OPS_BF16] = "BF16", [OPS_F16] = "F16", [OPS_F8] = "F8"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (enum ops_dtype)i;
        return true;
    }
    return false;
}

/* Whether bytes from offset lie in the file. */
static bool inside(const struct flat *f, uint64_t offset, uint64_t bytes) {
    return offset <= f->map.size && bytes <= f->map.size - offset;
}

static bool add_tensor(struct flat *f, const char *line) {
    char type[16];
    unsigned rows, cols;
    unsigned long long data, scales;
    struct flat_tensor *t = &f->tensors[f->n_tensors];
    if (f->n_tensors == FLAT_TENSORS_MAX) return false;
    if (sscanf(line, "tensor %159s %15s %u %u %llu %llu", t->name, type, &rows, &cols, &data,
               &scales) != 6)
        return false;
    t->w = (struct ops_weight){.rows = rows, .cols = cols, .data = f->map.data + data};
    if (!read_dtype(&t->w.dtype, type)) return false;
    t->w.stride_bytes = cols * ops_dtype_bytes(t->w.dtype);
    if (!inside(f, data, (uint64_t)rows * t->w.stride_bytes)) return false;
    if (t->w.dtype == OPS_F8) {
        t->w.scale_stride = (cols + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK;
        t->w.scales = (const float *)(const void *)(f->map.data + scales);
        if (scales % 4 || !inside(f, scales, (rows + 127ull) / 128 * t->w.scale_stride * 4))
            return false;
    }
    f->n_tensors++;
    return true;
}

static bool add_expect(struct flat *f, const char *line) {
    char name[32], type[16];
    unsigned rows, cols;
    unsigned long long data;
    if (sscanf(line, "expect %31s %15s %u %u %llu", name, type, &rows, &cols, &data) != 5)
        return false;
    if (!inside(f, data, (uint64_t)rows * cols * 4)) return false;
    struct flat_expect e = {.data = f->map.data + data, .rows = rows, .cols = cols};
    if (strcmp(name, "ids") == 0) f->ids = e;
    if (strcmp(name, "logits") == 0) f->logits = e;
    if (strcmp(name, "mtp_logits") == 0) f->mtp_logits = e;
    return true;
}

static enum st read_header(struct flat *f, const char *path, struct err *err) {
    const char *at = (const char *)f->map.data, *end = at + f->map.size;
    uint32_t n_fields = 0;
    for (uint32_t number = 1;; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        char line[512], key[64];
        double v;
        if (!stop || (size_t)(stop - at) >= sizeof line)
            return err_set(err, ST_CORRUPT, "%s: line %u: too long or cut", path, number);
        memcpy(line, at, (size_t)(stop - at));
        line[stop - at] = '\0';
        at = stop + 1;
        if (strcmp(line, "end") == 0) break;
        bool ok = number == 1      ? strcmp(line, "supernode-flat 1") == 0
                  : line[0] == 'c' ? sscanf(line, "config %63s %lf", key, &v) == 2 &&
                                         set_field(&f->config, n_fields++, key, v)
                  : line[0] == 't' ? add_tensor(f, line)
                                   : add_expect(f, line);
        if (!ok)
            return err_set(err, ST_CORRUPT, "%s: line %u: %s: not understood", path, number, line);
    }
    if (n_fields != N_FIELDS)
        return err_set(err, ST_CORRUPT, "%s: %u fields of the configuration, expected %d", path,
                       n_fields, N_FIELDS);
    if (!f->ids.data || !f->logits.data)
        return err_set(err, ST_CORRUPT, "%s: no ids or no logits", path);
    return config_check(&f->config, err);
}

static const struct flat_tensor *find(const struct flat *f, enum weight_kind kind,
                                      struct weight_key key) {
    char name[WEIGHT_NAME_BYTES];
    key.kind = kind;
    if (kind == W_EMBED || kind == W_HEAD) key.layer = 0;
    weight_name(name, key);
    for (uint32_t i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i].name, name) == 0) return &f->tensors[i];
    return NULL;
}

/* A weight_visit_fn. The MTP layer may share embedding and head, a tied model has no head. */
static enum st place(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                     struct err *err) {
    struct flat *f = ctx;
    const struct flat_tensor *t = find(f, key.kind, key);
    if (!t && key.kind == W_MTP_EMBED) t = find(f, W_EMBED, key);
    if (!t && key.kind == W_MTP_HEAD) t = find(f, W_HEAD, key);
    if (!t && key.kind == W_MTP_HEAD) t = find(f, W_EMBED, key);
    char name[WEIGHT_NAME_BYTES];
    weight_name(name, key);
    if (!t) return err_set(err, ST_NOT_FOUND, "tensor %s: missing", name);
    if (t->w.rows != rows || t->w.cols != cols)
        return err_set(err, ST_CORRUPT, "tensor %s: [%u,%u], expected [%u,%u]", name, t->w.rows,
                       t->w.cols, rows, cols);
    weight_table_add(&f->weights, key, &t->w);
    return ST_OK;
}

enum st flat_open(struct flat *f, const char *path, struct err *err) {
    memset(f, 0, sizeof *f);
    enum st st = file_map_open(&f->map, path, err);
    if (!st) st = read_header(f, path, err);
    if (!st) st = weight_table_init(&f->weights, &f->config, path, err);
    if (!st) st = weight_visit(&f->config, place, f, err);
    return st;
}

void flat_close(struct flat *f) {
    weight_table_release(&f->weights);
    file_map_close(&f->map);
}

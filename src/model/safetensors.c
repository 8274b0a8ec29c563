/* SPDX-License-Identifier: Apache-2.0 */
/* Implements safetensors.h. The header is a stranger's: its length is bounded before it is parsed,
 * every offset and product is checked, and the tensors are sorted by offset so that one pass finds
 * overlaps and holes. */
#include "model/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/json.h"

enum { HEADER_BYTES_MAX = 100 * 1000 * 1000 }; /* the limit of the safetensors library */

static const struct {
    const char *name;
    uint32_t bits;
} dtypes[] = {
    {"F64", 64}, {"F32", 32}, {"F16", 16}, {"BF16", 16}, {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"I64", 64}, {"I32", 32}, {"I16", 16}, {"I8", 8},    {"U64", 64},    {"U32", 32},
    {"U16", 16}, {"U8", 8},   {"BOOL", 8}, {"C64", 64},  {"F8_E8M0", 8},
};

static uint32_t dtype_bits(const char *dtype) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, dtype) == 0) return dtypes[i].bits;
    return 0;
}

/* What stands where something else was expected: integers as they are, the rest by kind. */
static const char *found(char out[32], const json_t *v) {
    if (json_is_integer(v))
        snprintf(out, 32, "%lld", (long long)json_integer_value(v));
    else
        snprintf(out, 32, "%s", json_kind(v));
    return out;
}

static bool is_size(const json_t *v) {
    return json_is_integer(v) && json_integer_value(v) >= 0;
}

static enum st read_shape(struct safetensors_tensor *t, uint64_t *elems, const json_t *shape,
                          const char *name, struct err *err) {
    char text[32];
    size_t n = json_array_size(shape);
    if (!json_is_array(shape))
        return err_set(err, ST_INVALID,
                       "%s: tensor %.200s: shape: found %s, expected an array of sizes", name,
                       t->name, found(text, shape));
    if (n > SAFETENSORS_DIMS_MAX)
        return err_set(err, ST_INVALID,
                       "%s: tensor %.200s: shape: found %zu sizes, expected at most %d", name,
                       t->name, n, SAFETENSORS_DIMS_MAX);
    t->n_dims = (uint32_t)n;
    *elems = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, i);
        if (!is_size(v))
            return err_set(err, ST_INVALID,
                           "%s: tensor %.200s: shape: entry %u: found %s, expected a size", name,
                           t->name, i, found(text, v));
        t->dims[i] = (uint64_t)json_integer_value(v);
        if (!u64_mul(elems, *elems, t->dims[i]))
            return err_set(err, ST_INVALID,
                           "%s: tensor %.200s: shape: more elements than 64 bits can count", name,
                           t->name);
    }
    return ST_OK;
}

static enum st read_offsets(uint64_t at[2], const struct safetensors_tensor *t,
                            const json_t *offsets, const char *name, struct err *err) {
    char text[32];
    if (!json_is_array(offsets))
        return err_set(
            err, ST_INVALID,
            "%s: tensor %.200s: data_offsets: found %s, expected an array of two byte offsets",
            name, t->name, found(text, offsets));
    if (json_array_size(offsets) != 2)
        return err_set(
            err, ST_INVALID,
            "%s: tensor %.200s: data_offsets: found %zu entries, expected two byte offsets", name,
            t->name, json_array_size(offsets));
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_array_get(offsets, i);
        if (!is_size(v))
            return err_set(
                err, ST_INVALID,
                "%s: tensor %.200s: data_offsets: entry %zu: found %s, expected a byte offset",
                name, t->name, i, found(text, v));
        at[i] = (uint64_t)json_integer_value(v);
    }
    return ST_OK;
}

/* t->name is set; fills the rest from its header entry. */
static enum st read_tensor(struct safetensors_tensor *t, const json_t *entry, const uint8_t *data,
                           uint64_t data_bytes, const char *name, struct err *err) {
    char text[32];
    if (!json_is_object(entry))
        return err_set(err, ST_INVALID, "%s: tensor %.200s: found %s, expected an object", name,
                       t->name, found(text, entry));
    const json_t *kind = json_object_get(entry, "dtype");
    const char *dtype = json_string_value(kind);
    uint32_t bits = dtype ? dtype_bits(dtype) : 0;
    if (bits == 0)
        return err_set(err, ST_INVALID,
                       "%s: tensor %.200s: dtype: found %.32s, expected one that safetensors knows",
                       name, t->name, dtype ? dtype : found(text, kind));
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    uint64_t elems = 1, at[2], bytes;
    enum st st = read_shape(t, &elems, json_object_get(entry, "shape"), name, err);
    if (!st) st = read_offsets(at, t, json_object_get(entry, "data_offsets"), name, err);
    if (st) return st;
    if (at[0] > at[1] || at[1] > data_bytes)
        return err_set(err, ST_CORRUPT,
                       "%s: tensor %.200s: data_offsets: found [%" PRIu64 ",%" PRIu64
                       "], but the data has %" PRIu64 " bytes",
                       name, t->name, at[0], at[1], data_bytes);
    if (!u64_mul(&bytes, elems, bits / 8))
        return err_set(err, ST_INVALID,
                       "%s: tensor %.200s: shape: more bytes than 64 bits can count", name,
                       t->name);
    if (bytes != at[1] - at[0])
        return err_set(err, ST_CORRUPT,
                       "%s: tensor %.200s: %" PRIu64 " bytes of data, expected %" PRIu64
                       " for its shape in %s",
                       name, t->name, at[1] - at[0], bytes, t->dtype);
    t->data = data + at[0];
    t->bytes = bytes;
    return ST_OK;
}

static int by_data(const void *a, const void *b) {
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

static enum st check_cover(const struct safetensors *s, const uint8_t *data, uint64_t data_bytes,
                           const char *name, struct err *err) {
    const uint8_t *at = data;
    for (size_t i = 0; i < s->n_tensors; i++) {
        const struct safetensors_tensor *t = &s->tensors[i];
        if (t->data < at)
            return err_set(err, ST_CORRUPT,
                           "%s: tensor %.200s: overlaps the tensor before it by %td bytes", name,
                           t->name, at - t->data);
        if (t->data > at)
            return err_set(err, ST_CORRUPT,
                           "%s: tensor %.200s: %td bytes before it belong to no tensor", name,
                           t->name, t->data - at);
        at = t->data + t->bytes;
    }
    if (at != data + data_bytes)
        return err_set(err, ST_CORRUPT,
                       "%s: the tensors end at byte %td of the data, expected %" PRIu64, name,
                       at - data, data_bytes);
    return ST_OK;
}

static enum st read_tensors(struct safetensors *s, json_t *header, const uint8_t *data,
                            uint64_t data_bytes, const char *name, struct err *err) {
    if (!json_is_object(header))
        return err_set(err, ST_INVALID, "%s: header: found %s, expected an object", name,
                       json_kind(header));
    s->tensors = calloc(json_object_size(header) + 1, sizeof *s->tensors);
    if (!s->tensors) return err_set(err, ST_NO_MEMORY, "%s: out of memory for the header", name);
    const char *key;
    json_t *entry;
    json_object_foreach(header, key, entry) {
        if (strcmp(key, "__metadata__") == 0) continue;
        struct safetensors_tensor *t = &s->tensors[s->n_tensors];
        t->name = strdup(key);
        if (!t->name) return err_set(err, ST_NO_MEMORY, "%s: out of memory for the header", name);
        s->n_tensors++;
        enum st st = read_tensor(t, entry, data, data_bytes, name, err);
        if (st) return st;
    }
    qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_data);
    return check_cover(s, data, data_bytes, name, err);
}

static void free_tensors(struct safetensors *s) {
    for (size_t i = 0; i < s->n_tensors; i++) free(s->tensors[i].name);
    free(s->tensors);
    s->tensors = NULL;
    s->n_tensors = 0;
}

enum st safetensors_parse(struct safetensors *s, const uint8_t *data, uint64_t size,
                          const char *name, struct err *err) {
    *s = (struct safetensors){0};
    if (size < 8)
        return err_set(err, ST_CORRUPT,
                       "%s: %" PRIu64 " bytes, expected a safetensors file of at least 8", name,
                       size);
    uint64_t len = rd_u64le(data), most = size - 8 < HEADER_BYTES_MAX ? size - 8 : HEADER_BYTES_MAX;
    if (len > most)
        return err_set(err, ST_CORRUPT,
                       "%s: header length: found %" PRIu64 ", expected at most %" PRIu64
                       " in a file of %" PRIu64 " bytes",
                       name, len, most, size);
    char place[sizeof err->text];
    snprintf(place, sizeof place, "%s: header", name);
    s->header_bytes = 8 + len;
    json_t *header;
    enum st st = json_parse(&header, (const char *)data + 8, len, place, err);
    if (st) return st;
    st = read_tensors(s, header, data + 8 + len, size - 8 - len, name, err);
    json_decref(header);
    if (st) free_tensors(s);
    return st;
}

enum st safetensors_open(struct safetensors *out, const char *path, struct err *err) {
    struct file_map map;
    enum st st = file_map_open(&map, path, err);
    if (st) return st;
    struct safetensors s;
    st = safetensors_parse(&s, map.data, map.size, path, err);
    if (st) {
        file_map_close(&map);
        return st;
    }
    s.map = map;
    *out = s;
    return ST_OK;
}

void safetensors_close(struct safetensors *s) {
    free_tensors(s);
    file_map_close(&s->map);
}

static enum st write_header(FILE *f, const struct safetensors_out *tensors, size_t n) {
    struct buf h = {.max = 1 << 20};
    uint64_t at = 0;
    enum st st = buf_append_str(&h, "{");
    for (size_t i = 0; i < n && !st; i++) {
        uint64_t bytes = tensors[i].rows * tensors[i].cols * sizeof(float);
        st = buf_printf(&h,
                        "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%" PRIu64 ",%" PRIu64
                        "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                        i ? "," : "", tensors[i].name, tensors[i].rows, tensors[i].cols, at,
                        at + bytes);
        at += bytes;
    }
    if (!st) st = buf_append_str(&h, "}");
    while (!st && (8 + h.len) % 8 != 0) st = buf_append_str(&h, " ");
    uint64_t len = h.len;
    if (!st && (fwrite(&len, sizeof len, 1, f) != 1 || fwrite(h.data, 1, h.len, f) != h.len))
        st = ST_IO;
    buf_release(&h);
    return st;
}

static enum st write_all(FILE *f, const struct safetensors_out *tensors, size_t n) {
    enum st st = write_header(f, tensors, n);
    for (size_t i = 0; i < n && !st; i++) {
        size_t count = tensors[i].rows * tensors[i].cols;
        if (count > 0 && fwrite(tensors[i].data, sizeof(float), count, f) != count) st = ST_IO;
    }
    return st;
}

/* Under another name first, so that a full disk leaves no half file behind; but a device, a pipe or
 * a link (--out /dev/stdout) is written to, never replaced. */
enum st safetensors_write(const char *path, const struct safetensors_out *tensors, size_t n,
                          struct err *err) {
    char part[4096];
    struct stat sb;
    bool replace = lstat(path, &sb) != 0 || S_ISREG(sb.st_mode);
    int len = snprintf(part, sizeof part, "%s%s", path, replace ? ".part" : "");
    if (len < 0 || (size_t)len >= sizeof part)
        return err_set(err, ST_INVALID, "%.100s...: path too long", path);
    FILE *f = fopen(part, "wb");
    if (!f)
        return err_set(err, st_from_errno(errno), "%s: cannot write: %s", path, strerror(errno));
    enum st st = write_all(f, tensors, n);
    int error = errno;
    if (fclose(f) != 0 && !st) st = ST_IO, error = errno;
    if (!st && replace && rename(part, path) != 0) st = ST_IO, error = errno;
    if (!st) return ST_OK;
    if (replace) unlink(part);
    return err_set(err, st, "%s: cannot write: %s", path,
                   st == ST_IO ? strerror(error) : st_name(st));
}

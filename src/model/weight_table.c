/* SPDX-License-Identifier: Apache-2.0 */
/* Implements weight_table.h. Filled by a weight_visit, so it is sorted already. */
#include "model/weight_table.h"

#include <assert.h>
#include <stdlib.h>

static uint64_t order(struct weight_key k) {
    return (uint64_t)k.layer << 40 | (uint64_t)k.kind << 32 | k.expert;
}

enum st weight_table_init(struct weight_table *t, const struct model_config *c, const char *name,
                          struct err *err) {
    *t = (struct weight_table){.name = name, .tied = c->tied, .cap = weight_count(c)};
    t->v = calloc(t->cap, sizeof *t->v);
    return t->v ? ST_OK
                : err_set(err, ST_NO_MEMORY, "%s: out of memory for %zu tensors", name, t->cap);
}

void weight_table_release(struct weight_table *t) {
    free(t->v);
    *t = (struct weight_table){0};
}

void weight_table_add(struct weight_table *t, struct weight_key key, const struct ops_weight *w) {
    assert(t->len < t->cap);
    assert(t->len == 0 || order(t->v[t->len - 1].key) < order(key));
    t->v[t->len++] = (struct weight_entry){.key = key, .w = *w};
}

static enum st get(void *self, struct weight_key key, uint32_t row0, uint32_t n_rows,
                   struct ops_weight *out, struct err *err) {
    const struct weight_table *t = self;
    if (key.kind == W_HEAD && t->tied) key.kind = W_EMBED;
    size_t lo = 0, hi = t->len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (order(t->v[mid].key) < order(key))
            lo = mid + 1;
        else
            hi = mid;
    }
    char name[WEIGHT_NAME_BYTES];
    weight_name(name, key);
    if (lo == t->len || order(t->v[lo].key) != order(key))
        return err_set(err, ST_NOT_FOUND, "%s: tensor %s: not part of this model", t->name, name);
    struct ops_weight w = t->v[lo].w;
    if (row0 > w.rows || n_rows > w.rows - row0)
        return err_set(err, ST_INVALID, "%s: tensor %s: rows %u and %u more, but it has %u",
                       t->name, name, row0, n_rows, w.rows);
    w.data = (const uint8_t *)w.data + (size_t)row0 * w.stride_bytes;
    w.rows = n_rows;
    w.row_base = row0;
    *out = w;
    return ST_OK;
}

struct weight_source weight_table_source(struct weight_table *t) {
    return (struct weight_source){.self = t, .get = get};
}

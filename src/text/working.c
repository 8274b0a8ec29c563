/* SPDX-License-Identifier: Apache-2.0 */
/* Implements working.h. */
#include "text/working.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static enum st reserve(struct working *w, size_t more) {
    assert(w->owner == WORKING_OWNS);
    if (w->len > w->max || more > w->max - w->len) return ST_FULL;
    size_t need = w->len + more;
    if (need <= w->cap) return ST_OK;
    size_t cap = need + need / 2 + 64;
    char *data = realloc(w->data, cap);
    if (data) w->data = data;
    uint32_t *from = realloc(w->from, cap * sizeof *from);
    if (from) w->from = from;
    if (!data || !from) return ST_NO_MEMORY;
    w->cap = cap;
    return ST_OK;
}

enum st working_append(struct working *w, const char *data, size_t len, uint32_t from) {
    enum st st = reserve(w, len);
    if (st || len == 0) return st;
    memcpy(w->data + w->len, data, len);
    for (size_t i = 0; i < len; i++) w->from[w->len + i] = from;
    w->len += len;
    return ST_OK;
}

enum st working_append_part(struct working *w, const struct working *part) {
    enum st st = reserve(w, part->len);
    if (st || part->len == 0) return st;
    memcpy(w->data + w->len, part->data, part->len);
    for (size_t i = 0; i < part->len; i++) w->from[w->len + i] = working_from(part, i);
    w->len += part->len;
    return ST_OK;
}

void working_release(struct working *w) {
    if (w->owner == WORKING_OWNS) {
        free(w->data);
        free(w->from);
    }
    *w = (struct working){0};
}

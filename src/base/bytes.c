/* SPDX-License-Identifier: Apache-2.0 */
/* Implements the growable buffer of bytes.h. Growth doubles, so appending is linear over all. */
#include "base/bytes.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "readers in bytes.h assume it");

static enum st buf_reserve(struct buf *b, size_t more) {
    assert(b->len <= b->max);
    if (more > b->max - b->len) return ST_FULL;
    size_t need = b->len + more + 1;
    if (need <= b->cap) return ST_OK;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    char *data = realloc(b->data, cap);
    if (!data) return ST_NO_MEMORY;
    b->data = data;
    b->cap = cap;
    return ST_OK;
}

enum st buf_append(struct buf *b, const void *data, size_t len) {
    enum st st = buf_reserve(b, len);
    if (st) return st;
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return ST_OK;
}

enum st buf_append_str(struct buf *b, const char *s) {
    return buf_append(b, s, strlen(s));
}

enum st buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    enum st st = n < 0 ? ST_INVALID : buf_reserve(b, (size_t)n);
    if (!st) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return st;
}

void buf_release(struct buf *b) {
    free(b->data);
    *b = (struct buf){.max = b->max};
}

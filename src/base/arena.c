/* SPDX-License-Identifier: Apache-2.0 */
/* Implements arena.h: blocks of 64 KiB, or of one allocation where that is larger, chained for freeing. */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>

enum { BLOCK_BYTES = 64 << 10, ALIGN = 16 };

struct arena_block {
    struct arena_block *prev;
    size_t len, cap;
    _Alignas(ALIGN) unsigned char data[];
};

void *arena_alloc(struct arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (a->max != 0 && bytes > a->max - a->used) return NULL;
    struct arena_block *b = a->last;
    if (!b || bytes > b->cap - b->len) {
        size_t cap = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        b = calloc(1, sizeof *b + cap);
        if (!b) return NULL;
        b->cap = cap;
        b->prev = a->last;
        a->last = b;
    }
    void *out = b->data + b->len;
    b->len += bytes;
    a->used += bytes;
    return out;
}

void arena_release(struct arena *a) {
    while (a->last) {
        struct arena_block *prev = a->last->prev;
        free(a->last);
        a->last = prev;
    }
    a->used = 0;
}

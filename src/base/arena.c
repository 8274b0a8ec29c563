/* SPDX-License-Identifier: Apache-2.0 */
/* Implements arena.h: a list of blocks, of which only the newest is filled. */
#include "base/arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_MIN = 16 << 10, BLOCK_MAX = 1 << 20, ALIGN = _Alignof(max_align_t) };

struct arena_block {
    struct arena_block *below;
    size_t cap, len;
    _Alignas(ALIGN) char data[];
};

static size_t round_up(size_t n) {
    return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

void *arena_alloc(struct arena *a, size_t len) {
    if (len > a->max) return NULL; /* so that rounding cannot overflow: max is far below SIZE_MAX */
    size_t need = len ? round_up(len) : ALIGN;
    struct arena_block *b = a->top;
    if (!b || b->cap - b->len < need) {
        size_t cap = b ? b->cap * 2 : BLOCK_MIN;
        if (cap > BLOCK_MAX) cap = BLOCK_MAX;
        if (cap < need) cap = need;
        size_t left = a->max - a->held;
        if (left < sizeof *b || left - sizeof *b < need) return NULL;
        if (cap > left - sizeof *b) cap = left - sizeof *b; /* the last block takes what is left */
        size_t size = sizeof *b + cap;
        b = malloc(size);
        if (!b) return NULL;
        *b = (struct arena_block){.below = a->top, .cap = cap};
        a->top = b;
        a->held += size;
    }
    void *p = b->data + b->len;
    b->len += need;
    return p;
}

void *arena_grow(struct arena *a, void *p, size_t old_len, size_t new_len) {
    assert(new_len >= old_len);
    struct arena_block *b = a->top;
    size_t had = old_len ? round_up(old_len) : ALIGN;
    if (p && new_len <= a->max && b->len >= had && (char *)p == b->data + b->len - had) {
        size_t need = new_len ? round_up(new_len) : ALIGN;
        if (need - had <= b->cap - b->len) {
            b->len += need - had;
            return p;
        }
    }
    void *q = arena_alloc(a, new_len);
    if (q && old_len) memcpy(q, p, old_len);
    return q;
}

void arena_release(struct arena *a) {
    while (a->top) {
        struct arena_block *b = a->top;
        a->top = b->below;
        free(b);
    }
    a->held = 0;
}

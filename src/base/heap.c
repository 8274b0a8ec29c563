/* SPDX-License-Identifier: Apache-2.0 */
/* Implements heap.h. */
#include "base/heap.h"

#include <assert.h>
#include <stdlib.h>

static bool before(struct heap *h, const struct heap_node *a, const struct heap_node *b) {
    h->compared++;
    return h->before(a, b);
}

static void set(struct heap *h, uint32_t i, struct heap_node *node) {
    h->v[i] = node;
    node->at = i + 1;
}

/* From place i on, which is free, towards the first. */
static void rise(struct heap *h, uint32_t i, struct heap_node *node) {
    while (i > 0 && before(h, node, h->v[(i - 1) / 2])) {
        set(h, i, h->v[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    set(h, i, node);
}

static void sink(struct heap *h, uint32_t i, struct heap_node *node) {
    for (uint32_t child; (child = 2 * i + 1) < h->len; i = child) {
        if (child + 1 < h->len && before(h, h->v[child + 1], h->v[child])) child++;
        if (!before(h, h->v[child], node)) break;
        set(h, i, h->v[child]);
    }
    set(h, i, node);
}

bool heap_reserve(struct heap *h, uint32_t n) {
    if (n <= h->cap) return true;
    uint32_t cap = n < UINT32_MAX / 2 ? n + n / 2 + 16 : n;
    struct heap_node **v = realloc(h->v, cap * sizeof(struct heap_node *));
    if (!v) return false;
    h->v = v;
    h->cap = cap;
    return true;
}

void heap_put(struct heap *h, struct heap_node *node) {
    assert(node->at == 0 && h->len < h->cap);
    rise(h, h->len++, node);
}

void heap_take(struct heap *h, struct heap_node *node) {
    if (!node->at) return;
    uint32_t i = node->at - 1;
    assert(i < h->len && h->v[i] == node);
    struct heap_node *last = h->v[--h->len];
    node->at = 0;
    if (last == node) return;
    if (i > 0 && before(h, last, h->v[(i - 1) / 2]))
        rise(h, i, last);
    else
        sink(h, i, last);
}

struct heap_node *heap_first(const struct heap *h) {
    return h->len ? h->v[0] : NULL;
}

void heap_release(struct heap *h) {
    free(h->v);
    h->v = NULL;
    h->len = h->cap = 0;
}

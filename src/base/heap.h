/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap of things that know their place in it: the first is found at once, and any of them can
 * be put in and taken out in O(log n). The node lies in the thing; the heap holds pointers alone. Room
 * is asked for beforehand, so that putting cannot fail. */
#ifndef SUPERNODE_BASE_HEAP_H
#define SUPERNODE_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. In one heap at a time. */
struct heap_node {
    uint32_t at; /* its index + 1; 0: in no heap */
};

/* The thing of type `type` whose member `member` the node is; NULL for NULL. */
#define HEAP_OF(node, type, member)                                                                \
    ((type *)((node) ? (char *)(node)-offsetof(type, member) : NULL))

/* Zero-initialise with { .before = f }; release with heap_release. What `before` looks at must not
 * change while a node is in. */
struct heap {
    struct heap_node **v;
    uint32_t len, cap;
    bool (*before)(const struct heap_node *a, const struct heap_node *b);
    uint64_t compared; /* calls of before since the start: what its use cost */
};

/* Room for n nodes in all. False: out of memory, and nothing changed. */
bool heap_reserve(struct heap *h, uint32_t n);
/* There is room, and it is in no heap. */
void heap_put(struct heap *h, struct heap_node *node);
/* It may be in no heap, and is then left alone. */
void heap_take(struct heap *h, struct heap_node *node);
/* NULL: empty. Where two are equal, either. */
struct heap_node *heap_first(const struct heap *h);
void heap_release(struct heap *h);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is freed whole: per checkpoint, per request, per render. Zero-initialise with { .max = BYTES } (0: no limit). */
#ifndef SUPERNODE_BASE_ARENA_H
#define SUPERNODE_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *last;
    size_t used, max; /* bytes handed out; their limit */
};

/* Zeroed, 16-byte aligned; NULL when the limit would be passed or memory is out. bytes may be 0. */
void *arena_alloc(struct arena *a, size_t bytes);
void arena_release(struct arena *a);

#endif

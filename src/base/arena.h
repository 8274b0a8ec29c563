/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is freed all at once: for work whose pieces die together (a template, one rendering).
 * Blocks come from malloc and double up to a megabyte; an arena never hands out more than its
 * maximum, so a stranger's program that builds and builds meets the limit and not the machine's
 * memory. */
#ifndef SUPERNODE_BASE_ARENA_H
#define SUPERNODE_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

/* Zero-initialise with { .max = N }; release with arena_release. */
struct arena {
    struct arena_block *top;
    size_t held; /* bytes taken from malloc */
    size_t max;  /* bound of held */
};

/* len bytes, aligned for any type, not cleared; NULL when the maximum is reached or memory is out.
 * len may be 0. */
void *arena_alloc(struct arena *a, size_t len);

/* Makes room for new_len bytes where old_len were, in place if p was the last allocation and its
 * block has room; otherwise copies. NULL as above, p is then unchanged. p may be NULL with old_len
 * 0. */
void *arena_grow(struct arena *a, void *p, size_t old_len, size_t new_len);

void arena_release(struct arena *a);

#endif

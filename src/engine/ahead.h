/* SPDX-License-Identifier: Apache-2.0 */
/* Touches KV pages before they are used. The kernel clears memory when it is first written, 2 MiB at a
 * time in each layer's part of the cache; a step that comes to it would stand still for all layers at
 * once (5 to 40 ms were seen), with every stream behind it. A thread that runs only where nobody else
 * wants the core does it ahead of the highest page in use. Contents stay as they are. */
#ifndef SUPERNODE_ENGINE_AHEAD_H
#define SUPERNODE_ENGINE_AHEAD_H

#include "model/kv.h"

struct ahead;

/* kv is borrowed. */
enum st ST_CHECKED ahead_new(struct ahead **out, const struct kv *kv, struct err *err);
void ahead_free(struct ahead *a); /* NULL is allowed */
/* Pages up to this one are in use. By one thread, which never waits. */
void ahead_used(struct ahead *a, uint32_t page);
/* So many pages from the first on are there, or being made so. For tests. */
uint32_t ahead_touched(const struct ahead *a);

#endif

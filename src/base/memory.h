/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory this process may still take. */
#ifndef SUPERNODE_BASE_MEMORY_H
#define SUPERNODE_BASE_MEMORY_H

#include <stdint.h>

/* Bytes: what the machine has available (page cache counted in), or what the control group leaves
 * if that is less. 0 where nothing says. */
uint64_t memory_available(void);

#endif

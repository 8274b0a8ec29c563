/* SPDX-License-Identifier: Apache-2.0 */
/* The descriptions of hardware/ inside the binary, as they stand there. */
#ifndef SUPERNODE_SIM_EMBEDDED_H
#define SUPERNODE_SIM_EMBEDDED_H

#include <stdbool.h>
#include <stddef.h>

/* The bytes live as long as the program; false: there is none of this name. */
bool embedded_hardware(const char *name, const char **bytes, size_t *len);

#endif

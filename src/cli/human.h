/* SPDX-License-Identifier: Apache-2.0 */
/* Figures for people: three or four digits and a unit. */
#ifndef SUPERNODE_CLI_HUMAN_H
#define SUPERNODE_CLI_HUMAN_H

#include <stddef.h>

/* "671.03 B", "11.1 M"; "31.9 GB", "22 MB" (10^9, 10^6). Both return out. */
const char *human_count(char *out, size_t size, double v);
const char *human_bytes(char *out, size_t size, double v);

#endif

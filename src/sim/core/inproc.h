/* SPDX-License-Identifier: Apache-2.0 */
/* The bus inside one process, for tests: endpoints of one hub, on one thread or several. */
#ifndef SUPERNODE_SIM_CORE_INPROC_H
#define SUPERNODE_SIM_CORE_INPROC_H

#include "bus/bus.h"

struct inproc_hub;

enum st ST_CHECKED inproc_hub_new(struct inproc_hub **out, struct err *err);
void inproc_hub_free(struct inproc_hub *h); /* its endpoints were freed; NULL is allowed */

/* address: a name in the hub; NULL: none comes. */
enum st ST_CHECKED inproc_bus_new(struct bus **out, struct inproc_hub *h, const char *address,
                                  const struct bus_identity *identity, struct err *err);

#endif

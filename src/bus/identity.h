/* SPDX-License-Identifier: Apache-2.0 */
/* Who may talk to whom. */
#ifndef SUPERNODE_BUS_IDENTITY_H
#define SUPERNODE_BUS_IDENTITY_H

#include "bus/bus.h"

/* Strings end, lengths are in range: the caller's, or a peer's. */
bool identity_is_valid(const struct bus_identity *i);

/* False, with the sentence for whoever asked to be let in: one model and one profile, or any. */
bool identity_agrees(const struct bus_identity *ours, const struct bus_identity *theirs,
                     struct err *why);

#endif

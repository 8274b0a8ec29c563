/* SPDX-License-Identifier: Apache-2.0 */
/* Implements identity.h. */
#include "bus/identity.h"

#include <string.h>

bool identity_is_valid(const struct bus_identity *i) {
    return memchr(i->name, 0, sizeof i->name) && memchr(i->model_id, 0, sizeof i->model_id) &&
           memchr(i->profile, 0, sizeof i->profile) && i->hello_len <= sizeof i->hello;
}

static bool differ(const char *a, const char *b) {
    return *a && *b && strcmp(a, b) != 0;
}

bool identity_agrees(const struct bus_identity *ours, const struct bus_identity *theirs,
                     struct err *why) {
    if (differ(ours->profile, theirs->profile))
        err_set(why, ST_INVALID, "%s: has numeric profile %s, expected %s", theirs->name,
                theirs->profile, ours->profile);
    else if (differ(ours->model_id, theirs->model_id))
        err_set(why, ST_INVALID,
                "%s: has model_id %.12s, expected %.12s: another model, KV type or layout",
                theirs->name, theirs->model_id, ours->model_id);
    else
        return true;
    return false;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A weight source that is a sorted table of views: what the checkpoint, random weights and golden
 * files fill. */
#ifndef SUPERNODE_MODEL_WEIGHT_TABLE_H
#define SUPERNODE_MODEL_WEIGHT_TABLE_H

#include <stddef.h>

#include "model/weights.h"

struct weight_entry {
    struct weight_key key;
    struct ops_weight w; /* whole tensor */
};

struct weight_table {
    const char *name;       /* borrowed: stands in errors */
    bool tied;              /* W_HEAD is W_EMBED */
    struct weight_entry *v; /* in the order of weight_visit */
    size_t len, cap;
};

/* Room for every tensor of c. */
enum st ST_CHECKED weight_table_init(struct weight_table *t, const struct model_config *c,
                                     const char *name, struct err *err);
void weight_table_release(struct weight_table *t);
/* In the order of weight_visit. */
void weight_table_add(struct weight_table *t, struct weight_key key, const struct ops_weight *w);
struct weight_source weight_table_source(struct weight_table *t);

#endif

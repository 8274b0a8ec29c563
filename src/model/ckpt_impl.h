/* SPDX-License-Identifier: Apache-2.0 */
/* What ckpt.c (opening, weights) and ckpt_id.c (identity, statistics, the hub's cache) share. */
#ifndef SUPERNODE_MODEL_CKPT_IMPL_H
#define SUPERNODE_MODEL_CKPT_IMPL_H

#include "base/arena.h"
#include "model/ckpt.h"
#include "model/safetensors.h"
#include "model/weight_table.h"

struct ckpt {
    char dir[CKPT_PATH_BYTES];
    json_t *config_json;
    struct model_config config;
    struct config_facts facts;
    struct generation_config generation;
    struct safetensors *shards;
    char **shard_names; /* ascending */
    uint32_t n_shards;
    const char *list; /* the file that says which tensors there are: the index or the only shard */
    const struct safetensors_tensor **by_name; /* sorted */
    size_t n_by_name;
    struct weight_table weights;
    struct arena scales; /* copies of scales that are not aligned F32 in the file */
};

#endif

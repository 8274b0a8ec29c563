/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face checkpoint directory, memory-mapped, as a weight source: config.json and one
 * model.safetensors or the shards of model.safetensors.index.json. Opening checks every tensor the
 * model needs (there, shape, type, FP8 scales), so that nothing can fail later. Weights stay where
 * they are in the mapping. */
#ifndef SUPERNODE_MODEL_CKPT_H
#define SUPERNODE_MODEL_CKPT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/config.h"
#include "model/config_json.h"
#include "model/weights.h"

struct ckpt;

enum st ST_CHECKED ckpt_open(struct ckpt **out, const char *dir, struct err *err);
void ckpt_close(struct ckpt *c); /* NULL is allowed */

const char *ckpt_dir(const struct ckpt *c);
const struct model_config *ckpt_config(const struct ckpt *c);
const struct config_facts *ckpt_facts(const struct ckpt *c);
const struct generation_config *ckpt_generation(const struct ckpt *c);

/* Borrowed views: valid until ckpt_close. */
struct weight_source ckpt_source(struct ckpt *c);

struct ckpt_stats {
    uint32_t n_shards;
    uint64_t bytes;         /* of tensor data the model uses */
    uint64_t params;        /* main model: what the forward pass of one answer can touch */
    uint64_t params_active; /* per token: chosen and shared experts, embedding counted as one row */
    uint64_t params_mtp;    /* the MTP layer's own (duplicates of embedding and head not counted) */
    const char *dtype;      /* of most bytes: "BF16", "F8_E4M3", ... */
};
void ckpt_stats(const struct ckpt *c, struct ckpt_stats *out);

/* contracts 5. weights_id: 64 hex digits and NUL; *how is "sha256 file", "blob names" or "samples".
 */
enum { CKPT_ID_BYTES = 65 };
enum st ST_CHECKED ckpt_weights_id(const struct ckpt *c, char id[CKPT_ID_BYTES], const char **how,
                                   struct err *err);
/* Reads every byte of the shards and writes supernode.sha256 beside them, by which ckpt_weights_id
 * then goes. progress (may be NULL) is called every 16 MiB. */
typedef void ckpt_progress_fn(void *ctx, uint64_t bytes_done, uint64_t bytes_all);
enum st ST_CHECKED ckpt_write_sha256(const struct ckpt *c, ckpt_progress_fn *progress, void *ctx,
                                     struct err *err);
/* SHA-256 over weights_id, numeric profile, KV type and KV layout version. */
enum st ST_CHECKED ckpt_model_id(char id[CKPT_ID_BYTES], const char *weights_id,
                                 const char *profile, const char *kv_dtype,
                                 uint32_t kv_layout_version, struct err *err);

/* A directory as it is, or a hub id "org/name" in the Hugging Face cache (HF_HUB_CACHE,
 * HF_HOME/hub,
 * ~/.cache/huggingface/hub): path gets the snapshot that refs/main names. */
enum { CKPT_PATH_BYTES = 4096 };
enum st ST_CHECKED ckpt_resolve(char path[CKPT_PATH_BYTES], const char *model, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One model made ready to run in this process: checkpoint, kernels, thread team, KV pages and a
 * step. What every command that computes starts with. */
#ifndef SUPERNODE_ENGINE_INSTANCE_H
#define SUPERNODE_ENGINE_INSTANCE_H

#include "base/team.h"
#include "bus/bus.h"
#include "model/ckpt.h"
#include "model/kv.h"
#include "model/model.h"
#include "model/step.h"
#include "pool/block.h"

enum kv_choice {
    KV_CHOICE_AUTO /* F32 for F32 checkpoints, else BF16 */,
    KV_CHOICE_F32,
    KV_CHOICE_BF16
};
const char *kv_dtype_name(enum ops_dtype dtype); /* "f32" or "bf16" */

/* Part of model_id: peers of different profiles refuse each other (contracts 1). */
extern const char instance_profile[];

struct instance_options {
    const char *model; /* directory or hub id */
    uint32_t threads;  /* 0: all cores this process may use */
    enum kv_choice kv;
    uint32_t
        max_model_len; /* 0: max_position_embeddings, or what the cache holds if that is less */
    uint64_t kv_bytes; /* for KV pages; 0: automatic, from the memory that is free */
    uint32_t kv_seqs;  /* automatic: so many of the longest sequences are enough; at least 1 */
    struct step_limits workspaces[2]; /* automatic: leave room for these; rows_max 0: none */
    uint32_t chunk_rows;              /* most rows of the instance's own step; 0: none is made */
    uint32_t logits_rows;             /* most rows with logits in one step */
    struct bus *bus;                  /* KV pages in a segment of it, for peers to read; NULL: no */
};

struct instance {
    struct ckpt *ckpt;
    struct model_config config;
    const struct ops_kernels *kernels;
    struct team *team;
    struct model *model;
    struct kv kv;
    struct step *step; /* NULL: an executor has its own */
    uint32_t max_model_len;
    char weights_id[CKPT_ID_BYTES], model_id[CKPT_ID_BYTES];
    const char *weights_id_how;
    /* Where pages are shared: their segment, and a generation for each (pool/block.h). */
    struct bus *bus;
    bus_id segment;
    _Atomic uint64_t *generations;
};

/* What every command that shows or needs an identity shares with the instance. */
enum ops_dtype instance_kv_dtype(enum kv_choice choice, const struct ckpt *c);
enum st ST_CHECKED instance_model_id(char id[CKPT_ID_BYTES], const char *weights_id,
                                     enum ops_dtype kv, struct err *err);

/* The environment variable SUPERNODE_ISA forces a kernel table. On failure nothing is held. */
enum st ST_CHECKED instance_open(struct instance *in, const struct instance_options *o,
                                 struct err *err);
void instance_close(struct instance *in);

/* A page of KV as bus and pool see it. */
struct block_shape instance_shape(const struct model_config *c, enum ops_dtype dtype);

/* EOS ids inside the vocabulary: those of generation_config.json, else of config.json. Returns how
 * many. */
uint32_t instance_eos_ids(uint32_t ids[CONFIG_EOS_MAX], const struct ckpt *c);

#endif

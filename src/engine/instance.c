/* SPDX-License-Identifier: Apache-2.0 */
/* Implements instance.h. KV address space is reserved at once; memory comes as pages are written. */
#include "engine/instance.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/engine.h"

const char instance_profile[] = "f32";

const char *kv_dtype_name(enum ops_dtype dtype) {
    return dtype == OPS_F32 ? "f32" : "bf16";
}

enum ops_dtype instance_kv_dtype(enum kv_choice choice, const struct ckpt *c) {
    if (choice == KV_CHOICE_F32) return OPS_F32;
    if (choice == KV_CHOICE_BF16) return OPS_BF16;
    struct ckpt_stats stats;
    ckpt_stats(c, &stats);
    return strcmp(stats.dtype, "F32") == 0 ? OPS_F32 : OPS_BF16;
}

enum st instance_model_id(char id[CKPT_ID_BYTES], const char *weights_id, enum ops_dtype kv,
                          struct err *err) {
    return ckpt_model_id(id, weights_id, instance_profile, kv_dtype_name(kv), KV_LAYOUT_VERSION,
                         err);
}

/* Pages that the memory holds: a share of what is free once the weights and workspaces are in it. */
static uint64_t automatic_pages(const struct instance *in, const struct instance_options *o,
                                uint64_t page_bytes) {
    struct ckpt_stats stats;
    ckpt_stats(in->ckpt, &stats);
    uint64_t free = memory_available(), need = stats.bytes;
    for (int i = 0; i < 2; i++)
        if (o->workspaces[i].rows_max)
            need += step_bytes(&in->config, o->workspaces[i], team_size(in->team), 0);
    /* weights that do not fit are read again and again; some cache must still be */
    uint64_t left = free > need ? (free - need) / 10 * 8 : free / 8;
    return left / page_bytes;
}

struct block_shape instance_shape(const struct model_config *c, enum ops_dtype dtype) {
    struct block_shape s = {.n_layers = config_layers_all(c),
                            .tail_bytes = c->n_mtp ? c->hidden * (uint32_t)sizeof(float) : 0};
    s.layer_bytes = (uint32_t)((kv_page_bytes_all(c, dtype) - s.tail_bytes) / s.n_layers);
    return s;
}

static enum st make_kv(struct instance *in, const struct instance_options *o, enum ops_dtype dtype,
                       uint32_t n_pages, struct err *err) {
    if (!o->bus) return kv_init(&in->kv, &in->config, dtype, n_pages, NULL, err);
    struct block_shape shape = instance_shape(&in->config, dtype);
    void *memory;
    enum st st = bus_segment_new(o->bus, paged_bytes(&shape, n_pages), BUS_PEERS_READ, &in->segment,
                                 &memory, err);
    if (st) return st;
    in->bus = o->bus;
    in->generations =
        (_Atomic uint64_t *)(void *)((uint8_t *)memory + paged_generation_at(&shape, n_pages, 0));
    return kv_init(&in->kv, &in->config, dtype, n_pages, memory, err);
}

static enum st open_kv(struct instance *in, const struct instance_options *o, struct err *err) {
    enum ops_dtype dtype = instance_kv_dtype(o->kv, in->ckpt);
    uint64_t page_bytes = kv_page_bytes_all(&in->config, dtype), seqs = o->kv_seqs ? o->kv_seqs : 1;
    in->max_model_len = o->max_model_len ? o->max_model_len : in->config.max_positions;
    if (in->max_model_len > in->config.max_positions)
        return err_set(err, ST_INVALID, "max-model-len: %u exceeds max_position_embeddings %u",
                       in->max_model_len, in->config.max_positions);
    uint64_t pages = o->kv_bytes ? o->kv_bytes / page_bytes : automatic_pages(in, o, page_bytes);
    uint64_t one = engine_pages_min(in->max_model_len),
             enough = one * seqs + seqs / 4 + 1; /* and what admission keeps free */
    if (pages > enough && !o->kv_bytes) pages = enough;
    if (pages > UINT32_MAX / 4) pages = UINT32_MAX / 4;
    if (pages < one && !o->max_model_len && pages >= engine_pages_min(KV_PAGE_TOKENS)) {
        one = pages;
        in->max_model_len = (uint32_t)(pages - 1) * KV_PAGE_TOKENS;
    }
    if (pages < one)
        return err_set(err, ST_INVALID,
                       "KV cache: %.1f MB hold %llu tokens, but one sequence may have %u; lower "
                       "max-model-len or raise kv-cache-memory",
                       (double)(o->kv_bytes ? o->kv_bytes : pages * page_bytes) / 1e6,
                       (unsigned long long)pages * KV_PAGE_TOKENS, in->max_model_len);
    /* one more, for an executor to write what nobody reads */
    return make_kv(in, o, dtype, (uint32_t)pages + 1, err);
}

static enum st open_parts(struct instance *in, const struct instance_options *o, struct err *err) {
    char path[CKPT_PATH_BYTES];
    enum st st = ckpt_resolve(path, o->model, err);
    if (!st) st = ckpt_open(&in->ckpt, path, err);
    if (!st) st = ops_kernels_select(&in->kernels, getenv("SUPERNODE_ISA"), err);
    if (!st) st = team_new(&in->team, o->threads ? o->threads : team_cores(), err);
    if (st) return st;
    in->config = *ckpt_config(in->ckpt);
    struct weight_source source = ckpt_source(in->ckpt);
    st = model_new(&in->model, &in->config, &source, in->kernels, err);
    if (st) return st;
    st = open_kv(in, o, err);
    struct step_limits limits = {.rows_max = o->chunk_rows, .logits_max = o->logits_rows};
    if (!st && o->chunk_rows > 0)
        st = step_new(&in->step, in->model, &in->kv, in->team, limits, err);
    if (!st) st = ckpt_weights_id(in->ckpt, in->weights_id, &in->weights_id_how, err);
    if (!st) st = instance_model_id(in->model_id, in->weights_id, in->kv.dtype, err);
    return st;
}

enum st instance_open(struct instance *in, const struct instance_options *o, struct err *err) {
    *in = (struct instance){0};
    enum st st = open_parts(in, o, err);
    if (st) instance_close(in);
    return st;
}

void instance_close(struct instance *in) {
    step_free(in->step);
    kv_release(&in->kv);
    if (in->bus) bus_segment_free(in->bus, in->segment);
    model_free(in->model);
    team_free(in->team);
    ckpt_close(in->ckpt);
    *in = (struct instance){0};
}

uint32_t instance_eos_ids(uint32_t ids[CONFIG_EOS_MAX], const struct ckpt *c) {
    const struct generation_config *g = ckpt_generation(c);
    const struct config_facts *f = ckpt_facts(c);
    const int64_t *from = g->n_eos ? g->eos : f->eos;
    uint32_t n_from = g->n_eos ? g->n_eos : f->n_eos, n = 0;
    for (uint32_t i = 0; i < n_from; i++)
        if (from[i] < ckpt_config(c)->vocab) ids[n++] = (uint32_t)from[i];
    return n;
}

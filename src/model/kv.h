/* SPDX-License-Identifier: Apache-2.0 */
/* KV pages (contracts 4): 128 slots; for every layer a page holds 128 rows [latent kv_lora, rotated
 * k_pe], 64-byte aligned, and where there is MTP each page also keeps the final-normed hidden state
 * of its last slot, F32. One page index addresses the same slot in every layer. Who owns which page
 * is the caller's business: this is memory and arithmetic. */
#ifndef SUPERNODE_MODEL_KV_H
#define SUPERNODE_MODEL_KV_H

#include <stdint.h>

#include "base/err.h"
#include "model/config.h"
#include "ops/weight.h"

enum { KV_PAGE_TOKENS = 128, KV_LAYOUT_VERSION = 1 };

struct kv {
    enum ops_dtype dtype;         /* OPS_F32 or OPS_BF16 */
    uint32_t n_pages, n_layers;   /* the MTP layer counted */
    uint32_t row_values;          /* kv_lora + rope */
    size_t row_bytes, page_bytes; /* of one layer; page_bytes is a multiple of 64 */
    uint32_t hidden;              /* floats kept a page; 0 without MTP */
    uint8_t *rows;                /* [n_layers][n_pages][page_bytes] */
    float *hiddens;               /* [n_pages][hidden] */
    size_t map_bytes;             /* 0: borrowed memory */
};

/* Bytes all layers take for one page, hidden state included. */
uint64_t kv_page_bytes_all(const struct model_config *c, enum ops_dtype dtype);

/* memory NULL: reserves address space for n_pages, and memory comes with the first write to a page.
 * Otherwise pages lie in memory [kv_page_bytes_all * n_pages], borrowed and zeroed. */
enum st ST_CHECKED kv_init(struct kv *kv, const struct model_config *c, enum ops_dtype dtype,
                           uint32_t n_pages, void *memory, struct err *err);
void kv_release(struct kv *kv);

static inline uint8_t *kv_page(const struct kv *kv, uint32_t layer, uint32_t page) {
    return kv->rows + ((size_t)layer * kv->n_pages + page) * kv->page_bytes;
}
static inline float *kv_hidden(const struct kv *kv, uint32_t page) {
    return kv->hiddens + (size_t)page * kv->hidden;
}

/* Writes one row [row_values] into slot of page, rounding once if the pages are BF16. */
void kv_write(const struct kv *kv, uint32_t layer, uint32_t page, uint32_t slot, const float *row);

/* All layers of one page, and its hidden state, to another. */
void kv_copy(const struct kv *kv, uint32_t to, uint32_t from);

#endif

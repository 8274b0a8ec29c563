/* SPDX-License-Identifier: Apache-2.0 */
/* Implements kv.h with one anonymous mapping: pages that nobody wrote cost no memory. */
#include "model/kv.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"

static size_t page_bytes(const struct model_config *c, enum ops_dtype dtype) {
    size_t bytes = (size_t)config_kv_row(c) * ops_dtype_bytes(dtype) * KV_PAGE_TOKENS;
    return (bytes + 63) / 64 * 64;
}

uint64_t kv_page_bytes_all(const struct model_config *c, enum ops_dtype dtype) {
    uint64_t hidden = c->n_mtp ? (uint64_t)c->hidden * sizeof(float) : 0;
    return (uint64_t)page_bytes(c, dtype) * config_layers_all(c) + hidden;
}

enum st kv_init(struct kv *kv, const struct model_config *c, enum ops_dtype dtype, uint32_t n_pages,
                void *memory, struct err *err) {
    assert(dtype == OPS_F32 || dtype == OPS_BF16);
    *kv = (struct kv){.dtype = dtype,
                      .n_pages = n_pages,
                      .n_layers = config_layers_all(c),
                      .row_values = config_kv_row(c),
                      .row_bytes = config_kv_row(c) * ops_dtype_bytes(dtype),
                      .page_bytes = page_bytes(c, dtype),
                      .hidden = c->n_mtp ? c->hidden : 0};
    uint64_t bytes;
    if (!u64_mul(&bytes, kv_page_bytes_all(c, dtype), n_pages) || bytes > SIZE_MAX / 2 ||
        n_pages == 0)
        return err_set(err, ST_INVALID, "KV cache: %u pages are too many or none", n_pages);
    void *p = memory ? memory
                     : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, ST_NO_MEMORY, "KV cache: cannot map %llu bytes: %s",
                       (unsigned long long)bytes, strerror(errno));
    madvise(p, bytes, MADV_HUGEPAGE);
    kv->rows = p;
    kv->map_bytes = memory ? 0 : bytes;
    kv->hiddens = (float *)(void *)(kv->rows + (size_t)kv->n_layers * n_pages * kv->page_bytes);
    return ST_OK;
}

void kv_release(struct kv *kv) {
    if (kv->map_bytes) munmap(kv->rows, kv->map_bytes);
    *kv = (struct kv){0};
}

void kv_write(const struct kv *kv, uint32_t layer, uint32_t page, uint32_t slot, const float *row) {
    assert(layer < kv->n_layers);
    assert(page < kv->n_pages);
    assert(slot < KV_PAGE_TOKENS);
    uint8_t *at = kv_page(kv, layer, page) + slot * kv->row_bytes;
    if (kv->dtype == OPS_F32) {
        memcpy(at, row, kv->row_bytes);
        return;
    }
    uint16_t *out = (uint16_t *)(void *)at;
    for (uint32_t i = 0; i < kv->row_values; i++) out[i] = ops_f32_to_bf16(row[i]);
}

void kv_copy(const struct kv *kv, uint32_t to, uint32_t from) {
    assert(to < kv->n_pages && from < kv->n_pages && to != from);
    for (uint32_t layer = 0; layer < kv->n_layers; layer++)
        memcpy(kv_page(kv, layer, to), kv_page(kv, layer, from), kv->page_bytes);
    if (kv->hidden) memcpy(kv_hidden(kv, to), kv_hidden(kv, from), kv->hidden * sizeof(float));
}

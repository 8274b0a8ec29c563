/* SPDX-License-Identifier: Apache-2.0 */
/* Multi-head latent attention over paged latents, in its two forms (DeepSeek-V2 paper 2.1,
 * contracts 1 and 2). Both walk blocks of 128 keys at absolute slots from slot 0 with an online
 * softmax, so the bits of one query do not depend on how a prompt was chunked or what shares the
 * step. They are built on ops_kernels: scores are `dot`, P V and the absorbed key projection are
 * `chain`. */
#ifndef SUPERNODE_OPS_ATTENTION_H
#define SUPERNODE_OPS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "ops/kernels.h"

enum { OPS_KV_BLOCK = 128 };

/* One layer of one sequence's cache. Block b covers slots [128 b, 128 b + 128); each row is [latent
 * kv_lora, k_pe rope]. */
struct ops_kv_view {
    enum ops_dtype dtype; /* OPS_F32 or OPS_BF16 */
    size_t row_bytes;
    const void *const *blocks; /* n_blocks pointers to row 0 of a block */
    uint32_t n_blocks;
    uint32_t first_slot; /* 0, or 1 for MTP rows (slot 0 is empty and skipped) */
};

struct ops_mla_shape {
    uint32_t kv_lora, nope, rope, v_dim;
    float scale;
};

struct ops_block_range {
    uint32_t first, end;
};

/* Expanded form, one head, over blocks [range.first, range.end): keys and values of each block are
 * made from the latents with kv_b and dropped again. Ranges come in order, from block 0 to the last
 * that a query sees; between them the softmax lives in m, l and out, so that a long chunk can pause.
 *   out   n_tok rows of v_dim, out_stride floats apart
 *   q     n_tok rows of [nope, rope] (rotated), q_stride floats apart
 *   slot  [n_tok] ascending: query t sees slots first_slot .. slot[t]
 *   m, l  [n_tok] running maximum and sum: begun at block 0; the last block divides out by l
 *   kv_b  the layer's kv_b_proj; this head's rows are head * (nope + v_dim) + [0, nope + v_dim)
 *   ws    ops_mla_expanded_workspace_bytes(shape), 64-byte aligned */
void ops_mla_expanded(const struct ops_kernels *k, float *out, size_t out_stride, const float *q,
                      size_t q_stride, const uint32_t *slot, uint32_t n_tok,
                      const struct ops_kv_view *kv, const struct ops_weight *kv_b, uint32_t head,
                      const struct ops_mla_shape *shape, struct ops_block_range range, float *m,
                      float *l, void *ws);
size_t ops_mla_expanded_workspace_bytes(const struct ops_mla_shape *shape);

/* Absorbed form, one query token, heads [head0, head0 + n_heads): q_nope is carried through W_UK
 * into latent space, attention runs on the latents themselves, and W_UV brings the result back.
 *   out   n_heads rows of v_dim, out_stride floats apart
 *   q     n_heads rows of [nope, rope] (rotated), q_stride floats apart
 *   slot  the query's own slot
 *   ws    ops_mla_absorbed_workspace_bytes(n_heads, shape), 64-byte aligned */
void ops_mla_absorbed(const struct ops_kernels *k, float *out, size_t out_stride, const float *q,
                      size_t q_stride, uint32_t slot, const struct ops_kv_view *kv,
                      const struct ops_weight *kv_b, uint32_t head0, uint32_t n_heads,
                      const struct ops_mla_shape *shape, void *ws);
size_t ops_mla_absorbed_workspace_bytes(uint32_t n_heads, const struct ops_mla_shape *shape);

#endif

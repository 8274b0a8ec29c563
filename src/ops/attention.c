/* SPDX-License-Identifier: Apache-2.0 */
/* Latent attention from the kernels: a block's 128 rows are a weight matrix, so scores are `dot`
 * and P V is `chain`. What lies past a query's own slot is masked by count, never read as a number:
 * within the newest block a query's softmax and chain simply stop early, and rows past the newest
 * visible key are not touched at all. Expanded (prompt): K and V of a block are made from the
 * latents for one head, used by all queries, dropped. Absorbed (generated): q goes through W_UK
 * once, the latents are keys and values, W_UV comes last. */
#include "ops/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Queries scored together: their scores (64 KiB) stay in the second-level cache between dot,
 * softmax and chain. */
enum { QUERIES = 128 };

/* Values of one key to the next: a cache line more than their width, which is a power of two in
 * real models and would put the same columns of all keys into the same few cache sets. */
static uint32_t value_stride(const struct ops_mla_shape *shape) {
    return shape->v_dim + 16;
}

static size_t aligned(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static float *take(uint8_t **ws, size_t floats) {
    float *p = (float *)*ws;
    *ws += aligned(floats * sizeof(float));
    return p;
}

static void scale_row(float *x, float a, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] *= a;
}

static void divide_row(float *x, float l, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] /= l;
}

static struct ops_weight block_view(const struct ops_kv_view *kv, uint32_t block, uint32_t cols) {
    return (struct ops_weight){.dtype = kv->dtype,
                               .rows = OPS_KV_BLOCK,
                               .cols = cols,
                               .data = kv->blocks[block],
                               .stride_bytes = kv->row_bytes};
}

static struct ops_weight tile_view(const float *tile, uint32_t cols, uint32_t stride) {
    return (struct ops_weight){.dtype = OPS_F32,
                               .rows = OPS_KV_BLOCK,
                               .cols = cols,
                               .data = tile,
                               .stride_bytes = stride * sizeof(float)};
}

static uint32_t block_rows(uint32_t slot, uint32_t base) {
    return slot - base < OPS_KV_BLOCK - 1 ? slot - base + 1 : OPS_KV_BLOCK;
}

/* --- expanded --------------------------------------------------------------------------------- */

struct expanded {
    const struct ops_kernels *k;
    const struct ops_mla_shape *shape;
    float *s;      /* [QUERIES, OPS_KV_BLOCK] */
    float *latent; /* [OPS_KV_BLOCK, kv_lora] */
    float *keys;   /* [OPS_KV_BLOCK, nope + rope] */
    float *values; /* [OPS_KV_BLOCK, value_stride] */
    void *dot_ws;
};

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

size_t ops_mla_expanded_workspace_bytes(const struct ops_mla_shape *shape) {
    uint32_t key = shape->nope + shape->rope;
    size_t rows = (size_t)shape->kv_lora + key + value_stride(shape) + QUERIES;
    return rows * OPS_KV_BLOCK * sizeof(float) +
           ops_dot_workspace_bytes(max_u32(shape->kv_lora, key));
}

static struct expanded expanded_carve(const struct ops_kernels *k,
                                      const struct ops_mla_shape *shape, void *ws) {
    uint8_t *at = ws;
    struct expanded e = {.k = k, .shape = shape};
    e.s = take(&at, QUERIES * OPS_KV_BLOCK);
    e.latent = take(&at, (size_t)OPS_KV_BLOCK * shape->kv_lora);
    e.keys = take(&at, (size_t)OPS_KV_BLOCK * (shape->nope + shape->rope));
    e.values = take(&at, (size_t)OPS_KV_BLOCK * value_stride(shape));
    e.dot_ws = at;
    return e;
}

/* Keys and values of rows [first, end) of a block, for the head whose kv_b rows begin at row0. */
static void expand(const struct expanded *e, const struct ops_weight *block, uint32_t first,
                   uint32_t end, const struct ops_weight *kv_b, uint32_t row0) {
    const struct ops_mla_shape *sh = e->shape;
    uint32_t key = sh->nope + sh->rope, n = end - first;
    for (uint32_t r = first; r < end; r++) {
        ops_weight_row(e->latent + (size_t)r * sh->kv_lora, block, r, 0, sh->kv_lora);
        ops_weight_row(e->keys + (size_t)r * key + sh->nope, block, r, sh->kv_lora, sh->rope);
    }
    const float *x = e->latent + (size_t)first * sh->kv_lora;
    e->k->dot(e->keys + (size_t)first * key, key, x, sh->kv_lora, n, kv_b, row0, sh->nope,
              e->dot_ws);
    e->k->dot(e->values + (size_t)first * value_stride(sh), value_stride(sh), x, sh->kv_lora, n,
              kv_b, row0 + sh->nope, sh->v_dim, e->dot_ws);
}

/* One block of keys for n <= QUERIES queries, whose state and output rows begin at m, l and out. */
static void attend(const struct expanded *e, float *out, size_t out_stride, const float *q,
                   size_t q_stride, const uint32_t *slot, uint32_t n, uint32_t base, uint32_t first,
                   float *m, float *l) {
    const struct ops_mla_shape *sh = e->shape;
    struct ops_weight keys = tile_view(e->keys, sh->nope + sh->rope, sh->nope + sh->rope);
    struct ops_weight values = tile_view(e->values, sh->v_dim, value_stride(sh));
    uint32_t depth[QUERIES];
    uint32_t depth_max = block_rows(slot[n - 1], base) - first;
    e->k->dot(e->s + first, OPS_KV_BLOCK, q, q_stride, n, &keys, first, depth_max, e->dot_ws);
    for (uint32_t t = 0; t < n; t++) {
        uint32_t end = block_rows(slot[t], base);
        depth[t] = end - first;
        float a = e->k->softmax_block(e->s + t * OPS_KV_BLOCK, first, end, sh->scale, m + t, l + t);
        scale_row(out + t * out_stride, a, sh->v_dim);
    }
    e->k->chain(out, out_stride, e->s + first, OPS_KV_BLOCK, n, depth, depth_max, &values, first,
                sh->v_dim);
}

void ops_mla_expanded(const struct ops_kernels *k, float *out, size_t out_stride, const float *q,
                      size_t q_stride, const uint32_t *slot, uint32_t n_tok,
                      const struct ops_kv_view *kv, const struct ops_weight *kv_b, uint32_t head,
                      const struct ops_mla_shape *shape, struct ops_block_range range, float *m,
                      float *l, void *ws) {
    if (n_tok == 0) return;
    struct expanded e = expanded_carve(k, shape, ws);
    uint32_t newest = slot[n_tok - 1], t0 = 0, n_blocks = newest / OPS_KV_BLOCK + 1;
    assert(slot[0] >= kv->first_slot && n_blocks <= kv->n_blocks);
    for (uint32_t t = 0; t < n_tok && range.first == 0; t++) {
        m[t] = -INFINITY;
        l[t] = 0;
        memset(out + t * out_stride, 0, shape->v_dim * sizeof *out);
    }
    for (uint32_t b = range.first; b < n_blocks && b < range.end; b++) {
        uint32_t base = b * OPS_KV_BLOCK, first = b == 0 ? kv->first_slot : 0;
        struct ops_weight block = block_view(kv, b, shape->kv_lora + shape->rope);
        expand(&e, &block, first, block_rows(newest, base), kv_b,
               head * (shape->nope + shape->v_dim));
        while (slot[t0] < base) t0++;
        for (uint32_t t = t0; t < n_tok; t += QUERIES) {
            uint32_t n = n_tok - t < QUERIES ? n_tok - t : QUERIES;
            attend(&e, out + t * out_stride, out_stride, q + t * q_stride, q_stride, slot + t, n,
                   base, first, m + t, l + t);
        }
    }
    if (range.end < n_blocks) return;
    for (uint32_t t = 0; t < n_tok; t++) divide_row(out + t * out_stride, l[t], shape->v_dim);
}

/* --- absorbed --------------------------------------------------------------------------------- */

size_t ops_mla_absorbed_workspace_bytes(uint32_t n_heads, const struct ops_mla_shape *shape) {
    size_t row = (size_t)2 * shape->kv_lora + shape->rope + OPS_KV_BLOCK + 2;
    return aligned(n_heads * row * sizeof(float)) +
           ops_dot_workspace_bytes(shape->kv_lora + shape->rope);
}

void ops_mla_absorbed(const struct ops_kernels *k, float *out, size_t out_stride, const float *q,
                      size_t q_stride, uint32_t slot, const struct ops_kv_view *kv,
                      const struct ops_weight *kv_b, uint32_t head0, uint32_t n_heads,
                      const struct ops_mla_shape *shape, void *ws) {
    const uint32_t lora = shape->kv_lora, key = lora + shape->rope;
    const uint32_t head_rows = shape->nope + shape->v_dim;
    float *ql = ws, *o = ql + (size_t)n_heads * key, *s = o + (size_t)n_heads * lora;
    float *m = s + (size_t)n_heads * OPS_KV_BLOCK, *l = m + n_heads;
    void *dot_ws = (uint8_t *)ws + ops_mla_absorbed_workspace_bytes(n_heads, shape) -
                   ops_dot_workspace_bytes(key);
    assert(slot >= kv->first_slot && slot / OPS_KV_BLOCK < kv->n_blocks);
    memset(ws, 0, (size_t)((float *)m - ql) * sizeof(float));
    for (uint32_t h = 0; h < n_heads; h++) {
        m[h] = -INFINITY;
        l[h] = 0;
        k->chain(ql + h * key, key, q + h * q_stride, q_stride, 1, NULL, shape->nope, kv_b,
                 (head0 + h) * head_rows, lora);
        memcpy(ql + h * key + lora, q + h * q_stride + shape->nope, shape->rope * sizeof *q);
    }
    for (uint32_t b = 0; b <= slot / OPS_KV_BLOCK; b++) {
        uint32_t base = b * OPS_KV_BLOCK, first = b == 0 ? kv->first_slot : 0;
        uint32_t end = block_rows(slot, base);
        struct ops_weight block = block_view(kv, b, key);
        k->dot(s + first, OPS_KV_BLOCK, ql, key, n_heads, &block, first, end - first, dot_ws);
        for (uint32_t h = 0; h < n_heads; h++) {
            float a =
                k->softmax_block(s + h * OPS_KV_BLOCK, first, end, shape->scale, m + h, l + h);
            scale_row(o + h * lora, a, lora);
        }
        k->chain(o, lora, s + first, OPS_KV_BLOCK, n_heads, NULL, end - first, &block, first, lora);
    }
    for (uint32_t h = 0; h < n_heads; h++) {
        divide_row(o + h * lora, l[h], lora);
        k->dot(out + h * out_stride, out_stride, o + h * lora, lora, 1, kv_b,
               (head0 + h) * head_rows + shape->nope, shape->v_dim, dot_ws);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the operator tests share: a small seeded generator, memory that ends at a page that must not
 * be touched, and random matrices of every stored type, odd codes included. */
#ifndef SUPERNODE_TESTS_OPS_TEST_H
#define SUPERNODE_TESTS_OPS_TEST_H

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ops/kernels.h"

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r) { /* splitmix64 */
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline uint32_t rng_below(struct rng *r, uint32_t n) {
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}
/* Roughly normal, variance 1. */
static inline float rng_float(struct rng *r) {
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(rng_next(r) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

/* bytes bytes that end exactly where an unreadable page begins; offset bytes before it stay unused
 * so that the pointer has any alignment. */
struct guarded {
    void *map;
    size_t map_bytes;
    void *data;
};
static inline struct guarded guarded_new(size_t bytes) {
    const size_t page = 65536; /* the largest page size of any host we run on */
    struct guarded g = {.map_bytes = (bytes + page - 1) / page * page + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(g.map != MAP_FAILED);
    uint8_t *end = (uint8_t *)g.map + g.map_bytes - page;
    int rc = mprotect(end, page, PROT_NONE);
    rc |= mprotect(g.map, page, PROT_NONE);
    assert(rc == 0);
    (void)rc;
    g.data = end - bytes;
    return g;
}
static inline void guarded_free(struct guarded *g) {
    munmap(g->map, g->map_bytes);
}

static inline int same_float(float a, float b) { /* any NaN equals any NaN */
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

enum test_codes { CODES_TAME, CODES_WILD /* every bit pattern: NaN, infinity, denormals, -0 */ };

struct test_matrix {
    struct ops_weight w;
    struct guarded data, scales;
};

static inline struct test_matrix matrix_new(struct rng *r, enum ops_dtype dtype, uint32_t rows,
                                            uint32_t cols, size_t pad_bytes, uint32_t row_base,
                                            enum test_codes codes) {
    struct test_matrix m = {.w = {.dtype = dtype, .rows = rows, .cols = cols}};
    size_t size = ops_dtype_bytes(dtype), stride = cols * size + pad_bytes;
    size_t bytes = rows ? (rows - 1) * stride + cols * size : 0;
    m.data = guarded_new(bytes);
    uint8_t *p = m.data.data;
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)rng_next(r);
    for (uint32_t i = 0; i < rows && codes == CODES_TAME; i++) {
        for (uint32_t j = 0; j < cols; j++) {
            float f = rng_float(r) * 0.1f;
            uint16_t bf = ops_f32_to_bf16(f), half = (uint16_t)(0x2000 + rng_below(r, 0x1800));
            if (f < 0) half |= 0x8000;
            uint8_t *at = p + i * stride + j * size;
            if (dtype == OPS_F32) memcpy(at, &f, 4);
            if (dtype == OPS_BF16) memcpy(at, &bf, 2);
            if (dtype == OPS_F16) memcpy(at, &half, 2);
            if (dtype == OPS_F8 && (*at & 0x7f) == 0x7f) *at = (uint8_t)(*at & 0x80);
        }
    }
    m.w.data = p;
    m.w.stride_bytes = stride;
    m.w.row_base = row_base;
    m.w.scale_stride = (cols + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK;
    size_t n = (size_t)m.w.scale_stride * ((row_base + rows) / OPS_SCALE_BLOCK + 1);
    m.scales = guarded_new(n * sizeof(float));
    float *s = m.scales.data;
    for (size_t i = 0; i < n; i++) s[i] = fabsf(rng_float(r)) * 0.01f + 1e-4f;
    m.w.scales = s;
    return m;
}
static inline void matrix_free(struct test_matrix *m) {
    guarded_free(&m->data);
    guarded_free(&m->scales);
}

static inline void fill_random(struct rng *r, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = rng_float(r);
}

#endif

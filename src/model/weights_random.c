/* SPDX-License-Identifier: Apache-2.0 */
/* Implements weights_random.h. A splitmix64 word fills 8 bytes; masks put sign, mantissa and two
 * bits of exponent where the type has them, so that 10 GB take seconds. */
#include "model/weights_random.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"

struct fill {
    struct weights_random *w;
    enum ops_dtype dtype;
    uint64_t seed;
    size_t at, scales_at;
    bool counting;
};

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Magnitudes in [2^(e - 3), 2^(e + 1)) with a random sign; e makes the largest about 2 /
 * sqrt(cols). */
static void pattern(enum ops_dtype dtype, uint32_t cols, bool vector, uint64_t *mask,
                    uint64_t *base) {
    int e = vector ? 0 : (int)floor(-0.5 * log2((double)cols));
    switch (dtype) {
    case OPS_F32:
        *mask = 0x81ffffff81ffffffu;
        *base = (uint64_t)(e + 127 - 3) << 23;
        *base |= *base << 32;
        break;
    case OPS_BF16:
        *mask = 0x81ff81ff81ff81ffu;
        *base = (uint64_t)(e + 127 - 3) << 7;
        *base |= *base << 16, *base |= *base << 32;
        break;
    case OPS_F16:
        *mask = 0x8fff8fff8fff8fffu;
        *base = (uint64_t)(e + 15 - 3) << 10;
        *base |= *base << 16, *base |= *base << 32;
        break;
    case OPS_F8:
        *mask = 0x9f9f9f9f9f9f9f9fu;
        *base =
            0x2020202020202020u; /* exponents 4 to 7: magnitudes in [1/8, 2), scaled by the block */
        break;
    }
}

static enum st add(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                   struct err *err) {
    struct fill *f = ctx;
    (void)err;
    bool vector = rows == 1;
    enum ops_dtype dtype =
        f->dtype == OPS_F8 && (vector || key.kind == W_ROUTER) ? OPS_BF16 : f->dtype;
    struct ops_weight w = {
        .dtype = dtype, .rows = rows, .cols = cols, .stride_bytes = cols * ops_dtype_bytes(dtype)};
    size_t bytes = (size_t)rows * w.stride_bytes, at = f->at, scales_at = f->scales_at;
    f->at += (bytes + 63) / 64 * 64;
    if (dtype == OPS_F8) {
        w.scale_stride = (cols + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK;
        f->scales_at += (size_t)((rows + OPS_SCALE_BLOCK - 1) / OPS_SCALE_BLOCK) * w.scale_stride;
    }
    if (f->counting) return ST_OK;
    uint64_t mask = 0, base = 0,
             state = f->seed ^ ((uint64_t)key.layer << 40 | (uint64_t)key.kind << 32 | key.expert) *
                                   0xd1342543de82ef95u;
    pattern(dtype, cols, vector, &mask, &base);
    uint8_t *out = f->w->map + at;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = (splitmix64(&state) & mask) + base;
        memcpy(out + i, &word, 8);
    }
    w.data = out;
    if (dtype == OPS_F8) {
        w.scales = f->w->scales + scales_at;
        for (size_t i = scales_at; i < f->scales_at; i++)
            f->w->scales[i] = (float)(1 / sqrt((double)cols));
    }
    weight_table_add(&f->w->table, key, &w);
    return ST_OK;
}

enum st weights_random_init(struct weights_random *w, const struct model_config *c,
                            enum ops_dtype dtype, uint64_t seed, struct err *err) {
    *w = (struct weights_random){0};
    struct fill f = {.w = w, .dtype = dtype, .seed = seed, .counting = true};
    enum st st = weight_table_init(&w->table, c, "random weights", err);
    if (!st) st = weight_visit(c, add, &f, err);
    if (st) return st;
    void *map = mmap(NULL, f.at, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    w->scales = malloc((f.scales_at + 1) * sizeof *w->scales);
    if (map != MAP_FAILED) w->map = map, w->map_bytes = f.at;
    if (map == MAP_FAILED || !w->scales) {
        weights_random_release(w);
        return err_set(err, ST_NO_MEMORY, "random weights: cannot get %zu bytes: %s", f.at,
                       strerror(errno));
    }
    madvise(map, f.at, MADV_HUGEPAGE);
    f = (struct fill){.w = w, .dtype = dtype, .seed = seed};
    return weight_visit(c, add, &f, err);
}

void weights_random_release(struct weights_random *w) {
    if (w->map) munmap(w->map, w->map_bytes);
    free(w->scales);
    weight_table_release(&w->table);
    *w = (struct weights_random){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
/* dot for AVX2: two registers are the 16 lanes of one output. The plan is that of avx512/dot.c,
 * whose head has the reasons; what differs is forced by 16 registers.
 *
 * Few tokens. Floor: the bytes of the weights; one row at a time, prefetched 12 KiB ahead.
 * Many tokens. Floor: the FMAs. A tile is 4 rows by 3 tokens in 12 registers, so the two halves of
 * the lanes are two passes over the columns; the panel (4 rows by 1024 columns, 16 KiB) holds them
 * apart, [half][step][row][8]. A step takes 7 loads for 12 FMAs. The halves meet only in the first
 * addition of the tree. For F8 the lanes stay in memory and take one FMA per scale block: there is
 * no room for sums and partial sums. */
#include "ops/avx2/avx2.h"

#include <assert.h>
#include <stdbool.h>

#include "ops/avx2/lanes.h"

enum { FEW_TOKENS = 3, AHEAD_BYTES = 12288 };
enum { TILE_ROWS = 4, TILE_TOKENS = 3, PANEL_COLS = 1024, TOKENS = 96, GROUP_ROWS = 32 };
static_assert(AVX2_DOT_WORKSPACE_BYTES ==
                  (PANEL_COLS * TILE_ROWS + TOKENS * GROUP_ROWS * 16) * sizeof(float),
              "a panel, and the lanes of a group of rows");

struct rows {
    const uint8_t *data; /* the first row of the call */
    size_t stride;
    const float *scales; /* F8: of the stored tensor's first scale row */
    size_t scale_stride;
    uint32_t absolute; /* F8: stored row of the first row */
    uint32_t cols;
};

INLINE const float *scale_row(const struct rows *w, uint32_t r) {
    return w->scales + (size_t)((w->absolute + r) / OPS_SCALE_BLOCK) * w->scale_stride;
}
INLINE uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}
INLINE uint32_t ceil_div(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

/* --- few tokens ------------------------------------------------------------------------------- */

/* acc[t] += x row t * w over n columns; a lane without a product is left untouched. */
INLINE void few_run(enum ops_dtype dtype, const uint32_t n_t, struct lanes acc[FEW_TOKENS],
                    const float *x, size_t x_stride, const uint8_t *w, uint32_t n) {
    const size_t size = ops_dtype_bytes(dtype);
    uint32_t k = 0;
    for (; k + 16 <= n; k += 16) {
        struct lanes v = load_codes(dtype, w + k * size);
        if (k * size % 64 == 0) _mm_prefetch((const char *)w + k * size + AHEAD_BYTES, _MM_HINT_T0);
        for (uint32_t t = 0; t < n_t; t++)
            acc[t] = lanes_fma(lanes_load(x + t * x_stride + k), v, acc[t]);
    }
    if (k == n) return;
    struct lanes v = load_codes_first(dtype, w + k * size, n - k);
    for (uint32_t t = 0; t < n_t; t++) {
        struct lanes xv = lanes_load_first(n - k, x + t * x_stride + k);
        acc[t] = lanes_first(n - k, lanes_fma(xv, v, acc[t]), acc[t]);
    }
}

INLINE void few_row_f8(const uint32_t n_t, struct lanes acc[FEW_TOKENS], const float *x,
                       size_t x_stride, const uint8_t *w, uint32_t cols, const float *scales) {
    for (uint32_t k = 0; k < cols; k += OPS_SCALE_BLOCK, scales++) {
        uint32_t len = min_u32(cols - k, OPS_SCALE_BLOCK);
        struct lanes part[FEW_TOKENS], scale = {_mm256_set1_ps(*scales), _mm256_set1_ps(*scales)};
        for (uint32_t t = 0; t < n_t; t++) part[t] = lanes_zero();
        if (len == OPS_SCALE_BLOCK) /* the same call, but with a length the compiler knows */
            few_run(OPS_F8, n_t, part, x + k, x_stride, w + k, OPS_SCALE_BLOCK);
        else
            few_run(OPS_F8, n_t, part, x + k, x_stride, w + k, len);
        for (uint32_t t = 0; t < n_t; t++) {
            struct lanes sum = lanes_fma(part[t], scale, acc[t]);
            acc[t] = len >= 16 ? sum : lanes_first(len, sum, acc[t]);
        }
    }
}

INLINE void few(enum ops_dtype dtype, const uint32_t n_t, float *out, size_t out_stride,
                const float *x, size_t x_stride, const struct rows *w, uint32_t n_rows) {
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = w->data + r * w->stride;
        struct lanes acc[FEW_TOKENS];
        for (uint32_t t = 0; t < n_t; t++) acc[t] = lanes_zero();
        if (dtype == OPS_F8)
            few_row_f8(n_t, acc, x, x_stride, row, w->cols, scale_row(w, r));
        else
            few_run(dtype, n_t, acc, x, x_stride, row, w->cols);
        for (uint32_t t = 0; t < n_t; t++) out[t * out_stride + r] = tree_sum(acc[t]);
    }
}

/* --- many tokens: one tile -------------------------------------------------------------------- */

typedef __m256 tile_acc[TILE_TOKENS][TILE_ROWS]; /* one half of the lanes */

/* 4 rows of a group over some columns. */
struct panel {
    const float *w; /* [half][step][row][8]; rows and lanes that do not exist are 0 */
    uint32_t n_rows, cols;
    bool first, last;               /* of a row's columns */
    const float *scales[TILE_ROWS]; /* F8: from the panel's first column on */
};

enum { HALF = PANEL_COLS * TILE_ROWS / 2 }; /* floats from half to half of a panel */

/* The lines of the weights that come next: one prefetch a step, advancing as fast as the tiles will
 * need them. */
struct ahead {
    const char *at;
    size_t advance;
};

/* acc += x * w over n columns; x and w begin at the half's first lane. */
INLINE void tile_run(const uint32_t n_t, tile_acc acc, const float *x, size_t x_stride,
                     const float *w, uint32_t n, int half, struct ahead *ahead) {
    uint32_t k = 0;
    for (; k + 16 <= n; k += 16) {
        __m256 xv[TILE_TOKENS];
        for (uint32_t t = 0; t < n_t; t++) xv[t] = _mm256_loadu_ps(x + t * x_stride + k);
        _mm_prefetch(ahead->at, _MM_HINT_T1);
        ahead->at += ahead->advance;
        for (uint32_t r = 0; r < TILE_ROWS; r++) {
            __m256 wv = _mm256_load_ps(w + k / 2 * TILE_ROWS + r * 8);
            __asm__("" : "+x"(wv)); /* or gcc loads it again in each FMA and fills the load ports */
            for (uint32_t t = 0; t < n_t; t++) acc[t][r] = _mm256_fmadd_ps(xv[t], wv, acc[t][r]);
        }
    }
    int left = (int)(n - k) - 8 * half;
    if (left <= 0) return;
    __m256i mask = mask8(left);
    for (uint32_t t = 0; t < n_t; t++) {
        __m256 xv = _mm256_maskload_ps(x + t * x_stride + k, mask);
        for (uint32_t r = 0; r < TILE_ROWS; r++)
            acc[t][r] = _mm256_blendv_ps(
                acc[t][r],
                _mm256_fmadd_ps(xv, _mm256_load_ps(w + k / 2 * TILE_ROWS + r * 8), acc[t][r]),
                _mm256_castsi256_ps(mask));
    }
}

/* F8: the columns [k, k + len) of one scale block, onto the lanes in memory. */
INLINE void tile_block_f8(const uint32_t n_t, float *lanes, const float *x, size_t x_stride,
                          const struct panel *p, uint32_t k, uint32_t len, int half,
                          struct ahead *ahead) {
    tile_acc part;
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t r = 0; r < TILE_ROWS; r++) part[t][r] = _mm256_setzero_ps();
    tile_run(n_t, part, x + k, x_stride, p->w + half * HALF + k / 2 * TILE_ROWS, len, half, ahead);
    __asm__ volatile("" ::: "memory"); /* or gcc keeps a second copy of the lanes on the stack */
    for (uint32_t r = 0; r < TILE_ROWS; r++) {
        __m256 scale = _mm256_set1_ps(p->scales[r][k / OPS_SCALE_BLOCK]);
        for (uint32_t t = 0; t < n_t; t++) {
            float *l = lanes + (t * TILE_ROWS + r) * 16;
            __m256 sum = _mm256_fmadd_ps(part[t][r], scale, _mm256_loadu_ps(l));
            if (len >= 16)
                _mm256_storeu_ps(l, sum);
            else
                _mm256_maskstore_ps(l, mask8((int)len - 8 * half), sum);
        }
    }
}

INLINE void tile_half_f8(const uint32_t n_t, float *lanes, const float *x, size_t x_stride,
                         const struct panel *p, int half, struct ahead *ahead) {
    uint32_t k = 0;
    for (uint32_t i = 0; i < n_t * TILE_ROWS && p->first; i++)
        _mm256_storeu_ps(lanes + i * 16, _mm256_setzero_ps());
    for (; k + OPS_SCALE_BLOCK <= p->cols; k += OPS_SCALE_BLOCK)
        tile_block_f8(n_t, lanes, x, x_stride, p, k, OPS_SCALE_BLOCK, half, ahead);
    if (k < p->cols) tile_block_f8(n_t, lanes, x, x_stride, p, k, p->cols - k, half, ahead);
}

INLINE void tile_half(const uint32_t n_t, float *lanes, const float *x, size_t x_stride,
                      const struct panel *p, int half, struct ahead *ahead) {
    tile_acc acc;
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t r = 0; r < TILE_ROWS; r++)
            acc[t][r] =
                p->first ? _mm256_setzero_ps() : _mm256_loadu_ps(lanes + (t * TILE_ROWS + r) * 16);
    tile_run(n_t, acc, x, x_stride, p->w + half * HALF, p->cols, half, ahead);
    for (uint32_t t = 0; t < n_t; t++)
        for (uint32_t r = 0; r < TILE_ROWS; r++)
            _mm256_storeu_ps(lanes + (t * TILE_ROWS + r) * 16, acc[t][r]);
}

/* lanes: [token][TILE_ROWS][16] of this tile, between halves and panels. */
INLINE void tile(enum ops_dtype dtype, const uint32_t n_t, float *out, size_t out_stride,
                 float *lanes, const float *x, size_t x_stride, const struct panel *p,
                 struct ahead *ahead) {
    for (int half = 0; half < 2; half++) {
        if (dtype == OPS_F8)
            tile_half_f8(n_t, lanes + 8 * half, x + 8 * half, x_stride, p, half, ahead);
        else
            tile_half(n_t, lanes + 8 * half, x + 8 * half, x_stride, p, half, ahead);
    }
    for (uint32_t t = 0; t < n_t && p->last; t++) {
        __m256 a[TILE_ROWS];
        for (uint32_t r = 0; r < TILE_ROWS; r++) {
            const float *l = lanes + (t * TILE_ROWS + r) * 16;
            a[r] = _mm256_add_ps(_mm256_loadu_ps(l), _mm256_loadu_ps(l + 8));
        }
        __m128i mask = _mm256_castsi256_si128(mask8((int)p->n_rows));
        _mm_maskstore_ps(out + t * out_stride, mask, tree_sum4(a));
    }
}

/* --- many tokens: panels and groups ----------------------------------------------------------- */

/* Widens rows [r0, r0 + n) and columns [k0, k0 + cols). A row that does not exist repeats the
 * first. */
INLINE void panel_fill(enum ops_dtype dtype, float *to, const struct rows *w, uint32_t r0,
                       uint32_t n, uint32_t k0, uint32_t cols) {
    const size_t size = ops_dtype_bytes(dtype);
    for (uint32_t r = 0; r < TILE_ROWS; r++) {
        const uint8_t *p = w->data + (r0 + (r < n ? r : 0)) * w->stride + k0 * size;
        for (uint32_t k = 0; k < cols; k += 16) {
            struct lanes v = k + 16 <= cols ? load_codes(dtype, p + k * size)
                                            : load_codes_first(dtype, p + k * size, cols - k);
            _mm256_store_ps(to + k / 2 * TILE_ROWS + r * 8, v.lo);
            _mm256_store_ps(to + HALF + k / 2 * TILE_ROWS + r * 8, v.hi);
        }
    }
}

INLINE void tiles(enum ops_dtype dtype, float *out, size_t out_stride, float *lanes, const float *x,
                  size_t x_stride, uint32_t n_tok, const struct panel *p, struct ahead *ahead) {
    uint32_t t = 0;
    for (; t + TILE_TOKENS <= n_tok; t += TILE_TOKENS)
        tile(dtype, TILE_TOKENS, out + t * out_stride, out_stride, lanes + t * TILE_ROWS * 16,
             x + t * x_stride, x_stride, p, ahead);
    for (; t < n_tok; t++)
        tile(dtype, 1, out + t * out_stride, out_stride, lanes + t * TILE_ROWS * 16,
             x + t * x_stride, x_stride, p, ahead);
}

/* Up to GROUP_ROWS rows and TOKENS tokens, columns outermost. */
INLINE void group(enum ops_dtype dtype, float *out, size_t out_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const struct rows *w, uint32_t r0,
                  uint32_t n_rows, float *ws) {
    float *panel = ws, *lanes = ws + PANEL_COLS * TILE_ROWS;
    uint32_t n_panels = ceil_div(n_rows, TILE_ROWS), n_tiles = ceil_div(n_tok, TILE_TOKENS);
    uint32_t steps = n_panels * n_tiles * ceil_div(w->cols, 16) * 2;
    struct ahead ahead = {.at = (const char *)w->data + (r0 + n_rows) * w->stride,
                          .advance = n_rows * w->stride / steps};
    if (ahead.advance > 64) ahead.advance = 64;
    for (uint32_t k = 0; k < w->cols; k += PANEL_COLS) {
        uint32_t cols = min_u32(w->cols - k, PANEL_COLS);
        for (uint32_t i = 0; i < n_panels; i++) {
            uint32_t r = r0 + i * TILE_ROWS;
            struct panel p = {.w = panel,
                              .n_rows = min_u32(r0 + n_rows - r, TILE_ROWS),
                              .cols = cols,
                              .first = k == 0,
                              .last = k + cols == w->cols};
            for (uint32_t j = 0; dtype == OPS_F8 && j < TILE_ROWS; j++)
                p.scales[j] = scale_row(w, r + (j < p.n_rows ? j : 0)) + k / OPS_SCALE_BLOCK;
            panel_fill(dtype, panel, w, r, p.n_rows, k, cols);
            tiles(dtype, out + r, out_stride, lanes + (size_t)i * n_tok * TILE_ROWS * 16, x + k,
                  x_stride, n_tok, &p, &ahead);
        }
    }
}

INLINE void many(enum ops_dtype dtype, float *out, size_t out_stride, const float *x,
                 size_t x_stride, uint32_t n_tok, const struct rows *w, uint32_t n_rows,
                 float *ws) {
    uint32_t share =
        ceil_div(n_tok, ceil_div(n_tok, TOKENS)); /* 128 are 66 and 62, not 96 and 32 */
    uint32_t step = ceil_div(share, TILE_TOKENS) * TILE_TOKENS;
    for (uint32_t t = 0; t < n_tok; t += step)
        for (uint32_t r = 0; r < n_rows; r += GROUP_ROWS)
            group(dtype, out + t * out_stride, out_stride, x + t * x_stride, x_stride,
                  min_u32(n_tok - t, step), w, r, min_u32(n_rows - r, GROUP_ROWS), ws);
}

INLINE void dot(enum ops_dtype dtype, float *out, size_t out_stride, const float *x,
                size_t x_stride, uint32_t n_tok, const struct rows *w, uint32_t n_rows, void *ws) {
    if (n_tok > FEW_TOKENS && w->cols > 0) {
        many(dtype, out, out_stride, x, x_stride, n_tok, w, n_rows, ws);
        return;
    }
    switch (n_tok) {
    case 1: few(dtype, 1, out, out_stride, x, x_stride, w, n_rows); return;
    case 2: few(dtype, 2, out, out_stride, x, x_stride, w, n_rows); return;
    case 3: few(dtype, 3, out, out_stride, x, x_stride, w, n_rows); return;
    default: /* no token, or no column */
        for (uint32_t t = 0; t < n_tok; t++)
            few(dtype, 1, out + t * out_stride, out_stride, x, x_stride, w, n_rows);
    }
}

void avx2_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
              const struct ops_weight *w, uint32_t row0, uint32_t n_rows, void *ws) {
    assert((uint64_t)row0 + n_rows <= w->rows);
    struct rows rows = {.data = (const uint8_t *)w->data + row0 * w->stride_bytes,
                        .stride = w->stride_bytes,
                        .scales = w->scales,
                        .scale_stride = w->scale_stride,
                        .absolute = w->row_base + row0,
                        .cols = w->cols};
    switch (w->dtype) {
    case OPS_F32: dot(OPS_F32, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_BF16: dot(OPS_BF16, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_F16: dot(OPS_F16, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    case OPS_F8: dot(OPS_F8, out, out_stride, x, x_stride, n_tok, &rows, n_rows, ws); return;
    }
}

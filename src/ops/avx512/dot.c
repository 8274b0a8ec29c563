/* SPDX-License-Identifier: Apache-2.0 */
/* dot for AVX-512: one register is the 16 lanes of one output. Two paths with the same bits.
 *
 * Few tokens. Floor: the bytes of the weights. One row at a time, straight down the memory: a
 * single stream that the hardware follows, prefetched 12 KiB ahead (pages are 4 KiB and it stops at
 * each). On a 4.4 GHz Zen 5 core that reads 0.94 of the streaming bandwidth in BF16. Slower: 2, 4,
 * 8 rows at once (0.85, 0.72, 0.67: many short streams that meet in the same cache sets), no
 * prefetch (0.78), 1 to 8 KiB ahead (0.70 to 0.92).
 *
 * Many tokens. Floor: the FMAs. A tile is 8 rows by 3 tokens = 24 sums; a step of 16 columns takes
 * 11 loads for 24 FMAs. 8 rows by 512 columns are widened once into a panel of 16 KiB and meet up
 * to 132 tokens; the tokens' 512 columns (264 KiB) serve 32 rows from the second-level cache; what
 * is unfinished at the end of the columns rests in memory as lanes. The next 32 rows are prefetched
 * meanwhile, at most a line a step: without that an expert's 48 tokens ran at 0.64 of the peak
 * instead of 0.81. Slower: panels of 1024 columns (0.84 to 0.79) or 384, 48 tokens at a time
 * (0.80), prefetching x (0.69), filling a panel row by row instead of step by step (0.80 to 0.83).
 * F8 pays one FMA in nine for its scales, so its ceiling is 0.89 of the peak; its tiles are two of
 * 4 rows, so that sums and partial sums both stay in registers (lanes in memory: the same speed at
 * 48 tokens, slower at 128). */
#include "ops/avx512/avx512.h"

#include <assert.h>
#include <stdbool.h>

#include "ops/avx512/lanes.h"

enum { FEW_TOKENS = 3, AHEAD_BYTES = 12288 };
enum { TILE_ROWS = 8, TILE_TOKENS = 3, PANEL_COLS = 512, TOKENS = 132, GROUP_ROWS = 32 };
static_assert(AVX512_DOT_WORKSPACE_BYTES ==
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

/* acc[t] += x row t * w over n columns; what is left of 16 lanes ends under a mask, so that a lane
 * without a product is left untouched. */
INLINE void few_run(enum ops_dtype dtype, const uint32_t n_t, __m512 acc[FEW_TOKENS],
                    const float *x, size_t x_stride, const uint8_t *w, uint32_t n) {
    const size_t size = ops_dtype_bytes(dtype);
    uint32_t k = 0;
    for (; k + 16 <= n; k += 16) {
        __m512 v = load_codes(dtype, w + k * size);
        if (k * size % 64 == 0) _mm_prefetch((const char *)w + k * size + AHEAD_BYTES, _MM_HINT_T0);
        EACH(t, n_t) acc[t] = _mm512_fmadd_ps(_mm512_loadu_ps(x + t * x_stride + k), v, acc[t]);
    }
    if (k == n) return;
    __mmask16 mask = first_lanes(n - k);
    __m512 v = load_codes_masked(dtype, w + k * size, mask);
    EACH(t, n_t)
        acc[t] = _mm512_mask3_fmadd_ps(_mm512_maskz_loadu_ps(mask, x + t * x_stride + k), v, acc[t],
                                       mask);
}

/* A whole scale block: 128 codes. */
INLINE void few_run_f8(const uint32_t n_t, __m512 part[FEW_TOKENS], const float *x, size_t x_stride,
                       const uint8_t *w, const struct f8_tables *tables) {
#pragma GCC unroll 1 /* one load, one stream: both in one body cost a sixth */
    for (uint32_t k = 0; k < OPS_SCALE_BLOCK; k += 64) {
        __m512 v[4];
        widen_f8x64(v, _mm512_loadu_si512(w + k), tables);
        _mm_prefetch((const char *)w + k + AHEAD_BYTES, _MM_HINT_T0);
        EACH(i, 4)
            EACH(t, n_t)
                part[t] =
                    _mm512_fmadd_ps(_mm512_loadu_ps(x + t * x_stride + k + 16 * i), v[i], part[t]);
    }
}

INLINE void few_row_f8(const uint32_t n_t, __m512 acc[FEW_TOKENS], const float *x, size_t x_stride,
                       const uint8_t *w, uint32_t cols, const float *scales) {
    const struct f8_tables tables = f8_tables_load();
    for (uint32_t k = 0; k < cols; k += OPS_SCALE_BLOCK, scales++) {
        uint32_t len = min_u32(cols - k, OPS_SCALE_BLOCK);
        __m512 part[FEW_TOKENS], scale = _mm512_set1_ps(*scales);
        EACH(t, n_t) part[t] = _mm512_setzero_ps();
        if (len == OPS_SCALE_BLOCK)
            few_run_f8(n_t, part, x + k, x_stride, w + k, &tables);
        else
            few_run(OPS_F8, n_t, part, x + k, x_stride, w + k, len);
        EACH(t, n_t)
            acc[t] = len >= 16 ? _mm512_fmadd_ps(part[t], scale, acc[t])
                               : _mm512_mask3_fmadd_ps(part[t], scale, acc[t], first_lanes(len));
    }
}

INLINE void few(enum ops_dtype dtype, const uint32_t n_t, float *out, size_t out_stride,
                const float *x, size_t x_stride, const struct rows *w, uint32_t n_rows) {
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = w->data + r * w->stride;
        __m512 acc[FEW_TOKENS];
        EACH(t, n_t) acc[t] = _mm512_setzero_ps();
        if (dtype == OPS_F8)
            few_row_f8(n_t, acc, x, x_stride, row, w->cols, scale_row(w, r));
        else
            few_run(dtype, n_t, acc, x, x_stride, row, w->cols);
        EACH(t, n_t) out[t * out_stride + r] = tree_sum(acc[t]);
    }
}

/* --- many tokens: one tile -------------------------------------------------------------------- */

typedef __m512 tile_acc[TILE_TOKENS][TILE_ROWS];

/* 8 rows of a group over some columns. */
struct panel {
    const float *w; /* [step][row][16]; rows and lanes that do not exist are 0 */
    uint32_t n_rows, cols;
    bool first, last;               /* of a row's columns */
    const float *scales[TILE_ROWS]; /* F8: from the panel's first column on */
};

struct tile {
    float *out;
    size_t out_stride;
    float *lanes; /* [token][TILE_ROWS][16], between panels */
    const float *x;
    size_t x_stride;
    const char *ahead; /* weights that come next: one prefetch a step, advance bytes apart */
    size_t advance;
};

/* acc += x * w over n > 0 columns, from column k of the panel and row r0. The last step is always
 * masked, full or not: a branch there made gcc keep the sums in memory. */
INLINE void tile_run(const uint32_t n_t, const uint32_t n_r, tile_acc acc, const struct tile *tile,
                     const struct panel *p, uint32_t r0, uint32_t k, uint32_t n) {
    const float *w = p->w + k * TILE_ROWS + r0 * 16, *x[TILE_TOKENS];
    const size_t advance = tile->advance;
    const char *ahead = tile->ahead + k / 16 * advance;
    uint32_t i = 0;
    EACH(t, n_t) x[t] = tile->x + t * tile->x_stride + k;
    for (; i + 16 < n; i += 16, w += TILE_ROWS * 16) {
        __m512 xv[TILE_TOKENS];
        EACH(t, n_t) xv[t] = _mm512_loadu_ps(x[t] + i);
        _mm_prefetch(ahead, _MM_HINT_T1);
        ahead += advance;
        EACH(r, n_r) {
            __m512 wv = _mm512_load_ps(w + r * 16);
            __asm__("" : "+v"(wv)); /* or gcc loads it again in each FMA and fills the load ports */
            EACH(t, n_t) acc[t][r] = _mm512_fmadd_ps(xv[t], wv, acc[t][r]);
        }
    }
    __mmask16 mask = first_lanes(n - i);
    __m512 xv[TILE_TOKENS];
    EACH(t, n_t) xv[t] = _mm512_maskz_loadu_ps(mask, x[t] + i);
    EACH(r, n_r) {
        __m512 wv = _mm512_load_ps(w + r * 16);
        EACH(t, n_t) acc[t][r] = _mm512_mask3_fmadd_ps(xv[t], wv, acc[t][r], mask);
    }
}

INLINE void tile_begin(const uint32_t n_t, const uint32_t n_r, tile_acc acc,
                       const struct tile *tile, const struct panel *p, uint32_t r0) {
    EACH(t, n_t)
        EACH(r, n_r)
            acc[t][r] = p->first ? _mm512_setzero_ps()
                                 : _mm512_load_ps(tile->lanes + (t * TILE_ROWS + r0 + r) * 16);
}

INLINE void tile_rest(const uint32_t n_t, const uint32_t n_r, tile_acc acc, const struct tile *tile,
                      uint32_t r0) {
    EACH(t, n_t)
        EACH(r, n_r) _mm512_store_ps(tile->lanes + (t * TILE_ROWS + r0 + r) * 16, acc[t][r]);
}

INLINE void tile_finish(const uint32_t n_t, tile_acc acc, const struct tile *tile,
                        const struct panel *p) {
    EACH(t, n_t)
        _mm256_mask_storeu_ps(tile->out + t * tile->out_stride, (__mmask8)((1u << p->n_rows) - 1),
                              tree_sum8(acc[t]));
}

INLINE void tile_plain(const uint32_t n_t, const struct tile *tile, const struct panel *p) {
    tile_acc acc;
    tile_begin(n_t, TILE_ROWS, acc, tile, p, 0);
    tile_run(n_t, TILE_ROWS, acc, tile, p, 0, 0, p->cols);
    if (p->last)
        tile_finish(n_t, acc, tile, p);
    else
        tile_rest(n_t, TILE_ROWS, acc, tile, 0);
}

/* The columns [k, k + len) of one scale block, four rows from r0 on. */
INLINE void tile_block_f8(const uint32_t n_t, tile_acc acc, const struct tile *tile,
                          const struct panel *p, uint32_t r0, uint32_t k, uint32_t len) {
    tile_acc part;
    EACH(t, n_t)
        EACH(r, TILE_ROWS / 2) part[t][r] = _mm512_setzero_ps();
    tile_run(n_t, TILE_ROWS / 2, part, tile, p, r0, k, len);
    EACH(r, TILE_ROWS / 2) {
        __m512 scale = _mm512_set1_ps(p->scales[r0 + r][k / OPS_SCALE_BLOCK]);
        EACH(t, n_t)
            acc[t][r] = len >= 16
                            ? _mm512_fmadd_ps(part[t][r], scale, acc[t][r])
                            : _mm512_mask3_fmadd_ps(part[t][r], scale, acc[t][r], first_lanes(len));
    }
}

INLINE void tile_f8(const uint32_t n_t, const struct tile *tile, const struct panel *p) {
    tile_acc acc;
    for (uint32_t r0 = 0; r0 < TILE_ROWS; r0 += TILE_ROWS / 2) {
        uint32_t k = 0;
        tile_begin(n_t, TILE_ROWS / 2, acc, tile, p, r0);
        for (; k + OPS_SCALE_BLOCK <= p->cols; k += OPS_SCALE_BLOCK)
            tile_block_f8(n_t, acc, tile, p, r0, k, OPS_SCALE_BLOCK);
        if (k < p->cols) tile_block_f8(n_t, acc, tile, p, r0, k, p->cols - k);
        tile_rest(n_t, TILE_ROWS / 2, acc, tile, r0);
    }
    if (!p->last) return;
    EACH(t, n_t)
        EACH(r, TILE_ROWS) acc[t][r] = _mm512_load_ps(tile->lanes + (t * TILE_ROWS + r) * 16);
    tile_finish(n_t, acc, tile, p);
}

/* --- many tokens: panels and groups ----------------------------------------------------------- */

/* Widens rows [r0, r0 + n) and columns [k0, k0 + cols). A row that does not exist repeats the
 * first. */
INLINE void panel_fill(enum ops_dtype dtype, float *to, const struct rows *w, uint32_t r0,
                       uint32_t n, uint32_t k0, uint32_t cols) {
    const size_t size = ops_dtype_bytes(dtype);
    const struct f8_tables tables = f8_tables_load();
    const uint8_t *p[TILE_ROWS];
    for (uint32_t r = 0; r < TILE_ROWS; r++)
        p[r] = w->data + (r0 + (r < n ? r : 0)) * w->stride + k0 * size;
    uint32_t k = 0;
    for (; dtype == OPS_F8 && k + 64 <= cols; k += 64)
        EACH(r, TILE_ROWS) {
            __m512 v[4];
            widen_f8x64(v, _mm512_loadu_si512(p[r] + k), &tables);
            for (uint32_t i = 0; i < 4; i++)
                _mm512_store_ps(to + (k + 16 * i) * TILE_ROWS + r * 16, v[i]);
        }
    for (; k + 16 <= cols; k += 16)
        EACH(r, TILE_ROWS)
            _mm512_store_ps(to + k * TILE_ROWS + r * 16, load_codes(dtype, p[r] + k * size));
    for (uint32_t r = 0; r < TILE_ROWS && k < cols; r++)
        _mm512_store_ps(to + k * TILE_ROWS + r * 16,
                        load_codes_masked(dtype, p[r] + k * size, first_lanes(cols - k)));
}

INLINE void tile_any(enum ops_dtype dtype, const uint32_t n_t, const struct tile *tile,
                     const struct panel *p) {
    if (dtype == OPS_F8)
        tile_f8(n_t, tile, p);
    else
        tile_plain(n_t, tile, p);
}

INLINE void tiles(enum ops_dtype dtype, struct tile tile, uint32_t n_tok, const struct panel *p) {
    for (uint32_t t = 0, n; t < n_tok; t += n) {
        n = n_tok - t >= TILE_TOKENS ? TILE_TOKENS : 1;
        if (n == 1)
            tile_any(dtype, 1, &tile, p);
        else
            tile_any(dtype, TILE_TOKENS, &tile, p);
        tile.out += n * tile.out_stride;
        tile.lanes += n * TILE_ROWS * 16;
        tile.x += n * tile.x_stride;
        tile.ahead += ceil_div(p->cols, 16) * tile.advance;
    }
}

/* Up to GROUP_ROWS rows and TOKENS tokens, columns outermost. */
INLINE void group(enum ops_dtype dtype, float *out, size_t out_stride, const float *x,
                  size_t x_stride, uint32_t n_tok, const struct rows *w, uint32_t r0,
                  uint32_t n_rows, float *ws) {
    float *panel = ws, *lanes = ws + PANEL_COLS * TILE_ROWS;
    uint32_t n_panels = ceil_div(n_rows, TILE_ROWS),
             n_tiles = n_tok / TILE_TOKENS + n_tok % TILE_TOKENS;
    size_t ahead_bytes = n_rows * w->stride, steps = n_panels * n_tiles * ceil_div(w->cols, 16);
    size_t advance = ahead_bytes / steps < 64 ? ahead_bytes / steps : 64;
    const char *ahead = (const char *)w->data + (r0 + n_rows) * w->stride;
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
            struct tile first = {.out = out + r,
                                 .out_stride = out_stride,
                                 .lanes = lanes + (size_t)i * n_tok * TILE_ROWS * 16,
                                 .x = x + k,
                                 .x_stride = x_stride,
                                 .ahead = ahead,
                                 .advance = advance};
            tiles(dtype, first, n_tok, &p);
            ahead += (size_t)n_tiles * ceil_div(cols, 16) * advance;
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

void avx512_dot(float *out, size_t out_stride, const float *x, size_t x_stride, uint32_t n_tok,
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

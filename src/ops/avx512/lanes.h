/* SPDX-License-Identifier: Apache-2.0 */
/* What the AVX-512 kernels share: 16 lanes are one register, so a step of the reference is one
 * instruction. Codes are widened in registers; a product of e4m3 needs no arithmetic at all but a
 * table of BF16 halves (VBMI). */
#ifndef SUPERNODE_OPS_AVX512_LANES_H
#define SUPERNODE_OPS_AVX512_LANES_H

#include <immintrin.h>
#include <stdint.h>

#include "ops/weight.h"

#define INLINE static inline __attribute__((always_inline))

/* A loop over an array of registers. gcc 12 unrolls too late by itself and then keeps the array on
 * the stack, with a copy each way at both ends of a tile (measured: 0.69 of the FMA peak instead of
 * 0.80). */
#define EACH(i, n) _Pragma("GCC unroll 16") for (uint32_t i = 0; i < (n); i++)

INLINE __mmask16 first_lanes(uint32_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

INLINE __m512 widen_bf16(__m256i codes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16));
}

/* F8, a few codes: shifted into place the exponent is too small by 120; the product is exact, NaN
 * is put back. */
INLINE __m512 widen_f8(__m128i codes) {
    __m512i c = _mm512_cvtepi8_epi32(codes); /* the sign in every high bit */
    __m512i bits = _mm512_and_si512(_mm512_slli_epi32(c, 20), _mm512_set1_epi32((int)0x87f00000));
    __mmask16 nan = _mm512_cmpeq_epi32_mask(_mm512_and_si512(c, _mm512_set1_epi32(0x7f)),
                                            _mm512_set1_epi32(0x7f));
    __m512 v = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1p120f));
    return _mm512_mask_mov_ps(v, nan, _mm512_set1_ps(__builtin_nanf("")));
}

/* 16 codes at p, exactly widened. */
INLINE __m512 load_codes(enum ops_dtype dtype, const uint8_t *p) {
    switch (dtype) {
    case OPS_F32: return _mm512_loadu_ps(p);
    case OPS_BF16: return widen_bf16(_mm256_loadu_si256((const void *)p));
    case OPS_F16: return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
    case OPS_F8: return widen_f8(_mm_loadu_si128((const void *)p));
    }
    __builtin_unreachable();
}

/* The same for the lanes of mask; the others are 0 and their memory is not read. */
INLINE __m512 load_codes_masked(enum ops_dtype dtype, const uint8_t *p, __mmask16 mask) {
    switch (dtype) {
    case OPS_F32: return _mm512_maskz_loadu_ps(mask, p);
    case OPS_BF16: return widen_bf16(_mm256_maskz_loadu_epi16(mask, p));
    case OPS_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
    case OPS_F8: return widen_f8(_mm_maskz_loadu_epi8(mask, p));
    }
    __builtin_unreachable();
}

/* The tree 16 -> 1 of eight rows of lanes at once: halves of two rows share a register from the
 * first step on, so eight trees cost 8 additions. Result i is the sum of a[i]. */
INLINE __m256 tree_sum8(const __m512 a[8]) {
    __m512 b[4], c[2];
    for (int i = 0; i < 4; i++) /* [a(2i) x 8, a(2i+1) x 8] */
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xee));
    for (int i = 0; i < 2; i++) /* [a(4i) x 4, a(4i+1) x 4, ...] */
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
    __m512 d =
        _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x44), /* quarter q: a(q) x 2, a(4+q) x 2 */
                      _mm512_shuffle_ps(c[0], c[1], 0xee));
    d = _mm512_add_ps(d, _mm512_permute_ps(d, 0xb1));
    const __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(pick, d));
}

INLINE float tree_sum(__m512 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* --- e4m3, 64 codes at a time ----------------------------------------------------------------- */

/* As BF16 a code's high byte and low byte depend on its low seven bits: two lookups. */
struct f8_tables {
    __m512i high[2], low[2];
};
extern const uint8_t avx512_f8_high[128], avx512_f8_low[128];

INLINE struct f8_tables f8_tables_load(void) {
    struct f8_tables t;
    for (int i = 0; i < 2; i++) {
        t.high[i] = _mm512_load_si512(avx512_f8_high + 64 * i);
        t.low[i] = _mm512_load_si512(avx512_f8_low + 64 * i);
        /* or gcc reloads them for every lookup: 0.6 of the speed */
        __asm__("" : "+v"(t.high[i]), "+v"(t.low[i]));
    }
    return t;
}

/* out[i] = codes 16 i .. 16 i + 15. Interleaving works within quarters, so the 4-byte groups are
 * transposed first. */
INLINE void widen_f8x64(__m512 out[4], __m512i codes, const struct f8_tables *t) {
    const __m512i transpose =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c = _mm512_permutexvar_epi32(transpose, codes);
    __m512i high = _mm512_permutex2var_epi8(t->high[0], c, t->high[1]);
    __m512i low = _mm512_permutex2var_epi8(t->low[0], c, t->low[1]);
    high = _mm512_ternarylogic_epi32(high, c, _mm512_set1_epi8((char)0x80), 0xf8); /* a | (b & c) */
    __m512i w0 = _mm512_unpacklo_epi8(low, high), w1 = _mm512_unpackhi_epi8(low, high);
    __m512i zero = _mm512_setzero_si512();
    out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, w0));
    out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, w0));
    out[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, w1));
    out[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, w1));
}

#endif

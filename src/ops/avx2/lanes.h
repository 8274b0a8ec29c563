/* SPDX-License-Identifier: Apache-2.0 */
/* What the AVX2 kernels share: 16 lanes are two registers, lanes 0 to 7 and 8 to 15. What is left
 * of 16 columns goes through a buffer on the stack and ends under a mask. */
#ifndef SUPERNODE_OPS_AVX2_LANES_H
#define SUPERNODE_OPS_AVX2_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "ops/weight.h"

#define INLINE static inline __attribute__((always_inline))

/* A loop over an array of registers. gcc 12 unrolls too late by itself and then keeps the array on
 * the stack, with a copy each way at both ends of a tile (measured: 0.69 of the FMA peak instead of
 * 0.80). */
#define EACH(i, n) _Pragma("GCC unroll 16") for (uint32_t i = 0; i < (n); i++)

struct lanes {
    __m256 lo, hi;
};

INLINE struct lanes lanes_zero(void) {
    return (struct lanes){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE struct lanes lanes_load(const float *p) {
    return (struct lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void lanes_store(float *p, struct lanes a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
INLINE struct lanes lanes_fma(struct lanes a, struct lanes b, struct lanes c) {
    return (struct lanes){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

/* Lanes [0, n) of 8. */
INLINE __m256i mask8(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* Lanes [0, n) of a, the rest of b. */
INLINE struct lanes lanes_first(uint32_t n, struct lanes a, struct lanes b) {
    return (struct lanes){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(mask8((int)n))),
                          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(mask8((int)n - 8)))};
}
INLINE struct lanes lanes_load_first(uint32_t n, const float *p) {
    return (struct lanes){_mm256_maskload_ps(p, mask8((int)n)),
                          _mm256_maskload_ps(p + 8, mask8((int)n - 8))};
}
INLINE void lanes_store_first(uint32_t n, float *p, struct lanes a) {
    _mm256_maskstore_ps(p, mask8((int)n), a.lo);
    _mm256_maskstore_ps(p + 8, mask8((int)n - 8), a.hi);
}

INLINE __m256 widen_bf16(__m128i codes) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}

/* 16 codes. Shifted by seven an e4m3 code is the F16 of 2^-8 its value, denormals too; the product
 * puts that right exactly. 0x7f becomes a NaN by setting every bit. */
INLINE struct lanes widen_f8(__m128i codes) {
    __m256i c = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
    __m256i nan = _mm256_cmpgt_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0x3f80)),
                                     _mm256_set1_epi16(0x3f00));
    __m256i half = _mm256_or_si256(_mm256_and_si256(c, _mm256_set1_epi16((short)0xbfff)), nan);
    const __m256 up = _mm256_set1_ps(0x1p8f);
    return (struct lanes){_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), up),
                          _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), up)};
}

/* 16 codes at p, exactly widened. */
INLINE struct lanes load_codes(enum ops_dtype dtype, const uint8_t *p) {
    const __m128i *q = (const __m128i *)p;
    switch (dtype) {
    case OPS_F32: return lanes_load((const float *)p);
    case OPS_BF16:
        return (struct lanes){widen_bf16(_mm_loadu_si128(q)), widen_bf16(_mm_loadu_si128(q + 1))};
    case OPS_F16:
        return (struct lanes){_mm256_cvtph_ps(_mm_loadu_si128(q)),
                              _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
    case OPS_F8: return widen_f8(_mm_loadu_si128(q));
    }
    __builtin_unreachable();
}

/* The first n < 16 codes at p, the other lanes 0. */
INLINE struct lanes load_codes_first(enum ops_dtype dtype, const uint8_t *p, uint32_t n) {
    uint8_t buf[64] = {0};
    memcpy(buf, p, n * ops_dtype_bytes(dtype));
    return load_codes(dtype, buf);
}

/* The tree from 8 on, for lanes [i] + [i + 8] of four rows at once. Result i is the sum of a[i]. */
INLINE __m128 tree_sum4(const __m256 a[4]) {
    __m256 b[2];
    for (int i = 0; i < 2; i++) /* [a(2i) x 4, a(2i+1) x 4] */
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x31));
    __m256 c = _mm256_add_ps(_mm256_shuffle_ps(b[0], b[1], 0x44), /* [a0 a0 a2 a2, a1 a1 a3 a3] */
                             _mm256_shuffle_ps(b[0], b[1], 0xee));
    c = _mm256_add_ps(c, _mm256_permute_ps(c, 0xb1));
    return _mm_blend_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1), 0xa);
}

INLINE float tree_sum(struct lanes a) {
    __m256 b = _mm256_add_ps(a.lo, a.hi);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

#endif

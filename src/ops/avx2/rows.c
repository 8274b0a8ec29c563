/* SPDX-License-Identifier: Apache-2.0 */
/* softmax_block, swiglu and rms_norm for AVX2. They are a few per cent of a step; what matters is
 * that exp repeats the steps of ref/mathf.c. */
#include "ops/avx2/avx2.h"

#include <assert.h>
#include <math.h>

#include "ops/avx2/lanes.h"

INLINE __m256 exp8(__m256 x) {
    const __m256 shift = _mm256_set1_ps(0x1.8p23f);
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), x); /* the second operand when one is NaN */
    x = _mm256_max_ps(_mm256_set1_ps(-104.0f), x);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p0f), shift);
    __m256 n = _mm256_sub_ps(t, shift);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e4p-1f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20f), r);
    __m256 q = _mm256_set1_ps(1.0f / 5040);
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f / 720));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f / 120));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f / 24));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f / 6));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(1.0f / 2));
    __m256 p = _mm256_add_ps(_mm256_fmadd_ps(q, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(shift));
    __m256i half = _mm256_srai_epi32(k, 1), bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

/* max(a, b) = a > b ? a : b is what the instruction does, order included. */
INLINE float tree_max(struct lanes a) {
    __m256 b = _mm256_max_ps(a.lo, a.hi);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* Keys [first, n) among the 8 that begin at key k. */
INLINE __m256i key_mask(uint32_t k, uint32_t first, uint32_t n) {
    return _mm256_andnot_si256(mask8((int)first - (int)k), mask8((int)n - (int)k));
}
INLINE __m256 pick(__m256i mask, __m256 a, __m256 b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
}

float avx2_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l) {
    assert(first < n && n <= 128);
    __m256 top[2] = {_mm256_set1_ps(-INFINITY), _mm256_set1_ps(-INFINITY)};
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    const uint32_t k0 = first / 8 * 8;
    for (uint32_t k = k0; k < n; k += 8) {
        __m256i mask = key_mask(k, first, n);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(s + k, mask), _mm256_set1_ps(scale));
        _mm256_maskstore_ps(s + k, mask, v);
        top[k / 8 % 2] = pick(mask, _mm256_max_ps(top[k / 8 % 2], v), top[k / 8 % 2]);
    }
    float block = tree_max((struct lanes){top[0], top[1]}), m_new = *m > block ? *m : block;
    float a = _mm256_cvtss_f32(exp8(_mm256_set1_ps(*m - m_new)));
    for (uint32_t k = k0; k < n; k += 8) {
        __m256i mask = key_mask(k, first, n);
        __m256 p = exp8(_mm256_sub_ps(_mm256_maskload_ps(s + k, mask), _mm256_set1_ps(m_new)));
        _mm256_maskstore_ps(s + k, mask, p);
        sum[k / 8 % 2] = pick(mask, _mm256_add_ps(sum[k / 8 % 2], p), sum[k / 8 % 2]);
    }
    *l = fmaf(*l, a, tree_sum((struct lanes){sum[0], sum[1]}));
    *m = m_new;
    return a;
}

INLINE __m256i left8(size_t left) {
    return mask8(left < 8 ? (int)left : 8);
}

void avx2_swiglu(float *out, const float *g, const float *u, size_t n) {
    const __m256 one = _mm256_set1_ps(1.0f);
    for (size_t i = 0; i < n; i += 8) {
        __m256i mask = left8(n - i);
        __m256 x = _mm256_maskload_ps(g + i, mask);
        __m256 e = exp8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)));
        __m256 y = _mm256_mul_ps(x, _mm256_div_ps(one, _mm256_add_ps(one, e)));
        _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(y, _mm256_maskload_ps(u + i, mask)));
    }
}

void avx2_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps) {
    struct lanes sum = lanes_zero();
    for (uint32_t i = 0; i < n; i += 16) {
        uint32_t left = n - i < 16 ? n - i : 16;
        struct lanes v = lanes_load_first(left, x + i);
        sum = lanes_first(left, lanes_fma(v, v, sum), sum);
    }
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(tree_sum(sum) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 8) {
        __m256i mask = left8(n - i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, mask), scale);
        _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(_mm256_maskload_ps(w + i, mask), v));
    }
}

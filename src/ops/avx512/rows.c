/* SPDX-License-Identifier: Apache-2.0 */
/* softmax_block, swiglu and rms_norm for AVX-512. They are a few per cent of a step; what matters
 * is that exp repeats the steps of ref/mathf.c. scalef replaces the reference's two products by
 * powers of two: the first of those is exact, so both round once. */
#include "ops/avx512/avx512.h"

#include <assert.h>
#include <math.h>

#include "ops/avx512/lanes.h"

INLINE __m512 exp16(__m512 x) {
    const __m512 shift = _mm512_set1_ps(0x1.8p23f);
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), x); /* the second operand when one is NaN */
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p0f), shift), shift);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e4p-1f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20f), r);
    __m512 q = _mm512_set1_ps(1.0f / 5040);
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f / 720));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f / 120));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f / 24));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f / 6));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.0f / 2));
    __m512 p = _mm512_add_ps(_mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* max(a, b) = a > b ? a : b is what the instruction does, order included. */
INLINE float tree_max(__m512 a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

float avx512_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l) {
    assert(first < n && n <= 128);
    __m512 v[8], top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    __mmask16 mask[8];
    const uint32_t v0 = first / 16, v1 = (n + 15) / 16;
    for (uint32_t i = v0; i < v1; i++) {
        mask[i] = first_lanes(n - 16 * i);
        if (i == v0) mask[i] &= (__mmask16)~first_lanes(first % 16);
        v[i] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask[i], s + 16 * i), _mm512_set1_ps(scale));
        top = _mm512_mask_max_ps(top, mask[i], top, v[i]);
    }
    float block = tree_max(top), m_new = *m > block ? *m : block;
    float a = _mm512_cvtss_f32(exp16(_mm512_set1_ps(*m - m_new)));
    for (uint32_t i = v0; i < v1; i++) {
        __m512 p = exp16(_mm512_sub_ps(v[i], _mm512_set1_ps(m_new)));
        _mm512_mask_storeu_ps(s + 16 * i, mask[i], p);
        sum = _mm512_mask_add_ps(sum, mask[i], sum, p);
    }
    *l = fmaf(*l, a, tree_sum(sum));
    *m = m_new;
    return a;
}

void avx512_swiglu(float *out, const float *g, const float *u, size_t n) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? 0xffff : first_lanes((uint32_t)(n - i));
        __m512 x = _mm512_maskz_loadu_ps(mask, g + i);
        __m512 e = exp16(_mm512_xor_ps(x, _mm512_set1_ps(-0.0f)));
        __m512 y = _mm512_mul_ps(x, _mm512_div_ps(one, _mm512_add_ps(one, e)));
        y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(mask, u + i));
        _mm512_mask_storeu_ps(out + i, mask, y);
    }
}

void avx512_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        sum = _mm512_mask3_fmadd_ps(v, v, sum, mask);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(tree_sum(sum) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, w + i), v));
    }
}

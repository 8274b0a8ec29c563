/* SPDX-License-Identifier: Apache-2.0 */
/* What the NEON kernels share: 16 lanes are four registers. What is left of 16 columns goes through
 * a buffer on the stack and ends under a mask. */
#ifndef SUPERNODE_OPS_NEON_LANES_H
#define SUPERNODE_OPS_NEON_LANES_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "ops/weight.h"

#define INLINE static inline __attribute__((always_inline))

typedef float32x4x4_t lanes;

INLINE lanes lanes_set(float x) {
    float32x4_t v = vdupq_n_f32(x);
    return (lanes){{v, v, v, v}};
}
INLINE lanes lanes_load(const float *p) {
    return (lanes){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
INLINE void lanes_store(float *p, lanes a) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.val[i]);
}
INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    for (int i = 0; i < 4; i++) c.val[i] = vfmaq_f32(c.val[i], a.val[i], b.val[i]);
    return c;
}

/* Lanes [0, n) of a, the rest of b. */
INLINE lanes lanes_first(uint32_t n, lanes a, lanes b) {
    const uint32x4_t index = {0, 1, 2, 3};
    for (uint32_t i = 0; i < 4; i++) {
        uint32x4_t mask = vcltq_u32(vaddq_u32(index, vdupq_n_u32(4 * i)), vdupq_n_u32(n));
        b.val[i] = vbslq_f32(mask, a.val[i], b.val[i]);
    }
    return b;
}
/* The first n < 16 floats, the other lanes 0. */
INLINE lanes lanes_load_first(uint32_t n, const float *p) {
    float buf[16] = {0};
    memcpy(buf, p, n * sizeof *p);
    return lanes_load(buf);
}
INLINE void lanes_store_first(uint32_t n, float *p, lanes a) {
    float buf[16];
    lanes_store(buf, a);
    memcpy(p, buf, n * sizeof *p);
}

INLINE float32x4_t widen_bf16(uint16x4_t codes) {
    return vreinterpretq_f32_u32(vshll_n_u16(codes, 16));
}

/* 8 codes as F16 of 2^-8 their value: shifted by seven, denormals too. 0x7f becomes a NaN by
 * setting every bit. */
INLINE uint16x8_t f8_as_f16(int8x8_t codes) {
    uint16x8_t c = vreinterpretq_u16_s16(vshlq_n_s16(vmovl_s8(codes), 7));
    uint16x8_t nan = vceqq_u16(vandq_u16(c, vdupq_n_u16(0x3f80)), vdupq_n_u16(0x3f80));
    return vorrq_u16(vandq_u16(c, vdupq_n_u16(0xbfff)), nan);
}
INLINE float32x4_t widen_f16(uint16x4_t codes) {
    return vcvt_f32_f16(vreinterpret_f16_u16(codes));
}

/* 16 codes at p, exactly widened. */
INLINE lanes load_codes(enum ops_dtype dtype, const uint8_t *p) {
    lanes v = lanes_set(0);
    if (dtype == OPS_F32) return lanes_load((const float *)(const void *)p);
    if (dtype == OPS_F8) {
        int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(p));
        uint16x8_t lo = f8_as_f16(vget_low_s8(c)), hi = f8_as_f16(vget_high_s8(c));
        v.val[0] = widen_f16(vget_low_u16(lo)) * 0x1p8f;
        v.val[1] = widen_f16(vget_high_u16(lo)) * 0x1p8f;
        v.val[2] = widen_f16(vget_low_u16(hi)) * 0x1p8f;
        v.val[3] = widen_f16(vget_high_u16(hi)) * 0x1p8f;
        return v;
    }
    for (int i = 0; i < 2; i++) {
        uint16x8_t c = vreinterpretq_u16_u8(vld1q_u8(p + 16 * i));
        if (dtype == OPS_BF16) {
            v.val[2 * i] = widen_bf16(vget_low_u16(c));
            v.val[2 * i + 1] = widen_bf16(vget_high_u16(c));
        } else {
            v.val[2 * i] = widen_f16(vget_low_u16(c));
            v.val[2 * i + 1] = widen_f16(vget_high_u16(c));
        }
    }
    return v;
}

/* The first n < 16 codes at p, the other lanes 0. */
INLINE lanes load_codes_first(enum ops_dtype dtype, const uint8_t *p, uint32_t n) {
    uint8_t buf[64] = {0};
    memcpy(buf, p, n * ops_dtype_bytes(dtype));
    return load_codes(dtype, buf);
}

INLINE float tree_sum(lanes a) {
    float32x4_t b = vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(vpadd_f32(c, c), 0);
}

#endif

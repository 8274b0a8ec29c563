/* SPDX-License-Identifier: Apache-2.0 */
/* Stored codes to floats, one by one: every code of the three small types is a float exactly, so
 * these functions define the widening that all kernels repeat. F8 is OCP e4m3fn: no infinity, NaN
 * at 0x7f and 0xff. */
#include "ops/weight.h"

#include <assert.h>
#include <string.h>

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float ops_bf16_to_f32(uint16_t code) {
    return float_of((uint32_t)code << 16);
}

/* Shifted into place the exponent is too small by 127 - 15; the product corrects it and makes
 * denormals normal. */
float ops_f16_to_f32(uint16_t code) {
    uint32_t sign = (uint32_t)(code & 0x8000) << 16, rest = (uint32_t)(code & 0x7fff) << 13;
    if (rest >= 0x7c00u << 13) return float_of(sign | rest | 0x7f800000); /* inf and NaN */
    float f = float_of(rest) * 0x1p112f;
    return sign ? -f : f;
}

float ops_f8_to_f32(uint8_t code) {
    uint32_t sign = (uint32_t)(code & 0x80) << 24, rest = (uint32_t)(code & 0x7f) << 20;
    if (rest == 0x7fu << 20) return float_of(sign | 0x7fc00000);
    float f = float_of(rest) * 0x1p120f;
    return sign ? -f : f;
}

uint16_t ops_f32_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void ops_weight_codes(float *out, const struct ops_weight *w, uint32_t r, uint32_t col0,
                      uint32_t n) {
    assert(r < w->rows && (uint64_t)col0 + n <= w->cols);
    size_t size = ops_dtype_bytes(w->dtype);
    const uint8_t *in = (const uint8_t *)w->data + r * w->stride_bytes + col0 * size;
    if (w->dtype == OPS_F32) {
        if (n) memcpy(out, in, n * sizeof *out);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t code = in[i * size];
        if (w->dtype == OPS_F8) {
            out[i] = ops_f8_to_f32((uint8_t)code);
            continue;
        }
        memcpy(&code, in + i * size, sizeof code);
        out[i] = w->dtype == OPS_BF16 ? ops_bf16_to_f32(code) : ops_f16_to_f32(code);
    }
}

void ops_weight_row(float *out, const struct ops_weight *w, uint32_t r, uint32_t col0, uint32_t n) {
    ops_weight_codes(out, w, r, col0, n);
    if (w->dtype != OPS_F8) return;
    const float *scales = w->scales + ((size_t)w->row_base + r) / OPS_SCALE_BLOCK * w->scale_stride;
    for (uint32_t i = 0; i < n; i++) out[i] *= scales[(col0 + i) / OPS_SCALE_BLOCK];
}

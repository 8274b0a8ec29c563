/* SPDX-License-Identifier: Apache-2.0 */
/* A matrix as the checkpoint stores it: row-major [rows, cols] ("[out, in]"), in one of four types,
 * borrowed from whoever mapped it. Rows of a KV page are such a matrix too, so attention runs on
 * the same kernels. */
#ifndef SUPERNODE_OPS_WEIGHT_H
#define SUPERNODE_OPS_WEIGHT_H

#include <stddef.h>
#include <stdint.h>

enum ops_dtype { OPS_F32, OPS_BF16, OPS_F16, OPS_F8 }; /* F8 is e4m3fn with block scales */

enum { OPS_SCALE_BLOCK = 128 }; /* FP8 scales: one per 128 x 128 block of the stored tensor */

struct ops_weight {
    enum ops_dtype dtype;
    uint32_t rows, cols;
    const void *data;    /* row 0; any alignment (safetensors promise none) */
    size_t stride_bytes; /* from row to row, at least cols * size */
    /* F8 only: scales[(row_base + r) / 128 * scale_stride + c / 128]; widened to F32 by the weight
     * source. */
    const float *scales;
    uint32_t scale_stride;
    uint32_t row_base; /* absolute row of row 0 in the stored tensor: not 0 for a slice */
};

static inline size_t ops_dtype_bytes(enum ops_dtype t) {
    return t == OPS_F32 ? 4 : t == OPS_F8 ? 1 : 2;
}

/* out[n] = the values of row r, columns [col0, col0 + n), widened exactly; F8 codes times their
 * scale (one rounding). For lookups (embedding, norms), not for products: those go through
 * ops_kernels. */
void ops_weight_row(float *out, const struct ops_weight *w, uint32_t r, uint32_t col0, uint32_t n);

/* The same without the scale: the codes, widened exactly. */
void ops_weight_codes(float *out, const struct ops_weight *w, uint32_t r, uint32_t col0,
                      uint32_t n);

/* Exact widening of one stored code. */
float ops_bf16_to_f32(uint16_t code);
float ops_f16_to_f32(uint16_t code);
float ops_f8_to_f32(uint8_t code);
/* Round to nearest even; NaN stays NaN (quiet). */
uint16_t ops_f32_to_bf16(float x);

#endif

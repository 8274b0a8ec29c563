/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding with YaRN (HF modeling_rope_utils, DeepSeek inference/model.py
 * precompute_freqs_cis). */
#ifndef SUPERNODE_OPS_ROPE_H
#define SUPERNODE_OPS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

struct ops_rope_config {
    uint32_t dim; /* rotated values per head, even */
    double theta;
    bool yarn; /* the rest is read only then */
    double factor, beta_fast, beta_slow;
    uint32_t original_positions;
    bool truncate;       /* floor and ceil the ramp's ends; true unless the config says otherwise */
    float cos_sin_scale; /* multiplies cos and sin; 1 without YaRN */
};

/* inv_freq[dim / 2]: in float64, rounded once to F32. */
void ops_rope_inv_freq(float *inv_freq, const struct ops_rope_config *c);

/* cos, sin [dim / 2] for one position: angle = (float)pos * inv_freq rounded to F32, times
 * cos_sin_scale. */
void ops_rope_angles(float *cos_out, float *sin_out, const float *inv_freq, uint32_t n_pairs,
                     uint32_t pos, float cos_sin_scale);

enum ops_rope_pairs { OPS_ROPE_INTERLEAVED /* (2i, 2i+1) */, OPS_ROPE_HALVES /* (i, i + dim/2) */ };

/* Rotates x[2 * n_pairs] in place: x0' = x0 * cos - x1 * sin, x1' = x1 * cos + x0 * sin, each
 * product rounded. */
void ops_rope(float *x, const float *cos_in, const float *sin_in, uint32_t n_pairs,
              enum ops_rope_pairs pairs);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary embedding. Frequencies as HF modeling_rope_utils (_compute_default_rope_parameters,
 * _compute_yarn_parameters) has them, in float64 and rounded once: YaRN blends each frequency
 * between itself and itself / factor along a ramp whose ends are the dimensions that turn beta_fast
 * and beta_slow times over the trained length. libm's pow and log are used here only: their last
 * float64 bit vanishes in the rounding. */
#include "ops/rope.h"

#include <assert.h>
#include <math.h>

#include "ops/mathf.h"

/* The dimension (as a real number) whose wave turns `turns` times in the trained length. */
static double correction_dim(const struct ops_rope_config *c, double turns) {
    return c->dim * log(c->original_positions / (turns * 2 * M_PI)) / (2 * log(c->theta));
}

void ops_rope_inv_freq(float *inv_freq, const struct ops_rope_config *c) {
    assert(c->dim % 2 == 0);
    double low = 0, high = 0;
    if (c->yarn) {
        low = correction_dim(c, c->beta_fast);
        high = correction_dim(c, c->beta_slow);
        if (c->truncate) {
            low = floor(low);
            high = ceil(high);
        }
        if (low < 0) low = 0;
        if (high > c->dim - 1) high = c->dim - 1;
        if (low == high) high += 0.001; /* as HF does, against a division by zero */
    }
    for (uint32_t i = 0; i < c->dim / 2; i++) {
        double freq = 1 / pow(c->theta, 2.0 * i / c->dim);
        if (c->yarn) {
            double ramp = (i - low) / (high - low);
            if (ramp < 0) ramp = 0;
            if (ramp > 1) ramp = 1;
            freq = freq / c->factor * ramp + freq * (1 - ramp);
        }
        inv_freq[i] = (float)freq;
    }
}

void ops_rope_angles(float *cos_out, float *sin_out, const float *inv_freq, uint32_t n_pairs,
                     uint32_t pos, float cos_sin_scale) {
    for (uint32_t i = 0; i < n_pairs; i++) {
        float s, c;
        ops_sincosf((float)pos * inv_freq[i], &s, &c);
        cos_out[i] = c * cos_sin_scale;
        sin_out[i] = s * cos_sin_scale;
    }
}

void ops_rope(float *x, const float *cos_in, const float *sin_in, uint32_t n_pairs,
              enum ops_rope_pairs pairs) {
    for (uint32_t i = 0; i < n_pairs; i++) {
        float *x0 = pairs == OPS_ROPE_INTERLEAVED ? x + 2 * i : x + i;
        float *x1 = pairs == OPS_ROPE_INTERLEAVED ? x0 + 1 : x0 + n_pairs;
        float a = *x0, b = *x1;
        *x0 = a * cos_in[i] - b * sin_in[i];
        *x1 = b * cos_in[i] + a * sin_in[i];
    }
}

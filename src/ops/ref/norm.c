/* SPDX-License-Identifier: Apache-2.0 */
/* RMSNorm as HF DeepseekV3RMSNorm has it, the sum of squares by the lanes and tree of a dot
 * product. */
#include "ops/ref/ref.h"

#include <math.h>

void ref_rms_norm(float *out, const float *x, const float *w, uint32_t n, float eps) {
    float lane[OPS_LANES] = {0};
    uint32_t k = 0;
    for (; k + OPS_LANES <= n; k += OPS_LANES)
        for (int j = 0; j < OPS_LANES; j++) lane[j] = fmaf(x[k + j], x[k + j], lane[j]);
    for (uint32_t j = 0; k + j < n; j++) lane[j] = fmaf(x[k + j], x[k + j], lane[j]);
    float scale = 1.0f / sqrtf(ref_tree_sum(lane) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) out[i] = w[i] * (x[i] * scale);
}

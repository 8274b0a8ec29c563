/* SPDX-License-Identifier: Apache-2.0 */
/* One block of an online softmax, defined (contracts 1, "Attention"): the maximum and the sum run
 * over lanes by the key's place in its block, then the tree. Lanes without a key stay at -inf and
 * +0 and join the tree like the others. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>

#include "ops/mathf.h"

float ref_softmax_block(float *s, uint32_t first, uint32_t n, float scale, float *m, float *l) {
    assert(first < n && n <= 128);
    float top[OPS_LANES], sum[OPS_LANES] = {0};
    for (int j = 0; j < OPS_LANES; j++) top[j] = -INFINITY;
    for (uint32_t k = first; k < n; k++) {
        s[k] *= scale;
        top[k % OPS_LANES] = ref_max(top[k % OPS_LANES], s[k]);
    }
    float m_new = ref_max(*m, ref_tree_max(top));
    float a = ops_expf(*m - m_new);
    for (uint32_t k = first; k < n; k++) {
        s[k] = ops_expf(s[k] - m_new);
        sum[k % OPS_LANES] += s[k];
    }
    *l = fmaf(*l, a, ref_tree_sum(sum));
    *m = m_new;
    return a;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Random weights in memory for a model of any shape: for benchmarks, which need a geometry and no
 * checkpoint, and for tests of properties. Values keep activations in range (about 1 / sqrt(cols));
 * the same seed gives the same bytes. */
#ifndef SUPERNODE_MODEL_WEIGHTS_RANDOM_H
#define SUPERNODE_MODEL_WEIGHTS_RANDOM_H

#include "model/weight_table.h"

struct weights_random {
    struct weight_table table;
    uint8_t *map;
    size_t map_bytes;
    float *scales; /* of all F8 tensors */
};

/* Matrices in dtype (F8 with block scales); vectors and the router in BF16, or F32 if dtype is. */
enum st ST_CHECKED weights_random_init(struct weights_random *w, const struct model_config *c,
                                       enum ops_dtype dtype, uint64_t seed, struct err *err);
void weights_random_release(struct weights_random *w);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A golden case as one flat file (tools/golden/flat.py has the format): a configuration, a weight
 * source, and what to expect. Read with nothing but the C library, so that the forward pass runs on
 * machines for which there is no other. */
#ifndef SUPERNODE_TESTS_ARM_FLAT_H
#define SUPERNODE_TESTS_ARM_FLAT_H

#include "base/file.h"
#include "model/config.h"
#include "model/weight_table.h"

enum { FLAT_TENSORS_MAX = 4096 };

struct flat_tensor {
    char name[WEIGHT_NAME_BYTES];
    struct ops_weight w;
};

struct flat_expect {
    const void *data; /* NULL: the case has none */
    uint32_t rows, cols;
};

struct flat {
    struct file_map map;
    struct model_config config;
    struct flat_tensor tensors[FLAT_TENSORS_MAX];
    uint32_t n_tensors;
    struct weight_table weights;
    struct flat_expect ids, logits, mtp_logits; /* I32 [1, n]; F32 [n, vocab], [n - 1, vocab] */
};

/* f is the caller's and large: not for the stack. The file is our own: what is wrong with it is
 * named, not survived. */
enum st ST_CHECKED flat_open(struct flat *f, const char *path, struct err *err);
void flat_close(struct flat *f);

#endif

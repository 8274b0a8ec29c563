/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of runs share: a run's description, from its text. Included after
 * cmocka. */
#ifndef SUPERNODE_TESTS_SIM_DESCRIBED_H
#define SUPERNODE_TESTS_SIM_DESCRIBED_H

#include <stdlib.h>
#include <string.h>

#include "sim/run.h"

static inline void must(enum st st, const struct err *err) {
    if (st) fail_msg("%s", err->text);
}

/* The caller frees it. */
static inline struct run_config *described(const char *text) {
    struct run_config *c = malloc(sizeof *c);
    struct err err;
    assert_non_null(c);
    must(run_config_read(c, text, strlen(text), "run.yaml", &err), &err);
    return c;
}

#endif

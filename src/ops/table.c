/* SPDX-License-Identifier: Apache-2.0 */
/* The list of kernel tables, best first, the reference last, and what each needs of the processor.
 * A variant may fill an entry with the reference's function where nothing is gained. */
#include "ops/kernels.h"

#include <stdio.h>
#include <string.h>

#include "ops/ref/ref.h"

static const struct ops_kernels table_ref = {.isa = "ref",
                                             .dot = ref_dot,
                                             .chain = ref_chain,
                                             .softmax_block = ref_softmax_block,
                                             .swiglu = ref_swiglu,
                                             .rms_norm = ref_rms_norm};

static int always(void) {
    return 1;
}

static const struct variant {
    const struct ops_kernels *table;
    int (*runs_here)(void);
} variants[] = {
    {&table_ref, always},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

size_t ops_dot_workspace_bytes(uint32_t cols) {
    return (((size_t)cols + OPS_LANES - 1) / OPS_LANES) * OPS_LANES * sizeof(float);
}

uint32_t ops_kernels_all(const struct ops_kernels *out[OPS_TABLES_MAX]) {
    uint32_t n = 0;
    for (size_t i = 0; i < N_VARIANTS; i++)
        if (variants[i].runs_here()) out[n++] = variants[i].table;
    return n;
}

enum st ops_kernels_select(const struct ops_kernels **out, const char *isa, struct err *err) {
    char names[64] = "";
    for (size_t i = 0; i < N_VARIANTS; i++) {
        const struct variant *v = &variants[i];
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%s", len ? ", " : "", v->table->isa);
        if (isa && *isa && strcmp(isa, v->table->isa) != 0) continue;
        if (v->runs_here()) {
            *out = v->table;
            return ST_OK;
        }
        if (isa && *isa)
            return err_set(err, ST_UNSUPPORTED, "kernels: this processor cannot run '%s'", isa);
    }
    return err_set(err, ST_INVALID, "kernels: found '%s', expected one of %s", isa, names);
}

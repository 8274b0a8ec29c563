/* SPDX-License-Identifier: Apache-2.0 */
/* The list of kernel tables, best first, the reference last, and what each needs of the processor.
 * A variant may fill an entry with the reference's function where nothing is gained. */
#include "ops/kernels.h"

#include <stdio.h>
#include <string.h>

#include "ops/ref/ref.h"
#if defined(__x86_64__)
#include "ops/avx2/avx2.h"
#include "ops/avx512/avx512.h"
#elif defined(__aarch64__)
#include "ops/neon/neon.h"
#endif

static const struct ops_kernels table_ref = {.isa = "ref",
                                             .dot = ref_dot,
                                             .chain = ref_chain,
                                             .softmax_block = ref_softmax_block,
                                             .swiglu = ref_swiglu,
                                             .rms_norm = ref_rms_norm};

static int always(void) {
    return 1;
}

#if defined(__x86_64__)
static const struct ops_kernels table_avx512 = {.isa = "avx512",
                                                .dot = avx512_dot,
                                                .chain = avx512_chain,
                                                .softmax_block = avx512_softmax_block,
                                                .swiglu = avx512_swiglu,
                                                .rms_norm = avx512_rms_norm};

static const struct ops_kernels table_avx2 = {.isa = "avx2",
                                              .dot = avx2_dot,
                                              .chain = avx2_chain,
                                              .softmax_block = avx2_softmax_block,
                                              .swiglu = avx2_swiglu,
                                              .rms_norm = avx2_rms_norm};

/* These ask the operating system too: registers that it does not save count as missing. */
static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi");
}
/* F16C is not asked for (clang 14 does not know its name): who has AVX2 and FMA has it. */
static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#if defined(__aarch64__)
static const struct ops_kernels table_neon = {.isa = "neon",
                                              .dot = neon_dot,
                                              .chain = neon_chain,
                                              .softmax_block = ref_softmax_block,
                                              .swiglu = ref_swiglu,
                                              .rms_norm = ref_rms_norm};
#endif

static const struct variant {
    const struct ops_kernels *table;
    int (*runs_here)(void);
} variants[] = {
#if defined(__x86_64__)
    {&table_avx512, has_avx512},
    {&table_avx2, has_avx2},
#elif defined(__aarch64__)
    {&table_neon, always},
#endif
    {&table_ref, always},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* The reference takes one row, NEON two; the others have fixed sizes. */
size_t ops_dot_workspace_bytes(uint32_t cols) {
    size_t bytes = ((size_t)cols + OPS_LANES - 1) / OPS_LANES * OPS_LANES * sizeof(float);
#if defined(__x86_64__)
    if (bytes < AVX512_DOT_WORKSPACE_BYTES) bytes = AVX512_DOT_WORKSPACE_BYTES;
    if (bytes < AVX2_DOT_WORKSPACE_BYTES) bytes = AVX2_DOT_WORKSPACE_BYTES;
#elif defined(__aarch64__)
    bytes *= NEON_DOT_ROWS;
#endif
    return bytes;
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

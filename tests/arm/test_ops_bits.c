/* SPDX-License-Identifier: Apache-2.0 */
/* The same bits on every machine: digests of what the operators return for seeded inputs, recorded
 * once on x86-64, and every kernel table of this machine beside the reference. A plain program,
 * since the Arm build has no cmocka; it runs natively with the other tests and under qemu-aarch64
 * by `make arm`. Speaks TAP. */
#include <stdio.h>

#include "ops/attention.h"
#include "ops/gate.h"
#include "ops/mathf.h"
#include "ops/rope.h"
#include "ops/sample.h"

#include "../ops/ops_test.h"

static const struct ops_kernels *tables[OPS_TABLES_MAX];
static uint32_t n_tables;
static int n_tests, n_failed;

static void report(int ok, const char *what, const char *isa) {
    n_failed += !ok;
    printf("%sok %d - %s, %s\n", ok ? "" : "not ", ++n_tests, what, isa);
}

/* FNV-1a over the bits; any NaN counts as one. */
static uint64_t digest(uint64_t h, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = 0x7fc00000;
        if (!isnan(x[i])) memcpy(&bits, x + i, sizeof bits);
        for (int b = 0; b < 4; b++) h = (h ^ (bits >> 8 * b & 255)) * 0x100000001b3u;
    }
    return h;
}

static void compare(uint64_t got, uint64_t recorded, const char *what, const char *isa) {
    if (got != recorded)
        printf("# %s: found %016llx, recorded %016llx\n", what, (unsigned long long)got,
               (unsigned long long)recorded);
    report(got == recorded, what, isa);
}

enum { CASES = 160, ROWS_MAX = 40, COLS_MAX = 600, TOK_MAX = 24 };

static uint64_t dots(const struct ops_kernels *k) {
    uint64_t h = 0;
    struct rng r = {11};
    for (int i = 0; i < CASES; i++) {
        uint32_t rows = 1 + rng_below(&r, ROWS_MAX), cols = 1 + rng_below(&r, COLS_MAX);
        uint32_t tok = 1 + rng_below(&r, TOK_MAX);
        struct test_matrix m = matrix_new(&r, (enum ops_dtype)(i % 4), rows, cols, (size_t)i % 3,
                                          rng_below(&r, 200), i % 5 ? CODES_TAME : CODES_WILD);
        struct guarded x = guarded_new(sizeof(float) * tok * cols);
        struct guarded out = guarded_new(sizeof(float) * tok * rows);
        void *ws = aligned_alloc(64, (ops_dot_workspace_bytes(cols) + 63) / 64 * 64);
        fill_random(&r, x.data, (size_t)tok * cols);
        k->dot(out.data, rows, x.data, cols, tok, &m.w, 0, rows, ws);
        h = digest(h, out.data, (size_t)tok * rows);
        free(ws);
        guarded_free(&x);
        guarded_free(&out);
        matrix_free(&m);
    }
    return h;
}

static uint64_t chains(const struct ops_kernels *k) {
    uint64_t h = 0;
    struct rng r = {12};
    for (int i = 0; i < CASES; i++) {
        uint32_t rows = 1 + rng_below(&r, 300), cols = 1 + rng_below(&r, 150);
        uint32_t tok = 1 + rng_below(&r, TOK_MAX), depth[TOK_MAX];
        struct test_matrix m = matrix_new(&r, (enum ops_dtype)(i % 4), rows, cols, 0,
                                          rng_below(&r, 200), i % 5 ? CODES_TAME : CODES_WILD);
        struct guarded x = guarded_new(sizeof(float) * tok * rows);
        struct guarded acc = guarded_new(sizeof(float) * tok * cols);
        fill_random(&r, x.data, (size_t)tok * rows);
        fill_random(&r, acc.data, (size_t)tok * cols);
        for (uint32_t t = 0; t < tok; t++) depth[t] = rng_below(&r, rows + 1);
        k->chain(acc.data, cols, x.data, rows, tok, i % 3 ? depth : NULL, rows, &m.w, 0, cols);
        h = digest(h, acc.data, (size_t)tok * cols);
        guarded_free(&x);
        guarded_free(&acc);
        matrix_free(&m);
    }
    return h;
}

static uint64_t rows(const struct ops_kernels *k) {
    uint64_t h = 0;
    struct rng r = {13};
    for (uint32_t n = 1; n <= 128; n++) {
        float s[128], u[128], m = -INFINITY, l = 0, a;
        fill_random(&r, s, 128);
        fill_random(&r, u, 128);
        for (uint32_t i = 0; i < n; i++) s[i] *= n % 3 ? 3 : 60;
        k->swiglu(u, s, u, n);
        h = digest(h, u, n);
        k->rms_norm(u, s, u, n, 1e-6f);
        h = digest(h, u, n);
        a = k->softmax_block(s, n > 2 ? n % 3 : 0, n, 0.3f, &m, &l);
        h = digest(digest(digest(digest(h, s, n), &m, 1), &l, 1), &a, 1);
    }
    return h;
}

static uint64_t attention(const struct ops_kernels *k) {
    enum { HEADS = 2, NOPE = 24, ROPE = 8, LORA = 40, V = 32, SLOTS = 270, BLOCKS = 3 };
    const struct ops_mla_shape shape = {LORA, NOPE, ROPE, V, 0.2f};
    static float q[SLOTS * (NOPE + ROPE)], out[SLOTS * V];
    uint64_t h = 0;
    for (int d = OPS_F32; d <= OPS_F8; d++) {
        struct rng r = {14 + (uint64_t)d};
        struct test_matrix kv_b =
            matrix_new(&r, (enum ops_dtype)d, HEADS * (NOPE + V), LORA, 0, 0, CODES_TAME);
        struct test_matrix pages = matrix_new(&r, d % 2 ? OPS_BF16 : OPS_F32, BLOCKS * OPS_KV_BLOCK,
                                              LORA + ROPE, 0, 0, CODES_TAME);
        const void *blocks[BLOCKS];
        uint32_t slot[SLOTS];
        for (int b = 0; b < BLOCKS; b++)
            blocks[b] =
                (const uint8_t *)pages.w.data + (size_t)b * OPS_KV_BLOCK * pages.w.stride_bytes;
        struct ops_kv_view kv = {pages.w.dtype, pages.w.stride_bytes, blocks, BLOCKS, d == OPS_F8};
        size_t bytes = ops_mla_expanded_workspace_bytes(&shape);
        if (bytes < ops_mla_absorbed_workspace_bytes(HEADS, &shape))
            bytes = ops_mla_absorbed_workspace_bytes(HEADS, &shape);
        void *ws = aligned_alloc(64, (bytes + 63) / 64 * 64);
        fill_random(&r, q, SLOTS * (NOPE + ROPE));
        for (uint32_t t = 0; t < SLOTS; t++) slot[t] = t + kv.first_slot;
        float m[SLOTS], l[SLOTS];
        ops_mla_expanded(k, out, V, q, NOPE + ROPE, slot, SLOTS, &kv, &kv_b.w, 1, &shape,
                         (struct ops_block_range){0, UINT32_MAX}, m, l, ws);
        h = digest(h, out, SLOTS * V);
        ops_mla_absorbed(k, out, V, q, NOPE + ROPE, 201, &kv, &kv_b.w, 0, HEADS, &shape, ws);
        h = digest(h, out, HEADS * V);
        free(ws);
        matrix_free(&kv_b);
        matrix_free(&pages);
    }
    return h;
}

static uint64_t functions(void) {
    uint64_t h = 0;
    for (uint32_t i = 0; i < 0xff000000; i += 19997) {
        float x, f[5];
        memcpy(&x, &i, sizeof x);
        f[0] = ops_expf(x), f[1] = ops_logf(x), f[2] = ops_sigmoidf(x), f[3] = f[4] = 0;
        if (fabsf(x) <= 1048576) ops_sincosf(x, f + 3, f + 4);
        h = digest(h, f, 5);
    }
    return h;
}

static uint64_t ropes(void) {
    uint64_t h = 0;
    for (int yarn = 0; yarn < 2; yarn++) {
        struct ops_rope_config c = {64, 10000, yarn, 40, 32, 1, 4096, true, 1};
        float f[32], cs[32], sn[32];
        struct rng r = {15};
        ops_rope_inv_freq(f, &c);
        h = digest(h, f, 32);
        for (uint32_t pos = 0; pos < 160000; pos += 331) {
            float x[64];
            fill_random(&r, x, 64);
            ops_rope_angles(cs, sn, f, 32, pos, 1.1f);
            ops_rope(x, cs, sn, 32, pos % 2 ? OPS_ROPE_HALVES : OPS_ROPE_INTERLEAVED);
            h = digest(h, x, 64);
        }
    }
    return h;
}

static uint64_t choices(void) {
    enum { N = 256 };
    static struct ops_sample_work work[N];
    uint64_t h = 0;
    struct rng r = {16};
    for (uint32_t i = 0; i < 400; i++) {
        float logits[N], bias[N], weights[8], id;
        uint32_t ids[8];
        fill_random(&r, logits, N);
        fill_random(&r, bias, N);
        struct ops_gate_config c = {i % 2, i % 3, N, 8, 4, 8, i % 5 != 0, 2.5f};
        ops_gate_topk(ids, weights, logits, i % 4 ? bias : NULL, &c);
        h = digest(h, weights, 8);
        struct ops_sample_params p = {.temperature = 0.7f,
                                      .top_p = i % 2 ? 0.9f : 1,
                                      .min_p = i % 3 ? 0 : 0.05f,
                                      .top_k = i % 5 ? 0 : 40,
                                      .repetition_penalty = 1.2f,
                                      .presence_penalty = 0.5f};
        id = (float)ops_sample(logits, N, &p, ids, 4, ids + 4, 4, (int64_t)i - 200, i, 0, work);
        h = digest(h, &id, 1);
    }
    return h;
}

int main(void) {
    n_tables = ops_kernels_all(tables);
    for (uint32_t v = 0; v < n_tables; v++) {
        const char *isa = tables[v]->isa;
        compare(dots(tables[v]), 0x624da7d8575c9296, "dot has the recorded bits", isa);
        compare(chains(tables[v]), 0xcbd992c3b2230f2e, "chain has the recorded bits", isa);
        compare(rows(tables[v]), 0xb7e6898de591b507,
                "softmax, swiglu and norm have the recorded bits", isa);
        compare(attention(tables[v]), 0x863a0ddc84571738, "attention has the recorded bits", isa);
    }
    compare(functions(), 0xb620e640e36ec4d6, "exp, log, sin and cos have the recorded bits", "any");
    compare(ropes(), 0xe3549d358c58359b, "rope has the recorded bits", "any");
    compare(choices(), 0x71c5f7bd96a8c96a, "gate and sampling have the recorded bits", "any");
    printf("1..%d\n", n_tests);
    return n_failed != 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Latent attention against a straight softmax in float64, and what the design promises beside the
 * numbers: bits do not depend on chunking, rows past the newest visible key are never read, slot 0
 * can be skipped. */
#include "ops/attention.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>

#include "ops_test.h"

enum { HEADS = 3, SLOTS_MAX = 600, NOPE = 40, ROPE = 24, LORA = 72, V = 56 };
static const struct ops_mla_shape shape = {
    .kv_lora = LORA, .nope = NOPE, .rope = ROPE, .v_dim = V, .scale = 0.11f};

struct world {
    struct rng rng;
    struct test_matrix kv_b;
    uint8_t *pages;
    const void *blocks[SLOTS_MAX / OPS_KV_BLOCK + 1];
    struct ops_kv_view kv;
    float *q; /* [SLOTS_MAX, HEADS, NOPE + ROPE] */
};

static size_t row_floats(void) {
    return LORA + ROPE;
}

static struct world world_new(enum ops_dtype kv_dtype, enum ops_dtype weights, uint32_t first_slot,
                              uint64_t seed) {
    struct world w = {.rng = {seed}};
    w.kv_b = matrix_new(&w.rng, weights, HEADS * (NOPE + V), LORA, 0, 0, CODES_TAME);
    size_t row_bytes = row_floats() * ops_dtype_bytes(kv_dtype);
    uint32_t n_blocks = SLOTS_MAX / OPS_KV_BLOCK + 1;
    w.pages = calloc(n_blocks * OPS_KV_BLOCK, row_bytes);
    for (size_t i = 0; i < n_blocks * OPS_KV_BLOCK * row_floats(); i++) {
        float f = rng_float(&w.rng) * 2;
        uint16_t bf = ops_f32_to_bf16(f);
        if (kv_dtype == OPS_F32)
            memcpy(w.pages + i * 4, &f, 4);
        else
            memcpy(w.pages + i * 2, &bf, 2);
    }
    for (uint32_t b = 0; b < n_blocks; b++) /* pages lie in no order */
        w.blocks[b] = w.pages + (n_blocks - 1 - b) * OPS_KV_BLOCK * row_bytes;
    w.kv = (struct ops_kv_view){
        .dtype = kv_dtype, .row_bytes = row_bytes, .n_blocks = n_blocks, .first_slot = first_slot};
    w.q = malloc(sizeof(float) * SLOTS_MAX * HEADS * (NOPE + ROPE));
    fill_random(&w.rng, w.q, SLOTS_MAX * HEADS * (NOPE + ROPE));
    return w;
}

static struct ops_kv_view view(const struct world *w) {
    struct ops_kv_view kv = w->kv;
    kv.blocks = w->blocks;
    return kv;
}

static void world_release(struct world *w) {
    matrix_free(&w->kv_b);
    free(w->pages);
    free(w->q);
}

static const float *query(const struct world *w, uint32_t slot, uint32_t head) {
    return w->q + ((size_t)slot * HEADS + head) * (NOPE + ROPE);
}

/* Everything from slot `from` on becomes NaN, as rows are that nobody has written. */
static void poison(struct world *w, uint32_t from) {
    for (uint32_t s = from; s < w->kv.n_blocks * OPS_KV_BLOCK; s++)
        memset((uint8_t *)w->blocks[s / OPS_KV_BLOCK] + s % OPS_KV_BLOCK * w->kv.row_bytes, 0xff,
               w->kv.row_bytes);
}

static void straight(double *out, const struct world *w, uint32_t slot, uint32_t head) {
    double p[SLOTS_MAX], total = 0, top = -INFINITY;
    static double value[SLOTS_MAX][V];
    for (uint32_t s = w->kv.first_slot; s <= slot; s++) {
        struct ops_weight row = {.dtype = w->kv.dtype,
                                 .rows = OPS_KV_BLOCK,
                                 .cols = LORA + ROPE,
                                 .data = w->blocks[s / OPS_KV_BLOCK],
                                 .stride_bytes = w->kv.row_bytes};
        float lat[LORA + ROPE], kv_b[LORA];
        ops_weight_row(lat, &row, s % OPS_KV_BLOCK, 0, LORA + ROPE);
        double score = 0;
        for (int d = 0; d < NOPE + V; d++) {
            double y = 0;
            ops_weight_row(kv_b, &w->kv_b.w, head * (NOPE + V) + d, 0, LORA);
            for (int c = 0; c < LORA; c++) y += (double)lat[c] * kv_b[c];
            if (d < NOPE)
                score += y * query(w, slot, head)[d];
            else
                value[s][d - NOPE] = y;
        }
        for (int d = 0; d < ROPE; d++)
            score += (double)lat[LORA + d] * query(w, slot, head)[NOPE + d];
        p[s] = score * shape.scale;
        if (p[s] > top) top = p[s];
    }
    for (int d = 0; d < V; d++) out[d] = 0;
    for (uint32_t s = w->kv.first_slot; s <= slot; s++) {
        double e = exp(p[s] - top);
        total += e;
        for (int d = 0; d < V; d++) out[d] += e * value[s][d];
    }
    for (int d = 0; d < V; d++) out[d] /= total;
}

static void run_expanded(const struct world *w, const struct ops_kernels *k, float *out,
                         uint32_t slot0, uint32_t n, uint32_t head) {
    struct ops_kv_view kv = view(w);
    uint32_t slots[SLOTS_MAX];
    for (uint32_t t = 0; t < n; t++) slots[t] = slot0 + t;
    void *ws = aligned_alloc(64, (ops_mla_expanded_workspace_bytes(&shape) + 63) / 64 * 64);
    float m[SLOTS_MAX], l[SLOTS_MAX];
    /* one range, or several: the bits are the same */
    uint32_t blocks = slots[n ? n - 1 : 0] / OPS_KV_BLOCK + 1, step = (slot0 + n) % 3 ? blocks : 1;
    for (uint32_t b = 0; b < blocks; b += step)
        ops_mla_expanded(k, out, V, query(w, slot0, head), HEADS * (NOPE + ROPE), slots, n, &kv,
                         &w->kv_b.w, head, &shape, (struct ops_block_range){b, b + step}, m, l, ws);
    free(ws);
}

static void run_absorbed(const struct world *w, const struct ops_kernels *k, float *out,
                         uint32_t slot, uint32_t head0, uint32_t n) {
    struct ops_kv_view kv = view(w);
    void *ws = aligned_alloc(64, (ops_mla_absorbed_workspace_bytes(n, &shape) + 63) / 64 * 64);
    ops_mla_absorbed(k, out, V, query(w, slot, head0), NOPE + ROPE, slot, &kv, &w->kv_b.w, head0, n,
                     &shape, ws);
    free(ws);
}

static double distance(const float *a, const double *b) {
    double worst = 0, size = 0;
    for (int d = 0; d < V; d++) {
        worst = fmax(worst, fabs(a[d] - b[d]));
        size = fmax(size, fabs(b[d]));
    }
    return worst / size;
}

static void both_forms_match_float64(void **state) {
    (void)state;
    const enum ops_dtype dtypes[][2] = {
        {OPS_F32, OPS_F32}, {OPS_BF16, OPS_BF16}, {OPS_F32, OPS_F8}, {OPS_BF16, OPS_F16}};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        for (uint32_t first = 0; first < 2; first++) {
            struct world w = world_new(dtypes[i][0], dtypes[i][1], first, 100 + i);
            const struct ops_kernels *k[OPS_TABLES_MAX];
            uint32_t n = ops_kernels_all(k);
            static float out[SLOTS_MAX * V];
            for (uint32_t v = 0; v < n; v++) {
                double exact[V];
                run_expanded(&w, k[v], out, first, 300, 1);
                for (uint32_t slot = first; slot < first + 300; slot += 37) {
                    straight(exact, &w, slot, 1);
                    assert_true(distance(out + (slot - first) * V, exact) < 2e-5);
                    float absorbed[2 * V];
                    run_absorbed(&w, k[v], absorbed, slot, 0, 2);
                    assert_true(distance(absorbed + V, exact) < 2e-5);
                }
            }
            world_release(&w);
        }
    }
}

static void expanded_bits_do_not_depend_on_chunks(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct world w = world_new(seed & 1 ? OPS_BF16 : OPS_F32, OPS_BF16, 0, seed);
        const struct ops_kernels *k[OPS_TABLES_MAX];
        ops_kernels_all(k);
        static float whole[SLOTS_MAX * V], parts[SLOTS_MAX * V];
        uint32_t n = 1 + rng_below(&w.rng, SLOTS_MAX);
        run_expanded(&w, k[0], whole, 0, n, 2);
        for (uint32_t t = 0; t < n;) {
            uint32_t len = 1 + rng_below(&w.rng, seed < 3 ? 20 : 300);
            if (len > n - t) len = n - t;
            run_expanded(&w, k[0], parts + t * V, t, len, 2);
            t += len;
        }
        if (memcmp(whole, parts, n * V * sizeof(float)) != 0) fail_msg("seed %d", (int)seed);
        world_release(&w);
    }
}

static void absorbed_bits_do_not_depend_on_the_heads_of_a_call(void **state) {
    (void)state;
    struct world w = world_new(OPS_BF16, OPS_F8, 0, 5);
    const struct ops_kernels *k[OPS_TABLES_MAX];
    ops_kernels_all(k);
    for (uint32_t slot = 0; slot < SLOTS_MAX; slot += 61) {
        float all[HEADS * V], one[V];
        run_absorbed(&w, k[0], all, slot, 0, HEADS);
        for (uint32_t h = 0; h < HEADS; h++) {
            run_absorbed(&w, k[0], one, slot, h, 1);
            assert_memory_equal(all + h * V, one, sizeof one);
        }
    }
    world_release(&w);
}

static void later_keys_are_never_read(void **state) {
    (void)state;
    const struct ops_kernels *k[OPS_TABLES_MAX];
    uint32_t n_tables = ops_kernels_all(k);
    for (uint32_t v = 0; v < n_tables; v++) {
        const uint32_t lens[] = {1, 2, 127, 128, 129, 200, 256, 300};
        for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
            struct world w = world_new(OPS_F32, OPS_F32, 0, 7);
            static float before[SLOTS_MAX * V], after[SLOTS_MAX * V];
            float one[V], one_after[V];
            run_expanded(&w, k[v], before, 0, lens[i], 0);
            run_absorbed(&w, k[v], one, lens[i] - 1, 0, 1);
            poison(&w, lens[i]);
            run_expanded(&w, k[v], after, 0, lens[i], 0);
            run_absorbed(&w, k[v], one_after, lens[i] - 1, 0, 1);
            assert_memory_equal(before, after, lens[i] * V * sizeof(float));
            assert_memory_equal(one, one_after, sizeof one);
            world_release(&w);
        }
    }
}

static void every_table_gives_the_same_bits(void **state) {
    (void)state;
    const struct ops_kernels *k[OPS_TABLES_MAX];
    uint32_t n_tables = ops_kernels_all(k);
    struct world w = world_new(OPS_BF16, OPS_F8, 1, 9);
    static float ref[SLOTS_MAX * V], got[SLOTS_MAX * V];
    run_expanded(&w, k[n_tables - 1], ref, 1, 411, 1);
    for (uint32_t v = 0; v + 1 < n_tables; v++) {
        run_expanded(&w, k[v], got, 1, 411, 1);
        assert_memory_equal(ref, got, 411 * V * sizeof(float));
    }
    run_absorbed(&w, k[n_tables - 1], ref, 555, 0, HEADS);
    for (uint32_t v = 0; v + 1 < n_tables; v++) {
        run_absorbed(&w, k[v], got, 555, 0, HEADS);
        assert_memory_equal(ref, got, HEADS * V * sizeof(float));
    }
    world_release(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_match_float64),
        cmocka_unit_test(expanded_bits_do_not_depend_on_chunks),
        cmocka_unit_test(absorbed_bits_do_not_depend_on_the_heads_of_a_call),
        cmocka_unit_test(later_keys_are_never_read),
        cmocka_unit_test(every_table_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

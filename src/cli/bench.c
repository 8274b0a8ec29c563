/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench: measurements beside the limits of this machine, taken in the same run.
 *   bench model   prefill and decode of a geometry with random weights: no checkpoint needed
 *   bench engine  the engine in this process (bench_engine.c)
 *   bench serve   load on a server (bench_serve.c)
 *   bench bus     the bus between two processes (bench_bus.c)
 *   bench handover  KV from process to process (bench_handover.c) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "cli/bench_bus.h"
#include "cli/bench_calibrate.h"
#include "cli/bench_engine.h"
#include "cli/bench_handover.h"
#include "cli/bench_limits.h"
#include "cli/bench_model.h"
#include "cli/bench_serve.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/model_args.h"

/* --- geometries ------------------------------------------------------------------------------- */

struct geometry {
    const char *name;
    struct model_config c;
};

/* In the order of the flag's words. From the published config.json files; rotary and gate details
 * do not touch the cost and are filled in below. */
static const struct geometry geometries[] = {
    {"v2-lite",
     {.vocab = 102400,
      .hidden = 2048,
      .n_layers = 27,
      .n_heads = 16,
      .kv_lora = 512,
      .nope = 128,
      .rope = 64,
      .v_dim = 128,
      .dense_inter = 10944,
      .first_dense = 1,
      .n_experts = 64,
      .n_shared = 2,
      .moe_inter = 1408,
      .gate = {.score = OPS_GATE_SOFTMAX, .top_k = 6, .weight_scale = 1}}},
    {"moonlight",
     {.vocab = 163840,
      .hidden = 2048,
      .n_layers = 27,
      .n_heads = 16,
      .kv_lora = 512,
      .nope = 128,
      .rope = 64,
      .v_dim = 128,
      .dense_inter = 11264,
      .first_dense = 1,
      .n_experts = 64,
      .n_shared = 2,
      .moe_inter = 1408,
      .gate = {.score = OPS_GATE_SIGMOID, .top_k = 6, .normalize = true, .weight_scale = 2.446f}}},
    {"r1",
     {.vocab = 129280,
      .hidden = 7168,
      .n_layers = 61,
      .n_mtp = 1,
      .n_heads = 128,
      .q_lora = 1536,
      .kv_lora = 512,
      .nope = 128,
      .rope = 64,
      .v_dim = 128,
      .dense_inter = 18432,
      .first_dense = 3,
      .n_experts = 256,
      .n_shared = 1,
      .moe_inter = 2048,
      .gate = {.score = OPS_GATE_SIGMOID,
               .group = OPS_GATE_GROUP_TOP2,
               .n_groups = 8,
               .topk_groups = 4,
               .top_k = 8,
               .normalize = true,
               .weight_scale = 2.5f}}},
};

static enum st make_config(struct model_config *c, uint32_t geometry, uint32_t layers,
                           struct err *err) {
    *c = geometries[geometry].c;
    if (layers) c->n_layers = layers;
    if (layers) c->n_mtp = 0;
    c->moe_freq = 1;
    c->eps = 1e-6f;
    c->attn_scale = 0.0721688f; /* 192^-0.5 */
    c->max_positions = 1 << 20;
    c->rotary = (struct ops_rope_config){.dim = c->rope, .theta = 10000, .cos_sin_scale = 1};
    c->gate.n_experts = c->n_experts;
    return config_check(c, err);
}

/* --- what one token costs --------------------------------------------------------------------- */

struct cost_visit {
    const struct model_config *c;
    const struct weight_table *t;
    struct cost cost;
};

static enum st add_cost(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                        struct err *err) {
    struct cost_visit *v = ctx;
    bool expert = key.kind == W_EXPERT_GATE || key.kind == W_EXPERT_UP || key.kind == W_EXPERT_DOWN;
    if (key.kind == W_EMBED || (expert && key.expert >= v->c->gate.top_k) ||
        key.layer >= v->c->n_layers)
        return ST_OK;
    double n = (double)rows * cols;
    struct ops_weight w;
    struct weight_source source = weight_table_source((struct weight_table *)(uintptr_t)v->t);
    enum st st = source.get(source.self, key, 0, rows, &w, err);
    if (st) return st;
    v->cost.active += n;
    v->cost.active_bytes += n * (double)ops_dtype_bytes(w.dtype);
    if (rows > 1 && key.kind != W_HEAD) v->cost.linear += n;
    return ST_OK;
}

/* --- running ---------------------------------------------------------------------------------- */

enum { WEIGHTS_BF16, WEIGHTS_FP8 };
static const char *const weights_names[] = {"bf16", "fp8"};

static uint32_t token(const struct bench *b, uint32_t seq, uint32_t pos) {
    return (seq * 7919u + pos * 104729u) % b->c.vocab;
}

void bench_step(struct bench *b, uint32_t from, uint32_t to, uint32_t pos, uint32_t n,
                enum token_role role) {
    uint32_t rows = 0;
    for (uint32_t s = from; s < to; s++)
        for (uint32_t i = 0; i < n; i++)
            b->rows[rows++] = (struct step_row){.token = token(b, s, pos + i),
                                                .pos = pos + i,
                                                .seq = s,
                                                .role = role,
                                                .logits = i + 1 == n};
    struct step_input in = {
        .rows = b->rows, .n_rows = rows, .seqs = b->seqs, .n_seqs = b->a->batch};
    step_begin(b->step, &in);
    model_step(&b->step, 1);
    for (uint32_t s = from; s < to; s++)
        memcpy(b->hidden + (size_t)s * b->c.hidden, step_hidden(b->step, (s - from + 1) * n - 1),
               b->c.hidden * sizeof(float));
}

/* The first sequence's prefill is run twice and the second time counts: the first touches the pages
 * of everything. */
static void measure(struct bench *b) {
    uint32_t n = b->a->prefill;
    bench_step(b, 0, 1, 0, n, ROLE_PROMPT);
    uint64_t t0 = clock_now_ns();
    bench_step(b, 0, 1, 0, n, ROLE_PROMPT);
    b->prefill_s = (double)(clock_now_ns() - t0) / 1e9;
    for (uint32_t s = 1; s < b->a->batch; s++) bench_step(b, s, s + 1, 0, n, ROLE_PROMPT);
    if (b->a->decode == 0) return;
    bench_step(b, 0, b->a->batch, n, 1, ROLE_GENERATED);
    t0 = clock_now_ns();
    for (uint32_t i = 0; i < b->a->decode; i++)
        bench_step(b, 0, b->a->batch, n + 1 + i, 1, ROLE_GENERATED);
    b->decode_s = (double)(clock_now_ns() - t0) / 1e9 / b->a->decode;
}

enum st bench_make(struct bench *b, struct err *err) {
    const struct bench_args *a = b->a;
    enum ops_dtype dtype = a->weights == WEIGHTS_FP8 ? OPS_F8 : OPS_BF16;
    uint32_t pages = (a->prefill + a->decode + 1 + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    uint32_t rows_max = a->prefill > a->batch ? a->prefill : a->batch;
    const struct ops_kernels *k;
    enum st st = ops_kernels_select(&k, getenv("SUPERNODE_ISA"), err);
    if (!st) st = make_config(&b->c, a->geometry, a->layers, err);
    if (!st) st = team_new(&b->team, a->threads ? a->threads : team_cores(), err);
    if (!st) st = limits_measure(&b->limits, b->team, err);
    uint64_t t0 = clock_now_ns();
    if (!st) st = weights_random_init(&b->weights, &b->c, dtype, 1, err);
    b->fill_s = (double)(clock_now_ns() - t0) / 1e9;
    if (st) return st;
    struct weight_source source = weight_table_source(&b->weights.table);
    st = model_new(&b->m, &b->c, &source, k, err);
    if (!st)
        st = kv_init(&b->kv, &b->c, a->kv == KV_CHOICE_F32 ? OPS_F32 : OPS_BF16, pages * a->batch,
                     NULL, err);
    struct step_limits limits = {.rows_max = rows_max, .logits_max = a->batch};
    if (!st) st = step_new(&b->step, b->m, &b->kv, b->team, limits, err);
    struct cost_visit v = {.c = &b->c, .t = &b->weights.table};
    if (!st) st = weight_visit(&b->c, add_cost, &v, err);
    if (st) return st;
    b->cost = v.cost;
    b->rows = malloc(rows_max * sizeof *b->rows);
    b->seqs = malloc(a->batch * sizeof *b->seqs);
    b->pages = malloc((size_t)pages * a->batch * sizeof *b->pages);
    b->hidden = malloc((size_t)a->batch * b->c.hidden * sizeof *b->hidden);
    if (!b->rows || !b->seqs || !b->pages || !b->hidden)
        return err_set(err, ST_NO_MEMORY, "bench: out of memory");
    for (uint32_t i = 0; i < pages * a->batch; i++) b->pages[i] = i;
    for (uint32_t s = 0; s < a->batch; s++)
        b->seqs[s] = (struct step_seq){.pages = b->pages + s * pages,
                                       .n_pages = pages,
                                       .hidden_before = b->hidden + (size_t)s * b->c.hidden};
    return ST_OK;
}

void bench_release(struct bench *b) {
    step_free(b->step);
    kv_release(&b->kv);
    model_free(b->m);
    team_free(b->team);
    weights_random_release(&b->weights);
    free(b->rows);
    free(b->seqs);
    free(b->pages);
    free(b->hidden);
}

static void report(const struct bench *b) {
    const struct bench_args *a = b->a;
    const struct model_config *c = &b->c;
    double n = a->prefill, keys = n * (n + 1) / 2;
    double attention = keys * c->n_heads * (c->nope + c->rope + c->v_dim) * c->n_layers;
    double flop = 2 * (b->cost.linear * n + attention + (double)c->vocab * c->hidden);
    double gflops = flop / b->prefill_s / 1e9;
    double gbs = b->decode_s > 0 ? b->cost.active_bytes / b->decode_s / 1e9 : 0;
    double weights_s = b->decode_s > 0 ? b->cost.active / b->decode_s / 1e9 : 0;
    if (a->json) {
        json_t *o = json_pack(
            "{s:s,s:s,s:s,s:i,s:i,s:s,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "cpu",
            b->limits.cpu, "geometry", geometries[a->geometry].name, "weights",
            weights_names[a->weights], "layers", (int)c->n_layers, "threads",
            (int)team_size(b->team), "kernels", b->m->k->isa, "prefill", (int)a->prefill, "decode",
            (int)a->decode, "batch", (int)a->batch, "read_gbs", b->limits.read_gbs, "fma_gflops",
            b->limits.fma_gflops, "prefill_tokens_per_s", n / b->prefill_s, "prefill_gflops",
            gflops, "prefill_share_of_fma_peak", gflops / b->limits.fma_gflops, "fill_s", b->fill_s,
            "weights_gb", (double)b->weights.map_bytes / 1e9);
        if (a->decode) {
            json_object_set_new(o, "decode_tokens_per_s", json_real(a->batch / b->decode_s));
            json_object_set_new(o, "decode_step_ms", json_real(b->decode_s * 1e3));
        }
        if (a->decode && a->batch == 1) {
            json_object_set_new(o, "decode_gbs", json_real(gbs));
            json_object_set_new(o, "decode_gweights_per_s", json_real(weights_s));
            json_object_set_new(o, "decode_share_of_bandwidth",
                                json_real(gbs / b->limits.read_gbs));
        }
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("cpu        %s, %u threads, kernels %s\n", b->limits.cpu, team_size(b->team),
           b->m->k->isa);
    printf("limits     %.1f GB/s read, %.0f GFLOP/s of F32 FMA (%s)\n", b->limits.read_gbs,
           b->limits.fma_gflops, b->limits.fma_isa);
    printf("model      %s, %u layers, %s, %.2f GB of random weights (%.1f s to fill)\n",
           geometries[a->geometry].name, c->n_layers, weights_names[a->weights],
           (double)b->weights.map_bytes / 1e9, b->fill_s);
    printf("prefill    %u tokens in %.3f s: %.0f tokens/s, %.0f GFLOP/s = %.2f of the FMA peak\n",
           a->prefill, b->prefill_s, n / b->prefill_s, gflops, gflops / b->limits.fma_gflops);
    if (a->decode == 0) return;
    printf("decode     batch %u, %.2f ms a step: %.1f tokens/s", a->batch, b->decode_s * 1e3,
           a->batch / b->decode_s);
    if (a->batch == 1) /* a larger batch reads a union of experts that this does not count */
        printf(", %.2f GB a token = %.1f GB/s = %.2f of the bandwidth, %.2f G weights/s",
               b->cost.active_bytes / 1e9, gbs, gbs / b->limits.read_gbs, weights_s);
    printf("\n");
}

static int bench_model(int argc, char **argv) {
    struct bench_args a = {.prefill = 512, .decode = 64, .batch = 1};
    const struct flag flags[] = {
        {"geometry", "v2-lite|moonlight|r1", FLAG_CHOICE, &a.geometry, 0, 0,
         "shape of the model (default v2-lite)", false},
        {"layers", "N", FLAG_U32, &a.layers, 0, 1024,
         "layers to make (default 0: all of the geometry)", false},
        {"weights", "bf16|fp8", FLAG_CHOICE, &a.weights, 0, 0, "stored type (default bf16)", false},
        {"threads", "N", FLAG_U32, &a.threads, 0, 1024,
         "threads to compute with (default 0: every core allowed)", false},
        {"prefill", "N", FLAG_U32, &a.prefill, 1, 65536, "prompt tokens of one chunk (default 512)",
         false},
        {"decode", "N", FLAG_U32, &a.decode, 0, 65536, "steps to decode after it (default 64)",
         false},
        {"batch", "N", FLAG_U32, &a.batch, 1, 4096, "sequences decoded together (default 1)",
         false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the result as a JSON object", false},
        KV_DTYPE_FLAG(&a.kv),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench model",
        .what = "Measures prefill and decode of a model geometry with random weights, beside this "
                "machine's limits.",
        .usage = "supernode bench model [flags]",
        .example = "supernode bench model --geometry v2-lite --layers 8 --weights bf16 --threads 2",
        .flags = flags,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, NULL, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    struct bench b = {.a = &a};
    enum st st = bench_make(&b, &err);
    if (!st) {
        measure(&b);
        st = limits_measure(&b.limits, b.team, &err);
    }
    if (!st) {
        report(&b);
    }
    bench_release(&b);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}

int cli_bench(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "model") == 0) return bench_model(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "engine") == 0) return cli_bench_engine(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "serve") == 0) return cli_bench_serve(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "handover") == 0)
        return cli_bench_handover(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "bus") == 0) return cli_bench_bus(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "calibrate") == 0)
        return cli_bench_calibrate(argc - 1, argv + 1);
    if (argc >= 2 && strcmp(argv[1], "limits") == 0) return cli_bench_limits(argc - 1, argv + 1);
    bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    fprintf(help ? stdout : stderr,
            "usage: supernode bench model|engine|serve|calibrate|handover|bus|limits [flags]\n\n"
            "  model   prefill and decode of a model's geometry, with random weights\n"
            "  engine  batching and scheduling in this process, without a server\n"
            "  serve   load on an OpenAI-compatible server\n"
            "  calibrate  what a server costs on this machine, for sim run to predict it\n"
            "  handover  KV between two processes, and what it does to decoding\n"
            "  bus     the bus between two processes, beside memcpy and a pipe\n"
            "  limits  what this machine can do at most\n\n"
            "supernode bench serve --help says more.\n");
    return help ? 0 : CLI_USAGE;
}

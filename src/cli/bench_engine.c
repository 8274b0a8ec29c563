/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench engine: requests handed to the engine in this process, without HTTP, text or
 * threads between: what the model and the scheduler can do, beside which `bench serve` shows what
 * the server costs. A closed loop: so many requests are always under way. */
#include "cli/bench_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/model_args.h"
#include "engine/local.h"

enum { WARM_TOKENS = 4 };

struct args {
    struct model_args model;
    uint32_t concurrency, num_prompts, input_len, output_len, speculate;
    struct engine_options engine;
    bool json;
};

struct load {
    const struct args *a;
    struct local local;
    struct client {
        struct request r;
        bool done;
    } * clients; /* [concurrency] */
    uint64_t tokens, rng;
};

static bool on_token(void *ctx, const struct token_out *t) {
    (void)ctx;
    (void)t;
    return true;
}
static void on_done(void *ctx, const struct err *err) {
    (void)err;
    ((struct client *)ctx)->done = true;
}

static uint32_t below(struct load *l, uint32_t n) {
    l->rng = l->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((l->rng >> 33) % n);
}

/* A prompt of random ids that shares nothing with others. */
static enum st ask(struct load *l, struct client *c, uint32_t seed, uint32_t output_len,
                   struct err *err) {
    static const struct engine_sink sink = {.token = on_token, .done = on_done};
    struct request *r = &c->r;
    c->done = false;
    request_release(r);
    *r = (struct request){.version = REQUEST_VERSION,
                          .id = "bench",
                          .n_prompt = l->a->input_len,
                          .seed = seed,
                          .max_tokens = output_len,
                          .logprobs = -1,
                          .prompt_logprobs = -1,
                          .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    memcpy(r->model_id, l->local.in.model_id, sizeof r->model_id);
    r->prompt = malloc(r->n_prompt * sizeof *r->prompt);
    r->roles = malloc(sizeof *r->roles);
    if (!r->prompt || !r->roles) return err_set(err, ST_NO_MEMORY, "bench engine: out of memory");
    for (uint32_t i = 0; i < r->n_prompt; i++) r->prompt[i] = below(l, l->local.in.config.vocab);
    r->roles[0] = (struct role_run){.len = r->n_prompt};
    r->n_roles = 1;
    enum st st = request_make_choices(r, 1, err);
    return st ? st : engine_add(l->local.engine, r, &sink, c, clock_now_ns(), err);
}

static enum st run_load(struct load *l, uint32_t num_prompts, uint32_t output_len,
                        struct err *err) {
    uint32_t asked = 0, under_way = 0, n = l->a->concurrency;
    enum st st = ST_OK;
    for (; asked < n && asked < num_prompts && !st; asked++, under_way++)
        st = ask(l, &l->clients[asked], asked, output_len, err);
    while (!st && under_way > 0) {
        (void)engine_step(l->local.engine);
        for (uint32_t i = 0; i < n && !st; i++) {
            struct client *c = &l->clients[i];
            if (!c->done) continue;
            c->done = false;
            l->tokens += c->r.choices[0].n_ids;
            under_way--;
            if (asked == num_prompts) continue;
            st = ask(l, c, asked++, output_len, err);
            under_way++;
        }
    }
    return st;
}

/* One wave that does not count: a mapped checkpoint is read page by page the first time. The engine
 * is made anew, so that its figures are of the load alone and nothing is cached. */
static enum st warm_up(struct load *l, struct err *err) {
    enum st st = run_load(l, l->a->concurrency,
                          WARM_TOKENS < l->a->output_len ? WARM_TOKENS : l->a->output_len, err);
    if (st) return st;
    engine_free(l->local.engine);
    l->local.engine = NULL;
    l->tokens = 0;
    return engine_new(&l->local.engine, exec_model_executor(l->local.exec), &l->a->engine, err);
}

static void report(const struct load *l, double seconds) {
    const struct engine_stats *s = engine_stats(l->local.engine);
    double tpot = s->tpot.count ? 1e3 * s->tpot.sum / (double)s->tpot.count : 0,
           ttft = s->ttft.count ? 1e3 * s->ttft.sum / (double)s->ttft.count : 0,
           accepted =
               s->spec_draft_tokens ? (double)s->spec_accepted / (double)s->spec_draft_tokens : 0;
    if (!l->a->json) {
        printf("concurrency %u: %u requests of %u + %u tokens in %.2f s: %.1f tokens/s out, %.1f "
               "in all; TTFT mean %.1f ms, TPOT mean %.2f ms, drafts accepted %.2f\n",
               l->a->concurrency, l->a->num_prompts, l->a->input_len, l->a->output_len, seconds,
               (double)l->tokens / seconds, (double)(l->tokens + s->prompt_tokens) / seconds, ttft,
               tpot, accepted);
        return;
    }
    json_t *o = json_pack("{s:i,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:I}", "concurrency",
                          (int)l->a->concurrency, "num_prompts", (int)l->a->num_prompts,
                          "input_len", (int)l->a->input_len, "output_len", (int)l->a->output_len,
                          "duration_s", seconds, "output_tokens_per_s", (double)l->tokens / seconds,
                          "total_tokens_per_s", (double)(l->tokens + s->prompt_tokens) / seconds,
                          "mean_ttft_ms", ttft, "mean_tpot_ms", tpot, "drafts_accepted", accepted,
                          "draft_tokens", (json_int_t)s->spec_draft_tokens, "steps",
                          (json_int_t)s->steps, "preemptions", (json_int_t)s->preemptions);
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(o);
}

static enum st run(struct args *a, const char *model, struct err *err) {
    struct load l = {.a = a, .rng = 1};
    struct instance_options o;
    a->engine.speculate = (enum speculate)a->speculate;
    a->engine.max_num_seqs = a->concurrency;
    enum st st = model_args_options(&o, &a->model, model, err);
    if (st) return st;
    o.kv_seqs = a->concurrency;
    o.max_model_len = a->input_len + a->output_len;
    l.clients = calloc(a->concurrency, sizeof *l.clients);
    if (!l.clients) return err_set(err, ST_NO_MEMORY, "bench engine: out of memory");
    st = local_open(&l.local, &o, &a->engine, err);
    if (!st) {
        st = warm_up(&l, err);
        uint64_t begun = clock_now_ns();
        if (!st) st = run_load(&l, a->num_prompts, a->output_len, err);
        double seconds = (double)(clock_now_ns() - begun) / 1e9;
        if (!st) report(&l, seconds);
        local_close(&l.local);
    }
    for (uint32_t i = 0; i < a->concurrency; i++) request_release(&l.clients[i].r);
    free(l.clients);
    return st;
}

int cli_bench_engine(int argc, char **argv) {
    struct args a = {.concurrency = 8,
                     .num_prompts = 32,
                     .input_len = 128,
                     .output_len = 64,
                     .engine = {.max_num_batched_tokens = 1024, .draft_tokens = 1}};
    const char *args[1];
    const struct flag flags[] = {
        {"max-concurrency", "N", FLAG_U32, &a.concurrency, 1, 65536,
         "requests under way at a time (default 8); as many warm it up before", false},
        {"num-prompts", "N", FLAG_U32, &a.num_prompts, 1, 1 << 24, "requests in all (default 32)",
         false},
        {"random-input-len", "N", FLAG_U32, &a.input_len, 1, 1 << 20,
         "tokens of a prompt (default 128)", false},
        {"random-output-len", "N", FLAG_U32, &a.output_len, 1, 1 << 20,
         "tokens of an answer (default 64)", false},
        {"max-num-batched-tokens", "N", FLAG_U32, &a.engine.max_num_batched_tokens,
         EXECUTOR_CHUNK_MIN, 65536, "tokens of a prompt chunk (default 1024, at least 512)", true},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the result as a JSON object", false},
        SPECULATE_FLAGS(a.speculate, a.engine.draft_tokens),
        MODEL_ARGS_FLAGS(a.model),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench engine",
        .what = "Measures the engine in this process: batching and scheduling without a server.",
        .usage = "supernode bench engine [MODEL] [flags]",
        .example = "supernode bench engine models/tiny --max-concurrency 32 --num-prompts 256",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    return run(&a, args[0], &err) ? cli_fail(CLI_FAILED, &err) : 0;
}

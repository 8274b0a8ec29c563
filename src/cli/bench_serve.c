/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench serve: the command line, and what is asked of the server before the run: its
 * model's name, and what prompts can be made of. Prompts are token ids where the server tokenises
 * (POST /tokenize, ours and vLLM's); elsewhere, and for conversations, they are made-up words, and
 * two short requests tell how many tokens a word takes. */
#include "cli/bench_serve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/json.h"
#include "cli/bench_serve_report.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "serve/json_out.h"

enum {
    REPLY_BYTES_MAX = 16 << 20,
    TOKENIZED_WORDS = 4000, /* some thousand different ids */
    IDS_MIN = 16,
    WORDS_FEW = 64,
    WORDS_MANY = 320,
};
enum dataset { DATASET_RANDOM, DATASET_TRACE };
enum backend { BACKEND_OPENAI, BACKEND_VLLM, BACKEND_CHAT };
static const char *const backends[] = {"openai", "vllm", "openai-chat"};

struct args {
    const char *url, *host, *endpoint, *model, *trace, *percentile_metrics, *percentiles,
        *result_file;
    uint32_t port, dataset, backend, num_prompts, input_len, output_len, prefix_len, concurrency,
        vocab_size, seed;
    float range_ratio, rate, burstiness, speed, scale, temperature;
    bool ignore_eos, save, detailed, json;
    struct flag_list goodput;
};

struct bench {
    struct args a;
    const char *more_goodput[4];
    char *endpoint, *model;
    struct bench_view view;
    struct bench_load load;
    struct bench_target target;
    struct bench_run run;
    struct bench_report report;
};

/* --- what the server says of itself ----------------------------------------------------------- */

/* The answer's JSON, or NULL in *out with ST_OK when the server has no such path. */
static enum st ask(json_t **out, struct bench *b, const char *path, const struct buf *body,
                   struct err *err) {
    struct buf reply = {.max = REPLY_BYTES_MAX};
    int status = 0;
    *out = NULL;
    enum st st = http_fetch(&status, &reply, b->target.client, path, body, err);
    if (!st && status == 200) st = json_parse(out, reply.data, reply.len, path, err);
    if (!st && status != 200 && status != 404 && status != 405)
        st = err_set(err, ST_INVALID, "%s%s: status %d: %.200s", http_client_url(b->target.client),
                     path, status, reply.data ? reply.data : "");
    buf_release(&reply);
    return st;
}

static enum st ask_model(struct bench *b, struct err *err) {
    json_t *models;
    if (b->a.model) {
        b->model = strdup(b->a.model);
        return b->model ? ST_OK : err_set(err, ST_NO_MEMORY, "bench serve: out of memory");
    }
    enum st st = ask(&models, b, "/v1/models", NULL, err);
    if (st) return st;
    const json_t *first = json_array_get(json_at(models, "data"), 0);
    const char *id = json_string_value(json_at(first, "id"));
    b->model = id ? strdup(id) : NULL;
    json_decref(models);
    if (b->model) return ST_OK;
    return err_set(err, ST_INVALID, "%s/v1/models: names no model; give one with --model",
                   http_client_url(b->target.client));
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool take_ids(struct bench_vocabulary *v, const json_t *tokens) {
    size_t n = json_array_size(tokens);
    uint32_t kept = 0;
    v->ids = n >= IDS_MIN ? calloc(n, sizeof *v->ids) : NULL;
    if (!v->ids) return false;
    for (size_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(tokens, i));
        v->ids[i] = id > 0 && id < UINT32_MAX ? (uint32_t)id : 0;
    }
    qsort(v->ids, n, sizeof *v->ids, compare_ids);
    for (size_t i = 0; i < n; i++)
        if (v->ids[i] && (kept == 0 || v->ids[kept - 1] != v->ids[i])) v->ids[kept++] = v->ids[i];
    v->n_ids = kept;
    return kept > 0;
}

/* The ids of made-up words: no special token is among them. *done stays false where the server does
 * not tokenise. */
static enum st ask_ids(bool *done, struct bench *b, struct err *err) {
    struct buf body = {.max = REPLY_BYTES_MAX};
    struct json_out o = {&body, ST_OK};
    json_t *reply = NULL;
    json_out_raw(&o, "{\"model\":");
    json_out_text(&o, b->model, strlen(b->model));
    json_out_raw(&o, ",\"add_special_tokens\":false,\"prompt\":");
    enum st st = o.st ? o.st : bench_words(&body, TOKENIZED_WORDS, b->load.seed);
    json_out_raw(&o, "}");
    st = st || o.st ? err_set(err, ST_NO_MEMORY, "bench serve: out of memory")
                    : ask(&reply, b, "/tokenize", &body, err);
    *done = !st && take_ids(&b->load.vocabulary, json_at(reply, "tokens"));
    json_decref(reply);
    buf_release(&body);
    return st;
}

/* Prompt tokens of a request with n words. */
static enum st ask_words(double *tokens, struct bench *b, uint32_t n, struct err *err) {
    struct buf words = {.max = REPLY_BYTES_MAX}, body = {.max = REPLY_BYTES_MAX};
    json_t *reply = NULL;
    enum st st = bench_words(&words, n, b->load.seed);
    if (!st) st = bench_body(&body, &b->target, words.data, 1, false);
    st = st ? err_set(err, st, "bench serve: out of memory")
            : ask(&reply, b, b->endpoint, &body, err);
    if (!st && !reply)
        st = err_set(err, ST_NOT_FOUND, "%s%s: the server has no such path",
                     http_client_url(b->target.client), b->endpoint);
    if (!st) {
        *tokens = json_number_value(json_at(reply, "usage.prompt_tokens"));
        if (!(*tokens >= 1))
            st = err_set(err, ST_INVALID, "%s%s: its answer has no usage.prompt_tokens",
                         http_client_url(b->target.client), b->endpoint);
    }
    json_decref(reply);
    buf_release(&words);
    buf_release(&body);
    return st;
}

static enum st learn_vocabulary(struct bench *b, struct err *err) {
    struct bench_vocabulary *v = &b->load.vocabulary;
    bool done = false;
    double few = 0, many = 0;
    if (b->a.vocab_size && !b->target.chat) {
        v->n_ids = b->a.vocab_size - 3;
        return ST_OK;
    }
    enum st st = b->target.chat ? ST_OK : ask_ids(&done, b, err);
    if (st || done) return st;
    st = ask_words(&few, b, WORDS_FEW, err);
    if (!st) st = ask_words(&many, b, WORDS_MANY, err);
    v->tokens_per_word = (many - few) / (WORDS_MANY - WORDS_FEW);
    if (!st && !(v->tokens_per_word > 0.01))
        st = err_set(err, ST_INVALID, "%s%s: %g and %g prompt tokens for %d and %d words",
                     http_client_url(b->target.client), b->endpoint, few, many, WORDS_FEW,
                     WORDS_MANY);
    return st;
}

/* --- the load --------------------------------------------------------------------------------- */

static enum st make_load(struct bench *b, struct err *err) {
    const struct args *a = &b->a;
    enum st st;
    b->load.seed = a->seed;
    if (a->dataset == DATASET_TRACE) {
        if (!a->trace)
            return err_set(err, ST_INVALID,
                           "bench serve: --dataset-name trace: expected "
                           "--dataset-path FILE beside it");
        st = bench_load_trace(
            &b->load,
            &(struct bench_trace){a->trace, a->num_prompts, (double)a->scale, (double)a->speed},
            err);
        if (!st && isfinite(a->rate))
            bench_load_arrivals(&b->load, (double)a->rate, (double)a->burstiness);
        return st;
    }
    st = bench_load_random(&b->load,
                           &(struct bench_random){.n = a->num_prompts ? a->num_prompts : 1000,
                                                  .input_len = a->input_len,
                                                  .output_len = a->output_len,
                                                  .prefix_len = a->prefix_len,
                                                  .range_ratio = (double)a->range_ratio},
                           err);
    if (!st) bench_load_arrivals(&b->load, (double)a->rate, (double)a->burstiness);
    return st;
}

/* Every stream is a descriptor. */
static void raise_descriptors(const struct bench *b) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    r.rlim_cur = r.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &r);
    rlim_t most = b->load.len < b->target.concurrency_max ? b->load.len : b->target.concurrency_max;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < most + 32)
        fprintf(stderr,
                "supernode: bench serve: this process may open %llu files and up to %llu requests "
                "may run at once: raise ulimit -n or give --max-concurrency\n",
                (unsigned long long)r.rlim_cur, (unsigned long long)most);
}

/* --- results ---------------------------------------------------------------------------------- */

static enum st write_json(struct bench *b, struct err *err) {
    const struct args *a = &b->a;
    char date[32], name[512];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
    json_t *o = json_pack("{ss,ss,ss,ss,ss,si,sf,si}", "date", date, "endpoint_type",
                          backends[a->backend], "backend", backends[a->backend], "model_id",
                          b->model, "tokenizer_id", b->model, "num_prompts", (int)b->load.len,
                          "burstiness", (double)a->burstiness, "seed", (int)a->seed);
    json_t *rate = isfinite(a->rate) ? json_real((double)a->rate) : json_string("inf");
    int bad = json_object_set_new(o, "request_rate", rate);
    bad |= json_object_set_new(o, "max_concurrency",
                               a->concurrency ? json_integer(a->concurrency) : json_null());
    enum st st = bad ? err_set(err, ST_NO_MEMORY, "bench serve: out of memory")
                     : bench_report_json(&b->report, o, a->detailed, err);
    if (!st && a->json) {
        json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        printf("\n");
    }
    if (!st && (a->save || a->result_file)) {
        const char *slash = strrchr(b->model, '/');
        snprintf(name, sizeof name, "%s-%gqps-%.200s-%s.json", backends[a->backend],
                 (double)a->rate, slash ? slash + 1 : b->model, date);
        const char *path = a->result_file ? a->result_file : name;
        if (json_dump_file(o, path, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) != 0)
            st = err_set(err, ST_IO, "%s: cannot write the result", path);
        else if (!a->json)
            printf("result      %s\n", path);
    }
    json_decref(o);
    return st;
}

static void print_head(const struct bench *b) {
    const struct args *a = &b->a;
    const struct bench_vocabulary *v = &b->load.vocabulary;
    printf("server      %s%s  %s\n", http_client_url(b->target.client), b->endpoint, b->model);
    if (a->dataset == DATASET_TRACE)
        printf("load        %u requests of %s", b->load.len, a->trace);
    else
        printf("load        %u requests, %u tokens in, %u out", b->load.len, a->input_len,
               a->output_len);
    if (a->prefix_len) printf(", after %u that all share", a->prefix_len);
    if (isfinite(a->rate))
        printf(", %g req/s", (double)a->rate);
    else
        printf(a->dataset == DATASET_TRACE ? ", as the trace has them" : ", all at once");
    if (a->concurrency) printf(", at most %u at once", a->concurrency);
    if (v->n_ids)
        printf(", prompts of %u token ids", v->n_ids);
    else
        printf(", prompts of words (%.2f tokens each)", v->tokens_per_word);
    printf(", seed %u\n", a->seed);
    fflush(stdout);
}

static enum st run(struct bench *b, struct err *err) {
    enum st st = ask_model(b, err);
    b->target.model = b->model;
    if (!st) st = make_load(b, err);
    if (!st) st = learn_vocabulary(b, err);
    if (st) return st;
    raise_descriptors(b);
    if (!b->a.json) print_head(b);
    st = bench_run(&b->run, &b->target, &b->load, err);
    if (!st) st = bench_report_make(&b->report, &b->view, &b->run, err);
    if (st) return st;
    if (!b->a.json) bench_report_print(&b->report);
    st = write_json(b, err);
    if (!st && b->report.completed == 0)
        st = err_set(err, ST_GONE, "bench serve: none of %u requests succeeded%s%s", b->run.len,
                     b->run.sample.text[0] ? "; the first failure: " : "", b->run.sample.text);
    return st;
}

/* --- the command ------------------------------------------------------------------------------ */

static enum st parse(enum flag_result *result, struct args *a, const char **args, int argc,
                     char **argv, struct err *err) {
    const struct flag flags[] = {
        {"base-url", "URL", FLAG_STR, &a->url, 0, 0,
         "the server (default http://127.0.0.1:8000); https too", false},
        {"url", "URL", FLAG_STR, &a->url, 0, 0, "the same", true},
        {"host", "ADDR", FLAG_STR, &a->host, 0, 0, "instead of --base-url, with --port", true},
        {"port", "N", FLAG_U32, &a->port, 1, 65535, "default 8000", true},
        {"endpoint", "PATH", FLAG_STR, &a->endpoint, 0, 0,
         "default /v1/completions; or /v1/chat/completions", false},
        {"backend", "openai|vllm|openai-chat", FLAG_CHOICE, &a->backend, 0, 0,
         "openai-chat is --endpoint /v1/chat/completions; the others are the same", true},
        {"model", "NAME", FLAG_STR, &a->model, 0, 0, "default: the first the server lists", true},
        {"dataset-name", "random|trace", FLAG_CHOICE, &a->dataset, 0, 0, "default random", false},
        {"dataset-path", "FILE", FLAG_STR, &a->trace, 0, 0,
         "trace: Mooncake's JSON lines or Azure's CSV; - is standard input", false},
        {"num-prompts", "N", FLAG_U32, &a->num_prompts, 1, 10000000,
         "requests (default 1000; of a trace: all)", false},
        {"random-input-len", "N", FLAG_U32, &a->input_len, 1, 1 << 20,
         "prompt tokens (default 1024)", false},
        {"random-output-len", "N", FLAG_U32, &a->output_len, 1, 1 << 20,
         "tokens to answer (default 128)", false},
        {"random-range-ratio", "R", FLAG_F32, &a->range_ratio, 0, 1,
         "lengths are uniform in (1 - R) .. (1 + R) times those (default 0)", false},
        {"random-prefix-len", "N", FLAG_U32, &a->prefix_len, 0, 1 << 20,
         "tokens before them that all prompts share (default 0)", false},
        {"request-rate", "R", FLAG_F32, &a->rate, 1e-6, (double)INFINITY,
         "arrivals a second, never waiting for answers (default inf: all at once)", false},
        {"rate", "R", FLAG_F32, &a->rate, 1e-6, (double)INFINITY, "the same", true},
        {"burstiness", "B", FLAG_F32, &a->burstiness, 1e-3, 1e6,
         "shape of the gaps' gamma distribution (default 1: Poisson; less is burstier)", true},
        {"max-concurrency", "N", FLAG_U32, &a->concurrency, 1, 1000000,
         "requests under way at once (default: no limit)", false},
        {"trace-speed", "F", FLAG_F32, &a->speed, 1e-6, 1e6,
         "a trace's arrivals F times as fast (default 1)", true},
        {"trace-scale", "F", FLAG_F32, &a->scale, 1e-6, 1e3,
         "a trace's lengths times F, shared blocks too (default 1)", true},
        {"seed", "N", FLAG_U32, &a->seed, 0, INT32_MAX,
         "of lengths, arrivals and prompts (default 0)", true},
        {"temperature", "T", FLAG_F32, &a->temperature, 0, 10, "default 0", true},
        {"ignore-eos", NULL, FLAG_BOOL, &a->ignore_eos, 0, 0,
         "answers have their full length (vLLM's and our field)", false},
        {"vocab-size", "N", FLAG_U32, &a->vocab_size, 4, 1 << 24,
         "make prompts of ids 3 to N - 1 instead of asking /tokenize", true},
        {"goodput", "SLO", FLAG_LIST, &a->goodput, 0, 0,
         "ttft:MS tpot:MS e2el:MS: count the requests that meet all", false},
        {"percentile-metrics", "LIST", FLAG_STR, &a->percentile_metrics, 0, 0,
         "lines to print (default ttft,tpot,itl,e2el)", true},
        {"metric-percentiles", "LIST", FLAG_STR, &a->percentiles, 0, 0, "default 50,90,99", true},
        {"save-result", NULL, FLAG_BOOL, &a->save, 0, 0, "write the result as JSON", true},
        {"save-detailed", NULL, FLAG_BOOL, &a->detailed, 0, 0, "with every request's times", true},
        {"result-filename", "FILE", FLAG_STR, &a->result_file, 0, 0, "where to", true},
        {"json", NULL, FLAG_BOOL, &a->json, 0, 0, "print JSON instead of lines", true},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench serve",
        .what = "Puts load on an OpenAI-compatible server and measures what its clients see.",
        .usage = "supernode bench serve [flags]",
        .example = "supernode bench serve --url http://127.0.0.1:8000 --request-rate 4 "
                   "--num-prompts 100 --random-input-len 512 --random-output-len 64 --ignore-eos "
                   "--goodput ttft:500 tpot:20",
        .flags = flags,
        .args_max = 4, /* vLLM's --goodput takes several words */
    };
    return flags_parse(result, &cmd, argc, argv, args, err);
}

static enum st read_view(struct bench *b, struct err *err) {
    const struct args *a = &b->a;
    enum st st = bench_view_metrics(&b->view, a->percentile_metrics, err);
    if (!st) st = bench_view_percentiles(&b->view, a->percentiles, err);
    for (uint32_t i = 0; i < a->goodput.len && !st; i++)
        st = bench_view_slo(&b->view, a->goodput.v[i], err);
    for (uint32_t i = 0; i < 4 && b->more_goodput[i] && !st; i++) {
        if (a->goodput.len == 0)
            return err_set(err, ST_INVALID, "bench serve: unexpected argument '%s'",
                           b->more_goodput[i]);
        st = bench_view_slo(&b->view, b->more_goodput[i], err);
    }
    return st;
}

static enum st set_target(struct bench *b, struct err *err) {
    struct args *a = &b->a;
    char url[320];
    snprintf(url, sizeof url, strchr(a->host, ':') ? "http://[%.255s]:%u" : "http://%.255s:%u",
             a->host, a->port);
    const char *endpoint = a->endpoint                  ? a->endpoint
                           : a->backend == BACKEND_CHAT ? "/v1/chat/completions"
                                                        : "/v1/completions";
    b->endpoint = strdup(endpoint);
    b->target = (struct bench_target){
        .endpoint = b->endpoint,
        .chat = strstr(endpoint, "chat/") != NULL,
        .ignore_eos = a->ignore_eos,
        .temperature = (double)a->temperature,
        .concurrency_max = a->concurrency ? a->concurrency : UINT32_MAX,
        .paced = a->concurrency && !isfinite(a->rate) && a->dataset == DATASET_RANDOM};
    b->target.base = bench_base_new();
    if (!b->target.base || !b->endpoint)
        return err_set(err, ST_NO_MEMORY, "bench serve: cannot make an event loop");
    return http_client_new(&b->target.client, b->target.base, a->url ? a->url : url, err);
}

int cli_bench_serve(int argc, char **argv) {
    struct bench b = {.a = {.host = "127.0.0.1",
                            .port = 8000,
                            .input_len = 1024,
                            .output_len = 128,
                            .rate = INFINITY,
                            .burstiness = 1,
                            .speed = 1,
                            .scale = 1,
                            .percentile_metrics = "ttft,tpot,itl,e2el",
                            .percentiles = "50,90,99"}};
    struct err err;
    enum flag_result result;
    enum st st = parse(&result, &b.a, b.more_goodput, argc, argv, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st) st = read_view(&b, &err);
    if (st) return cli_fail(CLI_USAGE, &err);
    st = set_target(&b, &err);
    if (!st) st = run(&b, &err);
    bench_report_release(&b.report);
    bench_run_release(&b.run);
    bench_load_release(&b.load);
    http_client_free(b.target.client);
    if (b.target.base) event_base_free(b.target.base);
    free(b.endpoint);
    free(b.model);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}

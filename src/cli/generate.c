/* SPDX-License-Identifier: Apache-2.0 */
/* supernode generate: one prompt in, one answer out, on stdout as it comes or as one JSON object.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/model_args.h"
#include "engine/local.h"
#include "text/output.h"

enum { PROMPT_BYTES_MAX = 64 << 20, TEXT_BYTES_MAX = 1 << 30 };

struct generate_args {
    struct model_args model;
    const char *prompt, *file, *ids;
    uint32_t *prompt_ids, n_prompt_ids; /* of --ids */
    uint32_t max_tokens, min_tokens, max_model_len, logprobs, top_k, chunk;
    float temperature, top_p, min_p, repetition_penalty;
    struct flag_i64 seed;
    struct flag_list stop;
    bool json, ignore_eos;
    uint32_t speculate, draft_tokens;
};

enum { UNSET_U32 = 0x7fffffff };
static const float unset_f32 = -1;

struct answer {
    const struct generate_args *a;
    struct tokenizer *tok; /* NULL: the model has none, ids only */
    struct text_output output;
    struct buf text;
    json_t *logprobs; /* NULL: not wanted */
    uint64_t first_ns;
    uint32_t n_used; /* ids that count: those after a stop string do not */
    enum st st;
    bool done;
};

static json_t *logprob_entry(const struct answer *w, const struct token_logprob *t) {
    struct buf bytes = {.max = 1 << 20};
    json_t *e = json_pack("{s:i}", "id", (int)t->id);
    json_object_set_new(e, "logprob",
                        isfinite(t->logprob) ? json_real((double)t->logprob) : json_null());
    if (w->tok && tok_decode_token(&bytes, w->tok, t->id, TOK_SPECIAL_SHOW) == ST_OK && bytes.data)
        json_object_set_new(
            e, "token",
            json_stringn(bytes.data, bytes.len)); /* NULL where it is half a character */
    buf_release(&bytes);
    return e;
}

static void add_logprobs(struct answer *w, const struct token_out *t) {
    struct token_logprob own = {.id = t->id, .logprob = t->logprob};
    json_t *e = logprob_entry(w, &own), *top = json_array();
    for (uint32_t i = 0; i < t->n_top; i++)
        json_array_append_new(top, logprob_entry(w, &t->top[i]));
    json_object_set_new(e, "top", top);
    json_array_append_new(w->logprobs, e);
}

static void print_new(const struct answer *w, size_t from) {
    if (w->a->json || w->text.len == from) return;
    fwrite(w->text.data + from, 1, w->text.len - from, stdout);
    fflush(stdout);
}

static bool take_token(void *ctx, const struct token_out *t) {
    struct answer *w = ctx;
    if (w->n_used++ == 0) w->first_ns = clock_now_ns();
    if (w->logprobs) add_logprobs(w, t);
    if (!w->tok) {
        if (!w->a->json) printf("%s%u", w->n_used > 1 ? "," : "", t->id), fflush(stdout);
        return true;
    }
    if (t->finish == FINISH_STOP) return true;
    size_t from = w->text.len;
    w->st = text_output_push(&w->output, &w->text, t->id, w->n_used > w->a->min_tokens);
    print_new(w, from);
    return !w->st && w->output.stopped_by < 0;
}

/* Nothing ends one request of one process but itself. */
static void take_done(void *ctx, const struct err *err) {
    struct answer *w = ctx;
    (void)err;
    w->done = true;
}

static const char *finish_name(const struct answer *w, enum finish_reason f) {
    if (w->output.stopped_by >= 0 || f == FINISH_STOP) return "stop";
    return f == FINISH_LENGTH ? "length" : "cancelled";
}

static void print_json(struct answer *w, const struct request *r, uint64_t begun, uint64_t opened,
                       uint64_t ended) {
    json_t *ids = json_array(), *prompt_ids = json_array();
    for (uint32_t i = 0; i < w->n_used; i++)
        json_array_append_new(ids, json_integer(r->choices[0].ids[i]));
    for (uint32_t i = 0; i < r->n_prompt; i++)
        json_array_append_new(prompt_ids, json_integer(r->prompt[i]));
    double ttft_ms = (double)(w->first_ns - opened) / 1e6;
    double decode_s = (double)(ended - w->first_ns) / 1e9;
    json_t *out = json_pack(
        "{s:o,s:o,s:s,s:I,s:{s:i,s:i,s:i},s:{s:f,s:f,s:f,s:f}}", "prompt_ids", prompt_ids, "ids",
        ids, "finish_reason", finish_name(w, r->choices[0].finish), "seed", (json_int_t)r->seed,
        "usage", "prompt_tokens", (int)r->n_prompt, "completion_tokens", (int)w->n_used,
        "total_tokens", (int)(r->n_prompt + w->n_used), "times", "load_ms",
        (double)(opened - begun) / 1e6, "ttft_ms", w->n_used ? ttft_ms : 0.0, "total_ms",
        (double)(ended - opened) / 1e6, "decode_tokens_per_s",
        w->n_used > 1 && decode_s > 0 ? (w->n_used - 1) / decode_s : 0.0);
    if (w->tok)
        json_object_set_new(out, "text",
                            json_stringn(w->text.data ? w->text.data : "", w->text.len));
    if (w->logprobs) json_object_set(out, "logprobs", w->logprobs);
    json_dumpf(out, stdout, JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
}

/* --- the record ------------------------------------------------------------------------------- */

static enum st read_prompt(struct request *r, const struct generate_args *a,
                           const struct tokenizer *tok, struct err *err) {
    if (a->ids) {
        r->prompt = malloc(a->n_prompt_ids * sizeof *r->prompt);
        if (!r->prompt) return err_set(err, ST_NO_MEMORY, "prompt: out of memory");
        memcpy(r->prompt, a->prompt_ids, a->n_prompt_ids * sizeof *r->prompt);
        r->n_prompt = a->n_prompt_ids;
        return ST_OK;
    }
    struct buf text = {.max = PROMPT_BYTES_MAX};
    struct tok_ids ids = {0};
    enum st st = a->prompt ? buf_append_str(&text, a->prompt)
                           : file_read(&text, a->file ? a->file : "-", err);
    if (!st) st = tok_encode(&ids, tok, text.data ? text.data : "", text.len, TOK_ADDED_MATCH, err);
    bool bos = tok_adds_bos(tok) && tok_bos(tok) >= 0;
    if (!st) {
        r->prompt = malloc((ids.len + 1) * sizeof *r->prompt);
        if (!r->prompt) st = err_set(err, ST_NO_MEMORY, "prompt: out of memory");
    }
    if (!st) {
        if (bos) r->prompt[r->n_prompt++] = (uint32_t)tok_bos(tok);
        if (ids.len) memcpy(r->prompt + r->n_prompt, ids.v, ids.len * sizeof *ids.v);
        r->n_prompt += (uint32_t)ids.len;
    }
    buf_release(&text);
    tok_ids_release(&ids);
    return st;
}

static enum st fill_request(struct request *r, const struct generate_args *a,
                            const struct instance *in, const struct tokenizer *tok,
                            struct err *err) {
    const struct generation_config *g = ckpt_generation(in->ckpt);
    *r =
        (struct request){.version = REQUEST_VERSION, .id = "generate", .min_tokens = a->min_tokens};
    enum st st = read_prompt(r, a, tok, err);
    if (st) return st;
    r->sampling = (struct ops_sample_params){
        .temperature = a->temperature == unset_f32 ? g->temperature : a->temperature,
        .top_p = a->top_p == unset_f32 ? g->top_p : a->top_p,
        .min_p = a->min_p == unset_f32 ? g->min_p : a->min_p,
        .top_k = a->top_k == UNSET_U32 ? g->top_k : a->top_k,
        .repetition_penalty =
            a->repetition_penalty == unset_f32 ? g->repetition_penalty : a->repetition_penalty,
    };
    uint32_t room = r->n_prompt < in->max_model_len ? in->max_model_len - r->n_prompt : 0;
    r->max_tokens = a->max_tokens == UNSET_U32 ? room : a->max_tokens;
    r->prompt_logprobs = -1;
    r->logprobs = a->logprobs == UNSET_U32 ? -1 : (int32_t)a->logprobs;
    r->seed = a->seed.v;
    if (!a->seed.given && !request_draw_seed(r))
        return err_set(err, ST_IO, "cannot draw a seed; give one with --seed");
    if (!a->ignore_eos) r->n_stop_ids = instance_eos_ids(r->stop_ids, in->ckpt);
    memcpy(r->model_id, in->model_id, sizeof r->model_id);
    r->roles = malloc(sizeof *r->roles);
    st = request_make_choices(r, 1, err);
    if (st) return st;
    if (!r->roles) return err_set(err, ST_NO_MEMORY, "generate: out of memory");
    r->roles[0] = (struct role_run){.len = r->n_prompt, .role = ROLE_PROMPT};
    r->n_roles = 1;
    return ST_OK;
}

/* --- running ---------------------------------------------------------------------------------- */

static enum st answer(const struct generate_args *a, struct local *l, struct tokenizer *tok,
                      uint64_t begun, struct err *err) {
    struct request r = {0};
    struct answer w = {.a = a, .tok = tok, .text = {.max = TEXT_BYTES_MAX}};
    uint64_t opened = clock_now_ns();
    text_output_init(&w.output, tok, TOK_SPECIAL_SKIP);
    for (uint32_t i = 0; i < a->stop.len; i++) w.output.stops[w.output.n_stops++] = a->stop.v[i];
    enum st st = fill_request(&r, a, &l->in, tok, err);
    if (!st && r.logprobs >= 0) w.logprobs = json_array();
    struct engine_sink sink = {.token = take_token, .done = take_done};
    if (!st) st = engine_add(l->engine, &r, &sink, &w, clock_now_ns(), err);
    while (!st && !w.done) (void)engine_step(l->engine);
    if (!st && w.st) st = err_set(err, w.st, "generate: the text grew past its limit");
    if (!st && tok && w.output.stopped_by < 0) {
        size_t from = w.text.len;
        st = text_output_end(&w.output, &w.text);
        print_new(&w, from);
    }
    uint64_t ended = clock_now_ns();
    if (!st && a->json)
        print_json(&w, &r, begun, opened, ended);
    else if (!st)
        printf("\n");
    json_decref(w.logprobs);
    text_output_release(&w.output);
    buf_release(&w.text);
    request_release(&r);
    return st;
}

static enum st check_args(const struct generate_args *a, struct err *err) {
    if ((a->prompt != NULL) + (a->file != NULL) + (a->ids != NULL) > 1)
        return err_set(err, ST_INVALID, "generate: --prompt, --file and --ids exclude each other");
    if (a->logprobs != UNSET_U32 && !a->json)
        return err_set(err, ST_INVALID, "generate: --logprobs: needs --json");
    if (a->stop.len > 0 && a->ids)
        return err_set(err, ST_INVALID, "generate: --stop: works on text, not with --ids");
    if (a->max_tokens != UNSET_U32 && a->min_tokens > a->max_tokens)
        return err_set(err, ST_INVALID, "generate: --min-tokens: %u is more than --max-tokens %u",
                       a->min_tokens, a->max_tokens);
    for (uint32_t i = 0; i < a->stop.len; i++)
        if (a->stop.v[i][0] == '\0' || strlen(a->stop.v[i]) > TEXT_STOP_BYTES_MAX)
            return err_set(err, ST_INVALID, "generate: --stop: expected 1 to %d bytes",
                           TEXT_STOP_BYTES_MAX);
    return ST_OK;
}

static int run(struct generate_args *a, const char *model, struct err *err) {
    uint64_t begun = clock_now_ns();
    struct local l = {0};
    struct instance_options o;
    struct engine_options e = {.max_num_seqs = 1,
                               .max_num_batched_tokens = a->chunk,
                               .speculate = (enum speculate)a->speculate,
                               .draft_tokens = a->draft_tokens};
    struct tokenizer *tok = NULL;
    enum st st = model_args_options(&o, &a->model, model, err);
    if (!st) {
        o.max_model_len = a->max_model_len;
        st = local_open(&l, &o, &e, err);
    }
    if (!st) st = tok_open(&tok, ckpt_dir(l.in.ckpt), err);
    if (st == ST_NOT_FOUND && a->ids && l.in.ckpt) st = ST_OK; /* ids in, ids out */
    if (!st) st = answer(a, &l, tok, begun, err);
    tok_free(tok);
    local_close(&l);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_generate(int argc, char **argv) {
    struct generate_args a = {.max_tokens = UNSET_U32,
                              .logprobs = UNSET_U32,
                              .top_k = UNSET_U32,
                              .temperature = unset_f32,
                              .top_p = unset_f32,
                              .min_p = unset_f32,
                              .repetition_penalty = unset_f32,
                              .chunk = 512,
                              .draft_tokens = 1};
    const char *args[1];
    const struct flag flags[] = {
        {"prompt", "TEXT", FLAG_STR, &a.prompt, 0, 0,
         "the prompt; without it, --file or --ids: stdin", false},
        {"file", "FILE", FLAG_STR, &a.file, 0, 0, "read the prompt from a file", false},
        {"ids", "0,17,4", FLAG_STR, &a.ids, 0, 0, "the prompt as token ids (needs no tokenizer)",
         false},
        {"max-tokens", "N", FLAG_U32, &a.max_tokens, 0, 1 << 24,
         "tokens to generate (default: what the context holds)", false},
        {"temperature", "T", FLAG_F32, &a.temperature, 0, 100,
         "0 is greedy (default: the checkpoint's generation_config.json, else 1)", false},
        {"seed", "S", FLAG_I64, &a.seed, 0, 0,
         "same seed, same answer (default: drawn, and shown with --json)", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0,
         "one JSON object: ids, text, logprobs, finish reason, usage, times", false},
        {"top-p", "P", FLAG_F32, &a.top_p, 0, 1,
         "nucleus sampling (default: generation_config.json, else 1)", true},
        {"top-k", "K", FLAG_U32, &a.top_k, 0, 1 << 22,
         "likeliest tokens to draw from, 0 all (default: generation_config.json, else 0)", true},
        {"min-p", "P", FLAG_F32, &a.min_p, 0, 1,
         "least probability relative to the likeliest (default 0)", true},
        {"repetition-penalty", "R", FLAG_F32, &a.repetition_penalty, 1e-3, 100,
         "over 1 discourages what was said (default: generation_config.json, else 1)", true},
        {"stop", "TEXT", FLAG_LIST, &a.stop, 0, 0,
         "end before this text; may be given up to 16 times", true},
        {"min-tokens", "N", FLAG_U32, &a.min_tokens, 0, 1 << 24,
         "do not end before N tokens (default 0)", true},
        {"ignore-eos", NULL, FLAG_BOOL, &a.ignore_eos, 0, 0, "go on past the end-of-sentence token",
         true},
        {"logprobs", "N", FLAG_U32, &a.logprobs, 0, REQUEST_LOGPROBS_MAX,
         "with --json: log-probabilities, and those of the N likeliest tokens", true},
        {"max-model-len", "N", FLAG_U32, &a.max_model_len, 1, 1 << 24,
         "longest sequence (default: max_position_embeddings)", true},
        {"chunk", "N", FLAG_U32, &a.chunk, 1, 65536,
         "rows of one prompt chunk (default 512); the answer does not depend on it", true},
        SPECULATE_FLAGS(a.speculate, a.draft_tokens),
        MODEL_ARGS_FLAGS(a.model),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "generate",
        .what = "Continues a prompt.",
        .usage = "supernode generate [MODEL] [flags]",
        .example = "supernode generate --prompt 'Once upon a time' --max-tokens 100 --seed 1",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    if (check_args(&a, &err)) return cli_fail(CLI_USAGE, &err);
    if (a.ids && ids_parse(&a.prompt_ids, &a.n_prompt_ids, a.ids, &err))
        return cli_fail(CLI_USAGE, &err);
    int rc = run(&a, args[0], &err);
    free(a.prompt_ids);
    return rc;
}

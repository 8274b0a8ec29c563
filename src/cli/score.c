/* SPDX-License-Identifier: Apache-2.0 */
/* supernode score: how well a model predicts a text. The text is cut into windows of --context
 * tokens that are scored alone, each after BOS where the tokenizer has one; every token of the text
 * counts once, but for the very first where there is no BOS. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/model_args.h"
#include "cli/progress.h"
#include "engine/instance.h"
#include "ops/sample.h"
#include "text/tokenizer.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

struct score {
    struct instance *in;
    uint32_t *ids; /* the window, BOS first */
    uint32_t *pages;
    struct step_row *rows;
    double nll;
    uint64_t n_scored;
};

/* The window's n ids; each is predicted by the row before it. */
static void score_window(struct score *s, uint32_t n) {
    uint32_t vocab = s->in->config.vocab;
    for (uint32_t i = 0; i < n; i++)
        s->rows[i] = (struct step_row){
            .token = s->ids[i], .pos = i, .role = ROLE_PROMPT, .logits = i + 1 < n};
    struct step_seq seq = {.pages = s->pages, .n_pages = s->in->kv.n_pages};
    struct step_input input = {.rows = s->rows, .n_rows = n, .seqs = &seq, .n_seqs = 1};
    step_begin(s->in->step, &input);
    model_step(&s->in->step, 1);
    for (uint32_t i = 1; i < n; i++) {
        const float *logits = step_logits(s->in->step, i - 1);
        s->nll += (double)(ops_logsumexp(logits, vocab) - logits[s->ids[i]]);
        s->n_scored++;
    }
}

static enum st alloc_window(struct score *s, uint32_t context, struct err *err) {
    s->ids = malloc(context * sizeof *s->ids);
    s->rows = malloc(context * sizeof *s->rows);
    s->pages = malloc(s->in->kv.n_pages * sizeof *s->pages);
    if (!s->ids || !s->rows || !s->pages) return err_set(err, ST_NO_MEMORY, "score: out of memory");
    for (uint32_t i = 0; i < s->in->kv.n_pages; i++) s->pages[i] = i;
    return ST_OK;
}

/* A window begins with a token that is not scored in it: BOS, or, where there is none, the last one
 * of the window before. */
static void score_windows(struct score *s, const struct tok_ids *ids, int64_t bos,
                          uint32_t context) {
    struct progress bar;
    char note[64];
    progress_begin(&bar, "score");
    for (size_t from = 0; from < ids->len;) {
        uint32_t lead = bos >= 0 || from > 0, n = context - lead;
        if (n > ids->len - from) n = (uint32_t)(ids->len - from);
        if (lead) s->ids[0] = bos >= 0 ? (uint32_t)bos : ids->v[from - 1];
        memcpy(s->ids + lead, ids->v + from, n * sizeof *s->ids);
        score_window(s, lead + n);
        from += n;
        snprintf(note, sizeof note, "perplexity %.3f",
                 exp(s->nll / (double)(s->n_scored ? s->n_scored : 1)));
        progress_show(&bar, from, ids->len, note);
    }
    progress_end(&bar);
}

static enum st run(struct score *s, const struct tok_ids *ids, int64_t bos, uint32_t context,
                   struct err *err) {
    if (context > s->in->config.max_positions)
        return err_set(err, ST_INVALID,
                       "score: --context: found %u, expected at most max_position_embeddings %u",
                       context, s->in->config.max_positions);
    if (bos >= s->in->config.vocab)
        return err_set(err, ST_INVALID,
                       "score: BOS id %" PRId64 ", but the model's vocabulary has %u", bos,
                       s->in->config.vocab);
    for (size_t i = 0; i < ids->len; i++)
        if (ids->v[i] >= s->in->config.vocab)
            return err_set(err, ST_INVALID, "score: token id %u, but the model's vocabulary has %u",
                           ids->v[i], s->in->config.vocab);
    enum st st = alloc_window(s, context, err);
    if (st) return st;
    score_windows(s, ids, bos, context);
    if (s->n_scored == 0) return err_set(err, ST_INVALID, "score: the text has no token to score");
    if (!isfinite(s->nll))
        return err_set(err, ST_CORRUPT, "score: the model's logits are not finite");
    return ST_OK;
}

static void print_result(const struct score *s, size_t n_bytes, double seconds, bool json) {
    double n = (double)s->n_scored, nll = s->nll / n;
    double bits_per_byte = s->nll / log(2) / (double)n_bytes;
    if (json) {
        json_t *o =
            json_pack("{s:f,s:f,s:f,s:I,s:I,s:f}", "perplexity", exp(nll), "nll_per_token", nll,
                      "bits_per_byte", bits_per_byte, "tokens", (json_int_t)s->n_scored, "bytes",
                      (json_int_t)n_bytes, "seconds", seconds);
        json_dumpf(o, stdout, JSON_REAL_PRECISION(9));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("perplexity     %.4f\nnll            %.4f nats a token\nbits           %.4f a "
           "byte\ntokens         %" PRIu64 " scored of %zu bytes in %.1f s (%.0f a second)\n",
           exp(nll), nll, bits_per_byte, s->n_scored, n_bytes, seconds, n / seconds);
}

struct score_args {
    struct model_args model;
    uint32_t context;
    bool json;
};

static enum st score_file(struct score_args *a, const char *model, const char *file,
                          struct err *err) {
    struct instance in = {0};
    struct instance_options o;
    struct tokenizer *tok = NULL;
    struct buf text = {.max = TEXT_BYTES_MAX};
    struct tok_ids ids = {0};
    struct score s = {.in = &in};
    enum st st = model_args_options(&o, &a->model, model, err);
    o.chunk_rows = o.logits_rows = o.max_model_len = a->context;
    if (!st) st = file_read(&text, file, err);
    if (!st) st = instance_open(&in, &o, err);
    if (!st) st = tok_open(&tok, ckpt_dir(in.ckpt), err);
    if (!st) st = tok_encode(&ids, tok, text.data ? text.data : "", text.len, TOK_ADDED_PLAIN, err);
    uint64_t begun = clock_now_ns();
    if (!st) st = run(&s, &ids, tok_bos(tok), a->context, err);
    if (!st) print_result(&s, text.len, (double)(clock_now_ns() - begun) / 1e9, a->json);
    free(s.ids);
    free(s.rows);
    free(s.pages);
    tok_ids_release(&ids);
    buf_release(&text);
    tok_free(tok);
    instance_close(&in);
    return st;
}

int cli_score(int argc, char **argv) {
    struct score_args a = {.context = 512};
    a.model.kv = KV_CHOICE_F32;
    const char *args[2];
    const struct flag flags[] = {
        {"context", "N", FLAG_U32, &a.context, 2, 65536,
         "tokens of a window, BOS included (default 512)", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the result as a JSON object", false},
        MODEL_ARGS_FLAGS(a.model),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "score",
        .what = "Measures how well a model predicts a text: perplexity, and bits a byte.",
        .usage = "supernode score MODEL FILE [flags]",
        .example = "supernode score models/tiny README.md",
        .flags = flags,
        .args_min = 2,
        .args_max = 2,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    return score_file(&a, args[0], args[1], &err) ? cli_fail(CLI_FAILED, &err) : 0;
}

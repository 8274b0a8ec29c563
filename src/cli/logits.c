/* SPDX-License-Identifier: Apache-2.0 */
/* supernode logits: the raw output of the forward pass for given ids, for researchers and for the
 * golden tests. Needs no tokenizer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/model_args.h"
#include "engine/instance.h"
#include "model/safetensors.h"

struct logits_run {
    struct instance *in;
    const uint32_t *ids;
    float *logits, *drafts; /* [n, vocab], [n - 1, vocab] */
    float *last_hidden;     /* [hidden] of the row before the chunk */
    uint32_t *pages;
};

/* Rows [from, from + n) as one prompt chunk. */
static void run_chunk(struct logits_run *r, struct step_row *rows, uint32_t from, uint32_t n) {
    struct instance *in = r->in;
    uint32_t vocab = in->config.vocab, hidden = in->config.hidden;
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct step_row){.token = r->ids[from + i],
                                    .pos = from + i,
                                    .role = ROLE_PROMPT,
                                    .logits = true,
                                    .draft = true};
    struct step_seq seq = {
        .pages = r->pages, .n_pages = in->kv.n_pages, .hidden_before = r->last_hidden};
    struct step_input input = {.rows = rows, .n_rows = n, .seqs = &seq, .n_seqs = 1};
    step_begin(in->step, &input);
    model_step(&in->step, 1);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(r->logits + (size_t)(from + i) * vocab, step_logits(in->step, i),
               vocab * sizeof(float));
        if (r->drafts && from + i > 0)
            memcpy(r->drafts + (size_t)(from + i - 1) * vocab, step_draft_logits(in->step, i),
                   vocab * sizeof(float));
    }
    memcpy(r->last_hidden, step_hidden(in->step, n - 1), hidden * sizeof(float));
}

static enum st run(struct instance *in, const uint32_t *ids, uint32_t n, uint32_t chunk,
                   const char *out, struct err *err) {
    size_t vocab = in->config.vocab;
    struct logits_run r = {.in = in, .ids = ids};
    struct step_row *rows = malloc(chunk * sizeof *rows);
    r.logits = malloc(n * vocab * sizeof(float));
    r.drafts = in->config.n_mtp ? malloc(n * vocab * sizeof(float)) : NULL;
    r.last_hidden = malloc(in->config.hidden * sizeof(float));
    r.pages = malloc(in->kv.n_pages * sizeof *r.pages);
    enum st st = ST_OK;
    if (!rows || !r.logits || (in->config.n_mtp && !r.drafts) || !r.last_hidden || !r.pages) {
        st = err_set(err, ST_NO_MEMORY, "logits: out of memory for %u x %zu logits", n, vocab);
    } else {
        for (uint32_t i = 0; i < in->kv.n_pages; i++) r.pages[i] = i;
        for (uint32_t from = 0; from < n; from += chunk)
            run_chunk(&r, rows, from, n - from < chunk ? n - from : chunk);
        struct safetensors_out tensors[2] = {{"logits", r.logits, n, vocab},
                                             {"mtp_logits", r.drafts, n - 1, vocab}};
        st = safetensors_write(out, tensors, r.drafts ? 2 : 1, err);
    }
    free(rows);
    free(r.logits);
    free(r.drafts);
    free(r.last_hidden);
    free(r.pages);
    return st;
}

int cli_logits(int argc, char **argv) {
    struct model_args model = {.kv = KV_CHOICE_F32};
    const char *ids_text = NULL, *out = NULL, *args[1];
    uint32_t chunk = 512;
    const struct flag flags[] = {
        {"ids", "0,17,4", FLAG_STR, &ids_text, 0, 0, "token ids, separated by commas; required",
         false},
        {"out", "FILE", FLAG_STR, &out, 0, 0,
         "safetensors file to write: logits [tokens, vocabulary] and, where there is MTP, "
         "mtp_logits; required",
         false},
        {"chunk", "N", FLAG_U32, &chunk, 1, 65536,
         "rows of one prompt chunk (default 512); the result does not depend on it", false},
        MODEL_ARGS_FLAGS(model),
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "logits",
        .what = "Writes the logits of every position of a token sequence.",
        .usage = "supernode logits [MODEL] --ids IDS --out FILE [flags]",
        .example = "supernode logits models/tiny --ids 0,17,4 --out logits.safetensors",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    if (!ids_text || !out) {
        (void)err_set(&err, ST_INVALID, "logits: %s is required; usage: %s",
                      ids_text ? "--out" : "--ids", cmd.usage);
        return cli_fail(CLI_USAGE, &err);
    }
    uint32_t *ids = NULL, n = 0;
    struct instance in = {0};
    struct instance_options o;
    if (ids_parse(&ids, &n, ids_text, &err)) return cli_fail(CLI_USAGE, &err);
    enum st st = model_args_options(&o, &model, args[0], &err);
    if (!st) {
        o.chunk_rows = o.logits_rows = chunk < n ? chunk : n;
        o.max_model_len = n;
        st = instance_open(&in, &o, &err);
    }
    if (!st) st = ids_check(ids, n, in.config.vocab, &err);
    if (!st) st = run(&in, ids, n, o.chunk_rows, out, &err);
    instance_close(&in);
    free(ids);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}

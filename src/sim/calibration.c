/* SPDX-License-Identifier: Apache-2.0 */
/* Implements reading and writing of calibration.h: JSON, read as the YAML that it is. */
#include "sim/calibration.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/doc.h"
#include "model/kv.h"

static const char *const modes[] = {"auto", "off", "on", NULL};

/* Every number of the file, once, for both ways. */
enum group { TOP, ENGINE, EXECUTOR, STEP, CHUNK, FRONT, GROUPS };
static const char *const groups[GROUPS] = {NULL, "engine", "executor", "step", "chunk", "front"};
struct field {
    enum group group;
    const char *key;
    double *d;
    uint32_t *u;
    double min, max;
};
enum { FIELDS_MAX = 49, FORMAT = 8 };

static uint32_t fields(struct field out[FIELDS_MAX], struct calibration *c) {
    const double s_max = 1e4;
    const struct field all[] = {
        {TOP, "threads", NULL, &c->threads, 1, 65536},
        {TOP, "read_gbs", &c->read_gbs, NULL, 0, 1e6},
        {TOP, "hop_ns", &c->hop_ns, NULL, 0, 1e12},
        {ENGINE, "max_num_seqs", NULL, &c->engine.max_num_seqs, 1, 65536},
        {ENGINE, "max_num_batched_tokens", NULL, &c->engine.max_num_batched_tokens,
         EXECUTOR_CHUNK_MIN, 65536},
        {ENGINE, "tpot_ms", NULL, &c->engine.tpot_ms, 0, 1e6},
        {ENGINE, "ttft_ms", NULL, &c->engine.ttft_ms, 0, 1e8},
        {ENGINE, "draft_tokens", NULL, &c->engine.draft_tokens, 0, EXECUTOR_DRAFTS_MAX},
        {EXECUTOR, "kv_pages", NULL, &c->n_pages, 1, SIM_PAGES_MAX},
        {EXECUTOR, "slots", NULL, &c->n_slots, 1, 65536},
        {EXECUTOR, "max_model_len", NULL, &c->max_model_len, 1, 1 << 24},
        {EXECUTOR, "vocab", NULL, &c->vocab, 2, 1 << 24},
        {EXECUTOR, "rows_max", NULL, &c->rows_max, 1, 1 << 24},
        {EXECUTOR, "expand_cost", &c->expand_cost, NULL, 0, 1e6},
        {STEP, "key_s", &c->step.key_s, NULL, 0, s_max},
        {STEP, "tail_row_s", &c->step.tail_s, NULL, 0, s_max},
        {STEP, "tail_key_s", &c->step.tail_key_s, NULL, 0, s_max},
        {STEP, "draft_verified_s", &c->step.draft_s, NULL, 0, s_max},
        {STEP, "draft_guessed_s", &c->step.guess_s, NULL, 0, s_max},
        {STEP, "guessing_s", &c->step.guessing_s, NULL, 0, s_max},
        {STEP, "evicting_s", &c->step.evicting_s, NULL, 1e-12, s_max},
        {STEP, "evicted_s", &c->step.evicted_s, NULL, 0, s_max},
        {STEP, "evicted_sequence_s", &c->step.evicted_sequence_s, NULL, 0, s_max},
        {STEP, "sent_s", &c->step.sent_s, NULL, 0, s_max},
        {STEP, "sent_sequence_s", &c->step.sent_sequence_s, NULL, 0, s_max},
        {STEP, "warming_s", &c->step.warming_s, NULL, 1e-12, s_max},
        {STEP, "cold_s", &c->step.cold_s, NULL, 0, s_max},
        {STEP, "stall_share", &c->step.stall_share, NULL, 0, 1e3},
        {STEP, "draft_acceptance", &c->acceptance, NULL, 0, 1},
        {CHUNK, "fixed_s", &c->chunk.fixed_s, NULL, 0, s_max},
        {CHUNK, "run_s", &c->chunk.run_s, NULL, 0, s_max},
        {CHUNK, "row_s", &c->chunk.row_s, NULL, 0, s_max},
        {CHUNK, "key_pair_s", &c->chunk.key_pair_s, NULL, 0, s_max},
        {CHUNK, "earlier_key_s", &c->chunk.earlier_s, NULL, 0, s_max},
        {CHUNK, "resume_share", &c->chunk.resume_share, NULL, 0, 1e6},
        {CHUNK, "resume_row_s", &c->chunk.resume_row_s, NULL, 0, s_max},
        {CHUNK, "piece_over_root_row_s", &c->chunk.over_root_row_s, NULL, 0, s_max},
        {CHUNK, "piece_over_key_s", &c->chunk.over_key_s, NULL, 0, s_max},
        {CHUNK, "gap_s", &c->gap_s, NULL, 0, s_max},
        {FRONT, "first_token_s", &c->front.first_token_s, NULL, 0, s_max},
        {FRONT, "token_s", &c->front.token_s, NULL, 0, s_max},
        {FRONT, "wake_s", &c->front.wake_s, NULL, 0, s_max},
        {FRONT, "front_wake_s", &c->front.front_wake_s, NULL, 0, s_max},
        {FRONT, "made_s", &c->front.made_s, NULL, 0, s_max},
        {FRONT, "made_token_s", &c->front.made_token_s, NULL, 0, s_max},
        {FRONT, "connect_s", &c->front.connect_s, NULL, 0, s_max},
        {FRONT, "read_s", &c->front.read_s, NULL, 0, s_max},
        {FRONT, "read_token_s", &c->front.read_token_s, NULL, 0, s_max},
        {FRONT, "text_token_s", &c->front.text_token_s, NULL, 0, s_max},
    };
    _Static_assert(sizeof all / sizeof *all <= FIELDS_MAX, "room for all");
    memcpy(out, all, sizeof all);
    return sizeof all / sizeof *all;
}

/* --- writing ---------------------------------------------------------------------------------- */

static json_t *numbers(const double *v, uint32_t n) {
    json_t *a = json_array();
    for (uint32_t i = 0; i < n; i++) json_array_append_new(a, json_real(v[i]));
    return a;
}

static json_t *as_json(const struct calibration *c) {
    struct calibration copy = *c;
    struct field f[FIELDS_MAX];
    uint32_t n = fields(f, &copy);
    json_t *root = json_object(), *of[GROUPS] = {root};
    json_object_set_new(root, "supernode_calibration", json_integer(FORMAT));
    json_object_set_new(root, "model", json_string(c->model));
    json_object_set_new(root, "cpu", json_string(c->cpu));
    for (int g = 1; g < GROUPS; g++) json_object_set_new(root, groups[g], of[g] = json_object());
    for (uint32_t i = 0; i < n; i++)
        json_object_set_new(of[f[i].group], f[i].key,
                            f[i].u ? json_integer(*f[i].u) : json_real(*f[i].d));
    json_object_set_new(of[ENGINE], "speculate", json_string(modes[c->engine.speculate]));
    json_object_set_new(of[EXECUTOR], "drafts", json_boolean(c->drafts));
    json_object_set_new(of[EXECUTOR], "kv_page_tokens", json_integer(KV_PAGE_TOKENS));
    json_object_set_new(of[STEP], "sequences", numbers(c->step.sequences, c->step.n_knots));
    json_object_set_new(of[STEP], "s", numbers(c->step.s, c->step.n_knots));
    json_object_set_new(of[STEP], "gap_s", numbers(c->step.gap_s, c->step.n_knots));
    json_object_set_new(of[CHUNK], "piece_over_parts",
                        numbers(c->chunk.over_parts, CALIBRATION_PARTS));
    json_object_set_new(root, "fit",
                        json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f}", "steps",
                                  (json_int_t)c->fit.steps, "chunks", (json_int_t)c->fit.chunks,
                                  "dropped", (json_int_t)c->fit.dropped, "elsewhere",
                                  (json_int_t)c->fit.elsewhere, "step_error_median",
                                  c->fit.step_error, "chunk_error_median", c->fit.chunk_error,
                                  "step_bias", c->fit.step_bias, "chunk_bias", c->fit.chunk_bias));
    return root;
}

enum st calibration_write(const struct calibration *c, const char *path, struct err *err) {
    json_t *j = as_json(c);
    int bad = json_dump_file(j, path, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(j);
    return bad ? err_set(err, ST_IO, "%s: cannot be written", path) : ST_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

static enum st read_field(const struct doc_node *at, const struct field *f, struct err *err) {
    enum st st = doc_need(at, f->key, err);
    if (st) return st;
    if (f->d) return doc_number(at, f->key, f->min, f->max, f->d, err);
    uint64_t v = 0;
    st = doc_count(at, f->key, (uint64_t)f->min, (uint64_t)f->max, &v, err);
    *f->u = (uint32_t)v;
    return st;
}

static enum st read_text(const struct doc_node *at, const char *key, char *out, size_t size,
                         struct err *err) {
    const char *v = "";
    enum st st = doc_text(at, key, &v, err);
    snprintf(out, size, "%s", v);
    return st;
}

/* A list has no keys: each number is looked at as if it were alone in a mapping. */
static enum st read_numbers(const struct doc_node *at, const char *key, double *v, uint32_t n_max,
                            uint32_t *n, struct err *err) {
    enum st st = doc_need(at, key, err);
    if (st) return st;
    const struct doc_node *list = doc_find(at, key);
    if (list->kind != DOC_LIST || list->n == 0 || list->n > n_max)
        return doc_fail(list, err, "expected a list of 1 to %u numbers", n_max);
    for (*n = 0; *n < list->n && !st; (*n)++) {
        struct doc_node item = list->at[*n];
        item.key = key;
        const struct doc_node map = {
            .kind = DOC_MAP, .line = item.line, .n = 1, .at = &item, .of = list->of};
        st = doc_number(&map, key, 0, 1e6, &v[*n], err);
    }
    return st;
}

static enum st read_so_many(const struct doc_node *at, const char *key, double *v, uint32_t so_many,
                            struct err *err) {
    uint32_t n = 0;
    enum st st = read_numbers(at, key, v, so_many, &n, err);
    if (!st && n != so_many)
        st = doc_fail(doc_find(at, key), err, "found %u numbers, expected %u", n, so_many);
    return st;
}

static enum st read_steps(struct calibration *c, const struct doc_node *at, struct err *err) {
    enum st st = read_numbers(at, "sequences", c->step.sequences, CALIBRATION_KNOTS_MAX,
                              &c->step.n_knots, err);
    if (!st) st = read_so_many(at, "s", c->step.s, c->step.n_knots, err);
    if (!st) st = read_so_many(at, "gap_s", c->step.gap_s, c->step.n_knots, err);
    if (st) return st;
    for (uint32_t i = 0; i < c->step.n_knots; i++)
        if (c->step.sequences[i] <= (i ? c->step.sequences[i - 1] : 0))
            return doc_fail(doc_find(at, "sequences"), err, "expected ascending numbers");
    return ST_OK;
}

static enum st read_all(struct calibration *c, const struct doc_node *root, struct err *err) {
    struct field f[FIELDS_MAX];
    uint32_t n = fields(f, c), mode = 0, found = 0, rows = 0;
    const struct field format = {TOP, "supernode_calibration", NULL, &found, 0, UINT32_MAX},
                       page = {EXECUTOR, "kv_page_tokens", NULL,
                               &rows,    KV_PAGE_TOKENS,   KV_PAGE_TOKENS};
    const struct doc_node *of[GROUPS] = {root};
    enum st st = root->kind == DOC_MAP
                     ? read_field(root, &format, err)
                     : doc_fail(root, err, "expected what bench calibrate writes");
    if (!st && found != FORMAT)
        st = doc_fail(doc_find(root, format.key), err,
                      "found %u, expected %d: bench calibrate writes a new one", found, FORMAT);
    for (int g = 1; g < GROUPS && !st; g++) {
        st = doc_need(root, groups[g], err);
        of[g] = doc_find(root, groups[g]);
        if (!st && of[g]->kind != DOC_MAP) st = doc_fail(of[g], err, "expected a mapping");
    }
    for (uint32_t i = 0; i < n && !st; i++) st = read_field(of[f[i].group], &f[i], err);
    if (!st) st = read_text(root, "model", c->model, sizeof c->model, err);
    if (!st) st = read_text(root, "cpu", c->cpu, sizeof c->cpu, err);
    if (!st) st = doc_need(of[ENGINE], "speculate", err);
    if (!st) st = doc_word(of[ENGINE], "speculate", modes, &mode, err);
    if (!st) st = doc_bool(of[EXECUTOR], "drafts", &c->drafts, err);
    if (!st) st = read_steps(c, of[STEP], err);
    if (!st)
        st = read_so_many(of[CHUNK], "piece_over_parts", c->chunk.over_parts, CALIBRATION_PARTS,
                          err);
    c->engine.speculate = (enum speculate)mode;
    if (!st) st = read_field(of[page.group], &page, err);
    if (!st && c->n_pages < engine_pages_min(c->max_model_len))
        st = doc_fail(doc_find(of[EXECUTOR], "kv_pages"), err, "found %u, expected %u or more",
                      c->n_pages, engine_pages_min(c->max_model_len));
    return st;
}

enum st calibration_open(struct calibration *c, const char *path, struct err *err) {
    struct doc *d;
    *c = (struct calibration){0};
    enum st st = doc_open(&d, path, err);
    if (st) return st;
    st = read_all(c, doc_root(d), err);
    doc_free(d);
    return st;
}

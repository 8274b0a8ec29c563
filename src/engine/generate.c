/* SPDX-License-Identifier: Apache-2.0 */
/* Implements generate.h: prefill in chunks, then one row a step. What it draws depends on the
 * record alone; where a choice already has ids (a moved request), they are computed again as
 * generated tokens and the drawing goes on behind them. */
#include "engine/generate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct generator {
    struct instance *in;
    uint32_t *pages;
    struct step_row *rows; /* [chunk] */
    uint32_t chunk;
    float *last_hidden;           /* [hidden] at the last computed position */
    struct ops_sample_work *work; /* [vocab] */
};

enum st generator_new(struct generator **out, struct instance *in, struct err *err) {
    struct generator *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ST_NO_MEMORY, "generator: out of memory");
    if (in->max_model_len > in->config.max_positions) {
        free(g);
        return err_set(err, ST_INVALID, "max-model-len: %u exceeds max_position_embeddings %u",
                       in->max_model_len, in->config.max_positions);
    }
    g->in = in;
    g->chunk = in->chunk_rows;
    g->pages = malloc(in->kv.n_pages * sizeof *g->pages);
    g->rows = malloc(g->chunk * sizeof *g->rows);
    g->last_hidden = malloc(in->config.hidden * sizeof *g->last_hidden);
    g->work = malloc(in->config.vocab * sizeof *g->work);
    if (!g->pages || !g->rows || !g->last_hidden || !g->work) {
        generator_free(g);
        return err_set(err, ST_NO_MEMORY, "generator: out of memory");
    }
    for (uint32_t i = 0; i < in->kv.n_pages; i++) g->pages[i] = i;
    *out = g;
    return ST_OK;
}

void generator_free(struct generator *g) {
    if (!g) return;
    free(g->pages);
    free(g->rows);
    free(g->last_hidden);
    free(g->work);
    free(g);
}

/* --- the sequence: prompt, then what was generated -------------------------------------------- */

static uint32_t token_at(const struct request *r, uint32_t pos) {
    return pos < r->n_prompt ? r->prompt[pos] : r->choices[0].ids[pos - r->n_prompt];
}

static enum token_role role_at(const struct request *r, uint32_t pos) {
    for (uint32_t i = 0; i < r->n_roles; i++) {
        if (pos < r->roles[i].len) return r->roles[i].role;
        pos -= r->roles[i].len;
    }
    return ROLE_GENERATED;
}

/* Computes positions [from, from + n); the logits of the last one are wanted if it is the
 * sequence's last. */
static void run_rows(struct generator *g, const struct request *r, uint32_t from, uint32_t n) {
    struct instance *in = g->in;
    uint32_t end = r->n_prompt + r->choices[0].n_ids;
    for (uint32_t i = 0; i < n; i++)
        g->rows[i] = (struct step_row){.token = token_at(r, from + i),
                                       .pos = from + i,
                                       .role = role_at(r, from + i),
                                       .logits = from + i + 1 == end};
    struct step_seq seq = {
        .pages = g->pages, .n_pages = in->kv.n_pages, .hidden_before = g->last_hidden};
    struct step_input input = {.rows = g->rows, .n_rows = n, .seqs = &seq, .n_seqs = 1};
    step_begin(in->step, &input);
    model_step(&in->step, 1);
    memcpy(g->last_hidden, step_hidden(in->step, n - 1), in->config.hidden * sizeof(float));
}

/* --- one token -------------------------------------------------------------------------------- */

static bool is_stop(const struct request *r, uint32_t id) {
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id) return true;
    return false;
}

/* Draws the next token from the logits of step row `row` and hands it out. False: the front wants
 * no more. */
static bool draw(struct generator *g, struct request *r, uint32_t row, generate_fn *fn, void *ctx) {
    const float *logits = step_logits(g->in->step, row);
    uint32_t vocab = g->in->config.vocab, position = r->n_prompt + r->choices[0].n_ids;
    struct ops_sample_params p = r->sampling;
    if (r->choices[0].n_ids < r->min_tokens) {
        p.masked = r->stop_ids;
        p.n_masked = r->n_stop_ids;
    }
    struct token_out out = {.attempt = r->attempt, .position = position};
    out.id = ops_sample(logits, vocab, &p, r->prompt, r->n_prompt, r->choices[0].ids,
                        r->choices[0].n_ids, r->seed, position, 0, g->work);
    struct token_logprob top[REQUEST_LOGPROBS_MAX];
    if (r->logprobs >= 0) {
        uint32_t ids[REQUEST_LOGPROBS_MAX],
            n = (uint32_t)r->logprobs < vocab ? (uint32_t)r->logprobs : vocab;
        float lse = ops_logsumexp(logits, vocab);
        ops_top_n(ids, n, logits, vocab, g->work);
        for (uint32_t i = 0; i < n; i++)
            top[i] = (struct token_logprob){.id = ids[i], .logprob = logits[ids[i]] - lse};
        out.top = top;
        out.n_top = n;
        out.logprob = logits[out.id] - lse;
    }
    r->choices[0].ids[r->choices[0].n_ids++] = out.id;
    if (is_stop(r, out.id))
        out.finish = FINISH_STOP;
    else if (r->choices[0].n_ids == r->max_tokens)
        out.finish = FINISH_LENGTH;
    r->choices[0].finish = out.finish;
    if (fn(ctx, &out)) return true;
    if (!out.finish) r->choices[0].finish = FINISH_CANCELLED;
    return false;
}

static enum st check(const struct generator *g, const struct request *r, struct err *err) {
    const struct instance *in = g->in;
    if (r->version != REQUEST_VERSION)
        return err_set(err, ST_INVALID, "request: version %u, expected %d", r->version,
                       REQUEST_VERSION);
    if (strcmp(r->model_id, in->model_id) != 0)
        return err_set(err, ST_INVALID, "request: made for model %.12s, this is %.12s", r->model_id,
                       in->model_id);
    if (r->n_prompt == 0)
        return err_set(err, ST_INVALID, "prompt: empty, expected at least one token");
    if (r->n_prompt > in->max_model_len || r->max_tokens > in->max_model_len - r->n_prompt)
        return err_set(err, ST_INVALID,
                       "max_tokens: %u with a prompt of %u tokens exceeds max-model-len %u",
                       r->max_tokens, r->n_prompt, in->max_model_len);
    uint64_t roles = 0;
    for (uint32_t i = 0; i < r->n_roles; i++) roles += r->roles[i].len;
    if (roles != r->n_prompt || r->choices[0].n_ids > r->max_tokens ||
        r->logprobs > REQUEST_LOGPROBS_MAX)
        return err_set(err, ST_INVALID,
                       "request: roles of %" PRIu64
                       " tokens for a prompt of %u, %u of %u tokens generated",
                       roles, r->n_prompt, r->choices[0].n_ids, r->max_tokens);
    for (uint32_t i = 0; i < r->n_prompt + r->choices[0].n_ids; i++)
        if (token_at(r, i) >= in->config.vocab)
            return err_set(err, ST_INVALID, "prompt: token %u is %u, but the vocabulary has %u", i,
                           token_at(r, i), in->config.vocab);
    return ST_OK;
}

enum st generate_run(struct generator *g, struct request *r, const atomic_bool *cancel,
                     generate_fn *fn, void *ctx, struct err *err) {
    enum st st = check(g, r, err);
    if (st) return st;
    uint64_t begun = clock_now_ns();
    uint32_t done = 0; /* positions computed */
    if (!r->choices[0].finish && r->choices[0].n_ids == r->max_tokens)
        r->choices[0].finish = FINISH_LENGTH;
    while (!r->choices[0].finish) {
        if (cancel && atomic_load_explicit(cancel, memory_order_relaxed)) {
            r->choices[0].finish = FINISH_CANCELLED;
            break;
        }
        if (r->time_left_ms && clock_now_ns() - begun > (uint64_t)r->time_left_ms * 1000000u)
            return err_set(err, ST_TIMEOUT, "the request took longer than %u ms", r->time_left_ms);
        uint32_t end = r->n_prompt + r->choices[0].n_ids,
                 n = end - done < g->chunk ? end - done : g->chunk;
        run_rows(g, r, done, n);
        done += n;
        if (done == end && !draw(g, r, n - 1, fn, ctx)) break;
    }
    return ST_OK;
}

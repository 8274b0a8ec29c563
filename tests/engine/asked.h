/* SPDX-License-Identifier: Apache-2.0 */
/* Random requests and what they must answer, for tests over the stand-in executor: computed without
 * pages, batches or drafts, straight from its hash chain. Included after cmocka. */
#ifndef SUPERNODE_TESTS_ENGINE_ASKED_H
#define SUPERNODE_TESTS_ENGINE_ASKED_H

#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "sim/core/standin.h"

enum { VOCAB = 211 };

struct rng {
    uint64_t s;
};
static inline uint32_t below(struct rng *r, uint32_t n) {
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->s >> 33) % n);
}

/* One request and what became of it. */
struct asked {
    struct request r;                 /* as asked, and with its ids once it is done */
    struct request lent;              /* a copy that the engine has, freed as soon as it is done */
    uint64_t arrives_ns, cancel_ns;   /* 0: never */
    uint32_t drop_choice, drop_after; /* the front wants no more of this choice after so many */
    bool added, done, cancelled;
    enum st ended;
    uint32_t n_tokens[8], n_prompt_told;
    float *told; /* [n_prompt] prompt logprobs */
    struct exec_token *got[8];
    uint64_t first_ns;
    uint32_t n_cached;
};

/* --- requests --------------------------------------------------------------------------------- */

static inline void *must(void *p) {
    assert_non_null(p);
    return p;
}

static inline void fill(struct asked *a, uint32_t id, uint32_t n_prompt, uint32_t max_tokens,
                        uint32_t n) {
    struct err err;
    *a = (struct asked){.drop_choice = UINT32_MAX};
    struct request *r = &a->r;
    *r = (struct request){.version = REQUEST_VERSION,
                          .model_id = "stand-in",
                          .n_prompt = n_prompt,
                          .seed = id,
                          .max_tokens = max_tokens,
                          .logprobs = -1,
                          .prompt_logprobs = -1};
    r->prompt = must(malloc(n_prompt * sizeof *r->prompt));
    r->roles = must(malloc(3 * sizeof *r->roles));
    r->roles[0] = (struct role_run){.len = n_prompt, .role = ROLE_PROMPT};
    r->n_roles = 1;
    assert_int_equal(request_make_choices(r, n, &err), ST_OK);
    a->told = must(calloc(n_prompt, sizeof *a->told));
    for (uint32_t c = 0; c < n; c++) a->got[c] = must(calloc(max_tokens, sizeof *a->got[c]));
}

static inline void asked_release(struct asked *a) {
    for (uint32_t c = 0; c < a->r.n_choices; c++) free(a->got[c]);
    free(a->told);
    request_release(&a->r);
}

/* n_lens: of nine lengths, the first are the shortest. Prompts come in families that share a beginning; some quote an assistant. */
static inline void random_request(struct asked *a, uint32_t id, uint32_t n_lens, struct rng *g) {
    static const uint32_t lens[] = {1, 5, 127, 128, 129, 300, 640, 1500, 2500};
    uint32_t n_prompt = lens[below(g, n_lens)] + below(g, 40);
    uint32_t n = below(g, 4) ? 1 : 1 + below(g, 5);
    fill(a, id, n_prompt, 1 + below(g, below(g, 3) ? 40 : 300), n);
    struct request *r = &a->r;
    uint32_t family = below(g, 3), shared = below(g, n_prompt + 1);
    for (uint32_t i = 0; i < n_prompt; i++)
        r->prompt[i] = i < shared ? (i * 7 + family) % VOCAB : below(g, VOCAB);
    if (n_prompt > 200 && below(g, 3) == 0) {
        r->roles[0].len = 100;
        r->roles[1] = (struct role_run){.len = 60, .role = ROLE_GENERATED};
        r->roles[2] = (struct role_run){.len = n_prompt - 160, .role = ROLE_PROMPT};
        r->n_roles = 3;
    }
    r->priority = (int32_t)below(g, 3) - 1;
    r->logprobs = below(g, 3) ? -1 : (int32_t)below(g, 4);
    if (below(g, 8) == 0) r->prompt_logprobs = 0;
    if (below(g, 4) == 0) r->salt[0] = 'a';
    if (below(g, 3) == 0) r->stop_ids[r->n_stop_ids++] = below(g, VOCAB);
    if (below(g, 10) == 0) r->time_left_ms = 1 + below(g, 2000);
    if (below(g, 6) == 0) {
        a->drop_choice = below(g, n);
        a->drop_after = 1 + below(g, r->max_tokens);
    }
    a->arrives_ns = (uint64_t)below(g, 400) * 1000000;
    if (below(g, 5) == 0) a->cancel_ns = a->arrives_ns + (uint64_t)below(g, 600) * 1000000;
}

static inline void lend(struct asked *a) {
    struct err err;
    struct request *l = &a->lent;
    *l = a->r;
    l->choices = NULL;
    l->prompt = must(malloc(l->n_prompt * sizeof *l->prompt));
    memcpy(l->prompt, a->r.prompt, l->n_prompt * sizeof *l->prompt);
    l->roles = must(malloc(l->n_roles * sizeof *l->roles));
    memcpy(l->roles, a->r.roles, l->n_roles * sizeof *l->roles);
    assert_int_equal(request_make_choices(l, a->r.n_choices, &err), ST_OK);
    for (uint32_t c = 0; c < l->n_choices; c++) {
        l->choices[c].n_ids = a->r.choices[c].n_ids;
        memcpy(l->choices[c].ids, a->r.choices[c].ids,
               l->choices[c].n_ids * sizeof *l->choices[c].ids);
    }
}

/* As the front does, it frees the record at once: who looks at it afterwards is seen by ASan. */
static inline void on_done(void *ctx, const struct err *err) {
    struct asked *a = ctx;
    assert_false(a->done);
    for (uint32_t c = 0; c < a->r.n_choices; c++) {
        const struct request_choice *from = &a->lent.choices[c];
        a->r.choices[c].finish = from->finish;
        a->r.choices[c].n_ids = from->n_ids;
        memcpy(a->r.choices[c].ids, from->ids, from->n_ids * sizeof *from->ids);
    }
    request_release(&a->lent);
    a->done = true;
    a->ended = err ? err->code : ST_OK;
}

/* --- the oracle ------------------------------------------------------------------------------- */

static inline enum token_role role_at(const struct request *r, uint32_t pos) {
    for (uint32_t i = 0; i < r->n_roles; pos -= r->roles[i++].len)
        if (pos < r->roles[i].len) return r->roles[i].role;
    return ROLE_GENERATED;
}

/* What choice c must answer, token by token, until its end or n tokens. */
static inline void check_answer(const struct asked *a, uint32_t c) {
    const struct request *r = &a->r;
    uint64_t row = 0, fold = 0;
    uint32_t n = a->n_tokens[c], pos = 0;
    assert_true(n <= r->max_tokens);
    for (; pos < r->n_prompt; pos++) {
        if (pos && pos <= a->n_prompt_told)
            assert_true(a->told[pos] == standin_prompt_logprob(row));
        row = standin_row(row, r->prompt[pos], role_at(r, pos), pos);
        fold = standin_fold(fold, row);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct exec_token want;
        standin_draw(&want, fold, r, c, r->logprobs > 0 ? (uint32_t)r->logprobs : 0, VOCAB);
        assert_int_equal(a->got[c][i].id, want.id);
        assert_true(a->got[c][i].logprob == want.logprob && a->got[c][i].n_top == want.n_top);
        assert_memory_equal(a->got[c][i].top, want.top, want.n_top * sizeof *want.top);
        bool stop = r->n_stop_ids && want.id == r->stop_ids[0];
        assert_true(!stop || i + 1 == n);
        row = standin_row(row, want.id, ROLE_GENERATED, pos);
        fold = standin_fold(fold, row);
        pos++;
    }
    if (a->cancelled || a->ended) return;
    bool stopped = n && r->n_stop_ids && a->got[c][n - 1].id == r->stop_ids[0];
    bool dropped = c == a->drop_choice && n == a->drop_after;
    assert_true(stopped || dropped || n == r->max_tokens);
    enum finish_reason finish = stopped              ? FINISH_STOP
                                : n == r->max_tokens ? FINISH_LENGTH
                                                     : FINISH_CANCELLED;
    assert_int_equal(r->choices[c].finish, finish);
}

#endif

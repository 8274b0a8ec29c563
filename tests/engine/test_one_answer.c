/* SPDX-License-Identifier: Apache-2.0 */
/* One answer (promise 1) through the engine with a real forward pass: random mixes of requests
 * (lengths, chunks, cached prefixes, choices, preemptions, drafts, cancels, samplers) against the
 * same requests one at a time. Tokens, logprobs and alternatives must be the same bits. SEEDS=N runs
 * more mixes, SEED=N that one alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/exec_model.h"
#include "model/weights_random.h"
#include "../model/small_config.h"

enum { REQUESTS = 10, CHOICES = 3, TOKENS = 80, MODEL_LEN = 1500, VOCAB = 97 };

struct rng {
    uint64_t s;
};
static uint32_t below(struct rng *r, uint32_t n) {
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->s >> 33) % n);
}

/* --- the model -------------------------------------------------------------------------------- */

struct fixture {
    struct instance in;
    struct weights_random weights;
};

static void open_model(struct fixture *f, uint32_t threads, uint32_t n_pages) {
    struct err err;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    *f = (struct fixture){.in = {.config = small_config(true), .max_model_len = MODEL_LEN}};
    struct instance *in = &f->in;
    ops_kernels_all(tables);
    in->kernels = tables[0];
    strcpy(in->model_id, "random");
    assert_int_equal(config_check(&in->config, &err), ST_OK);
    assert_int_equal(weights_random_init(&f->weights, &in->config, OPS_BF16, 7, &err), ST_OK);
    struct weight_source source = weight_table_source(&f->weights.table);
    assert_int_equal(model_new(&in->model, &in->config, &source, in->kernels, &err), ST_OK);
    assert_int_equal(team_new(&in->team, threads, &err), ST_OK);
    assert_int_equal(kv_init(&in->kv, &in->config, OPS_BF16, n_pages + 1, NULL, &err), ST_OK);
    memset(in->kv.rows, 0xff, in->kv.map_bytes); /* NaN: who reads what nobody wrote is noticed */
}

static void close_model(struct fixture *f) {
    kv_release(&f->in.kv);
    model_free(f->in.model);
    team_free(f->in.team);
    weights_random_release(&f->weights);
}

/* --- requests --------------------------------------------------------------------------------- */

struct answer {
    uint32_t n, n_prompt;
    struct exec_token v[TOKENS], prompt[MODEL_LEN];
};

struct asked {
    struct request r;
    struct answer got[CHOICES];
    uint32_t cancel_after; /* pieces of work, from when it was added; 0: never */
    uint32_t pieces;
    bool done, cancelled;
};

static void *must(void *p) {
    assert_non_null(p);
    return p;
}

static void random_request(struct asked *a, uint64_t seed) {
    struct rng g = {seed};
    struct err err;
    for (int i = 0; i < 4; i++) below(&g, 2);
    static const uint32_t lens[] = {1, 30, 128, 200, 257, 700, 1300};
    *a = (struct asked){0};
    struct request *r = &a->r;
    *r = (struct request){.version = REQUEST_VERSION,
                          .model_id = "random",
                          .n_prompt = lens[below(&g, 7)] + below(&g, 60),
                          .seed = (int64_t)below(&g, 1000),
                          .max_tokens = 1 + below(&g, TOKENS),
                          .logprobs = (int32_t)below(&g, 4) - 1,
                          .prompt_logprobs = below(&g, 6) ? -1 : 2};
    r->sampling = (struct ops_sample_params){.temperature = below(&g, 3) ? 0.9f : 0,
                                             .top_p = below(&g, 2) ? 1 : 0.8f,
                                             .top_k = below(&g, 2) ? 0 : 20,
                                             .repetition_penalty = below(&g, 3) ? 1 : 1.2f,
                                             .presence_penalty = below(&g, 4) ? 0 : 0.5f};
    r->prompt = must(malloc(r->n_prompt * sizeof *r->prompt));
    r->roles = must(malloc(3 * sizeof *r->roles));
    r->roles[0] = (struct role_run){.len = r->n_prompt};
    r->n_roles = 1;
    uint32_t shared = below(&g, r->n_prompt + 1), family = below(&g, 2);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        r->prompt[i] = i < shared ? (i * 5 + family) % VOCAB : below(&g, VOCAB);
    if (r->n_prompt > 180 && below(&g, 2)) {
        r->roles[0].len = 90;
        r->roles[1] = (struct role_run){.len = 50, .role = ROLE_GENERATED};
        r->roles[2] = (struct role_run){.len = r->n_prompt - 140};
        r->n_roles = 3;
    }
    if (below(&g, 2)) r->stop_ids[r->n_stop_ids++] = below(&g, VOCAB);
    if (below(&g, 3) == 0) r->min_tokens = below(&g, r->max_tokens);
    uint32_t n = below(&g, 3) ? 1 : 1 + below(&g, CHOICES);
    assert_int_equal(request_make_choices(r, n, &err), ST_OK);
}

static bool on_token(void *ctx, const struct token_out *t) {
    struct asked *a = ctx;
    struct answer *w = &a->got[t->choice];
    bool of_prompt = t->position < a->r.n_prompt;
    struct exec_token *k = of_prompt ? &w->prompt[w->n_prompt++] : &w->v[w->n++];
    *k = (struct exec_token){.id = t->id, .logprob = t->logprob, .n_top = t->n_top};
    if (t->n_top) memcpy(k->top, t->top, t->n_top * sizeof *t->top);
    return true;
}

static void on_done(void *ctx, const struct err *err) {
    assert_null(err);
    ((struct asked *)ctx)->done = true;
}

static const struct engine_sink sink = {.token = on_token, .done = on_done};

/* --- alone and mixed -------------------------------------------------------------------------- */

static void add(struct engine *e, struct asked *a) {
    struct err err;
    assert_int_equal(engine_add(e, &a->r, &sink, a, clock_now_ns(), &err), ST_OK);
}

static void run_alone(struct fixture *f, struct asked *a) {
    struct err err;
    struct exec_model *x;
    struct engine *e;
    struct exec_model_options xo = {.max_num_seqs = CHOICES, .max_num_batched_tokens = MODEL_LEN};
    struct engine_options o = {.max_num_seqs = CHOICES,
                               .max_num_batched_tokens = MODEL_LEN,
                               .speculate = SPECULATE_OFF,
                               .draft_tokens = 1};
    assert_int_equal(exec_model_new(&x, &f->in, &xo, &err), ST_OK);
    assert_int_equal(engine_new(&e, exec_model_executor(x), &o, &err), ST_OK);
    add(e, a);
    while (!a->done) assert_true(engine_step(e));
    engine_free(e);
    exec_model_free(x);
}

static void same(const struct exec_token *a, const struct exec_token *b, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].id, b[i].id);
        assert_int_equal(a[i].n_top, b[i].n_top);
        assert_memory_equal(&a[i].logprob, &b[i].logprob, sizeof a[i].logprob);
        assert_memory_equal(a[i].top, b[i].top, a[i].n_top * sizeof *a[i].top);
    }
}

static void mix(uint64_t seed) {
    static struct asked alone[REQUESTS], mixed[REQUESTS];
    struct rng g = {seed * 77 + 5};
    struct fixture f;
    struct err err;
    struct exec_model *x;
    struct engine *e;
    for (int i = 0; i < 4; i++) below(&g, 2);
    open_model(&f, 1, engine_pages_min(MODEL_LEN) * 4);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        random_request(&alone[i], seed * 100 + i);
        random_request(&mixed[i], seed * 100 + i);
        run_alone(&f, &alone[i]);
        if (below(&g, 4) == 0) mixed[i].cancel_after = 1 + below(&g, 40);
        mixed[i].r.priority = (int32_t)below(&g, 3);
    }
    close_model(&f);
    uint32_t seqs = 1 + below(&g, 8), k = 1 + below(&g, 3);
    open_model(&f, 1 + below(&g, 3), engine_pages_min(MODEL_LEN) + below(&g, 12));
    struct exec_model_options xo = {
        .max_num_seqs = seqs, .max_num_batched_tokens = 512 + below(&g, 200), .draft_tokens = k};
    struct engine_options o = {.max_num_seqs = seqs,
                               .max_num_batched_tokens = xo.max_num_batched_tokens,
                               .speculate = (enum speculate)below(&g, 3),
                               .draft_tokens = k};
    assert_int_equal(exec_model_new(&x, &f.in, &xo, &err), ST_OK);
    assert_int_equal(engine_new(&e, exec_model_executor(x), &o, &err), ST_OK);
    uint32_t added = 0, left = REQUESTS;
    while (left > 0) {
        if (added < REQUESTS && (added == 0 || below(&g, 8) == 0)) add(e, &mixed[added++]);
        (void)engine_step(e);
        left = REQUESTS - added;
        for (uint32_t i = 0; i < added; i++) {
            struct asked *a = &mixed[i];
            if (!a->done && a->cancel_after && ++a->pieces == a->cancel_after) {
                a->cancelled = true;
                engine_cancel(e, &a->r, ENGINE_CANCEL_LEFT);
            }
            left += !a->done;
        }
    }
    while (engine_step(e)) continue;
    assert_int_equal(engine_stats(e)->pages_used, 0);
    engine_free(e);
    exec_model_free(x);
    close_model(&f);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        for (uint32_t c = 0; c < mixed[i].r.n_choices; c++) {
            const struct answer *a = &alone[i].got[c], *m = &mixed[i].got[c];
            if (!mixed[i].cancelled) {
                assert_int_equal(m->n, a->n);
                assert_int_equal(m->n_prompt, a->n_prompt);
            }
            same(m->v, a->v, m->n);
            same(m->prompt, a->prompt, m->n_prompt);
        }
        request_release(&alone[i].r);
        request_release(&mixed[i].r);
    }
}

static void a_mix_of_requests_gives_each_the_answer_it_has_alone(void **state) {
    (void)state;
    const char *one = getenv("SEED"), *many = getenv("SEEDS");
    if (one) {
        mix(strtoull(one, NULL, 10));
        return;
    }
    uint64_t n = many ? strtoull(many, NULL, 10) : 12;
    for (uint64_t seed = 1; seed <= n; seed++) {
        print_message("# seed %llu\n", (unsigned long long)seed);
        mix(seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mix_of_requests_gives_each_the_answer_it_has_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

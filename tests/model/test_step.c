/* SPDX-License-Identifier: Apache-2.0 */
/* One answer (promise 1): the logits, drafts and hidden state of a token are the same bits whatever
 * shares the step, however the prompt is chunked, on every instruction set, with any number of
 * threads, and whoever runs the experts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/step.h"
#include "model/weights_random.h"
#include "small_config.h"

enum { SEQS = 4, LEN_MAX = 300, PAGES_A_SEQ = 3, ROWS_MAX = 512 };

struct token {
    uint32_t id;
    enum token_role role;
};

struct seq {
    struct token tokens[LEN_MAX];
    uint32_t len, done;
    uint32_t pages[PAGES_A_SEQ];
    float *logits, *drafts, *hidden; /* [LEN_MAX, ...] what the alone run gave */
    float *last_hidden;
};

struct fixture {
    struct model_config c;
    struct weights_random weights;
    struct model *m;
    struct team *team;
    struct kv kv;
    struct step *step;
    struct seq seqs[SEQS];
    uint32_t pauses; /* as many as there are, where not 0 */
};

static uint64_t rng_state;
static uint32_t rng(uint32_t n) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33) % n;
}

static void fixture_open(struct fixture *f, const struct model_config *c, enum ops_dtype dtype,
                         enum ops_dtype kv, const struct ops_kernels *k, uint32_t threads) {
    struct err err;
    memset(f, 0, sizeof *f);
    f->c = *c;
    assert_int_equal(config_check(&f->c, &err), ST_OK);
    assert_int_equal(weights_random_init(&f->weights, &f->c, dtype, 7, &err), ST_OK);
    struct weight_source source = weight_table_source(&f->weights.table);
    assert_int_equal(model_new(&f->m, &f->c, &source, k, &err), ST_OK);
    assert_int_equal(team_new(&f->team, threads, &err), ST_OK);
    assert_int_equal(kv_init(&f->kv, &f->c, kv, SEQS * PAGES_A_SEQ, NULL, &err), ST_OK);
    /* Pages that were not written are garbage on purpose: NaN in either type. */
    memset(f->kv.rows, 0xff, f->kv.map_bytes);
    struct step_limits limits = {.rows_max = ROWS_MAX, .logits_max = ROWS_MAX};
    assert_int_equal(step_new(&f->step, f->m, &f->kv, f->team, limits, &err), ST_OK);
}

static void fixture_close(struct fixture *f) {
    step_free(f->step);
    kv_release(&f->kv);
    team_free(f->team);
    model_free(f->m);
    weights_random_release(&f->weights);
    for (uint32_t i = 0; i < SEQS; i++) {
        free(f->seqs[i].logits);
        free(f->seqs[i].drafts);
        free(f->seqs[i].hidden);
        free(f->seqs[i].last_hidden);
    }
}

/* Random tokens; runs of prompt and generated ones, as in a chat of several turns. */
static void make_seqs(struct fixture *f, uint64_t seed) {
    rng_state = seed;
    for (uint32_t s = 0; s < SEQS; s++) {
        struct seq *q = &f->seqs[s];
        q->len = s == 0 ? 1 : 1 + rng(LEN_MAX);
        q->done = 0;
        enum token_role role = ROLE_PROMPT;
        for (uint32_t i = 0; i < q->len; i++) {
            if (i > 0 && rng(40) == 0) role = role == ROLE_PROMPT ? ROLE_GENERATED : ROLE_PROMPT;
            q->tokens[i] = (struct token){.id = rng(f->c.vocab), .role = role};
        }
        for (uint32_t p = 0; p < PAGES_A_SEQ; p++)
            q->pages[p] = p * SEQS + (s + p) % SEQS; /* not in order */
        if (q->logits) continue;
        q->logits = calloc(LEN_MAX * f->c.vocab, sizeof(float));
        q->drafts = calloc(LEN_MAX * f->c.vocab, sizeof(float));
        q->hidden = calloc(LEN_MAX * f->c.hidden, sizeof(float));
        q->last_hidden = calloc(f->c.hidden, sizeof(float));
    }
}

/* Runs take[s] tokens of every sequence in one step (or in two microbatches), and stores or
 * compares the results. */
enum check { STORE, COMPARE };
static void run(struct fixture *f, const uint32_t take[SEQS], enum check check) {
    struct step_row rows[ROWS_MAX];
    struct step_seq seqs[SEQS];
    uint32_t n = 0;
    for (uint32_t s = 0; s < SEQS; s++) {
        struct seq *q = &f->seqs[s];
        seqs[s] = (struct step_seq){
            .pages = q->pages, .n_pages = PAGES_A_SEQ, .hidden_before = q->last_hidden};
        for (uint32_t i = 0; i < take[s]; i++)
            rows[n++] = (struct step_row){.token = q->tokens[q->done + i].id,
                                          .pos = q->done + i,
                                          .seq = s,
                                          .role = q->tokens[q->done + i].role,
                                          .logits = true,
                                          .draft = true};
    }
    if (n == 0) return;
    struct step_input input = {.rows = rows, .n_rows = n, .seqs = seqs, .n_seqs = SEQS};
    step_begin(f->step, &input);
    if (!f->pauses)
        model_step(&f->step, 1);
    else
        while (!step_advance(f->step, 0, STEP_ALL_PARTS)) f->pauses++;
    size_t vocab = f->c.vocab, hidden = f->c.hidden;
    for (uint32_t r = 0; r < n; r++) {
        struct seq *q = &f->seqs[rows[r].seq];
        float *want[3] = {q->logits + rows[r].pos * vocab, q->hidden + rows[r].pos * hidden,
                          q->drafts + rows[r].pos * vocab};
        const float *got[3] = {step_logits(f->step, r), step_hidden(f->step, r),
                               rows[r].pos ? step_draft_logits(f->step, r) : NULL};
        size_t len[3] = {vocab, hidden, vocab};
        for (int i = 0; i < 3; i++) {
            if (!got[i]) continue;
            for (size_t j = 0; j < len[i]; j++)
                assert_true(got[i][j] == got[i][j]); /* no NaN from unwritten pages */
            if (check == STORE)
                memcpy(want[i], got[i], len[i] * sizeof(float));
            else
                assert_memory_equal(want[i], got[i], len[i] * sizeof(float));
        }
        memcpy(q->last_hidden, got[1], hidden * sizeof(float));
    }
    for (uint32_t s = 0; s < SEQS; s++) f->seqs[s].done += take[s];
}

static void run_alone(struct fixture *f) {
    for (uint32_t s = 0; s < SEQS; s++) {
        uint32_t take[SEQS] = {0};
        take[s] = f->seqs[s].len;
        run(f, take, STORE);
    }
    for (uint32_t s = 0; s < SEQS; s++) f->seqs[s].done = 0;
}

/* Random chunks of all sequences at once until all are done. */
static void run_mixed(struct fixture *f) {
    for (;;) {
        uint32_t take[SEQS], left = 0, budget = ROWS_MAX;
        for (uint32_t s = 0; s < SEQS; s++) {
            uint32_t rest = f->seqs[s].len - f->seqs[s].done, most = rng(3) == 0 ? 150 : 5;
            take[s] = rng(most + 1);
            if (take[s] > rest) take[s] = rest;
            if (take[s] > budget) take[s] = budget;
            budget -= take[s];
            left += rest;
        }
        if (left == 0) break;
        run(f, take, COMPARE);
    }
    for (uint32_t s = 0; s < SEQS; s++) f->seqs[s].done = 0;
}

static void batching_and_chunking_do_not_change_a_bit(void **state) {
    (void)state;
    const enum ops_dtype dtypes[] = {OPS_F32, OPS_BF16, OPS_F16, OPS_F8};
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    ops_kernels_all(tables);
    for (uint32_t d = 0; d < 4; d++) {
        struct fixture f;
        struct model_config c = small_config(d % 2 == 0);
        fixture_open(&f, &c, dtypes[d], d < 2 ? OPS_F32 : OPS_BF16, tables[0], 1 + d % 2);
        for (uint64_t seed = 1; seed <= 4; seed++) {
            make_seqs(&f, seed * 1000 + d);
            run_alone(&f);
            run_mixed(&f);
            run_mixed(&f);
        }
        fixture_close(&f);
    }
}

static void a_step_that_pauses_after_every_tile_gives_the_same_bits(void **state) {
    (void)state;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    ops_kernels_all(tables);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct fixture f;
        struct model_config c = small_config(threads % 2);
        fixture_open(&f, &c, OPS_BF16, OPS_BF16, tables[0], threads);
        make_seqs(
            &f,
            1); /* long enough: every run of the team pauses once, however fast the others are */
        run_alone(&f);
        f.pauses = 1;
        run_mixed(&f);
        assert_true(f.pauses > 1000);
        fixture_close(&f);
    }
}

/* The stored answers of one fixture against another's run. */
static void take_answers(struct fixture *to, const struct fixture *from) {
    for (uint32_t s = 0; s < SEQS; s++) {
        memcpy(to->seqs[s].logits, from->seqs[s].logits, LEN_MAX * from->c.vocab * sizeof(float));
        memcpy(to->seqs[s].drafts, from->seqs[s].drafts, LEN_MAX * from->c.vocab * sizeof(float));
        memcpy(to->seqs[s].hidden, from->seqs[s].hidden, LEN_MAX * from->c.hidden * sizeof(float));
    }
}

static void instruction_sets_and_threads_do_not_change_a_bit(void **state) {
    (void)state;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    uint32_t n = ops_kernels_all(tables);
    for (uint32_t d = 0; d < 4; d++) {
        const enum ops_dtype dtypes[] = {OPS_F32, OPS_BF16, OPS_F16, OPS_F8};
        struct fixture ref, other;
        struct model_config c = small_config(true);
        fixture_open(&ref, &c, dtypes[d], OPS_BF16, tables[n - 1], 1);
        assert_string_equal(tables[n - 1]->isa, "ref");
        make_seqs(&ref, 42 + d);
        run_alone(&ref);
        for (uint32_t t = 0; t < n; t++) {
            fixture_open(&other, &c, dtypes[d], OPS_BF16, tables[t], 1 + t % 3);
            make_seqs(&other, 42 + d);
            take_answers(&other, &ref);
            run_mixed(&other);
            fixture_close(&other);
        }
        fixture_close(&ref);
    }
}

/* 37 heads: more than a tile may have, and not a multiple of it. */
static void dealing_heads_to_threads_does_not_change_a_bit(void **state) {
    (void)state;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    ops_kernels_all(tables);
    for (uint32_t threads = 1; threads <= 5; threads += 2) {
        struct fixture f;
        struct model_config c = small_config(true);
        c.n_heads = 37;
        fixture_open(&f, &c, OPS_BF16, OPS_BF16, tables[0], threads);
        make_seqs(&f, 7 + threads);
        run_alone(&f);
        run_mixed(&f);
        fixture_close(&f);
    }
}

/* A caller that dispatches routes itself, in two halves and any order, combines to the same bits.
 */
static void experts_may_be_computed_in_any_subset(void **state) {
    (void)state;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    ops_kernels_all(tables);
    struct fixture f;
    struct model_config c = small_config(true);
    fixture_open(&f, &c, OPS_BF16, OPS_F32, tables[0], 2);
    make_seqs(&f, 5);
    run_alone(&f);
    struct seq *q = &f.seqs[1];
    struct step_row rows[LEN_MAX];
    for (uint32_t i = 0; i < q->len; i++)
        rows[i] = (struct step_row){
            .token = q->tokens[i].id, .pos = i, .role = q->tokens[i].role, .logits = true};
    struct step_seq seq = {.pages = q->pages, .n_pages = PAGES_A_SEQ};
    struct step_input input = {.rows = rows, .n_rows = q->len, .seqs = &seq, .n_seqs = 1};
    step_begin(f.step, &input);
    step_embed(f.step);
    for (uint32_t layer = 0; layer < c.n_layers; layer++) {
        step_prolog(f.step, layer);
        step_attention(f.step, layer);
        step_attn_out(f.step, layer);
        if (!config_layer_is_moe(&c, layer)) {
            step_dense(f.step, layer);
            continue;
        }
        step_gate(f.step, layer);
        step_shared(f.step, layer);
        uint32_t n, half[2][LEN_MAX * 3], len[2] = {0, 0};
        const struct step_route *routes = step_routes(f.step, &n);
        for (uint32_t i = n; i-- > 0;) {
            uint32_t which = routes[i].expert % 3 == 0 || rng(5) == 0;
            half[which][len[which]++] = i;
        }
        step_experts(f.step, layer, half[0], len[0]);
        step_experts(f.step, layer, half[1], len[1]);
        step_combine(f.step, layer);
    }
    step_head(f.step);
    for (uint32_t i = 0; i < q->len; i++)
        assert_memory_equal(step_logits(f.step, i), q->logits + i * c.vocab,
                            c.vocab * sizeof(float));
    fixture_close(&f);
}

static void two_row_sets_step_as_one(void **state) {
    (void)state;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    ops_kernels_all(tables);
    struct fixture f;
    struct err err;
    struct model_config c = small_config(false);
    fixture_open(&f, &c, OPS_BF16, OPS_BF16, tables[0], 2);
    make_seqs(&f, 11);
    run_alone(&f);
    struct step *steps[2] = {f.step, NULL};
    struct step_limits limits = {.rows_max = ROWS_MAX, .logits_max = ROWS_MAX};
    assert_int_equal(step_new(&steps[1], f.m, &f.kv, f.team, limits, &err), ST_OK);
    struct step_row rows[2][LEN_MAX];
    struct step_seq seqs[2];
    struct step_input in[2];
    for (uint32_t k = 0; k < 2; k++) {
        struct seq *q = &f.seqs[k + 1];
        for (uint32_t i = 0; i < q->len; i++)
            rows[k][i] = (struct step_row){
                .token = q->tokens[i].id, .pos = i, .role = q->tokens[i].role, .logits = true};
        seqs[k] = (struct step_seq){.pages = q->pages, .n_pages = PAGES_A_SEQ};
        in[k] =
            (struct step_input){.rows = rows[k], .n_rows = q->len, .seqs = &seqs[k], .n_seqs = 1};
        step_begin(steps[k], &in[k]);
    }
    model_step(steps, 2);
    for (uint32_t k = 0; k < 2; k++)
        for (uint32_t i = 0; i < f.seqs[k + 1].len; i++)
            assert_memory_equal(step_logits(steps[k], i), f.seqs[k + 1].logits + i * c.vocab,
                                c.vocab * sizeof(float));
    step_free(steps[1]);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batching_and_chunking_do_not_change_a_bit),
        cmocka_unit_test(a_step_that_pauses_after_every_tile_gives_the_same_bits),
        cmocka_unit_test(instruction_sets_and_threads_do_not_change_a_bit),
        cmocka_unit_test(dealing_heads_to_threads_does_not_change_a_bit),
        cmocka_unit_test(experts_may_be_computed_in_any_subset),
        cmocka_unit_test(two_row_sets_step_as_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Records as bytes: what is written is read, and what a stranger makes of it is refused or harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "sim/core/standin.h"

enum { VOCAB = 1000, LONGEST = 4096 };

static uint64_t draw(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static uint32_t below(uint64_t *state, uint32_t n) {
    return (uint32_t)(draw(state) % n);
}

static void draw_prompt(struct request *r, uint64_t *s) {
    uint32_t n = below(s, 300);
    r->prompt = malloc((n + 1) * sizeof *r->prompt);
    r->roles = malloc((n + 1) * sizeof *r->roles);
    while (r->n_prompt < n) {
        uint32_t len = 1 + below(s, n - r->n_prompt);
        r->roles[r->n_roles++] = (struct role_run){len, below(s, 2) ? ROLE_GENERATED : ROLE_PROMPT};
        for (uint32_t i = 0; i < len; i++) r->prompt[r->n_prompt++] = below(s, VOCAB);
    }
}

static void draw_sampling(struct ops_sample_params *p, uint64_t *s) {
    *p = (struct ops_sample_params){.temperature = (float)below(s, 200) / 100,
                                    .top_p = (float)(1 + below(s, 100)) / 100,
                                    .min_p = (float)below(s, 100) / 100,
                                    .top_k = below(s, 50),
                                    .repetition_penalty = 1.1f,
                                    .frequency_penalty = -0.0f,
                                    .presence_penalty = -2,
                                    .n_bias = below(s, 4)};
    struct ops_logit_bias *bias = p->n_bias ? malloc(p->n_bias * sizeof *bias) : NULL;
    for (uint32_t i = 0; i < p->n_bias; i++)
        bias[i] = (struct ops_logit_bias){below(s, VOCAB), (float)below(s, 200) - 100};
    p->bias = bias;
}

static struct request random_record(uint64_t *s) {
    struct request r = {.version = REQUEST_VERSION,
                        .attempt = below(s, 9),
                        .seed = (int64_t)draw(s),
                        .n_stop_ids = below(s, REQUEST_STOP_IDS_MAX + 1),
                        .max_tokens = below(s, 200),
                        .logprobs = (int32_t)below(s, 22) - 1,
                        .prompt_logprobs = (int32_t)below(s, 22) - 1,
                        .priority = (int32_t)below(s, 9) - 4,
                        .time_left_ms = below(s, 100000)};
    struct err err;
    memset(r.id, 'i', below(s, sizeof r.id));
    memset(r.tenant, 't', below(s, sizeof r.tenant));
    memset(r.salt, 's', below(s, sizeof r.salt));
    memset(r.model_id, 'm', below(s, sizeof r.model_id));
    r.min_tokens = below(s, r.max_tokens + 1);
    for (uint32_t i = 0; i < r.n_stop_ids; i++) r.stop_ids[i] = below(s, VOCAB);
    draw_prompt(&r, s);
    draw_sampling(&r.sampling, s);
    assert_int_equal(request_make_choices(&r, 1 + below(s, 6), &err), ST_OK);
    for (uint32_t i = 0; i < r.n_choices; i++) {
        struct request_choice *c = &r.choices[i];
        c->n_ids = below(s, r.max_tokens + 1);
        for (uint32_t k = 0; k < c->n_ids; k++) c->ids[k] = below(s, VOCAB);
        c->n_delivered = below(s, c->n_ids + 1);
        c->finish = (enum finish_reason)below(s, 4);
    }
    return r;
}

static struct buf bytes_of(const struct request *r) {
    struct buf out = {.max = REQUEST_BYTES_MAX};
    assert_int_equal(request_write(&out, r), ST_OK);
    return out;
}

static void expect_same(const struct request *a, const struct request *b) {
    assert_string_equal(a->id, b->id);
    assert_string_equal(a->tenant, b->tenant);
    assert_string_equal(a->salt, b->salt);
    assert_string_equal(a->model_id, b->model_id);
    assert_int_equal(a->attempt, b->attempt);
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->n_prompt, b->n_prompt);
    assert_memory_equal(a->prompt, b->prompt, a->n_prompt * sizeof *a->prompt);
    assert_int_equal(a->n_roles, b->n_roles);
    for (uint32_t i = 0; i < a->n_roles; i++) {
        assert_int_equal(a->roles[i].len, b->roles[i].len);
        assert_int_equal(a->roles[i].role, b->roles[i].role);
    }
    assert_memory_equal(&a->sampling.temperature, &b->sampling.temperature, sizeof(float));
    assert_true(a->sampling.top_p == b->sampling.top_p && a->sampling.min_p == b->sampling.min_p);
    assert_int_equal(a->sampling.top_k, b->sampling.top_k);
    assert_memory_equal(&a->sampling.frequency_penalty, &b->sampling.frequency_penalty, 4);
    assert_int_equal(a->sampling.n_bias, b->sampling.n_bias);
    for (uint32_t i = 0; i < a->sampling.n_bias; i++) {
        assert_int_equal(a->sampling.bias[i].id, b->sampling.bias[i].id);
        assert_true(a->sampling.bias[i].bias == b->sampling.bias[i].bias);
    }
    assert_int_equal(a->n_stop_ids, b->n_stop_ids);
    assert_memory_equal(a->stop_ids, b->stop_ids, a->n_stop_ids * sizeof *a->stop_ids);
    assert_int_equal(a->max_tokens, b->max_tokens);
    assert_int_equal(a->min_tokens, b->min_tokens);
    assert_int_equal(a->logprobs, b->logprobs);
    assert_int_equal(a->prompt_logprobs, b->prompt_logprobs);
    assert_int_equal(a->priority, b->priority);
    assert_int_equal(a->time_left_ms, b->time_left_ms);
    assert_int_equal(a->n_choices, b->n_choices);
    for (uint32_t i = 0; i < a->n_choices; i++) {
        const struct request_choice *x = &a->choices[i], *y = &b->choices[i];
        assert_int_equal(x->n_ids, y->n_ids);
        assert_memory_equal(x->ids, y->ids, x->n_ids * sizeof *x->ids);
        assert_int_equal(x->n_delivered, y->n_delivered);
        assert_int_equal(x->finish, y->finish);
    }
}

static void what_is_written_is_read(void **state) {
    (void)state;
    uint64_t s = 1;
    for (int i = 0; i < 300; i++) {
        struct request a = random_record(&s), b;
        struct err err;
        struct buf bytes = bytes_of(&a);
        if (request_read(&b, bytes.data, bytes.len, &err)) fail_msg("%s", err.text);
        expect_same(&a, &b);
        for (uint32_t c = 0; c < b.n_choices; c++) /* there is room for all it may become */
            memset(b.choices[c].ids, 1, b.max_tokens * sizeof *b.choices[c].ids);
        buf_release(&bytes);
        request_release(&a);
        request_release(&b);
    }
}

static void every_truncation_is_refused_with_a_sentence(void **state) {
    (void)state;
    uint64_t s = 2;
    struct request a = random_record(&s), b;
    struct buf bytes = bytes_of(&a);
    for (size_t len = 0; len < bytes.len; len++) {
        struct err err = {0};
        char *copy = malloc(len + 1); /* so that a sanitizer sees the end */
        memcpy(copy, bytes.data, len);
        copy = realloc(copy, len ? len : 1);
        assert_int_equal(request_read(&b, copy, len, &err), ST_CORRUPT);
        assert_true(strncmp(err.text, "request: ", 9) == 0);
        assert_null(b.prompt);
        free(copy);
    }
    buf_release(&bytes);
    request_release(&a);
}

static bool no_token(void *ctx, const struct token_out *t) {
    (void)ctx;
    (void)t;
    return true;
}
static void no_done(void *ctx, const struct err *err) {
    (void)ctx;
    (void)err;
}

/* Added to an engine: refused, or computed for a few steps. */
static void try_record(struct engine *e, struct request *r) {
    static const struct engine_sink sink = {.token = no_token, .done = no_done};
    struct err err = {0};
    if (engine_add(e, r, &sink, NULL, 0, &err)) {
        assert_true(err.text[0]);
        return;
    }
    for (int i = 0; i < 3; i++) (void)engine_step(e);
    engine_cancel(e, r, ENGINE_CANCEL_LEFT);
}

static void every_changed_byte_is_refused_or_harmless(void **state) {
    (void)state;
    uint64_t s = 5;
    struct standin_options o = {.n_pages = 200,
                                .n_slots = 8,
                                .max_model_len = LONGEST,
                                .rows_max = 64,
                                .vocab = VOCAB,
                                .step_ns = 1000};
    struct engine_options eo = {.max_num_seqs = 8, .max_num_batched_tokens = 512};
    struct standin x;
    struct engine *e;
    struct err err;
    assert_int_equal(standin_init(&x, &o, &err), ST_OK);
    assert_int_equal(engine_new(&e, &x.x, &eo, &err), ST_OK);
    struct request a = random_record(&s), b;
    snprintf(a.model_id, sizeof a.model_id, "%s", x.x.model_id);
    struct buf bytes = bytes_of(&a);
    uint32_t accepted = 0;
    for (size_t i = 0; i < bytes.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            bytes.data[i] ^= (char)(1 << bit);
            if (request_read(&b, bytes.data, bytes.len, &err) == ST_OK) {
                accepted++;
                try_record(e, &b);
                request_release(&b);
            } else {
                assert_true(strncmp(err.text, "request: ", 9) == 0);
            }
            bytes.data[i] ^= (char)(1 << bit);
        }
    assert_true(accepted > 0);
    buf_release(&bytes);
    request_release(&a);
    engine_free(e);
    standin_release(&x);
}

static void counts_that_promise_gigabytes_cost_nothing(void **state) {
    (void)state;
    uint64_t s = 7;
    struct request a = random_record(&s), b;
    struct err err;
    while (a.n_choices < 2) {
        request_release(&a);
        a = random_record(&s);
    }
    uint32_t n_choices = a.n_choices;
    a.max_tokens = UINT32_MAX;
    for (uint32_t i = 0; i < a.n_choices; i++) a.choices[i].n_ids = a.choices[i].n_delivered = 0;
    struct buf bytes = bytes_of(&a);
    assert_int_equal(request_read(&b, bytes.data, bytes.len, &err), ST_CORRUPT);
    assert_non_null(strstr(err.text, "max_tokens: found 4294967295"));
    buf_release(&bytes);
    a.max_tokens = 40 << 20;
    a.n_choices = 2;
    bytes = bytes_of(&a);
    assert_int_equal(request_read(&b, bytes.data, bytes.len, &err), ST_CORRUPT);
    assert_non_null(strstr(err.text, "2 choices of 41943040 tokens"));
    buf_release(&bytes);
    a.n_choices = n_choices;
    request_release(&a);
}

static void a_record_that_does_not_fit_leaves_the_buffer_as_it_was(void **state) {
    (void)state;
    uint64_t s = 3;
    struct request a = random_record(&s);
    struct buf out = {.max = 100};
    assert_int_equal(buf_append_str(&out, "before"), ST_OK);
    assert_int_equal(request_write(&out, &a), ST_FULL);
    assert_int_equal(out.len, 6);
    buf_release(&out);
    request_release(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_truncation_is_refused_with_a_sentence),
        cmocka_unit_test(every_changed_byte_is_refused_or_harmless),
        cmocka_unit_test(counts_that_promise_gigabytes_cost_nothing),
        cmocka_unit_test(a_record_that_does_not_fit_leaves_the_buffer_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

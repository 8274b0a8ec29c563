/* SPDX-License-Identifier: Apache-2.0 */
/* From a body to the record: ids, roles, limits, seeds, stop ids. The tokenizer has one token a
 * byte and two added ones, so ids are read off the text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "serve/front.h"

enum { BOS = 96, EOS = 97, VOCAB = 98, MAX_LEN = 64 };

/* '!' to '~' are themselves in byte-level alphabets: ids 0 to 93; "\u0120" is the space, "\u010a"
 * the newline. */
static uint32_t id_of(char c) {
    return c == ' ' ? 94 : c == '\n' ? 95 : (uint32_t)(c - '!');
}

static const char added[] =
    "{\"added_tokens\":[{\"id\":96,\"content\":\"<s>\",\"special\":true},{\"id\":97,\"content\":\"<"
    "/s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
    "\"use_regex\":false},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{";
static const char config[] =
    "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":true}";

static struct tokenizer *make_tokenizer(void) {
    struct buf json = {.max = 1 << 16};
    struct tokenizer *tok;
    struct err err;
    assert_int_equal(buf_append_str(&json, added), ST_OK);
    for (char c = '!'; c <= '~'; c++)
        assert_int_equal(
            buf_printf(&json, "\"%s%c\":%u,", c == '"' || c == '\\' ? "\\" : "", c, id_of(c)),
            ST_OK);
    assert_int_equal(buf_append_str(&json, "\"\u0120\":94,\"\u010a\":95}}}"), ST_OK);
    if (tok_new(&tok, json.data, json.len, config, sizeof config - 1, "t", &err))
        fail_msg("%s", err.text);
    buf_release(&json);
    return tok;
}

static struct chat_model *make_template(const char *text) {
    char path[] = "/tmp/test_front_XXXXXX.jinja";
    struct chat_model *chat;
    struct err err;
    int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    enum st st = chat_model_open(&chat, path, &err);
    unlink(path);
    if (st) fail_msg("%s", err.text);
    return chat;
}

static const char plain[] = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{% if "
                            "add_generation_prompt %}!{% endif %}";

static struct front make_front(const char *template) {
    struct front f = {.model = "m",
                      .tok = make_tokenizer(),
                      .vocab = VOCAB,
                      .max_model_len = MAX_LEN,
                      .token_bytes_max = 4,
                      .stop_ids = {EOS},
                      .n_stop_ids = 1,
                      .defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    if (template) f.chat = make_template(template);
    return f;
}

static struct job *prepare(const struct front *f, enum api_kind kind, const char *body,
                           struct api_error *e) {
    struct job *j = job_new(kind, strdup(body), strlen(body));
    *e = (struct api_error){0};
    if (front_prepare(f, j, e)) return j;
    job_free(j);
    assert_true(e->status >= 400);
    return NULL;
}

/* "^" stands for BOS and "$" for EOS; roles has g or p for each. */
static void expect_record(const struct request *r, const char *text, const char *roles) {
    assert_int_equal(r->n_prompt, strlen(text));
    uint32_t run = 0, used = 0;
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        assert_int_equal(r->prompt[i], text[i] == '^'   ? BOS
                                       : text[i] == '$' ? EOS
                                                        : id_of(text[i]));
        if (used == r->roles[run].len) run++, used = 0;
        used++;
        assert_int_equal(r->roles[run].role, roles[i] == 'g' ? ROLE_GENERATED : ROLE_PROMPT);
    }
    assert_int_equal(run + 1, r->n_roles);
    assert_int_equal(used, r->roles[run].len);
}

static void expect_prompt(const struct job *j, const char *text, const char *roles) {
    expect_record(&j->records[0], text, roles);
}

static void roles_and_origins_of_a_chat(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    struct job *j = prepare(&f, API_CHAT,
                            "{\"messages\":[{\"role\":\"user\",\"content\":\"a</"
                            "s>\"},{\"role\":\"assistant\",\"content\":\"b</s>c\"}]}",
                            &e);
    assert_non_null(j);
    expect_prompt(j, "^a</s>$^b$c$!", "ppppppppgggpp");
    assert_true(strncmp(j->id, "chatcmpl-", 9) == 0 && strlen(j->id) == 41);
    assert_string_equal(j->records[0].id, j->id);
    job_free(j);
    f.trust = PROMPT_TRUST_MESSAGES;
    j = prepare(&f, API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a</s>\"}]}", &e);
    expect_prompt(j, "^a$$!", "ppppp");
    job_free(j);
    front_close(&f);
}

#define CALL                                                                                       \
    "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{"      \
    "\"name\":\"f\",\"arguments\":\"{\\\"k\\\":1}\"}}]}]}"

static void tool_arguments_suit_either_template(void **state) {
    (void)state;
    struct api_error e;
    struct front f = make_front("{{ messages[0].tool_calls[0].function.arguments.k + 1 }}");
    struct job *j = prepare(&f, API_CHAT, CALL, &e);
    if (!j) fail_msg("%s", e.message);
    assert_int_equal(j->records[0].n_prompt, 1);
    assert_int_equal(j->records[0].prompt[0], id_of('2'));
    job_free(j);
    front_close(&f);
    f = make_front("{{ '<' + messages[0].tool_calls[0].function.arguments + '>' }}");
    j = prepare(&f, API_CHAT, CALL, &e);
    if (!j) fail_msg("%s", e.message);
    assert_int_equal(j->records[0].n_prompt, strlen("<{\"k\":1}>"));
    job_free(j);
    front_close(&f);
}

static void raw_text_gets_bos_and_ids_do_not(void **state) {
    (void)state;
    struct front f = make_front(NULL);
    struct api_error e;
    struct job *j = prepare(&f, API_COMPLETION, "{\"prompt\":\"a</s>b\"}", &e);
    expect_prompt(j, "^a$b", "pppp");
    assert_int_equal(j->records[0].max_tokens, API_COMPLETION_TOKENS);
    job_free(j);
    j = prepare(&f, API_COMPLETION, "{\"prompt\":\"\"}", &e);
    expect_prompt(j, "^", "p");
    job_free(j);
    j = prepare(&f, API_COMPLETION, "{\"prompt\":[64,65],\"max_tokens\":62}", &e);
    expect_prompt(j, "ab", "pp");
    assert_int_equal(j->records[0].max_tokens, 62);
    job_free(j);
    assert_null(
        prepare(&f, API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &e));
    assert_string_equal(e.message,
                        "messages: this model has no chat template; use /v1/completions");
    front_close(&f);
}

static void every_prompt_of_a_list_is_a_record(void **state) {
    (void)state;
    struct front f = make_front(NULL);
    struct api_error e;
    struct job *j = prepare(&f, API_COMPLETION,
                            "{\"prompt\":[\"ab\",\"c\"],\"best_of\":3,\"logit_bias\":{\"5\":1},"
                            "\"cache_salt\":\"s\",\"priority\":7,\"prompt_logprobs\":2}",
                            &e);
    if (!j) fail_msg("%s", e.message);
    assert_int_equal(j->n_records, 2);
    expect_record(&j->records[0], "^ab", "ppp");
    expect_record(&j->records[1], "^c", "pp");
    for (uint32_t i = 0; i < 2; i++) {
        const struct request *r = &j->records[i];
        char id[REQUEST_ID_BYTES + 8];
        snprintf(id, sizeof id, "%s-%u", j->id, i);
        assert_string_equal(r->id, id);
        assert_int_equal(r->n_choices, 3);
        assert_int_equal(r->logprobs, 0); /* best_of needs them */
        assert_int_equal(r->prompt_logprobs, 2);
        assert_string_equal(r->salt, "s");
        assert_int_equal(r->priority, 7);
        assert_true(r->seed == j->records[0].seed && r->sampling.n_bias == 1 &&
                    r->sampling.bias[0].id == 5);
    }
    assert_true(j->records[0].sampling.bias != j->records[1].sampling.bias);
    job_free(j);
    j = prepare(&f, API_COMPLETION, "{\"prompt\":[[64],[65,66]],\"n\":64}", &e);
    expect_record(&j->records[1], "bc", "pp");
    job_free(j);
    j = prepare(&f, API_COMPLETION, "{\"prompt\":\"a\",\"add_special_tokens\":false}", &e);
    expect_prompt(j, "a", "p");
    job_free(j);
    assert_null(prepare(&f, API_COMPLETION, "{\"prompt\":[\"a\",[1]]}", &e));
    front_close(&f);
}

static void the_last_message_stays_open(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    struct job *j = prepare(&f, API_CHAT,
                            "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":"
                            "\"assistant\",\"content\":\"b \"}],\"add_generation_prompt\":false,"
                            "\"continue_final_message\":true}",
                            &e);
    if (!j) fail_msg("%s", e.message);
    expect_prompt(j, "^a$^b ", "ppppgg");
    job_free(j);
    front_close(&f);
    f = make_front("{{ messages[0].role }}");
    assert_null(prepare(&f, API_CHAT,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
                        "\"add_generation_prompt\":false,\"continue_final_message\":true}",
                        &e));
    assert_non_null(strstr(e.message, "continue_final_message: the chat template does not write"));
    front_close(&f);
}

static void expect_whole(const struct front *f, enum api_kind kind, const char *body,
                         const char *want) {
    struct api_error e;
    struct job *j = prepare(f, kind, body, &e);
    if (!j) fail_msg("%s", e.message);
    assert_int_equal(j->n_records, 0);
    assert_string_equal(j->whole.data, want);
    job_free(j);
}

static void tokens_are_counted_and_read(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    expect_whole(&f, API_TOKENIZE, "{\"prompt\":\"a b\"}",
                 "{\"count\":4,\"max_model_len\":64,\"tokens\":[96,64,94,65],\"token_strs\":null}");
    expect_whole(
        &f, API_TOKENIZE,
        "{\"prompt\":\"a \\n</s>\",\"add_special_tokens\":false,\"return_token_strs\":true}",
        "{\"count\":4,\"max_model_len\":64,\"tokens\":[64,94,95,97],"
        "\"token_strs\":[\"a\",\"\u0120\",\"\u010a\",\"</s>\"]}");
    expect_whole(&f, API_TOKENIZE, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                 "{\"count\":4,\"max_model_len\":64,\"tokens\":[96,64,97,0],\"token_strs\":null}");
    expect_whole(
        &f, API_TOKENIZE,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"add_generation_prompt\":false,"
        "\"continue_final_message\":true,\"add_special_tokens\":true}",
        "{\"count\":3,\"max_model_len\":64,\"tokens\":[96,96,64],\"token_strs\":null}");
    expect_whole(&f, API_TOKENIZE, "{\"prompt\":\"\",\"add_special_tokens\":false}",
                 "{\"count\":0,\"max_model_len\":64,\"tokens\":[],\"token_strs\":null}");
    expect_whole(&f, API_DETOKENIZE, "{\"tokens\":[96,64,94,1]}", "{\"prompt\":\"<s>a \\\"\"}");
    expect_whole(&f, API_DETOKENIZE, "{\"tokens\":[]}", "{\"prompt\":\"\"}");
    char body[4096]; /* more than the context holds can still be counted */
    snprintf(body, sizeof body, "{\"prompt\":\"%02000d\"}", 0);
    struct job *j = prepare(&f, API_TOKENIZE, body, &e);
    assert_non_null(j);
    assert_true(strncmp(j->whole.data, "{\"count\":2001,", 14) == 0);
    job_free(j);
    front_close(&f);
}

static void the_checkpoint_may_limit_the_answer(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    f.defaults.max_new_tokens = 5;
    static const struct {
        enum api_kind kind;
        const char *body;
        uint32_t want;
    } cases[] = {
        {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 5},
        {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":9}", 9},
        {API_COMPLETION, "{\"prompt\":\"x\"}", 5},
    };
    for (size_t i = 0; i < 3; i++) {
        struct job *j = prepare(&f, cases[i].kind, cases[i].body, &e);
        assert_int_equal(j->records[0].max_tokens, cases[i].want);
        job_free(j);
    }
    front_close(&f);
}

static void lengths_fit_the_context(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    struct job *j =
        prepare(&f, API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &e);
    assert_int_equal(j->records[0].max_tokens, MAX_LEN - 4);
    job_free(j);
    assert_null(prepare(&f, API_CHAT,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":61}",
                        &e));
    assert_string_equal(e.message,
                        "max_tokens: 61 with a prompt of 4 tokens exceeds max-model-len 64");
    assert_string_equal(e.param, "max_tokens");
    assert_null(prepare(&f, API_CHAT,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"min_tokens\":61}",
                        &e));
    assert_string_equal(e.param, "min_tokens");
    char body[2048];
    snprintf(body, sizeof body, "{\"prompt\":\"%064d\"}", 7);
    assert_null(prepare(&f, API_COMPLETION, body, &e));
    assert_string_equal(
        e.message,
        "prompt: a prompt of 65 tokens leaves no room for an answer in max-model-len 64");
    snprintf(body, sizeof body, "{\"prompt\":\"%0769d\"}", 7);
    assert_null(prepare(&f, API_COMPLETION, body, &e));
    assert_string_equal(e.message, "prompt: a prompt of 769 bytes cannot fit max-model-len 64");
    front_close(&f);
}

static void seeds_and_stop_ids(void **state) {
    (void)state;
    struct front f = make_front(NULL);
    struct api_error e;
    struct job *a = prepare(&f, API_COMPLETION, "{\"prompt\":\"x\"}", &e),
               *b = prepare(&f, API_COMPLETION, "{\"prompt\":\"x\",\"stop_token_ids\":[5,97,5]}",
                            &e);
    assert_true(a->records[0].seed != b->records[0].seed && a->records[0].seed >= 0 &&
                a->records[0].seed < INT64_C(1) << 53);
    assert_int_equal(a->records[0].n_stop_ids, 1);
    assert_int_equal(b->records[0].n_stop_ids, 2);
    assert_int_equal(b->records[0].stop_ids[0], EOS);
    job_free(a);
    job_free(b);
    a = prepare(&f, API_COMPLETION,
                "{\"prompt\":\"x\",\"seed\":-9,\"ignore_eos\":true,\"logit_bias\":{\"1\":2}}", &e);
    assert_int_equal(a->records[0].seed, -9);
    assert_int_equal(a->records[0].n_stop_ids, 0);
    assert_int_equal(a->records[0].sampling.bias[0].id, 1);
    job_free(a);
    front_close(&f);
}

/* White space may be swallowed by added tokens, but not without end. */
static void blanks_have_a_bound_too(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    enum { BLANKS = 3 << 20 };
    struct buf body = {.max = 4 << 20};
    static const enum api_kind kinds[] = {API_COMPLETION, API_TOKENIZE};
    assert_int_equal(buf_append_str(&body, "{\"prompt\":\""), ST_OK);
    for (int i = 0; i < BLANKS; i++) assert_int_equal(buf_append(&body, " ", 1), ST_OK);
    assert_int_equal(buf_append_str(&body, "\"}"), ST_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_null(prepare(&f, kinds[i], body.data, &e));
        assert_int_equal(e.status, 400);
        assert_string_equal(e.message,
                            "prompt: a prompt of 3145728 bytes cannot fit max-model-len 64");
    }
    buf_release(&body);
    front_close(&f);
}

/* What the prompt alone would make of the answer is refused before anything is computed. */
static void answers_that_would_be_huge_are_refused(void **state) {
    (void)state;
    struct front f = make_front(plain);
    f.max_model_len = 1 << 16;
    struct api_error e;
    static const struct {
        const char *fields, *param; /* NULL: accepted */
    } cases[] = {
        {"\"echo\":true,\"logprobs\":0,\"n\":128", "prompt_logprobs"},
        {"\"echo\":true,\"logprobs\":5,\"n\":128,\"stream\":true", "prompt_logprobs"},
        {"\"prompt_logprobs\":20,\"n\":4", "prompt_logprobs"},
        {"\"return_token_ids\":true,\"echo\":true,\"n\":128,\"max_tokens\":2", NULL},
        {"\"echo\":true,\"logprobs\":20,\"prompt_logprobs\":5,\"n\":1", NULL},
        {"\"logprobs\":20,\"n\":128", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf body = {.max = 1 << 20};
        assert_int_equal(buf_append_str(&body, "{\"prompt\":[1"), ST_OK);
        for (int k = 1; k < 8000; k++) assert_int_equal(buf_append(&body, ",7", 2), ST_OK);
        assert_int_equal(buf_printf(&body, "],%s}", cases[i].fields), ST_OK);
        struct job *j = prepare(&f, API_COMPLETION, body.data, &e);
        assert_int_equal(j != NULL, cases[i].param == NULL);
        if (!j) {
            assert_int_equal(e.status, 400);
            assert_string_equal(e.param, cases[i].param);
            assert_non_null(strstr(e.message, "MiB of the answer, expected at most 16"));
        }
        job_free(j);
        buf_release(&body);
    }
    front_close(&f);
}

static void an_echo_computes_enough_for_both_lists(void **state) {
    (void)state;
    struct front f = make_front(plain);
    struct api_error e;
    static const struct {
        const char *body;
        int32_t logprobs, prompt_logprobs; /* of the record */
    } cases[] = {
        {"{\"prompt\":\"x\",\"echo\":true,\"logprobs\":5,\"prompt_logprobs\":1}", 5, 5},
        {"{\"prompt\":\"x\",\"echo\":true,\"logprobs\":1,\"prompt_logprobs\":5}", 1, 5},
        {"{\"prompt\":\"x\",\"echo\":true,\"logprobs\":2,\"stream\":true}", 2, 2},
        {"{\"prompt\":\"x\",\"echo\":true,\"prompt_logprobs\":3}", -1, 3},
        {"{\"prompt\":\"x\",\"logprobs\":5,\"prompt_logprobs\":1}", 5, 1},
        {"{\"prompt\":\"x\",\"logprobs\":5}", 5, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job *j = prepare(&f, API_COMPLETION, cases[i].body, &e);
        if (!j) fail_msg("%s", e.message);
        assert_int_equal(j->records[0].logprobs, cases[i].logprobs);
        assert_int_equal(j->records[0].prompt_logprobs, cases[i].prompt_logprobs);
        job_free(j);
    }
    front_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles_and_origins_of_a_chat),
        cmocka_unit_test(tool_arguments_suit_either_template),
        cmocka_unit_test(raw_text_gets_bos_and_ids_do_not),
        cmocka_unit_test(every_prompt_of_a_list_is_a_record),
        cmocka_unit_test(the_last_message_stays_open),
        cmocka_unit_test(tokens_are_counted_and_read),
        cmocka_unit_test(the_checkpoint_may_limit_the_answer),
        cmocka_unit_test(lengths_fit_the_context),
        cmocka_unit_test(seeds_and_stop_ids),
        cmocka_unit_test(blanks_have_a_bound_too),
        cmocka_unit_test(answers_that_would_be_huge_are_refused),
        cmocka_unit_test(an_echo_computes_enough_for_both_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

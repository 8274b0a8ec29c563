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
static void expect_prompt(const struct job *j, const char *text, const char *roles) {
    const struct request *r = &j->records[0];
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles_and_origins_of_a_chat),
        cmocka_unit_test(tool_arguments_suit_either_template),
        cmocka_unit_test(raw_text_gets_bos_and_ids_do_not),
        cmocka_unit_test(lengths_fit_the_context),
        cmocka_unit_test(seeds_and_stop_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

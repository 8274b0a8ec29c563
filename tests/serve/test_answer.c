/* SPDX-License-Identifier: Apache-2.0 */
/* Answers without a model: ids go in, SSE events and objects come out, byte for byte. The tokenizer
 * is bytes and a few merges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "serve/answer.h"
#include "serve/json_out.h"

enum { A, B, C, QUOTE, HALF1, HALF2, EOS };

/* HALF1 and HALF2 are the two bytes of U+00E9; EOS is special. */
static const char tokenizer_json[] =
    "{\"added_tokens\":[{\"id\":6,\"content\":\"</"
    "s>\",\"special\":true,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":"
    "false}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"trim_offsets\":true,\"use_regex\":false},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
    "\"c\":2,\"\\\"\":3,\"\u00c3\":4,\"\u00a9\":5},\"merges\":[]}}";

struct fixture {
    struct tokenizer *tok;
    struct api_request api;
    struct request record;
    struct answer answer;
    struct buf out;
};

static void begin(struct fixture *f, enum api_kind kind, int32_t logprobs) {
    static const struct answer_head head = {"id-1", "tiny", "fp_x", 42};
    struct err err;
    memset(f, 0, sizeof *f);
    if (tok_new(&f->tok, tokenizer_json, sizeof tokenizer_json - 1, NULL, 0, "t", &err))
        fail_msg("%s", err.text);
    f->out.max = 1 << 20;
    f->api = (struct api_request){.kind = kind, .skip_special = true, .logprobs = logprobs};
    f->record = (struct request){.n_prompt = 3, .logprobs = logprobs, .seed = 9};
    answer_init(&f->answer, &head, &f->api, &f->record, f->tok);
}

static void stream(struct fixture *f) {
    f->api.stream = true;
}

static void stop_at(struct fixture *f, const char *text) {
    f->answer.output.stops[f->answer.output.n_stops++] = text;
}

static void push(struct fixture *f, uint32_t id, enum finish_reason finish) {
    static const struct token_logprob top[2] = {{B, -0.5f}, {HALF1, -2.25f}};
    struct token_out t = {.id = id,
                          .logprob = -0.1f,
                          .top = top,
                          .n_top = f->record.logprobs > 0 ? 2 : 0,
                          .finish = finish};
    assert_int_equal(answer_token(&f->answer, &t, &f->out), ST_OK);
}

static void expect(struct fixture *f, const char *want) {
    assert_string_equal(f->out.data ? f->out.data : "", want);
    f->out.len = 0;
    if (f->out.data) f->out.data[0] = '\0';
}

static void end(struct fixture *f) {
    answer_release(&f->answer);
    buf_release(&f->out);
    tok_free(f->tok);
}

#define CHUNK                                                                                      \
    "data: "                                                                                       \
    "{\"id\":\"id-1\",\"object\":\"chat.completion.chunk\",\"created\":42,\"model\":\"tiny\","     \
    "\"system_fingerprint\":\"fp_x\""

static void a_chat_stream_has_role_text_finish_done(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    stream(&f);
    push(&f, A, FINISH_NONE);
    expect(&f, CHUNK ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":"
                     "\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n" CHUNK
                     ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"logprobs\":null,"
                     "\"finish_reason\":null}]}\n\n");
    push(&f, EOS, FINISH_STOP);
    expect(&f, CHUNK ",\"seed\":9,\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                     "\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
    assert_string_equal(f.answer.finish, "stop");
    end(&f);
}

static void usage_comes_in_a_chunk_of_its_own(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    stream(&f);
    f.api.include_usage = true;
    push(&f, A, FINISH_LENGTH);
    expect(&f, CHUNK ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":"
                     "\"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
                     ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"logprobs\":null,"
                     "\"finish_reason\":null}],\"usage\":null}\n\n" CHUNK
                     ",\"seed\":9,\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                     "\"finish_reason\":\"length\"}],\"usage\":null}\n\n" CHUNK
                     ",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,"
                     "\"total_tokens\":4}}\n\ndata: [DONE]\n\n");
    end(&f);
}

static void half_a_character_waits_for_the_other_half(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    stream(&f);
    push(&f, HALF1, FINISH_NONE);
    expect(&f, "");
    push(&f, HALF2, FINISH_NONE);
    assert_non_null(strstr(f.out.data, "\"text\":\"\u00e9\""));
    end(&f);
}

static void a_stop_string_over_tokens_ends_the_text_before_it(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    stop_at(&f, "bc");
    push(&f, A, FINISH_NONE);
    push(&f, B, FINISH_NONE);
    push(&f, A, FINISH_NONE);
    push(&f, B, FINISH_NONE);
    expect(&f, "");
    push(&f, C, FINISH_NONE);
    assert_string_equal(f.answer.finish, "stop");
    expect(
        &f,
        "{\"id\":\"id-1\",\"object\":\"text_completion\",\"created\":42,\"model\":\"tiny\","
        "\"system_fingerprint\":\"fp_x\",\"seed\":9,"
        "\"choices\":[{\"index\":0,\"text\":\"aba\",\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}");
    end(&f);
}

static void stop_strings_wait_for_min_tokens(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    stop_at(&f, "a");
    f.record.min_tokens = 2;
    push(&f, A, FINISH_NONE);
    push(&f, A, FINISH_NONE);
    push(&f, A, FINISH_NONE);
    assert_string_equal(f.answer.finish, "stop");
    assert_non_null(strstr(f.out.data, "\"text\":\"aa\""));
    end(&f);
}

static void a_whole_chat_answer(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    push(&f, QUOTE, FINISH_NONE);
    push(&f, B, FINISH_LENGTH);
    expect(&f, "{\"id\":\"id-1\",\"object\":\"chat.completion\",\"created\":42,\"model\":\"tiny\","
               "\"system_fingerprint\":\"fp_x\",\"seed\":9,"
               "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
               "\"\\\"b\",\"refusal\":null},\"logprobs\":null,"
               "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":3,\"completion_"
               "tokens\":2,\"total_tokens\":5}}");
    end(&f);
}

static void chat_logprobs_have_the_tokens_bytes(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, 2);
    push(&f, HALF2, FINISH_LENGTH);
    assert_non_null(
        strstr(f.out.data,
               "\"logprobs\":{\"content\":[{\"token\":\"\uFFFD\",\"logprob\":-0.1,\"bytes\":[169],"
               "\"top_logprobs\":["
               "{\"token\":\"b\",\"logprob\":-0.5,\"bytes\":[98]},"
               "{\"token\":\"\uFFFD\",\"logprob\":-2.25,\"bytes\":[195]}]}],\"refusal\":null}"));
    end(&f);
}

static void completion_logprobs_have_four_lists_and_no_key_twice(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, 2);
    push(&f, HALF2, FINISH_NONE); /* reads U+FFFD, as the second alternative does */
    push(&f, B, FINISH_NONE);
    push(&f, EOS, FINISH_STOP);
    assert_non_null(strstr(f.out.data,
                           "\"logprobs\":{\"tokens\":[\"\uFFFD\",\"b\",\"</"
                           "s>\"],\"token_logprobs\":[-0.1,-0.1,-0.1],\"top_logprobs\":["
                           "{\"\uFFFD\":-0.1,\"b\":-0.5},{\"b\":-0.1,\"\uFFFD\":-2.25},{\"</"
                           "s>\":-0.1,\"b\":-0.5,\"\uFFFD\":-2.25}],"
                           "\"text_offset\":[0,1,2]}"));
    json_t *v = json_loads(f.out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(v);
    json_decref(v);
    end(&f);
}

static void an_error_in_a_stream_is_an_event(void **state) {
    (void)state;
    struct buf out = {.max = 4096};
    struct api_error e;
    (void)api_fail(&e, 500, NULL, NULL, "no \"luck\"");
    assert_int_equal(answer_error_event(&out, &e), ST_OK);
    assert_string_equal(
        out.data, "data: {\"error\":{\"message\":\"no "
                  "\\\"luck\\\"\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n"
                  "data: [DONE]\n\n");
    buf_release(&out);
}

static void text_of_any_bytes_is_json(void **state) {
    (void)state;
    for (uint32_t seed = 1; seed < 20000; seed++) {
        struct buf out = {.max = 4096};
        struct json_out o = {&out, ST_OK};
        char bytes[6];
        uint32_t x = seed * 2654435761u;
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (char)((x = x * 1664525u + 1013904223u) >> 24);
        json_out_text(&o, bytes, sizeof bytes);
        json_error_t e;
        json_t *v = json_loadb(out.data, out.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        if (!v) fail_msg("%s: %s", out.data, e.text);
        json_decref(v);
        buf_release(&out);
    }
}

static void floats_are_short_and_exact(void **state) {
    (void)state;
    static const struct {
        float v;
        const char *text;
    } cases[] = {{-0.1f, "-0.1"},
                 {0, "0"},
                 {-1.5570726f, "-1.5570726"},
                 {-1.0f / 0.0f, "-9999"},
                 {0.0f / 0.0f, "-9999"},
                 {-1e-9f, "-1e-09"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {.max = 64};
        struct json_out o = {&out, ST_OK};
        json_out_float(&o, cases[i].v);
        assert_string_equal(out.data, cases[i].text);
        buf_release(&out);
    }
}

static void a_full_buffer_is_a_status(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    stream(&f);
    f.out.max = 100;
    struct token_out t = {.id = A};
    assert_int_equal(answer_token(&f.answer, &t, &f.out), ST_FULL);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_stream_has_role_text_finish_done),
        cmocka_unit_test(usage_comes_in_a_chunk_of_its_own),
        cmocka_unit_test(half_a_character_waits_for_the_other_half),
        cmocka_unit_test(a_stop_string_over_tokens_ends_the_text_before_it),
        cmocka_unit_test(stop_strings_wait_for_min_tokens),
        cmocka_unit_test(a_whole_chat_answer),
        cmocka_unit_test(chat_logprobs_have_the_tokens_bytes),
        cmocka_unit_test(completion_logprobs_have_four_lists_and_no_key_twice),
        cmocka_unit_test(an_error_in_a_stream_is_an_event),
        cmocka_unit_test(text_of_any_bytes_is_json),
        cmocka_unit_test(floats_are_short_and_exact),
        cmocka_unit_test(a_full_buffer_is_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

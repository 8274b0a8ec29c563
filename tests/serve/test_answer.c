/* SPDX-License-Identifier: Apache-2.0 */
/* Answers without a model: ids go in, SSE events and objects come out, byte for byte. The tokenizer
 * is bytes and a few merges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
    struct request records[2];
    struct answer answer;
    struct buf out;
    bool answering;
};

/* What differs from this is set in f->api and f->records before the first push. */
static void begin(struct fixture *f, enum api_kind kind, int32_t logprobs) {
    static uint32_t prompt[3] = {A, QUOTE, C};
    struct err err;
    memset(f, 0, sizeof *f);
    if (tok_new(&f->tok, tokenizer_json, sizeof tokenizer_json - 1, NULL, 0, "t", &err))
        fail_msg("%s", err.text);
    f->out.max = 1 << 20;
    f->api = (struct api_request){.kind = kind,
                                  .skip_special = true,
                                  .logprobs = logprobs,
                                  .prompt_logprobs = -1,
                                  .n = 1,
                                  .role = "assistant",
                                  .n_prompts = 1};
    for (int i = 0; i < 2; i++)
        f->records[i] = (struct request){.prompt = prompt,
                                         .n_prompt = 3,
                                         .logprobs = logprobs,
                                         .prompt_logprobs = -1,
                                         .seed = 9,
                                         .n_choices = 1};
}

static void start(struct fixture *f) {
    static const struct answer_head head = {"id-1", "tiny", "fp_x", 42};
    if (f->answering) return;
    f->answering = true;
    assert_int_equal(answer_init(&f->answer, &head, &f->api, f->records, f->api.n_prompts, f->tok),
                     ST_OK);
}

static void stream(struct fixture *f) {
    f->api.stream = true;
}

static void stop_at(struct fixture *f, const char *text) {
    f->api.stops[f->api.n_stops++] = text;
}

static const struct token_logprob top_two[2] = {{B, -0.5f}, {HALF1, -2.25f}};

/* The next token of a choice. */
static void push_to(struct fixture *f, uint32_t record, uint32_t choice, uint32_t id, float logprob,
                    enum finish_reason finish) {
    start(f);
    struct answer_choice *c = &f->answer.prompts[record].choices[choice];
    struct token_out t = {.choice = choice,
                          .position = f->records[record].n_prompt + c->n_taken,
                          .id = id,
                          .logprob = logprob,
                          .top = top_two,
                          .n_top = f->records[record].logprobs > 0 ? 2 : 0,
                          .n_cached = 2,
                          .finish = finish};
    assert_int_equal(answer_token(&f->answer, record, &t, &f->out), ST_OK);
}

static void push(struct fixture *f, uint32_t id, enum finish_reason finish) {
    push_to(f, 0, 0, id, -0.1f, finish);
}

/* The prompt's token at a position. */
static void push_prompt(struct fixture *f, uint32_t record, uint32_t position, float logprob) {
    start(f);
    struct token_out t = {.position = position,
                          .id = f->records[record].prompt[position],
                          .logprob = logprob,
                          .top = top_two,
                          .n_top = f->records[record].prompt_logprobs > 0 ? 2 : 0};
    assert_int_equal(answer_token(&f->answer, record, &t, &f->out), ST_OK);
}

static const char *finish_of(const struct fixture *f) {
    return f->answer.prompts[0].choices[0].finish;
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
                     "\"finish_reason\":\"stop\",\"stop_reason\":null}]}\n\ndata: [DONE]\n\n");
    assert_string_equal(finish_of(&f), "stop");
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
                     "\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":null}\n\n" CHUNK
                     ",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,"
                     "\"total_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n"
                     "data: [DONE]\n\n");
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
    assert_string_equal(finish_of(&f), "stop");
    expect(
        &f,
        "{\"id\":\"id-1\",\"object\":\"text_completion\",\"created\":42,\"model\":\"tiny\","
        "\"system_fingerprint\":\"fp_x\",\"seed\":9,"
        "\"choices\":[{\"index\":0,\"text\":\"aba\",\"logprobs\":null,\"finish_reason\":\"stop\","
        "\"stop_reason\":\"bc\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,"
        "\"total_tokens\":8,\"prompt_tokens_details\":{\"cached_tokens\":2}}}");
    end(&f);
}

static void stop_strings_wait_for_min_tokens(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    stop_at(&f, "a");
    f.records[0].min_tokens = 2;
    push(&f, A, FINISH_NONE);
    push(&f, A, FINISH_NONE);
    push(&f, A, FINISH_NONE);
    assert_string_equal(finish_of(&f), "stop");
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
               "\"finish_reason\":\"length\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":3,"
               "\"completion_tokens\":2,\"total_tokens\":5,"
               "\"prompt_tokens_details\":{\"cached_tokens\":2}}}");
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

static json_t *parse(const struct buf *out) {
    json_error_t e;
    json_t *v = json_loadb(out->data, out->len, JSON_REJECT_DUPLICATES, &e);
    if (!v) fail_msg("%s: %s", out->data, e.text);
    return v;
}

static const json_t *at(const json_t *v, const char *path) {
    char *copy = strdup(path);
    for (char *name = strtok(copy, "."); name; name = strtok(NULL, "."))
        v = json_is_array(v) ? json_array_get(v, (size_t)atoi(name)) : json_object_get(v, name);
    free(copy);
    if (!v) fail_msg("no %s", path);
    return v;
}

static const char *text_at(const json_t *v, const char *path) {
    return json_string_value(at(v, path));
}

static json_int_t int_at(const json_t *v, const char *path) {
    return json_integer_value(at(v, path));
}

static void choices_of_prompts_are_numbered_through(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    f.api.n = 2;
    f.api.n_prompts = 2;
    f.records[0].n_choices = f.records[1].n_choices = 2;
    f.records[1].n_prompt = 2;
    push_to(&f, 1, 1, C, 0, FINISH_NONE);
    push_to(&f, 0, 0, A, 0, FINISH_LENGTH);
    push_to(&f, 1, 0, B, 0, FINISH_LENGTH);
    assert_true(answer_choice_over(&f.answer, 0, 0) && !answer_choice_over(&f.answer, 0, 1));
    push_to(&f, 1, 1, A, 0, FINISH_NONE);
    push_to(&f, 0, 1, EOS, 0, FINISH_STOP);
    expect(&f, "");
    push_to(&f, 1, 1, EOS, 0, FINISH_STOP);
    assert_true(f.answer.complete);
    json_t *v = parse(&f.out);
    static const char *const texts[] = {"a", "", "b", "ca"}, *const ends[] = {"length", "stop",
                                                                              "length", "stop"};
    assert_int_equal(json_array_size(at(v, "choices")), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *c = json_array_get(at(v, "choices"), i);
        assert_int_equal(int_at(c, "index"), i);
        assert_string_equal(text_at(c, "text"), texts[i]);
        assert_string_equal(text_at(c, "finish_reason"), ends[i]);
    }
    assert_int_equal(int_at(v, "usage.prompt_tokens"), 5); /* each prompt once */
    assert_int_equal(int_at(v, "usage.completion_tokens"), 6);
    assert_int_equal(int_at(v, "usage.prompt_tokens_details.cached_tokens"), 4);
    json_decref(v);
    end(&f);
}

static void a_stream_of_choices_ends_each_and_then_itself(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    stream(&f);
    stop_at(&f, "b");
    f.api.n = f.records[0].n_choices = 2;
    f.api.include_usage = f.api.continuous_usage = true;
    push_to(&f, 0, 1, A, 0, FINISH_NONE);
    assert_non_null(strstr(f.out.data, "{\"index\":1,\"delta\":{\"role\":\"assistant\""));
    assert_non_null(strstr(f.out.data, "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":0,"
                                       "\"total_tokens\":3}}\n\n"));
    assert_non_null(strstr(f.out.data, "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,"
                                       "\"total_tokens\":4}}\n\n"));
    push_to(&f, 0, 1, B, 0, FINISH_NONE);
    assert_non_null(strstr(f.out.data, "\"finish_reason\":\"stop\",\"stop_reason\":\"b\""));
    assert_true(answer_choice_over(&f.answer, 0, 1));
    assert_null(strstr(f.out.data, "[DONE]"));
    struct token_out late = {.choice = 1, .position = 5, .id = A};
    size_t len = f.out.len;
    assert_int_equal(answer_token(&f.answer, 0, &late, &f.out), ST_OK);
    assert_int_equal(f.out.len, len);
    push_to(&f, 0, 0, EOS, 0, FINISH_STOP);
    assert_true(f.answer.complete);
    assert_non_null(strstr(f.out.data, ",\"choices\":[],\"usage\":{\"prompt_tokens\":3,"
                                       "\"completion_tokens\":3,\"total_tokens\":6,"
                                       "\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n"
                                       "data: [DONE]\n\n"));
    end(&f);
}

static void the_best_are_those_with_the_highest_mean(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    f.api.n = 2;
    f.records[0].n_choices = 4;
    f.records[0].logprobs = 0;
    push_to(&f, 0, 0, A, -1, FINISH_LENGTH);
    push_to(&f, 0, 1, B, -0.4f, FINISH_NONE); /* the highest sum is not the highest mean */
    push_to(&f, 0, 1, B, -0.4f, FINISH_LENGTH);
    push_to(&f, 0, 2, C, -0.5f, FINISH_LENGTH);
    push_to(&f, 0, 3, QUOTE, -0.5f, FINISH_LENGTH); /* equal to it: the earlier one wins */
    json_t *v = parse(&f.out);
    assert_int_equal(json_array_size(at(v, "choices")), 2);
    assert_string_equal(text_at(v, "choices.0.text"), "bb");
    assert_string_equal(text_at(v, "choices.1.text"), "c");
    assert_int_equal(int_at(v, "choices.1.index"), 1);
    assert_true(json_is_null(at(v, "choices.0.logprobs"))); /* nobody asked */
    assert_int_equal(int_at(v, "usage.completion_tokens"), 5);
    json_decref(v);
    end(&f);
}

static struct api_prompt text_prompt = {.text = "a\"c", .len = 3}, ids_prompt;

static void an_echoed_prompt_comes_first_with_its_logprobs(void **state) {
    (void)state;
    for (int streamed = 0; streamed < 2; streamed++) {
        struct fixture f;
        begin(&f, API_COMPLETION, 2);
        f.api.stream = streamed;
        f.api.echo = true;
        f.api.n = f.records[0].n_choices = 2;
        f.api.prompts = streamed ? &ids_prompt : &text_prompt;
        f.records[0].prompt_logprobs = 2;
        push_prompt(&f, 0, 1, -3);
        push_prompt(&f, 0, 1, -3); /* a repeat */
        push_prompt(&f, 0, 2, -4);
        push_to(&f, 0, 1, B, -0.1f, FINISH_LENGTH);
        push_to(&f, 0, 0, A, -0.1f, FINISH_LENGTH);
        assert_non_null(strstr(f.out.data, "\"text\":\"a\\\"cb\",\"logprobs\":{"
                                           "\"tokens\":[\"a\",\"\\\"\",\"c\",\"b\"],"
                                           "\"token_logprobs\":[null,-3,-4,-0.1],"
                                           "\"top_logprobs\":[null,"));
        assert_non_null(strstr(f.out.data, "\"text_offset\":[0,1,2,3]}"));
        assert_non_null(strstr(f.out.data, "\"text\":\"a\\\"ca\""));
        assert_true(f.answer.complete);
        end(&f);
    }
}

static void an_echo_alone_drops_the_token(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, 0);
    f.api.echo = f.api.echo_only = true;
    f.api.prompts = &text_prompt;
    f.records[0].prompt_logprobs = 0;
    push_prompt(&f, 0, 1, -3);
    push_prompt(&f, 0, 2, -4);
    push(&f, B, FINISH_LENGTH);
    json_t *v = parse(&f.out);
    assert_string_equal(text_at(v, "choices.0.text"), "a\"c");
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "length");
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.tokens")), 3);
    assert_int_equal(int_at(v, "usage.completion_tokens"), 0);
    json_decref(v);
    end(&f);
}

static void missing_prompt_logprobs_are_an_error(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, 0);
    f.records[0].prompt_logprobs = 0;
    start(&f);
    struct token_out t = {.id = A, .position = 3};
    assert_int_equal(answer_token(&f.answer, 0, &t, &f.out), ST_UNSUPPORTED);
    end(&f);
}

static void prompt_logprobs_have_vllms_shape(void **state) {
    (void)state;
    for (enum api_kind kind = API_CHAT; kind <= API_COMPLETION; kind++) {
        struct fixture f;
        static uint32_t prompt[2] = {A, B};
        begin(&f, kind, -1);
        f.api.prompt_logprobs = f.records[0].prompt_logprobs = 2;
        f.records[0].prompt = prompt;
        f.records[0].n_prompt = 2;
        push_prompt(&f, 0, 1, -0.5f);
        push(&f, A, FINISH_LENGTH);
        assert_non_null(strstr(
            f.out.data, "\"prompt_logprobs\":[null,{"
                        "\"1\":{\"logprob\":-0.5,\"rank\":1,\"decoded_token\":\"b\"},"
                        "\"4\":{\"logprob\":-2.25,\"rank\":2,\"decoded_token\":\"\uFFFD\"}}]"));
        json_t *v = parse(&f.out);
        assert_int_equal(json_array_size(at(v, kind == API_CHAT ? "prompt_logprobs"
                                                                : "choices.0.prompt_logprobs")),
                         2);
        json_decref(v);
        end(&f);
    }
}

static void a_chat_repeats_the_message_it_goes_on_with(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    f.api.echo = true;
    f.api.echo_text = json_string("cab");
    snprintf(f.api.role, sizeof f.api.role, "user");
    push(&f, B, FINISH_LENGTH);
    assert_non_null(strstr(f.out.data, "{\"role\":\"user\",\"content\":\"cabb\""));
    json_decref(f.api.echo_text);
    end(&f);
}

static void what_ended_the_text_can_be_part_of_it(void **state) {
    (void)state;
    for (int id = 0; id < 2; id++) {
        struct fixture f;
        begin(&f, API_COMPLETION, -1);
        f.api.include_stop = true;
        stop_at(&f, "bc");
        f.records[0].stop_ids[0] = EOS;
        f.records[0].stop_ids[1] = QUOTE;
        f.records[0].n_stop_ids = 2;
        f.api.n_eos = 1;
        push(&f, A, FINISH_NONE);
        push(&f, B, FINISH_NONE);
        push(&f, id ? QUOTE : C, id ? FINISH_STOP : FINISH_NONE);
        json_t *v = parse(&f.out);
        assert_string_equal(text_at(v, "choices.0.text"), id ? "ab\"" : "abc");
        if (id)
            assert_int_equal(int_at(v, "choices.0.stop_reason"), QUOTE);
        else
            assert_string_equal(text_at(v, "choices.0.stop_reason"), "bc");
        json_decref(v);
        end(&f);
    }
}

static void ids_come_along_when_asked_for(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_COMPLETION, -1);
    f.api.return_ids = true;
    push(&f, A, FINISH_NONE);
    push(&f, EOS, FINISH_STOP);
    assert_non_null(strstr(f.out.data, "\"token_ids\":[0,6],\"prompt_token_ids\":[0,3,2]}]"));
    end(&f);
    begin(&f, API_CHAT, -1);
    stream(&f);
    f.api.return_ids = true;
    push(&f, A, FINISH_NONE);
    push(&f, EOS, FINISH_STOP);
    assert_non_null(strstr(f.out.data, "\"prompt_token_ids\":[0,3,2],\"choices\":[{\"index\":0,"
                                       "\"delta\":{\"role\""));
    assert_non_null(strstr(f.out.data, "\"token_ids\":[0],"));
    assert_non_null(strstr(f.out.data, "\"token_ids\":[6],"));
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

/* What printf and strtof say, which know no shortcut. */
static void every_float_is_the_shortest_that_reads_back(void **state) {
    (void)state;
    struct buf out = {.max = 64};
    for (uint32_t i = 1; i < 400000; i++) {
        uint32_t bits = i * 2654435761u;
        float v;
        char want[64];
        if (i % 4) bits = (bits & 0x80ffffffu) | (0x3au + i % 8) << 24; /* where logprobs are */
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v)) continue;
        for (int digits = 6; digits <= 9; digits++) {
            snprintf(want, sizeof want, "%.*g", digits, (double)v);
            if (strtof(want, NULL) == v) break;
        }
        out.len = 0;
        json_out_float(&(struct json_out){&out, ST_OK}, v);
        if (strcmp(out.data, want) != 0)
            fail_msg("%a: found %s, expected %s", (double)v, out.data, want);
    }
    static const float edges[] = {1e-4f,      9.99999e-5f, 99999.99f, 1e5f,      1,
                                  9.9999999f, 0.1f,        0.5f,      123456.7f, -0.0f};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        char want[64];
        for (int digits = 6; digits <= 9; digits++) {
            snprintf(want, sizeof want, "%.*g", digits, (double)edges[i]);
            if (strtof(want, NULL) == edges[i]) break;
        }
        out.len = 0;
        json_out_float(&(struct json_out){&out, ST_OK}, edges[i]);
        assert_string_equal(out.data, want);
    }
    static const int64_t integers[] = {0, -1, 10, INT64_MIN, INT64_MAX, 1234567890};
    for (size_t i = 0; i < 6; i++) {
        char want[32];
        snprintf(want, sizeof want, "%lld", (long long)integers[i]);
        out.len = 0;
        json_out_int(&(struct json_out){&out, ST_OK}, integers[i]);
        assert_string_equal(out.data, want);
    }
    buf_release(&out);
}

/* A whole answer must not grow without end before its last token: texts and lists of all choices
 * count together. */
static void a_whole_answer_has_a_bound(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    start(&f);
    f.answer.n_bytes = ANSWER_BYTES_MAX - 1;
    push(&f, A, FINISH_NONE);
    struct token_out t = {.id = A, .position = 4};
    assert_int_equal(answer_token(&f.answer, 0, &t, &f.out), ST_FULL);
    end(&f);
}

static void a_full_buffer_is_a_status(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, API_CHAT, -1);
    stream(&f);
    f.out.max = 100;
    start(&f);
    struct token_out t = {.id = A, .position = 3};
    assert_int_equal(answer_token(&f.answer, 0, &t, &f.out), ST_FULL);
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
        cmocka_unit_test(choices_of_prompts_are_numbered_through),
        cmocka_unit_test(a_stream_of_choices_ends_each_and_then_itself),
        cmocka_unit_test(the_best_are_those_with_the_highest_mean),
        cmocka_unit_test(an_echoed_prompt_comes_first_with_its_logprobs),
        cmocka_unit_test(an_echo_alone_drops_the_token),
        cmocka_unit_test(missing_prompt_logprobs_are_an_error),
        cmocka_unit_test(prompt_logprobs_have_vllms_shape),
        cmocka_unit_test(a_chat_repeats_the_message_it_goes_on_with),
        cmocka_unit_test(what_ended_the_text_can_be_part_of_it),
        cmocka_unit_test(ids_come_along_when_asked_for),
        cmocka_unit_test(an_error_in_a_stream_is_an_event),
        cmocka_unit_test(text_of_any_bytes_is_json),
        cmocka_unit_test(floats_are_short_and_exact),
        cmocka_unit_test(every_float_is_the_shortest_that_reads_back),
        cmocka_unit_test(a_whole_answer_has_a_bound),
        cmocka_unit_test(a_full_buffer_is_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Request bodies: a table of what is refused with which error object, and what the record of an
 * accepted one holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/api_messages.h"
#include "serve/api_request.h"

static const struct generation_config defaults = {
    .temperature = 0.7f, .top_p = 0.9f, .min_p = 0, .repetition_penalty = 1.1f, .top_k = 40};
static const struct api_context ctx = {.model = "tiny", .defaults = &defaults, .vocab = 100};

#define CHAT(rest) "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" rest "}"
#define TEXT(rest) "{\"prompt\":\"x\"" rest "}"

struct refusal {
    enum api_kind kind;
    const char *body;
    int status;
    const char *param; /* "": null */
    const char *message;
};

static const struct refusal refusals[] = {
    {API_CHAT, "", 400, "", "request body: is empty, expected a JSON object"},
    {API_CHAT, "[]", 400, "", "request body: found an array, expected an object"},
    {API_CHAT, "{\"messages\":1,\"messages\":2}", 400, "",
     "request body: line 1 column 24: duplicate object key near '\"messages\"'"},
    {API_CHAT, CHAT(",\"model\":\"gpt-4\""), 404, "model",
     "model: 'gpt-4' is not served here; 'tiny' is"},
    {API_CHAT, CHAT(",\"model\":4"), 400, "model", "model: found an integer, expected a string"},
    {API_CHAT, "{}", 400, "messages", "messages: found nothing, expected a list"},
    {API_CHAT, "{\"messages\":[]}", 400, "messages", "messages: found an empty list"},
    {API_CHAT, "{\"messages\":[7]}", 400, "messages[0]",
     "messages[0]: found an integer, expected an object"},
    {API_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", 400, "messages[0].role",
     "messages[0].role: found nothing, expected a string"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content",
     "messages[0].content: found nothing, expected a string or a list of text parts"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", 400, "messages[0].content",
     "messages[0].content: found an object, expected a string or a list of text parts"},
    {API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", 400,
     "messages[0].content[0]",
     "messages[0].content[0]: found type image_url, expected a part of type text with a text"},
    {API_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":{}}]}", 400,
     "messages[0].tool_calls", "messages[0].tool_calls: found an object, expected a list"},
    {API_CHAT, CHAT(",\"tools\":{}"), 400, "tools", "tools: found an object, expected a list"},
    {API_CHAT, CHAT(",\"tools\":[1]"), 400, "tools[0]",
     "tools[0]: found an integer, expected an object"},
    {API_CHAT, CHAT(",\"tool_choice\":\"required\""), 400, "tool_choice",
     "tool_choice: found 'required', only 'auto' and 'none' are supported"},
    {API_CHAT, CHAT(",\"tool_choice\":{}"), 400, "tool_choice",
     "tool_choice: found an object, only 'auto' and 'none' are supported"},
    {API_CHAT, CHAT(",\"response_format\":{\"type\":\"json_schema\"}"), 400, "response_format",
     "response_format: found type 'json_schema', only 'text' is supported"},
    {API_CHAT, CHAT(",\"chat_template_kwargs\":[]"), 400, "chat_template_kwargs",
     "chat_template_kwargs: found an array, expected an object"},
    {API_CHAT, CHAT(",\"continue_final_message\":true"), 400, "continue_final_message",
     "continue_final_message: true needs add_generation_prompt false"},
    {API_CHAT, CHAT(",\"cache_salt\":\"\""), 400, "cache_salt",
     "cache_salt: found an empty string, expected a string"},
    {API_CHAT, CHAT(",\"cache_salt\":7"), 400, "cache_salt",
     "cache_salt: found an integer, expected a string"},
    {API_CHAT,
     CHAT(",\"cache_salt\":\"0123456789012345678901234567890123456789012345678901234567890123\""),
     400, "cache_salt", "cache_salt: found 64 bytes, expected at most 63 without a NUL"},
    {API_CHAT, CHAT(",\"priority\":2147483648"), 400, "priority",
     "priority: found 2147483648, expected -2147483648 to 2147483647"},
    {API_CHAT, CHAT(",\"prompt_logprobs\":1,\"stream\":true"), 400, "prompt_logprobs",
     "prompt_logprobs: are not available with stream true"},
    {API_CHAT, CHAT(",\"prompt_logprobs\":0,\"stream\":true"), 400, "prompt_logprobs",
     "prompt_logprobs: are not available with stream true"},
    {API_COMPLETION, TEXT(",\"prompt_logprobs\":0,\"stream\":true"), 400, "prompt_logprobs",
     "prompt_logprobs: are not available with stream true"},
    {API_CHAT, CHAT(",\"functions\":[{}]"), 400, "functions", "functions: is not supported"},
    {API_CHAT, CHAT(",\"function_call\":\"auto\""), 400, "function_call",
     "function_call: is not supported"},
    {API_CHAT, CHAT(",\"return_tokens_as_token_ids\":true"), 400, "return_tokens_as_token_ids",
     "return_tokens_as_token_ids: is not supported"},
    {API_CHAT, CHAT(",\"n\":2,\"best_of\":3"), 400, "best_of",
     "best_of: found 3, but a chat needs it equal to n, 2"},
    {API_CHAT, CHAT(",\"modalities\":[\"text\",\"audio\"]"), 400, "modalities",
     "modalities: found audio, only text is supported"},
    {API_CHAT, CHAT(",\"modalities\":\"text\""), 400, "modalities",
     "modalities: found a string, expected [\"text\"]"},
    {API_TOKENIZE, CHAT(",\"chat_template\":\"x\""), 400, "chat_template",
     "chat_template: is not supported"},
    {API_TOKENIZE, TEXT(",\"truncate_prompt_tokens\":5"), 400, "truncate_prompt_tokens",
     "truncate_prompt_tokens: is not supported"},
    {API_CHAT, CHAT(",\"prompt_logprobs\":21"), 400, "prompt_logprobs",
     "prompt_logprobs: found 21, expected 0 to 20"},
    {API_CHAT, CHAT(",\"use_beam_search\":true"), 400, "use_beam_search",
     "use_beam_search: is not supported"},
    {API_CHAT, CHAT(",\"max_tokens\":0,\"echo\":true"), 400, "max_tokens",
     "max_tokens: found 0, expected 1 to 2147483647"},
    {API_CHAT, CHAT(",\"temperature\":\"hot\""), 400, "temperature",
     "temperature: found a string, expected a number"},
    {API_CHAT, CHAT(",\"temperature\":-0.5"), 400, "temperature",
     "temperature: found -0.5, expected 0 to 100"},
    {API_CHAT, CHAT(",\"top_p\":0"), 400, "top_p",
     "top_p: found 0, expected more than 0, at most 1"},
    {API_CHAT, CHAT(",\"top_p\":1.5"), 400, "top_p", "top_p: found 1.5, expected 0 to 1"},
    {API_CHAT, CHAT(",\"top_k\":-2"), 400, "top_k", "top_k: found -2, expected -1 to 4294967295"},
    {API_CHAT, CHAT(",\"top_k\":1.5"), 400, "top_k",
     "top_k: found a real number, expected an integer"},
    {API_CHAT, CHAT(",\"min_p\":2"), 400, "min_p", "min_p: found 2, expected 0 to 1"},
    {API_CHAT, CHAT(",\"presence_penalty\":3"), 400, "presence_penalty",
     "presence_penalty: found 3, expected -2 to 2"},
    {API_CHAT, CHAT(",\"repetition_penalty\":0"), 400, "repetition_penalty",
     "repetition_penalty: found 0, expected more than 0 (1 is off)"},
    {API_CHAT, CHAT(",\"seed\":\"7\""), 400, "seed", "seed: found a string, expected an integer"},
    {API_CHAT, CHAT(",\"seed\":9223372036854775808"), 400, "seed",
     "seed: found a real number, expected an integer"},
    {API_CHAT, CHAT(",\"max_tokens\":0"), 400, "max_tokens",
     "max_tokens: found 0, expected 1 to 2147483647"},
    {API_CHAT, CHAT(",\"max_tokens\":5,\"max_completion_tokens\":-1"), 400, "max_completion_tokens",
     "max_completion_tokens: found -1, expected 1 to 2147483647"},
    {API_CHAT, CHAT(",\"max_tokens\":5,\"min_tokens\":6"), 400, "min_tokens",
     "min_tokens: found 6, expected at most max_tokens 5"},
    {API_CHAT, CHAT(",\"stop\":7"), 400, "stop",
     "stop: found an integer, expected a string or a list of strings"},
    {API_CHAT, CHAT(",\"stop\":[\"\"]"), 400, "stop", "stop: found an empty string"},
    {API_CHAT, CHAT(",\"stop\":\"a\\u0000b\""), 400, "stop",
     "stop: found a string with a NUL in it"},
    {API_CHAT,
     CHAT(",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\","
          "\"13\",\"14\",\"15\",\"16\",\"17\"]"),
     400, "stop", "stop: found 17 strings, expected at most 16"},
    {API_CHAT, CHAT(",\"stop_token_ids\":[100]"), 400, "stop_token_ids",
     "stop_token_ids: found 100, expected 0 to 99"},
    {API_CHAT, CHAT(",\"stop_token_ids\":7"), 400, "stop_token_ids",
     "stop_token_ids: found an integer, expected a list of token ids"},
    {API_CHAT, CHAT(",\"ignore_eos\":1"), 400, "ignore_eos",
     "ignore_eos: found an integer, expected true or false"},
    {API_CHAT, CHAT(",\"logit_bias\":[]"), 400, "logit_bias",
     "logit_bias: found an array, expected an object from token ids to numbers"},
    {API_CHAT, CHAT(",\"logit_bias\":{\"100\":1}"), 400, "logit_bias",
     "logit_bias: found key '100', expected a token id below 100"},
    {API_CHAT, CHAT(",\"logit_bias\":{\"-1\":1}"), 400, "logit_bias",
     "logit_bias: found key '-1', expected a token id below 100"},
    {API_CHAT, CHAT(",\"logit_bias\":{\"1\":101}"), 400, "logit_bias",
     "logit_bias: token 1: found a number outside, expected a number from -100 to 100"},
    {API_CHAT, CHAT(",\"top_logprobs\":3"), 400, "top_logprobs",
     "top_logprobs: given without logprobs true"},
    {API_CHAT, CHAT(",\"logprobs\":true,\"top_logprobs\":21"), 400, "top_logprobs",
     "top_logprobs: found 21, expected 0 to 20"},
    {API_CHAT, CHAT(",\"logprobs\":3"), 400, "logprobs",
     "logprobs: found an integer, expected true or false"},
    {API_CHAT, CHAT(",\"stream\":\"yes\""), 400, "stream",
     "stream: found a string, expected true or false"},
    {API_CHAT, CHAT(",\"stream_options\":{}"), 400, "stream_options",
     "stream_options: given without stream true"},
    {API_CHAT, CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":1}"), 400,
     "stream_options.include_usage",
     "stream_options.include_usage: found an integer, expected true or false"},
    {API_CHAT, CHAT(",\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":\"\"}"), 400,
     "stream_options.continuous_usage_stats",
     "stream_options.continuous_usage_stats: found a string, expected true or false"},
    {API_CHAT, CHAT(",\"n\":129"), 400, "n", "n: found 129, expected 1 to 128"},
    {API_CHAT, CHAT(",\"n\":0"), 400, "n", "n: found 0, expected 1 to 128"},
    {API_COMPLETION, "{}", 400, "prompt",
     "prompt: found nothing, expected a string or a list of token ids"},
    {API_COMPLETION, "{\"prompt\":[]}", 400, "prompt",
     "prompt: found an empty list, expected a string or a list of token ids"},
    {API_COMPLETION, "{\"prompt\":[\"a\",[1]]}", 400, "prompt",
     "prompt: found an array in a list of strings"},
    {API_COMPLETION, "{\"prompt\":[[1],\"a\"]}", 400, "prompt",
     "prompt: found a string in a list of lists"},
    {API_COMPLETION, "{\"prompt\":[[1],[2]],\"n\":65}", 400, "n",
     "n: found 65 for each of 2 prompts, expected at most 128 in all"},
    {API_COMPLETION, "{\"prompt\":[[1],[2]],\"best_of\":65}", 400, "best_of",
     "best_of: found 65 for each of 2 prompts, expected at most 128 in all"},
    {API_COMPLETION, "{\"prompt\":[[]]}", 400, "prompt",
     "prompt: found an empty list, expected a string or a list of token ids"},
    {API_COMPLETION, "{\"prompt\":[1,100]}", 400, "prompt", "prompt: found 100, expected 0 to 99"},
    {API_COMPLETION, "{\"prompt\":[1,\"a\"]}", 400, "prompt",
     "prompt: found a string, expected an integer"},
    {API_COMPLETION, TEXT(",\"logprobs\":21"), 400, "logprobs",
     "logprobs: found 21, expected 0 to 20"},
    {API_COMPLETION, TEXT(",\"max_tokens\":0"), 400, "max_tokens",
     "max_tokens: found 0, expected 1 to 2147483647"},
    {API_COMPLETION, TEXT(",\"suffix\":\"z\""), 400, "suffix", "suffix: is not supported"},
    {API_COMPLETION, TEXT(",\"best_of\":2,\"n\":3"), 400, "best_of",
     "best_of: found 2, expected at least n, 3"},
    {API_COMPLETION, TEXT(",\"best_of\":3,\"stream\":true"), 400, "best_of",
     "best_of: found 3, but a stream needs it equal to n, 1"},
    {API_TOKENIZE, "{}", 400, "", "request body: expected either prompt or messages"},
    {API_TOKENIZE, "{\"prompt\":\"x\",\"messages\":[]}", 400, "",
     "request body: expected either prompt or messages"},
    {API_TOKENIZE, "{\"prompt\":[1]}", 400, "prompt", "prompt: found an array, expected a string"},
    {API_TOKENIZE, TEXT(",\"return_token_strs\":1"), 400, "return_token_strs",
     "return_token_strs: found an integer, expected true or false"},
    {API_TOKENIZE, TEXT(",\"model\":\"x\""), 404, "model",
     "model: 'x' is not served here; 'tiny' is"},
    {API_DETOKENIZE, "{}", 400, "tokens", "tokens: found nothing, expected a list of token ids"},
    {API_DETOKENIZE, "{\"tokens\":[-1]}", 400, "tokens", "tokens: found -1, expected 0 to 99"},
    {API_DETOKENIZE, "{\"tokens\":[100]}", 400, "tokens", "tokens: found 100, expected 0 to 99"},
};

static void wrong_bodies_get_their_error_object(void **state) {
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct api_request q;
        struct api_error e = {0};
        bool ok = api_request_parse(&q, r->kind, r->body, strlen(r->body), &ctx, &e);
        if (!ok && e.status == r->status && strcmp(e.param, r->param) == 0 &&
            strcmp(e.message, r->message) == 0)
            continue;
        print_error("%s\nexpected %d %s: %s\nfound    %d %s: %s\n", r->body, r->status, r->param,
                    r->message, ok ? 200 : e.status, e.param, e.message);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static struct api_request accept(enum api_kind kind, const char *body) {
    struct api_request q;
    struct api_error e = {0};
    if (!api_request_parse(&q, kind, body, strlen(body), &ctx, &e))
        fail_msg("%s\nrefused: %s", body, e.message);
    return q;
}

static void defaults_are_the_checkpoints_and_openais(void **state) {
    (void)state;
    struct api_request q = accept(
        API_CHAT, CHAT(",\"temperature\":null,\"stop\":null,\"seed\":null,\"max_tokens\":null"));
    assert_float_equal(q.sampling.temperature, 0.7f, 0);
    assert_float_equal(q.sampling.top_p, 0.9f, 0);
    assert_float_equal(q.sampling.repetition_penalty, 1.1f, 0);
    assert_int_equal(q.sampling.top_k, 40);
    assert_false(q.seed_given);
    assert_int_equal(q.max_tokens, 0);
    assert_int_equal(q.logprobs, -1);
    assert_int_equal(q.n_stops, 0);
    assert_true(q.skip_special && q.add_generation_prompt);
    assert_false(q.stream || q.include_usage || q.ignore_eos);
    assert_string_equal(q.unknown, "");
    api_request_release(&q);
}

static void every_field_arrives(void **state) {
    (void)state;
    struct api_request q =
        accept(API_CHAT, CHAT(",\"model\":\"tiny\",\"temperature\":1,\"top_p\":0.5,\"top_k\":-1,"
                              "\"min_p\":0.1,\"seed\":-9223372036854775808,"
                              "\"presence_penalty\":1,\"frequency_penalty\":-1,\"repetition_"
                              "penalty\":2,\"logit_bias\":{\"3\":-100,\"99\":0.5},"
                              "\"stop\":[\"a\",\"bc\"],\"stop_token_ids\":[4,5],\"ignore_eos\":"
                              "true,\"max_tokens\":9,\"max_completion_tokens\":8.0,"
                              "\"min_tokens\":2,\"logprobs\":true,\"top_logprobs\":3,\"skip_"
                              "special_tokens\":false,\"stream\":true,"
                              "\"stream_options\":{\"include_usage\":true,\"continuous_usage_"
                              "stats\":true},\"add_generation_"
                              "prompt\":false,\"continue_final_message\":false,"
                              "\"n\":7,\"cache_salt\":\"s\",\"priority\":-3,\"include_stop_str_in_"
                              "output\":true,\"return_token_ids\":true,\"add_special_tokens\":true,"
                              "\"tool_choice\":\"auto\",\"response_format\":{\"type\":"
                              "\"text\"},\"user\":\"u\",\"cache_me\":1,\"x\\ny\":2"));
    assert_float_equal(q.sampling.temperature, 1, 0);
    assert_float_equal(q.sampling.top_p, 0.5f, 0);
    assert_float_equal(q.sampling.min_p, 0.1f, 0);
    assert_int_equal(q.sampling.top_k, 0);
    assert_float_equal(q.sampling.presence_penalty, 1, 0);
    assert_float_equal(q.sampling.frequency_penalty, -1, 0);
    assert_float_equal(q.sampling.repetition_penalty, 2, 0);
    assert_true(q.seed_given && q.seed == INT64_MIN);
    assert_int_equal(q.sampling.n_bias, 2);
    assert_int_equal(q.sampling.bias[0].id, 3);
    assert_float_equal(q.sampling.bias[0].bias, -100, 0);
    assert_int_equal(q.n_stops, 2);
    assert_string_equal(q.stops[1], "bc");
    assert_int_equal(q.n_stop_ids, 2);
    assert_int_equal(q.stop_ids[1], 5);
    assert_int_equal(q.max_tokens, 8);
    assert_string_equal(q.max_tokens_name, "max_completion_tokens");
    assert_int_equal(q.min_tokens, 2);
    assert_int_equal(q.logprobs, 3);
    assert_true(q.ignore_eos && q.stream && q.include_usage);
    assert_false(q.skip_special || q.add_generation_prompt);
    assert_int_equal(q.n, 7);
    assert_int_equal(q.best_of, 7);
    assert_int_equal(q.priority, -3);
    assert_string_equal(q.salt, "s");
    assert_string_equal(q.role, "user"); /* the last message's, without a generation prompt */
    assert_true(q.include_stop && q.return_ids && q.add_special && q.continuous_usage);
    assert_non_null(strstr(q.unknown, "cache_me"));
    assert_non_null(strstr(q.unknown, "x?y"));
    assert_null(strstr(q.unknown, "user"));
    api_request_release(&q);
}

static void prompts_come_in_four_forms(void **state) {
    (void)state;
    struct api_request q = accept(API_COMPLETION, "{\"prompt\":\"a\\u0000b\"}");
    assert_int_equal(q.n_prompts, 1);
    assert_int_equal(q.prompts[0].len, 3);
    api_request_release(&q);
    q = accept(API_COMPLETION, "{\"prompt\":[\"ab\",\"\"],\"logprobs\":0}");
    assert_int_equal(q.n_prompts, 2);
    assert_string_equal(q.prompts[0].text, "ab");
    assert_string_equal(q.prompts[1].text, "");
    assert_int_equal(q.logprobs, 0);
    assert_true(q.add_special);
    api_request_release(&q);
    q = accept(API_COMPLETION, "{\"prompt\":[1,2,99]}");
    assert_int_equal(q.n_prompts, 1);
    assert_int_equal(q.prompts[0].n_ids, 3);
    assert_int_equal(q.prompts[0].ids[2], 99);
    assert_null(q.prompts[0].text);
    api_request_release(&q);
    q = accept(API_COMPLETION, "{\"prompt\":[[7],[8,9]],\"suffix\":null,\"echo\":false,\"n\":2,"
                               "\"best_of\":64}");
    assert_int_equal(q.n_prompts, 2);
    assert_int_equal(q.prompts[0].n_ids, 1);
    assert_int_equal(q.prompts[1].ids[1], 9);
    assert_true(q.n == 2 && q.best_of == 64);
    api_request_release(&q);
}

static void an_echo_has_logprobs_and_may_be_all(void **state) {
    (void)state;
    struct api_request q = accept(API_COMPLETION, TEXT(",\"echo\":true,\"logprobs\":2"));
    assert_true(q.echo && !q.echo_only && q.prompt_logprobs == 2);
    api_request_release(&q);
    q = accept(API_COMPLETION, TEXT(",\"echo\":true,\"max_tokens\":0,\"stream\":true"));
    assert_true(q.echo_only && q.max_tokens == 1 && q.prompt_logprobs == -1);
    api_request_drop_body(&q);
    assert_string_equal(q.prompts[0].text, "x"); /* it is still needed */
    api_request_release(&q);
    q = accept(API_COMPLETION, TEXT(",\"echo\":true,\"logprobs\":2,\"prompt_logprobs\":0"));
    assert_int_equal(q.prompt_logprobs, 0);
    api_request_release(&q);
    q = accept(API_CHAT,
               "{\"messages\":[{\"role\":\"assistant\",\"content\":\"so\"}],\"echo\":true,"
               "\"add_generation_prompt\":false,\"continue_final_message\":true,"
               "\"stop\":\"z\"}");
    assert_true(q.continue_final);
    api_request_drop_body(&q);
    assert_string_equal(json_string_value(q.echo_text), "so");
    assert_string_equal(q.stops[0], "z");
    assert_string_equal(q.role, "assistant");
    api_request_release(&q);
    q = accept(API_CHAT, CHAT(",\"echo\":true")); /* a new turn repeats nothing */
    assert_null(q.echo_text);
    api_request_release(&q);
}

static void tokenize_takes_either_form(void **state) {
    (void)state;
    struct api_request q =
        accept(API_TOKENIZE, TEXT(",\"return_token_strs\":true,\"temperature\":1"));
    assert_true(q.add_special && q.token_strs);
    assert_string_equal(q.prompts[0].text, "x");
    assert_string_equal(q.unknown, "temperature");
    api_request_release(&q);
    q = accept(API_TOKENIZE, CHAT(",\"add_generation_prompt\":false"));
    assert_false(q.add_special || q.add_generation_prompt || q.token_strs);
    assert_null(q.prompts);
    api_request_release(&q);
    q = accept(API_DETOKENIZE, "{\"tokens\":[1,99]}");
    assert_int_equal(q.prompts[0].ids[1], 99);
    api_request_release(&q);
    q = accept(API_DETOKENIZE, "{\"tokens\":[]}");
    assert_int_equal(q.prompts[0].n_ids, 0);
    api_request_release(&q);
}

static const char *content_of(const struct api_request *q, size_t i) {
    return json_string_value(json_object_get(json_array_get(q->messages, i), "content"));
}

static void text_parts_are_joined_and_missing_content_is_null(void **state) {
    (void)state;
    struct api_request q =
        accept(API_CHAT,
               "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
               "\"b\",{\"type\":\"text\",\"text\":\"c\"}]},"
               "{\"role\":\"user\",\"content\":[]},{\"role\":\"assistant\",\"tool_calls\":[]}]}");
    assert_string_equal(content_of(&q, 0), "a\nb\nc");
    assert_string_equal(content_of(&q, 1), "");
    assert_true(json_is_null(json_object_get(json_array_get(q.messages, 2), "content")));
    api_request_release(&q);
}

static void tool_arguments_become_objects(void **state) {
    (void)state;
    struct api_request q = accept(
        API_CHAT,
        "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
        "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
        "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}},"
        "{\"type\":\"function\",\"function\":{\"name\":\"h\",\"arguments\":\"not json\"}},7]}]}");
    bool changed;
    json_t *m = api_messages_with_argument_objects(q.messages, &changed);
    assert_true(changed);
    char *text = json_dumps(m, JSON_COMPACT);
    assert_non_null(strstr(text, "\"arguments\":{\"a\":1}"));
    assert_non_null(strstr(text, "\"arguments\":{}"));
    assert_non_null(strstr(text, "\"arguments\":\"not json\""));
    free(text);
    json_decref(m);
    text = json_dumps(q.messages, JSON_COMPACT);
    assert_non_null(strstr(text, "\"arguments\":\"{\\\"a\\\":1}\"")); /* the original stays */
    free(text);
    api_request_release(&q);
}

/* Neither what says nothing nor what has an answer of its own is called ignored. */
static void null_and_refused_fields_are_not_named(void **state) {
    (void)state;
    struct api_request q;
    struct api_error e = {0};
    static const char body[] =
        CHAT(",\"foo\":null,\"suffix\":\"\",\"structured_outputs\":{},\"bad_words\":[],"
             "\"functions\":[],\"modalities\":[\"text\"],\"best_of\":1,"
             "\"reasoning_effort\":\"low\"");
    if (!api_request_parse(&q, API_CHAT, body, sizeof body - 1, &ctx, &e))
        fail_msg("%s", e.message);
    assert_string_equal(q.unknown, "reasoning_effort");
    api_request_release(&q);
}

static void many_small_values_are_too_large(void **state) {
    (void)state;
    enum { N = 12 << 20 };
    static const char head[] = "{\"user\":[7";
    struct buf body = {.max = N * 2 + 64};
    struct api_request q;
    struct api_error e = {0};
    assert_int_equal(buf_append_str(&body, head), ST_OK);
    for (int i = 0; i < N; i++) assert_int_equal(buf_append(&body, ",7", 2), ST_OK);
    assert_int_equal(buf_append_str(&body, "]}"), ST_OK);
    assert_false(api_request_parse(&q, API_CHAT, body.data, body.len, &ctx, &e));
    assert_int_equal(e.status, 413);
    assert_non_null(
        strstr(e.message, "request body: its many small values take more than 256 MiB"));
    buf_release(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_bodies_get_their_error_object),
        cmocka_unit_test(defaults_are_the_checkpoints_and_openais),
        cmocka_unit_test(every_field_arrives),
        cmocka_unit_test(prompts_come_in_four_forms),
        cmocka_unit_test(an_echo_has_logprobs_and_may_be_all),
        cmocka_unit_test(tokenize_takes_either_form),
        cmocka_unit_test(text_parts_are_joined_and_missing_content_is_null),
        cmocka_unit_test(tool_arguments_become_objects),
        cmocka_unit_test(null_and_refused_fields_are_not_named),
        cmocka_unit_test(many_small_values_are_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements api_request.h. Names, ranges and defaults are OpenAI's, and vLLM's where it goes
 * further (top_k, min_p, stop_token_ids, chat_template_kwargs, ...). A field that would change the
 * answer and is not built (n > 1, echo, response_format) is an error, never silence. */
#include "serve/api_request.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/api_field.h"
#include "serve/api_messages.h"

/* Fields with a meaning here; the second line of each list is accepted and has none for us. */
static const char *const common_fields[] = {"model",
                                            "max_tokens",
                                            "min_tokens",
                                            "temperature",
                                            "top_p",
                                            "top_k",
                                            "min_p",
                                            "seed",
                                            "stop",
                                            "stop_token_ids",
                                            "ignore_eos",
                                            "n",
                                            "presence_penalty",
                                            "frequency_penalty",
                                            "repetition_penalty",
                                            "logit_bias",
                                            "logprobs",
                                            "skip_special_tokens",
                                            "stream",
                                            "stream_options",
                                            "user",
                                            "metadata",
                                            "store",
                                            "service_tier",
                                            "safety_identifier",
                                            "prompt_cache_key",
                                            NULL};
static const char *const chat_fields[] = {"messages",
                                          "tools",
                                          "tool_choice",
                                          "max_completion_tokens",
                                          "top_logprobs",
                                          "add_generation_prompt",
                                          "continue_final_message",
                                          "chat_template_kwargs",
                                          "response_format",
                                          "parallel_tool_calls",
                                          NULL};
static const char *const completion_fields[] = {"prompt", "best_of", "echo", "suffix", NULL};

static bool listed(const char *const *names, const char *name) {
    for (; *names; names++)
        if (strcmp(*names, name) == 0) return true;
    return false;
}

static void note_unknown(struct api_request *r) {
    const char *key;
    json_t *v;
    size_t used = 0;
    json_object_foreach(r->body, key, v) {
        if (listed(common_fields, key) ||
            listed(r->kind == API_CHAT ? chat_fields : completion_fields, key))
            continue;
        int n =
            snprintf(r->unknown + used, sizeof r->unknown - used, "%s%.40s", used ? ", " : "", key);
        if (n < 0 || (size_t)n >= sizeof r->unknown - used) break;
        used += (size_t)n;
    }
    for (char *c = r->unknown; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?'; /* a stranger's bytes go to a log */
}

static bool read_model(const struct api_request *r, const struct api_context *ctx,
                       struct api_error *e) {
    const json_t *v = api_field(r->body, "model");
    if (!v) return true; /* one model is served, so it is meant */
    if (!json_is_string(v))
        return api_invalid(e, "model", "model: found %s, expected a string", json_kind(v));
    if (strcmp(json_string_value(v), ctx->model) != 0)
        return api_fail(e, 404, "model", "model_not_found",
                        "model: '%.100s' is not served here; '%.100s' is", json_string_value(v),
                        ctx->model);
    return true;
}

static bool read_sampling(struct api_request *r, const struct generation_config *g,
                          struct api_error *e) {
    struct ops_sample_params *s = &r->sampling;
    *s = (struct ops_sample_params){.temperature = g->temperature,
                                    .top_p = g->top_p,
                                    .min_p = g->min_p,
                                    .top_k = g->top_k,
                                    .repetition_penalty = g->repetition_penalty};
    int64_t top_k = g->top_k;
    if (!api_field_float(&s->temperature, r->body, "temperature", 0, 100, e)) return false;
    if (!api_field_float(&s->top_p, r->body, "top_p", 0, 1, e)) return false;
    if (s->top_p == 0)
        return api_invalid(e, "top_p", "top_p: found 0, expected more than 0, at most 1");
    if (!api_field_float(&s->min_p, r->body, "min_p", 0, 1, e)) return false;
    if (!api_field_int(&top_k, r->body, "top_k", -1, UINT32_MAX, e)) return false;
    s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    if (!api_field_float(&s->presence_penalty, r->body, "presence_penalty", -2, 2, e)) return false;
    if (!api_field_float(&s->frequency_penalty, r->body, "frequency_penalty", -2, 2, e))
        return false;
    if (!api_field_float(&s->repetition_penalty, r->body, "repetition_penalty", 0, 100, e))
        return false;
    if (s->repetition_penalty == 0)
        return api_invalid(e, "repetition_penalty",
                           "repetition_penalty: found 0, expected more than 0 (1 is off)");
    r->seed_given = api_field(r->body, "seed") != NULL;
    return api_field_int(&r->seed, r->body, "seed", INT64_MIN, INT64_MAX, e);
}

/* {"17": -100, ...} */
static bool read_logit_bias(struct api_request *r, uint32_t vocab, struct api_error *e) {
    const json_t *map = api_field(r->body, "logit_bias");
    if (!map) return true;
    if (!json_is_object(map))
        return api_invalid(e, "logit_bias",
                           "logit_bias: found %s, expected an object from token ids to numbers",
                           json_kind(map));
    size_t n = json_object_size(map), i = 0;
    if (n > vocab)
        return api_invalid(e, "logit_bias", "logit_bias: %zu entries, but the vocabulary has %u", n,
                           vocab);
    r->bias = calloc(n ? n : 1, sizeof *r->bias);
    if (!r->bias) return api_fail(e, 500, NULL, NULL, "out of memory");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, key, v) {
        char *end;
        errno = 0;
        unsigned long id = strtoul(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || errno || id >= vocab)
            return api_invalid(e, "logit_bias",
                               "logit_bias: found key '%.20s', expected a token id below %u", key,
                               vocab);
        double d = json_is_number(v) ? json_number_value(v) : NAN;
        if (!(d >= -100 && d <= 100))
            return api_invalid(
                e, "logit_bias",
                "logit_bias: token %lu: found %s, expected a number from -100 to 100", id,
                json_is_number(v) ? "a number outside" : json_kind(v));
        r->bias[i++] = (struct ops_logit_bias){(uint32_t)id, (float)d};
    }
    r->sampling.bias = r->bias;
    r->sampling.n_bias = (uint32_t)i;
    return true;
}

static bool add_stop(struct api_request *r, const json_t *v, struct api_error *e) {
    if (!json_is_string(v))
        return api_invalid(e, "stop", "stop: found %s, expected a string or a list of strings",
                           json_kind(v));
    size_t len = json_string_length(v);
    if (len == 0) return api_invalid(e, "stop", "stop: found an empty string");
    if (len > TEXT_STOP_BYTES_MAX)
        return api_invalid(e, "stop", "stop: found a string of %zu bytes, expected at most %d", len,
                           TEXT_STOP_BYTES_MAX);
    if (strlen(json_string_value(v)) != len)
        return api_invalid(e, "stop", "stop: found a string with a NUL in it");
    r->stops[r->n_stops++] = json_string_value(v);
    return true;
}

static bool read_stops(struct api_request *r, uint32_t vocab, struct api_error *e) {
    const json_t *stop = api_field(r->body, "stop"), *ids = api_field(r->body, "stop_token_ids"),
                 *v;
    size_t i;
    if (stop && !json_is_array(stop) && !add_stop(r, stop, e)) return false;
    if (json_array_size(stop) > TEXT_STOPS_MAX)
        return api_invalid(e, "stop", "stop: found %zu strings, expected at most %d",
                           json_array_size(stop), TEXT_STOPS_MAX);
    json_array_foreach(stop, i, v) if (!add_stop(r, v, e)) return false;
    if (ids && !json_is_array(ids))
        return api_invalid(e, "stop_token_ids",
                           "stop_token_ids: found %s, expected a list of token ids",
                           json_kind(ids));
    if (json_array_size(ids) > API_STOP_IDS_MAX)
        return api_invalid(e, "stop_token_ids",
                           "stop_token_ids: found %zu ids, expected at most %d",
                           json_array_size(ids), API_STOP_IDS_MAX);
    json_array_foreach(ids, i, v) {
        int64_t id;
        if (!api_value_int(&id, v, "stop_token_ids", 0, (int64_t)vocab - 1, e)) return false;
        r->stop_ids[r->n_stop_ids++] = (uint32_t)id;
    }
    return api_field_bool(&r->ignore_eos, r->body, "ignore_eos", e);
}

static bool read_lengths(struct api_request *r, struct api_error *e) {
    r->max_tokens_name = r->kind == API_CHAT && api_field(r->body, "max_completion_tokens")
                             ? "max_completion_tokens"
                             : "max_tokens";
    if (!api_field_u32(&r->max_tokens, r->body, r->max_tokens_name, 1, INT32_MAX, e)) return false;
    if (!api_field_u32(&r->min_tokens, r->body, "min_tokens", 0, INT32_MAX, e)) return false;
    if (r->max_tokens && r->min_tokens > r->max_tokens)
        return api_invalid(e, "min_tokens", "min_tokens: found %u, expected at most %s %u",
                           r->min_tokens, r->max_tokens_name, r->max_tokens);
    return true;
}

static bool read_logprobs(struct api_request *r, struct api_error *e) {
    r->logprobs = -1;
    int64_t top = -1;
    if (r->kind == API_COMPLETION) {
        if (!api_field_int(&top, r->body, "logprobs", 0, REQUEST_LOGPROBS_MAX, e)) return false;
        r->logprobs = (int32_t)top;
        return true;
    }
    bool wanted = false;
    if (!api_field_bool(&wanted, r->body, "logprobs", e)) return false;
    if (!api_field_int(&top, r->body, "top_logprobs", 0, REQUEST_LOGPROBS_MAX, e)) return false;
    if (top > 0 && !wanted)
        return api_invalid(e, "top_logprobs", "top_logprobs: given without logprobs true");
    if (wanted) r->logprobs = top > 0 ? (int32_t)top : 0;
    return true;
}

static bool read_stream(struct api_request *r, struct api_error *e) {
    if (!api_field_bool(&r->stream, r->body, "stream", e)) return false;
    const json_t *options = api_field(r->body, "stream_options");
    if (!options) return true;
    if (!json_is_object(options))
        return api_invalid(e, "stream_options", "stream_options: found %s, expected an object",
                           json_kind(options));
    if (!r->stream)
        return api_invalid(e, "stream_options", "stream_options: given without stream true");
    const json_t *usage = api_field(options, "include_usage");
    if (usage && !json_is_boolean(usage))
        return api_invalid(e, "stream_options.include_usage",
                           "stream_options.include_usage: found %s, expected true or false",
                           json_kind(usage));
    r->include_usage = json_is_true(usage);
    return true;
}

/* What would change the answer and is not built is refused. */
static bool refuse_unbuilt(const struct api_request *r, struct api_error *e) {
    static const char *const ones[] = {"n", "best_of"};
    for (size_t i = 0; i < 2; i++) {
        int64_t one = 1;
        if (!api_field_int(&one, r->body, ones[i], 1, INT32_MAX, e)) return false;
        if (one != 1)
            return api_invalid(e, ones[i], "%s: found %lld, only 1 is supported", ones[i],
                               (long long)one);
    }
    if (r->kind == API_COMPLETION) {
        bool echo = false;
        if (!api_field_bool(&echo, r->body, "echo", e)) return false;
        if (echo) return api_invalid(e, "echo", "echo: true is not supported");
        const json_t *suffix = api_field(r->body, "suffix");
        if (suffix && json_string_length(suffix) + !json_is_string(suffix) > 0)
            return api_invalid(e, "suffix", "suffix: is not supported");
        return true;
    }
    const json_t *format = api_field(r->body, "response_format"),
                 *choice = api_field(r->body, "tool_choice");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && (!type || strcmp(type, "text") != 0))
        return api_invalid(e, "response_format",
                           "response_format: found type '%.40s', only 'text' is supported",
                           type ? type : "");
    const char *name = json_string_value(choice);
    if (choice && (!name || (strcmp(name, "auto") != 0 && strcmp(name, "none") != 0)))
        return api_invalid(e, "tool_choice",
                           "tool_choice: found %s%.40s%s, only 'auto' and 'none' are supported",
                           name ? "'" : "", name ? name : json_kind(choice), name ? "'" : "");
    return true;
}

static bool read_chat(struct api_request *r, struct api_error *e) {
    r->add_generation_prompt = true;
    if (!api_field_bool(&r->add_generation_prompt, r->body, "add_generation_prompt", e))
        return false;
    bool continue_final = false;
    if (!api_field_bool(&continue_final, r->body, "continue_final_message", e)) return false;
    if (continue_final)
        return api_invalid(e, "continue_final_message",
                           "continue_final_message: true is not supported");
    r->template_kwargs = api_field(r->body, "chat_template_kwargs");
    if (r->template_kwargs && !json_is_object(r->template_kwargs))
        return api_invalid(e, "chat_template_kwargs",
                           "chat_template_kwargs: found %s, expected an object",
                           json_kind(r->template_kwargs));
    r->messages = api_field(r->body, "messages");
    if (!api_messages_check(r->messages, e)) return false;
    r->tools = api_field(r->body, "tools");
    return !r->tools || api_tools_check(r->tools, e);
}

static bool read_prompt_ids(struct api_request *r, const json_t *ids, uint32_t vocab,
                            struct api_error *e) {
    size_t n = json_array_size(ids), i;
    const json_t *v;
    assert(n > 0);
    if (n > INT32_MAX) return api_invalid(e, "prompt", "prompt: found %zu ids", n);
    r->prompt_ids = calloc(n, sizeof *r->prompt_ids);
    if (!r->prompt_ids) return api_fail(e, 500, NULL, NULL, "out of memory");
    json_array_foreach(ids, i, v) {
        int64_t id;
        if (!api_value_int(&id, v, "prompt", 0, (int64_t)vocab - 1, e)) return false;
        r->prompt_ids[i] = (uint32_t)id;
    }
    r->n_prompt_ids = (uint32_t)n;
    return true;
}

static bool read_prompt(struct api_request *r, uint32_t vocab, struct api_error *e) {
    const json_t *p = api_field(r->body, "prompt"), *first = json_array_get(p, 0);
    if (json_is_array(p) && (json_is_string(first) || json_is_array(first))) {
        if (json_array_size(p) != 1)
            return api_invalid(e, "prompt",
                               "prompt: found a list of %zu prompts, only one is supported",
                               json_array_size(p));
        p = first;
    }
    if (json_is_string(p)) {
        r->prompt = json_string_value(p);
        r->prompt_len = json_string_length(p);
        return true;
    }
    if (json_is_array(p) && json_array_size(p) > 0) return read_prompt_ids(r, p, vocab, e);
    return api_invalid(e, "prompt", "prompt: found %s, expected a string or a list of token ids",
                       json_is_array(p) ? "an empty list" : json_kind(p));
}

static bool read_fields(struct api_request *r, const struct api_context *ctx, struct api_error *e) {
    if (!json_is_object(r->body))
        return api_invalid(e, NULL, "request body: found %s, expected an object",
                           json_kind(r->body));
    note_unknown(r);
    r->skip_special = true;
    return read_model(r, ctx, e) &&
           (r->kind == API_CHAT ? read_chat(r, e) : read_prompt(r, ctx->vocab, e)) &&
           read_sampling(r, ctx->defaults, e) && read_logit_bias(r, ctx->vocab, e) &&
           read_stops(r, ctx->vocab, e) && read_lengths(r, e) && read_logprobs(r, e) &&
           read_stream(r, e) &&
           api_field_bool(&r->skip_special, r->body, "skip_special_tokens", e) &&
           refuse_unbuilt(r, e);
}

bool api_request_parse(struct api_request *out, enum api_kind kind, const char *text, size_t len,
                       const struct api_context *ctx, struct api_error *e) {
    struct err err;
    *out = (struct api_request){.kind = kind};
    if (len == 0) return api_invalid(e, NULL, "request body: is empty, expected a JSON object");
    if (json_parse(&out->body, text, len, "request body", &err))
        return api_fail(e, err.code == ST_NO_MEMORY ? 500 : 400, NULL, NULL, "%s", err.text);
    if (read_fields(out, ctx, e)) return true;
    api_request_release(out);
    return false;
}

void api_request_drop_body(struct api_request *r) {
    json_t *stop = json_incref(json_object_get(r->body, "stop"));
    json_decref(r->body);
    r->body = stop;
    r->messages = r->tools = r->template_kwargs = NULL;
    r->prompt = NULL;
}

void api_request_release(struct api_request *r) {
    json_decref(r->body);
    free(r->prompt_ids);
    free(r->bias);
    *r = (struct api_request){0};
}

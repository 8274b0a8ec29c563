/* SPDX-License-Identifier: Apache-2.0 */
/* Implements api_request.h. Names, ranges and defaults are OpenAI's, and vLLM's where it goes
 * further (vllm/entrypoints/openai/{chat_completion,completion}/protocol.py, serve/tokenize). A
 * field of theirs that would change the answer and is not built is an error, never silence. */
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

/* Fields with a meaning here, and (from "user" on) those that are accepted and have none. */
#define COMMON_FIELDS                                                                              \
    "model", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", \
        "stop_token_ids", "ignore_eos", "n", "presence_penalty", "frequency_penalty",              \
        "repetition_penalty", "logit_bias", "logprobs", "prompt_logprobs", "skip_special_tokens",  \
        "include_stop_str_in_output", "echo", "stream", "stream_options", "cache_salt",            \
        "priority", "add_special_tokens", "return_token_ids", "response_format", "user",           \
        "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"
#define CHAT_FIELDS                                                                                \
    "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs"

static const char *const known_fields[][64] = {
    [API_CHAT] = {COMMON_FIELDS, CHAT_FIELDS, "tool_choice", "max_completion_tokens",
                  "top_logprobs", "parallel_tool_calls", "best_of", "modalities"},
    [API_COMPLETION] = {COMMON_FIELDS, "prompt", "best_of", "suffix"},
    [API_TOKENIZE] = {CHAT_FIELDS, "model", "prompt", "add_special_tokens", "return_token_strs"},
    [API_DETOKENIZE] = {"model", "tokens"},
};

/* OpenAI's and vLLM's, and not built. */
static const char *const refused_fields[] = {
    "use_beam_search", "allowed_token_ids",      "bad_words",     "logprob_token_ids",
    "prompt_embeds",   "structured_outputs",     "guided_json",   "guided_regex",
    "guided_choice",   "guided_grammar",         "chat_template", "documents",
    "suffix",          "truncate_prompt_tokens", "functions",     "return_tokens_as_token_ids",
    "function_call"};

static bool known(enum api_kind kind, const char *name) {
    for (const char *const *f = known_fields[kind]; *f; f++)
        if (strcmp(*f, name) == 0) return true;
    return false;
}

static bool refused(const char *name) {
    for (size_t i = 0; i < sizeof refused_fields / sizeof *refused_fields; i++)
        if (strcmp(refused_fields[i], name) == 0) return true;
    return false;
}

/* Fields that get an answer of their own are not ignored: null says nothing, the unbuilt ones are
 * refused where they say something. */
static void note_unknown(struct api_request *r) {
    const char *key;
    json_t *v;
    size_t used = 0;
    json_object_foreach(r->body, key, v) {
        if (json_is_null(v) || known(r->kind, key) || refused(key)) continue;
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
    bool may_be_none = r->kind == API_COMPLETION && r->echo;
    r->max_tokens_name = r->kind == API_CHAT && api_field(r->body, "max_completion_tokens")
                             ? "max_completion_tokens"
                             : "max_tokens";
    bool given = api_field(r->body, r->max_tokens_name) != NULL;
    if (!api_field_u32(&r->max_tokens, r->body, r->max_tokens_name, may_be_none ? 0 : 1, INT32_MAX,
                       e))
        return false;
    if (!api_field_u32(&r->min_tokens, r->body, "min_tokens", 0, INT32_MAX, e)) return false;
    if (given && r->min_tokens > r->max_tokens)
        return api_invalid(e, "min_tokens", "min_tokens: found %u, expected at most %s %u",
                           r->min_tokens, r->max_tokens_name, r->max_tokens);
    r->echo_only = given && r->max_tokens == 0;
    if (r->echo_only) r->max_tokens = 1;
    return true;
}

static bool read_logprobs(struct api_request *r, struct api_error *e) {
    r->logprobs = r->prompt_logprobs = -1;
    int64_t top = -1, prompt = -1;
    bool wanted = false;
    if (r->kind == API_COMPLETION) {
        if (!api_field_int(&top, r->body, "logprobs", 0, REQUEST_LOGPROBS_MAX, e)) return false;
        r->logprobs = (int32_t)top;
    } else {
        if (!api_field_bool(&wanted, r->body, "logprobs", e)) return false;
        if (!api_field_int(&top, r->body, "top_logprobs", 0, REQUEST_LOGPROBS_MAX, e)) return false;
        if (top > 0 && !wanted)
            return api_invalid(e, "top_logprobs", "top_logprobs: given without logprobs true");
        if (wanted) r->logprobs = top > 0 ? (int32_t)top : 0;
    }
    if (!api_field_int(&prompt, r->body, "prompt_logprobs", 0, REQUEST_LOGPROBS_MAX, e))
        return false;
    if (prompt >= 0 && r->stream)
        return api_invalid(e, "prompt_logprobs",
                           "prompt_logprobs: are not available with stream true");
    r->prompt_logprobs = (int32_t)prompt;
    /* an echoed prompt has what the answer has, beside what was asked for it */
    if (prompt < 0 && r->kind == API_COMPLETION && r->echo) r->prompt_logprobs = r->logprobs;
    return true;
}

static bool read_stream(struct api_request *r, struct api_error *e) {
    static const char *const names[] = {"include_usage", "continuous_usage_stats"};
    bool set[2] = {false, false};
    if (!api_field_bool(&r->stream, r->body, "stream", e)) return false;
    const json_t *options = api_field(r->body, "stream_options");
    if (!options) return true;
    if (!json_is_object(options))
        return api_invalid(e, "stream_options", "stream_options: found %s, expected an object",
                           json_kind(options));
    if (!r->stream)
        return api_invalid(e, "stream_options", "stream_options: given without stream true");
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = api_field(options, names[i]);
        char where[64];
        snprintf(where, sizeof where, "stream_options.%s", names[i]);
        if (v && !json_is_boolean(v))
            return api_invalid(e, where, "%s: found %s, expected true or false", where,
                               json_kind(v));
        set[i] = json_is_true(v);
    }
    r->include_usage = set[0];
    r->continuous_usage = set[0] && set[1]; /* as vLLM has it */
    return true;
}

static bool read_choices(struct api_request *r, struct api_error *e) {
    uint32_t prompts = r->kind == API_CHAT ? 1 : r->n_prompts;
    r->n = 1;
    if (!api_field_u32(&r->n, r->body, "n", 1, REQUEST_CHOICES_MAX, e)) return false;
    r->best_of = r->n;
    if (r->kind == API_COMPLETION &&
        !api_field_u32(&r->best_of, r->body, "best_of", 1, REQUEST_CHOICES_MAX, e))
        return false;
    if (r->best_of < r->n)
        return api_invalid(e, "best_of", "best_of: found %u, expected at least n, %u", r->best_of,
                           r->n);
    if (r->best_of > r->n && r->stream)
        return api_invalid(e, "best_of", "best_of: found %u, but a stream needs it equal to n, %u",
                           r->best_of, r->n);
    if (r->best_of * prompts > REQUEST_CHOICES_MAX)
        return api_invalid(e, r->best_of > r->n ? "best_of" : "n",
                           "%s: found %u for each of %u prompts, expected at most %d in all",
                           r->best_of > r->n ? "best_of" : "n", r->best_of, prompts,
                           REQUEST_CHOICES_MAX);
    return true;
}

static bool read_scheduling(struct api_request *r, struct api_error *e) {
    int64_t priority = 0;
    if (!api_field_int(&priority, r->body, "priority", INT32_MIN, INT32_MAX, e)) return false;
    r->priority = (int32_t)priority;
    const json_t *salt = api_field(r->body, "cache_salt");
    if (!salt) return true;
    size_t len = json_string_length(salt);
    if (!json_is_string(salt) || len == 0)
        return api_invalid(e, "cache_salt", "cache_salt: found %s, expected a string",
                           json_is_string(salt) ? "an empty string" : json_kind(salt));
    if (len >= sizeof r->salt || strlen(json_string_value(salt)) != len)
        return api_invalid(e, "cache_salt",
                           "cache_salt: found %zu bytes, expected at most %zu without a NUL", len,
                           sizeof r->salt - 1);
    memcpy(r->salt, json_string_value(salt), len);
    return true;
}

/* Chat only: other than ["text"], and best_of other than n. */
static bool refuse_unbuilt_chat(const struct api_request *r, struct api_error *e) {
    const json_t *modalities = api_field(r->body, "modalities"), *v;
    uint32_t best_of = r->n;
    size_t i;
    if (modalities && !json_is_array(modalities))
        return api_invalid(e, "modalities", "modalities: found %s, expected [\"text\"]",
                           json_kind(modalities));
    json_array_foreach(modalities, i, v) {
        const char *name = json_string_value(v);
        if (!name || strcmp(name, "text") != 0)
            return api_invalid(e, "modalities", "modalities: found %.40s, only text is supported",
                               name ? name : json_kind(v));
    }
    if (r->kind != API_CHAT) return true;
    if (!api_field_u32(&best_of, r->body, "best_of", 1, REQUEST_CHOICES_MAX, e)) return false;
    return best_of == r->n ||
           api_invalid(e, "best_of", "best_of: found %u, but a chat needs it equal to n, %u",
                       best_of, r->n);
}

/* What would change the answer and is not built is refused. */
static bool refuse_unbuilt(const struct api_request *r, struct api_error *e) {
    for (size_t i = 0; i < sizeof refused_fields / sizeof *refused_fields; i++) {
        const json_t *v = api_field(r->body, refused_fields[i]);
        bool empty = !v || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
                     (json_is_object(v) && !json_object_size(v)) ||
                     (json_is_string(v) && !json_string_length(v));
        if (!empty)
            return api_invalid(e, refused_fields[i], "%s: is not supported", refused_fields[i]);
    }
    const json_t *format = api_field(r->body, "response_format"),
                 *choice = api_field(r->body, "tool_choice");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && (!type || strcmp(type, "text") != 0))
        return api_invalid(e, "response_format",
                           "response_format: found type '%.40s', only 'text' is supported",
                           type ? type : "");
    const char *name = json_string_value(choice);
    if (choice && r->kind == API_CHAT &&
        (!name || (strcmp(name, "auto") != 0 && strcmp(name, "none") != 0)))
        return api_invalid(e, "tool_choice",
                           "tool_choice: found %s%.40s%s, only 'auto' and 'none' are supported",
                           name ? "'" : "", name ? name : json_kind(choice), name ? "'" : "");
    return r->kind == API_COMPLETION || refuse_unbuilt_chat(r, e);
}

/* Whose turn the answer is: a new assistant message, or more of the last one. */
static void set_role(struct api_request *r) {
    json_t *last = json_array_get(r->messages, json_array_size(r->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    snprintf(r->role, sizeof r->role, "%s", r->add_generation_prompt ? "assistant" : role);
    json_t *content = json_object_get(last, "content");
    if (r->echo && strcmp(r->role, role) == 0 && json_is_string(content)) r->echo_text = content;
}

static bool read_chat(struct api_request *r, struct api_error *e) {
    r->add_generation_prompt = true;
    if (!api_field_bool(&r->add_generation_prompt, r->body, "add_generation_prompt", e) ||
        !api_field_bool(&r->continue_final, r->body, "continue_final_message", e))
        return false;
    if (r->continue_final && r->add_generation_prompt)
        return api_invalid(e, "continue_final_message",
                           "continue_final_message: true needs add_generation_prompt false");
    r->template_kwargs = api_field(r->body, "chat_template_kwargs");
    if (r->template_kwargs && !json_is_object(r->template_kwargs))
        return api_invalid(e, "chat_template_kwargs",
                           "chat_template_kwargs: found %s, expected an object",
                           json_kind(r->template_kwargs));
    r->messages = api_field(r->body, "messages");
    if (!api_messages_check(r->messages, e)) return false;
    set_role(r);
    r->tools = api_field(r->body, "tools");
    return !r->tools || api_tools_check(r->tools, e);
}

static bool add_prompts(struct api_request *r, size_t n, struct api_error *e) {
    r->prompts = calloc(n, sizeof *r->prompts);
    if (!r->prompts) return api_fail(e, 500, NULL, NULL, "out of memory");
    r->n_prompts = (uint32_t)n;
    return true;
}

static bool read_ids(struct api_prompt *p, const json_t *ids, const char *name, uint32_t vocab,
                     struct api_error *e) {
    size_t n = json_array_size(ids), i;
    const json_t *v;
    if (n > INT32_MAX) return api_invalid(e, name, "%s: found %zu ids", name, n);
    p->ids = calloc(n ? n : 1, sizeof *p->ids);
    if (!p->ids) return api_fail(e, 500, NULL, NULL, "out of memory");
    json_array_foreach(ids, i, v) {
        int64_t id;
        if (!api_value_int(&id, v, name, 0, (int64_t)vocab - 1, e)) return false;
        p->ids[i] = (uint32_t)id;
    }
    p->n_ids = (uint32_t)n;
    return true;
}

static bool read_prompt(struct api_prompt *p, const json_t *v, uint32_t vocab,
                        struct api_error *e) {
    if (json_is_string(v)) {
        p->text = json_string_value(v);
        p->len = json_string_length(v);
        return true;
    }
    if (json_is_array(v) && json_array_size(v) > 0) return read_ids(p, v, "prompt", vocab, e);
    return api_invalid(e, "prompt", "prompt: found %s, expected a string or a list of token ids",
                       json_is_array(v) ? "an empty list" : json_kind(v));
}

static bool read_prompts(struct api_request *r, uint32_t vocab, struct api_error *e) {
    const json_t *v = api_field(r->body, "prompt"), *first = json_array_get(v, 0);
    bool list = json_is_array(v) && (json_is_string(first) || json_is_array(first));
    size_t n = list ? json_array_size(v) : 1;
    if (n > REQUEST_CHOICES_MAX)
        return api_invalid(e, "prompt", "prompt: found a list of %zu prompts, expected at most %d",
                           n, REQUEST_CHOICES_MAX);
    if (!add_prompts(r, n, e)) return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *p = list ? json_array_get(v, i) : v;
        if (list && json_typeof(p) != json_typeof(first))
            return api_invalid(e, "prompt", "prompt: found %s in a list of %s", json_kind(p),
                               json_is_string(first) ? "strings" : "lists");
        if (!read_prompt(&r->prompts[i], p, vocab, e)) return false;
    }
    return true;
}

static bool read_generation(struct api_request *r, const struct api_context *ctx,
                            struct api_error *e) {
    r->skip_special = true;
    r->add_special = r->kind == API_COMPLETION;
    return api_field_bool(&r->echo, r->body, "echo", e) && read_stream(r, e) &&
           (r->kind == API_CHAT ? read_chat(r, e) : read_prompts(r, ctx->vocab, e)) &&
           read_sampling(r, ctx->defaults, e) && read_logit_bias(r, ctx->vocab, e) &&
           read_stops(r, ctx->vocab, e) && read_lengths(r, e) && read_logprobs(r, e) &&
           read_choices(r, e) && read_scheduling(r, e) &&
           api_field_bool(&r->skip_special, r->body, "skip_special_tokens", e) &&
           api_field_bool(&r->include_stop, r->body, "include_stop_str_in_output", e) &&
           api_field_bool(&r->add_special, r->body, "add_special_tokens", e) &&
           api_field_bool(&r->return_ids, r->body, "return_token_ids", e) && refuse_unbuilt(r, e);
}

static bool read_tokenize(struct api_request *r, struct api_error *e) {
    const json_t *text = api_field(r->body, "prompt");
    bool chat = api_field(r->body, "messages") != NULL;
    if (chat == (text != NULL))
        return api_invalid(e, NULL, "request body: expected either prompt or messages");
    r->add_special = !chat;
    if (!api_field_bool(&r->add_special, r->body, "add_special_tokens", e) ||
        !api_field_bool(&r->token_strs, r->body, "return_token_strs", e))
        return false;
    if (!refuse_unbuilt(r, e)) return false;
    if (chat) return read_chat(r, e);
    if (!json_is_string(text))
        return api_invalid(e, "prompt", "prompt: found %s, expected a string", json_kind(text));
    return add_prompts(r, 1, e) && read_prompt(r->prompts, text, 0, e);
}

static bool read_detokenize(struct api_request *r, uint32_t vocab, struct api_error *e) {
    const json_t *ids = api_field(r->body, "tokens");
    if (!json_is_array(ids))
        return api_invalid(e, "tokens", "tokens: found %s, expected a list of token ids",
                           json_kind(ids));
    return add_prompts(r, 1, e) && read_ids(r->prompts, ids, "tokens", vocab, e);
}

static bool read_fields(struct api_request *r, const struct api_context *ctx, struct api_error *e) {
    if (!json_is_object(r->body))
        return api_invalid(e, NULL, "request body: found %s, expected an object",
                           json_kind(r->body));
    note_unknown(r);
    if (!read_model(r, ctx, e)) return false;
    switch (r->kind) {
    case API_CHAT:
    case API_COMPLETION: return read_generation(r, ctx, e);
    case API_TOKENIZE: return read_tokenize(r, e);
    case API_DETOKENIZE: return read_detokenize(r, ctx->vocab, e);
    }
    assert(false);
    return false;
}

bool api_request_parse(struct api_request *out, enum api_kind kind, const char *text, size_t len,
                       const struct api_context *ctx, struct api_error *e) {
    struct err err;
    *out = (struct api_request){.kind = kind};
    if (len == 0) return api_invalid(e, NULL, "request body: is empty, expected a JSON object");
    if (json_parse(&out->body, text, len, "request body", &err))
        return api_fail(e,
                        err.code == ST_NO_MEMORY ? 500
                        : err.code == ST_FULL    ? 413
                                                 : 400,
                        NULL, NULL, "%s", err.text);
    if (read_fields(out, ctx, e)) return true;
    api_request_release(out);
    return false;
}

void api_request_drop_body(struct api_request *r) {
    json_t *keep = json_array(), *stop = api_field(r->body, "stop"),
           *echoed = !r->echo       ? NULL
                     : r->echo_text ? r->echo_text
                                    : api_field(r->body, "prompt");
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        free(r->prompts[i].ids);
        r->prompts[i].ids = NULL;
        if (!echoed) r->prompts[i].text = NULL;
    }
    r->messages = r->tools = r->template_kwargs = NULL;
    if (!keep || (stop && json_array_append(keep, stop)) ||
        (echoed && json_array_append(keep, echoed))) {
        json_decref(keep); /* no memory to save memory: it stays whole */
        return;
    }
    json_decref(r->body);
    r->body = keep;
}

void api_request_release(struct api_request *r) {
    json_decref(r->body);
    for (uint32_t i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids);
    free(r->prompts);
    free(r->bias);
    *r = (struct api_request){0};
}

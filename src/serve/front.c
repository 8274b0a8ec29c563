/* SPDX-License-Identifier: Apache-2.0 */
/* Implements front.h. Prompts that cannot fit are refused before they are tokenised where their
 * size alone proves it. */
#include "serve/front.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "serve/api_messages.h"

/* Normalisers may compose characters: at most three bytes become one (Hangul, NFC). */
enum { NORMALISER_SHRINK = 3 };

/* --- opening ---------------------------------------------------------------------------------- */

static enum st measure_tokens(struct front *f, struct err *err) {
    struct buf bytes = {.max = 1 << 24};
    enum st st = ST_OK;
    uint32_t n = tok_vocab(f->tok);
    for (uint32_t id = 0; id < n && !st; id++) {
        bytes.len = 0;
        st = tok_decode_token(&bytes, f->tok, id, TOK_SPECIAL_SHOW);
        if (bytes.len > f->token_bytes_max) f->token_bytes_max = (uint32_t)bytes.len;
    }
    buf_release(&bytes);
    return st ? err_set(err, st, "serve: a token of the tokenizer is too long") : ST_OK;
}

enum st front_open(struct front *f, const struct instance *in, const char *served_name,
                   enum prompt_trust trust, struct err *err) {
    *f = (struct front){.model = served_name,
                        .trust = trust,
                        .defaults = *ckpt_generation(in->ckpt),
                        .vocab = in->config.vocab,
                        .max_model_len = in->max_model_len};
    f->n_stop_ids = instance_eos_ids(f->stop_ids, in);
    snprintf(f->model_id, sizeof f->model_id, "%s", in->model_id);
    snprintf(f->fingerprint, sizeof f->fingerprint, "fp_%.12s", in->model_id);
    enum st st = tok_open(&f->tok, ckpt_dir(in->ckpt), err);
    if (!st) st = measure_tokens(f, err);
    if (!st) st = chat_model_open(&f->chat, ckpt_dir(in->ckpt), err);
    if (st == ST_NOT_FOUND && f->token_bytes_max) st = ST_OK; /* a base model: completions only */
    if (st) front_close(f);
    return st;
}

void front_close(struct front *f) {
    tok_free(f->tok);
    chat_model_free(f->chat);
    *f = (struct front){0};
}

/* --- prompts ---------------------------------------------------------------------------------- */

static bool failed(struct api_error *e, const char *param, const struct err *err) {
    return api_fail(e, err->code == ST_NO_MEMORY ? 500 : 400, param, NULL, "%s", err->text);
}

static bool no_memory(struct api_error *e) {
    return api_fail(e, 500, NULL, NULL, "out of memory");
}

/* White space is not counted: an added token may swallow any amount of it. */
static bool check_bytes(const struct front *f, const char *text, size_t len, const char *param,
                        struct api_error *e) {
    size_t solid = 0;
    uint64_t most = (uint64_t)f->max_model_len * f->token_bytes_max * NORMALISER_SHRINK;
    if (len <= most) return true;
    for (size_t i = 0; i < len; i++) solid += (unsigned char)text[i] > ' ';
    if (solid <= most) return true;
    return api_fail(e, 400, param, "context_length_exceeded",
                    "%s: a prompt of %zu bytes cannot fit max-model-len %u", param, len,
                    f->max_model_len);
}

/* Prompt ids and roles become the record's; generated may be NULL: all prompt. */
static bool set_prompt(struct request *r, const uint32_t *ids, const uint8_t *generated, size_t n,
                       struct api_error *e) {
    size_t runs = n > 0;
    assert(n <= UINT32_MAX);
    for (size_t i = 1; i < n && generated; i++) runs += generated[i] != generated[i - 1];
    r->prompt = malloc((n + 1) * sizeof *r->prompt);
    r->roles = malloc((runs + 1) * sizeof *r->roles);
    if (!r->prompt || !r->roles) return no_memory(e);
    if (n) memcpy(r->prompt, ids, n * sizeof *ids);
    r->n_prompt = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        enum token_role role = generated && generated[i] ? ROLE_GENERATED : ROLE_PROMPT;
        if (i == 0 || r->roles[r->n_roles - 1].role != role)
            r->roles[r->n_roles++] = (struct role_run){.role = role};
        r->roles[r->n_roles - 1].len++;
    }
    assert(r->n_roles == runs);
    return true;
}

static bool render(const struct front *f, struct chat_prompt *out, const struct api_request *api,
                   json_t *messages, struct err *err) {
    json_t *request = json_pack("{s:O,s:b}", "messages", messages, "add_generation_prompt",
                                api->add_generation_prompt);
    int bad = request == NULL;
    if (!bad && api->tools) bad = json_object_set(request, "tools", api->tools);
    if (!bad && api->template_kwargs)
        bad = json_object_set(request, "chat_template_kwargs", api->template_kwargs);
    enum st st = bad ? err_set(err, ST_NO_MEMORY, "out of memory")
                     : chat_model_render(out, f->chat, request, (int64_t)time(NULL), err);
    json_decref(request);
    return st == ST_OK;
}

/* Templates of other makers take a tool call's arguments as an object, DeepSeek-R1's pastes them as
 * text: what works is meant. */
static bool render_either(const struct front *f, struct chat_prompt *out,
                          const struct api_request *api, struct api_error *e) {
    struct err err;
    bool changed;
    json_t *messages = api_messages_with_argument_objects(api->messages, &changed);
    if (!messages) return no_memory(e);
    bool ok = render(f, out, api, messages, &err);
    json_decref(messages);
    if (!ok && changed) {
        struct err first = err;
        chat_prompt_release(out);
        ok = render(f, out, api, api->messages, &err);
        if (!ok) err = first;
    }
    return ok || failed(e, "messages", &err);
}

static bool prepare_chat(const struct front *f, struct request *r, const struct api_request *api,
                         struct api_error *e) {
    if (!f->chat)
        return api_invalid(e, "messages",
                           "messages: this model has no chat template; use /v1/completions");
    struct chat_prompt prompt = {0};
    struct prompt_ids ids = {0};
    struct err err;
    bool ok = render_either(f, &prompt, api, e) &&
              check_bytes(f, prompt.text.data, prompt.text.len, "messages", e);
    if (ok && prompt_encode(&ids, f->tok, &prompt, f->trust, &err))
        ok = failed(e, "messages", &err);
    ok = ok && set_prompt(r, ids.ids.v, ids.generated, ids.ids.len, e);
    prompt_ids_release(&ids);
    chat_prompt_release(&prompt);
    return ok;
}

static bool prepare_completion(const struct front *f, struct request *r,
                               const struct api_request *api, struct api_error *e) {
    if (api->prompt_ids) return set_prompt(r, api->prompt_ids, NULL, api->n_prompt_ids, e);
    struct tok_ids ids = {0};
    struct err err;
    bool ok = check_bytes(f, api->prompt, api->prompt_len, "prompt", e);
    if (ok && tok_encode(&ids, f->tok, api->prompt, api->prompt_len, TOK_ADDED_MATCH, &err))
        ok = failed(e, "prompt", &err);
    ok = ok && set_prompt(r, ids.v, NULL, ids.len, e);
    tok_ids_release(&ids);
    return ok;
}

/* What the tokenizer's post-processor would add: BOS before a raw text. Room for it is there
 * (set_prompt). */
static void prepend_bos(const struct front *f, struct request *r) {
    int64_t bos = tok_bos(f->tok);
    if (!tok_adds_bos(f->tok) || bos < 0) return;
    memmove(r->prompt + 1, r->prompt, r->n_prompt * sizeof *r->prompt);
    r->prompt[0] = (uint32_t)bos;
    r->n_prompt++;
    if (r->n_roles == 0) r->roles[r->n_roles++] = (struct role_run){.role = ROLE_PROMPT};
    r->roles[0].len++;
}

/* --- the record ------------------------------------------------------------------------------- */

static bool set_limits(const struct front *f, struct request *r, const struct api_request *api,
                       struct api_error *e) {
    const char *param = api->kind == API_CHAT ? "messages" : "prompt",
               *code = "context_length_exceeded";
    if (r->n_prompt == 0)
        return api_invalid(e, param, "%s: the prompt is empty, expected at least one token", param);
    if (r->n_prompt >= f->max_model_len)
        return api_fail(
            e, 400, param, code,
            "%s: a prompt of %u tokens leaves no room for an answer in max-model-len %u", param,
            r->n_prompt, f->max_model_len);
    uint32_t room = f->max_model_len - r->n_prompt;
    if (api->max_tokens > room)
        return api_fail(e, 400, api->max_tokens_name, code,
                        "%s: %u with a prompt of %u tokens exceeds max-model-len %u",
                        api->max_tokens_name, api->max_tokens, r->n_prompt, f->max_model_len);
    r->max_tokens = room;
    if (api->max_tokens)
        r->max_tokens = api->max_tokens;
    else if (api->kind == API_COMPLETION && room > API_COMPLETION_TOKENS)
        r->max_tokens = API_COMPLETION_TOKENS;
    if (api->min_tokens > r->max_tokens)
        return api_invalid(e, "min_tokens",
                           "min_tokens: found %u, but at most %u tokens can be generated",
                           api->min_tokens, r->max_tokens);
    r->min_tokens = api->min_tokens;
    struct err err;
    return request_make_choices(r, 1, &err) == ST_OK || no_memory(e);
}

static void add_stop_id(struct request *r, uint32_t id) {
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id) return;
    assert(r->n_stop_ids < REQUEST_STOP_IDS_MAX);
    r->stop_ids[r->n_stop_ids++] = id;
}

static bool draw_bytes(void *out, size_t n) {
    return getrandom(out, n, 0) == (ssize_t)n;
}

static bool set_names(struct job *j, struct api_error *e) {
    uint8_t random[16];
    if (!draw_bytes(random, sizeof random))
        return api_fail(e, 500, NULL, NULL, "no random numbers");
    char hex[2 * sizeof random + 1];
    for (size_t i = 0; i < sizeof random; i++) snprintf(hex + 2 * i, 3, "%02x", random[i]);
    snprintf(j->id, sizeof j->id, "%s-%s", j->kind == API_CHAT ? "chatcmpl" : "cmpl", hex);
    snprintf(j->records[0].id, sizeof j->records[0].id, "%s", j->id);
    return true;
}

static bool set_seed(struct request *r, const struct api_request *api, struct api_error *e) {
    r->seed = api->seed;
    return api->seed_given || request_draw_seed(r) ||
           api_fail(e, 500, NULL, NULL, "no random numbers");
}

static bool fill_record(const struct front *f, struct job *j, struct api_error *e) {
    struct api_request *api = &j->api;
    struct request *r = j->records = calloc(1, sizeof *r);
    if (!r) return no_memory(e);
    j->n_records = 1;
    *r = (struct request){
        .version = REQUEST_VERSION, .sampling = api->sampling, .logprobs = api->logprobs};
    api->bias = NULL; /* the record owns it now */
    memcpy(r->model_id, f->model_id, sizeof r->model_id);
    memcpy(r->tenant, j->tenant, sizeof r->tenant);
    if (!set_names(j, e) || !set_seed(r, api, e)) return false;
    for (uint32_t i = 0; i < f->n_stop_ids && !api->ignore_eos; i++) add_stop_id(r, f->stop_ids[i]);
    for (uint32_t i = 0; i < api->n_stop_ids; i++) add_stop_id(r, api->stop_ids[i]);
    if (!(api->kind == API_CHAT ? prepare_chat(f, r, api, e) : prepare_completion(f, r, api, e)))
        return false;
    if (api->kind == API_COMPLETION && !api->prompt_ids) prepend_bos(f, r);
    return set_limits(f, r, api, e);
}

bool front_prepare(const struct front *f, struct job *j, struct api_error *e) {
    struct api_context ctx = {.model = f->model, .defaults = &f->defaults, .vocab = f->vocab};
    bool ok = api_request_parse(&j->api, j->kind, j->body, j->body_len, &ctx, e);
    free(j->body);
    j->body = NULL;
    ok = ok && fill_record(f, j, e);
    api_request_drop_body(&j->api);
    return ok;
}

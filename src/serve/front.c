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
#include "serve/json_out.h"
#include "text/utf8.h"

enum {
    NORMALISER_SHRINK =
        3, /* normalisers may compose: at most three bytes become one (Hangul, NFC) */
    PROMPT_TOKENS_MAX = 1 << 20,  /* of all prompts of a request, where one may not be longer */
    BIAS_ENTRIES_MAX = 1 << 20,   /* every record has its own */
    TOKEN_BYTES_MAX = 1 << 24,    /* of one token */
    TOKENIZE_BYTES_MIN = 1 << 20, /* /tokenize counts what does not fit the context, too */
    BLANK_BYTES_MAX = 1 << 20,    /* that may stand in a prompt beside those that must fit */
    /* What a request says of its prompt before a token is computed; generated tokens come beside
     * it. By the bytes that each token usually takes. */
    ANSWER_PROMPT_BYTES_MAX = 16 << 20,
    ID_BYTES = 7,       /* "123456," */
    LOGPROB_BYTES = 24, /* one alternative in a completion's logprobs: "\" word\":-12.345678," */
    ECHO_BYTES = 48,    /* a token's entries in the four lists, without alternatives */
    PROMPT_LOGPROB_BYTES = 72, /* one alternative in prompt_logprobs */
};

/* --- opening ---------------------------------------------------------------------------------- */

static enum st measure_tokens(struct front *f, struct err *err) {
    struct buf bytes = {.max = TOKEN_BYTES_MAX};
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

enum st front_open(struct front *f, const struct front_options *o, struct err *err) {
    *f = (struct front){.model = o->served_name,
                        .trust = o->trust,
                        .defaults = *ckpt_generation(o->ckpt),
                        .vocab = ckpt_config(o->ckpt)->vocab,
                        .max_model_len = o->max_model_len,
                        .time_left_ms = o->time_left_ms};
    f->n_stop_ids = instance_eos_ids(f->stop_ids, o->ckpt);
    snprintf(f->model_id, sizeof f->model_id, "%s", o->model_id);
    snprintf(f->fingerprint, sizeof f->fingerprint, "fp_%.12s", o->model_id);
    enum st st = tok_open(&f->tok, ckpt_dir(o->ckpt), err);
    if (!st) st = measure_tokens(f, err);
    if (!st) st = chat_model_open(&f->chat, ckpt_dir(o->ckpt), err);
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

/* White space and control characters count less: an added token may swallow any amount of white
 * space. All bytes have a bound too, since tokenising them holds up every other request. */
static bool check_bytes(const struct front *f, enum api_kind kind, const char *text, size_t len,
                        const char *param, struct api_error *e) {
    size_t solid = 0;
    uint64_t most = (uint64_t)f->max_model_len * f->token_bytes_max * NORMALISER_SHRINK;
    if (kind == API_TOKENIZE && most < TOKENIZE_BYTES_MIN) most = TOKENIZE_BYTES_MIN;
    if (len <= most) return true;
    for (size_t i = 0; i < len; i++) solid += (unsigned char)text[i] > ' ';
    if (solid <= most && len <= most + BLANK_BYTES_MAX) return true;
    return api_fail(e, 400, param, "context_length_exceeded",
                    "%s: a prompt of %zu bytes cannot fit max-model-len %u", param, len,
                    f->max_model_len);
}

/* Prompt ids and roles become the record's; generated may be NULL: all prompt. There is room for
 * prepend_bos. */
static bool set_prompt(struct request *r, const uint32_t *ids, const uint8_t *generated, size_t n,
                       struct api_error *e) {
    size_t runs = n > 0;
    assert(n < UINT32_MAX);
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
    json_t *request =
        json_pack("{s:O,s:b,s:b}", "messages", messages, "add_generation_prompt",
                  api->add_generation_prompt, "continue_final_message", api->continue_final);
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
              check_bytes(f, api->kind, prompt.text.data, prompt.text.len, "messages", e);
    if (ok && prompt_encode(&ids, f->tok, &prompt, f->trust, &err))
        ok = failed(e, "messages", &err);
    ok = ok && set_prompt(r, ids.ids.v, ids.generated, ids.ids.len, e);
    prompt_ids_release(&ids);
    chat_prompt_release(&prompt);
    return ok;
}

static bool prepare_text(const struct front *f, struct request *r, enum api_kind kind,
                         const struct api_prompt *p, struct api_error *e) {
    struct tok_ids ids = {0};
    struct err err;
    bool ok = check_bytes(f, kind, p->text, p->len, "prompt", e);
    if (ok && tok_encode(&ids, f->tok, p->text, p->len, TOK_ADDED_MATCH, &err))
        ok = failed(e, "prompt", &err);
    ok = ok && set_prompt(r, ids.v, NULL, ids.len, e);
    tok_ids_release(&ids);
    return ok;
}

/* What the tokenizer's post-processor would add: BOS before a text. */
static void prepend_bos(const struct front *f, struct request *r) {
    int64_t bos = tok_bos(f->tok);
    if (!tok_adds_bos(f->tok) || bos < 0) return;
    memmove(r->prompt + 1, r->prompt, r->n_prompt * sizeof *r->prompt);
    r->prompt[0] = (uint32_t)bos;
    r->n_prompt++;
    if (r->n_roles == 0 || r->roles[0].role != ROLE_PROMPT) {
        memmove(r->roles + 1, r->roles, r->n_roles * sizeof *r->roles);
        r->roles[0] = (struct role_run){.role = ROLE_PROMPT};
        r->n_roles++;
    }
    r->roles[0].len++;
}

/* p is NULL for a chat. */
static bool prepare_prompt(const struct front *f, struct request *r, const struct api_request *api,
                           const struct api_prompt *p, struct api_error *e) {
    if (p && p->ids) return set_prompt(r, p->ids, NULL, p->n_ids, e);
    if (!(p ? prepare_text(f, r, api->kind, p, e) : prepare_chat(f, r, api, e))) return false;
    if (api->add_special) prepend_bos(f, r);
    return true;
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
    uint32_t most = f->defaults.max_new_tokens ? f->defaults.max_new_tokens : UINT32_MAX;
    if (api->kind == API_COMPLETION && most > API_COMPLETION_TOKENS) most = API_COMPLETION_TOKENS;
    r->max_tokens = api->max_tokens ? api->max_tokens : room < most ? room : most;
    if (api->min_tokens > r->max_tokens)
        return api_invalid(e, "min_tokens",
                           "min_tokens: found %u, but at most %u tokens can be generated",
                           api->min_tokens, r->max_tokens);
    r->min_tokens = api->min_tokens;
    struct err err;
    return request_make_choices(r, api->best_of, &err) == ST_OK || no_memory(e);
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

static bool set_id(struct job *j, struct api_error *e) {
    uint8_t random[16];
    if (!draw_bytes(random, sizeof random))
        return api_fail(e, 500, NULL, NULL, "no random numbers");
    char hex[2 * sizeof random + 1];
    for (size_t i = 0; i < sizeof random; i++) snprintf(hex + 2 * i, 3, "%02x", random[i]);
    snprintf(j->id, sizeof j->id, "%s-%s", j->kind == API_CHAT ? "chatcmpl" : "cmpl", hex);
    return true;
}

/* The seed of all prompts: given, or drawn once so that the whole answer can be had again. */
static bool set_seed(struct api_request *api, struct api_error *e) {
    struct request drawn = {0};
    if (api->seed_given) return true;
    if (!request_draw_seed(&drawn)) return api_fail(e, 500, NULL, NULL, "no random numbers");
    api->seed = drawn.seed;
    return true;
}

/* Every record owns its bias. */
static bool set_bias(struct request *r, const struct api_request *api, struct api_error *e) {
    size_t n = r->sampling.n_bias;
    r->sampling.bias = NULL;
    if (n == 0) return true;
    struct ops_logit_bias *bias = malloc(n * sizeof *bias);
    if (!bias) return no_memory(e);
    memcpy(bias, api->bias, n * sizeof *bias);
    r->sampling.bias = bias;
    return true;
}

/* About so many bytes of the answer are the record's prompt, in all its choices. */
static uint64_t prompt_bytes(const struct api_request *api, const struct request *r,
                             const struct api_prompt *given) {
    uint64_t n = r->n_prompt, once = 0, each = 0;
    bool chat = api->kind == API_CHAT;
    if (api->prompt_logprobs >= 0 && !api->stream)
        once += n * (uint64_t)(1 + api->prompt_logprobs) * PROMPT_LOGPROB_BYTES;
    if (api->return_ids) once += n * ID_BYTES;
    if (api->echo && !chat) {
        each += given->text ? given->len : n * ID_BYTES;
        if (api->logprobs >= 0)
            each += n * (ECHO_BYTES + (uint64_t)(1 + api->logprobs) * LOGPROB_BYTES);
    }
    if (api->echo_text) each += json_string_length(api->echo_text);
    return chat ? once + each * api->best_of : (once + each) * api->best_of;
}

static bool check_answer(const struct job *j, struct api_error *e) {
    const struct api_request *api = &j->api;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < j->n_records; i++)
        bytes += prompt_bytes(api, &j->records[i], api->prompts ? &api->prompts[i] : NULL);
    if (bytes <= ANSWER_PROMPT_BYTES_MAX) return true;
    const char *param = api->prompt_logprobs >= 0 ? "prompt_logprobs" : api->echo ? "echo" : "n";
    return api_invalid(e, param,
                       "%s: the prompt would take about %llu MiB of the answer, expected at most "
                       "%d; ask for fewer choices, prompts or log-probabilities",
                       param, (unsigned long long)(bytes >> 20), ANSWER_PROMPT_BYTES_MAX >> 20);
}

static bool fill_record(const struct front *f, struct job *j, uint32_t i, struct api_error *e) {
    struct api_request *api = &j->api;
    struct request *r = &j->records[i];
    *r = (struct request){.version = REQUEST_VERSION,
                          .time_left_ms = f->time_left_ms,
                          .sampling = api->sampling,
                          .seed = api->seed,
                          .priority = api->priority,
                          .logprobs = api->logprobs,
                          .prompt_logprobs = api->prompt_logprobs};
    if (api->echo && j->kind == API_COMPLETION && r->prompt_logprobs < r->logprobs)
        r->prompt_logprobs = r->logprobs; /* for both lists; each shows its own number */
    if (api->best_of > api->n && r->logprobs < 0) r->logprobs = 0; /* the best are found by them */
    if (j->n_records == 1)
        snprintf(r->id, sizeof r->id, "%s", j->id);
    else
        snprintf(r->id, sizeof r->id, "%.50s-%u", j->id, i);
    memcpy(r->model_id, f->model_id, sizeof r->model_id);
    memcpy(r->tenant, j->tenant, sizeof r->tenant);
    memcpy(r->salt, api->salt, sizeof r->salt);
    if (!set_bias(r, api, e)) return false;
    for (uint32_t k = 0; k < f->n_stop_ids && !api->ignore_eos; k++) add_stop_id(r, f->stop_ids[k]);
    api->n_eos = r->n_stop_ids;
    for (uint32_t k = 0; k < api->n_stop_ids; k++) add_stop_id(r, api->stop_ids[k]);
    return prepare_prompt(f, r, api, api->prompts ? &api->prompts[i] : NULL, e) &&
           set_limits(f, r, api, e);
}

static bool fill_records(const struct front *f, struct job *j, struct api_error *e) {
    uint32_t n = j->kind == API_CHAT ? 1 : j->api.n_prompts;
    uint64_t tokens = 0, most = f->max_model_len;
    if (most < PROMPT_TOKENS_MAX) most = PROMPT_TOKENS_MAX;
    if ((uint64_t)n * j->api.sampling.n_bias > BIAS_ENTRIES_MAX)
        return api_invalid(e, "logit_bias", "logit_bias: %u entries are too many for %u prompts",
                           j->api.sampling.n_bias, n);
    j->records = calloc(n, sizeof *j->records);
    if (!j->records) return no_memory(e);
    j->n_records = n;
    if (!set_id(j, e) || !set_seed(&j->api, e)) return false;
    for (uint32_t i = 0; i < n; i++) {
        if (!fill_record(f, j, i, e)) return false;
        tokens += j->records[i].n_prompt;
        if (tokens > most)
            return api_invalid(e, "prompt", "prompt: found more than %llu tokens in %u prompts",
                               (unsigned long long)most, n);
    }
    return check_answer(j, e);
}

/* --- /tokenize and /detokenize ---------------------------------------------------------------- */

/* Byte-level BPE's alphabet: GPT-2's bytes_to_unicode. */
static void make_alphabet(uint32_t alphabet[256]) {
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool shown = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        alphabet[b] = shown ? b : next++;
    }
}

/* A token as the vocabulary writes it, which is what transformers' convert_ids_to_tokens returns:
 * in the alphabet, or an added token as it stands. */
static enum st vocabulary_text(struct buf *out, const struct tokenizer *tok, uint32_t id,
                               const uint32_t alphabet[256], struct buf *bytes) {
    uint32_t found;
    out->len = bytes->len = 0;
    enum st st = tok_decode_token(bytes, tok, id, TOK_SPECIAL_SHOW);
    for (size_t i = 0; i < bytes->len && !st; i++) {
        char utf8[4];
        st = buf_append(out, utf8, utf8_put(utf8, alphabet[(uint8_t)bytes->data[i]]));
    }
    if (st || bytes->len == 0 || (tok_id(tok, out->data, &found) && found == id)) return st;
    out->len = 0;
    return buf_append(out, bytes->data, bytes->len);
}

static void write_token_strs(struct json_out *o, const struct front *f, const struct request *r) {
    struct buf text = {.max = TOKEN_BYTES_MAX}, bytes = {.max = TOKEN_BYTES_MAX};
    uint32_t alphabet[256];
    make_alphabet(alphabet);
    json_out_raw(o, "[");
    for (uint32_t i = 0; i < r->n_prompt && !o->st; i++) {
        if (i) json_out_raw(o, ",");
        enum st st = vocabulary_text(&text, f->tok, r->prompt[i], alphabet, &bytes);
        json_out_text(o, text.data ? text.data : "", text.len);
        if (!o->st) o->st = st;
    }
    json_out_raw(o, "]");
    buf_release(&text);
    buf_release(&bytes);
}

static bool written(enum st st, const char *param, const struct job *j, struct api_error *e) {
    if (st != ST_FULL) return !st || no_memory(e);
    return api_invalid(e, param, "%s: the answer would take more than %zu MiB", param,
                       j->whole.max >> 20);
}

static bool tokenize(const struct front *f, struct job *j, struct api_error *e) {
    struct request r = {0};
    struct json_out o = {&j->whole, ST_OK};
    bool ok = prepare_prompt(f, &r, &j->api, j->api.prompts, e);
    if (ok) {
        json_out_raw(&o, "{\"count\":");
        json_out_int(&o, r.n_prompt);
        json_out_raw(&o, ",\"max_model_len\":");
        json_out_int(&o, f->max_model_len);
        json_out_raw(&o, ",\"tokens\":[");
        for (uint32_t i = 0; i < r.n_prompt; i++) {
            if (i) json_out_raw(&o, ",");
            json_out_int(&o, r.prompt[i]);
        }
        json_out_raw(&o, "],\"token_strs\":");
        if (j->api.token_strs)
            write_token_strs(&o, f, &r);
        else
            json_out_raw(&o, "null");
        json_out_raw(&o, "}");
    }
    request_release(&r);
    return ok && written(o.st, "prompt", j, e);
}

static bool detokenize(const struct front *f, struct job *j, struct api_error *e) {
    struct json_out o = {&j->whole, ST_OK};
    struct buf text = {.max = j->whole.max};
    struct tok_stream stream = {0};
    const struct api_prompt *p = j->api.prompts;
    enum st st = buf_append(&text, "", 0); /* so that data is not NULL */
    for (uint32_t i = 0; i < p->n_ids && !st; i++)
        st = tok_stream_push(&stream, &text, f->tok, p->ids[i], TOK_SPECIAL_SHOW);
    if (!st) st = tok_stream_end(&stream, &text);
    o.st = st;
    json_out_raw(&o, "{\"prompt\":");
    if (!o.st) json_out_text(&o, text.data, text.len);
    json_out_raw(&o, "}");
    buf_release(&text);
    return written(o.st, "tokens", j, e);
}

bool front_prepare(const struct front *f, struct job *j, struct api_error *e) {
    struct api_context ctx = {.model = f->model, .defaults = &f->defaults, .vocab = f->vocab};
    bool ok = api_request_parse(&j->api, j->kind, j->body, j->body_len, &ctx, e);
    free(j->body);
    j->body = NULL;
    if (ok) switch (j->kind) {
        case API_CHAT:
        case API_COMPLETION: ok = fill_records(f, j, e); break;
        case API_TOKENIZE: ok = tokenize(f, j, e); break;
        case API_DETOKENIZE: ok = detokenize(f, j, e); break;
        }
    api_request_drop_body(&j->api);
    return ok;
}

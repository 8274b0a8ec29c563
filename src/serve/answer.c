/* SPDX-License-Identifier: Apache-2.0 */
/* Implements answer.h. The shapes are those of OpenAI's API reference (chat.completion,
 * chat.completion.chunk, text_completion); counting and logprobs of end tokens as in vLLM: the EOS
 * token counts and has its entry, its text is empty. */
#include "serve/answer.h"

#include <assert.h>
#include <string.h>

#include "serve/json_out.h"
#include "text/utf8.h"

enum { TEXT_MAX = 256 << 20, LIST_MAX = 256 << 20, TOKEN_MAX = 1 << 20 };

void answer_init(struct answer *a, const struct answer_head *head, const struct api_request *api,
                 const struct request *record, const struct tokenizer *tok) {
    *a = (struct answer){.head = *head,
                         .api = api,
                         .record = record,
                         .tok = tok,
                         .text = {.max = TEXT_MAX},
                         .token = {.max = TOKEN_MAX}};
    for (int i = 0; i < ANSWER_LISTS; i++) a->lists[i].max = LIST_MAX;
    text_output_init(&a->output, tok, api->skip_special ? TOK_SPECIAL_SKIP : TOK_SPECIAL_SHOW);
    for (uint32_t i = 0; i < api->n_stops; i++)
        a->output.stops[a->output.n_stops++] = api->stops[i];
}

void answer_release(struct answer *a) {
    text_output_release(&a->output);
    buf_release(&a->text);
    buf_release(&a->token);
    for (int i = 0; i < ANSWER_LISTS; i++) buf_release(&a->lists[i]);
}

/* --- log-probabilities ------------------------------------------------------------------------ */

static enum st decode(struct answer *a, uint32_t id) {
    a->token.len = 0;
    enum st st = tok_decode_token(&a->token, a->tok, id, TOK_SPECIAL_SHOW);
    return st ? st : buf_append(&a->token, "", 0); /* so that data is not NULL */
}

static void separate(struct json_out *o) {
    if (o->buf->len) json_out_raw(o, ",");
}

/* Chat: "token":"..","logprob":-0.1,"bytes":[..] of the token in a->token. */
static void write_token(struct json_out *o, const struct answer *a, float logprob) {
    json_out_raw(o, "\"token\":");
    json_out_text(o, a->token.data, a->token.len);
    json_out_raw(o, ",\"logprob\":");
    json_out_float(o, logprob);
    json_out_raw(o, ",\"bytes\":[");
    for (size_t i = 0; i < a->token.len; i++) {
        if (i) json_out_raw(o, ",");
        json_out_int(o, (uint8_t)a->token.data[i]);
    }
    json_out_raw(o, "]");
}

static enum st add_chat_logprobs(struct answer *a, const struct token_out *t) {
    struct json_out o = {&a->lists[ANSWER_CONTENT], decode(a, t->id)};
    separate(&o);
    json_out_raw(&o, "{");
    write_token(&o, a, t->logprob);
    json_out_raw(&o, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < t->n_top && !o.st; i++) {
        o.st = decode(a, t->top[i].id);
        json_out_raw(&o, i ? ",{" : "{");
        write_token(&o, a, t->top[i].logprob);
        json_out_raw(&o, "}");
    }
    json_out_raw(&o, "]}");
    return o.st;
}

/* Writes the token's text as an object's key unless it is there already: half characters all read
 * U+FFFD, and an object must not have a key twice. keys holds those that are there, each between
 * newlines, which escaped text never has. */
static bool add_key(struct buf *keys, struct json_out *o, const struct answer *a) {
    struct json_out k = {keys, o->st};
    if (keys->len == 0) json_out_raw(&k, "\n");
    size_t from = keys->len;
    json_out_text(&k, a->token.data, a->token.len);
    size_t len = keys->len - from;
    json_out_raw(&k, "\n");
    o->st = k.st;
    if (k.st) return false;
    if (memmem(keys->data, from, keys->data + from - 1, len + 2)) {
        keys->len = from;
        return false;
    }
    separate(o);
    json_out_bytes(o, keys->data + from, len);
    return true;
}

/* {"token": logprob, ...}: the chosen token first, then the likeliest. */
static enum st add_top_object(struct answer *a, const struct token_out *t) {
    struct buf keys = {.max = LIST_MAX}, members = {.max = LIST_MAX};
    struct json_out m = {&members, decode(a, t->id)};
    if (!m.st && add_key(&keys, &m, a)) {
        json_out_raw(&m, ":");
        json_out_float(&m, t->logprob);
    }
    for (uint32_t i = 0; i < t->n_top && !m.st; i++) {
        if (t->top[i].id == t->id) continue;
        m.st = decode(a, t->top[i].id);
        if (m.st || !add_key(&keys, &m, a)) continue;
        json_out_raw(&m, ":");
        json_out_float(&m, t->top[i].logprob);
    }
    struct json_out o = {&a->lists[ANSWER_TOP_LOGPROBS], m.st};
    separate(&o);
    json_out_raw(&o, "{");
    json_out_bytes(&o, members.data, members.len);
    json_out_raw(&o, "}");
    buf_release(&keys);
    buf_release(&members);
    return o.st;
}

static uint32_t count_chars(const struct buf *text) {
    uint32_t n = 0, cp;
    for (size_t i = 0; i < text->len; n++) i += utf8_next(&cp, text->data + i, text->len - i);
    return n;
}

static enum st add_completion_logprobs(struct answer *a, const struct token_out *t) {
    enum st st = add_top_object(a, t);
    if (!st) st = decode(a, t->id);
    struct json_out o = {&a->lists[ANSWER_TOKENS], st};
    separate(&o);
    json_out_text(&o, a->token.data, a->token.len);
    o.buf = &a->lists[ANSWER_TOKEN_LOGPROBS];
    separate(&o);
    json_out_float(&o, t->logprob);
    o.buf = &a->lists[ANSWER_TEXT_OFFSET];
    separate(&o);
    json_out_int(&o, a->text_offset);
    if (!o.st) a->text_offset += count_chars(&a->token);
    return o.st;
}

static void write_list(struct json_out *o, const struct answer *a, const char *name,
                       enum answer_list list) {
    json_out_raw(o, name);
    json_out_bytes(o, a->lists[list].data, a->lists[list].len);
    json_out_raw(o, "]");
}

/* The value of "logprobs" for the tokens since the last chunk. */
static void write_logprobs(struct json_out *o, const struct answer *a) {
    if (a->record->logprobs < 0) {
        json_out_raw(o, "null");
    } else if (a->api->kind == API_CHAT) {
        write_list(o, a, "{\"content\":[", ANSWER_CONTENT);
        json_out_raw(o, ",\"refusal\":null}");
    } else {
        write_list(o, a, "{\"tokens\":[", ANSWER_TOKENS);
        write_list(o, a, ",\"token_logprobs\":[", ANSWER_TOKEN_LOGPROBS);
        write_list(o, a, ",\"top_logprobs\":[", ANSWER_TOP_LOGPROBS);
        write_list(o, a, ",\"text_offset\":[", ANSWER_TEXT_OFFSET);
        json_out_raw(o, "}");
    }
}

/* --- objects ---------------------------------------------------------------------------------- */

static void write_head(struct json_out *o, const struct answer *a, const char *object) {
    json_out_raw(o, "{\"id\":\"");
    json_out_raw(o, a->head.id);
    json_out_raw(o, "\",\"object\":\"");
    json_out_raw(o, object);
    json_out_raw(o, "\",\"created\":");
    json_out_int(o, a->head.created);
    json_out_raw(o, ",\"model\":");
    json_out_text(o, a->head.model, strlen(a->head.model));
    json_out_raw(o, ",\"system_fingerprint\":\"");
    json_out_raw(o, a->head.fingerprint);
    json_out_raw(o, "\"");
}

static void write_usage(struct json_out *o, const struct answer *a) {
    json_out_raw(o, ",\"usage\":{\"prompt_tokens\":");
    json_out_int(o, a->record->n_prompt);
    json_out_raw(o, ",\"completion_tokens\":");
    json_out_int(o, a->n_tokens);
    json_out_raw(o, ",\"total_tokens\":");
    json_out_int(o, (int64_t)a->record->n_prompt + a->n_tokens);
    json_out_raw(o, "}");
}

/* The seed that was drawn or given, so that an answer can be had again. */
static void write_seed(struct json_out *o, const struct answer *a) {
    json_out_raw(o, ",\"seed\":");
    json_out_int(o, a->record->seed);
}

static void write_finish(struct json_out *o, const char *finish) {
    json_out_raw(o, ",\"finish_reason\":");
    json_out_raw(o, finish ? "\"" : "null");
    if (finish) json_out_raw(o, finish), json_out_raw(o, "\"");
}

/* One SSE event with one choice. role: the first of a chat; text NULL: an empty delta. */
static enum st write_chunk(const struct answer *a, struct buf *out, bool role,
                           const struct buf *text, const char *finish) {
    bool chat = a->api->kind == API_CHAT;
    struct json_out o = {out, ST_OK};
    json_out_raw(&o, "data: ");
    write_head(&o, a, chat ? "chat.completion.chunk" : "text_completion");
    if (finish) write_seed(&o, a);
    json_out_raw(&o, chat ? ",\"choices\":[{\"index\":0,\"delta\":{"
                          : ",\"choices\":[{\"index\":0,\"text\":");
    if (role) json_out_raw(&o, "\"role\":\"assistant\",\"content\":\"\"");
    if (chat && text) json_out_raw(&o, "\"content\":");
    if (text || !chat) json_out_text(&o, text ? text->data : "", text ? text->len : 0);
    json_out_raw(&o, chat ? "},\"logprobs\":" : ",\"logprobs\":");
    if (text)
        write_logprobs(&o, a);
    else
        json_out_raw(&o, "null");
    write_finish(&o, finish);
    json_out_raw(&o, a->api->include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    return o.st;
}

static enum st write_whole(const struct answer *a, struct buf *out) {
    bool chat = a->api->kind == API_CHAT;
    struct json_out o = {out, ST_OK};
    write_head(&o, a, chat ? "chat.completion" : "text_completion");
    write_seed(&o, a);
    json_out_raw(
        &o, chat ? ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                 : ",\"choices\":[{\"index\":0,\"text\":");
    json_out_text(&o, a->text.data ? a->text.data : "", a->text.len);
    json_out_raw(&o, chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
    write_logprobs(&o, a);
    write_finish(&o, a->finish);
    json_out_raw(&o, "}]");
    write_usage(&o, a);
    json_out_raw(&o, "}");
    return o.st;
}

/* --- the stream ------------------------------------------------------------------------------- */

/* Text and logprobs since the last chunk, if there are any. */
static enum st flush_chunk(struct answer *a, struct buf *out) {
    if (a->text.len == 0 && a->lists[0].len == 0) return ST_OK;
    enum st st = buf_append(&a->text, "", 0); /* so that data is not NULL */
    if (!st) st = write_chunk(a, out, false, &a->text, NULL);
    a->text.len = 0;
    for (int i = 0; i < ANSWER_LISTS; i++) a->lists[i].len = 0;
    return st;
}

static enum st finish_stream(struct answer *a, struct buf *out) {
    enum st st = write_chunk(a, out, false, NULL, a->finish);
    struct json_out o = {out, st};
    if (a->api->include_usage) {
        json_out_raw(&o, "data: ");
        write_head(&o, a, a->api->kind == API_CHAT ? "chat.completion.chunk" : "text_completion");
        json_out_raw(&o, ",\"choices\":[]");
        write_usage(&o, a);
        json_out_raw(&o, "}\n\n");
    }
    json_out_raw(&o, "data: [DONE]\n\n");
    return o.st;
}

static enum st take(struct answer *a, const struct token_out *t) {
    enum st st = ST_OK;
    a->n_tokens++;
    if (t->finish != FINISH_STOP)
        st = text_output_push(&a->output, &a->text, t->id, a->n_tokens > a->record->min_tokens);
    if (!st && a->record->logprobs >= 0)
        st = a->api->kind == API_CHAT ? add_chat_logprobs(a, t) : add_completion_logprobs(a, t);
    if (a->output.stopped_by >= 0 || t->finish == FINISH_STOP)
        a->finish = "stop";
    else if (t->finish == FINISH_LENGTH)
        a->finish = "length";
    if (!st && a->finish && a->output.stopped_by < 0) st = text_output_end(&a->output, &a->text);
    return st;
}

enum st answer_token(struct answer *a, const struct token_out *t, struct buf *out) {
    assert(!a->finish);
    enum st st = take(a, t);
    if (st) return st;
    if (!a->api->stream) return a->finish ? write_whole(a, out) : ST_OK;
    if (!a->begun && a->api->kind == API_CHAT) st = write_chunk(a, out, true, NULL, NULL);
    a->begun = true;
    if (!st) st = flush_chunk(a, out);
    if (!st && a->finish) st = finish_stream(a, out);
    return st;
}

enum st answer_error_event(struct buf *out, const struct api_error *e) {
    enum st st = buf_append_str(out, "data: ");
    if (!st) st = api_error_write(out, e);
    if (!st) st = buf_append_str(out, "\n\ndata: [DONE]\n\n");
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements answer_logprobs.h: chat has OpenAI's objects with the token's bytes, completions four
 * lists, prompt_logprobs vLLM's dictionaries from ids. */
#include "serve/answer_logprobs.h"

#include <string.h>

#include "serve/json_out.h"
#include "text/utf8.h"

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

enum st answer_chat_logprobs(struct answer *a, struct buf *lists, const struct token_out *t) {
    struct json_out o = {&lists[ANSWER_CONTENT], decode(a, t->id)};
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

/* {"token": logprob, ...}: the chosen token first, then the n likeliest. */
static enum st add_top_object(struct answer *a, struct buf *list, const struct token_out *t,
                              uint32_t n) {
    struct buf keys = {.max = ANSWER_LIST_MAX}, members = {.max = ANSWER_LIST_MAX};
    struct json_out m = {&members, decode(a, t->id)};
    if (!m.st && add_key(&keys, &m, a)) {
        json_out_raw(&m, ":");
        json_out_float(&m, t->logprob);
    }
    for (uint32_t i = 0; i < n && !m.st; i++) {
        if (t->top[i].id == t->id) continue;
        m.st = decode(a, t->top[i].id);
        if (m.st || !add_key(&keys, &m, a)) continue;
        json_out_raw(&m, ":");
        json_out_float(&m, t->top[i].logprob);
    }
    struct json_out o = {list, m.st};
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

enum st answer_completion_logprobs(struct answer *a, struct buf *lists, uint32_t *offset,
                                   const struct token_out *t, bool known) {
    uint32_t n = t->n_top, shown = a->api->logprobs > 0 ? (uint32_t)a->api->logprobs : 0;
    struct json_out o = {&lists[ANSWER_TOP_LOGPROBS], ST_OK};
    if (known) {
        o.st = add_top_object(a, o.buf, t, n < shown ? n : shown);
    } else {
        separate(&o);
        json_out_raw(&o, "null");
    }
    if (!o.st) o.st = decode(a, t->id);
    o.buf = &lists[ANSWER_TOKENS];
    separate(&o);
    json_out_text(&o, a->token.data, a->token.len);
    o.buf = &lists[ANSWER_TOKEN_LOGPROBS];
    separate(&o);
    if (known)
        json_out_float(&o, t->logprob);
    else
        json_out_raw(&o, "null");
    o.buf = &lists[ANSWER_TEXT_OFFSET];
    separate(&o);
    json_out_int(&o, *offset);
    if (!o.st) *offset += count_chars(&a->token);
    return o.st;
}

/* "17":{"logprob":-0.1,"rank":1,"decoded_token":"a"} */
static void write_prompt_token(struct json_out *o, struct answer *a, uint32_t id, float logprob,
                               uint32_t rank) {
    if (!o->st) o->st = decode(a, id);
    json_out_raw(o, "\"");
    json_out_int(o, id);
    json_out_raw(o, "\":{\"logprob\":");
    json_out_float(o, logprob);
    json_out_raw(o, ",\"rank\":");
    if (rank)
        json_out_int(o, rank);
    else
        json_out_raw(o, "null");
    json_out_raw(o, ",\"decoded_token\":");
    if (!o->st) json_out_text(o, a->token.data, a->token.len);
    json_out_raw(o, "}");
}

enum st answer_prompt_logprobs(struct answer *a, struct buf *list, const struct token_out *t) {
    struct json_out o = {list, ST_OK};
    uint32_t rank = 0, shown = (uint32_t)a->api->prompt_logprobs,
             n = t->n_top < shown ? t->n_top : shown; /* an echo's logprobs may want more */
    for (uint32_t i = 0; i < n && rank == 0; i++)
        if (t->top[i].id == t->id) rank = i + 1;
    json_out_raw(&o, list->len ? ",{" : "null,{");
    write_prompt_token(&o, a, t->id, t->logprob, rank);
    for (uint32_t i = 0; i < n; i++) {
        if (t->top[i].id == t->id) continue;
        json_out_raw(&o, ",");
        write_prompt_token(&o, a, t->top[i].id, t->top[i].logprob, i + 1);
    }
    json_out_raw(&o, "}");
    return o.st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements answer.h. The shapes are those of OpenAI's API reference (chat.completion,
 * chat.completion.chunk, text_completion) with vLLM's additions (stop_reason, prompt_logprobs,
 * token_ids); counting and logprobs of end tokens as in vLLM: the EOS token counts and has its
 * entry, its text is empty. */
#include "serve/answer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "serve/answer_logprobs.h"
#include "serve/json_out.h"

enum { TEXT_MAX = ANSWER_BYTES_MAX, TOKEN_MAX = 1 << 20, PREFIX_MAX = 1 << 20 };

/* --- lists ------------------------------------------------------------------------------------ */

/* `before` may be NULL: the items of an echoed prompt. */
static void write_list(struct json_out *o, const char *name, const struct buf *before,
                       const struct buf *lists, enum answer_list list) {
    json_out_raw(o, name);
    if (before) json_out_bytes(o, before[list].data, before[list].len);
    if (before && before[list].len && lists[list].len) json_out_raw(o, ",");
    json_out_bytes(o, lists[list].data, lists[list].len);
    json_out_raw(o, "]");
}

/* The value of "logprobs" for the tokens since the last chunk. */
static void write_logprobs(struct json_out *o, const struct answer *a,
                           const struct answer_prompt *p, const struct answer_choice *c) {
    const struct buf *before = a->api->echo && !c->chunked ? p->lists : NULL, *lists = c->lists;
    if (a->api->logprobs < 0) {
        json_out_raw(o, "null");
    } else if (a->api->kind == API_CHAT) {
        write_list(o, "{\"content\":[", NULL, lists, ANSWER_CONTENT);
        json_out_raw(o, ",\"refusal\":null}");
    } else {
        write_list(o, "{\"tokens\":[", before, lists, ANSWER_TOKENS);
        write_list(o, ",\"token_logprobs\":[", before, lists, ANSWER_TOKEN_LOGPROBS);
        write_list(o, ",\"top_logprobs\":[", before, lists, ANSWER_TOP_LOGPROBS);
        write_list(o, ",\"text_offset\":[", before, lists, ANSWER_TEXT_OFFSET);
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

static void write_counts(struct json_out *o, uint64_t prompt, uint64_t completion) {
    json_out_raw(o, ",\"usage\":{\"prompt_tokens\":");
    json_out_int(o, (int64_t)prompt);
    json_out_raw(o, ",\"completion_tokens\":");
    json_out_int(o, (int64_t)completion);
    json_out_raw(o, ",\"total_tokens\":");
    json_out_int(o, (int64_t)(prompt + completion));
}

/* Of all prompts, each once, and all choices, those that best_of left out too. */
static void write_usage(struct json_out *o, const struct answer *a) {
    uint64_t prompt = 0, completion = 0, cached = 0;
    for (uint32_t i = 0; i < a->n_prompts; i++) {
        const struct answer_prompt *p = &a->prompts[i];
        prompt += p->record->n_prompt;
        cached += p->n_cached;
        for (uint32_t k = 0; k < p->record->n_choices; k++) completion += p->choices[k].n_tokens;
    }
    write_counts(o, prompt, completion);
    json_out_raw(o, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    json_out_int(o, (int64_t)cached);
    json_out_raw(o, "}}");
}

/* The seed that was drawn or given, so that an answer can be had again. */
static void write_seed(struct json_out *o, const struct answer *a) {
    json_out_raw(o, ",\"seed\":");
    json_out_int(o, a->prompts[0].record->seed);
}

static void write_finish(struct json_out *o, const struct answer_choice *c) {
    json_out_raw(o, ",\"finish_reason\":\"");
    json_out_raw(o, c->finish);
    json_out_raw(o, "\",\"stop_reason\":");
    if (c->stop_string)
        json_out_text(o, c->stop_string, strlen(c->stop_string));
    else if (c->stop_id >= 0)
        json_out_int(o, c->stop_id);
    else
        json_out_raw(o, "null");
}

static void write_prompt_ids(struct json_out *o, const struct request *r) {
    json_out_raw(o, ",\"prompt_token_ids\":[");
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        if (i) json_out_raw(o, ",");
        json_out_int(o, r->prompt[i]);
    }
    json_out_raw(o, "]");
}

static uint32_t index_of(const struct answer *a, const struct answer_prompt *p,
                         const struct answer_choice *c) {
    return (uint32_t)(p - a->prompts) * a->api->n + (uint32_t)(c - p->choices);
}

/* What a chunk carries beside the constant parts. */
enum chunk { CHUNK_ROLE, CHUNK_TEXT, CHUNK_FINISH };

static void write_delta(struct json_out *o, const struct answer *a, const struct answer_prompt *p,
                        const struct answer_choice *c, enum chunk chunk) {
    bool chat = a->api->kind == API_CHAT, text = chunk == CHUNK_TEXT;
    json_out_raw(o, chat ? ",\"delta\":{" : ",\"text\":");
    if (chunk == CHUNK_ROLE) {
        json_out_raw(o, "\"role\":");
        json_out_text(o, a->api->role, strlen(a->api->role));
        json_out_raw(o, ",\"content\":\"\"");
    }
    if (chat && text) json_out_raw(o, "\"content\":");
    if (text || !chat) json_out_text(o, text ? c->text.data : "", text ? c->text.len : 0);
    json_out_raw(o, chat ? "},\"logprobs\":" : ",\"logprobs\":");
    if (text)
        write_logprobs(o, a, p, c);
    else
        json_out_raw(o, "null");
    if (text && a->api->return_ids) {
        write_list(o, ",\"token_ids\":[", NULL, c->lists, ANSWER_IDS);
        if (!chat && !c->chunked) write_prompt_ids(o, p->record);
    }
}

/* One SSE event with one choice. */
static enum st write_chunk(const struct answer *a, struct buf *out, const struct answer_prompt *p,
                           const struct answer_choice *c, enum chunk chunk) {
    struct json_out o = {out, ST_OK};
    json_out_bytes(&o, a->prefix.data, a->prefix.len);
    if (chunk == CHUNK_FINISH) write_seed(&o, a);
    if (chunk == CHUNK_ROLE && a->api->return_ids) write_prompt_ids(&o, p->record);
    json_out_raw(&o, ",\"choices\":[{\"index\":");
    json_out_int(&o, index_of(a, p, c));
    write_delta(&o, a, p, c, chunk);
    if (chunk == CHUNK_FINISH)
        write_finish(&o, c);
    else
        json_out_raw(&o, ",\"finish_reason\":null");
    json_out_raw(&o, "}]");
    if (a->api->continuous_usage) {
        write_counts(&o, p->record->n_prompt, chunk == CHUNK_ROLE ? 0 : c->n_tokens);
        json_out_raw(&o, "}");
    } else if (a->api->include_usage) {
        json_out_raw(&o, ",\"usage\":null");
    }
    json_out_raw(&o, "}\n\n");
    return o.st;
}

static void write_choice(struct json_out *o, const struct answer *a, const struct answer_prompt *p,
                         const struct answer_choice *c, uint32_t index) {
    bool chat = a->api->kind == API_CHAT;
    json_out_raw(o, index ? ",{\"index\":" : "{\"index\":");
    json_out_int(o, index);
    if (chat) {
        json_out_raw(o, ",\"message\":{\"role\":");
        json_out_text(o, a->api->role, strlen(a->api->role));
    }
    json_out_raw(o, chat ? ",\"content\":" : ",\"text\":");
    json_out_text(o, c->text.data, c->text.len);
    json_out_raw(o, chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
    write_logprobs(o, a, p, c);
    write_finish(o, c);
    if (a->api->return_ids) write_list(o, ",\"token_ids\":[", NULL, c->lists, ANSWER_IDS);
    if (!chat && a->api->return_ids) write_prompt_ids(o, p->record);
    if (!chat && a->api->prompt_logprobs >= 0)
        write_list(o, p->logprobs.len ? ",\"prompt_logprobs\":[" : ",\"prompt_logprobs\":[null",
                   NULL, &p->logprobs, 0);
    json_out_raw(o, "}");
}

/* More log-probability a token goes first; of equals the one with the smaller number. */
static void rank(uint32_t order[REQUEST_CHOICES_MAX], const struct answer_prompt *p) {
    double mean[REQUEST_CHOICES_MAX];
    for (uint32_t i = 0; i < p->record->n_choices; i++) {
        const struct answer_choice *c = &p->choices[i];
        double m = c->logprob / (c->n_taken ? c->n_taken : 1);
        uint32_t at = i;
        mean[i] = isnan(m) ? -INFINITY : m;
        for (; at > 0 && mean[order[at - 1]] < mean[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
}

static enum st write_whole(const struct answer *a, struct buf *out) {
    bool chat = a->api->kind == API_CHAT;
    struct json_out o = {out, ST_OK};
    uint32_t order[REQUEST_CHOICES_MAX], n = a->api->n;
    write_head(&o, a, chat ? "chat.completion" : "text_completion");
    write_seed(&o, a);
    json_out_raw(&o, ",\"choices\":[");
    for (uint32_t i = 0; i < a->n_prompts; i++) {
        const struct answer_prompt *p = &a->prompts[i];
        bool best = p->record->n_choices > n;
        if (best) rank(order, p);
        for (uint32_t k = 0; k < n; k++)
            write_choice(&o, a, p, &p->choices[best ? order[k] : k], i * n + k);
    }
    json_out_raw(&o, "]");
    write_usage(&o, a);
    if (chat && a->api->return_ids) write_prompt_ids(&o, a->prompts[0].record);
    if (chat && a->api->prompt_logprobs >= 0) {
        const struct buf *list = &a->prompts[0].logprobs;
        write_list(&o, list->len ? ",\"prompt_logprobs\":[" : ",\"prompt_logprobs\":[null", NULL,
                   list, 0);
    }
    json_out_raw(&o, "}");
    return o.st;
}

/* --- life ------------------------------------------------------------------------------------- */

static void choice_init(struct answer_choice *c, const struct api_request *api,
                        const struct tokenizer *tok) {
    c->stop_id = -1;
    c->text.max = TEXT_MAX;
    for (int i = 0; i < ANSWER_LISTS; i++) c->lists[i].max = ANSWER_LIST_MAX;
    text_output_init(&c->output, tok, api->skip_special ? TOK_SPECIAL_SKIP : TOK_SPECIAL_SHOW);
    for (uint32_t i = 0; i < api->n_stops; i++)
        c->output.stops[c->output.n_stops++] = api->stops[i];
}

static enum st prompt_init(struct answer *a, struct answer_prompt *p, const struct request *r) {
    p->choices = calloc(r->n_choices, sizeof *p->choices);
    if (!p->choices) return ST_NO_MEMORY;
    p->record = r;
    for (uint32_t i = 0; i < r->n_choices; i++) choice_init(&p->choices[i], a->api, a->tok);
    p->logprobs.max = ANSWER_LIST_MAX;
    for (int i = 0; i < ANSWER_LISTS; i++) p->lists[i].max = ANSWER_LIST_MAX;
    p->n_taken = 1;
    if (!a->api->echo || a->api->kind == API_CHAT || a->api->logprobs < 0) return ST_OK;
    struct token_out first = {.id = r->prompt[0]};
    return answer_completion_logprobs(a, p->lists, &p->text_offset, &first, false);
}

enum st answer_init(struct answer *a, const struct answer_head *head, const struct api_request *api,
                    const struct request *records, uint32_t n_records,
                    const struct tokenizer *tok) {
    *a = (struct answer){.head = *head,
                         .api = api,
                         .tok = tok,
                         .token = {.max = TOKEN_MAX},
                         .prefix = {.max = PREFIX_MAX}};
    struct json_out o = {&a->prefix, ST_OK};
    json_out_raw(&o, "data: ");
    write_head(&o, a, api->kind == API_CHAT ? "chat.completion.chunk" : "text_completion");
    a->prompts = calloc(n_records, sizeof *a->prompts);
    if (!a->prompts) return ST_NO_MEMORY;
    a->n_prompts = n_records;
    for (uint32_t i = 0; i < n_records && !o.st; i++) {
        a->n_open += records[i].n_choices;
        o.st = prompt_init(a, &a->prompts[i], &records[i]);
    }
    return o.st;
}

static void lists_release(struct buf lists[ANSWER_LISTS]) {
    for (int i = 0; i < ANSWER_LISTS; i++) buf_release(&lists[i]);
}

void answer_release(struct answer *a) {
    for (uint32_t i = 0; i < a->n_prompts; i++) {
        struct answer_prompt *p = &a->prompts[i];
        for (uint32_t k = 0; p->choices && k < p->record->n_choices; k++) {
            text_output_release(&p->choices[k].output);
            buf_release(&p->choices[k].text);
            lists_release(p->choices[k].lists);
        }
        free(p->choices);
        lists_release(p->lists);
        buf_release(&p->logprobs);
    }
    free(a->prompts);
    buf_release(&a->token);
    buf_release(&a->prefix);
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* A chat repeats the message it goes on with, a completion its prompt: the text as it was given, or
 * what the ids say. */
static enum st begin_text(struct answer *a, const struct answer_prompt *p,
                          struct answer_choice *c) {
    enum st st = buf_append(&c->text, "", 0); /* so that data is not NULL */
    if (st || !a->api->echo) return st;
    if (a->api->kind == API_CHAT)
        return a->api->echo_text ? buf_append(&c->text, json_string_value(a->api->echo_text),
                                              json_string_length(a->api->echo_text))
                                 : ST_OK;
    const struct api_prompt *given = &a->api->prompts[p - a->prompts];
    if (given->text) return buf_append(&c->text, given->text, given->len);
    struct tok_stream stream = {0};
    for (uint32_t i = 0; i < p->record->n_prompt && !st; i++)
        st = tok_stream_push(&stream, &c->text, a->tok, p->record->prompt[i], TOK_SPECIAL_SHOW);
    return st ? st : tok_stream_end(&stream, &c->text);
}

/* The end by a stop id is not text, unless the client wants to see what ended it. */
static enum st push_text(struct answer *a, const struct answer_prompt *p, struct answer_choice *c,
                         const struct token_out *t) {
    enum st st = ST_OK;
    bool stop_id = t->finish == FINISH_STOP;
    if (!stop_id || a->api->include_stop)
        st = text_output_push(&c->output, &c->text, t->id,
                              !stop_id && c->n_taken > p->record->min_tokens);
    if (!st && c->output.stopped_by >= 0) {
        c->stop_string = c->output.stops[c->output.stopped_by];
        if (a->api->include_stop) st = buf_append_str(&c->text, c->stop_string);
    }
    return st;
}

static void set_finish(struct answer *a, const struct answer_prompt *p, struct answer_choice *c,
                       const struct token_out *t) {
    const struct request *r = p->record;
    if (c->stop_string || t->finish == FINISH_STOP)
        c->finish = "stop";
    else if (t->finish == FINISH_LENGTH)
        c->finish = "length";
    if (a->api->echo_only) c->finish = "length";
    if (!c->finish) return;
    a->n_open--;
    for (uint32_t i = a->api->n_eos; i < r->n_stop_ids && t->finish == FINISH_STOP; i++)
        if (r->stop_ids[i] == t->id) c->stop_id = t->id;
}

static enum st take(struct answer *a, const struct answer_prompt *p, struct answer_choice *c,
                    const struct token_out *t) {
    const struct api_request *api = a->api;
    enum st st = ST_OK;
    c->n_taken++;
    a->n_tokens++;
    c->logprob += (double)t->logprob;
    if (!api->echo_only) {
        c->n_tokens++;
        st = push_text(a, p, c, t);
        if (!st && api->logprobs >= 0)
            st = api->kind == API_CHAT
                     ? answer_chat_logprobs(a, c->lists, t)
                     : answer_completion_logprobs(a, c->lists, &c->text_offset, t, true);
        struct json_out ids = {&c->lists[ANSWER_IDS], st};
        if (api->return_ids) {
            if (ids.buf->len) json_out_raw(&ids, ",");
            json_out_int(&ids, t->id);
        }
        st = ids.st;
    }
    set_finish(a, p, c, t);
    if (!st && c->finish && !c->stop_string) st = text_output_end(&c->output, &c->text);
    return st;
}

static enum st begin(struct answer *a, struct answer_prompt *p, struct answer_choice *c,
                     const struct token_out *t, struct buf *out) {
    c->begun = true;
    c->text_offset = p->text_offset;
    p->n_cached = t->n_cached;
    if (p->record->prompt_logprobs >= 0 && p->n_taken < p->record->n_prompt) return ST_UNSUPPORTED;
    enum st st = begin_text(a, p, c);
    if (!st && a->api->stream && a->api->kind == API_CHAT)
        st = write_chunk(a, out, p, c, CHUNK_ROLE);
    return st;
}

/* Text and lists since the last chunk, if there are any. */
static enum st flush_chunk(struct answer *a, struct answer_prompt *p, struct answer_choice *c,
                           struct buf *out) {
    if (c->text.len == 0 && c->lists[0].len == 0 && c->lists[ANSWER_IDS].len == 0) return ST_OK;
    enum st st = write_chunk(a, out, p, c, CHUNK_TEXT);
    c->chunked = true;
    c->text.len = 0;
    for (int i = 0; i < ANSWER_LISTS; i++) c->lists[i].len = 0;
    return st;
}

static enum st finish_stream(const struct answer *a, struct buf *out) {
    struct json_out o = {out, ST_OK};
    if (a->api->include_usage) {
        json_out_bytes(&o, a->prefix.data, a->prefix.len);
        json_out_raw(&o, ",\"choices\":[]");
        write_usage(&o, a);
        json_out_raw(&o, "}\n\n");
    }
    json_out_raw(&o, "data: [DONE]\n\n");
    return o.st;
}

/* What the model thinks of the prompt's token at t->position. */
static enum st take_prompt(struct answer *a, struct answer_prompt *p, const struct token_out *t) {
    enum st st = ST_OK;
    if (t->choice != 0 || t->position != p->n_taken || p->record->prompt_logprobs < 0) return ST_OK;
    p->n_taken++;
    if (!a->api->stream) st = answer_prompt_logprobs(a, &p->logprobs, t);
    if (!st && a->api->echo && a->api->kind == API_COMPLETION && a->api->logprobs >= 0)
        st = answer_completion_logprobs(a, p->lists, &p->text_offset, t, true);
    return st;
}

static size_t list_bytes(const struct buf lists[ANSWER_LISTS]) {
    size_t n = 0;
    for (int i = 0; i < ANSWER_LISTS; i++) n += lists[i].len;
    return n;
}

/* What take and begin may add to. */
static size_t choice_bytes(const struct answer_choice *c) {
    return c->text.len + list_bytes(c->lists);
}

static enum st take_prompt_counted(struct answer *a, struct answer_prompt *p,
                                   const struct token_out *t) {
    size_t before = list_bytes(p->lists) + p->logprobs.len;
    enum st st = take_prompt(a, p, t);
    a->n_bytes += list_bytes(p->lists) + p->logprobs.len - before;
    return st ? st : a->n_bytes > ANSWER_BYTES_MAX ? ST_FULL : ST_OK;
}

enum st answer_token(struct answer *a, uint32_t record, const struct token_out *t,
                     struct buf *out) {
    assert(!a->complete && record < a->n_prompts);
    struct answer_prompt *p = &a->prompts[record];
    /* Not the attempt: whoever computes filters by it, and it moves on there while tokens of the one
     * before are still on their way here. They are the same tokens. */
    if (t->position < p->record->n_prompt) return take_prompt_counted(a, p, t);
    assert(t->choice < p->record->n_choices);
    struct answer_choice *c = &p->choices[t->choice];
    if (c->finish || t->position != p->record->n_prompt + c->n_taken) return ST_OK;
    size_t before = choice_bytes(c);
    enum st st = c->begun ? ST_OK : begin(a, p, c, t, out);
    if (!st) st = take(a, p, c, t);
    if (st) return st;
    if (!a->api->stream) a->n_bytes += choice_bytes(c) - before;
    if (a->n_bytes > ANSWER_BYTES_MAX) return ST_FULL;
    a->complete = a->n_open == 0;
    if (!a->api->stream) return a->complete ? write_whole(a, out) : ST_OK;
    st = flush_chunk(a, p, c, out);
    if (!st && c->finish) st = write_chunk(a, out, p, c, CHUNK_FINISH);
    return st || !a->complete ? st : finish_stream(a, out);
}

bool answer_choice_over(const struct answer *a, uint32_t record, uint32_t choice) {
    return a->prompts[record].choices[choice].finish != NULL;
}

enum st answer_error_event(struct buf *out, const struct api_error *e) {
    enum st st = buf_append_str(out, "data: ");
    if (!st) st = api_error_write(out, e);
    if (!st) st = buf_append_str(out, "\n\ndata: [DONE]\n\n");
    return st;
}

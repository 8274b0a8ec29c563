/* SPDX-License-Identifier: Apache-2.0 */
/* Implements chat_load.h. */
#include "text/chat_load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

enum { TEMPLATE_BYTES_MAX = 4 << 20, CONFIG_BYTES_MAX = 64 << 20, PATH_BYTES_MAX = 4096 };

struct chat_model {
    struct chat_template *plain, *tool_use; /* tool_use may be NULL */
    json_t *tokens;                         /* bos_token, eos_token, ...: strings */
    bool by_itself;                         /* a .jinja file: the request may name the tokens */
};

/* --- opening ---------------------------------------------------------------------------------- */

static enum st read_template(struct chat_template **out, const char *path, struct err *err) {
    struct buf text = {.max = TEMPLATE_BYTES_MAX};
    enum st st = file_read(&text, path, err);
    if (!st) st = chat_template_new(out, text.data ? text.data : "", text.len, path, err);
    buf_release(&text);
    return st;
}

static enum st read_tokens(struct chat_model *m, const json_t *config, const char *path,
                           struct err *err) {
    for (int i = 0; i < CHAT_TOKENS; i++) {
        const json_t *v = json_at(config, chat_token_names[i]);
        if (json_is_object(v)) v = json_object_get(v, "content");
        if (!v) continue;
        if (!json_is_string(v))
            return err_set(err, ST_INVALID, "%s: %s: found %s, expected a string", path,
                           chat_token_names[i], json_kind(v));
        if (json_object_set_new(m->tokens, chat_token_names[i], json_copy((json_t *)v)))
            return err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    }
    return ST_OK;
}

static enum st template_from(struct chat_template **out, const json_t *text, const char *path,
                             const char *what, struct err *err) {
    char name[PATH_BYTES_MAX + 64];
    if (!json_is_string(text))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected a string", path, what,
                       json_kind(text));
    snprintf(name, sizeof name, "%s: %s", path, what);
    return chat_template_new(out, json_string_value(text), json_string_length(text), name, err);
}

static enum st named_templates(struct chat_model *m, const json_t *list, const char *path,
                               struct err *err) {
    size_t i;
    json_t *item;
    enum st st = ST_OK;
    json_array_foreach(list, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!name)
            return err_set(err, ST_INVALID, "%s: chat_template[%zu]: found no name", path, i);
        struct chat_template **to = strcmp(name, "default") == 0    ? &m->plain
                                    : strcmp(name, "tool_use") == 0 ? &m->tool_use
                                                                    : NULL;
        if (!to) continue;
        if (*to)
            return err_set(err, ST_INVALID, "%s: chat_template: '%s' stands twice", path, name);
        st = template_from(to, json_object_get(item, "template"), path, name, err);
        if (st) return st;
    }
    if (!m->plain)
        return err_set(err, ST_INVALID, "%s: chat_template: found no template named default", path);
    return ST_OK;
}

static enum st read_config(struct chat_model *m, const char *path, struct err *err) {
    json_t *config = NULL;
    enum st st = json_read_file(&config, path, CONFIG_BYTES_MAX, err);
    if (st) return st;
    if (!json_is_object(config))
        st = err_set(err, ST_INVALID, "%s: found %s, expected an object", path, json_kind(config));
    if (!st) st = read_tokens(m, config, path, err);
    const json_t *t = json_at(config, "chat_template");
    if (!st && t && !m->plain)
        st = json_is_array(t) ? named_templates(m, t, path, err)
                              : template_from(&m->plain, t, path, "chat_template", err);
    json_decref(config);
    return st;
}

/* Absent is fine: *out stays as it is. */
static enum st read_if_there(struct chat_template **out, const char *path, struct err *err) {
    enum st st = read_template(out, path, err);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static enum st open_folder(struct chat_model *m, const char *folder, struct err *err) {
    char path[PATH_BYTES_MAX];
    if (strlen(folder) > sizeof path - 64)
        return err_set(err, ST_INVALID, "%.80s...: the path is too long", folder);
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    enum st st = read_if_there(&m->plain, path, err);
    snprintf(path, sizeof path, "%s/additional_chat_templates/tool_use.jinja", folder);
    if (!st && m->plain) st = read_if_there(&m->tool_use, path, err);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (!st) st = read_config(m, path, err);
    if (st == ST_NOT_FOUND && m->plain) st = ST_OK; /* a template and no token strings */
    if (st == ST_NOT_FOUND)
        return err_set(err, st, "%s: found neither chat_template.jinja nor tokenizer_config.json",
                       folder);
    if (!st && !m->plain)
        st = err_set(err, ST_NOT_FOUND, "%s: the model has no chat template", folder);
    return st;
}

enum st chat_model_open(struct chat_model **out, const char *path, struct err *err) {
    struct chat_model *m = calloc(1, sizeof *m);
    if (m) m->tokens = json_object();
    if (!m || !m->tokens) {
        chat_model_free(m);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    }
    size_t len = strlen(path);
    m->by_itself = len > 6 && strcmp(path + len - 6, ".jinja") == 0;
    enum st st = m->by_itself ? read_template(&m->plain, path, err) : open_folder(m, path, err);
    if (st) {
        chat_model_free(m);
        return st;
    }
    *out = m;
    return ST_OK;
}

void chat_model_free(struct chat_model *m) {
    if (!m) return;
    chat_template_free(m->plain);
    chat_template_free(m->tool_use);
    json_decref(m->tokens);
    free(m);
}

/* --- rendering -------------------------------------------------------------------------------- */

static enum st add_variables(json_t *context, const struct chat_model *m, const json_t *from,
                             const char *what, struct err *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)from, key, v) {
        for (int i = 0; i < CHAT_TOKENS && !m->by_itself; i++)
            if (strcmp(key, chat_token_names[i]) == 0)
                return err_set(err, ST_INVALID, "%s: %s is the checkpoint's and cannot be given",
                               what, key);
        if (json_object_set(context, key, v))
            return err_set(err, ST_NO_MEMORY, "%s: out of memory", what);
    }
    return ST_OK;
}

static enum st make_context(json_t **out, const struct chat_model *m, const json_t *request,
                            struct err *err) {
    const json_t *kwargs = json_object_get(request, "chat_template_kwargs");
    if (kwargs && !json_is_object(kwargs) && !json_is_null(kwargs))
        return err_set(err, ST_INVALID, "chat_template_kwargs: found %s, expected an object",
                       json_kind(kwargs));
    if (!json_is_array(json_object_get(request, "messages")))
        return err_set(err, ST_INVALID, "messages: found %s, expected an array",
                       json_kind(json_object_get(request, "messages")));
    const json_t *tools = json_object_get(request, "tools");
    if (tools && !json_is_array(tools) && !json_is_null(tools))
        return err_set(err, ST_INVALID, "tools: found %s, expected an array", json_kind(tools));
    const json_t *go_on = json_object_get(request, "continue_final_message");
    if (go_on && !json_is_boolean(go_on) && !json_is_null(go_on))
        return err_set(err, ST_INVALID, "continue_final_message: found %s, expected true or false",
                       json_kind(go_on));
    json_t *context = json_copy(m->tokens);
    if (!context || json_object_set_new(context, "add_generation_prompt", json_true())) {
        json_decref(context);
        return err_set(err, ST_NO_MEMORY, "request: out of memory");
    }
    enum st st = add_variables(context, m, request, "request", err);
    json_object_del(context, "chat_template_kwargs");
    json_object_del(context, "continue_final_message");
    for (int i = 0; i < 2 && !st; i++)
        if (json_object_get(kwargs, i ? "tools" : "messages"))
            st = err_set(err, ST_INVALID, "chat_template_kwargs: %s belong beside it, not in it",
                         i ? "tools" : "messages");
    if (!st && json_is_object(kwargs))
        st = add_variables(context, m, kwargs, "chat_template_kwargs", err);
    if (st)
        json_decref(context);
    else
        *out = context;
    return st;
}

/* --- going on with the last message ----------------------------------------------------------- */

/* As transformers.utils.chat_template_utils.render_jinja_template does it: the last message's text
 * gets a tag at its end, and the prompt is cut where the tag comes out. Searching for the text
 * itself would miss what a template strips or repeats. The tag's last space tells whether the
 * template trims the text. */
static const char tag[] = "CONTINUE_FINAL_MESSAGE_TAG ";
enum { TAG_LEN = sizeof tag - 1, TAG_TRIMMED_LEN = TAG_LEN - 1 };

/* The text with the tag, or NULL. */
static json_t *tagged(const json_t *text) {
    struct buf b = {.max = SIZE_MAX / 2};
    json_t *out = NULL;
    if (!buf_append(&b, json_string_value(text), json_string_length(text)) &&
        !buf_append(&b, tag, TAG_LEN))
        out = json_stringn_nocheck(b.data, b.len);
    buf_release(&b);
    return out;
}

/* Copies of what changes: the request is the caller's. *said becomes the text that is gone on with,
 * owned. */
static enum st tag_last_message(json_t *context, json_t **said, struct err *err) {
    json_t *messages = json_copy(json_object_get(context, "messages"));
    size_t n = json_array_size(messages);
    json_t *last = json_deep_copy(json_array_get(messages, n - 1)), *holder = last, *text;
    const char *member = "content";
    text = json_object_get(last, member);
    for (size_t i = json_array_size(text); json_is_array(text) && i-- > 0;)
        if (json_object_get(json_array_get(text, i), "text")) {
            holder = json_array_get(text, i);
            member = "text";
            text = json_object_get(holder, member);
        }
    enum st st = ST_OK;
    if (!json_is_string(text))
        st = err_set(err, ST_INVALID,
                     "continue_final_message: found %s as the last message's content, expected "
                     "text to go on with",
                     json_kind(text));
    if (!st) {
        *said = json_incref(text);
        if (json_object_set_new(holder, member, tagged(text)) ||
            json_array_set(messages, n - 1, last) || json_object_set(context, "messages", messages))
            st = err_set(err, ST_NO_MEMORY, "request: out of memory");
    }
    json_decref(last);
    json_decref(messages);
    return st;
}

/* Python's str.rstrip(): the length of s without the white space at its end. */
static size_t trimmed_len(const char *s, size_t len) {
    size_t start;
    while (len > 0 && jj_is_space((int32_t)utf8_previous(&start, s, len))) len = start;
    return len;
}

static size_t leading_space(const char *s, size_t len) {
    size_t at = 0;
    while (at < len) {
        uint32_t cp, n = utf8_next(&cp, s + at, len - at);
        if (!jj_is_space((int32_t)cp)) break;
        at += n;
    }
    return at;
}

static enum st cut_at_tag(struct chat_prompt *p, const json_t *said, struct err *err) {
    const char *text = p->text.data, *at = NULL, *hit = text, *s = json_string_value(said);
    size_t len = p->text.len, end = trimmed_len(s, json_string_length(said)),
           begin = leading_space(s, end);
    while (hit && (hit = memmem(hit, len - (size_t)(hit - text), tag, TAG_TRIMMED_LEN))) at = hit++;
    if (!at || !memmem(text, len, s + begin, end - begin))
        return err_set(err, ST_INVALID,
                       "continue_final_message: the chat template does not write the last "
                       "message's content as it is");
    size_t cut = (size_t)(at - text);
    bool kept = len - cut >= TAG_LEN && memcmp(at, tag, TAG_LEN) == 0;
    p->text.len = p->origin.len = kept ? cut : trimmed_len(text, cut);
    p->text.data[p->text.len] = '\0';
    return ST_OK;
}

static enum st render_open(struct chat_prompt *out, const struct chat_template *t, json_t *context,
                           int64_t now_s, struct err *err) {
    json_t *said = NULL;
    if (json_is_true(json_object_get(context, "add_generation_prompt")))
        return err_set(err, ST_INVALID,
                       "continue_final_message: true needs add_generation_prompt false");
    enum st st = tag_last_message(context, &said, err);
    if (!st) st = chat_template_render(out, t, context, now_s, err);
    if (!st) st = cut_at_tag(out, said, err);
    json_decref(said);
    return st;
}

enum st chat_model_render(struct chat_prompt *out, const struct chat_model *m,
                          const json_t *request, int64_t now_s, struct err *err) {
    json_t *context = NULL;
    *out = (struct chat_prompt){0};
    if (!json_is_object(request))
        return err_set(err, ST_INVALID, "request: found %s, expected an object",
                       json_kind(request));
    enum st st = make_context(&context, m, request, err);
    if (st) return st;
    bool tools = json_is_array(json_object_get(context, "tools"));
    const struct chat_template *t = tools && m->tool_use ? m->tool_use : m->plain;
    if (json_is_true(json_object_get(request, "continue_final_message")))
        st = render_open(out, t, context, now_s, err);
    else
        st = chat_template_render(out, t, context, now_s, err);
    json_decref(context);
    return st;
}

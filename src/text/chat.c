/* SPDX-License-Identifier: Apache-2.0 */
/* Implements chat.h: prepares a conversation as transformers.apply_chat_template does before it
 * renders (5.24: message members that are null go, reasoning is known under all its names, tools
 * and documents are None when absent), gives every string its origin, and runs the interpreter
 * inside the one guard. */
#include "text/chat_limits.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/jinja_eval.h"
#include "text/utf8.h"

enum { TEMPLATE_ARENA_MAX = 64 << 20 };

struct chat_template {
    struct jj j; /* owns the tree */
    char *name;
    struct err err; /* of the machine; copied out */
    const struct jj_node *root;
    const struct jj_scope *scope;
};

/* --- compiling -------------------------------------------------------------------------------- */

struct compile {
    struct chat_template *t;
    const char *source;
    size_t len;
};

static void compile(struct jj *j, void *arg) {
    struct compile *c = arg;
    struct jj_names names;
    struct jj_node *root = jj_parse(j, &names, c->source, c->len);
    c->t->scope = jj_resolve(j, &names, root);
    c->t->root = root;
}

enum st chat_template_new(struct chat_template **out, const char *source, size_t len,
                          const char *name, struct err *err) {
    if (len > JJ_SOURCE_MAX)
        return err_set(err, ST_FULL, "%s: found %zu bytes, expected at most %d", name, len,
                       JJ_SOURCE_MAX);
    if (utf8_valid_prefix(source, len) != len)
        return err_set(err, ST_INVALID, "%s: found bytes that are not UTF-8", name);
    struct chat_template *t = calloc(1, sizeof *t);
    if (t) t->name = strdup(name);
    if (!t || !t->name) {
        free(t);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    t->j = (struct jj){.arena = {.max = TEMPLATE_ARENA_MAX},
                       .err = &t->err,
                       .name = t->name,
                       .steps_max = JJ_STEPS_MAX};
    struct compile c = {.t = t, .source = source, .len = len};
    enum st st = jj_guard(&t->j, compile, &c);
    if (st) {
        if (err) *err = t->err;
        chat_template_free(t);
        return st;
    }
    *out = t;
    return ST_OK;
}

void chat_template_free(struct chat_template *t) {
    if (!t) return;
    arena_release(&t->j.arena);
    free(t->name);
    free(t);
}

/* --- the context ------------------------------------------------------------------------------ */

static const struct jj_str *text(struct jj *j, const char *p, size_t len, uint8_t origin) {
    return jj_str_new(j, p, len, origin);
}

static struct jj_val value(struct jj *j, const json_t *v, uint8_t origin) {
    struct jj_val out = jj_none();
    size_t i;
    const char *key;
    json_t *item;
    jj_spend(j, 1);
    jj_enter(j);
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        out = jj_dictv(jj_dict_new(j));
        json_object_foreach((json_t *)v, key, item) jj_dict_set(
            j, out.dict, jj_strv(text(j, key, strlen(key), origin)), value(j, item, origin));
        break;
    case JSON_ARRAY: {
        struct jj_list *l = jj_list_new(j, (uint32_t)json_array_size(v));
        json_array_foreach(v, i, item) jj_list_push(j, l, value(j, item, origin));
        out = jj_listv(l);
        break;
    }
    case JSON_STRING:
        out = jj_strv(text(j, json_string_value(v), json_string_length(v), origin));
        break;
    case JSON_INTEGER: out = jj_int(json_integer_value(v), origin); break;
    case JSON_REAL: out = jj_float(json_real_value(v), origin); break;
    case JSON_TRUE:
    case JSON_FALSE:
        out = jj_bool(json_is_true(v));
        out.origin = origin;
        break;
    case JSON_NULL: out.origin = origin; break;
    }
    jj_leave(j);
    return out;
}

static void set(struct jj *j, struct jj_dict *d, const char *key, struct jj_val v,
                uint8_t key_origin) {
    jj_dict_set(j, d, jj_strv(text(j, key, strlen(key), key_origin)), v);
}

/* A role's name is the format's word, not the message's: templates build "<|user|>" from it. A word
 * that no format knows stays text. */
static uint8_t role_origin(const json_t *role) {
    static const char *const words[] = {"system",    "user",        "assistant",
                                        "developer", "tool",        "function",
                                        "ipython",   "observation", "latest_reminder"};
    for (size_t i = 0; json_is_string(role) && i < sizeof words / sizeof *words; i++)
        if (strcmp(json_string_value(role), words[i]) == 0) return CHAT_FROM_TEMPLATE;
    return CHAT_FROM_OTHER;
}

/* {"thinking": reasoning, **message, "reasoning_content": reasoning}, without the members that are
 * null. */
static struct jj_val message(struct jj *j, const json_t *m, uint8_t origin) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const json_t *reasoning = NULL;
    for (size_t i = 0; i < 3 && (!reasoning || json_is_null(reasoning)); i++)
        reasoning = json_object_get(m, names[i]);
    if (reasoning && json_is_null(reasoning)) reasoning = NULL;
    struct jj_dict *d = jj_dict_new(j);
    if (reasoning) set(j, d, "thinking", value(j, reasoning, origin), origin);
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)m, key, item) if (!json_is_null(item)) set(
        j, d, key, value(j, item, strcmp(key, "role") == 0 ? role_origin(item) : origin), origin);
    if (reasoning) set(j, d, "reasoning_content", value(j, reasoning, origin), origin);
    return jj_dictv(d);
}

static struct jj_val messages(struct jj *j, const json_t *list) {
    struct jj_list *l = jj_list_new(j, (uint32_t)json_array_size(list));
    if (!json_array_size(list))
        jj_fail(j, ST_INVALID, "messages: found none, expected at least one");
    size_t i;
    json_t *m;
    json_array_foreach(list, i, m) {
        if (!json_is_object(m))
            jj_fail(j, ST_INVALID, "messages[%zu]: found %s, expected an object", i, json_kind(m));
        const char *role = json_string_value(json_object_get(m, "role"));
        bool assistant = role && strcmp(role, "assistant") == 0;
        jj_list_push(j, l, message(j, m, assistant ? CHAT_FROM_ASSISTANT : CHAT_FROM_OTHER));
    }
    return jj_listv(l);
}

const char *const chat_token_names[CHAT_TOKENS] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

/* The checkpoint's own tokens; any other name ending in _token is the caller's, hence text. */
static bool is_special_token(const char *key) {
    for (size_t i = 0; i < CHAT_TOKENS; i++)
        if (strcmp(key, chat_token_names[i]) == 0) return true;
    return false;
}

static struct jj_dict *make_context(struct jj *j, const json_t *context) {
    struct jj_dict *d = jj_dict_new(j);
    const char *key;
    json_t *item;
    set(j, d, "tools", jj_none(), CHAT_FROM_TEMPLATE);
    set(j, d, "documents", jj_none(), CHAT_FROM_TEMPLATE);
    set(j, d, "add_generation_prompt", jj_bool(false), CHAT_FROM_TEMPLATE);
    json_object_foreach((json_t *)context, key, item) {
        struct jj_val v;
        if (strcmp(key, "messages") == 0 && json_is_array(item))
            v = messages(j, item);
        else
            v = value(j, item,
                      json_is_string(item) && is_special_token(key) ? CHAT_FROM_TEMPLATE
                                                                    : CHAT_FROM_OTHER);
        set(j, d, key, v, CHAT_FROM_OTHER);
    }
    return d;
}

/* --- rendering -------------------------------------------------------------------------------- */

struct render {
    const struct chat_template *t;
    const json_t *context;
    const struct jj_str *out;
};

static void render(struct jj *j, void *arg) {
    struct render *r = arg;
    j->line = 0;
    struct jj_dict *context = make_context(j, r->context);
    r->out = jj_render(j, r->t->root, r->t->scope, context);
}

enum st chat_template_render_within(struct chat_prompt *out, const struct chat_template *t,
                                    const json_t *context, int64_t now_s,
                                    const struct chat_limits *limits, struct err *err) {
    struct err own;
    if (!err) err = &own;
    if (!json_is_object(context))
        return err_set(err, ST_INVALID, "%s: the context is no object", t->name);
    struct jj j = {.arena = {.max = limits->memory_bytes},
                   .err = err,
                   .name = t->name,
                   .steps_max = limits->steps,
                   .now_s = now_s,
                   .appends = true};
    struct render r = {.t = t, .context = context};
    enum st st = jj_guard(&j, render, &r);
    *out = (struct chat_prompt){.text = {.max = JJ_STR_MAX}, .origin = {.max = JJ_STR_MAX}};
    if (!st) st = buf_append(&out->text, r.out->p, r.out->len);
    if (!st) st = buf_append(&out->origin, r.out->o, r.out->len);
    arena_release(&j.arena);
    return st;
}

enum st chat_template_render(struct chat_prompt *out, const struct chat_template *t,
                             const json_t *context, int64_t now_s, struct err *err) {
    const struct chat_limits limits = {.memory_bytes = JJ_ARENA_MAX, .steps = JJ_STEPS_MAX};
    return chat_template_render_within(out, t, context, now_s, &limits, err);
}

void chat_prompt_release(struct chat_prompt *p) {
    buf_release(&p->text);
    buf_release(&p->origin);
}

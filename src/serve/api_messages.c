/* SPDX-License-Identifier: Apache-2.0 */
/* Implements api_messages.h. */
#include "serve/api_messages.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

enum { MESSAGES_MAX = 65536 };

/* [{"type":"text","text":"a"}, ...] -> "a\n..." */
static bool join_parts(json_t *message, const json_t *parts, size_t index, struct api_error *e) {
    struct buf text = {.max = SIZE_MAX / 2};
    const json_t *part;
    size_t i;
    enum st st = buf_append(&text, "", 0);
    char where[64];
    json_array_foreach(parts, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *t = json_object_get(part, "text");
        if (!st && i > 0) st = buf_append(&text, "\n", 1);
        if (json_is_string(part))
            t = part;
        else if (!type || (strcmp(type, "text") != 0 && strcmp(type, "input_text") != 0))
            t = NULL;
        if (!json_is_string(t)) {
            snprintf(where, sizeof where, "messages[%zu].content[%zu]", index, i);
            buf_release(&text);
            return api_invalid(e, where,
                               "%s: found %s%.40s, expected a part of type text with a text", where,
                               type ? "type " : json_kind(part), type ? type : "");
        }
        if (!st) st = buf_append(&text, json_string_value(t), json_string_length(t));
    }
    json_t *joined = st ? NULL : json_stringn_nocheck(text.data, text.len);
    buf_release(&text);
    if (!joined || json_object_set_new(message, "content", joined) != 0)
        return api_fail(e, 500, NULL, NULL, "out of memory");
    return true;
}

static bool check_message(json_t *m, size_t index, struct api_error *e) {
    char where[64];
    snprintf(where, sizeof where, "messages[%zu]", index);
    if (!json_is_object(m))
        return api_invalid(e, where, "%s: found %s, expected an object", where, json_kind(m));
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    const json_t *calls = json_object_get(m, "tool_calls");
    if (!json_is_string(role)) {
        snprintf(where, sizeof where, "messages[%zu].role", index);
        return api_invalid(e, where, "%s: found %s, expected a string", where, json_kind(role));
    }
    if (calls && !json_is_null(calls) && !json_is_array(calls)) {
        snprintf(where, sizeof where, "messages[%zu].tool_calls", index);
        return api_invalid(e, where, "%s: found %s, expected a list", where, json_kind(calls));
    }
    if (json_is_string(content)) return true;
    if (json_is_array(content)) return join_parts(m, content, index, e);
    if (!content || json_is_null(content)) {
        /* an assistant that only called tools has no content; anyone else forgot it */
        if (strcmp(json_string_value(role), "assistant") == 0)
            return json_object_set_new(m, "content", json_null()) == 0 ||
                   api_fail(e, 500, NULL, NULL, "out of memory");
    }
    snprintf(where, sizeof where, "messages[%zu].content", index);
    return api_invalid(e, where, "%s: found %s, expected a string or a list of text parts", where,
                       json_kind(content));
}

bool api_messages_check(json_t *messages, struct api_error *e) {
    if (!json_is_array(messages))
        return api_invalid(e, "messages", "messages: found %s, expected a list",
                           json_kind(messages));
    size_t n = json_array_size(messages);
    if (n == 0) return api_invalid(e, "messages", "messages: found an empty list");
    if (n > MESSAGES_MAX)
        return api_invalid(e, "messages", "messages: found %zu, expected at most %d", n,
                           MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!check_message(json_array_get(messages, i), i, e)) return false;
    return true;
}

bool api_tools_check(const json_t *tools, struct api_error *e) {
    const json_t *t;
    size_t i;
    if (!json_is_array(tools))
        return api_invalid(e, "tools", "tools: found %s, expected a list", json_kind(tools));
    json_array_foreach(tools, i, t) {
        char where[64];
        snprintf(where, sizeof where, "tools[%zu]", i);
        if (!json_is_object(t))
            return api_invalid(e, where, "%s: found %s, expected an object", where, json_kind(t));
    }
    return true;
}

/* Arguments that are not JSON stay the text they are. */
static bool parse_arguments(json_t *call, bool *changed) {
    json_t *function = json_object_get(call, "function"),
           *args = json_object_get(function, "arguments"), *parsed;
    if (!json_is_string(args)) return true;
    if (json_string_length(args) == 0)
        parsed = json_object();
    else if (json_parse(&parsed, json_string_value(args), json_string_length(args), "arguments",
                        NULL))
        return true;
    if (!parsed || json_object_set_new(function, "arguments", parsed) != 0) return false;
    *changed = true;
    return true;
}

static bool has_tool_calls(const json_t *messages) {
    const json_t *m;
    size_t i;
    json_array_foreach(messages, i,
                       m) if (json_array_size(json_object_get(m, "tool_calls")) > 0) return true;
    return false;
}

json_t *api_messages_with_argument_objects(json_t *messages, bool *changed) {
    *changed = false;
    if (!has_tool_calls(messages)) return json_incref(messages);
    json_t *copy = json_deep_copy(messages), *m, *call;
    size_t i, j;
    json_array_foreach(copy, i, m) {
        json_array_foreach(json_object_get(m, "tool_calls"), j, call) {
            if (parse_arguments(call, changed)) continue;
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

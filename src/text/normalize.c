/* SPDX-License-Identifier: Apache-2.0 */
/* Implements normalize.h: a list of steps, each from one working text to the next. */
#include "text/normalize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/json.h"
#include "text/unicode.h"
#include "text/unicode_form.h"
#include "text/utf8.h"

enum { STEPS_MAX = 32, DEPTH_MAX = 8 };

struct step {
    enum { FORM, LOWERCASE, STRIP, REPLACE, PREPEND } kind;
    enum unicode_form form;
    bool left, right;        /* STRIP */
    struct pattern *pattern; /* REPLACE */
    char *content;           /* REPLACE, PREPEND */
    size_t content_len;
};

struct normalizer {
    struct step steps[STEPS_MAX];
    uint32_t len;
};

/* --- reading the file ------------------------------------------------------------------------- */

static enum st read_content(struct step *s, const json_t *json, const char *member,
                            const char *place, struct err *err) {
    const json_t *text = json_object_get(json, member);
    if (!json_is_string(text))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected a string", place, member,
                       json_kind(text));
    s->content_len = json_string_length(text);
    s->content = malloc(s->content_len + 1);
    if (!s->content) return err_set(err, ST_NO_MEMORY, "%s: out of memory", place);
    memcpy(s->content, json_string_value(text), s->content_len + 1);
    return ST_OK;
}

static enum st read_replace(struct step *s, const json_t *json, const char *place,
                            struct err *err) {
    const json_t *regex = json_at(json, "pattern.Regex"),
                 *literal = json_at(json, "pattern.String");
    const json_t *pattern = regex ? regex : literal;
    if (!json_is_string(pattern))
        return err_set(
            err, ST_INVALID,
            "%s: pattern: found %s, expected {\"Regex\": ...} or {\"String\": ...} with a string",
            place, json_kind(json_at(json, "pattern")));
    enum st st = read_content(s, json, "content", place, err);
    if (!st)
        st = pattern_new(&s->pattern, regex ? PATTERN_EXPRESSION : PATTERN_LITERAL,
                         json_string_value(pattern), json_string_length(pattern), place, err);
    return st;
}

static enum st read_fields(struct step *s, const char *type, const json_t *json, const char *place,
                           struct err *err) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    for (uint32_t i = 0; i < 4; i++) {
        if (strcmp(type, forms[i]) != 0) continue;
        *s = (struct step){.kind = FORM, .form = (enum unicode_form)i};
        return ST_OK;
    }
    if (strcmp(type, "Lowercase") == 0) {
        s->kind = LOWERCASE;
        return ST_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        s->kind = STRIP;
        enum st st = json_get_bool(&s->left, json, "strip_left", false, place, err);
        return st ? st : json_get_bool(&s->right, json, "strip_right", false, place, err);
    }
    if (strcmp(type, "Replace") == 0) {
        s->kind = REPLACE;
        return read_replace(s, json, place, err);
    }
    if (strcmp(type, "Prepend") == 0) {
        s->kind = PREPEND;
        return read_content(s, json, "prepend", place, err);
    }
    return err_set(err, ST_UNSUPPORTED,
                   "%s: type: found '%.40s', expected Sequence, NFC, NFD, NFKC, NFKD, Lowercase, "
                   "Strip, Replace or Prepend",
                   place, type);
}

static enum st read_step(struct normalizer *n, const json_t *json, const char *place,
                         uint32_t depth, struct err *err) {
    const char *type;
    enum st st = json_get_str(&type, json, "type", "nothing", place, err);
    if (st) return st;
    if (strcmp(type, "Sequence") != 0) {
        if (n->len == STEPS_MAX)
            return err_set(err, ST_UNSUPPORTED, "%s: found more than %d normalisers", place,
                           STEPS_MAX);
        return read_fields(&n->steps[n->len++], type, json, place, err);
    }
    const json_t *list = json_at(json, "normalizers");
    if (!json_is_array(list) || depth == DEPTH_MAX)
        return err_set(err, ST_INVALID,
                       "%s: normalizers: found %s, expected an array, nested at most %d deep",
                       place, json_kind(list), DEPTH_MAX);
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        char below[512];
        snprintf(below, sizeof below, "%s.normalizers[%zu]", place, i);
        st = read_step(n, json_array_get(list, i), below, depth + 1, err);
    }
    return st;
}

enum st normalizer_new(struct normalizer **out, const json_t *json, const char *name,
                       struct err *err) {
    struct normalizer *n = calloc(1, sizeof *n);
    if (!n) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    char place[512];
    snprintf(place, sizeof place, "%s: normalizer", name);
    enum st st = json ? read_step(n, json, place, 0, err) : ST_OK;
    if (st) {
        normalizer_free(n);
        return st;
    }
    *out = n;
    return ST_OK;
}

void normalizer_free(struct normalizer *n) {
    if (!n) return;
    for (uint32_t i = 0; i < n->len; i++) {
        pattern_free(n->steps[i].pattern);
        free(n->steps[i].content);
    }
    free(n);
}

/* --- the steps -------------------------------------------------------------------------------- */

static bool is_ascii(const struct working *text) {
    for (size_t i = 0; i < text->len; i++)
        if ((uint8_t)text->data[i] >= 0x80) return false;
    return true;
}

/* utf8proc's, and the capitals that came after it and that Rust knows (Unicode 17). */
static uint32_t lower(uint32_t cp) {
    static const struct {
        uint32_t lo, hi, to;
    } later[] = {
        {0x1C89, 0x1C89, 0x1C8A},    {0xA7CB, 0xA7CB, 0x264},  {0xA7CC, 0xA7CC, 0xA7CD},
        {0xA7CE, 0xA7CE, 0xA7CF},    {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
        {0xA7DA, 0xA7DA, 0xA7DB},    {0xA7DC, 0xA7DC, 0x19B},  {0x10D50, 0x10D65, 0x10D70},
        {0x16EA0, 0x16EB8, 0x16EBB},
    };
    for (size_t i = 0; i < sizeof later / sizeof *later && cp >= later[0].lo; i++)
        if (cp >= later[i].lo && cp <= later[i].hi) return later[i].to + (cp - later[i].lo);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

/* As Rust's char::to_lowercase: one character becomes one, but for the dotted capital I. */
static enum st lowercase(struct working *out, const struct working *text) {
    enum st st = ST_OK;
    for (size_t i = 0; i < text->len && !st;) {
        uint32_t cp, from = working_from(text, i);
        char bytes[4];
        i += utf8_next(&cp, text->data + i, text->len - i);
        st = working_append(out, bytes, utf8_put(bytes, lower(cp)), from);
        if (!st && cp == 0x130) st = working_append(out, "\xCC\x87", 2, from);
    }
    return st;
}

static enum st strip(struct working *out, const struct working *text, const struct step *s) {
    size_t start = 0, end = text->len, before;
    uint32_t cp;
    while (s->left && start < end) {
        uint32_t n = utf8_next(&cp, text->data + start, end - start);
        if (!unicode_is_space(cp)) break;
        start += n;
    }
    while (s->right && start < end) {
        if (!unicode_is_space(utf8_previous(&before, text->data, end))) break;
        end = before;
    }
    struct working part = working_part(text, start, end - start);
    return working_append_part(out, &part);
}

static enum st replace(struct working *out, const struct working *text, const struct step *s,
                       struct pattern_scratch *scratch, struct err *err) {
    struct pattern_walk w = {.text = text->data, .len = text->len};
    size_t done = 0, start, end;
    bool found;
    enum st st;
    if (text->len == 0) return ST_OK;
    while (!(st = pattern_next(&found, &start, &end, &w, s->pattern, scratch, err)) && found) {
        struct working part = working_part(text, done, start - done);
        st = working_append_part(out, &part);
        uint32_t from = start == end ? working_from(text, start < text->len ? start : start - 1)
                                     : working_from_range(text, start, end);
        if (!st) st = working_append(out, s->content, s->content_len, from);
        if (st) return st;
        done = end;
    }
    struct working rest = working_part(text, done, text->len - done);
    return st ? st : working_append_part(out, &rest);
}

static enum st run(struct working *out, const struct working *text, const struct step *s,
                   struct pattern_scratch *scratch, struct err *err) {
    enum st st = ST_OK;
    switch (s->kind) {
    case FORM: return unicode_form(out, text, s->form);
    case LOWERCASE: return lowercase(out, text);
    case STRIP: return strip(out, text, s);
    case REPLACE: return replace(out, text, s, scratch, err);
    case PREPEND:
        if (text->len) st = working_append(out, s->content, s->content_len, working_from(text, 0));
        return st ? st : working_append_part(out, text);
    }
    return ST_OK;
}

enum st normalize(struct working *text, const struct normalizer *n, struct pattern_scratch *scratch,
                  struct err *err) {
    for (uint32_t i = 0; i < n->len; i++) {
        if (n->steps[i].kind == FORM && is_ascii(text)) continue;
        struct working next = {.owner = WORKING_OWNS, .max = text->max, .allow = text->allow};
        struct err why = {.code = ST_OK};
        enum st st = run(&next, text, &n->steps[i], scratch, &why);
        if (st) {
            working_release(&next);
            if (why.code) return err_set(err, st, "%s", why.text);
            return err_set(err, st, "tokenizer: normalizer: %s",
                           st == ST_FULL ? "the text grows beyond its limit" : "out of memory");
        }
        working_release(text);
        *text = next;
    }
    return ST_OK;
}

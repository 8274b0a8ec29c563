/* SPDX-License-Identifier: Apache-2.0 */
/* The filters after "|" that work on one value: text, numbers, JSON (jinja2/filters.py; tojson is
 * transformers'). Those over sequences are in jinja_filters_seq.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_filters.h"
#include "text/jinja_lex.h"
#include "text/jinja_show.h"
#include "text/jinja_text.h"

#define UNUSED (void)j, (void)self, (void)a, (void)raw

static struct jj_val text_like(struct jj_val v, const struct jj_str *s) {
    struct jj_val r = jj_strv(s);
    r.markup = v.kind == JJ_STR && v.markup;
    return r;
}

JJ_FILTER(f_upper) {
    UNUSED;
    return text_like(self, jj_recase(j, jj_to_str(j, self), JJ_UPPER));
}
JJ_FILTER(f_lower) {
    UNUSED;
    return text_like(self, jj_recase(j, jj_to_str(j, self), JJ_LOWER));
}
JJ_FILTER(f_capitalize) {
    UNUSED;
    return text_like(self, jj_recase(j, jj_to_str(j, self), JJ_CAPITALIZE));
}
JJ_FILTER(f_string) {
    UNUSED;
    return text_like(self, jj_to_str(j, self));
}

JJ_FILTER(f_trim) {
    UNUSED;
    const struct jj_str *chars =
        jj_given(a[0]) && a[0].kind != JJ_NONE ? jj_want_str(j, a[0], "trim") : NULL;
    return text_like(self, jj_strip(j, jj_to_str(j, self), chars, JJ_LEFT | JJ_RIGHT));
}

/* Words begin after any of -, white space and opening brackets; the rest of each is lowered. */
JJ_FILTER(f_title) {
    UNUSED;
    const struct jj_str *s = jj_to_str(j, self), *out = jj_str_cut(j, s, 0, 0);
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < s->len;) {
        uint32_t from = i, end = i;
        while (end < s->len) {
            uint32_t next = end;
            int32_t cp = jj_cp_at(s->p, s->len, &next);
            bool edge = jj_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (char)cp));
            if (edge) {
                if (end == from) end = i = next;
                break;
            }
            end = next;
        }
        if (i == from) { /* a word */
            uint32_t first = from;
            jj_cp_at(s->p, s->len, &first);
            jj_sb_str(&b, jj_recase(j, jj_str_cut(j, s, from, first), JJ_UPPER));
            jj_sb_str(&b, jj_recase(j, jj_str_cut(j, s, first, end), JJ_LOWER));
            i = end;
        } else {
            jj_sb_add(&b, s->p + from, end - from, s->o + from);
        }
    }
    return text_like(self, b.len ? jj_sb_done(&b) : out);
}

JJ_FILTER(f_replace) {
    UNUSED;
    int64_t max = jj_given(a[2]) && a[2].kind != JJ_NONE ? jj_want_int(j, a[2], "replace") : -1;
    return jj_strv(jj_replace(j, jj_to_str(j, self), jj_to_str(j, a[0]), jj_to_str(j, a[1]), max));
}

JJ_FILTER(f_center) {
    UNUSED;
    struct jj_val m, s = text_like(self, jj_to_str(j, self));
    jj_attr(j, s, jj_str_lit(j, "center"), &m);
    struct jj_val width = jj_given(a[0]) ? a[0] : jj_int(80, CHAT_FROM_TEMPLATE);
    return jj_call(j, m, &(struct jj_args){.pos = &width, .n = 1});
}

JJ_FILTER(f_indent) {
    UNUSED;
    const struct jj_str *s = jj_want_str(j, self, "indent");
    if (self.markup) jj_fail(j, ST_UNSUPPORTED, "indent of a Markup string is not supported");
    bool first = jj_flag(a[1], false), blank = jj_flag(a[2], false);
    const struct jj_str *by =
        jj_given(a[0]) && a[0].kind == JJ_STR
            ? a[0].s
            : jj_repeat(j, jj_str_lit(j, " "), jj_given(a[0]) ? jj_want_int(j, a[0], "indent") : 4);
    struct jj_list *lines = jj_lines(j, jj_concat(j, s, jj_str_lit(j, "\n")), false);
    struct jj_sb b = {.j = j};
    if (first) jj_sb_str(&b, by);
    for (uint32_t i = 0; i < lines->len; i++) {
        const struct jj_str *line = lines->v[i].s;
        if (i) jj_sb_lit(&b, "\n");
        if (i && (blank || line->len)) jj_sb_str(&b, by);
        jj_sb_str(&b, line);
    }
    return jj_strv(jj_sb_done(&b));
}

JJ_FILTER(f_truncate) {
    UNUSED;
    const struct jj_str *end =
        jj_given(a[2]) ? jj_want_str(j, a[2], "truncate") : jj_str_lit(j, "...");
    int64_t length = jj_given(a[0]) ? jj_want_int(j, a[0], "truncate") : 255;
    int64_t leeway = jj_given(a[3]) && a[3].kind != JJ_NONE ? jj_want_int(j, a[3], "truncate") : 5;
    if (length < end->cps)
        jj_fail(j, ST_INVALID, "truncate: expected length >= %u, got %lld", end->cps,
                (long long)length);
    if (leeway < 0)
        jj_fail(j, ST_INVALID, "truncate: expected leeway >= 0, got %lld", (long long)leeway);
    uint32_t len;
    bool fits = jj_len(self, &len) &&
                (leeway > JJ_STR_MAX || length > JJ_STR_MAX || len <= length + leeway);
    if (fits) return self; /* whatever it is */
    const struct jj_str *s = jj_want_str(j, self, "truncate");
    s = jj_str_cut(j, s, 0, jj_at_cp(j, s, (uint32_t)(length - end->cps)));
    if (!jj_flag(a[1], false)) s = jj_rsplit(j, s, jj_str_lit(j, " "), 1)->v[0].s;
    return jj_strv(jj_concat(j, s, end));
}

JJ_FILTER(f_wordcount) {
    UNUSED;
    const struct jj_str *s = jj_to_str(j, self);
    int64_t n = 0;
    bool in_word = false;
    for (uint32_t i = 0; i < s->len;) {
        bool word = jj_is_word(jj_cp_at(s->p, s->len, &i));
        n += word && !in_word;
        in_word = word;
    }
    return jj_int(n, CHAT_FROM_OTHER);
}

static void put_quoted(struct jj_sb *b, const struct jj_str *s, bool query) {
    char text[4];
    for (uint32_t i = 0; i < s->len; i++) {
        uint8_t c = (uint8_t)s->p[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                     (c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain)
            jj_sb_add(b, s->p + i, 1, s->o + i);
        else if (c == ' ' && query)
            jj_sb_put(b, "+", 1, s->o[i]);
        else
            snprintf(text, sizeof text, "%%%02X", c), jj_sb_put(b, text, 3, s->o[i]);
    }
}

JJ_FILTER(f_urlencode) {
    UNUSED;
    struct jj_sb b = {.j = j};
    if (self.kind == JJ_STR || !jj_iterable(self)) {
        put_quoted(&b, jj_to_str(j, self), false);
        return jj_strv(jj_sb_done(&b));
    }
    struct jj_iter *it = jj_iter(j, self.kind == JJ_DICT ? jj_view(j, self.dict, JJ_ITEMS) : self);
    struct jj_val v;
    for (uint32_t i = 0; jj_next(j, it, &v); i++) {
        struct jj_list *pair = jj_to_list(j, v);
        if (pair->len != 2)
            jj_fail(j, ST_INVALID, "urlencode: found %u values, expected pairs", pair->len);
        if (i) jj_sb_lit(&b, "&");
        put_quoted(&b, jj_to_str(j, pair->v[0]), true);
        jj_sb_lit(&b, "=");
        put_quoted(&b, jj_to_str(j, pair->v[1]), true);
    }
    return jj_strv(jj_sb_done(&b));
}

static struct jj_val as_markup(const struct jj_str *s) {
    struct jj_val v = jj_strv(s);
    v.markup = true;
    return v;
}
JJ_FILTER(f_safe) {
    UNUSED;
    return as_markup(jj_to_str(j, self));
}
JJ_FILTER(f_escape) {
    UNUSED;
    if (self.kind == JJ_STR && self.markup) return self;
    return as_markup(jj_escape(j, jj_to_str(j, self)));
}
JJ_FILTER(f_forceescape) {
    UNUSED;
    return as_markup(jj_escape(j, jj_to_str(j, self)));
}

JJ_FILTER(f_xmlattr) {
    UNUSED;
    if (self.kind != JJ_DICT)
        jj_fail(j, ST_INVALID, "xmlattr: found %s, expected a mapping", jj_type(self));
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < self.dict->len; i++) {
        struct jj_val v = self.dict->v[i].val;
        if (v.kind == JJ_NONE || v.kind == JJ_UNDEF) continue;
        const struct jj_str *key = jj_want_str(j, self.dict->v[i].key, "xmlattr");
        for (uint32_t k = 0; k < key->len; k++)
            if (key->p[k] && strchr(" \t\n\r\f\v/>=", key->p[k]))
                jj_fail(j, ST_INVALID, "xmlattr: invalid character in attribute name");
        if (b.len || jj_flag(a[0], true)) jj_sb_lit(&b, " ");
        jj_sb_str(&b, jj_escape(j, key));
        jj_sb_lit(&b, "=\"");
        jj_sb_str(&b, v.kind == JJ_STR && v.markup ? v.s : jj_escape(j, jj_to_str(j, v)));
        jj_sb_lit(&b, "\"");
    }
    return jj_strv(jj_sb_done(&b));
}

JJ_FILTER(f_format) {
    UNUSED;
    if (raw->n && raw->n_kw)
        jj_fail(j, ST_INVALID,
                "format: cannot handle positional and keyword arguments at the same time");
    struct jj_val args = {.kind = JJ_TUPLE};
    struct jj_list *l = jj_list_new(j, raw->n);
    for (uint32_t i = 0; i < raw->n; i++) jj_list_push(j, l, raw->pos[i]);
    args.list = l;
    if (raw->n_kw) {
        struct jj_dict *d = jj_dict_new(j);
        for (uint32_t i = 0; i < raw->n_kw; i++)
            jj_dict_set(j, d, jj_strv(raw->kw[i].name), raw->kw[i].val);
        args = jj_dictv(d);
    }
    return jj_binary(j, JJ_T_MOD, text_like(self, jj_to_str(j, self)), args);
}

JJ_FILTER(f_default) {
    UNUSED;
    bool use = self.kind == JJ_UNDEF || (jj_flag(a[1], false) && !jj_true(self));
    return !use ? self : jj_given(a[0]) ? a[0] : jj_strv(jj_str_lit(j, ""));
}

JJ_FILTER(f_attr) {
    UNUSED;
    struct jj_val v;
    const struct jj_str *name = jj_want_str(j, a[0], "attr");
    if (self.kind == JJ_UNDEF) jj_fail_undef(j, self);
    return jj_attr(j, self, name, &v) ? v : jj_undef_attr(j, self, name);
}

/* --- tojson ----------------------------------------------------------------------------------- */

JJ_FILTER(f_tojson) {
    UNUSED;
    struct jj_json how = {.ascii = jj_flag(a[0], false), .sort_keys = jj_flag(a[3], false)};
    if (jj_given(a[1]) && a[1].kind != JJ_NONE)
        how.indent = a[1].kind == JJ_STR
                         ? a[1].s
                         : jj_repeat(j, jj_str_lit(j, " "), jj_want_int(j, a[1], "tojson"));
    how.comma = jj_str_lit(j, how.indent ? "," : ", ");
    how.colon = jj_str_lit(j, ": ");
    if (jj_given(a[2]) && a[2].kind != JJ_NONE) {
        struct jj_list *pair = jj_to_list(j, a[2]);
        if (pair->len != 2)
            jj_fail(j, ST_INVALID, "tojson: separators: found %u values, expected 2", pair->len);
        how.comma = jj_want_str(j, pair->v[0], "tojson");
        how.colon = jj_want_str(j, pair->v[1], "tojson");
    }
    struct jj_sb b = {.j = j};
    jj_put_json(&b, self, &how);
    return jj_strv(jj_sb_done(&b));
}

/* --- numbers ---------------------------------------------------------------------------------- */

JJ_FILTER(f_abs) {
    UNUSED;
    if (self.kind == JJ_FLOAT) return jj_float(fabs(self.f), self.origin);
    if (!jj_is_intlike(self)) jj_fail(j, ST_INVALID, "abs: bad operand type: '%s'", jj_type(self));
    return jj_intlike(self) < 0 ? jj_unary(j, JJ_T_SUB, self)
                                : jj_int(jj_intlike(self), self.origin);
}

/* Python reads the digits of every script. */
static void refuse_other_digits(struct jj *j, const struct jj_str *s) {
    for (uint32_t i = 0; s->cps != s->len && i < s->len;) {
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        if (cp >= 0x80 && jj_in_class(cp, JJ_DECIMAL))
            jj_fail(j, ST_UNSUPPORTED, "a number in digits beyond ASCII is not supported");
    }
}

/* What int(text, base) takes, as one run of digits with single underscores; false if it takes
 * something else. */
static bool parse_int(struct jj *j, const struct jj_str *s, int64_t base, int64_t *out) {
    s = jj_strip(j, s, NULL, JJ_LEFT | JJ_RIGHT);
    uint32_t i = 0, digits = 0;
    bool neg = false, under = false;
    int64_t v = 0;
    if (i < s->len && (s->p[i] == '-' || s->p[i] == '+')) neg = s->p[i++] == '-';
    if (i + 1 < s->len && s->p[i] == '0') {
        char k = (char)(s->p[i + 1] | 32);
        int64_t means = k == 'x' ? 16 : k == 'o' ? 8 : k == 'b' ? 2 : 0;
        if (means && (base == means || base == 0)) base = means, i += 2, under = true;
    }
    if (base == 0) base = 10;
    if (base < 2 || base > 36) jj_fail(j, ST_INVALID, "int: base must be >= 2 and <= 36, or 0");
    for (; i < s->len; i++) {
        char c = s->p[i];
        if (c == '_' && (digits || under) && i + 1 < s->len && s->p[i - 1] != '_') continue;
        int64_t d = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10
                                                         : 99;
        if (d >= base) return false;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, d, &v))
            jj_fail(j, ST_UNSUPPORTED, "an integer over 64 bits");
        digits++;
    }
    if (!digits || (s->len && s->p[s->len - 1] == '_')) return false;
    if (!neg && v == INT64_MIN) jj_fail(j, ST_UNSUPPORTED, "an integer over 64 bits");
    *out = neg ? v : -v; /* summed below zero, where there is one more */
    return true;
}

static bool parse_float(struct jj *j, const struct jj_str *s, double *out) {
    s = jj_strip(j, s, NULL, JJ_LEFT | JJ_RIGHT);
    char *text = jj_alloc(j, s->len + 1), *end;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->len; i++) {
        char c = s->p[i];
        if ((uint8_t)c >= 0x80 || c == '\0' || (c | 32) == 'x' || (c | 32) == 'p' || c == '(')
            return false; /* no hex, no nan(...) */
        if (c == '_') {
            bool between = i && i + 1 < s->len && s->p[i - 1] >= '0' && s->p[i - 1] <= '9' &&
                           s->p[i + 1] >= '0' && s->p[i + 1] <= '9';
            if (!between) return false;
            continue;
        }
        text[n++] = c;
    }
    text[n] = '\0';
    if (!n || jj_is_space(text[0])) return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

static bool float_to_int(struct jj *j, double f, int64_t *out) {
    if (isnan(f) || isinf(f)) return false;
    if (!(fabs(f) < 9223372036854775808.0)) jj_fail(j, ST_UNSUPPORTED, "an integer over 64 bits");
    *out = (int64_t)f;
    return true;
}

JJ_FILTER(f_int) {
    UNUSED;
    int64_t i = 0, base = jj_given(a[1]) ? jj_want_int(j, a[1], "int") : 10;
    double f;
    struct jj_val otherwise = jj_given(a[0]) ? a[0] : jj_int(0, CHAT_FROM_TEMPLATE);
    if (self.kind == JJ_UNDEF) jj_fail_undef(j, self);
    if (jj_is_intlike(self)) return jj_int(jj_intlike(self), self.origin);
    if (self.kind == JJ_FLOAT) {
        if (isinf(self.f)) jj_fail(j, ST_INVALID, "int: cannot convert float infinity to integer");
        return float_to_int(j, self.f, &i) ? jj_int(i, self.origin) : otherwise;
    }
    if (self.kind != JJ_STR) return otherwise;
    refuse_other_digits(j, self.s);
    if (parse_int(j, self.s, base, &i)) return jj_int(i, jj_str_origin(self.s));
    if (parse_float(j, self.s, &f) && float_to_int(j, f, &i))
        return jj_int(i, jj_str_origin(self.s));
    return otherwise;
}

JJ_FILTER(f_float) {
    UNUSED;
    double f;
    if (self.kind == JJ_UNDEF) jj_fail_undef(j, self);
    if (self.kind == JJ_FLOAT) return self;
    if (jj_is_intlike(self)) return jj_float((double)jj_intlike(self), self.origin);
    if (self.kind == JJ_STR) refuse_other_digits(j, self.s);
    if (self.kind == JJ_STR && parse_float(j, self.s, &f))
        return jj_float(f, jj_str_origin(self.s));
    return jj_given(a[0]) ? a[0] : jj_float(0, CHAT_FROM_TEMPLATE);
}

JJ_FILTER(f_round) {
    UNUSED;
    int64_t digits = jj_given(a[0]) ? jj_want_int(j, a[0], "round") : 0;
    const struct jj_str *how =
        jj_given(a[1]) ? jj_want_str(j, a[1], "round") : jj_str_lit(j, "common");
    bool ceil_it = jj_str_is(how, "ceil"), floor_it = jj_str_is(how, "floor");
    if (!ceil_it && !floor_it && !jj_str_is(how, "common"))
        jj_fail(j, ST_INVALID, "round: method must be common, ceil or floor");
    if (!jj_is_number(self))
        jj_fail(j, ST_INVALID, "round: found %s, expected a number", jj_type(self));
    if (!ceil_it && !floor_it) return jj_pow10_round(j, self, digits);
    struct jj_val unit =
        jj_binary(j, JJ_T_POW, jj_int(10, CHAT_FROM_TEMPLATE), jj_int(digits, CHAT_FROM_TEMPLATE));
    struct jj_val up = jj_binary(j, JJ_T_MUL, self, unit);
    if (up.kind == JJ_FLOAT) {
        int64_t i;
        if (!float_to_int(j, ceil_it ? ceil(up.f) : floor(up.f), &i))
            jj_fail(j, ST_INVALID, "round: cannot convert to an integer");
        up = jj_int(i, up.origin);
    }
    return jj_binary(j, JJ_T_DIV, up, unit);
}

JJ_FILTER(f_filesizeformat) {
    UNUSED;
    static const char *const names[2][8] = {
        {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
        {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    char text[400];
    struct jj_val v = f_float(j, self, (const struct jj_val[2]){jj_none()}, raw);
    if (v.kind != JJ_FLOAT)
        jj_fail(j, ST_INVALID, "filesizeformat: found %s, expected a number", jj_type(self));
    bool binary = jj_flag(a[0], false);
    long double base = binary ? 1024 : 1000, unit; /* exact up to 1000^9 */
    if (v.f == 1)
        strcpy(text, "1 Byte");
    else if (v.f < base)
        snprintf(text, sizeof text, "%.0f Bytes", trunc(v.f));
    else {
        int i = 0;
        for (unit = base * base; i < 7 && v.f >= unit; i++) unit *= base;
        snprintf(text, sizeof text, "%.1f %s", (double)base * v.f / (double)unit, names[binary][i]);
    }
    return jj_strv(jj_str_new(j, text, strlen(text), v.origin));
}

/* Known to Jinja, so that a template that only names them in a branch still compiles. */
#define REFUSED(name)                                                                              \
    JJ_FILTER(f_##name) {                                                                          \
        UNUSED;                                                                                    \
        jj_fail(j, ST_UNSUPPORTED, "filter '" #name "' is not supported in a chat template");      \
    }
REFUSED(pprint)
REFUSED(random)
REFUSED(striptags)
REFUSED(urlize)
REFUSED(wordwrap)

static const struct jj_builtin filters[] = {
    {"abs", f_abs, ""},
    {"attr", f_attr, "name"},
    {"capitalize", f_capitalize, ""},
    {"center", f_center, "| width"},
    {"d", f_default, "| default_value boolean"},
    {"default", f_default, "| default_value boolean"},
    {"e", f_escape, ""},
    {"escape", f_escape, ""},
    {"filesizeformat", f_filesizeformat, "| binary"},
    {"float", f_float, "| default"},
    {"forceescape", f_forceescape, ""},
    {"format", f_format, NULL},
    {"indent", f_indent, "| width first blank"},
    {"int", f_int, "| default base"},
    {"lower", f_lower, ""},
    {"replace", f_replace, "old new | count"},
    {"round", f_round, "| precision method"},
    {"safe", f_safe, ""},
    {"string", f_string, ""},
    {"title", f_title, ""},
    {"tojson", f_tojson, "| ensure_ascii indent separators sort_keys"},
    {"trim", f_trim, "| chars"},
    {"truncate", f_truncate, "| length killwords end leeway"},
    {"upper", f_upper, ""},
    {"urlencode", f_urlencode, ""},
    {"wordcount", f_wordcount, ""},
    {"xmlattr", f_xmlattr, "| autospace"},
    {"pprint", f_pprint, NULL},
    {"random", f_random, NULL},
    {"striptags", f_striptags, NULL},
    {"urlize", f_urlize, NULL},
    {"wordwrap", f_wordwrap, NULL},
};

const struct jj_builtin *jj_filter_find(const struct jj_str *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (jj_str_is(name, filters[i].name)) return &filters[i];
    return jj_seq_filter_find(name);
}

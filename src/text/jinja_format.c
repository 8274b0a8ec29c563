/* SPDX-License-Identifier: Apache-2.0 */
/* Implements the format strings of jinja_show.h: printf-style "%" and str.format with its
 * mini-language, for strings and numbers. What of them nobody writes in a template (grouping,
 * nested fields in a specification) is refused by name. */
#include "text/jinja_show.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_text.h"

enum { FIELD_MAX = 1 << 20, PRECISION_MAX = 300 };

struct spec {
    bool left, plus, space, alt, zero;
    int64_t width, precision; /* -1: none */
    char type;
    /* str.format only */
    const struct jj_str *fill; /* one character, or NULL */
    char align;                /* '<' '>' '^' '=' or 0 */
};

/* Puts text in a field of the spec's width; numbers pad with zeros after their sign. */
static void put_field(struct jj_sb *b, const struct jj_str *text, const struct spec *s,
                      bool number) {
    uint32_t len = text->cps;
    int64_t pad = s->width > len ? s->width - len : 0;
    char align = s->align ? s->align : s->left ? '<' : '>';
    int64_t before = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    const struct jj_str *fill = s->fill;
    uint32_t sign = 0;
    if (align == '=' || (s->zero && !s->align && !s->left && number)) {
        if (len && (text->p[0] == '-' || text->p[0] == '+' || text->p[0] == ' ')) sign = 1;
        if (text->len >= sign + 2 && s->alt && text->p[sign] == '0' &&
            strchr("xXob", text->p[sign + 1]))
            sign += 2;
        before = pad;
    }
    jj_sb_add(b, text->p, sign, text->o);
    for (int64_t i = 0; i < pad; i++) {
        if (i == before)
            jj_sb_add(b, text->p + sign, text->len - sign, text->o + sign), before = -1;
        if (fill)
            jj_sb_str(b, fill);
        else
            jj_sb_lit(b, s->zero && number && !s->left ? "0" : " ");
    }
    if (before >= 0) jj_sb_add(b, text->p + sign, text->len - sign, text->o + sign);
}

static void sign_text(char *out, bool negative, const struct spec *s) {
    strcpy(out, negative ? "-" : s->plus ? "+" : s->space ? " " : "");
}

static const struct jj_str *int_text(struct jj *j, struct jj_val v, const struct spec *s) {
    char digits[72], text[80], sign[4];
    int64_t i = jj_intlike(v);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *prefix = "";
    sign_text(sign, i < 0, s);
    switch (s->type) {
    case 'x': snprintf(digits, sizeof digits, "%" PRIx64, u), prefix = "0x"; break;
    case 'X': snprintf(digits, sizeof digits, "%" PRIX64, u), prefix = "0X"; break;
    case 'o': snprintf(digits, sizeof digits, "%" PRIo64, u), prefix = "0o"; break;
    case 'b': {
        int n = 0;
        for (int k = 63; k >= 0; k--)
            if (n || u >> k & 1 || k == 0) digits[n++] = (char)('0' + (u >> k & 1));
        digits[n] = '\0';
        prefix = "0b";
        break;
    }
    default: snprintf(digits, sizeof digits, "%" PRIu64, u);
    }
    int n = snprintf(text, sizeof text, "%s%s", sign, s->alt ? prefix : "");
    struct jj_sb b = {.j = j};
    jj_sb_put(&b, text, (size_t)n, v.origin);
    for (int64_t k = (int64_t)strlen(digits); k < s->precision; k++)
        jj_sb_put(&b, "0", 1, v.origin);
    jj_sb_put(&b, digits, strlen(digits), v.origin);
    return jj_sb_done(&b);
}

static const struct jj_str *float_text(struct jj *j, struct jj_val v, const struct spec *s) {
    double f = v.kind == JJ_FLOAT ? v.f : (double)jj_intlike(v);
    char text[PRECISION_MAX + 400], sign[4], fmt[8];
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    sign_text(sign, signbit(f) && !isnan(f), s);
    snprintf(fmt, sizeof fmt, "%%.*%c", s->type == '%' ? 'f' : s->type);
    if (s->alt) jj_fail(j, ST_UNSUPPORTED, "format: '#' with a float is not supported");
    if (isnan(f) || isinf(f)) {
        bool upper = s->type >= 'A' && s->type <= 'Z';
        strcpy(text, isnan(f) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
    } else {
        double shown = s->type == '%' ? fabs(f) * 100 : fabs(f);
        snprintf(text, sizeof text, fmt, precision, shown);
    }
    struct jj_sb b = {.j = j};
    jj_sb_put(&b, sign, strlen(sign), v.origin);
    jj_sb_put(&b, text, strlen(text), v.origin);
    if (s->type == '%') jj_sb_put(&b, "%", 1, v.origin);
    return jj_sb_done(&b);
}

static const struct jj_str *cut_to(struct jj *j, const struct jj_str *s, int64_t precision) {
    if (precision < 0 || precision >= s->cps) return s;
    return jj_str_cut(j, s, 0, jj_at_cp(j, s, (uint32_t)precision));
}

/* --- printf style ----------------------------------------------------------------------------- */

struct percent {
    struct jj *j;
    const struct jj_str *fmt;
    uint32_t at, used;
    struct jj_val args;
    bool mapping_used;
};

static struct jj_val next_arg(struct percent *p) {
    bool tuple = p->args.kind == JJ_TUPLE;
    uint32_t n = tuple ? p->args.list->len : 1;
    if (p->used >= n || p->mapping_used)
        jj_fail(p->j, ST_INVALID, "not enough arguments for format string");
    p->used++;
    return tuple ? p->args.list->v[p->used - 1] : p->args;
}

static int64_t percent_number(struct percent *p) {
    const struct jj_str *f = p->fmt;
    if (p->at < f->len && f->p[p->at] == '*') {
        p->at++;
        return jj_want_int(p->j, next_arg(p), "* in a format string");
    }
    int64_t n = 0;
    while (p->at < f->len && f->p[p->at] >= '0' && f->p[p->at] <= '9' && n <= FIELD_MAX)
        n = n * 10 + (f->p[p->at++] - '0');
    if (n > FIELD_MAX) jj_fail(p->j, ST_FULL, "format: a field wider than %d", FIELD_MAX);
    return n;
}

static struct spec percent_spec(struct percent *p) {
    struct spec s = {.width = -1, .precision = -1};
    const struct jj_str *f = p->fmt;
    for (; p->at < f->len; p->at++) {
        char c = f->p[p->at];
        if (c == '-')
            s.left = true;
        else if (c == '+')
            s.plus = true;
        else if (c == ' ')
            s.space = true;
        else if (c == '#')
            s.alt = true;
        else if (c == '0')
            s.zero = true;
        else
            break;
    }
    s.width = percent_number(p);
    if (s.width < 0) s.left = true, s.width = s.width < -FIELD_MAX ? FIELD_MAX : -s.width;
    if (s.width > FIELD_MAX) jj_fail(p->j, ST_FULL, "format: a field wider than %d", FIELD_MAX);
    if (p->at < f->len && f->p[p->at] == '.') {
        p->at++;
        s.precision = percent_number(p);
        if (s.precision < 0) s.precision = 0;
    }
    while (p->at < f->len && strchr("hlL", f->p[p->at])) p->at++;
    if (p->at >= f->len) jj_fail(p->j, ST_INVALID, "incomplete format");
    s.type = f->p[p->at++];
    return s;
}

static struct jj_val percent_int(struct jj *j, struct jj_val v, char type) {
    if (v.kind == JJ_FLOAT && strchr("diu", type)) {
        if (!(fabs(v.f) < 9.2e18))
            jj_fail(j, ST_UNSUPPORTED, "format: %%%c of an integer over 64 bits", type);
        return jj_int((int64_t)v.f, v.origin);
    }
    if (!jj_is_intlike(v))
        jj_fail(j, ST_INVALID, "%%%c format: a number is required, not %s", type, jj_type(v));
    return v;
}

static void percent_one(struct percent *p, struct jj_sb *b, struct jj_val *keyed) {
    struct jj *j = p->j;
    struct spec s = percent_spec(p);
    if (s.type == '%') {
        jj_sb_add(b, p->fmt->p + p->at - 1, 1, p->fmt->o + p->at - 1);
        return;
    }
    struct jj_val v = keyed ? *keyed : next_arg(p);
    switch (s.type) {
    case 's': put_field(b, cut_to(j, jj_to_str(j, v), s.precision), &s, false); return;
    case 'r': {
        struct jj_sb r = {.j = j};
        jj_put_repr(&r, v);
        put_field(b, cut_to(j, jj_sb_done(&r), s.precision), &s, false);
        return;
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        if (s.precision > PRECISION_MAX)
            jj_fail(j, ST_FULL, "format: a precision over %d", PRECISION_MAX);
        put_field(b, int_text(j, percent_int(j, v, s.type), &s), &s, true);
        return;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (v.kind == JJ_UNDEF) jj_fail_undef(j, v);
        if (!jj_is_number(v))
            jj_fail(j, ST_INVALID, "%%%c format: must be real number, not %s", s.type, jj_type(v));
        if (s.precision > PRECISION_MAX)
            jj_fail(j, ST_FULL, "format: a precision over %d", PRECISION_MAX);
        put_field(b, float_text(j, v, &s), &s, true);
        return;
    default: jj_fail(j, ST_UNSUPPORTED, "format character '%c' is not supported", s.type);
    }
}

static struct jj_val percent_key(struct percent *p) {
    const struct jj_str *f = p->fmt;
    uint32_t from = ++p->at, depth = 1;
    for (; p->at < f->len && depth; p->at++)
        depth += f->p[p->at] == '(' ? 1u : f->p[p->at] == ')' ? -1u : 0u;
    if (depth) jj_fail(p->j, ST_INVALID, "incomplete format key");
    if (p->args.kind != JJ_DICT) jj_fail(p->j, ST_INVALID, "format requires a mapping");
    const struct jj_str *key = jj_str_cut(p->j, f, from, p->at - 1);
    const struct jj_val *v = jj_dict_get_str(p->j, p->args.dict, key);
    if (!v) jj_fail(p->j, ST_INVALID, "format: no key '%.*s'", (int)key->len, key->p);
    p->mapping_used = true;
    return *v;
}

const struct jj_str *jj_percent(struct jj *j, const struct jj_str *fmt, struct jj_val args) {
    struct percent p = {.j = j, .fmt = fmt, .args = args};
    struct jj_sb b = {.j = j};
    while (p.at < fmt->len) {
        const char *hit = memchr(fmt->p + p.at, '%', fmt->len - p.at);
        uint32_t to = hit ? (uint32_t)(hit - fmt->p) : fmt->len;
        jj_sb_add(&b, fmt->p + p.at, to - p.at, fmt->o + p.at);
        p.at = to + 1;
        if (!hit) break;
        jj_spend(j, 1);
        if (p.at < fmt->len && fmt->p[p.at] == '(') {
            struct jj_val v = percent_key(&p);
            percent_one(&p, &b, &v);
        } else {
            percent_one(&p, &b, NULL);
        }
    }
    bool leftover = args.kind == JJ_TUPLE
                        ? p.used < args.list->len
                        : p.used == 0 && args.kind != JJ_DICT && args.kind != JJ_LIST &&
                              args.kind != JJ_UNDEF && args.kind != JJ_RANGE;
    if (leftover && !p.mapping_used)
        jj_fail(j, ST_INVALID, "not all arguments converted during string formatting");
    return jj_sb_done(&b);
}

/* --- str.format ------------------------------------------------------------------------------- */

static int64_t spec_number(struct jj *j, const struct jj_str *f, uint32_t *at) {
    if (*at >= f->len || f->p[*at] < '0' || f->p[*at] > '9') return -1;
    int64_t n = 0;
    while (*at < f->len && f->p[*at] >= '0' && f->p[*at] <= '9' && n <= FIELD_MAX)
        n = n * 10 + (f->p[(*at)++] - '0');
    if (n > FIELD_MAX) jj_fail(j, ST_FULL, "format: a field wider than %d", FIELD_MAX);
    return n;
}

/* [[fill]align][sign][#][0][width][.precision][type] */
static struct spec format_spec(struct jj *j, const struct jj_str *f) {
    struct spec s = {0};
    uint32_t at = 0, first = 0;
    if (f->len) jj_cp_at(f->p, f->len, &first);
    if (first && first < f->len && strchr("<>^=", f->p[first])) {
        s.fill = jj_str_cut(j, f, 0, first);
        s.align = f->p[first];
        at = first + 1;
    } else if (f->len && strchr("<>^=", f->p[0])) {
        s.align = f->p[0];
        at = 1;
    }
    if (at < f->len && f->p[at] == '+')
        s.plus = true, at++;
    else if (at < f->len && f->p[at] == ' ')
        s.space = true, at++;
    else if (at < f->len && f->p[at] == '-')
        at++;
    if (at < f->len && f->p[at] == '#') s.alt = true, at++;
    if (at < f->len && f->p[at] == '0') {
        at++;
        if (!s.align)
            s.zero = true;
        else if (!s.fill)
            s.fill = jj_str_lit(j, "0");
    }
    s.width = spec_number(j, f, &at);
    s.precision = -1;
    if (at < f->len && f->p[at] == '.') {
        at++;
        s.precision = spec_number(j, f, &at);
        if (s.precision < 0) jj_fail(j, ST_INVALID, "format specifier missing precision");
        if (s.precision > PRECISION_MAX)
            jj_fail(j, ST_FULL, "format: a precision over %d", PRECISION_MAX);
    }
    if (at < f->len) s.type = f->p[at++];
    if (at < f->len || (s.type && !strchr("sdxXobeEfFgG%", s.type)))
        jj_fail(j, ST_UNSUPPORTED, "format specifier '%.*s' is not supported", (int)f->len, f->p);
    return s;
}

static void put_formatted(struct jj_sb *b, struct jj_val v, const struct jj_str *spec_text) {
    struct jj *j = b->j;
    if (!spec_text->len) {
        jj_put_str(b, v);
        return;
    }
    struct spec s = format_spec(j, spec_text);
    bool number = jj_is_number(v) && (v.kind != JJ_BOOL || (s.type && s.type != 's'));
    if (v.kind == JJ_STR && (s.type == 0 || s.type == 's')) {
        if (!s.align) s.left = true;
        if (s.align == '=' || s.zero)
            jj_fail(j, ST_INVALID, "format: '=' alignment not allowed in string format specifier");
        put_field(b, cut_to(j, v.s, s.precision), &s, false);
    } else if (number && jj_is_intlike(v) && (s.type == 0 || strchr("dxXob", s.type))) {
        if (s.precision >= 0)
            jj_fail(j, ST_INVALID, "format: precision not allowed in integer format specifier");
        put_field(b, int_text(j, v, &s), &s, true);
    } else if (number && s.type && strchr("eEfFgG%", s.type)) {
        put_field(b, float_text(j, v, &s), &s, true);
    } else if (v.kind == JJ_FLOAT && s.type == 0 && s.precision < 0) {
        char text[JJ_FLOAT_TEXT + 1], plain[JJ_FLOAT_TEXT], sign[4];
        jj_float_text(plain, fabs(v.f));
        sign_text(sign, signbit(v.f) && !isnan(v.f), &s);
        snprintf(text, sizeof text, "%s%s", sign, plain);
        put_field(b, jj_str_new(j, text, strlen(text), v.origin), &s, true);
    } else {
        jj_fail(j, ST_UNSUPPORTED,
                "format specifier '%.*s' for a value of type %s is not supported",
                (int)spec_text->len, spec_text->p, jj_type(v));
    }
}

struct field {
    struct jj *j;
    const struct jj_args *args;
    uint32_t next_auto;
    bool manual, automatic;
};

static struct jj_val field_root(struct field *f, const struct jj_str *name) {
    struct jj *j = f->j;
    bool digits = name->len > 0;
    uint64_t index = 0;
    for (uint32_t i = 0; i < name->len; i++) {
        digits &= name->p[i] >= '0' && name->p[i] <= '9';
        if (digits && index < UINT32_MAX) index = index * 10 + (uint64_t)(name->p[i] - '0');
    }
    if (!name->len || digits) {
        if (digits)
            f->manual = true;
        else
            f->automatic = true, index = f->next_auto++;
        if (f->manual && f->automatic)
            jj_fail(j, ST_INVALID,
                    "format: cannot switch between automatic and manual field numbering");
        if (index >= f->args->n)
            jj_fail(j, ST_INVALID, "format: replacement index %llu out of range",
                    (unsigned long long)index);
        return f->args->pos[index];
    }
    for (uint32_t i = 0; i < f->args->n_kw; i++)
        if (jj_str_eq(f->args->kw[i].name, name)) return f->args->kw[i].val;
    jj_fail(j, ST_INVALID, "format: no argument '%.*s'", (int)name->len, name->p);
}

/* name[.attr | [item]]... */
static struct jj_val field_value(struct field *f, const struct jj_str *path) {
    struct jj *j = f->j;
    uint32_t at = 0;
    while (at < path->len && path->p[at] != '.' && path->p[at] != '[') at++;
    struct jj_val v = field_root(f, jj_str_cut(j, path, 0, at));
    while (at < path->len) {
        bool item = path->p[at] == '[';
        uint32_t from = ++at;
        while (at < path->len &&
               (item ? path->p[at] != ']' : path->p[at] != '.' && path->p[at] != '['))
            at++;
        if ((item && at >= path->len) || from == at)
            jj_fail(j, ST_INVALID, "format: bad field '%.*s'", (int)path->len, path->p);
        const struct jj_str *key = jj_str_cut(j, path, from, at);
        bool digits = jj_all(key, JJ_DECIMAL);
        if (!item)
            v = jj_getattr(j, v, key);
        else if (digits)
            v = jj_getitem(j, v, jj_int(strtoll(jj_cstr(j, key), NULL, 10), CHAT_FROM_TEMPLATE));
        else
            v = jj_getitem(j, v, jj_strv(key));
        at += item;
    }
    return v;
}

static void put_replacement(struct field *f, struct jj_sb *b, const struct jj_str *text) {
    struct jj *j = f->j;
    uint32_t name_end = 0, bracket = 0;
    while (name_end < text->len &&
           (bracket || (text->p[name_end] != '!' && text->p[name_end] != ':'))) {
        bracket = text->p[name_end] == '[' ? 1 : text->p[name_end] == ']' ? 0 : bracket;
        name_end++;
    }
    struct jj_val v = field_value(f, jj_str_cut(j, text, 0, name_end));
    uint32_t at = name_end;
    if (at < text->len && text->p[at] == '!') {
        char how = at + 1 < text->len ? text->p[at + 1] : '\0';
        struct jj_sb r = {.j = j};
        if (how == 'r')
            jj_put_repr(&r, v);
        else if (how == 's')
            jj_put_str(&r, v);
        else
            jj_fail(j, ST_UNSUPPORTED, "format: conversion '!%c' is not supported",
                    how ? how : ' ');
        v = jj_strv(jj_sb_done(&r));
        at += 2;
        if (at < text->len && text->p[at] != ':')
            jj_fail(j, ST_INVALID, "format: expected ':' after conversion specifier");
    }
    uint32_t spec_from = at < text->len ? at + 1 : text->len;
    const struct jj_str *spec = jj_str_cut(j, text, spec_from, text->len);
    if (memchr(spec->p, '{', spec->len))
        jj_fail(j, ST_UNSUPPORTED, "format: a field inside a specification is not supported");
    put_formatted(b, v, spec);
}

const struct jj_str *jj_format(struct jj *j, const struct jj_str *fmt, const struct jj_args *args) {
    struct field f = {.j = j, .args = args};
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < fmt->len; i++) {
        char c = fmt->p[i];
        bool twice = i + 1 < fmt->len && fmt->p[i + 1] == c;
        if (c == '{' && !twice) {
            uint32_t end = i + 1, depth = 1;
            for (; end < fmt->len; end++) {
                depth += fmt->p[end] == '{' ? 1u : fmt->p[end] == '}' ? -1u : 0u;
                if (!depth) break;
            }
            if (depth) jj_fail(j, ST_INVALID, "format: expected '}' before end of string");
            jj_spend(j, 1);
            put_replacement(&f, &b, jj_str_cut(j, fmt, i + 1, end));
            i = end;
            continue;
        }
        if (c == '}' && !twice)
            jj_fail(j, ST_INVALID, "format: single '}' encountered in format string");
        jj_sb_add(&b, fmt->p + i, 1, fmt->o + i);
        if (c == '{' || c == '}') i++;
    }
    return jj_sb_done(&b);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements str, repr and json.dumps of jinja_show.h. A value whose text would hold a memory
 * address (a function, a generator) is refused: no two runs of the original agree on it. */
#include "text/jinja_show.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_text.h"

void jj_float_text(char out[JJ_FLOAT_TEXT], double f) {
    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char e[JJ_FLOAT_TEXT];
    int digits = 1;
    for (; digits <= 17; digits++) {
        snprintf(e, sizeof e, "%.*e", digits - 1, f);
        if (strtod(e, NULL) == f) break;
    }
    char *mark = strchr(e, 'e');
    int exp = atoi(mark + 1);
    if (exp < -4 || exp >= 16) { /* 1e+16, 1.5e-07: as printf has it */
        snprintf(out, JJ_FLOAT_TEXT, "%s", e);
    } else {
        int decimals = digits - 1 - exp;
        snprintf(out, JJ_FLOAT_TEXT, "%.*f", decimals > 0 ? decimals : 0, f);
        if (decimals <= 0) strcat(out, ".0");
    }
}

static void put_text(struct jj_sb *b, const char *text, uint8_t origin) {
    jj_sb_put(b, text, strlen(text), origin);
}

/* --- repr ------------------------------------------------------------------------------------- */

static void put_str_repr(struct jj_sb *b, const struct jj_str *s) {
    bool single = memchr(s->p, '\'', s->len) != NULL, both = single && memchr(s->p, '"', s->len);
    char quote = single && !both ? '"' : '\'', text[16];
    jj_sb_put(b, &quote, 1, CHAT_FROM_TEMPLATE);
    for (uint32_t i = 0; i < s->len;) {
        uint32_t at = i;
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        text[0] = '\0';
        if (cp == '\\' || cp == quote)
            snprintf(text, sizeof text, "\\%c", (char)cp);
        else if (cp == '\n')
            strcpy(text, "\\n");
        else if (cp == '\r')
            strcpy(text, "\\r");
        else if (cp == '\t')
            strcpy(text, "\\t");
        else if (!jj_is_printable(cp))
            snprintf(text, sizeof text,
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     (unsigned)cp);
        if (text[0])
            put_text(b, text, s->o[at]);
        else
            jj_sb_add(b, s->p + at, i - at, s->o + at);
    }
    jj_sb_put(b, &quote, 1, CHAT_FROM_TEMPLATE);
}

static void put_items(struct jj_sb *b, const char *open, const struct jj_list *l,
                      const char *close) {
    jj_sb_lit(b, open);
    for (uint32_t i = 0; i < l->len; i++) {
        if (i) jj_sb_lit(b, ", ");
        jj_put_repr(b, l->v[i]);
    }
    jj_sb_lit(b, close);
}

static void put_dict_repr(struct jj_sb *b, const struct jj_dict *d) {
    jj_sb_lit(b, "{");
    for (uint32_t i = 0; i < d->len; i++) {
        if (i) jj_sb_lit(b, ", ");
        jj_put_repr(b, d->v[i].key);
        jj_sb_lit(b, ": ");
        jj_put_repr(b, d->v[i].val);
    }
    jj_sb_lit(b, "}");
}

static void put_range(struct jj_sb *b, const struct jj_range *r) {
    char text[80];
    int n = snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64, r->start, r->stop);
    if (r->step != 1) n += snprintf(text + n, sizeof text - (size_t)n, ", %" PRId64, r->step);
    snprintf(text + n, sizeof text - (size_t)n, ")");
    jj_sb_lit(b, text);
}

static void put_number(struct jj_sb *b, struct jj_val v) {
    char text[JJ_FLOAT_TEXT];
    if (v.kind == JJ_FLOAT)
        jj_float_text(text, v.f);
    else
        snprintf(text, sizeof text, "%" PRId64, v.i);
    put_text(b, text, v.origin);
}

void jj_put_repr(struct jj_sb *b, struct jj_val v) {
    struct jj *j = b->j;
    jj_spend(j, 1);
    jj_enter(j);
    switch ((enum jj_kind)v.kind) {
    case JJ_MISSING:
    case JJ_UNDEF: jj_sb_lit(b, "Undefined"); break;
    case JJ_NONE: put_text(b, "None", v.origin); break;
    case JJ_BOOL: put_text(b, v.b ? "True" : "False", v.origin); break;
    case JJ_INT:
    case JJ_FLOAT: put_number(b, v); break;
    case JJ_STR:
        if (v.markup) jj_sb_lit(b, "Markup(");
        put_str_repr(b, v.s);
        if (v.markup) jj_sb_lit(b, ")");
        break;
    case JJ_LIST: put_items(b, "[", v.list, "]"); break;
    case JJ_TUPLE: put_items(b, "(", v.list, v.list->len == 1 ? ",)" : ")"); break;
    case JJ_DICT: put_dict_repr(b, v.dict); break;
    case JJ_VIEW:
        jj_sb_lit(b, jj_type(v));
        put_items(b, "([", jj_to_list(j, v), "])");
        break;
    case JJ_RANGE: put_range(b, v.range); break;
    case JJ_NAMESPACE:
        jj_sb_lit(b, "<Namespace ");
        put_dict_repr(b, v.dict);
        jj_sb_lit(b, ">");
        break;
    case JJ_MACRO: jj_put_macro_repr(b, v.macro); break;
    case JJ_LOOP: jj_put_loop_repr(b, v.loop); break;
    case JJ_GLOBAL:
    case JJ_METHOD:
    case JJ_ITER: jj_fail(j, ST_UNSUPPORTED, "printing a %s is not supported", jj_type(v));
    }
    jj_leave(j);
}

void jj_put_str(struct jj_sb *b, struct jj_val v) {
    if (v.kind == JJ_STR)
        jj_sb_str(b, v.s);
    else if (v.kind != JJ_UNDEF)
        jj_put_repr(b, v);
}

const struct jj_str *jj_to_str(struct jj *j, struct jj_val v) {
    if (v.kind == JJ_STR) return v.s;
    struct jj_sb b = {.j = j};
    jj_put_str(&b, v);
    return jj_sb_done(&b);
}

const struct jj_str *jj_escape(struct jj *j, const struct jj_str *s) {
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < s->len; i++) {
        const char *to = NULL;
        switch (s->p[i]) {
        case '&': to = "&amp;"; break;
        case '<': to = "&lt;"; break;
        case '>': to = "&gt;"; break;
        case '\'': to = "&#39;"; break;
        case '"': to = "&#34;"; break;
        default: jj_sb_add(&b, s->p + i, 1, s->o + i); continue;
        }
        put_text(&b, to, s->o[i]);
    }
    return jj_sb_done(&b);
}

/* --- json.dumps ------------------------------------------------------------------------------- */

static void put_json_str(struct jj_sb *b, const struct jj_str *s, bool ascii) {
    char text[16];
    jj_sb_lit(b, "\"");
    for (uint32_t i = 0; i < s->len;) {
        uint32_t at = i;
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        text[0] = '\0';
        switch (cp) {
        case '"': strcpy(text, "\\\""); break;
        case '\\': strcpy(text, "\\\\"); break;
        case '\n': strcpy(text, "\\n"); break;
        case '\r': strcpy(text, "\\r"); break;
        case '\t': strcpy(text, "\\t"); break;
        case '\f': strcpy(text, "\\f"); break;
        case '\b': strcpy(text, "\\b"); break;
        default:
            if (cp < 0x20 || (ascii && cp > 0x7e && cp < 0x10000))
                snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
            else if (ascii && cp >= 0x10000)
                snprintf(text, sizeof text, "\\u%04x\\u%04x",
                         0xd800 + ((unsigned)(cp - 0x10000) >> 10),
                         0xdc00 + ((unsigned)(cp - 0x10000) & 0x3ff));
        }
        if (text[0])
            put_text(b, text, s->o[at]);
        else
            jj_sb_add(b, s->p + at, i - at, s->o + at);
    }
    jj_sb_lit(b, "\"");
}

static void put_json_scalar(struct jj_sb *b, struct jj_val v) {
    if (v.kind == JJ_NONE)
        put_text(b, "null", v.origin);
    else if (v.kind == JJ_BOOL)
        put_text(b, v.b ? "true" : "false", v.origin);
    else if (v.kind == JJ_FLOAT && isnan(v.f))
        put_text(b, "NaN", v.origin);
    else if (v.kind == JJ_FLOAT && isinf(v.f))
        put_text(b, v.f < 0 ? "-Infinity" : "Infinity", v.origin);
    else
        put_number(b, v);
}

static void new_line(struct jj_sb *b, const struct jj_json *how, uint32_t level) {
    if (!how->indent) return;
    jj_sb_lit(b, "\n");
    for (uint32_t i = 0; i < level; i++) jj_sb_str(b, how->indent);
}

static void put_json(struct jj_sb *b, struct jj_val v, const struct jj_json *how, uint32_t level);

static void put_json_list(struct jj_sb *b, const struct jj_list *l, const struct jj_json *how,
                          uint32_t level) {
    if (!l->len) {
        jj_sb_lit(b, "[]");
        return;
    }
    jj_sb_lit(b, "[");
    for (uint32_t i = 0; i < l->len; i++) {
        if (i) jj_sb_str(b, how->comma);
        new_line(b, how, level + 1);
        put_json(b, l->v[i], how, level + 1);
    }
    new_line(b, how, level);
    jj_sb_lit(b, "]");
}

static void put_json_key(struct jj_sb *b, struct jj_val key, bool ascii) {
    switch ((enum jj_kind)key.kind) {
    case JJ_STR: put_json_str(b, key.s, ascii); return;
    case JJ_NONE:
    case JJ_BOOL:
    case JJ_INT:
    case JJ_FLOAT:
        jj_sb_lit(b, "\"");
        put_json_scalar(b, key);
        jj_sb_lit(b, "\"");
        return;
    default:
        jj_fail(b->j, ST_INVALID, "tojson: keys must be str, int, float, bool or None, not %s",
                jj_type(key));
    }
}

static void put_json_dict(struct jj_sb *b, const struct jj_dict *d, const struct jj_json *how,
                          uint32_t level) {
    struct jj *j = b->j;
    if (!d->len) {
        jj_sb_lit(b, "{}");
        return;
    }
    struct jj_list *keys = jj_list_new(j, d->len), *vals = jj_list_new(j, d->len);
    for (uint32_t i = 0; i < d->len; i++) {
        jj_list_push(j, keys, d->v[i].key);
        jj_list_push(j, vals, jj_pair_tuple(j, d->v[i].key, d->v[i].val));
    }
    if (how->sort_keys) jj_sort(j, vals->v, keys->v, d->len, false);
    jj_sb_lit(b, "{");
    for (uint32_t i = 0; i < d->len; i++) {
        const struct jj_val *pair = vals->v[i].list->v;
        if (i) jj_sb_str(b, how->comma);
        new_line(b, how, level + 1);
        put_json_key(b, pair[0], how->ascii);
        jj_sb_str(b, how->colon);
        put_json(b, pair[1], how, level + 1);
    }
    new_line(b, how, level);
    jj_sb_lit(b, "}");
}

static void put_json(struct jj_sb *b, struct jj_val v, const struct jj_json *how, uint32_t level) {
    jj_spend(b->j, 1);
    jj_enter(b->j);
    switch ((enum jj_kind)v.kind) {
    case JJ_STR: put_json_str(b, v.s, how->ascii); break;
    case JJ_NONE:
    case JJ_BOOL:
    case JJ_INT:
    case JJ_FLOAT: put_json_scalar(b, v); break;
    case JJ_LIST:
    case JJ_TUPLE: put_json_list(b, v.list, how, level); break;
    case JJ_DICT: put_json_dict(b, v.dict, how, level); break;
    default:
        jj_fail(b->j, ST_INVALID, "tojson: object of type %s is not JSON serializable", jj_type(v));
    }
    jj_leave(b->j);
}

void jj_put_json(struct jj_sb *b, struct jj_val v, const struct jj_json *how) {
    put_json(b, v, how, 0);
}

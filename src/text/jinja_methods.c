/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of Python's types, and the binding of arguments to parameters. The methods that change a
 * list or a dict are, as in Jinja's immutable sandbox, undefined: naming one prints nothing,
 * calling it is an error. A method that Python has and this file lacks is an error when it is
 * named, so that it cannot be mistaken for a missing key. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_show.h"
#include "text/jinja_text.h"

/* --- arguments -------------------------------------------------------------------------------- */

struct params {
    uint32_t n, required;
    struct {
        const char *p;
        uint32_t len;
    } name[JJ_PARAMS_MAX];
};

static struct params read_params(const char *text) {
    struct params s = {.required = UINT32_MAX};
    while (*text) {
        size_t len = strcspn(text, " ");
        if (*text == '|')
            s.required = s.n;
        else
            s.name[s.n].p = text, s.name[s.n++].len = (uint32_t)len;
        text += len + (text[len] == ' ');
    }
    if (s.required > s.n) s.required = s.n;
    return s;
}

struct jj_val jj_call_builtin(struct jj *j, const struct jj_builtin *f, struct jj_val self,
                              const struct jj_args *args) {
    if (self.kind == JJ_STR) jj_spend_bytes(j, self.s->len); /* most of them read it whole */
    if (!f->params) return f->fn(j, self, NULL, args);
    struct jj_val a[JJ_PARAMS_MAX] = {0};
    bool positional = f->params[0] == '/';
    struct params p = read_params(f->params + (positional ? 2 : 0));
    if (positional && args->n_kw) jj_fail(j, ST_INVALID, "%s: takes no keyword arguments", f->name);
    if (args->n > p.n)
        jj_fail(j, ST_INVALID, "%s: takes at most %u arguments (%u given)", f->name, p.n, args->n);
    for (uint32_t i = 0; i < args->n; i++) a[i] = args->pos[i];
    for (uint32_t k = 0; k < args->n_kw; k++) {
        const struct jj_str *name = args->kw[k].name;
        uint32_t i = 0;
        while (i < p.n &&
               !(p.name[i].len == name->len && memcmp(p.name[i].p, name->p, name->len) == 0))
            i++;
        if (i == p.n)
            jj_fail(j, ST_INVALID, "%s: unexpected keyword argument '%.*s'", f->name,
                    (int)name->len, name->p);
        if (jj_given(a[i]))
            jj_fail(j, ST_INVALID, "%s: two values for argument '%.*s'", f->name, (int)name->len,
                    name->p);
        a[i] = args->kw[k].val;
    }
    for (uint32_t i = 0; i < p.required; i++)
        if (!jj_given(a[i]))
            jj_fail(j, ST_INVALID, "%s: missing argument '%.*s'", f->name, (int)p.name[i].len,
                    p.name[i].p);
    return f->fn(j, self, a, args);
}

int64_t jj_want_int(struct jj *j, struct jj_val v, const char *what) {
    if (v.kind == JJ_UNDEF) jj_fail_undef(j, v);
    if (!jj_is_intlike(v))
        jj_fail(j, ST_INVALID, "%s: found %s, expected an integer", what, jj_type(v));
    return jj_intlike(v);
}

const struct jj_str *jj_want_str(struct jj *j, struct jj_val v, const char *what) {
    if (v.kind == JJ_UNDEF) jj_fail_undef(j, v);
    if (v.kind != JJ_STR)
        jj_fail(j, ST_INVALID, "%s: found %s, expected a string", what, jj_type(v));
    return v.s;
}

static const struct jj_str *str_or_none(struct jj *j, struct jj_val v, const char *what) {
    return jj_given(v) && v.kind != JJ_NONE ? jj_want_str(j, v, what) : NULL;
}

/* --- str -------------------------------------------------------------------------------------- */

#define METHOD(name)                                                                               \
    static struct jj_val name(struct jj *j, struct jj_val self, const struct jj_val *a,            \
                              const struct jj_args *raw)
#define UNUSED (void)j, (void)self, (void)a, (void)raw

/* What a method makes of a Markup string is Markup again. */
static struct jj_val like(struct jj_val self, const struct jj_str *s) {
    struct jj_val v = jj_strv(s);
    v.markup = self.markup;
    return v;
}

static void plain_only(struct jj *j, struct jj_val self, const char *what) {
    if (self.markup) jj_fail(j, ST_UNSUPPORTED, "%s on a Markup string is not supported", what);
}

METHOD(s_upper) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_UPPER));
}
METHOD(s_lower) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_LOWER));
}
METHOD(s_title) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_TITLE));
}
METHOD(s_capitalize) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_CAPITALIZE));
}
METHOD(s_swapcase) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_SWAPCASE));
}
METHOD(s_casefold) {
    UNUSED;
    return like(self, jj_recase(j, self.s, JJ_CASEFOLD));
}
METHOD(s_isalpha) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_ALPHA));
}
METHOD(s_isalnum) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_ALNUM));
}
METHOD(s_isdigit) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_DIGIT));
}
METHOD(s_isdecimal) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_DECIMAL));
}
METHOD(s_isnumeric) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_NUMERIC));
}
METHOD(s_isspace) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_SPACE));
}
METHOD(s_isascii) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_ASCII));
}
METHOD(s_isprintable) {
    UNUSED;
    return jj_bool(jj_all(self.s, JJ_PRINTABLE));
}
METHOD(s_islower) {
    UNUSED;
    return jj_bool(jj_is_lower(self.s));
}
METHOD(s_isupper) {
    UNUSED;
    return jj_bool(jj_is_upper(self.s));
}
METHOD(s_istitle) {
    UNUSED;
    return jj_bool(jj_is_title(self.s));
}
METHOD(s_strip) {
    UNUSED;
    return like(self, jj_strip(j, self.s, str_or_none(j, a[0], "strip"), JJ_LEFT | JJ_RIGHT));
}
METHOD(s_lstrip) {
    UNUSED;
    return like(self, jj_strip(j, self.s, str_or_none(j, a[0], "lstrip"), JJ_LEFT));
}
METHOD(s_rstrip) {
    UNUSED;
    return like(self, jj_strip(j, self.s, str_or_none(j, a[0], "rstrip"), JJ_RIGHT));
}

METHOD(s_split) {
    UNUSED;
    plain_only(j, self, "split");
    return jj_listv(jj_split(j, self.s, str_or_none(j, a[0], "split"),
                             jj_given(a[1]) ? jj_want_int(j, a[1], "split") : -1));
}
METHOD(s_rsplit) {
    UNUSED;
    plain_only(j, self, "rsplit");
    return jj_listv(jj_rsplit(j, self.s, str_or_none(j, a[0], "rsplit"),
                              jj_given(a[1]) ? jj_want_int(j, a[1], "rsplit") : -1));
}
METHOD(s_splitlines) {
    UNUSED;
    plain_only(j, self, "splitlines");
    return jj_listv(jj_lines(j, self.s, jj_flag(a[0], false)));
}

METHOD(s_replace) {
    UNUSED;
    plain_only(j, self, "replace");
    return jj_strv(jj_replace(j, self.s, jj_want_str(j, a[0], "replace"),
                              jj_want_str(j, a[1], "replace"),
                              jj_given(a[2]) ? jj_want_int(j, a[2], "replace") : -1));
}

METHOD(s_join) {
    UNUSED;
    plain_only(j, self, "join");
    struct jj_sb b = {.j = j};
    struct jj_iter *it = jj_iter(j, a[0]);
    struct jj_val v;
    for (uint32_t i = 0; jj_next(j, it, &v); i++) {
        if (v.kind != JJ_STR)
            jj_fail(j, ST_INVALID, "join: sequence item %u: expected str instance, %s found", i,
                    jj_type(v));
        if (i) jj_sb_str(&b, self.s);
        jj_sb_str(&b, v.s);
    }
    return jj_strv(jj_sb_done(&b));
}

/* s[start:end], as the searching methods take it. */
static const struct jj_str *window(struct jj *j, const struct jj_str *s, struct jj_val start,
                                   struct jj_val end, int64_t *first) {
    int64_t from = 0, to = s->cps;
    if (jj_given(start) && start.kind != JJ_NONE) from = jj_want_int(j, start, "start");
    if (jj_given(end) && end.kind != JJ_NONE) to = jj_want_int(j, end, "end");
    if (from < 0) from = from + s->cps < 0 ? 0 : from + s->cps;
    if (to < 0) to = to + s->cps < 0 ? 0 : to + s->cps;
    if (to > s->cps) to = s->cps;
    *first = from;
    if (from > to) return NULL;
    uint32_t at = jj_at_cp(j, s, (uint32_t)from);
    return jj_str_cut(j, s, at, jj_at_cp(j, s, (uint32_t)to));
}

static int64_t search(struct jj *j, struct jj_val self, const struct jj_val *a, bool right) {
    int64_t first;
    const struct jj_str *sub = jj_want_str(j, a[0], "find"),
                        *s = window(j, self.s, a[1], a[2], &first);
    if (!s) return -1;
    uint32_t hit = right ? jj_rfind(j, s, sub, s->len) : jj_find(j, s, sub, 0);
    return hit == JJ_NOT_FOUND ? -1 : first + jj_cps(s->p, hit);
}

static struct jj_val found(struct jj *j, int64_t at, bool must) {
    if (at < 0 && must) jj_fail(j, ST_INVALID, "index: substring not found");
    return jj_int(at, CHAT_FROM_OTHER);
}
METHOD(s_find) {
    UNUSED;
    return found(j, search(j, self, a, false), false);
}
METHOD(s_rfind) {
    UNUSED;
    return found(j, search(j, self, a, true), false);
}
METHOD(s_index) {
    UNUSED;
    return found(j, search(j, self, a, false), true);
}
METHOD(s_rindex) {
    UNUSED;
    return found(j, search(j, self, a, true), true);
}

METHOD(s_count) {
    UNUSED;
    int64_t first;
    const struct jj_str *s = window(j, self.s, a[1], a[2], &first),
                        *sub = jj_want_str(j, a[0], "count");
    return jj_int(s ? jj_count(j, s, sub) : 0, CHAT_FROM_OTHER);
}

static struct jj_val affix(struct jj *j, struct jj_val self, const struct jj_val *a,
                           const char *what,
                           bool (*test)(const struct jj_str *, const struct jj_str *)) {
    int64_t first;
    const struct jj_str *s = window(j, self.s, a[1], a[2], &first);
    if (a[0].kind == JJ_TUPLE) {
        for (uint32_t i = 0; i < a[0].list->len; i++) {
            const struct jj_str *x = jj_want_str(j, a[0].list->v[i], what);
            jj_spend(j, x->len / 64 + 1);
            if (s && test(s, x)) return jj_bool(true);
        }
        return jj_bool(false);
    }
    const struct jj_str *x = jj_want_str(j, a[0], what);
    return jj_bool(s && test(s, x));
}
METHOD(s_startswith) {
    UNUSED;
    return affix(j, self, a, "startswith", jj_starts);
}
METHOD(s_endswith) {
    UNUSED;
    return affix(j, self, a, "endswith", jj_ends);
}

METHOD(s_removeprefix) {
    UNUSED;
    const struct jj_str *x = jj_want_str(j, a[0], "removeprefix");
    return like(self, jj_starts(self.s, x) ? jj_str_cut(j, self.s, x->len, self.s->len) : self.s);
}
METHOD(s_removesuffix) {
    UNUSED;
    const struct jj_str *x = jj_want_str(j, a[0], "removesuffix");
    return like(self, jj_ends(self.s, x) ? jj_str_cut(j, self.s, 0, self.s->len - x->len) : self.s);
}

static struct jj_val three(struct jj *j, struct jj_val x, struct jj_val y, struct jj_val z) {
    struct jj_list *l = jj_list_new(j, 3);
    jj_list_push(j, l, x);
    jj_list_push(j, l, y);
    jj_list_push(j, l, z);
    return jj_tuplev(l);
}

static struct jj_val partition(struct jj *j, struct jj_val self, struct jj_val sep, bool right) {
    plain_only(j, self, "partition");
    const struct jj_str *x = jj_want_str(j, sep, "partition"), *s = self.s;
    if (!x->len) jj_fail(j, ST_INVALID, "partition: empty separator");
    struct jj_val empty = jj_strv(jj_str_cut(j, s, 0, 0));
    uint32_t at = right ? jj_rfind(j, s, x, s->len) : jj_find(j, s, x, 0);
    if (at == JJ_NOT_FOUND)
        return right ? three(j, empty, empty, self) : three(j, self, empty, empty);
    return three(j, jj_strv(jj_str_cut(j, s, 0, at)), jj_strv(jj_str_cut(j, s, at, at + x->len)),
                 jj_strv(jj_str_cut(j, s, at + x->len, s->len)));
}
METHOD(s_partition) {
    UNUSED;
    return partition(j, self, a[0], false);
}
METHOD(s_rpartition) {
    UNUSED;
    return partition(j, self, a[0], true);
}

/* Fills up to width: left of the text `before` of the missing, the rest right of it. */
static struct jj_val padded(struct jj *j, struct jj_val self, const struct jj_val *a, int how) {
    int64_t width = jj_want_int(j, a[0], "width");
    const struct jj_str *fill = jj_given(a[1]) ? jj_want_str(j, a[1], "fill") : jj_str_lit(j, " ");
    if (fill->cps != 1)
        jj_fail(j, ST_INVALID, "the fill character must be exactly one character long");
    if (width <= self.s->cps) return self;
    if (width > JJ_STR_MAX) jj_fail(j, ST_FULL, "a string grows over %d MiB", JJ_STR_MAX >> 20);
    int64_t pad = width - self.s->cps, left = how < 0   ? 0
                                              : how > 0 ? pad
                                                        : pad / 2 + (pad & width & 1);
    struct jj_sb b = {.j = j};
    jj_spend(j, (uint64_t)pad / 8);
    for (int64_t i = 0; i < left; i++) jj_sb_str(&b, fill);
    jj_sb_str(&b, self.s);
    for (int64_t i = left; i < pad; i++) jj_sb_str(&b, fill);
    return like(self, jj_sb_done(&b));
}
METHOD(s_ljust) {
    UNUSED;
    return padded(j, self, a, -1);
}
METHOD(s_rjust) {
    UNUSED;
    return padded(j, self, a, 1);
}
METHOD(s_center) {
    UNUSED;
    return padded(j, self, a, 0);
}

METHOD(s_zfill) {
    UNUSED;
    bool sign = self.s->len && (self.s->p[0] == '-' || self.s->p[0] == '+');
    struct jj_val body = jj_strv(jj_str_cut(j, self.s, sign, self.s->len));
    int64_t width = jj_want_int(j, a[0], "zfill");
    struct jj_val args[2] = {jj_int(width - sign, 0), jj_strv(jj_str_lit(j, "0"))};
    return like(self, jj_concat(j, jj_str_cut(j, self.s, 0, sign), padded(j, body, args, 1).s));
}

METHOD(s_expandtabs) {
    UNUSED;
    int64_t size = jj_given(a[0]) ? jj_want_int(j, a[0], "expandtabs") : 8, column = 0;
    if (size > 1024)
        jj_fail(j, ST_UNSUPPORTED, "expandtabs: found %lld, expected at most 1024",
                (long long)size);
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < self.s->len; i++) {
        char c = self.s->p[i];
        if (c == '\t') {
            for (int64_t n = size > 0 ? size - column % size : 0; n > 0; n--, column++)
                jj_sb_put(&b, " ", 1, self.s->o[i]);
            continue;
        }
        jj_sb_add(&b, &c, 1, self.s->o + i);
        column = c == '\n' || c == '\r' ? 0 : column + (((uint8_t)c & 0xc0) != 0x80);
    }
    return like(self, jj_sb_done(&b));
}

METHOD(s_format) {
    UNUSED;
    plain_only(j, self, "format");
    return jj_strv(jj_format(j, self.s, raw));
}

static const struct jj_builtin str_methods[] = {
    {"capitalize", s_capitalize, ""},
    {"casefold", s_casefold, ""},
    {"center", s_center, "/ width | fillchar"},
    {"count", s_count, "/ sub | start end"},
    {"endswith", s_endswith, "/ suffix | start end"},
    {"expandtabs", s_expandtabs, "| tabsize"},
    {"find", s_find, "/ sub | start end"},
    {"format", s_format, NULL},
    {"index", s_index, "/ sub | start end"},
    {"isalnum", s_isalnum, ""},
    {"isalpha", s_isalpha, ""},
    {"isascii", s_isascii, ""},
    {"isdecimal", s_isdecimal, ""},
    {"isdigit", s_isdigit, ""},
    {"islower", s_islower, ""},
    {"isnumeric", s_isnumeric, ""},
    {"isprintable", s_isprintable, ""},
    {"isspace", s_isspace, ""},
    {"istitle", s_istitle, ""},
    {"isupper", s_isupper, ""},
    {"join", s_join, "/ iterable"},
    {"ljust", s_ljust, "/ width | fillchar"},
    {"lower", s_lower, ""},
    {"lstrip", s_lstrip, "/ | chars"},
    {"partition", s_partition, "/ sep"},
    {"removeprefix", s_removeprefix, "/ prefix"},
    {"removesuffix", s_removesuffix, "/ suffix"},
    {"replace", s_replace, "/ old new | count"},
    {"rfind", s_rfind, "/ sub | start end"},
    {"rindex", s_rindex, "/ sub | start end"},
    {"rjust", s_rjust, "/ width | fillchar"},
    {"rpartition", s_rpartition, "/ sep"},
    {"rsplit", s_rsplit, "| sep maxsplit"},
    {"rstrip", s_rstrip, "/ | chars"},
    {"split", s_split, "| sep maxsplit"},
    {"splitlines", s_splitlines, "| keepends"},
    {"startswith", s_startswith, "/ prefix | start end"},
    {"strip", s_strip, "/ | chars"},
    {"swapcase", s_swapcase, ""},
    {"title", s_title, ""},
    {"upper", s_upper, ""},
    {"zfill", s_zfill, "/ width"},
    {NULL, NULL, NULL},
};

/* --- dict, list, tuple, range, numbers -------------------------------------------------------- */

METHOD(d_items) {
    UNUSED;
    return jj_view(j, self.dict, JJ_ITEMS);
}
METHOD(d_keys) {
    UNUSED;
    return jj_view(j, self.dict, JJ_KEYS);
}
METHOD(d_values) {
    UNUSED;
    return jj_view(j, self.dict, JJ_VALUES);
}
METHOD(d_copy) {
    UNUSED;
    return self;
}
METHOD(d_get) {
    UNUSED;
    const struct jj_val *v = jj_dict_get(j, self.dict, a[0]);
    return v ? *v : jj_given(a[1]) ? a[1] : jj_none();
}
static const struct jj_builtin dict_methods[] = {
    {"items", d_items, ""},
    {"keys", d_keys, ""},
    {"values", d_values, ""},
    {"copy", d_copy, ""},
    {"get", d_get, "/ key | default"},
    {NULL, NULL, NULL},
};

METHOD(l_count) {
    UNUSED;
    uint32_t n = 0;
    for (uint32_t i = 0; i < self.list->len; i++) n += jj_equal(j, self.list->v[i], a[0]);
    return jj_int(n, CHAT_FROM_OTHER);
}
METHOD(l_index) {
    UNUSED;
    int64_t from = jj_given(a[1]) ? jj_want_int(j, a[1], "index") : 0,
            to = jj_given(a[2]) ? jj_want_int(j, a[2], "index") : INT64_MAX;
    if (from < 0) from += self.list->len;
    if (to < 0) to += self.list->len;
    for (int64_t i = from < 0 ? 0 : from; i < self.list->len && i < to; i++)
        if (jj_equal(j, self.list->v[i], a[0])) return jj_int(i, CHAT_FROM_OTHER);
    jj_fail(j, ST_INVALID, "index: the value is not in the %s", jj_type(self));
}
METHOD(l_copy) {
    UNUSED;
    return self;
}
static const struct jj_builtin list_methods[] = {
    {"count", l_count, "/ value"},
    {"index", l_index, "/ value | start stop"},
    {"copy", l_copy, ""},
    {NULL, NULL, NULL},
};
static const struct jj_builtin tuple_methods[] = {
    {"count", l_count, "/ value"},
    {"index", l_index, "/ value | start stop"},
    {NULL, NULL, NULL},
};

METHOD(f_is_integer) {
    UNUSED;
    return jj_bool(isfinite(self.f) && floor(self.f) == self.f);
}
static const struct jj_builtin float_methods[] = {{"is_integer", f_is_integer, ""},
                                                  {NULL, NULL, NULL}};
static const struct jj_builtin no_methods[] = {{NULL, NULL, NULL}};

/* What else Python's types have, by kind; a leading '-' marks what the sandbox forbids. */
static const struct {
    enum jj_kind kind;
    const struct jj_builtin *methods;
    const char *more;
} types[] = {
    {JJ_STR, str_methods, " encode format_map isidentifier maketrans translate "},
    {JJ_DICT, dict_methods, " -clear -pop -popitem -setdefault -update fromkeys "},
    {JJ_LIST, list_methods, " -append -clear -pop -reverse -insert -sort -extend -remove "},
    {JJ_TUPLE, tuple_methods, " "},
    {JJ_RANGE, no_methods, " start stop step count index "},
    {JJ_INT, no_methods,
     " real imag numerator denominator conjugate bit_length bit_count to_bytes from_bytes "
     "as_integer_ratio "},
    {JJ_BOOL, no_methods,
     " real imag numerator denominator conjugate bit_length bit_count to_bytes from_bytes "
     "as_integer_ratio "},
    {JJ_FLOAT, float_methods, " real imag conjugate hex fromhex as_integer_ratio "},
    {JJ_VIEW, no_methods, " isdisjoint mapping "},
    {JJ_MACRO, no_methods, " name arguments catch_kwargs catch_varargs caller explicit_caller "},
    {JJ_ITER, no_methods, " send throw close "},
};

static bool type_attr(struct jj *j, size_t t, struct jj_val obj, const struct jj_str *name,
                      struct jj_val *out) {
    for (const struct jj_builtin *f = types[t].methods; f->name; f++) {
        if (!jj_str_is(name, f->name)) continue;
        struct jj_method *m = jj_alloc(j, sizeof *m);
        *m = (struct jj_method){.f = f, .self = obj};
        *out = (struct jj_val){.kind = JJ_METHOD, .method = m};
        return true;
    }
    char word[40], hint[120];
    if (name->len > 30 || memchr(name->p, '\0', name->len)) return false;
    snprintf(word, sizeof word, " -%.*s ", (int)name->len, name->p);
    if (strstr(types[t].more, word)) {
        snprintf(hint, sizeof hint, "access to attribute '%.*s' of '%s' object is unsafe",
                 (int)name->len, name->p, jj_type(obj));
        *out = jj_undef_hint(j, jj_cstr(j, jj_str_lit(j, hint)));
        return true;
    }
    snprintf(word, sizeof word, " %.*s ", (int)name->len, name->p);
    if (name->len && strstr(types[t].more, word))
        jj_fail(j, ST_UNSUPPORTED, "attribute '%.*s' of a %s is not supported", (int)name->len,
                name->p, jj_type(obj));
    return false;
}

bool jj_attr(struct jj *j, struct jj_val obj, const struct jj_str *name, struct jj_val *out) {
    if (obj.kind == JJ_NAMESPACE) {
        const struct jj_val *v = jj_dict_get_str(j, obj.dict, name);
        if (v) *out = *v;
        return v != NULL;
    }
    if (name->len && name->p[0] == '_') return false; /* the sandbox hides these */
    if (obj.kind == JJ_LOOP) return jj_loop_attr(j, obj, name, out);
    if (obj.kind == JJ_TUPLE && obj.group &&
        (jj_str_is(name, "grouper") || jj_str_is(name, "list"))) {
        *out = obj.list->v[jj_str_is(name, "list")];
        return true;
    }
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        if (types[t].kind == obj.kind) return type_attr(j, t, obj, name, out);
    return false;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The functions every template can name: Jinja's range, dict and namespace, and the two that
 * transformers adds, raise_exception and strftime_now. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/jinja_eval.h"
#include "text/jinja_show.h"
#include "text/utf8.h"

#define GLOBAL(name)                                                                               \
    static struct jj_val name(struct jj *j, struct jj_val self, const struct jj_val *a,            \
                              const struct jj_args *raw)
#define UNUSED (void)j, (void)self, (void)a, (void)raw

GLOBAL(g_range) {
    UNUSED;
    int64_t v[3] = {0, 0, 1};
    if (raw->n_kw || raw->n < 1 || raw->n > 3)
        jj_fail(j, ST_INVALID, "range: expected 1 to 3 arguments");
    for (uint32_t i = 0; i < raw->n; i++)
        v[raw->n == 1 ? 1 : i] = jj_want_int(j, raw->pos[i], "range");
    if (v[2] == 0) jj_fail(j, ST_INVALID, "range: step must not be zero");
    __int128 span = v[2] > 0 ? (__int128)v[1] - v[0] : (__int128)v[0] - v[1];
    __int128 step = v[2] > 0 ? v[2] : -(__int128)v[2];
    __int128 n = span <= 0 ? 0 : (span - 1) / step + 1;
    if (n > JJ_RANGE_MAX) jj_fail(j, ST_FULL, "range: more than %d elements", JJ_RANGE_MAX);
    struct jj_range *r = jj_alloc(j, sizeof *r);
    *r = (struct jj_range){.start = v[0], .step = v[2], .len = (uint32_t)n, .stop = v[1]};
    return (struct jj_val){.kind = JJ_RANGE, .range = r};
}

static void add_pair(struct jj *j, struct jj_dict *d, struct jj_val pair) {
    struct jj_list *l = jj_to_list(j, pair);
    if (l->len != 2)
        jj_fail(j, ST_INVALID, "dict: found a sequence of length %u, expected pairs", l->len);
    jj_dict_set(j, d, l->v[0], l->v[1]);
}

static struct jj_dict *make_dict(struct jj *j, const char *what, const struct jj_args *raw) {
    if (raw->n > 1)
        jj_fail(j, ST_INVALID, "%s: expected at most 1 positional argument, found %u", what,
                raw->n);
    struct jj_dict *d = jj_dict_new(j);
    if (raw->n && raw->pos[0].kind == JJ_DICT) {
        d = jj_dict_copy(j, raw->pos[0].dict);
    } else if (raw->n) {
        struct jj_iter *it = jj_iter(j, raw->pos[0]);
        for (struct jj_val v; jj_next(j, it, &v);) add_pair(j, d, v);
    }
    for (uint32_t i = 0; i < raw->n_kw; i++)
        jj_dict_set(j, d, jj_strv(raw->kw[i].name), raw->kw[i].val);
    return d;
}

GLOBAL(g_dict) {
    UNUSED;
    return jj_dictv(make_dict(j, "dict", raw));
}

GLOBAL(g_namespace) {
    UNUSED;
    struct jj_dict *d = make_dict(j, "namespace", raw);
    for (uint32_t i = 0; i < d->len; i++)
        if (d->v[i].key.kind == JJ_STR && d->v[i].key.s->len && d->v[i].key.s->p[0] == '_')
            jj_fail(j, ST_INVALID, "namespace: an attribute must not begin with an underscore");
    return (struct jj_val){.kind = JJ_NAMESPACE, .dict = d};
}

GLOBAL(g_raise) {
    UNUSED;
    const struct jj_str *s = jj_to_str(j, a[0]);
    jj_fail(j, ST_INVALID, "%.*s", (int)(s->len > 400 ? 400 : s->len), s->p);
}

/* datetime.strftime does these itself: the time has no zone, and here no microseconds. */
static const struct jj_str *python_format(struct jj *j, const struct jj_str *f) {
    struct jj_sb b = {.j = j};
    for (uint32_t i = 0; i < f->len; i++) {
        char next = f->p[i] == '%' && i + 1 < f->len ? f->p[i + 1] : '\0';
        if (next == 'f')
            jj_sb_lit(&b, "000000");
        else if (next != 'z' && next != 'Z')
            jj_sb_add(&b, f->p + i, next ? 2 : 1, f->o + i);
        i += next != '\0';
    }
    return jj_sb_done(&b);
}

GLOBAL(g_strftime_now) {
    UNUSED;
    char text[512];
    struct tm tm;
    time_t t = (time_t)j->now_s;
    const struct jj_str *format = python_format(j, jj_want_str(j, a[0], "strftime_now"));
    if (!localtime_r(&t, &tm)) jj_fail(j, ST_INVALID, "strftime_now: the time is out of range");
    if (!format->len) return jj_strv(format);
    size_t n = strftime(text, sizeof text, jj_cstr(j, format), &tm);
    if (!n)
        jj_fail(j, ST_UNSUPPORTED, "strftime_now: the format gives nothing or more than %zu bytes",
                sizeof text);
    if (utf8_valid_prefix(text, n) != n)
        jj_fail(j, ST_UNSUPPORTED, "strftime_now: the locale's names are not UTF-8");
    return jj_strv(jj_str_new(j, text, n, jj_str_origin(format)));
}

#define REFUSED(name)                                                                              \
    GLOBAL(g_##name) {                                                                             \
        UNUSED;                                                                                    \
        jj_fail(j, ST_UNSUPPORTED, "function '" #name "' is not supported in a chat template");    \
    }
REFUSED(cycler)
REFUSED(joiner)
REFUSED(lipsum)

static const struct jj_global globals[] = {
    {{"range", g_range, NULL}},
    {{"dict", g_dict, NULL}},
    {{"namespace", g_namespace, NULL}},
    {{"raise_exception", g_raise, "message"}},
    {{"strftime_now", g_strftime_now, "format"}},
    {{"cycler", g_cycler, NULL}},
    {{"joiner", g_joiner, NULL}},
    {{"lipsum", g_lipsum, NULL}},
};

const struct jj_global *jj_global_find(const struct jj_str *name) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (jj_str_is(name, globals[i].f.name)) return &globals[i];
    return NULL;
}

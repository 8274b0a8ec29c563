/* SPDX-License-Identifier: Apache-2.0 */
/* The filters over sequences. Those that Jinja writes as generators (map, select, batch, ...) are
 * iterators here too: lazy, and empty once walked, because templates can tell. */
#include <assert.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_filters.h"
#include "text/jinja_lex.h"
#include "text/jinja_show.h"
#include "text/jinja_text.h"

#define UNUSED (void)j, (void)self, (void)a, (void)raw

/* --- attribute paths and sort keys ------------------------------------------------------------ */

struct jj_val jj_path(struct jj *j, struct jj_val v, struct jj_val path) {
    if (path.kind == JJ_NONE || !jj_given(path)) return v;
    if (path.kind != JJ_STR) return jj_getitem(j, v, path);
    const struct jj_str *s = path.s;
    for (uint32_t at = 0; at <= s->len;) {
        const char *dot = memchr(s->p + at, '.', s->len - at);
        uint32_t end = dot ? (uint32_t)(dot - s->p) : s->len;
        const struct jj_str *part = jj_str_cut(j, s, at, end);
        struct jj_val key = jj_strv(part);
        if (part->len && part->len < 18 && jj_all(part, JJ_DECIMAL) && jj_all(part, JJ_ASCII)) {
            int64_t i = 0;
            for (uint32_t k = 0; k < part->len; k++) i = i * 10 + (part->p[k] - '0');
            key = jj_int(i, CHAT_FROM_TEMPLATE);
        }
        v = jj_getitem(j, v, key);
        at = end + 1;
    }
    return v;
}

static struct jj_val path_or(struct jj *j, struct jj_val v, struct jj_val path,
                             struct jj_val otherwise) {
    v = jj_path(
        j, v,
        path); /* Jinja puts the default in after each part; that differs only inside defaults */
    return v.kind == JJ_UNDEF && jj_given(otherwise) && otherwise.kind != JJ_NONE ? otherwise : v;
}

static struct jj_val fold_case(struct jj *j, struct jj_val v, bool case_sensitive) {
    if (case_sensitive || v.kind != JJ_STR) return v;
    return jj_strv(jj_recase(j, v.s, JJ_LOWER));
}

void jj_sort(struct jj *j, struct jj_val *v, struct jj_val *keys, uint32_t n, bool reverse) {
    /* Bottom-up merge sort of indices. Reverse keeps equal elements in order, as Python's does. */
    uint32_t *from = jj_alloc(j, (size_t)n * sizeof *from),
             *to = jj_alloc(j, (size_t)n * sizeof *to);
    for (uint32_t i = 0; i < n; i++) from[i] = i;
    for (uint64_t width = 1; width < n; width *= 2) {
        for (uint64_t lo = 0; lo < n; lo += 2 * width) {
            uint64_t mid = lo + width < n ? lo + width : n,
                     hi = lo + 2 * width < n ? lo + 2 * width : n;
            for (uint64_t l = lo, r = mid, k = lo; k < hi; k++) {
                bool take_right = l == mid;
                if (l < mid && r < hi) {
                    struct jj_val a = keys[from[l]], b = keys[from[r]];
                    take_right = reverse ? jj_order(j, a, b, "<") < 0 : jj_order(j, b, a, "<") < 0;
                }
                to[k] = take_right ? from[r++] : from[l++];
            }
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    struct jj_val *sorted = jj_alloc(j, (size_t)n * sizeof *sorted);
    for (uint32_t i = 0; i < n; i++) sorted[i] = v[from[i]];
    if (n) memcpy(v, sorted, (size_t)n * sizeof *v);
    for (uint32_t i = 0; i < n; i++) sorted[i] = keys[from[i]];
    if (n && keys != v) memcpy(keys, sorted, (size_t)n * sizeof *keys);
}

JJ_FILTER(f_sort) {
    UNUSED;
    struct jj_list *l = jj_to_list(j, self), *keys = jj_list_new(j, l->len);
    struct jj_list *paths = jj_list_new(j, 1);
    if (jj_given(a[2]) && a[2].kind == JJ_STR)
        paths = jj_split(j, a[2].s, jj_str_lit(j, ","), -1);
    else
        jj_list_push(j, paths, jj_given(a[2]) ? a[2] : jj_none());
    for (uint32_t i = 0; i < l->len; i++) {
        struct jj_list *key = jj_list_new(j, paths->len);
        for (uint32_t k = 0; k < paths->len; k++)
            jj_list_push(j, key,
                         fold_case(j, jj_path(j, l->v[i], paths->v[k]), jj_flag(a[1], false)));
        jj_list_push(j, keys, jj_listv(key));
    }
    jj_sort(j, l->v, keys->v, l->len, jj_flag(a[0], false));
    return jj_listv(l);
}

JJ_FILTER(f_dictsort) {
    UNUSED;
    if (self.kind != JJ_DICT)
        jj_fail(j, ST_INVALID, "dictsort: found %s, expected a mapping", jj_type(self));
    const struct jj_str *by =
        jj_given(a[1]) ? jj_want_str(j, a[1], "dictsort") : jj_str_lit(j, "key");
    bool value = jj_str_is(by, "value");
    if (!value && !jj_str_is(by, "key"))
        jj_fail(j, ST_INVALID, "dictsort: you can only sort by either \"key\" or \"value\"");
    struct jj_list *l = jj_to_list(j, jj_view(j, self.dict, JJ_ITEMS)),
                   *keys = jj_list_new(j, l->len);
    for (uint32_t i = 0; i < l->len; i++)
        jj_list_push(j, keys, fold_case(j, l->v[i].list->v[value], jj_flag(a[0], false)));
    jj_sort(j, l->v, keys->v, l->len, jj_flag(a[2], false));
    return jj_listv(l);
}

JJ_FILTER(f_groupby) {
    UNUSED;
    struct jj_list *l = jj_to_list(j, self), *keys = jj_list_new(j, l->len),
                   *out = jj_list_new(j, 4);
    bool exact = jj_flag(a[2], false);
    for (uint32_t i = 0; i < l->len; i++)
        jj_list_push(j, keys, fold_case(j, path_or(j, l->v[i], a[0], a[1]), exact));
    jj_sort(j, l->v, keys->v, l->len, false);
    for (uint32_t i = 0; i < l->len;) {
        struct jj_list *group = jj_list_new(j, 2);
        struct jj_val name = exact ? keys->v[i] : path_or(j, l->v[i], a[0], a[1]);
        uint32_t first = i;
        for (; i < l->len && jj_equal(j, keys->v[i], keys->v[first]); i++)
            jj_list_push(j, group, l->v[i]);
        if (i == first)
            jj_list_push(j, group, l->v[i++]); /* a NaN equals nothing, itself included */
        struct jj_val pair = jj_pair_tuple(j, name, jj_listv(group));
        pair.group = true;
        jj_list_push(j, out, pair);
    }
    return jj_listv(out);
}

static struct jj_val extreme(struct jj *j, struct jj_val self, const struct jj_val *a,
                             bool want_max) {
    struct jj_iter *it = jj_iter(j, self);
    struct jj_val best = {0}, best_key = {0}, v;
    while (jj_next(j, it, &v)) {
        struct jj_val key = fold_case(j, jj_path(j, v, a[1]), jj_flag(a[0], false));
        bool better = !jj_given(best) || (want_max ? jj_compare(j, JJ_T_GT, key, best_key)
                                                   : jj_compare(j, JJ_T_LT, key, best_key));
        if (better) best = v, best_key = key;
    }
    return jj_given(best) ? best : jj_undef_hint(j, "No aggregated item, sequence was empty.");
}
JJ_FILTER(f_min) {
    UNUSED;
    return extreme(j, self, a, false);
}
JJ_FILTER(f_max) {
    UNUSED;
    return extreme(j, self, a, true);
}

JJ_FILTER(f_sum) {
    UNUSED;
    struct jj_val total = jj_given(a[1]) ? a[1] : jj_int(0, CHAT_FROM_TEMPLATE), v;
    if (total.kind == JJ_STR) jj_fail(j, ST_INVALID, "sum: cannot sum strings");
    struct jj_iter *it = jj_iter(j, self);
    while (jj_next(j, it, &v)) total = jj_binary(j, JJ_T_ADD, total, jj_path(j, v, a[0]));
    return total;
}

/* --- whole sequences -------------------------------------------------------------------------- */

JJ_FILTER(f_list) {
    UNUSED;
    return jj_listv(jj_to_list(j, self));
}

JJ_FILTER(f_length) {
    UNUSED;
    uint32_t len;
    if (self.kind == JJ_LOOP) return jj_int(jj_loop_len(j, self.loop), CHAT_FROM_OTHER);
    if (!jj_len(self, &len))
        jj_fail(j, ST_INVALID, "object of type '%s' has no length", jj_type(self));
    return jj_int(len, CHAT_FROM_OTHER);
}

JJ_FILTER(f_first) {
    UNUSED;
    struct jj_val v;
    return jj_next(j, jj_iter(j, self), &v)
               ? v
               : jj_undef_hint(j, "No first item, sequence was empty.");
}

static struct jj_list *reversed(struct jj *j, struct jj_list *l) {
    for (uint32_t i = 0, k = l->len; i + 1 < k--; i++) {
        struct jj_val t = l->v[i];
        l->v[i] = l->v[k];
        l->v[k] = t;
    }
    (void)j;
    return l;
}

JJ_FILTER(f_last) {
    UNUSED;
    if (self.kind == JJ_ITER || !jj_iterable(self))
        jj_fail(j, ST_INVALID, "last: '%s' object is not reversible", jj_type(self));
    struct jj_list *l = jj_to_list(j, self);
    return l->len ? l->v[l->len - 1] : jj_undef_hint(j, "No last item, sequence was empty.");
}

JJ_FILTER(f_reverse) {
    UNUSED;
    int64_t all = -1;
    if (self.kind == JJ_STR) {
        struct jj_val v = jj_strv(jj_str_slice(j, self.s, NULL, NULL, all));
        v.markup = self.markup;
        return v;
    }
    if (!jj_iterable(self)) jj_fail(j, ST_INVALID, "reverse: argument must be iterable");
    struct jj_val v = jj_listv(reversed(j, jj_to_list(j, self)));
    return self.kind == JJ_ITER
               ? v
               : jj_iterv(jj_iter(j, v)); /* reversed() of what has a length is an iterator */
}

JJ_FILTER(f_join) {
    UNUSED;
    const struct jj_str *sep = jj_given(a[0]) ? jj_to_str(j, a[0]) : jj_str_lit(j, "");
    struct jj_sb b = {.j = j};
    struct jj_iter *it = jj_iter(j, self);
    struct jj_val v;
    for (uint32_t i = 0; jj_next(j, it, &v); i++) {
        if (i) jj_sb_str(&b, sep);
        jj_put_str(&b, jj_path(j, v, a[1]));
    }
    return jj_strv(jj_sb_done(&b));
}

/* --- generators ------------------------------------------------------------------------------- */

struct gen {
    struct jj_iter *in;
    struct jj_val self, a[JJ_PARAMS_MAX];
    struct jj_args raw;
    bool started, negate, by_attr;
    struct jj_dict *seen;
    struct jj_list *all;
};

static struct jj_val generator(struct jj *j, struct jj_val self, const struct jj_val *a,
                               const struct jj_args *raw,
                               bool (*next)(struct jj *, struct jj_iter *, struct jj_val *),
                               bool negate, bool by_attr) {
    struct gen *g = jj_alloc(j, sizeof *g);
    *g = (struct gen){.self = self, .negate = negate, .by_attr = by_attr};
    if (a) memcpy(g->a, a, sizeof g->a);
    if (raw->n) {
        g->raw.pos = jj_alloc(j, raw->n * sizeof *raw->pos);
        memcpy(g->raw.pos, raw->pos, raw->n * sizeof *raw->pos);
    }
    if (raw->n_kw) {
        g->raw.kw = jj_alloc(j, raw->n_kw * sizeof *raw->kw);
        memcpy(g->raw.kw, raw->kw, raw->n_kw * sizeof *raw->kw);
    }
    g->raw.n = raw->n, g->raw.n_kw = raw->n_kw;
    struct jj_iter *it = jj_alloc(j, sizeof *it);
    *it = (struct jj_iter){.next = next, .ctx = g};
    return jj_iterv(it);
}

static struct gen *start(struct jj *j, struct jj_iter *it, bool empty_if_false) {
    struct gen *g = it->ctx;
    if (!g->started) {
        g->started = true;
        g->in = empty_if_false && !jj_true(g->self) ? NULL : jj_iter(j, g->self);
    }
    return g;
}

static const struct jj_val *kwarg(const struct jj_args *raw, const char *name) {
    for (uint32_t i = 0; i < raw->n_kw; i++)
        if (jj_str_is(raw->kw[i].name, name)) return &raw->kw[i].val;
    return NULL;
}

/* The filter or test called by name with what follows it in args. */
static struct jj_val call_named(struct jj *j, const struct jj_args *args, uint32_t name_at,
                                bool filter, struct jj_val v) {
    const struct jj_str *name = jj_want_str(j, args->pos[name_at], filter ? "map" : "select");
    const struct jj_builtin *f = filter ? jj_filter_find(name) : jj_test_find(name);
    if (!f)
        jj_fail(j, ST_UNSUPPORTED, "no %s named '%.*s'", filter ? "filter" : "test", (int)name->len,
                name->p);
    struct jj_args rest = {.pos = args->pos + name_at + 1,
                           .n = args->n - name_at - 1,
                           .kw = args->kw,
                           .n_kw = args->n_kw};
    jj_enter(j);
    v = jj_call_builtin(j, f, v, &rest);
    jj_leave(j);
    return v;
}

static bool next_map(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = start(j, it, true);
    struct jj_val v;
    if (!g->in || !jj_next(j, g->in, &v)) return false;
    const struct jj_val *attr = g->raw.n ? NULL : kwarg(&g->raw, "attribute"),
                        *otherwise = kwarg(&g->raw, "default");
    if (attr) {
        if (g->raw.n_kw > 1u + (otherwise != NULL))
            jj_fail(j, ST_INVALID, "map: unexpected keyword argument");
        *out = path_or(j, v, *attr, otherwise ? *otherwise : jj_none());
        return true;
    }
    if (!g->raw.n) jj_fail(j, ST_INVALID, "map requires a filter argument");
    *out = call_named(j, &g->raw, 0, true, v);
    return true;
}

static bool next_select(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = start(j, it, true);
    struct jj_val v;
    if (g->by_attr && g->in && !g->raw.n)
        jj_fail(j, ST_INVALID, "selectattr: missing parameter for attribute name");
    while (g->in && jj_next(j, g->in, &v)) {
        struct jj_val x = g->by_attr ? jj_path(j, v, g->raw.pos[0]) : v;
        bool yes =
            jj_true(g->raw.n > g->by_attr ? call_named(j, &g->raw, g->by_attr, false, x) : x);
        if (yes == g->negate) continue;
        *out = v;
        return true;
    }
    return false;
}

JJ_FILTER(f_map) {
    UNUSED;
    return generator(j, self, NULL, raw, next_map, false, false);
}
JJ_FILTER(f_select) {
    UNUSED;
    return generator(j, self, NULL, raw, next_select, false, false);
}
JJ_FILTER(f_reject) {
    UNUSED;
    return generator(j, self, NULL, raw, next_select, true, false);
}
JJ_FILTER(f_selectattr) {
    UNUSED;
    return generator(j, self, NULL, raw, next_select, false, true);
}
JJ_FILTER(f_rejectattr) {
    UNUSED;
    return generator(j, self, NULL, raw, next_select, true, true);
}

static bool next_unique(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = start(j, it, false);
    if (!g->seen) g->seen = jj_dict_new(j);
    while (jj_next(j, g->in, out)) {
        struct jj_val key = fold_case(j, jj_path(j, *out, g->a[1]), jj_flag(g->a[0], false));
        if (jj_dict_get(j, g->seen, key)) continue;
        jj_dict_set(j, g->seen, key, jj_none());
        return true;
    }
    return false;
}
JJ_FILTER(f_unique) {
    UNUSED;
    return generator(j, self, a, raw, next_unique, false, false);
}

static bool next_batch(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = start(j, it, false);
    int64_t size = jj_want_int(j, g->a[0], "batch");
    if (size < 1)
        jj_fail(j, ST_UNSUPPORTED, "batch: found %lld, expected a size of at least 1",
                (long long)size);
    struct jj_list *l = jj_list_new(j, 0);
    struct jj_val v;
    while (l->len < size && jj_next(j, g->in, &v)) jj_list_push(j, l, v);
    if (!l->len) return false;
    bool fill = jj_given(g->a[1]) && g->a[1].kind != JJ_NONE;
    for (; fill && l->len < size; jj_spend(j, 1)) jj_list_push(j, l, g->a[1]);
    *out = jj_listv(l);
    return true;
}
JJ_FILTER(f_batch) {
    UNUSED;
    return generator(j, self, a, raw, next_batch, false, false);
}

static bool next_slice(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = it->ctx;
    if (!g->all) g->all = jj_to_list(j, g->self);
    int64_t slices = jj_want_int(j, g->a[0], "slice");
    if (slices == 0) jj_fail(j, ST_INVALID, "slice: integer division or modulo by zero");
    if (slices < 0 || it->at >= slices) return false;
    int64_t each = g->all->len / slices, extra = g->all->len % slices, n = it->at++;
    int64_t from = n * each + (n < extra ? n : extra), to = from + each + (n < extra);
    struct jj_list *l = jj_list_new(j, (uint32_t)(to - from));
    for (int64_t i = from; i < to; i++) jj_list_push(j, l, g->all->v[i]);
    if (jj_given(g->a[1]) && g->a[1].kind != JJ_NONE && n >= extra) jj_list_push(j, l, g->a[1]);
    *out = jj_listv(l);
    return true;
}
JJ_FILTER(f_slice) {
    UNUSED;
    return generator(j, self, a, raw, next_slice, false, false);
}

static bool next_item(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    struct gen *g = it->ctx;
    if (g->self.kind == JJ_UNDEF) return false;
    if (g->self.kind != JJ_DICT)
        jj_fail(j, ST_INVALID, "items: can only get item pairs from a mapping");
    if (it->at >= g->self.dict->len) return false;
    const struct jj_pair *p = &g->self.dict->v[it->at++];
    *out = jj_pair_tuple(j, p->key, p->val);
    return true;
}
JJ_FILTER(f_items) {
    UNUSED;
    return generator(j, self, a, raw, next_item, false, false);
}

static const struct jj_builtin filters[] = {
    {"batch", f_batch, "linecount | fill_with"},
    {"count", f_length, ""},
    {"dictsort", f_dictsort, "| case_sensitive by reverse"},
    {"first", f_first, ""},
    {"groupby", f_groupby, "attribute | default case_sensitive"},
    {"items", f_items, ""},
    {"join", f_join, "| d attribute"},
    {"last", f_last, ""},
    {"length", f_length, ""},
    {"list", f_list, ""},
    {"map", f_map, NULL},
    {"max", f_max, "| case_sensitive attribute"},
    {"min", f_min, "| case_sensitive attribute"},
    {"reject", f_reject, NULL},
    {"rejectattr", f_rejectattr, NULL},
    {"reverse", f_reverse, ""},
    {"select", f_select, NULL},
    {"selectattr", f_selectattr, NULL},
    {"slice", f_slice, "slices | fill_with"},
    {"sort", f_sort, "| reverse case_sensitive attribute"},
    {"sum", f_sum, "| attribute start"},
    {"unique", f_unique, "| case_sensitive attribute"},
};

const struct jj_builtin *jj_seq_filter_find(const struct jj_str *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (jj_str_is(name, filters[i].name)) return &filters[i];
    return NULL;
}

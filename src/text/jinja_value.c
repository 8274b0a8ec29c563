/* SPDX-License-Identifier: Apache-2.0 */
/* Implements jinja_value.h: making, comparing, hashing and walking values. Equality and order are
 * Python's: numbers compare across int, float and bool, strings by code point (which is the order
 * of UTF-8 bytes). */
#include "text/jinja_value.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

enum { DICT_SLOTS_FROM = 8 };

/* --- strings ---------------------------------------------------------------------------------- */

uint32_t jj_cps(const char *p, size_t len) {
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((uint8_t)p[i] & 0xc0) != 0x80;
    return n;
}

static const struct jj_str *str_make(struct jj *j, struct jj_str made) {
    struct jj_str *s = jj_alloc(j, sizeof *s);
    *s = made;
    return s;
}

const struct jj_str *jj_str_new(struct jj *j, const char *p, size_t len, uint8_t origin) {
    if (len > JJ_STR_MAX) jj_fail(j, ST_FULL, "a string of more than %d MiB", JJ_STR_MAX >> 20);
    char *copy = jj_alloc(j, 2 * len);
    jj_spend_bytes(j, len);
    if (len) memcpy(copy, p, len);
    if (len) memset(copy + len, origin, len);
    return str_make(
        j, (struct jj_str){
               .p = copy, .o = (uint8_t *)copy + len, .len = (uint32_t)len, .cps = jj_cps(p, len)});
}

const struct jj_str *jj_str_lit(struct jj *j, const char *text) {
    return jj_str_new(j, text, strlen(text), CHAT_FROM_TEMPLATE);
}

const struct jj_str *jj_str_cut(struct jj *j, const struct jj_str *s, uint32_t from, uint32_t to) {
    assert(from <= to && to <= s->len);
    if (from == 0 && to == s->len) return s;
    uint32_t len = to - from;
    jj_spend_bytes(j, len);
    return str_make(j, (struct jj_str){.p = s->p + from,
                                       .o = s->o + from,
                                       .len = len,
                                       .cps = s->cps == s->len ? len : jj_cps(s->p + from, len),
                                       .room = to == s->len ? s->room : NULL});
}

bool jj_str_eq(const struct jj_str *a, const struct jj_str *b) {
    return a == b || (a->len == b->len && memcmp(a->p, b->p, a->len) == 0);
}

bool jj_str_is(const struct jj_str *s, const char *text) {
    return s->len == strlen(text) && memcmp(s->p, text, s->len) == 0;
}

int jj_str_cmp(const struct jj_str *a, const struct jj_str *b) {
    uint32_t n = a->len < b->len ? a->len : b->len;
    int c = n ? memcmp(a->p, b->p, n) : 0;
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

uint8_t jj_str_origin(const struct jj_str *s) {
    uint8_t worst = CHAT_FROM_TEMPLATE;
    for (uint32_t i = 0; i < s->len; i++) worst = jj_worse(worst, s->o[i]);
    return worst;
}

static void sb_reserve(struct jj_sb *b, size_t more) {
    if (more > (size_t)JJ_STR_MAX - b->len)
        jj_fail(b->j, ST_FULL, "a string grows over %d MiB", JJ_STR_MAX >> 20);
    if (b->len + more <= b->cap) return;
    size_t cap = b->cap ? (size_t)b->cap * 2 : 32;
    while (cap < b->len + more) cap *= 2;
    if (b->cap) {
        char *p =
            jj_alloc(b->j, cap * 2); /* bytes and origins side by side: one allocation, both grow */
        memcpy(p, b->p, b->len);
        memcpy(p + cap, b->o, b->len);
        b->p = p;
    } else {
        b->p = jj_alloc(b->j, cap * 2);
    }
    b->o = (uint8_t *)b->p + cap;
    b->cap = (uint32_t)cap;
}

void jj_sb_add(struct jj_sb *b, const char *p, size_t len, const uint8_t *origins) {
    if (!len) return;
    sb_reserve(b, len);
    jj_spend_bytes(b->j, len);
    memcpy(b->p + b->len, p, len);
    memcpy(b->o + b->len, origins, len);
    b->len += (uint32_t)len;
}

void jj_sb_put(struct jj_sb *b, const char *p, size_t len, uint8_t origin) {
    if (!len) return;
    sb_reserve(b, len);
    jj_spend_bytes(b->j, len);
    memcpy(b->p + b->len, p, len);
    memset(b->o + b->len, origin, len);
    b->len += (uint32_t)len;
}

void jj_sb_lit(struct jj_sb *b, const char *text) {
    jj_sb_put(b, text, strlen(text), CHAT_FROM_TEMPLATE);
}

void jj_sb_str(struct jj_sb *b, const struct jj_str *s) {
    jj_sb_add(b, s->p, s->len, s->o);
}

void jj_sb_cp(struct jj_sb *b, int32_t cp, uint8_t origin) {
    char u[4];
    jj_sb_put(b, u, utf8_put(u, (uint32_t)cp), origin);
}

const struct jj_str *jj_sb_done(struct jj_sb *b) {
    if (!b->len) return str_make(b->j, (struct jj_str){.p = "", .o = (const uint8_t *)""});
    struct jj_str s = {.p = b->p, .o = b->o, .len = b->len, .cps = jj_cps(b->p, b->len)};
    if (b->j->appends && b->cap > b->len) {
        s.room = jj_alloc(b->j, sizeof *s.room);
        *s.room = (struct jj_room){.p = b->p, .o = b->o, .len = b->len, .cap = b->cap};
    }
    return str_make(b->j, s);
}

const struct jj_str *jj_concat(struct jj *j, const struct jj_str *a, const struct jj_str *b) {
    if (!a->len) return b;
    if (!b->len) return a;
    struct jj_room *r = a->room;
    if (r && a->p + a->len == r->p + r->len && b->len <= r->cap - r->len) {
        jj_spend_bytes(j, b->len);
        memmove(r->p + r->len, b->p, b->len);
        memmove(r->o + r->len, b->o, b->len);
        r->len += b->len;
        struct jj_str s = *a;
        s.len += b->len;
        s.cps += b->cps;
        return str_make(j, s);
    }
    struct jj_sb sb = {.j = j};
    jj_sb_str(&sb, a);
    jj_sb_str(&sb, b);
    return jj_sb_done(&sb);
}

/* --- lists and other values ------------------------------------------------------------------- */

struct jj_list *jj_list_new(struct jj *j, uint32_t cap) {
    struct jj_list *l = jj_alloc(j, sizeof *l);
    *l = (struct jj_list){.v = cap ? jj_alloc(j, (size_t)cap * sizeof *l->v) : NULL, .cap = cap};
    return l;
}

void jj_list_push(struct jj *j, struct jj_list *l, struct jj_val v) {
    if (l->len == l->cap) {
        uint32_t cap =
            l->cap ? l->cap * 2 : 4; /* the arena's maximum keeps this far from overflow */
        l->v = jj_grow(j, l->v, (size_t)l->cap * sizeof *l->v, (size_t)cap * sizeof *l->v);
        l->cap = cap;
    }
    l->v[l->len++] = v;
}

static struct jj_val undef(struct jj *j, struct jj_undef u) {
    struct jj_undef *p = jj_alloc(j, sizeof *p);
    *p = u;
    return (struct jj_val){.kind = JJ_UNDEF, .undef = p};
}

struct jj_val jj_undef_name(struct jj *j, const struct jj_str *name) {
    return undef(j, (struct jj_undef){.name = name});
}
struct jj_val jj_undef_attr(struct jj *j, struct jj_val obj, const struct jj_str *name) {
    return undef(j, (struct jj_undef){.name = name, .obj = obj});
}
struct jj_val jj_undef_hint(struct jj *j, const char *hint) {
    return undef(j, (struct jj_undef){.hint = hint});
}

void jj_fail_undef(struct jj *j, struct jj_val v) {
    const struct jj_undef *u = v.undef;
    if (u->hint) jj_fail(j, ST_INVALID, "%s", u->hint);
    int len = (int)u->name->len;
    if (u->obj.kind == JJ_MISSING) jj_fail(j, ST_INVALID, "'%.*s' is undefined", len, u->name->p);
    jj_fail(j, ST_INVALID, "'%s object' has no attribute '%.*s'", jj_type(u->obj), len, u->name->p);
}

struct jj_val jj_pair_tuple(struct jj *j, struct jj_val a, struct jj_val b) {
    struct jj_list *l = jj_list_new(j, 2);
    jj_list_push(j, l, a);
    jj_list_push(j, l, b);
    return jj_tuplev(l);
}

struct jj_val jj_view(struct jj *j, const struct jj_dict *d, enum jj_view_of of) {
    struct jj_view *v = jj_alloc(j, sizeof *v);
    *v = (struct jj_view){.dict = d, .of = of};
    return (struct jj_val){.kind = JJ_VIEW, .view = v};
}

const char *jj_type(struct jj_val v) {
    switch ((enum jj_kind)v.kind) {
    case JJ_MISSING: return "missing";
    case JJ_UNDEF: return "Undefined";
    case JJ_NONE: return "NoneType";
    case JJ_BOOL: return "bool";
    case JJ_INT: return "int";
    case JJ_FLOAT: return "float";
    case JJ_STR: return v.markup ? "Markup" : "str";
    case JJ_LIST: return "list";
    case JJ_TUPLE: return "tuple";
    case JJ_DICT: return "dict";
    case JJ_VIEW:
        return v.view->of == JJ_KEYS     ? "dict_keys"
               : v.view->of == JJ_VALUES ? "dict_values"
                                         : "dict_items";
    case JJ_RANGE: return "range";
    case JJ_NAMESPACE: return "Namespace";
    case JJ_MACRO: return "Macro";
    case JJ_GLOBAL: return "function";
    case JJ_METHOD: return "method";
    case JJ_LOOP: return "LoopContext";
    case JJ_ITER: return "generator";
    }
    return "value";
}

bool jj_true(struct jj_val v) {
    uint32_t len;
    switch ((enum jj_kind)v.kind) {
    case JJ_MISSING:
    case JJ_UNDEF:
    case JJ_NONE: return false;
    case JJ_BOOL: return v.b;
    case JJ_INT: return v.i != 0;
    case JJ_FLOAT: return v.f != 0;
    case JJ_STR:
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_DICT:
    case JJ_VIEW:
    case JJ_RANGE: return jj_len(v, &len) && len > 0;
    case JJ_NAMESPACE:
    case JJ_MACRO:
    case JJ_GLOBAL:
    case JJ_METHOD:
    case JJ_LOOP: /* its length counts the item in hand, so it is never 0 */
    case JJ_ITER: return true;
    }
    return false;
}

bool jj_is_intlike(struct jj_val v) {
    return v.kind == JJ_INT || v.kind == JJ_BOOL;
}
int64_t jj_intlike(struct jj_val v) {
    return v.kind == JJ_BOOL ? v.b : v.i;
}
bool jj_is_number(struct jj_val v) {
    return jj_is_intlike(v) || v.kind == JJ_FLOAT;
}

/* --- equality, hash, order -------------------------------------------------------------------- */

static int int_float_cmp(int64_t i, double f) { /* exact, as Python's; f is not NaN */
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    int64_t t = (int64_t)f;
    if (i != t) return i < t ? -1 : 1;
    double rest = f - (double)t;
    return (rest < 0) - (rest > 0);
}

/* Returns 2 when one is NaN. */
static int number_cmp(struct jj_val a, struct jj_val b) {
    if (jj_is_intlike(a) && jj_is_intlike(b)) {
        int64_t x = jj_intlike(a), y = jj_intlike(b);
        return (x > y) - (x < y);
    }
    if ((a.kind == JJ_FLOAT && isnan(a.f)) || (b.kind == JJ_FLOAT && isnan(b.f))) return 2;
    if (a.kind == JJ_FLOAT && b.kind == JJ_FLOAT) return (a.f > b.f) - (a.f < b.f);
    return a.kind == JJ_FLOAT ? -int_float_cmp(jj_intlike(b), a.f)
                              : int_float_cmp(jj_intlike(a), b.f);
}

static bool lists_equal(struct jj *j, const struct jj_list *a, const struct jj_list *b) {
    if (a->len != b->len) return false;
    for (uint32_t i = 0; i < a->len; i++)
        if (!jj_equal(j, a->v[i], b->v[i])) return false;
    return true;
}

static bool dicts_equal(struct jj *j, const struct jj_dict *a, const struct jj_dict *b) {
    if (a->len != b->len) return false;
    for (uint32_t i = 0; i < a->len; i++) {
        const struct jj_val *v = jj_dict_get(j, b, a->v[i].key);
        if (!v || !jj_equal(j, a->v[i].val, *v)) return false;
    }
    return true;
}

static bool ranges_equal(const struct jj_range *a, const struct jj_range *b) {
    if (a->len != b->len) return false;
    return a->len == 0 || (a->start == b->start && (a->len == 1 || a->step == b->step));
}

bool jj_equal(struct jj *j, struct jj_val a, struct jj_val b) {
    jj_spend(j, 1);
    if (jj_is_number(a) && jj_is_number(b)) return number_cmp(a, b) == 0;
    if (a.kind != b.kind) return false;
    jj_enter(j);
    bool eq = false;
    switch ((enum jj_kind)a.kind) {
    case JJ_UNDEF:
    case JJ_NONE: eq = true; break;
    case JJ_STR:
        if (a.s->len == b.s->len) jj_spend_bytes(j, a.s->len);
        eq = jj_str_eq(a.s, b.s);
        break;
    case JJ_LIST:
    case JJ_TUPLE: eq = lists_equal(j, a.list, b.list); break;
    case JJ_DICT: eq = dicts_equal(j, a.dict, b.dict); break;
    case JJ_RANGE: eq = ranges_equal(a.range, b.range); break;
    case JJ_NAMESPACE: eq = a.dict == b.dict; break;
    case JJ_MACRO: eq = a.macro == b.macro; break;
    case JJ_GLOBAL: eq = a.global == b.global; break;
    case JJ_LOOP: eq = a.loop == b.loop; break;
    case JJ_ITER: eq = a.iter == b.iter; break;
    case JJ_VIEW:
    case JJ_METHOD:
        jj_fail(j, ST_UNSUPPORTED, "comparing two of type '%s' is not supported", jj_type(a));
    case JJ_MISSING:
    case JJ_BOOL:
    case JJ_INT:
    case JJ_FLOAT: assert(0 && "handled above");
    }
    jj_leave(j);
    return eq;
}

int jj_order(struct jj *j, struct jj_val a, struct jj_val b, const char *op) {
    if (a.kind == JJ_UNDEF) jj_fail_undef(j, a);
    if (b.kind == JJ_UNDEF) jj_fail_undef(j, b);
    jj_spend(j, 1);
    if (jj_is_number(a) && jj_is_number(b)) return number_cmp(a, b);
    if (a.kind == JJ_STR && b.kind == JJ_STR) {
        jj_spend_bytes(j, a.s->len);
        return jj_str_cmp(a.s, b.s);
    }
    if (a.kind == b.kind && (a.kind == JJ_LIST || a.kind == JJ_TUPLE)) {
        const struct jj_list *x = a.list, *y = b.list;
        jj_enter(j);
        int c = (x->len > y->len) - (x->len < y->len);
        for (uint32_t i = 0; i < x->len && i < y->len; i++) {
            if (jj_equal(j, x->v[i], y->v[i])) continue;
            c = jj_order(j, x->v[i], y->v[i], op);
            break;
        }
        jj_leave(j);
        return c;
    }
    jj_fail(j, ST_INVALID, "'%s' not supported between instances of '%s' and '%s'", op, jj_type(a),
            jj_type(b));
}

bool jj_hashable(struct jj *j, struct jj_val v) {
    jj_spend(j, 1); /* a tuple may hold another one twice, and so on: 2^depth visits */
    if (v.kind == JJ_LIST || v.kind == JJ_DICT || v.kind == JJ_VIEW) return false;
    bool yes = true;
    jj_enter(j);
    for (uint32_t i = 0; v.kind == JJ_TUPLE && i < v.list->len && yes; i++)
        yes = jj_hashable(j, v.list->v[i]);
    jj_leave(j);
    return yes;
}

static uint32_t hash_bytes(const void *p, size_t len) {
    const uint8_t *b = p;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++) h = (h ^ b[i]) * 16777619u;
    return h;
}

static uint32_t hash(struct jj *j, struct jj_val v) {
    double f;
    jj_spend(j, 1);
    switch ((enum jj_kind)v.kind) {
    case JJ_STR: jj_spend_bytes(j, v.s->len); return hash_bytes(v.s->p, v.s->len);
    case JJ_BOOL:
    case JJ_INT:
    case JJ_FLOAT: /* equal numbers of different types must meet */
        f = v.kind == JJ_FLOAT ? v.f : (double)jj_intlike(v);
        if (f == 0) f = 0; /* -0.0 */
        return hash_bytes(&f, sizeof f);
    case JJ_TUPLE: {
        uint32_t h = 17;
        jj_enter(j);
        for (uint32_t i = 0; i < v.list->len; i++) h = h * 31 + hash(j, v.list->v[i]);
        jj_leave(j);
        return h;
    }
    case JJ_LIST:
    case JJ_DICT:
    case JJ_VIEW: jj_fail(j, ST_INVALID, "unhashable type: '%s'", jj_type(v));
    default: return v.kind; /* rare as keys: one chain will do */
    }
}

/* --- dicts ------------------------------------------------------------------------------------ */

struct jj_dict *jj_dict_new(struct jj *j) {
    struct jj_dict *d = jj_alloc(j, sizeof *d);
    *d = (struct jj_dict){0};
    return d;
}

static struct jj_pair *dict_find(struct jj *j, const struct jj_dict *d, struct jj_val key,
                                 uint32_t h) {
    if (!d->slots) {
        for (uint32_t i = 0; i < d->len; i++)
            if (d->v[i].hash == h && jj_equal(j, d->v[i].key, key)) return &d->v[i];
        return NULL;
    }
    for (uint32_t k = h & (d->n_slots - 1); d->slots[k]; k = (k + 1) & (d->n_slots - 1)) {
        struct jj_pair *p = &d->v[d->slots[k] - 1];
        jj_spend(j, 1); /* keys that a stranger made collide cost steps */
        if (p->hash == h && jj_equal(j, p->key, key)) return p;
    }
    return NULL;
}

static void dict_slot(struct jj_dict *d, uint32_t i) {
    uint32_t k = d->v[i].hash & (d->n_slots - 1);
    while (d->slots[k]) k = (k + 1) & (d->n_slots - 1);
    d->slots[k] = i + 1;
}

void jj_dict_set(struct jj *j, struct jj_dict *d, struct jj_val key, struct jj_val val) {
    uint32_t h = hash(j, key);
    struct jj_pair *p = dict_find(j, d, key, h);
    if (p) {
        p->val = val;
        return;
    }
    if (d->len == d->cap) {
        uint32_t cap = d->cap ? d->cap * 2 : 4;
        d->v = jj_grow(j, d->v, (size_t)d->cap * sizeof *d->v, (size_t)cap * sizeof *d->v);
        d->cap = cap;
        if (cap > DICT_SLOTS_FROM) {
            d->n_slots = cap * 2;
            d->slots = jj_alloc(j, d->n_slots * sizeof *d->slots);
            memset(d->slots, 0, d->n_slots * sizeof *d->slots);
            for (uint32_t i = 0; i < d->len; i++) dict_slot(d, i);
        }
    }
    d->v[d->len] = (struct jj_pair){.key = key, .val = val, .hash = h};
    if (d->slots) dict_slot(d, d->len);
    d->len++;
}

struct jj_dict *jj_dict_copy(struct jj *j, const struct jj_dict *d) {
    struct jj_dict *c = jj_dict_new(j);
    for (uint32_t i = 0; i < d->len; i++) jj_dict_set(j, c, d->v[i].key, d->v[i].val);
    return c;
}

struct jj_val *jj_dict_get(struct jj *j, const struct jj_dict *d, struct jj_val key) {
    uint32_t h = hash(j, key);
    struct jj_pair *p = dict_find(j, d, key, h);
    return p ? &p->val : NULL;
}

struct jj_val *jj_dict_get_str(struct jj *j, const struct jj_dict *d, const struct jj_str *key) {
    return jj_dict_get(j, d, jj_strv(key));
}

struct jj_val *jj_dict_get_lit(struct jj *j, const struct jj_dict *d, const char *key) {
    size_t len = strlen(key);
    struct jj_str s = {
        .p = key, .o = (const uint8_t *)key, .len = (uint32_t)len, .cps = (uint32_t)len};
    return jj_dict_get(j, d, jj_strv(&s));
}

/* --- walking ---------------------------------------------------------------------------------- */

struct jj_val jj_range_at(const struct jj_range *r, uint32_t i) {
    assert(i < r->len);
    return jj_int(r->start + (int64_t)i * r->step, CHAT_FROM_TEMPLATE);
}

static bool next_none(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    (void)j, (void)it, (void)out;
    return false;
}

static bool next_list(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    (void)j;
    if (it->at >= it->src.list->len) return false;
    *out = it->src.list->v[it->at++];
    return true;
}

static bool next_str(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    const struct jj_str *s = it->src.s;
    if (it->at >= s->len) return false;
    uint32_t to = it->at + 1;
    while (to < s->len && ((uint8_t)s->p[to] & 0xc0) == 0x80) to++;
    *out = jj_strv(jj_str_cut(j, s, it->at, to));
    it->at = to;
    return true;
}

static bool next_pair(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    bool view = it->src.kind == JJ_VIEW;
    const struct jj_dict *d = view ? it->src.view->dict : it->src.dict;
    enum jj_view_of of = view ? it->src.view->of : JJ_KEYS;
    if (it->at >= d->len) return false;
    const struct jj_pair *p = &d->v[it->at++];
    *out = of == JJ_KEYS ? p->key : of == JJ_VALUES ? p->val : jj_pair_tuple(j, p->key, p->val);
    return true;
}

static bool next_range(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    (void)j;
    if (it->at >= it->src.range->len) return false;
    *out = jj_range_at(it->src.range, it->at++);
    return true;
}

bool jj_iterable(struct jj_val v) {
    switch ((enum jj_kind)v.kind) {
    case JJ_UNDEF:
    case JJ_STR:
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_DICT:
    case JJ_VIEW:
    case JJ_RANGE:
    case JJ_LOOP:
    case JJ_ITER: return true;
    default: return false;
    }
}

struct jj_iter *jj_iter(struct jj *j, struct jj_val v) {
    if (v.kind == JJ_ITER) return v.iter;
    struct jj_iter *it = jj_alloc(j, sizeof *it);
    *it = (struct jj_iter){.src = v};
    switch ((enum jj_kind)v.kind) {
    case JJ_UNDEF: it->next = next_none; return it;
    case JJ_STR: it->next = next_str; return it;
    case JJ_LIST:
    case JJ_TUPLE: it->next = next_list; return it;
    case JJ_DICT:
    case JJ_VIEW: it->next = next_pair; return it;
    case JJ_RANGE: it->next = next_range; return it;
    case JJ_LOOP: jj_fail(j, ST_UNSUPPORTED, "walking the loop variable is not supported");
    default: jj_fail(j, ST_INVALID, "'%s' object is not iterable", jj_type(v));
    }
}

bool jj_len(struct jj_val v, uint32_t *len) {
    switch ((enum jj_kind)v.kind) {
    case JJ_UNDEF: *len = 0; return true;
    case JJ_STR: *len = v.s->cps; return true;
    case JJ_LIST:
    case JJ_TUPLE: *len = v.list->len; return true;
    case JJ_DICT: *len = v.dict->len; return true;
    case JJ_VIEW: *len = v.view->dict->len; return true;
    case JJ_RANGE: *len = v.range->len; return true;
    default: return false;
    }
}

struct jj_list *jj_to_list(struct jj *j, struct jj_val v) {
    uint32_t len = 0;
    if (!jj_len(v, &len)) len = 0;
    struct jj_list *l = jj_list_new(j, len);
    struct jj_iter *it = jj_iter(j, v);
    struct jj_val x;
    while (jj_next(j, it, &x)) jj_list_push(j, l, x);
    return l;
}

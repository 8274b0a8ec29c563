/* SPDX-License-Identifier: Apache-2.0 */
/* Operators and lookups of jinja_eval.h, with Python's semantics: floor division and modulo round
 * down, integers over 64 bits are an error instead of growing, and markup escapes what it is joined
 * with. */
#include "text/jinja_eval.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_lex.h"
#include "text/jinja_show.h"
#include "text/jinja_text.h"

const char *jj_cstr(struct jj *j, const struct jj_str *s) {
    char *p = jj_alloc(j, s->len + 1);
    memcpy(p, s->p, s->len);
    p[s->len] = '\0';
    return p;
}

static _Noreturn void fail_types(struct jj *j, int op, struct jj_val a, struct jj_val b) {
    if (a.kind == JJ_UNDEF) jj_fail_undef(j, a);
    if (b.kind == JJ_UNDEF) jj_fail_undef(j, b);
    if (a.kind == JJ_VIEW || b.kind == JJ_VIEW)
        jj_fail(j, ST_UNSUPPORTED, "arithmetic of dict views is not supported");
    jj_fail(j, ST_INVALID, "unsupported operand types for %s: '%s' and '%s'",
            jj_tok_name((enum jj_tok)op), jj_type(a), jj_type(b));
}

static _Noreturn void fail_big(struct jj *j) {
    jj_fail(j, ST_UNSUPPORTED, "an integer over 64 bits");
}
static _Noreturn void fail_zero(struct jj *j) {
    jj_fail(j, ST_INVALID, "division by zero");
}

/* --- arithmetic ------------------------------------------------------------------------------- */

static double number(struct jj_val v) {
    return v.kind == JJ_FLOAT ? v.f : (double)jj_intlike(v);
}

static int64_t int_pow(struct jj *j, int64_t base, int64_t exp) {
    int64_t r = 1;
    while (exp > 0) {
        if (exp & 1 && __builtin_mul_overflow(r, base, &r)) fail_big(j);
        exp >>= 1;
        if (exp && __builtin_mul_overflow(base, base, &base)) fail_big(j);
    }
    return r;
}

static struct jj_val int_op(struct jj *j, int op, int64_t a, int64_t b, uint8_t o) {
    int64_t r = 0;
    switch (op) {
    case JJ_T_ADD:
        if (__builtin_add_overflow(a, b, &r)) fail_big(j);
        break;
    case JJ_T_SUB:
        if (__builtin_sub_overflow(a, b, &r)) fail_big(j);
        break;
    case JJ_T_MUL:
        if (__builtin_mul_overflow(a, b, &r)) fail_big(j);
        break;
    case JJ_T_FLOORDIV:
        if (b == 0) fail_zero(j);
        if (b == -1) return int_op(j, JJ_T_SUB, 0, a, o);
        r = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case JJ_T_MOD:
        if (b == 0) fail_zero(j);
        r = b == -1 ? 0 : a % b;
        if (r && (r < 0) != (b < 0)) r += b;
        break;
    case JJ_T_DIV:
        if (b == 0) fail_zero(j);
        return jj_float((double)((long double)a / (long double)b), o);
    case JJ_T_POW:
        if (b >= 0) return jj_int(int_pow(j, a, b), o);
        if (a == 0) fail_zero(j);
        return jj_float(pow((double)a, (double)b), o);
    default: assert(0 && "an arithmetic operator");
    }
    return jj_int(r, o);
}

static struct jj_val float_op(struct jj *j, int op, double a, double b, uint8_t o) {
    double mod, div;
    switch (op) {
    case JJ_T_ADD: return jj_float(a + b, o);
    case JJ_T_SUB: return jj_float(a - b, o);
    case JJ_T_MUL: return jj_float(a * b, o);
    case JJ_T_DIV:
        if (b == 0) fail_zero(j);
        return jj_float(a / b, o);
    case JJ_T_MOD:
    case JJ_T_FLOORDIV:
        if (b == 0) fail_zero(j);
        mod = fmod(a, b);
        div = (a - mod) / b;
        if (mod == 0)
            mod = copysign(0, b);
        else if ((b < 0) != (mod < 0))
            mod += b, div -= 1;
        if (op == JJ_T_MOD) return jj_float(mod, o);
        if (div == 0) return jj_float(copysign(0, a / b), o);
        return jj_float(div - floor(div) > 0.5 ? floor(div) + 1 : floor(div), o);
    case JJ_T_POW:
        if (a == 0 && b < 0) fail_zero(j);
        if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
            jj_fail(j, ST_UNSUPPORTED, "a complex number");
        mod = pow(a, b);
        if (isinf(mod) && isfinite(a) && isfinite(b))
            jj_fail(j, ST_INVALID, "a power too large for a float");
        return jj_float(mod, o);
    default: assert(0 && "an arithmetic operator");
    }
    return jj_none();
}

static struct jj_val concat_lists(struct jj *j, struct jj_val a, struct jj_val b) {
    struct jj_list *l = jj_list_new(j, a.list->len + b.list->len);
    jj_spend(j, (a.list->len + b.list->len) / 8);
    for (uint32_t i = 0; i < a.list->len; i++) jj_list_push(j, l, a.list->v[i]);
    for (uint32_t i = 0; i < b.list->len; i++) jj_list_push(j, l, b.list->v[i]);
    return (struct jj_val){.kind = a.kind, .list = l};
}

static struct jj_val repeat(struct jj *j, struct jj_val v, int64_t n) {
    if (v.kind == JJ_STR) {
        struct jj_val r = jj_strv(n <= 0 ? jj_str_cut(j, v.s, 0, 0) : jj_repeat(j, v.s, n));
        r.markup = v.markup;
        return r;
    }
    struct jj_list *l = jj_list_new(j, 0);
    for (int64_t i = 0; i < n && v.list->len; i++)
        for (uint32_t k = 0; k < v.list->len; k++) {
            jj_spend(j, 1);
            jj_list_push(j, l, v.list->v[k]);
        }
    return (struct jj_val){.kind = v.kind, .list = l};
}

static struct jj_val add_strings(struct jj *j, struct jj_val a, struct jj_val b) {
    if (a.markup && !b.markup) b.s = jj_escape(j, b.s);
    if (b.markup && !a.markup) a.s = jj_escape(j, a.s);
    struct jj_val r = jj_strv(jj_concat(j, a.s, b.s));
    r.markup = a.markup || b.markup;
    return r;
}

static bool is_seq(struct jj_val v) {
    return v.kind == JJ_STR || v.kind == JJ_LIST || v.kind == JJ_TUPLE;
}

struct jj_val jj_binary(struct jj *j, int op, struct jj_val a, struct jj_val b) {
    if (jj_is_number(a) && jj_is_number(b)) {
        uint8_t o = jj_worse(a.origin, b.origin);
        if (a.kind != JJ_FLOAT && b.kind != JJ_FLOAT)
            return int_op(j, op, jj_intlike(a), jj_intlike(b), o);
        return float_op(j, op, number(a), number(b), o);
    }
    if (op == JJ_T_ADD && a.kind == b.kind) {
        if (a.kind == JJ_STR) return add_strings(j, a, b);
        if (a.kind == JJ_LIST || a.kind == JJ_TUPLE) return concat_lists(j, a, b);
    }
    if (op == JJ_T_MUL && is_seq(a) && jj_is_intlike(b)) return repeat(j, a, jj_intlike(b));
    if (op == JJ_T_MUL && is_seq(b) && jj_is_intlike(a)) return repeat(j, b, jj_intlike(a));
    if (op == JJ_T_MOD && a.kind == JJ_STR) {
        if (a.markup) jj_fail(j, ST_UNSUPPORTED, "formatting a Markup string is not supported");
        return jj_strv(jj_percent(j, a.s, b));
    }
    fail_types(j, op, a, b);
}

struct jj_val jj_unary(struct jj *j, int op, struct jj_val a) {
    if (a.kind == JJ_UNDEF) jj_fail_undef(j, a);
    if (!jj_is_number(a))
        jj_fail(j, ST_INVALID, "bad operand type for unary %s: '%s'", jj_tok_name((enum jj_tok)op),
                jj_type(a));
    if (a.kind == JJ_FLOAT) return jj_float(op == JJ_T_SUB ? -a.f : a.f, a.origin);
    int64_t i = jj_intlike(a);
    return op == JJ_T_SUB ? int_op(j, JJ_T_SUB, 0, i, a.origin) : jj_int(i, a.origin);
}

struct jj_val jj_pow10_round(struct jj *j, struct jj_val v, int64_t digits) {
    char text[700];
    if (v.kind != JJ_FLOAT) {
        int64_t i = jj_intlike(v), unit = 1;
        if (digits >= 0) return jj_int(i, v.origin);
        if (digits < -18) return jj_int(0, v.origin);
        unit = int_pow(j, 10, -digits);
        int64_t rest = ((i % unit) + unit) % unit, down = i - rest;
        bool up = rest > unit / 2 || (rest == unit / 2 && down / unit % 2 != 0);
        return int_op(j, JJ_T_ADD, down, up ? unit : 0, v.origin);
    }
    if (!isfinite(v.f) || digits > 322) return v;
    if (digits < -308) return jj_float(copysign(0, v.f), v.origin);
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits,
                 v.f); /* exact, ties to even, as Python's */
    } else {           /* through the decimal digits: 1234.5 to -2 is 12e2 */
        double unit = pow(10, (double)-digits), q = v.f / unit, r = nearbyint(q);
        snprintf(text, sizeof text, "%.0fe%d", r, (int)-digits);
    }
    return jj_float(strtod(text, NULL), v.origin);
}

/* --- comparison ------------------------------------------------------------------------------- */

static bool contains(struct jj *j, struct jj_val seq, struct jj_val v) {
    struct jj_val x;
    switch ((enum jj_kind)seq.kind) {
    case JJ_STR:
        if (v.kind != JJ_STR)
            jj_fail(j, ST_INVALID, "'in <string>' requires string as left operand, not %s",
                    jj_type(v));
        return jj_find(j, seq.s, v.s, 0) != JJ_NOT_FOUND;
    case JJ_DICT: return jj_dict_get(j, seq.dict, v) != NULL;
    default:
        if (!jj_iterable(seq))
            jj_fail(j, ST_INVALID, "argument of type '%s' is not iterable", jj_type(seq));
        for (struct jj_iter *it = jj_iter(j, seq); jj_next(j, it, &x);)
            if (jj_equal(j, x, v)) return true;
        return false;
    }
}

bool jj_compare(struct jj *j, int op, struct jj_val a, struct jj_val b) {
    int c;
    switch (op) {
    case JJ_OP_IN: return contains(j, b, a);
    case JJ_OP_NOT_IN: return !contains(j, b, a);
    case JJ_T_EQ: return jj_equal(j, a, b);
    case JJ_T_NE: return !jj_equal(j, a, b);
    default: break;
    }
    c = jj_order(j, a, b, jj_tok_name((enum jj_tok)op));
    switch (op) { /* 2: a NaN, which is in no order with anything */
    case JJ_T_LT: return c < 0;
    case JJ_T_LE: return c <= 0;
    case JJ_T_GT: return c == 1 || (c > 0 && c != 2);
    default: return c >= 0 && c != 2;
    }
}

/* --- lookups ---------------------------------------------------------------------------------- */

static struct jj_val no_element(struct jj *j, struct jj_val obj, struct jj_val key) {
    if (key.kind == JJ_STR) return jj_undef_attr(j, obj, key.s);
    struct jj_sb b = {.j = j};
    if (key.kind <= JJ_STR)
        jj_put_repr(&b, key);
    else
        jj_sb_lit(&b, jj_type(key));
    return jj_undef_attr(j, obj, jj_sb_done(&b));
}

struct jj_val jj_getattr(struct jj *j, struct jj_val obj, const struct jj_str *name) {
    struct jj_val v;
    if (obj.kind == JJ_UNDEF) jj_fail_undef(j, obj);
    if (jj_attr(j, obj, name, &v)) return v;
    if (obj.kind == JJ_DICT) {
        const struct jj_val *p = jj_dict_get_str(j, obj.dict, name);
        if (p) return *p;
    }
    return jj_undef_attr(j, obj, name);
}

static bool index_of(uint32_t len, int64_t i, uint32_t *at) {
    if (i < 0) i += len;
    if (i < 0 || i >= len) return false;
    *at = (uint32_t)i;
    return true;
}

static bool item(struct jj *j, struct jj_val obj, struct jj_val key, struct jj_val *out) {
    uint32_t len, at;
    if (obj.kind == JJ_DICT) {
        if (!jj_hashable(j, key)) return false;
        const struct jj_val *p = jj_dict_get(j, obj.dict, key);
        if (p) *out = *p;
        return p != NULL;
    }
    if (!jj_is_intlike(key) || !jj_len(obj, &len) || !index_of(len, jj_intlike(key), &at))
        return false;
    switch ((enum jj_kind)obj.kind) {
    case JJ_LIST:
    case JJ_TUPLE: *out = obj.list->v[at]; return true;
    case JJ_RANGE: *out = jj_range_at(obj.range, at); return true;
    case JJ_STR: {
        uint32_t from = jj_at_cp(j, obj.s, at), to = from;
        jj_cp_at(obj.s->p, obj.s->len, &to);
        *out = jj_strv(jj_str_cut(j, obj.s, from, to));
        out->markup = obj.markup;
        return true;
    }
    default: return false;
    }
}

struct jj_val jj_getitem(struct jj *j, struct jj_val obj, struct jj_val key) {
    struct jj_val v;
    if (obj.kind == JJ_UNDEF) jj_fail_undef(j, obj);
    if (item(j, obj, key, &v)) return v;
    if (key.kind == JJ_STR && jj_attr(j, obj, key.s, &v)) return v;
    return no_element(j, obj, key);
}

static const int64_t *bound(struct jj *j, struct jj_val v, int64_t *room) {
    if (v.kind == JJ_NONE) return NULL;
    if (!jj_is_intlike(v))
        jj_fail(j, ST_INVALID, "slice indices must be integers or None, not %s", jj_type(v));
    *room = jj_intlike(v);
    return room;
}

struct jj_val jj_slice(struct jj *j, struct jj_val obj, struct jj_val start, struct jj_val stop,
                       struct jj_val step) {
    int64_t a, b, c = 1, first, end;
    if (obj.kind == JJ_UNDEF) jj_fail_undef(j, obj);
    if (!is_seq(obj) && obj.kind != JJ_RANGE)
        jj_fail(j, ST_INVALID, "'%s' object cannot be sliced", jj_type(obj));
    const int64_t *from = bound(j, start, &a), *to = bound(j, stop, &b);
    bound(j, step, &c);
    if (c == 0) jj_fail(j, ST_INVALID, "slice step cannot be zero");
    if (obj.kind == JJ_STR) {
        struct jj_val r = jj_strv(jj_str_slice(j, obj.s, from, to, c));
        r.markup = obj.markup;
        return r;
    }
    if (obj.kind == JJ_RANGE) {
        const struct jj_range *of = obj.range;
        struct jj_range *r = jj_alloc(j, sizeof *r);
        uint32_t n = jj_slice_span(of->len, from, to, c, &first, &end);
        int64_t s;
        if (n <= 1)
            s = of->step;
        else if (__builtin_mul_overflow(of->step, c, &s))
            fail_big(j);
        *r = (struct jj_range){.start = of->start + first * of->step, .step = s, .len = n};
        r->stop = of->start + end * of->step;
        return (struct jj_val){.kind = JJ_RANGE, .range = r};
    }
    uint32_t n = jj_slice_span(obj.list->len, from, to, c, &first, &end);
    struct jj_list *l = jj_list_new(j, n);
    jj_spend(j, n / 8);
    for (uint32_t i = 0; i < n; i++) jj_list_push(j, l, obj.list->v[first + (int64_t)i * c]);
    return (struct jj_val){.kind = obj.kind, .list = l};
}

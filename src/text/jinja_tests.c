/* SPDX-License-Identifier: Apache-2.0 */
/* The tests after "is" (jinja2/tests.py). */
#include <string.h>

#include "text/jinja_eval.h"
#include "text/jinja_lex.h"
#include "text/jinja_show.h"
#include "text/jinja_text.h"

#define TEST(name)                                                                                 \
    static struct jj_val name(struct jj *j, struct jj_val self, const struct jj_val *a,            \
                              const struct jj_args *raw)
#define UNUSED (void)j, (void)self, (void)a, (void)raw

static bool divides(struct jj *j, struct jj_val v, int64_t by, int64_t rest) {
    struct jj_val m = jj_binary(j, JJ_T_MOD, v, jj_int(by, CHAT_FROM_TEMPLATE));
    return jj_equal(j, m, jj_int(rest, CHAT_FROM_TEMPLATE));
}

TEST(t_odd) {
    UNUSED;
    return jj_bool(divides(j, self, 2, 1));
}
TEST(t_even) {
    UNUSED;
    return jj_bool(divides(j, self, 2, 0));
}
TEST(t_divisibleby) {
    UNUSED;
    return jj_bool(jj_equal(j, jj_binary(j, JJ_T_MOD, self, a[0]), jj_int(0, CHAT_FROM_TEMPLATE)));
}
TEST(t_defined) {
    UNUSED;
    return jj_bool(self.kind != JJ_UNDEF);
}
TEST(t_undefined) {
    UNUSED;
    return jj_bool(self.kind == JJ_UNDEF);
}
TEST(t_filter) {
    UNUSED;
    return jj_bool(self.kind == JJ_STR && jj_filter_find(self.s));
}
TEST(t_test) {
    UNUSED;
    return jj_bool(self.kind == JJ_STR && jj_test_find(self.s));
}
TEST(t_none) {
    UNUSED;
    return jj_bool(self.kind == JJ_NONE);
}
TEST(t_boolean) {
    UNUSED;
    return jj_bool(self.kind == JJ_BOOL);
}
TEST(t_false) {
    UNUSED;
    return jj_bool(self.kind == JJ_BOOL && !self.b);
}
TEST(t_true) {
    UNUSED;
    return jj_bool(self.kind == JJ_BOOL && self.b);
}
TEST(t_integer) {
    UNUSED;
    return jj_bool(self.kind == JJ_INT);
}
TEST(t_float) {
    UNUSED;
    return jj_bool(self.kind == JJ_FLOAT);
}
TEST(t_lower) {
    UNUSED;
    return jj_bool(jj_is_lower(jj_to_str(j, self)));
}
TEST(t_upper) {
    UNUSED;
    return jj_bool(jj_is_upper(jj_to_str(j, self)));
}
TEST(t_string) {
    UNUSED;
    return jj_bool(self.kind == JJ_STR);
}
TEST(t_mapping) {
    UNUSED;
    return jj_bool(self.kind == JJ_DICT);
}
TEST(t_number) {
    UNUSED;
    return jj_bool(jj_is_number(self));
}
TEST(t_sequence) {
    UNUSED;
    uint32_t len;
    return jj_bool(self.kind != JJ_VIEW &&
                   jj_len(self, &len)); /* views have a length and no subscripts */
}
TEST(t_iterable) {
    UNUSED;
    return jj_bool(jj_iterable(self));
}
TEST(t_callable) {
    UNUSED;
    return jj_bool(self.kind == JJ_MACRO || self.kind == JJ_GLOBAL || self.kind == JJ_METHOD ||
                   self.kind == JJ_LOOP || self.kind == JJ_UNDEF);
}
TEST(t_escaped) {
    UNUSED;
    return jj_bool(self.kind == JJ_STR && self.markup);
}

/* Identity, which a template can rely on for None, True, False and small integers; the rest is
 * compared by address. */
TEST(t_sameas) {
    UNUSED;
    if (self.kind != a[0].kind) return jj_bool(false);
    if (self.kind <= JJ_BOOL) return jj_bool(jj_equal(j, self, a[0]));
    if (self.kind == JJ_INT) return jj_bool(self.i == a[0].i);
    return jj_bool(self.s == a[0].s);
}
TEST(t_in) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_OP_IN, self, a[0]));
}
TEST(t_eq) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_EQ, self, a[0]));
}
TEST(t_ne) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_NE, self, a[0]));
}
TEST(t_gt) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_GT, self, a[0]));
}
TEST(t_ge) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_GE, self, a[0]));
}
TEST(t_lt) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_LT, self, a[0]));
}
TEST(t_le) {
    UNUSED;
    return jj_bool(jj_compare(j, JJ_T_LE, self, a[0]));
}

static const struct jj_builtin tests[] = {
    {"odd", t_odd, ""},
    {"even", t_even, ""},
    {"divisibleby", t_divisibleby, "num"},
    {"defined", t_defined, ""},
    {"undefined", t_undefined, ""},
    {"filter", t_filter, ""},
    {"test", t_test, ""},
    {"none", t_none, ""},
    {"boolean", t_boolean, ""},
    {"false", t_false, ""},
    {"true", t_true, ""},
    {"integer", t_integer, ""},
    {"float", t_float, ""},
    {"lower", t_lower, ""},
    {"upper", t_upper, ""},
    {"string", t_string, ""},
    {"mapping", t_mapping, ""},
    {"number", t_number, ""},
    {"sequence", t_sequence, ""},
    {"iterable", t_iterable, ""},
    {"callable", t_callable, ""},
    {"sameas", t_sameas, "other"},
    {"escaped", t_escaped, ""},
    {"in", t_in, "seq"},
    {"==", t_eq, "b"},
    {"eq", t_eq, "b"},
    {"equalto", t_eq, "b"},
    {"!=", t_ne, "b"},
    {"ne", t_ne, "b"},
    {">", t_gt, "b"},
    {"gt", t_gt, "b"},
    {"greaterthan", t_gt, "b"},
    {">=", t_ge, "b"},
    {"ge", t_ge, "b"},
    {"<", t_lt, "b"},
    {"lt", t_lt, "b"},
    {"lessthan", t_lt, "b"},
    {"<=", t_le, "b"},
    {"le", t_le, "b"},
};

const struct jj_builtin *jj_test_find(const struct jj_str *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (jj_str_is(name, tests[i].name)) return &tests[i];
    return NULL;
}

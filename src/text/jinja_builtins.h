/* SPDX-License-Identifier: Apache-2.0 */
/* What templates call: filters, tests, methods and global functions, each a row of a table with its
 * parameters as Python's signature has them. */
#ifndef SUPERNODE_TEXT_JINJA_BUILTINS_H
#define SUPERNODE_TEXT_JINJA_BUILTINS_H

#include "text/jinja_value.h"

struct jj_kw {
    const struct jj_str *name;
    struct jj_val val;
};

struct jj_args {
    struct jj_val *pos;
    struct jj_kw *kw;
    uint32_t n, n_kw;
};

enum { JJ_PARAMS_MAX = 6 };

/* self: the filtered or tested value, or the method's object. a: one value for each parameter,
 * JJ_MISSING where it was not given; or NULL, and the arguments as they came are in raw. */
typedef struct jj_val jj_fn(struct jj *j, struct jj_val self, const struct jj_val *a,
                            const struct jj_args *raw);

/* params: "old new | count": those after the bar may be absent; "/ " before them: positional only;
 * NULL: any, in raw */
struct jj_builtin {
    const char *name;
    jj_fn *fn;
    const char *params;
};
struct jj_global { /* range(...), namespace(...) */
    struct jj_builtin f;
};
struct jj_method {
    const struct jj_builtin *f;
    struct jj_val self;
};

const struct jj_builtin *jj_filter_find(const struct jj_str *name); /* NULL: unknown */
const struct jj_builtin *jj_test_find(const struct jj_str *name);
const struct jj_global *jj_global_find(const struct jj_str *name);

struct jj_val jj_call_builtin(struct jj *j, const struct jj_builtin *f, struct jj_val self,
                              const struct jj_args *args);

/* Methods and attributes of Python's types. False: it has none of this name. */
bool jj_attr(struct jj *j, struct jj_val obj, const struct jj_str *name, struct jj_val *out);

/* Looks a dotted path ("function.name", "0.x") up in a value, as map(attribute=...) does. */
struct jj_val jj_path(struct jj *j, struct jj_val v, struct jj_val path);

/* Arguments with a type; what names the argument in the error. */
int64_t jj_want_int(struct jj *j, struct jj_val v, const char *what);
const struct jj_str *jj_want_str(struct jj *j, struct jj_val v, const char *what);
static inline bool jj_given(struct jj_val v) {
    return v.kind != JJ_MISSING;
}
static inline bool jj_flag(struct jj_val v, bool otherwise) {
    return jj_given(v) ? jj_true(v) : otherwise;
}

/* Stable; less(a, b) by Python's "<" on keys[i]. Sorts v along with keys. */
void jj_sort(struct jj *j, struct jj_val *v, struct jj_val *keys, uint32_t n, bool reverse);

#endif

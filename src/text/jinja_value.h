/* SPDX-License-Identifier: Apache-2.0 */
/* Python's values as a template sees them. A value is 16 bytes and immutable, except for namespaces
 * and iterators; strings, lists and dicts live in the arena of the rendering.
 *
 * Every byte of a string has its origin (enum chat_origin) in a second array, so that slices,
 * strips and joins keep it without thinking; a number, a bool or None has one origin for the digits
 * or letters it will print as. */
#ifndef SUPERNODE_TEXT_JINJA_VALUE_H
#define SUPERNODE_TEXT_JINJA_VALUE_H

#include "text/chat.h"
#include "text/jinja.h"

enum jj_kind {
    JJ_MISSING, /* no value: an unset name, an absent argument; never reaches a template */
    JJ_UNDEF,
    JJ_NONE,
    JJ_BOOL,
    JJ_INT,
    JJ_FLOAT,
    JJ_STR,
    JJ_LIST,
    JJ_TUPLE,
    JJ_DICT,
    JJ_VIEW, /* dict.keys(), .values(), .items() */
    JJ_RANGE,
    JJ_NAMESPACE,
    JJ_MACRO,
    JJ_GLOBAL, /* range, dict, namespace, raise_exception, ... */
    JJ_METHOD, /* a string's or dict's method with its object */
    JJ_LOOP,
    JJ_ITER, /* a generator: can be walked once */
};

struct jj_val {
    uint8_t kind;
    uint8_t origin;
    bool markup; /* strings: the result of escape or safe (markupsafe.Markup) */
    bool group;  /* tuples: from groupby, with the names grouper and list */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jj_str *s;
        const struct jj_undef *undef;
        const struct jj_list *list;
        struct jj_dict *dict; /* JJ_NAMESPACE changes it; a JJ_DICT never changes once made */
        const struct jj_view *view;
        const struct jj_range *range;
        const struct jj_macro *macro;
        const struct jj_global *global;
        const struct jj_method *method;
        struct jj_loop *loop;
        struct jj_iter *iter;
    };
};

struct jj_str {
    const char *p; /* UTF-8, not terminated */
    const uint8_t *o;
    uint32_t len;
    uint32_t cps;         /* code points; equal to len when it is ASCII */
    struct jj_room *room; /* what it lies in, if that has room behind it; else NULL */
};

/* Bytes that strings share. A template that builds text piece by piece (ns.s = ns.s + x) appends in
 * place: whoever ends where the room is filled to may, and the shorter strings before it do not
 * notice. */
struct jj_room {
    char *p;
    uint8_t *o;
    uint32_t len, cap;
};

struct jj_list { /* of JJ_LIST and JJ_TUPLE */
    struct jj_val *v;
    uint32_t len, cap;
};

struct jj_pair {
    struct jj_val key, val;
    uint32_t hash;
};
struct jj_dict { /* in order of insertion */
    struct jj_pair *v;
    uint32_t len, cap;
    uint32_t *slots; /* 1 + index into v, 0 empty; NULL while there are few */
    uint32_t n_slots;
};

enum jj_view_of { JJ_KEYS, JJ_VALUES, JJ_ITEMS };
struct jj_view {
    const struct jj_dict *dict;
    enum jj_view_of of;
};

struct jj_range {
    int64_t start, step;
    uint32_t len;
    int64_t stop; /* as it was given: for printing */
};

struct jj_undef {
    const struct jj_str *name; /* 'name' is undefined */
    struct jj_val obj;         /* ... or obj has no attribute or element name; JJ_MISSING: none */
    const char *hint;          /* ... or this sentence */
};

struct jj_iter {
    bool (*next)(struct jj *j, struct jj_iter *it, struct jj_val *out); /* false at the end */
    struct jj_val src;
    uint32_t at;
    void *ctx;
};

/* Making values. */
static inline struct jj_val jj_none(void) {
    return (struct jj_val){.kind = JJ_NONE};
}
static inline struct jj_val jj_bool(bool b) {
    return (struct jj_val){.kind = JJ_BOOL, .b = b};
}
static inline struct jj_val jj_int(int64_t i, uint8_t origin) {
    return (struct jj_val){.kind = JJ_INT, .origin = origin, .i = i};
}
static inline struct jj_val jj_float(double f, uint8_t origin) {
    return (struct jj_val){.kind = JJ_FLOAT, .origin = origin, .f = f};
}
static inline struct jj_val jj_strv(const struct jj_str *s) {
    return (struct jj_val){.kind = JJ_STR, .s = s};
}
static inline struct jj_val jj_listv(const struct jj_list *l) {
    return (struct jj_val){.kind = JJ_LIST, .list = l};
}
static inline struct jj_val jj_tuplev(const struct jj_list *l) {
    return (struct jj_val){.kind = JJ_TUPLE, .list = l};
}
static inline struct jj_val jj_dictv(struct jj_dict *d) {
    return (struct jj_val){.kind = JJ_DICT, .dict = d};
}
static inline struct jj_val jj_iterv(struct jj_iter *it) {
    return (struct jj_val){.kind = JJ_ITER, .iter = it};
}
struct jj_val jj_undef_name(struct jj *j, const struct jj_str *name);
struct jj_val jj_undef_attr(struct jj *j, struct jj_val obj, const struct jj_str *name);
struct jj_val jj_undef_hint(struct jj *j, const char *hint);
struct jj_val jj_pair_tuple(struct jj *j, struct jj_val a, struct jj_val b);
struct jj_val jj_view(struct jj *j, const struct jj_dict *d, enum jj_view_of of);

/* Raises what using an undefined value raises. */
_Noreturn void jj_fail_undef(struct jj *j, struct jj_val v);

const char *jj_type(struct jj_val v); /* "str", "int", ... as Python names them */
bool jj_true(struct jj_val v);
bool jj_is_intlike(struct jj_val v); /* int or bool */
int64_t jj_intlike(struct jj_val v);
bool jj_is_number(struct jj_val v);

/* Strings. */
const struct jj_str *jj_str_new(struct jj *j, const char *p, size_t len, uint8_t origin);
const struct jj_str *jj_str_lit(struct jj *j, const char *text); /* ASCII, from the template */
const struct jj_str *jj_str_cut(struct jj *j, const struct jj_str *s, uint32_t from,
                                uint32_t to); /* bytes */
const struct jj_str *jj_concat(struct jj *j, const struct jj_str *a, const struct jj_str *b);
bool jj_str_eq(const struct jj_str *a, const struct jj_str *b);
bool jj_str_is(const struct jj_str *s, const char *text);
int jj_str_cmp(const struct jj_str *a, const struct jj_str *b);
uint32_t jj_cps(const char *p, size_t len);
uint8_t jj_str_origin(const struct jj_str *s); /* the least trusted of its bytes */
static inline uint8_t jj_worse(uint8_t a, uint8_t b) {
    return a > b ? a : b;
}

/* A string being built. */
struct jj_sb {
    struct jj *j;
    char *p;
    uint8_t *o;
    uint32_t len, cap;
};
void jj_sb_add(struct jj_sb *b, const char *p, size_t len, const uint8_t *origins);
void jj_sb_put(struct jj_sb *b, const char *p, size_t len, uint8_t origin);
void jj_sb_lit(struct jj_sb *b, const char *text); /* of the template's origin */
void jj_sb_str(struct jj_sb *b, const struct jj_str *s);
void jj_sb_cp(struct jj_sb *b, int32_t cp, uint8_t origin);
const struct jj_str *jj_sb_done(struct jj_sb *b);

/* Lists and dicts being built. */
struct jj_list *jj_list_new(struct jj *j, uint32_t cap);
void jj_list_push(struct jj *j, struct jj_list *l, struct jj_val v);
struct jj_dict *jj_dict_new(struct jj *j);
struct jj_dict *jj_dict_copy(struct jj *j, const struct jj_dict *d);
void jj_dict_set(struct jj *j, struct jj_dict *d, struct jj_val key, struct jj_val val);
/* NULL when it is not there; an unhashable key is an error. */
struct jj_val *jj_dict_get(struct jj *j, const struct jj_dict *d, struct jj_val key);
struct jj_val *jj_dict_get_str(struct jj *j, const struct jj_dict *d, const struct jj_str *key);
struct jj_val *jj_dict_get_lit(struct jj *j, const struct jj_dict *d, const char *key);
bool jj_hashable(struct jj *j, struct jj_val v);

bool jj_equal(struct jj *j, struct jj_val a, struct jj_val b);
/* <0, 0, >0; what Python cannot order is an error that names op. */
int jj_order(struct jj *j, struct jj_val a, struct jj_val b, const char *op);

/* Walking. */
bool jj_iterable(struct jj_val v);
struct jj_iter *jj_iter(struct jj *j, struct jj_val v); /* an error if it cannot be walked */
static inline bool jj_next(struct jj *j, struct jj_iter *it, struct jj_val *out) {
    jj_spend(j, 1);
    return it->next(j, it, out);
}
bool jj_len(struct jj_val v, uint32_t *len);               /* false: the type has no len() */
struct jj_list *jj_to_list(struct jj *j, struct jj_val v); /* a fresh list of the elements */
struct jj_val jj_range_at(const struct jj_range *r, uint32_t i);

#endif

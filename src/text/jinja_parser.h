/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two files of the parser: the token in hand, making nodes, and what statements ask of
 * expressions. */
#ifndef SUPERNODE_TEXT_JINJA_PARSER_H
#define SUPERNODE_TEXT_JINJA_PARSER_H

#include "text/jinja_ast.h"
#include "text/jinja_lex.h"

struct jj_parser {
    struct jj *j;
    struct jj_names *names;
    struct jj_token *t; /* the token in hand */
    uint32_t depth;
};

/* --- expressions (jinja_parse_expr.c) --- */
enum jj_mode { JJ_WITH_COND, JJ_NO_COND }; /* whether "a if b else c" may stand here */
struct jj_node *jj_parse_expr(struct jj_parser *p, enum jj_mode mode);
/* One expression, or a tuple of several with commas. end_name ("in", "recursive") ends it too. */
struct jj_node *jj_parse_tuple(struct jj_parser *p, enum jj_mode mode, bool parens,
                               const char *end_name);
/* ns_targets: "a.b" is a namespace's attribute to assign to. */
struct jj_node *jj_parse_primary(struct jj_parser *p, bool ns_targets);
/* What follows a "|", or the head of a filter block. */
struct jj_node *jj_parse_one_filter(struct jj_parser *p, struct jj_node *of);
struct jj_node *jj_parse_filters(struct jj_parser *p, struct jj_node *of);
bool jj_parse_constant(const struct jj_str *s, struct jj_val *out); /* true, none, ... */

/* --- nodes and tokens --- */

static inline struct jj_node *node(struct jj_parser *p, enum jj_node_kind kind, uint32_t line) {
    struct jj_node *n = jj_alloc(p->j, sizeof *n);
    *n = (struct jj_node){.kind = kind, .line = line};
    return n;
}

static inline struct jj_node *node_ab(struct jj_parser *p, enum jj_node_kind kind, uint32_t line,
                                      struct jj_node *a, struct jj_node *b) {
    struct jj_node *n = node(p, kind, line);
    n->a = a;
    n->b = b;
    return n;
}

struct jj_nodes {
    struct jj_node **v;
    uint32_t n, cap;
};
static inline void push(struct jj_parser *p, struct jj_nodes *l, struct jj_node *n) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        l->v = jj_grow(p->j, l->v, l->cap * sizeof *l->v, cap * sizeof *l->v);
        l->cap = cap;
    }
    l->v[l->n++] = n;
}

static inline _Noreturn void unexpected(struct jj_parser *p, const char *expected) {
    const struct jj_token *t = p->t;
    p->j->line = t->line;
    if (t->type == JJ_T_NAME)
        jj_fail(p->j, ST_INVALID, "found '%.*s', expected %s", (int)t->val.s->len, t->val.s->p,
                expected);
    jj_fail(p->j, ST_INVALID, "found %s, expected %s", jj_tok_name(t->type), expected);
}

static inline bool at(const struct jj_parser *p, enum jj_tok type) {
    return p->t->type == type;
}
static inline bool is_name(const struct jj_token *t, const char *name) {
    return t->type == JJ_T_NAME && jj_str_is(t->val.s, name);
}
static inline bool at_name(const struct jj_parser *p, const char *name) {
    return is_name(p->t, name);
}

static inline void next(struct jj_parser *p) {
    if (p->t->type != JJ_T_EOF) p->t++;
}
static inline bool skip(struct jj_parser *p, enum jj_tok type) {
    if (!at(p, type)) return false;
    next(p);
    return true;
}
static inline bool skip_name(struct jj_parser *p, const char *name) {
    if (!at_name(p, name)) return false;
    next(p);
    return true;
}
static inline void expect(struct jj_parser *p, enum jj_tok type) {
    if (!skip(p, type)) unexpected(p, jj_tok_name(type));
}

static inline const struct jj_str *take_name(struct jj_parser *p) {
    if (!at(p, JJ_T_NAME)) unexpected(p, "a name");
    const struct jj_str *s = jj_intern(p->j, p->names, p->t->val.s);
    next(p);
    return s;
}

static inline void enter(struct jj_parser *p) {
    if (++p->depth > JJ_PARSE_DEPTH_MAX) {
        p->j->line = p->t->line;
        jj_fail(p->j, ST_FULL, "nested more than %d deep", JJ_PARSE_DEPTH_MAX);
    }
}
static inline void leave(struct jj_parser *p) {
    p->depth--;
}

#endif

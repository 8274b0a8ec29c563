/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of a template. One node type for all: a kind, a line, up to three operands and two
 * lists; what each means is said beside the kind. Names are interned, so they compare by pointer.
 * Trees live in the template's arena and are read-only once jj_resolve (jinja_scope.h) has run. */
#ifndef SUPERNODE_TEXT_JINJA_AST_H
#define SUPERNODE_TEXT_JINJA_AST_H

#include "text/jinja_value.h"

enum jj_node_kind {
    /* expressions */
    JJ_N_CONST,   /* value */
    JJ_N_NAME,    /* name at (up, slot); as a target: what is assigned */
    JJ_N_NSREF,   /* target only: name.attr */
    JJ_N_TUPLE,   /* list; also a target */
    JJ_N_LIST,    /* list */
    JJ_N_DICT,    /* list of keys, list2 of values */
    JJ_N_UNARY,   /* op (JJ_T_ADD, JJ_T_SUB), a */
    JJ_N_NOT,     /* a */
    JJ_N_BINARY,  /* a op b, arithmetic */
    JJ_N_AND,     /* a, b */
    JJ_N_OR,      /* a, b */
    JJ_N_CONCAT,  /* list: a ~ b ~ c */
    JJ_N_COMPARE, /* a, then list of JJ_N_OPERAND */
    JJ_N_OPERAND, /* op (JJ_T_EQ ... or JJ_OP_IN, JJ_OP_NOT_IN), a */
    JJ_N_COND,    /* b if a else c (c may be NULL) */
    JJ_N_ATTR,    /* a.name */
    JJ_N_ITEM,    /* a[b] */
    JJ_N_SLICE,   /* a[b:c:list[0]], any of the three absent (NULL) */
    JJ_N_CALL,    /* a(args) */
    JJ_N_FILTER,  /* a | name(args); a is NULL at the head of a filter block */
    JJ_N_TEST,    /* a is name(args) */
    /* statements */
    JJ_N_BODY,      /* list */
    JJ_N_DATA,      /* value: text */
    JJ_N_PRINT,     /* a */
    JJ_N_SET,       /* a = b */
    JJ_N_SET_BLOCK, /* a = body b through filter c (may be NULL); scope */
    JJ_N_FOR,       /* for a in b if c: body list[0], else list[1] (may be NULL); scope, test_scope,
                       else_scope */
    JJ_N_IF,        /* list of conditions, list2 of bodies; one more body: the else */
    JJ_N_MACRO,     /* name, parameters in list (JJ_N_NAME), defaults of the last in list2, body b;
                       scope */
    JJ_N_CALL_BLOCK,   /* call a with caller = macro b */
    JJ_N_FILTER_BLOCK, /* filter a of body b; scope */
    JJ_N_WITH,         /* targets list = list2, body b; scope */
    JJ_N_GENERATION,   /* macro b, called at once */
    JJ_N_BREAK,
    JJ_N_CONTINUE,
};

enum { JJ_OP_IN = 1000, JJ_OP_NOT_IN }; /* beside enum jj_tok */

struct jj_kwarg {
    const struct jj_str *name;
    struct jj_node *value;
};

struct jj_call_args {
    struct jj_node **pos;
    struct jj_kwarg *kw;
    uint32_t n_pos, n_kw;
    struct jj_node *star, *star_star; /* may be NULL */
};

struct jj_node {
    enum jj_node_kind kind;
    uint32_t line;
    int op;
    uint32_t up, slot; /* JJ_N_NAME: frames outwards, place in the scope there */
    bool recursive;    /* JJ_N_FOR */
    uint32_t n, n2;
    struct jj_node *a, *b, *c;
    struct jj_node **list, **list2;
    const struct jj_str *name, *attr;
    struct jj_val value;
    struct jj_call_args *args; /* JJ_N_CALL, JJ_N_FILTER, JJ_N_TEST */
    const struct jj_builtin
        *builtin; /* the filter or test; NULL: unknown, an error when it is reached */
    struct jj_scope *scope, *test_scope, *else_scope;
    bool wants_caller, wants_kwargs, wants_varargs; /* JJ_N_MACRO: special names its body reads */
};

/* Names a template uses, each once. */
struct jj_names {
    struct jj_dict *seen;
};

/* Parses a template (jinja2/parser.py). The body is a JJ_N_BODY. */
struct jj_node *jj_parse(struct jj *j, struct jj_names *names, const char *source, size_t len);

const struct jj_str *jj_intern(struct jj *j, struct jj_names *names, const struct jj_str *s);

#endif

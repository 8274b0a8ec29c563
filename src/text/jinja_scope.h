/* SPDX-License-Identifier: Apache-2.0 */
/* Which name means which variable. Jinja decides this before it runs (jinja2/idtracking.py), and
 * templates can tell: a name that its frame assigns somewhere, unconditionally, is undefined until
 * then even if the context has it, also inside loops that stand before the assignment. So scopes
 * are computed from the tree, with the same rules. */
#ifndef SUPERNODE_TEXT_JINJA_SCOPE_H
#define SUPERNODE_TEXT_JINJA_SCOPE_H

#include "text/jinja_ast.h"

/* What a variable holds when its frame is entered. */
enum jj_load {
    JJ_LOAD_PARAM,   /* set by whoever enters: loop targets, macro parameters */
    JJ_LOAD_CONTEXT, /* the context's value, or missing */
    JJ_LOAD_OUTER,   /* the value the name has outside */
    JJ_LOAD_MISSING,
};

struct jj_symbol {
    const struct jj_str *name;
    enum jj_load load;
    bool stored;
};

struct jj_scope {
    struct jj_scope *up;
    struct jj_symbol *v;
    uint32_t n, cap;
};

/* Fills every scope, slot and builtin of the tree, and refuses what can be refused without running:
 * unknown filters and tests (outside of branches), a break outside a loop, an assignment to loop.
 * Returns the scope of the whole. */
struct jj_scope *jj_resolve(struct jj *j, struct jj_names *names, struct jj_node *root);

/* The place of name in this scope, or -1. */
int64_t jj_scope_find(const struct jj_scope *s, const struct jj_str *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Running a template: operators and lookups (jinja_ops.c), calls, statements (jinja_eval.c). */
#ifndef SUPERNODE_TEXT_JINJA_EVAL_H
#define SUPERNODE_TEXT_JINJA_EVAL_H

#include "text/jinja_builtins.h"
#include "text/jinja_scope.h"

/* Renders a resolved tree with the variables of context. The result is a string of the arena. */
const struct jj_str *jj_render(struct jj *j, const struct jj_node *root,
                               const struct jj_scope *scope, const struct jj_dict *context);

/* Operators: op is a JJ_T_ token, or JJ_OP_IN for jj_compare. */
struct jj_val jj_binary(struct jj *j, int op, struct jj_val a, struct jj_val b);
struct jj_val jj_unary(struct jj *j, int op, struct jj_val a);
bool jj_compare(struct jj *j, int op, struct jj_val a, struct jj_val b);
struct jj_val jj_pow10_round(struct jj *j, struct jj_val v,
                             int64_t digits); /* Python's round(v, digits) */

/* a.name and a[key], as Jinja's sandbox has them: one falls back to the other, and to undefined. */
struct jj_val jj_getattr(struct jj *j, struct jj_val obj, const struct jj_str *name);
struct jj_val jj_getitem(struct jj *j, struct jj_val obj, struct jj_val key);
/* a[start:stop:step]; JJ_NONE stands for an absent bound. */
struct jj_val jj_slice(struct jj *j, struct jj_val obj, struct jj_val start, struct jj_val stop,
                       struct jj_val step);

struct jj_val jj_call(struct jj *j, struct jj_val f, const struct jj_args *args);

/* The loop variable. */
bool jj_loop_attr(struct jj *j, struct jj_val loop, const struct jj_str *name, struct jj_val *out);
uint32_t jj_loop_len(struct jj *j, struct jj_loop *loop);

void jj_put_macro_repr(struct jj_sb *b, const struct jj_macro *m);
void jj_put_loop_repr(struct jj_sb *b, struct jj_loop *l);

const char *jj_cstr(struct jj *j,
                    const struct jj_str *s); /* terminated; bytes after a NUL inside are lost */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A running for: the loop variable, and what jinja_eval.c shares with it. */
#ifndef SUPERNODE_TEXT_JINJA_LOOP_H
#define SUPERNODE_TEXT_JINJA_LOOP_H

#include "text/jinja_eval.h"

struct jj_run { /* one rendering */
    struct jj *j;
    const struct jj_dict *context;
    struct jj_sb *out;
};

struct jj_frame {
    struct jj_frame *up;
    const struct jj_scope *scope;
    struct jj_val *v; /* one for each symbol of the scope */
};

enum jj_flow { JJ_GO_ON, JJ_BREAK, JJ_CONTINUE };

struct jj_frame *jj_frame_new(struct jj_run *run, const struct jj_scope *scope,
                              struct jj_frame *up);
enum jj_flow jj_exec(struct jj_run *run, struct jj_frame *f, const struct jj_node *body);
enum jj_flow jj_exec_for(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                         struct jj_val seq, uint32_t depth0);

struct jj_loop *jj_loop_new(struct jj_run *run, struct jj_frame *f, const struct jj_node *n,
                            struct jj_val seq, uint32_t depth0);
bool jj_loop_next(struct jj *j, struct jj_loop *l, struct jj_val *out);
struct jj_val jj_loop_call(struct jj *j, struct jj_loop *l,
                           const struct jj_args *args); /* loop(children) */

#endif

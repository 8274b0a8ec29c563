/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two files of filters. */
#ifndef SUPERNODE_TEXT_JINJA_FILTERS_H
#define SUPERNODE_TEXT_JINJA_FILTERS_H

#include "text/jinja_builtins.h"

#define JJ_FILTER(name)                                                                            \
    static struct jj_val name(struct jj *j, struct jj_val self, const struct jj_val *a,            \
                              const struct jj_args *raw)

const struct jj_builtin *jj_seq_filter_find(const struct jj_str *name);

#endif

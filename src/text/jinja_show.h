/* SPDX-License-Identifier: Apache-2.0 */
/* Values as text: Python's str and repr, json.dumps, and the two kinds of format strings. Bytes
 * keep the origin of the value they come from; brackets, quotes and commas are the template's. */
#ifndef SUPERNODE_TEXT_JINJA_SHOW_H
#define SUPERNODE_TEXT_JINJA_SHOW_H

#include "text/jinja_builtins.h"

const struct jj_str *jj_to_str(struct jj *j, struct jj_val v);
void jj_put_str(struct jj_sb *b, struct jj_val v);
void jj_put_repr(struct jj_sb *b, struct jj_val v);

enum { JJ_FLOAT_TEXT = 32 };
void jj_float_text(char out[JJ_FLOAT_TEXT],
                   double f); /* repr: the shortest that reads back the same */

struct jj_json {
    bool ascii, sort_keys;
    const struct jj_str *indent;        /* NULL: on one line */
    const struct jj_str *comma, *colon; /* separators */
};
void jj_put_json(struct jj_sb *b, struct jj_val v, const struct jj_json *how);

/* "..." % args, and "...".format(...). */
const struct jj_str *jj_percent(struct jj *j, const struct jj_str *fmt, struct jj_val args);
const struct jj_str *jj_format(struct jj *j, const struct jj_str *fmt, const struct jj_args *args);

const struct jj_str *jj_escape(struct jj *j, const struct jj_str *s); /* & < > ' " for HTML */

#endif

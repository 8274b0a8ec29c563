/* SPDX-License-Identifier: Apache-2.0 */
/* Python's str, as far as it is about characters: classes, case, white space, finding, splitting,
 * lines. Positions are bytes here; whoever speaks to a template converts to code points with
 * jj_at_cp. Unicode's tables are utf8proc's. */
#ifndef SUPERNODE_TEXT_JINJA_TEXT_H
#define SUPERNODE_TEXT_JINJA_TEXT_H

#include "text/jinja_value.h"

/* The code point at p[*at], and *at moved past it. The text is valid UTF-8. */
int32_t jj_cp_at(const char *p, uint32_t len, uint32_t *at);
uint32_t jj_at_cp(struct jj *j, const struct jj_str *s,
                  uint32_t cp); /* byte where code point number cp starts */

bool jj_is_space(int32_t cp);
bool jj_is_word(int32_t cp); /* \w */
bool jj_is_printable(int32_t cp);
enum jj_class {
    JJ_ALPHA,
    JJ_ALNUM,
    JJ_DECIMAL,
    JJ_DIGIT,
    JJ_NUMERIC,
    JJ_SPACE,
    JJ_PRINTABLE,
    JJ_ASCII
};
bool jj_in_class(int32_t cp, enum jj_class c);
bool jj_all(const struct jj_str *s, enum jj_class c); /* str.isalpha() and its family */
bool jj_is_lower(const struct jj_str *s);
bool jj_is_upper(const struct jj_str *s);
bool jj_is_title(const struct jj_str *s);

enum jj_case { JJ_UPPER, JJ_LOWER, JJ_CAPITALIZE, JJ_TITLE, JJ_SWAPCASE, JJ_CASEFOLD };
const struct jj_str *jj_recase(struct jj *j, const struct jj_str *s, enum jj_case c);

enum jj_side { JJ_LEFT = 1, JJ_RIGHT = 2 };
const struct jj_str *jj_strip(struct jj *j, const struct jj_str *s, const struct jj_str *chars,
                              unsigned sides);

enum { JJ_NOT_FOUND = UINT32_MAX };
uint32_t jj_find(struct jj *j, const struct jj_str *s, const struct jj_str *sub, uint32_t from);
uint32_t jj_rfind(struct jj *j, const struct jj_str *s, const struct jj_str *sub, uint32_t end);
bool jj_starts(const struct jj_str *s, const struct jj_str *sub);
bool jj_ends(const struct jj_str *s, const struct jj_str *sub);
uint32_t jj_count(struct jj *j, const struct jj_str *s, const struct jj_str *sub);

/* sep NULL: runs of white space; max < 0: all. */
struct jj_list *jj_split(struct jj *j, const struct jj_str *s, const struct jj_str *sep,
                         int64_t max);
struct jj_list *jj_rsplit(struct jj *j, const struct jj_str *s, const struct jj_str *sep,
                          int64_t max);
struct jj_list *jj_lines(struct jj *j, const struct jj_str *s, bool keep_ends);
const struct jj_str *jj_replace(struct jj *j, const struct jj_str *s, const struct jj_str *old,
                                const struct jj_str *with, int64_t max);
const struct jj_str *jj_repeat(struct jj *j, const struct jj_str *s, int64_t n);
/* Like Python's slice of a sequence of len: how many, from where to where (units of the sequence).
 * step is not 0. */
uint32_t jj_slice_span(int64_t len, const int64_t *start, const int64_t *stop, int64_t step,
                       int64_t *first, int64_t *end);
const struct jj_str *jj_str_slice(struct jj *j, const struct jj_str *s, const int64_t *start,
                                  const int64_t *stop, int64_t step);

#endif

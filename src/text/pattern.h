/* SPDX-License-Identifier: Apache-2.0 */
/* An expression of a tokenizer.json, compiled, and its matches in a text in order, as the onig
 * crate's find_iter yields them. A pattern is read-only after pattern_new; what a search needs to
 * write lives in a pattern_scratch of the caller's. */
#ifndef SUPERNODE_TEXT_PATTERN_H
#define SUPERNODE_TEXT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct pattern;

enum pattern_kind { PATTERN_EXPRESSION, PATTERN_LITERAL };

/* name stands in errors, now and when a search gives up. */
enum st ST_CHECKED pattern_new(struct pattern **out, enum pattern_kind kind, const char *source,
                               size_t len, const char *name, struct err *err);
void pattern_free(struct pattern *p); /* NULL is allowed */

struct pattern_scratch;
enum st ST_CHECKED pattern_scratch_new(struct pattern_scratch **out, struct err *err);
void pattern_scratch_free(struct pattern_scratch *s); /* NULL is allowed */

/* One walk over text, which is well-formed UTF-8 and seen alone: nothing before or after it counts.
 */
struct pattern_walk {
    const char *text;
    size_t len;
    size_t from, last_end; /* where the search goes on; the end of the last match */
    bool any;              /* there was a match */
};

/* The next match in [*start, *end); *found false at the end. ST_FULL: the expression needed too
 * many steps. */
enum st ST_CHECKED pattern_next(bool *found, size_t *start, size_t *end, struct pattern_walk *w,
                                const struct pattern *p, struct pattern_scratch *s,
                                struct err *err);

#endif

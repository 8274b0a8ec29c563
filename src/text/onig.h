/* SPDX-License-Identifier: Apache-2.0 */
/* Oniguruma's expressions in PCRE2's words. `tokenizers` matches with Oniguruma, whose syntax PCRE2
 * reads otherwise in places
 * ($ is before every newline, [a&&[^b]] an intersection, \h a hexadecimal digit, {1,3}+ not
 * possessive, \s without U+180E). So an expression is not passed on but translated, construct by
 * construct; what is not known here is refused by name. */
#ifndef SUPERNODE_TEXT_ONIG_H
#define SUPERNODE_TEXT_ONIG_H

#include <stddef.h>

#include "base/bytes.h"
#include "base/err.h"

/* Appends the translation of source (well-formed UTF-8) to out, for PCRE2 with UTF and UCP. name is
 * the place that errors begin with. */
enum st ST_CHECKED onig_translate(struct buf *out, const char *source, size_t len, const char *name,
                                  struct err *err);

/* The same for a text that stands for itself. */
enum st ST_CHECKED onig_quote(struct buf *out, const char *text, size_t len);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Properties of characters as the libraries under `tokenizers` see them (Unicode 16), where PCRE2
 * and utf8proc of Debian 12 know Unicode 14 only: a text in a script of 2023 must not become other
 * ids here than there. */
#ifndef SUPERNODE_TEXT_UNICODE_H
#define SUPERNODE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

/* Appends to a PCRE2 class, as \x{lo}-\x{hi}, the later characters of a general category ("L",
 * "Lu") or a script ("Han"). */
enum st ST_CHECKED unicode_append_later(struct buf *out, const char *property);

bool unicode_is_space(uint32_t cp); /* White_Space */
bool unicode_is_word(
    uint32_t cp); /* \w of Unicode TR18: alphabetic, mark, decimal digit, connector, join control */

/* White_Space as the inside of a PCRE2 class, and all that is not. PCRE2's own \s has U+180E too.
 */
#define UNICODE_SPACE                                                                              \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define UNICODE_NOT_SPACE                                                                          \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{"     \
    "1fff}"                                                                                        \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"

/* Alphabetic characters that are neither letters nor marks: numbers of the category Nl apart,
 * these. */
#define UNICODE_ALPHABETIC_SYMBOLS                                                                 \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, one code point at a time. What is malformed is cut as Unicode 3.9 (table 3-7) and Python's
 * errors="replace" cut it: each maximal subpart of a well-formed sequence, or else one byte, counts
 * as one error. */
#ifndef SUPERNODE_TEXT_UTF8_H
#define SUPERNODE_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum {
    UTF8_BAD = 0x110000, /* malformed whatever follows */
    UTF8_CUT = 0x110001, /* well formed so far, but the text ends inside the sequence */
    UTF8_REPLACEMENT = 0xFFFD,
};

/* Reads one code point of s (len >= 1) and returns how many bytes it or the error takes (1 to 4, at
 * most len). */
uint32_t utf8_next(uint32_t *cp, const char *s, size_t len);

/* Writes a code point below 0x110000 and returns its length, 1 to 4. */
uint32_t utf8_put(char out[4], uint32_t cp);

/* Length of the longest prefix of s that is well formed (len if all of it is). */
size_t utf8_valid_prefix(const char *s, size_t len);

/* The code point before s[at] (0 < at <= len) in well-formed text, and in *start where it begins.
 */
uint32_t utf8_previous(size_t *start, const char *s, size_t at);

#endif

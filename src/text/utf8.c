/* SPDX-License-Identifier: Apache-2.0 */
/* Implements utf8.h by the table of well-formed sequences: the first byte decides the length and
 * the range of the second. */
#include "text/utf8.h"

#include <string.h>

static uint32_t sequence_len(uint8_t lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xC2) return 0; /* a continuation byte, or an overlong form */
    if (lead < 0xE0) return 2;
    if (lead < 0xF0) return 3;
    return lead < 0xF5 ? 4 : 0;
}

uint32_t utf8_next(uint32_t *cp, const char *s, size_t len) {
    const uint8_t *b = (const uint8_t *)s;
    uint32_t n = sequence_len(b[0]);
    if (n <= 1) {
        *cp = n ? b[0] : UTF8_BAD;
        return 1;
    }
    uint8_t lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    uint32_t v = b[0] & (0x7Fu >> n);
    for (uint32_t i = 1; i < n; i++) {
        if (i == len || b[i] < lo || b[i] > hi) {
            *cp = i == len ? UTF8_CUT : UTF8_BAD;
            return i;
        }
        v = v << 6 | (b[i] & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }
    *cp = v;
    return n;
}

uint32_t utf8_put(char out[4], uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    uint32_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)((0xF00u >> n & 0xFF) | cp);
    return n;
}

size_t utf8_valid_prefix(const char *s, size_t len) {
    size_t i = 0;
    while (i < len) {
        uint64_t eight;
        while (len - i >= sizeof eight) {
            memcpy(&eight, s + i, sizeof eight);
            if (eight & 0x8080808080808080u) break;
            i += sizeof eight;
        }
        if (i == len) break;
        uint32_t cp, n = utf8_next(&cp, s + i, len - i);
        if (cp >= UTF8_BAD) break;
        i += n;
    }
    return i;
}

uint32_t utf8_previous(size_t *start, const char *s, size_t at) {
    size_t i = at - 1;
    while (i > 0 && at - i < 4 && ((uint8_t)s[i] & 0xC0) == 0x80) i--;
    uint32_t cp;
    utf8_next(&cp, s + i, at - i);
    *start = i;
    return cp;
}

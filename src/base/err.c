/* SPDX-License-Identifier: Apache-2.0 */
/* Implements err.h: formatting into the caller's buffer. Names in a sentence come from strangers
 * (tensors, files, flags), and the sentence goes to terminals, logs and JSON: so control characters
 * and what is not UTF-8 become '?'. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the printable character at s; 0 if there is none. */
static size_t printable(const unsigned char *s) {
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0; /* the NUL at the end too */
    unsigned first = s[0], second = s[1];
    bool too_long = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    bool too_large = first == 0xf4 && second > 0x8f, surrogate = first == 0xed && second > 0x9f;
    bool control = first == 0xc2 && second < 0xa0;
    return too_long || too_large || surrogate || control ? 0 : n;
}

static void make_printable(char *text) {
    for (unsigned char *s = (unsigned char *)text; *s;) {
        size_t n = printable(s);
        if (n == 0) *s = '?';
        s += n ? n : 1;
    }
}

enum st err_set(struct err *err, enum st code, const char *fmt, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    make_printable(err->text);
    err->code = code;
    return code;
}

enum st err_prefix(struct err *err, const char *fmt, ...) {
    char rest[sizeof err->text];
    memcpy(rest, err->text, sizeof rest);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->text) {
        size_t room = sizeof err->text - (size_t)n;
        size_t len = strnlen(rest, room - 1);
        memcpy(err->text + n, rest, len);
        err->text[(size_t)n + len] = '\0';
    }
    make_printable(err->text);
    return err->code;
}

enum st st_from_errno(int errnum) {
    if (errnum == ENOENT || errnum == ENOTDIR) return ST_NOT_FOUND;
    if (errnum == ENOMEM) return ST_NO_MEMORY;
    return ST_IO;
}

const char *st_name(enum st code) {
    switch (code) {
    case ST_OK: return "ok";
    case ST_INVALID: return "invalid";
    case ST_UNSUPPORTED: return "unsupported";
    case ST_NOT_FOUND: return "not found";
    case ST_CORRUPT: return "corrupt";
    case ST_NO_MEMORY: return "out of memory";
    case ST_FULL: return "full";
    case ST_TIMEOUT: return "timeout";
    case ST_IO: return "input/output error";
    case ST_GONE: return "gone";
    }
    return "unknown";
}

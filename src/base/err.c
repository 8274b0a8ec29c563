/* SPDX-License-Identifier: Apache-2.0 */
/* Implements err.h: formatting into the caller's buffer, nothing else. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum st err_set(struct err *err, enum st code, const char *fmt, ...) {
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
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

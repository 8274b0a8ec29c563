/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes and error sentences. Every fallible function returns enum st; whoever knows the
 * cause writes one sentence into the caller's struct err ("file: place: what was found, expected
 * what"), and whoever passes it up may put a place in front. Nothing here allocates, prints or
 * exits. Codes are grouped by what the caller can do about them, not by where they arose. */
#ifndef SUPERNODE_BASE_ERR_H
#define SUPERNODE_BASE_ERR_H

enum st {
    ST_OK = 0,
    ST_INVALID,     /* the caller's input is wrong; saying it again will not help */
    ST_UNSUPPORTED, /* well formed, but something we do not do */
    ST_NOT_FOUND,
    ST_CORRUPT, /* stored or received bytes contradict themselves */
    ST_NO_MEMORY,
    ST_FULL, /* a stated limit is reached; later may work */
    ST_TIMEOUT,
    ST_IO,   /* the operating system refused; the text has its reason */
    ST_GONE, /* the other side left, or the work was cancelled */
};

struct err {
    enum st code;
    char text[512];
};

#define ST_CHECKED __attribute__((warn_unused_result))

/* Writes code and sentence (cut at the end of text if longer; control characters and bytes that are
 * not UTF-8 become '?') and returns code. err may be NULL. */
enum st err_set(struct err *err, enum st code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a place in front of the sentence that is there. Returns err->code. err must not be NULL. */
enum st err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ST_NOT_FOUND for ENOENT/ENOTDIR, ST_NO_MEMORY for ENOMEM, else ST_IO. */
enum st st_from_errno(int errnum);

/* "invalid", "not found", ...: for logs. */
const char *st_name(enum st code);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Outside numbers and bytes: checked size arithmetic, little-endian readers, and a growable byte
 * buffer with a maximum of its own. Everything that comes from a file, a socket or a flag goes
 * through these. */
#ifndef SUPERNODE_BASE_BYTES_H
#define SUPERNODE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

/* *out = a * b or a + b; false (and *out untouched) on overflow. */
static inline bool u64_mul(uint64_t *out, uint64_t a, uint64_t b) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool u64_add(uint64_t *out, uint64_t a, uint64_t b) {
    return !__builtin_add_overflow(a, b, out);
}

static inline uint32_t rd_u32le(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v; /* every host we build for is little-endian; bytes.c asserts it */
}
static inline uint64_t rd_u64le(const void *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* A growable byte string. data is NUL-terminated after every append once anything was appended (the
 * NUL is not counted in len). Zero-initialise with { .max = N }; max bounds len; release with
 * buf_release. */
struct buf {
    char *data;
    size_t len, cap, max;
};

/* ST_FULL when len would pass max, ST_NO_MEMORY; the buffer is unchanged on failure. No sentence is
 * written: the caller knows what was being built. */
enum st ST_CHECKED buf_append(struct buf *b, const void *data, size_t len);
enum st ST_CHECKED buf_append_str(struct buf *b, const char *s);
enum st ST_CHECKED buf_printf(struct buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void buf_release(struct buf *b);

#endif

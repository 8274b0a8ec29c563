/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes between processes: a writer that remembers its first failure, and a reader that never leaves
 * what it was given, so that a message is taken apart in a straight line and asked once at the end
 * whether it was well formed. Little-endian; a text has its length (one byte) before it. */
#ifndef SUPERNODE_BASE_WIRE_H
#define SUPERNODE_BASE_WIRE_H

#include "base/bytes.h"

struct wire_out {
    struct buf *buf;
    enum st st; /* the first failure; nothing is written after it */
};

static inline void wire_put(struct wire_out *w, const void *data, size_t len) {
    if (!w->st && len > 0) w->st = buf_append(w->buf, data, len);
}
static inline void wire_put_u8(struct wire_out *w, uint8_t v) {
    wire_put(w, &v, sizeof v);
}
static inline void wire_put_u32(struct wire_out *w, uint32_t v) {
    wire_put(w, &v, sizeof v); /* every host we build for is little-endian; bytes.c asserts it */
}
static inline void wire_put_u64(struct wire_out *w, uint64_t v) {
    wire_put(w, &v, sizeof v);
}
static inline void wire_put_f32(struct wire_out *w, float v) {
    wire_put(w, &v, sizeof v);
}
static inline void wire_put_text(struct wire_out *w,
                                 const char *text) { /* at most 255 bytes of it */
    size_t len = strlen(text);
    if (len > UINT8_MAX) len = UINT8_MAX;
    wire_put_u8(w, (uint8_t)len);
    wire_put(w, text, len);
}

struct wire_in {
    const uint8_t *at;
    size_t left;
    bool bad; /* something was missing; all further reads give zeros */
};

static inline const void *wire_get(struct wire_in *r, size_t len) { /* NULL: too few bytes */
    const uint8_t *at = r->at;
    if (r->bad || len > r->left) {
        r->bad = true;
        return NULL;
    }
    r->at += len;
    r->left -= len;
    return at;
}
static inline uint8_t wire_get_u8(struct wire_in *r) {
    const uint8_t *p = (const uint8_t *)wire_get(r, 1);
    return p ? *p : 0;
}
static inline uint32_t wire_get_u32(struct wire_in *r) {
    const void *p = wire_get(r, 4);
    return p ? rd_u32le(p) : 0;
}
static inline uint64_t wire_get_u64(struct wire_in *r) {
    const void *p = wire_get(r, 8);
    return p ? rd_u64le(p) : 0;
}
static inline float wire_get_f32(struct wire_in *r) {
    float v = 0;
    const void *p = wire_get(r, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return v;
}
/* Into out[size], terminated; longer ones, and ones with a NUL inside, are bad. */
static inline void wire_get_text(struct wire_in *r, char *out, size_t size) {
    size_t len = wire_get_u8(r);
    const void *p = wire_get(r, len);
    if (!p || len >= size || memchr(p, 0, len)) {
        r->bad = true;
        out[0] = 0;
        return;
    }
    memcpy(out, p, len);
    out[len] = 0;
}
/* A count of things that take at least each_bytes: bounded by what is left. */
static inline uint32_t wire_get_count(struct wire_in *r, size_t each_bytes) {
    uint32_t n = wire_get_u32(r);
    if (n > r->left / each_bytes) r->bad = true;
    return r->bad ? 0 : n;
}
/* All was there, and nothing is left over. */
static inline bool wire_get_end(const struct wire_in *r) {
    return !r->bad && r->left == 0;
}

#endif

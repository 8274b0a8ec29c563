/* SPDX-License-Identifier: Apache-2.0 */
/* A text on its way to tokens: well-formed UTF-8, and for each byte where it came from in the
 * caller's text, since malformed bytes, normalisers and added spaces change the bytes but tokens
 * are reported at the caller's offsets. */
#ifndef SUPERNODE_TEXT_WORKING_H
#define SUPERNODE_TEXT_WORKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct working {
    char *data;
    uint32_t *from; /* the caller's offset of each byte; NULL: base + its own */
    size_t len, cap;
    size_t max; /* bounds len: a stranger's normaliser must not turn a line into gigabytes */
    uint32_t base;
    const uint8_t *allow; /* of the caller's text: whether a byte may be part of an added token;
                             NULL: all may */
    enum { WORKING_BORROWS, WORKING_OWNS } owner; /* of data and from */
};

static inline uint32_t working_from(const struct working *w, size_t i) {
    return w->from ? w->from[i] : w->base + (uint32_t)i;
}

static inline bool working_allows(const struct working *w, size_t i) {
    return !w->allow || w->allow[working_from(w, i)];
}

/* The origin that stands for the bytes [start, end): the first, or the first that is not allowed,
 * so that what several bytes are made into is allowed only if all were. */
static inline uint32_t working_from_range(const struct working *w, size_t start, size_t end) {
    size_t i = start;
    while (i < end && working_allows(w, i)) i++;
    return working_from(w, i < end ? i : start);
}

/* A view of w[start, start + len). */
static inline struct working working_part(const struct working *w, size_t start, size_t len) {
    return (struct working){.data = w->data + start,
                            .from = w->from ? w->from + start : NULL,
                            .len = len,
                            .max = w->max,
                            .base = w->base + (uint32_t)start,
                            .allow = w->allow,
                            .owner = WORKING_BORROWS};
}

/* Appends to an owning working text, each byte with the origin given, or with those of part.
 * ST_FULL: past max. */
enum st ST_CHECKED working_append(struct working *w, const char *data, size_t len, uint32_t from);
enum st ST_CHECKED working_append_part(struct working *w, const struct working *part);
void working_release(struct working *w);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The copy out of and into memory that another process may be writing. Not memcpy: that loads the
 * last bytes of an odd length a second time, at another moment, over words it has already copied, so
 * that an aligned word could arrive torn; and TSan would report what is meant here.
 *
 * Words are aligned where the source is: between buffers of one alignment, the normal case, they are
 * whole on both sides. Loads are volatile: each byte is read once, and no compiler makes a memcpy of
 * the loops. From COPY_LONG bytes on, x86 moves words by its string instruction, which writes lines
 * without reading them first: measured on Zen 4, 128 GB/s against 96 of vector loops in L2, and in
 * memory as fast as stores past the cache (27 GB/s; memcpy 20), which then have the result in no
 * cache. */
#include "bus/bus.h"

enum { COPY_LONG = 4096, COPY_LINE = 128 };

#define COPY_PLAIN __attribute__((no_sanitize("thread"), always_inline)) static inline

typedef uint64_t word __attribute__((may_alias, aligned(1)));
/* four words, which no machine splits inside a word */
typedef uint64_t vec __attribute__((vector_size(32), may_alias, aligned(1)));

COPY_PLAIN void copy_bytes(uint8_t *to, const uint8_t *from, size_t len) {
    for (size_t i = 0; i < len; i++) to[i] = ((const volatile uint8_t *)from)[i];
}

COPY_PLAIN void copy_words(uint8_t *to, const uint8_t *from, size_t words) {
#ifdef __x86_64__
    if (words >= COPY_LONG / sizeof(word)) {
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
        return;
    }
#endif
    const size_t line = COPY_LINE / sizeof(word);
    for (; words >= line; words -= line, to += COPY_LINE, from += COPY_LINE) {
        const volatile vec *f = (const volatile vec *)from;
        vec a = f[0], b = f[1], c = f[2], d = f[3];
        vec *t = (vec *)to;
        t[0] = a, t[1] = b, t[2] = c, t[3] = d;
    }
    for (size_t i = 0; i < words; i++) ((word *)to)[i] = ((const volatile word *)from)[i];
}

__attribute__((no_sanitize("thread"))) void bus_copy(void *to, const void *from, size_t len) {
    uint8_t *t = to;
    const uint8_t *f = from;
    size_t head = -(uintptr_t)f & 7;
    if (head > len) head = len;
    size_t body = (len - head) & ~(size_t)7;
    copy_bytes(t, f, head);
    copy_words(t + head, f + head, body / sizeof(word));
    copy_bytes(t + head + body, f + head + body, len - head - body);
}

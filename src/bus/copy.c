/* SPDX-License-Identifier: Apache-2.0 */
/* The copy out of and into memory that another process may be writing. Not memcpy: that loads the
 * last bytes of an odd length a second time, at another moment, over words it has already copied, so
 * that an aligned word could arrive torn; and TSan would report what is meant here.
 *
 * Every load is volatile (the bytes may change, so each is read once, and no compiler makes a memcpy
 * of the loop). Words are aligned where the source is: between buffers of one alignment, the normal
 * case, they are whole on both sides. Above COPY_STREAM bytes stores go past the cache, as memcpy's
 * do: the destination does not fit there, and without that each of its lines would be read first. */
#include "bus/bus.h"

#ifdef __AVX__
#include <immintrin.h>
#endif

enum { COPY_STREAM = 4 << 20, COPY_LINE = 128 };

#define COPY_PLAIN __attribute__((no_sanitize("thread"), always_inline)) static inline

typedef uint64_t word __attribute__((may_alias, aligned(1)));

COPY_PLAIN void copy_bytes(uint8_t *to, const uint8_t *from, size_t len) {
    for (size_t i = 0; i < len; i++) to[i] = ((const volatile uint8_t *)from)[i];
}

COPY_PLAIN void copy_words(uint8_t *to, const uint8_t *from, size_t words) {
    for (size_t i = 0; i < words; i++) ((word *)to)[i] = ((const volatile word *)from)[i];
}

typedef uint64_t vec __attribute__((vector_size(32), may_alias, aligned(1)));

/* lines of 128 bytes; vectors of four words, which no machine splits inside a word */
COPY_PLAIN void copy_lines(uint8_t *to, const uint8_t *from, size_t lines) {
    for (; lines; lines--, to += COPY_LINE, from += COPY_LINE) {
        const volatile vec *f = (const volatile vec *)from;
        vec a = f[0], b = f[1], c = f[2], d = f[3];
        vec *t = (vec *)to;
        t[0] = a, t[1] = b, t[2] = c, t[3] = d;
    }
}

#ifdef __AVX__
COPY_PLAIN void stream_lines(uint8_t *to, const uint8_t *from, size_t lines) {
    for (; lines; lines--, to += COPY_LINE, from += COPY_LINE) {
        const volatile vec *f = (const volatile vec *)from;
        vec a = f[0], b = f[1], c = f[2], d = f[3];
        _mm256_stream_si256((__m256i *)to, (__m256i)a);
        _mm256_stream_si256((__m256i *)to + 1, (__m256i)b);
        _mm256_stream_si256((__m256i *)to + 2, (__m256i)c);
        _mm256_stream_si256((__m256i *)to + 3, (__m256i)d);
    }
    _mm_sfence();
}
#endif

__attribute__((no_sanitize("thread"))) void bus_copy(void *to, const void *from, size_t len) {
    uint8_t *t = to;
    const uint8_t *f = from;
    size_t head = -(uintptr_t)f & 7;
    if (head > len) head = len;
    copy_bytes(t, f, head);
    t += head, f += head, len -= head;
#ifdef __AVX__
    if (len >= COPY_STREAM && ((uintptr_t)t & 7) == 0) {
        size_t words = (-(uintptr_t)t & 31) / 8, lines;
        copy_words(t, f, words);
        t += words * 8, f += words * 8, len -= words * 8;
        lines = len / COPY_LINE;
        stream_lines(t, f, lines);
        t += lines * COPY_LINE, f += lines * COPY_LINE, len -= lines * COPY_LINE;
    }
#endif
    size_t lines = len / COPY_LINE, words;
    copy_lines(t, f, lines);
    t += lines * COPY_LINE, f += lines * COPY_LINE, len -= lines * COPY_LINE;
    words = len / 8;
    copy_words(t, f, words);
    copy_bytes(t + words * 8, f + words * 8, len - words * 8);
}

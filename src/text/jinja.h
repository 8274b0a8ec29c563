/* SPDX-License-Identifier: Apache-2.0 */
/* The machine under the Jinja interpreter: where an error goes, where memory comes from, and what a
 * template may spend.
 *
 * Everything a template or a rendering allocates lives in one arena, so nothing between an error
 * and the entry point holds a resource. An error therefore writes its sentence and unwinds to
 * jj_guard by longjmp, the one place where the interpreter becomes an ordinary function with a
 * status again (chat.c has the only two calls). */
#ifndef SUPERNODE_TEXT_JINJA_H
#define SUPERNODE_TEXT_JINJA_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum {
    JJ_SOURCE_MAX = 4 << 20,         /* bytes of a template */
    JJ_STR_MAX = 16 << 20,           /* bytes of one string, and of the output */
    JJ_ARENA_MAX = 256 << 20,        /* bytes taken by one rendering */
    JJ_STEPS_MAX = 20 * 1000 * 1000, /* nodes evaluated, and bytes touched by 64 */
    JJ_DEPTH_MAX = 1000,             /* nested evaluations, values and macro calls */
    JJ_PARSE_DEPTH_MAX = 150,        /* nested blocks and parentheses */
    JJ_RANGE_MAX = 100000,           /* as in Jinja's sandbox */
};

struct jj {
    struct arena arena;
    struct err *err;
    const char *name; /* of the template, for errors */
    uint32_t line;    /* of the node at work */
    uint32_t depth;
    bool appends; /* strings made here may be appended to in place: a rendering's, never a
                     template's */
    uint64_t steps, steps_max;
    int64_t now_s; /* what strftime_now sees */
    jmp_buf out;
};

/* Runs fn(j, arg); an error inside ends it and becomes the status. j->err has the sentence. */
enum st ST_CHECKED jj_guard(struct jj *j, void (*fn)(struct jj *j, void *arg), void *arg);

/* "name: line N: ..." (no line while it is 0) and away to jj_guard. */
_Noreturn void jj_fail(struct jj *j, enum st code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

void *jj_alloc(struct jj *j, size_t len); /* never NULL */
void *jj_grow(struct jj *j, void *p, size_t old_len, size_t new_len);

/* Spends steps; 1 for a node, bytes / 64 for work on long strings. */
void jj_spend(struct jj *j, uint64_t steps);
static inline void jj_spend_bytes(struct jj *j, uint64_t bytes) {
    if (bytes >= 64) jj_spend(j, bytes / 64);
}

/* Around every recursion. An error need not leave: the machine is not used again. */
void jj_enter(struct jj *j);
static inline void jj_leave(struct jj *j) {
    j->depth--;
}

#endif

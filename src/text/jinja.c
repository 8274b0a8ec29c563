/* SPDX-License-Identifier: Apache-2.0 */
/* Implements jinja.h. */
#include "text/jinja.h"

#include <stdarg.h>
#include <stdio.h>

enum st jj_guard(struct jj *j, void (*fn)(struct jj *j, void *arg), void *arg) {
    if (setjmp(j->out)) return j->err->code;
    fn(j, arg);
    return ST_OK;
}

void jj_fail(struct jj *j, enum st code, const char *fmt, ...) {
    char text[sizeof j->err->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (j->line)
        err_set(j->err, code, "%s: line %u: %s", j->name, j->line, text);
    else
        err_set(j->err, code, "%s: %s", j->name, text);
    longjmp(j->out, 1);
}

static _Noreturn void fail_full(struct jj *j) {
    jj_fail(j, ST_FULL, "the template needs more than %zu MiB of memory", j->arena.max >> 20);
}

void *jj_alloc(struct jj *j, size_t len) {
    void *p = arena_alloc(&j->arena, len);
    if (!p) fail_full(j);
    return p;
}

void *jj_grow(struct jj *j, void *p, size_t old_len, size_t new_len) {
    void *q = arena_grow(&j->arena, p, old_len, new_len);
    if (!q) fail_full(j);
    return q;
}

void jj_spend(struct jj *j, uint64_t steps) {
    if (steps > j->steps_max - j->steps)
        jj_fail(j, ST_FULL, "the template takes more than %llu steps",
                (unsigned long long)j->steps_max);
    j->steps += steps;
}

void jj_enter(struct jj *j) {
    if (j->depth >= JJ_DEPTH_MAX) jj_fail(j, ST_FULL, "nested more than %d deep", JJ_DEPTH_MAX);
    j->depth++;
}

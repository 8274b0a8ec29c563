/* SPDX-License-Identifier: Apache-2.0 */
/* Implements pattern.h on PCRE2 with its just-in-time compiler. Steps, depth and memory of a match
 * are bounded, since a checkpoint's expressions are a stranger's program. */
#include "text/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/onig.h"
#include "text/utf8.h"

enum {
    SOURCE_BYTES_MAX = 1 << 16,
    STEPS_FREE = 200000, /* a search from one place may take so many, */
    STEPS_A_BYTE = 32,   /* and so many for each byte of the text */
    HEAP_KIB_MAX = 256 << 10,
    JIT_STACK_FIRST = 64 << 10,
    JIT_STACK_MAX = 64 << 20,
};

struct pattern {
    pcre2_code *code;
    bool jit;
    char *name;
};

struct pattern_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* only once the machine stack's 32 KiB were too few */
};

static enum st compile(struct pattern *p, const struct buf *source, struct err *err) {
    int code;
    PCRE2_SIZE at;
    p->code = pcre2_compile((PCRE2_SPTR)source->data, source->len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    if (!p->code) {
        char text[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return err_set(err, ST_UNSUPPORTED, "%s: the expression does not compile: %s", p->name,
                       text);
    }
    /* Without a just-in-time compiler it is slower, and else the same. */
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    return ST_OK;
}

enum st pattern_new(struct pattern **out, enum pattern_kind kind, const char *source, size_t len,
                    const char *name, struct err *err) {
    if (len == 0 || len > SOURCE_BYTES_MAX)
        return err_set(err, ST_UNSUPPORTED,
                       "%s: found an expression of %zu bytes, expected 1 to %d", name, len,
                       SOURCE_BYTES_MAX);
    struct pattern *p = calloc(1, sizeof *p);
    if (p) p->name = strdup(name);
    if (!p || !p->name) {
        pattern_free(p);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    struct buf translated = {.max = 16 * SOURCE_BYTES_MAX};
    enum st st;
    if (kind == PATTERN_EXPRESSION) {
        st = onig_translate(&translated, source, len, name, err);
    } else {
        st = onig_quote(&translated, source, len);
        if (st) err_set(err, st, "%s: out of memory", name);
    }
    if (!st) st = compile(p, &translated, err);
    buf_release(&translated);
    if (st) {
        pattern_free(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void pattern_free(struct pattern *p) {
    if (!p) return;
    pcre2_code_free(p->code);
    free(p->name);
    free(p);
}

enum st pattern_scratch_new(struct pattern_scratch **out, struct err *err) {
    struct pattern_scratch *s = calloc(1, sizeof *s);
    if (s) s->match = pcre2_match_data_create(1, NULL);
    if (s) s->context = pcre2_match_context_create(NULL);
    if (!s || !s->match || !s->context) {
        pattern_scratch_free(s);
        return err_set(err, ST_NO_MEMORY, "tokenizer: out of memory");
    }
    pcre2_set_heap_limit(s->context, HEAP_KIB_MAX);
    *out = s;
    return ST_OK;
}

void pattern_scratch_free(struct pattern_scratch *s) {
    if (!s) return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    free(s);
}

static int run(const struct pattern *p, struct pattern_scratch *s, const struct pattern_walk *w) {
    PCRE2_SPTR text = (PCRE2_SPTR)w->text;
    size_t steps = STEPS_FREE + w->len * STEPS_A_BYTE;
    pcre2_set_match_limit(s->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    if (!p->jit)
        return pcre2_match(p->code, text, w->len, w->from, PCRE2_NO_UTF_CHECK, s->match,
                           s->context);
    int rc = pcre2_jit_match(p->code, text, w->len, w->from, 0, s->match, s->context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT || s->stack) return rc;
    s->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MAX, NULL);
    if (!s->stack) return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return pcre2_jit_match(p->code, text, w->len, w->from, 0, s->match, s->context);
}

enum st pattern_next(bool *found, size_t *start, size_t *end, struct pattern_walk *w,
                     const struct pattern *p, struct pattern_scratch *s, struct err *err) {
    *found = false;
    while (w->from <= w->len) {
        int rc = run(p, s, w);
        if (rc == PCRE2_ERROR_NOMATCH) return ST_OK;
        if (rc < 0) {
            char text[160];
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)text, sizeof text);
            return err_set(err, rc == PCRE2_ERROR_NOMEMORY ? ST_NO_MEMORY : ST_FULL,
                           "%s: the expression gave up on a text of %zu bytes: %s", p->name, w->len,
                           text);
        }
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match);
        /* An empty match right after the last match is none: go on one character later. */
        if (at[0] == at[1] && w->any && w->last_end == at[1]) {
            uint32_t cp;
            w->from += w->from < w->len ? utf8_next(&cp, w->text + w->from, w->len - w->from) : 1;
            continue;
        }
        *found = w->any = true;
        *start = at[0];
        *end = w->from = w->last_end = at[1];
        return ST_OK;
    }
    return ST_OK;
}

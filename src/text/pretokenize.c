/* SPDX-License-Identifier: Apache-2.0 */
/* Implements pretokenize.h. Every known step is an expression and what becomes of its matches;
 * ByteLevel is the expression of GPT-2, or none, and must come last, since after it `tokenizers`
 * would match bytes that look like characters. The rules for matches are those of
 * NormalizedString::split in the `tokenizers` crate. */
#include "text/pretokenize.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/unicode.h"

enum { STEPS_MAX = 32, DEPTH_MAX = 8 };

enum behavior { ISOLATED, REMOVED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };
static const char *const behavior_names[] = {"Isolated", "Removed", "Contiguous",
                                             "MergedWithPrevious", "MergedWithNext"};

struct step {
    struct pattern *pattern; /* NULL: no cut */
    enum behavior behavior;
    bool invert;
    bool add_space; /* before each piece that does not begin with one; only of ByteLevel, before its
                       cut */
};

struct pretokenizer {
    struct step steps[STEPS_MAX];
    uint32_t len;
    bool ended; /* by a ByteLevel */
};

/* --- reading the file ------------------------------------------------------------------------- */

static const char gpt2_expression[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/* \w of the regex crate, which is Oniguruma's without its Latin-1 numbers and with the join
 * controls. */
#define REGEX_WORD "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}" UNICODE_ALPHABETIC_SYMBOLS
static const char whitespace_expression[] = "[" REGEX_WORD "]+|[^" REGEX_WORD "\\s]+";
/* Punctuation by tables of Unicode 8, as the unicode_categories crate has them, and the symbols of
 * ASCII. */
static const char punctuation_expression[] =
    "[!-\\/:-@\\[-`{-~\\x{166d}\\x{111c9}]|[\\p{P}&&[^"
    "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b4e}-\\x{1b4f}\\x{1b7d}-\\x{1b7f}"
    "\\x{2e43}-\\x{2e4f}\\x{2e52}-\\x{2e5d}\\x{10d6e}\\x{10ead}\\x{10f55}-\\x{10f59}"
    "\\x{10f86}-\\x{10f89}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}\\x{1144b}-\\x{1144f}"
    "\\x{1145a}-\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}\\x{116b9}\\x{1183b}"
    "\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11a9c}"
    "\\x{11a9e}-\\x{11aa2}\\x{11b00}-\\x{11b09}\\x{11be1}\\x{11c41}-\\x{11c45}"
    "\\x{11c70}-\\x{11c71}\\x{11ef7}-\\x{11ef8}\\x{11f43}-\\x{11f4f}\\x{11fff}"
    "\\x{12ff1}-\\x{12ff2}\\x{16d6d}-\\x{16d6f}\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e5ff}"
    "\\x{1e95e}-\\x{1e95f}"
    "]]";
/* Rust's char::is_numeric, which knows Unicode 17. */
static const char digits_expression[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]";

static enum st add_pattern(struct step *s, enum pattern_kind kind, const char *source, size_t len,
                           const char *place, struct err *err) {
    return pattern_new(&s->pattern, kind, source, len, place, err);
}

static enum st read_behavior(struct step *s, const json_t *json, enum behavior fallback,
                             const char *place, struct err *err) {
    const char *text;
    enum st st = json_get_str(&text, json, "behavior", behavior_names[fallback], place, err);
    if (st) return st;
    for (uint32_t i = 0; i < sizeof behavior_names / sizeof *behavior_names; i++) {
        if (strcmp(text, behavior_names[i]) != 0) continue;
        s->behavior = (enum behavior)i;
        return ST_OK;
    }
    return err_set(err, ST_INVALID,
                   "%s: behavior: found '%.40s', expected Isolated, Removed, Contiguous, "
                   "MergedWithPrevious or "
                   "MergedWithNext",
                   place, text);
}

static enum st read_split(struct step *s, const json_t *json, const char *place, struct err *err) {
    const json_t *regex = json_at(json, "pattern.Regex"),
                 *literal = json_at(json, "pattern.String");
    const json_t *pattern = regex ? regex : literal;
    if (!json_is_string(pattern))
        return err_set(
            err, ST_INVALID,
            "%s: pattern: found %s, expected {\"Regex\": ...} or {\"String\": ...} with a string",
            place, json_kind(json_at(json, "pattern")));
    enum st st = read_behavior(s, json, ISOLATED, place, err);
    if (!st) st = json_get_bool(&s->invert, json, "invert", false, place, err);
    if (!st)
        st = add_pattern(s, regex ? PATTERN_EXPRESSION : PATTERN_LITERAL,
                         json_string_value(pattern), json_string_length(pattern), place, err);
    return st;
}

static enum st read_byte_level(struct step *s, const json_t *json, const char *place,
                               struct err *err) {
    bool cut;
    enum st st = json_get_bool(&s->add_space, json, "add_prefix_space", true, place, err);
    if (!st) st = json_get_bool(&cut, json, "use_regex", true, place, err);
    if (!st && cut)
        st = add_pattern(s, PATTERN_EXPRESSION, gpt2_expression, strlen(gpt2_expression), place,
                         err);
    return st;
}

static enum st read_digits(struct step *s, const json_t *json, const char *place, struct err *err) {
    bool individual;
    enum st st = json_get_bool(&individual, json, "individual_digits", false, place, err);
    s->behavior = individual ? ISOLATED : CONTIGUOUS;
    return st ? st
              : add_pattern(s, PATTERN_EXPRESSION, digits_expression, strlen(digits_expression),
                            place, err);
}

static enum st read_punctuation(struct step *s, const json_t *json, const char *place,
                                struct err *err) {
    enum st st = read_behavior(s, json, ISOLATED, place, err);
    return st ? st
              : add_pattern(s, PATTERN_EXPRESSION, punctuation_expression,
                            strlen(punctuation_expression), place, err);
}

static enum st read_whitespace(struct step *s, const json_t *json, const char *place,
                               struct err *err) {
    (void)json;
    s->behavior = REMOVED;
    s->invert = true;
    return add_pattern(s, PATTERN_EXPRESSION, whitespace_expression, strlen(whitespace_expression),
                       place, err);
}

static enum st read_whitespace_split(struct step *s, const json_t *json, const char *place,
                                     struct err *err) {
    (void)json;
    s->behavior = REMOVED;
    return add_pattern(s, PATTERN_EXPRESSION, "\\s", 2, place, err);
}

static const struct {
    const char *type;
    enum st (*read)(struct step *s, const json_t *json, const char *place, struct err *err);
} readers[] = {
    {"Split", read_split},           {"ByteLevel", read_byte_level},
    {"Digits", read_digits},         {"Punctuation", read_punctuation},
    {"Whitespace", read_whitespace}, {"WhitespaceSplit", read_whitespace_split},
};

static enum st read_step(struct pretokenizer *p, const json_t *json, const char *place,
                         struct err *err) {
    const char *type;
    enum st st = json_get_str(&type, json, "type", "nothing", place, err);
    if (st) return st;
    if (p->ended)
        return err_set(err, ST_UNSUPPORTED,
                       "%s: found %.40s after ByteLevel, expected ByteLevel to be the last", place,
                       type);
    if (p->len == STEPS_MAX)
        return err_set(err, ST_UNSUPPORTED, "%s: found more than %d pre-tokenisers", place,
                       STEPS_MAX);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        if (strcmp(type, readers[i].type) != 0) continue;
        p->ended = readers[i].read == read_byte_level;
        return readers[i].read(&p->steps[p->len++], json, place, err);
    }
    return err_set(err, ST_UNSUPPORTED,
                   "%s: type: found '%.40s', expected Sequence, Split, ByteLevel, Digits, "
                   "Punctuation, Whitespace or "
                   "WhitespaceSplit",
                   place, type);
}

/* A step, or a sequence of such. */
static enum st read_node(struct pretokenizer *p, const json_t *json, const char *place,
                         uint32_t depth, struct err *err) {
    const json_t *type = json_at(json, "type");
    if (!json_is_string(type) || strcmp(json_string_value(type), "Sequence") != 0)
        return read_step(p, json, place, err);
    const json_t *list = json_at(json, "pretokenizers");
    if (!json_is_array(list) || depth == DEPTH_MAX)
        return err_set(err, ST_INVALID,
                       "%s: pretokenizers: found %s, expected an array, nested at most %d deep",
                       place, json_kind(list), DEPTH_MAX);
    enum st st = ST_OK;
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        char below[512];
        snprintf(below, sizeof below, "%s.pretokenizers[%zu]", place, i);
        st = read_node(p, json_array_get(list, i), below, depth + 1, err);
    }
    return st;
}

enum st pretokenizer_new(struct pretokenizer **out, const json_t *json, const char *name,
                         struct err *err) {
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (!p) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    char place[512];
    snprintf(place, sizeof place, "%s: pre_tokenizer", name);
    enum st st = json_is_object(json) ? read_node(p, json, place, 0, err)
                                      : err_set(err, ST_UNSUPPORTED,
                                                "%s: found %s, expected a byte-level pre-tokeniser",
                                                place, json_kind(json));
    if (!st && !p->ended)
        st = err_set(err, ST_UNSUPPORTED,
                     "%s: pre_tokenizer: found none of type ByteLevel, expected byte-level BPE",
                     name);
    if (st) {
        pretokenizer_free(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void pretokenizer_free(struct pretokenizer *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->len; i++) pattern_free(p->steps[i].pattern);
    free(p);
}

/* --- cutting ---------------------------------------------------------------------------------- */

void pieces_release(struct pieces *p) {
    free(p->v);
    *p = (struct pieces){0};
}

static enum st push(struct pieces *p, size_t start, size_t end, struct err *err) {
    if (start == end) return ST_OK;
    if (p->len == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        struct piece *v = realloc(p->v, cap * sizeof *v);
        if (!v) return err_set(err, ST_NO_MEMORY, "tokenizer: out of memory");
        p->v = v;
        p->cap = cap;
    }
    p->v[p->len++] = (struct piece){(uint32_t)start, (uint32_t)(end - start)};
    return ST_OK;
}

/* What is known of the piece that is being put together. */
struct cutter {
    struct pieces *out;
    enum behavior behavior;
    size_t start, end; /* of the part that is held back, since the next may join it */
    bool held, held_match;
    struct err *err;
};

static enum st let_go(struct cutter *c) {
    bool held = c->held;
    c->held = false;
    return held ? push(c->out, c->start, c->end, c->err) : ST_OK;
}

/* The next part of the text, a match or what lies between two. */
static enum st take(struct cutter *c, size_t start, size_t end, bool match) {
    bool join = false;
    switch (c->behavior) {
    case REMOVED: return match ? ST_OK : push(c->out, start, end, c->err);
    case ISOLATED: return push(c->out, start, end, c->err);
    case CONTIGUOUS: join = c->held && match == c->held_match; break;
    case MERGED_WITH_PREVIOUS: join = c->held && match && !c->held_match; break;
    case MERGED_WITH_NEXT: join = c->held && !match && c->held_match; break;
    }
    c->held_match = match;
    if (join) {
        c->end = end;
        return ST_OK;
    }
    enum st st = let_go(c);
    c->held = true;
    c->start = start;
    c->end = end;
    return st;
}

static enum st cut_piece(struct pieces *out, const struct step *s, const char *text,
                         struct piece piece, struct pattern_scratch *scratch, struct err *err) {
    struct cutter c = {.out = out, .behavior = s->behavior, .err = err};
    struct pattern_walk w = {.text = text + piece.start, .len = piece.len};
    size_t done = 0, start, end;
    bool found;
    enum st st;
    while (!(st = pattern_next(&found, &start, &end, &w, s->pattern, scratch, err)) && found) {
        if (done != start) st = take(&c, piece.start + done, piece.start + start, s->invert);
        if (!st) st = take(&c, piece.start + start, piece.start + end, !s->invert);
        if (st) return st;
        done = end;
    }
    if (!st && done != piece.len)
        st = take(&c, piece.start + done, piece.start + piece.len, s->invert);
    return st ? st : let_go(&c);
}

/* Rebuilds text from its pieces, with a space before each that begins with none. */
static enum st add_spaces(struct working *text, struct pieces *pieces, struct err *err) {
    struct working spaced = {.owner = WORKING_OWNS, .max = text->max, .allow = text->allow};
    enum st st = ST_OK;
    for (size_t i = 0; i < pieces->len && !st; i++) {
        struct piece *p = &pieces->v[i];
        size_t start = spaced.len;
        if (text->data[p->start] != ' ')
            st = working_append(&spaced, " ", 1, working_from(text, p->start));
        struct working part = working_part(text, p->start, p->len);
        if (!st) st = working_append_part(&spaced, &part);
        *p = (struct piece){(uint32_t)start, (uint32_t)(spaced.len - start)};
    }
    working_release(text);
    *text = spaced;
    return st ? err_set(err, st, "tokenizer: out of memory") : ST_OK;
}

enum st pretokenize(struct pieces *out, const struct pretokenizer *p, struct working *text,
                    uint32_t start, uint32_t len, struct pattern_scratch *scratch,
                    struct err *err) {
    struct pieces next = {0};
    out->len = 0;
    enum st st = push(out, start, start + len, err);
    for (uint32_t i = 0; i < p->len && !st; i++) {
        const struct step *s = &p->steps[i];
        if (s->add_space) st = add_spaces(text, out, err);
        if (!s->pattern || st) continue;
        next.len = 0;
        for (size_t j = 0; j < out->len && !st; j++)
            st = cut_piece(&next, s, text->data, out->v[j], scratch, err);
        struct pieces swap = *out;
        *out = next;
        next = swap;
    }
    pieces_release(&next);
    return st;
}

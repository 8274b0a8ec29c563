/* SPDX-License-Identifier: Apache-2.0 */
/* Implements onig.h: a recursive descent over the expression that writes one PCRE2 atom for each
 * atom. Literals come out as letters, digits or \x{..}, so nothing in them can be read as syntax. A
 * property is written with the characters that came after PCRE2's Unicode version added. What was
 * looked up: Oniguruma's doc/RE and regparse.c, and tries with `tokenizers`. */
#include "text/onig.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "text/unicode.h"
#include "text/utf8.h"

enum { DEPTH_MAX = 32, REPEAT_MAX = 1000, TRANSLATION_MAX = 1 << 20 };

struct onig {
    const char *source;
    size_t len, pos;
    uint32_t depth;
    bool caseless;     /* inside (?i: ) */
    uint32_t previous; /* the literal before, for the pairs that fold together */
    const char *name;
    struct err *err;
};

static enum st parse_alternatives(struct onig *o, struct buf *out, bool *several);
static enum st parse_class(struct onig *o, struct buf *out);

static enum st refuse(struct onig *o, size_t at, const char *what) {
    return err_set(o->err, ST_UNSUPPORTED,
                   "%s: at byte %zu of the expression: found %s, which is not supported", o->name,
                   at, what);
}

static enum st overflow(struct onig *o, enum st st) {
    return err_set(o->err, st, "%s: the expression is too long", o->name);
}

static enum st put(struct onig *o, struct buf *out, const char *text) {
    enum st st = buf_append_str(out, text);
    return st ? overflow(o, st) : ST_OK;
}

static enum st insert(struct onig *o, struct buf *out, size_t at, const char *text) {
    enum st st = put(o, out, text);
    if (st) return st;
    size_t n = strlen(text);
    memmove(out->data + at + n, out->data + at, out->len - n - at);
    memcpy(out->data + at, text, n);
    return ST_OK;
}

static bool is_digit(uint32_t c) {
    return c - '0' < 10;
}
static bool is_alnum(uint32_t c) {
    return is_digit(c) || (c | 32) - 'a' < 26;
}

static enum st put_literal(struct buf *out, uint32_t cp) {
    return is_alnum(cp) ? buf_printf(out, "%c", (char)cp) : buf_printf(out, "\\x{%x}", cp);
}

enum st onig_quote(struct buf *out, const char *text, size_t len) {
    enum st st = ST_OK;
    for (size_t i = 0; i < len && !st;) {
        uint32_t cp;
        i += utf8_next(&cp, text + i, len - i);
        st = put_literal(out, cp);
    }
    return st;
}

static bool at_end(const struct onig *o) {
    return o->pos == o->len;
}
static char peek(const struct onig *o, size_t ahead) {
    return o->pos + ahead < o->len ? o->source[o->pos + ahead] : '\0';
}
static bool accept(struct onig *o, const char *text) {
    size_t n = strlen(text);
    if (n > o->len - o->pos || memcmp(o->source + o->pos, text, n) != 0) return false;
    o->pos += n;
    return true;
}

/* --- sets: what stands inside brackets -------------------------------------------------------- */

/* clang-format off */
static const struct {
    const char *name, *property;
} property_names[] = {
    {"letter", "L"}, {"mark", "M"}, {"combiningmark", "M"}, {"number", "N"}, {"punctuation", "P"},
    {"punct", "P"}, {"symbol", "S"}, {"separator", "Z"}, {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"}, {"titlecaseletter", "Lt"}, {"modifierletter", "Lm"},
    {"otherletter", "Lo"}, {"decimalnumber", "Nd"}, {"letternumber", "Nl"}, {"othernumber", "No"},
    {"l", "L"}, {"lu", "Lu"}, {"ll", "Ll"}, {"lt", "Lt"}, {"lm", "Lm"}, {"lo", "Lo"}, {"m", "M"},
    {"mn", "Mn"}, {"mc", "Mc"}, {"me", "Me"}, {"n", "N"}, {"nd", "Nd"}, {"nl", "Nl"},
    {"no", "No"}, {"p", "P"}, {"pc", "Pc"}, {"pd", "Pd"}, {"ps", "Ps"}, {"pe", "Pe"},
    {"pi", "Pi"}, {"pf", "Pf"}, {"po", "Po"}, {"s", "S"}, {"sm", "Sm"}, {"sc", "Sc"},
    {"sk", "Sk"}, {"so", "So"}, {"z", "Z"}, {"zs", "Zs"}, {"zl", "Zl"}, {"zp", "Zp"},
    {"cc", "Cc"}, {"cf", "Cf"}, {"co", "Co"}, {"han", "Han"}, {"hiragana", "Hiragana"},
    {"katakana", "Katakana"}, {"hangul", "Hangul"}, {"latin", "Latin"}, {"cyrillic", "Cyrillic"},
    {"greek", "Greek"}, {"arabic", "Arabic"}, {"hebrew", "Hebrew"}, {"thai", "Thai"},
    {"devanagari", "Devanagari"},
};
/* clang-format on */

static enum st put_property(struct onig *o, struct buf *set, const char *property) {
    /* sc: since PCRE2 reads a bare script name as Script_Extensions, and Oniguruma as Script. */
    enum st st = buf_printf(set, "\\p{%s%s}", strlen(property) > 2 ? "sc:" : "", property);
    if (!st) st = unicode_append_later(set, property);
    return st ? overflow(o, st) : ST_OK;
}

/* After \p or \P: {name} or {^name}. */
static enum st parse_property(struct onig *o, struct buf *set, bool *negated) {
    size_t at = o->pos - 2;
    if (!accept(o, "{")) return refuse(o, at, "a property without braces");
    if (accept(o, "^")) *negated = !*negated;
    char name[32];
    size_t n = 0;
    while (!at_end(o) && peek(o, 0) != '}' && n + 1 < sizeof name) {
        char c = o->source[o->pos++];
        if (c == ' ' || c == '_' || c == '-') continue;
        name[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    name[n] = '\0';
    if (accept(o, "}"))
        for (size_t i = 0; i < sizeof property_names / sizeof *property_names; i++)
            if (strcmp(name, property_names[i].name) == 0)
                return put_property(o, set, property_names[i].property);
    char what[64];
    snprintf(what, sizeof what, "the property {%s}", name);
    return refuse(o, at, what);
}

enum place { ALONE, IN_CLASS };

static enum st put_word(struct onig *o, struct buf *set, enum place place) {
    static const char *const parts[] = {"L", "M", "Nd", "Nl", "Pc"};
    enum st st = put(o, set, UNICODE_ALPHABETIC_SYMBOLS);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !st; i++)
        st = put_property(o, set, parts[i]);
    /* Oniguruma counts these superscripts and fractions of Latin-1 as word characters, no others,
     * and not in a class. */
    return st || place == IN_CLASS ? st : put(o, set, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
}

/* \s, \D, \p{..}, ...: the set of the escape whose letter is c (already read). *known tells whether
 * it is such an escape. */
static enum st parse_set_escape(struct onig *o, char c, enum place place, struct buf *set,
                                bool *negated, bool *known) {
    *known = true;
    *negated = c == 'D' || c == 'W' || c == 'H' || c == 'P';
    switch (c) {
    case 's': return put(o, set, UNICODE_SPACE);
    case 'S': return put(o, set, UNICODE_NOT_SPACE);
    case 'd':
    case 'D': return put_property(o, set, "Nd");
    case 'w':
    case 'W': return put_word(o, set, place);
    case 'h':
    case 'H': return put(o, set, "0-9A-Fa-f");
    case 'p':
    case 'P': return parse_property(o, set, negated);
    default: *known = false; return ST_OK;
    }
}

static enum st parse_hex(struct onig *o, uint32_t digits_max, uint32_t *cp) {
    size_t at = o->pos;
    uint32_t v = 0, n = 0;
    for (; n < digits_max && !at_end(o); n++) {
        uint32_t c = (uint8_t)peek(o, 0), low = c | 32;
        if (is_digit(c))
            v = v * 16 + (c - '0');
        else if (low - 'a' < 6)
            v = v * 16 + (low - 'a' + 10);
        else
            break;
        o->pos++;
    }
    if (n == 0 || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return refuse(o, at, "this code point");
    *cp = v;
    return ST_OK;
}

/* The one character that the escape with letter c (already read) stands for. */
static enum st parse_char_escape(struct onig *o, char c, enum place place, uint32_t *cp) {
    size_t at = o->pos - 1;
    switch (c) {
    case 'n': *cp = '\n'; return ST_OK;
    case 'r': *cp = '\r'; return ST_OK;
    case 't': *cp = '\t'; return ST_OK;
    case 'f': *cp = '\f'; return ST_OK;
    case 'v': *cp = '\v'; return ST_OK;
    case 'a': *cp = '\a'; return ST_OK;
    case 'e': *cp = 0x1B; return ST_OK;
    case 'u': return parse_hex(o, 4, cp);
    case 'x': {
        bool braces = accept(o, "{");
        enum st st = parse_hex(o, braces ? 8 : 2, cp);
        if (st) return st;
        if (braces ? !accept(o, "}") : *cp > 0x7F) return refuse(o, at, "a code in this form");
        return ST_OK;
    }
    default: break;
    }
    if (c == 'b' && place == IN_CLASS) {
        *cp = '\b';
        return ST_OK;
    }
    if (is_alnum((uint8_t)c)) {
        char what[16];
        snprintf(what, sizeof what, "\\%c", c);
        return refuse(o, at - 1, what);
    }
    o->pos = at;
    o->pos += utf8_next(cp, o->source + at, o->len - at);
    return ST_OK;
}

/* One member of a class. *is_char: a single character, in *cp; else a set was written, to set, or
 * negated ones to others. */
static enum st parse_member(struct onig *o, struct buf *set, struct buf *others, bool *is_char,
                            uint32_t *cp) {
    *is_char = true;
    if (!accept(o, "\\")) {
        o->pos += utf8_next(cp, o->source + o->pos, o->len - o->pos);
        return ST_OK;
    }
    if (at_end(o)) return refuse(o, o->pos, "a \\ at the end");
    char c = o->source[o->pos++];
    struct buf one = {.max = TRANSLATION_MAX};
    bool negated, known;
    enum st st = parse_set_escape(o, c, IN_CLASS, &one, &negated, &known);
    if (!st && known) {
        *is_char = false;
        st = put(o, negated ? others : set, negated ? "|[^" : "");
        if (!st) st = put(o, negated ? others : set, one.data);
        if (!st && negated) st = put(o, others, "]");
    }
    buf_release(&one);
    return st || known ? st : parse_char_escape(o, c, IN_CLASS, cp);
}

/* A member and, if "-" follows, the range it begins. */
static enum st parse_range(struct onig *o, struct buf *set, struct buf *others, bool first) {
    size_t at = o->pos;
    bool is_char, end_is_char = true;
    uint32_t lo, hi;
    if (peek(o, 0) == '-' && !first && peek(o, 1) != ']')
        return refuse(o, at, "a - that is no range");
    enum st st = parse_member(o, set, others, &is_char, &lo);
    if (st || !is_char) return o->caseless && !st ? refuse(o, at, "a set under (?i:") : st;
    hi = lo;
    if (peek(o, 0) == '-' && peek(o, 1) != ']' && peek(o, 1) != '\0') {
        o->pos++;
        if (peek(o, 0) == '[' || (peek(o, 0) == '&' && peek(o, 1) == '&'))
            return refuse(o, o->pos, "this end of a range");
        st = parse_member(o, set, others, &end_is_char, &hi);
        if (st) return st;
        if (!end_is_char || hi < lo) return refuse(o, at, "a range that is empty or ends in a set");
    }
    if (o->caseless && hi > 0x7F) return refuse(o, at, "a character that is not ASCII under (?i:");
    st = put_literal(set, lo);
    if (!st && hi > lo) st = put(o, set, "-");
    if (!st && hi > lo) st = put_literal(set, hi);
    return st ? overflow(o, st) : ST_OK;
}

/* One operand of &&: members up to && or ]. Written as one atom; *simple if that is [members]. */
static enum st parse_operand(struct onig *o, struct buf *out, bool first, bool *simple) {
    struct buf set = {.max = TRANSLATION_MAX}, others = {.max = TRANSLATION_MAX};
    enum st st = ST_OK;
    while (!st && !at_end(o) && peek(o, 0) != ']' && !(peek(o, 0) == '&' && peek(o, 1) == '&')) {
        if (accept(o, "[")) {
            st = put(o, &others, "|");
            if (!st) st = parse_class(o, &others);
        } else {
            st = parse_range(o, &set, &others, first);
        }
        first = false;
    }
    *simple = others.len == 0;
    if (!st && set.len + others.len == 0) st = refuse(o, o->pos, "an empty character class");
    if (!st && *simple) st = buf_printf(out, "[%s]", set.data) ? overflow(o, ST_FULL) : ST_OK;
    if (!st && !*simple && set.len)
        st = buf_printf(out, "(?:[%s]%s)", set.data, others.data) ? overflow(o, ST_FULL) : ST_OK;
    if (!st && !set.len)
        st = buf_printf(out, "(?:%s)", others.data + 1) ? overflow(o, ST_FULL) : ST_OK;
    buf_release(&set);
    buf_release(&others);
    return st;
}

/* After [: the rest of a class, written as one atom of one character. */
static enum st parse_class(struct onig *o, struct buf *out) {
    size_t start = out->len, at = o->pos - 1;
    if (peek(o, 0) == ':') return refuse(o, at, "a POSIX bracket");
    if (o->depth == DEPTH_MAX) return refuse(o, at, "deeper nesting than 32");
    o->depth++;
    bool negated = accept(o, "^"), simple, several = false;
    if (peek(o, 0) == ']') return refuse(o, o->pos, "a ] without \\");
    enum st st;
    for (;;) {
        size_t operand = out->len;
        st = parse_operand(o, out, !several, &simple);
        if (st) return st;
        if (!accept(o, "&&")) break;
        several = true;
        st = insert(o, out, operand, "(?=");
        if (!st) st = put(o, out, ")");
        if (st) return st;
    }
    if (!accept(o, "]")) return refuse(o, at, "a character class without its end");
    o->depth--;
    if (negated && o->caseless) return refuse(o, at, "a negated class under (?i:");
    if (simple && !several) return negated ? insert(o, out, start + 1, "^") : ST_OK;
    st = insert(o, out, start, negated ? "(?:(?!" : "(?:");
    return st ? st : put(o, out, negated ? ")[\\x{0}-\\x{10ffff}])" : ")");
}

/* --- atoms, repeats, groups ------------------------------------------------------------------- */

static bool folds_together(uint32_t a, uint32_t b) {
    static const char pairs[][2] = {{'s', 's'}, {'f', 'f'}, {'f', 'i'}, {'f', 'l'}, {'s', 't'}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if ((a | 32) == (uint32_t)pairs[i][0] && (b | 32) == (uint32_t)pairs[i][1]) return true;
    return false;
}

static enum st put_char(struct onig *o, struct buf *out, size_t at, uint32_t cp) {
    if (o->caseless) {
        if (cp > 0x7F) return refuse(o, at, "a character that is not ASCII under (?i:");
        if (folds_together(o->previous, cp))
            return refuse(o, at, "a pair under (?i: that also matches a ligature");
        o->previous = cp;
    }
    enum st st = put_literal(out, cp);
    return st ? overflow(o, st) : ST_OK;
}

/* After \ outside a class. */
static enum st parse_escape(struct onig *o, struct buf *out, bool *one_char) {
    size_t at = o->pos - 1;
    if (at_end(o)) return refuse(o, at, "a \\ at the end");
    char c = o->source[o->pos++];
    struct buf set = {.max = TRANSLATION_MAX};
    bool negated, known;
    enum st st = parse_set_escape(o, c, ALONE, &set, &negated, &known);
    if (!st && known)
        st = o->caseless ? refuse(o, at, "a set under (?i:")
             : buf_printf(out, "[%s%s]", negated ? "^" : "", set.data) ? overflow(o, ST_FULL)
                                                                       : ST_OK;
    if (!st && !known && (c == 'b' || c == 'B')) {
        st = put_word(o, &set, ALONE);
        if (!st)
            st =
                buf_printf(out, "(?:(?<=[%s])(?%c[%s])|(?<![%s])(?%c[%s]))", set.data,
                           c == 'b' ? '!' : '=', set.data, set.data, c == 'b' ? '=' : '!', set.data)
                    ? overflow(o, ST_FULL)
                    : ST_OK;
        known = true;
        *one_char = false;
    }
    buf_release(&set);
    if (st || known) return st;
    if (c == 'A' || c == 'z' || c == 'Z') {
        *one_char = false;
        return put(o, out, c == 'A' ? "\\A" : c == 'z' ? "\\z" : "\\Z");
    }
    uint32_t cp;
    st = parse_char_escape(o, c, ALONE, &cp);
    return st ? st : put_char(o, out, at, cp);
}

/* After (: only groups that capture nothing, and the caseless one. */
static enum st parse_group(struct onig *o, struct buf *out) {
    static const char *const kinds[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"};
    size_t at = o->pos - 1;
    const char *kind = NULL;
    if (peek(o, 0) != '?') kind = "?:"; /* nothing can refer to what it captures */
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !kind; i++)
        if (accept(o, kinds[i])) kind = kinds[i];
    if (!kind) return refuse(o, at, "this kind of group");
    if (o->depth == DEPTH_MAX) return refuse(o, at, "deeper nesting than 32");
    bool outer = o->caseless, several;
    if (strcmp(kind, "?i:") == 0) o->caseless = true;
    o->depth++;
    enum st st = put(o, out, "(");
    if (!st) st = put(o, out, kind);
    if (!st) st = parse_alternatives(o, out, &several);
    if (st) return st;
    if (!accept(o, ")")) return refuse(o, at, "a group without its end");
    o->depth--;
    o->caseless = outer;
    return put(o, out, ")");
}

static bool parse_number(struct onig *o, uint32_t *n) {
    if (!is_digit((uint8_t)peek(o, 0))) return false;
    *n = 0;
    while (is_digit((uint8_t)peek(o, 0)) && *n <= REPEAT_MAX)
        *n = *n * 10 + (uint32_t)(o->source[o->pos++] - '0');
    return true;
}

/* {n}, {n,}, {n,m}, {,m}; anything else that begins with { is a literal, and nothing is read. */
static enum st parse_interval(struct onig *o, struct buf *out, size_t atom, bool *found) {
    size_t at = o->pos;
    uint32_t lo = 0, hi = UINT32_MAX;
    *found = false;
    if (!accept(o, "{")) return ST_OK;
    bool has_lo = parse_number(o, &lo), comma = accept(o, ",");
    bool has_hi = comma && parse_number(o, &hi);
    if (!accept(o, "}") || !(has_lo || has_hi)) {
        o->pos = at;
        return ST_OK;
    }
    if (!comma) hi = lo;
    if (lo > REPEAT_MAX || (hi > REPEAT_MAX && hi != UINT32_MAX) || hi < lo)
        return refuse(o, at, "this count of repeats");
    *found = true;
    enum st st =
        hi == UINT32_MAX ? buf_printf(out, "{%u,}", lo) : buf_printf(out, "{%u,%u}", lo, hi);
    if (st) return overflow(o, st);
    if (peek(o, 0) == '?' && !comma) return refuse(o, at, "{n}?");
    if (accept(o, "?")) return put(o, out, "?");
    if (!accept(o, "+")) return ST_OK;
    st = insert(o, out, atom, "(?:"); /* {n,m}+ repeats the repeat */
    return st ? st : put(o, out, ")+");
}

static enum st parse_repeat(struct onig *o, struct buf *out, size_t atom) {
    size_t at = o->pos;
    bool found = false;
    enum st st = ST_OK;
    char c = peek(o, 0);
    if (c == '?' || c == '*' || c == '+') {
        o->pos++;
        char sign[3] = {c, '\0', '\0'};
        if (peek(o, 0) == '?' || peek(o, 0) == '+') sign[1] = o->source[o->pos++];
        st = put(o, out, sign);
        found = true;
    } else if (c == '{') {
        st = parse_interval(o, out, atom, &found);
    }
    if (found) o->previous = 0;
    c = peek(o, 0);
    if (!st && found && (c == '?' || c == '*' || c == '+' || c == '{'))
        return refuse(o, at, "a repeat of a repeat");
    return st;
}

static enum st parse_atom(struct onig *o, struct buf *out, bool *one_char) {
    size_t at = o->pos;
    *one_char = true;
    if (accept(o, "[")) return parse_class(o, out);
    if (accept(o, "\\")) return parse_escape(o, out, one_char);
    if (accept(o, ".")) return put(o, out, "[^\\n]");
    char c = peek(o, 0);
    if (c == '?' || c == '*' || c == '+') return refuse(o, at, "a repeat of nothing");
    if (c == '(' || c == '^' || c == '$') {
        *one_char = false;
        o->pos++;
        if (c == '(') return parse_group(o, out);
        /* Both are about lines, and a newline at the very end begins none. */
        return put(o, out, c == '^' ? "(?:\\A|(?<=\\n)(?!\\z))" : "(?=\\n|\\z)");
    }
    uint32_t cp;
    o->pos += utf8_next(&cp, o->source + o->pos, o->len - o->pos);
    return put_char(o, out, at, cp);
}

/* Alternatives up to ) or the end. */
static enum st parse_alternatives(struct onig *o, struct buf *out, bool *several) {
    enum st st = ST_OK;
    *several = false;
    o->previous = 0;
    while (!st && !at_end(o) && peek(o, 0) != ')') {
        if (accept(o, "|")) {
            *several = true;
            o->previous = 0;
            st = put(o, out, "|");
            continue;
        }
        size_t atom = out->len;
        bool one_char;
        st = parse_atom(o, out, &one_char);
        if (!st) st = parse_repeat(o, out, atom);
    }
    return st;
}

/* X+Y with a single set X would be tried from every character of a long run of X, each time to its
 * end. If it fails from the first it fails from all, so it may begin only where no X stands before,
 * or where the search begins. */
static enum st guard_leading_run(struct onig *o, struct buf *out, size_t start) {
    if (out->data[start] != '[') return ST_OK;
    const char *end = strchr(out->data + start, ']');
    if (!end || end[1] != '+' || end[2] == '\0') return ST_OK;
    struct buf guard = {.max = TRANSLATION_MAX};
    enum st st = buf_printf(&guard, "(?:\\G|(?<!%.*s))", (int)(end + 1 - (out->data + start)),
                            out->data + start);
    st = st ? overflow(o, st) : insert(o, out, start, guard.data);
    buf_release(&guard);
    return st;
}

enum st onig_translate(struct buf *out, const char *source, size_t len, const char *name,
                       struct err *err) {
    struct onig o = {.source = source, .len = len, .name = name, .err = err};
    size_t start = out->len;
    bool several;
    if (memchr(source, '\0', len)) return refuse(&o, 0, "a NUL");
    enum st st = put(&o, out, "");
    if (!st) st = parse_alternatives(&o, out, &several);
    if (!st && !at_end(&o)) st = refuse(&o, o.pos, "a ) too many");
    return st || several ? st : guard_leading_run(&o, out, start);
}

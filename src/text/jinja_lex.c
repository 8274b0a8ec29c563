/* SPDX-License-Identifier: Apache-2.0 */
/* Implements jinja_lex.h. The order of attempts and the odd corners (a raw block's opening tag
 * trims no newline, "-%}" wins over a minus only outside brackets, "\" before a letter beyond
 * ASCII) follow jinja2/lexer.py rule by rule. */
#include "text/jinja_lex.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_text.h"

enum { BRACKETS_MAX = JJ_PARSE_DEPTH_MAX };

struct lexer {
    struct jj *j;
    const char *p;
    uint32_t len, at;
    bool line_starting; /* the last token ended with a newline */
    struct jj_token *v;
    uint32_t n, cap;
    char close[BRACKETS_MAX];
    uint32_t n_close;
};

static const struct {
    const char *text;
    enum jj_tok type;
} operators[] = {
    /* the longer first */
    {"//", JJ_T_FLOORDIV}, {"**", JJ_T_POW},      {"==", JJ_T_EQ},    {"!=", JJ_T_NE},
    {">=", JJ_T_GE},       {"<=", JJ_T_LE},       {"+", JJ_T_ADD},    {"-", JJ_T_SUB},
    {"/", JJ_T_DIV},       {"*", JJ_T_MUL},       {"%", JJ_T_MOD},    {"~", JJ_T_TILDE},
    {"[", JJ_T_LBRACKET},  {"]", JJ_T_RBRACKET},  {"(", JJ_T_LPAREN}, {")", JJ_T_RPAREN},
    {"{", JJ_T_LBRACE},    {"}", JJ_T_RBRACE},    {">", JJ_T_GT},     {"<", JJ_T_LT},
    {"=", JJ_T_ASSIGN},    {".", JJ_T_DOT},       {":", JJ_T_COLON},  {"|", JJ_T_PIPE},
    {",", JJ_T_COMMA},     {";", JJ_T_SEMICOLON},
};

const char *jj_tok_name(enum jj_tok t) {
    switch (t) {
    case JJ_T_EOF: return "end of template";
    case JJ_T_DATA: return "text";
    case JJ_T_VAR_BEGIN: return "{{";
    case JJ_T_VAR_END: return "}}";
    case JJ_T_BLOCK_BEGIN: return "{%";
    case JJ_T_BLOCK_END: return "%}";
    case JJ_T_NAME: return "a name";
    case JJ_T_STRING: return "a string";
    case JJ_T_INT: return "an integer";
    case JJ_T_FLOAT: return "a float";
    default: break;
    }
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].type == t) return operators[i].text;
    return "a token";
}

static struct jj_token *push(struct lexer *x, enum jj_tok type) {
    if (x->n == x->cap) {
        uint32_t cap = x->cap ? x->cap * 2 : 64;
        x->v = jj_grow(x->j, x->v, x->cap * sizeof *x->v, cap * sizeof *x->v);
        x->cap = cap;
    }
    x->v[x->n] = (struct jj_token){.type = type, .line = x->j->line};
    return &x->v[x->n++];
}

static bool here(const struct lexer *x, uint32_t at, const char *text) {
    size_t n = strlen(text);
    return at <= x->len && n <= x->len - at && memcmp(x->p + at, text, n) == 0;
}

static uint32_t skip_space(const struct lexer *x, uint32_t at) {
    while (at < x->len) {
        uint32_t next = at;
        if (!jj_is_space(jj_cp_at(x->p, x->len, &next))) break;
        at = next;
    }
    return at;
}

static void advance(struct lexer *x, uint32_t to) {
    assert(to > x->at && to <= x->len);
    for (uint32_t i = x->at; i < to; i++) x->j->line += x->p[i] == '\n';
    x->line_starting = x->p[to - 1] == '\n';
    x->at = to;
}

/* The end of a tag whose closing mark (without its sign) is mark: '+' keeps the newline, '-' eats
 * all whitespace, otherwise one newline goes if trim. 0 if it is not here. */
static uint32_t tag_end(const struct lexer *x, uint32_t at, const char *mark, bool plus,
                        bool trim) {
    uint32_t n = (uint32_t)strlen(mark);
    if (here(x, at, "-") && here(x, at + 1, mark)) return skip_space(x, at + 1 + n);
    if (plus && here(x, at, "+") && here(x, at + 1, mark)) return at + 1 + n;
    if (!here(x, at, mark)) return 0;
    return at + n + (trim && here(x, at + n, "\n"));
}

/* Text before a tag, as its sign says: '-' strips it, and without '+' the blanks before a tag that
 * stands first in its line go. */
static void push_data(struct lexer *x, uint32_t from, uint32_t to, char sign, bool lstrip) {
    uint32_t end = to;
    if (sign == '-') {
        while (end > from) {
            uint32_t prev = end - 1;
            while (prev > from && ((uint8_t)x->p[prev] & 0xc0) == 0x80) prev--;
            uint32_t next = prev;
            if (!jj_is_space(jj_cp_at(x->p, x->len, &next))) break;
            end = prev;
        }
    } else if (sign != '+' && lstrip) {
        uint32_t line = to;
        while (line > from && x->p[line - 1] != '\n') line--;
        if (line > from || x->line_starting) {
            uint32_t blank = skip_space(x, line);
            if (blank >= to) end = line;
        }
    }
    if (end > from)
        push(x, JJ_T_DATA)->val =
            jj_strv(jj_str_new(x->j, x->p + from, end - from, CHAT_FROM_TEMPLATE));
}

/* --- inside tags ------------------------------------------------------------------------------ */

static bool digit_in(char c, uint32_t base) {
    if (base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))) return true;
    return c >= '0' && c <= (char)('0' + (base < 10 ? base : 10) - 1);
}

/* Digits with single underscores between them; returns where they end (at if there are none). */
static uint32_t digits(const struct lexer *x, uint32_t at, uint32_t base, bool underscore_first) {
    uint32_t end = at;
    for (;;) {
        uint32_t i = end;
        if (i < x->len && x->p[i] == '_' && (end > at || underscore_first)) i++;
        if (i >= x->len || !digit_in(x->p[i], base)) return end;
        end = i + 1;
    }
}

static uint32_t float_end(const struct lexer *x) {
    if (x->at > 0 && x->p[x->at - 1] == '.') return 0;
    uint32_t whole = digits(x, x->at, 10, false), end = whole;
    if (whole == x->at) return 0;
    if (end < x->len && x->p[end] == '.') {
        uint32_t frac = digits(x, end + 1, 10, false);
        if (frac > end + 1) end = frac;
    }
    if (end < x->len && (x->p[end] == 'e' || x->p[end] == 'E')) {
        uint32_t e = end + 1;
        if (e < x->len && (x->p[e] == '+' || x->p[e] == '-')) e++;
        uint32_t exp = digits(x, e, 10, false);
        if (exp > e) return exp;
    }
    return end > whole ? end : 0;
}

static void lex_float(struct lexer *x, uint32_t end) {
    char text[400];
    uint32_t n = 0;
    for (uint32_t i = x->at; i < end; i++) {
        if (x->p[i] == '_') continue;
        if (n + 1 >= sizeof text)
            jj_fail(x->j, ST_UNSUPPORTED, "a float of more than %zu digits", sizeof text);
        text[n++] = x->p[i];
    }
    text[n] = '\0';
    push(x, JJ_T_FLOAT)->val = jj_float(strtod(text, NULL), CHAT_FROM_TEMPLATE);
    advance(x, end);
}

static bool lex_int(struct lexer *x) {
    uint32_t base = 10, from = x->at, end;
    char c = x->p[x->at], k = x->at + 1 < x->len ? x->p[x->at + 1] : '\0';
    if (c < '0' || c > '9') return false;
    if (c == '0' && (k == 'x' || k == 'X')) base = 16;
    if (c == '0' && (k == 'o' || k == 'O')) base = 8;
    if (c == '0' && (k == 'b' || k == 'B')) base = 2;
    if (base != 10) {
        end = digits(x, x->at + 2, base, true);
        from += 2;
        if (end == from) base = 10, from -= 2; /* "0x" and no digit: a zero and a name */
    }
    if (base == 10) {
        end = digits(x, x->at, 10, false);
        if (c == '0') /* zeros only */
            for (end = x->at + 1;
                 end < x->len && (x->p[end] == '0' || (x->p[end] == '_' && here(x, end + 1, "0")));
                 end++) {
            }
    }
    int64_t value = 0;
    for (uint32_t i = from; i < end; i++) {
        char d = x->p[i];
        if (d == '_') continue;
        int64_t digit = d <= '9' ? d - '0' : (d | 32) - 'a' + 10;
        if (__builtin_mul_overflow(value, (int64_t)base, &value) ||
            __builtin_add_overflow(value, digit, &value))
            jj_fail(x->j, ST_UNSUPPORTED, "an integer over 64 bits");
    }
    push(x, JJ_T_INT)->val = jj_int(value, CHAT_FROM_TEMPLATE);
    advance(x, end);
    return true;
}

static bool lex_name(struct lexer *x) {
    uint32_t end = x->at;
    while (end < x->len) {
        uint32_t next = end;
        if (!jj_is_word(jj_cp_at(x->p, x->len, &next))) break;
        end = next;
    }
    if (end == x->at) return false;
    push(x, JJ_T_NAME)->val =
        jj_strv(jj_str_new(x->j, x->p + x->at, end - x->at, CHAT_FROM_TEMPLATE));
    advance(x, end);
    return true;
}

static int32_t hex_value(struct lexer *x, uint32_t at, uint32_t end, uint32_t n) {
    int32_t v = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (at + i >= end || !digit_in(x->p[at + i], 16))
            jj_fail(x->j, ST_INVALID, "truncated \\%c escape in a string",
                    n == 2   ? 'x'
                    : n == 4 ? 'u'
                             : 'U');
        char d = x->p[at + i];
        if (v > 0x10ffff >> 4) jj_fail(x->j, ST_INVALID, "illegal Unicode character in a string");
        v = v * 16 + (d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
    }
    return v;
}

/* One escape at x->p[i] == '\\'; returns where it ends. Python's unicode-escape after ASCII with
 * backslashreplace. */
static uint32_t unescape(struct lexer *x, struct jj_sb *b, uint32_t i, uint32_t end) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = x->p[i + 1];
    const char *k = strchr(from, c);
    if (c && k) {
        jj_sb_put(b, &to[k - from], 1, CHAT_FROM_TEMPLATE);
        return i + 2;
    }
    if (c == '\n') return i + 2;
    if (c == 'x' || c == 'u' || c == 'U') {
        uint32_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        int32_t cp = hex_value(x, i + 2, end, n);
        if (cp > 0x10ffff) jj_fail(x->j, ST_INVALID, "illegal Unicode character in a string");
        if (cp >= 0xd800 && cp < 0xe000)
            jj_fail(x->j, ST_UNSUPPORTED, "a lone surrogate in a string");
        jj_sb_cp(b, cp, CHAT_FROM_TEMPLATE);
        return i + 2 + n;
    }
    if (c == 'N') jj_fail(x->j, ST_UNSUPPORTED, "a \\N{...} escape in a string is not supported");
    if (c >= '0' && c <= '7') {
        int32_t cp = 0;
        uint32_t n = 1;
        for (; n <= 3 && i + n < end && digit_in(x->p[i + n], 8); n++)
            cp = cp * 8 + x->p[i + n] - '0';
        jj_sb_cp(b, cp, CHAT_FROM_TEMPLATE);
        return i + n;
    }
    uint32_t next = i + 1;
    int32_t cp = jj_cp_at(x->p, end, &next);
    char text[16] = "\\";
    if (cp >= 0x80) { /* Python sees a backslash, and then the name of the character */
        snprintf(text, sizeof text,
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 (unsigned)cp);
        jj_sb_lit(b, text);
        return next;
    }
    jj_sb_put(b, x->p + i, 2, CHAT_FROM_TEMPLATE); /* an unknown escape stands for itself */
    return i + 2;
}

static bool lex_string(struct lexer *x) {
    char quote = x->p[x->at];
    if (quote != '\'' && quote != '"') return false;
    uint32_t end = x->at + 1;
    while (end < x->len && x->p[end] != quote) end += x->p[end] == '\\' ? 2 : 1;
    if (end >= x->len) return false; /* the quote becomes an unexpected character */
    struct jj_sb b = {.j = x->j};
    uint32_t i = x->at + 1;
    while (i < end) {
        const char *back = memchr(x->p + i, '\\', end - i);
        uint32_t stop = back ? (uint32_t)(back - x->p) : end;
        jj_sb_put(&b, x->p + i, stop - i, CHAT_FROM_TEMPLATE);
        i = back ? unescape(x, &b, stop, end) : end;
    }
    push(x, JJ_T_STRING)->val = jj_strv(jj_sb_done(&b));
    advance(x, end + 1);
    return true;
}

static void lex_operator(struct lexer *x) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        const char *text = operators[i].text;
        if (!here(x, x->at, text)) continue;
        char c = text[0];
        if (c == '(' || c == '[' || c == '{') {
            if (x->n_close == BRACKETS_MAX)
                jj_fail(x->j, ST_FULL, "brackets nested more than %d deep", BRACKETS_MAX);
            x->close[x->n_close++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (!x->n_close) jj_fail(x->j, ST_INVALID, "unexpected '%c'", c);
            char want = x->close[--x->n_close];
            if (want != c) jj_fail(x->j, ST_INVALID, "found '%c', expected '%c'", c, want);
        }
        push(x, operators[i].type);
        advance(x, x->at + (uint32_t)strlen(text));
        return;
    }
    uint32_t next = x->at;
    int32_t cp = jj_cp_at(x->p, x->len, &next);
    jj_fail(x->j, ST_INVALID, "unexpected character '%.*s' (U+%04X)", (int)(next - x->at),
            x->p + x->at, (unsigned)cp);
}

/* Everything between {% and %} or {{ and }}. */
static void lex_tag(struct lexer *x, const char *mark, enum jj_tok end_type, bool block) {
    x->n_close = 0;
    while (x->at < x->len) {
        uint32_t end = x->n_close ? 0 : tag_end(x, x->at, mark, block, block);
        if (end) {
            push(x, end_type);
            advance(x, end);
            return;
        }
        uint32_t space = skip_space(x, x->at), f;
        if (space > x->at)
            advance(x, space);
        else if ((f = float_end(x)))
            lex_float(x, f);
        else if (!lex_int(x) && !lex_name(x) && !lex_string(x))
            lex_operator(x);
    }
}

/* --- outside tags ----------------------------------------------------------------------------- */

static void skip_comment(struct lexer *x) {
    for (uint32_t i = x->at; i < x->len; i++) {
        uint32_t end = tag_end(x, i, "#}", true, true);
        if (!end) continue;
        advance(x, end);
        return;
    }
    jj_fail(x->j, ST_INVALID, "a comment is not closed");
}

/* The end of a {% name %} tag that opens at `at`; 0 if another tag is here. *sign is what follows
 * {%. */
static uint32_t bare_tag(const struct lexer *x, uint32_t at, const char *name, bool closing,
                         char *sign) {
    if (!here(x, at, "{%")) return 0;
    uint32_t i = at + 2;
    *sign = '\0';
    if (i < x->len && (x->p[i] == '-' || x->p[i] == '+')) *sign = x->p[i++];
    i = skip_space(x, i);
    if (!here(x, i, name)) return 0;
    i = skip_space(x, i + (uint32_t)strlen(name));
    return tag_end(x, i, "%}", closing, closing);
}

static void lex_raw(struct lexer *x) {
    for (uint32_t i = x->at; i < x->len; i++) {
        char sign;
        uint32_t end = bare_tag(x, i, "endraw", true, &sign);
        if (!end) continue;
        push_data(x, x->at, i, sign, true);
        advance(x, end);
        return;
    }
    jj_fail(x->j, ST_INVALID, "a raw block is not closed");
}

static void lex_root(struct lexer *x) {
    uint32_t i = x->at;
    while (i + 1 < x->len &&
           !(x->p[i] == '{' && (x->p[i + 1] == '%' || x->p[i + 1] == '{' || x->p[i + 1] == '#')))
        i++;
    if (i + 1 >= x->len) {
        push_data(x, x->at, x->len, '+', false);
        advance(x, x->len);
        return;
    }
    char kind = x->p[i + 1], sign = '\0';
    uint32_t end = bare_tag(x, i, "raw", false, &sign);
    bool raw = end != 0;
    if (!raw) {
        end = i + 2;
        sign = end < x->len && (x->p[end] == '-' || x->p[end] == '+') ? x->p[end] : '\0';
        if (sign) end++;
    }
    push_data(x, x->at, i, sign, kind != '{');
    uint32_t before = x->j->line;
    for (uint32_t k = x->at; k < i; k++) before += x->p[k] == '\n';
    x->j->line = before; /* the tag's own line */
    x->at = i;
    if (!raw && kind != '#') push(x, kind == '%' ? JJ_T_BLOCK_BEGIN : JJ_T_VAR_BEGIN);
    advance(x, end);
    if (raw)
        lex_raw(x);
    else if (kind == '#')
        skip_comment(x);
    else if (kind == '%')
        lex_tag(x, "%}", JJ_T_BLOCK_END, true);
    else
        lex_tag(x, "}}", JJ_T_VAR_END, false);
}

/* \r\n and \r become \n, and one newline at the end goes. */
static void normalise(struct lexer *x, const char *source, size_t len) {
    char *p = jj_alloc(x->j, len);
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++) {
        bool cr = source[i] == '\r';
        if (cr && i + 1 < len && source[i + 1] == '\n') i++;
        p[n++] = cr ? '\n' : source[i];
    }
    if (n && p[n - 1] == '\n') n--;
    x->p = p;
    x->len = n;
}

struct jj_token *jj_lex(struct jj *j, const char *source, size_t len) {
    assert(len <= JJ_SOURCE_MAX);
    struct lexer x = {.j = j, .line_starting = true};
    j->line = 1;
    normalise(&x, source, len);
    while (x.at < x.len) lex_root(&x);
    push(&x, JJ_T_EOF);
    return x.v;
}

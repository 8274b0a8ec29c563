/* SPDX-License-Identifier: Apache-2.0 */
/* Implements jinja_text.h. Case mapping is Unicode's full mapping for what people write (sharp s,
 * ligatures, the final sigma, dotted I), the simple mapping of utf8proc for everything else. */
#include "text/jinja_text.h"

#include <assert.h>
#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

int32_t jj_cp_at(const char *p, uint32_t len, uint32_t *at) {
    uint32_t cp;
    *at += utf8_next(&cp, p + *at, len - *at);
    return (int32_t)cp;
}

uint32_t jj_at_cp(struct jj *j, const struct jj_str *s, uint32_t cp) {
    if (s->cps == s->len || cp >= s->cps) return cp >= s->cps ? s->len : cp;
    uint32_t i = 0;
    for (uint32_t n = 0; n < cp; n++) {
        i++;
        while (i < s->len && ((uint8_t)s->p[i] & 0xc0) == 0x80) i++;
    }
    jj_spend_bytes(j, i);
    return i;
}

static uint32_t prev_cp(const struct jj_str *s, uint32_t at) {
    do at--;
    while (at > 0 && ((uint8_t)s->p[at] & 0xc0) == 0x80);
    return at;
}

/* --- classes ---------------------------------------------------------------------------------- */

bool jj_is_space(int32_t cp) {
    if (cp < 0x80) return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static bool is_letter(utf8proc_category_t c) {
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

/* Numeric_Type=Digit beyond Nd: superscripts, subscripts and circled digits. */
static bool is_other_digit(int32_t c) {
    return c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0x1369 && c <= 0x1371) || c == 0x19da ||
           c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
           (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) ||
           (c >= 0x2488 && c <= 0x2490) || c == 0x24ea || (c >= 0x24f5 && c <= 0x24fd) ||
           c == 0x24ff || (c >= 0x2776 && c <= 0x277e) || (c >= 0x2780 && c <= 0x2788) ||
           (c >= 0x278a && c <= 0x2792) || (c >= 0x10a40 && c <= 0x10a43) ||
           (c >= 0x10e60 && c <= 0x10e68) || (c >= 0x11052 && c <= 0x1105a) ||
           (c >= 0x1f100 && c <= 0x1f10a);
}

/* Numeric_Type=Numeric among the ideographs, which are letters to their category. */
static bool is_ideograph_number(int32_t c) {
    static const int32_t v[] = {
        0x3405, 0x3483, 0x382a, 0x3b4d, 0x4e00, 0x4e03, 0x4e07, 0x4e09, 0x4e5d, 0x4e8c,
        0x4e94, 0x4e96, 0x4ebf, 0x4ec0, 0x4edf, 0x4ee8, 0x4f0d, 0x4f70, 0x5104, 0x5146,
        0x5169, 0x516b, 0x516d, 0x5341, 0x5343, 0x5344, 0x5345, 0x534c, 0x53c1, 0x53c2,
        0x53c3, 0x53c4, 0x56db, 0x58f1, 0x58f9, 0x5e7a, 0x5efe, 0x5eff, 0x5f0c, 0x5f0d,
        0x5f0e, 0x5f10, 0x62fe, 0x634c, 0x67d2, 0x6f06, 0x7396, 0x767e, 0x8086, 0x842c,
        0x8cae, 0x8cb3, 0x8d30, 0x9621, 0x9646, 0x964c, 0x9678, 0x96f6};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        if (v[i] == c) return true;
    return false;
}

bool jj_in_class(int32_t cp, enum jj_class k) {
    utf8proc_category_t c = utf8proc_category(cp);
    switch (k) {
    case JJ_ALPHA: return is_letter(c);
    case JJ_DECIMAL: return c == UTF8PROC_CATEGORY_ND;
    case JJ_DIGIT: return c == UTF8PROC_CATEGORY_ND || is_other_digit(cp);
    case JJ_NUMERIC:
        return (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) || is_ideograph_number(cp);
    case JJ_ALNUM: return is_letter(c) || jj_in_class(cp, JJ_NUMERIC);
    case JJ_SPACE: return jj_is_space(cp);
    case JJ_PRINTABLE: return jj_is_printable(cp);
    case JJ_ASCII: return cp < 0x80;
    }
    return false;
}

bool jj_is_word(int32_t cp) {
    if (cp < 0x80)
        return (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') || (cp >= '0' && cp <= '9') ||
               cp == '_';
    return jj_in_class(cp, JJ_ALNUM);
}

bool jj_is_printable(int32_t cp) {
    if (cp < 0x7f) return cp >= 32;
    utf8proc_category_t c = utf8proc_category(cp);
    return c != UTF8PROC_CATEGORY_CN &&
           c < UTF8PROC_CATEGORY_ZS; /* then come Zs Zl Zp Cc Cf Cs Co */
}

bool jj_all(const struct jj_str *s, enum jj_class c) {
    if (!s->len) return c == JJ_PRINTABLE || c == JJ_ASCII;
    for (uint32_t i = 0; i < s->len;)
        if (!jj_in_class(jj_cp_at(s->p, s->len, &i), c)) return false;
    return true;
}

enum casing { UNCASED, LOWER, UPPER, TITLE };
static enum casing casing(int32_t cp) {
    if (cp < 0x80) return cp >= 'a' && cp <= 'z' ? LOWER : cp >= 'A' && cp <= 'Z' ? UPPER : UNCASED;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_LU: return UPPER;
    case UTF8PROC_CATEGORY_LL: return LOWER;
    case UTF8PROC_CATEGORY_LT: return TITLE;
    default: break;
    }
    /* Other_Lowercase and Other_Uppercase: modifier letters, Roman numerals, circled letters */
    if (cp == 0xaa || cp == 0xba || (cp >= 0x2b0 && cp <= 0x2b8) || cp == 0x2c0 || cp == 0x2c1 ||
        (cp >= 0x2e0 && cp <= 0x2e4) || (cp >= 0x2170 && cp <= 0x217f) ||
        (cp >= 0x24d0 && cp <= 0x24e9) || (cp >= 0x1d2c && cp <= 0x1d6a) || cp == 0x2071 ||
        cp == 0x207f)
        return LOWER;
    if ((cp >= 0x2160 && cp <= 0x216f) || (cp >= 0x24b6 && cp <= 0x24cf)) return UPPER;
    return UNCASED;
}

static bool all_cased(const struct jj_str *s, enum casing want, enum casing refuse) {
    bool any = false;
    for (uint32_t i = 0; i < s->len;) {
        enum casing c = casing(jj_cp_at(s->p, s->len, &i));
        if (c == refuse || c == TITLE) return false;
        any |= c == want;
    }
    return any;
}
bool jj_is_lower(const struct jj_str *s) {
    return all_cased(s, LOWER, UPPER);
}
bool jj_is_upper(const struct jj_str *s) {
    return all_cased(s, UPPER, LOWER);
}

bool jj_is_title(const struct jj_str *s) {
    bool any = false, in_word = false;
    for (uint32_t i = 0; i < s->len;) {
        enum casing c = casing(jj_cp_at(s->p, s->len, &i));
        if (c == LOWER ? !in_word : c != UNCASED && in_word) return false;
        in_word = c != UNCASED;
        any |= in_word;
    }
    return any;
}

/* --- case ------------------------------------------------------------------------------------- */

/* Letters whose upper case is more than one letter (SpecialCasing.txt, the unconditional ones
 * without Greek iota). */
static const struct {
    int32_t cp;
    const char *upper, *title;
} special[] = {
    {0x00df, "SS", "Ss"}, {0x0149, "ʼN", "ʼN"}, {0x01f0, "J̌", "J̌"},     {0x0390, "Ϊ́", "Ϊ́"},
    {0x03b0, "Ϋ́", "Ϋ́"},   {0x0587, "ԵՒ", "Եւ"}, {0x1e96, "H̱", "H̱"},     {0x1e97, "T̈", "T̈"},
    {0x1e98, "W̊", "W̊"},   {0x1e99, "Y̊", "Y̊"},   {0x1e9a, "Aʾ", "Aʾ"},   {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"}, {0xfb02, "FL", "Fl"}, {0xfb03, "FFI", "Ffi"}, {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"}, {0xfb06, "ST", "St"}, {0xfb13, "ՄՆ", "Մն"},   {0xfb14, "ՄԵ", "Մե"},
    {0xfb15, "ՄԻ", "Մի"}, {0xfb16, "ՎՆ", "Վն"}, {0xfb17, "ՄԽ", "Մխ"},
};

static void put_upper(struct jj_sb *b, int32_t cp, uint8_t o, bool title) {
    if (cp >= 0xdf)
        for (size_t i = 0; i < sizeof special / sizeof *special; i++)
            if (special[i].cp == cp) {
                const char *text = title ? special[i].title : special[i].upper;
                jj_sb_put(b, text, strlen(text), o);
                return;
            }
    if (title && cp >= 0x10d0 && cp <= 0x10ff) { /* Georgian: the title case is the letter itself */
        jj_sb_cp(b, cp, o);
        return;
    }
    jj_sb_cp(b, title ? utf8proc_totitle(cp) : utf8proc_toupper(cp), o);
}

static bool case_ignorable(int32_t cp) {
    utf8proc_category_t c = utf8proc_category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || cp == '\'' || cp == '.' ||
           cp == ':' || cp == 0xb7 || cp == 0x2018 || cp == 0x2019;
}

/* A capital sigma at the end of a word becomes the final one. */
static bool final_sigma(const struct jj_str *s, uint32_t at, uint32_t after) {
    bool before = false;
    for (uint32_t i = at; i > 0 && !before;) {
        i = prev_cp(s, i);
        uint32_t k = i;
        int32_t cp = jj_cp_at(s->p, s->len, &k);
        if (case_ignorable(cp)) continue;
        if (casing(cp) == UNCASED) return false;
        before = true;
    }
    for (uint32_t i = after; i < s->len;) {
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        if (!case_ignorable(cp)) return before && casing(cp) == UNCASED;
    }
    return before;
}

static void put_lower(struct jj_sb *b, const struct jj_str *s, uint32_t at, uint32_t after,
                      int32_t cp) {
    uint8_t o = s->o[at];
    if (cp == 0x130) {
        jj_sb_put(b, "i\xcc\x87", 3, o);
    } else {
        jj_sb_cp(b, cp == 0x3a3 && final_sigma(s, at, after) ? 0x3c2 : utf8proc_tolower(cp), o);
    }
}

static void put_folded(struct jj_sb *b, int32_t cp, uint8_t o) {
    utf8proc_int32_t out[8];
    int last = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(cp, out, 8, UTF8PROC_CASEFOLD, &last);
    for (utf8proc_ssize_t i = 0; i < n && n <= 8; i++) jj_sb_cp(b, out[i], o);
}

const struct jj_str *jj_recase(struct jj *j, const struct jj_str *s, enum jj_case c) {
    struct jj_sb b = {.j = j};
    bool in_word = false;
    for (uint32_t i = 0; i < s->len;) {
        uint32_t at = i;
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        enum casing was = c == JJ_TITLE || c == JJ_SWAPCASE ? casing(cp) : UNCASED;
        switch (c) {
        case JJ_UPPER: put_upper(&b, cp, s->o[at], false); break;
        case JJ_LOWER: put_lower(&b, s, at, i, cp); break;
        case JJ_CASEFOLD: put_folded(&b, cp, s->o[at]); break;
        case JJ_SWAPCASE:
            if (was == LOWER)
                put_upper(&b, cp, s->o[at], false);
            else
                put_lower(&b, s, at, i, cp);
            break;
        case JJ_CAPITALIZE:
        case JJ_TITLE:
            if (c == JJ_TITLE ? !in_word : at == 0)
                put_upper(&b, cp, s->o[at], true);
            else
                put_lower(&b, s, at, i, cp);
            in_word = was != UNCASED;
            break;
        }
    }
    return jj_sb_done(&b);
}

/* --- stripping, finding ----------------------------------------------------------------------- */

static bool strips(const struct jj_str *chars, int32_t cp) {
    if (!chars) return jj_is_space(cp);
    for (uint32_t i = 0; i < chars->len;)
        if (jj_cp_at(chars->p, chars->len, &i) == cp) return true;
    return false;
}

const struct jj_str *jj_strip(struct jj *j, const struct jj_str *s, const struct jj_str *chars,
                              unsigned sides) {
    uint32_t from = 0, to = s->len, cost = chars ? chars->len / 16 + 1 : 1;
    while (sides & JJ_LEFT && from < to) {
        uint32_t next = from;
        jj_spend(j, cost);
        if (!strips(chars, jj_cp_at(s->p, s->len, &next))) break;
        from = next;
    }
    while (sides & JJ_RIGHT && to > from) {
        uint32_t prev = prev_cp(s, to), next = prev;
        jj_spend(j, cost);
        if (!strips(chars, jj_cp_at(s->p, s->len, &next))) break;
        to = prev;
    }
    return jj_str_cut(j, s, from, to);
}

uint32_t jj_find(struct jj *j, const struct jj_str *s, const struct jj_str *sub, uint32_t from) {
    if (from > s->len || sub->len > s->len - from) return JJ_NOT_FOUND;
    if (!sub->len) return from;
    const char *p = memmem(s->p + from, s->len - from, sub->p, sub->len); /* linear in glibc */
    jj_spend_bytes(j, p ? (uint64_t)(p - s->p) - from : s->len - from);
    return p ? (uint32_t)(p - s->p) : JJ_NOT_FOUND;
}

uint32_t jj_rfind(struct jj *j, const struct jj_str *s, const struct jj_str *sub, uint32_t end) {
    if (sub->len > end) return JJ_NOT_FOUND;
    for (uint32_t i = end - sub->len;; i--) {
        if (memcmp(s->p + i, sub->p, sub->len) == 0) {
            jj_spend(j, (end - i) / 16 + 1);
            return i;
        }
        if (i % 16 == 0) jj_spend(j, 1 + sub->len / 4);
        if (i == 0) return JJ_NOT_FOUND;
    }
}

bool jj_starts(const struct jj_str *s, const struct jj_str *sub) {
    return sub->len <= s->len && memcmp(s->p, sub->p, sub->len) == 0;
}
bool jj_ends(const struct jj_str *s, const struct jj_str *sub) {
    return sub->len <= s->len && memcmp(s->p + s->len - sub->len, sub->p, sub->len) == 0;
}

uint32_t jj_count(struct jj *j, const struct jj_str *s, const struct jj_str *sub) {
    if (!sub->len) return s->cps + 1;
    uint32_t n = 0;
    for (uint32_t at = 0; (at = jj_find(j, s, sub, at)) != JJ_NOT_FOUND; at += sub->len, n++)
        jj_spend(j, 1);
    return n;
}

/* --- splitting -------------------------------------------------------------------------------- */

static void push_cut(struct jj *j, struct jj_list *l, const struct jj_str *s, uint32_t from,
                     uint32_t to) {
    jj_spend(j, 1);
    jj_list_push(j, l, jj_strv(jj_str_cut(j, s, from, to)));
}

static uint32_t skip_class(const struct jj_str *s, uint32_t at, bool space) {
    while (at < s->len) {
        uint32_t next = at;
        if (jj_is_space(jj_cp_at(s->p, s->len, &next)) != space) break;
        at = next;
    }
    return at;
}

static uint32_t skip_class_back(const struct jj_str *s, uint32_t at, bool space) {
    while (at > 0) {
        uint32_t prev = prev_cp(s, at), next = prev;
        if (jj_is_space(jj_cp_at(s->p, s->len, &next)) != space) break;
        at = prev;
    }
    return at;
}

struct jj_list *jj_split(struct jj *j, const struct jj_str *s, const struct jj_str *sep,
                         int64_t max) {
    struct jj_list *l = jj_list_new(j, 4);
    uint32_t at = 0;
    jj_spend_bytes(j, s->len);
    if (!sep) {
        while ((at = skip_class(s, at, true)) < s->len) {
            if (max == 0) {
                push_cut(j, l, s, at, s->len);
                return l;
            }
            uint32_t end = skip_class(s, at, false);
            push_cut(j, l, s, at, end);
            at = end;
            if (max > 0) max--;
        }
        return l;
    }
    if (!sep->len) jj_fail(j, ST_INVALID, "split: empty separator");
    for (uint32_t hit; max != 0 && (hit = jj_find(j, s, sep, at)) != JJ_NOT_FOUND;
         at = hit + sep->len) {
        push_cut(j, l, s, at, hit);
        if (max > 0) max--;
    }
    push_cut(j, l, s, at, s->len);
    return l;
}

struct jj_list *jj_rsplit(struct jj *j, const struct jj_str *s, const struct jj_str *sep,
                          int64_t max) {
    struct jj_list *l = jj_list_new(j, 4);
    uint32_t end = s->len;
    jj_spend_bytes(j, s->len);
    if (!sep) {
        while ((end = skip_class_back(s, end, true)) > 0) {
            if (max == 0) {
                push_cut(j, l, s, 0, end); /* what leads it stays, as in Python */
                break;
            }
            uint32_t from = skip_class_back(s, end, false);
            push_cut(j, l, s, from, end);
            end = from;
            if (max > 0) max--;
        }
    } else {
        if (!sep->len) jj_fail(j, ST_INVALID, "rsplit: empty separator");
        for (uint32_t hit; max != 0 && (hit = jj_rfind(j, s, sep, end)) != JJ_NOT_FOUND;
             end = hit) {
            push_cut(j, l, s, hit + sep->len, end);
            if (max > 0) max--;
        }
        push_cut(j, l, s, 0, end);
    }
    for (uint32_t i = 0, k = l->len; i + 1 < k--; i++) {
        struct jj_val t = l->v[i];
        l->v[i] = l->v[k];
        l->v[k] = t;
    }
    return l;
}

static bool is_line_end(int32_t cp) {
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

struct jj_list *jj_lines(struct jj *j, const struct jj_str *s, bool keep_ends) {
    struct jj_list *l = jj_list_new(j, 4);
    jj_spend_bytes(j, s->len);
    uint32_t from = 0;
    for (uint32_t i = 0; i < s->len;) {
        uint32_t at = i;
        int32_t cp = jj_cp_at(s->p, s->len, &i);
        if (!is_line_end(cp)) continue;
        if (cp == '\r' && i < s->len && s->p[i] == '\n') i++;
        push_cut(j, l, s, from, keep_ends ? i : at);
        from = i;
    }
    if (from < s->len) push_cut(j, l, s, from, s->len);
    return l;
}

/* --- making ----------------------------------------------------------------------------------- */

const struct jj_str *jj_replace(struct jj *j, const struct jj_str *s, const struct jj_str *old,
                                const struct jj_str *with, int64_t max) {
    struct jj_sb b = {.j = j};
    uint32_t at = 0;
    while (max != 0) {
        uint32_t hit = jj_find(j, s, old, at);
        if (hit == JJ_NOT_FOUND) break;
        jj_spend(j, 1);
        jj_sb_add(&b, s->p + at, hit - at, s->o + at);
        jj_sb_str(&b, with);
        at = hit + old->len;
        if (max > 0) max--;
        if (!old->len) { /* between all characters, and at both ends */
            if (at >= s->len) return jj_sb_done(&b);
            uint32_t next = at;
            jj_cp_at(s->p, s->len, &next);
            jj_sb_add(&b, s->p + at, next - at, s->o + at);
            at = next;
        }
    }
    if (at == 0 && !b.len) return s;
    jj_sb_add(&b, s->p + at, s->len - at, s->o + at);
    return jj_sb_done(&b);
}

const struct jj_str *jj_repeat(struct jj *j, const struct jj_str *s, int64_t n) {
    struct jj_sb b = {.j = j};
    if (s->len == 0) return s;
    for (int64_t i = 0; i < n; i++) {
        jj_spend(j, 1);
        jj_sb_str(&b, s);
    }
    return jj_sb_done(&b);
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

uint32_t jj_slice_span(int64_t len, const int64_t *start, const int64_t *stop, int64_t step,
                       int64_t *first, int64_t *end) {
    int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? len : len - 1; /* as PySlice_AdjustIndices */
    int64_t from = step > 0 ? 0 : len - 1, to = step > 0 ? len : -1;
    if (start) from = clamp(*start < 0 ? (*start < -len ? lo : *start + len) : *start, lo, hi);
    if (stop) to = clamp(*stop < 0 ? (*stop < -len ? lo : *stop + len) : *stop, lo, hi);
    *first = from;
    *end = to;
    if (step > 0) return from < to ? (uint32_t)((uint64_t)(to - from - 1) / (uint64_t)step + 1) : 0;
    uint64_t back = step == INT64_MIN ? (uint64_t)INT64_MAX + 1 : (uint64_t)-step;
    return to < from ? (uint32_t)((uint64_t)(from - to - 1) / back + 1) : 0;
}

const struct jj_str *jj_str_slice(struct jj *j, const struct jj_str *s, const int64_t *start,
                                  const int64_t *stop, int64_t step) {
    int64_t first, end;
    uint32_t n = jj_slice_span(s->cps, start, stop, step, &first, &end);
    if (n == 0) return jj_str_cut(j, s, 0, 0);
    if (step == 1) {
        uint32_t from = jj_at_cp(j, s, (uint32_t)first);
        return jj_str_cut(j, s, from, jj_at_cp(j, s, (uint32_t)first + n));
    }
    struct jj_sb b = {.j = j};
    uint32_t at = jj_at_cp(j, s, (uint32_t)first);
    int64_t pos = first;
    for (uint32_t i = 0;; i++) {
        uint32_t next = at;
        jj_cp_at(s->p, s->len, &next);
        jj_sb_add(&b, s->p + at, next - at, s->o + at);
        if (i + 1 == n) return jj_sb_done(&b);
        int64_t want = pos + step; /* in range: the span says so */
        jj_spend(j, (uint64_t)(want > pos ? want - pos : pos - want) / 64 + 1);
        for (; pos < want; pos++) jj_cp_at(s->p, s->len, &at);
        for (; pos > want; pos--) at = prev_cp(s, at);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements unicode_form.h: decompose each character, sort runs of combining marks by class,
 * compose (UAX 15). The properties are utf8proc's. Its utf8proc_map would do all of it, but loses
 * the origins, and sorts a long run of marks in quadratic time. `tokenizers` normalises by tables
 * of Unicode 9, so what came later is passed through, as there. */
#include "text/unicode_form.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

enum { DECOMPOSED_MAX = 32, SHORT_RUN = 32, CLASSES = 256 };

struct chars {
    struct one {
        uint32_t cp, from;
    } * v;
    size_t len, cap;
};

/* Characters that Unicode 9 lacks or gives another decomposition or class, as far as it matters,
 * and all after Unicode 14: tools/golden/unicode.py. */
static const uint32_t later_than_9[][2] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xCF3, 0xCF3},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
    {0xECE, 0xECE},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1B4E, 0x1B4F},
    {0x1B7F, 0x1B7F},   {0x1C89, 0x1C8A},   {0x1DF6, 0x1DFA},   {0x2427, 0x2429},
    {0x2FFC, 0x2FFF},   {0x31E4, 0x31E5},   {0x31EF, 0x31EF},   {0x32FF, 0x32FF},
    {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},
    {0xAB69, 0xAB69},   {0x105C0, 0x105F3}, {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10D40, 0x10D65}, {0x10D69, 0x10D85},
    {0x10D8E, 0x10D8F}, {0x10EAB, 0x10EAC}, {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1123F, 0x11241},
    {0x1133B, 0x1133B}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x113B7, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5},
    {0x113C7, 0x113CA}, {0x113CC, 0x113D5}, {0x113D7, 0x113D8}, {0x113E1, 0x113E2},
    {0x1145E, 0x1145E}, {0x116D0, 0x116E3}, {0x11839, 0x1183A}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11B00, 0x11B09}, {0x11BC0, 0x11BE1},
    {0x11BF0, 0x11BF9}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F00, 0x11F10}, {0x11F12, 0x11F3A}, {0x11F3E, 0x11F5A}, {0x1342F, 0x1342F},
    {0x13439, 0x13455}, {0x13460, 0x143FA}, {0x16100, 0x16139}, {0x16D40, 0x16D79},
    {0x16FF0, 0x16FF1}, {0x18CFF, 0x18CFF}, {0x1B132, 0x1B132}, {0x1B155, 0x1B155},
    {0x1CC00, 0x1CCF9}, {0x1CD00, 0x1CEB3}, {0x1D2C0, 0x1D2D3}, {0x1DF25, 0x1DF2A},
    {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4D0, 0x1E4F9}, {0x1E5D0, 0x1E5FA}, {0x1E5FF, 0x1E5FF},
    {0x1F16C, 0x1F16C}, {0x1F6DC, 0x1F6DC}, {0x1F774, 0x1F776}, {0x1F77B, 0x1F77F},
    {0x1F7D9, 0x1F7D9}, {0x1F8B2, 0x1F8BB}, {0x1F8C0, 0x1F8C1}, {0x1FA75, 0x1FA77},
    {0x1FA87, 0x1FA89}, {0x1FA8F, 0x1FA8F}, {0x1FAAD, 0x1FAAF}, {0x1FABB, 0x1FABF},
    {0x1FAC6, 0x1FAC6}, {0x1FACE, 0x1FACF}, {0x1FADA, 0x1FADC}, {0x1FADF, 0x1FADF},
    {0x1FAE8, 0x1FAE9}, {0x1FAF7, 0x1FAF8}, {0x1FBCB, 0x1FBF9}, {0x2B739, 0x2B739},
    {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF},
};

static bool is_later(uint32_t cp) {
    size_t lo = 0, hi = sizeof later_than_9 / sizeof *later_than_9;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > later_than_9[mid][1])
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < sizeof later_than_9 / sizeof *later_than_9 && cp >= later_than_9[lo][0];
}

static uint32_t class_of(uint32_t cp) {
    if (cp < 0x300) return 0;
    int16_t c = utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
    return c == 0 || is_later(cp) ? 0 : (uint32_t)c & (CLASSES - 1);
}

static enum st push(struct chars *c, uint32_t cp, uint32_t from) {
    if (c->len == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 256;
        struct one *v = realloc(c->v, cap * sizeof *v);
        if (!v) return ST_NO_MEMORY;
        c->v = v;
        c->cap = cap;
    }
    c->v[c->len++] = (struct one){cp, from};
    return ST_OK;
}

static enum st decompose(struct chars *c, const struct working *text, bool compatibility) {
    enum st st = ST_OK;
    for (size_t i = 0; i < text->len && !st;) {
        uint32_t cp, from = working_from(text, i);
        i += utf8_next(&cp, text->data + i, text->len - i);
        if (cp < 0xA0 || is_later(cp)) {
            st = push(c, cp, from);
            continue;
        }
        utf8proc_int32_t parts[DECOMPOSED_MAX];
        int boundary = 0;
        utf8proc_option_t how = UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0);
        utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)cp, parts, DECOMPOSED_MAX, how, &boundary);
        if (n < 0 || n > DECOMPOSED_MAX) return ST_INVALID;
        for (utf8proc_ssize_t j = 0; j < n && !st; j++) st = push(c, (uint32_t)parts[j], from);
    }
    return st;
}

/* A stable sort of marks by class: by insertion where the run is short, else by counting. */
static enum st sort_run(struct one *v, size_t n) {
    if (n <= SHORT_RUN) {
        for (size_t i = 1; i < n; i++) {
            struct one x = v[i];
            size_t j = i;
            for (; j > 0 && class_of(v[j - 1].cp) > class_of(x.cp); j--) v[j] = v[j - 1];
            v[j] = x;
        }
        return ST_OK;
    }
    struct one *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return ST_NO_MEMORY;
    size_t next[CLASSES + 1] = {0};
    for (size_t i = 0; i < n; i++) next[class_of(v[i].cp) + 1]++;
    for (size_t i = 1; i < CLASSES; i++) next[i] += next[i - 1];
    for (size_t i = 0; i < n; i++) sorted[next[class_of(v[i].cp)]++] = v[i];
    memcpy(v, sorted, n * sizeof *v);
    free(sorted);
    return ST_OK;
}

static enum st sort_marks(struct chars *c) {
    enum st st = ST_OK;
    for (size_t i = 0; i < c->len && !st;) {
        size_t start = i;
        while (i < c->len && class_of(c->v[i].cp) != 0) i++;
        if (i - start > 1) st = sort_run(c->v + start, i - start);
        if (i == start) i++;
    }
    return st;
}

/* The composite of a starter and what follows it, or 0. */
static uint32_t pair(uint32_t a, uint32_t b) {
    if (b < 0x300) return 0;
    bool hangul = a >= 0x1100 && a < 0xD7A4 && b >= 0x1161 && b < 0x11C3;
    const utf8proc_property_t *pa = utf8proc_get_property((utf8proc_int32_t)a);
    const utf8proc_property_t *pb = utf8proc_get_property((utf8proc_int32_t)b);
    if (!hangul && (pa->comb_index == UINT16_MAX || pb->comb_index == UINT16_MAX)) return 0;
    utf8proc_int32_t both[2] = {(utf8proc_int32_t)a, (utf8proc_int32_t)b};
    utf8proc_ssize_t n = utf8proc_normalize_utf32(both, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return n == 1 && !is_later((uint32_t)both[0]) ? (uint32_t)both[0] : 0;
}

static void compose(struct chars *c, const uint8_t *allow) {
    size_t n = 0, starter = SIZE_MAX;
    uint32_t last_class = 0;
    for (size_t i = 0; i < c->len; i++) {
        struct one x = c->v[i];
        uint32_t class = class_of(x.cp);
        if (starter != SIZE_MAX && (last_class == 0 || last_class < class)) {
            uint32_t composite = pair(c->v[starter].cp, x.cp);
            if (composite) {
                c->v[starter].cp = composite;
                if (allow && !allow[x.from])
                    c->v[starter].from = x.from; /* as working_from_range */
                continue;
            }
        }
        if (class == 0) starter = n;
        last_class = class;
        c->v[n++] = x;
    }
    c->len = n;
}

enum st unicode_form(struct working *out, const struct working *text, enum unicode_form form) {
    struct chars c = {0};
    enum st st = decompose(&c, text, form == UNICODE_NFKC || form == UNICODE_NFKD);
    if (!st) st = sort_marks(&c);
    if (!st && (form == UNICODE_NFC || form == UNICODE_NFKC)) compose(&c, text->allow);
    for (size_t i = 0; i < c.len && !st; i++) {
        char bytes[4];
        st = working_append(out, bytes, utf8_put(bytes, c.v[i].cp), c.v[i].from);
    }
    free(c.v);
    return st;
}

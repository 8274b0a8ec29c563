/* SPDX-License-Identifier: Apache-2.0 */
/* Implements json_reader.h, strictly after RFC 8259. */
#include "text/json_reader.h"

#include <stdio.h>
#include <string.h>

#include "text/utf8.h"

/* --- cutting ---------------------------------------------------------------------------------- */

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Past the string that begins at at; at the end if it has none. */
static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end; at++) {
        if (*at == '\\') {
            if (++at == end) return end;
        } else if (*at == '"') {
            return at + 1;
        }
    }
    return end;
}

/* Past the value that begins at at, by counting brackets: whether they match is not our question.
 */
static const char *skip_value(const char *at, const char *end) {
    size_t depth = 0;
    while (at < end) {
        char c = *at;
        if (c == '"') {
            at = skip_string(at, end);
        } else if (c == '{' || c == '[') {
            depth++;
            at++;
            continue;
        } else if (c == '}' || c == ']') {
            if (depth == 0) return at;
            depth--;
            at++;
        } else if (depth == 0 && c == ',') {
            return at;
        } else {
            at++;
            continue;
        }
        if (depth == 0) return at;
    }
    return end;
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && is_space(*at)) at++;
    return at;
}

/* The value of a member of the object that begins at *at (on its {); NULL if it is not there. */
static const char *find_member(const char *at, const char *end, const char *key) {
    size_t n = strlen(key);
    if (at == end || *at != '{') return NULL;
    at++;
    while ((at = skip_space(at, end)) < end && *at == '"') {
        const char *name = at + 1;
        at = skip_string(at, end);
        bool same = (size_t)(at - name) == n + 1 && memcmp(name, key, n) == 0;
        at = skip_space(at, end);
        if (at == end || *at != ':') return NULL;
        at = skip_space(at + 1, end);
        if (same) return at;
        at = skip_space(skip_value(at, end), end);
        if (at < end && *at == ',') at++;
    }
    return NULL;
}

enum st json_cut(struct buf *rest, struct json_span *vocab, struct json_span *merges,
                 const char *json, size_t len, const char *name, struct err *err) {
    const char *end = json + len;
    const char *model = find_member(skip_space(json, end), end, "model");
    const char *v = model ? find_member(model, end, "vocab") : NULL;
    const char *m = model ? find_member(model, end, "merges") : NULL;
    *vocab = (struct json_span){v, v ? (size_t)(skip_value(v, end) - v) : 0};
    *merges = (struct json_span){m, m ? (size_t)(skip_value(m, end) - m) : 0};
    const struct json_span *first = v && (!m || v < m) ? vocab : merges,
                           *second = first == vocab ? merges : vocab;
    const char *at = json;
    enum st st = ST_OK;
    for (const struct json_span *s = first; s && !st; s = s == first ? second : NULL) {
        if (!s->text) continue;
        st = buf_append(rest, at, (size_t)(s->text - at));
        if (!st) st = buf_append_str(rest, "null");
        at = s->text + s->len;
    }
    if (!st) st = buf_append(rest, at, (size_t)(end - at));
    return st ? err_set(err, st, "%s: larger than %zu bytes, or out of memory", name, rest->max)
              : ST_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

char json_peek(struct json_reader *r) {
    r->at = skip_space(r->at, r->end);
    return r->at < r->end ? *r->at : '\0';
}

bool json_accept(struct json_reader *r, char c) {
    if (json_peek(r) != c || r->at == r->end) return false;
    r->at++;
    return true;
}

enum st json_expect(struct json_reader *r, const char *what, enum st code) {
    uint32_t line = 1;
    const char *line_start = r->file;
    for (const char *p = r->file; p < r->at; p++) {
        if (*p != '\n') continue;
        line++;
        line_start = p + 1;
    }
    char found[24] = "the end";
    if (r->at < r->end) {
        char c = *r->at;
        bool visible = c > ' ' && c < 0x7F;
        snprintf(found, sizeof found, visible ? "%c" : "byte %u", visible ? c : (uint8_t)c);
    }
    return err_set(r->err, code, "%s: %s: line %u column %zu: found %s, expected %s", r->name,
                   r->place, line, (size_t)(r->at - line_start) + 1, found, what);
}

static enum st put(struct json_reader *r, struct buf *scratch, const char *text, size_t len) {
    enum st st = buf_append(scratch, text, len);
    return st ? err_set(r->err, st, "%s: %s: out of memory", r->name, r->place) : ST_OK;
}

static enum st read_hex4(struct json_reader *r, uint32_t *out) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        uint32_t c = r->at < r->end ? (uint8_t)*r->at : 0, low = c | 32;
        if (c - '0' < 10)
            v = v * 16 + (c - '0');
        else if (low - 'a' < 6)
            v = v * 16 + (low - 'a' + 10);
        else
            return json_expect(r, "four hexadecimal digits", ST_INVALID);
    }
    *out = v;
    return ST_OK;
}

/* After the \ of an escape. */
static enum st read_escape(struct json_reader *r, struct buf *scratch) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char bytes[4];
    const char *plain = r->at < r->end && *r->at ? strchr(from, *r->at) : NULL;
    if (plain) {
        r->at++;
        return put(r, scratch, &to[plain - from], 1);
    }
    if (r->at == r->end || *r->at != 'u') return json_expect(r, "an escape", ST_INVALID);
    r->at++;
    uint32_t cp = 0, low = 0;
    enum st st = read_hex4(r, &cp);
    if (st) return st;
    if (cp >= 0xD800 && cp < 0xDC00) {
        if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u')
            return json_expect(r, "the second half of a pair", ST_INVALID);
        r->at += 2;
        st = read_hex4(r, &low);
        if (st) return st;
        if (low < 0xDC00 || low > 0xDFFF)
            return json_expect(r, "the second half of a pair", ST_INVALID);
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (cp >= 0xDC00 && cp < 0xE000) {
        return json_expect(r, "the first half of a pair", ST_INVALID);
    }
    return put(r, scratch, bytes, utf8_put(bytes, cp));
}

enum st json_read_string(struct json_reader *r, const char **text, size_t *len,
                         struct buf *scratch) {
    if (!json_accept(r, '"')) return json_expect(r, "a string", ST_INVALID);
    const char *start = r->at;
    bool copied = false;
    scratch->len = 0;
    while (r->at < r->end && *r->at != '"') {
        uint8_t c = (uint8_t)*r->at;
        if (c < 0x20) return json_expect(r, "no control character in a string", ST_INVALID);
        if (c == '\\') {
            enum st st = put(r, scratch, start, (size_t)(r->at - start));
            r->at++;
            if (!st) st = read_escape(r, scratch);
            if (st) return st;
            copied = true;
            start = r->at;
        } else if (c < 0x80) {
            r->at++;
        } else {
            uint32_t cp, n = utf8_next(&cp, r->at, (size_t)(r->end - r->at));
            if (cp >= UTF8_BAD) return json_expect(r, "UTF-8", ST_INVALID);
            r->at += n;
        }
    }
    if (r->at == r->end) return json_expect(r, "the end of a string", ST_INVALID);
    *text = start;
    *len = (size_t)(r->at - start);
    r->at++;
    if (!copied) return ST_OK;
    enum st st = put(r, scratch, start, *len);
    *text = scratch->data;
    *len = scratch->len;
    return st;
}

enum st json_read_u32(struct json_reader *r, uint32_t *out, uint32_t max) {
    char c = json_peek(r), next;
    uint64_t v = 0;
    if (c < '0' || c > '9') return json_expect(r, "an integer from 0", ST_INVALID);
    const char *start = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9' && r->at - start < 11)
        v = v * 10 + (uint64_t)(*r->at++ - '0');
    next = r->at < r->end ? *r->at : '\0';
    if (v > max || (c == '0' && r->at - start > 1) || next == '.' || next == 'e' || next == 'E' ||
        (next >= '0' && next <= '9')) {
        r->at = start;
        char what[64];
        snprintf(what, sizeof what, "the start of an integer from 0 to %u", max);
        return json_expect(r, what, ST_INVALID);
    }
    *out = (uint32_t)v;
    return ST_OK;
}

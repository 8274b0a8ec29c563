/* SPDX-License-Identifier: Apache-2.0 */
/* Implements json_out.h. Runs of bytes that need no escape are copied whole. */
#include "serve/json_out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void json_out_bytes(struct json_out *o, const void *data, size_t len) {
    if (!o->st) o->st = buf_append(o->buf, data, len);
}

void json_out_raw(struct json_out *o, const char *s) { json_out_bytes(o, s, strlen(s)); }

void json_out_int(struct json_out *o, int64_t v) {
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)v);
    json_out_bytes(o, text, (size_t)n);
}

void json_out_float(struct json_out *o, float v) {
    char text[32];
    if (!isfinite(v)) v = -9999.0f;
    int n = 0;
    for (int digits = 6; digits <= 9; digits++) {
        n = snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    json_out_bytes(o, text, (size_t)n);
}

/* Unicode 15, table 3-7: which second bytes may follow a first byte. */
static bool second_ok(uint8_t first, uint8_t second) {
    switch (first) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    }
    return second >= 0x80 && second <= 0xBF;
}

size_t utf8_char_len(const char *s, size_t len, size_t *bad) {
    const uint8_t *u = (const uint8_t *)s;
    if (u[0] < 0x80) return 1;
    size_t want = u[0] >= 0xC2 && u[0] <= 0xDF ? 2 : u[0] >= 0xE0 && u[0] <= 0xEF ? 3 : u[0] >= 0xF0 && u[0] <= 0xF4 ? 4 : 0;
    *bad = 1;
    if (want == 0 || len < 2 || !second_ok(u[0], u[1])) return 0;
    for (size_t i = 2; i < want; i++) {
        *bad = i;
        if (i >= len || u[i] < 0x80 || u[i] > 0xBF) return 0;
    }
    return want;
}

static void escape(struct json_out *o, uint8_t c) {
    static const char short_form[32] = {['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char text[8];
    if (c == '"' || c == '\\') snprintf(text, sizeof text, "\\%c", c);
    else if (c < 32 && short_form[c]) snprintf(text, sizeof text, "\\%c", short_form[c]);
    else snprintf(text, sizeof text, "\\u%04x", c);
    json_out_raw(o, text);
}

void json_out_text(struct json_out *o, const char *s, size_t len) {
    json_out_raw(o, "\"");
    size_t from = 0;
    for (size_t i = 0; i < len;) {
        uint8_t c = (uint8_t)s[i];
        size_t bad = 0, n = utf8_char_len(s + i, len - i, &bad);
        if (n && c != '"' && c != '\\' && c >= 0x20 && c != 0x7f) {
            i += n;
            continue;
        }
        json_out_bytes(o, s + from, i - from);
        if (n) escape(o, c);
        else json_out_raw(o, "\xEF\xBF\xBD");
        i += n ? n : bad;
        from = i;
    }
    json_out_bytes(o, s + from, len - from);
    json_out_raw(o, "\"");
}

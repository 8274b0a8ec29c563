/* SPDX-License-Identifier: Apache-2.0 */
/* Implements json_out.h. Runs of bytes that need no escape are copied whole. */
#include "serve/json_out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/utf8.h"

void json_out_bytes(struct json_out *o, const void *data, size_t len) {
    if (!o->st) o->st = buf_append(o->buf, data, len);
}

void json_out_raw(struct json_out *o, const char *s) {
    json_out_bytes(o, s, strlen(s));
}

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

static void escape(struct json_out *o, uint8_t c) {
    static const char short_form[32] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    char text[8];
    if (c == '"' || c == '\\')
        snprintf(text, sizeof text, "\\%c", c);
    else if (c < 32 && short_form[c])
        snprintf(text, sizeof text, "\\%c", short_form[c]);
    else
        snprintf(text, sizeof text, "\\u%04x", c);
    json_out_raw(o, text);
}

void json_out_text(struct json_out *o, const char *s, size_t len) {
    json_out_raw(o, "\"");
    size_t from = 0;
    for (size_t i = 0; i < len;) {
        uint32_t c = (uint8_t)s[i], n = 1;
        if (c >= 0x80) n = utf8_next(&c, s + i, len - i);
        if (c < UTF8_BAD && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += n;
            continue;
        }
        json_out_bytes(o, s + from, i - from);
        if (c < UTF8_BAD)
            escape(o, (uint8_t)c);
        else
            json_out_raw(o, "\xEF\xBF\xBD");
        i += n;
        from = i;
    }
    json_out_bytes(o, s + from, len - from);
    json_out_raw(o, "\"");
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements json_out.h. Runs of bytes that need no escape are copied whole. Numbers are written
 * without printf where that is safe: 20 alternatives a prompt token, a chunk at a time, would keep
 * the HTTP thread for longer than a health check may wait. */
#include "serve/json_out.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/utf8.h"

void json_out_bytes(struct json_out *o, const void *data, size_t len) {
    if (!o->st) o->st = buf_append(o->buf, data, len);
}

void json_out_raw(struct json_out *o, const char *s) {
    json_out_bytes(o, s, strlen(s));
}

/* Digits of v in front of end; returns where they begin. */
static char *digits_before(char *end, uint64_t v) {
    do *--end = (char)('0' + v % 10);
    while ((v /= 10) != 0);
    return end;
}

void json_out_int(struct json_out *o, int64_t v) {
    char text[24], *end = text + sizeof text;
    char *begin = digits_before(end, v < 0 ? -(uint64_t)v : (uint64_t)v);
    if (v < 0) *--begin = '-';
    json_out_bytes(o, begin, (size_t)(end - begin));
}

static const double power_of_ten[] = {1e0, 1e1, 1e2, 1e3,  1e4,  1e5,  1e6,
                                      1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13};

/* The shortest of 6 to 9 digits that reads back as f, for 1e-4 <= f < 1e5: digits / 10^*decimals.
 * Doubles hold all of it exactly but one product and one quotient; where their last bit could
 * matter it says false. */
static bool shortest(uint64_t *digits, int *decimals, float f) {
    double d = f, low = (d + nextafterf(f, 0)) / 2, high = (d + nextafterf(f, INFINITY)) / 2;
    int exponent = -4;
    while (d >= (exponent < 0 ? 1 / power_of_ten[-exponent - 1] : power_of_ten[exponent + 1]))
        exponent++;
    for (int n = 6; n <= 9; n++) {
        *decimals = n - 1 - exponent;
        double scaled = d * power_of_ten[*decimals], whole = floor(scaled);
        if (fabs(scaled - whole - 0.5) < 1e-5) return false;
        *digits = (uint64_t)whole + (scaled - whole > 0.5);
        double back = (double)*digits / power_of_ten[*decimals];
        if (back == low || back == high) return false;
        if (back > low && back < high) return true;
    }
    return false;
}

/* Fixed notation without the zeros at its end. */
static void write_decimal(struct json_out *o, bool negative, uint64_t digits, int decimals) {
    char text[32], *end = text + sizeof text;
    for (; decimals > 0 && digits % 10 == 0; decimals--) digits /= 10;
    char *begin = end;
    if (decimals > 0) {
        for (int i = 0; i < decimals; i++, digits /= 10) *--begin = (char)('0' + digits % 10);
        *--begin = '.';
    }
    begin = digits_before(begin, digits);
    if (negative) *--begin = '-';
    json_out_bytes(o, begin, (size_t)(end - begin));
}

void json_out_float(struct json_out *o, float v) {
    char text[32];
    uint64_t digits;
    int decimals, n = 0;
    float f = fabsf(v);
    if (f >= 1e-4f && f < 1e5f && shortest(&digits, &decimals, f)) {
        write_decimal(o, v < 0, digits, decimals);
        return;
    }
    if (!isfinite(v)) v = -9999.0f;
    for (int precision = 6; precision <= 9; precision++) {
        n = snprintf(text, sizeof text, "%.*g", precision, (double)v);
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

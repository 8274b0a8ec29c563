/* SPDX-License-Identifier: Apache-2.0 */
/* Implements json.h. jansson bounds the depth (2048) and checks UTF-8; we bound the text before it
 * reads, and the memory. */
#include "base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"

enum {
    PARSE_BYTES_MAX = 256 << 20
}; /* all tensors of Kimi-K2 in one file take 144 MB for a header of 19 */

/* jansson's allocator is ours. It remembers failures, since jansson 2.14 ignores a failed growth of
 * its token buffer and goes on without the byte ("16" becomes "6"). And it bounds what one text may
 * take: "{}," is three bytes of text and 200 of memory. */
static _Thread_local struct {
    bool failed, full; /* malloc refused; we did */
    size_t left;       /* of PARSE_BYTES_MAX while parsing, else SIZE_MAX */
} heap = {.left = SIZE_MAX};

static void *alloc(size_t len) {
    bool fits = len <= heap.left;
    void *p = fits ? malloc(len) : NULL;
    if (!p && fits)
        heap.failed = true;
    else if (!p)
        heap.full = true;
    else if (heap.left != SIZE_MAX)
        heap.left -= len;
    return p;
}

static void set_alloc(void) {
    json_set_alloc_funcs(alloc, free);
}

/* jansson refuses a text for one integer over 64 bits anywhere in it, and transformers writes 10^30
 * for "no limit". Such literals become reals: ".0" behind every run of 19 digits or more outside of
 * strings. */
static enum st widen_integers(struct buf *out, const char *text, size_t len) {
    bool in_string = false;
    enum st st = ST_OK;
    size_t from = 0;
    for (size_t i = 0; i < len && !st; i++) {
        if (text[i] == '"') in_string = !in_string;
        if (in_string && text[i] == '\\') i++;
        if (in_string || text[i] < '0' || text[i] > '9') continue;
        size_t digits = strspn(text + i, "0123456789"); /* text is NUL-terminated */
        char before = i ? text[i - 1] : ' ', after = text[i + digits];
        i += digits - 1;
        if (digits < 19 || after == '.' || after == 'e' || after == 'E' || strchr(".+eE", before))
            continue;
        st = buf_append(out, text + from, i + 1 - from);
        if (!st) st = buf_append_str(out, ".0");
        from = i + 1;
    }
    return st ? st : buf_append(out, text + from, len - from);
}

static json_t *load(const char *text, size_t len, json_error_t *e) {
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *v = json_loadb(text, len, flags, e);
    if (v || json_error_code(e) != json_error_numeric_overflow) return v;
    struct buf copy = {.max = len}, wide = {.max = len + len / 8 + 64};
    if (!buf_append(&copy, text, len) && !widen_integers(&wide, copy.data, len))
        v = json_loadb(wide.data, wide.len, flags, e);
    buf_release(&copy);
    buf_release(&wide);
    return v;
}

enum st json_parse(json_t **out, const char *text, size_t len, const char *name, struct err *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_alloc);
    json_error_t e;
    heap.failed = heap.full = false;
    heap.left = PARSE_BYTES_MAX;
    json_t *v = load(text, len, &e);
    heap.left = SIZE_MAX;
    if (heap.failed || heap.full) {
        json_decref(v);
        if (heap.failed) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
        return err_set(err, ST_FULL,
                       "%s: its many small values take more than %d MiB, for %zu bytes of text",
                       name, PARSE_BYTES_MAX >> 20, len);
    }
    if (!v)
        return err_set(err, ST_INVALID, "%s: line %d column %d: %s", name, e.line, e.column,
                       e.text);
    *out = v;
    return ST_OK;
}

enum st json_read_file(json_t **out, const char *path, size_t max, struct err *err) {
    struct buf text = {.max = max};
    enum st st = file_read(&text, path, err);
    if (!st)
        st = json_parse(out, text.data ? text.data : "", text.len,
                        strcmp(path, "-") == 0 ? "standard input" : path, err);
    buf_release(&text);
    return st;
}

json_t *json_at(const json_t *obj, const char *path) {
    char key[128];
    for (;;) {
        const char *dot = strchr(path, '.');
        size_t len = dot ? (size_t)(dot - path) : strlen(path);
        if (len >= sizeof key) return NULL;
        memcpy(key, path, len);
        key[len] = '\0';
        json_t *v = json_object_get(obj, key);
        if (!v || json_is_null(v)) return NULL;
        if (!dot) return v;
        obj = v;
        path = dot + 1;
    }
}

const char *json_kind(const json_t *v) {
    if (!v) return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return "nothing";
}

enum st json_get_u32(uint32_t *out, const json_t *obj, const char *path, uint32_t min, uint32_t max,
                     uint32_t fallback, const char *name, struct err *err) {
    const json_t *v = json_at(obj, path);
    if (!v) {
        *out = fallback;
        return ST_OK;
    }
    double d = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(d == floor(d)))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected an integer", name, path,
                       json_kind(v));
    if (d < min || d > max)
        return err_set(err, ST_INVALID, "%s: %s: found %.15g, expected %u to %u", name, path, d,
                       min, max);
    *out = (uint32_t)d;
    return ST_OK;
}

enum st json_get_f64(double *out, const json_t *obj, const char *path, double min, double max,
                     double fallback, const char *name, struct err *err) {
    const json_t *v = json_at(obj, path);
    if (!v) {
        *out = fallback;
        return ST_OK;
    }
    if (!json_is_number(v))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected a number", name, path,
                       json_kind(v));
    double d = json_number_value(v);
    if (!(d >= min && d <= max))
        return err_set(err, ST_INVALID, "%s: %s: found %.15g, expected %.10g to %.10g", name, path,
                       d, min, max);
    *out = d;
    return ST_OK;
}

enum st json_get_bool(bool *out, const json_t *obj, const char *path, bool fallback,
                      const char *name, struct err *err) {
    const json_t *v = json_at(obj, path);
    if (v && !json_is_boolean(v))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected true or false", name, path,
                       json_kind(v));
    *out = v ? json_is_true(v) : fallback;
    return ST_OK;
}

enum st json_get_str(const char **out, const json_t *obj, const char *path, const char *fallback,
                     const char *name, struct err *err) {
    const json_t *v = json_at(obj, path);
    if (v && !json_is_string(v))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected a string", name, path,
                       json_kind(v));
    *out = v ? json_string_value(v) : fallback;
    return ST_OK;
}

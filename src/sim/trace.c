/* SPDX-License-Identifier: Apache-2.0 */
/* Implements trace.h. The format is told by the first byte: '{' is Mooncake's. */
#include "sim/trace.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <zlib.h>

enum { FILE_BYTES_MAX = 1 << 30, LINE_MAX_BYTES = 1 << 20, COLUMNS_MAX = 16 };

struct reader {
    struct trace *t;
    const char *name;
    uint64_t line;
    bool mooncake;
    uint64_t cap_rows, cap_blocks;
    double first_s, last_s; /* as the file has them */
    struct err *err;
};

static enum st bad(const struct reader *r, const char *key, const char *found,
                   const char *expected) {
    return err_set(r->err, ST_INVALID, "%s: line %llu: %s: found %s, expected %s", r->name,
                   (unsigned long long)r->line, key, found, expected);
}

static enum st no_memory(const struct reader *r) {
    return err_set(r->err, ST_NO_MEMORY, "%s: out of memory", r->name);
}

/* --- rows ------------------------------------------------------------------------------------- */

static enum st add_row(struct reader *r, const struct trace_row *row) {
    struct trace *t = r->t;
    if (t->n_rows == r->cap_rows) {
        uint64_t cap = r->cap_rows ? 2 * r->cap_rows : 1024;
        if (cap > TRACE_ROWS_MAX) cap = TRACE_ROWS_MAX;
        if (t->n_rows == cap)
            return err_set(r->err, ST_INVALID, "%s: line %llu: more than %d requests", r->name,
                           (unsigned long long)r->line, TRACE_ROWS_MAX);
        struct trace_row *v = realloc(t->rows, cap * sizeof *v);
        if (!v) return no_memory(r);
        t->rows = v;
        r->cap_rows = cap;
    }
    t->rows[t->n_rows] = *row;
    r->last_s = row->at_s;
    if (t->n_rows == 0) r->first_s = row->at_s;
    t->rows[t->n_rows++].at_s -= r->first_s;
    return ST_OK;
}

static enum st add_block(struct reader *r, uint32_t id) {
    struct trace *t = r->t;
    if (t->n_blocks == r->cap_blocks) {
        uint64_t cap = r->cap_blocks ? 2 * r->cap_blocks : 4096;
        uint32_t *v = realloc(t->blocks, cap * sizeof *v);
        if (!v) return no_memory(r);
        t->blocks = v;
        r->cap_blocks = cap;
    }
    t->blocks[t->n_blocks++] = id;
    return ST_OK;
}

/* --- Mooncake --------------------------------------------------------------------------------- */

static enum st get_number(struct reader *r, const json_t *row, const char *key, double min,
                          double max, double *out) {
    const json_t *v = json_object_get(row, key);
    char found[64], expected[64];
    snprintf(expected, sizeof expected, "a number from %.0f to %.0f", min, max);
    if (!v) return bad(r, key, "nothing", expected);
    if (!json_is_number(v)) return bad(r, key, "something else", expected);
    *out = json_number_value(v);
    if (*out >= min && *out <= max) return ST_OK;
    snprintf(found, sizeof found, "%g", *out);
    return bad(r, key, found, expected);
}

/* Those that are missing are nobody else's; without any the prompts share nothing. */
static enum st get_blocks(struct reader *r, const json_t *json, struct trace_row *row) {
    const json_t *ids = json_object_get(json, "hash_ids");
    size_t n = json_array_size(ids),
           most = (row->n_in + (size_t)TRACE_BLOCK_TOKENS - 1) / TRACE_BLOCK_TOKENS;
    char found[64], text[64];
    if (!ids) return ST_OK;
    snprintf(text, sizeof text, "at most %zu ids of 512-token blocks", most);
    if (!json_is_array(ids)) return bad(r, "hash_ids", "no list", text);
    snprintf(found, sizeof found, "%zu", n);
    if (n > most) return bad(r, "hash_ids", found, text);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > UINT32_MAX)
            return bad(r, "hash_ids", "something else", "integers from 0 to 4294967295");
        enum st st = add_block(r, (uint32_t)id);
        if (st) return st;
    }
    row->n_blocks = (uint32_t)n;
    return ST_OK;
}

static enum st mooncake_line(struct reader *r, const char *line, size_t len) {
    json_error_t e;
    double at_ms = 0, n_in = 0, n_out = 0;
    json_t *json = json_loadb(line, len, 0, &e);
    if (!json || !json_is_object(json)) {
        json_decref(json);
        return bad(r, "request", json ? "something else" : e.text, "a JSON object");
    }
    enum st st = get_number(r, json, "timestamp", 0, 1e12, &at_ms);
    if (!st) st = get_number(r, json, "input_length", 1, TRACE_TOKENS_MAX, &n_in);
    if (!st) st = get_number(r, json, "output_length", 0, TRACE_TOKENS_MAX, &n_out);
    struct trace_row row = {.at_s = at_ms / 1e3,
                            .n_in = (uint32_t)n_in,
                            .n_out = (uint32_t)n_out,
                            .block = r->t->n_blocks};
    if (!st && r->t->n_rows > 0 && row.at_s < r->last_s)
        st = bad(r, "timestamp", "an earlier one than the line before", "times in order");
    if (!st) st = get_blocks(r, json, &row);
    json_decref(json);
    return st ? st : add_row(r, &row);
}

/* --- CSV -------------------------------------------------------------------------------------- */

struct columns {
    int time, in, out;
};

/* Splits in place; the number of fields. */
static int split(char *line, char **fields) {
    int n = 0;
    for (char *p = line; p && n < COLUMNS_MAX; n++) {
        fields[n] = p;
        p = strchr(p, ',');
        if (p) *p++ = 0;
    }
    return n;
}

static enum st csv_header(struct reader *r, char *line, struct columns *c) {
    char *fields[COLUMNS_MAX];
    int n = split(line, fields);
    *c = (struct columns){-1, -1, -1};
    for (int i = 0; i < n; i++) {
        if (!strcmp(fields[i], "TIMESTAMP")) c->time = i;
        if (!strcmp(fields[i], "ContextTokens") || !strcmp(fields[i], "num_prefill_tokens"))
            c->in = i;
        if (!strcmp(fields[i], "GeneratedTokens") || !strcmp(fields[i], "num_decode_tokens"))
            c->out = i;
    }
    if (c->in >= 0 && c->out >= 0) return ST_OK;
    return bad(r, "header", "other columns",
               "TIMESTAMP,ContextTokens,GeneratedTokens or num_prefill_tokens,num_decode_tokens");
}

static bool whole(const char *text, double max, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && *out >= 0 && *out <= max && *out == floor(*out);
}

/* Days since 1970 of the Gregorian calendar. */
static int64_t days(int64_t y, int64_t m, int64_t d) {
    y -= m <= 2;
    int64_t era = y / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static bool timestamp(const char *text, double *out) {
    int y, mo, d, h, mi, used = 0;
    double s;
    if (sscanf(text, "%4d-%2d-%2d %2d:%2d:%lf%n", &y, &mo, &d, &h, &mi, &s, &used) != 6 ||
        text[used] || y < 1970 || mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 23 ||
        mi < 0 || mi > 59 || !(s >= 0 && s < 61))
        return false;
    *out = (double)(days(y, mo, d) * 86400 + h * 3600 + mi * 60) + s;
    return true;
}

static enum st csv_line(struct reader *r, char *line, const struct columns *c) {
    char *fields[COLUMNS_MAX], found[80];
    int n = split(line, fields), last = c->in > c->out ? c->in : c->out;
    double at_s = 0, n_in, n_out;
    snprintf(found, sizeof found, "%d fields", n);
    if (n <= last || n <= c->time) return bad(r, "row", found, "as many as the header");
    if (c->time >= 0 && !timestamp(fields[c->time], &at_s))
        return bad(r, "TIMESTAMP", fields[c->time], "YYYY-MM-DD HH:MM:SS.FFF");
    if (!whole(fields[c->in], TRACE_TOKENS_MAX, &n_in) || n_in < 1)
        return bad(r, "ContextTokens", fields[c->in], "a count of tokens");
    if (!whole(fields[c->out], TRACE_TOKENS_MAX, &n_out))
        return bad(r, "GeneratedTokens", fields[c->out], "a count of tokens");
    if (r->t->n_rows > 0 && at_s < r->last_s)
        return bad(r, "TIMESTAMP", "an earlier one than the line before", "times in order");
    struct trace_row row = {.at_s = at_s, .n_in = (uint32_t)n_in, .n_out = (uint32_t)n_out};
    return add_row(r, &row);
}

/* --- the whole -------------------------------------------------------------------------------- */

static enum st read_line(struct reader *r, char *line, size_t len, struct columns *c) {
    if (len > 0 && line[len - 1] == '\r') line[--len] = 0;
    if (len == 0) return ST_OK;
    if (r->mooncake) return mooncake_line(r, line, len);
    if (c->in >= 0) return csv_line(r, line, c);
    enum st st = csv_header(r, line, c);
    r->t->has_times = c->time >= 0;
    return st;
}

enum st trace_read(struct trace *t, const char *bytes, size_t len, const char *name, uint32_t n_max,
                   struct err *err) {
    struct reader r = {.t = t, .name = name, .mooncake = len > 0 && bytes[0] == '{', .err = err};
    struct columns c = {-1, -1, -1};
    enum st st = ST_OK;
    char *line = malloc(LINE_MAX_BYTES + 1);
    *t = (struct trace){.has_times = r.mooncake};
    if (!line) return no_memory(&r);
    for (size_t at = 0; at < len && !st && !(n_max && t->n_rows == n_max);) {
        const char *end = memchr(bytes + at, '\n', len - at);
        size_t n = end ? (size_t)(end - bytes) - at : len - at;
        r.line++;
        if (n > LINE_MAX_BYTES || memchr(bytes + at, 0, n)) {
            st = bad(&r, "line", n > LINE_MAX_BYTES ? "more than 1 MiB" : "a zero byte", "text");
            break;
        }
        memcpy(line, bytes + at, n);
        line[n] = 0;
        st = read_line(&r, line, n, &c);
        at += n + 1;
    }
    free(line);
    if (!st && t->n_rows == 0) st = err_set(err, ST_INVALID, "%s: found no request", name);
    if (st) {
        trace_release(t);
        return st;
    }
    double last = t->rows[t->n_rows - 1].at_s;
    t->span_s = t->n_rows > 1 ? last * t->n_rows / (t->n_rows - 1) : last;
    return ST_OK;
}

static enum st read_failed(gzFile f, const char *path, struct err *err) {
    int code;
    const char *why = gzerror(f, &code);
    if (code == Z_ERRNO) return err_set(err, ST_IO, "%s: cannot read: %s", path, strerror(errno));
    return err_set(err, ST_CORRUPT, "%s: damaged gzip data (%s)", path, why);
}

enum st trace_open(struct trace *t, const char *path, uint32_t n_max, struct err *err) {
    /* reads plain files as they are */
    gzFile f = strcmp(path, "-") == 0 ? gzdopen(dup(0), "rb") : gzopen(path, "rbe");
    char *bytes = NULL;
    size_t len = 0, cap = 0;
    enum st st =
        f ? ST_OK : err_set(err, ST_NOT_FOUND, "%s: cannot open: %s", path, strerror(errno));
    while (!st) {
        if (len == cap) {
            cap = cap ? 2 * cap : 1 << 20;
            char *more = cap <= FILE_BYTES_MAX ? realloc(bytes, cap) : NULL;
            if (!more) {
                st = err_set(err, ST_NO_MEMORY, "%s: too large", path);
                break;
            }
            bytes = more;
        }
        int n = gzread(f, bytes + len, (unsigned)(cap - len));
        if (n < 0) st = read_failed(f, path, err);
        if (n <= 0) break;
        len += (size_t)n;
    }
    if (f) gzclose(f);
    if (!st) st = trace_read(t, bytes, len, path, n_max, err);
    free(bytes);
    return st;
}

void trace_release(struct trace *t) {
    free(t->rows);
    free(t->blocks);
    *t = (struct trace){0};
}

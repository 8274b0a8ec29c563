/* SPDX-License-Identifier: Apache-2.0 */
/* Implements trace.h. The format is told by the first byte: '{' is Mooncake's. */
#include "sim/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <zlib.h>

enum { LINE_MAX_BYTES = 1 << 20, COLUMNS_MAX = 16, FOUND_BYTES = 80 };
/* A small gzip file may hold any amount of text. */
static const uint64_t text_bytes_max = UINT64_C(1) << 30, blocks_max = UINT64_C(1) << 27;

struct reader {
    struct trace *t;
    const char *name;
    uint32_t n_max;
    uint64_t n_bytes, line;
    enum { FORMAT_UNKNOWN, FORMAT_MOONCAKE, FORMAT_CSV } format;
    struct columns {
        int time, in, out;
        const char *in_name, *out_name;
    } columns;
    char *text; /* [LINE_MAX_BYTES + 1] the line under way */
    size_t len;
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
        if (cap > blocks_max)
            return err_set(r->err, ST_INVALID, "%s: line %llu: more than %llu blocks in all",
                           r->name, (unsigned long long)r->line, (unsigned long long)blocks_max);
        uint32_t *v = realloc(t->blocks, cap * sizeof *v);
        if (!v) return no_memory(r);
        t->blocks = v;
        r->cap_blocks = cap;
    }
    t->blocks[t->n_blocks++] = id;
    return ST_OK;
}

/* --- Mooncake --------------------------------------------------------------------------------- */

/* As a sentence calls it. */
static const char *name_value(const json_t *v, char out[FOUND_BYTES]) {
    if (json_is_string(v)) snprintf(out, FOUND_BYTES, "\"%.60s\"", json_string_value(v));
    if (json_is_real(v)) snprintf(out, FOUND_BYTES, "%.9g", json_real_value(v));
    if (json_is_integer(v))
        snprintf(out, FOUND_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    if (json_is_string(v) || json_is_number(v)) return out;
    return !v                   ? "nothing"
           : json_is_null(v)    ? "null"
           : json_is_boolean(v) ? "true or false"
           : json_is_array(v)   ? "a list"
                                : "an object";
}

static enum st get_number(struct reader *r, const json_t *row, const char *key, bool whole,
                          double min, double max, double *out) {
    const json_t *v = json_object_get(row, key);
    char found[FOUND_BYTES], expected[64];
    snprintf(expected, sizeof expected, "a %snumber from %.0f to %.0f", whole ? "whole " : "", min,
             max);
    *out = json_number_value(v);
    if (json_is_number(v) && *out >= min && *out <= max && (!whole || *out == floor(*out)))
        return ST_OK;
    return bad(r, key, name_value(v, found), expected);
}

/* Those that are missing are nobody else's; without any the prompts share nothing. */
static enum st get_blocks(struct reader *r, const json_t *json, struct trace_row *row) {
    const json_t *ids = json_object_get(json, "hash_ids");
    size_t n = json_array_size(ids),
           most = (row->n_in + (size_t)TRACE_BLOCK_TOKENS - 1) / TRACE_BLOCK_TOKENS;
    char found[FOUND_BYTES], text[64];
    if (!ids) return ST_OK;
    snprintf(text, sizeof text, "at most %zu ids of 512-token blocks", most);
    if (!json_is_array(ids)) return bad(r, "hash_ids", name_value(ids, found), text);
    snprintf(found, sizeof found, "%zu", n);
    if (n > most) return bad(r, "hash_ids", found, text);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > UINT32_MAX)
            return bad(r, "hash_ids", name_value(v, found), "whole numbers from 0 to 4294967295");
        enum st st = add_block(r, (uint32_t)id);
        if (st) return st;
    }
    row->n_blocks = (uint32_t)n;
    return ST_OK;
}

static enum st mooncake_line(struct reader *r) {
    json_error_t e;
    double at_ms = 0, n_in = 0, n_out = 0;
    char found[FOUND_BYTES];
    json_t *json = json_loadb(r->text, r->len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!json_is_object(json)) {
        enum st st = bad(r, "request", json ? name_value(json, found) : e.text, "a JSON object");
        json_decref(json);
        return st;
    }
    enum st st = get_number(r, json, "timestamp", false, 0, 1e12, &at_ms);
    if (!st) st = get_number(r, json, "input_length", true, 1, TRACE_TOKENS_MAX, &n_in);
    if (!st) st = get_number(r, json, "output_length", true, 0, TRACE_TOKENS_MAX, &n_out);
    struct trace_row row = {.at_s = at_ms / 1e3, .block = r->t->n_blocks};
    if (!st) row.n_in = (uint32_t)n_in, row.n_out = (uint32_t)n_out;
    if (!st && r->t->n_rows > 0 && row.at_s < r->last_s)
        st = bad(r, "timestamp", "an earlier one than the line before", "times in order");
    if (!st) st = get_blocks(r, json, &row);
    json_decref(json);
    return st ? st : add_row(r, &row);
}

/* --- CSV -------------------------------------------------------------------------------------- */

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

/* A column may have the name that either format gives it, and stands once. */
static enum st column(struct reader *r, char *field, int i, const char *a, const char *b, int *at,
                      const char **name) {
    const char *is = strcmp(field, a) == 0 ? a : strcmp(field, b) == 0 ? b : NULL;
    if (!is) return ST_OK;
    if (*at >= 0) return bad(r, "header", "two columns of that kind", field);
    *at = i;
    if (name) *name = is;
    return ST_OK;
}

static enum st csv_header(struct reader *r) {
    struct columns *c = &r->columns;
    char *fields[COLUMNS_MAX], found[FOUND_BYTES];
    snprintf(found, sizeof found, "'%.60s'", r->text);
    int n = split(r->text, fields);
    enum st st = ST_OK;
    for (int i = 0; i < n && !st; i++) {
        st = column(r, fields[i], i, "TIMESTAMP", "TIMESTAMP", &c->time, NULL);
        if (!st)
            st =
                column(r, fields[i], i, "ContextTokens", "num_prefill_tokens", &c->in, &c->in_name);
        if (!st)
            st = column(r, fields[i], i, "GeneratedTokens", "num_decode_tokens", &c->out,
                        &c->out_name);
    }
    r->t->has_times = c->time >= 0;
    if (st || (c->in >= 0 && c->out >= 0)) return st;
    return bad(r, "header", found,
               "TIMESTAMP,ContextTokens,GeneratedTokens or num_prefill_tokens,num_decode_tokens, "
               "or the JSON objects of Mooncake's traces");
}

/* Some tools write 374.0. */
static bool whole(const char *text, double min, double *out) {
    char *end;
    *out = strtod(text, &end);
    return text[0] && !text[strspn(text, "0123456789.")] && *end == 0 && *out >= min &&
           *out <= TRACE_TOKENS_MAX && *out == floor(*out);
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
    if (text[strspn(text, "0123456789-: .")] ||
        sscanf(text, "%4d-%2d-%2d %2d:%2d:%lf%n", &y, &mo, &d, &h, &mi, &s, &used) != 6 ||
        text[used] || text[0] == ' ' || y < 1970 || mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 ||
        h > 23 || mi < 0 || mi > 59 || !(s >= 0 && s < 61))
        return false;
    *out = (double)(days(y, mo, d) * 86400 + h * 3600 + mi * 60) + s;
    return true;
}

static enum st bad_field(struct reader *r, const char *key, const char *field,
                         const char *expected) {
    char found[FOUND_BYTES];
    snprintf(found, sizeof found, "'%.60s'", field);
    return bad(r, key, found, expected);
}

static enum st csv_line(struct reader *r) {
    const struct columns *c = &r->columns;
    char *fields[COLUMNS_MAX], text[64];
    int n = split(r->text, fields), last = c->in > c->out ? c->in : c->out;
    double at_s = 0, n_in, n_out;
    snprintf(text, sizeof text, "%d field%s", n, n == 1 ? "" : "s");
    if (n <= last || n <= c->time) return bad(r, "row", text, "as many as the header");
    if (c->time >= 0 && !timestamp(fields[c->time], &at_s))
        return bad_field(r, "TIMESTAMP", fields[c->time], "YYYY-MM-DD HH:MM:SS.FFF");
    snprintf(text, sizeof text, "a whole number from 1 to %d", TRACE_TOKENS_MAX);
    if (!whole(fields[c->in], 1, &n_in)) return bad_field(r, c->in_name, fields[c->in], text);
    snprintf(text, sizeof text, "a whole number from 0 to %d", TRACE_TOKENS_MAX);
    if (!whole(fields[c->out], 0, &n_out)) return bad_field(r, c->out_name, fields[c->out], text);
    if (r->t->n_rows > 0 && at_s < r->last_s)
        return bad(r, "TIMESTAMP", "an earlier one than the line before", "times in order");
    struct trace_row row = {.at_s = at_s, .n_in = (uint32_t)n_in, .n_out = (uint32_t)n_out};
    return add_row(r, &row);
}

/* --- lines ------------------------------------------------------------------------------------ */

static enum st take_line(struct reader *r) {
    r->line++;
    if (memchr(r->text, 0, r->len)) return bad(r, "line", "a zero byte", "text");
    if (r->len > 0 && r->text[r->len - 1] == '\r') r->len--;
    if (r->line == 1 && r->len >= 3 && memcmp(r->text, "\xef\xbb\xbf", 3) == 0)
        memmove(r->text, r->text + 3, r->len -= 3); /* a byte order mark */
    r->text[r->len] = 0;
    enum st st = ST_OK;
    if (r->len > 0 && r->format == FORMAT_UNKNOWN && r->text[0] != '{') {
        r->format = FORMAT_CSV;
        st = csv_header(r);
    } else if (r->len > 0 && r->format != FORMAT_CSV) {
        r->format = FORMAT_MOONCAKE;
        r->t->has_times = true;
        st = mooncake_line(r);
    } else if (r->len > 0) {
        st = csv_line(r);
    }
    r->len = 0;
    return st;
}

static bool has_all(const struct reader *r) {
    return r->n_max && r->t->n_rows == r->n_max;
}

static enum st take(struct reader *r, const char *bytes, size_t len) {
    r->n_bytes += len;
    if (r->n_bytes > text_bytes_max)
        return err_set(r->err, ST_INVALID, "%s: found more than %llu bytes of text, expected less",
                       r->name, (unsigned long long)text_bytes_max);
    for (enum st st; len > 0 && !has_all(r);) {
        const char *end = memchr(bytes, '\n', len);
        size_t n = end ? (size_t)(end - bytes) : len;
        if (n > LINE_MAX_BYTES - r->len) {
            r->line++;
            return bad(r, "line", "more than 1 MiB", "text");
        }
        memcpy(r->text + r->len, bytes, n);
        r->len += n;
        if (!end) break;
        if ((st = take_line(r))) return st;
        bytes = end + 1;
        len -= n + 1;
    }
    return ST_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

static enum st begin(struct reader *r, struct trace *t, const char *name, uint32_t n_max,
                     struct err *err) {
    *t = (struct trace){0};
    *r = (struct reader){.t = t,
                         .name = name,
                         .n_max = n_max,
                         .columns = {-1, -1, -1, NULL, NULL},
                         .text = malloc(LINE_MAX_BYTES + 1),
                         .err = err};
    return r->text ? ST_OK : no_memory(r);
}

/* The last line may lack its end. */
static enum st end(struct reader *r, enum st st) {
    struct trace *t = r->t;
    if (!st && r->len > 0) st = take_line(r);
    free(r->text);
    if (!st && t->n_rows == 0)
        st = err_set(r->err, ST_INVALID, "%s: found no request, expected at least one", r->name);
    if (st) {
        trace_release(t);
        return st;
    }
    double last = t->rows[t->n_rows - 1].at_s;
    t->span_s = t->n_rows > 1 ? last * t->n_rows / (t->n_rows - 1) : last;
    return ST_OK;
}

enum st trace_read(struct trace *t, const char *bytes, size_t len, const char *name, uint32_t n_max,
                   struct err *err) {
    struct reader r;
    enum st st = begin(&r, t, name, n_max, err);
    if (!st) st = take(&r, bytes, len);
    return end(&r, st);
}

/* Another's FIFO or device must not hang us; whoever has a pipe says "-". */
static enum st open_file(int *fd, const char *path, struct err *err) {
    struct stat sb;
    bool input = strcmp(path, "-") == 0;
    *fd = input ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return err_set(err, st_from_errno(errno), "%s: cannot open: %s", path, strerror(errno));
    if (input || (fstat(*fd, &sb) == 0 && S_ISREG(sb.st_mode))) return ST_OK;
    close(*fd);
    return err_set(err, ST_INVALID, "%s: not a regular file, expected one, or - for standard input",
                   path);
}

/* Nothing more came: is that the end? */
static enum st check_end(const struct reader *r, gzFile f, int n) {
    int code;
    const char *why = gzerror(f, &code), *colon = strstr(why, ": "); /* behind the name it gave */
    if (n == 0 && code != Z_BUF_ERROR) return ST_OK;
    if (code == Z_ERRNO)
        return err_set(r->err, ST_IO, "%s: cannot read: %s", r->name, strerror(errno));
    return err_set(r->err, ST_CORRUPT, "%s: line %llu: %s, expected whole gzip data", r->name,
                   (unsigned long long)r->line + 1,
                   n == 0  ? "the file ends in the middle of its gzip data"
                   : colon ? colon + 2
                           : why);
}

enum st trace_open(struct trace *t, const char *path, uint32_t n_max, struct err *err) {
    struct reader r;
    char bytes[16384];
    int fd, n = 0;
    *t = (struct trace){0};
    enum st st = open_file(&fd, path, err);
    if (st) return st;
    gzFile f = gzdopen(fd, "rb"); /* reads plain files as they are */
    st = begin(&r, t, path, n_max, err);
    if (!f) close(fd);
    if (!f && !st) st = no_memory(&r);
    while (!st && !has_all(&r) && (n = gzread(f, bytes, sizeof bytes)) > 0)
        st = take(&r, bytes, (size_t)n);
    if (!st && !has_all(&r)) st = check_end(&r, f, n);
    if (f) gzclose(f);
    return end(&r, st);
}

void trace_release(struct trace *t) {
    free(t->rows);
    free(t->blocks);
    *t = (struct trace){0};
}

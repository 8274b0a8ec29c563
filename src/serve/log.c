/* SPDX-License-Identifier: Apache-2.0 */
/* Implements log.h. */
#include "serve/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "serve/json_out.h"

enum { LINE_MAX_BYTES = 4096, SECOND_NS = 1000000000 };

static const char *const level_names[] = {
    [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"};

static void write_time(struct json_out *o) {
    char text[64];
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(t.tv_nsec / 1000000));
    json_out_raw(o, text);
}

/* Integers as such, everything else to the microsecond. */
static void write_number(struct json_out *o, double v) {
    char text[64];
    if (v == rint(v) && fabs(v) < 9e15)
        snprintf(text, sizeof text, "%lld", (long long)v);
    else
        snprintf(text, sizeof text, "%.6f", isfinite(v) ? v : -1.0);
    json_out_raw(o, text);
}

/* A word stands as it is; what would not read back as one word stands in quotes. */
static void write_word(struct json_out *o, const char *text) {
    for (const char *c = text; *c; c++) {
        if (*c > ' ' && *c < 0x7f && *c != '"' && *c != '\\') continue;
        json_out_text(o, text, strlen(text));
        return;
    }
    json_out_raw(o, *text ? text : "\"\"");
}

static void write_text(struct json_out *o, enum log_level level, const char *event,
                       const struct log_field *fields) {
    write_time(o);
    json_out_raw(o, level == LOG_INFO ? " " : level == LOG_WARN ? " warn " : " error ");
    json_out_raw(o, event);
    for (const struct log_field *f = fields; f && f->name; f++) {
        json_out_raw(o, f == fields ? ": " : " ");
        json_out_raw(o, f->name);
        json_out_raw(o, " ");
        if (f->text)
            write_word(o, f->text);
        else
            write_number(o, f->number);
    }
}

static void write_json(struct json_out *o, enum log_level level, const char *event,
                       const struct log_field *fields) {
    json_out_raw(o, "{\"time\":\"");
    write_time(o);
    json_out_raw(o, "\",\"level\":\"");
    json_out_raw(o, level_names[level]);
    json_out_raw(o, "\",\"event\":");
    json_out_text(o, event, strlen(event));
    for (const struct log_field *f = fields; f && f->name; f++) {
        json_out_raw(o, ",");
        json_out_text(o, f->name, strlen(f->name));
        json_out_raw(o, ":");
        if (f->text)
            json_out_text(o, f->text, strlen(f->text));
        else
            write_number(o, f->number);
    }
    json_out_raw(o, "}");
}

void log_event(const struct log *l, enum log_level level, const char *event,
               const struct log_field *fields) {
    struct buf line = {.max = LINE_MAX_BYTES};
    struct json_out o = {&line, ST_OK};
    (l->format == LOG_JSON ? write_json : write_text)(&o, level, event, fields);
    json_out_raw(&o, "\n");
    /* A line over the limit or a log that cannot be written is lost: there is nobody to tell. */
    if (!o.st && write(l->fd, line.data, line.len) < 0) o.st = ST_IO;
    buf_release(&line);
}

bool log_may(struct log_limit *limit, uint64_t now_ns, uint32_t *skipped) {
    if (limit->last_ns && now_ns - limit->last_ns < SECOND_NS) {
        limit->skipped++;
        return false;
    }
    *skipped = limit->skipped;
    *limit = (struct log_limit){.last_ns = now_ns};
    return true;
}

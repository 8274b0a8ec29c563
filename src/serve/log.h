/* SPDX-License-Identifier: Apache-2.0 */
/* What a running server tells its operator: one line an event, "area: what happened: key value ..."
 * or the same as a JSON object, written whole so that lines of several threads do not mix. What a
 * stranger can cause is limited to one line a second and kind; the next line says how many were
 * left out. Prompts and answers are never logged. */
#ifndef SUPERNODE_SERVE_LOG_H
#define SUPERNODE_SERVE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_format { LOG_TEXT, LOG_JSON };
enum log_level { LOG_INFO, LOG_WARN, LOG_ERROR };

struct log {
    int fd; /* borrowed */
    enum log_format format;
};

/* text NULL: number. Names are constants of ours, texts may be anything. */
struct log_field {
    const char *name, *text;
    double number;
};
#define LOG_STR(name_, text_)                                                                      \
    { .name = (name_), .text = (text_) }
#define LOG_NUM(name_, number_)                                                                    \
    { .name = (name_), .number = (double)(number_) }
#define LOG_FIELDS(...) ((const struct log_field[]){__VA_ARGS__, {0}})

/* event: "serve: stopping"; fields end with a NULL name, or NULL. Any thread. */
void log_event(const struct log *l, enum log_level level, const char *event,
               const struct log_field *fields);

/* One kind of line that strangers cause. */
struct log_limit {
    uint64_t last_ns; /* 0: none yet */
    uint32_t skipped;
};
/* False: not now; the next line's *skipped counts it. */
bool log_may(struct log_limit *limit, uint64_t now_ns, uint32_t *skipped);

#endif

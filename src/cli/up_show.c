/* SPDX-License-Identifier: Apache-2.0 */
/* Implements up_show.h. */
#include "cli/up_show.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cluster_table.h"

static void clock_of(char out[16], time_t at) {
    struct tm tm;
    localtime_r(&at, &tm);
    strftime(out, 16, "%H:%M:%S", &tm);
}

static void add(struct up_show *s, const char *text) {
    char at[16];
    if (s->n_events == UP_EVENTS) {
        memmove(s->events, s->events + 1, (UP_EVENTS - 1) * sizeof *s->events);
        s->n_events--;
    }
    struct up_event *e = &s->events[s->n_events++];
    e->at = time(NULL);
    snprintf(e->text, sizeof e->text, "%s", text);
    if (s->terminal) return;
    clock_of(at, e->at);
    printf("%s  %s\n", at, e->text);
    fflush(stdout);
}

void up_event(struct up_show *s, const char *fmt, ...) {
    char text[CLUSTER_EVENT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    add(s, text);
}

void up_events_of(struct up_show *s, const struct cluster_view *v) {
    if (v->events_total < s->seen) s->seen = 0; /* another router */
    uint64_t n_new = v->events_total - s->seen;
    uint32_t n = n_new < v->n_events ? (uint32_t)n_new : v->n_events;
    for (uint32_t i = n; i-- > 0;) add(s, v->events[i].text);
    s->seen = v->events_total;
}

/* Each line is cut at the terminal's edge: one that wraps would be two when it is drawn over. */
static void print_line(const char *line, size_t len, int columns) {
    printf("\033[2K%.*s\n", len < (size_t)columns ? (int)len : columns - 1, line);
}

static uint32_t print_lines(const char *text, int columns) {
    uint32_t n = 0;
    for (const char *line = text, *end; *line; line = end + 1, n++) {
        end = strchr(line, '\n');
        print_line(line, (size_t)(end - line), columns);
    }
    return n;
}

void up_draw(struct up_show *s, const struct cluster_view *v, const char *url) {
    struct winsize size;
    char *text = NULL, at[16];
    size_t len = 0;
    if (!s->terminal) return;
    FILE *f = open_memstream(&text, &len);
    if (!f) return;
    if (v)
        cluster_table_roles(f, v, url);
    else
        fprintf(f, "router   %s  does not answer\n", url);
    for (uint32_t i = 0; i < s->n_events; i++) {
        clock_of(at, s->events[i].at);
        fprintf(f, "%-8s %s %s\n", i ? "" : "events", at, s->events[i].text);
    }
    fprintf(f, "%s\n", s->hint);
    fclose(f);
    int columns = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 120;
    if (s->n_lines) printf("\033[%uA", s->n_lines);
    s->n_lines = text ? print_lines(text, columns) : 0;
    printf("\033[J");
    fflush(stdout);
    free(text);
}

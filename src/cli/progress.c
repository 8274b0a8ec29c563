/* SPDX-License-Identifier: Apache-2.0 */
/* Implements progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

enum { WIDTH = 24, REDRAW_NS = 100000000 };

void progress_begin(struct progress *p, const char *what) {
    *p = (struct progress){
        .what = what, .terminal = isatty(STDERR_FILENO), .begun_ns = clock_now_ns()};
}

void progress_show(struct progress *p, uint64_t done, uint64_t total, const char *note) {
    uint64_t now = clock_now_ns();
    if (!p->terminal || total == 0 || (now - p->drawn_ns < REDRAW_NS && done < total)) return;
    p->drawn_ns = now;
    char bar[WIDTH + 1];
    for (uint64_t i = 0; i < WIDTH; i++) bar[i] = i < done * WIDTH / total ? '#' : '-';
    bar[WIDTH] = '\0';
    double s = (double)(now - p->begun_ns) / 1e9,
           left = done ? s * (double)(total - done) / (double)done : 0;
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%  %.0f s left  %s", p->what, bar,
            100.0 * (double)done / (double)total, left, note);
}

void progress_end(struct progress *p) {
    if (p->terminal && p->drawn_ns) fprintf(stderr, "\r\033[K");
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A progress bar on stderr for long work, drawn only on a terminal and at most ten times a second.
 */
#ifndef SUPERNODE_CLI_PROGRESS_H
#define SUPERNODE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what;
    bool terminal;
    uint64_t begun_ns, drawn_ns;
};

void progress_begin(struct progress *p, const char *what);
/* note stands behind the bar: the figure people wait for. */
void progress_show(struct progress *p, uint64_t done, uint64_t total, const char *note);
void progress_end(struct progress *p); /* clears the line */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What `up` shows: on a terminal a table that is drawn again in place, with the last events below
 * it; elsewhere a line for each event. */
#ifndef SUPERNODE_CLI_UP_SHOW_H
#define SUPERNODE_CLI_UP_SHOW_H

#include <stdbool.h>
#include <time.h>

#include "cluster/cluster.h"

enum { UP_EVENTS = 5 };

struct up_show {
    bool terminal;
    const char *hint; /* the last line; borrowed */
    uint32_t n_lines; /* drawn last time */
    struct up_event {
        time_t at;
        char text[CLUSTER_EVENT_BYTES];
    } events[UP_EVENTS]; /* oldest first */
    uint32_t n_events;
    uint64_t seen; /* of the router's events */
};

void up_event(struct up_show *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The router's events that are new. */
void up_events_of(struct up_show *s, const struct cluster_view *v);
/* url: where clients ask; v NULL: the router does not answer. */
void up_draw(struct up_show *s, const struct cluster_view *v, const char *url);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What of a cluster every thread may see: a copy of the router's view, a few times a second, with the
 * wall clock's time of events. */
#ifndef SUPERNODE_SERVE_CLUSTER_WATCH_H
#define SUPERNODE_SERVE_CLUSTER_WATCH_H

#include "cluster/cluster.h"
#include "serve/log.h"

struct cluster_watch;

/* log, borrowed: gets a line for each event. */
enum st ST_CHECKED cluster_watch_new(struct cluster_watch **out, const struct log *log,
                                     struct err *err);
void cluster_watch_free(struct cluster_watch *w); /* NULL is allowed */

/* The router's thread: fill the view, then publish it. */
struct cluster_view *cluster_watch_next(struct cluster_watch *w);
void cluster_watch_publish(struct cluster_watch *w);

/* Any thread. */
void cluster_watch_view(struct cluster_watch *w, struct cluster_view *out);
/* True: there is a worker for prompts and one for streams. Otherwise which role lacks one. */
bool cluster_watch_ready(struct cluster_watch *w, enum member_role *lacking);

#endif

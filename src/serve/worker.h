/* SPDX-License-Identifier: Apache-2.0 */
/* What stands behind the HTTP thread: a text thread (bodies become records) and a computing thread
 * (records become tokens, by an engine or a router), each with a queue before it. Neither ever waits
 * for a client. */
#ifndef SUPERNODE_SERVE_WORKER_H
#define SUPERNODE_SERVE_WORKER_H

#include "serve/compute.h"
#include "serve/front.h"
#include "serve/mailbox.h"

struct worker;

/* So that requests which come together are computed together, the computing thread is told of a first one
 * only when no further body waits, when so much time has passed, or when a long body is next. */
enum { WORKER_TOGETHER_NS = 2000000, WORKER_TOGETHER_BYTES = 16 << 10 };

/* Starts the threads; what the arguments point to is borrowed until worker_stop. */
enum st ST_CHECKED worker_start(struct worker **out, const struct front *front,
                                const struct compute *compute, struct mailbox *mailbox,
                                struct err *err);
/* Hands a job over: it comes back done through the mailbox. A text thread that sleeps is told by
 * worker_begin, so that jobs which come together begin together. HTTP thread. */
void worker_submit(struct worker *w, struct job *j);
void worker_begin(struct worker *w);
/* The calling thread leaves the core of the computing thread, if that is at work there and others may be
 * had: it hands out the tiles, and all of its team would wait with it. HTTP thread. */
void worker_keep_off(struct worker *w);
/* It is not wanted any more; it still comes back done. HTTP thread. */
void worker_cancel(struct worker *w, struct job *j);
/* From here on a job that nobody has begun comes back done with this error when its turn comes. */
void worker_refuse_waiting(struct worker *w, const struct api_error *why);
/* A copy of what is counted there. Any thread. */
void worker_stats(struct worker *w, struct engine_stats *out);
/* For how long no piece of work was finished although some waits; 0 where none waits. Any thread. */
uint64_t worker_stuck_ns(struct worker *w);
/* Waits for the threads; jobs should be done or cancelled. Those that still wait come back done
 * first. NULL is allowed. */
void worker_stop(struct worker *w);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The computing side of the all-in-one server: a text thread (bodies become records) and an engine
 * thread (records become tokens), each with a queue before it. Neither ever waits for a client. */
#ifndef SUPERNODE_SERVE_WORKER_H
#define SUPERNODE_SERVE_WORKER_H

#include "engine/engine.h"
#include "serve/front.h"
#include "serve/mailbox.h"

struct worker;

/* Starts the threads; all arguments are borrowed until worker_stop. */
enum st ST_CHECKED worker_start(struct worker **out, const struct front *front,
                                struct engine *engine, struct mailbox *mailbox, struct err *err);
/* Hands a job over: it comes back done through the mailbox. HTTP thread. */
void worker_submit(struct worker *w, struct job *j);
/* From here on a job that nobody has begun comes back done with this error when its turn comes. */
void worker_refuse_waiting(struct worker *w, const struct api_error *why);
/* A copy of what the engine counts. Any thread. */
void worker_stats(struct worker *w, struct engine_stats *out);
/* For how long no piece of work was finished although some waits; 0 where none waits. Any thread. */
uint64_t worker_stuck_ns(struct worker *w);
/* Waits for the threads; jobs should be done or cancelled. Those that still wait come back done
 * first. NULL is allowed. */
void worker_stop(struct worker *w);

#endif

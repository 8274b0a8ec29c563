/* SPDX-License-Identifier: Apache-2.0 */
/* One request between three threads. The HTTP thread makes a job from a body and owns it; the text
 * thread turns the body into records; the engine thread computes tokens from them. Queues
 * hand the job on, so each part has one user at a time; what comes back (tokens, the end) goes
 * through the mailbox. A job ends by exactly one "done", and only the HTTP thread frees it: whoever
 * loses interest sets cancel and waits for done. */
#ifndef SUPERNODE_SERVE_JOB_H
#define SUPERNODE_SERVE_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/token.h"
#include "serve/api_error.h"
#include "serve/api_request.h"

struct job {
    struct job *next; /* in the queue that holds it */
    atomic_bool cancel;

    /* The body, until the text thread read it. */
    enum api_kind kind;
    char *body;
    size_t body_len;

    /* Written by the text thread; read-only once a token or done arrived. */
    char id[REQUEST_ID_BYTES];
    struct api_request api;
    struct request *records; /* one a prompt of the body */
    uint32_t n_records;

    /* In the mailbox, under its lock: tokens not yet taken (struct job_token, each followed by its
     * n_top alternatives). */
    struct job *ready_next;
    bool ready, done;
    struct buf inbox;
    struct api_error error; /* with done: status 0 when it ended well */

    /* The HTTP thread's own. */
    struct buf taken; /* the inbox as it was taken; its memory is the next inbox */
    void *reply;
};

struct job_token {
    uint32_t record, attempt, choice, position, id, n_top, n_cached;
    float logprob;
    enum finish_reason finish;
};

/* body is taken over (malloc). NULL: out of memory, and body is freed. */
struct job *job_new(enum api_kind kind, char *body, size_t body_len);
void job_free(struct job *j); /* NULL is allowed */

#endif

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

enum { JOB_CHOICES_MAX = REQUEST_CHOICES_MAX }; /* of all records together */

struct job {
    struct job *next; /* in the queue that holds it */
    atomic_bool cancel;
    atomic_bool left;    /* why: the client is gone */
    uint64_t arrived_ns; /* at the worker */
    /* Choices that have all they need (a stop string came) while others go on: bit record *
     * n_choices + choice. Set by the HTTP thread, looked at by the engine's. */
    atomic_uint_least64_t unwanted[JOB_CHOICES_MAX / 64];

    /* The body, until the text thread read it. */
    enum api_kind kind;
    char *body;
    size_t body_len;
    char tenant[REQUEST_ID_BYTES]; /* of the API key; into every record */

    /* Written by the text thread; read-only once a token or done arrived. */
    char id[REQUEST_ID_BYTES];
    struct api_request api;
    struct request *records; /* one a prompt of the body, all with as many choices */
    uint32_t n_records;      /* 0: nothing to compute, the answer is `whole` */
    struct buf whole;

    /* In the mailbox, under its lock: tokens not yet taken (struct job_token, each followed by its
     * n_top alternatives). */
    struct job *ready_next;
    bool ready, done;
    struct buf inbox;
    struct api_error error; /* with done: status 0 when it ended well */

    /* The HTTP thread's own. */
    struct buf taken; /* the inbox as it was taken; its memory is the next inbox */
    size_t taken_at;  /* what is read of it */
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

/* HTTP thread, after a token of the job came. */
void job_choice_drop(struct job *j, uint32_t record, uint32_t choice);
/* Any thread that has the job: no more tokens of this choice are wanted; always so when the job is
 * cancelled. For the engine's sink->token to return. */
bool job_choice_unwanted(const struct job *j, uint32_t record, uint32_t choice);

#endif

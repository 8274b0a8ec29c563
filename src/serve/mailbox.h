/* SPDX-License-Identifier: Apache-2.0 */
/* From the computing threads to the HTTP thread: tokens and ends of jobs, and one eventfd that
 * wakes the event loop. Tokens wait in their job's inbox, which is swapped whole, so nothing is
 * allocated per token. */
#ifndef SUPERNODE_SERVE_MAILBOX_H
#define SUPERNODE_SERVE_MAILBOX_H

#include <pthread.h>

#include "serve/job.h"

struct mailbox {
    pthread_mutex_t lock;
    struct job *first, *last; /* jobs with something new, oldest first */
    bool news;                /* since mailbox_wake */
    int fd; /* eventfd: readable from mailbox_wake until there is nothing to take */
};

enum st ST_CHECKED mailbox_init(struct mailbox *m, struct err *err);
void mailbox_release(struct mailbox *m);

/* Any computing thread; the HTTP thread learns of it by mailbox_wake. False: the inbox is
 * at its limit, the HTTP thread does not keep up. */
bool mailbox_token(struct mailbox *m, struct job *j, uint32_t record, const struct token_out *t);
/* The job's end; error may be NULL. The job must not be touched afterwards. */
void mailbox_done(struct mailbox *m, struct job *j, const struct api_error *error);
/* Wakes the HTTP thread if there is news. Once behind all that came at the same time: woken by the
 * first token of a step, it would take the core from who has the others to tell. True: no
 * further job has any, but of those that it was told of before some still lie there: it may wait for a
 * core. */
bool mailbox_wake(struct mailbox *m);

/* HTTP thread. The next job with news, or NULL: its tokens are read with job_token_next, *done says
 * whether it ended with them. A job that is not read to its end must be put back. */
struct job *mailbox_take(struct mailbox *m, bool *done);
/* Puts a job back, last: the rest of its tokens can wait for other things to be done first. */
void mailbox_put_back(struct mailbox *m, struct job *j);

/* Reads the next token that was taken, and whose it is; top gets room for REQUEST_LOGPROBS_MAX
 * alternatives. False: that was the last. */
bool job_token_next(struct job *j, uint32_t *record, struct token_out *t,
                    struct token_logprob *top);

#endif

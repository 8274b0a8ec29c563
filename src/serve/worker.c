/* SPDX-License-Identifier: Apache-2.0 */
/* Implements worker.h. Both threads are the same loop over a queue with a different step. */
#include "serve/worker.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Jobs on their way to a thread, oldest first. The number of jobs is bounded by who submits. */
struct job_queue {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct job *first, *last;
    bool closed;
    struct api_error refuse; /* status not 0: what waits ends with it */
};

struct worker {
    const struct front *front;
    struct generator *generator;
    struct mailbox *mailbox;
    struct job_queue text_queue, engine_queue;
    pthread_t text_thread, engine_thread;
    pthread_mutex_t stats_lock;
    struct engine_stats stats;           /* as the engine's thread last wrote them */
    atomic_uint_least64_t busy_since_ns; /* the piece of work that runs; 0: none */
};

static void queue_init(struct job_queue *q) {
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->more, NULL);
}

static void queue_release(struct job_queue *q) {
    assert(!q->first);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->more);
}

static void queue_push(struct job_queue *q, struct job *j) {
    pthread_mutex_lock(&q->lock);
    j->next = NULL;
    if (q->first)
        q->last->next = j;
    else
        q->first = j;
    q->last = j;
    pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
}

/* Waits for a job; *why has a status if it must not begin any more. NULL: closed and empty. */
static struct job *queue_pop(struct job_queue *q, struct api_error *why) {
    pthread_mutex_lock(&q->lock);
    while (!q->first && !q->closed) pthread_cond_wait(&q->more, &q->lock);
    struct job *j = q->first;
    if (j) q->first = j->next;
    *why = q->refuse;
    pthread_mutex_unlock(&q->lock);
    return j;
}

static void queue_refuse(struct job_queue *q, const struct api_error *why) {
    pthread_mutex_lock(&q->lock);
    q->refuse = *why;
    pthread_mutex_unlock(&q->lock);
}

static void queue_close(struct job_queue *q) {
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
}

static bool cancelled(const struct job *j) {
    return atomic_load_explicit(&j->cancel, memory_order_relaxed);
}

/* True: the job is over before it began, and was given back. */
static bool over(struct worker *w, struct job *j, const struct api_error *why) {
    if (!cancelled(j) && !why->status) return false;
    mailbox_done(w->mailbox, j, why);
    return true;
}

static void *text_main(void *arg) {
    struct worker *w = arg;
    struct api_error why;
    struct job *j;
    while ((j = queue_pop(&w->text_queue, &why))) {
        if (over(w, j, &why)) continue;
        if (!front_prepare(w->front, j, &why))
            mailbox_done(w->mailbox, j, &why);
        else if (j->n_records == 0)
            mailbox_done(w->mailbox, j, NULL); /* its answer is there */
        else
            queue_push(&w->engine_queue, j);
    }
    return NULL;
}

struct run {
    struct worker *w;
    struct job *job;
};

static bool give_token(void *ctx, const struct token_out *t) {
    struct run *r = ctx;
    if (!mailbox_token(r->w->mailbox, r->job, 0, t)) return false;
    return !job_choice_unwanted(r->job, 0, t->choice);
}

static void *engine_main(void *arg) {
    struct worker *w = arg;
    struct api_error why;
    struct job *j;
    while ((j = queue_pop(&w->engine_queue, &why))) {
        if (over(w, j, &why)) continue;
        struct run run = {w, j};
        struct err err;
        why = (struct api_error){0};
        if (generate_run(w->generator, &j->records[0], &j->cancel, give_token, &run, &err))
            (void)api_fail(&why, err.code == ST_INVALID ? 400 : 500, NULL, NULL, "%s", err.text);
        else if (j->records[0].choices[0].finish == FINISH_CANCELLED && !cancelled(j))
            (void)api_fail(&why, 500, NULL, NULL, "the answer grew faster than it could be sent");
        mailbox_done(w->mailbox, j, &why);
    }
    return NULL;
}

enum st worker_start(struct worker **out, const struct front *front, struct generator *generator,
                     struct mailbox *mailbox, struct err *err) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    *w = (struct worker){.front = front, .generator = generator, .mailbox = mailbox};
    pthread_mutex_init(&w->stats_lock, NULL);
    engine_stats_init(&w->stats);
    queue_init(&w->text_queue);
    queue_init(&w->engine_queue);
    int bad = pthread_create(&w->text_thread, NULL, text_main, w);
    if (!bad) {
        bad = pthread_create(&w->engine_thread, NULL, engine_main, w);
        if (bad) {
            queue_close(&w->text_queue);
            pthread_join(w->text_thread, NULL);
        }
    }
    if (bad) {
        queue_release(&w->text_queue);
        queue_release(&w->engine_queue);
        pthread_mutex_destroy(&w->stats_lock);
        free(w);
        return err_set(err, ST_IO, "serve: cannot start a thread: %s", strerror(bad));
    }
    *out = w;
    return ST_OK;
}

void worker_submit(struct worker *w, struct job *j) {
    queue_push(&w->text_queue, j);
}

void worker_refuse_waiting(struct worker *w, const struct api_error *why) {
    queue_refuse(&w->text_queue, why);
    queue_refuse(&w->engine_queue, why);
}

void worker_stats(struct worker *w, struct engine_stats *out) {
    pthread_mutex_lock(&w->stats_lock);
    *out = w->stats;
    pthread_mutex_unlock(&w->stats_lock);
}

uint64_t worker_stuck_ns(struct worker *w) {
    uint64_t since = atomic_load_explicit(&w->busy_since_ns, memory_order_relaxed);
    return since ? clock_now_ns() - since : 0;
}

void worker_stop(struct worker *w) {
    if (!w) return;
    queue_close(&w->text_queue);
    pthread_join(w->text_thread, NULL); /* pushes nothing more to the engine's queue */
    queue_close(&w->engine_queue);
    pthread_join(w->engine_thread, NULL);
    queue_release(&w->text_queue);
    queue_release(&w->engine_queue);
    pthread_mutex_destroy(&w->stats_lock);
    free(w);
}

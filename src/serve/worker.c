/* SPDX-License-Identifier: Apache-2.0 */
/* Implements worker.h. The text thread works through its queue; the computing thread takes what its
 * queue holds between two pieces of work, looks who left, and sleeps when there is neither. */
#include "serve/worker.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/turn.h"

enum { KEEP_OFF_EVERY_NS = 10000000 }; /* moving costs, and the other may be moved as often */

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
    struct compute compute;
    struct mailbox *mailbox;
    struct job_queue text_queue, compute_queue;
    pthread_t text_thread, compute_thread;
    pthread_mutex_t stats_lock;
    struct engine_stats stats; /* as the computing thread last wrote them */
    /* Since when the last piece of work is under way, of each thread; 0: none is. */
    atomic_uint_least64_t text_since_ns, compute_since_ns;
    atomic_int core;      /* of the computing thread, after its last piece of work */
    uint64_t kept_off_ns; /* HTTP thread: when it last left that */
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

/* Who waits is told by queue_tell. */
static void queue_push(struct job_queue *q, struct job *j) {
    pthread_mutex_lock(&q->lock);
    j->next = NULL;
    if (q->first)
        q->last->next = j;
    else
        q->first = j;
    q->last = j;
    pthread_mutex_unlock(&q->lock);
}

/* Nobody is woken for nothing: the HTTP thread tells with each mail, thus with each step. */
static void queue_tell(struct job_queue *q) {
    pthread_mutex_lock(&q->lock);
    if (q->first) pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
}

/* The next job; *why has a status if it must not begin any more. Waits for one if told to; NULL:
 * there is none, and with QUEUE_WAIT: closed and empty. */
enum queue_wait { QUEUE_LOOK, QUEUE_WAIT };
static struct job *queue_pop(struct job_queue *q, enum queue_wait wait, struct api_error *why) {
    pthread_mutex_lock(&q->lock);
    while (wait == QUEUE_WAIT && !q->first && !q->closed) pthread_cond_wait(&q->more, &q->lock);
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

static bool queue_over(struct job_queue *q) {
    pthread_mutex_lock(&q->lock);
    bool over = q->closed && !q->first;
    pthread_mutex_unlock(&q->lock);
    return over;
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

/* True: the computing thread has it, and is to be told. */
static bool prepare(struct worker *w, struct job *j, struct api_error *why) {
    if (over(w, j, why)) return false;
    atomic_store_explicit(&w->text_since_ns, clock_now_ns(), memory_order_relaxed);
    bool ok = front_prepare(w->front, j, why);
    atomic_store_explicit(&w->text_since_ns, 0, memory_order_relaxed);
    if (ok && j->n_records > 0) {
        queue_push(&w->compute_queue, j);
        return true;
    }
    mailbox_done(w->mailbox, j, ok ? NULL : why); /* its answer is there, or it is refused */
    return false;
}

static void *text_main(void *arg) {
    struct worker *w = arg;
    struct api_error why;
    struct job *j;
    uint64_t ready_ns = 0; /* since when there is one that the computing thread was not told of */
    turn_short();
    for (;;) {
        j = queue_pop(&w->text_queue, QUEUE_LOOK, &why);
        if (ready_ns && (!j || j->body_len > WORKER_TOGETHER_BYTES ||
                         clock_now_ns() - ready_ns > WORKER_TOGETHER_NS)) {
            w->compute.wake(w->compute.ctx);
            ready_ns = 0;
        }
        if (!j && !(j = queue_pop(&w->text_queue, QUEUE_WAIT, &why))) break;
        if (prepare(w, j, &why) && !ready_ns) ready_ns = clock_now_ns();
        (void)mailbox_wake(w->mailbox);
    }
    return NULL;
}

/* --- the computing thread --------------------------------------------------------------------- */

/* A job that is being computed. */
struct task {
    struct task *prev, *next;
    struct worker *w;
    struct job *job;
    uint32_t n_left;      /* records that are not done */
    bool ending;          /* cancelled, or failed: the others are being ended too */
    struct api_error why; /* status 0: it ended well */
    struct record {
        struct task *task;
        uint32_t index;
        bool done;
    } records[];
};

static bool give_token(void *ctx, const struct token_out *t) {
    struct record *r = ctx;
    struct task *k = r->task;
    if (!mailbox_token(k->w->mailbox, k->job, r->index, t)) {
        (void)api_fail(&k->why, 500, NULL, NULL, "the answer grew faster than it could be sent");
        return false;
    }
    /* who left is seen by sweep, and counted so */
    return cancelled(k->job) || !job_choice_unwanted(k->job, r->index, t->choice);
}

static int status_of(enum st st) {
    return st == ST_INVALID ? 400 : st == ST_TIMEOUT ? 504 : st == ST_GONE ? 503 : 500;
}

static void record_done(struct record *r, const struct err *err) {
    struct task *k = r->task;
    r->done = true;
    k->n_left--;
    if (err && !k->why.status)
        (void)api_fail(&k->why, status_of(err->code), NULL,
                       err->code == ST_GONE ? "no_worker" : NULL, "%s", err->text);
}

static void on_done(void *ctx, const struct err *err) {
    record_done(ctx, err);
}

static void end_records(struct task *k) {
    bool left = atomic_load_explicit(&k->job->left, memory_order_relaxed) || k->why.status;
    enum engine_cancel why = left ? ENGINE_CANCEL_LEFT : ENGINE_CANCEL_ENOUGH;
    k->ending = true;
    for (uint32_t i = 0; i < k->job->n_records; i++)
        if (!k->records[i].done) k->w->compute.cancel(k->w->compute.ctx, &k->job->records[i], why);
}

static struct task *task_begin(struct worker *w, struct job *j) {
    static const struct engine_sink sink = {.token = give_token, .done = on_done};
    struct err err;
    struct task *k = calloc(1, sizeof *k + j->n_records * sizeof *k->records);
    if (!k) return NULL;
    *k = (struct task){.w = w, .job = j, .n_left = j->n_records};
    for (uint32_t i = 0; i < j->n_records; i++) {
        struct record *r = &k->records[i];
        *r = (struct record){.task = k, .index = i};
        if (w->compute.add(w->compute.ctx, &j->records[i], &sink, r, j->arrived_ns, &err))
            record_done(r, &err);
    }
    return k;
}

static void task_end(struct task **first, struct task *k) {
    *(k->prev ? &k->prev->next : first) = k->next;
    if (k->next) k->next->prev = k->prev;
    mailbox_done(k->w->mailbox, k->job, &k->why);
    free(k);
}

static void take_jobs(struct worker *w, struct task **first) {
    struct api_error why;
    struct job *j;
    while ((j = queue_pop(&w->compute_queue, QUEUE_LOOK, &why))) {
        if (over(w, j, &why)) continue;
        struct task *k = task_begin(w, j);
        if (!k) {
            (void)api_fail(&why, 500, NULL, NULL, "out of memory");
            mailbox_done(w->mailbox, j, &why);
            continue;
        }
        k->next = *first;
        if (*first) (*first)->prev = k;
        *first = k;
    }
}

/* Ends the tasks whose client left or that cannot go on, and gives back those that are done: true
 * if there were any. */
static bool sweep(struct task **first) {
    bool any = false;
    for (struct task *k = *first, *next; k; k = next) {
        next = k->next;
        if (!k->ending && (cancelled(k->job) || k->why.status)) end_records(k);
        if (k->n_left > 0) continue;
        task_end(first, k);
        any = true;
    }
    return any;
}

static void publish_stats(struct worker *w) {
    const struct engine_stats *now = w->compute.stats(w->compute.ctx);
    pthread_mutex_lock(&w->stats_lock);
    w->stats = *now;
    pthread_mutex_unlock(&w->stats_lock);
}

static void set_since(struct worker *w, uint64_t ns) {
    atomic_store_explicit(&w->compute_since_ns, ns, memory_order_relaxed);
}

static void *compute_main(void *arg) {
    struct worker *w = arg;
    struct task *first = NULL;
    bool progress = true;
    for (;;) {
        take_jobs(w, &first);
        /* only what was finished counts as progress */
        if (progress && first) set_since(w, clock_now_ns());
        uint64_t until_ns = w->compute.step(w->compute.ctx, &progress);
        progress = sweep(&first) || progress;
        publish_stats(w);
        atomic_store_explicit(&w->core, sched_getcpu(), memory_order_relaxed);
        /* the HTTP thread would wait for the end of this one's turn */
        if (mailbox_wake(w->mailbox)) sched_yield();
        if (until_ns <= clock_now_ns() && first) continue;
        set_since(w, 0);
        /* two wakes may have been one: who waits looks first */
        if (!first && queue_over(&w->compute_queue)) return NULL;
        progress = true;
        w->compute.wait(w->compute.ctx, until_ns);
    }
}

/* --- life ------------------------------------------------------------------------------------- */

enum st worker_start(struct worker **out, const struct front *front, const struct compute *compute,
                     struct mailbox *mailbox, struct err *err) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w) return err_set(err, ST_NO_MEMORY, "serve: out of memory");
    *w = (struct worker){.front = front, .compute = *compute, .mailbox = mailbox, .core = -1};
    pthread_mutex_init(&w->stats_lock, NULL);
    engine_stats_init(&w->stats);
    queue_init(&w->text_queue);
    queue_init(&w->compute_queue);
    int bad = pthread_create(&w->text_thread, NULL, text_main, w);
    if (!bad) {
        bad = pthread_create(&w->compute_thread, NULL, compute_main, w);
        if (bad) {
            queue_close(&w->text_queue);
            pthread_join(w->text_thread, NULL);
        }
    }
    if (bad) {
        queue_release(&w->text_queue);
        queue_release(&w->compute_queue);
        pthread_mutex_destroy(&w->stats_lock);
        free(w);
        return err_set(err, ST_IO, "serve: cannot start a thread: %s", strerror(bad));
    }
    *out = w;
    return ST_OK;
}

void worker_submit(struct worker *w, struct job *j) {
    j->arrived_ns = clock_now_ns();
    queue_push(&w->text_queue, j);
}

void worker_begin(struct worker *w) {
    queue_tell(&w->text_queue);
}

/* Where the computing thread may run, this one may too; it is asked each time, since that can be
 * changed. This one stays off the core that it left until it meets the other again. */
void worker_keep_off(struct worker *w) {
    int core = atomic_load_explicit(&w->core, memory_order_relaxed);
    bool computing = atomic_load_explicit(&w->compute_since_ns, memory_order_relaxed) != 0;
    cpu_set_t others;
    if (!computing || core < 0 || sched_getcpu() != core) return;
    uint64_t now = clock_now_ns();
    if (now - w->kept_off_ns < KEEP_OFF_EVERY_NS ||
        pthread_getaffinity_np(w->compute_thread, sizeof others, &others) != 0)
        return;
    w->kept_off_ns = now;
    CPU_CLR((size_t)core, &others);
    /* fails where there is no other */
    (void)pthread_setaffinity_np(pthread_self(), sizeof others, &others);
}

void worker_cancel(struct worker *w, struct job *j) {
    if (atomic_exchange_explicit(&j->cancel, true, memory_order_relaxed)) return;
    w->compute.wake(w->compute.ctx);
}

void worker_refuse_waiting(struct worker *w, const struct api_error *why) {
    queue_refuse(&w->text_queue, why);
    queue_refuse(&w->compute_queue, why);
}

void worker_stats(struct worker *w, struct engine_stats *out) {
    pthread_mutex_lock(&w->stats_lock);
    *out = w->stats;
    pthread_mutex_unlock(&w->stats_lock);
}

uint64_t worker_stuck_ns(struct worker *w) {
    uint64_t text = atomic_load_explicit(&w->text_since_ns, memory_order_relaxed),
             compute = atomic_load_explicit(&w->compute_since_ns, memory_order_relaxed),
             since = text && (!compute || text < compute) ? text : compute, now = clock_now_ns();
    return since && now > since ? now - since : 0;
}

void worker_stop(struct worker *w) {
    if (!w) return;
    queue_close(&w->text_queue);
    pthread_join(w->text_thread, NULL); /* pushes nothing more to the other queue */
    queue_close(&w->compute_queue);
    w->compute.wake(w->compute.ctx);
    pthread_join(w->compute_thread, NULL);
    queue_release(&w->text_queue);
    queue_release(&w->compute_queue);
    pthread_mutex_destroy(&w->stats_lock);
    free(w);
}

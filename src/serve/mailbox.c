/* SPDX-License-Identifier: Apache-2.0 */
/* Implements job.h and mailbox.h. */
#include "serve/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { INBOX_MAX = 32 << 20, WHOLE_MAX = 64 << 20 };

struct job *job_new(enum api_kind kind, char *body, size_t body_len) {
    struct job *j = calloc(1, sizeof *j);
    if (!j) {
        free(body);
        return NULL;
    }
    j->kind = kind;
    j->body = body;
    j->body_len = body_len;
    j->inbox.max = j->taken.max = INBOX_MAX;
    j->whole.max = WHOLE_MAX;
    atomic_init(&j->cancel, false);
    atomic_init(&j->left, false);
    for (size_t i = 0; i < JOB_CHOICES_MAX / 64; i++) atomic_init(&j->unwanted[i], 0);
    return j;
}

void job_free(struct job *j) {
    if (!j) return;
    free(j->body);
    api_request_release(&j->api);
    for (uint32_t i = 0; i < j->n_records; i++) request_release(&j->records[i]);
    free(j->records);
    buf_release(&j->whole);
    buf_release(&j->inbox);
    buf_release(&j->taken);
    free(j);
}

static uint32_t choice_bit(const struct job *j, uint32_t record, uint32_t choice) {
    assert(record < j->n_records && choice < j->records[record].n_choices);
    uint32_t bit = record * j->records[record].n_choices + choice;
    assert(bit < JOB_CHOICES_MAX);
    return bit;
}

void job_choice_drop(struct job *j, uint32_t record, uint32_t choice) {
    uint32_t bit = choice_bit(j, record, choice);
    atomic_fetch_or_explicit(&j->unwanted[bit / 64], UINT64_C(1) << bit % 64, memory_order_relaxed);
}

bool job_choice_unwanted(const struct job *j, uint32_t record, uint32_t choice) {
    uint32_t bit = choice_bit(j, record, choice);
    return atomic_load_explicit(&j->cancel, memory_order_relaxed) ||
           atomic_load_explicit(&j->unwanted[bit / 64], memory_order_relaxed) >> bit % 64 & 1;
}

enum st mailbox_init(struct mailbox *m, struct err *err) {
    *m = (struct mailbox){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    if (m->fd < 0) return err_set(err, ST_IO, "serve: cannot make an eventfd: %s", strerror(errno));
    pthread_mutex_init(&m->lock, NULL);
    return ST_OK;
}

void mailbox_release(struct mailbox *m) {
    if (m->fd < 0) return;
    close(m->fd);
    pthread_mutex_destroy(&m->lock);
    m->fd = -1;
}

/* Under the lock. */
static void announce(struct mailbox *m, struct job *j) {
    if (j->ready) return;
    j->ready = m->news = true;
    j->ready_next = NULL;
    if (m->first)
        m->last->ready_next = j;
    else
        m->first = j;
    m->last = j;
}

bool mailbox_wake(struct mailbox *m) {
    uint64_t one = 1;
    pthread_mutex_lock(&m->lock);
    bool news = m->news, late = m->first && !news;
    m->news = false;
    pthread_mutex_unlock(&m->lock);
    if (news && write(m->fd, &one, sizeof one) < 0)
        assert(errno == EAGAIN); /* the counter is full: awake anyway */
    return late;
}

bool mailbox_token(struct mailbox *m, struct job *j, uint32_t record, const struct token_out *t) {
    struct job_token row = {record,   t->attempt,  t->choice,  t->position, t->id,
                            t->n_top, t->n_cached, t->logprob, t->finish};
    pthread_mutex_lock(&m->lock);
    assert(!j->done);
    size_t len = j->inbox.len;
    bool ok = buf_append(&j->inbox, &row, sizeof row) == ST_OK &&
              buf_append(&j->inbox, t->top, t->n_top * sizeof *t->top) == ST_OK;
    if (ok)
        announce(m, j);
    else
        j->inbox.len = len;
    pthread_mutex_unlock(&m->lock);
    return ok;
}

void mailbox_done(struct mailbox *m, struct job *j, const struct api_error *error) {
    pthread_mutex_lock(&m->lock);
    assert(!j->done);
    j->done = true;
    if (error) j->error = *error;
    announce(m, j);
    pthread_mutex_unlock(&m->lock);
}

struct job *mailbox_take(struct mailbox *m, bool *done) {
    uint64_t count;
    pthread_mutex_lock(&m->lock);
    struct job *j = m->first;
    if (j) {
        m->first = j->ready_next;
        j->ready = false;
        if (j->taken_at == j->taken.len) {
            struct buf used = j->taken;
            j->taken = j->inbox;
            j->taken_at = used.len = 0;
            j->inbox = used;
        }
        *done = j->done && j->inbox.len == 0;
        if (j->inbox.len) announce(m, j); /* behind what was put back */
    }
    if (!m->first && read(m->fd, &count, sizeof count) < 0) assert(errno == EAGAIN);
    pthread_mutex_unlock(&m->lock);
    return j;
}

void mailbox_put_back(struct mailbox *m, struct job *j) {
    pthread_mutex_lock(&m->lock);
    announce(m, j);
    pthread_mutex_unlock(&m->lock);
    (void)mailbox_wake(m);
}

bool job_token_next(struct job *j, uint32_t *record, struct token_out *t,
                    struct token_logprob *top) {
    struct job_token row;
    size_t left = j->taken.len - j->taken_at;
    if (left == 0) return false;
    const char *at = j->taken.data + j->taken_at;
    assert(left >= sizeof row);
    memcpy(&row, at, sizeof row);
    assert(row.n_top <= REQUEST_LOGPROBS_MAX && left >= sizeof row + row.n_top * sizeof *top);
    if (row.n_top) memcpy(top, at + sizeof row, row.n_top * sizeof *top);
    j->taken_at += sizeof row + row.n_top * sizeof *top;
    *record = row.record;
    *t = (struct token_out){.attempt = row.attempt,
                            .choice = row.choice,
                            .position = row.position,
                            .id = row.id,
                            .logprob = row.logprob,
                            .top = top,
                            .n_top = row.n_top,
                            .n_cached = row.n_cached,
                            .finish = row.finish};
    return true;
}

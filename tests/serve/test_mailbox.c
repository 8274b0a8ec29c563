/* SPDX-License-Identifier: Apache-2.0 */
/* The mailbox between computing threads and the event loop: nothing lost, nothing out of order, one
 * end a job. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/mailbox.h"

static struct job *job(void) {
    return job_new(API_CHAT, strdup("{}"), 2);
}

static bool readable(const struct mailbox *m) {
    struct pollfd p = {.fd = m->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void tokens_come_out_as_they_went_in(void **state) {
    (void)state;
    struct mailbox m;
    struct err err;
    struct token_logprob top[2] = {{7, -1}, {8, -2}}, got_top[REQUEST_LOGPROBS_MAX];
    struct token_out t;
    uint32_t which;
    bool done;
    assert_int_equal(mailbox_init(&m, &err), ST_OK);
    struct job *j = job();
    assert_false(readable(&m));
    assert_null(mailbox_take(&m, &done));
    assert_true(mailbox_token(&m, j, 7,
                              &(struct token_out){.attempt = 1,
                                                  .choice = 2,
                                                  .position = 3,
                                                  .id = 4,
                                                  .logprob = -0.5f,
                                                  .top = top,
                                                  .n_top = 2}));
    assert_true(mailbox_token(&m, j, 0, &(struct token_out){.id = 5, .finish = FINISH_STOP}));
    assert_false(readable(&m)); /* who computes may have more to tell */
    assert_false(mailbox_wake(&m));
    assert_true(readable(&m));
    assert_true(mailbox_wake(&m)); /* it was told, and has not taken it */
    assert_ptr_equal(mailbox_take(&m, &done), j);
    assert_false(mailbox_wake(&m)); /* no news */
    assert_false(done);
    assert_false(readable(&m));
    assert_true(job_token_next(j, &which, &t, got_top));
    assert_int_equal(which, 7);
    assert_true(t.attempt == 1 && t.choice == 2 && t.position == 3 && t.id == 4 &&
                t.logprob == -0.5f && t.n_top == 2);
    assert_true(t.top[1].id == 8 && t.top[1].logprob == -2);
    assert_true(job_token_next(j, &which, &t, got_top));
    assert_true(t.id == 5 && t.finish == FINISH_STOP && t.n_top == 0);
    assert_false(job_token_next(j, &which, &t, got_top));
    mailbox_done(&m, j, NULL);
    assert_ptr_equal(mailbox_take(&m, &done), j);
    assert_true(done);
    assert_int_equal(j->taken.len, 0);
    assert_int_equal(j->error.status, 0);
    job_free(j);
    mailbox_release(&m);
}

static void jobs_come_oldest_first_and_once(void **state) {
    (void)state;
    struct mailbox m;
    struct err err;
    bool done;
    assert_int_equal(mailbox_init(&m, &err), ST_OK);
    struct job *a = job(), *b = job();
    mailbox_token(&m, b, 0, &(struct token_out){.id = 1});
    mailbox_token(&m, a, 0, &(struct token_out){.id = 2});
    mailbox_token(&m, b, 0, &(struct token_out){.id = 3});
    struct api_error e;
    (void)api_fail(&e, 500, NULL, NULL, "x");
    mailbox_done(&m, b, &e);
    assert_ptr_equal(mailbox_take(&m, &done), b);
    assert_true(done && b->error.status == 500 && b->taken.len == 2 * sizeof(struct job_token));
    assert_ptr_equal(mailbox_take(&m, &done), a);
    assert_false(done);
    assert_null(mailbox_take(&m, &done));
    job_free(a);
    job_free(b);
    mailbox_release(&m);
}

static void a_full_inbox_refuses_and_keeps_what_it_has(void **state) {
    (void)state;
    struct mailbox m;
    struct err err;
    bool done;
    assert_int_equal(mailbox_init(&m, &err), ST_OK);
    struct job *j = job();
    j->inbox.max = 2 * sizeof(struct job_token);
    assert_true(mailbox_token(&m, j, 0, &(struct token_out){.id = 1}));
    assert_true(mailbox_token(&m, j, 0, &(struct token_out){.id = 2}));
    assert_false(mailbox_token(&m, j, 0, &(struct token_out){.id = 3}));
    assert_ptr_equal(mailbox_take(&m, &done), j);
    assert_int_equal(j->taken.len, 2 * sizeof(struct job_token));
    job_free(j);
    mailbox_release(&m);
}

/* Another job's news come between the two halves, and the end comes with the last token. */
static void a_job_may_be_read_in_pieces(void **state) {
    (void)state;
    struct mailbox m;
    struct err err;
    struct token_logprob top[REQUEST_LOGPROBS_MAX];
    struct token_out t;
    uint32_t which;
    bool done;
    assert_int_equal(mailbox_init(&m, &err), ST_OK);
    struct job *a = job(), *b = job();
    for (uint32_t i = 0; i < 2; i++) mailbox_token(&m, a, 0, &(struct token_out){.id = i});
    mailbox_token(&m, b, 0, &(struct token_out){.id = 9});
    assert_ptr_equal(mailbox_take(&m, &done), a);
    assert_true(job_token_next(a, &which, &t, top) && t.id == 0);
    mailbox_put_back(&m, a);
    mailbox_token(&m, a, 0, &(struct token_out){.id = 2});
    mailbox_done(&m, a, NULL);
    assert_ptr_equal(mailbox_take(&m, &done), b);
    assert_true(job_token_next(b, &which, &t, top) && t.id == 9);
    assert_ptr_equal(mailbox_take(&m, &done), a);
    assert_false(done);
    assert_true(readable(&m));
    assert_true(job_token_next(a, &which, &t, top) && t.id == 1);
    assert_false(job_token_next(a, &which, &t, top));
    assert_ptr_equal(mailbox_take(&m, &done), a);
    assert_true(done);
    assert_false(readable(&m));
    assert_true(job_token_next(a, &which, &t, top) && t.id == 2);
    assert_null(mailbox_take(&m, &done));
    job_free(a);
    job_free(b);
    mailbox_release(&m);
}

static void a_dropped_choice_is_unwanted_and_its_siblings_are_not(void **state) {
    (void)state;
    struct job *j = job();
    j->records = calloc(2, sizeof *j->records);
    j->n_records = 2;
    j->records[0].n_choices = j->records[1].n_choices = 64;
    struct request_choice choices[64] = {0};
    j->records[0].choices = j->records[1].choices = choices;
    job_choice_drop(j, 0, 63);
    job_choice_drop(j, 1, 0);
    for (uint32_t r = 0; r < 2; r++)
        for (uint32_t c = 0; c < 64; c++)
            assert_int_equal(job_choice_unwanted(j, r, c),
                             (r == 0 && c == 63) || (r == 1 && c == 0));
    atomic_store(&j->cancel, true);
    assert_true(job_choice_unwanted(j, 1, 5));
    j->n_records = 0; /* the choices are not its own */
    job_free(j);
}

enum { WRITERS = 3, TOKENS = 20000 };

struct writer {
    struct mailbox *m;
    struct job *j;
};

static void *write_all(void *arg) {
    struct writer *w = arg;
    struct token_logprob top[3] = {{1, 0}, {2, 0}, {3, 0}};
    for (uint32_t i = 0; i < TOKENS; i++) {
        if (!mailbox_token(w->m, w->j, 0,
                           &(struct token_out){.position = i, .top = top, .n_top = i % 4}))
            abort();
        if (i % 5 == 0) mailbox_wake(w->m);
    }
    mailbox_done(w->m, w->j, NULL);
    mailbox_wake(w->m);
    return NULL;
}

static void nothing_is_lost_between_threads(void **state) {
    (void)state;
    struct mailbox m;
    struct err err;
    struct writer w[WRITERS];
    pthread_t threads[WRITERS];
    uint32_t next[WRITERS] = {0}, ended = 0;
    assert_int_equal(mailbox_init(&m, &err), ST_OK);
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){&m, job()};
        w[i].j->reply = &next[i];
        assert_int_equal(pthread_create(&threads[i], NULL, write_all, &w[i]), 0);
    }
    while (ended < WRITERS) {
        struct pollfd p = {.fd = m.fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        struct job *j;
        bool done;
        while ((j = mailbox_take(&m, &done))) {
            struct token_logprob top[REQUEST_LOGPROBS_MAX];
            struct token_out t;
            uint32_t which;
            uint32_t *n = j->reply;
            for (; job_token_next(j, &which, &t, top); ++*n)
                assert_true(t.position == *n && t.n_top == *n % 4);
            ended += done;
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(next[i], TOKENS);
        job_free(w[i].j);
    }
    mailbox_release(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_out_as_they_went_in),
        cmocka_unit_test(jobs_come_oldest_first_and_once),
        cmocka_unit_test(a_full_inbox_refuses_and_keeps_what_it_has),
        cmocka_unit_test(a_job_may_be_read_in_pieces),
        cmocka_unit_test(a_dropped_choice_is_unwanted_and_its_siblings_are_not),
        cmocka_unit_test(nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

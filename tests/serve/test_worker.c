/* SPDX-License-Identifier: Apache-2.0 */
/* The threads behind the HTTP thread, with something that computes nothing: which jobs it is told of
 * together, and on which core it is left alone. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "serve/worker.h"

enum { JOBS = 64, ROUNDS = 100, LATE_US = 2000, TRIES = 1000 };

/* Sleeps and wakes up as with an engine; every record ends in the next step after it came, or is at work
 * for as long as it is busy. */
struct nothing {
    struct compute_engine engine; /* of none */
    atomic_bool busy;
    atomic_int core; /* of the last step */
    void (*wake)(void *ctx);
    void (*wait)(void *ctx, uint64_t until_ns);
    atomic_uint wakes;
    struct engine_stats stats;
    const struct engine_sink *sink;
    void *sink_ctx[JOBS];
    uint32_t n;
};

static enum st add(void *ctx, struct request *r, const struct engine_sink *sink, void *sink_ctx,
                   uint64_t arrived_ns, struct err *err) {
    struct nothing *c = ctx;
    (void)r;
    (void)arrived_ns;
    if (c->n == JOBS) return err_set(err, ST_INVALID, "too many");
    c->sink = sink;
    c->sink_ctx[c->n++] = sink_ctx;
    return ST_OK;
}

static uint64_t step(void *ctx, bool *progress) {
    struct nothing *c = ctx;
    *progress = c->n > 0;
    atomic_store(&c->core, sched_getcpu());
    if (atomic_load(&c->busy)) return 0;
    while (c->n > 0) c->sink->done(c->sink_ctx[--c->n], NULL);
    return UINT64_MAX;
}

static void wake(void *ctx) {
    struct nothing *c = ctx;
    atomic_fetch_add(&c->wakes, 1);
    c->wake(&c->engine);
}

/* As an engine that comes late to it: all that wakes it meanwhile is one. */
static void wait(void *ctx, uint64_t until_ns) {
    struct nothing *c = ctx;
    usleep(LATE_US);
    c->wait(&c->engine, until_ns);
}

static const struct engine_stats *stats(void *ctx) {
    return &((struct nothing *)ctx)->stats;
}

struct fixture {
    struct front front;
    struct nothing nothing;
    struct mailbox mailbox;
    struct worker *worker;
};

static struct fixture *open_fixture(void) {
    struct fixture *f = calloc(1, sizeof *f);
    struct err err;
    assert_non_null(f);
    f->front = (struct front){.model = "m",
                              .vocab = 100,
                              .max_model_len = 1 << 16,
                              .token_bytes_max = 4,
                              .defaults = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};
    engine_stats_init(&f->nothing.stats);
    compute_engine_init(&f->nothing.engine, NULL, NULL);
    struct compute compute = compute_engine(&f->nothing.engine);
    f->nothing.wake = compute.wake;
    f->nothing.wait = compute.wait;
    compute.add = add;
    compute.step = step;
    compute.stats = stats;
    compute.wake = wake;
    compute.wait = wait;
    assert_int_equal(mailbox_init(&f->mailbox, &err), ST_OK);
    assert_int_equal(worker_start(&f->worker, &f->front, &compute, &f->mailbox, &err), ST_OK);
    return f;
}

static void stop(struct fixture *f) {
    worker_stop(f->worker);
    f->worker = NULL;
}

static void close_fixture(struct fixture *f) {
    stop(f);
    mailbox_release(&f->mailbox);
    compute_engine_release(&f->nothing.engine);
    free(f);
}

/* A prompt of so many ids. */
static void submit(struct fixture *f, uint32_t n) {
    struct buf body = {.max = 1 << 20};
    assert_int_equal(buf_append_str(&body, "{\"model\":\"m\",\"max_tokens\":1,\"prompt\":[1"),
                     ST_OK);
    for (uint32_t i = 1; i < n; i++) assert_int_equal(buf_append_str(&body, ",7"), ST_OK);
    assert_int_equal(buf_append_str(&body, "]}"), ST_OK);
    struct job *j = job_new(API_COMPLETION, body.data, body.len);
    assert_non_null(j);
    worker_submit(f->worker, j);
}

/* Those in the mailbox, all done. */
static uint32_t take_done(struct fixture *f) {
    uint32_t n = 0;
    bool done;
    for (struct job *j; (j = mailbox_take(&f->mailbox, &done)); n++) {
        assert_true(done && j->error.status == 0);
        job_free(j);
    }
    return n;
}

static void begin_and_wait(struct fixture *f, uint32_t n) {
    worker_begin(f->worker);
    while (n > 0) {
        struct pollfd p = {.fd = f->mailbox.fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        n -= take_done(f);
    }
}

/* How often the computing thread was told since the last call. */
static uint32_t told(struct fixture *f) {
    return atomic_exchange(&f->nothing.wakes, 0);
}

static void jobs_that_come_together_are_computed_together(void **state) {
    (void)state;
    struct fixture *f = open_fixture();
    bool together = false;
    /* a text thread that is at work may look between two of them */
    for (int round = 0; round < ROUNDS && !together; round++) {
        usleep(5000);
        for (int i = 0; i < 3; i++) submit(f, 5);
        usleep(5000);
        together = told(f) == 0;
        begin_and_wait(f, 3);
        together &= told(f) == 1;
    }
    assert_true(together);
    close_fixture(f);
}

/* A body under WORKER_TOGETHER_BYTES is text for a tenth of a millisecond and more. */
static void nobody_waits_for_more_than_two_milliseconds_of_bodies(void **state) {
    (void)state;
    struct fixture *f = open_fixture();
    for (int i = 0; i < JOBS; i++) submit(f, WORKER_TOGETHER_BYTES / 2 - 50);
    begin_and_wait(f, JOBS);
    stop(f);
    assert_true(told(f) > 2); /* the last is that it stops */
    close_fixture(f);
}

static void nobody_waits_for_the_long_body_behind_it(void **state) {
    (void)state;
    for (int round = 0; round < 5; round++) {
        struct fixture *f = open_fixture();
        submit(f, 5);
        submit(f, WORKER_TOGETHER_BYTES);
        begin_and_wait(f, 2);
        stop(f);                          /* the text thread has told of all then */
        assert_int_equal(told(f), 2 + 1); /* the last is that it stops */
        close_fixture(f);
    }
}

/* A computing thread that was moved meanwhile is asked again. */
static void the_http_thread_leaves_the_core_that_computes(void **state) {
    (void)state;
    cpu_set_t all, one, now;
    struct fixture *f = open_fixture();
    atomic_store(&f->nothing.busy, true);
    submit(f, 5);
    worker_begin(f->worker);
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof all, &all), 0);
    bool left = CPU_COUNT(&all) < 2;
    for (int i = 0; i < TRIES && !left; i++) {
        usleep(LATE_US);
        CPU_ZERO(&one);
        CPU_SET((size_t)atomic_load(&f->nothing.core), &one);
        assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof one, &one), 0);
        worker_keep_off(f->worker);
        assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof now, &now), 0);
        left = !CPU_EQUAL(&now, &one);
    }
    assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof all, &all), 0);
    assert_true(left);
    if (CPU_COUNT(&all) > 1) {
        CPU_OR(&one, &one, &now);
        assert_true(CPU_EQUAL(&one, &all));
    }
    atomic_store(&f->nothing.busy, false);
    begin_and_wait(f, 1);
    close_fixture(f);
}

static void what_was_never_begun_comes_back_when_it_stops(void **state) {
    (void)state;
    struct fixture *f = open_fixture();
    submit(f, 5);
    stop(f);
    assert_int_equal(take_done(f), 1);
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_that_come_together_are_computed_together),
        cmocka_unit_test(nobody_waits_for_more_than_two_milliseconds_of_bodies),
        cmocka_unit_test(nobody_waits_for_the_long_body_behind_it),
        cmocka_unit_test(the_http_thread_leaves_the_core_that_computes),
        cmocka_unit_test(what_was_never_begun_comes_back_when_it_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

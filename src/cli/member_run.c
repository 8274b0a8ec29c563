/* SPDX-License-Identifier: Apache-2.0 */
/* Implements member_run.h. */
#include "cli/member_run.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/metrics.h"
#include "serve/metrics_cluster.h"
#include "serve/metrics_http.h"

static const uint64_t publish_ns = 100000000, patience_ns = 2000000000;
/* The copying thread looks again at once for a while, then sleeps longer each time: it must be quick
 * while something is under way, and cost nothing else. */
enum { COPY_SPINS = 64, COPY_SLEEP_NS_MIN = 50000, COPY_SLEEP_NS_MAX = 1000000 };

struct seen { /* of the member, by other threads */
    enum node_state state;
    enum member_role role;
    uint64_t epoch; /* of the last time it joined, once it did */
    /* How often it joined or lost the router, in turn: odd while it is in. Who looks now and then
     * would miss a router that was there for a moment. */
    uint64_t turns;
    char why[256];
};

struct running {
    const struct member_ops *ops;
    void *ctx;
    struct bus *bus;
    const struct cluster_args *a;
    const struct log *log;
    int64_t started_s;
    uint64_t published_ns; /* stepping thread */
    atomic_bool drain, over;
    pthread_mutex_t lock;
    struct seen seen;
    pthread_t step_thread, copy_thread;
};

/* --- threads ---------------------------------------------------------------------------------- */

static void publish(struct running *r, uint64_t now_ns) {
    enum node_state state = r->ops->state(r->ctx);
    if (now_ns - r->published_ns < publish_ns && state == r->seen.state) return;
    r->published_ns = now_ns;
    pthread_mutex_lock(&r->lock);
    r->seen.state = state;
    r->seen.role = r->ops->role(r->ctx);
    if (state == NODE_READY) r->seen.epoch = r->ops->epoch(r->ctx);
    if (state == (r->seen.turns % 2 ? NODE_JOINING : NODE_READY)) r->seen.turns++;
    if (state == NODE_REFUSED || state == NODE_FAILED)
        snprintf(r->seen.why, sizeof r->seen.why, "%s", r->ops->why(r->ctx));
    r->ops->publish(r->ctx);
    pthread_mutex_unlock(&r->lock);
}

static void *step_main(void *arg) {
    struct running *r = arg;
    bool draining = false;
    while (r->ops->state(r->ctx) < NODE_REFUSED) {
        if (!draining && atomic_load(&r->drain)) {
            draining = true;
            r->ops->drain(r->ctx);
        }
        uint64_t until_ns = r->ops->step(r->ctx), now_ns = clock_now_ns();
        publish(r, now_ns);
        if (until_ns > r->published_ns + publish_ns) until_ns = r->published_ns + publish_ns;
        if (until_ns > now_ns) bus_wait(r->bus, until_ns);
    }
    r->published_ns = 0;
    publish(r, clock_now_ns());
    return NULL;
}

static void *copy_main(void *arg) {
    struct running *r = arg;
    uint32_t idle = 0;
    uint64_t sleep_ns = COPY_SLEEP_NS_MIN;
    while (!atomic_load_explicit(&r->over, memory_order_relaxed)) {
        if (r->ops->copy(r->ctx)) {
            idle = 0;
            sleep_ns = COPY_SLEEP_NS_MIN;
        } else if (++idle > COPY_SPINS) {
            nanosleep(&(struct timespec){.tv_nsec = (long)sleep_ns}, NULL);
            sleep_ns = 2 * sleep_ns < COPY_SLEEP_NS_MAX ? 2 * sleep_ns : COPY_SLEEP_NS_MAX;
        }
    }
    return NULL;
}

/* --- metrics ---------------------------------------------------------------------------------- */

static void write_metrics(void *ctx, struct json_out *o) {
    struct running *r = ctx;
    pthread_mutex_lock(&r->lock);
    struct metrics_member m = {.name = r->a->name,
                               .role = member_role_name(r->seen.role),
                               .ready = r->seen.state == NODE_READY,
                               .epoch = r->seen.state == NODE_READY ? r->seen.epoch : 0};
    metrics_member(o, &m);
    r->ops->write(r->ctx, o);
    pthread_mutex_unlock(&r->lock);
    metrics_process(o, r->started_s);
}

static bool healthy(void *ctx, const char **why) {
    struct running *r = ctx;
    pthread_mutex_lock(&r->lock);
    bool ready = r->seen.state == NODE_READY;
    pthread_mutex_unlock(&r->lock);
    *why = "no router has taken it in";
    return ready;
}

static enum st start_metrics(struct metrics_http **out, struct running *r, struct err *err) {
    struct metrics_http_options o = {.host = "127.0.0.1",
                                     .port = (uint16_t)r->a->metrics_port,
                                     .ctx = r,
                                     .write = write_metrics,
                                     .healthy = healthy};
    if (r->a->metrics_port == METRICS_PORT_NONE) return ST_OK;
    return metrics_http_start(out, &o, err);
}

static void print_member(const struct running *r, const struct metrics_http *http) {
    printf("member     %s of %s", r->a->name, r->a->dir);
    if (http) printf("  (http://127.0.0.1:%u/metrics)", metrics_http_port(http));
    printf("\n");
    fflush(stdout);
}

/* --- the main thread -------------------------------------------------------------------------- */

static sigset_t stop_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

void member_run_block_signals(void) {
    sigset_t set = stop_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void die_of(int signal_number) {
    sigset_t set = stop_signals();
    signal(signal_number, SIG_DFL);
    raise(signal_number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* more: a field beside the name, or NULL. */
static void say(const struct running *r, enum log_level level, const char *what,
                const struct log_field *more) {
    char event[64];
    snprintf(event, sizeof event, "%s: %s", r->a->command, what);
    struct log_field fields[3] = {LOG_STR("name", r->a->name)};
    if (more) fields[1] = *more;
    log_event(r->log, level, event, fields);
}

static void say_turns(const struct running *r, const struct seen *last, const struct seen *now) {
    struct log_field epoch = LOG_NUM("epoch", now->epoch);
    for (uint64_t i = last->turns; i < now->turns; i++) {
        if (i % 2)
            say(r, LOG_WARN, "lost the router; looking for it", NULL);
        else /* the epoch of one that is over already is known to nobody here */
            say(r, LOG_INFO, i ? "joined again" : "joined", i + 2 >= now->turns ? &epoch : NULL);
    }
}

static void say_changes(const struct running *r, const struct seen *last, const struct seen *now) {
    struct log_field role = LOG_STR("role", member_role_name(now->role));
    say_turns(r, last, now);
    if (last->role != now->role) say(r, LOG_INFO, "the router changed its role", &role);
    if (now->state == NODE_LEFT) say(r, LOG_INFO, "left", NULL);
    /* refused, failed: the command says why as it ends */
}

static bool watch(struct running *r, struct seen *last) {
    pthread_mutex_lock(&r->lock);
    struct seen now = r->seen;
    pthread_mutex_unlock(&r->lock);
    say_changes(r, last, &now);
    *last = now;
    return now.state < NODE_REFUSED;
}

/* Once, where nobody is there for it to join: who started it looks at its log. */
static void say_waiting(const struct running *r, const struct seen *last, uint64_t *until_ns) {
    struct log_field where = LOG_STR("cluster", r->a->dir);
    if (last->turns) *until_ns = UINT64_MAX;
    if (clock_now_ns() < *until_ns) return;
    *until_ns = UINT64_MAX;
    say(r, LOG_INFO, "looking for the router", &where);
}

/* last: before the threads began. */
static void wait_for_end(struct running *r, struct seen last) {
    sigset_t set = stop_signals();
    struct timespec tick = {.tv_nsec = 100000000};
    uint64_t until_ns = clock_now_ns() + patience_ns;
    while (watch(r, &last)) {
        say_waiting(r, &last, &until_ns);
        int s = sigtimedwait(&set, NULL, &tick);
        if (s < 0) continue;
        if (atomic_exchange(&r->drain, true)) die_of(s);
        say(r, LOG_INFO, "stopping (a second signal: at once)", NULL);
        bus_wake(r->bus);
    }
}

static enum st start_threads(struct running *r, struct err *err) {
    int bad = pthread_create(&r->step_thread, NULL, step_main, r);
    if (bad) return err_set(err, ST_IO, "%s: cannot start a thread", r->a->command);
    if (r->ops->copy) bad = pthread_create(&r->copy_thread, NULL, copy_main, r);
    if (!bad) return ST_OK;
    atomic_store(&r->drain, true);
    pthread_join(r->step_thread, NULL);
    return err_set(err, ST_IO, "%s: cannot start a thread", r->a->command);
}

enum st member_run(const struct member_ops *ops, void *ctx, struct bus *bus,
                   const struct cluster_args *a, const struct log *log, struct err *err) {
    struct running r = {
        .ops = ops, .ctx = ctx, .bus = bus, .a = a, .log = log, .started_s = (int64_t)time(NULL)};
    struct metrics_http *http = NULL;
    pthread_mutex_init(&r.lock, NULL);
    r.seen.role = ops->role(ctx);
    ops->publish(ctx);
    struct seen first = r.seen;
    enum st st = start_metrics(&http, &r, err);
    if (!st) print_member(&r, http);
    if (!st) st = start_threads(&r, err);
    if (!st) {
        wait_for_end(&r, first);
        pthread_join(r.step_thread, NULL);
        atomic_store(&r.over, true);
        if (ops->copy) pthread_join(r.copy_thread, NULL);
        if (r.seen.state == NODE_REFUSED)
            st = err_set(err, ST_INVALID, "%s: the router refused %s: %s", a->command, a->name,
                         r.seen.why);
        if (r.seen.state == NODE_FAILED) st = err_set(err, ST_IO, "%s: %s", a->command, r.seen.why);
    }
    metrics_http_stop(http);
    pthread_mutex_destroy(&r.lock);
    return st;
}

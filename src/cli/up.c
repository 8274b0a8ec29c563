/* SPDX-License-Identifier: Apache-2.0 */
/* supernode up: a whole cluster on this machine, one process a part, until Ctrl-C. It is a
 * supervisor and a table: the parts would do the same if a user started them by hand. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/cluster_client.h"
#include "cli/front_args.h"
#include "cli/up_child.h"
#include "cli/up_plan.h"
#include "cli/up_show.h"

enum { VIEW_MS = 300, TICK_MS = 100, KILL_AFTER_S = 5, BACKOFF_S_MAX = 30, STEADY_S = 60 };
static const uint64_t second_ns = 1000000000;

struct up {
    struct up_args *a;
    struct cluster_args *cluster;
    struct cluster_client *client;
    struct child *children; /* [n]; the first is the router */
    uint32_t n;
    char exe[CLUSTER_DIR_BYTES], url[300];
    bool own_dir, begun, ready;
    int stopping; /* signals that came */
    uint64_t begun_ns, looked_ns, kill_at_ns;
    struct cluster_view *view;
    bool view_there;
    struct up_show show;
};

/* --- children --------------------------------------------------------------------------------- */

static struct child *child_of(struct up *u, pid_t pid) {
    for (uint32_t i = 0; i < u->n; i++)
        if (u->children[i].pid == pid) return &u->children[i];
    return NULL;
}

static enum st start(struct up *u, struct child *c, struct err *err) {
    return child_start(c, u->exe, clock_now_ns(), err);
}

static void how_it_ended(char out[64], int status) {
    if (WIFSIGNALED(status))
        snprintf(out, 64, "killed by signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, 64, "exit code %d", WEXITSTATUS(status));
}

/* A child that fails before it was ever part of the cluster will fail again. */
static enum st child_failed(struct up *u, struct child *c, int status, struct err *err) {
    char line[CHILD_LINE_BYTES], how[64];
    how_it_ended(how, status);
    if (!c->seen && WIFEXITED(status)) {
        child_last_line(c, line);
        const char *said = strncmp(line, "supernode: ", 11) == 0 ? line + 11 : line;
        return err_set(err, ST_INVALID, "up: %s did not start: %s", c->name, *said ? said : how);
    }
    if (!u->a->restart) {
        c->ended = true;
        up_event(&u->show, "%s ended (%s)", c->name, how);
        return ST_OK;
    }
    uint64_t now_ns = clock_now_ns();
    if (now_ns - c->started_ns > STEADY_S * second_ns) c->failures = 0;
    uint64_t wait_s = c->failures < 5 ? UINT64_C(1) << c->failures : BACKOFF_S_MAX;
    c->failures++;
    c->restart_at_ns = now_ns + wait_s * second_ns;
    up_event(&u->show, "%s ended (%s); it starts again in %llu s", c->name, how,
             (unsigned long long)wait_s);
    return ST_OK;
}

static enum st child_over(struct up *u, struct child *c, int status, struct err *err) {
    c->pid = 0;
    if (u->stopping) return ST_OK;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return child_failed(u, c, status, err);
    c->ended = true; /* it was drained, or told to end by somebody else */
    /* a router says itself who left it */
    if (c == u->children || !u->view_there) up_event(&u->show, "%s left", c->name);
    return ST_OK;
}

static enum st reap(struct up *u, struct err *err) {
    int status;
    pid_t pid;
    enum st st = ST_OK;
    while (!st && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct child *c = child_of(u, pid);
        if (c) st = child_over(u, c, status, err);
    }
    return st;
}

static enum st restart_due(struct up *u, uint64_t now_ns, struct err *err) {
    enum st st = ST_OK;
    for (uint32_t i = 0; i < u->n && !st; i++) {
        struct child *c = &u->children[i];
        if (c->pid == 0 && c->restart_at_ns && now_ns >= c->restart_at_ns) st = start(u, c, err);
    }
    return st;
}

/* --- stopping --------------------------------------------------------------------------------- */

static bool any_runs(const struct up *u) {
    for (uint32_t i = 0; i < u->n; i++)
        if (u->children[i].pid) return true;
    return false;
}

static void signal_members(const struct up *u, int signal_number) {
    for (uint32_t i = 1; i < u->n; i++) child_signal(&u->children[i], signal_number);
}

/* First the router, whose answers need the workers to the end; then those. */
static void begin_stop(struct up *u) {
    u->stopping++;
    u->kill_at_ns = clock_now_ns() + (u->a->drain_s + KILL_AFTER_S) * second_ns;
    if (u->stopping == 1) {
        up_event(&u->show, "stopping (a second signal: at once)");
        up_draw(&u->show, u->view_there ? u->view : NULL, u->url);
    }
    if (u->stopping == 1 && u->children[0].pid)
        child_signal(&u->children[0], SIGTERM);
    else if (u->stopping == 1)
        signal_members(u, SIGTERM);
    else
        u->kill_at_ns = 0;
}

static void step_stop(struct up *u, uint64_t now_ns) {
    static const struct timespec pause = {.tv_nsec = 20000000};
    if (now_ns >= u->kill_at_ns) {
        child_signal(&u->children[0], SIGKILL);
        signal_members(u, SIGKILL);
    } else if (!u->children[0].pid && u->stopping == 1) {
        signal_members(u, SIGTERM);
        u->stopping = 2; /* once */
        u->kill_at_ns = now_ns + KILL_AFTER_S * second_ns;
    }
    nanosleep(&pause, NULL);
}

/* --- watching --------------------------------------------------------------------------------- */

/* A router that is started again gets the port it had: clients know no other. */
static void find_url(struct up *u) {
    struct child *router = &u->children[0];
    if (!router->pid || !child_said(router, "serving ", u->url, sizeof u->url)) {
        snprintf(u->url, sizeof u->url, "%s:%u", u->a->host, u->a->port);
        return;
    }
    router->seen = true;
    if (u->a->port) return;
    const char *port = strrchr(u->url, ':') + 1;
    u->a->port = (uint32_t)strtoul(port, NULL, 10);
    child_set(router, "--port", port);
}

/* By the process: a member of that name may be there already, started by hand. */
static void mark_seen(struct up *u) {
    for (uint32_t i = 0; i < u->view->n_members; i++)
        for (uint32_t k = 1; k < u->n; k++)
            if (u->view->members[i].pid == (uint32_t)u->children[k].pid) u->children[k].seen = true;
}

static void say_ready(struct up *u) {
    if (u->ready) return;
    for (uint32_t i = 0; i < u->n; i++)
        if (!u->children[i].seen) return;
    u->ready = true;
    if (u->show.terminal) return;
    printf("serving    %s   ready in %.2f s\n", u->url,
           (double)(clock_now_ns() - u->begun_ns) / 1e9);
    fflush(stdout);
}

static void look(struct up *u) {
    struct err err;
    u->looked_ns = clock_now_ns();
    u->view_there = cluster_client_view(u->client, u->view, VIEW_MS, &err) == ST_OK;
    find_url(u);
    if (u->view_there) {
        mark_seen(u);
        up_events_of(&u->show, u->view);
    }
    say_ready(u);
    up_draw(&u->show, u->view_there ? u->view : NULL, u->url);
}

static void take_signal(struct up *u, const sigset_t *set, int64_t wait_ms) {
    struct timespec tick = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    int s = sigtimedwait(set, NULL, &tick);
    if (s == SIGINT || s == SIGTERM || s == SIGHUP) begin_stop(u);
}

static enum st supervise(struct up *u, const sigset_t *set, struct err *err) {
    enum st st = ST_OK;
    for (uint32_t i = 0; i < u->n && !st; i++) st = start(u, &u->children[i], err);
    while (!st && !u->stopping) {
        take_signal(u, set, TICK_MS);
        st = reap(u, err);
        uint64_t now_ns = clock_now_ns(), every_ns = u->ready ? second_ns : second_ns / 5;
        if (!st) st = restart_due(u, now_ns, err);
        if (!st && !u->stopping && now_ns - u->looked_ns >= every_ns) look(u);
    }
    if (!u->stopping) begin_stop(u);
    while (any_runs(u)) {
        struct err later;
        take_signal(u, set, 0);
        (void)!reap(u, &later);
        if (any_runs(u)) step_stop(u, clock_now_ns());
    }
    return st;
}

/* --- life ------------------------------------------------------------------------------------- */

static sigset_t block_signals(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaddset(&set, signals[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return set;
}

static enum st open_up(struct up *u, struct err *err) {
    ssize_t len = readlink("/proc/self/exe", u->exe, sizeof u->exe - 1);
    if (len < 0) return err_set(err, ST_IO, "up: cannot find our binary: %s", strerror(errno));
    enum st st = ST_OK;
    if (!u->cluster->dir_flag) st = up_make_dir(u->a, err);
    u->own_dir = !st && !u->cluster->dir_flag;
    if (u->own_dir) u->cluster->dir_flag = u->a->dir;
    if (!st) st = cluster_open(u->cluster, err);
    if (!st) st = cluster_take_name(u->cluster, "up", err); /* its logs are another's else */
    if (!st) st = up_plan(&u->children, &u->n, u->a, u->cluster, err);
    if (!st) st = cluster_client_new(&u->client, u->cluster, err);
    if (st) return st;
    u->view = calloc(1, sizeof *u->view);
    return u->view ? ST_OK : err_set(err, ST_NO_MEMORY, "up: out of memory");
}

/* What the parts said before is worth reading, and stays. */
static void say_logs(enum st st, const char *dir, struct err *err) {
    struct err first = *err;
    (void)err_set(err, st, "%.300s; its logs are in %.150s", first.text, dir);
}

static int run(struct up_args *a, struct cluster_args *cluster, struct err *err) {
    struct up u = {.a = a, .cluster = cluster, .begun_ns = clock_now_ns()};
    char hint[300];
    sigset_t set = block_signals();
    enum st st = open_up(&u, err);
    if (!st) {
        snprintf(hint, sizeof hint,
                 "Ctrl-C stops everything.   supernode ctl --cluster %.200s list", cluster->dir);
        u.show = (struct up_show){.terminal = isatty(STDOUT_FILENO), .hint = hint};
        printf("cluster    %s  (each part's log is NAME.log there)\n", cluster->dir);
        for (uint32_t i = 0; i < u.n && a->verbose; i++) child_print(&u.children[i]);
        fflush(stdout);
        u.begun = true;
        st = supervise(&u, &set, err);
    }
    cluster_client_free(u.client);
    if (u.own_dir && (!st || !u.begun))
        up_remove_dir(a->dir);
    else if (st && u.begun)
        say_logs(st, cluster->dir, err);
    cluster_close(cluster);
    free(u.children);
    free(u.view);
    return st ? cli_fail(CLI_FAILED, err) : 0;
}

int cli_up(int argc, char **argv) {
    struct up_args a;
    struct cluster_args cluster;
    const char *args[1];
    struct flag flags[UP_FLAGS_MAX + CLUSTER_FLAGS_MAX + 1] = {{0}};
    up_args_init(&a);
    cluster_args_init(&cluster, "up");
    uint32_t n = up_args_flags(flags, &a);
    (void)cluster_args_flags(flags + n, &cluster);
    const struct flag_command cmd = {
        .name = "up",
        .what = "Runs a whole cluster on this machine: a router, workers and pool servers.",
        .usage = "supernode up [MODEL] [flags]",
        .example = "supernode up --prefill 2 --decode 2 --pool 2",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (args[0]) a.model = args[0];
    if (!st) st = up_args_check(&a, &err);
    return st ? cli_fail(CLI_USAGE, &err) : run(&a, &cluster, &err);
}

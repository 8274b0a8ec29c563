/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench bus: reads, writes and messages between two processes of this host, beside memcpy
 * and a pipe. Copies walk through memory that no cache holds, source and destination alike, and
 * memcpy takes turns with the bus: a share is the median of those pairs. */
#include "cli/bench_bus.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/percentile.h"
#include "bus/shm.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/limits.h"

enum {
    SPAN = 256 << 20,    /* bytes that copies walk through */
    ROUND = 8 << 20,     /* bytes of a repetition, one operation at least, */
    OPS_MAX = 20000,     /* and at most so many operations */
    PIPE_MAX = 8 << 20,  /* bytes through the pipe, and in messages, but one at least */
    REPEATS = 41,        /* short ones: the median is one that nobody interrupted */
    MESSAGE_REPEATS = 7, /* of messages and the pipe */
    TRIPS = 20000,
    TRIPS_MIN = 1000,
    SIZES = 9,
    BAR_FROM = 64 << 10,
};
static const size_t sizes[SIZES] = {8,       64,      1 << 10,  4 << 10, 64 << 10,
                                    1 << 20, 4 << 20, 16 << 20, 64 << 20};
static const uint64_t trips_ns = 2000000000;
static const double bar = 0.9;
static const uint8_t secret[] = "the bench's, known to both";

/* --- the other process ------------------------------------------------------------------------ */

static enum st endpoint(struct bus **out, const char *path, bool spins, struct err *err) {
    struct shm_options o = {.address = path,
                            .secret = secret,
                            .secret_len = sizeof secret - 1,
                            .identity = {.name = "bench"},
                            .peer_timeout_ms = 3000,
                            .spin_us = spins ? 1000000 : 0};
    return shm_bus_new(out, &o, err);
}

/* Shares two segments, filled, and answers every message that begins with 1. */
static int serve(const char *path, bool spins) {
    struct bus *b;
    struct err err;
    bus_id segments[2];
    void *memory;
    struct bus_event ev;
    if (endpoint(&b, path, spins, &err)) return cli_fail(CLI_FAILED, &err);
    for (int i = 0; i < 2; i++) {
        enum bus_rights rights = i ? BUS_PEERS_WRITE : BUS_PEERS_READ;
        if (bus_segment_new(b, SPAN, rights, &segments[i], &memory, &err))
            return cli_fail(CLI_FAILED, &err);
        memset(memory, 1, SPAN);
    }
    do {
        while (!bus_next(b, &ev)) bus_wait(b, UINT64_MAX);
        enum st st = ST_OK;
        if (ev.kind == BUS_UP)
            for (uint64_t i = 0; i < 2 && !st; i++) st = bus_share(b, ev.peer, segments[i], i);
        if (ev.kind == BUS_MESSAGE && *(const uint8_t *)ev.data == 1)
            st = bus_send(b, ev.peer, ev.data, 8);
        if (st) break;
    } while (ev.kind != BUS_GONE);
    bus_free(b);
    return 0;
}

static void fill_pipe(int fd) {
    static char chunk[64 << 10];
    while (write(fd, chunk, sizeof chunk) > 0) {
    }
}

/* --- this one --------------------------------------------------------------------------------- */

struct size_result {
    double memcpy_gbs, read_gbs, write_gbs, message_gbs, pipe_gbs;
    double read_share, write_share;
};

struct bench {
    char dir[32], path[64];
    pid_t child, piper;
    int pipe;
    struct bus *bus;
    struct bus_queue *queue;
    bus_id peer, segments[2];
    uint8_t *from, *to; /* [SPAN] for memcpy; where everything arrives */
    size_t at;
    struct size_result result[SIZES];
    double trip_us[2][2]; /* [sleeping, spinning][p50, p99] */
    struct limits limits;
};

static pid_t child_of(struct bench *b, bool spins) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(serve(b->path, spins));
    }
    return pid;
}

/* The next event; waits for it. On a busy machine either may seem silent for a while. */
static struct bus_event next(struct bench *b) {
    struct bus_event ev;
    do {
        while (!bus_next(b->bus, &ev)) bus_wait(b->bus, UINT64_MAX);
    } while (ev.kind == BUS_SUSPENDED || ev.kind == BUS_RESUMED);
    return ev;
}

static enum st connect_to_child(struct bench *b, bool spins, struct err *err) {
    enum st st = endpoint(&b->bus, NULL, spins, err);
    if (st) return st;
    struct bus_event ev = {.kind = BUS_REFUSED};
    uint64_t until = clock_now_ns() + 30 * UINT64_C(1000000000);
    while (ev.kind == BUS_REFUSED) { /* until it listens */
        if (clock_now_ns() > until || waitpid(b->child, NULL, WNOHANG) != 0)
            return err_set(err, ST_GONE, "bench bus: the other process did not start: %s",
                           ev.text ? ev.text : "");
        usleep(2000);
        b->peer = bus_connect(b->bus, b->path);
        ev = next(b);
    }
    for (int i = 0; i < 2; i++) {
        ev = next(b);
        if (ev.kind != BUS_SEGMENT)
            return err_set(err, ST_GONE, "bench bus: the other process went away");
        b->segments[ev.value] = ev.segment;
    }
    return bus_queue_new(b->bus, &b->queue, err);
}

static void end_child(struct bench *b) {
    bus_queue_free(b->queue);
    bus_free(b->bus);
    b->bus = NULL;
    b->queue = NULL;
    kill(b->child, SIGTERM);
    waitpid(b->child, NULL, 0);
    unlink(b->path);
}

enum way { BY_MEMCPY, BY_READ, BY_WRITE };

static enum st copy_once(struct bench *b, enum way way, size_t at, size_t n) {
    struct bus_completion c = {.status = BUS_DONE};
    enum st st = ST_OK;
    if (way == BY_MEMCPY) {
        memcpy(b->to + at, b->from + at, n);
        __asm__ volatile("" : : : "memory");
        return ST_OK;
    }
    if (way == BY_READ)
        st = bus_read(b->queue, b->segments[0], at, b->to + at, n, 1);
    else
        st = bus_write(b->queue, b->segments[1], at, b->from + at, n, 1);
    if (st || bus_completions(b->queue, &c, 1) != 1 || c.status != BUS_DONE) return ST_GONE;
    return ST_OK;
}

/* 10^9 bytes a second of one repetition; 0: it failed. No repetition begins where the one before it
 * has left anything in a cache. */
static double copy_many(struct bench *b, enum way way, size_t n) {
    size_t ops = ROUND / n < OPS_MAX ? ROUND / n : OPS_MAX;
    if (ops == 0) ops = 1;
    if (b->at + ops * n > SPAN) b->at = 0;
    uint64_t t0 = clock_now_ns();
    for (size_t i = 0; i < ops; i++, b->at += n)
        if (copy_once(b, way, b->at, n)) return 0;
    return (double)(ops * n) / (double)(clock_now_ns() - t0);
}

/* Until the other side has all of them. */
static double message_many(struct bench *b, size_t n) {
    size_t count = PIPE_MAX / n < OPS_MAX ? PIPE_MAX / n : OPS_MAX;
    if (count == 0) count = 1;
    uint64_t t0 = clock_now_ns();
    for (size_t i = 0; i < count; i++) {
        b->to[0] = i + 1 == count;
        if (bus_send(b->bus, b->peer, b->to, n)) return 0;
    }
    if (next(b).kind != BUS_MESSAGE) return 0;
    return (double)(count * n) / (double)(clock_now_ns() - t0);
}

static double pipe_many(struct bench *b, size_t n) {
    size_t count = PIPE_MAX / n < OPS_MAX ? PIPE_MAX / n : OPS_MAX;
    if (count == 0) count = 1;
    uint64_t t0 = clock_now_ns();
    for (size_t i = 0; i < count; i++)
        for (size_t done = 0; done < n;) {
            ssize_t k = read(b->pipe, b->to + done, n - done);
            if (k <= 0) return 0;
            done += (size_t)k;
        }
    return (double)(count * n) / (double)(clock_now_ns() - t0);
}

static enum st measure_size(struct bench *b, uint32_t i, struct err *err) {
    size_t n = sizes[i];
    double gbs[5][REPEATS], share[2][REPEATS];
    for (int r = -1; r < REPEATS; r++) { /* the first touches everything */
        int k = r < 0 ? 0 : r;
        for (enum way way = BY_MEMCPY; way <= BY_WRITE; way++) gbs[way][k] = copy_many(b, way, n);
        if (r < MESSAGE_REPEATS) {
            gbs[3][k] = message_many(b, n);
            gbs[4][k] = pipe_many(b, n);
        }
        for (int w = 0; w < (r < MESSAGE_REPEATS ? 5 : 3); w++)
            if (gbs[w][k] == 0) return err_set(err, ST_GONE, "bench bus: the connection ended");
        share[0][k] = gbs[BY_READ][k] / gbs[BY_MEMCPY][k];
        share[1][k] = gbs[BY_WRITE][k] / gbs[BY_MEMCPY][k];
    }
    b->result[i] = (struct size_result){.memcpy_gbs = percentile_middle(gbs[BY_MEMCPY], REPEATS),
                                        .read_gbs = percentile_middle(gbs[BY_READ], REPEATS),
                                        .write_gbs = percentile_middle(gbs[BY_WRITE], REPEATS),
                                        .message_gbs = percentile_middle(gbs[3], MESSAGE_REPEATS),
                                        .pipe_gbs = percentile_middle(gbs[4], MESSAGE_REPEATS),
                                        .read_share = percentile_middle(share[0], REPEATS),
                                        .write_share = percentile_middle(share[1], REPEATS)};
    return ST_OK;
}

static enum st measure_trips(struct bench *b, double us[2], struct err *err) {
    static double v[TRIPS];
    int n = 0;
    uint64_t until = clock_now_ns() + trips_ns; /* two who spin on a busy machine take long */
    for (int i = -1000; n < TRIPS && (n < TRIPS_MIN || clock_now_ns() < until); i++) {
        uint64_t t0 = clock_now_ns(), one = 1;
        if (bus_send(b->bus, b->peer, &one, sizeof one) || next(b).kind != BUS_MESSAGE)
            return err_set(err, ST_GONE, "bench bus: the connection ended");
        if (i >= 0) v[n++] = (double)(clock_now_ns() - t0) / 1e3;
    }
    qsort(v, (size_t)n, sizeof *v, percentile_compare);
    us[0] = v[n / 2];
    us[1] = v[n / 100 * 99];
    return ST_OK;
}

/* --- the run ---------------------------------------------------------------------------------- */

static enum st make(struct bench *b, struct err *err) {
    int ends[2];
    strcpy(b->dir, "/tmp/supernode-bench-XXXXXX");
    if (!mkdtemp(b->dir) || pipe2(ends, O_CLOEXEC) != 0)
        return err_set(err, ST_IO, "bench bus: %s: %s", b->dir, strerror(errno));
    snprintf(b->path, sizeof b->path, "%s/bus", b->dir);
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
    b->piper = fork();
    if (b->piper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fill_pipe(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    b->pipe = ends[0];
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    b->from = mmap(NULL, SPAN, PROT_READ | PROT_WRITE, flags, -1, 0);
    b->to = mmap(NULL, SPAN, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (b->from == MAP_FAILED || b->to == MAP_FAILED)
        return err_set(err, ST_NO_MEMORY, "bench bus: cannot map memory: %s", strerror(errno));
    memset(b->from, 1, SPAN);
    memset(b->to, 1, SPAN);
    return ST_OK;
}

/* Children are made before this process has a thread: the endpoint's, the team's. */
static enum st run(struct bench *b, struct err *err) {
    enum st st = make(b, err);
    for (int spins = 0; spins < 2 && !st; spins++) {
        b->child = child_of(b, spins);
        st = b->child < 0 ? err_set(err, ST_IO, "bench bus: cannot fork") : ST_OK;
        if (!st) st = connect_to_child(b, spins, err);
        for (uint32_t i = 0; i < SIZES && !spins && !st; i++) st = measure_size(b, i, err);
        if (!st) st = measure_trips(b, b->trip_us[spins], err);
        if (b->child > 0) end_child(b);
    }
    if (b->piper > 0) {
        kill(b->piper, SIGKILL);
        waitpid(b->piper, NULL, 0);
    }
    rmdir(b->dir);
    struct team *team = NULL;
    if (!st) st = team_new(&team, team_cores(), err);
    if (!st) st = limits_measure(&b->limits, team, err);
    team_free(team);
    return st;
}

static double worst_share(const struct bench *b) {
    double worst = 1e9;
    for (uint32_t i = 0; i < SIZES; i++)
        if (sizes[i] >= BAR_FROM && b->result[i].read_share < worst)
            worst = b->result[i].read_share;
    return worst;
}

static void print_json(const struct bench *b) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < SIZES; i++) {
        const struct size_result *r = &b->result[i];
        json_array_append_new(
            rows, json_pack("{sI sf sf sf sf sf sf sf}", "bytes", (json_int_t)sizes[i],
                            "memcpy_gbs", r->memcpy_gbs, "read_gbs", r->read_gbs, "write_gbs",
                            r->write_gbs, "message_gbs", r->message_gbs, "pipe_gbs", r->pipe_gbs,
                            "read_share", r->read_share, "write_share", r->write_share));
    }
    json_t *o = json_pack("{ss sf so sf sf sf sf sf sf}", "cpu", b->limits.cpu, "memory_read_gbs",
                          b->limits.read_gbs, "sizes", rows, "round_trip_spinning_us",
                          b->trip_us[1][0], "round_trip_spinning_p99_us", b->trip_us[1][1],
                          "round_trip_sleeping_us", b->trip_us[0][0], "round_trip_sleeping_p99_us",
                          b->trip_us[0][1], "read_share_min", worst_share(b), "bar", bar);
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(o);
}

static void print_table(const struct bench *b) {
    printf("%s; %.1f GB/s read by all cores\n", b->limits.cpu, b->limits.read_gbs);
    printf("%9s %9s %9s %6s %9s %6s %9s %9s   GB/s (10^9); shares of memcpy\n", "bytes", "memcpy",
           "read", "share", "write", "share", "messages", "pipe");
    for (uint32_t i = 0; i < SIZES; i++) {
        const struct size_result *r = &b->result[i];
        printf("%9zu %9.3f %9.3f %6.2f %9.3f %6.2f %9.3f %9.3f\n", sizes[i], r->memcpy_gbs,
               r->read_gbs, r->read_share, r->write_gbs, r->write_share, r->message_gbs,
               r->pipe_gbs);
    }
    printf("round trip of an 8-byte message: spinning %.1f us (p99 %.1f), sleeping %.1f us (p99 "
           "%.1f)\n",
           b->trip_us[1][0], b->trip_us[1][1], b->trip_us[0][0], b->trip_us[0][1]);
    printf("reads from 64 KiB up: at least %.2f of memcpy, bar %.2f: %s\n", worst_share(b), bar,
           worst_share(b) >= bar ? "reached" : "MISSED");
}

int cli_bench_bus(int argc, char **argv) {
    bool json = false;
    const char *args[1];
    const struct flag flags[] = {
        {"json", NULL, FLAG_BOOL, &json, 0, 0, "the result as a JSON object", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench bus",
        .what = "Measures the bus between two processes of this host, beside memcpy and a pipe.",
        .usage = "supernode bench bus [flags]",
        .example = "supernode bench bus",
        .flags = flags,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, args, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    static struct bench b;
    if (run(&b, &err)) return cli_fail(CLI_FAILED, &err);
    if (json)
        print_json(&b);
    else
        print_table(&b);
    return 0;
}

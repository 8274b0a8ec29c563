/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench calibrate: what a server of this model costs on this machine, as a table from which
 * `sim run` predicts it. Servers are started that write down their steps (engine/record.h) and serve
 * closed loops of several widths and lengths, and one request now and then; the table is fitted to what
 * they wrote, so that the threads of HTTP and of the client, which share the cores with the engine, are
 * in it as they are when it serves. Beside them a thread watches how far apart the cores are; what was
 * measured while they were nearer or farther than usual is left out. One server after the other, since
 * each is a few percent faster or slower for as long as it lives, by where its memory and threads came to
 * be. Requests that come now and then tell what they cost beside their computation. */
#include "cli/bench_calibrate.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/turn.h"
#include "cli/bench_serve_run.h"
#include "cli/cli.h"
#include "cli/engine_args.h"
#include "cli/limits.h"
#include "cli/progress.h"
#include "cli/up_child.h"
#include "sim/calibration.h"

enum {
    SERVERS = 4, /* fewer where one would measure for less than so many times its warm-up: */
    SERVER_WARM_UPS = 20,
    START_S = 600,
    STOP_S = 60,
    SEEN_MAX = 4096,
    PROBES_MAX = 20000, /* of an hour, and of what goes on a little longer */
    WIDTHS_MAX = 20,
    WARM_WIDTH = 8
};

/* Prompts between mere tails of a step and the longest that is likely; some share a prefix, so that rows
 * come behind keys that are there already, some go on so long that others' prompts are computed beside
 * them. */
static const struct lengths {
    double in, prefix; /* of max_model_len, not under in_min */
    uint32_t in_min, out;
} lengths[] = {{0.008, 0, 64, 64},   {0.002, 0, 12, 96}, {0.04, 0, 64, 24}, {0.12, 0, 64, 128},
               {0.04, 0.08, 64, 16}, {0.4, 0, 64, 32},   {0.75, 0, 64, 16}, {0.002, 0.04, 12, 48}};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* In place of a width: one at a time, with pauses at random, so that the engine rests and its caches are
 * cold then. */
enum { SPARSE = 0 };

struct args {
    struct engine_args engine;
    const char *output, *record;
    float seconds;
};

struct calibrate {
    struct args *a;
    const char *model;                  /* as given, or NULL */
    char dir[64], steps[80], exe[4096]; /* steps: of the server that runs */
    char record[4096];
    FILE *recording; /* what all servers wrote */
    struct child server;
    struct bench_target target;
    struct record_file head; /* what a recording's first line says */
    struct progress progress;
    uint64_t begun_ns, rounds;
    uint32_t widths[WIDTHS_MAX], n_widths;
    struct turns {
        uint32_t next, loads; /* of lengths; since the beginning */
    } turns[WIDTHS_MAX];
    double tokens_per_s;     /* best so far, prompts counted in */
    double alone_s[LENGTHS]; /* what one of each takes that is alone; 0: not known */
    struct calibration_seen seen;
    struct calibration_alone alone[SEEN_MAX];
    struct calibration_made made[SEEN_MAX];
    struct calibration_burst bursts[SEEN_MAX];
    struct calibration_probe probes[PROBES_MAX];
    struct team *team;
    struct team *beside; /* in short turns, beside what is measured */
    pthread_t watcher;   /* while it runs it alone touches beside and probes */
    bool watched;
    atomic_bool over; /* the watcher shall end */
};

static double since_s(uint64_t ns) {
    return (double)(clock_now_ns() - ns) / 1e9;
}

/* --- the server ------------------------------------------------------------------------------- */

static void command_line(struct calibrate *b) {
    static const char *const modes[] = {"auto", "off", "on"}, *const kv[] = {"auto", "f32", "bf16"};
    const struct engine_args *a = &b->a->engine;
    struct child *c = &b->server;
    child_init(c, "serve", b->dir);
    child_arg(c, "serve");
    if (b->model) child_arg(c, "%s", b->model);
    child_arg(c, "--port=0");
    child_arg(c, "--record-steps=%s", b->steps);
    child_arg(c, "--max-num-seqs=%u", a->engine.max_num_seqs);
    child_arg(c, "--max-num-batched-tokens=%u", a->engine.max_num_batched_tokens);
    child_arg(c, "--speculate=%s", modes[a->speculate]);
    child_arg(c, "--draft-tokens=%u", a->engine.draft_tokens);
    child_arg(c, "--tpot-ms=%u", a->engine.tpot_ms);
    child_arg(c, "--ttft-ms=%u", a->engine.ttft_ms);
    child_arg(c, "--threads=%u", a->model.threads);
    child_arg(c, "--kv-dtype=%s", kv[a->model.kv]);
    if (a->max_model_len) child_arg(c, "--max-model-len=%u", a->max_model_len);
    if (a->kv_bytes) child_arg(c, "--kv-cache-memory=%llu", (unsigned long long)a->kv_bytes);
}

/* Its log says where it serves; until then it may end. */
static enum st wait_up(struct calibrate *b, char *url, size_t size, struct err *err) {
    char line[CHILD_LINE_BYTES];
    uint64_t begun = clock_now_ns();
    while (!child_said(&b->server, "serving", url, size)) {
        int status;
        bool ended = waitpid(b->server.pid, &status, WNOHANG) == b->server.pid;
        if (ended) b->server.pid = 0;
        if (ended || since_s(begun) > START_S) {
            child_last_line(&b->server, line);
            return err_set(err, ST_GONE, "bench calibrate: the server did not start: %.200s", line);
        }
        usleep(20000);
    }
    return ST_OK;
}

static enum st begin(struct calibrate *b, struct err *err) {
    char url[256];
    command_line(b);
    enum st st = child_start(&b->server, b->exe, clock_now_ns(), err);
    if (!st) st = wait_up(b, url, sizeof url, err);
    record_file_release(&b->head);
    if (!st) st = record_read(&b->head, b->steps, err);
    return st ? st : http_client_new(&b->target.client, b->target.base, url, err);
}

/* What it wrote is whole once it ended. */
static enum st stop(struct calibrate *b, struct err *err) {
    uint64_t begun = clock_now_ns();
    http_client_free(b->target.client);
    b->target.client = NULL;
    if (b->server.pid == 0) return ST_OK;
    child_signal(&b->server, SIGTERM);
    while (waitpid(b->server.pid, NULL, WNOHANG) == 0) {
        if (since_s(begun) > STOP_S) {
            child_signal(&b->server, SIGKILL);
            waitpid(b->server.pid, NULL, 0);
            b->server.pid = 0;
            return err_set(err, ST_TIMEOUT, "bench calibrate: the server did not stop");
        }
        usleep(10000);
    }
    b->server.pid = 0;
    return ST_OK;
}

/* Adds what was recorded since then; the first line stands once. */
static enum st keep(struct calibrate *b, uint64_t since_ns, struct err *err) {
    FILE *in = fopen(b->steps, "re");
    char *line = NULL;
    size_t cap = 0;
    if (!in)
        return err_set(err, ST_IO, "bench calibrate: %s: cannot read: %s", b->steps,
                       strerror(errno));
    if (getline(&line, &cap, in) > 0 && ftell(b->recording) == 0) fputs(line, b->recording);
    while (getline(&line, &cap, in) > 0) {
        unsigned long long at_ns = 0; /* it began, or arrived */
        (void)!sscanf(line, line[0] == 'R' ? "R %*u %llu" : "%*c %llu", &at_ns);
        if (at_ns >= since_ns) fputs(line, b->recording);
    }
    free(line);
    fclose(in);
    return ST_OK;
}

/* --- the load --------------------------------------------------------------------------------- */

static const double range_ratio = 0.25, longest_of_mean = 1.26;

/* The mean: caches of the front and the client are cold then, too. */
static const double pause_s = 0.1;

static struct bench_random requests(const struct calibrate *b, const struct lengths *l,
                                    uint32_t width) {
    double longest = b->head.x.max_model_len;
    /* the times of keys come from those: they must find room */
    bool slow = width == 1 && l->in >= 0.4;
    struct bench_random r = {.n = slow         ? 2
                                  : width <= 1 ? 6
                                               : width + width / 2,
                             .input_len = (uint32_t)(l->in * longest),
                             .output_len = l->out,
                             .prefix_len = (uint32_t)(l->prefix * longest),
                             .range_ratio = range_ratio};
    if (r.input_len < l->in_min) r.input_len = l->in_min;
    return r;
}

static bool fits(const struct calibrate *b, const struct bench_random *r, double room_s) {
    double in = (r->prefix_len + r->input_len) * longest_of_mean,
           out = r->output_len * longest_of_mean;
    bool short_enough = in + out + 2 <= b->head.x.max_model_len;
    return short_enough && (b->tokens_per_s <= 0 || r->n * (in + out) < room_s * b->tokens_per_s);
}

static enum st took(struct calibrate *b, const struct bench_run *run, uint32_t width,
                    double *alone_s, struct err *err) {
    double tokens = 0, all_s = 0;
    /* the first of a loop are sent at once */
    uint32_t burst = width < BENCH_BURST ? width : BENCH_BURST;
    for (uint32_t i = 0; i < run->len; i++) {
        const struct bench_result *r = &run->v[i];
        if (r->fault)
            return err_set(err, ST_GONE, "bench calibrate: a request failed: %.200s",
                           run->sample.text);
        tokens += r->input_tokens + r->output_tokens;
        all_s += (double)(r->last_ns - r->sent_ns) / 1e9;
        /* the first had no pause; one that the one before was in the way of was not alone */
        bool alone = width == SPARSE && i > 0 && run->v[i - 1].last_ns < r->from_ns;
        if (alone && b->seen.n_alone < SEEN_MAX)
            b->alone[b->seen.n_alone++] =
                (struct calibration_alone){r->input_tokens, run->begun_ns + r->from_ns,
                                           run->begun_ns + r->first_ns, run->begun_ns + r->last_ns};
        if (i > 0 && i < burst && b->seen.n_made < SEEN_MAX)
            b->made[b->seen.n_made++] =
                (struct calibration_made){r->input_tokens, run->v[i - 1].connects,
                                          (double)(r->sent_ns - run->v[i - 1].sent_ns) / 1e9};
    }
    if (width == 1) *alone_s = all_s / run->len;
    if (burst > 1 && b->seen.n_bursts < SEEN_MAX)
        b->bursts[b->seen.n_bursts++] =
            (struct calibration_burst){run->begun_ns + run->v[0].sent_ns, burst};
    double rate = tokens / ((double)run->duration_ns / 1e9);
    if (rate > b->tokens_per_s) b->tokens_per_s = rate;
    return ST_OK;
}

/* A closed loop of so many clients, or SPARSE. */
static enum st load(struct calibrate *b, const struct bench_random *r, uint32_t width,
                    double alone_s, struct bench_run *run, struct err *err) {
    struct bench_load l = {.seed = ++b->rounds, .vocabulary = {.n_ids = b->head.x.vocab - 3}};
    b->target.concurrency_max = width == SPARSE ? 1 : width;
    b->target.paced = width != SPARSE; /* who is alone has times from when it was due */
    enum st st = bench_load_random(&l, r, err);
    if (!st && width == SPARSE) {
        bench_load_arrivals(&l, 1 / pause_s, 1);
        for (uint32_t i = 0; i < l.len; i++)
            l.v[i].at_ns +=
                (uint64_t)(i * longest_of_mean * alone_s * 1e9); /* the one before is done */
    }
    if (!st) st = bench_run(run, &b->target, &l, err);
    bench_load_release(&l);
    return st;
}

/* Weights are mapped and read the first time; nobody looks. */
static enum st warm_up(struct calibrate *b, struct err *err) {
    struct bench_run run = {0};
    struct bench_random r = requests(b, &lengths[0], WARM_WIDTH);
    enum st st = load(b, &r, WARM_WIDTH, 0, &run, err);
    bench_run_release(&run);
    return st;
}

/* The lengths take turns; those are left out that would take too long, unless there was none yet. */
static enum st loads(struct calibrate *b, uint32_t width, struct turns *turns, double end_s,
                     struct err *err) {
    uint32_t left_out = 0;
    char note[64];
    snprintf(note, sizeof note, width == SPARSE ? "one now and then" : "%u at once", width);
    while (since_s(b->begun_ns) < end_s && left_out < LENGTHS) {
        uint32_t which = turns->next++ % LENGTHS;
        const struct lengths *l = &lengths[which];
        double *alone_s = &b->alone_s[which];
        struct bench_random r = requests(b, l, width);
        struct bench_run run = {0};
        double room_s = turns->loads ? end_s - since_s(b->begun_ns) : INFINITY;
        if (width == SPARSE) room_s *= *alone_s / (longest_of_mean * *alone_s + pause_s);
        /* who is alone must begin with a chunk */
        bool possible =
            width == SPARSE ? *alone_s > 0 : width > 1 || l->in_min >= EXECUTOR_RIDE_ROWS;
        if (!possible || !fits(b, &r, room_s)) {
            left_out++;
            continue;
        }
        left_out = 0;
        turns->loads++;
        progress_show(&b->progress, (uint64_t)since_s(b->begun_ns), (uint64_t)b->a->seconds, note);
        enum st st = load(b, &r, width, *alone_s, &run, err);
        if (!st) st = took(b, &run, width, alone_s, err);
        bench_run_release(&run);
        if (st) return st;
    }
    return ST_OK;
}

/* Each width gets an equal part of the time that is left. */
static enum st widths(struct calibrate *b, double end_s, struct err *err) {
    enum st st = ST_OK;
    for (uint32_t i = 0; i < b->n_widths && !st; i++) {
        double at_s = since_s(b->begun_ns);
        st = loads(b, b->widths[i], &b->turns[i], at_s + (end_s - at_s) / (b->n_widths - i), err);
    }
    return st;
}

/* Shared machines move their cores when they like. */
static void *watch(void *ctx) {
    struct calibrate *b = ctx;
    turn_short();
    while (!atomic_load(&b->over) && b->seen.n_probes < PROBES_MAX) {
        double hop_ns = limits_hop_ns(b->beside, LIMITS_BESIDE_NS);
        b->probes[b->seen.n_probes++] = (struct calibration_probe){clock_now_ns(), hop_ns};
        usleep(LIMITS_BESIDE_EVERY_US);
    }
    return NULL;
}

static enum st begin_watch(struct calibrate *b, struct err *err) {
    atomic_store(&b->over, false);
    int rc = pthread_create(&b->watcher, NULL, watch, b);
    b->watched = rc == 0;
    return rc ? err_set(err, ST_NO_MEMORY, "bench calibrate: cannot begin a thread: %s",
                        strerror(rc))
              : ST_OK;
}

static void end_watch(struct calibrate *b) {
    atomic_store(&b->over, true);
    if (b->watched) pthread_join(b->watcher, NULL);
    b->watched = false;
}

/* A server; so many are still to come, and share the time that is left. Until it is warm no time counts. */
static enum st serve(struct calibrate *b, uint32_t *to_come, struct err *err) {
    struct err ignored;
    double all_s = (double)b->a->seconds, at_s = since_s(b->begun_ns);
    uint64_t begun_ns = clock_now_ns();
    enum st st = begin(b, err);
    uint64_t up_ns = clock_now_ns();
    if (!st) st = warm_up(b, err);
    uint64_t warm_ns = clock_now_ns();
    double warming_s = (double)(warm_ns - up_ns) / 1e9;
    b->begun_ns += warm_ns - begun_ns;
    while (*to_come > 0 && (all_s - at_s) / (*to_come + 1) < SERVER_WARM_UPS * warming_s)
        --*to_come;
    if (!st) st = begin_watch(b, err);
    if (!st) st = widths(b, at_s + (all_s - at_s) / (*to_come + 1), err);
    end_watch(b);
    enum st stopped = stop(b, st ? &ignored : err);
    if (!st) st = stopped;
    return st ? st : keep(b, warm_ns, err);
}

static enum st measure(struct calibrate *b, struct err *err) {
    uint32_t most = b->a->engine.engine.max_num_seqs, to_come = SERVERS;
    enum st st = ST_OK;
    b->widths[b->n_widths++] = 1;
    b->widths[b->n_widths++] = SPARSE;
    for (uint32_t w = 2; w < most && b->n_widths + 2 < WIDTHS_MAX; w *= 2)
        b->widths[b->n_widths++] = w;
    if (most > 1) b->widths[b->n_widths++] = most;
    b->widths[b->n_widths++] = SPARSE; /* again: most of its time are pauses */
    progress_begin(&b->progress, "bench calibrate");
    b->begun_ns = clock_now_ns();
    while (to_come-- > 0 && since_s(b->begun_ns) < (double)b->a->seconds && !st)
        st = serve(b, &to_come, err);
    progress_end(&b->progress);
    return st;
}

/* --- the whole -------------------------------------------------------------------------------- */

static void print(const struct calibration *c, const char *path) {
    printf("machine    %s, %u threads, %.1f GB/s read, %.0f ns from core to core\n", c->cpu,
           c->threads, c->read_gbs, c->hop_ns);
    printf("steps      %llu:", (unsigned long long)c->fit.steps);
    for (uint32_t i = 0; i < c->step.n_knots; i++)
        printf(" %g:%.2f", c->step.sequences[i], 1e3 * c->step.s[i]);
    printf(" ms by sequences, %.1f ns a key; off by %.1f%% (median), %+.1f%% in all\n",
           1e9 * c->step.key_s, 100 * c->fit.step_error, 100 * c->fit.step_bias);
    if (c->acceptance > 0)
        printf("drafts     %.2f accepted, %.1f us to verify, %.1f us and %.1f us a step to guess\n",
               c->acceptance, 1e6 * c->step.draft_s, 1e6 * c->step.guess_s,
               1e6 * c->step.guessing_s);
    printf("chunks     %llu: %.2f ms and %.2f ms a prompt, %.2f us a row, %.2f ns a pair of keys, "
           "%.1f ns an earlier key; off by %.1f%% (median), %+.1f%% in all\n",
           (unsigned long long)c->fit.chunks, 1e3 * c->chunk.fixed_s, 1e3 * c->chunk.run_s,
           1e6 * c->chunk.row_s, 1e9 * c->chunk.key_pair_s, 1e9 * c->chunk.earlier_s,
           100 * c->fit.chunk_error, 100 * c->fit.chunk_bias);
    printf("mixed      a step behind a long piece of a prompt takes %.1f us and %.2f us a sequence "
           "more, behind one of %.2f ms half of it; it fades from step to step\n",
           1e6 * c->step.evicted_s, 1e6 * c->step.evicted_sequence_s,
           1e3 * M_LN2 * c->step.evicting_s);
    printf("beside     a step right behind another takes %.1f us and %.2f us a sequence more while "
           "tokens are sent, one of an engine that rested %.1f us, half of it after %.2f ms\n",
           1e6 * c->step.sent_s, 1e6 * c->step.sent_sequence_s, 1e6 * c->step.cold_s,
           1e3 * M_LN2 * c->step.warming_s);
    const struct sim_chunk k = {.tokens = 1024, .key_pairs = 1024 * 1025 / 2.0, .requests = 1};
    double late_s = 0, step_s = c->step.s[0];
    for (int i = 0; i < CALIBRATION_PARTS; i++)
        late_s += calibration_over_s(c, &k, (i + 0.5) / CALIBRATION_PARTS) / CALIBRATION_PARTS;
    printf("between    %.1f us after a piece; after a step", 1e6 * c->gap_s);
    for (uint32_t i = 0; i < c->step.n_knots; i++)
        printf(" %g:%.0f", c->step.sequences[i], 1e6 * c->step.gap_s[i]);
    printf(" us by sequences; pieces of 1,024 rows end %.0f us late and take %.0f us more after a "
           "step of %.2f ms\n",
           1e6 * late_s, 1e6 * calibration_resume_s(c, &k, step_s), 1e3 * step_s);
    printf("client     %.1f us and %.1f ns a token to make a request, %.1f us to connect\n",
           1e6 * c->front.made_s, 1e9 * c->front.made_token_s, 1e6 * c->front.connect_s);
    printf(
        "front      %.2f ms until one that rests reads a request, %.1f us and %.1f ns a token to "
        "read it, %.1f ns a token to make tokens of text, %.2f ms until an engine that rests "
        "takes it, %.2f ms until a client has the first token that was computed for it, %.2f ms a "
        "later one\n",
        1e3 * c->front.front_wake_s, 1e6 * c->front.read_s, 1e9 * c->front.read_token_s,
        1e9 * c->front.text_token_s, 1e3 * c->front.wake_s, 1e3 * c->front.first_token_s,
        1e3 * c->front.token_s);
    printf("left out   %llu steps and chunks that took over three times as long as their like "
           "(%.1f%% of a step's time lost to them), %llu while the cores were nearer or farther\n",
           (unsigned long long)c->fit.dropped, 100 * c->step.stall_share,
           (unsigned long long)c->fit.elsewhere);
    printf("result     %s\n", path);
}

static enum st measure_limits(struct calibrate *b, struct calibration *c, struct err *err) {
    struct limits l = {.read_gbs = c->read_gbs};
    enum st st = limits_measure(&l, b->team, err);
    c->threads = team_size(b->team);
    snprintf(c->cpu, sizeof c->cpu, "%s", l.cpu);
    c->read_gbs = l.read_gbs;
    return st;
}

static enum st finish(struct calibrate *b, struct calibration *c, struct err *err) {
    struct record_file f;
    enum st st = measure_limits(b, c, err);
    bool failed = ferror(b->recording);
    failed |= fclose(b->recording) != 0;
    b->recording = NULL;
    if (!st && failed)
        st = err_set(err, ST_IO, "bench calibrate: %s: not all could be written", b->record);
    if (!st) st = record_read(&f, b->record, err);
    if (st) return st;
    st = calibration_fit(c, &f, &b->seen, "bench calibrate", err);
    record_file_release(&f);
    if (!st) st = calibration_write(c, b->a->output, err);
    return st;
}

static void release(struct calibrate *b) {
    struct err ignored;
    (void)!stop(b, &ignored);
    team_free(b->beside);
    team_free(b->team);
    if (b->target.base) event_base_free(b->target.base);
    record_file_release(&b->head);
    if (b->recording) fclose(b->recording);
    if (!b->a->record) (void)unlink(b->record);
    (void)unlink(b->steps);
    (void)unlink(b->server.log);
    (void)rmdir(b->dir);
}

static enum st prepare(struct calibrate *b, struct err *err) {
    ssize_t len = readlink("/proc/self/exe", b->exe, sizeof b->exe - 1);
    if (len < 0 || !mkdtemp(b->dir))
        return err_set(err, ST_IO, "bench calibrate: cannot begin: %s", strerror(errno));
    snprintf(b->steps, sizeof b->steps, "%s/steps", b->dir);
    if (b->a->record)
        snprintf(b->record, sizeof b->record, "%s", b->a->record);
    else
        snprintf(b->record, sizeof b->record, "%s/all", b->dir);
    b->recording = fopen(b->record, "we");
    if (!b->recording)
        return err_set(err, ST_IO, "bench calibrate: %s: cannot write: %s", b->record,
                       strerror(errno));
    b->target.base = bench_base_new();
    return b->target.base ? ST_OK : err_set(err, ST_NO_MEMORY, "bench calibrate: out of memory");
}

static enum st run(struct args *a, const char *model, struct err *err) {
    struct calibrate *b = calloc(1, sizeof *b);
    struct calibration c = {0};
    if (!b) return err_set(err, ST_NO_MEMORY, "bench calibrate: out of memory");
    *b = (struct calibrate){.a = a, .model = model, .dir = "/tmp/supernode-calibrate-XXXXXX"};
    b->seen.alone = b->alone;
    b->seen.made = b->made;
    b->seen.bursts = b->bursts;
    b->seen.probes = b->probes;
    b->target = (struct bench_target){.endpoint = "/v1/completions",
                                      .model = model ? model : "models/tiny",
                                      .ignore_eos = true,
                                      .quiet = true,
                                      .temperature = 0};
    snprintf(c.model, sizeof c.model, "%s", b->target.model);
    uint32_t threads = a->engine.model.threads;
    uint32_t cores = team_cores();
    enum st st = team_new(&b->team, threads ? threads : cores, err);
    turn_short(); /* for the team, whose threads inherit it */
    if (!st)
        st = team_new(&b->beside, team_size(b->team) < cores ? team_size(b->team) : cores, err);
    turn_usual();
    if (!st) st = prepare(b, err);
    if (!st) st = measure_limits(b, &c, err);
    if (!st) st = measure(b, err);
    if (!st) st = finish(b, &c, err);
    if (!st) print(&c, a->output);
    release(b);
    free(b);
    return st;
}

int cli_bench_calibrate(int argc, char **argv) {
    struct args a = {.seconds = 60};
    const char *args[1];
    struct flag flags[ENGINE_FLAGS_MAX + 4] = {
        {"output", "FILE", FLAG_STR, &a.output, 0, 0, "where the result goes, JSON", false},
        {"seconds", "S", FLAG_F32, &a.seconds, 1, 3600,
         "for how long it measures, about (default 60; a large model needs many minutes)", false},
        {"record", "FILE", FLAG_STR, &a.record, 0, 0,
         "keep what the servers wrote down of their steps, once warm", true},
    };
    engine_args_init(&a.engine);
    (void)engine_args_flags(flags + 3, &a.engine);
    const struct flag_command cmd = {
        .name = "bench calibrate",
        .what = "Measures what a server costs on this machine, so that sim run can predict it.",
        .usage = "supernode bench calibrate [MODEL] --output FILE.json [flags]",
        .example = "supernode bench calibrate models/tiny --output tiny.json",
        .flags = flags,
        .args_max = 1,
    };
    struct err err;
    enum flag_result result;
    enum st st = flags_parse(&result, &cmd, argc, argv, args, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st && !a.output)
        st = err_set(&err, ST_INVALID, "bench calibrate: expected --output FILE.json");
    if (st) return cli_fail(CLI_USAGE, &err);
    return run(&a, args[0], &err) ? cli_fail(CLI_FAILED, &err) : 0;
}

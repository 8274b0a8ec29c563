/* SPDX-License-Identifier: Apache-2.0 */
/* Implements bench_serve_run.h. Requests are sent in their order; those that are due and may not go
 * yet (the concurrency limit) simply are the ones between next and due. */
#include "cli/bench_serve_run.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/percentile.h"
#include "base/turn.h"
#include "cli/progress.h"
#include "serve/json_out.h"

enum {
    BODY_BYTES_MAX = 256 << 20,
    SAMPLE_MAX = 200,
    PROGRESS_MS = 200,    /* between looks at the figures of the bar */
    PROGRESS_LAST = 2000, /* answers its medians are taken of */
    NEAR_EVERY_NS = 10000000,
};

struct flight {
    struct driver *d;
    struct bench_result *result;
    struct http_call *call; /* NULL before it is under way */
    struct http_sse sse;
    struct buf refusal; /* what came with an error status */
    uint32_t chunks;
    bool done; /* [DONE] */
};

struct driver {
    const struct bench_target *t;
    const struct bench_load *l;
    struct bench_run *run;
    struct event *timer, *look;
    struct progress progress;
    uint64_t begun_ns, near_ns; /* near: when it was looked last */
    uint32_t next, due, running, ended, failed;
    uint32_t *order; /* [ended], requests as they ended */
    enum st st;
    struct err *err;
};

/* --- one answer ------------------------------------------------------------------------------- */

static void fault(struct flight *f, enum bench_fault kind, const char *said, size_t len) {
    struct err *sample = &f->d->run->sample;
    if (f->result->fault != BENCH_OK) return;
    f->result->fault = kind;
    if (sample->text[0] == '\0' && len)
        (void)err_set(sample, ST_GONE, "%.*s", len > SAMPLE_MAX ? SAMPLE_MAX : (int)len, said);
}

static void add_gap(struct flight *f, uint64_t ns) {
    struct bench_result *r = f->result;
    if (r->n_gaps == r->gaps_cap) {
        uint32_t cap = r->gaps_cap ? r->gaps_cap * 2 : 64;
        float *v = realloc(r->gaps_ms, cap * sizeof *v);
        if (!v) {
            fault(f, BENCH_MALFORMED, "out of memory", 13);
            return;
        }
        r->gaps_ms = v;
        r->gaps_cap = cap;
    }
    r->gaps_ms[r->n_gaps++] = (float)((double)ns / 1e6);
}

static bool has_text(const json_t *choice) {
    static const char *const paths[] = {"text", "delta.content", "delta.reasoning_content",
                                        "delta.reasoning"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (json_string_length(json_at(choice, paths[i]))) return true;
    return false;
}

static void take_usage(struct bench_result *r, const json_t *usage) {
    json_int_t in = json_integer_value(json_at(usage, "prompt_tokens")),
               out = json_integer_value(json_at(usage, "completion_tokens"));
    if (in > 0 && in <= UINT32_MAX) r->input_tokens = (uint32_t)in;
    if (out > 0 && out <= UINT32_MAX) r->output_tokens = (uint32_t)out;
}

static void take_chunk(struct flight *f, const json_t *chunk) {
    struct bench_result *r = f->result;
    const json_t *choice = json_array_get(json_at(chunk, "choices"), 0);
    uint64_t now = clock_now_ns() - f->d->begun_ns;
    take_usage(r, json_at(chunk, "usage"));
    if (!choice) return;
    if (has_text(choice)) {
        if (f->chunks++ == 0)
            r->first_ns = now;
        else
            add_gap(f, now - r->last_ns);
        r->last_ns = now;
    } else if (json_at(choice, "finish_reason") && f->chunks) {
        r->last_ns = now;
    }
}

static void on_event(void *arg, const char *data, size_t len) {
    struct flight *f = arg;
    struct err err;
    json_t *chunk;
    if (strcmp(data, "[DONE]") == 0) {
        f->done = true;
    } else if (json_parse(&chunk, data, len, "event", &err)) {
        fault(f, BENCH_MALFORMED, err.text, strlen(err.text));
    } else {
        if (json_at(chunk, "error"))
            fault(f, BENCH_EVENT, data, len);
        else
            take_chunk(f, chunk);
        json_decref(chunk);
    }
}

/* Goes to the core from which tokens are sent, from time to time, and may be moved away from it again.
 * A server on this machine computes on all of them: on that of its thread that hands out work this one
 * would hold up all, at another place from run to run. */
static void stay_near(struct flight *f) {
    uint64_t now = clock_now_ns();
    if (!f->call || now - f->d->near_ns < NEAR_EVERY_NS) return;
    f->d->near_ns = now;
    int core = http_call_core(f->call);
    cpu_set_t all, one;
    if (core < 0 || core == sched_getcpu() || sched_getaffinity(0, sizeof all, &all) ||
        !CPU_ISSET((size_t)core, &all))
        return;
    CPU_ZERO(&one);
    CPU_SET((size_t)core, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
    (void)sched_setaffinity(0, sizeof all, &all);
}

static void on_data(void *arg, int status, const char *data, size_t len) {
    struct flight *f = arg;
    if (status == 200) {
        if (http_sse_feed(&f->sse, data, len, on_event, f))
            fault(f, BENCH_MALFORMED, "an event is too long", 20);
        stay_near(f); /* when the time was taken */
        return;
    }
    size_t room = f->refusal.max - f->refusal.len;
    if (buf_append(&f->refusal, data, len < room ? len : room)) f->refusal.len = 0;
}

/* The request is over, one way or another. */
static void finish(struct flight *f) {
    struct driver *d = f->d;
    struct bench_result *r = f->result;
    uint64_t now = clock_now_ns() - d->begun_ns;
    if (r->output_tokens == 0) r->output_tokens = f->chunks;
    if (now > d->run->duration_ns) d->run->duration_ns = now;
    d->failed += r->fault != BENCH_OK;
    d->order[d->ended++] = (uint32_t)(r - d->run->v);
    d->running--;
    buf_release(&f->sse.line);
    buf_release(&f->refusal);
    free(f);
}

static void send_due(struct driver *d);

static void on_end(void *arg, enum http_end how, int status) {
    struct flight *f = arg;
    struct driver *d = f->d;
    f->result->status = status;
    if (how == HTTP_END_NO_CONNECT) fault(f, BENCH_NO_CONNECT, "", 0);
    if (how == HTTP_END_TIMEOUT) fault(f, BENCH_TIMEOUT, "", 0);
    if (status && status != 200) fault(f, BENCH_HTTP, f->refusal.data, f->refusal.len);
    if (how == HTTP_END_CUT || !f->done) fault(f, BENCH_CUT, "", 0);
    if (f->chunks == 0) fault(f, BENCH_EMPTY, "", 0);
    finish(f);
    send_due(d);
}

/* --- sending ---------------------------------------------------------------------------------- */

enum st bench_body(struct buf *out, const struct bench_target *t, const char *prompt,
                   uint32_t output_len, bool stream) {
    struct json_out o = {out, ST_OK};
    json_out_raw(&o, "{\"model\":");
    json_out_text(&o, t->model, strlen(t->model));
    json_out_raw(&o, t->chat ? ",\"messages\":[{\"role\":\"user\",\"content\":" : ",\"prompt\":");
    json_out_raw(&o, prompt);
    json_out_raw(&o, t->chat ? "}],\"max_completion_tokens\":" : ",\"max_tokens\":");
    json_out_int(&o, output_len);
    json_out_raw(&o, ",\"temperature\":");
    json_out_float(&o, (float)t->temperature);
    if (t->ignore_eos) json_out_raw(&o, ",\"ignore_eos\":true");
    if (stream) json_out_raw(&o, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    json_out_raw(&o, "}");
    return o.st;
}

/* A connection that cannot even be tried (no descriptor left) is a failure like one that is refused.
 */
static enum st begin(struct driver *d, uint32_t i) {
    struct buf prompt = {.max = BODY_BYTES_MAX}, body = {.max = BODY_BYTES_MAX};
    struct bench_result *r = &d->run->v[i];
    struct flight *f = calloc(1, sizeof *f);
    struct http_call *call;
    struct err why;
    enum st st = f ? bench_load_prompt(d->l, i, &prompt) : ST_NO_MEMORY;
    if (!st) st = bench_body(&body, d->t, prompt.data, d->l->v[i].output_len, true);
    if (st) {
        free(f);
        st = err_set(d->err, st, "bench serve: request %u: out of memory", i);
    } else {
        *f = (struct flight){
            .d = d, .result = r, .sse.line.max = HTTP_SSE_LINE_MAX, .refusal.max = SAMPLE_MAX};
        r->input_tokens = d->l->v[i].input_len;
        r->sent_ns = clock_now_ns() - d->begun_ns;
        r->from_ns = d->t->paced ? r->sent_ns : d->l->v[i].at_ns;
        if (++d->running > d->run->concurrency_peak) d->run->concurrency_peak = d->running;
        if (http_call_begin(&call, d->t->client, d->t->endpoint, &body,
                            &(struct http_handler){on_data, on_end, f}, &why)) {
            fault(f, BENCH_NO_CONNECT, why.text, strlen(why.text));
            finish(f);
        } else {
            f->call = call;
            r->connects = http_call_connects(call);
        }
    }
    buf_release(&prompt);
    buf_release(&body);
    return st;
}

static void send_due(struct driver *d) {
    uint32_t burst = 0;
    while (!d->st && d->next < d->due && d->running < d->t->concurrency_max) {
        if (burst++ == BENCH_BURST) {
            event_active(d->timer, EV_TIMEOUT, 0);
            break;
        }
        d->st = begin(d, d->next++);
    }
    if (d->st || d->ended == d->l->len) event_base_loopbreak(d->t->base);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct driver *d = arg;
    (void)fd;
    (void)what;
    uint64_t now = clock_now_ns() - d->begun_ns;
    while (d->due < d->l->len && d->l->v[d->due].at_ns <= now) d->due++;
    if (d->due < d->l->len) {
        uint64_t wait = d->l->v[d->due].at_ns - now;
        struct timeval tv = {(time_t)(wait / 1000000000), (suseconds_t)(wait / 1000 % 1000000)};
        event_add(d->timer, &tv);
    }
    send_due(d);
}

/* --- the bar ---------------------------------------------------------------------------------- */

static void on_look(evutil_socket_t fd, short what, void *arg) {
    static const double half = 50;
    struct driver *d = arg;
    (void)fd;
    (void)what;
    if (!d->progress.terminal || d->t->quiet) return;
    double ttft[PROGRESS_LAST], tpot[PROGRESS_LAST];
    uint32_t n = 0, n_tpot = 0;
    for (uint32_t i = d->ended; i > 0 && n < PROGRESS_LAST; i--) {
        const struct bench_result *r = &d->run->v[d->order[i - 1]];
        if (r->fault) continue;
        ttft[n++] = (double)(r->first_ns - r->from_ns) / 1e6;
        if (r->output_tokens > 1)
            tpot[n_tpot++] = (double)(r->last_ns - r->first_ns) / 1e6 / (r->output_tokens - 1);
    }
    qsort(ttft, n, sizeof *ttft, percentile_compare);
    qsort(tpot, n_tpot, sizeof *tpot, percentile_compare);
    char note[160];
    double s = (double)(clock_now_ns() - d->begun_ns) / 1e9;
    snprintf(note, sizeof note,
             "%u/%u  %.1f req/s  %u running  TTFT p50 %.0f ms  TPOT p50 %.1f ms  %u failed",
             d->ended, d->l->len, d->ended / s, d->running, percentile(ttft, n, half),
             percentile(tpot, n_tpot, half), d->failed);
    progress_show(&d->progress, d->ended, d->l->len, note);
}

/* --- the run ---------------------------------------------------------------------------------- */

struct event_base *bench_base_new(void) {
    struct event_config *config = event_config_new();
    if (!config) return NULL;
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    return base;
}

enum st bench_run(struct bench_run *run, const struct bench_target *t, const struct bench_load *l,
                  struct err *err) {
    struct driver d = {.t = t, .l = l, .run = run, .err = err};
    struct timeval look = {0, PROGRESS_MS * 1000};
    assert(l->len > 0 && t->concurrency_max > 0);
    run->len = l->len;
    run->v = calloc(l->len, sizeof *run->v);
    d.order = calloc(l->len, sizeof *d.order);
    d.timer = evtimer_new(t->base, on_timer, &d);
    d.look = event_new(t->base, -1, EV_PERSIST, on_look, &d);
    if (!run->v || !d.order || !d.timer || !d.look)
        d.st = err_set(err, ST_NO_MEMORY, "bench serve: out of memory");
    if (!d.st) {
        turn_short();
        progress_begin(&d.progress, "bench");
        event_add(d.look, &look);
        run->begun_ns = d.begun_ns = clock_now_ns();
        event_active(d.timer, EV_TIMEOUT, 0);
        if (event_base_loop(t->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0)
            d.st = err_set(err, ST_IO, "bench serve: the event loop failed");
        progress_end(&d.progress);
    }
    if (d.timer) event_free(d.timer);
    if (d.look) event_free(d.look);
    free(d.order);
    return d.st;
}

void bench_run_release(struct bench_run *run) {
    for (uint32_t i = 0; i < run->len && run->v; i++) free(run->v[i].gaps_ms);
    free(run->v);
    *run = (struct bench_run){0};
}

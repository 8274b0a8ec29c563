/* SPDX-License-Identifier: Apache-2.0 */
/* Implements solo.h. The clock is the executor's; it moves by what is computed, by what lies between
 * two pieces of work, and to the next arrival when there is none. */
#include "sim/solo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "serve/worker.h"
#include "sim/run_load.h"

enum { READ_BYTES = 4096 /* libevent reads so much of a connection, then of the next */ };
static const double keep_s = 2; /* bench serve uses a connection again that was idle for less */

struct solo {
    const struct calibration *k;
    const struct record_file *replay;
    uint64_t next_step, next_chunk; /* of replay */
    double chunk_factor;            /* of the last chunk's time */
    uint64_t chance;
    struct run_load load;
    struct sim_exec exec;
    void *memory;
    struct engine *engine;
    uint32_t runs_last;                      /* of the last step */
    struct calibration_past past, past_then; /* then: of what is replayed */
    uint64_t worked_ns;                      /* when it was last done with a piece of work */
    bool rests;                              /* the engine, until it is woken */
    /* On its way a request is in one of these, in the order of first_s, when it came or comes there: a
     * client's thread makes a batch of requests, all that are due when it begins, and connections for
     * those that find none kept, and then sends them one after the other, as fast as they can be read;
     * they are read in rounds, a buffer of each that was there when the round began, so that short
     * prompts pass long ones; a thread makes tokens of their texts one after the other, which sleeps
     * until the end of a round, or of one more; then it waits for the end of the work under way. */
    struct run_queue {
        struct run_request *first, *last;
    } made, sent, reading, read, ready;
    double batch_from_s, busy_until_s, read_until_s, text_until_s;
    uint32_t id_bytes; /* of a token in a body: decimal, and a comma */
    uint32_t n_round;  /* buffers left of the round */
    bool held;         /* what is read waits for the end of this round, too */
    double *idle_s;    /* [n_idle] since when connections are, the newest last */
    uint32_t n_idle, cap_idle;
    uint64_t n_ended; /* requests that left theirs */
    uint64_t pieces;
    double wall_s;
};

/* --- times ------------------------------------------------------------------------------------ */

static double factor(double took_s, double table_s) {
    return table_s > 0 ? took_s / table_s : 1;
}

/* How much longer the next recorded step took than the table has for it; 1: there is none. What is
 * computed now may not be just what was computed then. */
static double replayed_step(struct solo *s) {
    const struct record_file *f = s->replay;
    while (f && s->next_step < f->n) {
        uint64_t i = s->next_step++;
        const struct record_work *w = &f->v[i];
        struct calibration_past *past = &s->past_then;
        if (record_rested(f, i)) calibration_rested(past);
        const struct calibration_past before = *past;
        calibration_worked(past, s->k, w->kind, record_seconds(w));
        if (w->kind != RECORD_STEP) continue;
        const struct sim_step was = calibration_recorded_step(w);
        return factor(record_seconds(w), calibration_step_s(s->k, &was, &before));
    }
    return 1;
}

static double replayed_chunk(struct solo *s) {
    struct record_chunk k;
    do { /* of one that began before the recording not all of its time is known */
        if (!s->replay || !record_next_chunk(&k, s->replay, &s->next_chunk)) return 1;
    } while (!k.whole);
    const struct sim_chunk was = calibration_recorded_chunk(&k);
    return factor(k.s, calibration_chunk_s(s->k, &was) + calibration_resumed_s(s->k, &k));
}

static double step_s(void *ctx, const struct sim_step *what) {
    struct solo *s = ctx;
    s->runs_last = (uint32_t)what->requests;
    return replayed_step(s) * calibration_step_s(s->k, what, &s->past);
}

static double chunk_s(void *ctx, const struct sim_chunk *what) {
    struct solo *s = ctx;
    s->chunk_factor = replayed_chunk(s);
    return s->chunk_factor * calibration_chunk_s(s->k, what);
}

static double resume_s(void *ctx, const struct sim_chunk *what) {
    const struct solo *s = ctx;
    return s->chunk_factor * calibration_resume_s(s->k, what, s->past.stepped_s);
}

static double over_s(void *ctx, const struct sim_chunk *what, double part) {
    const struct solo *s = ctx;
    return calibration_over_s(s->k, what, part);
}

/* --- the front -------------------------------------------------------------------------------- */

static uint64_t load_now(void *ctx) {
    return ((struct solo *)ctx)->exec.now_ns;
}

static void push(struct run_queue *l, struct run_request *q) {
    q->next = NULL;
    *(l->last ? &l->last->next : &l->first) = q;
    l->last = q;
}

static struct run_request *pop(struct run_queue *l) {
    struct run_request *q = l->first;
    l->first = q->next;
    if (!l->first) l->last = NULL;
    return q;
}

/* Connections whose requests ended since; they are kept. */
static enum st keep_idle(struct solo *s, struct err *err) {
    for (; s->n_ended < s->load.finished + s->load.failed; s->n_ended++) {
        if (s->n_idle == s->cap_idle) {
            uint32_t cap = s->cap_idle ? 2 * s->cap_idle : 64;
            double *v = realloc(s->idle_s, cap * sizeof *v);
            if (!v) return err_set(err, ST_NO_MEMORY, "simulated server: out of memory");
            s->idle_s = v;
            s->cap_idle = cap;
        }
        s->idle_s[s->n_idle++] = s->load.last_end_s;
    }
    return ST_OK;
}

/* Whether one is kept, which is in use then. */
static bool take_idle(struct solo *s, double now_s) {
    if (s->n_idle > 0 && now_s - s->idle_s[s->n_idle - 1] < keep_s) {
        s->n_idle--;
        return true;
    }
    s->n_idle = 0;
    return false;
}

static void send_made(struct solo *s) {
    while (s->made.first) {
        struct run_request *q = pop(&s->made);
        q->first_s = s->busy_until_s;
        s->busy_until_s += s->k->front.read_s;
        push(&s->sent, q);
    }
}

static enum st take(void *ctx, struct run_request *q, struct err *err) {
    struct solo *s = ctx;
    /* who asks again as soon as its answer is over finds its connection kept */
    if (s->load.last_end_s <= q->arrived_s && keep_idle(s, err)) return err->code;
    if (q->arrived_s > s->batch_from_s) send_made(s);
    double from_s = fmax(s->busy_until_s, q->arrived_s);
    bool kept = take_idle(s, from_s);
    if (!s->made.first) s->batch_from_s = from_s;
    q->early = !kept && !s->made.first;
    q->n_left = q->r.n_prompt;
    s->busy_until_s = from_s + (kept ? 0 : s->k->front.connect_s) + s->k->front.made_s +
                      q->n_left * s->k->front.made_token_s;
    push(&s->made, q);
    return ST_OK;
}

static uint32_t buffer_of(const struct solo *s, const struct run_request *q) {
    uint32_t most = READ_BYTES / s->id_bytes;
    return q->n_left < most ? q->n_left : most;
}

/* The next buffer, if there is one: of this round, or of the next, in which those are that came.
 * alone: in which is only the first of them. */
static void begin_buffer(struct solo *s, double at_s, bool alone) {
    if (s->n_round == 0) {
        while (s->sent.first && s->sent.first->first_s <= at_s) {
            push(&s->reading, pop(&s->sent));
            if (alone) break;
        }
        for (const struct run_request *q = s->reading.first; q; q = q->next) s->n_round++;
    }
    if (s->n_round == 0) return;
    const struct run_request *q = s->reading.first;
    uint32_t n = buffer_of(s, q);
    s->read_until_s =
        at_s + n * s->k->front.read_token_s + (n == q->n_left ? s->k->front.read_s : 0);
}

static double text_s(const struct solo *s, const struct run_request *q) {
    return q->r.n_prompt * s->k->front.text_token_s;
}

static void make_tokens(struct solo *s, struct run_request *q, double from_s) {
    q->first_s = s->text_until_s = from_s + text_s(s, q);
    push(&s->ready, q);
}

static bool more_to_read(const struct solo *s) {
    return s->reading.first || (s->sent.first && s->sent.first->first_s <= s->read_until_s);
}

/* What is read becomes tokens at once where the thread that makes them is at work; where it sleeps it is
 * told at the end of the round, or of the next, where there is more to read. */
static void end_buffer(struct solo *s) {
    struct run_request *q = pop(&s->reading);
    q->n_left -= buffer_of(s, q);
    s->n_round--;
    if (q->n_left > 0)
        push(&s->reading, q);
    else if (s->text_until_s > s->read_until_s)
        make_tokens(s, q, s->text_until_s);
    else
        push(&s->read, q);
    if (s->n_round > 0) return;
    s->held = s->read.first && !s->held && more_to_read(s);
    while (s->read.first && !s->held)
        make_tokens(s, pop(&s->read), fmax(s->text_until_s, s->read_until_s));
}

/* A front that rests takes some time to get to what is sent, and then finds all that came meanwhile. One
 * that accepted the first one's connection just now is awake: it takes as long over the first buffer
 * of that, and looks for others after it. */
static double read_from_s(const struct solo *s) {
    const struct run_request *q = s->sent.first;
    return q->first_s + (q->early ? 0 : s->k->front.front_wake_s);
}

static void read_on(struct solo *s, uint64_t now_ns) {
    for (;;) {
        bool idle = s->n_round == 0;
        if (idle && !s->sent.first) return;
        double at_s = idle ? read_from_s(s) : s->read_until_s;
        if (run_ns(at_s) > now_ns) return;
        if (!idle) end_buffer(s);
        bool early = idle && s->sent.first->early;
        begin_buffer(s, at_s, early);
        if (early) s->read_until_s += s->k->front.front_wake_s;
    }
}

/* When an engine that rests is told of what is ready first (worker.h): behind the last text that follows
 * without a pause, or before one that is long, or that would begin too late after the first was ready. */
static double told_s(const struct solo *s) {
    const struct run_request *q = s->ready.first;
    double first_s = q->first_s, at_s = first_s;
    while ((q = q->next) && q->first_s <= at_s + text_s(s, q) &&
           q->r.n_prompt * s->id_bytes <= WORKER_TOGETHER_BYTES &&
           at_s - first_s <= WORKER_TOGETHER_NS / 1e9)
        at_s = q->first_s;
    return at_s;
}

/* When the engine takes what is ready first, and all that is ready then. */
static uint64_t taken_ns(const struct solo *s) {
    return run_ns(s->rests ? told_s(s) + s->k->front.wake_s : s->ready.first->first_s);
}

static void hand_over(struct solo *s) {
    send_made(s);
    read_on(s, s->exec.now_ns);
    if (s->ready.first && s->exec.now_ns < taken_ns(s)) return;
    while (s->ready.first && run_ns(s->ready.first->first_s) <= s->exec.now_ns) {
        struct run_request *q = pop(&s->ready);
        struct err err;
        if (engine_add(s->engine, &q->r, &run_load_sink, q, run_ns(q->arrived_s), &err))
            run_load_sink.done(q, &err);
    }
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool over(const struct solo *s) {
    return s->load.broken || (s->load.n_open == 0 && s->load.arrivals_over);
}

static void rest(struct solo *s, uint64_t until_ns) {
    double at_s = s->load.next_arrival_s;
    if (s->n_round > 0)
        at_s = fmin(at_s, s->read_until_s);
    else if (s->sent.first)
        at_s = fmin(at_s, read_from_s(s));
    uint64_t at = at_s < run_s(until_ns) ? run_ns(at_s) : until_ns;
    if (s->ready.first && taken_ns(s) < at) at = taken_ns(s);
    if (at > s->exec.now_ns) s->exec.now_ns = at;
}

bool solo_until(struct solo *s, double virtual_s) {
    uint64_t begun = clock_now_ns(), until = run_ns(virtual_s);
    while (s->exec.now_ns < until && !over(s)) {
        run_load_arrive(&s->load);
        if (!s->load.broken && keep_idle(s, &s->load.err)) s->load.broken = true;
        hand_over(s);
        uint64_t at_ns = s->exec.now_ns;
        if (at_ns > s->worked_ns + RECORD_PAUSE_NS) calibration_rested(&s->past);
        s->runs_last = 0;
        s->rests = !engine_step(s->engine);
        if (s->rests) {
            rest(s, until);
            continue;
        }
        s->pieces++;
        calibration_worked(&s->past, s->k, s->runs_last ? RECORD_STEP : RECORD_PIECE,
                           run_s(s->exec.now_ns - at_ns));
        s->exec.now_ns +=
            run_ns(s->runs_last ? calibration_gap_s(s->k, s->runs_last) : s->k->gap_s);
        s->worked_ns = s->exec.now_ns;
    }
    s->wall_s += run_s(clock_now_ns() - begun);
    return !over(s);
}

double solo_stuck_s(const struct solo *s) {
    return run_load_stuck_s(&s->load);
}
uint64_t solo_finished(const struct solo *s) {
    return s->load.finished;
}

enum st solo_report(struct solo *s, struct run_report *o, struct err *err) {
    if (s->load.broken) {
        *err = s->load.err;
        return err->code;
    }
    const struct engine_stats *e = engine_stats(s->engine);
    *o = (struct run_report){.virtual_s = run_s(s->exec.now_ns),
                             .wall_s = s->wall_s,
                             .events = s->pieces,
                             .preemptions = e->preemptions,
                             .wrong_pages = s->exec.wrong,
                             .leaked_pages = s->load.n_open ? 0 : e->pages_used};
    enum st st = run_load_report(&s->load, o, err);
    double span = o->last_end_s - o->first_arrival_s;
    o->prefill_busy = span > 0 ? e->chunk_busy_s / span : 0;
    o->decode_busy = span > 0 ? e->step_busy_s / span : 0;
    return st;
}

/* --- life ------------------------------------------------------------------------------------- */

/* A server that has served for a while knows whether drafts pay (engine/spec.h); one that begins tries
 * them, which would be a tenth of the tokens of a short load. Where that depends on how many sequences
 * or keys there are it is left to find out. */
static enum speculate settled(const struct calibration *k) {
    uint32_t n = k->step.n_knots, n_pay = 0;
    for (uint32_t i = 0; i < 2 * n; i++) {
        double runs = k->step.sequences[i / 2], keys = i % 2 ? k->max_model_len / 8. : 0;
        struct sim_step plain = {.requests = runs,
                                 .mean_requests = runs,
                                 .rows = runs,
                                 .kv_tokens = keys},
                        drafting = plain;
        drafting.rows = 2 * runs;
        drafting.drafts = drafting.guesses = runs;
        const struct calibration_past past = {.worked_s = INFINITY, .stepped_s = 1};
        n_pay += calibration_step_s(k, &drafting, &past) <
                 (1 + k->acceptance) * calibration_step_s(k, &plain, &past);
    }
    return n_pay == 0 ? SPECULATE_OFF : n_pay == 2 * n ? SPECULATE_ON : SPECULATE_AUTO;
}

static enum st begin_engine(struct solo *s, struct err *err) {
    const struct calibration *k = s->k;
    uint64_t bytes = sim_exec_bytes(k->n_pages), page = 64;
    s->memory = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (!s->memory) return err_set(err, ST_NO_MEMORY, "simulated server: out of memory");
    memset(s->memory, 0, bytes);
    struct sim_exec_options o = {.times = {s, step_s, chunk_s, resume_s, over_s},
                                 .model_id = RUN_MODEL_ID,
                                 .n_pages = k->n_pages,
                                 .n_slots = k->n_slots,
                                 .max_model_len = k->max_model_len,
                                 .rows_max = k->rows_max,
                                 .vocab = k->vocab,
                                 .dies = 1,
                                 .drafts = k->drafts,
                                 .acceptance = k->acceptance,
                                 .expand_cost = (float)k->expand_cost,
                                 .memory = s->memory};
    enum st st = sim_exec_init(&s->exec, &o, err);
    struct engine_options e = k->engine;
    if (e.draft_tokens > 1) e.draft_tokens = 1; /* the executor guesses no further */
    if (e.speculate == SPECULATE_AUTO && k->drafts) e.speculate = settled(k);
    return st ? st : engine_new(&s->engine, &s->exec.x, &e, err);
}

enum st solo_new(struct solo **out, const struct run_config *c, const struct calibration *k,
                 const struct record_file *replay, struct err *err) {
    struct solo *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "simulated server: out of memory");
    s->k = k;
    s->replay = replay;
    s->chance = c->seed ^ 0x5eed;
    s->id_bytes = 2;
    for (uint32_t v = k->vocab; v >= 10; v /= 10) s->id_bytes++;
    s->load = (struct run_load){.c = c,
                                .vocab = k->vocab,
                                .max_model_len = k->max_model_len,
                                .chance = &s->chance,
                                .ctx = s,
                                .first_token_s = k->front.first_token_s,
                                .token_s = k->front.token_s,
                                .now = load_now,
                                .add = take};
    enum st st = begin_engine(s, err);
    if (!st) st = run_load_new(&s->load, err);
    if (st)
        solo_free(s);
    else
        *out = s;
    return st;
}

void solo_free(struct solo *s) {
    if (!s) return;
    engine_free(s->engine);
    run_load_free(&s->load);
    sim_exec_release(&s->exec);
    free(s->memory);
    free(s->idle_s);
    free(s);
}

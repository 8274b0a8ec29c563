/* SPDX-License-Identifier: Apache-2.0 */
/* Implements solo.h. The clock is the executor's; it moves by what is computed, by what lies between
 * two pieces of work, and to the next arrival when there is none. */
#include "sim/solo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sim/run_load.h"

enum { READ_BYTES = 4096 /* libevent reads so much of a connection, then of the next */ };

struct solo {
    const struct calibration *k;
    const struct record_file *replay;
    uint64_t next_step, next_chunk; /* of replay */
    uint64_t chance;
    struct run_load load;
    struct sim_exec exec;
    void *memory;
    struct engine *engine;
    uint32_t runs_last; /* of the last step */
    /* The front reads bodies in turn, a buffer of each, so that short prompts pass long ones; then they
     * are ready (at first_s) and wait for the end of the step under way. */
    struct run_queue {
        struct run_request *first, *last;
    } reading, ready;
    double read_until_s; /* the buffer under way */
    uint32_t buffer_tokens;
    uint64_t pieces;
    double wall_s;
};

/* --- times ------------------------------------------------------------------------------------ */

static double seconds(const struct record_work *w) {
    return (double)(w->end_ns - w->begin_ns) / 1e9;
}

/* The next recorded step's time; < 0: there is none. */
static double replayed_step(struct solo *s) {
    const struct record_file *f = s->replay;
    while (f && s->next_step < f->n) {
        const struct record_work *w = &f->v[s->next_step++];
        if (w->kind == RECORD_STEP) return seconds(w);
    }
    return -1;
}

static double replayed_chunk(struct solo *s) {
    const struct record_file *f = s->replay;
    double sum = 0;
    while (f && s->next_chunk < f->n) {
        const struct record_work *w = &f->v[s->next_chunk++];
        if (w->kind != RECORD_PIECE) continue;
        if (w->begins) sum = 0;
        sum += seconds(w);
        if (w->over) return sum;
    }
    return -1;
}

static double step_s(void *ctx, const struct sim_step *what) {
    struct solo *s = ctx;
    s->runs_last = (uint32_t)what->requests;
    double t = replayed_step(s);
    return t >= 0 ? t : calibration_step_s(s->k, what);
}

static double chunk_s(void *ctx, const struct sim_chunk *what) {
    struct solo *s = ctx;
    double t = replayed_chunk(s);
    return t >= 0 ? t : calibration_chunk_s(s->k, what);
}

static double piece_over_s(void *ctx, const struct sim_chunk *what) {
    const struct calibration *k = ((struct solo *)ctx)->k;
    return what->tokens * k->chunk.over_row_s + what->key_pairs * k->chunk.over_key_pair_s;
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

static uint32_t buffer_of(const struct solo *s, const struct run_request *q) {
    return q->n_left < s->buffer_tokens ? q->n_left : s->buffer_tokens;
}

/* What the first one's next buffer takes, and all else of a request with its last. */
static double buffer_s(const struct solo *s) {
    const struct run_request *q = s->reading.first;
    double last = q->n_left <= s->buffer_tokens ? s->k->front_s : 0;
    return buffer_of(s, q) * s->k->front_token_s + last;
}

static void read_on(struct solo *s, uint64_t now_ns) {
    while (s->reading.first && run_ns(s->read_until_s) <= now_ns) {
        struct run_request *q = pop(&s->reading);
        q->n_left -= buffer_of(s, q);
        q->first_s = s->read_until_s;
        push(q->n_left ? &s->reading : &s->ready, q);
        if (s->reading.first) s->read_until_s += buffer_s(s);
    }
}

static enum st take(void *ctx, struct run_request *q, struct err *err) {
    struct solo *s = ctx;
    (void)err;
    read_on(s, run_ns(q->arrived_s));
    bool idle = !s->reading.first;
    q->n_left = q->r.n_prompt;
    push(&s->reading, q);
    if (idle) s->read_until_s = q->arrived_s + buffer_s(s);
    return ST_OK;
}

static void hand_over(struct solo *s) {
    read_on(s, s->exec.now_ns);
    while (s->ready.first) {
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
    uint64_t at = until_ns;
    if (s->load.next_arrival_s < INFINITY && run_ns(s->load.next_arrival_s) < at)
        at = run_ns(s->load.next_arrival_s);
    if (s->reading.first && run_ns(s->read_until_s) < at) at = run_ns(s->read_until_s);
    if (at > s->exec.now_ns) s->exec.now_ns = at;
}

bool solo_until(struct solo *s, double virtual_s) {
    uint64_t begun = clock_now_ns(), until = run_ns(virtual_s);
    while (s->exec.now_ns < until && !over(s)) {
        run_load_arrive(&s->load);
        hand_over(s);
        s->runs_last = 0;
        if (!engine_step(s->engine)) {
            rest(s, until);
            continue;
        }
        s->pieces++;
        s->exec.now_ns += run_ns(s->k->gap_s + s->runs_last * s->k->gap_run_s);
    }
    s->wall_s += run_s(clock_now_ns() - begun);
    return !over(s);
}

double solo_now_s(const struct solo *s) {
    return run_s(s->exec.now_ns);
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
    *o = (struct run_report){.virtual_s = solo_now_s(s),
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

static enum st begin_engine(struct solo *s, struct err *err) {
    const struct calibration *k = s->k;
    uint64_t bytes = sim_exec_bytes(k->n_pages), page = 64;
    s->memory = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (!s->memory) return err_set(err, ST_NO_MEMORY, "simulated server: out of memory");
    memset(s->memory, 0, bytes);
    struct sim_exec_options o = {.times = {s, step_s, chunk_s, piece_over_s},
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
    return st ? st : engine_new(&s->engine, &s->exec.x, &e, err);
}

enum st solo_new(struct solo **out, const struct run_config *c, const struct calibration *k,
                 const struct record_file *replay, struct err *err) {
    struct solo *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "simulated server: out of memory");
    s->k = k;
    s->replay = replay;
    s->chance = c->seed ^ 0x5eed;
    uint32_t id_bytes = 2; /* decimal, and a comma */
    for (uint32_t v = k->vocab; v >= 10; v /= 10) id_bytes++;
    s->buffer_tokens = READ_BYTES / id_bytes;
    s->load = (struct run_load){.c = c,
                                .vocab = k->vocab,
                                .max_model_len = k->max_model_len,
                                .chance = &s->chance,
                                .ctx = s,
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

static void give_back(struct solo *s, struct run_queue *l) {
    while (l->first) {
        struct run_request *q = pop(l);
        q->next = s->load.free_requests;
        s->load.free_requests = q;
    }
}

void solo_free(struct solo *s) {
    if (!s) return;
    engine_free(s->engine);
    give_back(s, &s->reading);
    give_back(s, &s->ready);
    run_load_free(&s->load);
    sim_exec_release(&s->exec);
    free(s->memory);
    free(s);
}

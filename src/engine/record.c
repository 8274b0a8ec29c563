/* SPDX-License-Identifier: Apache-2.0 */
/* Implements record.h. Lines are numbers between blanks, so that any tool can read them; the first
 * says what the executor is. */
#include "engine/record.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 512, LINES_MAX = 50000000 };
static const char head_fmt[] =
    "supernode-record 2 %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %u %f %" SCNu32
    " %" SCNu32 " %" SCNu32 " %" SCNu32 " %u %" SCNu32 " %64s";

struct record {
    struct executor x;
    const struct executor *real;
    FILE *f;
    char path[256];
    bool in_chunk, failed;
};

/* --- writing ---------------------------------------------------------------------------------- */

static void put(struct record *r, const struct record_work *w) {
    if (fprintf(r->f,
                "%c %" PRIu64 " %" PRIu64 " %u %u %" PRIu64 " %" PRIu64
                " %u %u %u %u %d %d %" PRIu64 "\n",
                w->kind == RECORD_STEP ? 'S' : 'C', w->begin_ns, w->end_ns, w->runs, w->rows,
                w->keys, w->earlier, w->tails, w->drafts, w->guesses, w->drawn, w->begins, w->over,
                w->until_ns) < 0)
        r->failed = true;
}

void record_request(struct record *r, uint32_t n_prompt, uint64_t arrived_ns) {
    if (fprintf(r->f, "R %u %" PRIu64 " %" PRIu64 "\n", n_prompt, arrived_ns,
                r->real->now(r->real->ctx)) < 0)
        r->failed = true;
}

static void step(void *ctx, struct exec_run *runs, uint32_t n_runs) {
    struct record *r = ctx;
    struct record_work w = {.kind = RECORD_STEP, .runs = n_runs};
    for (uint32_t i = 0; i < n_runs; i++) {
        uint32_t known = runs[i].n - runs[i].n_drafts;
        w.rows += runs[i].n;
        w.keys += runs[i].from + runs[i].n;
        w.drafts += runs[i].n_drafts;
        w.guesses += runs[i].want_drafts > 0;
        if (known < 2) continue;
        w.tails += known - 1;
        w.earlier += runs[i].from;
    }
    w.begin_ns = r->real->now(r->real->ctx);
    r->real->step(r->real->ctx, runs, n_runs);
    w.end_ns = r->real->now(r->real->ctx);
    for (uint32_t i = 0; i < n_runs; i++) w.drawn += runs[i].n_drawn;
    put(r, &w);
}

static bool chunk(void *ctx, struct exec_run *runs, uint32_t n_runs, uint64_t until_ns) {
    struct record *r = ctx;
    struct record_work w = {
        .kind = RECORD_PIECE, .runs = n_runs, .begins = !r->in_chunk, .until_ns = until_ns};
    for (uint32_t i = 0; i < n_runs; i++) {
        uint64_t from = runs[i].from, n = runs[i].n;
        w.rows += runs[i].n;
        w.keys += n * from + n * (n + 1) / 2;
        w.earlier += from;
    }
    w.begin_ns = r->real->now(r->real->ctx);
    w.over = r->real->chunk(r->real->ctx, runs, n_runs, until_ns);
    w.end_ns = r->real->now(r->real->ctx);
    r->in_chunk = !w.over;
    put(r, &w);
    return w.over;
}

static uint64_t now(void *ctx) {
    const struct executor *x = ((struct record *)ctx)->real;
    return x->now(x->ctx);
}
static void chunk_drop(void *ctx) {
    struct record *r = ctx;
    r->in_chunk = false;
    r->real->chunk_drop(r->real->ctx);
}
static void draw(void *ctx, const struct exec_run *run, uint32_t choice, struct exec_token *out) {
    const struct executor *x = ((struct record *)ctx)->real;
    x->draw(x->ctx, run, choice, out);
}
static void prompt_logprob(void *ctx, const struct exec_run *run, uint32_t i,
                           struct exec_token *out) {
    const struct executor *x = ((struct record *)ctx)->real;
    x->prompt_logprob(x->ctx, run, i, out);
}
static void copy_page(void *ctx, uint32_t to, uint32_t from) {
    const struct executor *x = ((struct record *)ctx)->real;
    x->copy_page(x->ctx, to, from);
}
static void copy_slot(void *ctx, uint32_t to, uint32_t from) {
    const struct executor *x = ((struct record *)ctx)->real;
    x->copy_slot(x->ctx, to, from);
}
static void *slot(void *ctx, uint32_t i) {
    const struct executor *x = ((struct record *)ctx)->real;
    return x->slot(x->ctx, i);
}

enum st record_open(struct record **out, const char *path, const struct executor *x,
                    const struct engine_options *o, struct err *err) {
    struct record *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    r->f = fopen(path, "we");
    if (!r->f) {
        free(r);
        return err_set(err, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    }
    snprintf(r->path, sizeof r->path, "%s", path);
    r->real = x;
    assert(!x->place); /* real pages are all alike */
    r->x = *x;
    r->x.ctx = r;
    r->x.now = now;
    r->x.step = step;
    r->x.chunk = chunk;
    r->x.chunk_drop = chunk_drop;
    r->x.draw = draw;
    r->x.prompt_logprob = prompt_logprob;
    r->x.copy_page = copy_page;
    r->x.copy_slot = copy_slot;
    r->x.slot = slot;
    fprintf(r->f, "supernode-record 2 %u %u %u %u %u %d %.9g %u %u %u %u %u %u %s\n", x->n_pages,
            x->n_slots, x->max_model_len, x->vocab, x->rows_max, x->drafts, (double)x->expand_cost,
            o->max_num_seqs, o->max_num_batched_tokens, o->tpot_ms, o->ttft_ms,
            (unsigned)o->speculate, o->draft_tokens, x->model_id);
    r->failed = fflush(r->f) != 0;
    *out = r;
    return ST_OK;
}

const struct executor *record_executor(const struct record *r) {
    return &r->x;
}

enum st record_close(struct record *r, struct err *err) {
    if (!r) return ST_OK;
    enum st st = ST_OK;
    if (fclose(r->f) != 0 || r->failed)
        st = err_set(err, ST_IO, "%s: not all could be written", r->path);
    free(r);
    return st;
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool read_head(struct record_file *f, const char *line) {
    unsigned drafts, speculate;
    struct executor *x = &f->x;
    struct engine_options *o = &f->engine;
    int n =
        sscanf(line, head_fmt, &x->n_pages, &x->n_slots, &x->max_model_len, &x->vocab, &x->rows_max,
               &drafts, &x->expand_cost, &o->max_num_seqs, &o->max_num_batched_tokens, &o->tpot_ms,
               &o->ttft_ms, &speculate, &o->draft_tokens, f->model_id);
    if (n != 14 || drafts > 1 || speculate > SPECULATE_ON) return false;
    x->drafts = drafts;
    o->speculate = (enum speculate)speculate;
    return true;
}

static bool read_work(struct record_work *w, const char *line) {
    char kind;
    unsigned begins, over;
    int n = sscanf(line,
                   "%c %" SCNu64 " %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64 " %" SCNu64
                   " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %u %u %" SCNu64,
                   &kind, &w->begin_ns, &w->end_ns, &w->runs, &w->rows, &w->keys, &w->earlier,
                   &w->tails, &w->drafts, &w->guesses, &w->drawn, &begins, &over, &w->until_ns);
    if (n != 14 || (kind != 'S' && kind != 'C') || w->end_ns < w->begin_ns || w->runs == 0)
        return false;
    w->kind = kind == 'S' ? RECORD_STEP : RECORD_PIECE;
    w->begins = begins;
    w->over = over;
    return true;
}

static bool read_request(struct record_request *q, const char *line) {
    return sscanf(line, "R %" SCNu32 " %" SCNu64 " %" SCNu64, &q->n_prompt, &q->arrived_ns,
                  &q->taken_ns) == 3 &&
           q->arrived_ns <= q->taken_ns;
}

/* Room for one more of that size. */
static bool reserve(void **v, uint64_t n, uint64_t *cap, size_t size) {
    if (n < *cap) return true;
    uint64_t more = *cap ? 2 * *cap : 4096;
    void *to = more > LINES_MAX ? NULL : realloc(*v, more * size);
    if (!to) return false;
    *v = to;
    *cap = more;
    return true;
}

static enum st read_lines(struct record_file *f, FILE *in, const char *path, struct err *err) {
    char line[LINE_BYTES];
    uint64_t number = 1, cap = 0, cap_requests = 0;
    if (!fgets(line, sizeof line, in) || !read_head(f, line))
        return err_set(err, ST_INVALID, "%s: line 1: expected what serve --record-steps writes",
                       path);
    while (fgets(line, sizeof line, in) && strchr(line, '\n')) {
        number++;
        bool request = line[0] == 'R';
        void *v = f->v, *q = f->requests;
        bool room = request ? reserve(&q, f->n_requests, &cap_requests, sizeof *f->requests)
                            : reserve(&v, f->n, &cap, sizeof *f->v);
        f->v = v;
        f->requests = q;
        if (!room) return err_set(err, ST_NO_MEMORY, "%s: more lines than fit in memory", path);
        if (request ? !read_request(&f->requests[f->n_requests], line)
                    : !read_work(&f->v[f->n], line))
            return err_set(err, ST_INVALID,
                           "%s: line %" PRIu64 ": found %.40s, expected a step or a request", path,
                           number, line);
        *(request ? &f->n_requests : &f->n) += 1;
    }
    return ST_OK;
}

enum st record_read(struct record_file *f, const char *path, struct err *err) {
    *f = (struct record_file){0};
    FILE *in = fopen(path, "re");
    if (!in) return err_set(err, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    enum st st = read_lines(f, in, path, err);
    fclose(in);
    if (st) record_file_release(f);
    return st;
}

void record_file_release(struct record_file *f) {
    free(f->v);
    free(f->requests);
    *f = (struct record_file){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements record.h. Lines are numbers between blanks, so that any tool can read them; the first
 * says what the executor is. */
#include "engine/record.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 512, LINES_MAX = 50000000 };
static const char head[] = "supernode-record 2";

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
    fprintf(r->f, "%s %u %u %u %u %u %d %.9g %u %u %u %u %u %u %s\n", head, x->n_pages, x->n_slots,
            x->max_model_len, x->vocab, x->rows_max, x->drafts, (double)x->expand_cost,
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

/* n numbers, a blank before each and none above its maximum. NULL: something else stands there. */
static const char *numbers(const char *at, uint64_t *v, const uint64_t *most, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (*at++ != ' ' || *at < '0' || *at > '9') return NULL;
        for (v[i] = 0; *at >= '0' && *at <= '9'; at++) {
            uint64_t digit = (uint64_t)(*at - '0');
            if (v[i] > most[i] / 10 || digit > most[i] - 10 * v[i]) return NULL;
            v[i] = 10 * v[i] + digit;
        }
    }
    return at;
}

static const uint64_t u32 = UINT32_MAX, u64 = UINT64_MAX;

static bool read_head(struct record_file *f, const char *line) {
    const uint64_t most[] = {u32, u32, u32, u32, u32, 1},
                   most_engine[] = {u32, u32, u32, u32, SPECULATE_ON, u32};
    uint64_t v[6];
    char *end;
    const char *at = strncmp(line, head, sizeof head - 1) == 0
                         ? numbers(line + sizeof head - 1, v, most, 6)
                         : NULL;
    if (!at || *at != ' ') return false;
    for (int i = 0; i < 5; i++)
        if (v[i] == 0) return false;
    f->x.n_pages = (uint32_t)v[0];
    f->x.n_slots = (uint32_t)v[1];
    f->x.max_model_len = (uint32_t)v[2];
    f->x.vocab = (uint32_t)v[3];
    f->x.rows_max = (uint32_t)v[4];
    f->x.drafts = v[5];
    f->x.expand_cost = strtof(at + 1, &end);
    at = numbers(end, v, most_engine, 6);
    if (!isfinite(f->x.expand_cost) || f->x.expand_cost < 0 || !at || *at++ != ' ') return false;
    f->engine.max_num_seqs = (uint32_t)v[0];
    f->engine.max_num_batched_tokens = (uint32_t)v[1];
    f->engine.tpot_ms = (uint32_t)v[2];
    f->engine.ttft_ms = (uint32_t)v[3];
    f->engine.speculate = (enum speculate)v[4];
    f->engine.draft_tokens = (uint32_t)v[5];
    size_t len = strcspn(at, " \n");
    if (len == 0 || len >= sizeof f->model_id || at[len] != '\n') return false;
    memcpy(f->model_id, at, len);
    return true;
}

static bool read_work(struct record_work *w, const char *line) {
    const uint64_t most[] = {u64, u64, u32, u32, u64, u64, u32, u32, u32, u32, 1, 1, u64};
    uint64_t v[13];
    const char *at = line[0] == 'S' || line[0] == 'C' ? numbers(line + 1, v, most, 13) : NULL;
    if (!at || *at != '\n' || v[1] < v[0] || v[2] == 0 || v[3] < v[2])
        return false; /* a run has a row or more */
    *w = (struct record_work){.kind = line[0] == 'S' ? RECORD_STEP : RECORD_PIECE,
                              .begin_ns = v[0],
                              .end_ns = v[1],
                              .runs = (uint32_t)v[2],
                              .rows = (uint32_t)v[3],
                              .keys = v[4],
                              .earlier = v[5],
                              .tails = (uint32_t)v[6],
                              .drafts = (uint32_t)v[7],
                              .guesses = (uint32_t)v[8],
                              .drawn = (uint32_t)v[9],
                              .begins = v[10],
                              .over = v[11],
                              .until_ns = v[12]};
    return true;
}

static bool read_request(struct record_request *q, const char *line) {
    const uint64_t most[] = {u32, u64, u64};
    uint64_t v[3];
    const char *at = numbers(line + 1, v, most, 3);
    if (!at || *at != '\n' || v[1] > v[2]) return false;
    *q = (struct record_request){.n_prompt = (uint32_t)v[0], .arrived_ns = v[1], .taken_ns = v[2]};
    return true;
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
    while (fgets(line, sizeof line, in)) {
        size_t len = strlen(line);
        bool whole = len > 0 && line[len - 1] == '\n';
        if (!whole && feof(in)) break;
        number++;
        bool request = line[0] == 'R';
        void *v = f->v, *q = f->requests;
        bool room = request ? reserve(&q, f->n_requests, &cap_requests, sizeof *f->requests)
                            : reserve(&v, f->n, &cap, sizeof *f->v);
        f->v = v;
        f->requests = q;
        if (!room) return err_set(err, ST_NO_MEMORY, "%s: more lines than fit in memory", path);
        if (!whole || (request ? !read_request(&f->requests[f->n_requests], line)
                               : !read_work(&f->v[f->n], line))) {
            line[strcspn(line, "\n")] = 0;
            return err_set(err, ST_INVALID,
                           "%s: line %" PRIu64 ": found '%.40s', expected a step or a request",
                           path, number, line);
        }
        *(request ? &f->n_requests : &f->n) += 1;
    }
    return ferror(in) ? err_set(err, ST_IO, "%s: cannot read: %s", path, strerror(errno)) : ST_OK;
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

bool record_next_chunk(struct record_chunk *out, const struct record_file *f, uint64_t *i) {
    *out = (struct record_chunk){0};
    while (*i < f->n) {
        const struct record_work *w = &f->v[(*i)++];
        if (w->kind != RECORD_PIECE) continue;
        if (w->begins) {
            *out = (struct record_chunk){.first = w, .whole = true};
        } else if (*i > 1 && w[-1].kind == RECORD_STEP) {
            out->resumed++;
            out->steps_s += record_seconds(&w[-1]);
        }
        out->s += record_seconds(w);
        out->whole = out->whole && !w->left_out;
        out->last = w;
        if (w->over) return true;
    }
    return false;
}

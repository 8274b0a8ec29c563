/* SPDX-License-Identifier: Apache-2.0 */
/* Implements run_load.h. The whole answer follows from the prompt (sim_exec.h), so it is known without
 * pages, workers or a router. */
#include "sim/run_load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/percentile.h"
#include "sim/core/mix.h"
#include "sim/sim_exec.h"

static const uint64_t open_tokens_max = UINT64_C(1) << 29; /* they take 4 bytes each, and more */

/* --- when ------------------------------------------------------------------------------------- */

static bool trace_is_timed(const struct run_load *r) {
    return r->c->load.arrivals == RUN_TRACE;
}

/* Where the n-th request of a repeated trace comes. */
static double trace_time(struct run_load *r, uint64_t n) {
    const struct trace *t = &r->trace;
    uint64_t i = n % t->n_rows, copy = n / t->n_rows;
    double at = t->rows[i].at_s;
    if (r->c->load.spread) {
        /* those of one instant are spread until the next one */
        if (i < r->burst_from || i >= r->burst_to) {
            r->burst_from = r->burst_to = i;
            while (r->burst_from > 0 && t->rows[r->burst_from - 1].at_s == at) r->burst_from--;
            while (r->burst_to < t->n_rows && t->rows[r->burst_to].at_s == at) r->burst_to++;
        }
        double next = r->burst_to < t->n_rows ? t->rows[r->burst_to].at_s : t->span_s;
        at += (next - at) * (double)(i - r->burst_from) / (double)(r->burst_to - r->burst_from);
    }
    return (at + (double)copy * t->span_s) / r->c->load.rate_scale;
}

static void plan_next(struct run_load *r, double now_s) {
    const struct run_config *c = r->c;
    if (c->load.arrivals == RUN_CLOSED) {
        r->next_arrival_s = r->n_again ? r->again_s[r->again] : INFINITY;
    } else if (trace_is_timed(r)) {
        r->next_arrival_s = trace_time(r, r->n_arrived);
    } else {
        r->next_arrival_s = now_s + run_draw_exponential(r->chance) / c->load.rate;
    }
    bool over = (c->load.requests && r->n_arrived >= c->load.requests) ||
                (c->load.duration_s > 0 && r->next_arrival_s < INFINITY &&
                 r->next_arrival_s >= c->load.duration_s);
    if (!over) return;
    r->arrivals_over = true;
    r->next_arrival_s = INFINITY;
}

/* --- what ------------------------------------------------------------------------------------- */

/* As `bench serve --trace-scale` rounds. */
static uint32_t divided(uint32_t n, double by) {
    double v = round(n / by);
    return v < 1 ? 1 : (uint32_t)v;
}

/* Tokens of a block of a trace, or of the n-th request where there are none; the chain grows along. */
static void fill_prompt(struct run_load *r, struct run_request *q, uint64_t n) {
    const struct trace *t = &r->trace;
    const struct trace_row *row = t->n_rows ? &t->rows[n % t->n_rows] : NULL;
    uint32_t block_tokens = divided(TRACE_BLOCK_TOKENS, r->c->load.length_divisor);
    uint64_t chain = sim_root(&q->r);
    for (uint32_t at = 0; at < q->r.n_prompt;) {
        uint32_t end = at + block_tokens < q->r.n_prompt ? at + block_tokens : q->r.n_prompt;
        uint64_t block = sim_mix(n) ^ (at / block_tokens);
        if (row && at / block_tokens < row->n_blocks) {
            uint64_t copy = n / t->n_rows; /* a repetition is other people's prompts */
            block = copy << 32 | t->blocks[row->block + at / block_tokens];
        }
        block = sim_mix(block + r->c->seed);
        for (uint32_t i = at; i < end; i++) {
            uint32_t token =
                (uint32_t)((block + i * UINT64_C(0x9e3779b97f4a7c15)) >> 33) % r->vocab;
            q->r.prompt[i] = token;
            chain = sim_chain(chain, token, false);
        }
        at = end;
    }
    q->chain = chain;
}

static struct run_request *request_new(struct run_load *r, uint32_t n_in, uint32_t n_out) {
    struct run_request *q = r->free_requests;
    if (q) {
        r->free_requests = q->next;
    } else {
        q = calloc(1, sizeof *q);
        if (!q) return NULL;
        q->older = r->newest;
        r->newest = q;
    }
    uint32_t *prompt = q->r.prompt, *ids = q->choice.ids;
    if (q->cap_prompt < n_in) {
        prompt = realloc(prompt, n_in * sizeof *prompt);
        if (prompt) q->cap_prompt = n_in;
    }
    if (q->cap_ids < n_out) {
        ids = realloc(ids, n_out * sizeof *ids);
        if (ids) q->cap_ids = n_out;
    }
    if (prompt) q->r.prompt = prompt;
    if (ids) q->choice.ids = ids;
    if (q->cap_prompt >= n_in && q->cap_ids >= n_out) return q;
    q->next = r->free_requests;
    r->free_requests = q;
    return NULL;
}

static void lengths(struct run_load *r, uint64_t n, uint32_t *n_in, uint32_t *n_out) {
    *n_in = r->c->load.n_in;
    *n_out = r->c->load.n_out;
    if (r->trace.n_rows) {
        const struct trace_row *row = &r->trace.rows[n % r->trace.n_rows];
        *n_in = divided(row->n_in, r->c->load.length_divisor);
        *n_out = divided(row->n_out, r->c->load.length_divisor);
    }
    if (*n_out == 0) *n_out = 1;
    r->n_cut += *n_in + (uint64_t)*n_out > r->max_model_len;
    if (*n_out >= r->max_model_len) *n_out = r->max_model_len - 1;
    if (*n_in + *n_out > r->max_model_len) *n_in = r->max_model_len - *n_out;
}

/* --- what comes back -------------------------------------------------------------------------- */

static bool on_token(void *ctx, const struct token_out *t) {
    struct run_request *q = ctx;
    struct run_load *r = q->load;
    double now_s = run_s(r->now(r->ctx));
    uint32_t expected = sim_draw(q->chain, q->r.seed, r->vocab);
    if (!q->open || t->choice != 0 || q->n_told == q->r.max_tokens) {
        r->wrong_tokens++;
        return false;
    }
    if (t->position != q->r.n_prompt + q->n_told || t->id != expected) r->wrong_tokens++;
    q->chain = sim_chain(q->chain, t->id, true);
    if (q->n_told++ == 0) {
        q->first_s = q->last_s = now_s + r->first_token_s;
        r->prompt_tokens += q->r.n_prompt;
        r->cached_tokens += t->n_cached;
    } else {
        q->last_s = fmax(q->last_s, now_s + r->token_s);
    }
    r->moved_s = now_s;
    r->output_tokens++;
    return true;
}

static void keep_record(struct run_load *r, const struct run_request *q) {
    if (r->n_records == r->cap_records) {
        uint64_t cap = r->cap_records ? 2 * r->cap_records : 4096;
        struct run_record *v = realloc(r->records, cap * sizeof *v);
        if (!v) {
            r->broken = true;
            (void)err_set(&r->err, ST_NO_MEMORY, "run: out of memory");
            return;
        }
        r->records = v;
        r->cap_records = cap;
    }
    struct run_record rec = {.ttft_s = (float)(q->first_s - q->arrived_s),
                             .e2e_s = (float)(q->last_s - q->arrived_s)};
    rec.tpot_s = q->n_told > 1 ? (float)((q->last_s - q->first_s) / (q->n_told - 1)) : -1;
    r->records[r->n_records++] = rec;
    const struct run_config *c = r->c;
    r->n_good += (c->slo_ttft_s <= 0 || rec.ttft_s <= c->slo_ttft_s) &&
                 (c->slo_tpot_s <= 0 || rec.tpot_s <= c->slo_tpot_s);
}

/* A client of a closed loop asks again then. */
static void put_again(struct run_load *r, double at_s) {
    uint32_t clients = r->c->load.clients, i = r->n_again++;
    for (; i > 0; i--) { /* behind those that are not later: nearly all */
        double before_s = r->again_s[(r->again + i - 1) % clients];
        if (before_s <= at_s) break;
        r->again_s[(r->again + i) % clients] = before_s;
    }
    r->again_s[(r->again + i) % clients] = at_s;
}

static void on_done(void *ctx, const struct err *err) {
    struct run_request *q = ctx;
    struct run_load *r = q->load;
    double now_s = run_s(r->now(r->ctx)), end_s = fmax(now_s, q->last_s);
    if (!q->open) {
        r->wrong_tokens++; /* it ended twice */
        return;
    }
    q->open = false;
    r->n_open--;
    r->open_tokens -= q->r.n_prompt + (uint64_t)q->r.max_tokens;
    heap_take(&r->leaving, &q->leaving);
    r->last_end_s = fmax(r->last_end_s, end_s);
    r->moved_s = now_s;
    if (q->left) {
        r->left++;
    } else if (err) {
        r->failed++;
    } else {
        r->finished++;
        if (q->n_told != q->r.max_tokens) r->wrong_tokens++;
        keep_record(r, q);
    }
    if (r->c->load.arrivals == RUN_CLOSED) {
        put_again(r, end_s);
        if (!r->arrivals_over) plan_next(r, now_s);
    }
    q->next = r->free_requests;
    r->free_requests = q;
}

const struct engine_sink run_load_sink = {.token = on_token, .done = on_done};

/* --- clients that go away --------------------------------------------------------------------- */

static struct run_request *leaving(struct heap_node *n) {
    return HEAP_OF(n, struct run_request, leaving);
}

static bool leaves_before(const struct heap_node *x, const struct heap_node *y) {
    const struct run_request *a = HEAP_OF(x, const struct run_request, leaving),
                             *b = HEAP_OF(y, const struct run_request, leaving);
    return a->leave_s != b->leave_s ? a->leave_s < b->leave_s : a->n < b->n;
}

/* Whether this client will, and when, is drawn from its number alone. */
static void may_leave(struct run_load *r, struct run_request *q, double now_s) {
    uint64_t chance = sim_mix(q->n ^ r->c->seed) + 0x1eaf;
    if (run_draw(&chance) >= r->c->load.leave_share) return;
    q->leave_s = now_s + run_draw_exponential(&chance) * r->c->load.leave_after_s;
    if (heap_reserve(&r->leaving, r->leaving.len + 1)) {
        heap_put(&r->leaving, &q->leaving);
    } else {
        r->broken = true;
        (void)err_set(&r->err, ST_NO_MEMORY, "run: out of memory");
    }
}

static double next_leave_s(const struct run_load *r) {
    const struct run_request *q = leaving(heap_first(&r->leaving));
    return q ? q->leave_s : INFINITY;
}

static void leave(struct run_load *r) {
    while (run_ns(next_leave_s(r)) <= r->now(r->ctx)) {
        struct run_request *q = leaving(heap_first(&r->leaving));
        heap_take(&r->leaving, &q->leaving);
        q->left = true;
        r->cancel(r->ctx, q);
        if (q->open) r->wrong_tokens++; /* nobody told its end */
    }
}

/* --- coming ----------------------------------------------------------------------------------- */

static void arrive(struct run_load *r, double now_s) {
    uint32_t n_in, n_out;
    uint64_t n = r->n_arrived++;
    struct err err;
    lengths(r, n, &n_in, &n_out);
    struct run_request *q = request_new(r, n_in, n_out);
    if (!q) {
        r->broken = true;
        (void)err_set(&r->err, ST_NO_MEMORY, "run: out of memory");
        return;
    }
    q->load = r;
    q->n = n;
    q->open = true;
    q->left = false;
    q->n_told = 0;
    q->last_s = 0;
    q->arrived_s = now_s;
    struct request *x = &q->r;
    x->version = REQUEST_VERSION;
    x->attempt = 0;
    snprintf(x->id, sizeof x->id, "r%llu", (unsigned long long)n);
    snprintf(x->model_id, sizeof x->model_id, "%s", RUN_MODEL_ID);
    snprintf(x->tenant, sizeof x->tenant, "t%llu", (unsigned long long)(n % r->c->load.tenants));
    x->n_prompt = n_in;
    q->role = (struct role_run){n_in, ROLE_PROMPT};
    x->roles = &q->role;
    x->n_roles = 1;
    x->seed = (int64_t)(sim_mix(n ^ r->c->seed) >> 11);
    x->max_tokens = n_out;
    x->logprobs = x->prompt_logprobs = -1;
    x->sampling.temperature = 1;
    q->choice.n_ids = q->choice.n_delivered = 0;
    q->choice.finish = FINISH_NONE;
    x->choices = &q->choice;
    x->n_choices = 1;
    fill_prompt(r, q, n);
    r->open_tokens += n_in + (uint64_t)n_out;
    r->n_open++;
    if (r->open_tokens > open_tokens_max && !r->broken) {
        r->broken = true;
        (void)err_set(
            &r->err, ST_FULL,
            "load: after %.0f s %llu requests wait or are served, of %.1f G tokens: far more "
            "comes than is served, expected a lower rate",
            now_s, (unsigned long long)r->n_open, (double)r->open_tokens / 1e9);
    }
    if (n == 0) r->first_arrival_s = now_s;
    r->moved_s = now_s;
    if (r->c->load.leave_share > 0) may_leave(r, q, now_s);
    if (r->add(r->ctx, q, &err) == ST_OK) return;
    heap_take(&r->leaving, &q->leaving);
    q->open = false;
    r->n_open--;
    r->open_tokens -= n_in + (uint64_t)n_out;
    r->failed++;
    q->next = r->free_requests;
    r->free_requests = q;
}

double run_load_next(const struct run_load *r) {
    return fmin(next_leave_s(r), r->next_arrival_s);
}

void run_load_arrive(struct run_load *r) {
    leave(r);
    while (!r->broken && !r->arrivals_over && run_ns(r->next_arrival_s) <= r->now(r->ctx)) {
        double due_s = r->next_arrival_s; /* whoever serves may have been busy since */
        if (r->n_again) {
            r->again = (r->again + 1) % r->c->load.clients;
            r->n_again--;
        }
        arrive(r, due_s);
        plan_next(r, due_s);
    }
}

double run_load_stuck_s(const struct run_load *r) {
    return r->n_open ? run_s(r->now(r->ctx)) - r->moved_s : 0;
}

/* --- what is told ----------------------------------------------------------------------------- */

static void percentiles(struct run_percentiles *p, double *v, size_t n) {
    double sum = 0;
    *p = (struct run_percentiles){NAN, NAN, NAN, NAN, NAN};
    if (n == 0) return;
    for (size_t i = 0; i < n; i++) sum += v[i];
    qsort(v, n, sizeof *v, percentile_compare);
    *p = (struct run_percentiles){.mean = sum / (double)n,
                                  .p50 = percentile(v, n, 50),
                                  .p90 = percentile(v, n, 90),
                                  .p99 = percentile(v, n, 99),
                                  .max = v[n - 1]};
}

static enum st report_times(const struct run_load *r, struct run_report *o, struct err *err) {
    double *v = malloc((r->n_records + 1) * sizeof *v);
    size_t n = 0; /* an answer of one token has no time between tokens */
    if (!v) return err_set(err, ST_NO_MEMORY, "run: out of memory");
    for (uint64_t i = 0; i < r->n_records; i++) v[i] = (double)r->records[i].ttft_s;
    percentiles(&o->ttft_s, v, r->n_records);
    for (uint64_t i = 0; i < r->n_records; i++)
        if (r->records[i].tpot_s >= 0) v[n++] = (double)r->records[i].tpot_s;
    percentiles(&o->tpot_s, v, n);
    for (uint64_t i = 0; i < r->n_records; i++) v[i] = (double)r->records[i].e2e_s;
    percentiles(&o->e2e_s, v, r->n_records);
    free(v);
    return ST_OK;
}

enum st run_load_report(const struct run_load *r, struct run_report *o, struct err *err) {
    o->requests = r->n_arrived;
    o->finished = r->finished;
    o->failed = r->failed;
    o->left = r->left;
    o->prompt_tokens = r->prompt_tokens;
    o->cached_tokens = r->cached_tokens;
    o->output_tokens = r->output_tokens;
    o->cut = r->n_cut;
    o->first_arrival_s = r->first_arrival_s;
    o->last_end_s = r->last_end_s;
    o->good = r->n_good;
    o->wrong_tokens = r->wrong_tokens;
    o->lost_requests = r->n_open;
    return report_times(r, o, err);
}

static enum st open_trace(struct run_load *r, struct err *err) {
    const struct run_config *c = r->c;
    enum st st = trace_open(&r->trace, c->load.trace, 0, err);
    if (st) return st;
    if (trace_is_timed(r) && !r->trace.has_times)
        return err_set(err, ST_INVALID,
                       "%s: found lengths without times, expected arrivals: "
                       "poisson or closed with it",
                       c->load.trace);
    if (trace_is_timed(r) && !(r->trace.span_s > 0) && !c->load.requests)
        return err_set(err, ST_INVALID, "%s: all requests come at once, expected load.requests",
                       c->load.trace);
    double last_s = trace_is_timed(r) && c->load.requests ? trace_time(r, c->load.requests - 1) : 0;
    if (!(c->load.duration_s > 0) && last_s > RUN_SECONDS_MAX)
        return err_set(err, ST_INVALID, "%s: %llu requests come in %.0f s, expected %.0f at most",
                       c->load.trace, (unsigned long long)c->load.requests, last_s,
                       RUN_SECONDS_MAX);
    return ST_OK;
}

enum st run_load_new(struct run_load *r, struct err *err) {
    const struct run_config *c = r->c;
    if (c->load.trace[0] && open_trace(r, err)) return err_prefix(err, "%s", c->load.trace_at);
    if (c->load.arrivals == RUN_CLOSED) {
        r->again_s = calloc(c->load.clients, sizeof *r->again_s);
        if (!r->again_s) return err_set(err, ST_NO_MEMORY, "run: out of memory");
        r->n_again = c->load.clients;
    }
    r->leaving = (struct heap){.before = leaves_before};
    plan_next(r, 0);
    return ST_OK;
}

void run_load_free(struct run_load *r) {
    for (struct run_request *q = r->newest, *older; q; q = older) {
        older = q->older;
        free(q->r.prompt);
        free(q->choice.ids);
        free(q);
    }
    heap_release(&r->leaving);
    free(r->again_s);
    free(r->records);
    trace_release(&r->trace);
}

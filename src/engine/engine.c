/* SPDX-License-Identifier: Apache-2.0 */
/* Implements engine.h: requests and their sinks around the scheduler, and the loop that hands its
 * work to the executor and what comes of it to the front. */
#include "engine/engine.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sched.h"

/* A request that is not over. */
struct entry {
    struct entry *prev, *next;
    struct request *r;
    struct engine_sink sink;
    void *ctx;
    bool prefill;                               /* to its next token, then lent */
    uint64_t arrived_ns, first_ns, deadline_ns; /* deadline 0: none */
    uint32_t n_left;                            /* choices that go on */
    uint32_t n_drawn;                           /* tokens, of all choices */
    struct choice {
        struct seq *seq; /* NULL: over */
        uint64_t last_ns;
    } choices[];
};

struct engine {
    const struct executor *x;
    struct sched *sched;
    struct entry *first, *last; /* by arrival */
    uint64_t next_deadline_ns;  /* none is earlier */
    bool working;               /* in engine_step */
    struct engine_stats stats;
};

static const struct block_gate *fetch(void *owner, uint32_t first, uint32_t n,
                                      const uint32_t *pages) {
    struct entry *e = owner;
    return e->sink.fetch(e->ctx, first, n, pages);
}

static bool fetched(void *owner) {
    struct entry *e = owner;
    return e->sink.fetched(e->ctx);
}

static void block(void *owner, const struct block_key *key, uint32_t page) {
    struct entry *e = owner;
    if (e->sink.block) e->sink.block(e->ctx, key, page);
}

enum st engine_new(struct engine **out, const struct executor *x, const struct engine_options *o,
                   struct err *err) {
    struct sched_config c = {
        .seqs_max = o->max_num_seqs < x->n_slots ? o->max_num_seqs : x->n_slots,
        .chunk_rows = o->max_num_batched_tokens,
        .step_rows = x->rows_max,
        .tpot_ns = o->tpot_ms * UINT64_C(1000000),
        .ttft_ns = o->ttft_ms * UINT64_C(1000000),
        .speculate = o->speculate,
        .draft_tokens = x->drafts && o->speculate != SPECULATE_OFF ? o->draft_tokens : 0,
        .hooks = {fetch, fetched, block}};
    assert(c.draft_tokens <= EXECUTOR_DRAFTS_MAX);
    assert(x->n_pages >= engine_pages_min(x->max_model_len));
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "engine: out of memory");
    *e = (struct engine){.x = x, .next_deadline_ns = UINT64_MAX};
    engine_stats_init(&e->stats);
    enum st st = sched_new(&e->sched, x, &c, err);
    if (st)
        free(e);
    else
        *out = e;
    return st;
}

/* --- entries ---------------------------------------------------------------------------------- */

static void unlink_entry(struct engine *e, struct entry *n) {
    *(n->prev ? &n->prev->next : &e->first) = n->next;
    *(n->next ? &n->next->prev : &e->last) = n->prev;
}

/* Ends a choice that still runs. */
static void end_choice(struct engine *e, struct entry *n, uint32_t choice) {
    struct seq *q = n->choices[choice].seq;
    if (!q) return;
    n->choices[choice].seq = NULL;
    n->n_left--;
    sched_end(e->sched, q);
}

static void count_finished(struct engine *e, const struct entry *n, uint32_t how) {
    struct stats_request r = {.arrived_ns = n->arrived_ns,
                              .first_ns = n->first_ns,
                              .now_ns = e->x->now(e->x->ctx),
                              .n_prompt = n->r->n_prompt,
                              .n_drawn = n->n_drawn,
                              .n_choices = n->r->n_choices};
    engine_stats_finished(&e->stats, how, &r);
}

/* All of it is over; err as in sink->done. */
static void finish(struct engine *e, struct entry *n, uint32_t how, const struct err *err) {
    for (uint32_t i = 0; i < n->r->n_choices; i++) {
        if (!n->choices[i].seq) continue;
        n->r->choices[i].finish = FINISH_CANCELLED;
        end_choice(e, n, i);
    }
    count_finished(e, n, how);
    unlink_entry(e, n);
    n->sink.done(n->ctx, err);
    free(n);
}

static void finish_if_over(struct engine *e, struct entry *n) {
    if (n->n_left > 0) return;
    uint32_t how = STATS_FINISH_LENGTH;
    for (uint32_t i = 0; i < n->r->n_choices; i++)
        if (n->r->choices[i].finish != FINISH_LENGTH) how = STATS_FINISH_STOP;
    finish(e, n, how, NULL);
}

/* --- requests in ------------------------------------------------------------------------------ */

/* Records come from strangers too (contracts 6). */
static bool ends(const char *text, size_t size) {
    return memchr(text, 0, size) != NULL;
}

static enum st check(const struct engine *e, const struct request *r, struct err *err) {
    const struct executor *x = e->x;
    if (r->version != REQUEST_VERSION)
        return err_set(err, ST_INVALID, "request: version %u, expected %d", r->version,
                       REQUEST_VERSION);
    if (!ends(r->model_id, sizeof r->model_id) || strcmp(r->model_id, x->model_id) != 0)
        return err_set(err, ST_INVALID, "request: made for model %.12s, this is %.12s", r->model_id,
                       x->model_id);
    enum st st = request_check_length(r, x->max_model_len, err);
    if (st) return st;
    if (r->n_choices < 1 || r->n_choices > REQUEST_CHOICES_MAX)
        return err_set(err, ST_INVALID, "n: %u, expected 1 to %d", r->n_choices,
                       REQUEST_CHOICES_MAX);
    if (r->n_stop_ids > REQUEST_STOP_IDS_MAX || !ends(r->tenant, sizeof r->tenant) ||
        !ends(r->salt, sizeof r->salt))
        return err_set(err, ST_INVALID, "request: %u stop ids, or a tenant or salt without end",
                       r->n_stop_ids);
    uint64_t roles = 0;
    for (uint32_t i = 0; i < r->n_roles; i++) {
        roles += r->roles[i].len;
        if (r->roles[i].role != ROLE_PROMPT && r->roles[i].role != ROLE_GENERATED)
            return err_set(err, ST_INVALID, "request: role %d, expected %d or %d",
                           (int)r->roles[i].role, ROLE_PROMPT, ROLE_GENERATED);
    }
    if (roles != r->n_prompt || r->logprobs > REQUEST_LOGPROBS_MAX ||
        r->prompt_logprobs > REQUEST_LOGPROBS_MAX)
        return err_set(err, ST_INVALID,
                       "request: roles of %" PRIu64 " tokens for a prompt of %u, logprobs %d",
                       roles, r->n_prompt, r->logprobs);
    for (uint32_t c = 0; c < r->n_choices; c++) {
        if (r->choices[c].n_ids > r->max_tokens)
            return err_set(err, ST_INVALID, "request: choice %u: %u of %u tokens generated", c,
                           r->choices[c].n_ids, r->max_tokens);
        for (uint32_t i = c ? r->n_prompt : 0; i < request_len(r, c); i++)
            if (request_token(r, c, i) >= x->vocab)
                return err_set(err, ST_INVALID, "prompt: token %u is %u, but the vocabulary has %u",
                               i, request_token(r, c, i), x->vocab);
    }
    return ST_OK;
}

/* Choices that have nothing yet share the computation of the prompt. */
static bool add_choices(struct engine *e, struct entry *n) {
    struct request *r = n->r;
    bool fresh = true;
    for (uint32_t i = 0; i < r->n_choices; i++)
        fresh = fresh && r->choices[i].n_ids == 0 && !r->choices[i].finish;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct request_choice *c = &r->choices[i];
        if (!c->finish && c->n_ids == r->max_tokens) c->finish = FINISH_LENGTH;
        if (c->finish) continue;
        n->choices[i].seq = sched_add(e->sched, r, i, fresh && i > 0, n, n->arrived_ns);
        if (!n->choices[i].seq) return false;
        n->n_left++;
    }
    return true;
}

/* An entry with a sequence for each choice that goes on. */
static enum st make_entry(struct entry **out, struct engine *e, struct request *r,
                          const struct engine_sink *sink, void *ctx, uint64_t arrived_ns,
                          struct err *err) {
    enum st st = check(e, r, err);
    if (st) return st;
    struct entry *n = calloc(1, sizeof *n + r->n_choices * sizeof *n->choices);
    if (!n) return err_set(err, ST_NO_MEMORY, "engine: out of memory");
    n->r = r;
    n->sink = *sink;
    n->ctx = ctx;
    n->arrived_ns = arrived_ns;
    if (r->time_left_ms) n->deadline_ns = arrived_ns + r->time_left_ms * UINT64_C(1000000);
    if (!add_choices(e, n)) {
        for (uint32_t i = 0; i < r->n_choices; i++) end_choice(e, n, i);
        free(n);
        return err_set(err, ST_NO_MEMORY, "engine: out of memory");
    }
    *out = n;
    return ST_OK;
}

static void link_entry(struct engine *e, struct entry *n) {
    n->prev = e->last;
    *(e->last ? &e->last->next : &e->first) = n;
    e->last = n;
    if (n->deadline_ns && n->deadline_ns < e->next_deadline_ns)
        e->next_deadline_ns = n->deadline_ns;
    e->stats.prompt_tokens += n->r->n_prompt;
}

/* The first choice that goes on, or n_choices. */
static uint32_t leader_of(const struct entry *n) {
    uint32_t i = 0;
    while (i < n->r->n_choices && !n->choices[i].seq) i++;
    return i;
}

/* All that go on have the same rows: none has a token yet and none is over, or there is only one. */
static bool shares_rows(const struct request *r) {
    uint32_t n = 0, with_ids = 0;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        if (r->choices[i].finish) continue;
        n++;
        with_ids += r->choices[i].n_ids > 0;
    }
    return n == 1 || (with_ids == 0 && n == r->n_choices);
}

enum st engine_add_how(struct engine *e, struct request *r, const struct engine_how *how,
                       const struct engine_sink *sink, void *ctx, uint64_t arrived_ns,
                       struct err *err) {
    struct entry *n;
    if (how->prefill && !shares_rows(r))
        return err_set(err, ST_INVALID,
                       "request: choices with different tokens cannot be moved "
                       "together");
    enum st st = make_entry(&n, e, r, sink, ctx, arrived_ns, err);
    if (st) return st;
    n->prefill = how->prefill;
    uint32_t leader = leader_of(n);
    if (leader < r->n_choices) n->choices[leader].seq->n_to_find = how->n_to_find;
    link_entry(e, n);
    if (n->n_left == 0) finish(e, n, STATS_FINISH_LENGTH, NULL);
    return ST_OK;
}

enum st engine_add(struct engine *e, struct request *r, const struct engine_sink *sink, void *ctx,
                   uint64_t arrived_ns, struct err *err) {
    return engine_add_how(e, r, &(struct engine_how){.prefill = false}, sink, ctx, arrived_ns, err);
}

/* --- requests that were begun elsewhere ------------------------------------------------------- */

enum st engine_reserve(struct engine *e, struct request *r, const struct engine_sink *sink,
                       void *ctx, uint64_t arrived_ns, struct engine_seat *seat, struct err *err) {
    struct entry *n;
    if (!shares_rows(r))
        return err_set(err, ST_INVALID,
                       "request: choices with different tokens cannot be moved "
                       "together");
    enum st st = make_entry(&n, e, r, sink, ctx, arrived_ns, err);
    if (st) return st;
    uint32_t leader = leader_of(n), n_there = 0;
    struct seq *q = leader < r->n_choices ? n->choices[leader].seq : NULL;
    if (!q || !sched_reserve(e->sched, q, &n_there)) {
        for (uint32_t i = 0; i < r->n_choices; i++) end_choice(e, n, i);
        free(n);
        return q ? err_set(err, ST_FULL, "no room for %u tokens at present", request_len(r, leader))
                 : err_set(err, ST_INVALID, "request: no choice goes on");
    }
    *seat = (struct engine_seat){.pages = q->pages,
                                 .n_pages = q->n_pages,
                                 .n_there = n_there,
                                 .n_rows = request_len(r, leader)};
    link_entry(e, n);
    return ST_OK;
}

static struct entry *entry_of(const struct engine *e, const struct request *r) {
    struct entry *n = e->first;
    while (n && n->r != r) n = n->next;
    return n;
}

void engine_adopt(struct engine *e, struct request *r, const void *slot) {
    struct entry *n = entry_of(e, r);
    uint32_t leader = leader_of(n);
    uint64_t now = e->x->now(e->x->ctx);
    struct seq *q = n->choices[leader].seq;
    assert(q->state == SEQ_RESERVED);
    sched_adopt(e->sched, q, now);
    if (e->x->slot_bytes) memcpy(e->x->slot(e->x->ctx, q->slot), slot, e->x->slot_bytes);
    n->first_ns = now;
    n->choices[leader].last_ns = now;
    for (uint32_t i = leader + 1; i < r->n_choices; i++) {
        struct seq *other = n->choices[i].seq;
        n->choices[i].last_ns = now;
        if (!other) continue;
        if (r->choices[i].finish)
            end_choice(e, n, i);
        else if (sched_fork(e->sched, other, q, now))
            e->x->copy_slot(e->x->ctx, other->slot, q->slot);
    }
    if (r->choices[leader].finish) end_choice(e, n, leader);
    finish_if_over(e, n);
}

void engine_return(struct engine *e, struct engine_loan *loan) {
    for (uint32_t i = loan->n_pages; i-- > 0;) sched_drop_page(e->sched, loan->pages[i]);
    free((void *)(uintptr_t)loan->pages);
    free(loan);
}

void engine_keep(struct engine *e, uint32_t page) {
    sched_hold_page(e->sched, page);
}

void engine_unkeep(struct engine *e, uint32_t page) {
    sched_drop_page(e->sched, page);
}

void engine_cancel(struct engine *e, struct request *r, enum engine_cancel why) {
    struct entry *n = entry_of(e, r);
    assert(!e->working);
    if (n) finish(e, n, why == ENGINE_CANCEL_ENOUGH ? STATS_FINISH_STOP : STATS_FINISH_ABORT, NULL);
}

static void end_late(struct engine *e, uint64_t now_ns) {
    struct err err;
    if (now_ns < e->next_deadline_ns) return;
    e->next_deadline_ns = UINT64_MAX;
    for (struct entry *n = e->first, *next; n; n = next) {
        next = n->next;
        if (n->deadline_ns && n->deadline_ns <= now_ns) {
            (void)err_set(&err, ST_TIMEOUT, "the request took longer than %u ms",
                          n->r->time_left_ms);
            finish(e, n, STATS_FINISH_ERROR, &err);
        } else if (n->deadline_ns && n->deadline_ns < e->next_deadline_ns) {
            e->next_deadline_ns = n->deadline_ns;
        }
    }
}

/* --- tokens out ------------------------------------------------------------------------------- */

static bool is_stop(const struct request *r, uint32_t id) {
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id) return true;
    return false;
}

static void count_token(struct engine *e, struct entry *n, struct choice *c, uint64_t now_ns) {
    struct engine_stats *s = &e->stats;
    s->generation_tokens++;
    n->n_drawn++;
    if (c->last_ns) histogram_add(&s->itl, stats_seconds(c->last_ns, now_ns));
    c->last_ns = now_ns;
    if (n->first_ns) return;
    n->first_ns = now_ns;
    histogram_add(&s->ttft, stats_seconds(n->arrived_ns, now_ns));
    uint64_t admitted = c->seq->admitted_ns ? c->seq->admitted_ns : now_ns;
    histogram_add(&s->queue, stats_seconds(n->arrived_ns, admitted));
    histogram_add(&s->prefill, stats_seconds(admitted, now_ns));
}

/* Adds a drawn token to its choice and hands it out. False: the choice has ended by it. */
static bool take_token(struct engine *e, struct entry *n, uint32_t choice,
                       const struct exec_token *t, uint32_t n_cached, uint64_t now_ns) {
    struct request *r = n->r;
    struct request_choice *c = &r->choices[choice];
    struct token_out out = {.attempt = r->attempt,
                            .choice = choice,
                            .position = request_len(r, choice),
                            .id = t->id,
                            .logprob = t->logprob,
                            .top = t->top,
                            .n_top = t->n_top,
                            .n_cached = n_cached};
    assert(c->n_ids < r->max_tokens && !c->finish);
    c->ids[c->n_ids++] = t->id;
    count_token(e, n, &n->choices[choice], now_ns);
    if (is_stop(r, t->id))
        out.finish = FINISH_STOP;
    else if (c->n_ids == r->max_tokens)
        out.finish = FINISH_LENGTH;
    c->finish = out.finish;
    if (!n->sink.token(n->ctx, &out) && !c->finish) c->finish = FINISH_CANCELLED;
    return !c->finish;
}

static void give_prompt_logprobs(struct engine *e, struct entry *n, struct seq *q,
                                 const struct exec_run *run) {
    for (uint32_t i = 0; i < run->n && run->from + i + 1 < n->r->n_prompt; i++) {
        struct exec_token t;
        uint32_t pos = run->from + i + 1;
        if (pos <= q->n_prompt_told) continue; /* computed again after a preemption */
        e->x->prompt_logprob(e->x->ctx, run, i, &t);
        struct token_out out = {.attempt = n->r->attempt,
                                .choice = q->choice,
                                .position = pos,
                                .id = t.id,
                                .logprob = t.logprob,
                                .top = t.top,
                                .n_top = t.n_top};
        (void)n->sink.token(n->ctx, &out);
        q->n_prompt_told = pos;
    }
}

/* The first choice has its first token: the others draw theirs from the same logits and go on from
 * the same pages. */
static void fork_choices(struct engine *e, struct entry *n, const struct seq *leader,
                         const struct exec_run *run, uint64_t now_ns) {
    for (uint32_t i = leader->choice + 1; i < n->r->n_choices; i++) {
        struct seq *q = n->choices[i].seq;
        if (!q || q->state != SEQ_FOLLOWING) continue;
        struct exec_token t;
        e->x->draw(e->x->ctx, run, i, &t);
        /* where the request is handed over, the others go on there */
        if (!take_token(e, n, i, &t, leader->n_cached, now_ns) || n->prefill)
            end_choice(e, n, i);
        else if (sched_fork(e->sched, q, leader, now_ns))
            e->x->copy_slot(e->x->ctx, q->slot, leader->slot);
    }
}

/* The request has its next tokens: what is computed of it is kept for who goes on with it. */
static void lend(struct engine *e, struct entry *n, struct seq *q) {
    bool on = false;
    struct err err;
    for (uint32_t i = 0; i < n->r->n_choices; i++) on = on || !n->r->choices[i].finish;
    struct engine_loan *loan = on ? malloc(sizeof *loan) : NULL;
    if (on && !loan) {
        (void)err_set(&err, ST_NO_MEMORY, "engine: out of memory");
        finish(e, n, STATS_FINISH_ERROR, &err);
        return;
    }
    if (on) {
        const void *slot = e->x->slot_bytes ? e->x->slot(e->x->ctx, q->slot) : NULL;
        *loan = (struct engine_loan){.n_rows = q->n_done};
        n->choices[q->choice].seq = NULL;
        n->n_left--;
        /* slots are the executor's: what one points to stays until the next step */
        loan->pages = sched_end_lend(e->sched, q, &loan->n_pages);
        n->sink.lend(n->ctx, loan, slot);
    } else {
        end_choice(e, n, q->choice);
    }
    assert(n->n_left == 0);
    finish(e, n, on ? STATS_FINISH_LENGTH : STATS_FINISH_STOP, NULL);
}

/* What a run brought: rows, and, where it reached the end, tokens. */
static void take_run(struct engine *e, struct seq *q, const struct exec_run *run, uint64_t now_ns) {
    struct entry *n = q->owner;
    uint32_t known = run->from + run->n - run->n_drafts, took = 0;
    if (run->prompt_logprobs) give_prompt_logprobs(e, n, q, run);
    if (!run->sample) {
        sched_computed(e->sched, q, known);
        return;
    }
    bool on = true;
    while (on && took < run->n_drawn)
        on = take_token(e, n, q->choice, &run->drawn[took++], q->n_cached, now_ns);
    sched_computed(e->sched, q, known + took - 1);
    if (n->n_left > 1) fork_choices(e, n, q, run, now_ns);
    if (n->prefill) {
        lend(e, n, q);
    } else if (on) {
        q->n_drafts = run->n_new_drafts;
        memcpy(q->drafts, run->new_drafts, q->n_drafts * sizeof *q->drafts);
    } else {
        end_choice(e, n, q->choice);
        finish_if_over(e, n);
    }
}

/* --- work ------------------------------------------------------------------------------------- */

static void count_run(struct engine_stats *s, const struct exec_run *run) {
    if (run->from < run->r->n_prompt)
        s->prompt_tokens_computed +=
            (run->from + run->n < run->r->n_prompt ? run->from + run->n : run->r->n_prompt) -
            run->from;
    if (run->n_drafts == 0) return;
    s->spec_drafts++;
    s->spec_draft_tokens += run->n_drafts;
    s->spec_accepted += run->n_drawn - 1;
    for (uint32_t i = 0; i + 1 < run->n_drawn; i++) s->spec_accepted_at[i]++;
}

static void do_step(struct engine *e, const struct sched_work *w, uint64_t begun_ns) {
    uint32_t rows = 0, tokens = 0;
    for (uint32_t i = 0; i < w->n_copies; i++)
        e->x->copy_page(e->x->ctx, w->copies[i].to, w->copies[i].from);
    e->x->step(e->x->ctx, w->runs, w->n_runs);
    uint64_t now = e->x->now(e->x->ctx);
    for (uint32_t i = 0; i < w->n_runs; i++) {
        rows += w->runs[i].n;
        tokens += w->runs[i].n_drawn;
        count_run(&e->stats, &w->runs[i]);
    }
    sched_step_over(e->sched, w, now, now - begun_ns, tokens);
    for (uint32_t i = 0; i < w->n_runs; i++) take_run(e, w->seqs[i], &w->runs[i], now);
    e->stats.steps++;
    e->stats.step_busy_s += stats_seconds(begun_ns, now);
    histogram_add(&e->stats.iteration_tokens, rows);
}

/* Asks where to tell how far requests are that will be handed over. */
static void ask_rows(const struct sched_work *w) {
    for (uint32_t i = 0; i < w->n_runs; i++) {
        struct exec_run *run = &w->runs[i];
        const struct entry *n = w->seqs[i]->owner;
        if (n->prefill && n->sink.rows)
            run->rows_done = n->sink.rows(n->ctx, run->pages, run->n_pages, run->from, run->n);
    }
}

static void do_piece(struct engine *e, const struct sched_work *w) {
    uint64_t begun = e->x->now(e->x->ctx);
    if (w->begins) ask_rows(w);
    bool over = e->x->chunk(e->x->ctx, w->runs, w->n_runs, w->until_ns);
    uint64_t now = e->x->now(e->x->ctx);
    uint32_t rows = 0;
    e->stats.chunk_busy_s += stats_seconds(begun, now);
    sched_piece_over(e->sched);
    if (!over) return;
    sched_chunk_over(e->sched);
    for (uint32_t i = 0; i < w->n_runs; i++) {
        rows += w->runs[i].n;
        if (!w->seqs[i]) continue;
        count_run(&e->stats, &w->runs[i]);
        take_run(e, w->seqs[i], &w->runs[i], now);
    }
    e->stats.chunks++;
    histogram_add(&e->stats.iteration_tokens, rows);
}

bool engine_step(struct engine *e) {
    struct sched_work w;
    uint64_t now = e->x->now(e->x->ctx);
    end_late(e, now);
    sched_next(e->sched, now, &w);
    if (sched_chunk_dropped(e->sched)) e->x->chunk_drop(e->x->ctx);
    e->working = true;
    switch (w.kind) {
    case SCHED_IDLE: break;
    case SCHED_STEP: do_step(e, &w, now); break;
    case SCHED_CHUNK: do_piece(e, &w); break;
    }
    e->working = false;
    return w.kind != SCHED_IDLE;
}

const struct engine_stats *engine_stats(struct engine *e) {
    sched_stats(e->sched, &e->stats);
    return &e->stats;
}

void engine_free(struct engine *e) {
    if (!e) return;
    while (e->first) {
        struct entry *n = e->first;
        for (uint32_t i = 0; i < n->r->n_choices; i++) end_choice(e, n, i);
        unlink_entry(e, n);
        free(n);
    }
    if (sched_chunk_dropped(e->sched)) e->x->chunk_drop(e->x->ctx);
    sched_free(e->sched);
    free(e);
}

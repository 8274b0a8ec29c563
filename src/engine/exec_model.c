/* SPDX-License-Identifier: Apache-2.0 */
/* Implements exec_model.h: runs become rows of a step, logits become tokens (contracts 7), and
 * drafts come from the MTP block on its own, once the token they follow is drawn. Sampling is cut
 * by rows over the team, since a draw over 100,000 logits takes longer than a small layer. */
#include "engine/exec_model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/ahead.h"

enum { GATE_WAIT_NS = 50000 };

/* A step's memory and what it computes at present. */
struct lane {
    struct step *step;
    struct step_row *rows; /* [rows_max] */
    struct step_seq *seqs; /* [seqs_max] */
    struct step_input in;
};

struct exec_model {
    struct executor x;
    struct instance *in;
    struct ahead *ahead;
    struct lane steps, chunk;
    bool in_chunk, stepped;  /* stepped: its rows are computed, logprobs may be missing */
    uint32_t n_told;         /* parts of the chunk's pages that were told of */
    uint32_t n_said;         /* rows of the chunk whose prompt logprobs are there */
    struct exec_token *said; /* [rows_max of a chunk] */
    const struct lane *last; /* whose logits draw and prompt_logprob read */
    float *hiddens;          /* [n_slots][hidden], the last accepted position's; NULL without MTP */
    float *draft_hiddens;    /* [n_slots][hidden]: by run, where a draft goes on from */
    struct ops_sample_work *work; /* [threads][vocab] */
    uint32_t *lists;              /* [threads][max ids]: output with accepted drafts behind */
};

/* --- rows ------------------------------------------------------------------------------------- */

static float *hidden_of(const struct exec_model *m, uint32_t slot) {
    return m->hiddens ? m->hiddens + (size_t)slot * m->in->config.hidden : NULL;
}

/* The hidden state before a run's first row: of the page that ends there, else of the slot. */
static const float *hidden_before(const struct exec_model *m, const struct exec_run *run) {
    if (!m->hiddens || run->from == 0) return NULL;
    if (run->from % KV_PAGE_TOKENS == 0)
        return kv_hidden(&m->in->kv, run->pages[run->from / KV_PAGE_TOKENS - 1]);
    return hidden_of(m, run->slot);
}

static void add_rows(struct lane *l, struct exec_run *run, uint32_t seq) {
    struct role_cursor roles = request_roles_at(run->r, run->from);
    uint32_t end = exec_run_known(run);
    run->row = l->in.n_rows;
    for (uint32_t i = 0; i < run->n; i++) {
        uint32_t pos = run->from + i;
        l->rows[l->in.n_rows++] = (struct step_row){
            .token = pos < end ? request_token(run->r, run->choice, pos) : run->drafts[pos - end],
            .pos = pos,
            .seq = seq,
            .role = role_cursor_next(&roles),
            .logits = run->prompt_logprobs || (run->sample && pos + 1 >= end)};
    }
}

static void begin(struct exec_model *m, struct lane *l, struct exec_run *runs, uint32_t n_runs) {
    l->in = (struct step_input){.rows = l->rows, .seqs = l->seqs, .n_seqs = n_runs};
    for (uint32_t i = 0; i < n_runs; i++) {
        ahead_used(m->ahead, runs[i].pages[(runs[i].from + runs[i].n - 1) / KV_PAGE_TOKENS]);
        l->seqs[i] = (struct step_seq){.pages = runs[i].pages,
                                       .n_pages = runs[i].n_pages,
                                       .hidden_before = hidden_before(m, &runs[i])};
        add_rows(l, &runs[i], i);
    }
    step_begin(l->step, &l->in);
}

/* The row whose logits draw the first token. */
static uint32_t last_known_row(const struct exec_run *run) {
    return run->row + run->n - run->n_drafts - 1;
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void say_logprobs(const struct exec_model *m, struct exec_token *t, const float *logits,
                         int32_t n_top, struct ops_sample_work *work) {
    uint32_t vocab = m->in->config.vocab, ids[REQUEST_LOGPROBS_MAX];
    float lse = ops_logsumexp(logits, vocab);
    t->logprob = logits[t->id] - lse;
    t->n_top = (uint32_t)n_top < vocab ? (uint32_t)n_top : vocab;
    ops_top_n(ids, t->n_top, logits, vocab, work);
    for (uint32_t i = 0; i < t->n_top; i++)
        t->top[i] = (struct token_logprob){.id = ids[i], .logprob = logits[ids[i]] - lse};
}

/* The token at `position` of a choice that has generated output[n]. */
static uint32_t sample(const struct exec_model *m, const struct request *r, uint32_t choice,
                       const float *logits, const uint32_t *output, uint32_t n,
                       struct ops_sample_work *work) {
    struct ops_sample_params p = r->sampling;
    p.masked = r->stop_ids;
    p.n_masked = n < r->min_tokens ? r->n_stop_ids : 0;
    return ops_sample(logits, m->in->config.vocab, &p, r->prompt, r->n_prompt, output, n, r->seed,
                      r->n_prompt + n, choice, work);
}

static struct ops_sample_work *work_of(const struct exec_model *m, uint32_t thread) {
    return m->work + (size_t)thread * m->in->config.vocab;
}

/* What the choice generated, with room behind it: penalties look at drafts that were accepted too. */
static uint32_t *output_of(const struct exec_model *m, const struct exec_run *run, uint32_t thread,
                           uint32_t more) {
    const struct request_choice *c = &run->r->choices[run->choice];
    const struct ops_sample_params *p = &run->r->sampling;
    bool penalised =
        p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0;
    if (!penalised || more == 0) return c->ids;
    uint32_t *list = m->lists + (size_t)thread * (m->x.max_model_len + EXECUTOR_DRAFTS_MAX + 1);
    memcpy(list, c->ids, c->n_ids * sizeof *list);
    return list;
}

/* Draws after the last known token, then after every draft that was drawn. */
static void draw_run(const struct exec_model *m, const struct lane *l, struct exec_run *run,
                     uint32_t thread) {
    run->n_drawn = run->n_new_drafts = 0;
    if (!run->sample) return;
    uint32_t n_ids = run->r->choices[run->choice].n_ids;
    uint32_t *output = output_of(m, run, thread, run->n_drafts);
    bool own = output != run->r->choices[run->choice].ids;
    for (;;) {
        uint32_t i = run->n_drawn++;
        const float *logits = step_logits(l->step, last_known_row(run) + i);
        struct exec_token *t = &run->drawn[i];
        *t = (struct exec_token){
            .id = sample(m, run->r, run->choice, logits, output, n_ids + i, work_of(m, thread))};
        if (run->r->logprobs >= 0) say_logprobs(m, t, logits, run->r->logprobs, work_of(m, thread));
        if (i == run->n_drafts || run->drafts[i] != t->id) return;
        if (own) output[n_ids + i] = t->id;
    }
}

struct draw_job {
    struct exec_model *m;
    const struct lane *lane;
    struct exec_run *runs;
};

/* Draws, and keeps the hidden state of the last row that holds. */
static void draw_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct draw_job *j = ctx;
    struct exec_run *run = &j->runs[tile];
    draw_run(j->m, j->lane, run, thread);
    if (!j->m->hiddens) return;
    uint32_t row = last_known_row(run) + (run->n_drawn ? run->n_drawn - 1 : 0);
    memcpy(hidden_of(j->m, run->slot), step_hidden(j->lane->step, row),
           j->m->in->config.hidden * sizeof(float));
}

static void draw_all(struct exec_model *m, const struct lane *l, struct exec_run *runs,
                     uint32_t n_runs) {
    struct draw_job job = {m, l, runs};
    m->last = l;
    team_run(m->in->team, draw_tile, &job, n_runs);
}

static void draw(void *ctx, const struct exec_run *run, uint32_t choice, struct exec_token *out) {
    struct exec_model *m = ctx;
    const float *logits = step_logits(m->last->step, last_known_row(run));
    *out = (struct exec_token){.id = sample(m, run->r, choice, logits, NULL, 0, work_of(m, 0))};
    if (run->r->logprobs >= 0) say_logprobs(m, out, logits, run->r->logprobs, work_of(m, 0));
}

/* --- prompt logprobs -------------------------------------------------------------------------- */

struct say_job {
    struct exec_model *m;
    const struct exec_run *runs;
    uint32_t n_runs;
};

/* Row `row` of the chunk, if its run wants it said; a chunk's rows are those of its runs in order. */
static void say_tile(void *ctx, uint32_t row, uint32_t thread) {
    const struct say_job *j = ctx;
    struct exec_model *m = j->m;
    uint32_t i = 0;
    while (i + 1 < j->n_runs && j->runs[i + 1].row <= row) i++;
    const struct exec_run *run = &j->runs[i];
    uint32_t next = run->from + row - run->row + 1;
    if (!run->r || !run->prompt_logprobs || next >= run->r->n_prompt) return;
    m->said[row] = (struct exec_token){.id = run->r->prompt[next]};
    say_logprobs(m, &m->said[row], step_logits(m->chunk.step, row), run->r->prompt_logprobs,
                 work_of(m, thread));
}

/* As far as the time goes; a vocabulary takes longer a row than a small layer. True: all is said. */
static bool say_all(struct exec_model *m, const struct exec_run *runs, uint32_t n_runs,
                    uint64_t until_ns) {
    bool wanted = false;
    for (uint32_t i = 0; i < n_runs; i++) wanted = wanted || (runs[i].r && runs[i].prompt_logprobs);
    if (!wanted) return true;
    struct say_job job = {m, runs, n_runs};
    m->n_said =
        team_run_until(m->in->team, say_tile, &job, m->n_said, m->chunk.in.n_rows, until_ns);
    return m->n_said == m->chunk.in.n_rows;
}

static void prompt_logprob(void *ctx, const struct exec_run *run, uint32_t i,
                           struct exec_token *out) {
    const struct exec_model *m = ctx;
    *out = m->said[run->row + i];
}

/* --- drafts ----------------------------------------------------------------------------------- */

struct draft_job {
    struct exec_model *m;
    struct exec_run *runs;
    const uint32_t *which; /* [rows] run of each row */
};

/* A guess is drawn as the token will be, from other logits: that is when the two most often agree. */
static void draft_tile(void *ctx, uint32_t row, uint32_t thread) {
    const struct draft_job *j = ctx;
    struct exec_model *m = j->m;
    struct exec_run *run = &j->runs[j->which[row]];
    uint32_t n_ids = run->r->choices[run->choice].n_ids + run->n_drawn + run->n_new_drafts;
    uint32_t *output = output_of(m, run, thread, 1);
    if (output != run->r->choices[run->choice].ids) {
        uint32_t at = run->r->choices[run->choice].n_ids;
        for (uint32_t i = 0; i < run->n_drawn; i++) output[at++] = run->drawn[i].id;
        for (uint32_t i = 0; i < run->n_new_drafts; i++) output[at++] = run->new_drafts[i];
    }
    run->new_drafts[run->n_new_drafts++] =
        sample(m, run->r, run->choice, step_draft_logits(m->steps.step, row), output, n_ids,
               work_of(m, thread));
    memcpy(m->draft_hiddens + (size_t)j->which[row] * m->in->config.hidden,
           step_draft_hidden(m->steps.step, row), m->in->config.hidden * sizeof(float));
}

/* One more guess for every run that still wants one: the MTP block alone, over one row a run. */
static uint32_t guess(struct exec_model *m, struct exec_run *runs, uint32_t n_runs,
                      uint32_t *which) {
    struct lane *l = &m->steps;
    l->in = (struct step_input){.rows = l->rows, .seqs = l->seqs};
    for (uint32_t i = 0; i < n_runs; i++) {
        const struct exec_run *run = &runs[i];
        uint32_t k = run->n_new_drafts;
        if (!run->sample || k >= run->want_drafts) continue;
        which[l->in.n_rows] = i;
        l->seqs[l->in.n_seqs] = (struct step_seq){
            .pages = run->pages,
            .n_pages = run->n_pages,
            .hidden_before =
                k ? m->draft_hiddens + (size_t)i * m->in->config.hidden : hidden_of(m, run->slot)};
        l->rows[l->in.n_rows++] =
            (struct step_row){.token = k ? run->new_drafts[k - 1] : run->drawn[run->n_drawn - 1].id,
                              .pos = exec_run_known(run) + run->n_drawn - 1 + k,
                              .seq = l->in.n_seqs++,
                              .role = ROLE_GENERATED,
                              .draft = true};
    }
    if (l->in.n_rows == 0) return 0;
    step_begin(l->step, &l->in);
    step_mtp(l->step);
    struct draft_job job = {m, runs, which};
    team_run(m->in->team, draft_tile, &job, l->in.n_rows);
    return l->in.n_rows;
}

/* --- the interface ---------------------------------------------------------------------------- */

static uint64_t now(void *ctx) {
    (void)ctx;
    return clock_now_ns();
}

static void step(void *ctx, struct exec_run *runs, uint32_t n_runs) {
    struct exec_model *m = ctx;
    uint32_t which[n_runs];
    begin(m, &m->steps, runs, n_runs);
    model_step(&m->steps.step, 1);
    draw_all(m, &m->steps, runs, n_runs);
    while (guess(m, runs, n_runs, which) > 0) continue;
}

/* So many parts of every page that the runs read are there. */
static uint32_t parts_there(const struct exec_run *runs, uint32_t n_runs) {
    uint32_t parts = STEP_ALL_PARTS;
    for (uint32_t i = 0; i < n_runs; i++) {
        if (!runs[i].gate) continue;
        uint32_t n = atomic_load_explicit(&runs[i].gate->parts, memory_order_acquire);
        if (n < parts) parts = n;
    }
    return parts;
}

/* Whoever copies the rows of these runs may have the parts that got done. */
static void tell_rows(struct exec_model *m, const struct exec_run *runs, uint32_t n_runs) {
    uint32_t done = step_parts_done(m->chunk.step);
    for (; m->n_told < done; m->n_told++)
        for (uint32_t i = 0; i < n_runs; i++)
            if (runs[i].rows_done)
                atomic_store_explicit(&runs[i].rows_done[m->n_told], runs[i].from + runs[i].n,
                                      memory_order_release);
}

/* The chunk's rows, as far as time and earlier rows allow. Where the latter are late, the thread
 * leaves the core to who brings them. */
static bool advance_chunk(struct exec_model *m, const struct exec_run *runs, uint32_t n_runs,
                          uint64_t until_ns) {
    uint32_t before = step_parts_done(m->chunk.step);
    bool done = step_advance(m->chunk.step, until_ns, parts_there(runs, n_runs));
    tell_rows(m, runs, n_runs);
    if (!done && step_parts_done(m->chunk.step) == before && clock_now_ns() < until_ns)
        nanosleep(&(struct timespec){.tv_nsec = GATE_WAIT_NS}, NULL);
    return done;
}

static bool chunk(void *ctx, struct exec_run *runs, uint32_t n_runs, uint64_t until_ns) {
    struct exec_model *m = ctx;
    if (!m->in_chunk) {
        begin(m, &m->chunk, runs, n_runs);
        m->stepped = false;
        m->n_said = m->n_told = 0;
    }
    m->stepped = m->stepped || advance_chunk(m, runs, n_runs, until_ns);
    m->in_chunk = !m->stepped || !say_all(m, runs, n_runs, until_ns);
    if (!m->in_chunk) draw_all(m, &m->chunk, runs, n_runs);
    return !m->in_chunk;
}

static void chunk_drop(void *ctx) {
    struct exec_model *m = ctx;
    m->in_chunk = false;
}

static void copy_page(void *ctx, uint32_t to, uint32_t from) {
    const struct exec_model *m = ctx;
    kv_copy(&m->in->kv, to, from);
}

static void copy_slot(void *ctx, uint32_t to, uint32_t from) {
    const struct exec_model *m = ctx;
    if (m->hiddens)
        memcpy(hidden_of(m, to), hidden_of(m, from), m->in->config.hidden * sizeof(float));
}

static void *slot(void *ctx, uint32_t i) {
    return hidden_of(ctx, i);
}

/* --- life ------------------------------------------------------------------------------------- */

static struct step_limits step_limits_of(const struct exec_model_options *o) {
    uint32_t rows = o->max_num_seqs * (1 + o->draft_tokens) + EXECUTOR_RIDE_ROWS;
    return (struct step_limits){.rows_max = rows, .logits_max = rows};
}

static struct step_limits chunk_limits_of(const struct exec_model_options *o) {
    return (struct step_limits){.rows_max = o->max_num_batched_tokens,
                                .logits_max = o->max_num_batched_tokens};
}

/* Operations of expanding one key against those of a token through the model, both of one layer's
 * weights that are read: a measure for the scheduler, not a promise. */
static float expand_cost(const struct model_config *c) {
    double expand = (double)c->n_heads * (c->nope + c->v_dim) * c->kv_lora;
    double q = c->q_lora ? (double)c->q_lora * (c->hidden + c->n_heads * (c->nope + c->rope))
                         : (double)c->hidden * c->n_heads * (c->nope + c->rope);
    double attn =
        q + (double)c->hidden * (c->kv_lora + c->rope) + (double)c->n_heads * c->v_dim * c->hidden;
    double ffn = c->n_experts ? 3.0 * c->hidden * c->moe_inter * (c->gate.top_k + c->n_shared)
                              : 3.0 * c->hidden * c->dense_inter;
    return (float)(expand / (attn + ffn));
}

void exec_model_workspaces(struct step_limits limits[2], const struct exec_model_options *o) {
    limits[0] = step_limits_of(o);
    limits[1] = chunk_limits_of(o);
}

static enum st lane_init(struct lane *l, const struct instance *in, struct step_limits limits,
                         uint32_t seqs_max, struct err *err) {
    l->rows = malloc(limits.rows_max * sizeof *l->rows);
    l->seqs = malloc(seqs_max * sizeof *l->seqs);
    if (!l->rows || !l->seqs) return err_set(err, ST_NO_MEMORY, "engine: out of memory");
    return step_new(&l->step, in->model, &in->kv, in->team, limits, err);
}

static enum st init(struct exec_model *m, struct instance *in, const struct exec_model_options *o,
                    struct err *err) {
    uint32_t threads = team_size(in->team), vocab = in->config.vocab;
    enum st st = lane_init(&m->steps, in, step_limits_of(o), o->max_num_seqs, err);
    if (!st) st = lane_init(&m->chunk, in, chunk_limits_of(o), o->max_num_seqs, err);
    if (!st) st = ahead_new(&m->ahead, &in->kv, err);
    if (st) return st;
    m->work = malloc((size_t)threads * vocab * sizeof *m->work);
    m->lists =
        malloc((size_t)threads * (in->max_model_len + EXECUTOR_DRAFTS_MAX + 1) * sizeof *m->lists);
    m->said = malloc(o->max_num_batched_tokens * sizeof *m->said);
    bool ok = m->work && m->lists && m->said;
    if (ok && in->config.n_mtp) {
        size_t bytes = (size_t)o->max_num_seqs * in->config.hidden * sizeof(float);
        m->hiddens = malloc(bytes);
        m->draft_hiddens = malloc(bytes);
        ok = m->hiddens && m->draft_hiddens;
    }
    return ok ? ST_OK : err_set(err, ST_NO_MEMORY, "engine: out of memory");
}

enum st exec_model_new(struct exec_model **out, struct instance *in,
                       const struct exec_model_options *o, struct err *err) {
    struct exec_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ST_NO_MEMORY, "engine: out of memory");
    m->in = in;
    m->x = (struct executor){.ctx = m,
                             .model_id = in->model_id,
                             .n_pages = in->kv.n_pages - 1,
                             .n_slots = o->max_num_seqs,
                             .max_model_len = in->max_model_len,
                             .vocab = in->config.vocab,
                             .rows_max = step_limits_of(o).rows_max,
                             .drafts = in->config.n_mtp > 0 && o->draft_tokens > 0,
                             .expand_cost = expand_cost(&in->config),
                             .now = now,
                             .step = step,
                             .chunk = chunk,
                             .chunk_drop = chunk_drop,
                             .draw = draw,
                             .prompt_logprob = prompt_logprob,
                             .copy_page = copy_page,
                             .copy_slot = copy_slot,
                             .slot = slot,
                             .shape = instance_shape(&in->config, in->kv.dtype),
                             .memory = in->kv.rows,
                             .generations = in->generations,
                             .slot_bytes = in->config.n_mtp ? in->config.hidden * 4 : 0};
    enum st st = init(m, in, o, err);
    if (st)
        exec_model_free(m);
    else
        *out = m;
    return st;
}

static void lane_release(struct lane *l) {
    step_free(l->step);
    free(l->rows);
    free(l->seqs);
}

void exec_model_free(struct exec_model *m) {
    if (!m) return;
    ahead_free(m->ahead);
    lane_release(&m->steps);
    lane_release(&m->chunk);
    free(m->hiddens);
    free(m->draft_hiddens);
    free(m->work);
    free(m->lists);
    free(m->said);
    free(m);
}

const struct executor *exec_model_executor(const struct exec_model *m) {
    return &m->x;
}

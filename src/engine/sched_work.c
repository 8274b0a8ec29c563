/* SPDX-License-Identifier: Apache-2.0 */
/* Implements the part of sched.h that says what to compute next: what a step or a chunk is made of,
 * and how they take turns. */
#include <assert.h>
#include <string.h>

#include "engine/sched_impl.h"

/* What prompt tails may add to a step, the expansion of earlier keys counted in as rows. */
static const float ride_rows = EXECUTOR_RIDE_ROWS;
/* A piece's share of the step it delays, without targets; and the least, so that prompts move. */
static const double piece_share = 0.4, piece_share_late = 1.5, piece_share_min = 0.25;
static const double average_weight = 0.2;
static const uint64_t alone_ns = 20000000; /* a piece when no stream waits: cancels are seen soon */

enum { GROW_STEPS = 4 /* measured at one batch size before it grows */ };

/* --- a step ----------------------------------------------------------------------------------- */

/* What a prompt tail costs in a step, in rows; decoding is free of it. */
static float ride_cost(const struct sched *s, const struct seq *q) {
    if (q->r->prompt_logprobs >= 0 && q->n_done < q->r->n_prompt) return ride_rows + 1;
    float keys = q->n_done < q->r->n_prompt ? (float)q->n_done : 0;
    return (float)(seq_len(q) - q->n_done) + keys * s->expand_cost;
}

static bool in_step(const struct sched *s, const struct seq *q) {
    return !q->in_chunk && !q->gate &&
           (decodes(q) || (s->tails_ride && ride_cost(s, q) <= ride_rows));
}

/* Short prompts ride along, unless so many came at once that a chunk of them all is sooner done;
 * but behind a long prompt they would wait for all of it. */
static void judge_tails(struct sched *s) {
    float sum = 0;
    bool long_ones = s->n_chunk > 0;
    for (uint32_t i = 0; i < s->running.len; i++) {
        const struct seq *q = s->running.v[i];
        if (decodes(q)) continue;
        float cost = ride_cost(s, q);
        long_ones = long_ones || cost > ride_rows;
        sum += cost;
    }
    s->tails_ride = long_ones || sum <= ride_rows;
}

/* Who gives way to q: the last that is no part of a chunk, which would be lost for all of it; then the
 * last, which may be q itself. */
static struct seq *victim(const struct sched *s, struct seq *q) {
    struct seq *last = NULL; /* never one whose pages others still write to */
    for (uint32_t i = s->running.len; s->running.v[--i] != q;) {
        struct seq *other = s->running.v[i];
        if (!other->in_chunk && !other->gate) return other;
        if (!last && !other->gate) last = other;
    }
    return last ? last : q;
}

/* A page for q; others give way for it, at last q itself. PAGES_NONE: q did. */
static uint32_t take_page(struct sched *s, struct seq *q, uint64_t now_ns) {
    for (;;) {
        uint32_t page = pages_take(&s->pages);
        if (page != PAGES_NONE) return page;
        struct seq *other = victim(s, q);
        sched_preempt(s, other, now_ns);
        if (other == q) return PAGES_NONE;
    }
}

/* Pages for slots below n. False: q gave way. */
static bool want_pages(struct sched *s, struct seq *q, uint32_t n, uint64_t now_ns) {
    if (q->n_pages < pages_for(n) && !place(s, q->slot, n)) {
        sched_preempt(s, q, now_ns); /* to go on where there is room */
        return false;
    }
    while (q->n_pages < pages_for(n)) {
        uint32_t page = take_page(s, q, now_ns);
        if (page == PAGES_NONE) return false;
        q->pages[q->n_pages++] = page;
    }
    return true;
}

/* A page that others hold too is copied before a row is written to it. False: q gave way. */
static bool own_page(struct sched *s, struct seq *q, uint64_t now_ns) {
    uint32_t block = q->n_done / KV_PAGE_TOKENS;
    if (pages_holders(&s->pages, q->pages[block]) == 1) return true;
    uint32_t page = take_page(s, q, now_ns);
    if (page == PAGES_NONE) return false;
    s->copies[s->n_copies++] = (struct sched_copy){page, q->pages[block]};
    pages_drop(&s->pages, q->pages[block]);
    q->pages[block] = page;
    return true;
}

static struct exec_run run_of(const struct seq *q, uint32_t n) {
    return (struct exec_run){.r = q->r,
                             .choice = q->choice,
                             .pages = q->pages,
                             .n_pages = q->n_pages,
                             .slot = q->slot,
                             .from = q->n_done,
                             .n = n,
                             .sample = q->n_done + n == seq_len(q)};
}

/* Drafts are verified and wanted only as far as an answer can use them, and only where there are
 * more free pages than others may need in this step. */
static void add_drafts(struct sched *s, struct exec_run *run, struct seq *q) {
    uint32_t left = q->r->max_tokens - (seq_len(q) - q->r->n_prompt); /* tokens still to come */
    run->n_drafts = q->n_drafts < left ? q->n_drafts : left - 1;
    memcpy(run->drafts, q->drafts, run->n_drafts * sizeof *run->drafts);
    run->n += run->n_drafts;
    uint32_t k = s->drafting ? s->c.draft_tokens : 0;
    while (k > 0 && k + 2 > left) k--;
    while (q->n_pages < pages_for(run->from + run->n + k) && s->pages.n_free > s->running.len &&
           place(s, q->slot, run->from + run->n + k))
        q->pages[q->n_pages++] = pages_take(&s->pages);
    if (q->n_pages < pages_for(run->from + run->n + k)) {
        run->n -= run->n_drafts;
        run->n_drafts = k = 0;
    }
    run->want_drafts = k;
    run->n_pages = q->n_pages;
}

static void add_to_step(struct sched *s, struct sched_work *w, struct seq *q, bool decode) {
    uint32_t i = w->n_runs++;
    w->seqs[i] = q;
    w->runs[i] = run_of(q, seq_len(q) - q->n_done);
    if (decode) add_drafts(s, &w->runs[i], q);
}

static void fill_step(struct sched *s, struct sched_work *w, uint64_t now_ns) {
    float ride = ride_rows;
    uint32_t rows = 0;
    *w = (struct sched_work){
        .kind = SCHED_STEP, .runs = s->step_runs, .seqs = s->step_seqs, .copies = s->copies};
    s->n_copies = 0;
    s->n_decode = 0;
    for (uint32_t i = 0; i < s->running.len; i++) s->n_decode += decodes(s->running.v[i]);
    s->drafting = s->c.draft_tokens > 0 && s->n_decode > 0 && spec_wanted(&s->spec, s->n_decode);
    /* Whoever gives way comes behind the one it makes room for, and so not yet in the step. */
    for (uint32_t i = 0; i < s->running.len; i++) {
        struct seq *q = s->running.v[i];
        bool decode = decodes(q);
        float cost = decode ? 0 : ride_cost(s, q);
        uint32_t n = seq_len(q) - q->n_done;
        if (q->in_chunk || q->gate || cost > ride || rows + n > s->c.step_rows) continue;
        if (!want_pages(s, q, seq_len(q), now_ns) || !own_page(s, q, now_ns)) {
            i--; /* it is out of the list */
            continue;
        }
        ride -= cost;
        add_to_step(s, w, q, decode);
        rows += w->runs[w->n_runs - 1].n;
    }
    w->n_copies = s->n_copies;
}

/* --- a chunk ---------------------------------------------------------------------------------- */

/* Blocks that others computed since q was admitted. */
static void find_more(struct sched *s, struct seq *q) {
    if (q->gate) return;
    sched_keys(q);
    while (q->n_done % KV_PAGE_TOKENS == 0) {
        uint32_t block = q->n_done / KV_PAGE_TOKENS, page = sched_find_block(s, q, block);
        if (page == PAGES_NONE || page == q->pages[block]) return;
        pages_hold(&s->pages, page);
        pages_drop(&s->pages, q->pages[block]);
        q->pages[block] = page;
        if (q->n_done == q->n_cached && q->n_done + KV_PAGE_TOKENS <= q->r->n_prompt) {
            q->n_cached += KV_PAGE_TOKENS;
            s->prefix_hits += KV_PAGE_TOKENS;
        }
        q->n_done += KV_PAGE_TOKENS;
        q->n_published++;
    }
}

/* A sequence of this chunk computes q's next block: it will be found. */
static bool comes_anyway(const struct sched *s, const struct seq *q, uint32_t n_chunk) {
    uint32_t block = q->n_done / KV_PAGE_TOKENS;
    if (q->n_done % KV_PAGE_TOKENS || !may_be_found(q, block)) return false;
    for (uint32_t i = 0; i < n_chunk; i++) {
        const struct exec_run *run = &s->chunk_runs[i];
        const struct seq *other = s->chunk_seqs[i];
        if (run->from <= q->n_done && run->from + run->n >= q->n_done + KV_PAGE_TOKENS &&
            memcmp(&other->keys[block + 1], &q->keys[block + 1], sizeof *q->keys) == 0)
            return true;
    }
    return false;
}

static bool form_chunk(struct sched *s) {
    uint32_t left = s->c.chunk_rows, n = 0;
    for (uint32_t i = 0; i < s->running.len && left > 0; i++) {
        struct seq *q = s->running.v[i];
        if (in_step(s, q) || sched_fetch_failed(q)) continue;
        find_more(s, q);
        if (in_step(s, q) || comes_anyway(s, q, n)) continue;
        uint32_t rest = seq_len(q) - q->n_done, take = rest < left ? rest : left;
        if (n > 0 && take < rest && take < EXECUTOR_CHUNK_MIN) break;
        assert(pages_holders(&s->pages, q->pages[q->n_done / KV_PAGE_TOKENS]) == 1);
        s->chunk_seqs[n] = q;
        s->chunk_runs[n] = run_of(q, take);
        s->chunk_runs[n].gate = q->gate;
        s->chunk_runs[n++].prompt_logprobs = wants_prompt_logprobs(q);
        left -= take;
    }
    for (uint32_t i = 0; i < n; i++) s->chunk_seqs[i]->in_chunk = true;
    s->n_chunk = n;
    return n > 0;
}

/* How long a piece may delay the streams that run. */
static uint64_t piece_ns(const struct sched *s, uint64_t now_ns) {
    double share = piece_share, limit = (double)s->c.tpot_ns - s->step_ns;
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < s->n_chunk; i++)
        if (s->chunk_seqs[i]->state != SEQ_OVER && s->chunk_seqs[i]->waits_since_ns < oldest)
            oldest = s->chunk_seqs[i]->waits_since_ns;
    bool late = s->c.ttft_ns && now_ns - oldest > s->c.ttft_ns / 2;
    if (late) share = piece_share_late;
    double ns = share * s->step_ns;
    if (s->c.tpot_ns) {
        if (late || ns > 0.9 * limit) ns = 0.9 * limit;
        if (ns < piece_share_min * s->step_ns) ns = piece_share_min * s->step_ns;
    }
    return (uint64_t)ns;
}

/* --- what to do ------------------------------------------------------------------------------- */

static bool any_in_step(const struct sched *s) {
    for (uint32_t i = 0; i < s->running.len; i++)
        if (in_step(s, s->running.v[i])) return true;
    return false;
}

void sched_next(struct sched *s, uint64_t now_ns, struct sched_work *w) {
    *w = (struct sched_work){.kind = SCHED_IDLE};
    s->n_waves++;
    sched_settle_fetches(s);
    sched_admit_waiting(s, now_ns);
    /* a chunk is formed only to be handed out at once: who is in it has begun */
    judge_tails(s);
    bool step = any_in_step(s);
    bool begins = s->n_chunk == 0;
    bool chunk = !begins || ((s->chunk_next || !step) && form_chunk(s));
    if (!chunk && !step) step = any_in_step(s); /* by what others computed in between */
    if (step && !(chunk && s->chunk_next)) {
        fill_step(s, w, now_ns);
        if (w->n_runs > 0) return;
        /* its only sequence gave way; others have what it had */
        sched_next(s, now_ns, w);
        return;
    }
    if (!chunk) return;
    *w = (struct sched_work){.kind = SCHED_CHUNK,
                             .runs = s->chunk_runs,
                             .seqs = s->chunk_seqs,
                             .n_runs = s->n_chunk,
                             .begins = begins,
                             .until_ns = now_ns + (step ? piece_ns(s, now_ns) : alone_ns)};
}

void sched_piece_over(struct sched *s) {
    s->chunk_next = false;
}

/* The batch grows while a step of one more is sure to stay under the target, and shrinks by those
 * that end while it does not. */
static void control(struct sched *s) {
    double target = (double)s->c.tpot_ns, n = s->seqs_now;
    if (!s->c.tpot_ns || ++s->steps_at_size < GROW_STEPS) return;
    bool full = seated(s) >= s->seqs_now;
    if (s->interval_ns > target && s->seqs_now > 1 && s->running.len > 0) {
        s->seqs_now = (s->running.len < s->seqs_now ? s->running.len : s->seqs_now) - 1;
        if (s->seqs_now == 0) s->seqs_now = 1;
    } else if (full && s->seqs_now < s->c.seqs_max &&
               s->interval_ns * (n + 1) / n < 0.95 * target) {
        s->seqs_now++;
    } else {
        return;
    }
    s->steps_at_size = 0;
    s->interval_ns = 0; /* of another batch */
}

static void average(double *a, double v) {
    *a = *a == 0 ? v : *a + average_weight * (v - *a);
}

void sched_step_over(struct sched *s, const struct sched_work *w, uint64_t now_ns, uint64_t ns,
                     uint32_t n_tokens) {
    uint32_t verified = 0, wanted = 0, n = s->n_decode;
    average(&s->step_ns, (double)ns);
    /* after a pause the interval says nothing */
    if (s->last_step_end_ns && now_ns - s->last_step_end_ns < 4 * (uint64_t)s->step_ns + 1000000)
        average(&s->interval_ns, (double)(now_ns - s->last_step_end_ns) * w->n_runs /
                                     (n_tokens > w->n_runs ? n_tokens : w->n_runs));
    s->last_step_end_ns = now_ns;
    s->chunk_next = true;
    control(s);
    for (uint32_t i = 0; i < w->n_runs; i++) {
        verified += w->runs[i].n_drafts > 0;
        wanted += w->runs[i].want_drafts > 0;
    }
    /* begins and ends of answers have no drafts; a few of them do not spoil the measurement */
    if (4 * verified >= 3 * n && 4 * wanted >= 3 * n)
        spec_measured(&s->spec, n, true, ns, n_tokens);
    else if (verified == 0 && wanted == 0)
        spec_measured(&s->spec, n, false, ns, n_tokens);
}

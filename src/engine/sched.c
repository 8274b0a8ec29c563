/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sched.h. Two lists, both in the order of rank (priority, then arrival): who waits and
 * who runs. Everything that could differ between two machines (time aside) follows from them. */
#include "engine/sched.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What prompt tails may add to a step, the expansion of earlier keys counted in as rows. */
static const float ride_rows = EXECUTOR_RIDE_ROWS;
/* A piece's share of the step it delays, without targets; and the least, so that prompts move. */
static const double piece_share = 0.4, piece_share_late = 1.5, piece_share_min = 0.25;
static const double average_weight = 0.2;
static const uint64_t alone_ns = 20000000; /* a piece when no stream waits: cancels are seen soon */

enum { GROW_STEPS = 4 /* measured at one batch size before it grows */ };

struct seq_list {
    struct seq **v;
    uint32_t len, cap;
};

struct sched {
    struct sched_config c;
    const struct executor *x;
    struct pages pages;
    struct spec spec;
    float expand_cost;
    uint32_t n_parts; /* of a page that comes from elsewhere */
    struct seq_list waiting, running;
    uint32_t n_following, n_reserved;
    uint64_t n_arrived;
    uint32_t *slots, n_slots; /* free ones */
    struct exec_run *step_runs, *chunk_runs;
    struct seq **step_seqs, **chunk_seqs;
    uint32_t n_chunk; /* 0: no chunk */
    bool chunk_dropped, chunk_next;
    bool tails_ride; /* short prompts go with the steps at present */
    struct sched_copy *copies;
    uint32_t n_copies;
    bool drafting;     /* in this step */
    uint32_t n_decode; /* sequences of this step that decode */
    /* SLO control */
    uint32_t seqs_now; /* how many may run */
    uint32_t steps_at_size;
    double step_ns, interval_ns; /* moving averages: a step; from one step's end to the next's */
    uint64_t last_step_end_ns;
    uint64_t preemptions, prefix_queries, prefix_hits;
};

/* --- lists ------------------------------------------------------------------------------------ */

static bool before(const struct seq *a, const struct seq *b) {
    return a->priority != b->priority ? a->priority < b->priority : a->order < b->order;
}

static bool list_reserve(struct seq_list *l) {
    if (l->len < l->cap) return true;
    uint32_t cap = l->cap ? l->cap * 2 : 64;
    struct seq **v = realloc(l->v, cap * sizeof(struct seq *));
    if (!v) return false;
    l->v = v;
    l->cap = cap;
    return true;
}

/* There is room. */
static void list_insert(struct seq_list *l, struct seq *q) {
    uint32_t lo = 0, hi = l->len;
    assert(l->len < l->cap);
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (before(l->v[mid], q))
            lo = mid + 1;
        else
            hi = mid;
    }
    memmove(l->v + lo + 1, l->v + lo, (l->len - lo) * sizeof(struct seq *));
    l->v[lo] = q;
    l->len++;
}

static void list_remove(struct seq_list *l, const struct seq *q) {
    uint32_t i = 0;
    while (l->v[i] != q) i++;
    memmove(l->v + i, l->v + i + 1, (l->len - i - 1) * sizeof(struct seq *));
    l->len--;
}

/* --- sequences -------------------------------------------------------------------------------- */

static uint32_t pages_for(uint32_t n_tokens) {
    return (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static uint32_t seq_len(const struct seq *q) {
    return request_len(q->r, q->choice);
}

/* Sequences that have a slot. */
static uint32_t seated(const struct sched *s) {
    return s->running.len + s->n_reserved;
}

static bool decodes(const struct seq *q) {
    return q->n_done + 1 == seq_len(q) && q->n_done >= q->r->n_prompt;
}

/* Keys of all blocks that are full in what is known. */
static void seq_keys(struct seq *q) {
    uint32_t n = seq_len(q) / KV_PAGE_TOKENS + 1;
    if (q->n_keys == 0) block_key_root(&q->keys[q->n_keys++], q->r);
    for (; q->n_keys < n; q->n_keys++)
        block_key_next(&q->keys[q->n_keys], &q->keys[q->n_keys - 1], q->r, q->choice,
                       q->n_keys - 1);
}

/* Its prompt's logprobs are still to be given: its rows must be computed. */
static bool wants_prompt_logprobs(const struct seq *q) {
    return q->r->prompt_logprobs >= 0 && q->n_prompt_told + 1 < q->r->n_prompt;
}

/* Whether rows that somebody else computed will do for this block: not for the last, since somebody
 * must make the logits. */
static bool may_be_found(const struct seq *q, uint32_t block) {
    return !wants_prompt_logprobs(q) && (block + 1) * KV_PAGE_TOKENS < seq_len(q);
}

/* The page where a block of the sequence is found; PAGES_NONE. */
static uint32_t find_block(const struct sched *s, const struct seq *q, uint32_t block) {
    return may_be_found(q, block) ? pages_find(&s->pages, &q->keys[block + 1]) : PAGES_NONE;
}

static bool place(const struct sched *s, uint32_t slot, uint32_t n_tokens) {
    return !s->x->place || s->x->place(s->x->ctx, slot, n_tokens);
}

/* For who comes to the next slot. */
static bool place_new(const struct sched *s, const struct seq *q) {
    return place(s, s->slots[s->n_slots - 1], seq_len(q));
}

static void give_back(struct sched *s, struct seq *q) {
    if (q->state == SEQ_RUNNING || q->state == SEQ_OVER || q->state == SEQ_RESERVED) {
        s->slots[s->n_slots++] = q->slot;
        (void)place(s, q->slot, 0);
    }
    /* the end first, so that the beginning of a chain is the last to be forgotten */
    for (uint32_t i = q->n_pages; i-- > 0;) pages_drop(&s->pages, q->pages[i]);
    q->n_pages = q->n_done = q->n_published = q->n_drafts = 0;
}

static void seq_free(struct seq *q) {
    free(q->pages);
    free(q->keys);
    free(q);
}

static void drop_chunk(struct sched *s) {
    if (s->n_chunk == 0) return;
    s->chunk_dropped = true;
    sched_chunk_over(s);
}

void sched_chunk_over(struct sched *s) {
    uint32_t n = s->n_chunk;
    s->n_chunk = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct seq *q = s->chunk_seqs[i];
        q->in_chunk = false;
        if (q->state != SEQ_OVER) continue;
        give_back(s, q);
        seq_free(q);
        s->chunk_seqs[i] = NULL;
    }
}

bool sched_chunk_dropped(struct sched *s) {
    bool dropped = s->chunk_dropped;
    s->chunk_dropped = false;
    return dropped;
}

static void preempt(struct sched *s, struct seq *q, uint64_t now_ns) {
    if (q->in_chunk) drop_chunk(s);
    list_remove(&s->running, q);
    give_back(s, q);
    q->state = SEQ_WAITING;
    q->waits_since_ns = now_ns;
    list_insert(&s->waiting, q);
    s->preemptions++;
}

struct seq *sched_add(struct sched *s, struct request *r, uint32_t choice, bool following,
                      void *owner, uint64_t now_ns) {
    uint32_t blocks = pages_for(r->n_prompt + r->max_tokens + EXECUTOR_DRAFTS_MAX + 1);
    struct seq *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    *q = (struct seq){.r = r,
                      .choice = choice,
                      .owner = owner,
                      .order = s->n_arrived++,
                      .priority = r->priority,
                      .state = following ? SEQ_FOLLOWING : SEQ_WAITING,
                      .waits_since_ns = now_ns,
                      /* the first choice tells of the prompt */
                      .n_prompt_told = choice ? r->n_prompt : 0,
                      .pages = malloc(blocks * sizeof *q->pages),
                      .keys = malloc((blocks + 1) * sizeof *q->keys)};
    /* every list has room for all, so that moving between them cannot fail */
    uint32_t others = seated(s) + s->n_following;
    s->waiting.len += others;
    bool room = list_reserve(&s->waiting);
    s->waiting.len -= others;
    if (!room || !q->pages || !q->keys) {
        seq_free(q);
        return NULL;
    }
    if (following)
        s->n_following++;
    else
        list_insert(&s->waiting, q);
    return q;
}

void sched_end(struct sched *s, struct seq *q) {
    switch (q->state) {
    case SEQ_WAITING: list_remove(&s->waiting, q); break;
    case SEQ_FOLLOWING: s->n_following--; break;
    case SEQ_RUNNING: list_remove(&s->running, q); break;
    case SEQ_RESERVED: s->n_reserved--; break;
    case SEQ_OVER: assert(false); break;
    }
    q->gate = NULL; /* who cancels has seen to it that nobody writes any more */
    if (!q->in_chunk) {
        give_back(s, q);
        seq_free(q);
        return;
    }
    q->state = SEQ_OVER;
    /* the chunk goes on for others: this one's rows fall into the page that is nobody's */
    for (uint32_t i = q->n_pages; i-- > 0; q->pages[i] = s->pages.n)
        pages_drop(&s->pages, q->pages[i]);
    q->n_pages = 0;
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < s->n_chunk; i++) {
        wanted += s->chunk_seqs[i]->state != SEQ_OVER;
        if (s->chunk_seqs[i] != q) continue;
        s->chunk_runs[i].sample = false; /* its rows are computed on with the others' */
        s->chunk_runs[i].r = NULL;       /* the caller frees it, and what belongs to it */
        s->chunk_runs[i].gate = NULL;
        s->chunk_runs[i].rows_done = NULL;
    }
    if (wanted == 0) drop_chunk(s);
}

uint32_t *sched_end_lend(struct sched *s, struct seq *q, uint32_t *n_pages) {
    assert(q->state == SEQ_RUNNING && !q->in_chunk);
    uint32_t *pages = q->pages;
    *n_pages = pages_for(q->n_done);
    /* a page that was taken ahead is not part of it */
    while (q->n_pages > *n_pages) pages_drop(&s->pages, q->pages[--q->n_pages]);
    q->n_pages = 0;
    q->pages = NULL;
    sched_end(s, q);
    return pages;
}

void sched_hold_page(struct sched *s, uint32_t page) {
    pages_hold(&s->pages, page);
}

void sched_drop_page(struct sched *s, uint32_t page) {
    pages_drop(&s->pages, page);
}

void sched_computed(struct sched *s, struct seq *q, uint32_t n_done) {
    assert(n_done >= q->n_done && n_done <= seq_len(q));
    q->n_done = n_done;
    q->gate = NULL; /* or it would not be computed */
    if (n_done / KV_PAGE_TOKENS == q->n_published) return;
    seq_keys(q);
    for (uint32_t b; (b = q->n_published) < n_done / KV_PAGE_TOKENS; q->n_published++) {
        pages_publish(&s->pages, q->pages[b], &q->keys[b + 1]);
        if (s->c.hooks.block && b >= q->fetch_end)
            s->c.hooks.block(q->owner, &q->keys[b + 1], q->pages[b]);
    }
}

static void unfollow(struct sched *s, struct seq *q) {
    assert(q->state == SEQ_FOLLOWING);
    s->n_following--;
    q->state = SEQ_WAITING;
    list_insert(&s->waiting, q);
}

/* --- admission -------------------------------------------------------------------------------- */

static void run(struct sched *s, struct seq *q, uint64_t now_ns) {
    q->state = SEQ_RUNNING;
    if (!q->admitted_once) q->admitted_ns = now_ns;
    q->admitted_once = true;
    q->slot = s->slots[--s->n_slots];
    list_insert(&s->running, q);
}

bool sched_fork(struct sched *s, struct seq *q, const struct seq *leader, uint64_t now_ns) {
    assert(q->state == SEQ_FOLLOWING && leader->state == SEQ_RUNNING);
    if (seated(s) >= s->seqs_now || s->n_slots == 0 || !place_new(s, q)) {
        unfollow(s, q);
        return false;
    }
    s->n_following--;
    for (uint32_t i = 0; i < pages_for(leader->n_done); i++) {
        q->pages[q->n_pages++] = leader->pages[i];
        pages_hold(&s->pages, leader->pages[i]);
    }
    q->n_done = leader->n_done;
    q->n_published = leader->n_published;
    q->n_cached = leader->n_cached;
    run(s, q, now_ns);
    return true;
}

/* Asks for the blocks behind those that were found here, as far as they can be had elsewhere. */
static void begin_fetch(struct sched *s, struct seq *q) {
    uint32_t from = q->n_done / KV_PAGE_TOKENS, end = from;
    while (end < q->n_to_find && may_be_found(q, end)) end++;
    if (end == from) return;
    q->gate = s->c.hooks.fetch(q->owner, from, end - from, q->pages + from);
    q->n_to_find = 0; /* what does not come is computed */
    if (!q->gate) return;
    q->fetch_from = from;
    q->fetch_end = end;
    q->n_done = end * KV_PAGE_TOKENS;
}

/* What was fetched is there, or some of it will not come and is computed instead. */
static void settle_fetch(struct sched *s, struct seq *q) {
    uint32_t bad = atomic_load_explicit(&q->gate->bad, memory_order_acquire);
    if (bad == BLOCK_GATE_GOOD) {
        bool all = atomic_load_explicit(&q->gate->parts, memory_order_acquire) == s->n_parts;
        if (all && !q->in_chunk) sched_computed(s, q, q->n_done);
        return;
    }
    if (q->in_chunk) drop_chunk(s);
    if (!s->c.hooks.fetched(q->owner)) return;
    /* Blocks come layer by layer, so that of a fetch that failed none is whole. Those before the bad
     * one are asked for again. */
    q->gate = NULL;
    q->fetch_end = q->fetch_from;
    q->n_done = q->fetch_from * KV_PAGE_TOKENS;
    q->n_to_find = q->fetch_from + bad;
    begin_fetch(s, q);
    if (q->n_cached > q->n_done) q->n_cached = q->n_done;
}

static void settle_fetches(struct sched *s) {
    for (uint32_t i = 0; i < s->running.len; i++)
        if (s->running.v[i]->gate) settle_fetch(s, s->running.v[i]);
}

static bool fetch_failed(const struct seq *q) {
    return q->gate && atomic_load_explicit(&q->gate->bad, memory_order_acquire) != BLOCK_GATE_GOOD;
}

/* The first `hits` blocks, which are here, and pages for the rest of what is known, or nothing.
 * Others that have a seat get room to grow, lest they push it out again at once. */
static bool take_pages(struct sched *s, struct seq *q, uint32_t hits, uint32_t others) {
    uint32_t need = pages_for(seq_len(q)), headroom = others ? others / 4 + 1 : 0, from_free = 0;
    for (uint32_t b = 0; b < hits; b++)
        from_free += pages_holders(&s->pages, pages_find(&s->pages, &q->keys[b + 1])) == 0;
    if (s->pages.n_free < from_free + need - hits + headroom || !place_new(s, q)) return false;
    for (uint32_t b = 0; b < hits; b++) {
        q->pages[q->n_pages++] = pages_find(&s->pages, &q->keys[b + 1]);
        pages_hold(&s->pages, q->pages[b]);
    }
    while (q->n_pages < need) q->pages[q->n_pages++] = pages_take(&s->pages);
    q->n_published = hits;
    return true;
}

bool sched_reserve(struct sched *s, struct seq *q, uint32_t *n_there) {
    uint32_t len = seq_len(q), hits = 0;
    assert(q->state == SEQ_WAITING);
    /* nobody overtakes who waits here */
    if (s->waiting.len > 1 || seated(s) >= s->seqs_now || s->n_slots == 0) return false;
    seq_keys(q);
    while ((hits + 1) * KV_PAGE_TOKENS <= len &&
           pages_find(&s->pages, &q->keys[hits + 1]) != PAGES_NONE)
        hits++;
    if (!take_pages(s, q, hits, seated(s))) return false;
    list_remove(&s->waiting, q);
    q->state = SEQ_RESERVED;
    q->slot = s->slots[--s->n_slots];
    s->n_reserved++;
    *n_there = hits;
    return true;
}

void sched_adopt(struct sched *s, struct seq *q, uint64_t now_ns) {
    assert(q->state == SEQ_RESERVED);
    s->n_reserved--;
    q->state = SEQ_RUNNING;
    q->admitted_once = true;
    q->admitted_ns = now_ns;
    q->n_prompt_told = q->r->n_prompt; /* elsewhere */
    list_insert(&s->running, q);
    /* who computed its blocks has offered them already */
    q->fetch_end = (seq_len(q) - 1) / KV_PAGE_TOKENS;
    sched_computed(s, q, seq_len(q) - 1);
}

/* Takes the blocks that are found and pages for the rest of what is known. False: they are not
 * there. */
static bool admit(struct sched *s, struct seq *q, uint64_t now_ns) {
    uint32_t hits = 0;
    seq_keys(q);
    while (hits < pages_for(seq_len(q)) && find_block(s, q, hits) != PAGES_NONE) hits++;
    if (!take_pages(s, q, hits, s->running.len)) return false;
    q->n_done = hits * KV_PAGE_TOKENS;
    begin_fetch(s, q);
    if (!q->admitted_once) {
        q->n_cached = q->n_done < q->r->n_prompt ? q->n_done : q->r->n_prompt;
        if (q->choice == 0 && q->r->prompt_logprobs < 0) s->prefix_queries += q->r->n_prompt;
        s->prefix_hits += q->n_cached;
    }
    run(s, q, now_ns);
    return true;
}

/* Who waits for the first token, admitted or not, goes before all others in the end. */
static void raise_starving(struct seq_list *l, uint64_t now_ns) {
    for (uint32_t i = 0; i < l->len; i++) {
        struct seq *q = l->v[i];
        if (q->priority == INT32_MIN || now_ns - q->waits_since_ns < SCHED_STARVE_S * 1000000000ull)
            continue;
        if (q->state == SEQ_RUNNING && decodes(q)) continue;
        list_remove(l, q);
        q->priority = INT32_MIN;
        list_insert(l, q);
    }
}

static void admit_waiting(struct sched *s, uint64_t now_ns) {
    raise_starving(&s->waiting, now_ns);
    raise_starving(&s->running, now_ns);
    while (s->waiting.len > 0 && seated(s) < s->seqs_now && s->n_slots > 0) {
        struct seq *q = s->waiting.v[0];
        /* running lists are as long as there are slots */
        if (!admit(s, q, now_ns)) return;
        list_remove(&s->waiting, q);
    }
}

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

/* Who gives way to q: the newest that is no part of a chunk, which would be lost for all of it;
 * then the newest, which may be q itself. */
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
        preempt(s, other, now_ns);
        if (other == q) return PAGES_NONE;
    }
}

/* Pages for slots below n. False: q gave way. */
static bool want_pages(struct sched *s, struct seq *q, uint32_t n, uint64_t now_ns) {
    if (q->n_pages < pages_for(n) && !place(s, q->slot, n)) {
        preempt(s, q, now_ns); /* to go on where there is room */
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
    /* Whoever gives way is newer than the one it makes room for, and so not yet in the step. */
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
    seq_keys(q);
    while (q->n_done % KV_PAGE_TOKENS == 0) {
        uint32_t block = q->n_done / KV_PAGE_TOKENS, page = find_block(s, q, block);
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
        if (in_step(s, q) || fetch_failed(q)) continue;
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
    uint64_t oldest = s->chunk_seqs[0]->waits_since_ns;
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
    settle_fetches(s);
    admit_waiting(s, now_ns);
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

void sched_stats(const struct sched *s, struct engine_stats *out) {
    out->running = s->running.len;
    out->reserved = s->n_reserved;
    out->waiting = s->waiting.len + s->n_following;
    out->pages = s->pages.n;
    out->pages_used = s->pages.n - s->pages.n_free;
    out->pages_cached = s->pages.n_cached;
    out->seqs_max = s->seqs_now;
    out->step_s = s->interval_ns / 1e9;
    out->prefix_queries = s->prefix_queries;
    out->prefix_hits = s->prefix_hits;
    out->preemptions = s->preemptions;
}

/* --- life ------------------------------------------------------------------------------------- */

enum st sched_new(struct sched **out, const struct executor *x, const struct sched_config *c,
                  struct err *err) {
    struct sched *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "scheduler: out of memory");
    s->c = *c;
    s->x = x;
    s->expand_cost = x->expand_cost;
    s->n_parts = block_parts(&x->shape);
    s->seqs_now = c->tpot_ns && c->seqs_max > 4 ? 4 : c->seqs_max;
    spec_init(&s->spec, c->speculate);
    uint32_t n = c->seqs_max;
    s->slots = malloc(n * sizeof *s->slots);
    s->step_runs = malloc(n * sizeof *s->step_runs);
    s->step_seqs = malloc(n * sizeof(struct seq *));
    s->chunk_runs = malloc(n * sizeof *s->chunk_runs);
    s->chunk_seqs = malloc(n * sizeof(struct seq *));
    s->copies = malloc(n * sizeof *s->copies);
    s->running = (struct seq_list){.v = malloc(n * sizeof(struct seq *)), .cap = n};
    enum st st = ST_OK;
    if (!s->slots || !s->step_runs || !s->step_seqs || !s->chunk_runs || !s->chunk_seqs ||
        !s->copies || !s->running.v)
        st = err_set(err, ST_NO_MEMORY, "scheduler: out of memory for %u sequences", n);
    if (!st) st = pages_init(&s->pages, x->n_pages, x->generations, err);
    if (st) {
        sched_free(s);
        return st;
    }
    for (uint32_t i = 0; i < n; i++) s->slots[s->n_slots++] = n - 1 - i;
    *out = s;
    return ST_OK;
}

void sched_free(struct sched *s) {
    if (!s) return;
    assert(s->waiting.len + seated(s) + s->n_following == 0);
    free(s->waiting.v);
    free(s->running.v);
    free(s->slots);
    free(s->step_runs);
    free(s->step_seqs);
    free(s->chunk_runs);
    free(s->chunk_seqs);
    free(s->copies);
    pages_release(&s->pages);
    free(s);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sched.h: who waits and who runs, two lists in the order of rank (priority, wave, length),
 * and with which pages. Everything that could differ between two machines (time aside) follows from
 * them. */
#include "engine/sched_impl.h"

#include <assert.h>
#include <stdlib.h>

/* --- lists ------------------------------------------------------------------------------------ */

static bool before(const struct seq *a, const struct seq *b) {
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->wave != b->wave) return a->wave < b->wave;
    if (a->n_given != b->n_given) return a->n_given < b->n_given;
    return a->order < b->order;
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

void sched_keys(struct seq *q) {
    uint32_t n = seq_len(q) / KV_PAGE_TOKENS + 1;
    if (q->n_keys == 0) block_key_root(&q->keys[q->n_keys++], q->r);
    for (; q->n_keys < n; q->n_keys++)
        block_key_next(&q->keys[q->n_keys], &q->keys[q->n_keys - 1], q->r, q->choice,
                       q->n_keys - 1);
}

uint32_t sched_find_block(const struct sched *s, const struct seq *q, uint32_t block) {
    return may_be_found(q, block) ? pages_find(&s->pages, &q->keys[block + 1]) : PAGES_NONE;
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

void sched_preempt(struct sched *s, struct seq *q, uint64_t now_ns) {
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
                      .wave = s->n_waves,
                      .n_given = request_len(r, choice),
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
    sched_keys(q);
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

void sched_settle_fetches(struct sched *s) {
    for (uint32_t i = 0; i < s->running.len; i++)
        if (s->running.v[i]->gate) settle_fetch(s, s->running.v[i]);
}

bool sched_fetch_failed(const struct seq *q) {
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
    sched_keys(q);
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
    sched_keys(q);
    while (hits < pages_for(seq_len(q)) && sched_find_block(s, q, hits) != PAGES_NONE) hits++;
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

void sched_admit_waiting(struct sched *s, uint64_t now_ns) {
    raise_starving(&s->waiting, now_ns);
    raise_starving(&s->running, now_ns);
    while (s->waiting.len > 0 && seated(s) < s->seqs_now && s->n_slots > 0) {
        struct seq *q = s->waiting.v[0];
        /* running lists are as long as there are slots */
        if (!admit(s, q, now_ns)) return;
        list_remove(&s->waiting, q);
    }
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

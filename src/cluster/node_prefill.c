/* SPDX-License-Identifier: Apache-2.0 */
/* A flight on its prefill worker: the pool is asked for its beginning, the engine computes the rest
 * and draws the next tokens, and the pages are lent until the decode worker has copied them, died,
 * or let its lease run out. */
#include <assert.h>
#include <stdlib.h>

#include "cluster/node_impl.h"

/* --- the board -------------------------------------------------------------------------------- */

static uint8_t *entry_of(const struct node *n, uint32_t entry) {
    return n->board + proto_entry_at(entry, n->entry_bytes);
}

static _Atomic uint64_t *entry_flight(const struct node *n, uint32_t entry) {
    return (_Atomic uint64_t *)(void *)entry_of(n, entry);
}

static _Atomic uint32_t *entry_rows(const struct node *n, uint32_t entry) {
    return (_Atomic uint32_t *)(void *)(entry_of(n, entry) + sizeof(uint64_t));
}

static bool take_entry(struct flight *f) {
    struct node *n = f->node;
    if (f->entry != BOARD_NONE) return true;
    if (n->n_free == 0) return false;
    f->entry = n->entries[--n->n_free];
    for (uint32_t i = 0; i < block_parts(&n->x->shape); i++)
        atomic_store_explicit(&entry_rows(n, f->entry)[i], 0, memory_order_relaxed);
    atomic_store_explicit(entry_flight(n, f->entry), f->id, memory_order_release);
    return true;
}

static void drop_entry(struct flight *f) {
    struct node *n = f->node;
    if (f->entry == BOARD_NONE) return;
    atomic_store_explicit(entry_flight(n, f->entry), 0, memory_order_relaxed);
    /* whoever sees what comes next in the entry sees that it is another's */
    __sync_synchronize(); /* a fence that TSan takes */
    n->entries[n->n_free++] = f->entry;
    f->entry = BOARD_NONE;
}

/* --- telling the other side ------------------------------------------------------------------- */

static void put_table(struct node *n, struct wire_out *w, const uint32_t *pages, uint32_t n_pages) {
    wire_put_u32(w, n_pages);
    for (uint32_t i = 0; i < n_pages; i++) {
        wire_put_u32(w, pages[i]);
        wire_put_u64(w, atomic_load_explicit(&n->x->generations[pages[i]], memory_order_relaxed));
    }
}

static void tell_handed(struct flight *f) {
    struct node *n = f->node;
    if (f->handed || f->entry == BOARD_NONE) return;
    const struct node_peer *p = node_peer_ready(n, f->other, f->other_epoch);
    if (!p) return;
    struct wire_out w = node_begin(n, PROTO_HANDED);
    wire_put_u64(&w, f->id);
    wire_put_u32(&w, f->entry);
    wire_put_u32(&w, f->loan->n_rows);
    put_table(n, &w, f->loan->pages, f->loan->n_pages);
    node_send_peer(n, p->peer, &w);
    f->handed = true;
}

/* --- the engine's sink ------------------------------------------------------------------------ */

static void on_done(void *ctx, const struct err *err) {
    struct flight *f = ctx;
    if (f->stage == FLIGHT_LENT) return;
    if (!f->closing) {
        if (err)
            node_fail(f->node, f->id, err->code, err->text);
        else
            node_tell(f->node, PROTO_LENT, f->id); /* nothing is left to hand over */
    }
    flight_over(f);
}

static _Atomic uint32_t *on_rows(void *ctx, const uint32_t *pages, uint32_t n_pages, uint32_t from,
                                 uint32_t n_rows) {
    struct flight *f = ctx;
    struct node *n = f->node;
    const struct node_peer *p = node_peer_ready(n, f->other, f->other_epoch);
    uint32_t blocks = (from + n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    if (!p || !take_entry(f)) return NULL; /* then it is told when all is computed */
    assert(blocks <= n_pages);
    /* less than was told before: it was preempted, and these are other pages */
    _Atomic uint32_t *rows = entry_rows(n, f->entry);
    for (uint32_t i = 0; i < block_parts(&n->x->shape); i++)
        if (atomic_load_explicit(&rows[i], memory_order_relaxed) > from)
            atomic_store_explicit(&rows[i], from, memory_order_release);
    struct wire_out w = node_begin(n, PROTO_ROWS);
    wire_put_u64(&w, f->id);
    wire_put_u32(&w, f->entry);
    put_table(n, &w, pages, blocks);
    node_send_peer(n, p->peer, &w);
    return rows;
}

static void on_lend(void *ctx, struct engine_loan *loan, const void *slot) {
    struct flight *f = ctx;
    struct node *n = f->node;
    f->stage = FLIGHT_LENT;
    f->loan = loan;
    f->lease_ns = node_now(n) + n->lease_ns;
    n->stats.loans++;
    if (f->closing) return; /* cancelled while its last piece was computed */
    if (!take_entry(f)) {
        f->lease_ns = 0; /* at once */
        return;
    }
    if (n->x->slot_bytes)
        bus_copy(entry_of(n, f->entry) + proto_entry_state_at(block_parts(&n->x->shape)), slot,
                 n->x->slot_bytes);
    node_tell(n, PROTO_LENT, f->id);
    tell_handed(f);
}

static const struct block_gate *on_fetch(void *ctx, uint32_t first, uint32_t n_blocks,
                                         const uint32_t *pages) {
    struct flight *f = ctx;
    assert(!f->fetch || pool_fetch_over(f->fetch));
    pool_fetch_free(f->fetch); /* it failed, and this is for fewer */
    f->fetch = pool_fetch_begin(f->node->pool, f->lookup, first, n_blocks, pages, &f->gate);
    return f->fetch ? &f->gate : NULL;
}

static bool on_fetched(void *ctx) {
    const struct flight *f = ctx;
    return pool_fetch_over(f->fetch);
}

/* --- its way ---------------------------------------------------------------------------------- */

/* The pool is asked for all whole blocks but the one with the last token, which must be computed. */
static void ask_pool(struct flight *f) {
    uint32_t choice = 0;
    while (choice < f->r.n_choices && f->r.choices[choice].finish) choice++;
    if (choice == f->r.n_choices || f->r.prompt_logprobs >= 0 || f->r.n_prompt == 0) return;
    uint32_t n = (request_len(&f->r, choice) - 1) / KV_PAGE_TOKENS;
    struct pool_key *keys = n ? malloc(n * sizeof *keys) : NULL;
    if (!keys) return;
    struct block_key key;
    block_key_root(&key, &f->r);
    for (uint32_t b = 0; b < n; b++) {
        block_key_next(&key, &key, &f->r, choice, b);
        memcpy(keys[b].bytes, key.bytes, sizeof key.bytes);
    }
    f->lookup = pool_lookup_begin(f->node->pool, flight_namespace(f), keys, n);
    free(keys);
}

void prefill_begin(struct node *n, struct wire_in *r) {
    uint64_t id = wire_get_u64(r);
    struct flight *f = flight_new(n, id, FLIGHT_LOOKUP);
    if (!f) return;
    wire_get_text(r, f->other, sizeof f->other);
    f->other_epoch = wire_get_u64(r);
    if (!flight_read_record(f, r)) return;
    ask_pool(f);
    prefill_step(f, node_now(n));
}

static void compute(struct flight *f, uint32_t n_found) {
    static const struct engine_sink sink = {.token = node_on_token,
                                            .done = on_done,
                                            .rows = on_rows,
                                            .lend = on_lend,
                                            .fetch = on_fetch,
                                            .fetched = on_fetched,
                                            .block = node_on_block};
    struct node *n = f->node;
    struct engine_how how = {.prefill = true, .n_to_find = n_found};
    struct err err;
    f->stage = FLIGHT_COMPUTED;
    if (engine_add_how(n->engine, &f->r, &how, &sink, f, n->x->now(n->x->ctx), &err) == ST_OK)
        return;
    node_fail(n, f->id, err.code, err.text);
    flight_over(f);
}

static void give_back(struct flight *f) {
    engine_return(f->node->engine, f->loan);
    f->loan = NULL;
    f->node->stats.loans_returned++;
    flight_over(f);
}

void prefill_step(struct flight *f, uint64_t now_ns) {
    struct node *n = f->node;
    uint32_t n_found = 0;
    if (f->closing && f->stage == FLIGHT_LENT) {
        give_back(f);
    } else if (f->closing) {
        if (!f->fetch || pool_fetch_over(f->fetch))
            engine_cancel(n->engine, &f->r, ENGINE_CANCEL_LEFT);
    } else if (f->stage == FLIGHT_LOOKUP) {
        if (!f->lookup || pool_lookup_over(f->lookup, &n_found)) compute(f, n_found);
    } else if (f->stage == FLIGHT_LENT) {
        tell_handed(f);
        if (now_ns < f->lease_ns) return;
        n->stats.loans_expired++;
        node_fail(n, f->id, ST_TIMEOUT, "its pages were lent for too long");
        give_back(f);
    }
}

void prefill_close(struct flight *f) {
    switch (f->stage) {
    case FLIGHT_LOOKUP: flight_over(f); break;
    case FLIGHT_COMPUTED:
        f->closing = true;
        if (f->fetch) pool_fetch_cancel(f->fetch);
        prefill_step(f, 0);
        break;
    case FLIGHT_LENT: give_back(f); break;
    case FLIGHT_RESERVED:
    case FLIGHT_DECODED:
    case FLIGHT_OVER: break;
    }
}

void prefill_taken(struct node *n, const struct node_peer *p, struct wire_in *r) {
    struct flight *f = flight_find(n, wire_get_u64(r));
    bool its = f && f->stage == FLIGHT_LENT && strcmp(f->other, p->name) == 0;
    if (its)
        give_back(f);
    else
        n->stats.stale++;
}

static void lose_taker(struct flight *f) {
    node_fail(f->node, f->id, ST_GONE, "the worker that takes over is gone");
    give_back(f);
}

void prefill_peer_lost(struct node *n, const char *name, uint64_t epoch_at_most) {
    for (struct flight *f = n->first; f; f = f->next)
        if (f->stage == FLIGHT_LENT && f->other_epoch <= epoch_at_most &&
            strcmp(f->other, name) == 0)
            lose_taker(f);
}

void prefill_forget_dead(struct node *n) {
    for (struct flight *f = n->first; f; f = f->next) {
        const struct member_peer *m = member_find(&n->m, f->other);
        if (f->stage == FLIGHT_LENT && (!m || m->epoch != f->other_epoch)) lose_taker(f);
    }
}

/* flight_over frees what is left. */
void prefill_release(struct flight *f) {
    drop_entry(f);
    pool_fetch_free(f->fetch);
    pool_lookup_free(f->lookup);
}

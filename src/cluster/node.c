/* SPDX-License-Identifier: Apache-2.0 */
/* Implements node.h: life, flights, the router's word. */
#include "cluster/node.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/node_impl.h"

enum {
    MESSAGE_MAX = BUS_MESSAGE_MAX,
    EVENTS_A_STEP = 256, /* taken between two pieces of work */
    ENTRIES_A_SEQ = 4,   /* of the board: requests that are computed or lent */
};
static const uint64_t lease_default_ns = 10000000000, idle_ns = 200000000, flights_ns = 2000000,
                      pool_timeout_ns = 2000000000, itl_span_ns = 2500000000;

uint64_t node_now(const struct node *n) {
    return bus_now(n->o.bus);
}

/* --- messages --------------------------------------------------------------------------------- */

struct wire_out node_begin(struct node *n, enum proto_kind kind) {
    struct wire_out w = {&n->message, ST_OK};
    n->message.len = 0;
    wire_put_u8(&w, (uint8_t)kind);
    return w;
}

static void flush_tokens(struct node *n) {
    if (n->n_tokens == 0) return;
    memcpy(n->tokens.data + 1, &n->n_tokens, sizeof n->n_tokens);
    member_send(&n->m, &n->tokens);
    n->tokens.len = n->n_tokens = 0;
}

static void send_router(struct node *n, const struct wire_out *w) {
    flush_tokens(n);
    if (w->st)
        n->m.broken = true;
    else
        member_send(&n->m, w->buf);
}

void node_tell(struct node *n, enum proto_kind kind, uint64_t flight) {
    struct wire_out w = node_begin(n, kind);
    wire_put_u64(&w, flight);
    send_router(n, &w);
}

void node_fail(struct node *n, uint64_t flight, enum st st, const char *text) {
    struct wire_out w = node_begin(n, PROTO_FAILED);
    wire_put_u64(&w, flight);
    wire_put_u8(&w, (uint8_t)st);
    wire_put_text(&w, text);
    send_router(n, &w);
}

static void put_token(struct flight *f, const struct token_out *t) {
    struct node *n = f->node;
    struct wire_out w = {&n->tokens, ST_OK};
    if (f->closing) return;
    size_t len = n->tokens.len;
    if (n->n_tokens == 0) {
        uint32_t count = 0;
        n->tokens.len = 0;
        wire_put_u8(&w, PROTO_TOKENS);
        wire_put_u32(&w, count);
    }
    wire_put_u64(&w, f->id);
    wire_put_u32(&w, t->choice);
    wire_put_u32(&w, t->position);
    wire_put_u32(&w, t->id);
    wire_put_u32(&w, t->n_cached);
    wire_put_u8(&w, (uint8_t)t->finish);
    wire_put_f32(&w, t->logprob);
    wire_put_u8(&w, (uint8_t)t->n_top);
    wire_put(&w, t->top, t->n_top * sizeof *t->top);
    if (w.st)
        n->tokens.len = len; /* the router misses a position, and starts the flight anew */
    else
        n->n_tokens++;
    if (n->tokens.len > MESSAGE_MAX / 2) flush_tokens(n);
}

bool node_on_token(void *ctx, const struct token_out *t) {
    struct flight *f = ctx;
    put_token(f, t);
    return !(f->unwanted[t->choice / 8] >> t->choice % 8 & 1);
}

/* --- flights ---------------------------------------------------------------------------------- */

struct flight *flight_find(struct node *n, uint64_t id) {
    struct flight *f = n->first;
    while (f && (f->id != id || f->stage == FLIGHT_OVER)) f = f->next;
    return f;
}

struct flight *flight_new(struct node *n, uint64_t id, enum flight_stage stage) {
    struct flight *f = calloc(1, sizeof *f);
    if (!f) {
        node_fail(n, id, ST_NO_MEMORY, "out of memory");
        return NULL;
    }
    f->node = n;
    f->id = id;
    f->stage = stage;
    f->entry = BOARD_NONE;
    f->prev = n->last;
    *(n->last ? &n->last->next : &n->first) = f;
    n->last = f;
    n->n_flights++;
    return f;
}

bool flight_read_record(struct flight *f, struct wire_in *r) {
    struct err err;
    enum st st = r->bad ? err_set(&err, ST_CORRUPT, "message: too short")
                        : request_read(&f->r, r->at, r->left, &err);
    if (!st) f->r.time_left_ms = 0; /* the router's clock counts */
    if (!st) return true;
    /* sent again it would be no better */
    node_fail(f->node, f->id, st == ST_CORRUPT ? ST_INVALID : st, err.text);
    flight_over(f);
    return false;
}

void flight_over(struct flight *f) {
    f->stage = FLIGHT_OVER;
}

static bool decodes(const struct flight *f) {
    return f->stage == FLIGHT_RESERVED || f->stage == FLIGHT_DECODED;
}

void flight_close(struct flight *f) {
    if (f->stage == FLIGHT_OVER || f->closing) return;
    if (decodes(f))
        decode_close(f);
    else
        prefill_close(f);
}

static void free_flight(struct node *n, struct flight *f) {
    *(f->prev ? &f->prev->next : &n->first) = f->next;
    *(f->next ? &f->next->prev : &n->last) = f->prev;
    n->n_flights--;
    prefill_release(f);
    request_release(&f->r);
    free(f->first);
    free(f);
}

static void step_flights(struct node *n, uint64_t now_ns) {
    for (struct flight *f = n->first, *next; f; f = next) {
        next = f->next;
        if (decodes(f))
            decode_step(f, now_ns);
        else if (f->stage != FLIGHT_OVER)
            prefill_step(f, now_ns);
        if (f->stage == FLIGHT_OVER && (!f->fetch || pool_fetch_over(f->fetch))) free_flight(n, f);
    }
}

/* The epoch is over: nobody waits for any of it. */
static void drop_all(struct node *n) {
    for (struct flight *f = n->first; f; f = f->next) flight_close(f);
    n->n_tokens = 0;
    n->tokens.len = 0;
}

static void offer_over(void *ctx, uint32_t page) {
    struct node *n = ctx;
    n->n_kept--;
    if (n->engine) engine_unkeep(n->engine, page);
}

void flights_renew(struct node *n, struct wire_in *r, enum flight_stage stage, const char *other) {
    uint32_t count = wire_get_count(r, sizeof(uint64_t));
    for (uint32_t i = 0; i < count; i++) {
        struct flight *f = flight_find(n, wire_get_u64(r));
        if (f && f->stage == stage && (!other || strcmp(f->other, other) == 0))
            f->lease_ns = node_now(n) + n->lease_ns;
    }
}

const char *flight_namespace(const struct flight *f) {
    return f->r.tenant[0] ? f->r.tenant : "default";
}

void node_on_block(void *ctx, const struct block_key *key, uint32_t page) {
    struct flight *f = ctx;
    struct node *n = f->node;
    struct pool_key k;
    memcpy(k.bytes, key->bytes, sizeof k.bytes);
    if (!pool_offer(n->pool, flight_namespace(f), &k, page, offer_over, n)) return;
    n->n_kept++;
    engine_keep(n->engine, page);
}

/* --- the router's word ------------------------------------------------------------------------ */

/* The list changed: who is not in it any more is dead, whatever its connection says. */
static void take_members(struct node *n) {
    for (struct node_peer *p = n->peers, *next; p; p = next) {
        next = p->next;
        /* one that came again says so itself, over the same connection or a new one */
        if (p->epoch && !member_find(&n->m, p->name)) node_peer_close(n, p);
    }
    prefill_forget_dead(n);
    n->connect_at_ns = 0;
    for (uint32_t i = 0; i < n->n_servers; i++)
        if (!member_find(&n->m, n->servers[i])) pool_client_server_gone(n->pool, n->servers[i]);
    n->n_servers = 0;
    for (uint32_t i = 0; i < n->m.n_peers; i++) {
        const struct member_peer *m = &n->m.peers[i];
        if (m->role != ROLE_OF_POOL) continue;
        memcpy(n->servers[n->n_servers++], m->name, sizeof m->name);
        pool_client_server(n->pool, m->name, m->address, m->epoch);
    }
}

static void say_leave(struct node *n) {
    struct wire_out w = node_begin(n, PROTO_LEAVE);
    send_router(n, &w);
}

static void joined(struct node *n) {
    drop_all(n);
    atomic_store_explicit((_Atomic uint64_t *)(void *)n->board, n->m.epoch, memory_order_release);
    for (const struct node_peer *p = n->peers; p; p = p->next) node_say_hello(n, p);
    if (n->wants_leave) say_leave(n);
}

static void lost(struct node *n) {
    atomic_store_explicit((_Atomic uint64_t *)(void *)n->board, 0, memory_order_release);
    drop_all(n);
    if (n->wants_leave) n->leaving = true; /* nobody is there to be told */
}

static void unwant(struct node *n, struct wire_in *r) {
    struct flight *f = flight_find(n, wire_get_u64(r));
    uint32_t choice = wire_get_u32(r);
    if (f && !r->bad && choice < f->r.n_choices)
        f->unwanted[choice / 8] |= (uint8_t)(1u << choice % 8);
}

static void set_role(struct node *n, struct wire_in *r) {
    uint8_t role = wire_get_u8(r);
    if (wire_get_end(r) && role < ROLE_OF_POOL) n->m.o.role = (enum member_role)role;
}

static void router_message(struct node *n, const struct bus_event *ev) {
    struct wire_in r = {.at = ev->data, .left = ev->len};
    switch (wire_get_u8(&r)) {
    case PROTO_RESERVE: decode_reserve(n, &r); break;
    case PROTO_PREFILL: prefill_begin(n, &r); break;
    case PROTO_GO: decode_go(n, &r); break;
    case PROTO_CANCEL: {
        struct flight *f = flight_find(n, wire_get_u64(&r));
        if (f) flight_close(f);
        break;
    }
    case PROTO_DROP: unwant(n, &r); break;
    case PROTO_RENEW: flights_renew(n, &r, FLIGHT_RESERVED, NULL); break;
    case PROTO_DRAIN: n->leaving = true; break;
    case PROTO_ROLE: set_role(n, &r); break;
    default: n->stats.stale++; break;
    }
}

static void take_event(struct node *n, uint64_t now_ns, const struct bus_event *ev) {
    if (pool_client_event(n->pool, ev)) return;
    switch (member_event(&n->m, now_ns, ev)) {
    case MEMBER_NOT_ITS: node_peer_event(n, ev); break;
    case MEMBER_NOTHING: break;
    case MEMBER_JOINED: joined(n); break;
    case MEMBER_LOST: lost(n); break;
    case MEMBER_REFUSED: n->refused = true; break;
    case MEMBER_PEERS: take_members(n); break;
    case MEMBER_MESSAGE: router_message(n, ev); break;
    }
}

/* --- load ------------------------------------------------------------------------------------- */

static uint32_t lately_us(const struct node *n, const struct histogram *h, double q) {
    return (uint32_t)(histogram_window_quantile(&n->itl, h, q) * 1e6);
}

static void fill_load(struct node *n, struct member_load *l) {
    const struct engine_stats *e = engine_stats(n->engine);
    const struct pool_client_stats *p = pool_client_stats(n->pool);
    struct puller_stats u;
    puller_stats(n->puller, &u);
    histogram_window_move(&n->itl, &e->itl, bus_now(n->o.bus), itl_span_ns);
    *l = (struct member_load){.running = e->running,
                              .waiting = e->waiting,
                              .pages = e->pages,
                              .pages_used = e->pages_used,
                              .pages_cached = e->pages_cached,
                              .reserved = e->reserved,
                              .prompt_tokens = e->prefix_queries,
                              .prompt_cached = e->prefix_hits,
                              .prompt_from_pool = p->blocks_fetched * KV_PAGE_TOKENS,
                              .computed_tokens = e->prompt_tokens_computed,
                              .generated_tokens = e->generation_tokens,
                              .pulled_bytes = u.bytes,
                              .pulls = u.pulls,
                              .pulls_failed = u.failed,
                              .pool_bad = p->blocks_bad,
                              .tpot_us_p50 = lately_us(n, &e->itl, 0.5),
                              .tpot_us_p99 = lately_us(n, &e->itl, 0.99)};
    for (const struct flight *f = n->first; f; f = f->next) l->lent += f->stage == FLIGHT_LENT;
}

static void tell_load(struct node *n) {
    struct member_load load;
    struct wire_out w = node_begin(n, PROTO_LOAD);
    fill_load(n, &load);
    proto_put_load(&w, &load);
    send_router(n, &w);
}

void node_stats(struct node *n, struct node_stats *out) {
    struct puller_stats u;
    puller_stats(n->puller, &u);
    fill_load(n, &n->stats.load);
    n->stats.engine = *engine_stats(n->engine);
    n->stats.pool = *pool_client_stats(n->pool);
    n->stats.pulls = u.pulls;
    n->stats.pulls_failed = u.failed;
    n->stats.pulled_bytes = u.bytes;
    n->stats.decode_waits = u.waits;
    uint32_t used = n->stats.load.pages_used;
    n->stats.pages_leaked = n->n_flights == 0 && used > n->n_kept ? used - n->n_kept : 0;
    *out = n->stats;
}

/* --- a step ----------------------------------------------------------------------------------- */

/* Connections over which a message was lost. */
static void drop_broken(struct node *n, uint64_t now_ns) {
    for (struct node_peer *p = n->peers, *next; p; p = next) {
        next = p->next;
        if (p->broken) node_peer_close(n, p);
    }
    if (n->m.broken && member_drop(&n->m, now_ns) == MEMBER_LOST) lost(n);
}

uint64_t node_step(struct node *n) {
    struct bus_event ev;
    uint64_t now = node_now(n);
    for (uint32_t i = 0; i < EVENTS_A_STEP && bus_next(n->o.bus, &ev); i++) take_event(n, now, &ev);
    if (n->refused) return UINT64_MAX;
    drop_broken(n, now);
    uint64_t due = member_step(&n->m, now);
    node_connect_peers(n, now);
    pool_client_step(n->pool, now);
    step_flights(n, now);
    if (member_load_due(&n->m, now)) tell_load(n);
    bool worked = engine_step(n->engine);
    flush_tokens(n);
    if (worked) return 0;
    /* what nobody wakes us for: leases, fetches that end */
    uint64_t soon = now + (n->n_flights ? flights_ns : idle_ns);
    return due < soon ? due : soon;
}

bool node_copy(struct node *n) {
    bool any = puller_copy(n->puller);
    return pool_client_copy(n->pool) || any;
}

enum node_state node_state(const struct node *n) {
    if (n->refused) return NODE_REFUSED;
    if (n->leaving && n->n_flights == 0) return NODE_LEFT;
    return n->m.stage == MEMBER_IN ? NODE_READY : NODE_JOINING;
}

const char *node_why(const struct node *n) {
    return n->m.why;
}

enum member_role node_role(const struct node *n) {
    return n->m.o.role;
}

uint64_t node_epoch(const struct node *n) {
    return n->m.epoch;
}

void node_drain(struct node *n) {
    if (n->m.stage != MEMBER_IN) {
        n->leaving = true; /* nobody knows of us */
        return;
    }
    n->wants_leave = true;
    say_leave(n);
}

/* --- life ------------------------------------------------------------------------------------- */

static enum st make_board(struct node *n, struct err *err) {
    void *memory;
    n->entry_bytes = proto_entry_bytes(block_parts(&n->x->shape), n->x->slot_bytes);
    n->n_entries = n->o.engine.max_num_seqs * ENTRIES_A_SEQ;
    n->entries = malloc(n->n_entries * sizeof *n->entries);
    if (!n->entries) return err_set(err, ST_NO_MEMORY, "node: out of memory");
    for (uint32_t i = 0; i < n->n_entries; i++) n->entries[n->n_free++] = n->n_entries - 1 - i;
    enum st st = bus_segment_new(n->o.bus, proto_entry_at(n->n_entries, n->entry_bytes),
                                 BUS_PEERS_READ, &n->board_segment, &memory, err);
    if (!st) n->board = memory;
    return st;
}

static enum st init(struct node *n, struct err *err) {
    const struct executor *x = n->x;
    enum st st = engine_new(&n->engine, x, &n->o.engine, err);
    if (!st) st = make_board(n, err);
    if (!st)
        st = puller_new(&n->puller, n->o.bus, &x->shape, x->memory, x->n_pages + 1, x->slot_bytes,
                        n->o.look_ns, err);
    struct pool_client_options pool = {.bus = n->o.bus,
                                       .name = n->o.name,
                                       .shape = x->shape,
                                       .n_pages = x->n_pages + 1,
                                       .memory = x->memory,
                                       .segment = n->o.memory,
                                       .timeout_ns = pool_timeout_ns,
                                       .offers_max = n->o.offers_max};
    if (!st) st = pool_client_new(&n->pool, &pool, err);
    return st;
}

enum st node_new(struct node **out, const struct node_options *o, struct err *err) {
    struct node *n = calloc(1, sizeof *n);
    if (!n) return err_set(err, ST_NO_MEMORY, "node: out of memory");
    assert(o->executor->generations);
    *n = (struct node){.o = *o,
                       .x = o->executor,
                       .lease_ns = o->lease_ns ? o->lease_ns : lease_default_ns,
                       .tokens = {.max = MESSAGE_MAX},
                       .message = {.max = MESSAGE_MAX}};
    struct member_options m = {.bus = o->bus,
                               .name = o->name,
                               .address = o->address,
                               .router = o->router,
                               .role = o->role,
                               .pid = o->pid,
                               .max_model_len = o->executor->max_model_len,
                               .shape = o->executor->shape};
    member_init(&n->m, &m);
    enum st st = init(n, err);
    if (st)
        node_free(n);
    else
        *out = n;
    return st;
}

void node_free(struct node *n) {
    if (!n) return;
    struct flight *first = n->first;
    while (n->peers) node_peer_close(n, n->peers);
    for (struct flight *f = first; f; f = f->next) {
        const void *state;
        bool ok;
        if (f->pull && pull_over(f->pull, &ok, &state)) pull_free(f->pull);
    }
    puller_free(n->puller); /* the other pulls are gone with it */
    if (n->pool) pool_client_stop(n->pool);
    if (n->engine) engine_free(n->engine);
    n->engine = NULL;
    for (struct flight *f = first, *next; f; f = next) {
        next = f->next;
        if (f->loan) free((void *)(uintptr_t)f->loan->pages);
        free(f->loan);
        free_flight(n, f);
    }
    pool_client_free(n->pool);
    if (n->board) bus_segment_free(n->o.bus, n->board_segment);
    free(n->entries);
    buf_release(&n->tokens);
    buf_release(&n->message);
    free(n);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One real worker, whose router and whose other worker are played by the test. Included after cmocka. */
#ifndef SUPERNODE_TESTS_CLUSTER_NODE_TEST_H
#define SUPERNODE_TESTS_CLUSTER_NODE_TEST_H

#include "../engine/lending.h"
#include "cluster/node.h"
#include "played.h"

enum { PAGES = 20, EPOCH = 10, OTHER_EPOCH = 20, ENTRY = 1, ENTRIES = 4 };
static const uint64_t ms = 1000000, lease_ns = 400000000;

struct world {
    struct sim_net *net;
    struct played router, other;
    uint8_t *pages, *board; /* the other's memory */
    struct bus *bus;        /* the node's, and all the rest */
    struct standin x;
    struct node *n;
    uint64_t busy_ns;
    struct node_stats stats;
};

static inline void go_on(struct world *w, uint64_t ns) {
    for (uint64_t end = sim_net_now(w->net) + ns;;) {
        uint64_t now = sim_net_now(w->net);
        while (node_copy(w->n)) continue;
        if (now >= w->busy_ns) {
            w->x.now_ns = now;
            (void)node_step(w->n);
            w->busy_ns = w->x.now_ns;
        }
        played_step(&w->router);
        played_step(&w->other);
        if (now >= end) return;
        sim_net_advance(w->net, now + ms / 10);
    }
}

/* Long enough for what was said to be answered, where nothing is computed. */
static inline void settle(struct world *w) {
    go_on(w, 3 * ms);
}

static inline const struct node_stats *stats(struct world *w) {
    node_stats(w->n, &w->stats);
    return &w->stats;
}

static inline uint32_t held(struct world *w) {
    return stats(w)->load.pages_used;
}

static inline void begin_node(struct world *w, enum member_role role) {
    struct err err;
    void *memory;
    bus_id segment;
    struct bus_identity who = {
        .name = "w0", .hello = {PROTO_PEER_WORKER}, .hello_len = 1, .model_id = "stand-in"};
    assert_int_equal(sim_bus_new(&w->bus, w->net, "w0", &who, &err), ST_OK);
    assert_int_equal(
        bus_segment_new(w->bus, standin_bytes(PAGES), BUS_PEERS_READ, &segment, &memory, &err),
        ST_OK);
    struct standin_options x = {.n_pages = PAGES,
                                .n_slots = SEQS,
                                .max_model_len = MODEL_LEN,
                                .rows_max = SEQS * 3 + EXECUTOR_RIDE_ROWS,
                                .vocab = VOCAB,
                                .step_ns = ms,
                                .row_ns = 20000,
                                .memory = memory};
    assert_int_equal(standin_init(&w->x, &x, &err), ST_OK);
    struct node_options o = {.bus = w->bus,
                             .executor = &w->x.x,
                             .memory = segment,
                             .engine = {.max_num_seqs = SEQS,
                                        .max_num_batched_tokens = EXECUTOR_CHUNK_MIN,
                                        .speculate = SPECULATE_OFF},
                             .name = "w0",
                             .address = "w0",
                             .router = "router",
                             .role = role,
                             .lease_ns = lease_ns};
    assert_int_equal(node_new(&w->n, &o, &err), ST_OK);
}

/* --- the router ------------------------------------------------------------------------------- */

/* other: the other's epoch; 0: it is no member. */
static inline void say_members(struct world *w, uint64_t other) {
    struct wire_out o = played_say(&w->router, PROTO_VIEW);
    wire_put_u64(&o, OTHER_EPOCH);
    wire_put_u32(&o, other ? 1 : 0);
    if (other) {
        wire_put_text(&o, "other");
        wire_put_text(&o, "other");
        wire_put_u8(&o, ROLE_OF_DECODE);
        wire_put_u64(&o, other);
    }
    played_send(&w->router, &o);
}

static inline void take_in(struct world *w, uint64_t epoch) {
    (void)played_take(&w->router, PROTO_JOIN);
    struct wire_out o = played_say(&w->router, PROTO_JOINED);
    wire_put_u64(&o, epoch);
    proto_put_shape(&o, &w->x.x.shape);
    played_send(&w->router, &o);
    say_members(w, OTHER_EPOCH);
    settle(w);
    assert_int_equal(node_state(w->n), NODE_READY);
    assert_true(node_epoch(w->n) == epoch);
}

static inline void router_tells(struct world *w, enum proto_kind kind, uint64_t flight) {
    played_tell(&w->router, kind, flight);
    settle(w);
}

/* RESERVE, or, with the other's epoch, PREFILL. */
static inline void say_record(struct world *w, enum proto_kind kind, uint64_t flight,
                              uint64_t other_epoch, const struct request *r) {
    struct wire_out o = played_say(&w->router, kind);
    wire_put_u64(&o, flight);
    if (kind == PROTO_PREFILL) {
        wire_put_text(&o, "other");
        wire_put_u64(&o, other_epoch);
    }
    assert_int_equal(request_write(o.buf, r), ST_OK);
    played_send(&w->router, &o);
    settle(w);
}

static inline void say_renew(struct world *w, struct played *p, uint64_t flight) {
    struct wire_out o = played_say(p, PROTO_RENEW);
    wire_put_u32(&o, 1);
    wire_put_u64(&o, flight);
    played_send(p, &o);
    settle(w);
}

static inline void hears_failed(struct played *router, uint64_t flight, enum st st,
                                const char *part) {
    char text[256];
    struct wire_in r = played_take(router, PROTO_FAILED);
    assert_true(wire_get_u64(&r) == flight);
    assert_int_equal(wire_get_u8(&r), st);
    wire_get_text(&r, text, sizeof text);
    assert_true(wire_get_end(&r));
    if (!strstr(text, part)) fail_msg("'%s', expected '%s'", text, part);
}

/* All tokens that wait, of one flight; nothing else is taken. */
static inline void hears_tokens(struct world *w, uint64_t flight, struct job *j) {
    struct played *p = &w->router;
    while (p->n_in > 0 && p->in[0].data[0] == PROTO_TOKENS) {
        struct wire_in r = played_take(p, PROTO_TOKENS);
        for (uint32_t n = wire_get_u32(&r); n > 0; n--) {
            struct token_out t = {0};
            assert_true(wire_get_u64(&r) == flight);
            t.choice = wire_get_u32(&r);
            t.position = wire_get_u32(&r);
            t.id = wire_get_u32(&r);
            t.n_cached = wire_get_u32(&r);
            t.finish = (enum finish_reason)wire_get_u8(&r);
            t.logprob = wire_get_f32(&r);
            assert_int_equal(wire_get_u8(&r), 0);
            assert_false(r.bad);
            (void)job_token(j, &t);
            j->a.r.choices[t.choice].finish = t.finish;
        }
        assert_true(wire_get_end(&r));
    }
}

/* --- the other worker ------------------------------------------------------------------------- */

static inline void say_hello(struct world *w, const char *name, uint64_t epoch,
                             const struct block_shape *shape) {
    struct wire_out o = played_say(&w->other, PROTO_HELLO);
    wire_put_text(&o, name);
    wire_put_u64(&o, epoch);
    proto_put_shape(&o, shape);
    wire_put_u32(&o, PAGES + 1);
    wire_put_u32(&o, proto_entry_bytes(PARTS, sizeof(uint64_t)));
    played_send(&w->other, &o);
    settle(w);
}

/* It is up, shares its memory, and was greeted. */
static inline void meet_other(struct world *w) {
    struct err err;
    bus_id pages, board;
    void *memory;
    uint64_t epoch = OTHER_EPOCH;
    char name[BUS_NAME_BYTES];
    played_begin(&w->other, w->net, "other", PROTO_PEER_WORKER);
    w->other.deaf = UINT64_C(1) << PROTO_ROWS | UINT64_C(1) << PROTO_RENEW;
    assert_int_equal(
        bus_segment_new(w->other.bus, standin_bytes(PAGES), BUS_PEERS_READ, &pages, &memory, &err),
        ST_OK);
    w->pages = memory;
    assert_int_equal(
        bus_segment_new(w->other.bus,
                        proto_entry_at(ENTRIES, proto_entry_bytes(PARTS, sizeof(uint64_t))),
                        BUS_PEERS_READ, &board, &memory, &err),
        ST_OK);
    w->board = memory;
    memcpy(w->board, &epoch, sizeof epoch);
    (void)bus_connect(w->other.bus, "w0");
    settle(w);
    struct wire_in r = played_take(&w->other, PROTO_HELLO);
    wire_get_text(&r, name, sizeof name);
    assert_string_equal(name, "w0");
    assert_true(wire_get_u64(&r) == EPOCH);
    assert_true(w->other.segments[PROTO_SEGMENT_PAGES] && w->other.segments[PROTO_SEGMENT_BOARD]);
    assert_int_equal(bus_share(w->other.bus, w->other.peer, pages, PROTO_SEGMENT_PAGES), ST_OK);
    assert_int_equal(bus_share(w->other.bus, w->other.peer, board, PROTO_SEGMENT_BOARD), ST_OK);
}

static inline void other_tells(struct world *w, enum proto_kind kind, uint64_t flight) {
    played_tell(&w->other, kind, flight);
    settle(w);
}

/* It has joined, and knows the other. */
static inline void start(struct world *w, enum member_role role) {
    struct err err;
    struct sim_net_options o = {.seed = 1,
                                .delay_ns_min = 1000,
                                .delay_ns_max = 9000,
                                .peer_timeout_ns = 100 * ms,
                                .close_ns = ms};
    *w = (struct world){0};
    assert_int_equal(sim_net_new(&w->net, &o, &err), ST_OK);
    played_begin(&w->router, w->net, "router", PROTO_PEER_ROUTER);
    w->router.deaf = UINT64_C(1) << PROTO_LOAD;
    begin_node(w, role);
    settle(w);
    take_in(w, EPOCH);
    meet_other(w);
    say_hello(w, "other", OTHER_EPOCH, &w->x.x.shape);
}

static inline void stop(struct world *w) {
    assert_int_equal(stats(w)->decode_waits, 0);
    node_free(w->n);
    standin_release(&w->x);
    bus_free(w->bus);
    if (w->other.bus) played_end(&w->other);
    if (w->router.bus) played_end(&w->router);
    sim_net_free(w->net);
}

static inline void other_dies(struct world *w) {
    sim_bus_kill(w->other.bus);
    played_end(&w->other);
    settle(w);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer: what a member may send. The input is cut into messages; its first byte says to whom
 * they go: a router (as a member that joined), a worker as its router, or a worker as another
 * worker. A message begins with its length (u16); flights 1 and 2 are known to whoever gets them.
 * Nothing may crash, hang or leak. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/node.h"
#include "cluster/proto.h"
#include "cluster/router.h"
#include "sim/core/sim_bus.h"
#include "sim/core/standin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGES = 40, SEQS = 4, VOCAB = 64, MODEL_LEN = 1024, MESSAGES = 40 };

static void must(enum st st) {
    if (st) abort();
}

struct world {
    struct sim_net *net;
    struct bus *bus, *other; /* of who is tested; of who talks to it */
    bus_id peer;             /* who is tested, from the other */
    struct standin x;
    struct node *node;
    struct router *router;
    struct request q;
    bool asked;
};

static struct bus_identity identity(const char *name, enum proto_peer kind) {
    struct bus_identity i = {.hello = {(uint8_t)kind}, .hello_len = 1};
    strcpy(i.name, name);
    return i;
}

static bool on_token(void *ctx, const struct token_out *t) {
    (void)ctx;
    return t->id % 7 != 0;
}
static void on_done(void *ctx, const struct err *err) {
    struct world *w = ctx;
    (void)err;
    w->asked = false;
}
static const struct engine_sink sink = {.token = on_token, .done = on_done};

static void send(struct world *w, const void *data, size_t len) {
    if (w->peer && bus_send(w->other, w->peer, data, len)) w->peer = 0;
}

/* Lets both go on for a while; what the other gets is thrown away. */
static void go_on(struct world *w, uint32_t steps) {
    for (uint32_t i = 0; i < steps; i++) {
        struct bus_event ev;
        sim_net_advance(w->net, sim_net_now(w->net) + 300000);
        w->x.now_ns = sim_net_now(w->net);
        if (w->node) (void)node_step(w->node);
        while (w->node && node_copy(w->node)) continue;
        if (w->router) (void)router_step(w->router);
        while (bus_next(w->other, &ev)) {
            if (ev.kind == BUS_UP) w->peer = ev.peer;
            if (ev.kind == BUS_GONE && ev.peer == w->peer) w->peer = 0;
        }
    }
}

static void ask(struct world *w) {
    struct err err;
    struct request *q = &w->q;
    request_release(q);
    *q = (struct request){.version = REQUEST_VERSION,
                          .model_id = "stand-in",
                          .n_prompt = 200,
                          .max_tokens = 8,
                          .logprobs = 1,
                          .prompt_logprobs = -1};
    q->prompt = calloc(q->n_prompt, sizeof *q->prompt);
    q->roles = calloc(1, sizeof *q->roles);
    q->roles[0].len = q->n_prompt;
    q->n_roles = 1;
    must(request_make_choices(q, 3, &err));
    q->choices[0].finish = FINISH_CANCELLED;
}

static void open_router(struct world *w, const struct block_shape *shape) {
    struct bus_identity who = identity("router", PROTO_PEER_ROUTER);
    struct err err;
    must(sim_bus_new(&w->bus, w->net, "router", &who, &err));
    struct router_options o = {
        .bus = w->bus, .model_id = "stand-in", .shape = *shape, .max_model_len = MODEL_LEN};
    must(router_new(&w->router, &o, &err));
    w->peer = bus_connect(w->other, "router");
    go_on(w, 2);
    struct buf b = {.max = 4096};
    struct wire_out m = {&b, ST_OK};
    wire_put_u8(&m, PROTO_JOIN);
    wire_put_text(&m, "member");
    wire_put_text(&m, "member");
    wire_put_u8(&m, ROLE_OF_DECODE);
    wire_put_u64(&m, 3);
    wire_put_u32(&m, 1);
    proto_put_shape(&m, shape);
    wire_put_u32(&m, MODEL_LEN);
    send(w, b.data, b.len);
    buf_release(&b);
    go_on(w, 2);
    ask(w);
    w->asked = router_add(w->router, &w->q, &sink, w, sim_net_now(w->net), &err) == ST_OK;
    go_on(w, 2);
}

static void put_joined(struct world *w, const struct block_shape *shape) {
    struct buf b = {.max = 4096};
    struct wire_out m = {&b, ST_OK};
    wire_put_u8(&m, PROTO_JOINED);
    wire_put_u64(&m, 9);
    proto_put_shape(&m, shape);
    send(w, b.data, b.len);
    buf_release(&b);
}

/* Flights 1 and 2: one to decode, one to prefill. */
static void put_flights(struct world *w) {
    static const enum proto_kind kinds[] = {PROTO_RESERVE, PROTO_PREFILL};
    ask(w);
    for (uint64_t i = 0; i < 2; i++) {
        struct buf b = {.max = 1 << 20};
        struct wire_out m = {&b, ST_OK};
        wire_put_u8(&m, (uint8_t)kinds[i]);
        wire_put_u64(&m, i + 1);
        if (i == 1) wire_put_text(&m, "other");
        if (i == 1) wire_put_u64(&m, 7);
        must(request_write(&b, &w->q));
        send(w, b.data, b.len);
        buf_release(&b);
    }
}

static void hello(struct world *w, const struct block_shape *shape) {
    struct buf b = {.max = 4096};
    struct wire_out m = {&b, ST_OK};
    struct err err;
    bus_id segment;
    void *memory;
    for (uint64_t tag = PROTO_SEGMENT_PAGES; tag <= PROTO_SEGMENT_BOARD; tag++) {
        must(bus_segment_new(w->other, 1 << 16, BUS_PEERS_READ, &segment, &memory, &err));
        (void)!bus_share(w->other, w->peer, segment, tag);
    }
    wire_put_u8(&m, PROTO_HELLO);
    wire_put_text(&m, "other");
    wire_put_u64(&m, 7);
    proto_put_shape(&m, shape);
    wire_put_u32(&m, 20);
    wire_put_u32(&m, proto_entry_bytes(block_parts(shape), w->x.x.slot_bytes));
    send(w, b.data, b.len);
    buf_release(&b);
}

static void open_node(struct world *w, bool as_router) {
    struct bus_identity who = identity("node", PROTO_PEER_WORKER);
    struct err err;
    void *memory;
    bus_id segment;
    must(sim_bus_new(&w->bus, w->net, "node", &who, &err));
    must(bus_segment_new(w->bus, standin_bytes(PAGES), BUS_PEERS_READ, &segment, &memory, &err));
    struct standin_options x = {.n_pages = PAGES,
                                .n_slots = SEQS,
                                .max_model_len = MODEL_LEN,
                                .rows_max = SEQS * 2 + EXECUTOR_RIDE_ROWS,
                                .vocab = VOCAB,
                                .step_ns = 1000,
                                .row_ns = 100,
                                .memory = memory};
    must(standin_init(&w->x, &x, &err));
    struct node_options o = {
        .bus = w->bus,
        .executor = &w->x.x,
        .memory = segment,
        .engine = {.max_num_seqs = SEQS, .max_num_batched_tokens = EXECUTOR_CHUNK_MIN},
        .name = "node",
        .address = "node",
        .router = "router"};
    must(node_new(&w->node, &o, &err));
    go_on(w, 3);
    put_joined(w, &w->x.x.shape);
    go_on(w, 2);
    put_flights(w);
    go_on(w, 2);
    if (as_router) return;
    /* the router stays, and another worker comes over an endpoint of its own */
    struct bus_identity worker = identity("other", PROTO_PEER_WORKER);
    must(sim_bus_new(&w->other, w->net, "other", &worker, &err));
    w->peer = bus_connect(w->other, "node");
    go_on(w, 3);
    hello(w, &w->x.x.shape);
    go_on(w, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct sim_net_options net = {.seed = 1,
                                  .delay_ns_min = 1000,
                                  .delay_ns_max = 2000,
                                  .peer_timeout_ns = UINT64_MAX / 2,
                                  .close_ns = 1000};
    struct world w = {0};
    struct err err;
    if (size < 1) return 0;
    uint32_t who = data[0] % 3;
    struct bus_identity router = identity("router", who ? PROTO_PEER_ROUTER : PROTO_PEER_WORKER);
    must(sim_net_new(&w.net, &net, &err));
    must(sim_bus_new(&w.other, w.net, who ? "router" : "member", &router, &err));
    struct bus *first = w.other;
    struct block_shape shape = {.n_layers = 2, .layer_bytes = 1024};
    if (who)
        open_node(&w, who == 1);
    else
        open_router(&w, &shape);
    data++, size--;
    for (uint32_t i = 0; i < MESSAGES && size >= 2; i++) {
        size_t len = data[0] | (size_t)data[1] << 8;
        data += 2, size -= 2;
        if (len > size) len = size;
        send(&w, data, len);
        data += len, size -= len;
        go_on(&w, 1);
    }
    go_on(&w, 20);
    if (w.asked) router_cancel(w.router, &w.q, ENGINE_CANCEL_LEFT);
    router_free(w.router);
    node_free(w.node);
    if (w.node) standin_release(&w.x);
    bus_free(w.bus);
    if (w.other != first) bus_free(w.other);
    bus_free(first);
    sim_net_free(w.net);
    request_release(&w.q);
    return 0;
}

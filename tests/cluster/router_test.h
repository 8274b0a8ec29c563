/* SPDX-License-Identifier: Apache-2.0 */
/* A real router among members that the test plays. Included after cmocka. */
#ifndef SUPERNODE_TESTS_CLUSTER_ROUTER_TEST_H
#define SUPERNODE_TESTS_CLUSTER_ROUTER_TEST_H

#include "../engine/asked.h"
#include "cluster/router.h"
#include "played.h"

enum { MATES = 6, MODEL_LEN = 2048 };
static const struct block_shape shape = {.n_layers = 2, .layer_bytes = 64, .tail_bytes = 16};
static const uint64_t ms = 1000000;

struct world {
    struct sim_net *net;
    struct bus *bus;
    struct router *r;
    struct played v[MATES];
    uint64_t epochs[MATES];
    struct cluster_view view;
};

/* o: what differs from the defaults. */
static inline void start(struct world *w, const struct router_options *o) {
    struct err err;
    struct sim_net_options net = {.seed = 1,
                                  .delay_ns_min = 1000,
                                  .delay_ns_max = 9000,
                                  .peer_timeout_ns = 100 * ms,
                                  .close_ns = ms};
    struct bus_identity who = {
        .name = "router", .hello = {PROTO_PEER_ROUTER}, .hello_len = 1, .model_id = "stand-in"};
    struct router_options options = *o;
    memset(w, 0, sizeof *w);
    assert_int_equal(sim_net_new(&w->net, &net, &err), ST_OK);
    assert_int_equal(sim_bus_new(&w->bus, w->net, "router", &who, &err), ST_OK);
    options.bus = w->bus;
    options.model_id = "stand-in";
    options.shape = shape;
    options.max_model_len = MODEL_LEN;
    assert_int_equal(router_new(&w->r, &options, &err), ST_OK);
}

static inline void stop(struct world *w) {
    router_free(w->r);
    for (int i = 0; i < MATES; i++)
        if (w->v[i].bus) played_end(&w->v[i]);
    bus_free(w->bus);
    sim_net_free(w->net);
}

static inline void go_on(struct world *w, uint64_t ns) {
    uint64_t end = sim_net_now(w->net) + ns;
    for (;;) {
        uint64_t now = sim_net_now(w->net), at = now + ms / 2;
        (void)router_step(w->r);
        for (int i = 0; i < MATES; i++) played_step(&w->v[i]);
        if (now >= end) break;
        if (sim_net_next(w->net) < at) at = sim_net_next(w->net);
        sim_net_advance(w->net, at < end ? at : end);
    }
}

/* Long enough for what was said to be answered. */
static inline void settle(struct world *w) {
    go_on(w, ms);
}

static inline const struct cluster_view *view(struct world *w) {
    router_view(w->r, &w->view);
    return &w->view;
}

/* --- members ---------------------------------------------------------------------------------- */

static inline struct played *connect_as(struct world *w, const char *name, enum proto_peer kind) {
    struct played *p = w->v;
    while (p->bus) p++;
    assert_true(p < w->v + MATES);
    played_begin(p, w->net, name, kind);
    p->deaf = UINT64_C(1) << PROTO_VIEW | UINT64_C(1) << PROTO_RENEW;
    (void)bus_connect(p->bus, "router");
    settle(w);
    assert_true(p->peer != 0);
    return p;
}

static inline void say_join(struct world *w, struct played *p, const char *name,
                            enum member_role role, uint64_t seen, const struct block_shape *s,
                            uint32_t max_model_len) {
    struct wire_out o = played_say(p, PROTO_JOIN);
    wire_put_text(&o, name);
    wire_put_text(&o, "somewhere");
    wire_put_u8(&o, (uint8_t)role);
    wire_put_u64(&o, seen);
    wire_put_u32(&o, 77);
    proto_put_shape(&o, s);
    wire_put_u32(&o, max_model_len);
    played_send(p, &o);
    settle(w);
}

static inline uint64_t hears_joined(struct played *p) {
    struct wire_in r = played_take(p, PROTO_JOINED);
    return wire_get_u64(&r);
}

static inline struct played *join(struct world *w, const char *name, enum member_role role) {
    struct played *p = connect_as(w, name, PROTO_PEER_WORKER);
    say_join(w, p, name, role, 0, &shape, MODEL_LEN);
    w->epochs[p - w->v] = hears_joined(p);
    return p;
}

/* --- what workers hear and say ---------------------------------------------------------------- */

/* rec, where it is wanted: the record, to be released. */
static inline void read_record(struct wire_in *r, struct request *rec) {
    struct request own;
    struct err err;
    assert_false(r->bad);
    assert_int_equal(request_read(rec ? rec : &own, r->at, r->left, &err), ST_OK);
    if (!rec) request_release(&own);
}

static inline uint64_t hears_reserve(struct played *p, struct request *rec) {
    struct wire_in r = played_take(p, PROTO_RESERVE);
    uint64_t flight = wire_get_u64(&r);
    read_record(&r, rec);
    return flight;
}

static inline uint64_t hears_prefill(struct played *p, char other[BUS_NAME_BYTES], uint64_t *epoch,
                                     struct request *rec) {
    struct wire_in r = played_take(p, PROTO_PREFILL);
    uint64_t flight = wire_get_u64(&r);
    wire_get_text(&r, other, BUS_NAME_BYTES);
    *epoch = wire_get_u64(&r);
    read_record(&r, rec);
    return flight;
}

static inline void says_token(struct world *w, struct played *p, uint64_t flight, uint32_t choice,
                              uint32_t position, uint32_t id, enum finish_reason finish) {
    struct wire_out o = played_say(p, PROTO_TOKENS);
    wire_put_u32(&o, 1);
    wire_put_u64(&o, flight);
    wire_put_u32(&o, choice);
    wire_put_u32(&o, position);
    wire_put_u32(&o, id);
    wire_put_u32(&o, 0);
    wire_put_u8(&o, (uint8_t)finish);
    wire_put_f32(&o, 0);
    wire_put_u8(&o, 0);
    played_send(p, &o);
    settle(w);
}

static inline void says(struct world *w, struct played *p, enum proto_kind kind, uint64_t flight) {
    played_tell(p, kind, flight);
    settle(w);
}

static inline void says_failed(struct world *w, struct played *p, uint64_t flight, enum st st,
                               const char *text) {
    struct wire_out o = played_say(p, PROTO_FAILED);
    wire_put_u64(&o, flight);
    wire_put_u8(&o, (uint8_t)st);
    wire_put_text(&o, text);
    played_send(p, &o);
    settle(w);
}

static inline void dies(struct world *w, struct played *p) {
    sim_bus_kill(p->bus);
    played_end(p);
    go_on(w, 3 * ms);
}

/* --- requests --------------------------------------------------------------------------------- */

static char router_said[512]; /* of the last that failed */

static inline bool router_token(void *ctx, const struct token_out *t) {
    struct asked *a = ctx;
    assert_int_equal(t->position, a->r.n_prompt + a->n_tokens[t->choice]);
    a->got[t->choice][a->n_tokens[t->choice]++].id = t->id;
    return !(t->choice == a->drop_choice && a->n_tokens[t->choice] == a->drop_after);
}

static inline void router_done(void *ctx, const struct err *err) {
    snprintf(router_said, sizeof router_said, "%s", err ? err->text : "");
    on_done(ctx, err);
}

static const struct engine_sink router_sink = {.token = router_token, .done = router_done};

static inline void make(struct asked *a, uint32_t n_prompt, uint32_t max_tokens, uint32_t n) {
    static uint32_t id;
    fill(a, ++id, n_prompt, max_tokens, n);
    for (uint32_t i = 0; i < n_prompt; i++) a->r.prompt[i] = (i + id) % VOCAB;
}

static inline void ask(struct world *w, struct asked *a) {
    struct err err;
    lend(a);
    if (router_add(w->r, &a->lent, &router_sink, a, sim_net_now(w->net), &err))
        fail_msg("%s", err.text);
    settle(w);
}

/* Until it computes at p, with room at d. */
static inline uint64_t until_prefill(struct world *w, struct asked *a, struct played *p,
                                     struct played *d) {
    char other[BUS_NAME_BYTES];
    uint64_t epoch;
    ask(w, a);
    uint64_t flight = hears_reserve(d, NULL);
    says(w, d, PROTO_RESERVED, flight);
    assert_true(hears_prefill(p, other, &epoch, NULL) == flight);
    return flight;
}

/* Until d decodes it, with one token (id 9) for each choice. */
static inline uint64_t until_decode(struct world *w, struct asked *a, struct played *p,
                                    struct played *d) {
    uint64_t flight = until_prefill(w, a, p, d);
    for (uint32_t i = 0; i < a->r.n_choices; i++)
        says_token(w, p, flight, i, a->r.n_prompt, 9, FINISH_NONE);
    says(w, p, PROTO_LENT, flight);
    (void)played_take(d, PROTO_GO);
    return flight;
}

#endif

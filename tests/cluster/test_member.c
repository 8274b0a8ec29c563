/* SPDX-License-Identifier: Apache-2.0 */
/* Joining the router, and staying joined: the member is real, the router is played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/member.h"
#include "played.h"

static const struct block_shape shape = {.n_layers = 2, .layer_bytes = 64, .tail_bytes = 16};
static const uint64_t ms = 1000000;

struct world {
    struct sim_net *net;
    struct bus *bus; /* the member's */
    struct member m;
    struct played router;
    uint32_t news[MEMBER_MESSAGE + 1]; /* how often */
};

static void start(struct world *w, const char *model_id, enum proto_peer router) {
    struct err err;
    struct sim_net_options o = {.seed = 1,
                                .delay_ns_min = 1000,
                                .delay_ns_max = 9000,
                                .peer_timeout_ns = 100 * ms,
                                .close_ns = ms};
    struct bus_identity who = {.name = "d0", .hello = {PROTO_PEER_WORKER}, .hello_len = 1};
    *w = (struct world){0};
    strcpy(who.model_id, model_id);
    assert_int_equal(sim_net_new(&w->net, &o, &err), ST_OK);
    assert_int_equal(sim_bus_new(&w->bus, w->net, "at-d0", &who, &err), ST_OK);
    if (router != PROTO_PEER_CTL) played_begin(&w->router, w->net, "router", router);
    struct member_options m = {.bus = w->bus,
                               .name = "d0",
                               .address = "at-d0",
                               .router = "router",
                               .role = ROLE_OF_DECODE,
                               .pid = 77,
                               .max_model_len = 2048,
                               .shape = shape};
    member_init(&w->m, &m);
}

static void stop(struct world *w) {
    if (w->router.bus) played_end(&w->router);
    bus_free(w->bus);
    sim_net_free(w->net);
}

static void go_on(struct world *w, uint64_t ns) {
    struct bus_event ev;
    for (uint64_t end = sim_net_now(w->net) + ns; sim_net_now(w->net) < end;) {
        uint64_t now = sim_net_now(w->net);
        while (bus_next(w->bus, &ev)) w->news[member_event(&w->m, now, &ev)]++;
        (void)member_step(&w->m, now);
        played_step(&w->router);
        sim_net_advance(w->net, now + ms);
    }
}

static void say_joined(struct world *w, uint64_t epoch) {
    struct wire_out o = played_say(&w->router, PROTO_JOINED);
    wire_put_u64(&o, epoch);
    proto_put_shape(&o, &shape);
    played_send(&w->router, &o);
    go_on(w, 5 * ms);
}

static void join(struct world *w, uint64_t epoch) {
    go_on(w, 5 * ms);
    (void)played_take(&w->router, PROTO_JOIN);
    say_joined(w, epoch);
    assert_int_equal(w->m.stage, MEMBER_IN);
}

/* What it says it has seen, in the JOIN that waits. */
static uint64_t seen(struct world *w) {
    char text[BUS_ADDRESS_BYTES];
    struct wire_in r = played_take(&w->router, PROTO_JOIN);
    wire_get_text(&r, text, sizeof text);
    wire_get_text(&r, text, sizeof text);
    (void)wire_get_u8(&r);
    return wire_get_u64(&r);
}

static void put_peer(struct wire_out *o, const char *name, uint8_t role, uint64_t epoch) {
    wire_put_text(o, name);
    wire_put_text(o, name);
    wire_put_u8(o, role);
    wire_put_u64(o, epoch);
}

static void it_joins_and_then_tells_its_load(void **state) {
    (void)state;
    struct world w;
    char text[BUS_ADDRESS_BYTES];
    struct block_shape s;
    start(&w, "", PROTO_PEER_ROUTER);
    go_on(&w, 5 * ms);
    struct wire_in r = played_take(&w.router, PROTO_JOIN);
    wire_get_text(&r, text, sizeof text);
    assert_string_equal(text, "d0");
    wire_get_text(&r, text, sizeof text);
    assert_string_equal(text, "at-d0");
    assert_int_equal(wire_get_u8(&r), ROLE_OF_DECODE);
    assert_true(wire_get_u64(&r) == 0);
    assert_int_equal(wire_get_u32(&r), 77);
    proto_get_shape(&r, &s);
    assert_memory_equal(&s, &shape, sizeof s);
    assert_int_equal(wire_get_u32(&r), 2048);
    assert_true(wire_get_end(&r));
    assert_false(member_load_due(&w.m, sim_net_now(w.net)));
    say_joined(&w, 5);
    assert_int_equal(w.news[MEMBER_JOINED], 1);
    assert_int_equal(w.m.stage, MEMBER_IN);
    assert_true(w.m.epoch == 5);
    assert_memory_equal(&w.m.shape, &shape, sizeof shape);
    uint64_t now = sim_net_now(w.net);
    assert_true(member_load_due(&w.m, now));
    assert_false(member_load_due(&w.m, now));
    assert_true(member_load_due(&w.m, now + 300 * ms));
    stop(&w);
}

static void it_asks_again_where_nobody_answered(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_CTL); /* no router */
    go_on(&w, 450 * ms);
    assert_int_not_equal(w.m.stage, MEMBER_REFUSED_STAGE);
    assert_int_equal(w.news[MEMBER_REFUSED] + w.news[MEMBER_LOST], 0);
    played_begin(&w.router, w.net, "router", PROTO_PEER_ROUTER);
    go_on(&w, 250 * ms);
    join(&w, 1);
    stop(&w);
}

static void it_is_refused_for_good_by_the_routers_word(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_ROUTER);
    go_on(&w, 5 * ms);
    (void)played_take(&w.router, PROTO_JOIN);
    struct wire_out o = played_say(&w.router, PROTO_REFUSED);
    wire_put_text(&o, "too small");
    played_send(&w.router, &o);
    go_on(&w, 1000 * ms);
    assert_int_equal(w.news[MEMBER_REFUSED], 1);
    assert_int_equal(w.m.stage, MEMBER_REFUSED_STAGE);
    assert_string_equal(w.m.why, "too small");
    assert_true(w.router.peer == 0);
    played_quiet(&w.router); /* it does not come again */
    stop(&w);
}

static void it_is_refused_for_good_where_models_differ(void **state) {
    (void)state;
    struct world w;
    start(&w, "another", PROTO_PEER_ROUTER);
    go_on(&w, 500 * ms);
    assert_int_equal(w.news[MEMBER_REFUSED], 1);
    assert_int_equal(w.m.stage, MEMBER_REFUSED_STAGE);
    assert_non_null(strstr(w.m.why, "another"));
    stop(&w);
}

static void who_is_no_router_is_left(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_WORKER);
    go_on(&w, 50 * ms);
    assert_true(w.router.peer == 0);
    played_quiet(&w.router);
    assert_int_equal(w.m.stage, MEMBER_AWAY);
    stop(&w);
}

static void it_is_lost_and_found_and_presents_the_highest_epoch_it_has_seen(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_ROUTER);
    join(&w, 5);
    struct wire_out o = played_say(&w.router, PROTO_VIEW);
    wire_put_u64(&o, 41);
    wire_put_u32(&o, 0);
    played_send(&w.router, &o);
    go_on(&w, 5 * ms);
    played_end(&w.router);
    go_on(&w, 5 * ms);
    assert_int_equal(w.news[MEMBER_LOST], 1);
    assert_true(w.m.epoch == 0);
    played_begin(&w.router, w.net, "router", PROTO_PEER_ROUTER);
    go_on(&w, 250 * ms);
    assert_true(seen(&w) == 41);
    say_joined(&w, 42);
    assert_int_equal(w.news[MEMBER_JOINED], 2);
    assert_true(w.m.epoch == 42);
    stop(&w);
}

static void a_router_whose_epoch_is_not_higher_is_dropped(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_ROUTER);
    join(&w, 5);
    bus_close(w.router.bus, w.router.peer);
    go_on(&w, 250 * ms);
    assert_true(seen(&w) == 5);
    say_joined(&w, 5);
    assert_int_equal(w.news[MEMBER_JOINED], 1);
    assert_int_equal(w.m.stage, MEMBER_AWAY);
    assert_true(w.router.peer == 0);
    go_on(&w, 250 * ms);
    join(&w, 6);
    stop(&w);
}

static void the_members_are_as_the_router_said_last(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_ROUTER);
    join(&w, 5);
    for (uint32_t n = 3; n >= 2; n--) {
        struct wire_out o = played_say(&w.router, PROTO_VIEW);
        wire_put_u64(&o, 6);
        wire_put_u32(&o, n);
        put_peer(&o, "d0", ROLE_OF_DECODE, 5);
        put_peer(&o, "p0", ROLE_OF_PREFILL, 4);
        if (n == 3) put_peer(&o, "m0", ROLE_OF_POOL, 6);
        played_send(&w.router, &o);
        go_on(&w, 5 * ms);
        assert_int_equal(w.m.n_peers, n - 1); /* without itself */
        assert_null(member_find(&w.m, "d0"));
        assert_true(member_find(&w.m, "p0")->epoch == 4);
        assert_int_equal(member_find(&w.m, "m0") != NULL, n == 3);
    }
    assert_int_equal(w.news[MEMBER_PEERS], 2);
    stop(&w);
}

/* --- what cannot be read ---------------------------------------------------------------------- */

static void put_bad(struct wire_out *o, int which) {
    switch (which) {
    case 0: wire_put_u8(o, PROTO_VIEW); break; /* nothing more */
    case 1:
        wire_put_u8(o, PROTO_VIEW);
        wire_put_u64(o, 9);
        wire_put_u32(o, UINT32_MAX); /* members that are not there */
        break;
    case 2:
        wire_put_u8(o, PROTO_VIEW);
        wire_put_u64(o, 9);
        wire_put_u32(o, 1);
        put_peer(o, "p0", MEMBER_ROLES, 4); /* no such role */
        break;
    case 3:
        wire_put_u8(o, PROTO_VIEW);
        wire_put_u64(o, 9);
        wire_put_u32(o, 0);
        wire_put_u8(o, 0); /* something is left over */
        break;
    default: /* it is in already */
        wire_put_u8(o, PROTO_JOINED);
        wire_put_u64(o, 9);
        proto_put_shape(o, &shape);
    }
}

static void a_router_that_cannot_be_understood_is_dropped(void **state) {
    (void)state;
    for (int which = 0; which < 5; which++) {
        struct world w;
        start(&w, "", PROTO_PEER_ROUTER);
        join(&w, 5);
        w.router.out.len = 0;
        struct wire_out o = {&w.router.out, ST_OK};
        put_bad(&o, which);
        played_send(&w.router, &o);
        go_on(&w, 5 * ms);
        assert_int_equal(w.news[MEMBER_LOST], 1);
        assert_int_equal(w.m.stage, MEMBER_AWAY);
        assert_int_equal(w.m.n_peers, 0);
        assert_true(w.router.peer == 0);
        go_on(&w, 250 * ms);
        join(&w, 10); /* and asked again */
        stop(&w);
    }
}

static void other_messages_are_its_owners_once_it_is_in(void **state) {
    (void)state;
    struct world w;
    start(&w, "", PROTO_PEER_ROUTER);
    go_on(&w, 5 * ms);
    played_tell(&w.router, PROTO_CANCEL, 1);
    go_on(&w, 5 * ms);
    assert_int_equal(w.news[MEMBER_MESSAGE], 0);
    join(&w, 5);
    played_tell(&w.router, PROTO_CANCEL, 1);
    go_on(&w, 5 * ms);
    assert_int_equal(w.news[MEMBER_MESSAGE], 1);
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_joins_and_then_tells_its_load),
        cmocka_unit_test(it_asks_again_where_nobody_answered),
        cmocka_unit_test(it_is_refused_for_good_by_the_routers_word),
        cmocka_unit_test(it_is_refused_for_good_where_models_differ),
        cmocka_unit_test(who_is_no_router_is_left),
        cmocka_unit_test(it_is_lost_and_found_and_presents_the_highest_epoch_it_has_seen),
        cmocka_unit_test(a_router_whose_epoch_is_not_higher_is_dropped),
        cmocka_unit_test(the_members_are_as_the_router_said_last),
        cmocka_unit_test(a_router_that_cannot_be_understood_is_dropped),
        cmocka_unit_test(other_messages_are_its_owners_once_it_is_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

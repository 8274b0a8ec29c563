/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated bus behaves as every bus does, the same from the same seed, and has the faults it
 * promises. SEEDS=n runs more of them. */
#include "conformance.h"

#include "sim/core/sim_bus.h"

static const struct sim_net_options usual = {.seed = 1,
                                             .delay_ns_min = 1000,
                                             .delay_ns_max = 100000,
                                             .slow_permille = 50,
                                             .peer_timeout_ns = 3000000000,
                                             .close_ns = 50000000};

static void *world_new(void) {
    struct sim_net *n;
    struct err err;
    assert_int_equal(sim_net_new(&n, &usual, &err), ST_OK);
    return n;
}

static void world_free(void *world) {
    sim_net_free(world);
}

static struct bus *endpoint(void *world, const char *name, const struct bus_identity *id,
                            struct err *err) {
    struct bus *b = NULL;
    return sim_bus_new(&b, world, name, id, err) ? NULL : b;
}

static void address(void *world, const char *name, char out[BUS_ADDRESS_BYTES]) {
    (void)world;
    snprintf(out, BUS_ADDRESS_BYTES, "%s", name);
}

static void pass(void *world, struct bus *b) {
    (void)b;
    if (sim_net_next(world) != UINT64_MAX) sim_net_advance(world, sim_net_next(world));
}

static struct conf_kind sim = {world_new, world_free,   endpoint,        address,
                               pass,      sim_bus_stop, sim_bus_continue};

/* --- what only this one does ------------------------------------------------------------------ */

static void a_read_of_memory_that_changes_arrives_torn_now_and_then(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 800, BUS_PEERS_READ);
    uint64_t got[100];
    int torn = 0, whole = 0;
    for (int round = 0; round < 200; round++) {
        memset(l.memory, 1, 800);
        assert_int_equal(bus_read(l.q, l.at_a, 0, got, sizeof got, 1), ST_OK);
        rig_step(r);
        memset(l.memory, 2, 800);
        assert_int_equal(complete(r, l.q, 1), BUS_DONE);
        for (int i = 1; i < 50; i++) assert_int_equal(got[i], got[0]);
        for (int i = 51; i < 100; i++) assert_int_equal(got[i], got[50]);
        torn += got[0] != got[99];
        whole += got[0] == got[99];
    }
    assert_true(torn > 100);
    (void)whole;
    bus_queue_free(l.q);
}

static void what_a_killed_endpoint_was_computing_still_is_never_sent(void **state) {
    struct rig *r = *state;
    for (int dies_before = 0; dies_before < 2; dies_before++) {
        struct pair p;
        pair_new(r, &p);
        uint64_t clock = sim_net_now(r->world);
        sim_bus_clock(p.b->bus, &clock);
        clock += dies_before ? usual.close_ns / 2 : 0;
        assert_int_equal(bus_send(p.b->bus, p.ba, "x", 1), ST_OK);
        sim_bus_kill(p.b->bus);
        end_close(p.b);
        if (!dies_before) take(r, p.a, BUS_MESSAGE);
        take(r, p.a, BUS_GONE);
        end_close(p.a);
    }
}

/* It computes for 10 ms, and stands still for 5 at 2 ms, and for 5 more at 12, when it has 3 left. */
static void what_a_stopped_endpoint_was_computing_still_is_sent_as_much_later(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    while (sim_net_next(r->world) != UINT64_MAX) rig_step(r);
    const uint64_t ms = 1000000, t = sim_net_now(r->world);
    uint64_t clock = t;
    sim_bus_clock(p.b->bus, &clock);
    p.b->idle = true;
    assert_int_equal(bus_send(p.b->bus, p.ba, "before", 6), ST_OK);
    clock = t + 10 * ms;
    assert_int_equal(bus_send(p.b->bus, p.ba, "1", 1), ST_OK);
    assert_int_equal(bus_send(p.b->bus, p.ba, "2", 1), ST_OK);
    sim_net_advance(r->world, t + 2 * ms);
    sim_bus_stop(p.b->bus);
    sim_net_advance(r->world, t + 7 * ms);
    sim_bus_continue(p.b->bus);
    sim_net_advance(r->world, t + 12 * ms);
    sim_bus_stop(p.b->bus);
    sim_net_advance(r->world, t + 17 * ms);
    sim_bus_continue(p.b->bus);
    sim_net_advance(r->world, t + 20 * ms);
    end_step(p.a);
    assert_int_equal(p.a->n - p.a->taken, 1);
    assert_memory_equal(take(r, p.a, BUS_MESSAGE)->data, "before", 6);
    sim_net_advance(r->world, t + 30 * ms); /* a slow message takes 10 */
    end_step(p.a);
    assert_int_equal(p.a->n - p.a->taken, 2);
    assert_memory_equal(take(r, p.a, BUS_MESSAGE)->data, "1", 1);
    assert_memory_equal(take(r, p.a, BUS_MESSAGE)->data, "2", 1);
}

static void a_killed_endpoints_memory_is_readable_until_its_end_is_seen(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    memset(l.memory, 'x', 4096);
    uint64_t killed = sim_net_now(r->world);
    sim_bus_kill(p.b->bus);
    end_close(p.b);
    char got[64];
    assert_int_equal(bus_read(l.q, l.at_a, 0, got, 64, 1), ST_OK);
    assert_int_equal(complete(r, l.q, 1), BUS_DONE);
    assert_int_equal(got[63], 'x');
    take(r, p.a, BUS_GONE);
    assert_int_equal(sim_net_now(r->world), killed + usual.close_ns);
    assert_int_equal(read_now(r, l.q, l.at_a, 0, got, 64), BUS_PEER_GONE);
    bus_queue_free(l.q);
    struct end *again = end_new(r, "b"); /* the address is free */
    pair_up(r, &p, p.a, again, "b");
}

static void a_stopped_endpoint_answers_nothing_and_its_writes_happen_later(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_WRITE);
    struct end *c = end_new(r, "c");
    assert_int_equal(bus_write(l.q, l.at_a, 0, "late", 4, 1), ST_OK);
    sim_bus_stop(p.a->bus);
    p.a->idle = true;
    conf_connect(r, c, "a");
    take(r, p.b, BUS_SUSPENDED);
    expect_nothing(r, c);
    assert_false(sim_bus_has_news(p.a->bus));
    assert_int_equal(l.memory[0], 0);
    sim_bus_continue(p.a->bus);
    p.a->idle = false;
    assert_true(sim_bus_has_news(p.a->bus));
    take(r, c, BUS_UP);
    assert_int_equal(complete(r, l.q, 1), BUS_DONE);
    assert_memory_equal(l.memory, "late", 4);
    take(r, p.b, BUS_RESUMED);
    bus_queue_free(l.q);
}

static void a_short_stop_is_not_noticed(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    for (int i = 0; i < 5; i++) {
        sim_bus_stop(p.b->bus);
        sim_net_advance(r->world, sim_net_now(r->world) + usual.peer_timeout_ns * 2 / 3);
        sim_bus_continue(p.b->bus);
    }
    expect_nothing(r, p.a);
}

static void two_who_stop_in_turn_see_each_other_suspended_and_resumed(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    sim_bus_stop(p.a->bus);
    sim_bus_stop(p.b->bus);
    p.a->idle = p.b->idle = true;
    sim_net_advance(r->world, sim_net_now(r->world) + 2 * usual.peer_timeout_ns);
    sim_bus_continue(p.a->bus);
    p.a->idle = false;
    uint64_t since = sim_net_now(r->world);
    take(r, p.a, BUS_SUSPENDED); /* after a full timeout of its own */
    assert_int_equal(sim_net_now(r->world), since + usual.peer_timeout_ns);
    sim_bus_continue(p.b->bus);
    p.b->idle = false;
    take(r, p.a, BUS_RESUMED);
    expect_nothing(r, p.b);
}

static void a_broken_connection_loses_what_is_under_way(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    char got[64];
    assert_int_equal(bus_send(p.a->bus, p.ab, "x", 1), ST_OK);
    assert_int_equal(bus_read(l.q, l.at_a, 0, got, 64, 1), ST_OK);
    sim_bus_break(p.b->bus, p.a->bus);
    assert_int_equal(complete(r, l.q, 1), BUS_PEER_GONE);
    take(r, p.a, BUS_GONE);
    take(r, p.b, BUS_GONE);
    bus_queue_free(l.q);
    pair_up(r, &p, p.a, p.b, "b");
}

static void news_is_said_once(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    while (sim_net_next(r->world) != UINT64_MAX) rig_step(r);
    sim_bus_has_news(p.a->bus);
    assert_false(sim_bus_has_news(p.a->bus));
    bus_wake(p.a->bus);
    assert_true(sim_bus_has_news(p.a->bus));
    assert_false(sim_bus_has_news(p.a->bus));
    uint64_t got;
    assert_int_equal(bus_read(l.q, l.at_a, 0, &got, 8, 1), ST_OK);
    sim_net_advance(r->world, sim_net_next(r->world));
    assert_true(sim_bus_has_news(p.a->bus)); /* a completion */
    bus_queue_free(l.q);
}

/* --- one seed, one history -------------------------------------------------------------------- */

static uint64_t fold(uint64_t h, uint64_t x) {
    return (h ^ x) * 0x100000001b3u;
}

enum { CITY = 5 };

struct city {
    struct sim_net *net;
    struct bus *bus[CITY];
    struct bus_queue *queue[CITY];
    bool stopped[CITY];
    uint64_t seed, hash, chance, got[CITY][64];
};

static uint64_t draw(struct city *c, uint64_t n) {
    c->chance = c->chance * 6364136223846793005u + 1442695040888963407u;
    return (c->chance >> 33) % n;
}

static void move_in(struct city *c, uint32_t i) {
    struct err err;
    char name[] = {(char)('a' + i), 0};
    struct bus_identity id = named(name);
    bus_id segment;
    void *memory;
    assert_int_equal(sim_bus_new(&c->bus[i], c->net, name, &id, &err), ST_OK);
    assert_int_equal(bus_segment_new(c->bus[i], 512, BUS_PEERS_WRITE, &segment, &memory, &err),
                     ST_OK);
    assert_int_equal(bus_queue_new(c->bus[i], &c->queue[i], &err), ST_OK);
    c->stopped[i] = false;
}

static void move_out(struct city *c, uint32_t i) {
    bus_queue_free(c->queue[i]);
    bus_free(c->bus[i]);
}

static void live(struct city *c, uint32_t i) {
    struct bus_event ev;
    struct bus *b = c->bus[i];
    while (bus_next(b, &ev)) {
        c->hash = fold(c->hash, ev.kind + 16 * ev.peer + 4096 * ev.segment + 65536 * ev.len + i);
        c->hash = fold(c->hash, sim_net_now(c->net));
        /* what it may not do returns a status, and is no reason to stop */
        if (ev.kind == BUS_UP) c->hash = fold(c->hash, bus_share(b, ev.peer, 1, i));
        if (ev.kind == BUS_SEGMENT)
            c->hash = fold(c->hash, bus_read(c->queue[i], ev.segment, 0, c->got[i], 512, 1)) +
                      bus_write_notify(c->queue[i], ev.segment, 64, &c->seed, 8, i, 2);
        if (ev.kind == BUS_NOTIFY || ev.kind == BUS_MESSAGE)
            c->hash = fold(c->hash, bus_send(b, ev.peer, &c->hash, draw(c, 9)));
    }
    struct bus_completion done;
    while (bus_completions(c->queue[i], &done, 1))
        c->hash = fold(c->hash, done.cookie * 16 + done.status + c->got[i][draw(c, 64)]);
}

static void disturb(struct city *c) {
    uint32_t i = (uint32_t)draw(c, CITY), j = (uint32_t)draw(c, CITY);
    char name[] = {(char)('a' + j), 0};
    switch (draw(c, 8)) {
    case 0:
        sim_bus_kill(c->bus[i]);
        move_out(c, i);
        move_in(c, i);
        break;
    case 1: sim_bus_stop(c->bus[i]), c->stopped[i] = true; break;
    case 2: sim_bus_continue(c->bus[i]), c->stopped[i] = false; break;
    case 3: sim_bus_break(c->bus[i], c->bus[j]); break;
    case 4:
        move_out(c, i);
        move_in(c, i);
        break;
    default:
        if (!c->stopped[i]) bus_connect(c->bus[i], name);
    }
}

static uint64_t history(uint64_t seed) {
    struct sim_net_options o = usual;
    o.seed = seed;
    struct city c = {.seed = seed, .chance = seed};
    struct err err;
    assert_int_equal(sim_net_new(&c.net, &o, &err), ST_OK);
    for (uint32_t i = 0; i < CITY; i++) move_in(&c, i);
    for (int turn = 0; turn < 400; turn++) {
        if (turn % 4 == 0) disturb(&c);
        uint64_t next = sim_net_next(c.net), now = sim_net_now(c.net);
        sim_net_advance(c.net, next == UINT64_MAX ? now + 1000 : next);
        for (uint32_t i = 0; i < CITY; i++)
            if (!c.stopped[i] && sim_bus_has_news(c.bus[i])) live(&c, i);
    }
    for (uint32_t i = 0; i < CITY; i++) move_out(&c, i);
    sim_net_free(c.net);
    return c.hash;
}

static void one_seed_is_one_history(void **state) {
    (void)state;
    uint64_t seeds = getenv("SEEDS") ? strtoull(getenv("SEEDS"), NULL, 10) : 200;
    for (uint64_t seed = 0; seed < seeds; seed++)
        if (history(seed) != history(seed)) fail_msg("seed %llu", (unsigned long long)seed);
    assert_true(history(1) != history(2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFORMANCE(&sim),
        CONF(a_read_of_memory_that_changes_arrives_torn_now_and_then, &sim),
        CONF(what_a_killed_endpoint_was_computing_still_is_never_sent, &sim),
        CONF(what_a_stopped_endpoint_was_computing_still_is_sent_as_much_later, &sim),
        CONF(a_killed_endpoints_memory_is_readable_until_its_end_is_seen, &sim),
        CONF(a_stopped_endpoint_answers_nothing_and_its_writes_happen_later, &sim),
        CONF(a_short_stop_is_not_noticed, &sim),
        CONF(two_who_stop_in_turn_see_each_other_suspended_and_resumed, &sim),
        CONF(a_broken_connection_loses_what_is_under_way, &sim),
        CONF(news_is_said_once, &sim),
        cmocka_unit_test(one_seed_is_one_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

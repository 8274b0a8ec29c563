/* SPDX-License-Identifier: Apache-2.0 */
/* How every bus behaves: one table of behaviours, run against each implementation. A test includes
 * this, says how its endpoints are made and how time passes (rig.h), and runs CONFORMANCE. */
#ifndef SUPERNODE_TESTS_BUS_CONFORMANCE_H
#define SUPERNODE_TESTS_BUS_CONFORMANCE_H

#include "rig.h"

/* --- peers ------------------------------------------------------------------------------------ */

static void a_peer_comes_up_on_both_sides_with_its_identity(void **state) {
    struct rig *r = *state;
    struct bus_identity ia = named("anne"), ib = named("bert");
    ia.hello_len = BUS_HELLO_BYTES;
    fill(ia.hello, sizeof ia.hello, 5);
    struct end *a = end_with(r, NULL, &ia), *b = end_with(r, "b", &ib);
    bus_id id = conf_connect(r, a, "b");
    struct seen *at_b = take(r, b, BUS_UP), *at_a = take(r, a, BUS_UP);
    assert_int_equal(at_a->ev.peer, id);
    assert_string_equal(at_a->identity.name, "bert");
    assert_int_equal(at_a->identity.hello_len, 5);
    assert_memory_equal(at_a->identity.hello, "hello", 5);
    assert_true(at_b->ev.peer != 0);
    assert_string_equal(at_b->identity.name, "anne");
    assert_int_equal(at_b->identity.hello_len, BUS_HELLO_BYTES);
    assert_memory_equal(at_b->identity.hello, ia.hello, BUS_HELLO_BYTES);
}

static void where_nobody_listens_a_connection_is_refused_with_a_sentence(void **state) {
    struct rig *r = *state;
    struct end *a = end_new(r, "a");
    bus_id id = conf_connect(r, a, "nobody");
    struct seen *s = take(r, a, BUS_REFUSED);
    assert_int_equal(s->ev.peer, id);
    assert_int_equal(s->ev.value, 0);
    assert_non_null(strstr(s->text, "nobody listens"));
    assert_int_equal(bus_send(a->bus, id, "x", 1), ST_GONE);
    expect_nothing(r, a);
}

static void refused_because(struct rig *r, const struct bus_identity *ia,
                            const struct bus_identity *ib, const char *word) {
    struct end *a = end_with(r, "a", ia), *b = end_with(r, "b", ib);
    bus_id id = conf_connect(r, a, "b");
    struct seen *s = take(r, a, BUS_REFUSED);
    assert_int_equal(s->ev.peer, id);
    assert_int_equal(s->ev.value, 1);
    if (!strstr(s->text, word)) fail_msg("\"%s\" does not say %s", s->text, word);
    expect_nothing(r, a);
    expect_nothing(r, b);
}

static void a_peer_with_another_model_is_refused_with_a_sentence(void **state) {
    struct bus_identity ia = named("a"), ib = named("b");
    strcpy(ia.model_id, "0123456789abcdef");
    strcpy(ib.model_id, "fedcba9876543210");
    refused_because(*state, &ia, &ib, "model_id");
}

static void a_peer_with_another_profile_is_refused_with_a_sentence(void **state) {
    struct bus_identity ia = named("a"), ib = named("b");
    strcpy(ia.profile, "exact");
    strcpy(ib.profile, "bf16dot");
    refused_because(*state, &ia, &ib, "profile");
}

static void a_peer_without_a_model_may_talk_to_one_with(void **state) {
    struct rig *r = *state;
    struct bus_identity ia = named("a"), ib = named("b");
    strcpy(ia.model_id, "0123456789abcdef");
    strcpy(ia.profile, "exact");
    struct end *a = end_with(r, "a", &ia), *b = end_with(r, "b", &ib);
    struct pair p;
    pair_up(r, &p, a, b, "b");
    assert_string_equal(b->log[0].identity.model_id, "0123456789abcdef");
}

static void one_address_has_one_endpoint(void **state) {
    struct rig *r = *state;
    end_new(r, "a");
    struct err err = {0};
    struct bus_identity id = named("a");
    assert_null(r->kind->endpoint(r->world, "a", &id, &err));
    assert_int_equal(err.code, ST_IO);
    assert_non_null(strstr(err.text, "listens there"));
}

static void gone_is_the_last_event_and_ids_are_never_used_again(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    bus_id before_a = p.ab, before_b = p.ba;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(bus_send(p.a->bus, p.ab, "last", 4), ST_OK);
        bus_close(p.a->bus, p.ab);
        struct seen *s = take_until(r, p.b, BUS_GONE); /* the message may be lost */
        assert_int_equal(s->ev.peer, p.ba);
        assert_true(s->text[0] != 0);
        assert_int_equal(bus_send(p.b->bus, p.ba, "x", 1), ST_GONE);
        assert_int_equal(bus_send(p.a->bus, p.ab, "x", 1), ST_GONE);
        bus_close(p.a->bus, p.ab); /* unknown by now: ignored */
        bus_close(p.b->bus, p.ba);
        expect_nothing(r, p.b);
        expect_nothing(r, p.a);
        pair_up(r, &p, p.a, p.b, "b");
        assert_true(p.ab > before_a && p.ba > before_b);
        before_a = p.ab, before_b = p.ba;
    }
}

static void after_a_close_here_nothing_more_comes(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    for (int i = 0; i < 10; i++) assert_int_equal(bus_send(p.b->bus, p.ba, "x", 1), ST_OK);
    p.a->idle = true; /* they arrive, unseen */
    for (int i = 0; i < 20; i++) rig_step(r);
    bus_close(p.a->bus, p.ab);
    p.a->idle = false;
    take(r, p.b, BUS_GONE);
    expect_nothing(r, p.a);
}

static void a_freed_endpoint_is_gone_for_its_peers(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    struct end *c = end_new(r, "c");
    struct pair pc;
    pair_up(r, &pc, c, p.b, "b");
    end_close(p.b);
    assert_int_equal(take(r, p.a, BUS_GONE)->ev.peer, p.ab);
    assert_int_equal(take(r, c, BUS_GONE)->ev.peer, pc.ab);
    conf_connect(r, c, "b");
    take(r, c, BUS_REFUSED);
}

static void a_connection_may_be_closed_before_it_is_up(void **state) {
    struct rig *r = *state;
    struct end *a = end_new(r, "a"), *b = end_new(r, "b");
    bus_id id = conf_connect(r, a, "b");
    bus_close(a->bus, id);
    expect_nothing(r, a);
    while (b->taken < b->n) /* it may have been up there for a moment */
        assert_true(b->log[b->taken++].ev.kind != BUS_MESSAGE);
    struct pair p;
    pair_up(r, &p, a, b, "b");
}

static void a_silent_peer_is_suspended_and_then_resumed(void **state) {
    struct rig *r = *state;
    if (!r->kind->stop) skip();
    struct pair p;
    pair_new(r, &p);
    r->kind->stop(p.b->bus);
    p.b->idle = true;
    assert_int_equal(take(r, p.a, BUS_SUSPENDED)->ev.peer, p.ab);
    assert_int_equal(bus_send(p.a->bus, p.ab, "while", 5), ST_OK);
    expect_nothing(r, p.a);
    r->kind->go_on(p.b->bus);
    p.b->idle = false;
    assert_int_equal(take(r, p.a, BUS_RESUMED)->ev.peer, p.ab);
    assert_int_equal(take(r, p.b, BUS_MESSAGE)->ev.len, 5);
}

/* --- messages --------------------------------------------------------------------------------- */

static const size_t sizes[] = {0,    1,    7,     8,     9,      63,     64,     65,
                               4095, 4096, 65535, 65536, 131072, 262144, 300001, 5 << 20};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static void expect_messages(struct rig *r, struct end *e, bus_id from, uint32_t seed) {
    uint8_t *want = malloc(sizes[N_SIZES - 1]);
    for (uint32_t i = 0; i < 2 * N_SIZES; i++) {
        struct seen *s = take(r, e, BUS_MESSAGE);
        assert_int_equal(s->ev.peer, from);
        assert_int_equal(s->ev.len, sizes[i % N_SIZES]);
        fill(want, s->ev.len, seed + i);
        assert_true(memcmp(s->data, want, s->ev.len) == 0);
    }
    free(want);
}

static void messages_of_any_size_arrive_whole_and_in_order_both_ways_at_once(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    uint8_t *data = malloc(sizes[N_SIZES - 1]);
    for (uint32_t i = 0; i < 2 * N_SIZES; i++) {
        size_t n = sizes[i % N_SIZES];
        fill(data, n, i);
        assert_int_equal(bus_send(p.a->bus, p.ab, data, n), ST_OK);
        fill(data, n, 1000 + i);
        assert_int_equal(bus_send(p.b->bus, p.ba, data, n), ST_OK);
    }
    free(data);
    expect_messages(r, p.b, p.ba, 0);
    expect_messages(r, p.a, p.ab, 1000);
}

static void many_small_messages_keep_their_order(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    for (uint32_t i = 0; i < 20000; i++) {
        assert_int_equal(bus_send(p.a->bus, p.ab, &i, sizeof i), ST_OK);
        if (i % 1000 == 999) rig_step(r);
    }
    for (uint32_t i = 0; i < 20000; i++) {
        struct seen *s = take(r, p.b, BUS_MESSAGE);
        assert_int_equal(s->ev.len, sizeof i);
        assert_memory_equal(s->data, &i, sizeof i);
    }
}

static void several_peers_are_told_apart(void **state) {
    struct rig *r = *state;
    struct end *hub = end_new(r, "hub");
    struct pair p[4];
    for (uint32_t i = 0; i < 4; i++) {
        char name[] = {(char)('a' + i), 0};
        pair_up(r, &p[i], end_new(r, name), hub, "hub");
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(bus_send(hub->bus, p[i].ba, &i, sizeof i), ST_OK);
    bus_close(hub->bus, p[1].ba);
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 1) continue;
        assert_memory_equal(take(r, p[i].a, BUS_MESSAGE)->data, &i, sizeof i);
        assert_int_equal(bus_send(p[i].a->bus, p[i].ab, &i, sizeof i), ST_OK);
        struct seen *s = take(r, hub, BUS_MESSAGE);
        assert_int_equal(s->ev.peer, p[i].ba);
        assert_memory_equal(s->data, &i, sizeof i);
    }
}

static void a_message_that_is_too_long_is_refused(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    assert_int_equal(bus_send(p.a->bus, p.ab, "", (size_t)BUS_MESSAGE_MAX + 1), ST_INVALID);
    uint8_t *data = malloc(BUS_MESSAGE_MAX);
    fill(data, BUS_MESSAGE_MAX, 3);
    assert_int_equal(bus_send(p.a->bus, p.ab, data, BUS_MESSAGE_MAX), ST_OK);
    struct seen *s = take(r, p.b, BUS_MESSAGE);
    assert_int_equal(s->ev.len, BUS_MESSAGE_MAX);
    assert_true(memcmp(s->data, data, BUS_MESSAGE_MAX) == 0);
    free(data);
}

static void who_does_not_read_fills_a_bounded_queue(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    size_t n = 16 << 20, sent = 0;
    uint8_t *data = calloc(1, n);
    enum st st;
    while ((st = bus_send(p.a->bus, p.ab, data, n)) == ST_OK) assert_true(++sent < 20);
    assert_int_equal(st, ST_FULL);
    assert_true(sent >= BUS_UNSENT_MAX / n - 1);
    for (size_t i = 0; i < sent; i++) {
        struct seen *s = take(r, p.b, BUS_MESSAGE);
        assert_int_equal(s->ev.len, n);
        free(s->data);
        s->data = NULL;
    }
    assert_int_equal(bus_send(p.a->bus, p.ab, data, n), ST_OK);
    take(r, p.b, BUS_MESSAGE);
    free(data);
}

/* --- segments --------------------------------------------------------------------------------- */

static void a_segment_is_zeroed_aligned_and_read_by_a_peer(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 100001, BUS_PEERS_READ);
    assert_int_equal((uintptr_t)l.memory % 4096, 0);
    for (size_t i = 0; i < 100001; i++) assert_int_equal(l.memory[i], 0);
    fill(l.memory, 100001, 1);
    static const struct {
        uint64_t offset;
        size_t len;
    } t[] = {{0, 100001}, {0, 0}, {100001, 0}, {100000, 1},
             {1, 7},      {8, 8}, {13, 50000}, {4096, 4096}};
    uint8_t *got = malloc(100001);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        memset(got, 0xee, 100001);
        assert_int_equal(read_now(r, l.q, l.at_a, t[i].offset, got, t[i].len), BUS_DONE);
        assert_memory_equal(got, l.memory + t[i].offset, t[i].len);
    }
    free(got);
    bus_queue_free(l.q);
}

static void a_segment_is_written_and_its_owner_notified(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 65536, BUS_PEERS_WRITE);
    uint8_t data[1000];
    fill(data, sizeof data, 9);
    assert_int_equal(write_now(r, l.q, l.at_a, 24, data, sizeof data), BUS_DONE);
    assert_memory_equal(l.memory + 24, data, sizeof data);
    expect_nothing(r, p.b);
    for (uint64_t i = 1; i < 5; i++) {
        fill(data, sizeof data, 100 + (uint32_t)i);
        assert_int_equal(bus_write_notify(l.q, l.at_a, 1000 * i, data, sizeof data, i << 40, i),
                         ST_OK);
        assert_int_equal(complete(r, l.q, i), BUS_DONE);
        struct seen *s = take(r, p.b, BUS_NOTIFY);
        assert_int_equal(s->ev.peer, p.ba);
        assert_int_equal(s->ev.segment, l.at_b);
        assert_int_equal(s->ev.value, i << 40);
        assert_memory_equal(l.memory + 1000 * i, data, sizeof data);
    }
    assert_int_equal(read_now(r, l.q, l.at_a, 4000, data, sizeof data), BUS_DONE);
    bus_queue_free(l.q);
}

static void who_may_only_read_cannot_write(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    assert_int_equal(write_now(r, l.q, l.at_a, 0, "x", 1), BUS_DENIED);
    assert_int_equal(bus_write_notify(l.q, l.at_a, 0, "x", 1, 1, 5), ST_OK);
    assert_int_equal(complete(r, l.q, 5), BUS_DENIED);
    assert_int_equal(l.memory[0], 0);
    expect_nothing(r, p.b);
    bus_queue_free(l.q);
}

static void nothing_past_the_end_is_read_or_written(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 5000, BUS_PEERS_WRITE);
    static const struct {
        uint64_t offset;
        size_t len;
    } t[] = {{0, 5001},           {5000, 1},     {4999, 2},         {5001, 0},    {UINT64_MAX, 1},
             {UINT64_MAX - 7, 8}, {8, SIZE_MAX}, {1, SIZE_MAX - 1}, {1 << 20, 64}};
    uint8_t buf[8192] = {0};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        assert_int_equal(read_now(r, l.q, l.at_a, t[i].offset, buf, t[i].len), BUS_DENIED);
        assert_int_equal(write_now(r, l.q, l.at_a, t[i].offset, buf, t[i].len), BUS_DENIED);
    }
    bus_queue_free(l.q);
}

static void segments_come_in_order_with_messages(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    struct err err;
    bus_id ids[8], before = 0;
    for (uint64_t i = 0; i < 8; i++) {
        void *memory;
        assert_int_equal(bus_segment_new(p.b->bus, 4096 * (i + 1),
                                         i % 2 ? BUS_PEERS_READ : BUS_PEERS_WRITE, &ids[i], &memory,
                                         &err),
                         ST_OK);
        memcpy(memory, &i, sizeof i);
        assert_true(i == 0 || ids[i] > ids[i - 1]);
        assert_int_equal(bus_send(p.b->bus, p.ba, &i, sizeof i), ST_OK);
        assert_int_equal(bus_share(p.b->bus, p.ba, ids[i], i), ST_OK);
    }
    struct bus_queue *q;
    assert_int_equal(bus_queue_new(p.a->bus, &q, &err), ST_OK);
    for (uint64_t i = 0, got; i < 8; i++) {
        assert_memory_equal(take(r, p.a, BUS_MESSAGE)->data, &i, sizeof i);
        struct seen *s = take(r, p.a, BUS_SEGMENT);
        assert_int_equal(s->ev.value, i);
        assert_int_equal(s->ev.len, 4096 * (i + 1));
        assert_true(s->ev.segment > before);
        before = s->ev.segment;
        assert_int_equal(read_now(r, q, s->ev.segment, 0, &got, sizeof got), BUS_DONE);
        assert_int_equal(got, i);
    }
    bus_queue_free(q);
}

static void one_segment_may_be_shared_with_many_and_twice(void **state) {
    struct rig *r = *state;
    struct pair p, c;
    struct lent l;
    pair_new(r, &p);
    pair_up(r, &c, end_new(r, "c"), p.b, "b");
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    memcpy(l.memory, "shared", 6);
    assert_int_equal(bus_share(p.b->bus, p.ba, l.at_b, 2), ST_OK);
    assert_int_equal(bus_share(p.b->bus, c.ba, l.at_b, 3), ST_OK);
    bus_id again = take(r, p.a, BUS_SEGMENT)->ev.segment;
    bus_id at_c = take(r, c.a, BUS_SEGMENT)->ev.segment;
    struct bus_queue *q;
    struct err err;
    assert_int_equal(bus_queue_new(c.a->bus, &q, &err), ST_OK);
    char got[6];
    assert_int_equal(read_now(r, l.q, again, 0, got, 6), BUS_DONE);
    assert_memory_equal(got, "shared", 6);
    assert_int_equal(read_now(r, q, at_c, 0, got, 6), BUS_DONE);
    bus_close(p.b->bus, p.ba);
    take(r, p.a, BUS_GONE);
    assert_int_equal(read_now(r, l.q, again, 0, got, 6), BUS_PEER_GONE);
    assert_int_equal(read_now(r, q, at_c, 0, got, 6), BUS_DONE);
    bus_queue_free(q);
    bus_queue_free(l.q);
}

static void what_is_freed_is_not_read_anew(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_WRITE);
    memset(l.memory, 'x', 64);
    bus_segment_free(p.b->bus, l.at_b);
    bus_segment_free(p.b->bus, l.at_b); /* unknown by now: ignored */
    expect_nothing(r, p.a);
    char got[64] = {0};
    enum bus_status status = read_now(r, l.q, l.at_a, 0, got, 64);
    if (status == BUS_DONE) assert_int_equal(got[63], 'x');
    assert_int_equal(bus_write_notify(l.q, l.at_a, 0, "y", 1, 1, 5), ST_OK);
    complete(r, l.q, 5);
    expect_nothing(r, p.b);
    assert_true(bus_share(p.b->bus, p.ba, l.at_b, 1) != ST_OK);
    bus_queue_free(l.q);
}

static void memory_of_who_is_gone_completes_with_peer_gone(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_WRITE);
    end_close(p.b);
    take(r, p.a, BUS_GONE);
    char got[8];
    assert_int_equal(read_now(r, l.q, l.at_a, 0, got, 8), BUS_PEER_GONE);
    assert_int_equal(write_now(r, l.q, l.at_a, 0, got, 8), BUS_PEER_GONE);
    bus_queue_free(l.q);
}

static void memory_of_a_connection_closed_here_completes_with_peer_gone(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_WRITE);
    char got[8];
    bus_close(p.a->bus, p.ab);
    assert_int_equal(read_now(r, l.q, l.at_a, 0, got, 8), BUS_PEER_GONE);
    bus_queue_free(l.q);
}

/* --- queues ----------------------------------------------------------------------------------- */

static void every_accepted_operation_completes_once_and_a_full_queue_says_so(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_READ);
    enum { MANY = 1 << 16 };
    static uint64_t got[MANY];
    static uint8_t times[MANY];
    memset(times, 0, sizeof times);
    for (int round = 0; round < 2; round++) {
        enum st st = ST_OK;
        uint64_t n = 0, done = 0;
        while (n < MANY && !(st = bus_read(l.q, l.at_a, n % 512 * 8, &got[n], 8, n))) n++;
        assert_int_equal(st, ST_FULL);
        assert_true(n >= 256);
        struct bus_completion c[100];
        for (uint32_t k; done < n; done += k) {
            k = bus_completions(l.q, c, 100);
            for (uint32_t i = 0; i < k; i++) {
                assert_true(c[i].cookie < n);
                assert_int_equal(c[i].status, BUS_DONE);
                assert_int_equal(times[c[i].cookie]++, round);
            }
            if (k == 0) rig_step(r);
        }
        for (int i = 0; i < 100; i++) rig_step(r);
        assert_int_equal(bus_completions(l.q, c, 100), 0);
    }
    bus_queue_free(l.q);
}

static void a_freed_queue_gives_up_what_it_had(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 1 << 20, BUS_PEERS_READ);
    memset(l.memory, 'x', 1 << 20);
    for (int i = 0; i < 20; i++) {
        struct bus_queue *q;
        struct err err;
        assert_int_equal(bus_queue_new(p.a->bus, &q, &err), ST_OK);
        uint8_t *to = malloc(1 << 20);
        for (uint64_t k = 0; k < 4; k++)
            assert_int_equal(bus_read(q, l.at_a, 0, to, 1 << 20, k), ST_OK);
        bus_queue_free(q);
        free(to); /* nobody may write there any more: a sanitizer sees it */
        rig_step(r);
    }
    bus_queue_free(l.q);
}

static void words_are_never_torn(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 800, BUS_PEERS_READ);
    uint64_t got[100];
    for (uint64_t round = 1; round < 200; round++) {
        assert_int_equal(bus_read(l.q, l.at_a, 0, got, sizeof got, 1), ST_OK);
        struct bus_completion c;
        for (uint64_t k = 0; !bus_completions(l.q, &c, 1); k++) {
            for (int i = 0; i < 100; i++)
                ((volatile uint64_t *)l.memory)[i] = (round + k) * 0x0101010101010101u;
            rig_step(r);
        }
        for (int i = 0; i < 100; i++)
            assert_int_equal(got[i], (got[i] & 0xff) * 0x0101010101010101u);
    }
    bus_queue_free(l.q);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static void *wake_it(void *b) {
    bus_wake(b);
    return NULL;
}

static void a_wait_ends_by_time_or_by_a_wake_before_or_during_it(void **state) {
    struct rig *r = *state;
    struct end *a = end_new(r, "a");
    bus_wait(a->bus, bus_now(a->bus));
    bus_wait(a->bus, bus_now(a->bus) + 1000000);
    for (int i = 0; i < 50; i++) {
        end_step(a);
        pthread_t t;
        pthread_create(&t, NULL, wake_it, a->bus);
        if (i % 2) pthread_join(t, NULL);
        bus_wait(a->bus, bus_now(a->bus) + PATIENCE_S * UINT64_C(1000000000));
        if (i % 2 == 0) pthread_join(t, NULL);
    }
    assert_int_equal(a->n, 0);
}

#define CONFORMANCE(kind)                                                                          \
    CONF(a_peer_comes_up_on_both_sides_with_its_identity, kind),                                   \
        CONF(where_nobody_listens_a_connection_is_refused_with_a_sentence, kind),                  \
        CONF(a_peer_with_another_model_is_refused_with_a_sentence, kind),                          \
        CONF(a_peer_with_another_profile_is_refused_with_a_sentence, kind),                        \
        CONF(a_peer_without_a_model_may_talk_to_one_with, kind),                                   \
        CONF(one_address_has_one_endpoint, kind),                                                  \
        CONF(gone_is_the_last_event_and_ids_are_never_used_again, kind),                           \
        CONF(after_a_close_here_nothing_more_comes, kind),                                         \
        CONF(a_freed_endpoint_is_gone_for_its_peers, kind),                                        \
        CONF(a_connection_may_be_closed_before_it_is_up, kind),                                    \
        CONF(a_silent_peer_is_suspended_and_then_resumed, kind),                                   \
        CONF(messages_of_any_size_arrive_whole_and_in_order_both_ways_at_once, kind),              \
        CONF(many_small_messages_keep_their_order, kind),                                          \
        CONF(several_peers_are_told_apart, kind),                                                  \
        CONF(a_message_that_is_too_long_is_refused, kind),                                         \
        CONF(who_does_not_read_fills_a_bounded_queue, kind),                                       \
        CONF(a_segment_is_zeroed_aligned_and_read_by_a_peer, kind),                                \
        CONF(a_segment_is_written_and_its_owner_notified, kind),                                   \
        CONF(who_may_only_read_cannot_write, kind),                                                \
        CONF(nothing_past_the_end_is_read_or_written, kind),                                       \
        CONF(segments_come_in_order_with_messages, kind),                                          \
        CONF(one_segment_may_be_shared_with_many_and_twice, kind),                                 \
        CONF(what_is_freed_is_not_read_anew, kind),                                                \
        CONF(memory_of_who_is_gone_completes_with_peer_gone, kind),                                \
        CONF(memory_of_a_connection_closed_here_completes_with_peer_gone, kind),                   \
        CONF(every_accepted_operation_completes_once_and_a_full_queue_says_so, kind),              \
        CONF(a_freed_queue_gives_up_what_it_had, kind), CONF(words_are_never_torn, kind),          \
        CONF(a_wait_ends_by_time_or_by_a_wake_before_or_during_it, kind)

#endif

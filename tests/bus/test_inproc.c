/* SPDX-License-Identifier: Apache-2.0 */
/* The bus in one process behaves as every bus does, on several threads too. */
#include "conformance.h"

#include "sim/core/inproc.h"

static void *world_new(void) {
    struct inproc_hub *h;
    struct err err;
    assert_int_equal(inproc_hub_new(&h, &err), ST_OK);
    return h;
}

static void world_free(void *world) {
    inproc_hub_free(world);
}

static struct bus *endpoint(void *world, const char *name, const struct bus_identity *id,
                            struct err *err) {
    struct bus *b = NULL;
    return inproc_bus_new(&b, world, name, id, err) ? NULL : b;
}

static void address(void *world, const char *name, char out[BUS_ADDRESS_BYTES]) {
    (void)world;
    snprintf(out, BUS_ADDRESS_BYTES, "%s", name);
}

static void pass(void *world, struct bus *b) {
    (void)world;
    (void)b; /* everything happens at once */
}

static struct conf_kind inproc = {world_new, world_free, endpoint, address, pass, NULL, NULL};

/* --- threads ---------------------------------------------------------------------------------- */

enum { ROUNDS = 2000 };

/* Sends back what comes, until the peer is gone. */
static void *echo(void *bus) {
    struct bus *b = bus;
    for (struct bus_event ev;;) {
        while (!bus_next(b, &ev)) bus_wait(b, UINT64_MAX);
        if (ev.kind == BUS_GONE) return NULL;
        if (ev.kind == BUS_MESSAGE) assert_int_equal(bus_send(b, ev.peer, ev.data, ev.len), ST_OK);
    }
}

static void two_threads_play_ping_pong_and_no_wake_up_is_lost(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    pthread_t t;
    pthread_create(&t, NULL, echo, p.b->bus);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct bus_event ev;
        assert_int_equal(bus_send(p.a->bus, p.ab, &i, sizeof i), ST_OK);
        while (!bus_next(p.a->bus, &ev)) bus_wait(p.a->bus, UINT64_MAX);
        assert_int_equal(ev.kind, BUS_MESSAGE);
        assert_memory_equal(ev.data, &i, sizeof i);
    }
    bus_close(p.a->bus, p.ab);
    pthread_join(t, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFORMANCE(&inproc),
        CONF(two_threads_play_ping_pong_and_no_wake_up_is_lost, &inproc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

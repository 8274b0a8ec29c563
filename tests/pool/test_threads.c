/* SPDX-License-Identifier: Apache-2.0 */
/* A server and two clients with their copying threads, each on a thread of its own, on the bus of
 * one process: what TSan looks at, and what no order of events from a seed shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "sim/core/inproc.h"
#include "pool/client.h"
#include "pool/index.h"
#include "pool/server.h"
#include "pool/ssd.h"

enum { PAGES = 12, KEYS = 24, CHAIN = 4 };
static const struct block_shape shape = {.n_layers = 4, .layer_bytes = 4096, .tail_bytes = 256};

struct server {
    struct bus *bus;
    struct pool_server *pool;
    struct ssd *ssd;
    char dir[64];
    _Atomic bool ends, stopped, is_stopped;
    pthread_t thread;
};

struct client {
    struct bus *bus;
    struct pool_client *pool;
    uint8_t *memory;
    _Atomic bool ends;
    pthread_t owner, copier;
    uint32_t number, n_offers, rounds;
    uint64_t fetched, wrong;
    bool busy[PAGES];
};

static struct pool_key key(uint64_t n) {
    struct pool_key k;
    for (uint32_t i = 0; i < 32; i++) k.bytes[i] = (uint8_t)((n + 3) * 37 * (i + 1) >> (i % 3));
    k.bytes[31] = (uint8_t)n;
    return k;
}

static uint8_t byte(uint64_t n, uint32_t part, uint32_t i) {
    return (uint8_t)(n * 29 + part * 7 + i * 13 + (i >> 8));
}

static void write_page(struct client *c, uint32_t page, uint64_t n) {
    uint64_t *generation =
        (uint64_t *)(void *)(c->memory + paged_generation_at(&shape, PAGES, page));
    __atomic_fetch_add(generation, 1, __ATOMIC_SEQ_CST);
    for (uint32_t p = 0; p < block_parts(&shape); p++)
        for (uint32_t i = 0; i < block_part_bytes(&shape, p); i++)
            c->memory[paged_at(&shape, PAGES, p, page) + i] = byte(n, p, i);
}

static bool holds(const struct client *c, uint32_t page, uint64_t n, uint32_t parts) {
    for (uint32_t p = 0; p < parts; p++)
        for (uint32_t i = 0; i < block_part_bytes(&shape, p); i++)
            if (c->memory[paged_at(&shape, PAGES, p, page) + i] != byte(n, p, i)) return false;
    return true;
}

static void *serve(void *arg) {
    struct server *s = arg;
    struct bus_event ev;
    while (!s->ends) {
        if (s->stopped) {
            s->is_stopped = true;
            usleep(1000);
            continue;
        }
        s->is_stopped = false;
        bool did = false;
        for (; bus_next(s->bus, &ev); did = true) pool_server_event(s->pool, &ev);
        if (pool_server_step(s->pool, bus_now(s->bus))) did = true;
        if (!did) bus_wait(s->bus, bus_now(s->bus) + 200000);
    }
    return NULL;
}

static void *copy(void *arg) {
    struct client *c = arg;
    while (!c->ends)
        if (!pool_client_copy(c->pool)) usleep(20);
    return NULL;
}

static void turn(struct client *c) {
    struct bus_event ev;
    while (bus_next(c->bus, &ev)) pool_client_event(c->pool, &ev);
    pool_client_step(c->pool, bus_now(c->bus));
}

static void offered(void *ctx, uint32_t page) {
    struct client *c = ctx;
    c->busy[page] = false;
    c->n_offers--;
}

static uint32_t fetch(struct client *c, uint64_t from) {
    struct pool_key keys[CHAIN];
    uint32_t found, pages[CHAIN] = {0, 1, 2, 3};
    struct block_gate gate;
    for (uint32_t i = 0; i < CHAIN; i++) keys[i] = key((from + i) % KEYS);
    struct pool_lookup *l = pool_lookup_begin(c->pool, "t", keys, CHAIN);
    while (!pool_lookup_over(l, &found)) turn(c);
    if (found == 0) {
        pool_lookup_free(l);
        return 0;
    }
    struct pool_fetch *f = pool_fetch_begin(c->pool, l, 0, found, pages, &gate);
    pool_lookup_free(l);
    while (!pool_fetch_over(f)) {
        turn(c);
        /* what the gate says is there can be used before the rest is */
        uint32_t parts = atomic_load_explicit(&gate.parts, memory_order_acquire);
        for (uint32_t i = 0; i < found; i++) c->wrong += !holds(c, i, (from + i) % KEYS, parts);
    }
    pool_fetch_free(f);
    uint32_t parts = atomic_load(&gate.parts);
    for (uint32_t i = 0; i < found; i++) c->wrong += !holds(c, i, (from + i) % KEYS, parts);
    return parts == block_parts(&shape) ? found : 0;
}

static void *own(void *arg) {
    struct client *c = arg;
    uint64_t s = c->number;
    for (uint32_t i = 0; i < c->rounds; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        uint32_t page = CHAIN + (uint32_t)(s >> 40) % (PAGES - CHAIN);
        uint64_t n = (s >> 50) % KEYS;
        struct pool_key k = key(n);
        if (!c->busy[page]) {
            write_page(c, page, n);
            c->busy[page] = true;
            c->n_offers++;
            if (!pool_offer(c->pool, "t", &k, page, offered, c)) offered(c, page);
        }
        turn(c);
        if (i % 2) c->fetched += fetch(c, (s >> 33) % KEYS);
    }
    while (c->n_offers > 0) turn(c);
    return NULL;
}

static void begin_server(struct server *s, struct inproc_hub *hub) {
    struct err err = {0};
    struct bus_identity id = {.name = "pool"};
    strcpy(s->dir, "/tmp/supernode-threads-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    struct ssd_options so = {.dir = s->dir, .bytes = 1 << 20, .shape = shape, .backend = SSD_AUTO};
    if (ssd_open(&s->ssd, &so, &err)) fail_msg("%s", err.text);
    assert_int_equal(inproc_bus_new(&s->bus, hub, "pool", &id, &err), ST_OK);
    struct pool_server_options o = {.bus = s->bus,
                                    .shape = shape,
                                    .dram_bytes = 10 * slot_bytes(&shape),
                                    .ssd = s->ssd,
                                    .epoch = 1};
    if (pool_server_new(&s->pool, &o, &err)) fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void end_server(struct server *s) {
    char path[96];
    s->ends = true;
    pthread_join(s->thread, NULL);
    pool_server_free(s->pool);
    ssd_close(s->ssd);
    bus_free(s->bus);
    snprintf(path, sizeof path, "%s/blocks", s->dir);
    unlink(path);
    rmdir(s->dir);
}

static void begin_client(struct client *c, struct inproc_hub *hub, uint32_t number) {
    struct err err = {0};
    struct bus_identity id = {.name = "worker"};
    void *memory;
    bus_id segment;
    c->number = number;
    assert_int_equal(inproc_bus_new(&c->bus, hub, NULL, &id, &err), ST_OK);
    assert_int_equal(bus_segment_new(c->bus, paged_bytes(&shape, PAGES), BUS_PEERS_READ, &segment,
                                     &memory, &err),
                     ST_OK);
    c->memory = memory;
    struct pool_client_options o = {.bus = c->bus,
                                    .name = "worker",
                                    .shape = shape,
                                    .n_pages = PAGES,
                                    .memory = memory,
                                    .segment = segment,
                                    .timeout_ns = 2000000000};
    if (pool_client_new(&c->pool, &o, &err)) fail_msg("%s", err.text);
    pool_client_server(c->pool, "pool", "pool", 1);
    assert_int_equal(pthread_create(&c->copier, NULL, copy, c), 0);
}

static void end_client(struct client *c) {
    c->ends = true;
    pthread_join(c->copier, NULL);
    pool_client_free(c->pool);
    bus_free(c->bus);
}

/* Until it is connected, which shows in that offers are taken. */
static void store(struct client *c, uint64_t n) {
    struct pool_key k = key(n);
    write_page(c, 7, n);
    c->busy[7] = true;
    c->n_offers++;
    while (!pool_offer(c->pool, "t", &k, 7, offered, c)) turn(c);
    while (c->n_offers > 0) turn(c);
}

static void clients_on_threads_of_their_own_get_what_was_stored(void **state) {
    (void)state;
    struct inproc_hub *hub;
    struct err err;
    struct server s = {0};
    struct client c[2] = {0};
    assert_int_equal(inproc_hub_new(&hub, &err), ST_OK);
    begin_server(&s, hub);
    for (uint32_t i = 0; i < 2; i++) {
        begin_client(&c[i], hub, i);
        store(&c[i], i);
        c[i].rounds = 600;
    }
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&c[i].owner, NULL, own, &c[i]), 0);
    for (uint32_t i = 0; i < 2; i++) pthread_join(c[i].owner, NULL);
    printf("%lu and %lu blocks fetched\n", (unsigned long)c[0].fetched,
           (unsigned long)c[1].fetched);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(c[i].wrong, 0);
        assert_true(c[i].fetched > 0);
        end_client(&c[i]);
    }
    end_server(&s);
    inproc_hub_free(hub);
}

static void hits_need_nothing_of_the_server(void **state) {
    (void)state;
    struct inproc_hub *hub;
    struct err err;
    struct server s = {0};
    struct client c = {0};
    assert_int_equal(inproc_hub_new(&hub, &err), ST_OK);
    begin_server(&s, hub);
    begin_client(&c, hub, 0);
    for (uint64_t n = 0; n < CHAIN; n++) store(&c, n);
    s.stopped = true;
    while (!s.is_stopped) usleep(100);
    for (int i = 0; i < 20; i++) assert_int_equal(fetch(&c, 0), CHAIN);
    assert_int_equal(c.wrong, 0);
    s.stopped = false;
    end_client(&c);
    end_server(&s);
    inproc_hub_free(hub);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_on_threads_of_their_own_get_what_was_stored),
        cmocka_unit_test(hits_need_nothing_of_the_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Servers and clients of the pool on a simulated bus, driven by one thread. */
#ifndef SUPERNODE_TESTS_POOL_TEST_H
#define SUPERNODE_TESTS_POOL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool/client.h"
#include "pool/client_impl.h"
#include "pool/server_impl.h"
#include "sim/core/sim_bus.h"

enum { W_SERVERS = 3, W_CLIENTS = 3, W_PAGES = 24 };

static const struct block_shape w_shape = {.n_layers = 3, .layer_bytes = 160, .tail_bytes = 36};

struct w_server {
    struct bus *bus;
    struct pool_server *pool;
    struct ssd *ssd;
    bool stopped;
};
struct w_client {
    struct bus *bus;
    struct pool_client *pool;
    uint8_t *memory;
    bus_id segment;
    uint32_t n_done; /* offers that ended */
    bool no_copies;  /* its copying thread does nothing */
};
struct world {
    struct sim_net *net;
    struct w_server servers[W_SERVERS];
    struct w_client clients[W_CLIENTS];
    char dir[64];
};

static inline struct bus_identity w_identity(const char *name) {
    struct bus_identity id = {.model_id = "m", .profile = "p"};
    snprintf(id.name, sizeof id.name, "%s", name);
    return id;
}

static inline void w_new(struct world *w, uint64_t seed) {
    struct err err;
    struct sim_net_options o = {.seed = seed,
                                .delay_ns_min = 500,
                                .delay_ns_max = 5000,
                                .peer_timeout_ns = 1000000000,
                                .close_ns = 1000000};
    memset(w, 0, sizeof *w);
    assert_int_equal(sim_net_new(&w->net, &o, &err), ST_OK);
}

struct w_server_options {
    uint32_t dram_blocks, ssd_blocks;
    const struct pool_quota *quotas;
    uint32_t n_quotas;
    uint64_t epoch;
};

static inline uint64_t w_ssd_bytes(uint32_t blocks) {
    return SSD_ALIGN + (uint64_t)blocks * (ssd_head_bytes(&w_shape) + SSD_ALIGN);
}

static inline void w_server(struct world *w, int i, const struct w_server_options *so) {
    struct w_server *s = &w->servers[i];
    struct err err = {0};
    char name[32], dir[96];
    snprintf(name, sizeof name, "pool-%d", i);
    struct bus_identity id = w_identity(name);
    assert_int_equal(sim_bus_new(&s->bus, w->net, name, &id, &err), ST_OK);
    if (so->ssd_blocks) {
        if (!w->dir[0]) {
            strcpy(w->dir, "/tmp/supernode-pool-XXXXXX");
            assert_non_null(mkdtemp(w->dir));
        }
        snprintf(dir, sizeof dir, "%s/%d", w->dir, i);
        struct ssd_options o = {.dir = dir,
                                .bytes = w_ssd_bytes(so->ssd_blocks),
                                .shape = w_shape,
                                .backend = SSD_INLINE};
        if (ssd_open(&s->ssd, &o, &err)) fail_msg("%s", err.text);
    }
    struct pool_server_options o = {.bus = s->bus,
                                    .shape = w_shape,
                                    .dram_bytes = so->dram_blocks * slot_bytes(&w_shape),
                                    .ssd = s->ssd,
                                    .quotas = so->quotas,
                                    .n_quotas = so->n_quotas,
                                    .epoch = so->epoch ? so->epoch : 1};
    if (pool_server_new(&s->pool, &o, &err)) fail_msg("%s", err.text);
}

static inline void w_client(struct world *w, int i) {
    struct w_client *c = &w->clients[i];
    struct err err = {0};
    char name[32];
    void *memory;
    snprintf(name, sizeof name, "worker-%d", i);
    struct bus_identity id = w_identity(name);
    assert_int_equal(sim_bus_new(&c->bus, w->net, NULL, &id, &err), ST_OK);
    assert_int_equal(bus_segment_new(c->bus, paged_bytes(&w_shape, W_PAGES), BUS_PEERS_READ,
                                     &c->segment, &memory, &err),
                     ST_OK);
    c->memory = memory;
    struct pool_client_options o = {.bus = c->bus,
                                    .name = name,
                                    .shape = w_shape,
                                    .n_pages = W_PAGES,
                                    .memory = c->memory,
                                    .segment = c->segment,
                                    .timeout_ns = 50000000};
    if (pool_client_new(&c->pool, &o, &err)) fail_msg("%s", err.text);
    for (int s = 0; s < W_SERVERS; s++)
        if (w->servers[s].bus) {
            snprintf(name, sizeof name, "pool-%d", s);
            pool_client_server(c->pool, name, name, w->servers[s].pool->epoch);
        }
}

static inline void w_server_end(struct world *w, int i) {
    struct w_server *s = &w->servers[i];
    pool_server_free(s->pool);
    ssd_close(s->ssd);
    bus_free(s->bus);
    *s = (struct w_server){0};
}

static inline void w_client_end(struct world *w, int i) {
    struct w_client *c = &w->clients[i];
    pool_client_free(c->pool);
    if (c->bus) bus_free(c->bus);
    *c = (struct w_client){0};
}

static inline void w_free(struct world *w) {
    for (int i = 0; i < W_CLIENTS; i++) w_client_end(w, i);
    for (int i = 0; i < W_SERVERS; i++) w_server_end(w, i);
    sim_net_free(w->net);
    for (int i = 0; i < W_SERVERS && w->dir[0]; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s/%d/blocks", w->dir, i);
        unlink(path);
        snprintf(path, sizeof path, "%s/%d", w->dir, i);
        rmdir(path);
    }
    if (w->dir[0]) rmdir(w->dir);
}

/* Everybody works until nobody has anything to do at this moment. */
static inline void w_settle(struct world *w) {
    bool did = true;
    for (int rounds = 0; did && rounds < 10000; rounds++) {
        struct bus_event ev;
        did = false;
        for (int i = 0; i < W_SERVERS; i++) {
            struct w_server *s = &w->servers[i];
            if (!s->bus || s->stopped) continue;
            for (; bus_next(s->bus, &ev); did = true) pool_server_event(s->pool, &ev);
            if (pool_server_step(s->pool, sim_net_now(w->net))) did = true;
        }
        for (int i = 0; i < W_CLIENTS; i++) {
            struct w_client *c = &w->clients[i];
            if (!c->bus) continue;
            for (; bus_next(c->bus, &ev); did = true)
                assert_true(pool_client_event(c->pool, &ev) || ev.kind == BUS_GONE);
            pool_client_step(c->pool, sim_net_now(w->net));
            if (!c->no_copies && pool_client_copy(c->pool)) did = true;
        }
    }
    assert_false(did); /* they would turn in circles for ever */
}

/* Virtual time passes. */
static inline void w_run(struct world *w, uint64_t ns) {
    uint64_t until = sim_net_now(w->net) + ns;
    for (;;) {
        w_settle(w);
        uint64_t next = sim_net_next(w->net), now = sim_net_now(w->net);
        if (now >= until) break;
        if (next > until) next = until;
        /* timeouts of clients are looked at now and then even if nothing is under way */
        if (next > now + 1000000) next = now + 1000000;
        sim_net_advance(w->net, next);
    }
}

static inline struct pool_key w_key(uint64_t n) {
    struct pool_key k;
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t h = (n * 4 + i + 1) * 0x9e3779b97f4a7c15u;
        h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 32;
        memcpy(k.bytes + 8 * i, &h, 8);
    }
    return k;
}

/* What block n of any tenant consists of: byte i of part p. */
static inline uint8_t w_byte(uint64_t n, uint32_t p, uint32_t i) {
    return (uint8_t)((n + 1) * 131 + p * 17 + i * 7 + (i >> 8) + (n >> 8));
}

static inline uint8_t *w_part(struct w_client *c, uint32_t page, uint32_t p) {
    return c->memory + paged_at(&w_shape, W_PAGES, p, page);
}
static inline uint64_t *w_generation(struct w_client *c, uint32_t page) {
    return (uint64_t *)(void *)(c->memory + paged_generation_at(&w_shape, W_PAGES, page));
}

/* The page is used anew, for block n. */
static inline void w_write(struct w_client *c, uint32_t page, uint64_t n) {
    ++*w_generation(c, page);
    for (uint32_t p = 0; p < block_parts(&w_shape); p++)
        for (uint32_t i = 0; i < block_part_bytes(&w_shape, p); i++)
            w_part(c, page, p)[i] = w_byte(n, p, i);
}

static inline bool w_holds(struct w_client *c, uint32_t page, uint64_t n, uint32_t parts) {
    for (uint32_t p = 0; p < parts; p++)
        for (uint32_t i = 0; i < block_part_bytes(&w_shape, p); i++)
            if (w_part(c, page, p)[i] != w_byte(n, p, i)) return false;
    return true;
}

static inline void w_done(void *ctx, uint32_t page) {
    (void)page;
    ++*(uint32_t *)ctx;
}

/* Writes block n to page 0, offers it, and waits until the offer ended. */
static inline void w_store(struct world *w, int client, const char *tenant, uint64_t n) {
    struct w_client *c = &w->clients[client];
    struct pool_key k = w_key(n);
    uint32_t before = c->n_done;
    w_write(c, 0, n);
    assert_true(pool_offer(c->pool, tenant, &k, 0, w_done, &c->n_done));
    for (int i = 0; i < 200 && c->n_done == before; i++) w_run(w, 100000);
    assert_int_equal(c->n_done, before + 1);
}

static inline struct pool_lookup *w_look(struct world *w, int client, const char *tenant,
                                         const uint64_t *blocks, uint32_t n, uint32_t *found) {
    struct pool_key keys[W_PAGES];
    for (uint32_t i = 0; i < n; i++) keys[i] = w_key(blocks[i]);
    struct pool_lookup *l = pool_lookup_begin(w->clients[client].pool, tenant, keys, n);
    assert_non_null(l);
    for (int i = 0; i < 2000 && !pool_lookup_over(l, found); i++) w_run(w, 100000);
    assert_true(pool_lookup_over(l, found));
    return l;
}

static inline void w_finish(struct world *w, struct pool_fetch *f) {
    for (int i = 0; i < 2000 && !pool_fetch_over(f); i++) w_run(w, 100000);
    assert_true(pool_fetch_over(f));
    pool_fetch_free(f);
}

/* How many of a chain's first blocks come whole, into pages 1, 2, ...: all that were found, or none
 * if one of them is bad. A block that comes is the stored one, bit for bit, as far as the gate says. */
static inline uint32_t w_fetch(struct world *w, int client, const char *tenant,
                               const uint64_t *blocks, uint32_t n) {
    uint32_t found, pages[W_PAGES];
    struct w_client *c = &w->clients[client];
    struct pool_lookup *l = w_look(w, client, tenant, blocks, n, &found);
    struct block_gate gate;
    if (found == 0) {
        pool_lookup_free(l);
        return 0;
    }
    for (uint32_t i = 0; i < found; i++) {
        pages[i] = i + 1;
        w_write(c, i + 1, 0xdead);
    }
    struct pool_fetch *f = pool_fetch_begin(c->pool, l, 0, found, pages, &gate);
    assert_non_null(f);
    pool_lookup_free(l);
    w_finish(w, f);
    uint32_t parts = atomic_load(&gate.parts), bad = atomic_load(&gate.bad);
    for (uint32_t i = 0; i < found; i++) assert_true(w_holds(c, pages[i], blocks[i], parts));
    assert_int_equal(parts == block_parts(&w_shape), bad == BLOCK_GATE_GOOD);
    return bad == BLOCK_GATE_GOOD ? found : 0;
}

static inline uint32_t w_fetch_one(struct world *w, int client, const char *tenant, uint64_t n) {
    return w_fetch(w, client, tenant, &n, 1);
}

#endif

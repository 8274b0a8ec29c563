/* SPDX-License-Identifier: Apache-2.0 */
/* Random histories of the whole pool from a seed: servers die, stop, restart and change epoch,
 * connections break, clients leave, bits flip, pages are used anew in the middle of an offer. Against
 * a model: a fetch yields exactly the stored bytes or a miss, and nothing is found that was never
 * offered; and when all is quiet, nothing is held. SEEDS=n for more, SEED=n for one. */
#include "pool_test.h"

#include <fcntl.h>

enum { KEYS = 14, TENANTS = 2, STEPS = 120, FETCHES = 4 };
static const char *const tenants[TENANTS] = {"a", "b"};

struct flight { /* a lookup, then a fetch */
    int client;
    uint32_t tenant, n, first;
    uint64_t blocks[8];
    uint32_t pages[8];
    struct pool_lookup *lookup;
    struct pool_fetch *fetch;
    struct block_gate gate;
};

struct offer {
    struct history *h;
    int client;
};

struct history {
    struct world w;
    uint64_t seed, state, epoch[W_SERVERS];
    bool offered[TENANTS][KEYS];
    bool busy[W_CLIENTS][W_PAGES];
    uint32_t offers[W_CLIENTS]; /* under way */
    struct offer ctx[W_CLIENTS];
    struct flight flights[FETCHES];
    struct w_server_options server;
    uint32_t n_servers;
    uint64_t fetched, bad, flips;
};

static uint64_t draw(struct history *h, uint64_t n) {
    h->state = h->state * 6364136223846793005u + 1442695040888963407u;
    return (h->state >> 33) % n;
}

/* Both tenants have the same keys (which real ones cannot), with different contents. */
static uint64_t content(uint32_t tenant, uint64_t n) {
    return n * TENANTS + tenant;
}

static int live_client(struct history *h) {
    int c = (int)draw(h, W_CLIENTS);
    return h->w.clients[c].bus ? c : -1;
}

static uint32_t free_page(struct history *h, int client) {
    uint32_t at = (uint32_t)draw(h, W_PAGES);
    for (uint32_t i = 0; i < W_PAGES; i++)
        if (!h->busy[client][(at + i) % W_PAGES]) return (at + i) % W_PAGES;
    return W_PAGES;
}

static void offer_done(void *ctx, uint32_t page) {
    struct offer *o = ctx;
    assert_true(o->h->offers[o->client] > 0 && o->h->busy[o->client][page]);
    o->h->offers[o->client]--;
    o->h->busy[o->client][page] = false;
}

static void do_offer(struct history *h) {
    int client = live_client(h);
    if (client < 0) return;
    uint32_t page = free_page(h, client), tenant = (uint32_t)draw(h, TENANTS);
    uint64_t n = draw(h, KEYS);
    if (page == W_PAGES) return;
    struct w_client *c = &h->w.clients[client];
    struct pool_key k = w_key(n);
    w_write(c, page, content(tenant, n));
    h->ctx[client] = (struct offer){h, client};
    h->busy[client][page] = true;
    h->offers[client]++;
    if (!pool_offer(c->pool, tenants[tenant], &k, page, offer_done, &h->ctx[client]))
        offer_done(&h->ctx[client], page);
    else
        h->offered[tenant][n] = true;
}

static void do_look(struct history *h) {
    struct flight *f = &h->flights[draw(h, FETCHES)];
    int client = live_client(h);
    if (client < 0 || f->lookup || f->fetch) return;
    struct pool_key keys[8];
    f->client = client;
    f->tenant = (uint32_t)draw(h, TENANTS);
    f->n = 1 + (uint32_t)draw(h, 8);
    uint64_t from = draw(h, KEYS);
    for (uint32_t i = 0; i < f->n; i++) {
        f->blocks[i] = (from + i) % KEYS;
        keys[i] = w_key(f->blocks[i]);
    }
    f->lookup = pool_lookup_begin(h->w.clients[client].pool, tenants[f->tenant], keys, f->n);
    assert_non_null(f->lookup);
}

static void begin_fetch(struct history *h, struct flight *f, uint32_t found) {
    for (uint32_t i = 0; i < found; i++) assert_true(h->offered[f->tenant][f->blocks[i]]);
    f->first = found ? (uint32_t)draw(h, found) : 0;
    uint32_t n = 0;
    for (; f->first + n < found; n++) {
        uint32_t page = free_page(h, f->client);
        if (page == W_PAGES) break;
        h->busy[f->client][page] = true;
        w_write(&h->w.clients[f->client], page, 0xdead);
        f->pages[n] = page;
    }
    f->n = n;
    if (n > 0)
        f->fetch = pool_fetch_begin(h->w.clients[f->client].pool, f->lookup, f->first, n, f->pages,
                                    &f->gate);
    pool_lookup_free(f->lookup);
    f->lookup = NULL;
}

static void end_fetch(struct history *h, struct flight *f) {
    uint32_t parts = atomic_load(&f->gate.parts), bad = atomic_load(&f->gate.bad);
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t n = content(f->tenant, f->blocks[f->first + i]);
        if (!w_holds(&h->w.clients[f->client], f->pages[i], n, parts))
            fail_msg("seed %lu: a wrong block", (unsigned long)h->seed);
        h->busy[f->client][f->pages[i]] = false;
    }
    assert_true(bad == BLOCK_GATE_GOOD || bad < f->n);
    assert_true(bad == BLOCK_GATE_GOOD || parts < block_parts(&w_shape));
    if (parts == block_parts(&w_shape)) h->fetched += f->n;
    h->bad += bad != BLOCK_GATE_GOOD;
    pool_fetch_free(f->fetch);
    f->fetch = NULL;
}

static void watch(struct history *h) {
    for (int i = 0; i < FETCHES; i++) {
        struct flight *f = &h->flights[i];
        uint32_t found;
        if (f->lookup && pool_lookup_over(f->lookup, &found))
            begin_fetch(h, f, found);
        else if (f->fetch && pool_fetch_over(f->fetch))
            end_fetch(h, f);
    }
}

static void give_up(struct history *h) {
    struct flight *f = &h->flights[draw(h, FETCHES)];
    if (f->lookup) pool_lookup_free(f->lookup);
    f->lookup = NULL;
    if (f->fetch) pool_fetch_cancel(f->fetch);
}

/* --- faults ---------------------------------------------------------------------------------- */

static void told(struct history *h, int server) {
    char name[32];
    snprintf(name, sizeof name, "pool-%d", server);
    for (int i = 0; i < W_CLIENTS; i++)
        if (h->w.clients[i].bus)
            pool_client_server(h->w.clients[i].pool, name, name, h->epoch[server]);
}

static void restart_server(struct history *h) {
    int i = (int)draw(h, h->n_servers);
    if (draw(h, 2)) {
        sim_bus_kill(h->w.servers[i].bus);
        w_run(&h->w, draw(h, 3) * 700000);
    }
    w_server_end(&h->w, i);
    if (draw(h, 2)) w_run(&h->w, draw(h, 20000));
    h->server.epoch = ++h->epoch[i];
    w_server(&h->w, i, &h->server);
    told(h, i);
}

static void new_epoch(struct history *h) {
    int i = (int)draw(h, h->n_servers);
    h->epoch[i]++;
    if (h->w.servers[i].stopped) return;
    if (draw(h, 2)) told(h, i);
    pool_server_set_epoch(h->w.servers[i].pool, h->epoch[i]);
    if (draw(h, 2)) w_run(&h->w, draw(h, 20000));
    told(h, i);
}

static void fence_server(struct history *h) {
    int i = (int)draw(h, h->n_servers), c = live_client(h);
    char name[32];
    snprintf(name, sizeof name, "pool-%d", i);
    if (c < 0) return;
    pool_client_server_gone(h->w.clients[c].pool, name);
    if (draw(h, 2)) w_run(&h->w, draw(h, 20000));
    pool_client_server(h->w.clients[c].pool, name, name, h->epoch[i]);
}

static void stop_or_go(struct history *h) {
    struct w_server *s = &h->w.servers[draw(h, h->n_servers)];
    s->stopped = !s->stopped;
    if (s->stopped)
        sim_bus_stop(s->bus);
    else
        sim_bus_continue(s->bus);
}

static void lose_client(struct history *h) {
    int c = (int)draw(h, W_CLIENTS);
    if (!h->w.clients[c].bus) {
        w_client(&h->w, c);
        return;
    }
    for (int i = 0; i < FETCHES; i++) {
        struct flight *f = &h->flights[i];
        if (f->client != c) continue;
        if (f->lookup) pool_lookup_free(f->lookup);
        f->lookup = NULL;
        if (f->fetch) {
            pool_fetch_cancel(f->fetch);
            w_finish(&h->w, f->fetch);
        }
        f->fetch = NULL;
    }
    sim_bus_kill(h->w.clients[c].bus);
    w_client_end(&h->w, c);
    h->offers[c] = 0;
    memset(h->busy[c], 0, sizeof h->busy[c]);
}

static void flip(struct history *h) {
    struct pool_server *p = h->w.servers[draw(h, h->n_servers)].pool;
    struct dir *d = &p->dir;
    uint32_t e = (uint32_t)draw(h, d->n_extents);
    h->flips++;
    if (draw(h, 3) == 0) {
        uint64_t at = INDEX_HEADER_BYTES + draw(h, dir_index_bytes(d) - INDEX_HEADER_BYTES);
        d->index[at] ^= (uint8_t)(1 << draw(h, 8));
    } else if (d->extents[e].memory) {
        d->extents[e].memory[draw(h, dir_extent_bytes(d))] ^= (uint8_t)(1 << draw(h, 8));
    }
}

static void flip_on_ssd(struct history *h) {
    char path[96];
    snprintf(path, sizeof path, "%s/%d/blocks", h->w.dir, (int)draw(h, h->n_servers));
    int fd = open(path, O_RDWR);
    uint8_t byte;
    off_t end = lseek(fd, 0, SEEK_END);
    off_t at = end > SSD_ALIGN ? SSD_ALIGN + (off_t)draw(h, (uint64_t)(end - SSD_ALIGN)) : 0;
    if (fd >= 0 && at > 0 && pread(fd, &byte, 1, at) == 1) {
        byte ^= (uint8_t)(1 << draw(h, 8));
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    if (fd >= 0) close(fd);
}

static void recycle(struct history *h) {
    int c = live_client(h);
    /* the owner needs a page whatever the pool does with it: only those that are offered */
    if (c < 0) return;
    uint32_t page = (uint32_t)draw(h, W_PAGES);
    for (int i = 0; i < FETCHES; i++)
        for (uint32_t k = 0; k < h->flights[i].n && h->flights[i].fetch; k++)
            if (h->flights[i].client == c && h->flights[i].pages[k] == page) return;
    w_write(&h->w.clients[c], page, 0xbad);
}

static void one_step(struct history *h, bool faults) {
    uint64_t what = faults && draw(h, 5) == 0 ? 20 + draw(h, 15) : draw(h, 20);
    if (what < 8)
        do_offer(h);
    else if (what < 16)
        do_look(h);
    else if (what == 16)
        give_up(h);
    else if (what < 20)
        w_run(&h->w, draw(h, 200000));
    else if (what == 20)
        restart_server(h);
    else if (what == 21)
        new_epoch(h);
    else if (what == 22)
        fence_server(h);
    else if (what < 25)
        stop_or_go(h);
    else if (what == 25)
        lose_client(h);
    else if (what < 29)
        flip(h);
    else if (what == 29 && h->w.dir[0])
        flip_on_ssd(h);
    else if (what < 34)
        recycle(h);
    else if (what == 34)
        w_run(&h->w, draw(h, 100000000));
    w_run(&h->w, draw(h, 8000));
    watch(h);
}

static void quiet(struct history *h) {
    for (uint32_t i = 0; i < h->n_servers; i++) {
        if (h->w.servers[i].stopped) sim_bus_continue(h->w.servers[i].bus);
        h->w.servers[i].stopped = false;
    }
    for (int i = 0; i < 20; i++) {
        w_run(&h->w, 20000000);
        watch(h);
    }
    for (int i = 0; i < FETCHES; i++) assert_true(!h->flights[i].lookup && !h->flights[i].fetch);
    for (int i = 0; i < W_CLIENTS; i++) assert_int_equal(h->offers[i], 0);
    for (uint32_t i = 0; i < h->n_servers; i++) {
        const struct pool_server *p = h->w.servers[i].pool;
        for (int k = 0; k < SERVER_PULLS_MAX; k++) assert_int_equal(p->pulls[k].state, PULL_FREE);
        for (uint32_t e = 0; e < p->dir.n_extents; e++)
            assert_int_equal(p->dir.extents[e].n_filling, 0);
        for (uint32_t r = 0; r < p->dir.n_recs; r++) assert_false(p->dir.recs[r].busy);
    }
}

static uint64_t run(uint64_t seed, bool faults) {
    struct history *h = calloc(1, sizeof *h);
    h->seed = seed;
    h->state = seed * 0x9e3779b97f4a7c15u;
    w_new(&h->w, seed);
    h->n_servers = 1 + (uint32_t)draw(h, W_SERVERS);
    h->server.dram_blocks = 1 + (uint32_t)draw(h, draw(h, 4) ? 12 : 150);
    h->server.ssd_blocks = draw(h, 3) ? (uint32_t)draw(h, 8) : 0;
    for (uint32_t i = 0; i < h->n_servers; i++) {
        h->server.epoch = h->epoch[i] = 1;
        w_server(&h->w, (int)i, &h->server);
    }
    for (int i = 0; i < W_CLIENTS; i++) w_client(&h->w, i);
    w_run(&h->w, 1000000);
    for (int i = 0; i < STEPS; i++) one_step(h, faults);
    quiet(h);
    uint64_t fetched = h->fetched;
    if (!faults)
        for (int i = 0; i < W_CLIENTS; i++) {
            const struct pool_client_stats *s = pool_client_stats(h->w.clients[i].pool);
            assert_int_equal(s->offers, s->stored + s->known + s->refused);
        }
    w_free(&h->w);
    free(h);
    return fetched;
}

static uint64_t number(const char *name, uint64_t otherwise) {
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : otherwise;
}

static void run_seeds(bool faults) {
    uint64_t one = number("SEED", 0), n = number("SEEDS", 150), fetched = 0;
    for (uint64_t seed = one ? one : 1; seed <= (one ? one : n); seed++)
        fetched += run(seed, faults);
    printf("%lu blocks fetched\n", (unsigned long)fetched);
    assert_true(one || fetched > n); /* it is not all misses */
}

static void a_fetch_yields_what_was_stored_or_is_a_miss(void **state) {
    (void)state;
    run_seeds(false);
}
static void also_when_anything_may_break(void **state) {
    (void)state;
    run_seeds(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fetch_yields_what_was_stored_or_is_a_miss),
        cmocka_unit_test(also_when_anything_may_break),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

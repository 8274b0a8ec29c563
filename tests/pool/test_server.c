/* SPDX-License-Identifier: Apache-2.0 */
/* Servers and clients of the pool together: what was stored is found by others bit for bit, or not
 * at all. */
#include "pool_test.h"

static const struct w_server_options plain = {.dram_blocks = 16};

static void begin(struct world *w, const struct w_server_options *o, int clients) {
    w_new(w, 1);
    w_server(w, 0, o);
    for (int i = 0; i < clients; i++) w_client(w, i);
    w_run(w, 10000000);
}

static const struct pool_server_stats *stats(struct world *w) {
    return pool_server_stats(w->servers[0].pool);
}

static void a_stored_block_is_found_by_another_client(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    uint64_t chain[] = {1, 2, 3, 4};
    for (int i = 0; i < 3; i++) w_store(&w, 0, "t", chain[i]);
    assert_int_equal(w_fetch(&w, 1, "t", chain, 4), 3);
    assert_int_equal(w_fetch(&w, 0, "t", chain, 4), 3);
    const struct pool_client_stats *s = pool_client_stats(w.clients[1].pool);
    assert_int_equal(s->blocks_asked, 4);
    assert_int_equal(s->blocks_found, 3);
    assert_int_equal(s->blocks_fetched, 3);
    assert_int_equal(s->blocks_bad, 0);
    assert_int_equal(pool_client_stats(w.clients[0].pool)->stored, 3);
    assert_int_equal(stats(&w)->stored, 3);
    w_free(&w);
}

static void a_block_is_stored_once(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    w_store(&w, 0, "t", 7);
    w_store(&w, 1, "t", 7);
    assert_int_equal(pool_client_stats(w.clients[1].pool)->known, 1);
    /* two writers at the same moment */
    struct pool_key k = w_key(8);
    for (int i = 0; i < 2; i++) {
        struct w_client *c = &w.clients[i];
        w_write(c, 3, 8);
        assert_true(pool_offer(c->pool, "t", &k, 3, w_done, &c->n_done));
    }
    w_run(&w, 10000000);
    assert_int_equal(w.clients[0].n_done, 2);
    assert_int_equal(w.clients[1].n_done, 2);
    assert_int_equal(stats(&w)->stored, 2);
    assert_int_equal(stats(&w)->known, 2);
    assert_int_equal(stats(&w)->blocks_dram, 2);
    assert_int_equal(w_fetch_one(&w, 1, "t", 8), 1);
    w_free(&w);
}

static void who_was_read_gets_a_second_chance(void **state) {
    (void)state;
    struct world w;
    begin(&w, &(struct w_server_options){.dram_blocks = 4}, 2);
    for (uint64_t n = 1; n <= 4; n++) w_store(&w, 0, "t", n);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    assert_int_equal(w_fetch_one(&w, 1, "t", 3), 1);
    w_store(&w, 0, "t", 5);
    w_store(&w, 0, "t", 6);
    assert_int_equal(stats(&w)->hits_logged, 2);
    assert_int_equal(stats(&w)->evicted, 2);
    bool there[7];
    for (uint64_t n = 1; n <= 6; n++) there[n] = w_fetch_one(&w, 1, "t", n) == 1;
    assert_true(there[1] && !there[2] && there[3] && !there[4] && there[5] && there[6]);
    w_free(&w);
}

static void a_namespace_stays_within_its_quota(void **state) {
    (void)state;
    struct world w;
    struct pool_quota quota = {.tenant = "small", .dram_bytes = 2 * slot_bytes(&w_shape)};
    begin(&w, &(struct w_server_options){.dram_blocks = 8, .quotas = &quota, .n_quotas = 1}, 1);
    for (uint64_t n = 1; n <= 3; n++) w_store(&w, 0, "large", n);
    for (uint64_t n = 11; n <= 14; n++) w_store(&w, 0, "small", n);
    for (uint64_t n = 1; n <= 3; n++) assert_int_equal(w_fetch_one(&w, 0, "large", n), 1);
    for (uint64_t n = 11; n <= 14; n++) assert_int_equal(w_fetch_one(&w, 0, "small", n), n >= 13);
    assert_int_equal(stats(&w)->blocks_dram, 5);
    w_free(&w);
}

static void tenants_are_apart(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    w_store(&w, 0, "a", 1);
    assert_int_equal(w_fetch_one(&w, 1, "b", 1), 0);
    assert_int_equal(w_fetch_one(&w, 1, "", 1), 0);
    w_store(&w, 1, "b", 1);
    assert_int_equal(stats(&w)->stored, 2);
    assert_int_equal(stats(&w)->namespaces, 2);
    struct index_entry e[2];
    uint64_t at;
    for (uint32_t ns = 0; ns < 2; ns++) {
        struct pool_key k = w_key(1);
        const struct dir *d = &w.servers[0].pool->dir;
        e[ns] = *dir_entry(d, dir_find(d, ns, &k), &at);
    }
    assert_int_not_equal(e[0].segment, e[1].segment);
    w_free(&w);
}

/* A fetch begins, something happens after some of its work, and it goes on. */
static void fetch_with(struct world *w, uint32_t work, void (*event)(struct world *w)) {
    struct w_client *c = &w->clients[1];
    uint32_t n, pages[] = {4};
    struct block_gate gate;
    uint64_t bad = pool_client_stats(c->pool)->blocks_bad;
    struct pool_lookup *l = w_look(w, 1, "t", (uint64_t[]){1}, 1, &n);
    assert_int_equal(n, 1);
    c->no_copies = true;
    struct pool_fetch *f = pool_fetch_begin(c->pool, l, 0, 1, pages, &gate);
    pool_lookup_free(l);
    for (uint32_t i = 0; i < work; i++) {
        pool_client_copy(c->pool);
        w_run(w, 10000);
    }
    event(w);
    c->no_copies = false;
    w_finish(w, f);
    uint32_t parts = atomic_load(&gate.parts);
    assert_true(w_holds(c, 4, 1, parts));
    if (parts == block_parts(&w_shape)) { /* its last look came before the event */
        assert_true(work > 2 * parts);
        return;
    }
    assert_int_equal(atomic_load(&gate.bad), 0);
    assert_int_equal(pool_client_stats(c->pool)->blocks_bad, bad + 1);
}

static void evict_it(struct world *w) {
    w_store(w, 0, "t", 2);
    w_store(w, 0, "t", 3);
    w_store(w, 0, "t", 4);
    w_store(w, 0, "t", 5);
}
static void change_epoch(struct world *w) {
    pool_server_set_epoch(w->servers[0].pool, 2);
}
static void kill_it(struct world *w) {
    sim_bus_kill(w->servers[0].bus);
    w->servers[0].stopped = true;
    w_run(w, 2000000); /* until then its memory can be read */
}
static void fence_it(struct world *w) {
    pool_client_server_gone(w->clients[1].pool, "pool-0");
}
static void lose_it(struct world *w) {
    sim_bus_break(w->servers[0].bus, w->clients[1].bus);
    w_run(w, 2000000);
}

static void what_happens_to_a_server_in_mid_read_makes_a_miss(void **state) {
    (void)state;
    void (*const events[])(struct world *) = {evict_it, change_epoch, kill_it, fence_it, lose_it};
    for (size_t e = 0; e < sizeof events / sizeof *events; e++)
        for (uint32_t work = 0; work < 12; work++) {
            struct world w;
            begin(&w, &(struct w_server_options){.dram_blocks = 2}, 2);
            w_store(&w, 0, "t", 1);
            fetch_with(&w, work, events[e]);
            w_free(&w);
        }
}

static void blocks_of_an_older_epoch_are_not_found(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 1);
    w_store(&w, 0, "t", 1);
    change_epoch(&w);
    uint32_t found;
    pool_lookup_free(w_look(&w, 0, "t", (uint64_t[]){1}, 1, &found));
    assert_int_equal(found, 0);
    pool_client_server(w.clients[0].pool, "pool-0", "pool-0", 2);
    w_run(&w, 100000000);
    assert_int_equal(w_fetch_one(&w, 0, "t", 1), 1);
    pool_client_server(w.clients[0].pool, "pool-0", "pool-0", 3); /* ahead of the server */
    w_run(&w, 100000000);
    assert_int_equal(w_fetch_one(&w, 0, "t", 1), 0);
    w_free(&w);
}

static void a_page_that_is_used_anew_is_not_stored(void **state) {
    (void)state;
    for (uint64_t ns = 0; ns < 60000; ns += 500) {
        struct world w;
        begin(&w, &plain, 2);
        struct w_client *c = &w.clients[0];
        struct pool_key k = w_key(1);
        w_write(c, 2, 1);
        assert_true(pool_offer(c->pool, "t", &k, 2, w_done, &c->n_done));
        w_run(&w, ns);
        bool late = stats(&w)->stored == 1;
        w_write(c, 2, 99);
        w_run(&w, 50000000);
        assert_int_equal(c->n_done, 1);
        uint32_t n = w_fetch_one(&w, 1, "t", 1); /* compares the bytes */
        assert_true(n == 1 || !late);
        if (ns == 0) assert_int_equal(stats(&w)->bad_offers, 1);
        assert_int_equal(stats(&w)->blocks_dram, n);
        w_free(&w);
    }
}

static void hits_go_on_while_the_server_is_stopped_until_it_is_fenced(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    struct w_client *c = &w.clients[1];
    w_store(&w, 0, "t", 1);
    sim_bus_stop(w.servers[0].bus);
    w.servers[0].stopped = true;
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    struct pool_key k = w_key(2);
    w_write(c, 9, 2);
    assert_true(pool_offer(c->pool, "t", &k, 9, w_done, &c->n_done));
    w_run(&w, 3000000000); /* suspected by now */
    assert_int_equal(c->n_done, 1);
    assert_false(pool_offer(c->pool, "t", &k, 9, w_done, &c->n_done));
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    pool_client_server_gone(c->pool, "pool-0");
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
    /* it comes back with a new epoch, and has what it had */
    sim_bus_continue(w.servers[0].bus);
    w.servers[0].stopped = false;
    pool_server_set_epoch(w.servers[0].pool, 2);
    pool_client_server(c->pool, "pool-0", "pool-0", 2);
    w_run(&w, 100000000);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    w_free(&w);
}

static void a_dead_client_leaves_nothing_behind(void **state) {
    (void)state;
    for (uint64_t ns = 0; ns < 60000; ns += 1500) {
        struct world w;
        begin(&w, &plain, 2);
        struct w_client *c = &w.clients[0];
        for (uint32_t i = 0; i < 10; i++) {
            struct pool_key k = w_key(i);
            w_write(c, i, i);
            assert_true(pool_offer(c->pool, "t", &k, i, w_done, &c->n_done));
        }
        w_run(&w, ns);
        sim_bus_kill(c->bus);
        w_client_end(&w, 0);
        w_run(&w, 100000000);
        assert_int_equal(stats(&w)->clients, 1);
        assert_int_equal(stats(&w)->blocks_dram, stats(&w)->stored);
        for (int i = 0; i < SERVER_PULLS_MAX; i++)
            assert_int_equal(w.servers[0].pool->pulls[i].state, PULL_FREE);
        for (uint64_t i = 0; i < 10; i++) w_fetch_one(&w, 1, "t", i);
        w_free(&w);
    }
}

static void more_offers_than_fit_are_not_taken(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 1);
    struct w_client *c = &w.clients[0];
    uint32_t taken = 0;
    for (uint32_t i = 0; i < 100; i++) {
        struct pool_key k = w_key(i);
        taken += pool_offer(c->pool, "t", &k, i % W_PAGES, w_done, &c->n_done);
    }
    assert_int_equal(taken, CLIENT_OFFERS);
    w_run(&w, 100000000);
    assert_int_equal(c->n_done, taken);
    assert_int_equal(stats(&w)->blocks_dram, 16);
    w_free(&w);
}

static void each_server_has_its_share(void **state) {
    (void)state;
    struct world w;
    w_new(&w, 2);
    for (int i = 0; i < 3; i++) w_server(&w, i, &plain);
    for (int i = 0; i < 2; i++) w_client(&w, i);
    w_run(&w, 10000000);
    for (uint64_t n = 0; n < 24; n++) w_store(&w, 0, "t", n);
    uint32_t found = 0;
    for (uint64_t n = 0; n < 24; n++) found += w_fetch_one(&w, 1, "t", n);
    assert_int_equal(found, 24);
    for (int i = 0; i < 3; i++)
        assert_in_range(pool_server_stats(w.servers[i].pool)->blocks_dram, 3, 14);
    uint64_t lost = pool_server_stats(w.servers[1].pool)->blocks_dram;
    assert_int_equal(pool_client_stats(w.clients[1].pool)->servers, 3);
    pool_client_server_gone(w.clients[1].pool, "pool-1");
    assert_int_equal(pool_client_stats(w.clients[1].pool)->servers, 2);
    found = 0;
    for (uint64_t n = 0; n < 24; n++) found += w_fetch_one(&w, 1, "t", n);
    assert_int_equal(found, 24 - lost);
    w_free(&w);
}

/* --- damage ---------------------------------------------------------------------------------- */

static void every_damaged_bit_of_a_block_is_a_miss(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    struct dir *d = &w.servers[0].pool->dir;
    struct pool_key k = w_key(1);
    uint64_t bits = (slot_header_bytes(&w_shape) + block_bytes(&w_shape)) * 8;
    for (uint64_t bit = 0; bit < bits; bit++) {
        w_store(&w, 0, "t", 1);
        uint32_t slot = d->blocks[dir_find(d, 0, &k)].slot;
        uint8_t *at = (uint8_t *)dir_slot_header(d, slot);
        at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
        assert_int_equal(pool_client_stats(w.clients[1].pool)->blocks_bad, bit + 1);
        w_run(&w, 100000); /* the server hears of it, and drops the block */
        assert_int_equal(stats(&w)->dram_bad, bit + 1);
    }
    w_free(&w);
}

static void doubts_are_looked_at_one_in_a_step_and_too_many_are_forgotten(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 1);
    struct pool_server *s = w.servers[0].pool;
    uint64_t at;
    w_store(&w, 0, "t", 1);
    struct pool_key k = w_key(1);
    uint32_t block = dir_find(&s->dir, 0, &k);
    struct wire_doubt d = {.key = k, .tenant = "t"};
    d.generation = dir_entry(&s->dir, block, &at)->generation;
    struct server_client *c = s->clients[0];
    bus_id peer = w.clients[0].pool->links[0].peer;
    for (int i = 0; i < 100; i++) /* it is whole: nothing but work */
        assert_int_equal(wire_send(w.clients[0].bus, peer, WIRE_DOUBT, &d, 1), ST_OK);
    struct bus_event ev;
    while (sim_net_next(w.net) != UINT64_MAX && c->n_doubts < SERVER_DOUBTS_MAX) {
        sim_net_advance(w.net, sim_net_next(w.net));
        while (bus_next(w.servers[0].bus, &ev)) pool_server_event(s, &ev);
    }
    assert_int_equal(c->n_doubts, SERVER_DOUBTS_MAX);
    (void)pool_server_step(s, 0);
    assert_int_equal(c->n_doubts, SERVER_DOUBTS_MAX - 1);
    w_run(&w, 10000000);
    assert_int_equal(c->n_doubts, 0);
    assert_int_equal(stats(&w)->dram_bad, 0);
    assert_int_equal(w_fetch_one(&w, 0, "t", 1), 1);
    w_free(&w);
}

static void a_client_that_reads_nothing_is_let_go(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 1);
    struct pool_server *s = w.servers[0].pool;
    struct server_client *c = s->clients[0];
    size_t n = BUS_UNSENT_MAX / 4 - 1; /* four leave less than an answer */
    void *much = calloc(1, n);
    assert_non_null(much);
    while (bus_send(w.servers[0].bus, c->peer, much, n) == ST_OK) {
    }
    free(much);
    c->answers[c->n_answers++] = (struct wire_answer){.id = 1};
    assert_int_equal(stats(&w)->clients, 1);
    (void)pool_server_step(s, 0);
    assert_int_equal(stats(&w)->clients, 0);
    w_client(&w, 1); /* others notice nothing */
    w_run(&w, 10000000);
    w_store(&w, 1, "t", 1);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    w_free(&w);
}

static void every_damaged_bit_of_an_index_entry_is_a_miss(void **state) {
    (void)state;
    struct world w;
    begin(&w, &plain, 2);
    struct dir *d = &w.servers[0].pool->dir;
    struct pool_key k = w_key(1);
    w_store(&w, 0, "t", 1);
    uint64_t where;
    uint8_t *at = (uint8_t *)(uintptr_t)dir_entry(d, dir_find(d, 0, &k), &where);
    for (uint32_t bit = 0; bit < 512; bit++) {
        at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
        assert_int_equal(pool_client_stats(w.clients[1].pool)->blocks_bad, bit + 1);
        at[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    w_free(&w);
}

static void a_server_that_does_not_answer_is_called_again(void **state) {
    (void)state;
    struct world w;
    struct bus *mute;
    struct bus_event ev;
    struct err err;
    uint32_t calls = 0;
    w_new(&w, 1);
    struct bus_identity id = w_identity("pool-0");
    assert_int_equal(sim_bus_new(&mute, w.net, "pool-0", &id, &err), ST_OK);
    w_client(&w, 0);
    pool_client_server(w.clients[0].pool, "pool-0", "pool-0", 1);
    for (int i = 0; i < 50; i++) {
        w_run(&w, 10000000);
        while (bus_next(mute, &ev)) calls += ev.kind == BUS_UP;
    }
    assert_in_range(calls, 3, 10);
    w_client_end(&w, 0);
    bus_free(mute);
    w_free(&w);
}

static void what_a_server_has_is_found_by_who_just_learned_of_it(void **state) {
    (void)state;
    struct world w;
    uint64_t chain[] = {1, 2, 3, 4};
    begin(&w, &plain, 1);
    for (int i = 0; i < 3; i++) w_store(&w, 0, "t", chain[i]);
    w_client(&w, 1); /* and nothing of what it said has arrived yet */
    assert_int_equal(w_fetch(&w, 1, "t", chain, 4), 3);
    w_free(&w);
}

static void one_that_does_not_answer_is_waited_for_only_once(void **state) {
    (void)state;
    struct world w;
    uint64_t block = 1;
    uint32_t found;
    begin(&w, &plain, 1);
    w_store(&w, 0, "t", block);
    w.servers[0].stopped = true;
    w_client(&w, 1);
    for (int i = 0; i < 2; i++) {
        uint64_t before = sim_net_now(w.net);
        pool_lookup_free(w_look(&w, 1, "t", &block, 1, &found));
        assert_int_equal(found, 0);
        uint64_t took = sim_net_now(w.net) - before;
        assert_true(i ? took == 0 : took >= 49000000 && took <= 51000000);
        w_run(&w, 60000000); /* it is called again, and not waited for */
    }
    w.servers[0].stopped = false;
    w_run(&w, 100000000);
    assert_int_equal(w_fetch_one(&w, 1, "t", block), 1);
    w_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_server_has_is_found_by_who_just_learned_of_it),
        cmocka_unit_test(one_that_does_not_answer_is_waited_for_only_once),
        cmocka_unit_test(a_server_that_does_not_answer_is_called_again),
        cmocka_unit_test(a_stored_block_is_found_by_another_client),
        cmocka_unit_test(a_block_is_stored_once),
        cmocka_unit_test(who_was_read_gets_a_second_chance),
        cmocka_unit_test(a_namespace_stays_within_its_quota),
        cmocka_unit_test(tenants_are_apart),
        cmocka_unit_test(what_happens_to_a_server_in_mid_read_makes_a_miss),
        cmocka_unit_test(blocks_of_an_older_epoch_are_not_found),
        cmocka_unit_test(a_page_that_is_used_anew_is_not_stored),
        cmocka_unit_test(hits_go_on_while_the_server_is_stopped_until_it_is_fenced),
        cmocka_unit_test(a_dead_client_leaves_nothing_behind),
        cmocka_unit_test(more_offers_than_fit_are_not_taken),
        cmocka_unit_test(each_server_has_its_share),
        cmocka_unit_test(every_damaged_bit_of_a_block_is_a_miss),
        cmocka_unit_test(doubts_are_looked_at_one_in_a_step_and_too_many_are_forgotten),
        cmocka_unit_test(a_client_that_reads_nothing_is_let_go),
        cmocka_unit_test(every_damaged_bit_of_an_index_entry_is_a_miss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

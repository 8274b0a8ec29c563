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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stored_block_is_found_by_another_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

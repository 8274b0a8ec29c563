/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks that leave DRAM for the SSD and come back, also after a restart; and a disk that fails. */
#include "pool_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static const struct w_server_options tight = {.dram_blocks = 2, .ssd_blocks = 8};

static void begin(struct world *w, const struct w_server_options *o) {
    w_new(w, 1);
    w_server(w, 0, o);
    for (int i = 0; i < 2; i++) w_client(w, i);
    w_run(w, 10000000);
}

static const struct pool_server_stats *stats(struct world *w) {
    return pool_server_stats(w->servers[0].pool);
}

static void what_leaves_dram_comes_back_from_ssd(void **state) {
    (void)state;
    struct world w;
    begin(&w, &tight);
    for (uint64_t n = 1; n <= 5; n++) w_store(&w, 0, "t", n);
    assert_int_equal(stats(&w)->evicted_to_ssd, 3);
    assert_int_equal(stats(&w)->evicted, 0);
    for (uint64_t n = 1; n <= 5; n++) assert_int_equal(w_fetch_one(&w, 1, "t", n), 1);
    assert_true(pool_client_stats(w.clients[1].pool)->blocks_from_ssd >= 3);
    for (uint64_t n = 0; n < 200; n++) /* and so for ever: more than may be under way */
        assert_int_equal(w_fetch_one(&w, 1, "t", 1 + n % 5), 1);
    assert_int_equal(stats(&w)->ssd_asked, stats(&w)->ssd_found);
    /* the same block is not written twice */
    assert_int_equal(ssd_stats(w.servers[0].ssd)->writes, 5);
    assert_int_equal(pool_client_stats(w.clients[1].pool)->blocks_bad, 0);
    /* a chain on both tiers, in one fetch that needs less than all of DRAM */
    uint64_t chain[] = {4, 5};
    assert_int_equal(w_fetch(&w, 1, "t", chain, 2), 2);
    w_free(&w);
}

static void a_chain_longer_than_dram_is_at_least_not_wrong(void **state) {
    (void)state;
    struct world w;
    begin(&w, &tight);
    uint64_t chain[] = {1, 2, 3, 4, 5, 6};
    for (uint32_t i = 0; i < 6; i++) w_store(&w, 0, "t", chain[i]);
    assert_true(w_fetch(&w, 1, "t", chain, 6) < 6);
    assert_int_equal(w_fetch(&w, 1, "t", chain, 2), 2);
    w_free(&w);
}

static void ssd_is_bounded_and_the_oldest_goes(void **state) {
    (void)state;
    struct world w;
    begin(&w, &(struct w_server_options){.dram_blocks = 1, .ssd_blocks = 3});
    for (uint64_t n = 1; n <= 6; n++) w_store(&w, 0, "t", n);
    assert_int_equal(stats(&w)->blocks_ssd, 3);
    assert_int_equal(stats(&w)->blocks_ssd_max, 3);
    uint32_t n_found = 0;
    for (uint64_t n = 1; n <= 2; n++) n_found += w_fetch_one(&w, 1, "t", n);
    assert_int_equal(n_found, 0);
    for (uint64_t n = 3; n <= 6; n++) {
        uint32_t found;
        pool_lookup_free(w_look(&w, 1, "t", &n, 1, &found));
        n_found += found;
    }
    assert_int_equal(n_found, 4);
    w_free(&w);
}

static void a_restarted_server_has_what_was_on_ssd(void **state) {
    (void)state;
    struct world w;
    begin(&w, &tight);
    for (uint64_t n = 1; n <= 6; n++) w_store(&w, 0, n % 2 ? "t" : "u", n);
    w_server_end(&w, 0);
    w_run(&w, 10000000);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
    struct w_server_options again = tight;
    again.epoch = 2;
    w_server(&w, 0, &again);
    for (int i = 0; i < 2; i++) pool_client_server(w.clients[i].pool, "pool-0", "pool-0", 2);
    w_run(&w, 100000000);
    assert_int_equal(stats(&w)->blocks_ssd, 4);
    for (uint64_t n = 1; n <= 6; n++) {
        assert_int_equal(w_fetch_one(&w, 1, n % 2 ? "t" : "u", n), n <= 4);
        assert_int_equal(w_fetch_one(&w, 1, n % 2 ? "u" : "t", n), 0);
    }
    w_store(&w, 0, "t", 5);
    assert_int_equal(w_fetch_one(&w, 1, "t", 5), 1);
    w_free(&w);
}

static void a_server_works_while_it_looks_at_what_was_on_ssd(void **state) {
    (void)state;
    struct world w;
    struct w_server_options o = {.dram_blocks = 2, .ssd_blocks = 40};
    begin(&w, &o);
    for (uint64_t n = 1; n <= 40; n++) w_store(&w, 0, "t", n);
    assert_int_equal(stats(&w)->blocks_ssd, 38);
    w_server_end(&w, 0);
    o.epoch = 2;
    w_server(&w, 0, &o);
    assert_int_equal(stats(&w)->blocks_ssd, 0);
    for (uint32_t i = 0; i < 38; i++) { /* a piece in each step */
        (void)pool_server_step(w.servers[0].pool, 0);
        assert_in_range(stats(&w)->blocks_ssd, i ? i - 1 : 0, i + 1);
    }
    for (int i = 0; i < 2; i++) pool_client_server(w.clients[i].pool, "pool-0", "pool-0", 2);
    w_run(&w, 100000000);
    assert_int_equal(stats(&w)->blocks_ssd, 38);
    for (uint64_t n = 1; n <= 38; n++) assert_int_equal(w_fetch_one(&w, 1, "t", n), 1);
    w_free(&w);
}

static void a_damaged_record_is_a_miss_and_is_forgotten(void **state) {
    (void)state;
    struct world w;
    begin(&w, &tight);
    char path[96];
    snprintf(path, sizeof path, "%s/0/blocks", w.dir);
    for (uint64_t n = 1; n <= 4; n++) w_store(&w, 0, "t", n);
    int fd = open(path, O_RDWR);
    uint8_t byte;
    off_t at = SSD_ALIGN + ssd_head_bytes(&w_shape) + 100; /* block 1 is in record 0 */
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
    assert_int_equal(stats(&w)->ssd_bad, 1);
    assert_int_equal(pool_client_stats(w.clients[1].pool)->blocks_bad, 1);
    assert_int_equal(w_fetch_one(&w, 1, "t", 2), 1);
    w_store(&w, 0, "t", 1);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 1);
    w_free(&w);
}

static void a_full_disk_leaves_dram_alone(void **state) {
    (void)state;
    struct world w;
    struct rlimit was, small;
    begin(&w, &tight);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, SIG_IGN);
    small = was;
    small.rlim_cur = w_ssd_bytes(2) + 512;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint64_t n = 1; n <= 12; n++) {
        w_store(&w, 0, "t", n);
        assert_int_equal(w_fetch_one(&w, 1, "t", n), 1);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    /* what does not fit is not tried again and again, while what fits is used for ever */
    assert_int_equal(ssd_stats(w.servers[0].ssd)->write_errors, 1);
    assert_int_equal(stats(&w)->blocks_ssd, 2);
    uint32_t found = 0;
    for (uint64_t n = 1; n <= 10; n++) found += w_fetch_one(&w, 1, "t", n);
    assert_in_range(found, 1, 3); /* what fits onto the disk */
    w_free(&w);
}

static void an_ssd_hit_on_a_stopped_server_is_a_miss_in_time(void **state) {
    (void)state;
    struct world w;
    begin(&w, &tight);
    for (uint64_t n = 1; n <= 4; n++) w_store(&w, 0, "t", n);
    sim_bus_stop(w.servers[0].bus);
    w.servers[0].stopped = true;
    uint64_t before = sim_net_now(w.net);
    assert_int_equal(w_fetch_one(&w, 1, "t", 1), 0);
    assert_true(sim_net_now(w.net) - before < 60000000);
    assert_int_equal(w_fetch_one(&w, 1, "t", 4), 1);
    w_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_leaves_dram_comes_back_from_ssd),
        cmocka_unit_test(a_chain_longer_than_dram_is_at_least_not_wrong),
        cmocka_unit_test(ssd_is_bounded_and_the_oldest_goes),
        cmocka_unit_test(a_restarted_server_has_what_was_on_ssd),
        cmocka_unit_test(a_server_works_while_it_looks_at_what_was_on_ssd),
        cmocka_unit_test(a_damaged_record_is_a_miss_and_is_forgotten),
        cmocka_unit_test(a_full_disk_leaves_dram_alone),
        cmocka_unit_test(an_ssd_hit_on_a_stopped_server_is_a_miss_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

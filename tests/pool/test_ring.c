/* SPDX-License-Identifier: Apache-2.0 */
/* Placement of keys: shares are even, all peers agree, and who comes or goes moves only its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "pool/ring.h"

enum { KEYS = 20000 };

static struct pool_key key(uint32_t n) {
    struct pool_key k = {{0}};
    memcpy(k.bytes, &n, sizeof n);
    return k;
}

static void fill(struct ring *r, int n) {
    char name[BUS_NAME_BYTES];
    struct err err;
    assert_int_equal(ring_init(r, &err), ST_OK);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "pool-%d", i);
        assert_int_equal(ring_add(r, name), i);
    }
}

static const char *home(const struct ring *r, uint32_t n) {
    struct pool_key k = key(n);
    int slot = ring_find(r, &k);
    return slot == RING_NONE ? NULL : r->names[slot];
}

static void every_server_has_about_its_share(void **state) {
    (void)state;
    for (int n = 2; n <= 16; n *= 2) {
        struct ring r;
        fill(&r, n);
        int count[RING_SERVERS_MAX] = {0};
        for (uint32_t k = 0; k < KEYS; k++) {
            struct pool_key key_k = key(k);
            count[ring_find(&r, &key_k)]++;
        }
        for (int i = 0; i < n; i++) {
            assert_true(count[i] * n > KEYS * 3 / 4);
            assert_true(count[i] * n < KEYS * 5 / 4);
        }
        ring_release(&r);
    }
}

static void a_server_that_comes_or_goes_moves_only_its_share(void **state) {
    (void)state;
    struct ring five, four;
    fill(&five, 5);
    fill(&four, 5);
    ring_remove(&four, "pool-2");
    uint32_t moved = 0;
    for (uint32_t k = 0; k < KEYS; k++) {
        bool its = strcmp(home(&five, k), "pool-2") == 0;
        if (its)
            assert_string_not_equal(home(&four, k), "pool-2");
        else
            assert_string_equal(home(&five, k), home(&four, k));
        moved += its;
    }
    assert_true(moved > KEYS / 5 * 3 / 4 && moved < KEYS / 5 * 5 / 4);
    assert_int_equal(ring_add(&four, "pool-2"), 2);
    for (uint32_t k = 0; k < KEYS; k++) assert_string_equal(home(&five, k), home(&four, k));
    ring_release(&five);
    ring_release(&four);
}

static void peers_agree_in_whatever_order_they_heard(void **state) {
    (void)state;
    struct ring a, b;
    struct err err;
    fill(&a, 7);
    assert_int_equal(ring_init(&b, &err), ST_OK);
    const char *names[] = {"pool-6", "pool-0", "gone",   "pool-3",
                           "pool-5", "pool-1", "pool-2", "pool-4"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) ring_add(&b, names[i]);
    ring_remove(&b, "gone");
    for (uint32_t k = 0; k < KEYS; k++) assert_string_equal(home(&a, k), home(&b, k));
    ring_release(&a);
    ring_release(&b);
}

static void bad_names_and_a_full_list_are_refused(void **state) {
    (void)state;
    struct ring r;
    fill(&r, RING_SERVERS_MAX);
    assert_int_equal(ring_add(&r, "one more"), RING_NONE);
    assert_int_equal(ring_add(&r, "pool-3"), 3);
    ring_remove(&r, "nobody");
    ring_remove(&r, "pool-3");
    assert_int_equal(ring_add(&r, ""), RING_NONE);
    assert_int_equal(ring_add(&r, "a name that is longer than a name may be"), RING_NONE);
    assert_int_equal(ring_add(&r, "one more"), 3);
    ring_release(&r);
    struct err err;
    assert_int_equal(ring_init(&r, &err), ST_OK);
    assert_null(home(&r, 1));
    ring_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_server_has_about_its_share),
        cmocka_unit_test(a_server_that_comes_or_goes_moves_only_its_share),
        cmocka_unit_test(peers_agree_in_whatever_order_they_heard),
        cmocka_unit_test(bad_names_and_a_full_list_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

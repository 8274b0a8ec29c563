/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/ahead.h"

/* Little more than the margin: what is touched takes its time where every core is busy. */
enum { LAYERS = 3, PAGE_BYTES = 16384, MARGIN = (64 << 20) / (LAYERS * PAGE_BYTES), PAGES = 1800 };

static struct kv cache(void) {
    struct model_config c = {.n_layers = LAYERS, .kv_lora = 60, .rope = 4};
    struct kv kv;
    struct err err;
    assert_int_equal(kv_init(&kv, &c, OPS_BF16, PAGES, NULL, &err), ST_OK);
    assert_int_equal(kv.page_bytes, PAGE_BYTES);
    return kv;
}

/* Before Linux 5.14 nothing is touched ahead. */
static void need_kernel(void) {
    enum { POPULATE_WRITE = 23 };
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    int rc = madvise(p, bytes, POPULATE_WRITE);
    munmap(p, bytes);
    if (rc != 0) skip();
}

static void wait_touched(struct ahead *a, uint32_t n) {
    for (int i = 0; i < 60000 && ahead_touched(a) < n; i++) usleep(1000);
    assert_true(ahead_touched(a) >= n);
}

static void stays_a_margin_ahead_of_what_is_used(void **state) {
    (void)state;
    need_kernel();
    struct kv kv = cache();
    struct ahead *a;
    struct err err;
    assert_int_equal(ahead_new(&a, &kv, &err), ST_OK);
    wait_touched(a, MARGIN);
    usleep(20000);
    assert_true(ahead_touched(a) < MARGIN + 128); /* it takes 2 MiB of a layer at a time */
    ahead_used(a, 200);
    wait_touched(a, MARGIN + 201);
    usleep(20000);
    assert_true(ahead_touched(a) < PAGES);
    ahead_used(a, 5); /* lower: nothing to do */
    ahead_used(a, PAGES - 1);
    wait_touched(a, PAGES);
    assert_int_equal(ahead_touched(a), PAGES);
    ahead_free(a);
    kv_release(&kv);
}

static void leaves_what_was_written(void **state) {
    (void)state;
    need_kernel();
    struct kv kv = cache();
    struct ahead *a;
    struct err err;
    for (uint32_t p = 0; p < PAGES; p += 97) memset(kv_page(&kv, 1, p), 7, PAGE_BYTES);
    assert_int_equal(ahead_new(&a, &kv, &err), ST_OK);
    ahead_used(a, PAGES - 1);
    wait_touched(a, PAGES);
    ahead_free(a);
    for (uint32_t p = 0; p < PAGES; p += 97) {
        assert_int_equal(kv_page(&kv, 1, p)[0], 7);
        assert_int_equal(kv_page(&kv, 1, p)[PAGE_BYTES - 1], 7);
    }
    kv_release(&kv);
}

static void ends_while_there_is_much_to_do(void **state) {
    (void)state;
    struct kv kv = cache();
    struct err err;
    for (int i = 0; i < 20; i++) {
        struct ahead *a;
        assert_int_equal(ahead_new(&a, &kv, &err), ST_OK);
        ahead_used(a, PAGES - 1);
        ahead_free(a);
    }
    ahead_free(NULL);
    kv_release(&kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stays_a_margin_ahead_of_what_is_used),
        cmocka_unit_test(leaves_what_was_written),
        cmocka_unit_test(ends_while_there_is_much_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

static void products_and_sums_that_overflow_are_refused(void **state) {
    (void)state;
    uint64_t out;
    assert_true(u64_mul(&out, 1u << 20, 1u << 20));
    assert_int_equal(out, (uint64_t)1 << 40);
    assert_false(u64_mul(&out, (uint64_t)1 << 40, (uint64_t)1 << 24));
    assert_true(u64_add(&out, UINT64_MAX - 1, 1));
    assert_false(u64_add(&out, UINT64_MAX, 1));
}

static void buffer_grows_to_its_maximum_and_stays_whole_when_full(void **state) {
    (void)state;
    struct buf b = {.max = 1000};
    for (int i = 0; i < 250; i++) assert_int_equal(buf_append(&b, "abcd", 4), ST_OK);
    assert_int_equal(b.len, 1000);
    assert_int_equal(buf_append(&b, "x", 1), ST_FULL);
    assert_int_equal(b.len, 1000);
    assert_int_equal(strlen(b.data), 1000);
    buf_release(&b);
    assert_null(b.data);
    assert_int_equal(buf_printf(&b, "%d-%s", 7, "x"), ST_OK);
    assert_string_equal(b.data, "7-x");
    assert_int_equal(buf_append(&b, NULL, SIZE_MAX), ST_FULL);
    assert_int_equal(buf_append(&b, NULL, 0), ST_OK);
    buf_release(&b);
}

static void readers_take_unaligned_bytes(void **state) {
    (void)state;
    const uint8_t bytes[] = {0xff, 1, 0, 0, 0, 2, 0, 0, 0};
    assert_int_equal(rd_u32le(bytes + 1), 1);
    assert_int_equal(rd_u64le(bytes + 1), 0x200000001u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_and_sums_that_overflow_are_refused),
        cmocka_unit_test(buffer_grows_to_its_maximum_and_stays_whole_when_full),
        cmocka_unit_test(readers_take_unaligned_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes between processes: the reader stays inside what it was given, whatever that says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/wire.h"

/* On the heap and of its exact length, so that ASan sees a reader that leaves it. */
static struct wire_in reader(uint8_t **bytes, const void *data, size_t len) {
    *bytes = malloc(len ? len : 1);
    assert_non_null(*bytes);
    if (len) memcpy(*bytes, data, len);
    return (struct wire_in){.at = *bytes, .left = len};
}

static void what_was_written_is_read_in_order(void **state) {
    (void)state;
    struct buf b = {.max = 1000};
    struct wire_out w = {&b, ST_OK};
    char text[8];
    wire_put_u8(&w, 200);
    wire_put_u32(&w, 0x12345678);
    wire_put_u64(&w, UINT64_MAX - 1);
    wire_put_f32(&w, -0.5f);
    wire_put_text(&w, "name");
    wire_put_text(&w, "");
    assert_int_equal(w.st, ST_OK);
    struct wire_in r = {.at = (uint8_t *)b.data, .left = b.len};
    assert_int_equal(wire_get_u8(&r), 200);
    assert_int_equal(wire_get_u32(&r), 0x12345678);
    assert_true(wire_get_u64(&r) == UINT64_MAX - 1);
    assert_true(wire_get_f32(&r) == -0.5f);
    assert_false(wire_get_end(&r));
    wire_get_text(&r, text, sizeof text);
    assert_string_equal(text, "name");
    wire_get_text(&r, text, sizeof text);
    assert_string_equal(text, "");
    assert_true(wire_get_end(&r));
    buf_release(&b);
}

static void a_writer_stops_at_its_first_failure(void **state) {
    (void)state;
    struct buf b = {.max = 6};
    struct wire_out w = {&b, ST_OK};
    wire_put_u32(&w, 1);
    wire_put_u32(&w, 2);
    assert_int_not_equal(w.st, ST_OK);
    wire_put_u8(&w, 3); /* it would fit */
    assert_int_equal(b.len, 4);
    buf_release(&b);
}

static void a_reader_never_leaves_its_bytes_and_bad_stays_bad(void **state) {
    (void)state;
    static const uint8_t data[7] = {1, 2, 3, 4, 5, 6, 7};
    for (size_t len = 0; len <= sizeof data; len++) {
        uint8_t *bytes;
        struct wire_in r = reader(&bytes, data, len);
        assert_true(wire_get_u64(&r) == 0);
        assert_true(r.bad);
        assert_int_equal(wire_get_u8(&r), 0); /* though bytes are there */
        assert_int_equal(wire_get_u32(&r), 0);
        assert_true(wire_get_f32(&r) == 0);
        assert_null(wire_get(&r, 0));
        assert_false(wire_get_end(&r));
        free(bytes);
    }
}

static void lengths_past_the_end_are_refused(void **state) {
    (void)state;
    uint8_t *bytes;
    struct wire_in r = reader(&bytes, "abc", 3);
    assert_null(wire_get(&r, SIZE_MAX));
    assert_true(r.bad);
    r = (struct wire_in){.at = bytes, .left = 3};
    assert_non_null(wire_get(&r, 3));
    assert_true(wire_get_end(&r));
    free(bytes);
}

static void counts_are_bounded_by_what_is_left(void **state) {
    (void)state;
    for (uint32_t n = 0; n < 6; n++) {
        uint8_t data[4 + 35] = {(uint8_t)n}, *bytes; /* room for four of 8 bytes */
        struct wire_in r = reader(&bytes, data, sizeof data);
        assert_int_equal(wire_get_count(&r, 8), n <= 4 ? n : 0);
        assert_int_equal(r.bad, n > 4);
        free(bytes);
    }
    uint8_t *bytes;
    struct wire_in r = reader(&bytes, "\xff\xff\xff\xff____", 8);
    assert_int_equal(wire_get_count(&r, 1), 0);
    assert_true(r.bad);
    free(bytes);
}

static void a_text_fits_or_is_bad(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *text; /* NULL: bad */
    } cases[] = {
        {"\x03"
         "abc",
         4, "abc"},
        {"\x04"
         "abcd",
         5, NULL}, /* no room for its end */
        {"\x03"
         "ab",
         3, NULL}, /* cut off */
        {"\x03"
         "a\0c",
         4, NULL},
        {"", 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[4] = "xyz";
        uint8_t *bytes;
        struct wire_in r = reader(&bytes, cases[i].bytes, cases[i].len);
        wire_get_text(&r, text, sizeof text);
        assert_int_equal(r.bad, !cases[i].text);
        assert_string_equal(text, cases[i].text ? cases[i].text : "");
        free(bytes);
    }
}

static void a_long_text_is_cut_at_255_bytes(void **state) {
    (void)state;
    char text[400], back[256];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 0;
    struct buf b = {.max = 1000};
    struct wire_out w = {&b, ST_OK};
    wire_put_text(&w, text);
    struct wire_in r = {.at = (uint8_t *)b.data, .left = b.len};
    wire_get_text(&r, back, sizeof back);
    assert_true(wire_get_end(&r));
    assert_int_equal(strlen(back), 255);
    buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read_in_order),
        cmocka_unit_test(a_writer_stops_at_its_first_failure),
        cmocka_unit_test(a_reader_never_leaves_its_bytes_and_bad_stays_bad),
        cmocka_unit_test(lengths_past_the_end_are_refused),
        cmocka_unit_test(counts_are_bounded_by_what_is_left),
        cmocka_unit_test(a_text_fits_or_is_bad),
        cmocka_unit_test(a_long_text_is_cut_at_255_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

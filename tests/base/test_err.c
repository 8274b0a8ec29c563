/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

static void place_goes_in_front(void **state) {
    (void)state;
    struct err err;
    assert_int_equal(err_set(&err, ST_CORRUPT, "found %d", 3), ST_CORRUPT);
    assert_int_equal(err_prefix(&err, "%s: ", "file"), ST_CORRUPT);
    assert_string_equal(err.text, "file: found 3");
}

static void long_sentences_are_cut_not_overrun(void **state) {
    (void)state;
    struct err err;
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    err_set(&err, ST_INVALID, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    err_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    err_set(&err, ST_INVALID, "end");
    err_prefix(&err, "%.505s", big);
    assert_int_equal(strlen(err.text), 508);
    assert_string_equal(err.text + 505, "end");
}

static void names_from_strangers_are_made_printable(void **state) {
    (void)state;
    struct err err;
    err_set(&err, ST_INVALID,
            "a\x1b[2J\nb \xc3\xa4 \xe6\x9d\xb1 \xf0\x9f\xa6\x8a \xff \xc3 \xc2\x9b \xed\xa0\x80 "
            "\xf4\x90\x80\x80 \xe6\x9d");
    assert_string_equal(err.text,
                        "a?[2J?b \xc3\xa4 \xe6\x9d\xb1 \xf0\x9f\xa6\x8a ? ? ?? ??? ???? ??");
    char big[600];
    memset(big, 'x', sizeof big);
    err_set(&err, ST_INVALID, "%.510s\xc3\xa4", big); /* cut inside the last character */
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(err.text[510], '?');
    err_set(&err, ST_INVALID, "b");
    err_prefix(&err, "\x07");
    assert_string_equal(err.text, "?b");
}

static void no_place_for_a_sentence_is_allowed(void **state) {
    (void)state;
    assert_int_equal(err_set(NULL, ST_FULL, "x"), ST_FULL);
}

static void errno_becomes_what_the_caller_can_do(void **state) {
    (void)state;
    assert_int_equal(st_from_errno(ENOENT), ST_NOT_FOUND);
    assert_int_equal(st_from_errno(ENOMEM), ST_NO_MEMORY);
    assert_int_equal(st_from_errno(EACCES), ST_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(place_goes_in_front),
        cmocka_unit_test(long_sentences_are_cut_not_overrun),
        cmocka_unit_test(names_from_strangers_are_made_printable),
        cmocka_unit_test(no_place_for_a_sentence_is_allowed),
        cmocka_unit_test(errno_becomes_what_the_caller_can_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

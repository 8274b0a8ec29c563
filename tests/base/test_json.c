/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static json_t *parse(const char *text) {
    json_t *v;
    struct err err;
    assert_int_equal(json_parse(&v, text, strlen(text), "t", &err), ST_OK);
    return v;
}

static void errors_say_where(void **state) {
    (void)state;
    json_t *v;
    struct err err;
    assert_int_equal(json_parse(&v, "{\"a\":1,\n \"a\":2}", 15, "f.json", &err), ST_INVALID);
    assert_non_null(strstr(err.text, "f.json: line 2 column"));
    assert_int_equal(json_parse(&v, "", 0, "f.json", &err), ST_INVALID);
    char *deep = malloc(200000);
    memset(deep, '[', 200000);
    assert_int_equal(json_parse(&v, deep, 200000, "deep", &err), ST_INVALID);
    free(deep);
}

static void memory_is_bounded(void **state) {
    (void)state;
    enum { N = 2000000 };
    char *text = malloc(N * 3 + 2);
    size_t n = 0;
    json_t *v;
    struct err err;
    text[n++] = '[';
    for (int i = 0; i < N; i++) memcpy(text + n, "{},", 3), n += 3;
    text[n - 1] = ']';
    assert_int_equal(json_parse(&v, text, n, "f.json", &err), ST_FULL);
    assert_string_equal(
        err.text, "f.json: its many small values take more than 256 MiB, for 6000001 bytes of "
                  "text");
    assert_int_equal(json_parse(&v, "[1]", 3, "f.json", &err), ST_OK);
    json_decref(v);
    free(text);
}

static void numbers_are_checked_for_type_and_range(void **state) {
    (void)state;
    struct err err;
    uint32_t u;
    double d;
    json_t *v = parse("{\"a\":{\"b\":7},\"r\":4.0,\"x\":4.5,\"neg\":-1,\"big\":1e300,\"s\":\"7\","
                      "\"n\":null,\"i\":9223372036854775807}");
    assert_int_equal(json_get_u32(&u, v, "a.b", 0, 10, 1, "f", &err), ST_OK);
    assert_int_equal(u, 7);
    assert_int_equal(json_get_u32(&u, v, "r", 0, 10, 1, "f", &err), ST_OK);
    assert_int_equal(u, 4);
    assert_int_equal(json_get_u32(&u, v, "missing.deeper", 0, 10, 3, "f", &err), ST_OK);
    assert_int_equal(u, 3);
    assert_int_equal(json_get_u32(&u, v, "n", 0, 10, 5, "f", &err), ST_OK);
    assert_int_equal(u, 5);
    assert_int_equal(json_get_u32(&u, v, "x", 0, 10, 1, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: x: found a real number, expected an integer");
    assert_int_equal(json_get_u32(&u, v, "neg", 0, 10, 1, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: neg: found -1, expected 0 to 10");
    assert_int_equal(json_get_u32(&u, v, "big", 0, 10, 1, "f", &err), ST_INVALID);
    assert_int_equal(json_get_u32(&u, v, "i", 0, UINT32_MAX, 1, "f", &err), ST_INVALID);
    assert_int_equal(json_get_u32(&u, v, "s", 0, 10, 1, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: s: found a string, expected an integer");
    assert_int_equal(json_get_f64(&d, v, "x", 0, 10, 1, "f", &err), ST_OK);
    assert_true(d == 4.5);
    assert_int_equal(json_get_f64(&d, v, "a", 0, 10, 1, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: a: found an object, expected a number");
    json_decref(v);
}

static void strings_and_booleans_are_checked_for_type(void **state) {
    (void)state;
    struct err err;
    bool b;
    const char *s;
    json_t *v = parse("{\"t\":true,\"s\":\"x\"}");
    assert_int_equal(json_get_bool(&b, v, "t", false, "f", &err), ST_OK);
    assert_true(b);
    assert_int_equal(json_get_bool(&b, v, "s", false, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: s: found a string, expected true or false");
    assert_int_equal(json_get_str(&s, v, "s", NULL, "f", &err), ST_OK);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_str(&s, v, "t", NULL, "f", &err), ST_INVALID);
    json_decref(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(numbers_are_checked_for_type_and_range),
        cmocka_unit_test(strings_and_booleans_are_checked_for_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

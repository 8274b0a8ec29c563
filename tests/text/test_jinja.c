/* SPDX-License-Identifier: Apache-2.0 */
/* The parts under the interpreter that are easier to reach here than through a template: floats as
 * text, dicts with many keys, sorting, slices at the edges of 64 bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/jinja_show.h"
#include "text/jinja_text.h"

/* Runs body(j) inside the guard and expects it to succeed. */
static void with_machine(void (*body)(struct jj *j, void *arg), void *arg) {
    struct err err = {0};
    struct jj j = {.arena = {.max = 64 << 20}, .err = &err, .name = "test", .steps_max = 100000000};
    if (jj_guard(&j, body, arg)) fail_msg("%s", err.text);
    arena_release(&j.arena);
}

static void floats_print_as_in_python(void **state) {
    (void)state;
    static const struct {
        double f;
        const char *text;
    } rows[] = {
        {0, "0.0"},
        {-0.0, "-0.0"},
        {1, "1.0"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {1e22, "1e+22"},
        {1e-4, "0.0001"},
        {1e-5, "1e-05"},
        {1.5e-7, "1.5e-07"},
        {5e-324, "5e-324"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {2.5, "2.5"},
        {1.0 / 3, "0.3333333333333333"},
        {9999999999999998.0, "9999999999999998.0"},
        {-12.75, "-12.75"},
    };
    char text[JJ_FLOAT_TEXT];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        jj_float_text(text, rows[i].f);
        assert_string_equal(text, rows[i].text);
    }
}

static void every_float_reads_back(void **state) {
    (void)state;
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        double f;
        memcpy(&f, &x, sizeof f);
        if (f != f || f - f != 0) continue; /* NaN, infinite */
        char text[JJ_FLOAT_TEXT];
        jj_float_text(text, f);
        assert_true(strtod(text, NULL) == f);
    }
}

static void many_keys(struct jj *j, void *arg) {
    (void)arg;
    struct jj_dict *d = jj_dict_new(j);
    char key[16];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 3000; i++) {
            snprintf(key, sizeof key, "key%d", i * 7919 % 3000);
            jj_dict_set(j, d, jj_strv(jj_str_lit(j, key)), jj_int(i + round, 0));
        }
    assert_int_equal(d->len, 3000);
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key%d", i * 7919 % 3000);
        const struct jj_val *v = jj_dict_get_lit(j, d, key);
        assert_non_null(v);
        assert_int_equal(v->i, i + 1);
        assert_true(jj_str_is(d->v[i].key.s, key)); /* in the order they came */
    }
    assert_null(jj_dict_get_lit(j, d, "key3000"));
    jj_dict_set(j, d, jj_float(1.0, 0), jj_none());
    assert_non_null(jj_dict_get(j, d, jj_int(1, 0)));
    assert_non_null(jj_dict_get(j, d, jj_bool(true)));
}
static void a_dict_finds_each_of_many_keys(void **state) {
    (void)state;
    with_machine(many_keys, NULL);
}

static void sorting(struct jj *j, void *arg) {
    (void)arg;
    uint32_t x = 12345;
    for (uint32_t n = 0; n < 70; n++) {
        struct jj_list *v = jj_list_new(j, n), *keys = jj_list_new(j, n);
        for (uint32_t i = 0; i < n; i++) {
            x = x * 1664525 + 1013904223;
            jj_list_push(j, v, jj_int(i, 0));
            jj_list_push(j, keys, jj_int(x >> 28, 0));
        }
        bool reverse = n % 2;
        jj_sort(j, v->v, keys->v, n, reverse);
        for (uint32_t i = 1; i < n; i++) {
            int64_t a = keys->v[i - 1].i, b = keys->v[i].i;
            assert_true(reverse ? a >= b : a <= b);
            if (a == b) assert_true(v->v[i - 1].i < v->v[i].i); /* stable both ways */
        }
    }
}
static void sorting_is_stable(void **state) {
    (void)state;
    with_machine(sorting, NULL);
}

static void slices_stay_inside(void **state) {
    (void)state;
    const int64_t edges[] = {INT64_MIN, INT64_MIN + 1, -6,       -5, -1, 0, 1, 4, 5,
                             6,         INT64_MAX - 1, INT64_MAX};
    const int64_t steps[] = {INT64_MIN, -3, -1, 1, 2, INT64_MAX};
    for (int a = -1; a < 12; a++)
        for (int b = -1; b < 12; b++)
            for (size_t s = 0; s < 6; s++) {
                int64_t first, end;
                uint32_t n = jj_slice_span(5, a < 0 ? NULL : &edges[a], b < 0 ? NULL : &edges[b],
                                           steps[s], &first, &end);
                assert_true(n <= 5);
                if (n) assert_true(first >= 0 && first < 5);
                if (n > 1)
                    assert_true(first + (int64_t)(n - 1) * steps[s] >= 0 &&
                                first + (int64_t)(n - 1) * steps[s] < 5);
            }
}

static void appending(struct jj *j, void *arg) {
    (void)arg;
    j->appends = true;
    const struct jj_str *s = jj_str_lit(j, "x"),
                        *step = jj_str_new(j, "0123456789", 10, CHAT_FROM_OTHER);
    size_t before = j->arena.held;
    for (int i = 0; i < 20000; i++) s = jj_concat(j, s, step);
    assert_int_equal(s->len, 200001);
    assert_true(j->arena.held - before < 4 << 20); /* copies of every length would take 4 GB */
    assert_int_equal(s->o[0], CHAT_FROM_TEMPLATE);
    assert_int_equal(s->o[200000], CHAT_FROM_OTHER);

    const struct jj_str *base = jj_concat(j, jj_str_lit(j, "ba"), jj_str_lit(j, "se"));
    const struct jj_str *one = jj_concat(j, base, jj_str_lit(j, "1")),
                        *two = jj_concat(j, base, jj_str_lit(j, "2"));
    assert_true(one->p == base->p && two->p != base->p); /* only the first may have the room */
    assert_true(jj_str_is(base, "base") && jj_str_is(one, "base1") && jj_str_is(two, "base2"));
    const struct jj_str *twice = jj_concat(j, one, one), *tail = jj_str_cut(j, twice, 5, 10);
    assert_true(jj_str_is(jj_concat(j, tail, tail), "base1base1"));
    assert_true(jj_str_is(twice, "base1base1") && jj_str_is(one, "base1"));
    assert_true(jj_str_is(jj_concat(j, jj_str_cut(j, twice, 0, 4), step), "base0123456789"));
    assert_true(jj_str_is(twice, "base1base1"));
}
static void appending_to_a_string_is_linear_and_disturbs_no_other(void **state) {
    (void)state;
    with_machine(appending, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_print_as_in_python),
        cmocka_unit_test(every_float_reads_back),
        cmocka_unit_test(a_dict_finds_each_of_many_keys),
        cmocka_unit_test(sorting_is_stable),
        cmocka_unit_test(slices_stay_inside),
        cmocka_unit_test(appending_to_a_string_is_linear_and_disturbs_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Keys: who is known, what files are refused, and what a key may do in a minute (virtual time). */
#include "serve/auth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const uint64_t second = 1000000000;

static void keys_are_found_by_their_header(void **state) {
    (void)state;
    struct auth a = {0};
    struct err err;
    assert_int_equal(auth_add(&a, "sk-one", "", "t", &err), ST_OK);
    assert_int_equal(auth_add(&a, "sk-two", "blue", "t", &err), ST_OK);
    assert_ptr_equal(auth_find(&a, "Bearer sk-one"), &a.keys[0]);
    assert_ptr_equal(auth_find(&a, "bearer  sk-two "), &a.keys[1]);
    assert_string_equal(auth_find(&a, "Bearer sk-two")->tenant, "blue");
    const char *const wrong[] = {"",
                                 "Bearer",
                                 "Bearer ",
                                 "Bearer sk-on",
                                 "sk-one",
                                 "Basic sk-one",
                                 "Bearer sk-one x",
                                 "Bearer sk-onee",
                                 "Bearersk-one"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_null(auth_find(&a, wrong[i]));
    assert_null(auth_find(&a, NULL));
    char *lengthy = malloc(70000);
    memset(lengthy, 'x', 69999);
    memcpy(lengthy, "Bearer ", 7);
    lengthy[69999] = '\0';
    assert_null(auth_find(&a, lengthy));
    free(lengthy);
    auth_release(&a);
}

static void bad_keys_are_refused(void **state) {
    (void)state;
    struct auth a = {0};
    struct err err;
    char lengthy[AUTH_KEY_BYTES_MAX + 2];
    memset(lengthy, 'k', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    assert_int_equal(auth_add(&a, "", "", "t", &err), ST_INVALID);
    assert_int_equal(auth_add(&a, "two words", "", "t", &err), ST_INVALID);
    assert_int_equal(auth_add(&a, "k\xc3\xa9y", "", "t", &err), ST_INVALID);
    assert_int_equal(auth_add(&a, lengthy, "", "t", &err), ST_INVALID);
    lengthy[sizeof lengthy - 2] = '\0';
    assert_int_equal(auth_add(&a, lengthy, "", "t", &err), ST_OK);
    assert_int_equal(auth_add(&a, lengthy, "other", "t", &err), ST_INVALID);
    assert_string_equal(err.text, "t: the key was given before");
    assert_int_equal(auth_add(&a, "k", "a b", "t", &err), ST_INVALID);
    lengthy[REQUEST_ID_BYTES] = '\0';
    assert_int_equal(auth_add(&a, "k", lengthy, "t", &err), ST_INVALID);
    auth_release(&a);
}

static void there_are_at_most_64_tenants(void **state) {
    (void)state;
    struct auth a = {0};
    struct err err;
    char key[32], tenant[32];
    for (int i = 0; i < 2 * AUTH_TENANTS_MAX; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        snprintf(tenant, sizeof tenant, "t%d", i / 2);
        assert_int_equal(auth_add(&a, key, tenant, "t", &err), ST_OK);
    }
    assert_int_equal(auth_add(&a, "more", "another", "t", &err), ST_INVALID);
    assert_string_equal(err.text, "t: more than 64 tenants");
    auth_release(&a);
}

static enum st from_file(struct auth *a, const char *text, size_t len, mode_t mode,
                         struct err *err) {
    char path[] = "/tmp/supernode-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), (ssize_t)len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    enum st st = auth_add_file(a, path, err);
    unlink(path);
    return st;
}

static void a_file_has_a_key_a_line(void **state) {
    (void)state;
    struct auth a = {0};
    struct err err;
    static const char good[] =
        "# ours\nsk-a\n\n  sk-b\tred\r\nsk-c blue"; /* no newline at its end */
    assert_int_equal(from_file(&a, good, sizeof good - 1, 0600, &err), ST_OK);
    assert_int_equal(a.n, 3);
    assert_string_equal(auth_find(&a, "Bearer sk-b")->tenant, "red");
    assert_string_equal(auth_find(&a, "Bearer sk-c")->tenant, "blue");
    assert_int_equal(from_file(&a, "sk-d e f\n", 9, 0600, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "line 1: found more than two words, expected KEY [TENANT]"));
    assert_int_equal(from_file(&a, "\n\nsk-a\n", 7, 0600, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "line 3: the key was given before"));
    assert_int_equal(from_file(&a, "sk\0-a\n", 6, 0600, &err), ST_INVALID);
    assert_int_equal(from_file(&a, "", 0, 0600, &err), ST_OK);
    assert_int_equal(from_file(&a, "sk-z\n", 5, 0644, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "mode 0644 lets others read"));
    assert_int_equal(auth_add_file(&a, "/nowhere", &err), ST_NOT_FOUND);
    assert_int_equal(a.n, 3);
    auth_release(&a);
}

static void requests_at_once_are_limited(void **state) {
    (void)state;
    struct auth a = {.limits = {.requests = 2}};
    struct auth_key k = {0};
    uint32_t retry;
    assert_int_equal(auth_enter(&a, &k, 1, &retry), AUTH_ADMITTED);
    assert_int_equal(auth_enter(&a, &k, 1, &retry), AUTH_ADMITTED);
    assert_int_equal(auth_enter(&a, &k, 1, &retry), AUTH_TOO_MANY);
    assert_int_equal(retry, 1);
    auth_leave(&k);
    assert_int_equal(auth_enter(&a, &k, 1, &retry), AUTH_ADMITTED);
}

/* In every window of a minute at most twice the rate comes through, over an hour the rate itself. */
static void requests_a_minute_are_limited(void **state) {
    (void)state;
    struct auth a = {.limits = {.requests_per_minute = 30}};
    struct auth_key k = {0};
    uint32_t retry, n = 0;
    uint64_t now = 5 * second;
    for (int i = 0; i < 30; i++) assert_int_equal(auth_enter(&a, &k, now, &retry), AUTH_ADMITTED);
    assert_int_equal(auth_enter(&a, &k, now, &retry), AUTH_TOO_FAST);
    assert_int_equal(retry, 2);
    assert_int_equal(auth_enter(&a, &k, now + retry * second, &retry), AUTH_ADMITTED);
    assert_int_equal(auth_enter(&a, &k, now + 2 * second, &retry), AUTH_TOO_FAST);
    now += 2 * second;
    for (int i = 0; i < 3600 * 10; i++) { /* it hammers on */
        now += second / 10;
        n += auth_enter(&a, &k, now, &retry) == AUTH_ADMITTED;
    }
    assert_in_range(n, 1799, 1801);
    now += 3600 * second; /* a pause gives a minute's worth, not an hour's */
    for (n = 0; auth_enter(&a, &k, now, &retry) == AUTH_ADMITTED;) n++;
    assert_int_equal(n, 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_found_by_their_header),
        cmocka_unit_test(bad_keys_are_refused),
        cmocka_unit_test(there_are_at_most_64_tenants),
        cmocka_unit_test(a_file_has_a_key_a_line),
        cmocka_unit_test(requests_at_once_are_limited),
        cmocka_unit_test(requests_a_minute_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

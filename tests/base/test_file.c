/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char dir[] = "/tmp/supernode-test-file-XXXXXX";
static char path[128];

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    FILE *f = fopen(path, "w");
    if (!f) return -1;
    fputs("hello", f);
    return fclose(f);
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void a_file_is_read_whole_or_refused_by_size(void **state) {
    (void)state;
    struct err err;
    struct buf b = {.max = 5};
    assert_int_equal(file_read(&b, path, &err), ST_OK);
    assert_string_equal(b.data, "hello");
    buf_release(&b);
    b.max = 4;
    assert_int_equal(file_read(&b, path, &err), ST_FULL);
    assert_non_null(strstr(err.text, path));
    buf_release(&b);
}

static void a_map_has_the_bytes_of_the_file(void **state) {
    (void)state;
    struct err err;
    struct file_map m;
    assert_int_equal(file_map_open(&m, path, &err), ST_OK);
    assert_int_equal(m.size, 5);
    assert_memory_equal(m.data, "hello", 5);
    file_map_close(&m);
}

static void what_is_not_a_regular_file_is_refused_at_once(void **state) {
    (void)state;
    struct err err;
    struct file_map m;
    char fifo[160];
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(file_map_open(&m, fifo, &err),
                     ST_INVALID); /* would hang if it waited for a writer */
    assert_int_equal(file_map_open(&m, dir, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "not a regular file"));
    unlink(fifo);
    assert_int_equal(file_map_open(&m, fifo, &err), ST_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read_whole_or_refused_by_size),
        cmocka_unit_test(a_map_has_the_bytes_of_the_file),
        cmocka_unit_test(what_is_not_a_regular_file_is_refused_at_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

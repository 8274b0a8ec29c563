/* SPDX-License-Identifier: Apache-2.0 */
/* record.h: what a recording says is read again, and what is no recording is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/record.h"

#define HEAD    "supernode-record 2 100 8 2048 1000 512 1 0.25 4 256 20 500 0 1 abc\n"
#define STEP    "S 1000 2000 3 5 700 0 2 0 0 3 0 0 0\n"
#define PIECE   "C 3000 4000 1 64 2080 0 0 0 0 0 1 1 5000\n"
#define REQUEST "R 64 500 900\n"

static enum st read_text(struct record_file *f, const char *text, size_t len, struct err *err) {
    char path[] = "/tmp/supernode-record-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
    enum st st = record_read(f, path, err);
    unlink(path);
    return st;
}

static void a_recording_is_read_as_it_was_written(void **state) {
    (void)state;
    static const char text[] = HEAD REQUEST STEP PIECE "S 5000 6000 1"; /* it is being written */
    struct record_file f;
    struct err err;
    if (read_text(&f, text, strlen(text), &err)) fail_msg("%s", err.text);
    assert_int_equal(f.x.n_pages, 100);
    assert_int_equal(f.x.rows_max, 512);
    assert_true(f.x.drafts && f.x.expand_cost == 0.25f);
    assert_int_equal(f.engine.max_num_seqs, 4);
    assert_int_equal(f.engine.draft_tokens, 1);
    assert_string_equal(f.model_id, "abc");
    assert_int_equal(f.n, 2);
    assert_int_equal(f.v[0].kind, RECORD_STEP);
    assert_int_equal(f.v[0].keys, 700);
    assert_int_equal(f.v[0].drawn, 3);
    assert_true(f.v[1].kind == RECORD_PIECE && f.v[1].begins && f.v[1].over);
    assert_int_equal(f.v[1].until_ns, 5000);
    assert_int_equal(f.n_requests, 1);
    assert_int_equal(f.requests[0].taken_ns, 900);
    record_file_release(&f);
}

static void what_is_no_recording_is_refused_with_its_line(void **state) {
    (void)state;
    static char long_line[700];
    memset(long_line, '7', sizeof long_line - 2);
    memcpy(long_line, "S 1", 3);
    long_line[sizeof long_line - 2] = '\n';
    const struct {
        const char *head, *line, *said;
    } bad[] = {
        {"", "", "line 1"},
        {"supernode-record 1 100 8 2048 1000 512 1 0.25 4 256 20 500 0 1 abc\n", "", "line 1"},
        {"supernode-record 2 0 8 2048 1000 512 1 0.25 4 256 20 500 0 1 abc\n", "", "line 1"},
        {"supernode-record 2 100 8 2048 1000 512 1 nan 4 256 20 500 0 1 abc\n", "", "line 1"},
        {"supernode-record 2 100 8 2048 1000 512 1 0.25 4 256 20 500 9 1 abc\n", "", "line 1"},
        {"supernode-record 2 100 8 2048 1000 512 1 0.25 4 256 20 500 0 1\n", "", "line 1"},
        {HEAD, "X 1 2\n", "line 3: found 'X 1 2', expected a step or a request"},
        {HEAD, "S 2000 1000 3 5 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 0 5 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 3 2 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 -3 5 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 4294967296 5 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 99999999999999999999 3 5 700 0 2 0 0 3 0 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 3 5 700 0 2 0 0 3 2 0 0\n", "line 3"},
        {HEAD, "S 1000 2000 3 5 700 0 2 0 0 3 0 0 0 1\n", "line 3"},
        {HEAD, "R 64 900 500\n", "line 3"},
        {HEAD, long_line, "line 3"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct record_file f;
        struct err err;
        char text[2048];
        /* what is good behind it does not help */
        int len = snprintf(text, sizeof text, "%s%s%s%s", bad[i].head, STEP, bad[i].line, STEP);
        assert_int_equal(read_text(&f, text, (size_t)len, &err), ST_INVALID);
        if (!strstr(err.text, bad[i].said)) fail_msg("%s, expected %s", err.text, bad[i].said);
        assert_null(f.v);
    }
    static const char with_nul[] = HEAD "S 1000\0 2000\n" STEP;
    struct record_file f;
    struct err err;
    assert_int_equal(read_text(&f, with_nul, sizeof with_nul - 1, &err), ST_INVALID);
    assert_int_equal(record_read(&f, "/nowhere/at/all", &err), ST_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recording_is_read_as_it_was_written),
        cmocka_unit_test(what_is_no_recording_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

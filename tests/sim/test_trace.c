/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/trace.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

static enum st read_text(struct trace *t, const char *text, struct err *err) {
    return trace_read(t, text, strlen(text), "t", 0, err);
}

static void mooncake_lines_become_requests_with_blocks(void **state) {
    (void)state;
    struct trace t;
    struct err err;
    const char *text = "{\"timestamp\": 500, \"input_length\": 1025, \"output_length\": 3, "
                       "\"hash_ids\": [7, 8, 9]}\n"
                       "{\"timestamp\": 3500, \"input_length\": 512, \"output_length\": 0, "
                       "\"hash_ids\": [7], \"more\": true}\n";
    assert_int_equal(read_text(&t, text, &err), ST_OK);
    assert_int_equal(t.n_rows, 2);
    assert_true(t.has_times);
    assert_true(t.rows[0].at_s == 0 && t.rows[1].at_s == 3);
    assert_int_equal(t.rows[0].n_in, 1025);
    assert_int_equal(t.rows[1].n_out, 0);
    assert_int_equal(t.n_blocks, 4);
    assert_int_equal(t.blocks[t.rows[1].block], 7);
    assert_true(t.span_s == 6); /* the next copy begins one mean gap after the last */
    trace_release(&t);
}

static void azure_rows_become_requests_with_times(void **state) {
    (void)state;
    struct trace t;
    struct err err;
    const char *text = "\xef\xbb\xbfTIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                       "2023-11-30 23:59:59.5000000,374,44\r\n"
                       "2023-12-01 00:00:01.2500000,10,1";
    assert_int_equal(read_text(&t, text, &err), ST_OK);
    assert_int_equal(t.n_rows, 2);
    assert_true(t.has_times && t.n_blocks == 0);
    assert_true(t.rows[1].at_s == 1.75);
    trace_release(&t);
}

static void lengths_alone_have_no_times(void **state) {
    (void)state;
    struct trace t;
    struct err err;
    const char *text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n"
                       "3772,54,3826,69.85\n";
    assert_int_equal(read_text(&t, text, &err), ST_OK);
    assert_false(t.has_times);
    assert_int_equal(t.rows[0].n_in, 3772);
    assert_int_equal(t.rows[0].n_out, 54);
    trace_release(&t);
}

static void what_is_wrong_is_named_with_line_and_key(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"", "t: found no request"},
        {"{\n", "t: line 1: request: "},
        {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [1]}\n"
         "{\"timestamp\": 0, \"input_length\": -5, \"output_length\": 1, \"hash_ids\": [1]}",
         "t: line 2: input_length: found -5, expected a whole number from 1 to 4194304"},
        {"{\"timestamp\": 0, \"input_length\": 6666666666600, \"output_length\": 1, \"hash_ids\": "
         "[]}",
         "t: line 1: input_length: found 6666666666600, expected a whole"},
        {"{\"timestamp\": 0, \"input_length\": 1.5, \"output_length\": 1}",
         "t: line 1: input_length: found 1.5, expected a whole number from 1 to 4194304"},
        {"{\"timestamp\": 0, \"input_length\": \"many\", \"output_length\": 1}",
         "t: line 1: input_length: found \"many\", expected a whole"},
        {"{\"timestamp\": 0, \"input_length\": 5, \"input_length\": 6, \"output_length\": 1}",
         "t: line 1: request: found duplicate object key"},
        {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n\n[1, 2]\n",
         "t: line 3: request: found a list, expected a JSON object"},
        {"{\"timestamp\": NaN, \"input_length\": 5, \"output_length\": 1}", "t: line 1: request: "},
        {"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": {}}",
         "t: line 1: hash_ids: found an object"},
        {"{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1, 2]}",
         "t: line 1: hash_ids: found 2, expected at most 1 ids of 512-token blocks"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}",
         "t: line 1: hash_ids: "},
        {"{\"timestamp\": 1e300, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "t: line 1: timestamp: found 1e+300"},
        {"{\"timestamp\": 9, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}\n"
         "{\"timestamp\": 8, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "t: line 2: timestamp: found an earlier one than the line before"},
        {"\n\na,b\n1,2\n", "t: line 3: header: found 'a,b', expected TIMESTAMP,"},
        {"num_prefill_tokens,ContextTokens,num_decode_tokens\n1,2,3\n",
         "t: line 1: header: found two columns of that kind, expected ContextTokens"},
        {"num_prefill_tokens,num_decode_tokens\n1,2\n1,nan\n",
         "t: line 3: num_decode_tokens: found 'nan', expected a whole number from 0 to 4194304"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 25:00:00,1,1\n",
         "t: line 2: TIMESTAMP: found '2023-11-16 25:00:00'"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 15:00:00,1.5,1\n",
         "t: line 2: ContextTokens: found '1.5'"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 15:00:0x3,1,1\n",
         "t: line 2: TIMESTAMP: found '2023-11-16 15:00:0x3'"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 15:00:00,1\n",
         "t: line 2: row: found 2 fields"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct trace t;
        struct err err;
        enum st st = read_text(&t, bad[i][0], &err);
        assert_int_equal(st, ST_INVALID);
        if (strncmp(err.text, bad[i][1], strlen(bad[i][1])) != 0)
            fail_msg("found \"%s\", expected \"%s\"", err.text, bad[i][1]);
        assert_null(t.rows);
    }
}

/* --- files ------------------------------------------------------------------------------------ */

static void fails_to_open(const char *path, enum st code, const char *after) {
    struct trace t;
    struct err err;
    char expected[256];
    snprintf(expected, sizeof expected, "%s: %s", path, after);
    enum st st = trace_open(&t, path, 0, &err);
    if (st != code || strncmp(err.text, expected, strlen(expected)) != 0)
        fail_msg("found %d \"%s\", expected %d \"%s\"", st, st ? err.text : "", code, expected);
    assert_null(t.rows);
}

static void what_is_no_file_is_not_waited_for(void **state) {
    (void)state;
    char folder[] = "/tmp/trace-XXXXXX", fifo[64];
    assert_non_null(mkdtemp(folder));
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    fails_to_open(folder, ST_INVALID, "not a regular file");
    fails_to_open(fifo, ST_INVALID, "not a regular file");
    fails_to_open("/dev/zero", ST_INVALID, "not a regular file");
    remove(fifo);
    fails_to_open(fifo, ST_NOT_FOUND, "cannot open: ");
    rmdir(folder);
}

/* Wherever it is cut, behind a whole line too. */
static void gzip_data_that_were_cut_are_not_half_a_trace(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX";
    close(mkstemp(path));
    gzFile f = gzopen(path, "wb");
    assert_non_null(f);
    srand(1);
    for (int i = 0; i < 40; i++)
        gzprintf(f, "{\"timestamp\": %d, \"input_length\": %d, \"output_length\": %d}\n", i,
                 1 + rand() % 4000000, rand() % 4000000);
    gzclose(f);
    struct stat sb;
    struct trace t;
    struct err err;
    assert_int_equal(trace_open(&t, path, 0, &err), ST_OK);
    assert_int_equal(t.n_rows, 40);
    trace_release(&t);
    assert_int_equal(stat(path, &sb), 0);
    for (off_t n = sb.st_size - 1; n > 18; n--) {
        assert_int_equal(truncate(path, n), 0);
        fails_to_open(path, ST_CORRUPT, "line ");
    }
    remove(path);
}

static void damaged_gzip_data_are_no_trace(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX";
    close(mkstemp(path));
    gzFile f = gzopen(path, "wb");
    assert_non_null(f);
    gzprintf(f, "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n");
    gzclose(f);
    FILE *raw = fopen(path, "r+");
    assert_non_null(raw);
    fseek(raw, -8, SEEK_END); /* the checksum */
    int byte = fgetc(raw);
    fseek(raw, -8, SEEK_END);
    fputc(byte ^ 1, raw);
    fclose(raw);
    fails_to_open(path, ST_CORRUPT, "line ");
    remove(path);
}

/* 2 MiB without a line's end. */
static void a_line_has_an_end(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, "a,b\n", 4) == 4);
    assert_int_equal(ftruncate(fd, 2 << 20), 0);
    close(fd);
    fails_to_open(path, ST_INVALID, "line 1: header: ");
    fd = open(path, O_WRONLY);
    const char *head = "num_prefill_tokens,num_decode_tokens\n";
    assert_true(fd >= 0 && write(fd, head, strlen(head)) == (ssize_t)strlen(head));
    close(fd);
    fails_to_open(path, ST_INVALID, "line 2: line: found more than 1 MiB");
    assert_int_equal(truncate(path, 1000), 0);
    fails_to_open(path, ST_INVALID, "line 2: line: found a zero byte");
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mooncake_lines_become_requests_with_blocks),
        cmocka_unit_test(azure_rows_become_requests_with_times),
        cmocka_unit_test(lengths_alone_have_no_times),
        cmocka_unit_test(what_is_wrong_is_named_with_line_and_key),
        cmocka_unit_test(what_is_no_file_is_not_waited_for),
        cmocka_unit_test(gzip_data_that_were_cut_are_not_half_a_trace),
        cmocka_unit_test(damaged_gzip_data_are_no_trace),
        cmocka_unit_test(a_line_has_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

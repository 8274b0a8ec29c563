/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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
    const char *text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
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
         "t: line 2: input_length: found -5, expected a number from 1 to 4194304"},
        {"{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1, 2]}",
         "t: line 1: hash_ids: found 2, expected at most 1 ids of 512-token blocks"},
        {"{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-1]}",
         "t: line 1: hash_ids: "},
        {"{\"timestamp\": 1e300, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "t: line 1: timestamp: found 1e+300"},
        {"{\"timestamp\": 9, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}\n"
         "{\"timestamp\": 8, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "t: line 2: timestamp: found an earlier one than the line before"},
        {"a,b\n1,2\n", "t: line 1: header: "},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 25:00:00,1,1\n",
         "t: line 2: TIMESTAMP: found 2023-11-16 25:00:00"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 15:00:00,1.5,1\n",
         "t: line 2: ContextTokens: found 1.5"},
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mooncake_lines_become_requests_with_blocks),
        cmocka_unit_test(azure_rows_become_requests_with_times),
        cmocka_unit_test(lengths_alone_have_no_times),
        cmocka_unit_test(what_is_wrong_is_named_with_line_and_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

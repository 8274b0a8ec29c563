/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics says what was counted: cumulative buckets, escaped labels. (promtool reads the whole of it
 * in tests/e2e/test_serving.py.) */
#include "serve/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct buf written(const struct engine_stats *s, const struct metrics *m,
                          const char *model) {
    struct buf out = {.max = 1 << 20};
    struct json_out o = {&out, ST_OK};
    struct metrics_now now = {.model = model, .engine = s, .http = m, .connections = 3};
    metrics_write(&o, &now);
    assert_int_equal(o.st, ST_OK);
    return out;
}

static void assert_line(const struct buf *b, const char *line) {
    if (!strstr(b->data, line)) fail_msg("not found: %s", line);
}

static void buckets_are_cumulative(void **state) {
    (void)state;
    struct engine_stats s;
    struct metrics m = {0};
    engine_stats_init(&s);
    histogram_add(&s.ttft, 0.0005);
    histogram_add(&s.ttft, 0.25); /* on a bound: it belongs to it */
    histogram_add(&s.ttft, 0.26);
    histogram_add(&s.ttft, 5000);
    struct buf b = written(&s, &m, "tiny");
    assert_line(
        &b, "\nsupernode_time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.001\"} 1\n");
    assert_line(&b, "_bucket{model_name=\"tiny\",le=\"0.1\"} 1\n");
    assert_line(
        &b, "supernode_time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.25\"} 2\n");
    assert_line(&b,
                "supernode_time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.5\"} 3\n");
    assert_line(
        &b, "supernode_time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"2560\"} 3\n");
    assert_line(
        &b, "supernode_time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"+Inf\"} 4\n");
    assert_line(&b, "supernode_time_to_first_token_seconds_sum{model_name=\"tiny\"} 5000.5105\n");
    assert_line(&b, "supernode_time_to_first_token_seconds_count{model_name=\"tiny\"} 4\n");
    buf_release(&b);
}

static void labels_are_escaped(void **state) {
    (void)state;
    struct engine_stats s;
    struct metrics m = {0};
    engine_stats_init(&s);
    struct buf b = written(&s, &m, "a\"b\\c\nd");
    assert_line(&b, "supernode_num_requests_running{model_name=\"a\\\"b\\\\c\\nd\"} 0\n");
    buf_release(&b);
}

static void figures_stand_under_their_names(void **state) {
    (void)state;
    struct engine_stats s;
    struct metrics m = {0};
    static const char path[] = "/v1/x";
    engine_stats_init(&s);
    s.running = 5;
    s.pages = 8;
    s.pages_used = 2;
    s.seqs_max = 17;
    s.step_s = 0.0125;
    s.generation_tokens = 1234567890123;
    s.finished[STATS_FINISH_LENGTH] = 4;
    s.spec_accepted_at[1] = 6;
    metrics_count(&m, path, 200);
    metrics_count(&m, path, 503);
    metrics_count(&m, path, 200);
    m.rejected[REJECT_KEY_RATE] = 7;
    m.aborted[ABORT_LEFT_READING] = 8;
    struct buf b = written(&s, &m, "m");
    assert_line(&b, "supernode_num_requests_running{model_name=\"m\"} 5\n");
    assert_line(&b, "supernode_kv_cache_usage_perc{model_name=\"m\"} 0.25\n");
    assert_line(&b, "supernode_batch_limit{model_name=\"m\"} 17\n");
    assert_line(&b, "supernode_step_seconds{model_name=\"m\"} 0.0125\n");
    assert_line(&b, "supernode_generation_tokens_total{model_name=\"m\"} 1234567890123\n");
    assert_line(&b,
                "supernode_request_success_total{model_name=\"m\",finished_reason=\"length\"} 4\n");
    assert_line(&b, "per_pos_total{model_name=\"m\",position=\"1\"} 6\n");
    assert_line(&b, "supernode_http_requests_total{path=\"/v1/x\",status=\"200\"} 2\n");
    assert_line(&b, "supernode_http_requests_total{path=\"/v1/x\",status=\"503\"} 1\n");
    assert_line(&b, "supernode_requests_rejected_total{reason=\"key_rate\"} 7\n");
    assert_line(&b, "supernode_requests_aborted_total{reason=\"left_reading\"} 8\n");
    assert_line(&b, "supernode_http_connections 3\n");
    buf_release(&b);
}

static void statuses_beyond_the_table_are_not_counted(void **state) {
    (void)state;
    struct metrics m = {0};
    static const char path[] = "/p";
    for (int i = 0; i < 1000; i++) metrics_count(&m, path, i);
    assert_int_equal(m.n_http, METRICS_HTTP_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_are_cumulative),
        cmocka_unit_test(labels_are_escaped),
        cmocka_unit_test(figures_stand_under_their_names),
        cmocka_unit_test(statuses_beyond_the_table_are_not_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

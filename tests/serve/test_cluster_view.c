/* SPDX-License-Identifier: Apache-2.0 */
/* What is shown of a cluster: JSON, metrics, events in the log, and the listener of members. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/cluster_json.h"
#include "serve/cluster_watch.h"
#include "serve/metrics.h"
#include "serve/metrics_cluster.h"
#include "serve/metrics_http.h"

static void add_member(struct cluster_view *v, const char *name, enum member_role role,
                       enum member_state state) {
    struct member_info *m = &v->members[v->n_members++];
    *m = (struct member_info){.role = role, .state = state, .epoch = 3, .flights = 2};
    snprintf(m->name, sizeof m->name, "%s", name);
    m->load.pages = 10;
    m->load.pages_used = 4;
    m->load.computed_tokens = 12345678901;
}

static void add_event(struct cluster_view *v, const char *text) {
    uint32_t n = v->n_events < CLUSTER_EVENTS ? v->n_events : CLUSTER_EVENTS - 1;
    memmove(v->events + 1, v->events, n * sizeof *v->events);
    snprintf(v->events[0].text, sizeof v->events[0].text, "%s", text);
    v->n_events = n + 1;
    v->events_total++;
}

static struct cluster_view *make_view(void) {
    struct cluster_view *v = calloc(1, sizeof *v);
    assert_non_null(v);
    add_member(v, "p0", ROLE_OF_PREFILL, MEMBER_READY);
    add_member(v, "d\"0", ROLE_OF_DECODE, MEMBER_SUSPENDED);
    v->epoch = 7;
    v->request_rate = 1.5;
    add_event(v, "p0 joined");
    return v;
}

static void json_has_members_and_events(void **state) {
    (void)state;
    struct cluster_view *v = make_view();
    struct buf text = {.max = 1 << 20};
    struct json_out o = {&text, ST_OK};
    json_error_t e;
    cluster_json_write(&o, v);
    assert_int_equal(o.st, ST_OK);
    json_t *j = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &e);
    if (!j) fail_msg("%s", e.text);
    json_t *m = json_array_get(json_object_get(j, "members"), 1);
    assert_string_equal(json_string_value(json_object_get(m, "name")), "d\"0");
    assert_string_equal(json_string_value(json_object_get(m, "role")), "decode");
    assert_string_equal(json_string_value(json_object_get(m, "state")), "suspended");
    json_t *load = json_object_get(m, "load");
    assert_int_equal(json_integer_value(json_object_get(load, "computed_tokens")), 12345678901);
    json_t *event = json_array_get(json_object_get(j, "events"), 0);
    assert_string_equal(json_string_value(json_object_get(event, "text")), "p0 joined");
    assert_int_equal(json_integer_value(json_object_get(j, "epoch")), 7);
    json_decref(j);
    buf_release(&text);
    free(v);
}

/* promtool, where it is installed, says more. */
static void check_with_promtool(const struct buf *text) {
    if (system("command -v promtool >/dev/null 2>&1") != 0) return;
    FILE *p = popen("promtool check metrics 2>&1", "w");
    assert_non_null(p);
    assert_int_equal(fwrite(text->data, 1, text->len, p), text->len);
    assert_int_equal(pclose(p), 0);
}

static void metrics_of_every_role_are_well_formed(void **state) {
    (void)state;
    struct cluster_view *v = make_view();
    struct node_stats *node = calloc(1, sizeof *node);
    struct pool_server_stats pool = {.stored = 5};
    struct metrics_member member = {.name = "p0", .role = "prefill", .ready = true, .epoch = 9};
    struct buf text = {.max = 1 << 20};
    struct json_out o = {&text, ST_OK};
    assert_non_null(node);
    node->pulls = 3;
    engine_stats_init(&node->engine);
    metrics_cluster(&o, v);
    metrics_process(&o, 5);
    assert_non_null(strstr(text.data, "supernode_cluster_member{name=\"p0\",role=\"prefill\","
                                      "state=\"ready\"} 1\n"));
    assert_non_null(strstr(text.data, "supernode_cluster_member_pages_used{name=\"d\\\"0\","
                                      "role=\"decode\"} 4\n"));
    check_with_promtool(&text);
    text.len = 0;
    metrics_member(&o, &member);
    metrics_engine(&o, "tiny", &node->engine);
    metrics_node(&o, node);
    metrics_process(&o, 5);
    assert_non_null(strstr(text.data, "supernode_cluster_self{name=\"p0\",role=\"prefill\"} 1\n"));
    assert_non_null(strstr(text.data, "\nsupernode_handover_pulls_total 3\n"));
    check_with_promtool(&text);
    text.len = 0;
    metrics_member(&o, &member);
    metrics_pool(&o, &pool);
    metrics_process(&o, 5);
    assert_non_null(strstr(text.data, "\nsupernode_pool_stored_total 5\n"));
    check_with_promtool(&text);
    assert_int_equal(o.st, ST_OK);
    buf_release(&text);
    free(node);
    free(v);
}

static void each_event_is_logged_once_and_keeps_its_time(void **state) {
    (void)state;
    int fds[2];
    char line[4096];
    struct err err;
    struct cluster_watch *w;
    struct cluster_view *v = make_view();
    assert_int_equal(pipe(fds), 0);
    struct log log = {.fd = fds[1]};
    assert_int_equal(cluster_watch_new(&w, &log, &err), ST_OK);
    *cluster_watch_next(w) = *v;
    cluster_watch_publish(w);
    ssize_t n = read(fds[0], line, sizeof line - 1);
    line[n > 0 ? n : 0] = '\0';
    assert_non_null(strstr(line, "router: p0 joined\n"));
    add_event(v, "d0 joined");
    for (int i = 0; i < 2; i++) { /* the second time nothing is new */
        *cluster_watch_next(w) = *v;
        cluster_watch_publish(w);
    }
    close(fds[1]);
    n = read(fds[0], line, sizeof line - 1);
    line[n > 0 ? n : 0] = '\0';
    assert_non_null(strstr(line, "router: d0 joined\n"));
    assert_null(strstr(line, "p0"));
    assert_int_equal(read(fds[0], line, sizeof line), 0);
    cluster_watch_view(w, v);
    enum member_role lacking;
    assert_false(cluster_watch_ready(w, &lacking));
    assert_int_equal(lacking, ROLE_OF_DECODE);
    close(fds[0]);
    cluster_watch_free(w);
    free(v);
}

/* --- the listener ----------------------------------------------------------------------------- */

static void write_one(void *ctx, struct json_out *o) {
    (void)ctx;
    json_out_raw(o, "# HELP a_b C.\n# TYPE a_b gauge\na_b 1\n");
}
static bool not_healthy(void *ctx, const char **why) {
    (void)ctx;
    *why = "asleep";
    return false;
}

static void get(uint16_t port, const char *path, char out[4096]) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0), len;
    char ask[128];
    size_t n = 0;
    ssize_t more;
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    len = snprintf(ask, sizeof ask, "GET %s HTTP/1.0\r\n\r\n", path);
    assert_int_equal(write(fd, ask, (size_t)len), len);
    while ((more = read(fd, out + n, 4095 - n)) > 0) n += (size_t)more;
    out[n] = '\0';
    close(fd);
}

static void members_answer_metrics_health_and_live(void **state) {
    (void)state;
    struct metrics_http_options o = {
        .host = "127.0.0.1", .write = write_one, .healthy = not_healthy};
    struct metrics_http *m;
    struct err err;
    char answer[4096];
    if (metrics_http_start(&m, &o, &err)) fail_msg("%s", err.text);
    get(metrics_http_port(m), "/metrics", answer);
    assert_non_null(strstr(answer, " 200 OK"));
    assert_non_null(strstr(answer, "\na_b 1\n"));
    get(metrics_http_port(m), "/health", answer);
    assert_non_null(strstr(answer, " 503 "));
    assert_non_null(strstr(answer, "asleep"));
    get(metrics_http_port(m), "/live", answer);
    assert_non_null(strstr(answer, " 200 OK"));
    get(metrics_http_port(m), "/v1/models", answer);
    assert_non_null(strstr(answer, " 404 "));
    metrics_http_stop(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_has_members_and_events),
        cmocka_unit_test(metrics_of_every_role_are_well_formed),
        cmocka_unit_test(each_event_is_logged_once_and_keeps_its_time),
        cmocka_unit_test(members_answer_metrics_health_and_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

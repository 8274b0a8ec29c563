/* SPDX-License-Identifier: Apache-2.0 */
/* Whole clusters in virtual time: that every request ends with the right tokens whatever breaks, and
 * that one seed is one run. */
#include "sim/run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "described.h"

static const char base[] = "hardware: cloudmatrix384\n"
                           "model: deepseek-r1\n"
                           "max_model_len: 16384\n"
                           "prefill: {instances: 3, chips: 16, restart_s: 1}\n"
                           "decode: {instances: 2, chips: 32, ep: 64, requests_per_chip: 16, "
                           "restart_s: 1}\n"
                           "pool: {servers: 8, dram_gb: 16}\n";

static struct run_report run_on(const char *what, const char *more, uint64_t seed) {
    struct run *r;
    struct run_report o;
    struct err err;
    char text[4096];
    snprintf(text, sizeof text, "%sseed: %u\n%s", what, (unsigned)seed, more);
    struct run_config *c = described(text);
    must(run_new(&r, c, &err), &err);
    for (double at = 1; run_until(r, at) && at < 7200; at++) continue;
    must(run_report(r, &o, &err), &err);
    run_free(r);
    free(c);
    return o;
}

static struct run_report run_text(const char *more, uint64_t seed) {
    return run_on(base, more, seed);
}

static void keeps_promises(const struct run_report *o) {
    assert_int_equal(o->wrong_tokens, 0);
    assert_int_equal(o->wrong_pages, 0);
    assert_int_equal(o->lost_requests, 0);
    assert_int_equal(o->leaked_pages, 0);
    assert_int_equal(o->finished + o->failed + o->left, o->requests);
}

static void every_request_ends_with_its_tokens(void **state) {
    (void)state;
    struct run_report o = run_text(
        "load: {rate: 20, input_tokens: 3000, output_tokens: 40, duration_s: 20, tenants: 3}\n", 1);
    keeps_promises(&o);
    assert_int_equal(o.failed, 0);
    assert_true(o.requests > 300 && o.requests < 500);
    assert_int_equal(o.output_tokens, o.requests * 40);
    assert_true(o.ttft_s.p50 > 0 && o.tpot_s.p50 > 0 && o.ttft_s.max < 10);
}

static void one_seed_is_one_run_and_another_is_another(void **state) {
    (void)state;
    const char *load = "load: {rate: 10, input_tokens: 2000, output_tokens: 20, duration_s: 20}\n"
                       "faults: [{what: node, index: 1, at_s: 5, for_s: 3}]\n";
    struct run_report a = run_text(load, 7), b = run_text(load, 7), c = run_text(load, 8);
    a.wall_s = b.wall_s = c.wall_s = 0;
    assert_memory_equal(&a, &b, sizeof a);
    assert_memory_not_equal(&a, &c, sizeof a);
    keeps_promises(&c);
}

static void whatever_breaks_no_token_is_wrong_and_no_request_lost(void **state) {
    (void)state;
    static const char *const faults[] = {
        "[{what: node, index: 0, at_s: 3, for_s: 4}, {what: node, index: 7, at_s: 4, for_s: 2}]",
        "[{what: chip, index: 50, at_s: 2, for_s: 1}, {what: chip, index: 82, at_s: 6, for_s: 1}]",
        "[{what: pool, index: 2, at_s: 3, for_s: 3}, {what: pool, index: 2, at_s: 9, for_s: 1}]",
        "[{what: slow, index: 1, at_s: 1, for_s: 9, slow: 5}, {what: link, index: 60, at_s: 2, "
        "for_s: "
        "5, share: 0.01}, {what: sub-plane, index: 3, at_s: 4, for_s: 5}]",
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            char text[1024];
            snprintf(text, sizeof text,
                     "load: {rate: 15, input_tokens: 4000, output_tokens: 60, duration_s: 15, "
                     "tenants: 2}\nfaults: %s\n",
                     faults[i]);
            struct run_report o = run_text(text, seed);
            keeps_promises(&o);
            assert_int_equal(o.failed, 0);
            assert_true(i > 1 || o.deaths >= 2);
        }
}

/* Clients go away while they queue, while room is made, while rows are computed, on their way, and
 * between any two tokens; and at that nodes stand still, for less and for more than it takes to be given
 * up, and connections break. */
static void who_leaves_at_any_time_leaves_nothing_behind(void **state) {
    (void)state;
    static const char *const faults[] = {
        "[]",
        "[{what: hang, index: 2, at_s: 3, for_s: 2}, {what: hang, index: 6, at_s: 4, for_s: 8}, "
        "{what: hang, index: 9, at_s: 9, for_s: 4}]",
        "[{what: cut, index: 1, at_s: 3}, {what: cut, index: 7, at_s: 4}, {what: cut, index: 11, "
        "at_s: 5}, {what: cut, index: 2, at_s: 5.001}, {what: node, index: 8, at_s: 7, for_s: 1}]"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            char text[1024];
            snprintf(text, sizeof text,
                     "load: {rate: 25, input_tokens: 4000, output_tokens: 300, duration_s: 12, "
                     "tenants: 2, leave_share: 0.5, leave_after_s: 1.5}\nfaults: %s\n",
                     faults[i]);
            struct run_report o = run_text(text, seed);
            keeps_promises(&o);
            assert_int_equal(o.failed, 0);
            assert_true(o.left > o.requests / 4 && o.finished > o.requests / 3);
            assert_true(i == 0 || o.deaths >= 2);
        }
}

/* Who still stands still at the end was given up: what it holds is nobody's leak, as a dead one's is not. */
static void a_node_that_hangs_to_the_end_and_beyond_leaks_nothing(void **state) {
    (void)state;
    static const char *const faults[] = {"index: 0, at_s: 5", "index: 7, at_s: 5",
                                         "index: 7, at_s: 5, for_s: 3000",
                                         "index: 7, at_s: 5, for_s: 33.5", "index: 1, at_s: 9.9"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "load: {rate: 20, input_tokens: 3000, output_tokens: 100, duration_s: 10}\n"
                 "faults: [{what: hang, %s}]\n",
                 faults[i]);
        struct run_report o = run_text(text, 1);
        keeps_promises(&o);
        assert_int_equal(o.finished, o.requests);
    }
}

/* A prompt batch is given up as soon as one of its clients leaves: what passed until then was work, and
 * what was never computed is nobody's. */
static void prompts_whose_clients_left_before_a_token_are_no_throughput(void **state) {
    (void)state;
    struct run_report o =
        run_text("load: {rate: 100, requests: 600, leave_share: 1, leave_after_s: 0.1, "
                 "input_tokens: 4096, output_tokens: 2}\n",
                 1);
    keeps_promises(&o);
    assert_true(o.prefill_busy > 0 && o.prefill_busy <= 1 && o.decode_busy <= 1);
    assert_true(o.prompt_tokens <= 4096 * (o.finished + o.output_tokens));
    o = run_text("load: {rate: 20, requests: 100, input_tokens: 4096, output_tokens: 2}\n", 1);
    assert_int_equal(o.prompt_tokens, 4096 * 100);
}

/* Its decode worker would go on for minutes. */
static void an_answer_whose_client_left_is_not_computed_on(void **state) {
    (void)state;
    struct run_report o =
        run_text("load: {arrivals: closed, clients: 20, input_tokens: 1000, output_tokens: "
                 "15000, requests: 40, leave_share: 1, leave_after_s: 2}\n",
                 1);
    keeps_promises(&o);
    assert_int_equal(o.left, 40);
}

/* More KV than there is: sequences give their pages back and are computed again. */
static void where_kv_is_much_too_small_all_is_served_in_turn(void **state) {
    (void)state;
    struct run_report o = run_on(
        "hardware: cloudmatrix384\nmodel: deepseek-r1\nmax_model_len: 16384\n"
        "prefill: {instances: 3, chips: 16, restart_s: 1}\n"
        "decode: {instances: 2, chips: 10, ep: 20, requests_per_chip: 192, restart_s: 1}\n"
        "pool: {servers: 8, dram_gb: 16}\n",
        "load: {arrivals: closed, clients: 1500, input_tokens: 4000, output_tokens: 700, requests: "
        "2500, tenants: 2, leave_share: 0.1, leave_after_s: 20}\n"
        "faults: [{what: cut, index: 6, at_s: 12}, {what: chip, index: 60, at_s: 20, for_s: 1}]\n",
        1);
    keeps_promises(&o);
    assert_int_equal(o.failed, 0);
    assert_true(o.preemptions > 100);
}

static void alike(const char *what, double found, double expected, double off) {
    if (!(fabs(found - expected) <= off * expected))
        fail_msg("%s: found %g, expected %g", what, found, expected);
}

static void a_repeated_prompt_is_found_after_all_workers_were_restarted(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX", text[512];
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    for (int i = 0; i < 60; i++) /* one, another, and the first again */
        fprintf(f,
                "{\"timestamp\": %d, \"input_length\": 4096, \"output_length\": 8, \"hash_ids\": "
                "[%d, 2, 3, 4, 5, 6, 7, %d]}\n",
                i * 1000, i >= 20 && i < 45, 100 + i);
    fclose(f);
    /* at 30 s all prefill workers are restarted, and what they had is in the pool alone */
    snprintf(text, sizeof text,
             "load: {trace: %s, duration_s: 60}\n"
             "faults: [{what: chip, index: 0, at_s: 30, for_s: 0.1}, {what: chip, index: 16, at_s: "
             "30, for_s: 0.1}, {what: chip, index: 32, at_s: 30, for_s: 0.1}]\n",
             path);
    struct run_report o = run_text(text, 1);
    remove(path);
    keeps_promises(&o);
    assert_int_equal(o.requests, 60);
    /* 3,584 of 4,096 tokens are the same in all */
    assert_true(o.cached_tokens > 50 * 3584);
    assert_true(o.pool_tokens >= 3584);
}

/* DRAM has room for a few blocks, and at 25 s all prefill workers and pool servers are restarted. */
static void what_went_to_ssd_is_found_after_its_server_came_back(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX", text[1024];
    FILE *f = fdopen(mkstemp(path), "w");
    assert_non_null(f);
    for (int i = 0; i < 40; i++)
        fprintf(f,
                "{\"timestamp\": %d, \"input_length\": 2048, \"output_length\": 8, \"hash_ids\": "
                "[%d, %d, %d, %d]}\n",
                i * 1000 + (i >= 20) * 10000, i % 20, 100 + i % 20, 200 + i % 20, 300 + i % 20);
    fclose(f);
    static const char *const ssd[] = {"", ", ssd_gb: 20"};
    struct run_report o[2];
    for (int i = 0; i < 2; i++) {
        char machine[512];
        snprintf(machine, sizeof machine,
                 "max_model_len: 16384\nprefill: {instances: 1, chips: 16, restart_s: 1}\n"
                 "decode: {instances: 1, chips: 32, ep: 64}\npool: {servers: 4, dram_gb: 0.2%s}\n",
                 ssd[i]);
        snprintf(
            text, sizeof text,
            "load: {trace: %s, requests: 40}\n"
            "faults: [{what: chip, index: 0, at_s: 25, for_s: 0.1}, {what: pool, index: 0, "
            "at_s: 25, for_s: 0.1}, {what: pool, index: 1, at_s: 25, for_s: 0.1}, {what: pool, "
            "index: 2, at_s: 25, for_s: 0.1}, {what: pool, index: 3, at_s: 25, for_s: 0.1}]\n",
            path);
        o[i] = run_on(machine, text, 1);
        keeps_promises(&o[i]);
        assert_int_equal(o[i].finished, 40);
    }
    remove(path);
    assert_true(o[0].pool_tokens == 0 && o[0].ssd_write_bytes == 0);
    /* 16 blocks a prompt, of which the last is computed; DRAM's own were lost */
    assert_true(o[1].pool_tokens > 10 * 15 * 128);
    assert_true(o[1].ssd_read_bytes > 0 && o[1].ssd_write_bytes > 0);
    assert_true(o[1].ttft_s.mean < o[0].ttft_s.mean);
}

static void a_closed_loop_keeps_its_clients(void **state) {
    (void)state;
    struct run_report o = run_text("load: {arrivals: closed, clients: 8, input_tokens: 1000, "
                                   "output_tokens: 10, requests: 50}\n",
                                   1);
    keeps_promises(&o);
    assert_int_equal(o.finished, 50);
}

/* Whole batches come at once, which the servers do not take; and nobody is told a time of nothing. */
static void blocks_that_the_pool_did_not_take_are_told(void **state) {
    (void)state;
    struct run_report o = run_text("load: {arrivals: closed, clients: 2000, input_tokens: 1024, "
                                   "output_tokens: 1, requests: 2000}\n",
                                   1);
    keeps_promises(&o);
    uint64_t all = o.blocks_stored + o.blocks_unstored;
    assert_true(o.blocks_unstored > 1000 && all > 0.99 * 16000 && all <= 16000);
    assert_true(o.ttft_s.p50 > 0 && isnan(o.tpot_s.p50) && isnan(o.tpot_s.mean));
}

static void a_closed_loop_ends_after_its_time(void **state) {
    (void)state;
    struct run_report o = run_text("load: {arrivals: closed, clients: 3, input_tokens: 1000, "
                                   "output_tokens: 10, duration_s: 9}\n",
                                   1);
    keeps_promises(&o);
    assert_true(o.finished > 10 && o.virtual_s < 20);
}

/* Two tenants with the same prompts: what one has in the caches is not the other's. */
static void tenants_with_one_prompt_share_nothing(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX", text[512];
    FILE *f = fdopen(mkstemp(path), "w");
    assert_non_null(f);
    for (int i = 0; i < 40; i++)
        fprintf(f,
                "{\"timestamp\": %d, \"input_length\": 2048, \"output_length\": 8, \"hash_ids\": "
                "[1, 2, 3, 4]}\n",
                i * 300);
    fclose(f);
    snprintf(text, sizeof text,
             "load: {trace: %s, duration_s: 12, tenants: 2}\n"
             "faults: [{what: chip, index: 0, at_s: 6, for_s: 0.1}]\n",
             path);
    struct run_report o = run_text(text, 1);
    remove(path);
    keeps_promises(&o);
    assert_true(o.cached_tokens > 30 * 1024);
}

static void the_slowest_chip_sets_the_pace_until_it_is_mended(void **state) {
    (void)state;
    const char *load = "load: {rate: 5, input_tokens: 500, output_tokens: 50, duration_s: 20}\n";
    char text[512];
    struct run_report quick = run_text(load, 1);
    snprintf(
        text, sizeof text,
        "%sfaults: [{what: slow, index: 50, at_s: 0, slow: 10}, {what: slow, index: 51, at_s: 1, "
        "for_s: 1, slow: 3}, {what: slow, index: 82, at_s: 0, slow: 10}, {what: chip, index: "
        "52, at_s: 3, for_s: 1}]\n",
        load);
    struct run_report slow = run_text(text, 1);
    keeps_promises(&slow);
    assert_true(slow.tpot_s.p50 > 8 * quick.tpot_s.p50);
}

static void without_a_decode_worker_requests_fail_after_their_time(void **state) {
    (void)state;
    struct run_report o = run_text(
        "no_worker_timeout_s: 2\n"
        "load: {rate: 5, input_tokens: 1000, output_tokens: 500, duration_s: 10}\n"
        "faults: [{what: chip, index: 48, at_s: 3, for_s: 60}, {what: chip, index: 80, at_s: "
        "3, for_s: 60}]\n",
        1);
    keeps_promises(&o);
    assert_true(o.failed > 20);
}

/* A fifth of the machine is used: four of five chips break without consequence, and that is said. */
static void faults_of_hardware_that_nobody_uses_are_told(void **state) {
    (void)state;
    struct run_report o =
        run_text("load: {rate: 2, input_tokens: 1000, output_tokens: 10, duration_s: 60}\n"
                 "faults: [{what: slow, index: 111, at_s: 1, for_s: 1}, {what: slow, index: 0, "
                 "at_s: 9999}]\n"
                 "random_faults: {mtbf_h: {slow: 0.0003}, repair_s: 1}\n",
                 1);
    keeps_promises(&o);
    assert_true(o.faults > 30 && o.faults < 90);
    assert_true(o.faults_unused > o.faults / 2 && o.faults_unused < o.faults);
    assert_int_equal(o.faults_late, 1);
}

/* One request at a time, on so many dies of decode; c is to be freed. */
static struct run_report one_at_a_time(int decode_chips, struct run_config **c) {
    char text[512];
    snprintf(text, sizeof text,
             "hardware: gb200-nvl72\nmodel: deepseek-v2-lite\nmax_model_len: 4096\n"
             "prefill: {chips: 1, weights: bf16}\n"
             "decode: {chips: %d, mtp: false, weights: bf16}\n"
             "load: {arrivals: closed, clients: 1, input_tokens: 300, output_tokens: 50, requests: "
             "5}\n",
             decode_chips);
    *c = described(text);
    return run_on(text, "", 1);
}

/* Its prompt is one piece: the first token is there when that has been computed. */
static void a_token_is_told_when_its_step_is_over(void **state) {
    (void)state;
    struct run_config *c;
    struct run_report o = one_at_a_time(1, &c);
    struct step_prefill p = {.tokens = 300, .key_pairs = 300 * 301 / 2, .requests = 1};
    struct step_decode d = {.requests = 1, .kv_tokens = 301};
    double prefill_s = step_prefill_s(&c->prefill.setup, &p, NULL),
           decode_s = step_decode_s(&c->decode.setup, &d, NULL);
    free(c);
    keeps_promises(&o);
    assert_true(o.ttft_s.p50 > prefill_s && o.ttft_s.p50 < prefill_s + 1e-3);
    assert_true(o.tpot_s.p50 > 0.99 * decode_s && o.tpot_s.p50 < decode_s + 1e-3);
}

/* A node stands still for a second in the middle of a prompt batch, or of a decode step, of 0.3 s, once
 * or twice: what comes of it comes as much later, and not at the end that it would have had. */
static void who_hangs_in_a_step_goes_on_with_what_was_left_of_it(void **state) {
    (void)state;
    static const char one[] =
        "hardware: gb200-nvl72\nmodel: deepseek-v2-lite\nmax_model_len: 4096\n"
        "prefill: {chips: 4, weights: bf16, layer_fixed_ms: 12}\n"
        "decode: {chips: 4, mtp: false, weights: bf16}\n"
        "load: {arrivals: closed, input_tokens: 300, output_tokens: 3, requests: 1}\n";
    static const char slow[] = "{what: slow, index: 4, at_s: 0, slow: 50}";
    char faults[512];
    snprintf(faults, sizeof faults, "faults: [%s]\n", slow);
    struct run_report calm = run_on(one, faults, 1);
    assert_true(calm.ttft_s.p50 > 0.3 && calm.tpot_s.p50 > 0.3);
    for (int decode = 0; decode < 2; decode++)
        for (int times = 1; times <= 2; times++) {
            double at_s = decode ? calm.ttft_s.p50 + 0.1 : 0.1;
            snprintf(faults, sizeof faults,
                     "faults: [%s, {what: hang, index: %d, at_s: %.3f, for_s: 1}, {what: hang, "
                     "index: %d, at_s: %.3f, for_s: 1}]\n",
                     slow, decode, at_s, decode, times == 2 ? at_s + 1.1 : 1000);
            struct run_report o = run_on(one, faults, 1);
            keeps_promises(&o);
            double late_s = o.e2e_s.p50 - calm.e2e_s.p50, first_s = o.ttft_s.p50 - calm.ttft_s.p50;
            if (fabs(late_s - times) > 1e-3 || fabs(first_s - (decode ? 0 : times)) > 1e-3)
                fail_msg("node %d: %.4f s late, the first token %.4f, after %d s", decode, late_s,
                         first_s, times);
        }
}

/* It dies in the middle of a step that began with the first token and was interrupted for a second. */
static void who_dies_in_a_step_after_a_hang_was_busy_only_until_then(void **state) {
    (void)state;
    struct run_report o = run_on(
        "hardware: gb200-nvl72\nmodel: deepseek-v2-lite\nmax_model_len: 4096\n"
        "no_worker_timeout_s: 2\n"
        "prefill: {chips: 4, weights: bf16, layer_fixed_ms: 12}\n"
        "decode: {chips: 4, mtp: false, weights: bf16}\n"
        "load: {arrivals: closed, input_tokens: 300, output_tokens: 3, requests: 1}\n"
        "faults: [{what: slow, index: 4, at_s: 0, slow: 50}, {what: hang, index: 1, at_s: 0.45, "
        "for_s: 1}, {what: chip, index: 4, at_s: 1.5}]\n",
        "", 1);
    keeps_promises(&o);
    assert_int_equal(o.failed, 1);
    /* a prompt takes 27 x 12 ms and a little, a whole step 0.34 s */
    alike("seconds busy", o.decode_busy * 1.5, 0.5 - 27 * 0.012, 0.1);
}

/* One request alone; faults: a list. How long its hand-over keeps the busiest link, and what comes after
 * the first token takes. */
static struct run_report one_handover(const char *plane, const char *faults, double *link_s) {
    char text[8192];
    snprintf(text, sizeof text,
             "max_model_len: 16384\nprefill: {chips: 16}\ndecode: {chips: 32}\nhandover: %s\n"
             "load: {arrivals: closed, input_tokens: 8192, output_tokens: 2, requests: 1}\n"
             "faults: [%s]\n",
             plane, faults);
    struct run_report o = run_on(text, "", 1);
    keeps_promises(&o);
    *link_s = o.handover_use * o.last_end_s;
    return o;
}

/* What is dead is counted: seven of seven sub-planes leave nothing but the thousandth of each. Of a die's
 * 196 GB/s six leave 168, more than the 164 that a read reaches. */
static void sub_planes_carry_what_those_that_live_carry(void **state) {
    (void)state;
    char faults[1024] = "";
    double calm_s, s;
    one_handover("ub", "", &calm_s);
    for (int n = 1; n <= 7; n++) {
        size_t at = strlen(faults);
        snprintf(faults + at, sizeof faults - at, "%s{what: sub-plane, index: %d, at_s: 0}",
                 n > 1 ? ", " : "", n - 1);
        one_handover("ub", faults, &s);
        alike("of the rate", calm_s / s, fmin(1, (7 - n + n * 0.001) / 7 * 196 / 164), 1e-6);
    }
    one_handover("ub",
                 "{what: sub-plane, index: 2, at_s: 0}, {what: sub-plane, index: 2, at_s: 0, "
                 "for_s: 0.01, share: 0.5}",
                 &s);
    alike("of the rate", calm_s / s, 1, 1e-6);
}

/* A prompt goes to one die of the decode instance, and comes from all of the prefill instance's. */
static void a_prompt_is_handed_over_by_its_own_links(void **state) {
    (void)state;
    char faults[4096] = "";
    double calm_s, s, kv = 8192 * 71424.0, rate = 23.9e9, wire = 25e9;
    struct run_report calm = one_handover("rdma", "", &calm_s), o;
    alike("seconds of a die's link", calm_s, kv / rate, 1e-6);
    assert_true(calm.tpot_s.p50 > kv / rate);
    for (int chip = 16; chip < 48; chip++) {
        size_t at = strlen(faults);
        snprintf(faults + at, sizeof faults - at, "%s{what: link, index: %d, at_s: 0, share: 0.01}",
                 chip > 16 ? ", " : "", chip);
    }
    o = one_handover("rdma", faults, &s);
    alike("seconds of a die's link", s, 100 * kv / wire, 1e-6);
    alike("seconds until the second token", o.tpot_s.p50, 100 * kv / wire, 0.05);
    o = one_handover("rdma", "{what: link, index: 3, at_s: 0, share: 0.001}", &s);
    alike("seconds of its prompt's part of a link", s, 1000 * kv / wire / 32, 1e-6);
    alike("seconds until the second token", o.tpot_s.p50, 1000 * kv / wire / 32, 0.05);
}

/* A prompt of 64 pages goes from the links of 16 dies to the pool, and back to all of them; though each
 * is computed by one die alone. */
static void what_the_pool_has_comes_over_all_links(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX", text[1024];
    FILE *f = fdopen(mkstemp(path), "w");
    assert_non_null(f);
    for (int i = 0; i < 2; i++)
        fprintf(f,
                "{\"timestamp\": %d, \"input_length\": 8192, \"output_length\": 2, \"hash_ids\": "
                "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]}\n",
                i * 20000);
    fclose(f);
    snprintf(
        text, sizeof text,
        "hardware: gb200-nvl72\nmodel: deepseek-v2-lite\nmax_model_len: 16384\nhandover: nvlink\n"
        "prefill: {chips: 16, weights: bf16, restart_s: 1}\n"
        "decode: {chips: 8, weights: bf16}\npool: {servers: 16, plane: ib}\n"
        "load: {trace: %s, requests: 2}\nfaults: [{what: chip, index: 0, at_s: 10, for_s: "
        "0.1}]\n",
        path);
    struct run_report o = run_on(text, "", 1);
    remove(path);
    keeps_promises(&o);
    assert_int_equal(o.pool_tokens, 63 * 128);
    alike("seconds of a die's link", o.pool_use * o.last_end_s, o.pool_read_bytes / 63 * 4 / 46e9,
          1e-6);
}

/* Two sockets of one box: UPI's 38 GB/s, not the card's 11.7. */
static void one_node_hands_over_inside_itself(void **state) {
    (void)state;
    struct run_report o =
        run_on("hardware: cpu\nmodel: deepseek-v2-lite\nmax_model_len: 4096\n"
               "load: {arrivals: closed, input_tokens: 2048, output_tokens: 2, requests: 1}\n",
               "", 1);
    keeps_promises(&o);
    alike("seconds of a socket's link", o.handover_use * o.last_end_s, o.handover_bytes / 38e9,
          1e-6);
}

/* 62 layers of R1's latents, the draft layer's among them, wherever they lie. */
static void a_page_has_one_size_everywhere(void **state) {
    (void)state;
    double s;
    struct run_config *c = described("decode: {kv_bytes: 1}\nload: {duration_s: 1}\n");
    assert_true(c->prefill.setup.kv_bytes == c->decode.setup.kv_bytes);
    free(c);
    struct run_report o = one_handover("rdma", "", &s);
    assert_true(o.handover_bytes == 8192 * 71424.0);
    assert_true(o.pool_write_bytes == o.handover_bytes && o.blocks_stored == 64);
}

/* One request on eight dies: the experts of all of them have its row to compute, not eight. */
static void dies_without_requests_give_experts_no_rows(void **state) {
    (void)state;
    struct run_config *c;
    struct run_report o = one_at_a_time(8, &c);
    struct step_decode d = {.requests = 1, .kv_tokens = 304, .mean_requests = 1. / 8}, all = d;
    all.mean_requests = 1;
    double decode_s = step_decode_s(&c->decode.setup, &d, NULL),
           all_s = step_decode_s(&c->decode.setup, &all, NULL);
    free(c);
    keeps_promises(&o);
    assert_true(all_s > 1.02 * decode_s);
    assert_true(fabs(o.tpot_s.p50 / decode_s - 1) < 0.01);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_ends_with_its_tokens),
        cmocka_unit_test(one_seed_is_one_run_and_another_is_another),
        cmocka_unit_test(whatever_breaks_no_token_is_wrong_and_no_request_lost),
        cmocka_unit_test(who_leaves_at_any_time_leaves_nothing_behind),
        cmocka_unit_test(a_node_that_hangs_to_the_end_and_beyond_leaks_nothing),
        cmocka_unit_test(prompts_whose_clients_left_before_a_token_are_no_throughput),
        cmocka_unit_test(an_answer_whose_client_left_is_not_computed_on),
        cmocka_unit_test(where_kv_is_much_too_small_all_is_served_in_turn),
        cmocka_unit_test(a_repeated_prompt_is_found_after_all_workers_were_restarted),
        cmocka_unit_test(what_went_to_ssd_is_found_after_its_server_came_back),
        cmocka_unit_test(a_closed_loop_keeps_its_clients),
        cmocka_unit_test(blocks_that_the_pool_did_not_take_are_told),
        cmocka_unit_test(a_closed_loop_ends_after_its_time),
        cmocka_unit_test(tenants_with_one_prompt_share_nothing),
        cmocka_unit_test(the_slowest_chip_sets_the_pace_until_it_is_mended),
        cmocka_unit_test(without_a_decode_worker_requests_fail_after_their_time),
        cmocka_unit_test(faults_of_hardware_that_nobody_uses_are_told),
        cmocka_unit_test(a_token_is_told_when_its_step_is_over),
        cmocka_unit_test(who_hangs_in_a_step_goes_on_with_what_was_left_of_it),
        cmocka_unit_test(who_dies_in_a_step_after_a_hang_was_busy_only_until_then),
        cmocka_unit_test(sub_planes_carry_what_those_that_live_carry),
        cmocka_unit_test(a_prompt_is_handed_over_by_its_own_links),
        cmocka_unit_test(what_the_pool_has_comes_over_all_links),
        cmocka_unit_test(one_node_hands_over_inside_itself),
        cmocka_unit_test(a_page_has_one_size_everywhere),
        cmocka_unit_test(dies_without_requests_give_experts_no_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptions of runs: what is wrong is named by its place, what is left out follows from the rest. */
#include "sim/run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "described.h"
#include "sim/embedded.h"

static void bad_descriptions_are_named_with_file_line_and_key(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"load: {duration_s: 1}\nfoo: 1\n", "run.yaml: line 2: foo"},
        {"decode: {chips: 16}\nload: {duration_s: -1}\n", "run.yaml: line 2: duration_s"},
        {"load: {rate: 1}\n", "run.yaml: line 1: load"},
        {"load: {duration_s: 1}\nfaults: [{what: fire, at_s: 1}]\n", "run.yaml: line 2: what"},
        {"load: {duration_s: 1}\nfaults: [{what: node}]\n", "run.yaml: line 2"},
        {"prefill: {instances: 100}\nload: {duration_s: 1}\n", "run.yaml: "},
        {"load: {duration_s: 1}\npool: {plane: x}\n", "run.yaml: line 2: plane"},
        {"seed: 1\n", "run.yaml: line 1: load: found nothing"},
        {"load: {duration_s: 1, arrivals: trace}\n", "run.yaml: line 1"},
        {"hardware: cray\nload: {duration_s: 1}\n", "run.yaml: line 1: hardware cray: "},
        {"load: {duration_s: 1}\ndecode:\n  chips: 32\n  ep: 63\n",
         "run.yaml: line 4: decode: ep: found 63"},
        {"load: {duration_s: 1}\ndecode: {chips: 2}\n", "run.yaml: line 2: decode: weights: "},
        {"load: {duration_s: 1}\nprefill: {instances: 90}\n", "run.yaml: line 2: prefill: "},
        {"load: {duration_s: 1}\nmax_model_len: 1000000\n", "run.yaml: line 2: max_model_len: "},
        {"load: {duration_s: 1}\n\nfaults:\n  - {what: chip, index: 384, at_s: 1}\n",
         "run.yaml: line 4: index: found chip 384"},
        {"load: {duration_s: 1}\nfaults: [{what: cut, index: 3, at_s: 1, for_s: 1}]\n",
         "run.yaml: line 2: for_s: "},
        {"load: {requests: 1}\nrandom_faults: {mtbf_h: {chip: 1}}\n", "run.yaml: line 2: random"},
        {"load: {duration_s: 1, arrivals: closed, rate: 1}\n", "run.yaml: line 1: rate: "},
        {"load: {duration_s: 1}\nhardware: gb200-nvl72\nprefill: {chips: 8}\ndecode: {chips: "
         "32}\npool: {ssd_gb: 1}\n",
         "run.yaml: line 5: ssd_gb: "},
        {"load: {duration_s: 1}\nfaults:\n  - {what: chip, index: 176, at_s: 1}\n",
         "run.yaml: line 3: index: found chip 176, expected less than 176: nobody uses it"},
        {"load: {duration_s: 1}\nfaults:\n  - {what: hang, index: 22, at_s: 1}\n",
         "run.yaml: line 3: index: found hang 22, expected less than 22"},
        {"load: {duration_s: 1}\nfaults: [{what: sub-plane, at_s: 1}]\npool: {plane: vpc}\n",
         "run.yaml: line 2: index: found a sub-plane of ub, which carries nothing"},
        {"load: {duration_s: 1}\nhandover: vpc\nfaults: [{what: link, at_s: 1}]\n",
         "run.yaml: line 3: index: found a chip's link, but hand-over goes over vpc"},
        {"load: {duration_s: 1}\npool: {servers: 0}\nrandom_faults:\n  mtbf_h: {pool: 1}\n",
         "run.yaml: line 4: pool: found a pool server, but there is none"},
        {"load: {duration_s: 1000}\nrandom_faults:\n  mtbf_h: {chip: 0.000001}\n",
         "run.yaml: line 3: chip: found 1e-06 h, expected "},
        {"load: {rate: 0.001,\n  requests: 100000}\n",
         "run.yaml: line 2: requests: found 100000, expected at most 10000: what comes in"},
        {"load: {duration_s: 1}\nmodel: deepseek-v2-lite\ndecode:\n  mtp: false\n  kv_bytes: "
         "0.25\n",
         "run.yaml: line 3: decode: prefill and decode have memory for "},
        {"load: {duration_s: 1}\npool:\n  servers: 48\n  ssd_gb: 100000\n",
         "run.yaml: line 4: ssd_gb: 48 servers have room for "},
        {"load: {duration_s: 1}\nfaults: [{what: chip, at_s: 1, share: 0.5}]\n",
         "run.yaml: line 2: share: found with what: chip"},
        {"load: {duration_s: 1}\nfaults: [{what: link, at_s: 1, slow: 2}]\n",
         "run.yaml: line 2: slow: found with what: link"},
        {"load: {duration_s: 1}\nprefill: [1]\n",
         "run.yaml: line 2: prefill: found a list, expected a mapping"},
        {"load: {duration_s: 1}\nfaults: 3\n",
         "run.yaml: line 2: faults: found 3, expected a list"},
        {"load: {duration_s: 1}\nfaults: [3]\n", "run.yaml: line 2: found '3', expected a mapping"},
        {"[1]\n", "run.yaml: line 1: found a list, expected a mapping"},
        {"load: {duration_s: 1}\npool: {plane: rdma}\n",
         "run.yaml: line 2: plane: found rdma, of which cloudmatrix384 lacks paths: other_node: "
         "read_cpu"},
        {"hardware: cpu\nmodel: deepseek-v2-lite\nload: {duration_s: 1}\npool: {servers: 1}\n",
         "run.yaml: line 4: pool: found ethernet, of which cpu lacks paths: same_node: read_cpu"},
        {"load: {duration_s: 1}\nrandom_faults: {repair_s: 0}\n",
         "run.yaml: line 2: repair_s: found 0"},
        {"load: {duration_s: 1}\npool: {dram_gb: 1501}\n",
         "run.yaml: line 2: dram_gb: found 1501, expected at most the 1500 of a node"},
        {"hardware: h800\nload: {duration_s: 1}\npool: {dram_gb: 20000}\n",
         "run.yaml: line 3: dram_gb: found 20000, expected at most the 2000 of a node"},
        {"load: {duration_s: 1}\nprefill: {kv_bytes: 1}\ndecode: {kv_bytes: 2}\n",
         "run.yaml: line 2: kv_bytes: found 1, expected decode's 2"},
        {"load: {duration_s: 1}\nfaults: [{what: chip, at_s: 1, for_s: 0}]\n",
         "run.yaml: line 2: for_s: found 0"},
        {"load: {duration_s: 1, spread: true}\n", "run.yaml: line 1: spread: found with arrivals"},
        {"load: {duration_s: 1, trace: x,\n  output_tokens: 3}\n",
         "run.yaml: line 2: output_tokens: found with trace"},
        {"load: {duration_s: 1, length_divisor: 2}\n", "run.yaml: line 1: length_divisor: "},
        {"load: {duration_s: 1}\ndecode: {layer_fixed_ms: 2}\n",
         "run.yaml: line 2: layer_fixed_ms: "},
        {"load: {duration_s: 1}\nprefill: {requests_per_chip: 2}\n",
         "run.yaml: line 2: requests_per_chip: "},
        {"load: {duration_s: 1, leave_share: 2}\n", "run.yaml: line 1: leave_share: "},
        {"load: {duration_s: 1, trace: \"\"}\n",
         "run.yaml: line 1: trace: found '', expected a path"},
    };
    struct run_config *c = malloc(sizeof *c);
    assert_non_null(c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err;
        enum st st = run_config_read(c, bad[i][0], strlen(bad[i][0]), "run.yaml", &err);
        if (!st || strncmp(err.text, bad[i][1], strlen(bad[i][1])) != 0)
            fail_msg("found %d \"%s\", expected \"%s\"", st, st ? err.text : "", bad[i][1]);
    }
    free(c);
}

/* What nobody says follows from the model and the machine. */
static void defaults_are_what_model_and_machine_can(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t prefill, decode, servers; /* chips */
        enum machine_type weights;
        bool mtp;
        const char *handover;
    } cases[] = {
        {"hardware: cloudmatrix384\n", 16, 160, 22, TYPE_INT8, true, "rdma"},
        {"hardware: h800\n", 16, 160, 22, TYPE_FP8, true, "ib"},
        {"hardware: gb200-nvl72\nprefill: {instances: 5}\n", 7, 37, 18, TYPE_FP8, true, "ib"},
        {"hardware: gb200-nvl72\n", 16, 56, 18, TYPE_FP8, true, "ib"},
        {"model: deepseek-v2-lite\n", 16, 160, 22, TYPE_INT8, false, "rdma"},
        {"hardware: cpu\nmodel: deepseek-v2-lite\n", 1, 1, 0, TYPE_INT8, false, "upi"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "%sload: {duration_s: 1}\n", cases[i].text);
        struct run_config *c = described(text);
        assert_int_equal(c->prefill.chips, cases[i].prefill);
        assert_int_equal(c->decode.chips, cases[i].decode);
        assert_int_equal(c->pool.n, cases[i].servers);
        assert_int_equal(c->prefill.setup.weights, cases[i].weights);
        assert_int_equal(c->decode.setup.weights, cases[i].weights);
        assert_int_equal(c->decode.setup.mtp, cases[i].mtp);
        assert_string_equal(c->handover_plane, cases[i].handover);
        free(c);
    }
}

/* Else the run would stand still, or something would come at once that never does. */
static void hardware_that_lacks_a_figure_is_refused(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"read_cpu: {gbs: 147, us: 1.7}",
         "run.yaml: line 3: pool: found ub, of which cloudmatrix384 ", ""},
        {"write: {gbs: 135, us: 2.1}", "run.yaml: line 1: prefill: ep: found 32, expected fewer",
         ""},
        {"write: {gbs: 137, us: 1.3}",
         "run.yaml: line 1: prefill: the largest batch would take inf", ""},
        {"bf16_tflops: {", "run.yaml: line 1: hardware: ", "die: bf16_tflops is missing"},
    };
    const char *whole;
    size_t len;
    assert_true(embedded_hardware("cloudmatrix384", &whole, &len));
    struct run_config *c = malloc(sizeof *c);
    assert_non_null(c);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[] = "/tmp/hardware-XXXXXX.yaml", text[512];
        const char *at = strstr(whole, cases[i][0]);
        FILE *f = fdopen(mkstemps(path, 5), "w");
        assert_true(at && f);
        fprintf(f, "%.*s# %s", (int)(at - whole), whole, at);
        fclose(f);
        snprintf(text, sizeof text, "hardware: %s\nload: {duration_s: 1}\npool: {servers: 4}\n",
                 path);
        struct err err;
        enum st st = run_config_read(c, text, strlen(text), "run.yaml", &err);
        remove(path);
        if (!st || strncmp(err.text, cases[i][1], strlen(cases[i][1])) != 0 ||
            !strstr(err.text, cases[i][2]))
            fail_msg("found %d \"%s\", expected \"%s\"", st, st ? err.text : "", cases[i][1]);
    }
    free(c);
}

static void paths_are_relative_to_the_description_and_names_stay_names(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"hardware: x.yaml\n", "hardware: /nowhere/x.yaml: cannot open"},
        {"hardware: ../x\n", "hardware: /nowhere/../x: cannot open"},
        {"hardware: /else/x.yaml\n", "hardware: /else/x.yaml: cannot open"},
        {"hardware: cray\n", "hardware cray: unknown"},
        {"model: x.json\n", "model: /nowhere/x.json: cannot open"},
        {"model: ./folder\n", "model: /nowhere/./folder: cannot open"},
        {"model: llama\n", "model llama: found no"},
    };
    static const char place[] = "/nowhere/run.yaml: line 1: ";
    struct run_config *c = malloc(sizeof *c);
    struct err err;
    assert_non_null(c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char expected[256];
        snprintf(expected, sizeof expected, "%s%s", place, bad[i][1]);
        enum st st = run_config_read(c, bad[i][0], strlen(bad[i][0]), "/nowhere/run.yaml", &err);
        if (!st || strncmp(err.text, expected, strlen(expected)) != 0)
            fail_msg("found %d \"%s\", expected \"%s\"", st, st ? err.text : "", expected);
    }
    const char good[] = "server: x.json\nload: {trace: traces/x.csv, requests: 1}\n";
    must(run_config_read(c, good, strlen(good), "some/where/run.yaml", &err), &err);
    assert_string_equal(c->server, "some/where/x.json");
    assert_string_equal(c->load.trace, "some/where/traces/x.csv");
    free(c);
}

static void no_fixed_time_is_not_the_chips(void **state) {
    (void)state;
    struct run_config *c = described("load: {duration_s: 1}\nprefill: {layer_fixed_ms: 0}\n");
    assert_true(c->prefill.setup.layer_fixed_s == 0);
    free(c);
    c = described("load: {duration_s: 1}\n");
    assert_true(c->prefill.setup.layer_fixed_s > 0);
    free(c);
}

/* A batch of nearly 10,000 s, on a chip that is slowed down a thousandfold, is waited for. */
static void the_slowest_chip_says_how_long_nothing_may_move(void **state) {
    (void)state;
    static const struct {
        const char *faults;
        double slow;
    } cases[] = {{"", 1},
                 {"faults: [{what: hang, at_s: 1}, {what: slow, at_s: 1, slow: 1000}, "
                  "{what: slow, at_s: 9, slow: 3}]\n",
                  1000},
                 {"random_faults: {mtbf_h: {slow: 1}}\n", 2},
                 {"random_faults: {mtbf_h: {chip: 1}}\n", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "load: {duration_s: 10}\nno_worker_timeout_s: 5\n%s",
                 cases[i].faults);
        struct run_config *c = described(text);
        assert_true(fabs(run_stuck_s_max(c) - 1e5 * cases[i].slow - 5) < 1e-3);
        free(c);
    }
}

/* What a description names is opened later: its place is said all the same. */
static void a_bad_trace_is_named_by_the_line_that_names_it(void **state) {
    (void)state;
    char path[] = "/tmp/trace-XXXXXX", text[512], expected[512];
    FILE *f = fdopen(mkstemp(path), "w");
    assert_non_null(f);
    fprintf(f, "num_prefill_tokens,num_decode_tokens\n5,1\n5,-1\n");
    fclose(f);
    struct run_config *c = malloc(sizeof *c);
    assert_non_null(c);
    for (int gone = 0; gone < 2; gone++) {
        struct run *r;
        struct err err;
        if (gone) remove(path);
        snprintf(text, sizeof text, "load:\n  duration_s: 1\n  trace: %s\n", path);
        snprintf(expected, sizeof expected, "run.yaml: line 3: trace: %s: %s", path,
                 gone ? "cannot open: " : "line 3: num_decode_tokens: found '-1'");
        must(run_config_read(c, text, strlen(text), "run.yaml", &err), &err);
        assert_int_equal(run_new(&r, c, &err), gone ? ST_NOT_FOUND : ST_INVALID);
        if (strncmp(err.text, expected, strlen(expected)) != 0)
            fail_msg("found \"%s\", expected \"%s\"", err.text, expected);
    }
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_descriptions_are_named_with_file_line_and_key),
        cmocka_unit_test(defaults_are_what_model_and_machine_can),
        cmocka_unit_test(hardware_that_lacks_a_figure_is_refused),
        cmocka_unit_test(paths_are_relative_to_the_description_and_names_stay_names),
        cmocka_unit_test(no_fixed_time_is_not_the_chips),
        cmocka_unit_test(the_slowest_chip_says_how_long_nothing_may_move),
        cmocka_unit_test(a_bad_trace_is_named_by_the_line_that_names_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

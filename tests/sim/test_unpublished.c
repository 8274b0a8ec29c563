/* SPDX-License-Identifier: Apache-2.0 */
/* The model without the published numbers: linked from every object but sim/paper.o (Makefile), it gives
 * what the binary gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "sim/models.h"
#include "sim/paper.h"
#include "sim/step.h"

#pragma weak paper_open

static struct machine machine;
static struct model_config model;

static int open_all(void **state) {
    struct err err;
    (void)state;
    return machine_open(&machine, "cloudmatrix384", &err) ||
           sim_model_open(&model, "deepseek-r1", &err);
}

/* A number of what `supernode sim ARGS --json` says; the binary lies two folders above this program. */
static double says(const char *args, const char *key) {
    char self[2048] = "", command[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    for (int i = 0; i < 3; i++) *strrchr(self, '/') = '\0';
    snprintf(command, sizeof command, "%s/supernode sim %s --json", self, args);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    json_t *o = json_loadf(f, 0, NULL);
    assert_int_equal(pclose(f), 0);
    double v = json_number_value(json_object_get(o, key));
    json_decref(o);
    return v;
}

static void same(double found, double expected) {
    if (!(fabs(found / expected - 1) < 1e-9))
        fail_msg("found %.12g, expected %.12g", found, expected);
}

static void the_comparison_is_not_linked(void **state) {
    (void)state;
    assert_true(paper_open == NULL);
}

static void operators_say_the_same(void **state) {
    (void)state;
    static const struct {
        enum op op;
        const char *args;
    } asked[] = {{OP_DISPATCH, "op dispatch --ep 48 --batch 100"},
                 {OP_COMBINE, "op combine --ep 48 --batch 100"},
                 {OP_GMM, "op gmm --ep 48 --batch 100"},
                 {OP_GATE, "op gate --batch 100"}};
    struct op_shape s = {.model = &model,
                         .weights = TYPE_INT8,
                         .activations = TYPE_INT8,
                         .kv_bytes = 2,
                         .tokens = 100,
                         .ep = 48,
                         .imbalance = 1};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct op_cost c;
        op_cost(&c, &machine, NULL, asked[i].op, &s);
        same(c.s * 1e6, says(asked[i].args, "time_us"));
    }
}

static void steps_say_the_same(void **state) {
    (void)state;
    struct err err;
    struct step_setup s = {.machine = &machine,
                           .model = model,
                           .weights = TYPE_INT8,
                           .dies = 288,
                           .mtp = true,
                           .acceptance = 0.7,
                           .microbatches = true};
    struct step_decode d = {.requests = 40, .kv_tokens = 3000};
    assert_int_equal(step_setup_fill(&s, false, &err), ST_OK);
    same(step_decode_s(&s, &d, NULL) * 1e3,
         says("step decode --chips 144 --batch 80 --kv 3000", "step_ms"));
    s = (struct step_setup){.machine = &machine,
                            .model = model,
                            .weights = TYPE_INT8,
                            .dies = 32,
                            .microbatches = true};
    struct step_prefill p = {
        .tokens = 16 * 8192, .key_pairs = 64 * 2048.0 * 2049 / 2, .requests = 64};
    assert_int_equal(step_setup_fill(&s, true, &err), ST_OK);
    same(step_prefill_s(&s, &p, NULL) * 1e3,
         says("step prefill --tokens 8192 --prompt 2048", "step_ms"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_comparison_is_not_linked),
        cmocka_unit_test(operators_say_the_same),
        cmocka_unit_test(steps_say_the_same),
    };
    return cmocka_run_group_tests(tests, open_all, NULL);
}

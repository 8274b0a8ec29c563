/* SPDX-License-Identifier: Apache-2.0 */
/* What a context cache does to a prompt batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "sim/cache.h"
#include "sim/models.h"

struct world {
    struct machine machine;
    struct step_setup setup;
};

static void open_world(struct world *w, const char *hardware, uint32_t dies) {
    struct err err;
    memset(w, 0, sizeof *w);
    assert_int_equal(machine_open(&w->machine, hardware, &err), ST_OK);
    w->setup = (struct step_setup){.machine = &w->machine, .dies = dies, .microbatches = true};
    w->setup.weights = w->machine.peak[TYPE_FP8] > 0 ? TYPE_FP8 : TYPE_INT8;
    assert_int_equal(sim_model_open(&w->setup.model, "deepseek-r1", &err), ST_OK);
    assert_int_equal(step_setup_fill(&w->setup, true, &err), ST_OK);
}

static struct cache_cost ask(const struct world *w, const char *plane, double reuse) {
    struct cache_cost c;
    cache_cost(&c, &(struct cache_shape){.setup = &w->setup,
                                         .plane = plane ? machine_plane(&w->machine, plane) : NULL,
                                         .batch_tokens = 16384,
                                         .prompt = 4096,
                                         .reuse = reuse});
    return c;
}

static void without_a_plane_all_is_computed(void **state) {
    (void)state;
    struct world w;
    open_world(&w, "cloudmatrix384", 32);
    struct cache_cost none = ask(&w, NULL, 0.5), nothing = ask(&w, "ub", 0);
    struct step_prefill p = {
        .tokens = 16 * 16384, .key_pairs = 64 * 4096.0 * 4097 / 2, .requests = 64};
    assert_true(none.load_bytes == 0 && none.load_s == 0);
    assert_true(fabs(none.batch_s / step_prefill_s(&w.setup, &p, NULL) - 1) < 1e-12);
    assert_true(fabs(none.tokens_per_s * none.batch_s / 16384 - 1) < 1e-12);
    assert_true(nothing.batch_s == none.batch_s);
}

static void loads_are_what_the_planes_carry(void **state) {
    (void)state;
    struct world w;
    open_world(&w, "cloudmatrix384", 32);
    struct cache_cost ub = ask(&w, "ub", 0.5), vpc = ask(&w, "vpc", 0.5);
    double bytes = 16 * 16384 * 0.5 * 61 * 1152; /* BF16 latents of half the tokens */
    double card = 50e9 * machine_operator(&w.machine, "pool_card")->share;
    assert_true(fabs(ub.load_bytes / bytes - 1) < 1e-12 && vpc.load_bytes == ub.load_bytes);
    assert_true(fabs(ub.load_s / (bytes / 2 / (4 * 160e9)) - 1) < 1e-12); /* CPUs of two nodes */
    assert_true(fabs(vpc.load_s / (bytes / 2 / card) - 1) < 1e-12);
    assert_true(ub.compute_s == vpc.compute_s && vpc.batch_s == vpc.compute_s + vpc.load_s);
}

static void more_reuse_is_sooner_and_ub_beats_vpc_at_every_rate(void **state) {
    (void)state;
    static const char *const planes[] = {"ub", "vpc"};
    struct world w;
    open_world(&w, "cloudmatrix384", 32);
    double last[2] = {INFINITY, INFINITY};
    for (double reuse = 0.05; reuse < 0.99; reuse += 0.05) {
        for (int i = 0; i < 2; i++) {
            struct cache_cost c = ask(&w, planes[i], reuse);
            assert_true(c.batch_s < last[i]);
            last[i] = c.batch_s;
        }
        assert_true(last[0] < last[1]);
    }
}

static void only_planes_that_read_cpu_memory_reach(void **state) {
    (void)state;
    struct world w, gpus;
    open_world(&w, "cloudmatrix384", 32);
    open_world(&gpus, "h800", 32);
    assert_true(cache_plane_reaches(machine_plane(&w.machine, "ub")));
    assert_true(cache_plane_reaches(machine_plane(&w.machine, "vpc")));
    assert_false(cache_plane_reaches(machine_plane(&w.machine, "rdma")));
    assert_false(cache_plane_reaches(machine_plane(&gpus.machine, "nvlink")));
    struct cache_cost ib = ask(&gpus, "ib", 0.5);
    assert_true(fabs(ib.load_bps / 46e9 - 1) < 1e-12); /* each GPU has a card of its own */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_plane_all_is_computed),
        cmocka_unit_test(loads_are_what_the_planes_carry),
        cmocka_unit_test(more_reuse_is_sooner_and_ub_beats_vpc_at_every_rate),
        cmocka_unit_test(only_planes_that_read_cpu_memory_reach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Steps: they add up, follow their causes, and what cannot be is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim/models.h"
#include "sim/op_impl.h"
#include "sim/step.h"

static struct machine cm, h800;
static struct model_config r1, lite;

static int open_all(void **state) {
    struct err err;
    (void)state;
    return machine_open(&cm, "cloudmatrix384", &err) || machine_open(&h800, "h800", &err) ||
           sim_model_open(&r1, "deepseek-r1", &err) ||
           sim_model_open(&lite, "deepseek-v2-lite", &err);
}

static struct step_setup filled(bool prefill, struct step_setup s) {
    struct err err;
    if (!s.machine) s.machine = &cm;
    if (!s.model.n_layers) s.model = r1;
    if (!s.weights) s.weights = TYPE_INT8;
    if (step_setup_fill(&s, prefill, &err)) fail_msg("%s", err.text);
    return s;
}

static double decode(const struct step_setup *s, double requests, double kv) {
    return step_decode_s(s, &(struct step_decode){requests, kv, 0, 0}, NULL);
}

static double prefill(const struct step_setup *s, double prompts, double length, double cached) {
    struct step_prefill p = {.tokens = prompts * (length - cached),
                             .key_pairs = prompts * (length * length - cached * cached) / 2,
                             .cached = prompts * cached,
                             .requests = prompts};
    return step_prefill_s(s, &p, NULL);
}

static void a_setup_is_filled_in_as_the_paper_has_it(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320});
    assert_int_equal(s.ep, 320);
    assert_int_equal(s.shared_ranks, 32);
    assert_int_equal(s.redundant, 32);
    assert_int_equal(s.attention, STEP_ATTENTION_STAGED);
    assert_true(s.imbalance == 1);
    assert_true(step_kv_token_bytes(&s) == 61 * 576 * 2);
    struct step_setup g = filled(true, (struct step_setup){.machine = &h800, .weights = TYPE_FP8});
    assert_int_equal(g.attention, STEP_ATTENTION_DATA);
    assert_true(g.attention_cubes == 1);
}

/* Ranks beyond the experts, from none to all: nobody is given everybody's shared expert to compute. */
static void few_ranks_more_than_experts_make_no_step_slow(void **state) {
    (void)state;
    double before = 0;
    for (uint32_t dies = 256; dies <= 768; dies += 2) {
        struct step_setup s = filled(false, (struct step_setup){.dies = dies, .imbalance = 1.5});
        double now = decode(&s, 48, 4096);
        if (before > 0 && !(fabs(now / before - 1) < 0.05))
            fail_msg("%u dies: found %g s, expected about %g", dies, now, before);
        before = now;
    }
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    struct err err;
    struct step_setup few = {.machine = &cm, .model = r1, .weights = TYPE_INT8, .dies = 4};
    assert_int_equal(step_setup_fill(&few, false, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "weights"));
    struct step_setup many = {.machine = &cm, .model = r1, .weights = TYPE_INT8, .dies = 770};
    assert_int_equal(step_setup_fill(&many, false, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "770"));
    struct step_setup ep = {
        .machine = &cm, .model = r1, .weights = TYPE_INT8, .dies = 32, .ep = 64};
    assert_int_equal(step_setup_fill(&ep, false, &err), ST_INVALID);
    struct step_setup mtp = {.machine = &cm, .model = lite, .dies = 8, .mtp = true};
    assert_int_equal(step_setup_fill(&mtp, false, &err), ST_INVALID);
}

/* Pieces of a stream do not overlap, of a microbatch neither, and the last one ends the step. */
static void check_trace(const struct step_trace *t, double step_s) {
    double end = 0;
    assert_true(t->n > 100);
    for (size_t i = 0; i < t->n; i++) {
        const struct step_piece *p = &t->v[i];
        end = fmax(end, p->begin_s + p->s);
        assert_true(p->s >= 0 && p->begin_s >= 0);
        for (size_t j = i + 1; j < t->n && j < i + 60; j++) {
            const struct step_piece *q = &t->v[j];
            if (p->stream != q->stream) continue;
            assert_true(q->begin_s >= p->begin_s + p->s - 1e-12);
        }
    }
    assert_true(fabs(end - step_s) < 1e-9);
}

static void a_trace_ends_when_the_step_does(void **state) {
    (void)state;
    struct step_trace t = {0};
    struct step_setup s =
        filled(false, (struct step_setup){.dies = 320, .mtp = true, .microbatches = true});
    double step_s = step_decode_s(&s, &(struct step_decode){48, 4096, 0, 0}, &t);
    check_trace(&t, step_s);
    t.n = 0;
    struct step_setup p = filled(true, (struct step_setup){.dies = 32, .microbatches = true});
    struct step_prefill b = {.tokens = 262144, .key_pairs = 262144 * 2048.0, .requests = 64};
    check_trace(&t, (step_s = step_prefill_s(&p, &b, &t)));
    t.n = 0;
    s.microbatches = false; /* one microbatch: the step is the sum of its pieces */
    step_s = step_decode_s(&s, &(struct step_decode){48, 4096, 0, 0}, &t);
    double sum = 0;
    for (size_t i = 0; i < t.n; i++) sum += t.v[i].s;
    assert_true(fabs(sum - step_s) < 1e-9);
    free(t.v);
}

static void more_requests_keys_and_imbalance_never_make_a_step_shorter(void **state) {
    (void)state;
    static const struct machine *const machines[] = {&cm, &h800};
    for (int i = 0; i < 2; i++)
        for (int mtp = 0; mtp < 2; mtp++) {
            struct step_setup s =
                filled(false, (struct step_setup){.machine = machines[i],
                                                  .dies = 160,
                                                  .mtp = mtp,
                                                  .microbatches = true,
                                                  .weights = i ? TYPE_FP8 : TYPE_INT8});
            double last = 0;
            for (double n = 1; n < 200; n += n < 20 ? 1 : 7) {
                double t = decode(&s, n, 4096);
                if (t < last)
                    fail_msg("%s, %g requests: %g s, fewer took %g", s.machine->name, n, t, last);
                last = t;
            }
            last = 0;
            for (double kv = 1; kv < 200000; kv *= 1.7) {
                double t = decode(&s, 16, kv);
                assert_true(t >= last);
                last = t;
            }
            last = 0;
            for (s.imbalance = 1; s.imbalance < 4; s.imbalance += 0.2) {
                double t = decode(&s, 48, 4096);
                assert_true(t >= last);
                last = t;
            }
        }
}

static void long_keys_cost_what_attention_costs(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320});
    double per_key = (decode(&s, 1, 400000) - decode(&s, 1, 200000)) / 200000;
    double memory = 61 * 576 * 2 / (1.6e12 * 0.841),
           compute = 61 * 2.0 * 128 * 1088 / (376e12 * 0.654);
    assert_true(fabs(per_key / pow(pow(memory, 4) + pow(compute, 4), 0.25) - 1) < 0.01);
}

/* The die with the most keys is waited for; many requests a die, or a die alone, even them out. */
static void unequal_lengths_cost_what_the_fullest_die_has_more(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320, .weights = TYPE_INT8});
    struct step_decode even = {4, 4096, 0, 0}, odd = {4, 4096, 0.5, 0}, many = {100, 4096, 0.5, 0};
    double more = step_decode_s(&s, &odd, NULL) / step_decode_s(&s, &even, NULL);
    assert_true(step_decode_s(&s, &odd, NULL) ==
                decode(&s, 4, 4096 * (1 + 0.5 * op_expected_max(320) / 2)));
    assert_true(more > 1.01);
    assert_true(step_decode_s(&s, &many, NULL) ==
                decode(&s, 100, 4096 * (1 + 0.5 * op_expected_max(320) / 10)));
    struct step_setup alone =
        filled(false, (struct step_setup){.model = lite, .dies = 1, .weights = TYPE_INT8});
    assert_true(step_decode_s(&alone, &odd, NULL) == decode(&alone, 4, 4096));
}

static void microbatches_are_used_only_where_they_help(void **state) {
    (void)state;
    struct step_setup s =
        filled(false, (struct step_setup){.dies = 320, .mtp = true, .microbatches = true});
    struct step_setup off = s, forced = s;
    off.microbatches = false;
    forced.microbatches_forced = true;
    for (double n = 2; n < 100; n += 11)
        assert_true(decode(&s, n, 4096) <=
                    fmin(decode(&off, n, 4096), decode(&forced, n, 4096)) + 1e-12);
    assert_true(decode(&forced, 4, 4096) > decode(&off, 4, 4096)); /* weights are read twice */
}

static void a_share_of_the_cores_is_of_whole_ones_on_both_sides(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320,
                                                            .microbatches = true,
                                                            .microbatches_forced = true,
                                                            .attention_cubes = 0.5});
    for (uint32_t i = 1; i < cm.cube_cores; i++) {
        double whole = (double)i / cm.cube_cores;
        s.attention_cubes = whole;
        double exact = decode(&s, 48, 4096);
        s.attention_cubes = whole - 0.49 / cm.cube_cores;
        assert_true(decode(&s, 48, 4096) == exact);
    }
    struct machine one = cm;
    struct err err;
    one.cube_cores = 1;
    s.machine = &one;
    s.attention_cubes = 0;
    assert_int_equal(step_setup_fill(&s, false, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "one cube core"));
    s.microbatches_forced = false;
    s = filled(false, s);
    assert_true(!s.microbatches && isfinite(decode(&s, 48, 4096)));
    one.vector_cores = 1; /* a GPU takes turns, unless it is told to split */
    s.microbatches = true;
    assert_true(filled(false, s).microbatches);
    s.attention_cubes = 0.5;
    assert_true(!filled(false, s).microbatches);
}

/* Beyond it there is the other plane, or no way where this one was asked for. */
static void a_plane_ends_with_its_domain(void **state) {
    (void)state;
    struct machine two;
    struct err err;
    assert_int_equal(machine_open(&two, "gb200-nvl72", &err), ST_OK);
    uint32_t in_one = machine_dies_per_node(&two) * two.n_nodes;
    two.planes[0].domain_nodes = two.n_nodes;
    two.n_nodes *= 2;
    struct step_setup s = {.machine = &two, .model = r1, .weights = TYPE_FP8, .dies = 2 * in_one};
    struct step_setup far = filled(false, s);
    s.plane = two.planes[0].name;
    s.ep = in_one;
    struct step_setup near = filled(false, s);
    assert_true(decode(&far, 16, 100) > decode(&near, 16, 100));
    s.ep = 2 * in_one;
    assert_int_equal(step_setup_fill(&s, false, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "plane nvlink of gb200-nvl72 does not connect so many"));
}

static void a_draft_layer_joins_its_token_and_the_hidden_state(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320, .mtp = true});
    struct step_trace t = {0};
    double joined = 0;
    step_decode_s(&s, &(struct step_decode){8, 4096, 0, 0}, &t);
    for (size_t i = 0; i < t.n; i++)
        if (t.v[i].op == OP_MTP_PROJ) {
            assert_true(joined == 0);
            joined = t.v[i].s;
        }
    assert_true(joined > 2.0 * 7168 * 7168 * 2 / 1600e9); /* its weights are read */
    free(t.v);
}

static void requests_are_whole(void **state) {
    (void)state;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320, .imbalance = 1.5});
    double one = decode(&s, 1, 65536), half = decode(&s, 0.5, 65536);
    assert_true(half < one); /* the experts have fewer rows ... */
    assert_true(half > 0.95 * one && half > decode(&s, 1, 32768)); /* ... a die all of one's keys */
    struct step_decode few = {.requests = 1, .kv_tokens = 65536, .mean_requests = 0.5};
    assert_true(step_decode_s(&s, &few, NULL) == half);
    few = (struct step_decode){.requests = 64, .kv_tokens = 1024, .mean_requests = 4};
    assert_true(step_decode_s(&s, &few, NULL) < 0.9 * decode(&s, 64, 1024));
}

static void launches_show_when_they_are_not_ahead(void **state) {
    (void)state;
    struct machine late = cm;
    struct step_setup s = filled(false, (struct step_setup){.dies = 320, .mtp = true}), t = s;
    late.graphs_ahead = false;
    t.machine = &late;
    assert_true(fabs(decode(&t, 8, 1000) - decode(&s, 8, 1000) - 2 * cm.launch_s) < 1e-9);
}

static void prefill_grows_with_what_is_computed(void **state) {
    (void)state;
    struct step_setup s = filled(true, (struct step_setup){.dies = 32, .microbatches = true});
    double whole = prefill(&s, 64, 4096, 0);
    assert_true(fabs(16384 / whole / 6688 - 1) < 0.02);
    double last = whole;
    for (double cached = 512; cached < 4096; cached += 512) {
        double t = prefill(&s, 64, 4096, cached);
        assert_true(t < last);
        last = t;
    }
    assert_true(prefill(&s, 16, 16384, 0) > whole); /* as many tokens, longer prompts */
    s.layer_fixed_s = 0;
    assert_true(prefill(&s, 64, 4096, 0) < whole);
}

static void data_parallel_waits_for_the_fullest_die(void **state) {
    (void)state;
    struct step_setup s =
        filled(true, (struct step_setup){.machine = &h800, .weights = TYPE_FP8, .dies = 32});
    double even = prefill(&s, 32, 4096, 0), odd = prefill(&s, 33, 4096, 0);
    assert_true(odd > 1.2 * even);
    double one = prefill(&s, 1, 4096, 0); /* attends as long, but experts have a 32nd to do */
    assert_true(one < 0.97 * even && one > even / 2);
    assert_true(prefill(&s, 8, 4096, 0) <= even && prefill(&s, 8, 4096, 0) >= one);
    assert_true(prefill(&s, 0.9, 4096, 0) < one && prefill(&s, 0.9, 4096, 0) > 0.8 * one);
}

static double attention_of_a_layer(uint32_t dies, double prompts) {
    struct step_setup s = filled(true, (struct step_setup){.dies = dies});
    struct step_prefill p = {
        .tokens = prompts * 4096, .key_pairs = prompts * 4096 * 2048, .requests = prompts};
    struct step_trace t = {0};
    double found = 0;
    step_prefill_s(&s, &p, &t);
    for (size_t i = 0; i < t.n && found == 0; i++)
        if (t.v[i].op == OP_ATTENTION_WIDE) found = t.v[i].s;
    free(t.v);
    return found;
}

/* 128 heads: what dies beyond 128 have no head for helps nobody, until a second group has all again. */
static void a_head_is_not_cut(void **state) {
    (void)state;
    double one = attention_of_a_layer(128, 64);
    assert_true(attention_of_a_layer(64, 64) > 1.9 * one);
    assert_true(attention_of_a_layer(200, 64) == one);
    assert_true(attention_of_a_layer(255, 64) == one);
    double two = attention_of_a_layer(256, 64);
    assert_true(two > 0.5 * one && two < 0.51 * one);
    assert_true(attention_of_a_layer(256, 1) ==
                attention_of_a_layer(128, 1)); /* a prompt is whole */
    assert_true(attention_of_a_layer(256, 3) > 1.3 * attention_of_a_layer(256, 2));
}

/* By the formula of unequal lengths, or by whole prompts: the die that has the most. */
static void keys_that_the_fullest_die_has_no_room_for_are_refused(void **state) {
    (void)state;
    struct err err;
    struct step_setup d = filled(false, (struct step_setup){.dies = 320, .mtp = true});
    struct step_decode alike = {125, 4096, 0, 0}, odd = {125, 4096, 1, 0};
    assert_int_equal(step_decode_fits(&d, &alike, &err), ST_OK);
    assert_int_equal(step_decode_fits(&d, &odd, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "GB of KV on the fullest die"));
    struct step_setup p = filled(true, (struct step_setup){.dies = 32}), own = p;
    struct step_prefill many = {.tokens = 32 * 130000.0, .cached = 32 * 130000.0, .requests = 64},
                        one = {.tokens = 16 * 130000.0, .cached = 0, .requests = 1};
    assert_int_equal(step_prefill_fits(&p, &many, &err), ST_INVALID);
    many.cached = 0;
    assert_int_equal(step_prefill_fits(&p, &many, &err), ST_OK);
    own.attention = STEP_ATTENTION_DATA;
    assert_int_equal(step_prefill_fits(&own, &many, &err), ST_OK);
    assert_int_equal(step_prefill_fits(&p, &one, &err), ST_OK);
    assert_int_equal(step_prefill_fits(&own, &one, &err), ST_INVALID);
    struct step_setup full = filled(true, (struct step_setup){.dies = 32, .ep = 16});
    one.tokens = 1;
    assert_int_equal(step_prefill_fits(&full, &one, &err), ST_INVALID);
}

static void a_hand_over_takes_its_bytes_over_the_plane(void **state) {
    (void)state;
    struct step_setup s = filled(true, (struct step_setup){.dies = 32});
    double t = step_handover_s(&s, machine_plane(&cm, "rdma"), 4096);
    assert_true(fabs(t / (4096.0 * 61 * 1152 / 23.9e9) - 1) < 0.01);
}

static void a_small_model_runs_on_one_node(void **state) {
    (void)state;
    struct step_setup s = filled(
        false, (struct step_setup){
                   .machine = &h800, .model = lite, .dies = 8, .ep = 8, .weights = TYPE_FP8});
    double t = decode(&s, 1, 100);
    assert_true(t > 2e-3 && t < 20e-3);
    assert_true(step_kv_room_bytes(&s, false) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_setup_is_filled_in_as_the_paper_has_it),
        cmocka_unit_test(few_ranks_more_than_experts_make_no_step_slow),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_trace_ends_when_the_step_does),
        cmocka_unit_test(more_requests_keys_and_imbalance_never_make_a_step_shorter),
        cmocka_unit_test(long_keys_cost_what_attention_costs),
        cmocka_unit_test(unequal_lengths_cost_what_the_fullest_die_has_more),
        cmocka_unit_test(microbatches_are_used_only_where_they_help),
        cmocka_unit_test(a_share_of_the_cores_is_of_whole_ones_on_both_sides),
        cmocka_unit_test(a_plane_ends_with_its_domain),
        cmocka_unit_test(a_draft_layer_joins_its_token_and_the_hidden_state),
        cmocka_unit_test(requests_are_whole),
        cmocka_unit_test(launches_show_when_they_are_not_ahead),
        cmocka_unit_test(prefill_grows_with_what_is_computed),
        cmocka_unit_test(data_parallel_waits_for_the_fullest_die),
        cmocka_unit_test(a_head_is_not_cut),
        cmocka_unit_test(keys_that_the_fullest_die_has_no_room_for_are_refused),
        cmocka_unit_test(a_hand_over_takes_its_bytes_over_the_plane),
        cmocka_unit_test(a_small_model_runs_on_one_node),
    };
    return cmocka_run_group_tests(tests, open_all, NULL);
}

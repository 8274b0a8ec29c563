/* SPDX-License-Identifier: Apache-2.0 */
/* Every hardware file at the ends of what can be asked: one row and thousands, one rank and hundreds,
 * short and very long sequences, even and skewed experts. Nothing is faster than its bytes and
 * operations allow, and more work never takes less time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "sim/models.h"
#include "sim/step.h"

enum { MACHINES_MAX = 16 };
static struct machine machines[MACHINES_MAX];
static uint32_t n_machines;
static struct model_config r1, lite;

static const uint32_t eps[] = {1, 2, 8, 16, 32, 64, 72, 144, 160, 256, 320};
static const double batches[] = {1, 2, 3, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
static const double lengths[] = {128, 512, 1024, 4096, 16384, 65536, 131072};
static const double skews[] = {1, 1.1, 1.3, 1.65, 2, 3, 4};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static int open_all(void **state) {
    struct err err;
    (void)state;
    for (const char *const *name = machine_names(); *name; name++)
        if (n_machines == MACHINES_MAX || machine_open(&machines[n_machines++], *name, &err))
            return -1;
    return sim_model_open(&r1, "deepseek-r1", &err) ||
           sim_model_open(&lite, "deepseek-v2-lite", &err);
}

static enum machine_type type_of(const struct machine *m) {
    if (m->peak[TYPE_FP8] > 0) return TYPE_FP8;
    return m->peak[TYPE_INT8] > 0 ? TYPE_INT8 : TYPE_BF16;
}

static uint32_t dies_of(const struct machine *m) {
    return machine_dies_per_node(m) * m->n_nodes;
}

/* --- operators -------------------------------------------------------------------------------- */

static double fastest(const struct machine *m) {
    double peak = 0;
    for (int t = 0; t < MACHINE_TYPES; t++) peak = fmax(peak, m->peak[t]);
    return peak;
}

/* What leaves a die may go over all of its planes at once. */
static double link_bps(const struct machine *m) {
    double bps = 0;
    for (uint32_t i = 0; i < m->n_planes; i++)
        bps += fmax(m->planes[i].die_bps, m->planes[i].node_bps);
    return bps;
}

static double cost(const struct machine *m, enum op op, const struct op_shape *s) {
    struct op_cost c;
    op_cost(&c, m, NULL, op, s);
    if (!isfinite(c.s)) return c.s;
    double floor = fmax(fmax(c.operations / fastest(m), c.hbm_bytes / m->hbm_bps),
                        c.network_bytes / link_bps(m));
    if (!(c.s > 0 && c.s >= floor * (1 - 1e-9)))
        fail_msg("%s on %s, EP%u, %g rows: %g s, expected %g at least", op_names[op], m->name,
                 s->ep, s->tokens, c.s, floor);
    return c.s;
}

static struct op_shape shape(const struct machine *m, uint32_t ep, double rows) {
    return (struct op_shape){.model = &r1,
                             .weights = type_of(m),
                             .activations = type_of(m),
                             .kv_bytes = 2,
                             .tokens = rows,
                             .kv_tokens = 4096,
                             .requests = rows,
                             .ep = ep,
                             .ranks = ep,
                             .bytes = 1e4 * rows,
                             .imbalance = 1};
}

static void grows(const char *what, const struct machine *m, enum op op, double at, double *last,
                  double now) {
    if (!(now >= *last * (1 - 1e-9)))
        fail_msg("%s on %s: %g s with %s %g, less took %g", op_names[op], m->name, now, what, at,
                 *last);
    *last = now;
}

static void operators_keep_their_floors_and_grow_with_work(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_machines; i++)
        for (int op = 0; op < OPS; op++)
            for (size_t j = 0; j < COUNT(eps) && eps[j] <= dies_of(&machines[i]); j++) {
                const struct machine *m = &machines[i];
                double last = 0;
                bool collective = op == OP_ALL_GATHER || op == OP_ALL_TO_ALL;
                if (collective && eps[j] < 2) continue;
                for (double rows = 1; rows < 40000; rows = ceil(rows * 1.37)) {
                    struct op_shape s = shape(m, eps[j], rows);
                    grows("rows", m, (enum op)op, rows, &last, cost(m, (enum op)op, &s));
                }
                last = 0;
                for (size_t k = 0; k < COUNT(skews); k++) {
                    struct op_shape s = shape(m, eps[j], 64);
                    s.imbalance = skews[k];
                    grows("skew", m, (enum op)op, skews[k], &last, cost(m, (enum op)op, &s));
                }
                last = 0;
                for (size_t k = 0; k < COUNT(lengths); k++) {
                    struct op_shape s = shape(m, eps[j], 64);
                    s.kv_tokens = lengths[k];
                    grows("keys", m, (enum op)op, lengths[k], &last, cost(m, (enum op)op, &s));
                }
            }
}

/* --- steps ------------------------------------------------------------------------------------ */

/* R1 where it fits on so many dies, else the small model; false: neither does. */
static bool setup_of(struct step_setup *s, const struct machine *m, uint32_t dies, bool prefill,
                     double skew) {
    struct err err;
    for (int i = 0; i < 2; i++) {
        *s = (struct step_setup){.machine = m,
                                 .model = i ? lite : r1,
                                 .weights = type_of(m),
                                 .dies = dies,
                                 .imbalance = skew,
                                 .mtp = !prefill && !i,
                                 .acceptance = 0.7,
                                 .microbatches = true};
        if (dies <= dies_of(m) && !step_setup_fill(s, prefill, &err)) return true;
    }
    return false;
}

static double decode(const struct step_setup *s, double requests, double keys) {
    struct step_decode d = {requests, keys, 0, 0};
    double t = step_decode_s(s, &d, NULL);
    const struct model_config *c = &s->model;
    double keys_read = requests * keys * c->n_layers * config_kv_row(c) * 2;
    double floor = (keys_read + 2.0 * c->vocab * c->hidden) / s->machine->hbm_bps;
    if (!(isfinite(t) && t >= floor))
        fail_msg("%s, %u dies, %g requests of %g keys: %g s, expected %g at least",
                 s->machine->name, s->dies, requests, keys, t, floor);
    return t;
}

static void step_grows(const char *what, const struct step_setup *s, double at, double *last,
                       double now) {
    if (!(now >= *last * (1 - 1e-9)))
        fail_msg("%s, %u dies, imbalance %g: %g s with %s %g, less took %g", s->machine->name,
                 s->dies, s->imbalance, now, what, at, *last);
    *last = now;
}

static void decode_steps_grow_with_requests_keys_and_skew(void **state) {
    (void)state;
    struct step_setup s;
    for (uint32_t i = 0; i < n_machines; i++)
        for (size_t j = 0; j < COUNT(eps); j++) {
            double last;
            for (size_t k = 0; k < COUNT(skews); k++)
                for (size_t l = 0; l < COUNT(lengths); l++) {
                    if (!setup_of(&s, &machines[i], eps[j], false, skews[k])) continue;
                    last = 0;
                    for (size_t b = 0; b < COUNT(batches); b++)
                        step_grows("requests", &s, batches[b], &last,
                                   decode(&s, batches[b], lengths[l]));
                }
            for (size_t b = 0; b < COUNT(batches); b++) {
                if (!setup_of(&s, &machines[i], eps[j], false, 1)) continue;
                last = 0;
                for (double keys = 128; keys <= 131072; keys *= 1.5)
                    step_grows("keys", &s, keys, &last, decode(&s, batches[b], keys));
                last = 0;
                for (s.imbalance = 1; s.imbalance <= 4; s.imbalance += 0.1)
                    step_grows("skew", &s, s.imbalance, &last, decode(&s, batches[b], 4096));
            }
        }
}

static double prefill(const struct step_setup *s, double prompts, double length, double cached) {
    struct step_prefill p = {.tokens = prompts * (length - cached),
                             .key_pairs = prompts * (length * length - cached * cached) / 2,
                             .cached = prompts * cached,
                             .requests = prompts};
    double t = step_prefill_s(s, &p, NULL);
    if (!(isfinite(t) && t > 0))
        fail_msg("%s, %u dies, %g prompts of %g: %g s", s->machine->name, s->dies, prompts, length,
                 t);
    return t;
}

static void prompt_batches_grow_with_prompts_and_lengths_and_shrink_with_reuse(void **state) {
    (void)state;
    struct step_setup s;
    for (uint32_t i = 0; i < n_machines; i++)
        for (size_t j = 0; j < COUNT(eps); j++) {
            if (!setup_of(&s, &machines[i], eps[j], true, 1)) continue;
            double last = 0;
            for (size_t l = 0; l < COUNT(lengths); l++)
                step_grows("length", &s, lengths[l], &last, prefill(&s, 64, lengths[l], 0));
            for (size_t l = 0; l < COUNT(lengths); l++) {
                last = 0;
                for (size_t b = 0; b < COUNT(batches); b++)
                    step_grows("prompts", &s, batches[b], &last,
                               prefill(&s, batches[b], lengths[l], 0));
                last = 0;
                for (double found = 0.9375; found >= 0; found -= 0.0625)
                    step_grows("part not found", &s, 1 - found, &last,
                               prefill(&s, 64, lengths[l], floor(found * lengths[l])));
            }
        }
}

/* Twice the dies with twice the work may wait longer for each other, but give more in all. */
static void more_dies_give_more_tokens(void **state) {
    (void)state;
    struct step_setup s;
    for (uint32_t i = 0; i < n_machines; i++)
        for (size_t b = 0; b < COUNT(batches); b++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                double decoded = 0, read = 0;
                for (size_t j = 0; j < COUNT(eps); j++) {
                    if (setup_of(&s, &machines[i], eps[j], false, 1.3) && s.mtp)
                        step_grows("dies, decoded", &s, eps[j], &decoded,
                                   eps[j] * batches[b] / decode(&s, batches[b], lengths[l]));
                    if (setup_of(&s, &machines[i], eps[j], true, 1.3) && s.model.n_layers > 60)
                        step_grows("dies, read", &s, eps[j], &read,
                                   eps[j] * lengths[l] * batches[b] /
                                       prefill(&s, eps[j] * batches[b], lengths[l], 0));
                }
            }
}

/* What a faster machine is: one of its rates twice as high. */
static struct machine faster(const struct machine *m, int which) {
    struct machine f = *m;
    for (int t = 0; t < MACHINE_TYPES && which == 0; t++) f.peak[t] *= 2;
    if (which == 1) f.hbm_bps *= 2;
    for (uint32_t i = 0; i < f.n_planes && which == 2; i++)
        for (int t = 0; t < MACHINE_TRANSFERS; t++) {
            f.planes[i].same_node[t].rate_bps *= 2;
            f.planes[i].other_node[t].rate_bps *= 2;
        }
    for (uint32_t i = 0; i < f.n_operators && which == 3; i++) f.operators[i].fixed_s /= 2;
    return f;
}

static void faster_hardware_is_never_slower(void **state) {
    (void)state;
    struct step_setup s;
    for (uint32_t i = 0; i < n_machines; i++)
        for (int which = 0; which < 4; which++) {
            struct machine f = faster(&machines[i], which);
            for (size_t j = 0; j < COUNT(eps); j++)
                for (size_t b = 0; b < COUNT(batches); b++)
                    for (int is_prefill = 0; is_prefill < 2; is_prefill++) {
                        if (!setup_of(&s, &machines[i], eps[j], is_prefill, 1.3)) continue;
                        double keys = 1024.0 * (1 << (b % 5)), n = batches[b];
                        double before = is_prefill ? prefill(&s, n, keys, 0) : decode(&s, n, keys);
                        assert_true(setup_of(&s, &f, eps[j], is_prefill, 1.3));
                        double now = is_prefill ? prefill(&s, n, keys, 0) : decode(&s, n, keys);
                        if (now > before * (1 + 1e-9))
                            fail_msg("%s, %u dies, %g of %g, faster in %d: %g s, before %g", f.name,
                                     eps[j], n, keys, which, now, before);
                        if (now < before / 2 * (1 - 1e-9))
                            fail_msg("%s, %u dies, %g of %g, twice in %d: %g s, before %g", f.name,
                                     eps[j], n, keys, which, now, before);
                    }
        }
}

/* Far from every start: as fast as the one thing that binds allows, within its reachable share. */
static void very_large_batches_come_near_their_roofline(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_machines; i++) {
        const struct machine *m = &machines[i];
        struct op_shape s = shape(m, 1, 1 << 17);
        struct op_cost c;
        double share = machine_operator(m, "gmm")->share;
        op_cost(&c, m, NULL, OP_DENSE, &s);
        double used = c.operations / c.s / m->peak[type_of(m)];
        if (!(used > 0.7 * share && used <= share))
            fail_msg("%s, dense: found %g of the peak, expected near %g", m->name, used, share);
        s = shape(m, 1, 4096);
        s.requests = 1;
        s.kv_tokens = 1 << 17;
        share = machine_operator(m, "attention")->share;
        op_cost(&c, m, NULL, OP_ATTENTION, &s);
        used = c.operations / c.s / m->peak[TYPE_BF16];
        if (!(used > 0.95 * share && used <= share))
            fail_msg("%s, attention: found %g of the peak, expected near %g", m->name, used, share);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operators_keep_their_floors_and_grow_with_work),
        cmocka_unit_test(decode_steps_grow_with_requests_keys_and_skew),
        cmocka_unit_test(prompt_batches_grow_with_prompts_and_lengths_and_shrink_with_reuse),
        cmocka_unit_test(more_dies_give_more_tokens),
        cmocka_unit_test(faster_hardware_is_never_slower),
        cmocka_unit_test(very_large_batches_come_near_their_roofline),
    };
    return cmocka_run_group_tests(tests, open_all, NULL);
}

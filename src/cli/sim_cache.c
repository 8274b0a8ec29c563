/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim cache: what a context cache does to a prompt batch, by reuse and by the plane its blocks
 * come over. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "base/figure.h"
#include "cli/flags.h"
#include "cli/sim.h"
#include "cli/sim_args.h"
#include "sim/cache.h"

struct args {
    struct sim_args sim;
    uint32_t chips, tokens, prompt, redundant;
    float reuse, imbalance;
    const char *plane;
    bool json, explain;
};

enum { REUSES = 6, ROWS_MAX = 1 + MACHINE_PLANES_MAX * REUSES };
static const double reuses[REUSES] = {0.125, 0.25, 0.5, 0.75, 0.9, 0.99};

struct row {
    const struct machine_plane *plane; /* NULL: no cache */
    double reuse;
    struct cache_cost cost;
};
struct asked {
    struct sim_asked s;
    struct step_setup setup;
    const struct machine_plane *only;
    uint32_t n;
    struct row rows[ROWS_MAX];
};

/* --- asking ------------------------------------------------------------------------------------- */

static enum st setup(struct asked *a, const struct args *f, struct err *err) {
    struct step_setup *s = &a->setup;
    *s = (struct step_setup){.machine = &a->s.machine,
                             .model = a->s.model,
                             .weights = a->s.weights,
                             .kv_bytes = (double)f->sim.kv_bytes,
                             .dies = f->chips * a->s.machine.dies_per_chip,
                             .redundant = f->redundant,
                             .imbalance = (double)f->imbalance,
                             .microbatches = true};
    enum st st = sim_args_plane(&a->only, &a->s.machine, f->plane, err);
    if (!st && a->only && !cache_plane_reaches(a->only))
        st = err_set(err, ST_INVALID,
                     "--plane: found %s, expected one over which dies read CPU memory",
                     a->only->name);
    return st ? st : step_setup_fill(s, true, err);
}

static struct cache_shape shape_of(const struct asked *a, const struct args *f,
                                   const struct machine_plane *p, double reuse) {
    return (struct cache_shape){.setup = &a->setup,
                                .plane = p,
                                .batch_tokens = f->tokens,
                                .prompt = f->prompt,
                                .reuse = reuse};
}

static void add(struct asked *a, const struct args *f, const struct machine_plane *p,
                double reuse) {
    struct row *r = &a->rows[a->n++];
    struct cache_shape shape = shape_of(a, f, p, reuse);
    *r = (struct row){.plane = p, .reuse = reuse};
    cache_cost(&r->cost, &shape);
}

static enum st fill(struct asked *a, const struct args *f, struct err *err) {
    const struct machine *m = &a->s.machine;
    bool one = f->reuse > 0;
    struct cache_shape all = shape_of(a, f, NULL, 0); /* found or computed, they take as much */
    if (cache_fits(&all, err))
        return err_prefix(err, "cache: --batch %u in prompts of %u: ", f->tokens, f->prompt);
    add(a, f, NULL, 0);
    if (!isfinite(a->rows[0].cost.batch_s))
        return err_set(err, ST_INVALID, "cache: it would never end: a path of %s is missing",
                       m->name);
    for (uint32_t i = 0; i < m->n_planes; i++) {
        const struct machine_plane *p = &m->planes[i];
        if (!cache_plane_reaches(p) || (a->only && a->only != p)) continue;
        for (int j = 0; j < (one ? 1 : REUSES); j++)
            add(a, f, p, one ? (double)f->reuse : reuses[j]);
    }
    if (a->n > 1) return ST_OK;
    return err_set(err, ST_INVALID,
                   "cache: %s: found no plane with read_cpu to other nodes, expected one", m->name);
}

/* --- telling ------------------------------------------------------------------------------------ */

static const char *plane_name(const struct row *r) {
    return r->plane ? r->plane->name : "no cache";
}

static void print_table(const struct asked *a, const struct args *f) {
    const struct cache_cost *none = &a->rows[0].cost;
    printf("%u tokens a chip in prompts of %u, %u die%s of %s, %.1f KB of KV a token\n", f->tokens,
           f->prompt, a->setup.dies, a->setup.dies == 1 ? "" : "s", a->s.machine.name,
           step_kv_token_bytes(&a->setup) * 1e-3);
    sim_args_print_type(&a->s);
    printf("\n");
    printf("%-10s %6s %9s %9s %11s %10s %9s %14s %6s\n", "plane", "reuse", "TTFT ms", "of none",
           "compute ms", "loaded GB", "load ms", "tokens/s chip", "gain");
    for (uint32_t i = 0; i < a->n; i++) {
        const struct row *r = &a->rows[i];
        const struct cache_cost *c = &r->cost;
        printf("%-10s %5.1f%% %9.1f %9.3f %11.1f %10.2f %9.1f %14.0f %5.2fx\n", plane_name(r),
               100 * r->reuse, c->batch_s * 1e3, c->batch_s / none->batch_s, c->compute_s * 1e3,
               c->load_bytes * 1e-9, c->load_s * 1e3, c->tokens_per_s,
               c->tokens_per_s / none->tokens_per_s);
    }
}

/* A row's load, with its numbers. */
static json_t *load_formula(const struct asked *a, const struct row *r) {
    const struct machine *m = &a->s.machine;
    const struct cache_cost *c = &r->cost;
    char why[128] = "";
    if (r->plane->node_bps > 0)
        snprintf(why, sizeof why, " [the node's %s GB/s x %.2f / %u dies]",
                 figure_of(r->plane->node_bps * 1e-9).text, machine_operator(m, "pool_card")->share,
                 machine_dies_per_node(m));
    else if (c->load_bps < r->plane->other_node[TRANSFER_READ_CPU].rate_bps)
        snprintf(why, sizeof why, " [%u CPUs' %s GB/s / %u dies]", m->cpus_per_node,
                 figure_of(r->plane->cpu_bps * 1e-9).text, machine_dies_per_node(m));
    return json_sprintf("load %s at %.1f%%  %.1f ms = %.2f GB / %u die%s / %s GB/s a die%s",
                        plane_name(r), 100 * r->reuse, c->load_s * 1e3, c->load_bytes * 1e-9,
                        a->setup.dies, a->setup.dies == 1 ? "" : "s",
                        figure_of(c->load_bps * 1e-9).text, why);
}

static json_t *formulas(const struct asked *a) {
    json_t *list = json_array();
    json_array_append_new(list,
                          json_string("TTFT = load + compute: computing waits for what is loaded"));
    for (uint32_t i = 1; i < a->n; i++) {
        const struct row *r = &a->rows[i];
        if (a->rows[i - 1].plane == r->plane && i + 1 < a->n && a->rows[i + 1].plane == r->plane)
            continue; /* the first and the last of a plane show how it goes */
        json_array_append_new(list, load_formula(a, r));
    }
    json_array_append_new(list, json_string("compute: supernode sim step prefill --reuse X"));
    return list;
}

static void print_json(const struct asked *a, const struct args *f) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < a->n; i++) {
        const struct row *r = &a->rows[i];
        const struct cache_cost *c = &r->cost;
        json_array_append_new(
            list, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "plane", plane_name(r),
                            "reuse", r->reuse, "ttft_ms", c->batch_s * 1e3, "compute_ms",
                            c->compute_s * 1e3, "load_ms", c->load_s * 1e3, "loaded_gb",
                            c->load_bytes * 1e-9, "load_gbs_per_die", c->load_bps * 1e-9,
                            "tokens_per_s_per_chip", c->tokens_per_s));
    }
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:o}", "hardware",
                          a->s.machine.name, "model", sim_args_model(&f->sim), "weights",
                          machine_type_names[a->s.weights], "computed_in",
                          machine_type_names[op_type_computed(&a->s.machine, a->s.weights)], "dies",
                          (int)a->setup.dies, "tokens_per_chip", (int)f->tokens, "prompt_tokens",
                          (int)f->prompt, "imbalance", sim_args_written(f->imbalance),
                          "kv_bytes_per_token", step_kv_token_bytes(&a->setup), "rows", list);
    if (f->explain) json_object_set_new(o, "formulas", formulas(a));
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(8));
    printf("\n");
    json_decref(o);
}

static enum st run(void *args, const char *argument, struct err *err) {
    const struct args *f = args;
    struct asked *a = calloc(1, sizeof *a);
    (void)argument;
    if (!a) return err_set(err, ST_NO_MEMORY, "cache: out of memory");
    enum st st = sim_args_open(&a->s, &f->sim, err);
    if (!st) st = setup(a, f, err);
    if (!st) st = fill(a, f, err);
    if (!st && f->json) print_json(a, f);
    if (!st && !f->json) {
        print_table(a, f);
        if (f->explain) sim_args_print_lines(formulas(a));
    }
    free(a);
    return st;
}

int cli_sim_cache(int argc, char **argv) {
    struct args a = {.sim = {.kv_bytes = 2}, .tokens = 16384, .prompt = 4096, .imbalance = 1};
    const struct flag flags[] = {
        SIM_ARGS_FLAGS(a.sim),
        {"reuse", "X", FLAG_F32, &a.reuse, 0.001, 0.999,
         "part of each prompt that is found (default: a table of them)", false},
        {"prompt", "N", FLAG_U32, &a.prompt, 1, 1 << 24, "length of a prompt (default 4096)",
         false},
        {"batch", "N", FLAG_U32, &a.tokens, 1, 1 << 24, "tokens a chip (default 16384)", false},
        {"chips", "N", FLAG_U32, &a.chips, 1, 65536, "of the instance (default: 32 dies)", false},
        {"plane", "NAME", FLAG_STR, &a.plane, 0, 0,
         "network of the pool (default: each that reaches CPU memory)", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the same as a JSON object", false},
        {"explain", NULL, FLAG_BOOL, &a.explain, 0, 0, "the formulas with their numbers", false},
        {"imbalance", "X", FLAG_F32, &a.imbalance, 1, 1000,
         "load of the hottest rank of routed experts over the mean (default 1)", true},
        {"redundant", "N", FLAG_U32, &a.redundant, 0, 65536,
         "routed experts held twice (default: what ranks are left)", true},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "sim cache",
        .what = "A prompt batch whose prefixes are partly found in the memory pool: time to first "
                "token, throughput, what is loaded.",
        .usage = "supernode sim cache [flags]",
        .example = "supernode sim cache --reuse 0.5 --explain",
        .flags = flags,
    };
    return sim_args_main(&cmd, argc, argv, run, &a);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim load: how long instances wait for a model, and what one switch of models costs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "base/figure.h"
#include "cli/flags.h"
#include "cli/human.h"
#include "cli/sim.h"
#include "cli/sim_args.h"
#include "model/weights.h"
#include "sim/load.h"
#include "sim/models.h"

struct args {
    float model_gb, bucket_gbs, bucket_share, warm_s;
    const char *model;
    uint32_t instances, models;
    bool json, explain;
};

static enum st add_parameters(void *ctx, struct weight_key key, uint32_t rows, uint32_t cols,
                              struct err *err) {
    (void)key;
    (void)err;
    *(double *)ctx += (double)rows * cols;
    return ST_OK;
}

/* In INT8 or FP8: a byte a parameter. */
static enum st model_bytes(double *out, const char *name, struct err *err) {
    struct model_config *c = malloc(sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "load: out of memory");
    enum st st = sim_model_open(c, name, err);
    if (!st) {
        c->n_mtp = 0; /* it comes with the draft's own weights, which few load */
        *out = 0;
        st = weight_visit(c, add_parameters, out, err);
    }
    free(c);
    return st;
}

static json_t *finite_or_null(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *formulas(const struct load_setup *s) {
    double once = s->model_bytes / (s->bucket_bps * s->bucket_share);
    struct figure warm = figure_of(s->warm_s);
    json_t *list = json_array();
    json_array_append_new(
        list,
        json_sprintf("one copy out of the bucket  %.1f s = %.1f GB / (%s GB/s x %.2f)", once,
                     s->model_bytes * 1e-9, figure_of(s->bucket_bps * 1e-9).text, s->bucket_share));
    json_array_append_new(list, json_sprintf("cold start  copies x %.1f s: one copy an instance "
                                             "(%u), or one for all from the pool",
                                             once, s->instances));
    json_array_append_new(
        list,
        s->warm_s <= once
            ? json_sprintf("warm start  a fixed %s s: published, and far above what UB takes",
                           warm.text)
            : json_sprintf("warm start  as a copy out of the bucket, which is sooner than the "
                           "fixed %s s",
                           warm.text));
    json_array_append_new(
        list, json_sprintf("switch      hit share x %s s + (1 - hit share) x %.1f s; local DRAM "
                           "holds one of %u models, the pool all",
                           figure_of(fmin(s->warm_s, once)).text, once, s->models));
    return list;
}

static void print_json(const struct load_setup *s, bool explain) {
    json_t *rows = json_array();
    for (int i = 0; i < LOAD_CACHES; i++) {
        struct load_times t;
        load_times(&t, s, i);
        json_t *o = json_pack("{s:s,s:f,s:o,s:f,s:f,s:f,s:f}", "cache", load_cache_names[i],
                              "cold_start_s", t.cold_s, "warm_start_s", finite_or_null(t.warm_s),
                              "dram_models", t.dram, "switch_hit_share", t.hit, "switch_s",
                              t.switch_s, "switch_dram_models", t.switch_dram);
        json_array_append_new(rows, o);
    }
    json_t *o =
        json_pack("{s:f,s:i,s:i,s:f,s:f,s:f,s:o}", "model_gb", s->model_bytes * 1e-9, "instances",
                  (int)s->instances, "models", (int)s->models, "bucket_gbs", s->bucket_bps * 1e-9,
                  "bucket_share", s->bucket_share, "warm_start_s", s->warm_s, "caches", rows);
    if (explain) json_object_set_new(o, "formulas", formulas(s));
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(o);
}

/* Whole ones, where they are minutes. */
static struct figure seconds(double s) {
    return figure_of(s < 100 ? s : round(s));
}

static void print_table(const struct load_setup *s, bool explain) {
    char size[32];
    printf(
        "%s of weights, %u instances at once, a bucket of %s GB/s (%.2f reached); switches among "
        "%u models\n\n",
        human_bytes(size, sizeof size, s->model_bytes), s->instances,
        figure_of(s->bucket_bps * 1e-9).text, s->bucket_share, s->models);
    printf("%-11s  %12s  %12s  %11s  %9s  %9s  %11s\n", "cache", "cold start s", "warm start s",
           "DRAM models", "hit share", "switch s", "DRAM held");
    for (int i = 0; i < LOAD_CACHES; i++) {
        struct load_times t;
        struct figure warm = {"none"};
        load_times(&t, s, i);
        if (isfinite(t.warm_s)) warm = figure_of(t.warm_s);
        printf("%-11s  %12s  %12s  %11.0f  %9.3f  %9.1f  %11.0f\n", load_cache_names[i],
               seconds(t.cold_s).text, warm.text, t.dram, t.hit, t.switch_s, t.switch_dram);
    }
    if (explain) sim_args_print_lines(formulas(s));
}

int cli_sim_load(int argc, char **argv) {
    bool given[FLAGS_MAX] = {false};
    struct args a = {.bucket_gbs = 2.5F,
                     .bucket_share = 0.84F,
                     .warm_s = 5,
                     .model_gb = 671,
                     .instances = 8,
                     .models = 8};
    const struct flag flags[] = {
        {"model-gb", "GB", FLAG_F32, &a.model_gb, 0.001, 1e6, "size of the weights (default 671)",
         false},
        {"model", "NAME", FLAG_STR, &a.model, 0, 0,
         "take the size of this model in INT8, e.g. deepseek-r1, instead", false},
        {"instances", "N", FLAG_U32, &a.instances, 1, 10000,
         "instances that load it at once (default 8)", false},
        {"bucket-gbs", "GB/S", FLAG_F32, &a.bucket_gbs, 0.001, 1e6,
         "rate of the bucket all load from (default 2.5)", false},
        {"bucket-share", "X", FLAG_F32, &a.bucket_share, 0.01, 1,
         "of that rate, what is reached (default 0.84)", false},
        {"models", "N", FLAG_U32, &a.models, 1, 10000,
         "models an instance switches among (default 8)", false},
        {"warm-s", "S", FLAG_F32, &a.warm_s, 0, 3600, "a start from DRAM (default 5 s)", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the result as a JSON object", false},
        {"explain", NULL, FLAG_BOOL, &a.explain, 0, 0, "the formulas with their numbers", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "sim load",
        .what = "How long instances wait for a model's weights: from a bucket, from their nodes' "
                "DRAM, from the pool.",
        .usage = "supernode sim load [flags]",
        .example = "supernode sim load --model deepseek-r1 --instances 8 --explain",
        .flags = flags,
        .given = given,
    };
    struct err err;
    enum flag_result result;
    struct load_setup s;
    if (flags_parse(&result, &cmd, argc, argv, NULL, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    if (a.model && flags_given(&cmd, "model-gb")) {
        (void)err_set(&err, ST_INVALID, "load: found --model and --model-gb, expected one of them");
        return cli_fail(CLI_USAGE, &err);
    }
    load_setup_default(&s);
    s.model_bytes = (double)a.model_gb * 1e9;
    if (a.model && model_bytes(&s.model_bytes, a.model, &err)) return cli_fail(CLI_USAGE, &err);
    s.instances = a.instances;
    s.models = a.models;
    s.bucket_bps = (double)a.bucket_gbs * 1e9;
    s.bucket_share = sim_args_written(a.bucket_share);
    s.warm_s = (double)a.warm_s;
    if (a.json)
        print_json(&s, a.explain);
    else
        print_table(&s, a.explain);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim step decode|prefill: one step of an instance, by operator and layer, on its streams. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/flags.h"
#include "cli/sim.h"
#include "cli/sim_args.h"

struct args {
    struct sim_args sim;
    uint32_t chips, ep, redundant, batch, kv, tokens, prompt, microbatches, attention;
    float kv_spread, imbalance, acceptance, attention_share, reuse;
    struct flag_i64 fixed_us;
    bool mtp, even, json;
    const char *chrome, *plane;
};

enum layers { EVERY_DENSE, EVERY_MOE, DRAFT, ONCE, LAYERS };
static const char *const layers_names[] = {"dense layers", "MoE layers", "draft layer",
                                           "once a step"};

struct line { /* of the table: one operator of one kind of layer */
    uint32_t times;
    double s;
    struct op_cost cost; /* of one */
    uint32_t stream;
};
struct asked {
    struct sim_asked s;
    struct step_setup setup;
    bool prefill;
    struct step_decode decode;
    struct step_prefill batch;
    double step_s;
    struct step_trace trace;
    struct line lines[LAYERS][OPS + 1];
};

static const char *op_name(enum op op) {
    return op == OPS ? "other" : op_names[op];
}

static const char *stream_name(const struct asked *a, uint32_t stream) {
    static const char *const prefill[] = {"cubes", "vectors", "copies"};
    bool gpu = a->s.machine.cube_cores == a->s.machine.vector_cores;
    if (a->prefill) return prefill[stream];
    if (gpu) return stream ? "network" : "cores";
    return stream ? "experts" : "attention";
}

static const char *bound_of(const struct op_cost *c) {
    double most = fmax(fmax(c->compute_s, c->memory_s - c->serial_s), c->network_s);
    double least = fmax(most, c->serial_s); /* what is added to it may be the longest */
    if (c->fixed_s > fmax(least, c->vector_s)) return "start";
    if (c->vector_s > least) return "vectors";
    if (c->serial_s > most) return "memory";
    if (c->network_s == most) return "network";
    return c->compute_s == most ? "compute" : "memory";
}

/* --- asking ------------------------------------------------------------------------------------- */

/* Flags of one of the two. */
static const char *const of_decode[] = {"batch",           "kv", "kv-spread", "mtp", "acceptance",
                                        "attention-share", NULL},
                         *const of_prefill[] = {"tokens",    "prompt",         "reuse",
                                                "attention", "layer-fixed-us", NULL};

static enum st check_flags(const struct asked *a, const struct args *f, struct err *err) {
    const char *const *others = a->prefill ? of_decode : of_prefill;
    bool mtp = f->mtp && a->s.model.n_mtp;
    for (; *others; others++)
        if (flags_given(f->sim.cmd, *others))
            return err_set(err, ST_INVALID, "step: --%s is for %s", *others,
                           a->prefill ? "decode" : "prefill");
    if (flags_given(f->sim.cmd, "mtp") && f->mtp && !mtp)
        return err_set(err, ST_INVALID, "step: found --mtp, but the model has no MTP layer");
    if (flags_given(f->sim.cmd, "acceptance") && !mtp)
        return err_set(err, ST_INVALID, "step: --acceptance is for MTP, which %s",
                       f->mtp ? "the model has no layer for" : "--no-mtp leaves out");
    if (f->fixed_us.given && f->fixed_us.v < 0)
        return err_set(err, ST_INVALID, "step: --layer-fixed-us: found %lld, expected 0 or more",
                       (long long)f->fixed_us.v);
    return ST_OK;
}

static enum st setup(struct asked *a, const struct args *f, struct err *err) {
    struct step_setup *s = &a->setup;
    const struct machine_plane *plane;
    *s = (struct step_setup){.machine = &a->s.machine,
                             .model = a->s.model,
                             .weights = a->s.weights,
                             .kv_bytes = (double)f->sim.kv_bytes,
                             .dies = f->chips * a->s.machine.dies_per_chip,
                             .ep = f->ep,
                             .redundant = f->redundant,
                             .imbalance = (double)f->imbalance,
                             .even = f->even,
                             .mtp = !a->prefill && f->mtp && a->s.model.n_mtp,
                             .acceptance = (double)f->acceptance,
                             .microbatches = f->microbatches != 2,
                             .microbatches_forced = f->microbatches == 1,
                             .attention_cubes = (double)f->attention_share,
                             .attention = (enum step_attention)f->attention};
    enum st st = sim_args_plane(&plane, &a->s.machine, f->plane, err);
    if (!st && plane) s->plane = plane->name;
    if (!st) st = step_setup_fill(s, a->prefill, err);
    if (!st && f->fixed_us.given) s->layer_fixed_s = (double)f->fixed_us.v * 1e-6;
    return st;
}

static enum st fits(const struct asked *a, const struct args *f, struct err *err) {
    enum st st = a->prefill ? step_prefill_fits(&a->setup, &a->batch, err)
                            : step_decode_fits(&a->setup, &a->decode, err);
    if (!st) return ST_OK;
    if (a->prefill)
        return err_prefix(err, "step: --tokens %u in prompts of %u: ", f->tokens, f->prompt);
    return err_prefix(err, "step: --batch %u of --kv %u: ", f->batch, f->kv);
}

/* Prompts of one length; of each the first part is in the cache already. */
static struct step_prefill batch_of(const struct asked *a, const struct args *f) {
    double all = (double)f->tokens * a->setup.dies / a->s.machine.dies_per_chip, n = f->prompt;
    double cached = floor(n * (double)f->reuse), prompts = all / n;
    return (struct step_prefill){.tokens = prompts * (n - cached),
                                 .key_pairs = prompts * (n * (n + 1) - cached * (cached + 1)) / 2,
                                 .cached = prompts * cached,
                                 .requests = prompts};
}

static enum layers layers_of(const struct asked *a, const struct step_piece *p) {
    const struct model_config *c = &a->s.model;
    if (p->op == OP_EMBED || p->op == OP_HEAD || p->op == OP_SAMPLE) return ONCE;
    if (p->op == OPS && !a->prefill) return ONCE;
    if (p->layer >= c->n_layers) return DRAFT;
    return config_layer_is_moe(c, p->layer) ? EVERY_MOE : EVERY_DENSE;
}

static void gather(struct asked *a) {
    for (size_t i = 0; i < a->trace.n; i++) {
        const struct step_piece *p = &a->trace.v[i];
        struct line *l = &a->lines[layers_of(a, p)][p->op];
        l->times++;
        l->s += p->s;
        l->cost = p->cost;
        l->stream = p->stream;
    }
}

/* --- telling ------------------------------------------------------------------------------------ */

static double tokens_a_step(const struct asked *a) {
    return a->setup.mtp ? 1 + a->setup.acceptance : 1;
}

static double computed_a_chip(const struct asked *a) { /* of prefill, without what was found */
    return a->batch.tokens / a->setup.dies * a->s.machine.dies_per_chip / a->step_s;
}

/* Of all streams. */
static double work_s(const struct asked *a) {
    double all = 0;
    for (int i = 0; i < LAYERS; i++)
        for (int op = 0; op <= OPS; op++) all += a->lines[i][op].s;
    return all;
}

static double beside_s(const struct asked *a) { /* by which work is longer than the step */
    double s = work_s(a) - a->step_s;
    return s > 1e-9 * a->step_s ? s : 0;
}

static double rate_a_chip(const struct asked *a) { /* tokens/s */
    double dies = a->s.machine.dies_per_chip;
    if (a->prefill) return (a->batch.tokens + a->batch.cached) / a->setup.dies * dies / a->step_s;
    return a->decode.requests * dies * tokens_a_step(a) / a->step_s;
}

/* The scale-out plane, over which a prompt's KV goes to decode; NULL: none leads to other nodes'
 * dies, or decode was asked for. */
static const struct machine_plane *handover(const struct asked *a) {
    const struct machine *m = &a->s.machine;
    const struct machine_plane *p = machine_scale_out(m);
    return a->prefill && m->n_nodes > 1 && p->other_node[TRANSFER_READ].rate_bps > 0 ? p : NULL;
}

/* Pages have the draft layer's rows, too. */
static double handover_ms(const struct asked *a, const struct args *f) {
    struct step_setup s = a->setup;
    s.mtp = s.model.n_mtp > 0;
    return step_handover_s(&s, handover(a), f->prompt) * 1e3;
}

static uint32_t microbatches(const struct asked *a) {
    uint32_t n = 0;
    for (size_t i = 0; i < a->trace.n; i++)
        if (a->trace.v[i].microbatch > n) n = a->trace.v[i].microbatch;
    return n + 1;
}

static void print_head(const struct asked *a) {
    const struct step_setup *s = &a->setup;
    uint32_t held = step_held(s);
    if (a->prefill)
        printf("prefill batch %.1f ms   %.0f tokens/s a chip, %.0f computed", a->step_s * 1e3,
               rate_a_chip(a), computed_a_chip(a));
    else
        printf("decode step %.2f ms   TPOT %.2f ms   %.0f tokens/s a chip   %.2g tokens a step",
               a->step_s * 1e3, a->step_s / tokens_a_step(a) * 1e3, rate_a_chip(a),
               tokens_a_step(a));
    printf("\n%s, %u die%s, EP%u (%u expert%s each", s->machine->name, s->dies,
           s->dies == 1 ? "" : "s", s->ep, held, held == 1 ? "" : "s");
    if (s->shared_ranks) printf(", %u ranks with the shared one", s->shared_ranks);
    printf("), weights %.1f GB a die, room for %.0f tokens of KV; %u microbatch%s\n",
           step_weight_bytes(s, a->prefill) * 1e-9,
           step_kv_room_bytes(s, a->prefill) / step_kv_token_bytes(s), microbatches(a),
           microbatches(a) > 1 ? "es" : "");
    sim_args_print_type(&a->s);
    printf("\n");
}

static void print_table(const struct asked *a) {
    double all = work_s(a);
    printf("%-14s %-15s %-10s %9s %6s %9s %7s  %s\n", "", "operator", "stream", "one us", "times",
           "all ms", "share", "bound by");
    for (int i = 0; i < LAYERS; i++) {
        const char *kind = layers_names[i];
        for (int op = 0; op <= OPS; op++) {
            const struct line *l = &a->lines[i][op];
            if (!l->times) continue;
            printf("%-14s %-15s %-10s %9.1f %6u %9.2f %6.1f%%  %s\n", kind, op_name((enum op)op),
                   stream_name(a, l->stream), l->s / l->times * 1e6, l->times, l->s * 1e3,
                   100 * l->s / all, bound_of(&l->cost));
            kind = "";
        }
    }
    printf("\nwork %.2f ms on all streams, of which %.2f ms run beside each other\n", all * 1e3,
           beside_s(a) * 1e3);
}

static void print_handover(const struct asked *a, const struct args *f) {
    if (handover(a))
        printf("hand-over of a prompt's KV %.2f ms over %s\n", handover_ms(a, f),
               handover(a)->name);
}

/* What was asked: of both, and of one. */
static json_t *question_json(const struct asked *a, const struct args *f) {
    const struct step_setup *s = &a->setup;
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:f}", "step",
                  a->prefill ? "prefill" : "decode", "hardware", s->machine->name, "model",
                  sim_args_model(&f->sim), "weights", machine_type_names[s->weights], "computed_in",
                  machine_type_names[op_type_computed(s->machine, s->weights)], "dies",
                  (int)s->dies, "ep", (int)s->ep, "imbalance", sim_args_written(f->imbalance));
    json_t *own =
        a->prefill
            ? json_pack("{s:i, s:i, s:f, s:s}", "tokens_per_chip", (int)f->tokens, "prompt_tokens",
                        (int)f->prompt, "reuse", sim_args_written(f->reuse), "attention",
                        s->attention == STEP_ATTENTION_DATA ? "data" : "staged")
            : json_pack("{s:i, s:i, s:f, s:b, s:f}", "batch_per_chip", (int)f->batch, "kv_tokens",
                        (int)f->kv, "kv_spread", sim_args_written(f->kv_spread), "mtp", s->mtp,
                        "acceptance", s->mtp ? sim_args_written(f->acceptance) : 0.0);
    json_object_update(o, own);
    json_decref(own);
    return o;
}

static json_t *lines_json(const struct asked *a) {
    json_t *list = json_array();
    for (int i = 0; i < LAYERS; i++)
        for (int op = 0; op <= OPS; op++) {
            const struct line *l = &a->lines[i][op];
            if (!l->times) continue;
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:s, s:f, s:i, s:f, s:s}", "layers",
                                            layers_names[i], "operator", op_name((enum op)op),
                                            "stream", stream_name(a, l->stream), "one_us",
                                            l->s / l->times * 1e6, "times", (int)l->times, "all_ms",
                                            l->s * 1e3, "bound_by", bound_of(&l->cost)));
        }
    return list;
}

static void print_json(const struct asked *a, const struct args *f) {
    json_t *o = question_json(a, f);
    json_t *answer =
        json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "microbatches", (int)microbatches(a),
                  "step_ms", a->step_s * 1e3, "tokens_per_s_per_chip", rate_a_chip(a), "work_ms",
                  work_s(a) * 1e3, "beside_ms", beside_s(a) * 1e3, "weights_gb_per_die",
                  step_weight_bytes(&a->setup, a->prefill) * 1e-9, "kv_tokens_per_die",
                  step_kv_room_bytes(&a->setup, a->prefill) / step_kv_token_bytes(&a->setup));
    json_object_update(o, answer);
    json_decref(answer);
    if (handover(a)) json_object_set_new(o, "handover_ms", json_real(handover_ms(a, f)));
    if (a->prefill)
        json_object_set_new(o, "computed_tokens_per_s_per_chip", json_real(computed_a_chip(a)));
    else
        json_object_set_new(o, "tpot_ms", json_real(a->step_s / tokens_a_step(a) * 1e3));
    json_object_set_new(o, "operators", lines_json(a));
    json_dumpf(o, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(o);
}

/* The trace event format of chrome://tracing and Perfetto: a row a stream. */
static enum st write_chrome(const struct asked *a, const char *path, struct err *err) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < (a->prefill ? 3 : 2); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name",
                                              "thread_name", "ph", "M", "pid", 1, "tid", (int)i,
                                              "args", "name", stream_name(a, i)));
    for (size_t i = 0; i < a->trace.n; i++) {
        const struct step_piece *p = &a->trace.v[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:f, s:f, s:i, s:i, s:{s:i, s:i, s:s}}", "name",
                            op_name(p->op), "ph", "X", "ts", p->begin_s * 1e6, "dur", p->s * 1e6,
                            "pid", 1, "tid", (int)p->stream, "args", "layer", (int)p->layer,
                            "microbatch", (int)p->microbatch, "bound_by", bound_of(&p->cost)));
    }
    json_t *o = json_pack("{s:o, s:s}", "traceEvents", list, "displayTimeUnit", "ns");
    errno = 0;
    int bad = json_dump_file(o, path, JSON_COMPACT);
    json_decref(o);
    return bad ? err_set(err, ST_IO, "%s: cannot write: %s", path, strerror(errno)) : ST_OK;
}

static enum st run(void *args, const char *which, struct err *err) {
    const struct args *f = args;
    struct asked *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ST_NO_MEMORY, "step: out of memory");
    a->prefill = strcmp(which, "prefill") == 0;
    enum st st = ST_OK;
    if (!a->prefill && strcmp(which, "decode") != 0)
        st = err_set(err, ST_INVALID, "step: found '%.40s', expected decode or prefill", which);
    if (!st) st = sim_args_open(&a->s, &f->sim, err);
    if (!st) st = check_flags(a, f, err);
    if (!st) st = setup(a, f, err);
    if (!st) {
        a->decode.requests = (double)f->batch / a->s.machine.dies_per_chip;
        a->decode.kv_tokens = f->kv;
        a->decode.kv_spread = (double)f->kv_spread;
        a->batch = batch_of(a, f);
        st = fits(a, f, err);
    }
    if (!st) {
        a->step_s = a->prefill ? step_prefill_s(&a->setup, &a->batch, &a->trace)
                               : step_decode_s(&a->setup, &a->decode, &a->trace);
        gather(a);
        if (!isfinite(a->step_s))
            st = err_set(err, ST_INVALID, "step: it would never end: a path of %s is missing",
                         a->s.machine.name);
    }
    if (!st && f->chrome) st = write_chrome(a, f->chrome, err);
    if (!st && f->json) print_json(a, f);
    if (!st && !f->json) {
        print_head(a);
        print_table(a);
        print_handover(a, f);
    }
    free(a->trace.v);
    free(a);
    return st;
}

int cli_sim_step(int argc, char **argv) {
    struct args a = {.sim = {.kv_bytes = 2},
                     .batch = 96,
                     .kv = 4096,
                     .tokens = 16384,
                     .prompt = 4096,
                     .imbalance = 1,
                     .acceptance = 0.7f,
                     .mtp = true};
    const struct flag flags[] = {
        SIM_ARGS_FLAGS(a.sim),
        {"chips", "N", FLAG_U32, &a.chips, 1, 65536,
         "of the instance (default: 320 dies for decode, 32 for prefill)", false},
        {"ep", "N", FLAG_U32, &a.ep, 1, 65536, "ranks of the experts (default: every die)", false},
        {"batch", "N", FLAG_U32, &a.batch, 1, 65536, "decode: requests a chip (default 96)", false},
        {"kv", "N", FLAG_U32, &a.kv, 1, 1 << 24,
         "decode: keys of a request, on average: prompt and half the output (default 4096)", false},
        {"mtp", NULL, FLAG_BOOL, &a.mtp, 0, 0,
         "decode: guess one token a step, where the model can (default on)", false},
        {"acceptance", "X", FLAG_F32, &a.acceptance, 0, 1, "of the guessed token (default 0.7)",
         false},
        {"tokens", "N", FLAG_U32, &a.tokens, 1, 1 << 24, "prefill: tokens a chip (default 16384)",
         false},
        {"prompt", "N", FLAG_U32, &a.prompt, 1, 1 << 24,
         "prefill: length of a prompt (default 4096)", false},
        {"reuse", "X", FLAG_F32, &a.reuse, 0, 0.999,
         "prefill: part of each prompt in the cache (default 0)", false},
        {"imbalance", "X", FLAG_F32, &a.imbalance, 1, 1000,
         "load of the hottest rank of routed experts over the mean, before chance (default 1)",
         false},
        {"microbatches", "auto|on|off", FLAG_CHOICE, &a.microbatches, 0, 0,
         "two at a time (default auto: where it is faster)", false},
        {"chrome-trace", "FILE", FLAG_STR, &a.chrome, 0, 0,
         "every operator as an event, for chrome://tracing", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the same as a JSON object", false},
        {"attention-share", "X", FLAG_F32, &a.attention_share, 0, 1,
         "decode: of the cores for attention (default 0: the best; 1: all, in turn)", true},
        {"attention", "auto|staged|data", FLAG_CHOICE, &a.attention, 0, 0,
         "prefill: how attention is parallel (default: as the chip suits)", true},
        {"redundant", "N", FLAG_U32, &a.redundant, 0, 65536,
         "routed experts held twice (default: what ranks are left)", true},
        {"layer-fixed-us", "N", FLAG_I64, &a.fixed_us, 0, 0,
         "prefill: fixed time a layer, 0 or more (default: the hardware's)", true},
        {"kv-spread", "X", FLAG_F32, &a.kv_spread, 0, 10,
         "decode: standard deviation of lengths over their mean (default 0: all alike)", true},
        {"even", NULL, FLAG_BOOL, &a.even, 0, 0, "no chance either: every rank gets its share",
         true},
        {"plane", "NAME", FLAG_STR, &a.plane, 0, 0,
         "network of the experts (default: scale-up where it reaches)", true},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "sim step",
        .what = "One decode step or prefill batch of an instance, by operator and layer.",
        .usage = "supernode sim step decode|prefill [flags]",
        .example = "supernode sim step decode --batch 96 --kv 4096",
        .flags = flags,
        .args_min = 1,
        .args_max = 1,
        .given = a.sim.given,
    };
    a.sim.cmd = &cmd;
    return sim_args_main(&cmd, argc, argv, run, &a);
}

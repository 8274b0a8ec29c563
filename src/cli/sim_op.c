/* SPDX-License-Identifier: Apache-2.0 */
/* supernode sim op NAME: what one operator, transfer or collective takes on one die. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/figure.h"
#include "cli/flags.h"
#include "cli/human.h"
#include "cli/sim.h"
#include "cli/sim_args.h"

struct args {
    struct sim_args sim;
    uint32_t ep, batch, kv, requests, cached, heads, groups, m, n, k, inter, shared_ranks, ranks;
    uint32_t activations, what;
    uint64_t bytes;
    float imbalance, cores;
    const char *plane;
    bool wide, bulk, even, other_node, explain, json;
};

/* What is asked for: an operator of the table, or bytes between dies. */
struct asked {
    enum { ASKED_OP, ASKED_TRANSFER, ASKED_COLLECTIVE } kind;
    enum op op;
    enum collective collective;
    char name[32];
};

/* Words people say for them. */
static const char *const also[][2] = {
    {"prolog", "mla_prolog"},    {"mla", "attention"},
    {"allgather", "all_gather"}, {"alltoall", "all_to_all"},
    {"allreduce", "all_reduce"}, {"reducescatter", "reduce_scatter"},
    {"quantize", "quantise"},    {NULL, NULL}};

static enum st find(struct asked *a, const char *name, struct err *err) {
    char all[400] = "";
    snprintf(a->name, sizeof a->name, "%s", name);
    for (char *p = a->name; *p; p++)
        if (*p == '-') *p = '_';
    for (int i = 0; also[i][0]; i++)
        if (strcmp(a->name, also[i][0]) == 0) snprintf(a->name, sizeof a->name, "%s", also[i][1]);
    a->kind = ASKED_OP;
    for (a->op = 0; a->op < OPS; a->op++)
        if (strcmp(a->name, op_names[a->op]) == 0) break;
    if (a->op == OP_ALL_GATHER || a->op == OP_ALL_TO_ALL) {
        a->kind = ASKED_COLLECTIVE;
        a->collective = a->op == OP_ALL_GATHER ? ALL_GATHER : ALL_TO_ALL;
    }
    if (a->op < OPS) return ST_OK;
    a->kind = ASKED_COLLECTIVE;
    a->collective = strcmp(a->name, "reduce_scatter") == 0 ? REDUCE_SCATTER : ALL_REDUCE;
    if (a->collective == REDUCE_SCATTER || strcmp(a->name, "all_reduce") == 0) return ST_OK;
    a->kind = ASKED_TRANSFER;
    if (strcmp(a->name, "transfer") == 0) return ST_OK;
    for (int i = 0; i < OPS; i++) {
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s, ", op_names[i]);
    }
    return err_set(
        err, ST_NOT_FOUND,
        "op: unknown operator %.40s, expected one of %sreduce_scatter, all_reduce, transfer", name,
        all);
}

static struct op_shape shape_of(const struct args *a, const struct sim_asked *s,
                                const struct machine_plane *plane) {
    double rows = a->batch, requests = a->requests ? a->requests : a->batch;
    return (struct op_shape){
        .model = &s->model,
        .weights = s->weights,
        .activations = a->activations ? (enum machine_type)(a->activations - 1) : s->weights,
        .kv_bytes = (double)a->sim.kv_bytes,
        .tokens = rows,
        .kv_tokens = a->kv,
        .requests = requests,
        .cached = a->cached,
        .wide = a->wide,
        .bulk = a->bulk,
        .ep = a->ep,
        .shared_ranks = a->shared_ranks,
        .experts = a->groups,
        .heads = a->heads,
        .inter = a->inter,
        .imbalance = (double)a->imbalance,
        .even = a->even,
        .m = a->m,
        .n = a->n,
        .k = a->k,
        .plane = plane ? plane->name : NULL,
        .explain = true,
    };
}

/* What a flag is for; a flag that is not listed is for all. */
#define BIT(op) (1U << (op))
enum {
    TRANSFER = BIT(OPS),
    COLLECTIVE = BIT(OPS + 1),
    BY_HAND = BIT(OPS + 2), /* gmm with --m, --n and --k */
    EXCHANGED = BIT(OP_DISPATCH) | BIT(OP_GMM) | BIT(OP_COMBINE),
    ATTENTIONS = BIT(OP_ATTENTION) | BIT(OP_ATTENTION_WIDE),
    OF_A_MODEL = BIT(OPS) - 1,
    ON_A_DIE = OF_A_MODEL | BY_HAND
};
static const struct {
    const char *flag, *is_for;
    uint32_t ops;
} uses[] = {
    {"model", "operators of a model", OF_A_MODEL},
    {"dtype", "operators", ON_A_DIE},
    {"kv-bytes", "operators of a model", OF_A_MODEL},
    {"batch", "operators of a model", OF_A_MODEL},
    {"kv", "attention and attention_wide", ATTENTIONS},
    {"ep", "dispatch, gmm of a model and combine", EXCHANGED},
    {"imbalance", "dispatch, gmm of a model and combine", EXCHANGED},
    {"groups", "dispatch, gmm and combine", EXCHANGED | BY_HAND},
    {"m", "gmm", BY_HAND},
    {"n", "gmm", BY_HAND},
    {"k", "gmm", BY_HAND},
    {"ranks", "collectives", COLLECTIVE},
    {"bytes", "transfer and collectives", TRANSFER | COLLECTIVE},
    {"requests", "attention", BIT(OP_ATTENTION)},
    {"cached", "mla_up and attention_wide", BIT(OP_MLA_UP) | BIT(OP_ATTENTION_WIDE)},
    {"heads", "mla_prolog, mla_up, attention, attention_wide and o_proj",
     BIT(OP_MLA_PROLOG) | BIT(OP_MLA_UP) | ATTENTIONS | BIT(OP_O_PROJ)},
    {"inter", "dense", BIT(OP_DENSE)},
    {"shared-ranks", "dispatch, gmm of a model and combine", EXCHANGED},
    {"activations", "dispatch, quantise and reorder",
     BIT(OP_DISPATCH) | BIT(OP_QUANTISE) | BIT(OP_REORDER)},
    {"wide", "mla_prolog and o_proj", BIT(OP_MLA_PROLOG) | BIT(OP_O_PROJ)},
    {"bulk", "dispatch, combine and gate", BIT(OP_DISPATCH) | BIT(OP_COMBINE) | BIT(OP_GATE)},
    {"even", "dispatch, gmm of a model and combine", EXCHANGED},
    {"plane", "dispatch, combine, transfer and collectives",
     BIT(OP_DISPATCH) | BIT(OP_COMBINE) | TRANSFER | COLLECTIVE},
    {"what", "transfer", TRANSFER},
    {"other-node", "transfer", TRANSFER},
    {"cores", "operators", ON_A_DIE},
};

static enum st check_flags(const struct args *a, const struct asked *op, struct err *err) {
    bool by_hand = op->op == OP_GMM && (a->m || a->n || a->k);
    uint32_t asked = op->kind == ASKED_TRANSFER     ? TRANSFER
                     : op->kind == ASKED_COLLECTIVE ? COLLECTIVE
                     : by_hand                      ? BY_HAND
                                                    : BIT(op->op);
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
        if (flags_given(a->sim.cmd, uses[i].flag) && !(uses[i].ops & asked))
            return err_set(err, ST_INVALID, "op: --%s is for %s, found %s%s", uses[i].flag,
                           uses[i].is_for, op->name, by_hand ? " by hand" : "");
    return ST_OK;
}

static enum st check(const struct args *a, const struct asked *op, const struct sim_asked *s,
                     struct err *err) {
    uint64_t dies = (uint64_t)machine_dies_per_node(&s->machine) * s->machine.n_nodes;
    bool by_hand = a->m || a->n || a->k;
    if (by_hand && !(a->m && a->n && a->k))
        return err_set(err, ST_INVALID, "op: found --m %u, --n %u, --k %u, expected all three",
                       a->m, a->n, a->k);
    if (a->ep > dies || a->ranks > dies)
        return err_set(err, ST_INVALID, "op: found %u ranks, expected at most the %llu dies of %s",
                       a->ep > dies ? a->ep : a->ranks, (unsigned long long)dies, s->machine.name);
    if (a->requests > a->batch)
        return err_set(err, ST_INVALID,
                       "op: found --requests %u, expected at most --batch %u: each has a row",
                       a->requests, a->batch);
    if (a->shared_ranks >= a->ep)
        return err_set(err, ST_INVALID, "op: found --shared-ranks %u, expected fewer than --ep %u",
                       a->shared_ranks, a->ep);
    if ((BIT(op->op) & EXCHANGED) && a->imbalance > 1 && s->model.n_experts && !by_hand) {
        struct op_shape shape = shape_of(a, s, NULL);
        double most = op_imbalance_max(&shape);
        if ((double)a->imbalance > most * (1 + 1e-6))
            return err_set(err, ST_INVALID,
                           "op: found --imbalance %g, expected at most %.4g: a rank can have no "
                           "more rows than all tokens send",
                           (double)a->imbalance, most);
    }
    if (!s->model.n_experts && (op->op == OP_DISPATCH || op->op == OP_COMBINE || op->op == OP_GATE))
        return err_set(err, ST_INVALID, "op: %s: the model has no experts", op->name);
    return ST_OK;
}

static const struct machine_path *path_of(const struct args *a, const struct machine_plane *p) {
    return a->other_node ? &p->other_node[a->what] : &p->same_node[a->what];
}

/* The plane of a transfer that named none: the first that has the way. */
static enum st transfer_plane(const struct machine_plane **p, const struct args *a,
                              const struct sim_asked *s, struct err *err) {
    static const char *const whats[] = {"reads", "writes", "reads CPU memory", "writes CPU memory"};
    char has[256] = "";
    for (uint32_t i = s->machine.n_planes; i-- > 0;) {
        size_t n = strlen(has);
        if (path_of(a, &s->machine.planes[i])->rate_bps <= 0) continue;
        snprintf(has + n, sizeof has - n, "%s%s", n ? ", " : "", s->machine.planes[i].name);
        if (!a->plane || !a->plane[0]) *p = &s->machine.planes[i];
    }
    if (*p && path_of(a, *p)->rate_bps > 0) return ST_OK;
    return err_set(err, ST_INVALID,
                   "op: transfer: no die of %s %s in %s over %s; planes that can: %s",
                   s->machine.name, whats[a->what], a->other_node ? "another node" : "its node",
                   *p ? (*p)->name : "any plane", has[0] ? has : "none");
}

/* Bytes between dies, as flow.h has them in closed form. */
static enum st between(struct op_cost *c, double *bare_s, const struct args *a,
                       const struct asked *op, const struct sim_asked *s, struct err *err) {
    const struct machine_plane *p;
    double bytes = (double)a->bytes;
    enum st st = sim_args_plane(&p, &s->machine, a->plane, err);
    if (!st && op->kind == ASKED_TRANSFER) st = transfer_plane(&p, a, s, err);
    if (st) return st;
    if (!p) p = &s->machine.planes[0];
    *c = (struct op_cost){.network_bytes = bytes};
    if (op->kind == ASKED_TRANSFER) {
        enum machine_transfer what = (enum machine_transfer)a->what;
        const struct machine_path *path = path_of(a, p);
        c->s = transfer_s(p, what, a->other_node, bytes);
        *bare_s = path->latency_s + bytes / path->rate_bps;
        if (*bare_s >= c->s) *bare_s = 0; /* of large sizes a library hides more */
        c->fixed_s = fmax(p->library_start_s, path->latency_s);
        c->network_s = bytes / path->rate_bps;
        snprintf(c->formula, sizeof c->formula,
                 "(start %s us ^4 + (%s MB / %s GB/s [%s] = %s us) ^4) ^(1/4), start the larger of "
                 "the library's %s us and the operation's %s us",
                 figure_of(c->fixed_s * 1e6).text, figure_of(bytes * 1e-6).text,
                 figure_of(path->rate_bps * 1e-9).text, p->name, figure_of(c->network_s * 1e6).text,
                 figure_of(p->library_start_s * 1e6).text, figure_of(path->latency_s * 1e6).text);
    } else {
        c->network_bytes = a->ranks > 1 ? bytes * (a->ranks - 1) / a->ranks : 0;
        if (op->collective == ALL_REDUCE) c->network_bytes *= 2; /* to be summed, and back */
        c->s = collective_s(&s->machine, p, op->collective, a->ranks, bytes);
        c->fixed_s = collective_start_s(&s->machine, p, op->collective, a->ranks, bytes);
        c->network_s = c->s - c->fixed_s;
        collective_formula(c->formula, sizeof c->formula, &s->machine, p, op->collective, a->ranks,
                           bytes);
    }
    if (isfinite(c->s)) return ST_OK;
    return err_set(err, ST_INVALID, "op: %s: plane %s has no such way between these dies", op->name,
                   p->name);
}

/* What most of an operator's operations are made in: prolog and o_proj have BF16 ones too. */
static enum machine_type type_of(const struct asked *op, const struct sim_asked *s) {
    bool by_weights = op->op == OP_MLA_PROLOG || op->op == OP_MLA_UP || op->op == OP_O_PROJ ||
                      op->op == OP_GMM || op->op == OP_DENSE;
    return op->kind == ASKED_OP && by_weights ? s->weights : TYPE_BF16;
}

/* "95.9 G" */
static struct figure thousands(double v) {
    static const char *const units[] = {"", "K", "M", "G", "T", "P"};
    struct figure f;
    int u = 0;
    while (v >= 999.95 && u < 5) v /= 1000, u++;
    snprintf(f.text, sizeof f.text, "%.4g %s", v, units[u]);
    return f;
}

static void print_part(const char *name, double s) {
    printf("  %-9s %8s us", name, figure_of(s * 1e6).text);
}

/* bare_s: a small transfer as loads and stores do it, without a library; 0: there is none. */
static void print_text(const struct args *a, const struct asked *op, const struct sim_asked *s,
                       const struct op_cost *c, double bare_s) {
    char b[32];
    bool integer = op_type_computed(&s->machine, type_of(op, s)) == TYPE_INT8;
    printf("%s %s us", op->name, figure_of(c->s * 1e6).text);
    if (a->explain) printf("   = %s", c->formula);
    printf("\n");
    if (c->operations > 0) {
        print_part("compute", c->compute_s);
        printf("   %s%s, %s %s over all\n", thousands(c->operations).text, integer ? "OP" : "FLOP",
               figure_of(c->operations / c->s * 1e-12).text, integer ? "TOPS" : "TFLOPS");
    }
    if (c->hbm_bytes > 0) {
        print_part("memory", c->memory_s);
        printf("   %s, %s GB/s over all\n", human_bytes(b, sizeof b, c->hbm_bytes),
               figure_of(c->hbm_bytes / c->s * 1e-9).text);
    }
    if (c->network_bytes > 0) {
        print_part("network", c->network_s);
        printf("   %s, %s GB/s over all\n", human_bytes(b, sizeof b, c->network_bytes),
               figure_of(c->network_bytes / c->s * 1e-9).text);
    }
    if (c->vector_s > 0) print_part("vectors", c->vector_s), printf("\n");
    if (c->fixed_s > 0) print_part("start", c->fixed_s), printf("\n");
    if (bare_s > 0) print_part("bare", bare_s), printf("   without a library's start\n");
    if (type_of(op, s) == s->weights) sim_args_print_type(s);
}

static void print_json(const struct asked *op, const struct sim_asked *s, const struct op_cost *c,
                       double bare_s) {
    json_t *o = json_pack(
        "{s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s}", "operator",
        op->name, "hardware", s->machine.name, "time_us", c->s * 1e6, "compute_us",
        c->compute_s * 1e6, "memory_us", c->memory_s * 1e6, "memory_in_turn_us", c->serial_s * 1e6,
        "vectors_us", c->vector_s * 1e6, "network_us", c->network_s * 1e6, "start_us",
        c->fixed_s * 1e6, "operations", c->operations, "hbm_bytes", c->hbm_bytes, "network_bytes",
        c->network_bytes, "gb_per_s",
        c->s > 0 ? fmax(c->network_bytes, c->network_s > 0 ? 0 : c->hbm_bytes) / c->s * 1e-9 : 0,
        "formula", c->formula);
    if (op->kind == ASKED_OP) { /* bytes on their way are of no type */
        enum machine_type computed = op_type_computed(&s->machine, type_of(op, s));
        json_object_set_new(o, "weights", json_string(machine_type_names[s->weights]));
        json_object_set_new(o, "computed_in", json_string(machine_type_names[computed]));
    }
    if (bare_s > 0) json_object_set_new(o, "bare_us", json_real(bare_s * 1e6));
    json_dumpf(o, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(o);
}

/* Ranks that were not given: as many as is usual, where there are so many. */
static void fill_ranks(struct args *a, const struct machine *m) {
    uint32_t dies = machine_dies_per_node(m) * m->n_nodes;
    if (!a->ep) a->ep = dies < 32 ? dies : 32;
    if (!a->ranks) a->ranks = dies < 8 ? dies : 8;
}

static enum st run(void *args, const char *name, struct err *err) {
    struct args *a = args;
    struct asked op;
    struct sim_asked s;
    struct op_cost c;
    double bare_s = 0;
    const struct machine_plane *plane;
    struct op_place place = {(double)a->cores, (double)a->cores, (double)a->cores};
    enum st st = find(&op, name, err);
    if (!st) st = check_flags(a, &op, err);
    if (!st) st = sim_args_open(&s, &a->sim, err);
    if (!st) fill_ranks(a, &s.machine);
    if (!st) st = check(a, &op, &s, err);
    if (!st) st = sim_args_plane(&plane, &s.machine, a->plane, err);
    if (st) return st;
    if (op.kind == ASKED_OP) {
        struct op_shape shape = shape_of(a, &s, plane);
        op_cost(&c, &s.machine, &place, op.op, &shape);
        if (!isfinite(c.s))
            return err_set(err, ST_INVALID, "op: --ep %u: %s%s of %s %s so many dies", a->ep,
                           plane ? "plane " : "no network", plane ? plane->name : "",
                           s.machine.name, plane ? "does not connect" : "connects");
    } else {
        st = between(&c, &bare_s, a, &op, &s, err);
        if (st) return st;
    }
    if (a->json)
        print_json(&op, &s, &c, bare_s);
    else
        print_text(a, &op, &s, &c, bare_s);
    return ST_OK;
}

int cli_sim_op(int argc, char **argv) {
    struct args a = {.sim = {.kv_bytes = 2},
                     .batch = 128,
                     .kv = 4096,
                     .imbalance = 1,
                     .cores = 1,
                     .bytes = 1 << 20};
    const struct flag flags[] = {
        SIM_ARGS_FLAGS(a.sim),
        {"batch", "N", FLAG_U32, &a.batch, 1, 1 << 24,
         "rows (query tokens) of the die (default 128)", false},
        {"kv", "N", FLAG_U32, &a.kv, 1, 1 << 27, "keys a query sees, on average (default 4096)",
         false},
        {"ep", "N", FLAG_U32, &a.ep, 1, 65536, "ranks of the experts (default 32, or all dies)",
         false},
        {"imbalance", "X", FLAG_F32, &a.imbalance, 1, 1000,
         "load of the hottest rank of routed experts over the mean, before chance (default 1)",
         false},
        {"groups", "N", FLAG_U32, &a.groups, 1, 65536,
         "experts on the die (default: the model's over --ep)", false},
        {"m", "N", FLAG_U32, &a.m, 1, 1 << 24, "gmm by hand: rows of a group, with --n and --k",
         false},
        {"n", "N", FLAG_U32, &a.n, 1, 1 << 24, "gmm by hand: columns", false},
        {"k", "N", FLAG_U32, &a.k, 1, 1 << 24, "gmm by hand: depth", false},
        {"ranks", "N", FLAG_U32, &a.ranks, 1, 65536, "collectives: dies (default 8, or all)",
         false},
        {"bytes", "SIZE", FLAG_BYTES, &a.bytes, 0, 0, "transfer, collectives: size (default 1 MiB)",
         false},
        {"explain", NULL, FLAG_BOOL, &a.explain, 0, 0, "the formula, with its numbers", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the same as a JSON object", false},
        {"requests", "N", FLAG_U32, &a.requests, 1, 1 << 24,
         "attention: sequences the rows belong to (default and at most: as many)", true},
        {"cached", "N", FLAG_U32, &a.cached, 0, 1 << 27,
         "mla_up, attention_wide: tokens from the cache beside the rows (default 0)", true},
        {"heads", "N", FLAG_U32, &a.heads, 1, 65536, "attention heads of the die (default: all)",
         true},
        {"inter", "N", FLAG_U32, &a.inter, 1, 1 << 20,
         "dense: width (default: the model's dense layers)", true},
        {"shared-ranks", "N", FLAG_U32, &a.shared_ranks, 0, 65536,
         "of --ep, ranks that hold the shared expert alone (default 0)", true},
        {"activations", SIM_TYPE_WORDS, FLAG_CHOICE, &a.activations, 0, 0,
         "type that is dispatched (default: as --dtype)", true},
        {"wide", NULL, FLAG_BOOL, &a.wide, 0, 0, "mla_prolog, o_proj: the form of prefill", true},
        {"bulk", NULL, FLAG_BOOL, &a.bulk, 0, 0, "dispatch, combine, gate: the form of prefill",
         true},
        {"even", NULL, FLAG_BOOL, &a.even, 0, 0, "no chance either: every rank gets its share",
         true},
        {"plane", "NAME", FLAG_STR, &a.plane, 0, 0, "network (default: scale-up where it reaches)",
         true},
        {"what", "read|write|read-cpu|write-cpu", FLAG_CHOICE, &a.what, 0, 0,
         "transfer: who moves what (default read)", true},
        {"other-node", NULL, FLAG_BOOL, &a.other_node, 0, 0,
         "transfer: the other end is in another node", true},
        {"cores", "X", FLAG_F32, &a.cores, 0.01, 1,
         "share of the die's cores and memory bandwidth (default 1)", true},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "sim op",
        .what = "Says what one operator, transfer or collective takes on one die.",
        .usage = "supernode sim op NAME [flags]",
        .example = "supernode sim op dispatch --ep 256 --batch 128 --explain",
        .flags = flags,
        .args_min = 1,
        .args_max = 1,
        .given = a.sim.given,
    };
    a.sim.cmd = &cmd;
    return sim_args_main(&cmd, argc, argv, run, &a);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements operators.h for what a die does by itself: rooflines of matmuls in waves of tiles, of
 * attention and of what only streams memory. A kernel is taken to overlap its computing and its memory
 * traffic: it takes the longer, somewhat more where both are nearly as long (op_cost), and its start.
 * What lies between dies is in op_network.c. */
#include "sim/op_impl.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/figure.h"
#include "sim/portable.h"

const char *const op_names[OPS + 1] = {
    "embed",    "mla_prolog", "mla_up",   "attention",  "attention_wide", "o_proj", "gate",
    "quantise", "reorder",    "dispatch", "gmm",        "combine",        "sum",    "dense",
    "head",     "sample",     "mtp_proj", "all_gather", "all_to_all",     NULL};

enum { HALF = 2 /* bytes of a BF16 */, SINGLE = 4 };

void op_say(struct op_work *w, const char *fmt, ...) {
    size_t n = strlen(w->c->formula);
    va_list ap;
    if (!w->s->explain) return;
    va_start(ap, fmt);
    vsnprintf(w->c->formula + n, sizeof w->c->formula - n, fmt, ap);
    va_end(ap);
}

static double share(const struct op_work *w, const char *name) {
    return machine_operator(w->m, name)->share;
}
static double fixed(const struct op_work *w, const char *name) {
    return machine_operator(w->m, name)->fixed_s;
}

double op_memory_bps(const struct op_work *w) {
    return w->m->hbm_bps * share(w, "memory") * w->p.hbm;
}

double op_type_bytes(enum machine_type t) {
    switch (t) {
    case TYPE_BF16: return 2;
    case TYPE_INT8:
    case TYPE_FP8: return 1;
    case TYPE_FP4: return 0.5;
    case MACHINE_TYPES: break;
    }
    assert(!"a type");
    return 2;
}

/* FP8 has a wider range than INT8, and INT8 more digits than FP8: neither holds the other. */
enum machine_type op_type_computed(const struct machine *m, enum machine_type t) {
    if (m->peak[t] > 0) return t;
    if (t == TYPE_FP4 && m->peak[TYPE_FP8] > 0) return TYPE_FP8;
    return TYPE_BF16;
}

static double peak(const struct op_work *w, enum machine_type t) {
    return w->m->peak[op_type_computed(w->m, t)];
}

static double cores(const struct op_work *w) {
    double n = round(w->m->cube_cores * w->p.cubes);
    return n < 1 ? 1 : n;
}

static void stream(struct op_work *w, double bytes) {
    w->c->hbm_bytes += bytes;
}

/* Traffic that waits for the computing, or is waited for: a pass over rows between two matmuls. */
static void pass(struct op_work *w, double bytes) {
    stream(w, bytes);
    w->c->serial_s += bytes / op_memory_bps(w);
}

void op_on_vectors(struct op_work *w, const char *name, double rows) {
    double n = fmax(1, w->m->vector_cores * w->p.vectors);
    w->c->vector_s += rows * fixed(w, name) / n;
}

/* Tiles over the rows of a group. Where each group has what chance gives it (uneven), its last tile is
 * half empty on average, whatever the mean is. */
static double tiles_high(double rows, double height, bool uneven) {
    return uneven ? fmax(1, rows / height + 0.5) : ceil(rows / height);
}

/* Groups of [rows, k] x [k, n]: tiles dealt to the cores in waves. Libraries choose the tile to suit
 * the shape, so the best of a few is taken; C7's own, and the largest, is 128 x 152. A tile costs its
 * full size even where the matrix ends inside it, and its core stands still while what it computed is
 * stored (what a shorter K costs on both kinds of chip), and no shorter than its start takes. A core is
 * fed as fast as the largest tile needs: smaller ones, which use each value less often, wait for
 * theirs. */
static void matmul(struct op_work *w, double groups, double rows, double n, double k,
                   enum machine_type type, bool uneven) {
    static const double heights[] = {16, 32, 48, 64, 96, 128}, widths[] = {38, 76, 152};
    const double fed = 128. * 152 / (128 + 152); /* of the largest tile: products a value */
    double best = INFINITY, waves = 0, high = 0, wide = 0, fill = 0;
    const struct machine_operator *o = machine_operator(w->m, "gmm");
    double core_rate = peak(w, type) / w->m->cube_cores * o->share;
    double store_s = HALF * cores(w) / op_memory_bps(w); /* of a value, while all cores store */
    for (size_t i = 0; i < sizeof heights / sizeof *heights; i++)
        for (size_t j = 0; j < sizeof widths / sizeof *widths; j++) {
            double tiles = groups * tiles_high(rows, heights[i], uneven) * ceil(n / widths[j]);
            double all = ceil(tiles / cores(w) - 1e-9);
            double size = heights[i] * widths[j];
            double in = fmax(1, fed * (heights[i] + widths[j]) / size);
            double s = all * (in * size * 2 * k / core_rate + fmax(size * store_s, o->fixed_s));
            if (s >= best) continue;
            best = s, waves = all, high = heights[i], wide = widths[j], fill = in;
        }
    w->c->compute_s += best;
    w->c->operations += 2 * groups * rows * n * k;
    op_say(w, "%s%.0f wave%s x (", w->c->compute_s > best ? " + " : "", waves,
           waves == 1 ? "" : "s");
    if (fill > 1) op_say(w, "%.3g [fed] x ", fill);
    op_say(w, "2 x %.0f x %.0f x %.0f / %.1f %s a core + store %.2f us)", high, wide, k,
           core_rate * 1e-12, op_type_computed(w->m, type) == TYPE_INT8 ? "TOPS" : "TFLOPS",
           fmax(high * wide * store_s, o->fixed_s) * 1e6);
}

/* A linear layer: weights of the type, activations in it, BF16 out. */
static void layer(struct op_work *w, double groups, double rows, double n, double k,
                  enum machine_type type, bool uneven) {
    double b = op_type_bytes(type);
    matmul(w, groups, rows, n, k, type, uneven);
    stream(w, groups * (n * k * b + rows * k * b + rows * n * HALF));
}

static void linear(struct op_work *w, double groups, double rows, double n, double k,
                   enum machine_type type) {
    layer(w, groups, rows, n, k, type, false);
}

static void mla_prolog(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    double heads = s->heads && !s->wide ? s->heads : c->n_heads, head = c->nope + c->rope;
    linear(w, 1, s->tokens,
           (c->q_lora && !s->wide ? c->q_lora : 0) + (s->wide ? c->q_lora : 0) + c->kv_lora +
               c->rope,
           c->hidden, s->weights);
    if (!s->wide) {
        linear(w, 1, s->tokens, heads * head, c->q_lora ? c->q_lora : c->hidden, s->weights);
        linear(w, heads, s->tokens, c->kv_lora, c->nope, TYPE_BF16);
    }
    pass(w, s->tokens * c->hidden * (3 * HALF + op_type_bytes(s->weights)));
    stream(w, s->tokens * config_kv_row(c) * s->kv_bytes);
    if (!s->wide) op_on_vectors(w, "mla_prolog", s->tokens);
    w->c->fixed_s += fixed(w, "kernel");
}

static void mla_up(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    double heads = s->heads ? s->heads : c->n_heads;
    linear(w, 1, s->tokens, heads * (c->nope + c->rope), c->q_lora ? c->q_lora : c->hidden,
           s->weights);
    linear(w, 1, s->tokens + s->cached, heads * (c->nope + c->v_dim), c->kv_lora, s->weights);
    /* rope, and the layout attention wants: queries, keys and values once in and once out */
    pass(w, 2 * HALF * heads *
                (s->tokens * (c->nope + c->rope) +
                 (s->tokens + s->cached) * (c->nope + c->rope + c->v_dim)));
    w->c->fixed_s += 2 * fixed(w, "kernel");
}

static void attend(struct op_work *w, const char *name, double operations, double bytes) {
    double rate = peak(w, TYPE_BF16) * cores(w) / w->m->cube_cores * share(w, name);
    w->c->operations += operations;
    w->c->compute_s += operations / rate;
    stream(w, bytes);
    w->c->fixed_s += fixed(w, "kernel");
    op_say(w, "%s GFLOP / %s TFLOPS", figure_of(operations * 1e-9).text,
           figure_of(rate * 1e-12).text);
}

/* The queries that meet a request's latents, of all its rows and heads, fill tiles: of 64 on GPUs since
 * Hopper (its matrix instruction, and FlashMLA), of 16 on cubes and others. What is missing is computed
 * all the same. */
static double queries(const struct op_work *w, double heads) {
    const struct op_shape *s = w->s;
    bool hopper = w->m->cube_cores == w->m->vector_cores && w->m->peak[TYPE_FP8] > 0;
    double tile = hopper ? 64 : 16;
    return s->requests * ceil(s->tokens / s->requests * heads / tile - 1e-9) * tile;
}

static void attention(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    double heads = s->heads ? s->heads : c->n_heads, row = config_kv_row(c);
    attend(w, "attention", 2 * queries(w, heads) * (row + c->kv_lora) * s->kv_tokens,
           s->requests * s->kv_tokens * row * s->kv_bytes +
               s->tokens * heads * (row + c->kv_lora) * HALF);
}

static void attention_wide(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    double heads = s->heads ? s->heads : c->n_heads, head = c->nope + c->rope + c->v_dim;
    attend(w, "attention_wide", 2 * heads * head * s->tokens * s->kv_tokens,
           (2 * s->tokens + s->cached) * heads * head * HALF);
}

static void o_proj(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    double heads = s->heads ? s->heads : c->n_heads;
    if (!s->wide) linear(w, heads, s->tokens, c->v_dim, c->kv_lora, TYPE_BF16);
    linear(w, 1, s->tokens, c->hidden, heads * c->v_dim, s->weights);
    if (!s->wide) op_on_vectors(w, "o_proj", s->tokens);
    w->c->fixed_s += (s->wide ? 1 : 2) * fixed(w, "kernel");
}

static void gate(struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct model_config *c = s->model;
    matmul(w, 1, s->tokens, c->n_experts, c->hidden, TYPE_BF16, false);
    stream(w, (double)c->n_experts * c->hidden * SINGLE + s->tokens * c->hidden * HALF);
    pass(w, s->tokens * c->hidden * 4 * HALF); /* what attention adds, and the norm */
    if (!s->bulk) op_on_vectors(w, "gate", s->tokens);
    w->c->fixed_s += 2 * fixed(w, "kernel"); /* the norm and the matmul; the choice */
}

/* Of what goes on together: the longest, and a little more where two are nearly as long, for neither is
 * ever quite hidden (the form that transfers have, flow.h). */
static double longest(double a, double b, double c) {
    return sqrt(sqrt(a * a * a * a + b * b * b * b + c * c * c * c));
}

/* Without what is fixed. */
static double body_s(const struct op_work *w, const struct op_cost *c) {
    double memory_s = c->hbm_bytes / op_memory_bps(w) - c->serial_s;
    return longest(c->compute_s, memory_s, c->network_s) + c->serial_s + c->vector_s;
}

/* --- experts ---------------------------------------------------------------------------------- */

static uint32_t routed_ranks(const struct op_shape *s) {
    uint32_t ep = s->ep ? s->ep : 1;
    return s->shared_ranks < ep ? ep - s->shared_ranks : 1;
}

uint32_t op_experts_held(const struct op_shape *s) {
    uint32_t ranks = routed_ranks(s);
    if (s->experts) return s->experts;
    return s->model->n_experts ? (s->model->n_experts + ranks - 1) / ranks : 1;
}

/* How far the fullest of the ranks is above its share by chance alone. Of a token's k experts a rank
 * gets a hypergeometric number, over all tokens about a Poisson one: its expected largest by Cornish
 * and Fisher, whose second term is the skew that small numbers have. */
static double chance_rows(const struct op_shape *s, double mean) {
    double ranks = routed_ranks(s), slots = ranks * op_experts_held(s), k = s->model->gate.top_k;
    double part = slots > 1 ? fmax(0, (slots - k) / (slots - 1)) : 0, z = op_expected_max(ranks);
    if (s->even || ranks < 2) return 0;
    return z * sqrt(mean * (1 - 1 / ranks) * part) + fmax(0, (z * z - 1) / 6) * part;
}

/* Experts get what all ranks send, whichever of them has most. */
static double tokens_of_all(const struct op_shape *s) {
    return (s->mean_tokens > 0 ? s->mean_tokens : s->tokens) * (s->ep ? s->ep : 1);
}

/* Skew and chance are independent: loads that both spread have the root of the squares' sum. */
double op_rows_routed(const struct op_shape *s) {
    double all = tokens_of_all(s), k = s->model->gate.top_k;
    double mean = all * k / routed_ranks(s);
    double skew = mean * fmax(0, s->imbalance - 1), chance = chance_rows(s, mean);
    double most = all * fmin(k, op_experts_held(s));
    return fmin(mean + sqrt(skew * skew + chance * chance), fmax(most, mean));
}

double op_imbalance_max(const struct op_shape *s) {
    double k = s->model->gate.top_k;
    return s->model->n_experts ? fmin(k, op_experts_held(s)) / k * routed_ranks(s) : 1;
}

double op_rows_shared(const struct op_shape *s) {
    return s->shared_ranks ? tokens_of_all(s) / s->shared_ranks : 0;
}

double op_rows_hottest(const struct op_shape *s) {
    return fmax(op_rows_routed(s), op_rows_shared(s));
}

/* Gate and up, SwiGLU with quantising between, down. Experts that no row comes to cost nothing. */
static void experts(struct op_work *w, double rows, double held, double inter) {
    const struct op_shape *s = w->s;
    double hidden = s->model->hidden, b = op_type_bytes(s->weights);
    double met = held * (1 - portable_pow(1 - 1 / held, rows)), each;
    bool uneven = held > 1 && !s->even;
    if (rows <= 0) return;
    if (met < 1) met = fmin(1, rows);
    each = rows / met;
    layer(w, met, each, 2 * inter, hidden, s->weights, uneven);
    layer(w, met, each, hidden, inter, s->weights, uneven);
    pass(w, rows * inter * (2 * HALF + b));
}

/* A rank with fewer rows may have more experts' weights to read: the busiest is who takes longest. */
static void gmm(struct op_work *w) {
    const struct op_shape *s = w->s;
    if (s->m) {
        linear(w, s->experts ? s->experts : 1, s->m, s->n, s->k, s->weights);
        return; /* bare, as it was measured */
    }
    const struct model_config *c = s->model;
    struct op_cost none = *w->c, shared;
    experts(w, op_rows_shared(s), 1, c->moe_inter * (c->n_shared ? c->n_shared : 1));
    shared = *w->c;
    *w->c = none;
    experts(w, op_rows_routed(s), op_experts_held(s), c->moe_inter);
    if (body_s(w, &shared) > body_s(w, w->c)) *w->c = shared;
    w->c->fixed_s += 3 * fixed(w, "kernel");
}

static void dense(struct op_work *w) {
    const struct op_shape *s = w->s;
    experts(w, s->tokens, 1, s->inter ? s->inter : s->model->dense_inter);
    w->c->fixed_s += 3 * fixed(w, "kernel");
}

/* --- the ends of the model ---------------------------------------------------------------------- */

static void head(struct op_work *w) {
    const struct model_config *c = w->s->model;
    matmul(w, 1, w->s->tokens, c->vocab, c->hidden, TYPE_BF16, false);
    stream(w, (double)c->vocab * c->hidden * HALF +
                  w->s->tokens * ((double)c->hidden * HALF + (double)c->vocab * SINGLE));
    w->c->fixed_s += fixed(w, "kernel");
}

static void sample(struct op_work *w) {
    stream(w, w->s->tokens * w->s->model->vocab * SINGLE * 4); /* read and written twice */
    w->c->fixed_s += fixed(w, "sample");
}

/* Embedding and hidden state are normed and lie side by side; checkpoints keep the matrix in BF16. */
static void mtp_proj(struct op_work *w) {
    double rows = w->s->tokens, hidden = w->s->model->hidden;
    linear(w, 1, rows, hidden, 2 * hidden, TYPE_BF16);
    pass(w, rows * hidden * 4 * HALF);
    w->c->fixed_s += 2 * fixed(w, "kernel");
}

/* Each token once in and once out. */
static void elementwise(struct op_work *w, double in, double out) {
    stream(w, w->s->tokens * w->s->model->hidden * (in + out));
    w->c->fixed_s += fixed(w, "kernel");
}

/* ------------------------------------------------------------------------------------------------ */

static void work(struct op_work *w, enum op op) {
    switch (op) {
    case OP_EMBED: elementwise(w, HALF, HALF); break;
    case OP_MLA_PROLOG: mla_prolog(w); break;
    case OP_MLA_UP: mla_up(w); break;
    case OP_ATTENTION: attention(w); break;
    case OP_ATTENTION_WIDE: attention_wide(w); break;
    case OP_O_PROJ: o_proj(w); break;
    case OP_GATE: gate(w); break;
    case OP_QUANTISE: elementwise(w, HALF, op_type_bytes(w->s->activations)); break;
    case OP_REORDER:
        elementwise(w, HALF, op_type_bytes(w->s->activations) * w->s->model->gate.top_k * 2);
        break;
    case OP_DISPATCH: op_exchange(w, true); break;
    case OP_GMM: gmm(w); break;
    case OP_COMBINE: op_exchange(w, false); break;
    case OP_SUM: elementwise(w, HALF * (w->s->model->gate.top_k + 1), HALF); break;
    case OP_DENSE: dense(w); break;
    case OP_HEAD: head(w); break;
    case OP_SAMPLE: sample(w); break;
    case OP_MTP_PROJ: mtp_proj(w); break;
    case OP_ALL_GATHER: op_collective(w, ALL_GATHER); break;
    case OP_ALL_TO_ALL: op_collective(w, ALL_TO_ALL); break;
    case OPS: assert(!"an operator");
    }
}

static void say_bytes(struct op_work *w, const char *what, double s) {
    double gbs = op_memory_bps(w) * 1e-9;
    op_say(w, "%s MB%s / %s GB/s = %s us", figure_of(s * gbs * 1e3).text, what, figure_of(gbs).text,
           figure_of(s * 1e6).text);
}

/* Puts what was said of computing or the network into the whole formula. Of memory traffic beside the
 * network a hundredth of its time is too little to be told. */
static void explain(struct op_work *w) {
    struct op_cost *c = w->c;
    char said[sizeof c->formula];
    double memory_s = c->memory_s - c->serial_s;
    bool network = c->network_s > 0, first = network || c->compute_s > 0;
    bool memory = memory_s > 0.01 * c->network_s, both = first && memory;
    memcpy(said, c->formula, sizeof said);
    c->formula[0] = '\0';
    if (both) op_say(w, network ? "(network " : "(compute ");
    if (first)
        op_say(w, "%s = %s us", said,
               figure_of((network ? c->network_s : c->compute_s) * 1e6).text);
    if (both) op_say(w, " ^4 + memory ");
    if (memory) say_bytes(w, "", memory_s);
    if (both) op_say(w, " ^4) ^(1/4)");
    if (c->serial_s > 0) {
        op_say(w, "%s", c->formula[0] ? " + " : "");
        say_bytes(w, " in turn", c->serial_s);
    }
    if (c->vector_s > 0) {
        double n = fmax(1, w->m->vector_cores * w->p.vectors);
        op_say(w, " + %s row%s x %s us / %s vector cores = %s us", figure_of(w->s->tokens).text,
               w->s->tokens == 1 ? "" : "s", figure_of(c->vector_s * n / w->s->tokens * 1e6).text,
               figure_of(n).text, figure_of(c->vector_s * 1e6).text);
    }
    if (c->fixed_s > 0)
        op_say(w, "%sstart %s us", c->formula[0] ? " + " : "", figure_of(c->fixed_s * 1e6).text);
}

void op_cost(struct op_cost *out, const struct machine *m, const struct op_place *p, enum op op,
             const struct op_shape *s) {
    static const struct op_place all = {1, 1, 1};
    struct op_work w = {m, p ? *p : all, s, out};
    *out = (struct op_cost){.s = 0};
    bool by_hand = op == OP_GMM && s->m;
    if (!by_hand && op != OP_ALL_GATHER && op != OP_ALL_TO_ALL && !(s->tokens > 0)) return;
    work(&w, op);
    out->memory_s = out->hbm_bytes / op_memory_bps(&w);
    out->s = body_s(&w, out) + out->fixed_s;
    if (s->explain) explain(&w);
}

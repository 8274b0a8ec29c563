/* SPDX-License-Identifier: Apache-2.0 */
/* Whole steps of an instance (decode: CloudMatrix paper 4.2; prefill: 4.3) out of the costs of their
 * operators: two microbatches on split cores, MTP, launches; staged parallelism. step_decode_s and
 * step_prefill_s are what `sim run` asks for in place of the stand-in's times. */
#ifndef SUPERNODE_SIM_STEP_H
#define SUPERNODE_SIM_STEP_H

#include "sim/operators.h"

enum step_attention {
    STEP_ATTENTION_AUTO,   /* staged on chips with cube and vector cores, else data parallel */
    STEP_ATTENTION_STAGED, /* sequence, tensor, sequence parallel over all dies */
    STEP_ATTENTION_DATA    /* each prompt on one die */
};

/* An instance and how it works. Zeroed fields are filled in by step_setup_fill. */
struct step_setup {
    const struct machine *machine;
    struct model_config model;
    enum machine_type weights;
    double kv_bytes;
    uint32_t dies;         /* decode: data parallel ranks; prefill: SP-TP-SP over so many */
    uint32_t ep;           /* ranks of the experts; usually dies */
    uint32_t redundant;    /* routed experts held twice, over the instance */
    uint32_t shared_ranks; /* of ep: hold the shared expert alone; filled in when ep > experts */
    const char *plane;     /* of dispatch and combine, as in struct op_shape */
    double imbalance;      /* of routed experts, this phase: the workload's skew */
    bool even;             /* no chance either: every rank gets its share */
    bool mtp;
    double acceptance;        /* of the draft token; tokens a step = 1 + acceptance with MTP */
    bool microbatches;        /* two, where that is faster */
    bool microbatches_forced; /* two, always */
    double attention_cubes;   /* share of the cores of the attention stream; decode, microbatches.
                                 0: the best for each batch. 1: both streams share the cores in turn
                                 and only the network runs beside (filled in for GPUs) */
    enum step_attention attention; /* prefill */
    double layer_fixed_s;          /* prefill: one fixed time a layer */
};

struct step_piece { /* one operator of one layer (or of the step), for tables and Chrome traces */
    enum op
        op; /* OPS: the CPU's launches and all else once a step, or prefill's fixed time a layer */
    uint32_t layer, microbatch, stream;
    double begin_s, s;
    struct op_cost cost;
};
struct step_trace {
    struct step_piece *v; /* grown with realloc, freed by the caller */
    size_t n, cap;
};

/* ST_INVALID: it does not fit (experts over ranks, weights over memory), with a sentence. */
enum st ST_CHECKED step_setup_fill(struct step_setup *s, bool prefill, struct err *err);

/* Experts a rank holds that is none of the shared ones. */
uint32_t step_held(const struct step_setup *s);

struct step_decode {
    double requests;  /* of the fullest die */
    double kv_tokens; /* mean over its requests */
    /* Of lengths, standard deviation over mean, where kv_tokens is the mean of all dies and the one
     * with the most is to be waited for; 0: it is that die's. */
    double kv_spread;
    double mean_requests; /* of all dies, which their experts share; 0: as of the fullest */
};
/* One step: draft and main model, head, sampling, launches. trace: NULL or filled. */
double step_decode_s(const struct step_setup *s, const struct step_decode *d,
                     struct step_trace *trace);

struct step_prefill {
    double tokens;    /* computed in this batch, over the whole instance */
    double key_pairs; /* sum over those tokens of the keys each sees (cached ones included) */
    double cached;    /* tokens whose KV was loaded from the pool */
    double requests;
};
double step_prefill_s(const struct step_setup *s, const struct step_prefill *p,
                      struct step_trace *trace);

/* KV of one token over all layers (and the MTP layer), bytes. */
double step_kv_token_bytes(const struct step_setup *s);
/* What a die holds of weights, and what is left of its memory for KV, bytes. */
double step_weight_bytes(const struct step_setup *s, bool prefill);
double step_kv_room_bytes(const struct step_setup *s, bool prefill);
/* Whether the fullest die has room for the KV of such a step; else ST_INVALID, with a sentence. */
enum st ST_CHECKED step_decode_fits(const struct step_setup *s, const struct step_decode *d,
                                    struct err *err);
enum st ST_CHECKED step_prefill_fits(const struct step_setup *s, const struct step_prefill *p,
                                     struct err *err);

/* A prompt's KV from prefill to decode: one die reads it over a plane when the prompt is complete. */
double step_handover_s(const struct step_setup *s, const struct machine_plane *p, double tokens);

#endif

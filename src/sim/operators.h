/* SPDX-License-Identifier: Apache-2.0 */
/* What each operator of a DeepSeek-class model costs on a die: an analytical roofline with at most
 * two constants an operator and chip (machine_operator), each a fixed time or a share inside bounds
 * that a table states (op_constants). Every answer keeps the numbers it was made of, so that `sim op
 * --explain` prints the formula. docs/simulator.md says what each constant was calibrated on. */
#ifndef SUPERNODE_SIM_OPERATORS_H
#define SUPERNODE_SIM_OPERATORS_H

#include "model/config.h"
#include "sim/flow.h"

enum op {
    OP_EMBED,
    OP_MLA_PROLOG, /* norm, q and kv down, q up, absorbed k, rope, cache write; wide: down only */
    OP_MLA_UP,     /* wide: q and kv up to the heads of this die */
    OP_ATTENTION,  /* absorbed, over latents: decode */
    OP_ATTENTION_WIDE, /* expanded heads: prefill */
    OP_O_PROJ,         /* absorbed v (not when wide), then o_proj */
    OP_GATE,
    OP_QUANTISE,
    OP_REORDER, /* rows by expert, with their counts, where dispatch does not do it itself */
    OP_DISPATCH,
    OP_GMM, /* grouped matmul of experts, gate-up and down, with SwiGLU and requantising */
    OP_COMBINE,
    OP_SUM,   /* of a token's experts, where combine does not do it itself */
    OP_DENSE, /* dense FFN, and shared expert where it is computed as one */
    OP_HEAD,
    OP_SAMPLE,
    OP_MTP_PROJ, /* a draft layer's input: its token's embedding and the hidden state, as one */
    OP_ALL_GATHER,
    OP_ALL_TO_ALL,
    OPS
};
extern const char *const op_names[OPS + 1]; /* "dispatch", ..., NULL */

/* The part of a die an operator has. */
struct op_place {
    double cubes, vectors, hbm; /* shares, 0 to 1 */
};

/* The constants there are, for all chips. Most belong to one operator; "memory" and "kernel" to all. */
struct op_constants {
    const char *name;
    const char *fixed_is, *share_is;      /* what they mean; NULL: it has none */
    double fixed_s, fixed_min, fixed_max; /* default and bounds */
    double share, share_min, share_max;
};
extern const struct op_constants op_constants[];                /* ends with a NULL name */
const struct op_constants *op_constants_find(const char *name); /* NULL: there is none */
/* ST_INVALID: no such constant, or out of its bounds, with a sentence. */
enum st ST_CHECKED op_constants_check(const struct machine_operator *o, struct err *err);

struct op_cost {
    double s;                                       /* what it takes */
    double compute_s, memory_s, network_s, fixed_s; /* what it is made of: the first three beside
                                                      each other (the fourth root of the sum of
                                                      their fourth powers), the fixed time, ... */
    double serial_s; /* ... memory traffic that only begins when the rest is through, ... */
    double vector_s; /* ... and vector cores' work on rows that nothing hides */
    double operations, hbm_bytes, network_bytes;
    char formula[512]; /* with its numbers; made only when asked for (op_shape.explain) */
};

/* What is computed on one die. Fields an operator does not use are ignored. */
struct op_shape {
    const struct model_config *model;
    enum machine_type weights, activations; /* of matmuls */
    double kv_bytes;                        /* of one value in the cache */
    double tokens;                          /* rows of the die (queries) */
    double mean_tokens; /* of all ranks, where this die is the fullest; 0: all have as many */
    double kv_tokens;   /* keys that a query reads, on average */
    double requests;    /* that the rows belong to: keys are read once each (MTP rows share) */
    double cached;      /* MLA_UP: tokens beside the rows whose latents become keys and values */
    bool wide;          /* prefill's form of attention: heads expanded, nothing absorbed */
    bool bulk;          /* prefill's dispatch and combine: by engines, a token once a node */
    uint32_t ep;        /* ranks the experts are spread over */
    uint32_t
        shared_ranks;  /* of ep, those that hold nothing but the shared expert, which is then sent
                              tokens like any other; 0: every rank computes it for its own tokens */
    uint32_t experts;  /* held by the die, for GMM (groups); 0: from the model and ep */
    uint32_t inter;    /* DENSE: width; 0: the model's dense layers */
    uint32_t ranks;    /* ALL_GATHER, ALL_TO_ALL */
    double bytes;      /* of them, as collective_s takes it */
    const char *plane; /* of dispatch, combine; NULL: scale-up where it reaches, else the next */
    uint32_t heads;    /* of this die (tensor parallel prefill); 0: all */
    double imbalance;  /* hottest over mean load of a routed expert rank by the workload's skew,
                          1 and up; chance comes on top */
    bool even;         /* routing that was made up so that every rank gets its share */
    uint32_t m, n, k;  /* GMM by hand: rows a group, columns, depth; 0: from the model */
    bool explain;
};

/* p NULL: all of the die. */
void op_cost(struct op_cost *out, const struct machine *m, const struct op_place *p, enum op op,
             const struct op_shape *s);

double op_type_bytes(enum machine_type t); /* of one value */
/* What a chip computes a type in: itself, or the next that holds all of its values and has units. */
enum machine_type op_type_computed(const struct machine *m, enum machine_type t);
/* The largest imbalance there can be: a token sends a rank no more than a copy for each of its experts
 * that the rank holds. 1 without experts. */
double op_imbalance_max(const struct op_shape *s);

/* Rows that the busiest rank's experts compute when every rank sends `tokens`. */
double op_rows_hottest(const struct op_shape *s);

#endif

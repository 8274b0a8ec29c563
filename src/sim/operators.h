/* SPDX-License-Identifier: Apache-2.0 */
/* What each operator of a DeepSeek-class model costs on a die: an analytical roofline with at most
 * two constants an operator and chip (machine_operator), each a fixed time or a share of a peak inside
 * bounds that the table states. Every answer keeps the numbers it was made of, so that `sim op
 * --explain` prints the formula. docs/simulator.md says what each constant was calibrated on. */
#ifndef SUPERNODE_SIM_OPERATORS_H
#define SUPERNODE_SIM_OPERATORS_H

#include "model/config.h"
#include "sim/flow.h"

enum op {
    OP_EMBED,
    OP_MLA_PROLOG,     /* norm, q and kv down and up, absorbed k, rope, cache write */
    OP_ATTENTION,      /* absorbed, over latents: decode */
    OP_ATTENTION_WIDE, /* expanded heads: prefill */
    OP_O_PROJ,         /* absorbed v where the form has it, then o_proj */
    OP_GATE,
    OP_QUANTISE,
    OP_DISPATCH,
    OP_GMM, /* grouped matmul of experts, gate-up and down, with SwiGLU and requantising */
    OP_COMBINE,
    OP_DENSE, /* dense FFN, and shared expert where it is computed as one */
    OP_HEAD,
    OP_SAMPLE,
    OP_ALL_GATHER,
    OP_ALL_TO_ALL,
    OPS
};
extern const char *const op_names[OPS + 1]; /* "dispatch", ..., NULL */

/* The part of a die an operator has. */
struct op_place {
    double cubes, vectors, hbm; /* shares, 0 to 1 */
};

enum { OP_TERMS_MAX = 8 };

struct op_cost {
    double s;                                       /* what it takes */
    double compute_s, memory_s, network_s, fixed_s; /* what it is made of */
    double operations, hbm_bytes, network_bytes;
    char formula[512]; /* with its numbers; made only when asked for (op_shape.explain) */
};

/* What is computed on one die. Fields an operator does not use are ignored. */
struct op_shape {
    const struct model_config *model;
    enum machine_type weights, activations; /* of matmuls */
    double kv_bytes;                        /* of one value in the cache */
    double tokens;                          /* rows of the die (queries) */
    double kv_tokens;                       /* keys that a query reads, on average */
    double requests;  /* that the rows belong to: their keys are read once each (MTP rows share) */
    uint32_t ep;      /* ranks the experts are spread over */
    uint32_t experts; /* held by the die, for GMM (groups) */
    uint32_t heads;   /* of this die (tensor parallel prefill); 0: all */
    double imbalance; /* hottest over mean load of a routed expert rank, 1 and up */
    uint32_t m, n, k; /* GMM by hand: rows a group, columns, depth; 0: from the model */
    bool explain;
};

void op_cost(struct op_cost *out, const struct machine *m, const struct op_place *p, enum op op,
             const struct op_shape *s);

#endif

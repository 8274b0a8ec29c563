/* SPDX-License-Identifier: Apache-2.0 */
/* One step of the forward pass over a set of rows (contracts 3). A row is one token of one sequence
 * at an absolute position; rows of many sequences share a step and never change each other's bits.
 * The stages are public, so that a caller can enter between them: hand KV over layer by layer,
 * interleave two microbatches (two struct step), compute experts elsewhere. model_step is the
 * default loop in one process.
 *
 * A step is a workspace for one row set at a time. Not shared between threads; the stages use the
 * team it was made with. */
#ifndef SUPERNODE_MODEL_STEP_H
#define SUPERNODE_MODEL_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/team.h"
#include "model/kv.h"
#include "model/model.h"

/* What a token is decides the form of attention that computes it, and nothing else does (contracts
 * 2). */
enum token_role { ROLE_PROMPT /* expanded */, ROLE_GENERATED /* absorbed */ };

struct step_row {
    uint32_t token, pos, seq; /* seq: index into step_input.seqs */
    enum token_role role;
    bool logits; /* the main head's logits are wanted */
    bool draft;  /* the MTP head's logits are wanted: its guess at what follows this token */
};

struct step_seq {
    const uint32_t *pages; /* page of slots [128 b, 128 b + 128), for every row */
    uint32_t n_pages;
    /* Final-normed hidden state at the position before the sequence's first row here; needed where
     * the model has MTP and that row's pos > 0. */
    const float *hidden_before;
};

/* Rows of one sequence are neighbours, positions ascending by one. */
struct step_input {
    const struct step_row *rows;
    uint32_t n_rows;
    const struct step_seq *seqs;
    uint32_t n_seqs;
};

struct step;

struct step_limits {
    uint32_t rows_max;   /* rows a step may have */
    uint32_t logits_max; /* rows with logits, and rows with drafts */
};

enum st ST_CHECKED step_new(struct step **out, const struct model *m, const struct kv *kv,
                            struct team *team, struct step_limits limits, struct err *err);
void step_free(struct step *s); /* NULL is allowed */
/* Bytes step_new takes for a cache of n_pages. */
uint64_t step_bytes(const struct model_config *c, struct step_limits limits, uint32_t n_threads,
                    uint32_t n_pages);

/* All stages for one or two row sets, each begun with step_begin. */
void model_step(struct step *const *steps, uint32_t n_steps);

/* One begun step, as far as it comes: pauses after the tile that runs at until_ns (clock.h), at the
 * earliest after one. True: it is done. Other steps may run meanwhile, even with the same team; the
 * bits are those of a step that never paused. To give it up, begin another.
 * Of the pages' parts (their layers, then MTP's, then the hidden state) it reads and writes only the
 * first n_parts: earlier rows of the others may still be on their way. */
enum { STEP_ALL_PARTS = UINT32_MAX };
bool step_advance(struct step *s, uint64_t until_ns, uint32_t n_parts);
/* So many parts have this step's rows by now. */
uint32_t step_parts_done(const struct step *s);

/* --- stages, in order ------------------------------------------------------------------------- */

/* The input is borrowed until the last stage. */
void step_begin(struct step *s, const struct step_input *in);
void step_embed(struct step *s);
/* For each layer: */
void step_prolog(struct step *s, uint32_t layer); /* norm, projections, RoPE; writes the KV rows */
void step_attention(struct step *s, uint32_t layer); /* reads KV pages only */
void step_attn_out(struct step *s, uint32_t layer);  /* output projection, residual, norm */
void step_dense(struct step *s, uint32_t layer);     /* dense layers: FFN, residual */
void step_gate(struct step *s, uint32_t layer);      /* expert layers: these four */
void step_shared(struct step *s, uint32_t layer);
void step_experts(struct step *s, uint32_t layer, const uint32_t *routes, uint32_t n_routes);
void step_combine(struct step *s, uint32_t layer); /* needs the output of every route; residual */
/* After the last: */
void step_head(struct step *s); /* final norm, logits of the rows that want them */
void step_mtp(
    struct step
        *s); /* MTP rows of the cache, drafts of the rows that want them; nothing without MTP */

/* --- between the stages ----------------------------------------------------------------------- */

/* After step_gate: who goes where. Routes of a row are neighbours, expert ascending; n_rows * top_k
 * in all. */
struct step_route {
    uint32_t row, expert;
    float weight;
};
const struct step_route *step_routes(const struct step *s, uint32_t *n_routes);
/* A row's input to its experts [hidden], and where a route's output [hidden] goes: step_experts
 * writes it there, and so may whoever computes it elsewhere. */
const float *step_expert_in(const struct step *s, uint32_t row);
float *step_expert_out(struct step *s, uint32_t route);

/* After step_head: logits [vocab] of a row that asked for them; final-normed hidden [hidden] of any
 * row. */
const float *step_logits(const struct step *s, uint32_t row);
const float *step_hidden(const struct step *s, uint32_t row);
/* After step_mtp: logits [vocab] of a row with draft and pos > 0. */
const float *step_draft_logits(const struct step *s, uint32_t row);
/* And the block's normed output [hidden]: hidden_before of a further draft. step_mtp may follow
 * step_begin alone, for rows that each have a sequence of their own. */
const float *step_draft_hidden(const struct step *s, uint32_t row);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a step, shared by the files of its stages: step.c (memory, the default loop),
 * step_attn.c, step_ffn.c, step_head.c. Active rows are all rows of the input, except in the MTP
 * block, where row sets shrink. */
#ifndef SUPERNODE_MODEL_STEP_IMPL_H
#define SUPERNODE_MODEL_STEP_IMPL_H

#include "model/step.h"

/* Output rows of one matmul tile: 64 BF16 rows of R1 are 0.9 MB, a good stretch for the
 * prefetchers, and enough tiles in the smallest projection for two threads. */
enum { TILE_ROWS = 64 };

static inline uint32_t step_tiles(uint32_t rows) {
    return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

struct active_row {
    uint32_t input; /* index into in->rows */
    uint32_t slot;  /* where its KV row lies */
    uint32_t seq;
    enum token_role role;
};

struct step {
    const struct model *m;
    const struct kv *kv;
    struct team *team;
    struct step_limits limits;
    const struct step_input *in;
    uint32_t n; /* active rows */
    struct active_row *act;
    uint32_t *slots;          /* [n] act[i].slot, as attention wants them */
    uint32_t first_slot;      /* 0; 1 in the MTP block */
    float *cos, *sin;         /* [n, rope / 2] */
    float *x;                 /* [n, hidden] residual stream */
    float *xn;                /* [n, hidden] normed input of a sub-layer */
    float *qa;                /* [n, q_lora] */
    float *q;                 /* [n, heads, nope + rope] */
    float *kva;               /* [n, kv_lora + rope] */
    float *att;               /* [n, heads, v_dim] */
    float *att_max, *att_sum; /* [heads, n] softmax of prompt rows, between ranges of keys */
    float *proj;   /* [n, hidden] output of a projection, before it joins the residual stream */
    float *hidden; /* [n, hidden] final-normed */
    float *h;      /* [n, max(dense_inter, shared inter)] */
    float *mtp_in; /* [n, 2 hidden]; if n_mtp */
    float *router; /* [n, n_experts] */
    struct step_route *routes;
    uint32_t n_routes;
    uint32_t *all_routes;           /* 0 .. n_routes - 1 */
    uint32_t *by_expert;            /* routes grouped by expert */
    uint32_t *expert_end;           /* [n_experts] end of each group in by_expert */
    float *expert_x;                /* [n_routes, hidden] in the order of by_expert */
    float *expert_h;                /* [n_routes, moe_inter] */
    float *expert_y;                /* [n_routes, hidden] by route */
    float *logits, *drafts;         /* [logits_max, vocab] */
    uint32_t *logits_of, *draft_of; /* [rows_max] input row -> row of logits; UINT32_MAX: none */
    uint8_t *scratch;               /* [threads][scratch_bytes] */
    size_t scratch_bytes, tile_at,
        blocks_at; /* in one thread's scratch: dot workspace, tiles, block pointers */
    /* Where step_advance stands: the stage, its runs of the team that are done, tiles of the next
     * one. A stage is entered again from its beginning and skips what is done. */
    uint32_t phase, runs_done, tiles_done;
    uint32_t run;      /* of the stage, as it is being walked through */
    uint64_t until_ns; /* UINT64_MAX: no pause */
    bool paused;
    void *memory;
    size_t memory_bytes;
};

/* A thread's scratch: the kernels' workspace first, then two tiles of [rows_max, TILE_ROWS] floats;
 * attention uses all of it up to the block pointers. */
static inline void *scratch_ws(const struct step *s, uint32_t thread) {
    return s->scratch + thread * s->scratch_bytes;
}
static inline float *scratch_tile(const struct step *s, uint32_t thread) {
    return (float *)(void *)(s->scratch + thread * s->scratch_bytes + s->tile_at);
}
static inline const void **scratch_blocks(const struct step *s, uint32_t thread) {
    return (const void **)(void *)(s->scratch + thread * s->scratch_bytes + s->blocks_at);
}

/* All work of a stage goes through here: fn for tiles [0, n_tiles), each once, however often the
 * step pauses. What a stage does beside it must come out the same when it is done again. */
void step_run(struct step *s, team_fn *fn, void *ctx, uint32_t n_tiles);

/* out[t, :] = x[t, :] w^T for n_tok rows. */
struct matmul {
    float *out;
    size_t out_stride;
    const float *x;
    size_t x_stride;
    const struct ops_weight *w;
};
/* Up to MATMULS_MAX of them over the same number of rows, as tiles of one run of the team. */
enum { MATMULS_MAX = 2 };
void step_matmuls(struct step *s, const struct matmul *jobs, uint32_t n_jobs, uint32_t n_tok);

/* h[t, :] = swiglu(gate(x), up(x)), then out[t, :] = down(h), for the active rows. */
void step_ffn(struct step *s, float *out, const float *x, const struct model_ffn *ffn);

/* fn(s, row, arg) for rows [0, n) by the team, a few rows a tile. */
typedef void step_row_fn(struct step *s, uint32_t row, const void *arg);
void step_each_row(struct step *s, uint32_t n, step_row_fn *fn, const void *arg);

/* Makes the rows of the input for which keep() holds the active ones, with slots and angles; the
 * rotary position is slot - first_slot. */
void step_activate(struct step *s, uint32_t first_slot, bool (*keep)(const struct step_row *row));

/* The KV half of the prolog alone: norm, kv_a, RoPE, write. */
void step_prolog_kv(struct step *s, uint32_t layer);
/* One block after its input stands in x: what model_step does for one layer. */
void step_layer(struct step *s, uint32_t layer);

#endif

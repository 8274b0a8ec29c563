/* SPDX-License-Identifier: Apache-2.0 */
/* Attention stages (DeepSeek-V2 paper 2.1; HF DeepseekV3Attention). The prolog makes queries and
 * writes this step's KV rows; attention then reads pages only, so a chunk sees the same rounded
 * rows as a cache hit would. Work is cut by heads: each tile is one head of a prompt run, or a
 * group of heads of one generated token. */
#include <assert.h>

#include "model/step_impl.h"

/* Heads of one generated token that share the reading of its latents, at most. */
enum { HEADS_A_TILE = 16 };
/* Rows times blocks of keys that a head of a prompt run goes over in one tile: the longest tile of a
 * chunk, which a piece may end late by, does not grow with the context, and with the rows only where they are many. */
enum { ROW_BLOCKS_A_TILE = 1024, BLOCKS_A_TILE_MAX = 8 };

static const float lora_norm_eps =
    1e-6f; /* q_a and kv_a norms: the module's default, not the config's */

static void attn_norm_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    const struct model_config *c = &s->m->config;
    s->m->k->rms_norm(s->xn + (size_t)row * c->hidden, s->x + (size_t)row * c->hidden, l->attn_norm,
                      c->hidden, c->eps);
}

static void q_norm_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    uint32_t n = s->m->config.q_lora;
    float *qa = s->qa + (size_t)row * n;
    s->m->k->rms_norm(qa, qa, l->q_a_norm, n, lora_norm_eps);
}

/* Norms the latent, rotates k_pe, and writes the row to its page. */
static void kv_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    const struct model_config *c = &s->m->config;
    const struct active_row *a = &s->act[row];
    float *kv = s->kva + (size_t)row * config_kv_row(c);
    uint32_t pairs = c->rope / 2;
    s->m->k->rms_norm(kv, kv, l->kv_a_norm, c->kv_lora, lora_norm_eps);
    ops_rope(kv + c->kv_lora, s->cos + (size_t)row * pairs, s->sin + (size_t)row * pairs, pairs,
             c->rope_pairs);
    uint32_t page = s->in->seqs[a->seq].pages[a->slot / KV_PAGE_TOKENS];
    kv_write(s->kv, (uint32_t)(l - s->m->layers), page, a->slot % KV_PAGE_TOKENS, kv);
}

static void rotate_q_row(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    const struct model_config *c = &s->m->config;
    uint32_t pairs = c->rope / 2, width = c->nope + c->rope;
    float *q = s->q + (size_t)row * c->n_heads * width;
    for (uint32_t head = 0; head < c->n_heads; head++)
        ops_rope(q + (size_t)head * width + c->nope, s->cos + (size_t)row * pairs,
                 s->sin + (size_t)row * pairs, pairs, c->rope_pairs);
}

void step_prolog_kv(struct step *s, uint32_t layer) {
    const struct model_layer *l = &s->m->layers[layer];
    const struct model_config *c = &s->m->config;
    struct matmul kv = {s->kva, config_kv_row(c), s->xn, c->hidden, &l->kv_a};
    step_each_row(s, s->n, attn_norm_row, l);
    step_matmuls(s, &kv, 1, s->n);
    step_each_row(s, s->n, kv_row, l);
}

void step_prolog(struct step *s, uint32_t layer) {
    const struct model_layer *l = &s->m->layers[layer];
    const struct model_config *c = &s->m->config;
    size_t q_width = (size_t)c->n_heads * (c->nope + c->rope);
    bool low_rank = c->q_lora > 0;
    struct matmul first[2] = {
        {low_rank ? s->qa : s->q, low_rank ? c->q_lora : q_width, s->xn, c->hidden,
         low_rank ? &l->q_a : &l->q},
        {s->kva, config_kv_row(c), s->xn, c->hidden, &l->kv_a},
    };
    step_each_row(s, s->n, attn_norm_row, l);
    step_matmuls(s, first, 2, s->n);
    step_each_row(s, s->n, kv_row, l);
    if (low_rank) {
        struct matmul second = {s->q, q_width, s->qa, c->q_lora, &l->q};
        step_each_row(s, s->n, q_norm_row, l);
        step_matmuls(s, &second, 1, s->n);
    }
    step_each_row(s, s->n, rotate_q_row, NULL);
}

/* --- attention -------------------------------------------------------------------------------- */

struct attention_run {
    struct step *s;
    const struct model_layer *l;
    uint32_t layer, row0, n_rows;  /* expanded: of one sequence */
    uint32_t heads_a_tile;         /* absorbed */
    const uint32_t *slots;         /* expanded: [n_rows] */
    struct ops_block_range blocks; /* expanded */
};

/* The cache as row `row` of the step, the last that looks at it, sees it. */
static struct ops_kv_view kv_view(const struct attention_run *r, uint32_t row, uint32_t thread) {
    const struct step *s = r->s;
    const struct active_row *last = &s->act[row];
    const struct step_seq *seq = &s->in->seqs[last->seq];
    const void **blocks = scratch_blocks(s, thread);
    uint32_t n = last->slot / KV_PAGE_TOKENS + 1;
    for (uint32_t b = 0; b < n; b++) blocks[b] = kv_page(s->kv, r->layer, seq->pages[b]);
    return (struct ops_kv_view){.dtype = s->kv->dtype,
                                .row_bytes = s->kv->row_bytes,
                                .blocks = blocks,
                                .n_blocks = n,
                                .first_slot = s->first_slot};
}

static void expanded_tile(void *ctx, uint32_t head, uint32_t thread) {
    const struct attention_run *r = ctx;
    const struct step *s = r->s;
    const struct model_config *c = &s->m->config;
    size_t q_stride = (size_t)c->n_heads * (c->nope + c->rope),
           o_stride = (size_t)c->n_heads * c->v_dim;
    struct ops_kv_view kv = kv_view(r, r->row0 + r->n_rows - 1, thread);
    size_t state = (size_t)head * s->n + r->row0;
    ops_mla_expanded(s->m->k, s->att + r->row0 * o_stride + (size_t)head * c->v_dim, o_stride,
                     s->q + r->row0 * q_stride + (size_t)head * (c->nope + c->rope), q_stride,
                     r->slots, r->n_rows, &kv, &r->l->kv_b, head, &s->m->mla, r->blocks,
                     s->att_max + state, s->att_sum + state, scratch_ws(s, thread));
}

static void absorbed_tile(void *ctx, uint32_t tile, uint32_t thread) {
    const struct attention_run *r = ctx;
    const struct step *s = r->s;
    const struct model_config *c = &s->m->config;
    size_t width = c->nope + c->rope;
    uint32_t tiles_a_row = (c->n_heads + r->heads_a_tile - 1) / r->heads_a_tile;
    uint32_t row = r->row0 + tile / tiles_a_row, head0 = tile % tiles_a_row * r->heads_a_tile,
             left = c->n_heads - head0;
    struct ops_kv_view kv = kv_view(r, row, thread);
    ops_mla_absorbed(s->m->k, s->att + ((size_t)row * c->n_heads + head0) * c->v_dim, c->v_dim,
                     s->q + ((size_t)row * c->n_heads + head0) * width, width, s->act[row].slot,
                     &kv, &r->l->kv_b, head0, left < r->heads_a_tile ? left : r->heads_a_tile,
                     &s->m->mla, scratch_ws(s, thread));
}

/* Rows [row0, end) of generated tokens, of any sequences. */
static uint32_t generated_end(const struct step *s, uint32_t row0) {
    uint32_t end = row0;
    while (end < s->n && s->act[end].role == ROLE_GENERATED) end++;
    return end;
}

/* Rows [row0, end) that one expanded call can take: prompt tokens of one sequence. */
static uint32_t prompt_run_end(const struct step *s, uint32_t row0) {
    uint32_t end = row0;
    while (end < s->n && s->act[end].seq == s->act[row0].seq && s->act[end].role == ROLE_PROMPT)
        end++;
    return end;
}

/* How many heads a tile of generated tokens [row0, end) has: so few that the longest has no more to do
 * than a thread's share of all, rounded up to a head, as one thread alone would be long over a long
 * context; and about as many in each tile of a token. */
static uint32_t heads_a_tile(const struct step *s, uint32_t row0, uint32_t end) {
    uint64_t all = 0, longest = 0, heads = s->m->config.n_heads;
    for (uint32_t row = row0; row < end; row++) {
        uint64_t keys = s->act[row].slot + 1;
        all += keys;
        if (keys > longest) longest = keys;
    }
    uint64_t most = longest * team_size(s->team), share = (all * heads + most - 1) / most;
    if (share > HEADS_A_TILE) share = HEADS_A_TILE;
    uint64_t tiles = (heads + share - 1) / share;
    return (uint32_t)((heads + tiles - 1) / tiles);
}

static uint32_t blocks_a_tile(uint32_t n_rows) {
    uint32_t n = ROW_BLOCKS_A_TILE / n_rows;
    return n < 1 ? 1 : n < BLOCKS_A_TILE_MAX ? n : BLOCKS_A_TILE_MAX;
}

void step_attention(struct step *s, uint32_t layer) {
    const struct model_config *c = &s->m->config;
    struct attention_run run = {.s = s, .l = &s->m->layers[layer], .layer = layer};
    for (uint32_t row = 0; row < s->n;) {
        run.row0 = row;
        if (s->act[row].role == ROLE_GENERATED) {
            run.n_rows = generated_end(s, row) - row;
            run.heads_a_tile = heads_a_tile(s, row, row + run.n_rows);
            step_run(s, absorbed_tile, &run,
                     run.n_rows * ((c->n_heads + run.heads_a_tile - 1) / run.heads_a_tile));
        } else {
            run.n_rows = prompt_run_end(s, row) - row;
            run.slots = s->slots + row;
            uint32_t n_blocks = run.slots[run.n_rows - 1] / KV_PAGE_TOKENS + 1;
            uint32_t each = blocks_a_tile(run.n_rows);
            for (uint32_t b = 0; b < n_blocks; b += each) {
                run.blocks = (struct ops_block_range){b, b + each};
                step_run(s, expanded_tile, &run, c->n_heads);
            }
        }
        row += run.n_rows;
    }
}

static void attn_residual_row(struct step *s, uint32_t row, const void *arg) {
    const struct model_layer *l = arg;
    const struct model_config *c = &s->m->config;
    float *x = s->x + (size_t)row * c->hidden;
    const float *o = s->proj + (size_t)row * c->hidden;
    for (uint32_t i = 0; i < c->hidden; i++) x[i] += o[i];
    s->m->k->rms_norm(s->xn + (size_t)row * c->hidden, x, l->ffn_norm, c->hidden, c->eps);
}

void step_attn_out(struct step *s, uint32_t layer) {
    const struct model_layer *l = &s->m->layers[layer];
    const struct model_config *c = &s->m->config;
    struct matmul o = {s->proj, c->hidden, s->att, (size_t)c->n_heads * c->v_dim, &l->o};
    step_matmuls(s, &o, 1, s->n);
    step_each_row(s, s->n, attn_residual_row, l);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The last stages: final norm and logits, and the multi-token-prediction block (DeepSeek-V3
 * report 2.2). The MTP row of a token at slot i + 1 is made of the final-normed hidden state of
 * position i and the token's embedding, embedding first, at rotary position i; it attends MTP rows
 * of slots 1 .. i + 1. Every token gets its MTP row in the cache, since a later draft reads it; the
 * rest of the block runs only for rows that want a draft. */
#include <assert.h>
#include <string.h>

#include "model/step_impl.h"

static void hidden_row(struct step *s, uint32_t row, const void *arg) {
    const float *norm = arg;
    const struct model_config *c = &s->m->config;
    const struct active_row *a = &s->act[row];
    float *h = s->hidden + (size_t)row * c->hidden;
    s->m->k->rms_norm(h, s->x + (size_t)row * c->hidden, norm, c->hidden, c->eps);
    if (s->kv->hidden && a->slot % KV_PAGE_TOKENS == KV_PAGE_TOKENS - 1)
        memcpy(kv_hidden(s->kv, s->in->seqs[a->seq].pages[a->slot / KV_PAGE_TOKENS]), h,
               c->hidden * sizeof *h);
}

/* Logits of n rows whose inputs stand in x [n, hidden]. */
static void head_matmul(struct step *s, float *out, const float *x, const struct ops_weight *head,
                        uint32_t n) {
    const struct model_config *c = &s->m->config;
    struct matmul job = {out, c->vocab, x, c->hidden, head};
    step_matmuls(s, &job, 1, n);
}

void step_head(struct step *s) {
    uint32_t hidden = s->m->config.hidden, n = 0;
    assert(s->n == s->in->n_rows);
    step_each_row(s, s->n, hidden_row, s->m->final_norm);
    for (uint32_t i = 0; i < s->n; i++) {
        s->logits_of[i] = UINT32_MAX;
        if (!s->in->rows[i].logits) continue;
        memcpy(s->xn + (size_t)n * hidden, s->hidden + (size_t)i * hidden, hidden * sizeof(float));
        s->logits_of[i] = n++;
    }
    head_matmul(s, s->logits, s->xn, &s->m->head, n);
}

const float *step_hidden(const struct step *s, uint32_t row) {
    return s->hidden + (size_t)row * s->m->config.hidden;
}

const float *step_logits(const struct step *s, uint32_t row) {
    assert(s->logits_of[row] != UINT32_MAX);
    return s->logits + (size_t)s->logits_of[row] * s->m->config.vocab;
}

/* --- MTP -------------------------------------------------------------------------------------- */

static const float *hidden_before(const struct step *s, uint32_t input) {
    const struct step_row *r = &s->in->rows[input];
    if (input > 0 && s->in->rows[input - 1].seq == r->seq) return step_hidden(s, input - 1);
    assert(s->in->seqs[r->seq].hidden_before);
    return s->in->seqs[r->seq].hidden_before;
}

static void mtp_input_row(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    const struct model_mtp *mtp = &s->m->mtp;
    const struct model_config *c = &s->m->config;
    uint32_t input = s->act[row].input;
    float *in = s->mtp_in + (size_t)row * 2 * c->hidden;
    ops_weight_row(in, &mtp->embed, s->in->rows[input].token, 0, c->hidden);
    s->m->k->rms_norm(in, in, mtp->enorm, c->hidden, c->eps);
    s->m->k->rms_norm(in + c->hidden, hidden_before(s, input), mtp->hnorm, c->hidden, c->eps);
}

static void mtp_input(struct step *s) {
    uint32_t hidden = s->m->config.hidden;
    struct matmul proj = {s->x, hidden, s->mtp_in, (size_t)2 * hidden, &s->m->mtp.proj};
    step_each_row(s, s->n, mtp_input_row, NULL);
    step_matmuls(s, &proj, 1, s->n);
}

static void mtp_norm_row(struct step *s, uint32_t row, const void *arg) {
    (void)arg;
    const struct model_config *c = &s->m->config;
    s->m->k->rms_norm(s->xn + (size_t)row * c->hidden, s->x + (size_t)row * c->hidden,
                      s->m->mtp.norm, c->hidden, c->eps);
}

static bool has_mtp_row(const struct step_row *row) {
    return row->pos > 0;
}
static bool wants_draft(const struct step_row *row) {
    return row->pos > 0 && row->draft;
}

void step_mtp(struct step *s) {
    const struct model_config *c = &s->m->config;
    for (uint32_t i = 0; i < s->in->n_rows; i++) s->draft_of[i] = UINT32_MAX;
    if (c->n_mtp == 0) return;
    step_activate(s, 1, has_mtp_row);
    mtp_input(s);
    step_prolog_kv(s, c->n_layers);

    step_activate(s, 1, wants_draft);
    if (s->n == 0) return;
    assert(s->n <= s->limits.logits_max);
    for (uint32_t i = 0; i < s->n; i++) s->draft_of[s->act[i].input] = i;
    mtp_input(s);
    step_layer(s, c->n_layers);
    step_each_row(s, s->n, mtp_norm_row, NULL);
    head_matmul(s, s->drafts, s->xn, &s->m->mtp.head, s->n);
}

const float *step_draft_logits(const struct step *s, uint32_t row) {
    assert(s->draft_of[row] != UINT32_MAX);
    return s->drafts + (size_t)s->draft_of[row] * s->m->config.vocab;
}

const float *step_draft_hidden(const struct step *s, uint32_t row) {
    assert(s->draft_of[row] != UINT32_MAX);
    return s->xn + (size_t)s->draft_of[row] * s->m->config.hidden;
}

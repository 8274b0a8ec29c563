/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling as contracts 7 has it: one draw depends on the logits, the parameters, the tokens so
 * far, the seed and the position, and on nothing else, so it survives preemption, speculation and a
 * move to another process. */
#ifndef SUPERNODE_OPS_SAMPLE_H
#define SUPERNODE_OPS_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct ops_logit_bias {
    uint32_t id;
    float bias;
};

struct ops_sample_params {
    float temperature;                         /* under 1e-5: argmax, lowest id, no draw */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    uint32_t top_k;                            /* 0: off */
    float repetition_penalty;                  /* 1: off; request and output */
    float frequency_penalty, presence_penalty; /* 0: off; output only */
    const struct ops_logit_bias *bias;
    uint32_t n_bias;
    const uint32_t *masked; /* ids that must not come (EOS and stop ids below min_tokens) */
    uint32_t n_masked;
};

/* Draws the token at `position` of `choice`.
 *   logits [vocab] raw, unchanged; work: room for vocab of struct ops_sample_work
 *   prompt, output: ids so far, for the penalties only
 * Returns an id < vocab. If everything is masked or NaN: the lowest id among the largest. */
struct ops_sample_work {
    float logit;
    uint32_t id;
};
uint32_t ops_sample(const float *logits, uint32_t vocab, const struct ops_sample_params *p,
                    const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output,
                    uint32_t n_output, int64_t seed, uint32_t position, uint32_t choice,
                    struct ops_sample_work *work);

/* Natural-log probabilities of the raw logits: log-sum-exp of all (sum in float64 by ascending id).
 */
float ops_logsumexp(const float *logits, uint32_t vocab);

/* ids[n], logits descending, ties by ascending id; n <= vocab. */
void ops_top_n(uint32_t *ids, uint32_t n, const float *logits, uint32_t vocab,
               struct ops_sample_work *work);

/* Philox4x32-10 (Salmon et al. 2011, Random123): out = bijection of counter under key. */
void ops_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker says about a request: one message a token (contracts 6). The front accepts only the
 * current attempt and the next position of a choice. */
#ifndef SUPERNODE_ENGINE_TOKEN_H
#define SUPERNODE_ENGINE_TOKEN_H

#include "engine/request.h"

struct token_logprob {
    uint32_t id;
    float logprob;
};

/* position: in the whole sequence. From n_prompt on: a generated token; with finish STOP it is an
 * EOS or stop id, and not part of the text. Below n_prompt: that prompt token's logprob (choice 0,
 * where prompt_logprobs was asked for; position 0 has none and does not come); all of them come
 * before the first generated token. */
struct token_out {
    uint32_t attempt, choice, position;
    uint32_t id;
    float logprob;                   /* of the raw logits; 0 unless asked for */
    const struct token_logprob *top; /* [n_top], likeliest first; borrowed */
    uint32_t n_top;
    uint32_t n_cached; /* prompt tokens found in the prefix cache */
    enum finish_reason finish;
};

#endif

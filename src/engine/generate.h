/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one request at a time to its end: prompt chunks, then a token a step. Continuous batching
 * takes its place later; the record it works from and the tokens it hands out stay. */
#ifndef SUPERNODE_ENGINE_GENERATE_H
#define SUPERNODE_ENGINE_GENERATE_H

#include <stdatomic.h>

#include "engine/instance.h"
#include "engine/request.h"

struct generator;

/* Borrows the instance; one generator an instance. */
enum st ST_CHECKED generator_new(struct generator **out, struct instance *in, struct err *err);
void generator_free(struct generator *g); /* NULL is allowed */

struct token_logprob {
    uint32_t id;
    float logprob;
};

/* One generated token. With finish STOP the token is an EOS or stop id, and not part of the text.
 */
struct token_out {
    uint32_t attempt, choice, position; /* position in the whole sequence */
    uint32_t id;
    float logprob;                   /* of the raw logits; 0 unless asked for */
    const struct token_logprob *top; /* [n_top], likeliest first */
    uint32_t n_top;
    enum finish_reason finish;
};

/* Called for each token on the thread that runs the generator. False: the front has what it wants
 * (stop string, client gone). */
typedef bool generate_fn(void *ctx, const struct token_out *token);

/* Computes r->choice from where it stands to its end; r->choice.finish says how it ended. cancel
 * (may be NULL) is looked at before every step. ST_INVALID: the prompt is empty, too long, or has
 * ids outside the vocabulary. ST_TIMEOUT: time_left_ms ran out. */
enum st ST_CHECKED generate_run(struct generator *g, struct request *r, const atomic_bool *cancel,
                                generate_fn *fn, void *ctx, struct err *err);

#endif

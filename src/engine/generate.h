/* SPDX-License-Identifier: Apache-2.0 */
/* Runs one request at a time to its end: prompt chunks, then a token a step. Continuous batching
 * takes its place later; the record it works from and the tokens it hands out stay. */
#ifndef SUPERNODE_ENGINE_GENERATE_H
#define SUPERNODE_ENGINE_GENERATE_H

#include <stdatomic.h>

#include "engine/instance.h"
#include "engine/token.h"

struct generator;

/* Borrows the instance; one generator an instance. */
enum st ST_CHECKED generator_new(struct generator **out, struct instance *in, struct err *err);
void generator_free(struct generator *g); /* NULL is allowed */

/* Called for each token on the thread that runs the generator. False: the front has what it wants
 * (stop string, client gone). */
typedef bool generate_fn(void *ctx, const struct token_out *token);

/* Computes r->choices[0] from where it stands to its end; its finish says how it ended. cancel
 * (may be NULL) is looked at before every step. ST_INVALID: the prompt is empty, too long, or has
 * ids outside the vocabulary. ST_TIMEOUT: time_left_ms ran out. */
enum st ST_CHECKED generate_run(struct generator *g, struct request *r, const atomic_bool *cancel,
                                generate_fn *fn, void *ctx, struct err *err);

#endif

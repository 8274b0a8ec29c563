/* SPDX-License-Identifier: Apache-2.0 */
/* The front's knowledge of the model's text: tokenizer, chat template, sampling defaults and
 * limits, and the way from a request body to the record a worker computes from (contracts 6).
 * Read-only after front_open: any thread may prepare. */
#ifndef SUPERNODE_SERVE_FRONT_H
#define SUPERNODE_SERVE_FRONT_H

#include "engine/instance.h"
#include "serve/api_request.h"
#include "serve/job.h"
#include "text/chat_load.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

struct front {
    const char *model; /* the served name; borrowed */
    enum prompt_trust trust;
    struct tokenizer *tok;
    struct chat_model *chat; /* NULL: the checkpoint has no template */
    struct generation_config defaults;
    uint32_t stop_ids[CONFIG_EOS_MAX]; /* EOS */
    uint32_t n_stop_ids;
    uint32_t vocab, max_model_len;
    uint32_t time_left_ms;    /* of a request in the engine; 0: no limit */
    uint32_t token_bytes_max; /* the longest token's */
    char model_id[CKPT_ID_BYTES];
    char fingerprint[20]; /* "fp_" and the first digits of model_id */
};

struct front_options { /* whoever computes has the weights: the front only needs their names */
    const struct ckpt *ckpt;
    const char *model_id, *served_name; /* served_name: borrowed until front_close */
    uint32_t max_model_len, time_left_ms;
    enum prompt_trust trust;
};

/* Opens tokenizer and template of the checkpoint. On failure nothing is held. */
enum st ST_CHECKED front_open(struct front *f, const struct front_options *o, struct err *err);
void front_close(struct front *f);

/* The body becomes j->api, j->id and j->records, or for /tokenize and /detokenize j->whole; the
 * body's memory is given back. False: *e says
 * why. Takes as long as parsing, the template and the tokenizer take. */
bool front_prepare(const struct front *f, struct job *j, struct api_error *e);

#endif

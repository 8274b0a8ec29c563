/* SPDX-License-Identifier: Apache-2.0 */
/* The body of /v1/chat/completions and /v1/completions, read and checked field by field: everything
 * that can be said about it without a tokenizer. What is wrong gets OpenAI's error object with the
 * field's name; what is unknown is ignored and named. */
#ifndef SUPERNODE_SERVE_API_REQUEST_H
#define SUPERNODE_SERVE_API_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "engine/request.h"
#include "model/config_json.h"
#include "serve/api_error.h"
#include "text/output.h"

enum api_kind { API_CHAT, API_COMPLETION, API_TOKENIZE, API_DETOKENIZE };

enum {
    API_STOP_IDS_MAX =
        REQUEST_STOP_IDS_MAX - CONFIG_EOS_MAX, /* of the client; EOS ids come beside them */
    API_COMPLETION_TOKENS = 16,                /* OpenAI's default */
};

/* What a body is checked against and takes its defaults from. Borrowed. */
struct api_context {
    const char *model; /* the served name */
    const struct generation_config *defaults;
    uint32_t vocab;
};

struct api_request {
    enum api_kind kind;
    json_t *body; /* owned; whatever is borrowed below points into it */

    json_t *messages, *tools,
        *template_kwargs; /* chat: borrowed; tools and template_kwargs may be NULL */
    bool add_generation_prompt;

    const char *prompt; /* completions: text, borrowed, or NULL: prompt_ids */
    size_t prompt_len;
    uint32_t *prompt_ids; /* owned */
    uint32_t n_prompt_ids;

    struct ops_sample_params sampling; /* masked is not set */
    struct ops_logit_bias *bias;       /* owned; sampling.bias points to it */
    bool seed_given;
    int64_t seed;
    const char *stops[TEXT_STOPS_MAX]; /* borrowed */
    uint32_t n_stops;
    uint32_t stop_ids[API_STOP_IDS_MAX];
    uint32_t n_stop_ids;
    bool ignore_eos;
    uint32_t max_tokens;         /* 0: not given */
    const char *max_tokens_name; /* which field said so */
    uint32_t min_tokens;
    int32_t logprobs; /* as in struct request */
    bool skip_special;

    bool stream, include_usage;
    char unknown[200]; /* names of ignored fields, ", " between; "" when there are none */
};

/* False: *e says why, and nothing is held. Any thread. */
bool api_request_parse(struct api_request *out, enum api_kind kind, const char *text, size_t len,
                       const struct api_context *ctx, struct api_error *e);
/* Frees the parsed body but for the stop strings, once the record is made: a body of 32 MiB may
 * take 20 times that. */
void api_request_drop_body(struct api_request *r);
void api_request_release(struct api_request *r);

#endif

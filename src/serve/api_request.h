/* SPDX-License-Identifier: Apache-2.0 */
/* The body of /v1/chat/completions, /v1/completions, /tokenize and /detokenize, read and checked
 * field by field: everything that can be said about it without a tokenizer. What is wrong gets
 * OpenAI's error object with the field's name; what is unknown is ignored and named. */
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
    API_ROLE_BYTES = 64,
};

/* One prompt of a completion: text (borrowed from the body), or ids. */
struct api_prompt {
    const char *text; /* NULL: ids */
    size_t len;
    uint32_t *ids; /* owned */
    uint32_t n_ids;
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

    /* Chat: borrowed; all but messages may be NULL. echo_text is the last message's content where
     * the answer goes on with its role and repeats it. */
    json_t *messages, *tools, *template_kwargs, *echo_text;
    bool add_generation_prompt, continue_final;
    char role[API_ROLE_BYTES]; /* of the answer */

    struct api_prompt
        *prompts; /* completions, tokenize: owned, [n_prompts]; detokenize: one, ids */
    uint32_t n_prompts;
    bool add_special; /* BOS where the tokenizer would add it */
    bool token_strs;  /* tokenize: wanted */

    uint32_t n, best_of; /* choices a prompt: answered, generated */
    char salt[REQUEST_ID_BYTES];
    int32_t priority;

    struct ops_sample_params sampling; /* masked is not set */
    struct ops_logit_bias *bias;       /* owned; sampling.bias points to it */
    bool seed_given;
    int64_t seed;
    const char *stops[TEXT_STOPS_MAX]; /* borrowed */
    uint32_t n_stops;
    uint32_t stop_ids[API_STOP_IDS_MAX];
    uint32_t n_stop_ids;
    bool ignore_eos;
    uint32_t n_eos; /* so many of the record's stop ids are the model's own; set by the front */
    uint32_t max_tokens;         /* 0: not given */
    const char *max_tokens_name; /* which field said so */
    uint32_t min_tokens;
    int32_t logprobs, prompt_logprobs; /* as in struct request, but those that are shown */
    bool skip_special, include_stop;
    bool echo;
    bool echo_only; /* max_tokens 0: one token is asked for, and dropped */
    bool return_ids;

    bool stream, include_usage, continuous_usage;
    char unknown[200]; /* names of ignored fields, ", " between; "" when there are none */
};

/* False: *e says why, and nothing is held. Any thread. */
bool api_request_parse(struct api_request *out, enum api_kind kind, const char *text, size_t len,
                       const struct api_context *ctx, struct api_error *e);
/* Frees the parsed body but for the stop strings and what is echoed, once the records are made: a
 * body of 32 MiB may take 20 times that. Prompt ids go too. */
void api_request_drop_body(struct api_request *r);
void api_request_release(struct api_request *r);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The request record (contracts 6): everything from which any process can begin a request or go on
 * with it. The front makes it (text, templates and stop strings stay there); a worker computes
 * token ids from it. All memory is the owner's. */
#ifndef SUPERNODE_ENGINE_REQUEST_H
#define SUPERNODE_ENGINE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "model/step.h"
#include "ops/sample.h"

enum {
    REQUEST_VERSION = 1,
    REQUEST_ID_BYTES = 64,
    REQUEST_MODEL_ID_BYTES = 65, /* as ckpt_model_id writes it */
    REQUEST_LOGPROBS_MAX = 20,   /* alternatives a token */
    REQUEST_STOP_IDS_MAX = 64,
    REQUEST_CHOICES_MAX = 128,
};

enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED };

/* A run of prompt tokens of one role. */
struct role_run {
    uint32_t len;
    enum token_role role;
};

struct request_choice {
    uint32_t *ids; /* generated so far, room for max_tokens */
    uint32_t n_ids;
    uint32_t n_delivered; /* of them, given to the client */
    enum finish_reason finish;
};

struct request {
    uint32_t version;
    char id[REQUEST_ID_BYTES];
    uint32_t attempt;
    char model_id[REQUEST_MODEL_ID_BYTES]; /* who may compute it */
    char tenant[REQUEST_ID_BYTES], salt[REQUEST_ID_BYTES];
    uint32_t *prompt;
    uint32_t n_prompt;
    struct role_run *roles; /* sum of len is n_prompt */
    uint32_t n_roles;
    struct ops_sample_params sampling; /* its mask is the worker's; bias is owned by the record */
    int64_t seed;                      /* resolved: drawn at admission when the client gave none */
    uint32_t stop_ids[REQUEST_STOP_IDS_MAX]; /* EOS ids included unless ignore_eos */
    uint32_t n_stop_ids;
    uint32_t max_tokens, min_tokens;
    int32_t logprobs;        /* alternatives a token; 0: the chosen token's alone; -1: none */
    int32_t prompt_logprobs; /* the same for the prompt's tokens; then no prefix is looked up */
    int32_t priority;        /* lower goes first */
    uint32_t time_left_ms;   /* 0: no limit */
    struct request_choice *choices; /* [n_choices]; they share the prompt */
    uint32_t n_choices;
};

/* A choice's sequence: the prompt, then what it generated. */
static inline uint32_t request_len(const struct request *r, uint32_t choice) {
    return r->n_prompt + r->choices[choice].n_ids;
}
static inline uint32_t request_token(const struct request *r, uint32_t choice, uint32_t pos) {
    return pos < r->n_prompt ? r->prompt[pos] : r->choices[choice].ids[pos - r->n_prompt];
}

/* Roles of neighbouring positions, from one on. */
struct role_cursor {
    const struct request *r;
    uint32_t run, left; /* left: tokens of the run that are still to come */
};
struct role_cursor request_roles_at(const struct request *r, uint32_t pos);
enum token_role role_cursor_next(struct role_cursor *c);

/* Draws a seed where the client gave none: 53 bits, since it is returned as JSON and JavaScript
 * reads doubles. False: the system has no random numbers. */
bool request_draw_seed(struct request *r);

/* Makes n choices with room for max_tokens each. ST_NO_MEMORY. */
enum st ST_CHECKED request_make_choices(struct request *r, uint32_t n, struct err *err);

/* The record as bytes, and back: what a peer, which may be a stranger, sends. Reading checks every
 * length; ids are checked by who knows the vocabulary (engine_add). Choices have room for max_tokens
 * ids. ST_CORRUPT, ST_NO_MEMORY; nothing is held on failure. */
enum { REQUEST_BYTES_MAX = 48 << 20 };
enum st ST_CHECKED request_write(struct buf *out, const struct request *r);
enum st ST_CHECKED request_read(struct request *r, const void *data, size_t len, struct err *err);

/* Prompt and answer fit into max_model_len, and there is a prompt; else ST_INVALID. */
enum st ST_CHECKED request_check_length(const struct request *r, uint32_t max_model_len,
                                        struct err *err);

/* Frees what the record owns. */
void request_release(struct request *r);

#endif

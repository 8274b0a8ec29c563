/* SPDX-License-Identifier: Apache-2.0 */
/* One answer on its way out: token ids become text, stop strings are found, and OpenAI's JSON is
 * written, as SSE events while it goes or whole at its end. It knows nothing of sockets: bytes go
 * to a buffer. */
#ifndef SUPERNODE_SERVE_ANSWER_H
#define SUPERNODE_SERVE_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/token.h"
#include "serve/api_request.h"
#include "text/output.h"

/* What stands in every object of one answer. Borrowed, but for the counts. */
struct answer_head {
    const char *id;          /* "chatcmpl-..." */
    const char *model;       /* the served name */
    const char *fingerprint; /* system_fingerprint */
    int64_t created;         /* seconds since 1970 */
};

/* Log-probabilities of the tokens since the last chunk, as JSON list items with commas between.
 * Chat has one list of objects, completions four lists. */
enum answer_list {
    ANSWER_CONTENT = 0,
    ANSWER_TOKENS = 0,
    ANSWER_TOKEN_LOGPROBS,
    ANSWER_TOP_LOGPROBS,
    ANSWER_TEXT_OFFSET,
    ANSWER_LISTS
};

struct answer {
    struct answer_head head;
    const struct api_request *api;
    const struct request *record;
    const struct tokenizer *tok;
    struct text_output output;
    struct buf text; /* since the last chunk (streamed), or all of it */
    struct buf lists[ANSWER_LISTS];
    struct buf token;     /* bytes of one token */
    uint32_t n_tokens;    /* that count: those after a stop string do not */
    uint32_t text_offset; /* characters before the next token, for completions' logprobs */
    bool begun;           /* something was written */
    const char *finish;   /* "stop" or "length"; NULL: not yet */
};

/* api and record are borrowed until answer_release. */
void answer_init(struct answer *a, const struct answer_head *head, const struct api_request *api,
                 const struct request *record, const struct tokenizer *tok);
void answer_release(struct answer *a);

/* Takes the next token; what can be sent is appended to out. When a->finish is set the answer is
 * complete and everything is in out (the last chunk, usage and [DONE], or the whole object): take
 * no more tokens. ST_FULL, ST_NO_MEMORY: the answer cannot go on. */
enum st ST_CHECKED answer_token(struct answer *a, const struct token_out *t, struct buf *out);

/* An error after streaming began: an event with the error object, then [DONE]. */
enum st ST_CHECKED answer_error_event(struct buf *out, const struct api_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One answer on its way out: token ids of all its choices become text, stop strings are found, and
 * OpenAI's JSON is written, as SSE events while it goes or whole at its end. It knows nothing of
 * sockets: bytes go to a buffer. */
#ifndef SUPERNODE_SERVE_ANSWER_H
#define SUPERNODE_SERVE_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/token.h"
#include "serve/api_request.h"
#include "text/output.h"

enum {
    ANSWER_BYTES_MAX = 64 << 20, /* of a whole answer, and of all that waits to become one */
    ANSWER_LIST_MAX = ANSWER_BYTES_MAX
};

/* What stands in every object of one answer. Borrowed, but for the counts. */
struct answer_head {
    const char *id;          /* "chatcmpl-..." */
    const char *model;       /* the served name */
    const char *fingerprint; /* system_fingerprint */
    int64_t created;         /* seconds since 1970 */
};

/* Items of JSON lists with commas between, of the tokens since the last chunk. For log-probabilities
 * chat has one list of objects, completions four lists. */
enum answer_list {
    ANSWER_CONTENT = 0,
    ANSWER_TOKENS = 0,
    ANSWER_TOKEN_LOGPROBS,
    ANSWER_TOP_LOGPROBS,
    ANSWER_TEXT_OFFSET,
    ANSWER_IDS, /* return_token_ids */
    ANSWER_LISTS
};

struct answer_choice {
    struct text_output output;
    struct buf text; /* since the last chunk (streamed), or all of it */
    struct buf lists[ANSWER_LISTS];
    uint32_t n_taken;     /* tokens that came */
    uint32_t n_tokens;    /* of them, those that count */
    uint32_t text_offset; /* characters before the next token, for completions' logprobs */
    double logprob;       /* sum over its tokens, for best_of */
    bool begun, chunked;  /* a token came; a chunk with text went out */
    const char *finish;   /* "stop" or "length"; NULL: not yet */
    const char *stop_string;
    int64_t stop_id; /* the client's stop id that ended it, or -1 */
};

/* One prompt and its choices. */
struct answer_prompt {
    const struct request *record;
    struct answer_choice *choices;  /* [record->n_choices] */
    struct buf lists[ANSWER_LISTS]; /* of an echoed prompt */
    struct buf logprobs;            /* prompt_logprobs */
    uint32_t n_taken; /* prompt tokens whose log-probabilities came; the first has none */
    uint32_t text_offset;
    uint32_t n_cached;
};

struct answer {
    struct answer_head head;
    const struct api_request *api;
    const struct tokenizer *tok;
    struct answer_prompt *prompts;
    uint32_t n_prompts, n_open; /* n_open: choices that go on */
    uint32_t n_tokens;          /* taken, of all choices */
    size_t n_bytes;             /* held in texts and lists */
    struct buf token;           /* bytes of one token */
    struct buf prefix;          /* how every chunk begins */
    bool complete;
};

/* api and the records are borrowed until answer_release, which must be called even on failure. */
enum st ST_CHECKED answer_init(struct answer *a, const struct answer_head *head,
                               const struct api_request *api, const struct request *records,
                               uint32_t n_records, const struct tokenizer *tok);
void answer_release(struct answer *a);

/* Takes the next token of a record; what can be sent is appended to out. Late ones and repeats are
 * ignored. When a->complete is set everything is in out (the last chunks, usage and [DONE], or the
 * whole object): take no more tokens. ST_FULL: the answer is past ANSWER_BYTES_MAX, ST_NO_MEMORY: it
 * cannot go on; ST_UNSUPPORTED: the prompt's log-probabilities are missing. */
enum st ST_CHECKED answer_token(struct answer *a, uint32_t record, const struct token_out *t,
                                struct buf *out);
/* The choice has all it needs. */
bool answer_choice_over(const struct answer *a, uint32_t record, uint32_t choice);

/* An error after streaming began: an event with the error object, then [DONE]. */
enum st ST_CHECKED answer_error_event(struct buf *out, const struct api_error *e);

#endif

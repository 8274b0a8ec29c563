/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json (Hugging Face `tokenizers`): byte-level BPE with its normalisers, pre-tokeniser
 * sequence, added and special tokens. Ids are those of the `tokenizers` library; what a file asks
 * for and we do not know is refused by name. */
#ifndef SUPERNODE_TEXT_TOKENIZER_H
#define SUPERNODE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

struct tokenizer;

/* Opens dir/tokenizer.json and, if it is there, dir/tokenizer_config.json (bos_token, eos_token,
 * add_bos_token, added_tokens_decoder). Read-only afterwards: any thread may encode and decode. */
enum st ST_CHECKED tok_open(struct tokenizer **out, const char *dir, struct err *err);
/* The same from memory, for tests and fuzzing; config may be NULL. */
enum st ST_CHECKED tok_new(struct tokenizer **out, const char *json, size_t len, const char *config,
                           size_t config_len, const char *name, struct err *err);
void tok_free(struct tokenizer *t); /* NULL is allowed */

uint32_t tok_vocab(const struct tokenizer *t);                           /* highest id + 1 */
bool tok_id(const struct tokenizer *t, const char *token, uint32_t *id); /* by its content */
int64_t tok_bos(const struct tokenizer *t);                              /* -1: none */
int64_t tok_eos(const struct tokenizer *t);
/* Whether a prompt begins with BOS where `add_special_tokens` is on: add_bos_token of
 * tokenizer_config.json if it is there, else whether the post-processor's template begins with it.
 */
bool tok_adds_bos(const struct tokenizer *t);

struct tok_ids {
    uint32_t *v;
    uint32_t *byte; /* where each token's first byte stands in the text, for roles and offsets */
    size_t len, cap;
};
void tok_ids_release(struct tok_ids *ids);

enum tok_added {
    TOK_ADDED_PLAIN /* added tokens are text */,
    TOK_ADDED_MATCH /* and are recognised */
};

/* Appends the ids of text to out (no BOS, no post-processor). Bytes that are not UTF-8 are encoded
 * as U+FFFD, as Python's errors="replace" has it. */
enum st ST_CHECKED tok_encode(struct tok_ids *out, const struct tokenizer *t, const char *text,
                              size_t len, enum tok_added added, struct err *err);

/* The same where only some bytes may hold added tokens: an added token is recognised only if
 * allow[i] is true for all of its bytes; pre-tokenisation sees the text as a whole, as one text.
 * allow has len entries of 0 or 1. */
enum st ST_CHECKED tok_encode_masked(struct tok_ids *out, const struct tokenizer *t,
                                     const char *text, size_t len, const uint8_t *allow,
                                     struct err *err);

/* Appends the bytes of one token: of an ordinary token the bytes it stands for (maybe half a
 * character), of an added token its content; nothing for a special one if skip_special, or for an
 * id out of range. */
enum tok_special { TOK_SPECIAL_SHOW, TOK_SPECIAL_SKIP };
enum st ST_CHECKED tok_decode_token(struct buf *out, const struct tokenizer *t, uint32_t id,
                                    enum tok_special special);

/* Streaming decode that never emits half a character: bytes of an unfinished UTF-8 sequence wait.
 * Zero-initialise. */
struct tok_stream {
    uint8_t held[4];
    uint32_t n_held;
};
/* Appends what is certain after one more token; malformed sequences become U+FFFD. */
enum st ST_CHECKED tok_stream_push(struct tok_stream *s, struct buf *out, const struct tokenizer *t,
                                   uint32_t id, enum tok_special special);
/* The end: a held unfinished sequence becomes U+FFFD. */
enum st ST_CHECKED tok_stream_end(struct tok_stream *s, struct buf *out);

#endif

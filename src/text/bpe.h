/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding of one piece of text: from single bytes, the pair of neighbours with the
 * lowest rank is merged, the leftmost of equals first, until no pair has a rank. */
#ifndef SUPERNODE_TEXT_BPE_H
#define SUPERNODE_TEXT_BPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

enum { BPE_MERGES_MAX = (1 << 22) - 1 };

struct bpe {
    const struct vocabulary *vocab;
    uint32_t byte_ids[256]; /* NO_TOKEN where the vocabulary lacks the byte, which is then dropped,
                               as by `tokenizers` */
    uint64_t *slots; /* open addressing: left id, right id, rank in 21, 21 and 22 bits; all ones
                        where free */
    uint32_t slot_mask;
    uint64_t seed;
    uint32_t *merged; /* [rank] the token that the pair becomes */
    uint32_t n_merges, merges_cap;
    bool whole_first;       /* ignore_merges: a piece that is a token stays whole */
    _Atomic uint8_t *whole; /* [id] whether the merges lead from the token's bytes to itself: not
                               yet known, yes, no */
};

/* The vocabulary must be complete and stay. */
enum st ST_CHECKED bpe_init(struct bpe *b, const struct vocabulary *vocab, const char *name,
                            struct err *err);
void bpe_release(struct bpe *b);
/* The next merge, of the next rank; at most BPE_MERGES_MAX. A pair that comes again gets the later
 * rank. ST_NO_MEMORY. */
enum st ST_CHECKED bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t merged);
/* A piece of exactly this token's bytes is merged all the same: an added token's, which text that
 * may not hold one must not reach through whole_first. */
void bpe_never_whole(struct bpe *b, uint32_t id);

/* Memory of one caller, kept from piece to piece. */
struct bpe_scratch {
    uint32_t *ids, *ranks, *previous, *next;
    size_t cap;
    uint64_t *heap;
    size_t heap_len, heap_cap;
};
void bpe_scratch_release(struct bpe_scratch *s);

/* Appends the ids of piece to out; out->byte gets at + the offset of each in the piece.
 * ST_NO_MEMORY. */
enum st ST_CHECKED bpe_encode(struct tok_ids *out, const struct bpe *b, struct bpe_scratch *s,
                              const char *piece, uint32_t len, uint32_t at);

enum st ST_CHECKED tok_ids_append(struct tok_ids *ids, uint32_t id, uint32_t byte);

#endif

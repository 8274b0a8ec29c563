/* SPDX-License-Identifier: Apache-2.0 */
/* What a tokenizer is made of; for tokenizer.c and tokenizer_load.c only. */
#ifndef SUPERNODE_TEXT_TOKENIZER_PARTS_H
#define SUPERNODE_TEXT_TOKENIZER_PARTS_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

struct tokenizer {
    struct vocabulary vocab;
    struct bpe bpe;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;

    struct added_token *added;
    uint32_t n_added, added_cap;
    uint32_t *added_by_id;  /* indices into added, by ascending id */
    struct trie by_content; /* values of all three: indices into added */
    struct trie in_text;    /* those matched in the text as it came */
    struct trie in_normal;  /* those matched in the normalised text */

    int64_t bos, eos;
    bool adds_bos;
};

#endif

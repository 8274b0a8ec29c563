/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokeniser of a tokenizer.json: a sequence of steps that each cut the pieces of the one
 * before, then ByteLevel. BPE merges inside pieces only. */
#ifndef SUPERNODE_TEXT_PRETOKENIZE_H
#define SUPERNODE_TEXT_PRETOKENIZE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "text/pattern.h"
#include "text/working.h"

struct pretokenizer;

/* json is the member pre_tokenizer; name the file. */
enum st ST_CHECKED pretokenizer_new(struct pretokenizer **out, const json_t *json, const char *name,
                                    struct err *err);
void pretokenizer_free(struct pretokenizer *p); /* NULL is allowed */

struct pieces {
    struct piece {
        uint32_t start, len; /* bytes of the working text */
    } * v;
    size_t len, cap;
};
void pieces_release(struct pieces *p);

/* Cuts text[start, start + len) into pieces, none empty. Where a step adds a space before each
 * piece, text is rebuilt and the pieces are those of the rebuilt one, which then holds this part
 * only. */
enum st ST_CHECKED pretokenize(struct pieces *out, const struct pretokenizer *p,
                               struct working *text, uint32_t start, uint32_t len,
                               struct pattern_scratch *scratch, struct err *err);

#endif

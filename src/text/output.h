/* SPDX-License-Identifier: Apache-2.0 */
/* From token ids to the text a client sees: streaming decode, and stop strings that may lie across
 * tokens. Text that could be the beginning of a stop string is held back until it is decided. */
#ifndef SUPERNODE_TEXT_OUTPUT_H
#define SUPERNODE_TEXT_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "text/tokenizer.h"

enum { TEXT_STOPS_MAX = 16, TEXT_STOP_BYTES_MAX = 1024 };

struct text_output {
    const struct tokenizer *tok;
    enum tok_special special;
    const char *stops[TEXT_STOPS_MAX]; /* borrowed, each 1 to TEXT_STOP_BYTES_MAX bytes */
    uint32_t n_stops;
    struct tok_stream stream;
    struct buf held;    /* decoded, not yet given out */
    int32_t stopped_by; /* index of the stop string that ended the text; -1: none */
};

void text_output_init(struct text_output *o, const struct tokenizer *tok, enum tok_special special);
void text_output_release(struct text_output *o);

/* Takes one token; appends to out what is now certain. watch_stops is false while fewer than
 * min_tokens were generated. When a stop string completes, out ends before it and o->stopped_by is
 * set; push nothing more. */
enum st ST_CHECKED text_output_push(struct text_output *o, struct buf *out, uint32_t id,
                                    bool watch_stops);
/* The end without a stop string: what was held back. */
enum st ST_CHECKED text_output_end(struct text_output *o, struct buf *out);

#endif

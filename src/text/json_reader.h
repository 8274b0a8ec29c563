/* SPDX-License-Identifier: Apache-2.0 */
/* The two large members of a tokenizer.json, model.vocab and model.merges, read where they lie.
 * jansson takes 90 to 130 ms for the 4.3 MB of DeepSeek-V3's, all for a tree that is walked once;
 * so these two are cut out, read by the few functions here, and only the rest goes through jansson,
 * which also checks its form. */
#ifndef SUPERNODE_TEXT_JSON_READER_H
#define SUPERNODE_TEXT_JSON_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

struct json_span {
    const char *text; /* NULL: the member is missing */
    size_t len;
};

/* Finds the two members and appends the file without them (null stands in their places) to rest. A
 * file that is no JSON may come through in any shape; it then fails when rest is parsed. */
enum st ST_CHECKED json_cut(struct buf *rest, struct json_span *vocab, struct json_span *merges,
                            const char *json, size_t len, const char *name, struct err *err);

/* A reader of one span. After an error nothing more may be read. */
struct json_reader {
    const char *start, *at, *end;
    const char *file;         /* the whole text, to count lines for errors */
    const char *name, *place; /* "tokenizer.json", "model.vocab" */
    struct err *err;
};

char json_peek(
    struct json_reader *r); /* the next byte that is not white space, or '\0' at the end */
bool json_accept(struct json_reader *r, char c);
enum st ST_CHECKED json_expect(struct json_reader *r, const char *what,
                               enum st code); /* the error: found .., expected what */

/* A string without its escapes, well-formed UTF-8. *text points into the span or to *scratch, until
 * the next call. */
enum st ST_CHECKED json_read_string(struct json_reader *r, const char **text, size_t *len,
                                    struct buf *scratch);
/* An integer from 0 to max. */
enum st ST_CHECKED json_read_u32(struct json_reader *r, uint32_t *out, uint32_t max);

#endif

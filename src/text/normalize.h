/* SPDX-License-Identifier: Apache-2.0 */
/* The normaliser of a tokenizer.json: what happens to a text before added tokens of the kind
 * normalized: true, and the pre-tokeniser, see it. DeepSeek's has no steps. */
#ifndef SUPERNODE_TEXT_NORMALIZE_H
#define SUPERNODE_TEXT_NORMALIZE_H

#include <stdbool.h>

#include <jansson.h>

#include "base/err.h"
#include "text/pattern.h"
#include "text/working.h"

struct normalizer;

/* json is the member normalizer, or NULL; name the file. */
enum st ST_CHECKED normalizer_new(struct normalizer **out, const json_t *json, const char *name,
                                  struct err *err);
void normalizer_free(struct normalizer *n); /* NULL is allowed */

/* Replaces text by its normalised form, where it changes. */
enum st ST_CHECKED normalize(struct working *text, const struct normalizer *n,
                             struct pattern_scratch *scratch, struct err *err);

#endif

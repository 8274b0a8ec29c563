/* SPDX-License-Identifier: Apache-2.0 */
/* Writes JSON straight into a buffer: what is sent for every token should not build a tree first.
 * Failures stick in st, so that a writer is read once at its end. */
#ifndef SUPERNODE_SERVE_JSON_OUT_H
#define SUPERNODE_SERVE_JSON_OUT_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

struct json_out {
    struct buf *buf;
    enum st st; /* the first failure */
};

void json_out_raw(struct json_out *o, const char *s); /* JSON as it stands */
void json_out_bytes(struct json_out *o, const void *data, size_t len);
void json_out_int(struct json_out *o, int64_t v);
/* Shortest decimal that reads back as the same float; what JSON cannot say (-inf, NaN) becomes
 * -9999, as vLLM has it. */
void json_out_float(struct json_out *o, float v);
/* A string with its quotes. Bytes that are not UTF-8 become U+FFFD, one for each maximal ill-formed
 * part. */
void json_out_text(struct json_out *o, const char *s, size_t len);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer: the input is a tokenizer.json, then a NUL and a text (a file without NUL is tried on a
 * fixed text). What loads must encode or say why not, give ids that exist at offsets that ascend,
 * and give the same ids whether a text is masked by ones or not masked. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) abort();
}

static void try_text(const struct tokenizer *t, const char *text, size_t len) {
    struct err err;
    struct tok_ids ids = {0}, masked = {0};
    struct buf out = {.max = 1 << 28};
    struct tok_stream stream = {0};
    uint8_t *allow = malloc(len + 1);
    require(allow != NULL);
    memset(allow, 1, len);
    enum st st = tok_encode(&ids, t, text, len, TOK_ADDED_MATCH, &err);
    require(st == tok_encode_masked(&masked, t, text, len, allow, &err));
    require(ids.len == masked.len &&
            (ids.len == 0 || memcmp(ids.v, masked.v, ids.len * sizeof *ids.v) == 0));
    for (size_t i = 0; i < ids.len; i++) {
        require(ids.v[i] < tok_vocab(t) && ids.byte[i] <= len);
        require(tok_stream_push(&stream, &out, t, ids.v[i], TOK_SPECIAL_SHOW) == ST_OK);
    }
    require(tok_stream_end(&stream, &out) == ST_OK);
    memset(allow, 0, len);
    masked.len = ids.len = 0;
    st = tok_encode(&ids, t, text, len, TOK_ADDED_PLAIN, &err);
    require(st == tok_encode_masked(&masked, t, text, len, allow, &err));
    require(ids.len == masked.len &&
            (ids.len == 0 || memcmp(ids.v, masked.v, ids.len * sizeof *ids.v) == 0));
    free(allow);
    buf_release(&out);
    tok_ids_release(&ids);
    tok_ids_release(&masked);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = memchr(data, 0, size);
    size_t json_len = nul ? (size_t)(nul - data) : size;
    const char *text = nul ? (const char *)nul + 1 : "Hello <a> world 123 'll \xE6\xBC\xA2  \n\xFF";
    size_t text_len = nul ? size - json_len - 1 : strlen(text);
    struct tokenizer *t;
    struct err err;
    if (tok_new(&t, (const char *)data, json_len, NULL, 0, "f", &err)) return 0;
    try_text(t, text, text_len);
    tok_free(t);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements block_key.h with OpenSSL's one-shot digest. */
#include "engine/block_key.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

enum { TOKEN_BYTES = 5, FIELD_BYTES_MAX = REQUEST_MODEL_ID_BYTES + REQUEST_ID_BYTES * 2 + 16 };

static void digest(struct block_key *out, const uint8_t *data, size_t len) {
    size_t n;
    int ok = EVP_Q_digest(NULL, "SHA256", NULL, data, len, out->bytes, &n);
    if (!ok || n != sizeof out->bytes)
        abort(); /* only memory can fail it, and a key must be right */
}

static uint8_t *put_u32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) *at++ = (uint8_t)(v >> 8 * i);
    return at;
}

static uint8_t *put_field(uint8_t *at, const char *text) {
    size_t len = strlen(text);
    at = put_u32(at, (uint32_t)len);
    memcpy(at, text, len);
    return at + len;
}

void block_key_root(struct block_key *out, const struct request *r) {
    uint8_t data[FIELD_BYTES_MAX], *at = data;
    at = put_field(at, r->model_id);
    at = put_field(at, r->tenant);
    at = put_field(at, r->salt);
    digest(out, data, (size_t)(at - data));
}

void block_key_next(struct block_key *out, const struct block_key *parent, const struct request *r,
                    uint32_t choice, uint32_t block) {
    uint8_t data[sizeof *parent + KV_PAGE_TOKENS * TOKEN_BYTES], *at = data + sizeof *parent;
    uint32_t pos = block * KV_PAGE_TOKENS;
    memcpy(data, parent, sizeof *parent);
    struct role_cursor roles = request_roles_at(r, pos);
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        at = put_u32(at, request_token(r, choice, pos + i));
        *at++ = (uint8_t)role_cursor_next(&roles);
    }
    digest(out, data, sizeof data);
}

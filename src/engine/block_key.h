/* SPDX-License-Identifier: Apache-2.0 */
/* What a full block of a sequence is called (contracts 5): a SHA-256 chain over who may find it
 * (model, tenant, salt), every token before it and its own 128 (token, role) pairs. Two blocks of
 * one key hold the same rows, bit for bit, and no body can make a key of another tenant. */
#ifndef SUPERNODE_ENGINE_BLOCK_KEY_H
#define SUPERNODE_ENGINE_BLOCK_KEY_H

#include "engine/request.h"
#include "model/kv.h"

struct block_key {
    uint8_t bytes[32];
};

/* The parent of block 0. */
void block_key_root(struct block_key *out, const struct request *r);
/* Block `block` of a choice, all of whose tokens are known. out may be parent. */
void block_key_next(struct block_key *out, const struct block_key *parent, const struct request *r,
                    uint32_t choice, uint32_t block);

#endif

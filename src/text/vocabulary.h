/* SPDX-License-Identifier: Apache-2.0 */
/* The vocabulary of a byte-level BPE model: token id <-> the bytes it stands for. In the file a
 * token is written with one character a byte (GPT-2's alphabet: "\u0120the" is " the"). A key with
 * a character outside the alphabet is no bytes but itself, a literal; pieces of text never reach
 * it, merges and added tokens do. */
#ifndef SUPERNODE_TEXT_VOCABULARY_H
#define SUPERNODE_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { VOCABULARY_IDS_MAX = 1 << 21 };
#define NO_TOKEN UINT32_MAX

struct vocabulary {
    struct token {
        uint32_t start, len; /* in bytes; start is NO_TOKEN for an id without a token */
        bool literal;
    } * tokens;
    uint32_t ids, ids_cap; /* highest id + 1; room in tokens */
    uint32_t count;        /* tokens */
    char *bytes;
    size_t bytes_len, bytes_cap;
    struct vocabulary_slot {
        uint32_t hash, id;
    } * slots; /* open addressing; id is NO_TOKEN where free */
    uint32_t slot_mask;
    uint64_t seed; /* random, so that no file can make its keys collide */
};

/* A key of the file as bytes, written to out (room for len). Returns their number; *literal tells
 * which kind. */
size_t alphabet_decode(char *out, bool *literal, const char *key, size_t len);

/* Room for keys of all together bytes_max bytes. */
enum st ST_CHECKED vocabulary_init(struct vocabulary *v, size_t bytes_max, const char *name,
                                   struct err *err);
void vocabulary_release(struct vocabulary *v);

enum vocabulary_added {
    VOCABULARY_ADDED,
    VOCABULARY_SAME_KEY,
    VOCABULARY_SAME_ID,
    VOCABULARY_NO_MEMORY
};
/* Adds key (as the file has it) with an id below VOCABULARY_IDS_MAX. */
enum vocabulary_added vocabulary_add(struct vocabulary *v, const char *key, size_t len,
                                     uint32_t id);

/* The id of bytes, or NO_TOKEN. */
uint32_t vocabulary_find(const struct vocabulary *v, const char *bytes, size_t len, bool literal);

#endif

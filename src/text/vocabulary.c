/* SPDX-License-Identifier: Apache-2.0 */
/* Implements vocabulary.h: one block of bytes, and a hash table of ids over it. */
#include "text/vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "text/utf8.h"

/* GPT-2's alphabet: a printable Latin-1 byte is its own character; the 68 others are U+0100 and on,
 * in order. */
static bool is_printable(uint32_t c) {
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

static bool alphabet_byte(uint8_t *byte, uint32_t cp) {
    if (cp < 0x100) {
        *byte = (uint8_t)cp;
        return is_printable(cp);
    }
    uint32_t n = cp - 0x100;
    if (n <= 0x20)
        *byte = (uint8_t)n; /* U+0100..U+0120: 0..0x20 */
    else if (n <= 0x42)
        *byte = (uint8_t)(n - 0x21 + 0x7F); /* 0x7F..0xA0 */
    else
        *byte = 0xAD;
    return n <= 0x43;
}

size_t alphabet_decode(char *out, bool *literal, const char *key, size_t len) {
    size_t n = 0;
    *literal = false;
    for (size_t i = 0; i < len;) {
        uint32_t cp = (uint8_t)key[i];
        uint8_t byte;
        if (cp < 0x80)
            i++;
        else
            i += utf8_next(&cp, key + i, len - i);
        if (!alphabet_byte(&byte, cp)) {
            memcpy(out, key, len);
            *literal = true;
            return len;
        }
        out[n++] = (char)byte;
    }
    return n;
}

/* Multiply and fold, eight bytes at a time. */
static uint32_t hash_bytes(uint64_t seed, const char *bytes, size_t len, bool literal) {
    uint64_t h = seed ^ (len * 2 + literal) * 0x9E3779B97F4A7C15u;
    while (len > 0) {
        uint64_t word = 0;
        size_t n = len < 8 ? len : 8;
        if (n == 8)
            memcpy(&word, bytes, 8);
        else
            for (size_t i = 0; i < n; i++) word |= (uint64_t)(uint8_t)bytes[i] << (8 * i);
        unsigned __int128 product = (unsigned __int128)(h ^ word) * 0xA0761D6478BD642Fu;
        h = (uint64_t)product ^ (uint64_t)(product >> 64) ^ seed;
        bytes += n;
        len -= n;
    }
    h *= 0xE7037ED1A0B428DBu;
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

/* Twice the slots; those there are keep their hashes. */
static bool grow_slots(struct vocabulary *v) {
    uint32_t n = v->slots ? (v->slot_mask + 1) * 2 : 1024;
    struct vocabulary_slot *slots = malloc(n * sizeof *slots);
    if (!slots) return false;
    memset(slots, 0xFF, n * sizeof *slots);
    for (uint32_t i = 0; v->slots && i <= v->slot_mask; i++) {
        if (v->slots[i].id == NO_TOKEN) continue;
        uint32_t at = v->slots[i].hash & (n - 1);
        while (slots[at].id != NO_TOKEN) at = (at + 1) & (n - 1);
        slots[at] = v->slots[i];
    }
    free(v->slots);
    v->slots = slots;
    v->slot_mask = n - 1;
    return true;
}

enum st vocabulary_init(struct vocabulary *v, size_t bytes_max, const char *name, struct err *err) {
    *v = (struct vocabulary){.bytes_cap = bytes_max};
    if (getrandom(&v->seed, sizeof v->seed, GRND_NONBLOCK) != sizeof v->seed)
        v->seed = 0x2545F4914F6CDD1Du;
    v->seed |= 1;
    v->bytes = malloc(bytes_max + 1);
    if (v->bytes && grow_slots(v)) return ST_OK;
    vocabulary_release(v);
    return err_set(err, ST_NO_MEMORY, "%s: model.vocab: out of memory", name);
}

void vocabulary_release(struct vocabulary *v) {
    free(v->tokens);
    free(v->bytes);
    free(v->slots);
    *v = (struct vocabulary){0};
}

/* The slot of the key, or the free one where it belongs. At least half of them are free. */
static struct vocabulary_slot *find_slot(const struct vocabulary *v, uint32_t hash,
                                         const char *bytes, size_t len, bool literal) {
    for (uint32_t i = hash & v->slot_mask;; i = (i + 1) & v->slot_mask) {
        struct vocabulary_slot *s = &v->slots[i];
        if (s->id == NO_TOKEN) return s;
        if (s->hash != hash) continue;
        const struct token *t = &v->tokens[s->id];
        if (t->len == len && t->literal == literal && memcmp(v->bytes + t->start, bytes, len) == 0)
            return s;
    }
}

uint32_t vocabulary_find(const struct vocabulary *v, const char *bytes, size_t len, bool literal) {
    return find_slot(v, hash_bytes(v->seed, bytes, len, literal), bytes, len, literal)->id;
}

static bool reserve_ids(struct vocabulary *v, uint32_t ids) {
    if (ids <= v->ids_cap) return true;
    uint32_t cap = v->ids_cap ? v->ids_cap : 256;
    while (cap < ids) cap *= 2;
    struct token *tokens = realloc(v->tokens, cap * sizeof *tokens);
    if (!tokens) return false;
    for (uint32_t i = v->ids_cap; i < cap; i++) tokens[i] = (struct token){.start = NO_TOKEN};
    v->tokens = tokens;
    v->ids_cap = cap;
    return true;
}

enum vocabulary_added vocabulary_add(struct vocabulary *v, const char *key, size_t len,
                                     uint32_t id) {
    assert(id < VOCABULARY_IDS_MAX && len <= v->bytes_cap - v->bytes_len);
    if (!reserve_ids(v, id + 1)) return VOCABULARY_NO_MEMORY;
    if (v->count * 2 > v->slot_mask && !grow_slots(v)) return VOCABULARY_NO_MEMORY;
    if (id >= v->ids) v->ids = id + 1;
    if (v->tokens[id].start != NO_TOKEN) return VOCABULARY_SAME_ID;
    char *bytes = v->bytes + v->bytes_len;
    bool literal;
    size_t n = alphabet_decode(bytes, &literal, key, len);
    uint32_t hash = hash_bytes(v->seed, bytes, n, literal);
    struct vocabulary_slot *s = find_slot(v, hash, bytes, n, literal);
    if (s->id != NO_TOKEN) return VOCABULARY_SAME_KEY;
    v->tokens[id] = (struct token){(uint32_t)v->bytes_len, (uint32_t)n, literal};
    v->bytes_len += n;
    v->count++;
    *s = (struct vocabulary_slot){hash, id};
    return VOCABULARY_ADDED;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements bpe.h. Most pieces are one token; for those the answer is a look-up, once it is known
 * that the merges agree. Short pieces are merged in an array whose least rank is searched each
 * time; long ones (a megabyte of one letter) with a heap of (rank, position), whose entries go
 * stale and are then skipped: n log n, whatever the text. Both give the same ids (test_bpe.c). */
#include "text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHORT_PIECE = 48,
    RANK_BITS = 22,
    ID_BITS = 21,
    WHOLE_UNKNOWN = 0,
    WHOLE_YES = 1,
    WHOLE_NO = 2
};
#define NO_RANK   UINT32_MAX
#define FREE_SLOT UINT64_MAX
static_assert(VOCABULARY_IDS_MAX == 1 << ID_BITS && BPE_MERGES_MAX == (1 << RANK_BITS) - 1,
              "a slot's fields");

static uint64_t *find_slot(const struct bpe *b, uint64_t pair) {
    uint64_t h = (pair ^ b->seed) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(h >> 32) & b->slot_mask;; i = (i + 1) & b->slot_mask) {
        uint64_t *s = &b->slots[i];
        if (*s == FREE_SLOT || *s >> RANK_BITS == pair) return s;
    }
}

static enum st grow_merges(struct bpe *b) {
    uint32_t cap = b->merges_cap ? b->merges_cap * 2 : 512, n_slots = cap * 2;
    uint32_t *merged = realloc(b->merged, cap * sizeof *merged);
    if (merged) b->merged = merged;
    uint64_t *slots = malloc(n_slots * sizeof *slots), *old = b->slots;
    if (!merged || !slots) {
        free(slots);
        return ST_NO_MEMORY;
    }
    memset(slots, 0xFF, n_slots * sizeof *slots);
    b->slots = slots;
    uint32_t n_old = b->merges_cap * 2;
    b->merges_cap = cap;
    b->slot_mask = n_slots - 1;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i] != FREE_SLOT) *find_slot(b, old[i] >> RANK_BITS) = old[i];
    free(old);
    return ST_OK;
}

enum st bpe_init(struct bpe *b, const struct vocabulary *vocab, const char *name, struct err *err) {
    *b = (struct bpe){.vocab = vocab, .seed = vocab->seed};
    b->whole = calloc((size_t)vocab->ids + 1, sizeof *b->whole);
    if (!b->whole || grow_merges(b)) {
        bpe_release(b);
        return err_set(err, ST_NO_MEMORY, "%s: model.merges: out of memory", name);
    }
    for (uint32_t i = 0; i < 256; i++) {
        char byte = (char)i;
        b->byte_ids[i] = vocabulary_find(vocab, &byte, 1, false);
    }
    return ST_OK;
}

void bpe_release(struct bpe *b) {
    free(b->slots);
    free(b->merged);
    free(b->whole);
    *b = (struct bpe){0};
}

static uint32_t rank_of(const struct bpe *b, uint32_t left, uint32_t right) {
    uint64_t s = *find_slot(b, (uint64_t)left << ID_BITS | right);
    return s == FREE_SLOT ? NO_RANK : (uint32_t)s & BPE_MERGES_MAX;
}

enum st bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t merged) {
    assert(b->n_merges < BPE_MERGES_MAX);
    if (b->n_merges == b->merges_cap) {
        enum st st = grow_merges(b);
        if (st) return st;
    }
    uint64_t pair = (uint64_t)left << ID_BITS | right;
    uint32_t rank = b->n_merges++;
    b->merged[rank] = merged;
    *find_slot(b, pair) = pair << RANK_BITS | rank;
    return ST_OK;
}

void bpe_never_whole(struct bpe *b, uint32_t id) {
    if (id < b->vocab->ids) b->whole[id] = WHOLE_NO;
}

/* --- a caller's memory ------------------------------------------------------------------------ */

enum st tok_ids_append(struct tok_ids *ids, uint32_t id, uint32_t byte) {
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        uint32_t *v = realloc(ids->v, cap * sizeof *v);
        if (v) ids->v = v;
        uint32_t *bytes = realloc(ids->byte, cap * sizeof *bytes);
        if (bytes) ids->byte = bytes;
        if (!v || !bytes) return ST_NO_MEMORY;
        ids->cap = cap;
    }
    ids->v[ids->len] = id;
    ids->byte[ids->len++] = byte;
    return ST_OK;
}

void tok_ids_release(struct tok_ids *ids) {
    free(ids->v);
    free(ids->byte);
    *ids = (struct tok_ids){0};
}

void bpe_scratch_release(struct bpe_scratch *s) {
    free(s->ids);
    free(s->ranks);
    free(s->previous);
    free(s->next);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

static bool grow(uint32_t **v, size_t cap) {
    uint32_t *p = realloc(*v, cap * sizeof *p);
    if (p) *v = p;
    return p != NULL;
}

static enum st reserve(struct bpe_scratch *s, size_t n) {
    if (n <= s->cap) return ST_OK;
    size_t cap = s->cap ? s->cap : 1024;
    while (cap < n) cap *= 2;
    if (!grow(&s->ids, cap) || !grow(&s->ranks, cap) || !grow(&s->previous, cap) ||
        !grow(&s->next, cap))
        return ST_NO_MEMORY;
    s->cap = cap;
    return ST_OK;
}

/* --- the heap: the least (rank, position) first ----------------------------------------------- */

static enum st heap_push(struct bpe_scratch *s, uint32_t rank, uint32_t position) {
    if (s->heap_len == s->heap_cap) {
        size_t cap = s->heap_cap ? s->heap_cap * 2 : 4096;
        uint64_t *heap = realloc(s->heap, cap * sizeof *heap);
        if (!heap) return ST_NO_MEMORY;
        s->heap = heap;
        s->heap_cap = cap;
    }
    uint64_t x = (uint64_t)rank << 32 | position;
    size_t i = s->heap_len++;
    for (; i > 0 && s->heap[(i - 1) / 2] > x; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = x;
    return ST_OK;
}

static uint64_t heap_pop(struct bpe_scratch *s) {
    uint64_t least = s->heap[0], x = s->heap[--s->heap_len];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < s->heap_len) {
        if (child + 1 < s->heap_len && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= x) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = x;
    return least;
}

/* --- merging ---------------------------------------------------------------------------------- */

/* n tokens in s->ids, s->previous their offsets. Returns how many are left. */
static uint32_t merge_short(const struct bpe *b, struct bpe_scratch *s, uint32_t n) {
    uint32_t *ids = s->ids, *ranks = s->ranks, *offsets = s->previous;
    for (uint32_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(b, ids[i], ids[i + 1]);
    while (n > 1) {
        uint32_t best = NO_RANK, at = 0;
        for (uint32_t i = 0; i + 1 < n; i++)
            if (ranks[i] < best) best = ranks[i], at = i;
        if (best == NO_RANK) break;
        ids[at] = b->merged[best];
        size_t after = n - at - 2;
        memmove(ids + at + 1, ids + at + 2, after * sizeof *ids);
        memmove(offsets + at + 1, offsets + at + 2, after * sizeof *offsets);
        if (after) memmove(ranks + at, ranks + at + 1, after * sizeof *ranks);
        n--;
        if (at + 1 < n) ranks[at] = rank_of(b, ids[at], ids[at + 1]);
        if (at > 0) ranks[at - 1] = rank_of(b, ids[at - 1], ids[at]);
    }
    return n;
}

/* Ranks the pair that begins at position i of the list, which may be the last. */
static enum st rank_pair(const struct bpe *b, struct bpe_scratch *s, uint32_t i) {
    uint32_t next = s->next[i];
    s->ranks[i] = next == NO_TOKEN ? NO_RANK : rank_of(b, s->ids[i], s->ids[next]);
    return s->ranks[i] == NO_RANK ? ST_OK : heap_push(s, s->ranks[i], i);
}

/* The same for a long piece. Tokens stay where they are, linked by s->previous and s->next; the
 * first stays position 0. */
static enum st merge_long(const struct bpe *b, struct bpe_scratch *s, uint32_t n) {
    enum st st = ST_OK;
    s->heap_len = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->previous[i] = i ? i - 1 : NO_TOKEN;
        s->next[i] = i + 1 < n ? i + 1 : NO_TOKEN;
    }
    for (uint32_t i = 0; i < n && !st; i++) st = rank_pair(b, s, i);
    while (s->heap_len > 0 && !st) {
        uint64_t top = heap_pop(s);
        uint32_t rank = (uint32_t)(top >> 32), i = (uint32_t)top;
        if (s->ranks[i] != rank) continue; /* that pair is gone */
        uint32_t right = s->next[i], after = s->next[right];
        s->ids[i] = b->merged[rank];
        s->ranks[right] = NO_RANK;
        s->next[i] = after;
        if (after != NO_TOKEN) s->previous[after] = i;
        st = rank_pair(b, s, i);
        if (!st && s->previous[i] != NO_TOKEN) st = rank_pair(b, s, s->previous[i]);
    }
    return st;
}

static enum st encode_short(struct tok_ids *out, const struct bpe *b, struct bpe_scratch *s,
                            const char *piece, uint32_t len, uint32_t at) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < len; i++) {
        s->ids[n] = b->byte_ids[(uint8_t)piece[i]];
        s->previous[n] = i;
        if (s->ids[n] != NO_TOKEN) n++;
    }
    n = merge_short(b, s, n);
    enum st st = ST_OK;
    for (uint32_t i = 0; i < n && !st; i++)
        st = tok_ids_append(out, s->ids[i], at + s->previous[i]);
    return st;
}

static enum st encode_long(struct tok_ids *out, const struct bpe *b, struct bpe_scratch *s,
                           const char *piece, uint32_t len, uint32_t at) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < len; i++) {
        s->ids[n] = b->byte_ids[(uint8_t)piece[i]];
        if (s->ids[n] != NO_TOKEN) n++;
    }
    if (n == 0) return ST_OK;
    enum st st = merge_long(b, s, n);
    uint32_t offset = 0, kept = 0; /* position i is the byte with i kept ones before it */
    for (uint32_t i = 0; i != NO_TOKEN && !st; i = s->next[i]) {
        for (; kept < i || b->byte_ids[(uint8_t)piece[offset]] == NO_TOKEN; offset++)
            kept += b->byte_ids[(uint8_t)piece[offset]] != NO_TOKEN;
        st = tok_ids_append(out, s->ids[i], at + offset);
    }
    return st;
}

enum st bpe_encode(struct tok_ids *out, const struct bpe *b, struct bpe_scratch *s,
                   const char *piece, uint32_t len, uint32_t at) {
    uint32_t id = vocabulary_find(b->vocab, piece, len, false);
    uint8_t whole = WHOLE_NO;
    if (id != NO_TOKEN) {
        whole = atomic_load_explicit(&b->whole[id], memory_order_relaxed);
        if (whole == WHOLE_YES || (whole == WHOLE_UNKNOWN && b->whole_first))
            return tok_ids_append(out, id, at);
    }
    enum st st = reserve(s, len);
    size_t before = out->len;
    if (!st)
        st = len <= SHORT_PIECE ? encode_short(out, b, s, piece, len, at)
                                : encode_long(out, b, s, piece, len, at);
    if (!st && whole == WHOLE_UNKNOWN) {
        whole = out->len == before + 1 && out->v[before] == id ? WHOLE_YES : WHOLE_NO;
        atomic_store_explicit(&b->whole[id], whole,
                              memory_order_relaxed); /* every thread finds the same */
    }
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Where a flight goes: the prefill worker that has least to do for it, what it is believed to hold
 * already counted in, and the decode worker with the least KV. Beliefs are hints: what a worker was
 * sent to compute it most likely still has; being wrong costs time and nothing else. */
#include <stdlib.h>
#include <string.h>

#include "cluster/router_impl.h"
#include "engine/block_key.h"

enum {
    PREFILL_TOKENS = 16384, /* that may wait at one prefill worker */
    ASKED_MAX = 4,          /* flights that one decode worker is asked about at a time */
};

static uint64_t *hint_of(const struct mate *m, const struct block_key *key, uint64_t *value) {
    memcpy(value, key->bytes, sizeof *value);
    return &m->hints[*value % HINTS];
}

static uint32_t hinted(const struct mate *m, const struct block_key *keys, uint32_t n) {
    uint32_t b = 0;
    uint64_t v;
    if (!m->hints) return 0;
    while (b < n && *hint_of(m, &keys[b], &v) == v) b++;
    return b;
}

static void remember(struct mate *m, const struct block_key *keys, uint32_t n) {
    uint64_t v;
    if (!m->hints) m->hints = calloc(HINTS, sizeof *m->hints); /* without it nothing is believed */
    for (uint32_t b = 0; b < n && m->hints; b++) {
        uint64_t *at = hint_of(m, &keys[b], &v);
        *at = v;
    }
}

static bool prefill_has_room(const struct router *r, const struct mate *m) {
    uint64_t most = r->o.prefill_tokens ? r->o.prefill_tokens : PREFILL_TOKENS;
    return mate_may(m, ROLE_OF_PREFILL) && m->prefill_rows < most;
}

/* Where it is computed soonest: what waits there already, and what is not believed to be there. */
struct mate *place_prefill(struct router *r, const struct route *f, uint64_t *rows) {
    const struct request *q = f->ticket->q;
    uint32_t choice = leader_of(f), len = request_len(q, choice), n = (len - 1) / KV_PAGE_TOKENS;
    struct block_key *keys = q->prompt_logprobs < 0 && n ? malloc(n * sizeof *keys) : NULL;
    struct mate *best = NULL;
    uint64_t best_cost = UINT64_MAX;
    if (!keys) n = 0;
    struct block_key key;
    block_key_root(&key, q);
    for (uint32_t b = 0; b < n; b++) {
        block_key_next(&key, &key, q, choice, b);
        keys[b] = key;
    }
    for (struct mate *m = r->mates; m; m = m->next) {
        /* one that changed its role meanwhile may have the room reserved */
        if (!prefill_has_room(r, m) || m == f->decode) continue;
        uint64_t mine = len - (uint64_t)hinted(m, keys, n) * KV_PAGE_TOKENS;
        if (m->prefill_rows + mine >= best_cost) continue;
        best_cost = m->prefill_rows + mine;
        *rows = mine;
        best = m;
    }
    if (best) remember(best, keys, n);
    free(keys);
    return best;
}

/* The one with the least KV in use, room for outputs to come not counted: it comes to all alike. */
struct mate *place_decode(struct router *r, uint64_t now_ns) {
    struct mate *best = NULL;
    for (struct mate *m = r->mates; m; m = m->next) {
        if (!mate_may(m, ROLE_OF_DECODE) || now_ns < m->full_until_ns || m->n_asked >= ASKED_MAX)
            continue;
        if (!best || m->kv_tokens < best->kv_tokens) best = m;
    }
    return best;
}

/* Prompt tokens that may be under way before more wait here; what was asked about counts already. */
bool place_room(const struct router *r) {
    uint64_t n = 0, rows = r->asked_rows, most = r->o.prefill_tokens;
    bool any = false;
    for (const struct mate *m = r->mates; m; m = m->next) {
        if (!mate_may(m, ROLE_OF_PREFILL)) continue;
        n++;
        rows += m->prefill_rows;
        any = any || prefill_has_room(r, m);
    }
    return any && rows < n * (most ? most : PREFILL_TOKENS);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements output.h. `held` is what was decoded and not given out; after each token everything
 * goes except the longest end that is a beginning of some stop string. */
#include "text/output.h"

#include <string.h>

enum { HELD_BYTES_MAX = 1 << 20 };

void text_output_init(struct text_output *o, const struct tokenizer *tok,
                      enum tok_special special) {
    *o = (struct text_output){
        .tok = tok, .special = special, .held = {.max = HELD_BYTES_MAX}, .stopped_by = -1};
}

void text_output_release(struct text_output *o) {
    buf_release(&o->held);
}

/* The first stop string to complete in held, scanning from where it could begin: the earliest end
 * wins, then the earliest begin. */
static bool find_stop(const struct text_output *o, size_t *begin, int32_t *which) {
    size_t best_end = SIZE_MAX;
    for (uint32_t i = 0; i < o->n_stops; i++) {
        size_t len = strlen(o->stops[i]);
        const char *hit = o->held.len ? memmem(o->held.data, o->held.len, o->stops[i], len) : NULL;
        if (!hit) continue;
        size_t at = (size_t)(hit - o->held.data);
        if (at + len > best_end || (at + len == best_end && at >= *begin)) continue;
        best_end = at + len;
        *begin = at;
        *which = (int32_t)i;
    }
    return best_end != SIZE_MAX;
}

/* Length of the longest end of held that begins a stop string. */
static size_t undecided(const struct text_output *o) {
    size_t most = 0;
    for (uint32_t i = 0; i < o->n_stops; i++) {
        size_t len = strlen(o->stops[i]), n = len - 1 < o->held.len ? len - 1 : o->held.len;
        while (n > most && memcmp(o->held.data + o->held.len - n, o->stops[i], n) != 0) n--;
        if (n > most) most = n;
    }
    return most;
}

static enum st give(struct text_output *o, struct buf *out, size_t n) {
    if (n == 0) return ST_OK;
    enum st st = buf_append(out, o->held.data, n);
    if (st) return st;
    memmove(o->held.data, o->held.data + n, o->held.len - n);
    o->held.len -= n;
    return ST_OK;
}

enum st text_output_push(struct text_output *o, struct buf *out, uint32_t id, bool watch_stops) {
    enum st st = tok_stream_push(&o->stream, &o->held, o->tok, id, o->special);
    if (st) return st;
    if (!watch_stops)
        return give(o, out, o->held.len - undecided(o)); /* it may end later, where stops count */
    size_t begin = 0;
    if (find_stop(o, &begin, &o->stopped_by)) {
        st = give(o, out, begin);
        o->held.len = 0;
        return st;
    }
    return give(o, out, o->held.len - undecided(o));
}

enum st text_output_end(struct text_output *o, struct buf *out) {
    enum st st = tok_stream_end(&o->stream, &o->held);
    return st ? st : give(o, out, o->held.len);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding (tokenizer.h). A text is made well-formed, parted at added tokens of the
 * first kind, each stretch between is normalised and parted at those of the second kind, and what
 * remains is pre-tokenised and merged. The order and its corners are those of TokenizerImpl::encode
 * in the `tokenizers` crate. */
#include "text/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"
#include "text/utf8.h"

enum {
    TEXT_BYTES_MAX = 256 << 20,
    GROWTH_MAX = 64,       /* how many times longer normalisers may make a text, and */
    GROWTH_FREE = 1 << 16, /* so much in any case */
};

static const char replacement[] = "\xEF\xBF\xBD";

struct encoder {
    const struct tokenizer *t;
    struct tok_ids *out;
    enum tok_added added;
    struct pattern_scratch *pattern;
    struct bpe_scratch bpe;
    struct pieces pieces;
    struct err *err;
};

static enum st no_memory(struct err *err, enum st st) {
    return err_set(err, st, "tokenizer: out of memory");
}

/* Normalised text without added tokens. */
static enum st encode_plain(struct encoder *e, const struct working *text, size_t start,
                            size_t end) {
    struct working part = working_part(text, start, end - start);
    enum st st = pretokenize(&e->pieces, e->t->pretokenizer, &part, 0, (uint32_t)part.len,
                             e->pattern, e->err);
    size_t first = e->out->len;
    for (size_t i = 0; i < e->pieces.len && !st; i++) {
        struct piece p = e->pieces.v[i];
        st = bpe_encode(e->out, &e->t->bpe, &e->bpe, part.data + p.start, p.len, p.start);
        if (st) no_memory(e->err, st);
    }
    for (size_t i = first; i < e->out->len; i++)
        e->out->byte[i] = working_from(&part, e->out->byte[i]);
    working_release(&part);
    return st;
}

static enum st append_token(struct encoder *e, const struct working *text,
                            const struct stretch *s) {
    enum st st = tok_ids_append(e->out, s->token->id, working_from(text, s->start));
    return st ? no_memory(e->err, st) : ST_OK;
}

/* Text between added tokens of the first kind. */
static enum st encode_stretch(struct encoder *e, const struct working *text, size_t start,
                              size_t end) {
    struct working part = working_part(text, start, end - start);
    struct stretch s;
    enum st st = normalize(&part, e->t->normalizer, e->pattern, e->err);
    if (!st && (e->added == TOK_ADDED_PLAIN || e->t->in_normal.len == 0)) {
        if (part.len) st = encode_plain(e, &part, 0, part.len);
    } else if (!st) {
        struct added_walk w = {.text = &part, .trie = &e->t->in_normal, .tokens = e->t->added};
        while (!st && added_next(&s, &w))
            st = s.token ? append_token(e, &part, &s) : encode_plain(e, &part, s.start, s.end);
    }
    working_release(&part);
    return st;
}

static enum st encode_well_formed(struct encoder *e, const struct working *text) {
    if (text->len == 0) return ST_OK;
    if (e->added == TOK_ADDED_PLAIN) return encode_stretch(e, text, 0, text->len);
    struct added_walk w = {.text = text, .trie = &e->t->in_text, .tokens = e->t->added};
    struct stretch s;
    enum st st = ST_OK;
    while (!st && added_next(&s, &w))
        st = s.token ? append_token(e, text, &s) : encode_stretch(e, text, s.start, s.end);
    return st;
}

/* text, in which from is the first malformed byte, with U+FFFD for what is malformed. */
static enum st make_well_formed(struct working *out, const struct working *text, size_t from) {
    struct working good = working_part(text, 0, from);
    enum st st = working_append_part(out, &good);
    for (size_t i = from; i < text->len && !st;) {
        uint32_t cp, n = utf8_next(&cp, text->data + i, text->len - i);
        struct working part = working_part(text, i, n);
        st = cp < UTF8_BAD
                 ? working_append_part(out, &part)
                 : working_append(out, replacement, 3, working_from_range(text, i, i + n));
        i += n;
    }
    return st;
}

static enum st encode(struct tok_ids *out, const struct tokenizer *t, const char *text, size_t len,
                      const uint8_t *allow, enum tok_added added, struct err *err) {
    if (len > TEXT_BYTES_MAX)
        return err_set(err, ST_FULL, "tokenizer: found a text of %zu bytes, expected at most %d",
                       len, TEXT_BYTES_MAX);
    struct encoder e = {.t = t, .out = out, .added = added, .err = err};
    enum st st = pattern_scratch_new(&e.pattern, err);
    if (st) return st;
    /* Borrowed bytes are never written to. */
    struct working raw = {.data = (char *)(uintptr_t)text,
                          .len = len,
                          .max = len * GROWTH_MAX + GROWTH_FREE,
                          .allow = allow};
    if (raw.max > UINT32_MAX) raw.max = UINT32_MAX;
    size_t good = utf8_valid_prefix(text, len), before = out->len;
    if (good < len) {
        struct working whole = {.owner = WORKING_OWNS, .max = raw.max, .allow = allow};
        st = make_well_formed(&whole, &raw, good);
        st = st ? no_memory(err, st) : encode_well_formed(&e, &whole);
        working_release(&whole);
    } else {
        st = encode_well_formed(&e, &raw);
    }
    if (st) out->len = before;
    pattern_scratch_free(e.pattern);
    bpe_scratch_release(&e.bpe);
    pieces_release(&e.pieces);
    return st;
}

enum st tok_encode(struct tok_ids *out, const struct tokenizer *t, const char *text, size_t len,
                   enum tok_added added, struct err *err) {
    return encode(out, t, text, len, NULL, added, err);
}

enum st tok_encode_masked(struct tok_ids *out, const struct tokenizer *t, const char *text,
                          size_t len, const uint8_t *allow, struct err *err) {
    return encode(out, t, text, len, allow, TOK_ADDED_MATCH, err);
}

/* --- ids and tokens --------------------------------------------------------------------------- */

static const struct added_token *find_added(const struct tokenizer *t, uint32_t id) {
    uint32_t lo = 0, hi = t->n_added;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct added_token *a = &t->added[t->added_by_id[mid]];
        if (a->id == id) return a;
        if (a->id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

uint32_t tok_vocab(const struct tokenizer *t) {
    uint32_t n = t->vocab.ids;
    if (t->n_added) {
        uint32_t last = t->added[t->added_by_id[t->n_added - 1]].id + 1;
        if (last > n) n = last;
    }
    return n;
}

bool tok_id(const struct tokenizer *t, const char *token, uint32_t *id) {
    size_t len = strlen(token);
    uint32_t added = trie_find(&t->by_content, token, len);
    if (added != NO_VALUE) {
        *id = t->added[added].id;
        return true;
    }
    char *bytes = malloc(len + 1);
    if (!bytes) return false;
    bool literal;
    size_t n = alphabet_decode(bytes, &literal, token, len);
    uint32_t found = vocabulary_find(&t->vocab, bytes, n, literal);
    free(bytes);
    if (found != NO_TOKEN) *id = found;
    return found != NO_TOKEN;
}

int64_t tok_bos(const struct tokenizer *t) {
    return t->bos;
}
int64_t tok_eos(const struct tokenizer *t) {
    return t->eos;
}
bool tok_adds_bos(const struct tokenizer *t) {
    return t->adds_bos;
}

/* --- decoding --------------------------------------------------------------------------------- */

static void token_bytes(const char **bytes, size_t *len, const struct tokenizer *t, uint32_t id,
                        enum tok_special special) {
    *bytes = "";
    *len = 0;
    const struct added_token *a = find_added(t, id);
    if (a && !(a->hidden && special == TOK_SPECIAL_SKIP)) {
        *bytes = a->shown;
        *len = a->shown_len;
    } else if (!a && id < t->vocab.ids && t->vocab.tokens[id].start != NO_TOKEN) {
        *bytes = t->vocab.bytes + t->vocab.tokens[id].start;
        *len = t->vocab.tokens[id].len;
    }
}

enum st tok_decode_token(struct buf *out, const struct tokenizer *t, uint32_t id,
                         enum tok_special special) {
    const char *bytes;
    size_t len;
    token_bytes(&bytes, &len, t, id, special);
    return len ? buf_append(out, bytes, len) : ST_OK;
}

/* Appends what of bytes is certain and holds back the rest, at most three bytes. */
static enum st push_bytes(struct tok_stream *s, struct buf *out, const char *bytes, size_t len) {
    enum st st = ST_OK;
    size_t i = 0;
    while (i < len && !st) {
        char joined[8]; /* what was held, and enough to complete it */
        uint32_t held = s->n_held, cp;
        const char *at = bytes + i;
        size_t n_at = len - i;
        if (held) {
            n_at = n_at < 4 ? n_at : 4;
            memcpy(joined, s->held, held);
            memcpy(joined + held, at, n_at);
            at = joined;
            n_at += held;
        } else {
            size_t good = utf8_valid_prefix(at, n_at);
            if (good) st = buf_append(out, at, good);
            i += good;
            if (good == n_at || st) break;
            at += good;
            n_at -= good;
        }
        uint32_t n = utf8_next(&cp, at, n_at);
        assert(n >= held);
        s->n_held = 0;
        i += n - held;
        if (cp == UTF8_CUT) {
            memcpy(s->held, at, n);
            s->n_held = n;
        } else if (cp == UTF8_BAD) {
            st = buf_append(out, replacement, 3);
        } else {
            st = buf_append(out, at, n);
        }
    }
    return st;
}

enum st tok_stream_push(struct tok_stream *s, struct buf *out, const struct tokenizer *t,
                        uint32_t id, enum tok_special special) {
    const char *bytes;
    size_t len;
    token_bytes(&bytes, &len, t, id, special);
    return push_bytes(s, out, bytes, len);
}

enum st tok_stream_end(struct tok_stream *s, struct buf *out) {
    bool held = s->n_held > 0;
    s->n_held = 0;
    return held ? buf_append(out, replacement, 3) : ST_OK;
}

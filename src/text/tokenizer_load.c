/* SPDX-License-Identifier: Apache-2.0 */
/* Reads tokenizer.json and tokenizer_config.json. Members of the file that change ids are followed
 * or refused by name; truncation and padding, which every server turns off, are passed over. The
 * ids of added tokens must be those that `tokenizers` would give: of the vocabulary's token with
 * that content, else counted on from its size. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"

enum { FILE_BYTES_MAX = 256 << 20, ADDED_MAX = 1 << 20, PLACE_MAX = 512 };

/* A token for an error: what is not printable ASCII or too long becomes "...". */
struct quoted {
    char text[48];
};
static const char *quote(struct quoted *q, const char *text, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n == 40 || (uint8_t)text[i] < 0x20 || text[i] == 0x7F) {
            while (n > 0 && ((uint8_t)q->text[n - 1] & 0xC0) == 0x80 &&
                   utf8_valid_prefix(q->text, n) < n)
                n--;
            memcpy(q->text + utf8_valid_prefix(q->text, n), "...", 4);
            return q->text;
        }
        q->text[n++] = text[i];
    }
    q->text[n] = '\0';
    return q->text;
}

/* --- model ------------------------------------------------------------------------------------ */

static enum st add_key(struct tokenizer *t, const char *key, const json_t *id, const char *name,
                       struct err *err) {
    size_t len = strlen(key);
    struct quoted q;
    if (!json_is_integer(id))
        return err_set(err, ST_INVALID,
                       "%s: model.vocab: '%s': found %s, expected an integer from 0 to %d", name,
                       quote(&q, key, len), json_kind(id), VOCABULARY_IDS_MAX - 1);
    json_int_t v = json_integer_value(id);
    if (v < 0 || v >= VOCABULARY_IDS_MAX)
        return err_set(err, ST_INVALID, "%s: model.vocab: '%s': found %lld, expected 0 to %d", name,
                       quote(&q, key, len), (long long)v, VOCABULARY_IDS_MAX - 1);
    switch (vocabulary_add(&t->vocab, key, len, (uint32_t)v)) {
    case VOCABULARY_ADDED: break;
    case VOCABULARY_NO_MEMORY:
        return err_set(err, ST_NO_MEMORY, "%s: model.vocab: out of memory", name);
    case VOCABULARY_SAME_KEY: /* JSON with two of one key was refused, and no two keys are the same
                                 bytes */
        assert(false);        /* a key twice: the parser refuses that */
        break;
    case VOCABULARY_SAME_ID:
        return err_set(err, ST_INVALID,
                       "%s: model.vocab: '%s': found id %lld, which another token has", name,
                       quote(&q, key, len), (long long)v);
    }
    return ST_OK;
}

static enum st read_vocab(struct tokenizer *t, const json_t *vocab, const char *name,
                          struct err *err) {
    if (!json_is_object(vocab))
        return err_set(err, ST_INVALID, "%s: model.vocab: found %s, expected an object", name,
                       json_kind(vocab));
    size_t bytes = 0;
    const char *key;
    json_t *id;
    json_object_foreach((json_t *)vocab, key, id) bytes += strlen(key);
    enum st st = vocabulary_init(&t->vocab, bytes, name, err);
    json_object_foreach((json_t *)vocab, key, id) {
        if (!st) st = add_key(t, key, id, name, err);
    }
    return st;
}

/* Both halves of a merge as the file has them, one after the other in text. */
struct merge {
    struct buf text, bytes;
    size_t left_len;
    const char *place; /* "tokenizer.json: model.merges[3]" */
    struct err *err;
};

static enum st find_part(uint32_t *id, const struct tokenizer *t, struct merge *m, size_t start,
                         size_t len) {
    bool literal;
    size_t n = alphabet_decode(m->bytes.data, &literal, m->text.data + start, len);
    *id = vocabulary_find(&t->vocab, m->bytes.data, n, literal);
    struct quoted q;
    return *id != NO_TOKEN
               ? ST_OK
               : err_set(m->err, ST_INVALID, "%s: found '%s', expected a token of model.vocab",
                         m->place, quote(&q, m->text.data + start, len));
}

static enum st add_merge(struct tokenizer *t, struct merge *m) {
    uint32_t left, right, merged;
    m->bytes.len = 0;
    enum st st = buf_append(&m->bytes, m->text.data, m->text.len); /* room for any decoded part */
    if (st) return err_set(m->err, st, "%s: out of memory", m->place);
    st = find_part(&left, t, m, 0, m->left_len);
    if (!st) st = find_part(&right, t, m, m->left_len, m->text.len - m->left_len);
    if (!st) st = find_part(&merged, t, m, 0, m->text.len);
    if (!st && bpe_add_merge(&t->bpe, left, right, merged))
        st = err_set(m->err, ST_NO_MEMORY, "%s: out of memory", m->place);
    return st;
}

static enum st put_halves(struct merge *m, const char *left, size_t left_len, const char *right,
                          size_t right_len) {
    m->left_len = left_len;
    m->text.len = 0;
    enum st st = buf_append(&m->text, left, left_len);
    if (!st) st = buf_append(&m->text, right, right_len);
    return st ? err_set(m->err, st, "%s: out of memory", m->place) : ST_OK;
}

/* "a b", or ["a", "b"]. */
static enum st read_merge(struct merge *m, const json_t *json) {
    if (json_is_string(json)) {
        const char *text = json_string_value(json);
        size_t len = json_string_length(json);
        const char *space = memchr(text, ' ', len);
        size_t left_len = space ? (size_t)(space - text) : len;
        struct quoted q;
        if (!space || memchr(space + 1, ' ', len - left_len - 1))
            return err_set(m->err, ST_INVALID,
                           "%s: found '%s', expected two tokens with one space between", m->place,
                           quote(&q, text, len));
        return put_halves(m, text, left_len, space + 1, len - left_len - 1);
    }
    const json_t *left = json_array_get(json, 0), *right = json_array_get(json, 1);
    if (!json_is_array(json) || json_array_size(json) != 2 || !json_is_string(left) ||
        !json_is_string(right))
        return err_set(m->err, ST_INVALID, "%s: found %s%s, expected \"a b\" or [\"a\", \"b\"]",
                       m->place, json_kind(json), json_is_array(json) ? " of something else" : "");
    return put_halves(m, json_string_value(left), json_string_length(left),
                      json_string_value(right), json_string_length(right));
}

static enum st read_merges(struct tokenizer *t, const json_t *merges, const char *name,
                           struct err *err) {
    if (!json_is_array(merges))
        return err_set(err, ST_INVALID, "%s: model.merges: found %s, expected an array", name,
                       json_kind(merges));
    if (json_array_size(merges) > BPE_MERGES_MAX)
        return err_set(err, ST_FULL, "%s: model.merges: found more than %d merges", name,
                       BPE_MERGES_MAX);
    char place[PLACE_MAX];
    struct merge m = {.text = {.max = FILE_BYTES_MAX},
                      .bytes = {.max = FILE_BYTES_MAX},
                      .place = place,
                      .err = err};
    enum st st = ST_OK;
    for (size_t i = 0; i < json_array_size(merges) && !st; i++) {
        snprintf(place, sizeof place, "%s: model.merges[%zu]", name, i);
        st = read_merge(&m, json_array_get(merges, i));
        if (!st) st = add_merge(t, &m);
    }
    buf_release(&m.text);
    buf_release(&m.bytes);
    return st;
}

/* The options of a BPE model that we do not do must be off, or without effect, which those about
 * unknown bytes are if there are none. */
static enum st check_model_options(const struct tokenizer *t, const json_t *model,
                                   const char *place, struct err *err) {
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *text;
    double dropout;
    bool complete = true, fallback = false;
    for (uint32_t i = 0; i < 256; i++) complete = complete && t->bpe.byte_ids[i] != NO_TOKEN;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        enum st st = json_get_str(&text, model, texts[i], "", place, err);
        if (st) return st;
        if (*text)
            return err_set(err, ST_UNSUPPORTED, "%s: %s: found '%.40s', expected null", place,
                           texts[i], text);
    }
    enum st st = json_get_f64(&dropout, model, "dropout", 0, 0, 0, place, err);
    if (!st) st = json_get_bool(&fallback, model, "byte_fallback", false, place, err);
    if (!st) st = json_get_str(&text, model, "unk_token", NULL, place, err);
    if (st || complete || !(fallback || text)) return st;
    return err_set(
        err, ST_UNSUPPORTED,
        "%s: %s: found %s, expected null or false where vocab lacks some of the 256 bytes", place,
        text ? "unk_token" : "byte_fallback", text ? "a string" : "true");
}

static enum st read_model(struct tokenizer *t, const json_t *root, const char *name,
                          struct err *err) {
    const json_t *model = json_object_get(root, "model");
    char place[PLACE_MAX];
    const char *type;
    snprintf(place, sizeof place, "%s: model", name);
    if (!json_is_object(model))
        return err_set(err, ST_INVALID, "%s: found %s, expected an object", place,
                       json_kind(model));
    enum st st = json_get_str(&type, model, "type", "BPE", place, err);
    if (st) return st;
    if (strcmp(type, "BPE") != 0)
        return err_set(err, ST_UNSUPPORTED, "%s: type: found '%.40s', expected BPE", place, type);
    st = read_vocab(t, json_object_get(model, "vocab"), name, err);
    if (!st) st = bpe_init(&t->bpe, &t->vocab, name, err);
    if (!st) st = json_get_bool(&t->bpe.whole_first, model, "ignore_merges", false, place, err);
    if (!st) st = check_model_options(t, model, place, err);
    return st ? st : read_merges(t, json_object_get(model, "merges"), name, err);
}

/* --- added tokens ----------------------------------------------------------------------------- */

static char *copy(const char *text, size_t len) {
    char *p = malloc(len + 1);
    if (!p) return NULL;
    memcpy(p, text, len);
    p[len] = '\0';
    return p;
}

static struct added_token *new_added(struct tokenizer *t) {
    if (t->n_added == t->added_cap) {
        uint32_t cap = t->added_cap ? t->added_cap * 2 : 64;
        struct added_token *added = realloc(t->added, cap * sizeof *added);
        if (!added) return NULL;
        t->added = added;
        t->added_cap = cap;
    }
    struct added_token *a = &t->added[t->n_added];
    *a = (struct added_token){0};
    return a;
}

static enum st read_flags(struct added_token *a, const json_t *json, const char *place,
                          struct err *err) {
    enum st st = json_get_bool(&a->single_word, json, "single_word", false, place, err);
    if (!st) st = json_get_bool(&a->lstrip, json, "lstrip", false, place, err);
    if (!st) st = json_get_bool(&a->rstrip, json, "rstrip", false, place, err);
    if (!st) st = json_get_bool(&a->special, json, "special", false, place, err);
    if (!st) st = json_get_bool(&a->normalized, json, "normalized", !a->special, place, err);
    return st;
}

/* The id of a token of the vocabulary, as the file writes it; NO_TOKEN if there is none. */
static uint32_t id_in_vocab(const struct tokenizer *t, const char *content, size_t len) {
    char bytes[ADDED_BYTES_MAX];
    bool literal;
    size_t n = alphabet_decode(bytes, &literal, content, len);
    return vocabulary_find(&t->vocab, bytes, n, literal);
}

enum id_rule { ID_MUST_AGREE, ID_IS_NATURAL };

/* One added token. *next is the id of the next one that the vocabulary lacks. */
static enum st add_token(struct tokenizer *t, const json_t *json, uint32_t declared,
                         enum id_rule rule, uint32_t *next, const char *place, struct err *err) {
    const json_t *content = json_object_get(json, "content");
    if (!json_is_string(content))
        return err_set(err, ST_INVALID, "%s: content: found %s, expected a string", place,
                       json_kind(content));
    const char *text = json_string_value(content);
    size_t len = json_string_length(content);
    if (len == 0) return ST_OK;
    if (len > ADDED_BYTES_MAX)
        return err_set(err, ST_UNSUPPORTED, "%s: content: found %zu bytes, expected at most %d",
                       place, len, ADDED_BYTES_MAX);
    uint32_t old = trie_find(&t->by_content, text, len);
    struct added_token flags = {0};
    enum st st = read_flags(&flags, json, place, err);
    if (st) return st;
    struct quoted q;
    uint32_t in_vocab = id_in_vocab(t, text, len);
    uint32_t id = old != NO_VALUE ? t->added[old].id : in_vocab != NO_TOKEN ? in_vocab : *next;
    bool fresh = old == NO_VALUE && in_vocab == NO_TOKEN;
    if (rule == ID_MUST_AGREE && id != declared)
        return err_set(err, ST_INVALID, "%s: '%s': found id %u, expected %u, %s", place,
                       quote(&q, text, len), declared, id,
                       fresh ? "the next free one" : "which it has already");
    if (fresh && id < t->vocab.ids && t->vocab.tokens[id].start != NO_TOKEN)
        return err_set(err, ST_INVALID,
                       "%s: '%s': found id %u, which a token of the vocabulary has", place,
                       quote(&q, text, len), id);
    struct added_token *a = old != NO_VALUE ? &t->added[old] : new_added(t);
    if (!a) return err_set(err, ST_NO_MEMORY, "%s: out of memory", place);
    flags.special = flags.special || a->special;
    flags.content = a->content ? a->content : copy(text, len);
    flags.len = (uint32_t)len;
    flags.id = id;
    *a = flags;
    if (old != NO_VALUE) return ST_OK;
    if (fresh) ++*next;
    t->n_added++;
    if (!a->content || trie_add(&t->by_content, text, len, t->n_added - 1) != TRIE_ADDED)
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", place);
    return ST_OK;
}

static enum st read_added(struct tokenizer *t, const json_t *root, uint32_t *next, const char *name,
                          struct err *err) {
    const json_t *list = json_at(root, "added_tokens");
    if (list && !json_is_array(list))
        return err_set(err, ST_INVALID, "%s: added_tokens: found %s, expected an array", name,
                       json_kind(list));
    if (json_array_size(list) > ADDED_MAX)
        return err_set(err, ST_FULL, "%s: added_tokens: found more than %d", name, ADDED_MAX);
    enum st st = ST_OK;
    for (size_t i = 0; i < json_array_size(list) && !st; i++) {
        const json_t *json = json_array_get(list, i);
        char place[PLACE_MAX];
        uint32_t id;
        snprintf(place, sizeof place, "%s: added_tokens[%zu]", name, i);
        st = json_get_u32(&id, json, "id", 0, VOCABULARY_IDS_MAX - 1, UINT32_MAX, place, err);
        if (!st && id == UINT32_MAX)
            st = err_set(err, ST_INVALID, "%s: id: found nothing, expected an integer", place);
        if (!st) st = add_token(t, json, id, ID_MUST_AGREE, next, place, err);
    }
    return st;
}

static int by_number(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    size_t nx = strlen(x), ny = strlen(y);
    return nx != ny ? (nx > ny) - (nx < ny) : strcmp(x, y);
}

/* Tokens that only tokenizer_config.json has are added as transformers adds them: in the order of
 * the ids it declares, but with ids of their own. Where it agrees with tokenizer.json, as it
 * should, there are none. */
static enum st read_added_decoder(struct tokenizer *t, const json_t *config, uint32_t *next,
                                  const char *name, struct err *err) {
    json_t *decoder = json_at(config, "added_tokens_decoder");
    if (decoder && !json_is_object(decoder))
        return err_set(err, ST_INVALID, "%s: added_tokens_decoder: found %s, expected an object",
                       name, json_kind(decoder));
    size_t n = json_object_size(decoder), i = 0;
    const char **ids = calloc(n + 1, sizeof *ids);
    if (!ids) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    for (void *it = json_object_iter(decoder); it; it = json_object_iter_next(decoder, it))
        ids[i++] = json_object_iter_key(it);
    qsort(ids, n, sizeof *ids, by_number);
    enum st st = ST_OK;
    for (i = 0; i < n && !st; i++) {
        const json_t *json = json_object_get(decoder, ids[i]),
                     *content = json_object_get(json, "content");
        char place[PLACE_MAX];
        snprintf(place, sizeof place, "%s: added_tokens_decoder.%.16s", name, ids[i]);
        bool known =
            json_is_string(content) && trie_find(&t->by_content, json_string_value(content),
                                                 json_string_length(content)) != NO_VALUE;
        if (!known && t->n_added < ADDED_MAX)
            st = add_token(t, json, 0, ID_IS_NATURAL, next, place, err);
    }
    free(ids);
    return st;
}

/* What a token matches and decodes to, and its place in the two tries. */
static enum st finish_token(struct tokenizer *t, uint32_t index, struct pattern_scratch *scratch,
                            const char *name, struct err *err) {
    struct added_token *a = &t->added[index];
    struct working text = {.data = a->content, .len = a->len, .max = ADDED_BYTES_MAX * 16};
    enum st st = a->normalized ? normalize(&text, t->normalizer, scratch, err) : ST_OK;
    bool literal;
    if (!st) a->shown = malloc(text.len + 1);
    if (!st && !a->shown) st = err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    if (!st) {
        a->shown_len = (uint32_t)alphabet_decode(a->shown, &literal, text.data, text.len);
        uint32_t special = trie_find(&t->by_content, text.data, text.len);
        a->hidden = special != NO_VALUE && t->added[special].special;
        struct quoted q;
        switch (trie_add(a->normalized ? &t->in_normal : &t->in_text, text.data, text.len, index)) {
        case TRIE_ADDED: break;
        case TRIE_NO_MEMORY: st = err_set(err, ST_NO_MEMORY, "%s: out of memory", name); break;
        case TRIE_DUPLICATE:
            st = err_set(
                err, ST_INVALID,
                "%s: added_tokens: '%s' is the same as another, or nothing, when normalised", name,
                quote(&q, a->content, a->len));
        }
    }
    working_release(&text);
    return st;
}

struct id_index {
    uint32_t id, index;
};
static int by_id(const void *a, const void *b) {
    const struct id_index *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static enum st finish_added(struct tokenizer *t, const char *name, struct err *err) {
    struct pattern_scratch *scratch;
    enum st st = pattern_scratch_new(&scratch, err);
    if (st) return st;
    for (uint32_t i = 0; i < t->n_added && !st; i++) st = finish_token(t, i, scratch, name, err);
    pattern_scratch_free(scratch);
    if (st) return st;
    struct id_index *order = calloc((size_t)t->n_added + 1, sizeof *order);
    t->added_by_id = calloc((size_t)t->n_added + 1, sizeof *t->added_by_id);
    if (!order || !t->added_by_id) {
        free(order);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    }
    for (uint32_t i = 0; i < t->n_added; i++) order[i] = (struct id_index){t->added[i].id, i};
    qsort(order, t->n_added, sizeof *order, by_id);
    for (uint32_t i = 0; i < t->n_added; i++) t->added_by_id[i] = order[i].index;
    for (uint32_t i = 0; i < t->n_added; i++) bpe_never_whole(&t->bpe, t->added[i].id);
    free(order);
    return ST_OK;
}

/* --- decoder, post-processor, configuration --------------------------------------------------- */

static bool has_type(const json_t *json, const char *type) {
    const json_t *found = json_object_get(json, "type");
    return json_is_string(found) && strcmp(json_string_value(found), type) == 0;
}

static enum st check_decoder(const json_t *root, const char *name, struct err *err) {
    const json_t *decoder = json_at(root, "decoder");
    const json_t *list =
        has_type(decoder, "Sequence") ? json_object_get(decoder, "decoders") : NULL;
    if (json_array_size(list) == 1) decoder = json_array_get(list, 0);
    if (has_type(decoder, "ByteLevel")) return ST_OK;
    const json_t *type = json_object_get(decoder, "type");
    return err_set(err, ST_UNSUPPORTED, "%s: decoder: found %.40s, expected ByteLevel", name,
                   json_is_string(type) ? json_string_value(type) : json_kind(decoder));
}

/* The token that a TemplateProcessing puts before a single text, or NULL. */
static const char *leading_token(const json_t *processor) {
    const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
    const json_t *id = json_at(first, "SpecialToken.id");
    return json_is_string(id) ? json_string_value(id) : NULL;
}

static enum st read_post_processor(const char **bos, const json_t *root, const char *name,
                                   struct err *err) {
    const json_t *processor = json_at(root, "post_processor");
    const json_t *list =
        has_type(processor, "Sequence") ? json_object_get(processor, "processors") : NULL;
    size_t n = list ? json_array_size(list) : processor ? 1 : 0;
    *bos = NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = list ? json_array_get(list, i) : processor;
        if (has_type(one, "TemplateProcessing")) {
            if (!*bos) *bos = leading_token(one);
        } else if (!has_type(one, "ByteLevel")) {
            const json_t *type = json_object_get(one, "type");
            return err_set(
                err, ST_UNSUPPORTED,
                "%s: post_processor: found %.40s, expected TemplateProcessing or ByteLevel", name,
                json_is_string(type) ? json_string_value(type) : json_kind(one));
        }
    }
    return ST_OK;
}

/* bos_token and the like: a string, or an object with content. */
static enum st read_named_token(int64_t *id, const struct tokenizer *t, const json_t *config,
                                const char *member, const char *name, struct err *err) {
    const json_t *token = json_at(config, member);
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (!token) return ST_OK;
    if (!json_is_string(token))
        return err_set(err, ST_INVALID, "%s: %s: found %s, expected a string", name, member,
                       json_kind(token));
    uint32_t found;
    struct quoted q;
    if (!tok_id(t, json_string_value(token), &found))
        return err_set(err, ST_INVALID, "%s: %s: found '%s', expected a token of the vocabulary",
                       name, member,
                       quote(&q, json_string_value(token), json_string_length(token)));
    *id = found;
    return ST_OK;
}

static enum st read_rest(struct tokenizer *t, const json_t *root, const json_t *config,
                         const char *name, const char *config_name, struct err *err) {
    uint32_t next = t->vocab.count;
    const char *bos;
    enum st st = normalizer_new(&t->normalizer, json_at(root, "normalizer"), name, err);
    if (!st) st = pretokenizer_new(&t->pretokenizer, json_at(root, "pre_tokenizer"), name, err);
    if (!st) st = check_decoder(root, name, err);
    if (!st) st = read_post_processor(&bos, root, name, err);
    if (!st) st = read_added(t, root, &next, name, err);
    if (!st && config) st = read_added_decoder(t, config, &next, config_name, err);
    if (!st) st = finish_added(t, name, err);
    if (st) return st;
    uint32_t id;
    t->bos = bos && tok_id(t, bos, &id) ? (int64_t)id : -1;
    t->eos = -1;
    if (!config) {
        t->adds_bos = t->bos >= 0;
        return ST_OK;
    }
    st = read_named_token(&t->bos, t, config, "bos_token", config_name, err);
    if (!st) st = read_named_token(&t->eos, t, config, "eos_token", config_name, err);
    if (!st)
        st = json_get_bool(&t->adds_bos, config, "add_bos_token", bos != NULL, config_name, err);
    t->adds_bos = t->adds_bos && t->bos >= 0;
    return st;
}

static enum st check_version(const json_t *root, const char *name, struct err *err) {
    const char *version;
    if (!json_is_object(root))
        return err_set(err, ST_INVALID, "%s: found %s, expected an object", name, json_kind(root));
    enum st st = json_get_str(&version, root, "version", "1.0", name, err);
    if (st || strcmp(version, "1.0") == 0) return st;
    return err_set(err, ST_UNSUPPORTED, "%s: version: found '%.40s', expected 1.0", name, version);
}

static enum st load(struct tokenizer *t, const char *json, size_t len, const char *config,
                    size_t config_len, const char *name, const char *config_name, struct err *err) {
    json_t *root = NULL, *config_root = NULL;
    enum st st = json_parse(&root, json, len, name, err);
    if (!st && config) st = json_parse(&config_root, config, config_len, config_name, err);
    if (!st && config && !json_is_object(config_root))
        st = err_set(err, ST_INVALID, "%s: found %s, expected an object", config_name,
                     json_kind(config_root));
    if (!st) st = check_version(root, name, err);
    if (!st) st = read_model(t, root, name, err);
    if (!st) st = read_rest(t, root, config_root, name, config_name, err);
    json_decref(root);
    json_decref(config_root);
    return st;
}

static enum st new_named(struct tokenizer **out, const char *json, size_t len, const char *config,
                         size_t config_len, const char *name, const char *config_name,
                         struct err *err) {
    if (len > FILE_BYTES_MAX)
        return err_set(err, ST_FULL, "%s: found %zu bytes, expected at most %d", name, len,
                       FILE_BYTES_MAX);
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    enum st st = load(t, json, len, config, config_len, name, config_name, err);
    if (st)
        tok_free(t);
    else
        *out = t;
    return st;
}

enum st tok_new(struct tokenizer **out, const char *json, size_t len, const char *config,
                size_t config_len, const char *name, struct err *err) {
    return new_named(out, json, len, config, config_len, name, "tokenizer_config.json", err);
}

static bool has_tiktoken(const char *dir) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/tiktoken.model", dir);
    return n < (int)sizeof path && access(path, F_OK) == 0;
}

enum st tok_open(struct tokenizer **out, const char *dir, struct err *err) {
    char path[4096], config_path[4096];
    struct buf text = {.max = FILE_BYTES_MAX}, config = {.max = FILE_BYTES_MAX};
    struct stat sb;
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    int m = snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", dir);
    if (n >= (int)sizeof path || m >= (int)sizeof config_path)
        return err_set(err, ST_INVALID, "%.200s...: the path is too long", dir);
    enum st st = file_read(&text, path, err);
    if (st == ST_NOT_FOUND && has_tiktoken(dir))
        err_set(err, st, "%s: not found; tiktoken.model beside it is not a format we read", path);
    if (!st && stat(config_path, &sb) == 0) st = file_read(&config, config_path, err);
    if (!st)
        st = new_named(out, text.data ? text.data : "", text.len, config.data, config.len, path,
                       config_path, err);
    buf_release(&text);
    buf_release(&config);
    return st;
}

void tok_free(struct tokenizer *t) {
    if (!t) return;
    for (uint32_t i = 0; i < t->n_added; i++) {
        free(t->added[i].content);
        free(t->added[i].shown);
    }
    free(t->added);
    free(t->added_by_id);
    trie_release(&t->by_content);
    trie_release(&t->in_text);
    trie_release(&t->in_normal);
    normalizer_free(t->normalizer);
    pretokenizer_free(t->pretokenizer);
    bpe_release(&t->bpe);
    vocabulary_release(&t->vocab);
    free(t);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements added.h, after AddedVocabulary::find_matches of the `tokenizers` crate: a match
 * discarded for single_word is passed over whole, and what lstrip and rstrip take may overlap a
 * match before or after. A trie is walked from each byte that can begin a token; with contents of
 * at most ADDED_BYTES_MAX that bounds the work for a byte, and real ones diverge after a few. */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"
#include "text/utf8.h"

static uint32_t new_node(struct trie *t, uint8_t byte) {
    if (t->len == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 256;
        struct trie_node *nodes = realloc(t->nodes, cap * sizeof *nodes);
        if (!nodes) return 0;
        t->nodes = nodes;
        t->cap = cap;
    }
    if (t->len == 0)
        t->nodes[t->len++] = (struct trie_node){.value = NO_VALUE}; /* index 0 means none */
    if (t->len == t->cap) return new_node(t, byte);
    t->nodes[t->len] = (struct trie_node){.byte = byte, .value = NO_VALUE};
    return t->len++;
}

static uint32_t child(const struct trie *t, uint32_t node, uint8_t byte) {
    uint32_t c = t->nodes[node].first_child;
    while (c && t->nodes[c].byte != byte) c = t->nodes[c].next_sibling;
    return c;
}

enum trie_added trie_add(struct trie *t, const char *text, size_t len, uint32_t value) {
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)text[i];
        uint32_t below = i == 0 ? t->roots[byte] : child(t, node, byte);
        if (!below) {
            below = new_node(t, byte);
            if (!below) return TRIE_NO_MEMORY;
            if (i == 0) {
                t->roots[byte] = below;
            } else {
                t->nodes[below].next_sibling = t->nodes[node].first_child;
                t->nodes[node].first_child = below;
            }
        }
        node = below;
    }
    if (len == 0 || t->nodes[node].value != NO_VALUE) return TRIE_DUPLICATE;
    t->nodes[node].value = value;
    return TRIE_ADDED;
}

uint32_t trie_find(const struct trie *t, const char *text, size_t len) {
    if (len == 0) return NO_VALUE;
    uint32_t node = t->roots[(uint8_t)text[0]];
    for (size_t i = 1; i < len && node; i++) node = child(t, node, (uint8_t)text[i]);
    return node ? t->nodes[node].value : NO_VALUE;
}

void trie_release(struct trie *t) {
    free(t->nodes);
    *t = (struct trie){0};
}

/* The longest token that begins at start, every byte of it allowed. */
static bool match_at(const struct added_walk *w, size_t start, size_t *end, uint32_t *value) {
    const struct working *text = w->text;
    uint32_t node = w->trie->roots[(uint8_t)text->data[start]];
    bool found = false;
    for (size_t i = start; node && working_allows(text, i);) {
        i++;
        if (w->trie->nodes[node].value != NO_VALUE) {
            found = true;
            *end = i;
            *value = w->trie->nodes[node].value;
        }
        if (i == text->len) break;
        node = child(w->trie, node, (uint8_t)text->data[i]);
    }
    return found;
}

static bool stands_alone(const struct working *text, size_t start, size_t end) {
    size_t before;
    uint32_t cp;
    if (start > 0 && unicode_is_word(utf8_previous(&before, text->data, start))) return false;
    if (end == text->len) return true;
    utf8_next(&cp, text->data + end, text->len - end);
    return !unicode_is_word(cp);
}

/* Back over white space, but not into what is given out already. */
static size_t skip_spaces_back(const struct added_walk *w, size_t at) {
    size_t before;
    while (at > w->done && unicode_is_space(utf8_previous(&before, w->text->data, at))) at = before;
    return at;
}

static size_t skip_spaces(struct added_walk *w, size_t at) {
    if (at >= w->spaces_start && at < w->spaces_end)
        return w->spaces_end; /* else a long run costs its square */
    w->spaces_start = at;
    while (at < w->text->len) {
        uint32_t cp, n = utf8_next(&cp, w->text->data + at, w->text->len - at);
        if (!unicode_is_space(cp)) break;
        at += n;
    }
    w->spaces_end = at;
    return at;
}

/* The next token, with the spaces it takes. */
static bool next_token(struct stretch *out, struct added_walk *w) {
    const struct working *text = w->text;
    for (size_t i = w->from; i < text->len; i++) {
        size_t start = i, end;
        uint32_t value;
        if (!w->trie->roots[(uint8_t)text->data[i]] || !match_at(w, i, &end, &value)) continue;
        const struct added_token *token = &w->tokens[value];
        w->from = end;
        i = end - 1;
        if (token->single_word && !stands_alone(text, start, end)) continue;
        if (token->lstrip) start = start > w->done ? skip_spaces_back(w, start) : w->done;
        if (token->rstrip) end = skip_spaces(w, end);
        if (start >= end) { /* all of it was taken by the token before */
            w->done = end;
            continue;
        }
        *out = (struct stretch){start, end, token};
        return true;
    }
    w->from = text->len;
    return false;
}

bool added_next(struct stretch *out, struct added_walk *w) {
    if (!w->has_next && next_token(&w->next, w)) {
        w->has_next = true;
        if (w->done < w->next.start) {
            *out = (struct stretch){w->done, w->next.start, NULL};
            return true;
        }
    }
    if (w->has_next) {
        *out = w->next;
        w->has_next = false;
    } else {
        if (w->done >= w->text->len) return false;
        *out = (struct stretch){w->done, w->text->len, NULL};
    }
    w->done = out->end;
    return true;
}

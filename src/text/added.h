/* SPDX-License-Identifier: Apache-2.0 */
/* Added tokens: strings that are one token wherever they stand in a text, found before the text is
 * cut into pieces. Those with normalized: false are looked for in the text as it came, the others
 * in the normalised text between them. */
#ifndef SUPERNODE_TEXT_ADDED_H
#define SUPERNODE_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/working.h"

enum { ADDED_BYTES_MAX = 1024 };

struct added_token {
    char *content; /* as the file has it */
    uint32_t len, id;
    char *shown; /* the bytes it decodes to */
    uint32_t shown_len;
    bool single_word, lstrip, rstrip, normalized, special;
    bool hidden; /* left out of a text without special tokens */
};

#define NO_VALUE UINT32_MAX

/* A set of strings and the search for the leftmost, of those the longest. */
struct trie {
    struct trie_node {
        uint32_t first_child, next_sibling,
            value; /* 0: none; value is NO_VALUE where no string ends */
        uint8_t byte;
    } * nodes;
    uint32_t len, cap;
    uint32_t roots[256]; /* node of each first byte, or 0 */
};
enum trie_added { TRIE_ADDED, TRIE_DUPLICATE, TRIE_NO_MEMORY };
enum trie_added trie_add(struct trie *t, const char *text, size_t len, uint32_t value);
uint32_t trie_find(const struct trie *t, const char *text, size_t len); /* NO_VALUE: not in it */
void trie_release(struct trie *t);

/* A stretch of a text: an added token, or what lies between. */
struct stretch {
    size_t start, end;
    const struct added_token *token; /* NULL: text */
};

/* Where a search stands. A token is found only where the text allows all of its bytes. */
struct added_walk {
    const struct working *text;
    const struct trie *trie;
    const struct added_token *tokens;
    size_t from;                     /* the search goes on here */
    size_t done;                     /* given out up to here */
    size_t spaces_start, spaces_end; /* the run of white space that was skipped last */
    struct stretch next;
    bool has_next;
};
/* The next stretch; false at the end. Stretches of text are never empty. */
bool added_next(struct stretch *out, struct added_walk *w);

#endif

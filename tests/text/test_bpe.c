/* SPDX-License-Identifier: Apache-2.0 */
/* Merging against the plainest form of the rule, over random vocabularies: short pieces and long
 * ones (a heap), whose border the lengths cross, with bytes that the vocabulary lacks; and threads
 * that share a tokenizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/bpe.h"

enum { MERGES = 60, LETTERS = 4, IDS = LETTERS + MERGES, PIECE_MAX = 300 };

struct rule {
    uint32_t left, right;
};

static uint32_t next_random(uint32_t *seed) {
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

/* Letters a to d, and tokens that merges of earlier ones make. Returns how many merges there are.
 */
static uint32_t make_model(struct vocabulary *v, struct bpe *b, struct rule *rules,
                           uint32_t *seed) {
    static char texts[IDS][4096];
    static size_t lens[IDS];
    struct err err;
    assert_int_equal(vocabulary_init(v, sizeof texts, "test", &err), ST_OK);
    for (uint32_t i = 0; i < LETTERS; i++) {
        texts[i][0] = (char)('a' + i);
        lens[i] = 1;
        assert_int_equal(vocabulary_add(v, texts[i], 1, i), VOCABULARY_ADDED);
    }
    uint32_t n = 0, id = LETTERS;
    for (int tries = 0; tries < 1000 && n < MERGES; tries++) {
        struct rule r = {next_random(seed) % id, next_random(seed) % id};
        if (lens[r.left] + lens[r.right] > 40) continue;
        memcpy(texts[id], texts[r.left], lens[r.left]);
        memcpy(texts[id] + lens[r.left], texts[r.right], lens[r.right]);
        lens[id] = lens[r.left] + lens[r.right];
        if (vocabulary_add(v, texts[id], lens[id], id) != VOCABULARY_ADDED) continue;
        rules[n++] = r;
        id++;
    }
    assert_int_equal(bpe_init(b, v, "test", &err), ST_OK);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(bpe_add_merge(b, rules[i].left, rules[i].right, LETTERS + i), ST_OK);
    return n;
}

/* One merge at a time: the first rule that fits anywhere, at its first place. */
static uint32_t merge_plainly(uint32_t *ids, uint32_t n, const struct rule *rules,
                              uint32_t n_rules) {
    for (uint32_t r = 0; r < n_rules; r++)
        for (uint32_t i = 0; i + 1 < n; i++) {
            if (ids[i] != rules[r].left || ids[i + 1] != rules[r].right) continue;
            ids[i] = LETTERS + r;
            memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
            return merge_plainly(ids, n - 1, rules, n_rules);
        }
    return n;
}

static void merges_are_those_of_the_plain_rule(void **state) {
    (void)state;
    uint32_t seed = 7;
    struct bpe_scratch scratch = {0};
    for (int model = 0; model < 40; model++) {
        struct vocabulary v;
        struct bpe b;
        struct rule rules[MERGES];
        uint32_t n_rules = make_model(&v, &b, rules, &seed);
        for (int try = 0; try < 60; try++) {
            char piece[PIECE_MAX];
            uint32_t expected[PIECE_MAX], offsets[PIECE_MAX],
                len = 1 + next_random(&seed) % (try % 2 ? 60 : PIECE_MAX), n = 0;
            for (uint32_t i = 0; i < len; i++) {
                piece[i] =
                    (char)('a' + next_random(&seed) %
                                     (try % 3 ? LETTERS : LETTERS + 1)); /* there is no token e */
                if (piece[i] == 'a' + LETTERS) continue;
                offsets[n] = i;
                expected[n++] = (uint32_t)(piece[i] - 'a');
            }
            uint32_t letters = n;
            n = merge_plainly(expected, n, rules, n_rules);
            struct tok_ids ids = {0};
            assert_int_equal(bpe_encode(&ids, &b, &scratch, piece, len, 1000), ST_OK);
            assert_int_equal(ids.len, n);
            for (uint32_t i = 0, at = 0; i < n; i++) {
                assert_int_equal(ids.v[i], expected[i]);
                assert_true(at < letters);
                assert_int_equal(ids.byte[i], 1000 + offsets[at]);
                at += v.tokens[expected[i]].len;
            }
            tok_ids_release(&ids);
        }
        bpe_release(&b);
        vocabulary_release(&v);
    }
    bpe_scratch_release(&scratch);
}

/* --- threads ---------------------------------------------------------------------------------- */

struct reader {
    pthread_t thread;
    const struct tokenizer *tok;
    uint64_t sum;
};

static void *read_all(void *arg) {
    struct reader *r = arg;
    char text[64];
    for (uint32_t i = 0; i < 300; i++) {
        struct tok_ids ids = {0};
        int n = snprintf(text, sizeof text, "the %u words of thread's own %x text", i, i * 77777);
        if (tok_encode(&ids, r->tok, text, (size_t)n, TOK_ADDED_MATCH, NULL)) return NULL;
        for (size_t j = 0; j < ids.len; j++) r->sum = r->sum * 31 + ids.v[j];
        tok_ids_release(&ids);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    char dir[4096];
    struct tokenizer *t;
    struct err err;
    snprintf(dir, sizeof dir, "%s/tests/golden/tokenizer-small",
             getenv("SUPERNODE_ROOT") ? getenv("SUPERNODE_ROOT") : ".");
    if (tok_open(&t, dir, &err)) fail_msg("%s", err.text);
    struct reader readers[4] = {0};
    for (int i = 0; i < 4; i++) {
        readers[i].tok = t;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
    for (int i = 1; i < 4; i++) assert_true(readers[i].sum == readers[0].sum);
    assert_true(readers[0].sum != 0);
    tok_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_are_those_of_the_plain_rule),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

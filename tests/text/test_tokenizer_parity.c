/* SPDX-License-Identifier: Apache-2.0 */
/* Ids, offsets and decoded text equal those of Hugging Face's `tokenizers`, which
 * tokenizer_strings.py asks: 10,000 random strings each on the small tokenizer of tests/golden and
 * on DeepSeek-V3's (when ../shared is there), and some on about fifty variants of the small one.
 * SUPERNODE_SEED repeats or varies a run, SUPERNODE_STRINGS its length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "text/tokenizer.h"

struct parity {
    struct tokenizer *tok;
    char name[200];
    unsigned long strings, failures, refused, with_offsets;
};

static size_t unhex(uint8_t **out, const char *hex) {
    size_t n = strlen(hex) / 2;
    *out =
        malloc(n + 1); /* exactly as long, so that the address sanitizer sees reads past the end */
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        (*out)[i] = (uint8_t)byte;
    }
    return n;
}

static bool equal_ids(const json_t *expected, const uint32_t *ids, size_t n) {
    bool same = json_array_size(expected) == n;
    for (size_t i = 0; i < n && same; i++)
        same = json_integer_value(json_array_get(expected, i)) == (json_int_t)ids[i];
    return same;
}

static void report(struct parity *p, const char *what, const json_t *line,
                   const struct tok_ids *got) {
    if (p->failures++ > 5) return;
    char *ids = json_dumps(json_object_get(line, what), JSON_COMPACT | JSON_ENCODE_ANY);
    print_error("%s: %s differ for %s\n  expected %s\n  found   ", p->name, what,
                json_string_value(json_object_get(line, "bytes")), ids ? ids : "?");
    for (size_t i = 0; got && i < got->len; i++) print_error(" %u", got->v[i]);
    print_error("\n");
    free(ids);
}

/* HF tells the first character of each token, we its first byte. */
static bool equal_starts(const json_t *at, const uint8_t *text, const struct tok_ids *ids) {
    for (size_t i = 0; i < ids->len; i++) {
        uint32_t byte = ids->byte[i];
        while (byte > 0 && (text[byte] & 0xC0) == 0x80) byte--;
        if (json_integer_value(json_array_get(at, i)) != (json_int_t)byte) return false;
    }
    return true;
}

static bool decodes_to(const struct parity *p, const json_t *ids, const json_t *expected,
                       enum tok_special special) {
    struct tok_stream s = {0};
    struct buf out = {.max = 1 << 24};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        assert_int_equal(tok_stream_push(&s, &out, p->tok,
                                         (uint32_t)json_integer_value(json_array_get(ids, i)),
                                         special),
                         ST_OK);
        assert_true(s.n_held < 4);
    }
    assert_int_equal(tok_stream_end(&s, &out), ST_OK);
    uint8_t *text;
    size_t n = unhex(&text, json_string_value(expected));
    bool same = n == out.len && (n == 0 || memcmp(text, out.data, n) == 0);
    free(text);
    buf_release(&out);
    return same;
}

static void check_string(struct parity *p, const json_t *line) {
    static const enum tok_added modes[] = {TOK_ADDED_MATCH, TOK_ADDED_PLAIN};
    static const char *const members[] = {"ids", "plain"};
    uint8_t *text;
    struct err err;
    size_t len = unhex(&text, json_string_value(json_object_get(line, "bytes")));
    p->strings++;
    for (int i = 0; i < 2; i++) {
        struct tok_ids ids = {0};
        enum st st = tok_encode(&ids, p->tok, (const char *)text, len, modes[i], &err);
        if (st) print_error("%s: %s\n", p->name, err.text);
        if (st || !equal_ids(json_object_get(line, members[i]), ids.v, ids.len))
            report(p, members[i], line, &ids);
        const json_t *at = json_object_get(line, "at");
        if (!st && i == 0 && json_is_array(at)) {
            p->with_offsets++;
            if (!equal_starts(at, text, &ids)) report(p, "at", line, &ids);
        }
        tok_ids_release(&ids);
    }
    const json_t *decode = json_object_get(line, "decode");
    for (size_t i = 0; i < json_array_size(decode); i++) {
        const json_t *d = json_array_get(decode, i), *ids = json_array_get(d, 0);
        if (!decodes_to(p, ids, json_array_get(d, 1), TOK_SPECIAL_SHOW) ||
            !decodes_to(p, ids, json_array_get(d, 2), TOK_SPECIAL_SKIP))
            report(p, "decode", line, NULL);
    }
    free(text);
}

static void check_line(struct parity *p, const json_t *line) {
    const json_t *tokenizer = json_object_get(line, "tokenizer");
    if (!tokenizer) {
        check_string(p, line);
        return;
    }
    struct err err;
    tok_free(p->tok);
    p->tok = NULL;
    snprintf(p->name, sizeof p->name, "%s", json_string_value(json_object_get(line, "name")));
    if (tok_new(&p->tok, json_string_value(tokenizer), json_string_length(tokenizer), NULL, 0,
                p->name, &err))
        fail_msg("%s", err.text);
}

static void compare(const char *where, unsigned long count) {
    const char *root = getenv("SUPERNODE_ROOT"), *seed = getenv("SUPERNODE_SEED"),
               *strings = getenv("SUPERNODE_STRINGS");
    char command[4096];
    if (!root) root = ".";
    if (!seed) seed = "20261124";
    if (strings) count = strtoul(strings, NULL, 10);
    snprintf(command, sizeof command,
             "%s/build/venv/bin/python %s/tests/text/tokenizer_strings.py %s %s %lu", root, root,
             where, seed, count);
    FILE *oracle = popen(command, "r");
    assert_non_null(oracle);
    struct parity p = {0};
    char *text = NULL;
    size_t cap = 0;
    ssize_t len;
    while ((len = getline(&text, &cap, oracle)) > 0) {
        json_t *line;
        struct err err;
        if (json_parse(&line, text, (size_t)len, "tokenizer_strings.py", &err))
            fail_msg("%s", err.text);
        check_line(&p, line);
        json_decref(line);
    }
    free(text);
    assert_int_equal(pclose(oracle), 0);
    tok_free(p.tok);
    print_message("# %s: seed %s: %lu strings, %lu with offsets, %lu differ\n", where, seed,
                  p.strings, p.with_offsets, p.failures);
    assert_true(p.strings >= count && p.with_offsets > 0);
    assert_int_equal(p.failures, 0);
}

static void need_oracle(void) {
    char path[4096];
    const char *root = getenv("SUPERNODE_ROOT");
    snprintf(path, sizeof path, "%s/build/venv/bin/python", root ? root : ".");
    if (access(path, X_OK) == 0) return;
    print_message("# SKIP build/venv is missing: run tools/install-deps --tests\n");
    skip();
}

static void ids_equal_on_the_small_tokenizer(void **state) {
    (void)state;
    char folder[4096];
    need_oracle();
    snprintf(folder, sizeof folder, "%s/tests/golden/tokenizer-small",
             getenv("SUPERNODE_ROOT") ? getenv("SUPERNODE_ROOT") : ".");
    compare(folder, 10000);
}

static void ids_equal_on_variants_of_it(void **state) {
    (void)state;
    need_oracle();
    compare("variants", 120);
}

static void ids_equal_on_deepseek_v3(void **state) {
    (void)state;
    char folder[4096], file[4200];
    need_oracle();
    snprintf(folder, sizeof folder, "%s/../shared/data/tokenizers/deepseek-v3",
             getenv("SUPERNODE_ROOT") ? getenv("SUPERNODE_ROOT") : ".");
    snprintf(file, sizeof file, "%s/tokenizer.json", folder);
    if (access(file, R_OK) != 0) {
        print_message("# SKIP ../shared/data/tokenizers/deepseek-v3 is not there\n");
        skip();
    }
    compare(folder, 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_on_the_small_tokenizer),
        cmocka_unit_test(ids_equal_on_variants_of_it),
        cmocka_unit_test(ids_equal_on_deepseek_v3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

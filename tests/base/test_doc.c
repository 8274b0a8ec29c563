/* SPDX-License-Identifier: Apache-2.0 */
/* YAML as a tree: what is read, and what each complaint says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"

static struct doc *read_text(const char *text) {
    struct doc *d = NULL;
    struct err err;
    if (doc_read(&d, text, strlen(text), "f", &err)) fail_msg("%s", err.text);
    return d;
}

static void refused(const char *text, const char *sentence) {
    struct doc *d;
    struct err err;
    assert_int_equal(doc_read(&d, text, strlen(text), "f", &err), ST_INVALID);
    assert_string_equal(err.text, sentence);
}

static void a_tree_has_kinds_keys_and_lines(void **state) {
    (void)state;
    struct doc *d = read_text("\xef\xbb\xbf"
                              "a: 1\n# no\nlist:\n  - x\n  - {k: 'v', e: }\n");
    const struct doc_node *root = doc_root(d), *list = doc_find(root, "list");
    assert_int_equal(root->n, 2);
    assert_int_equal(list->kind, DOC_LIST);
    assert_int_equal(list->line, 3);
    assert_int_equal(list->n, 2);
    assert_string_equal(list->at[0].text, "x");
    assert_null(list->at[0].key);
    const struct doc_node *k = doc_find(&list->at[1], "k");
    assert_true(k->quoted && k->line == 5);
    assert_string_equal(doc_find(&list->at[1], "e")->text, "");
    assert_null(doc_find(root, "none"));
    assert_null(doc_find(list, "k"));
    doc_free(d);
}

static void an_empty_document_is_an_empty_mapping(void **state) {
    (void)state;
    const char *const empty[] = {"", "\n", "# words\n", "---\n", "\xef\xbb\xbf", NULL};
    for (const char *const *e = empty; *e; e++) {
        struct doc *d = read_text(*e);
        assert_int_equal(doc_root(d)->kind, DOC_MAP);
        assert_int_equal(doc_root(d)->n, 0);
        doc_free(d);
    }
}

static void what_a_description_does_not_need_is_refused(void **state) {
    (void)state;
    refused("a: &x 1\n", "f: line 1: found a tag or an anchor, expected a value");
    refused("a: !int 1\n", "f: line 1: found a tag or an anchor, expected a value");
    refused("a: *x\n", "f: line 1: found an alias, expected a value");
    refused("a: 1\nb: 2\na: 3\n", "f: line 3: a: found it twice, first in line 1");
    refused("a: 1\n---\nb: 1\n", "f: line 2: found a second document, expected one");
    refused("? [a]\n: 1\n", "f: line 1: found something else, expected a key");
    refused("a: \"x\\0y\"\n", "f: line 1: found a zero byte, expected text");
    char deep[256];
    memset(deep, '[', 100);
    deep[100] = '\0';
    refused(deep, "f: line 1: nested deeper than 64");
    struct doc *d;
    struct err err;
    assert_int_equal(doc_read(&d, "a: [1\n", 6, "f", &err), ST_INVALID);
    assert_non_null(strstr(err.text, "f: line "));
    assert_int_equal(doc_read(&d, "a: \xff\n", 6, "f", &err), ST_INVALID);
    assert_non_null(strstr(err.text, "expected UTF-8"));
    assert_int_equal(doc_open(&d, "/nowhere/x.yaml", &err), ST_NOT_FOUND);
}

static void sizes_are_bounded(void **state) {
    (void)state;
    enum { N = 150000 };
    struct doc *d;
    struct err err;
    char *text = malloc(N * 8);
    memset(text, ' ', N * 8);
    assert_int_equal(doc_read(&d, text, N * 8, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: found 1200000 bytes, expected at most 1 MiB");
    text[0] = '[';
    for (int i = 0; i < N; i++) memcpy(text + 1 + i * 2, "1,", 2);
    assert_int_equal(doc_read(&d, text, N * 2, "f", &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 1: more than 100,000 values in the file");
    free(text);
}

static void numbers_are_checked_for_kind_and_bounds(void **state) {
    (void)state;
    struct doc *d = read_text("x: 1.5e2\nn: 7\nq: '7'\nh: 0x10\nnan: .nan\nl: [1]\nneg: -3\n"
                              "e:\nbig: 99999999999999999999\n");
    const struct doc_node *r = doc_root(d);
    struct err err;
    double v = 3;
    uint64_t u = 4;
    assert_int_equal(doc_number(r, "x", 0, 200, &v, &err), ST_OK);
    assert_true(v == 150);
    assert_int_equal(doc_number(r, "none", 0, 1, &v, &err), ST_OK);
    assert_true(v == 150);
    assert_int_equal(doc_number(r, "x", 0, 100, &v, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 1: x: found 1.5e2, expected 0 to 100");
    assert_int_equal(doc_number(r, "q", 0, 9, &v, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 3: q: found '7' in quotes, expected a number");
    assert_int_equal(doc_number(r, "h", 0, 99, &v, &err), ST_INVALID);
    assert_int_equal(doc_number(r, "nan", 0, 99, &v, &err), ST_INVALID);
    assert_int_equal(doc_number(r, "l", 0, 99, &v, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 6: l: found a list, expected a number");
    assert_int_equal(doc_number(r, "e", 0, 99, &v, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 8: e: found nothing, expected a number");
    assert_int_equal(doc_count(r, "n", 0, 7, &u, &err), ST_OK);
    assert_int_equal(u, 7);
    assert_int_equal(doc_count(r, "neg", 0, 7, &u, &err), ST_INVALID);
    assert_int_equal(doc_count(r, "big", 0, UINT64_MAX, &u, &err), ST_INVALID);
    assert_int_equal(doc_count(r, "x", 0, 700, &u, &err), ST_INVALID);
    assert_string_equal(err.text,
                        "f: line 1: x: found '1.5e2', expected a whole number from 0 to 700");
    assert_int_equal(u, 7);
    doc_free(d);
}

static void words_keys_and_needs_are_named(void **state) {
    (void)state;
    static const char *const words[] = {"red", "green", NULL};
    static const char *const keys[] = {"colour", "on", "text", "inner", NULL};
    struct doc *d = read_text("colour: blue\non: yes\ntext: ~\ninner:\n  colur: green\n");
    const struct doc_node *r = doc_root(d);
    struct err err;
    uint32_t w = 9;
    bool on = false;
    const char *text = "kept";
    assert_int_equal(doc_word(r, "colour", words, &w, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 1: colour: found 'blue', expected red or green");
    assert_int_equal(doc_bool(r, "on", &on, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 2: on: found 'yes', expected true or false");
    assert_int_equal(doc_text(r, "text", &text, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 3: text: found nothing, expected a text");
    assert_int_equal(doc_only(r, keys, &err), ST_OK);
    const struct doc_node *inner = doc_find(r, "inner");
    assert_int_equal(inner->line, 4);
    assert_int_equal(doc_only(inner, keys, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 5: colur: unknown key; did you mean colour?");
    assert_int_equal(doc_only(inner, words, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 5: colur: unknown key, expected red or green");
    assert_int_equal(doc_need(inner, "colour", &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 4: inner: colour is missing");
    assert_int_equal(doc_only(doc_find(r, "on"), keys, &err), ST_INVALID);
    assert_string_equal(err.text, "f: line 2: on: found 'yes', expected a mapping");
    doc_free(d);
}

static void what_is_set_goes_before_the_file_and_is_checked_as_it_is(void **state) {
    (void)state;
    struct doc *d = read_text("rate: 1\nload:\n  n: 3\nlist: [1]\n");
    struct err err;
    double v = 0;
    uint64_t n = 0;
    assert_int_equal(doc_set(d, NULL, "rate", "2.5", "--rate", &err), ST_OK);
    assert_int_equal(doc_set(d, "load", "n", "x", "--n", &err), ST_OK);
    assert_int_equal(doc_set(d, "load", "m", "7", "--m", &err), ST_OK);
    assert_int_equal(doc_set(d, "new", "m", "9", "--new", &err), ST_OK);
    assert_int_equal(doc_set(d, "list", "m", "9", "--list", &err), ST_OK); /* stays a list */
    const struct doc_node *r = doc_root(d), *load = doc_find(r, "load");
    assert_int_equal(doc_number(r, "rate", 0, 3, &v, &err), ST_OK);
    assert_true(v == 2.5);
    assert_int_equal(doc_number(r, "rate", 0, 1, &v, &err), ST_INVALID);
    assert_string_equal(err.text, "--rate: found 2.5, expected 0 to 1");
    assert_int_equal(doc_count(load, "n", 0, 9, &n, &err), ST_INVALID);
    assert_string_equal(err.text, "--n: found 'x', expected a whole number from 0 to 9");
    assert_int_equal(doc_count(load, "m", 0, 9, &n, &err), ST_OK);
    assert_int_equal(n, 7);
    assert_int_equal(doc_count(doc_find(r, "new"), "m", 0, 9, &n, &err), ST_OK);
    assert_int_equal(n, 9);
    static const char *const keys[] = {"rate", "load", "list", NULL};
    assert_int_equal(doc_only(r, keys, &err), ST_INVALID);
    assert_string_equal(err.text, "--new: unknown key, expected rate, load or list");
    assert_int_equal(doc_find(r, "list")->kind, DOC_LIST);
    doc_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tree_has_kinds_keys_and_lines),
        cmocka_unit_test(an_empty_document_is_an_empty_mapping),
        cmocka_unit_test(what_a_description_does_not_need_is_refused),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(numbers_are_checked_for_kind_and_bounds),
        cmocka_unit_test(words_keys_and_needs_are_named),
        cmocka_unit_test(what_is_set_goes_before_the_file_and_is_checked_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

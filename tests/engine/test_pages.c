/* SPDX-License-Identifier: Apache-2.0 */
/* Pages and the keys of their blocks: who is evicted, who is found, whose keys differ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/pages.h"

static struct block_key key(uint8_t n) {
    struct block_key k = {{n, 0, 0, 0, n}};
    return k;
}

static uint32_t publish(struct pages *p, uint8_t n) {
    struct block_key k = key(n);
    uint32_t page = pages_take(p);
    pages_publish(p, page, &k);
    return page;
}

static uint32_t find(const struct pages *p, uint8_t n) {
    struct block_key k = key(n);
    return pages_find(p, &k);
}

static void pages_without_a_key_go_first_then_the_least_recently_used(void **state) {
    (void)state;
    struct pages p;
    struct err err;
    assert_int_equal(pages_init(&p, 4, NULL, &err), ST_OK);
    uint32_t a = publish(&p, 1), b = publish(&p, 2), plain = pages_take(&p);
    pages_drop(&p, a);
    pages_drop(&p, b);
    pages_drop(&p, plain);
    pages_hold(&p, find(&p, 1)); /* used again: now b is the older */
    pages_drop(&p, a);
    assert_int_equal(p.n_free, 4);
    assert_int_equal(p.n_cached, 2);
    uint32_t first = pages_take(&p), second = pages_take(&p);
    assert_true(first != a && first != b && second != a && second != b);
    assert_int_equal(pages_take(&p), b);
    assert_int_equal(find(&p, 2), PAGES_NONE);
    assert_int_equal(find(&p, 1), a);
    assert_int_equal(pages_take(&p), a);
    assert_int_equal(pages_take(&p), PAGES_NONE);
    pages_release(&p);
}

static void a_held_page_is_found_and_not_taken(void **state) {
    (void)state;
    struct pages p;
    struct err err;
    assert_int_equal(pages_init(&p, 2, NULL, &err), ST_OK);
    uint32_t a = publish(&p, 1);
    assert_int_equal(find(&p, 1), a);
    pages_hold(&p, a);
    pages_drop(&p, a);
    assert_int_equal(pages_holders(&p, a), 1);
    assert_true(pages_take(&p) != a);
    assert_int_equal(pages_take(&p), PAGES_NONE);
    pages_release(&p);
}

/* Whoever copied it meanwhile looks at the generation, and knows. */
static void a_page_that_is_used_anew_has_another_generation(void **state) {
    (void)state;
    struct pages p;
    struct err err;
    _Atomic uint64_t generations[2] = {7, 7};
    assert_int_equal(pages_init(&p, 2, generations, &err), ST_OK);
    uint32_t a = publish(&p, 1);
    uint64_t before = generations[a];
    pages_hold(&p, a); /* lent on: still the same rows */
    pages_drop(&p, a);
    pages_drop(&p, a);
    pages_hold(&p, find(&p, 1)); /* found again */
    pages_drop(&p, a);
    assert_true(generations[a] == before);
    while (pages_take(&p) != a) continue;
    assert_true(generations[a] > before);
    pages_release(&p);
}

static void the_first_of_two_equal_blocks_is_the_one_that_is_found(void **state) {
    (void)state;
    struct pages p;
    struct err err;
    assert_int_equal(pages_init(&p, 3, NULL, &err), ST_OK);
    uint32_t a = publish(&p, 1), twin = publish(&p, 1);
    assert_int_equal(find(&p, 1), a);
    pages_drop(&p, twin); /* it has no key: free, and taken first */
    assert_int_equal(p.n_cached, 0);
    assert_int_equal(pages_take(&p), twin);
    pages_release(&p);
}

/* --- keys ------------------------------------------------------------------------------------- */

struct block {
    struct request r;
    uint32_t prompt[2 * KV_PAGE_TOKENS];
    struct role_run roles[2];
    struct request_choice choice;
};

static void fill(struct block *b) {
    *b = (struct block){.roles = {{.len = 2 * KV_PAGE_TOKENS}}};
    for (uint32_t i = 0; i < 2 * KV_PAGE_TOKENS; i++) b->prompt[i] = i;
    b->r = (struct request){.prompt = b->prompt,
                            .n_prompt = 2 * KV_PAGE_TOKENS,
                            .roles = b->roles,
                            .n_roles = 1,
                            .choices = &b->choice,
                            .n_choices = 1};
    strcpy(b->r.model_id, "model");
}

static struct block_key second(const struct block *b) {
    struct block_key k;
    block_key_root(&k, &b->r);
    block_key_next(&k, &k, &b->r, 0, 0);
    block_key_next(&k, &k, &b->r, 0, 1);
    return k;
}

static void a_key_tells_every_token_role_and_owner_before_it(void **state) {
    (void)state;
    struct block b[8];
    struct block_key keys[8];
    for (int i = 0; i < 8; i++) fill(&b[i]);
    b[1].prompt[0] = 999;
    b[2].prompt[255] = 999;
    strcpy(b[3].r.tenant, "ab");
    strcpy(b[4].r.tenant, "a");
    strcpy(b[4].r.salt, "b"); /* fields are length-prefixed: "a" + "b" is not "ab" */
    strcpy(b[5].r.salt, "ab");
    strcpy(b[6].r.model_id, "other");
    b[7].roles[0].len = 200;
    b[7].roles[1] = (struct role_run){.len = 56, .role = ROLE_GENERATED};
    b[7].r.n_roles = 2;
    for (int i = 0; i < 8; i++) keys[i] = second(&b[i]);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++) assert_memory_not_equal(&keys[i], &keys[j], sizeof keys[i]);
    struct block again;
    fill(&again);
    struct block_key k = second(&again);
    assert_memory_equal(&k, &keys[0], sizeof k);
}

static void roles_are_walked_from_any_position(void **state) {
    (void)state;
    struct block b;
    fill(&b);
    struct role_run runs[] = {
        {3, ROLE_PROMPT}, {0, ROLE_GENERATED}, {2, ROLE_GENERATED}, {1, ROLE_PROMPT}};
    static const int want[] = {0, 0, 0, 1, 1, 0, 1, 1};
    b.r.roles = runs;
    b.r.n_roles = 4;
    for (uint32_t from = 0; from < 8; from++) {
        struct role_cursor c = request_roles_at(&b.r, from);
        for (uint32_t i = from; i < 8; i++)
            assert_int_equal(role_cursor_next(&c), want[i] ? ROLE_GENERATED : ROLE_PROMPT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_without_a_key_go_first_then_the_least_recently_used),
        cmocka_unit_test(a_held_page_is_found_and_not_taken),
        cmocka_unit_test(a_page_that_is_used_anew_has_another_generation),
        cmocka_unit_test(the_first_of_two_equal_blocks_is_the_one_that_is_found),
        cmocka_unit_test(a_key_tells_every_token_role_and_owner_before_it),
        cmocka_unit_test(roles_are_walked_from_any_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

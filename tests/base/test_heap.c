/* SPDX-License-Identifier: Apache-2.0 */
/* heap.h against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/heap.h"

enum { THINGS = 300 };

struct thing {
    uint32_t key;
    struct heap_node node;
};

static bool lower(const struct heap_node *a, const struct heap_node *b) {
    return HEAP_OF(a, const struct thing, node)->key < HEAP_OF(b, const struct thing, node)->key;
}

static uint32_t next(uint32_t *chance) {
    *chance = *chance * 1664525 + 1013904223;
    return *chance >> 8;
}

/* The lowest key of those that are in; UINT32_MAX: none is. */
static uint32_t lowest(const struct thing *v) {
    uint32_t key = UINT32_MAX;
    for (int i = 0; i < THINGS; i++)
        if (v[i].node.at && v[i].key < key) key = v[i].key;
    return key;
}

static void the_lowest_is_first_whatever_is_put_and_taken(void **state) {
    (void)state;
    static struct thing v[THINGS];
    struct heap h = {.before = lower};
    uint32_t chance = 1, len = 0;
    assert_true(heap_reserve(&h, THINGS));
    assert_null(heap_first(&h));
    for (int n = 0; n < 20000; n++) {
        /* it grows, and shrinks to nothing, in turn */
        bool grow = n / 1000 % 2 == 0;
        struct thing *t = &v[next(&chance) % THINGS];
        if (!t->node.at && grow) {
            t->key = next(&chance) % 50; /* many are equal */
            heap_put(&h, &t->node);
            len++;
        } else if (t->node.at && !grow) {
            heap_take(&h, &t->node);
            len--;
        }
        heap_take(&h, &(struct heap_node){0}); /* in none */
        assert_int_equal(h.len, len);
        const struct thing *first = HEAP_OF(heap_first(&h), struct thing, node);
        assert_int_equal(first ? first->key : UINT32_MAX, lowest(v));
    }
    heap_release(&h);
}

static void they_come_out_in_order_and_cheaply(void **state) {
    (void)state;
    static struct thing v[1 << 14];
    struct heap h = {.before = lower};
    uint32_t chance = 7, last = 0;
    for (uint32_t i = 0; i < 1 << 14; i++) {
        v[i].key = next(&chance);
        assert_true(heap_reserve(&h, i + 1));
        heap_put(&h, &v[i].node);
    }
    while (heap_first(&h)) {
        struct thing *t = HEAP_OF(heap_first(&h), struct thing, node);
        assert_true(t->key >= last);
        last = t->key;
        heap_take(&h, &t->node);
        assert_int_equal(t->node.at, 0);
    }
    assert_true(h.compared < (UINT64_C(1) << 14) * 3 * 14);
    heap_release(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_is_first_whatever_is_put_and_taken),
        cmocka_unit_test(they_come_out_in_order_and_cheaply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

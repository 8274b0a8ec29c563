/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h: alignment, the maximum, and growing in place or by copying. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"

static void allocations_are_aligned_and_disjoint(void **state) {
    (void)state;
    struct arena a = {.max = 1 << 20};
    char *last = NULL;
    for (size_t len = 0; len < 300; len++) {
        char *p = arena_alloc(&a, len);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
        memset(p, (int)len, len);
        if (last && len > 1) assert_int_equal((unsigned char)last[0], (len - 1) & 255);
        last = p;
    }
    arena_release(&a);
}

static void the_maximum_holds(void **state) {
    (void)state;
    struct arena a = {.max = 100000};
    assert_null(arena_alloc(&a, 100001));
    assert_null(arena_alloc(&a, SIZE_MAX));
    size_t got = 0;
    while (arena_alloc(&a, 1000)) got += 1000;
    assert_true(got >= 90000 && got <= 100000);
    arena_release(&a);
    assert_non_null(arena_alloc(&a, 1000));
    arena_release(&a);
}

static void growing_keeps_the_bytes(void **state) {
    (void)state;
    struct arena a = {.max = 1 << 20};
    char *p = arena_alloc(&a, 3);
    memcpy(p, "abc", 3);
    assert_ptr_equal(arena_grow(&a, p, 3, 200), p); /* the last allocation grows where it is */
    char *other = arena_alloc(&a, 1);
    *other = 'x';
    char *q = arena_grow(&a, p, 200, 400);
    assert_ptr_not_equal(q, p);
    assert_memory_equal(q, "abc", 3);
    char *big = arena_grow(&a, q, 400, 200000); /* past the block */
    assert_memory_equal(big, "abc", 3);
    assert_null(arena_grow(&a, big, 200000, 2 << 20));
    arena_release(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_aligned_and_disjoint),
        cmocka_unit_test(the_maximum_holds),
        cmocka_unit_test(growing_keeps_the_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h: alignment, and the maximum. */
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_aligned_and_disjoint),
        cmocka_unit_test(the_maximum_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

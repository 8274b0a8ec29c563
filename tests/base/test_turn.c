/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/turn.h"

static void turns_become_short_where_the_kernel_can_and_nothing_else_changes(void **state) {
    (void)state;
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } before = {0}, after = {0}, again = {0};
    turn_usual();
    assert_int_equal(syscall(SYS_sched_getattr, 0, &before, sizeof before, 0), 0);
    turn_short();
    assert_int_equal(syscall(SYS_sched_getattr, 0, &after, sizeof after, 0), 0);
    assert_int_equal(after.policy, before.policy);
    assert_int_equal(after.nice, before.nice);
    turn_usual();
    assert_int_equal(syscall(SYS_sched_getattr, 0, &again, sizeof again, 0), 0);
    assert_memory_equal(&again, &before, sizeof again);
    struct utsname host;
    int major = 0, minor = 0;
    assert_int_equal(uname(&host), 0);
    (void)sscanf(host.release, "%d.%d", &major, &minor);
    if (major > 6 || (major == 6 && minor >= 12)) assert_int_equal(after.runtime, 100000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_become_short_where_the_kernel_can_and_nothing_else_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

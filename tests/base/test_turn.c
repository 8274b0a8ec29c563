/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
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

struct turn {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static struct turn turn_of_this_thread(void) {
    struct turn t = {0};
    assert_int_equal(syscall(SYS_sched_getattr, 0, &t, sizeof t, 0), 0);
    return t;
}

static void *look(void *turn) {
    *(struct turn *)turn = turn_of_this_thread();
    return NULL;
}

static void turns_become_short_where_the_kernel_can_and_nothing_else_changes(void **state) {
    (void)state;
    struct turn before = turn_of_this_thread(), after, later;
    pthread_t thread;
    turn_short();
    after = turn_of_this_thread();
    assert_int_equal(pthread_create(&thread, NULL, look, &later), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(later.runtime, before.runtime); /* those that it starts are as it was */
    assert_int_equal(after.policy, before.policy);
    assert_int_equal(after.nice, before.nice);
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

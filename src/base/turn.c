/* SPDX-License-Identifier: Apache-2.0 */
/* Implements turn.h by sched_setattr(2), whose runtime is the length of a normal thread's turn. */
#include "base/turn.h"

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TURN_NS = 100000 /* the least that Linux allows */ };

/* struct sched_attr, which newer C libraries have, older ones not. */
struct turn {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* 0: the usual. */
static void set(uint64_t ns) {
    struct turn t = {.size = sizeof t};
    if (syscall(SYS_sched_getattr, 0, &t, sizeof t, 0) != 0 || t.policy != SCHED_OTHER) return;
    t.runtime = ns;
    (void)syscall(SYS_sched_setattr, 0, &t, 0);
}

void turn_short(void) {
    set(TURN_NS);
}
void turn_usual(void) {
    set(0);
}

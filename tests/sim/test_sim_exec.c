/* SPDX-License-Identifier: Apache-2.0 */
/* An instance of several dies: a sequence's KV lies on one of them, and each has room of its own. */
#include "sim/sim_exec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DIES = 4, EACH = 10, SLOTS = 16 };

static double second(void *ctx, const struct sim_step *s) {
    (void)ctx;
    (void)s;
    return 1;
}

static void begin(struct sim_exec *s, void **memory) {
    struct err err;
    *memory = calloc(1, sim_exec_bytes(DIES * EACH));
    assert_non_null(*memory);
    struct sim_exec_options o = {.times = {.step_s = second},
                                 .model_id = "simulated",
                                 .n_pages = DIES * EACH,
                                 .n_slots = SLOTS,
                                 .max_model_len = 1024,
                                 .rows_max = 64,
                                 .vocab = 100,
                                 .dies = DIES,
                                 .die_bound = true,
                                 .memory = *memory};
    if (sim_exec_init(s, &o, &err)) fail_msg("%s", err.text);
}

static void end(struct sim_exec *s, void *memory) {
    sim_exec_release(s);
    free(memory);
}

static bool place(struct sim_exec *s, uint32_t slot, uint32_t pages) {
    return s->x.place(s->x.ctx, slot, pages * KV_PAGE_TOKENS);
}

static void a_sequence_that_no_die_has_room_for_is_refused_though_all_together_have(void **state) {
    (void)state;
    struct sim_exec s;
    void *memory;
    begin(&s, &memory);
    for (uint32_t i = 0; i < DIES; i++) assert_true(place(&s, i, 6));
    assert_false(place(&s, DIES, 5)); /* 16 pages are free, 4 on each */
    assert_true(place(&s, DIES, 3));
    assert_true(place(&s, 2, 0)); /* gone: its die is empty */
    assert_true(place(&s, DIES + 1, EACH));
    assert_false(place(&s, DIES + 2, 4));
    end(&s, memory);
}

static void it_grows_as_far_as_its_die_has_room(void **state) {
    (void)state;
    struct sim_exec s;
    void *memory;
    begin(&s, &memory);
    for (uint32_t i = 0; i < 2 * DIES; i++) assert_true(place(&s, i, 4)); /* two on each */
    assert_true(place(&s, 0, 6));
    assert_false(place(&s, 0, 7));
    assert_false(place(&s, DIES, 5)); /* on the same die as the first */
    assert_true(place(&s, 1, 5));     /* on another */
    assert_true(place(&s, DIES, 0));
    assert_true(place(&s, 0, EACH));
    end(&s, memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_that_no_die_has_room_for_is_refused_though_all_together_have),
        cmocka_unit_test(it_grows_as_far_as_its_die_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

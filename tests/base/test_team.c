/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/team.h"

enum { TILES = 1000 };

struct seen {
    atomic_uint tile[TILES];
    atomic_uint bad_thread;
    uint32_t n_threads;
};

static void mark(void *ctx, uint32_t tile, uint32_t thread) {
    struct seen *s = ctx;
    atomic_fetch_add(&s->tile[tile], 1);
    if (thread >= s->n_threads) atomic_fetch_add(&s->bad_thread, 1);
}

static void every_tile_runs_once_for_any_number_of_threads(void **state) {
    (void)state;
    struct err err;
    for (uint32_t n = 1; n <= 5; n++) {
        struct team *t;
        assert_int_equal(team_new(&t, n, &err), ST_OK);
        assert_int_equal(team_size(t), n);
        for (uint32_t round = 0; round < 200; round++) {
            struct seen s = {.n_threads = n};
            uint32_t tiles = round * 7 % TILES;
            team_run(t, mark, &s, tiles);
            for (uint32_t i = 0; i < TILES; i++)
                assert_int_equal(atomic_load(&s.tile[i]), i < tiles);
            assert_int_equal(atomic_load(&s.bad_thread), 0);
        }
        team_free(t);
    }
}

static void a_round_that_pauses_goes_on_with_the_next_tile(void **state) {
    (void)state;
    struct err err;
    for (uint32_t n = 1; n <= 4; n++) {
        struct team *t;
        struct seen s = {.n_threads = n};
        assert_int_equal(team_new(&t, n, &err), ST_OK);
        uint32_t next = 0, pauses = 0;
        while (next < TILES) { /* the time is over from the start: a few tiles each */
            uint32_t begun = team_run_until(t, mark, &s, next, TILES, 0);
            assert_true(begun > next && begun <= TILES);
            for (uint32_t i = 0; i < TILES; i++)
                assert_int_equal(atomic_load(&s.tile[i]), i < begun);
            next = begun;
            pauses++;
        }
        assert_true(n > 1 || pauses == TILES); /* others may run ahead of the one that looks */
        assert_int_equal(team_run_until(t, mark, &s, TILES, TILES, 0), TILES);
        team_free(t);
    }
}

static void a_team_that_fell_asleep_wakes(void **state) {
    (void)state;
    struct err err;
    struct team *t;
    assert_int_equal(team_new(&t, 3, &err), ST_OK);
    for (int round = 0; round < 3; round++) {
        usleep(20000); /* longer than workers spin */
        struct seen s = {.n_threads = 3};
        team_run(t, mark, &s, TILES);
        for (uint32_t i = 0; i < TILES; i++) assert_int_equal(atomic_load(&s.tile[i]), 1);
    }
    team_free(t);
}

static void no_threads_or_too_many_are_refused(void **state) {
    (void)state;
    struct err err;
    struct team *t = NULL;
    assert_int_equal(team_new(&t, 0, &err), ST_INVALID);
    assert_string_equal(err.text, "threads: 0, expected 1 to 1024");
    assert_int_equal(team_new(&t, 100000, &err), ST_INVALID);
    assert_null(t);
    team_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tile_runs_once_for_any_number_of_threads),
        cmocka_unit_test(a_round_that_pauses_goes_on_with_the_next_tile),
        cmocka_unit_test(a_team_that_fell_asleep_wakes),
        cmocka_unit_test(no_threads_or_too_many_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

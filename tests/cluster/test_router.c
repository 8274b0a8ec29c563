/* SPDX-License-Identifier: Apache-2.0 */
/* Members as the router sees them: who may join, under which epoch, who is dead, and what an operator may
 * do. Members are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router_test.h"

static const struct router_options defaults;

static const struct member_info *member(struct world *w, const char *name) {
    view(w);
    for (uint32_t i = 0; i < w->view.n_members; i++)
        if (strcmp(w->view.members[i].name, name) == 0) return &w->view.members[i];
    return NULL;
}

/* --- joining ---------------------------------------------------------------------------------- */

static void epochs_rise_and_everybody_is_told_of_everybody(void **state) {
    (void)state;
    struct world w;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL);
    p0->deaf = 0;
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    assert_true(w.epochs[d0 - w.v] > w.epochs[p0 - w.v]);
    struct wire_in r = played_take(p0, PROTO_VIEW);
    char name[BUS_NAME_BYTES], address[BUS_ADDRESS_BYTES];
    assert_true(wire_get_u64(&r) == w.epochs[d0 - w.v]);
    assert_int_equal(wire_get_u32(&r), 2);
    for (int i = 0; i < 2; i++) {
        wire_get_text(&r, name, sizeof name);
        wire_get_text(&r, address, sizeof address);
        assert_string_equal(name, i ? "d0" : "p0");
        assert_string_equal(address, "somewhere");
        assert_int_equal(wire_get_u8(&r), i ? ROLE_OF_DECODE : ROLE_OF_PREFILL);
        assert_true(wire_get_u64(&r) == w.epochs[i ? d0 - w.v : p0 - w.v]);
    }
    assert_true(wire_get_end(&r));
    assert_int_equal(view(&w)->joins, 2);
    stop(&w);
}

static void an_epoch_is_higher_than_any_that_a_member_has_seen(void **state) {
    (void)state;
    struct world w;
    start(&w, &defaults); /* a router that was started again */
    struct played *p = connect_as(&w, "p0", PROTO_PEER_WORKER);
    say_join(&w, p, "p0", ROLE_OF_PREFILL, 1000, &shape, MODEL_LEN);
    assert_true(hears_joined(p) == 1001);
    struct played *d = connect_as(&w, "d0", PROTO_PEER_WORKER);
    say_join(&w, d, "d0", ROLE_OF_DECODE, 7, &shape, MODEL_LEN);
    assert_true(hears_joined(d) == 1002);
    stop(&w);
}

static void hears_refused(struct played *p, const char *part) {
    char text[256];
    struct wire_in r = played_take(p, PROTO_REFUSED);
    wire_get_text(&r, text, sizeof text);
    assert_true(wire_get_end(&r));
    if (!strstr(text, part)) fail_msg("'%s', expected '%s'", text, part);
}

static void who_does_not_fit_is_refused_with_a_sentence(void **state) {
    (void)state;
    struct world w;
    struct block_shape other = shape;
    other.n_layers++;
    start(&w, &defaults);
    struct played *p = connect_as(&w, "p0", PROTO_PEER_WORKER);
    say_join(&w, p, "p0", ROLE_OF_PREFILL, 0, &other, MODEL_LEN);
    hears_refused(p, "another layout than the cluster's");
    say_join(&w, p, "p0", ROLE_OF_PREFILL, 0, &shape, MODEL_LEN - 1);
    hears_refused(p, "sequences of 2047 tokens, and the router's max-model-len is 2048");
    say_join(&w, p, "", ROLE_OF_PREFILL, 0, &shape, MODEL_LEN);
    hears_refused(p, "cannot be read");
    say_join(&w, p, "p0", MEMBER_ROLES, 0, &shape, MODEL_LEN);
    hears_refused(p, "cannot be read");
    say_join(&w, p, "p0", ROLE_OF_PREFILL, UINT64_MAX, &shape, MODEL_LEN); /* no epoch is higher */
    hears_refused(p, "cannot be read");
    struct wire_out o = played_say(p, PROTO_JOIN);
    wire_put_text(&o, "p0");
    played_send(p, &o);
    settle(&w);
    hears_refused(p, "cannot be read");
    assert_int_equal(view(&w)->n_members, 0);
    assert_int_equal(w.view.joins, 0);
    stop(&w);
}

static void a_pool_server_is_told_the_shape(void **state) {
    (void)state;
    struct world w;
    struct block_shape none = {0}, told;
    start(&w, &defaults);
    struct played *p = connect_as(&w, "m0", PROTO_PEER_POOL);
    say_join(&w, p, "m0", ROLE_OF_POOL, 0, &none, 0);
    struct wire_in r = played_take(p, PROTO_JOINED);
    (void)wire_get_u64(&r);
    proto_get_shape(&r, &told);
    assert_true(wire_get_end(&r));
    assert_memory_equal(&told, &shape, sizeof told);
    stop(&w);
}

static void who_joins_under_a_name_takes_the_place_of_its_older_life(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE);
    make(&a, 5, 9, 1);
    uint64_t flight = until_decode(&w, &a, p0, d0);
    struct played *again = connect_as(&w, "d0-again", PROTO_PEER_WORKER);
    say_join(&w, again, "d0", ROLE_OF_DECODE, w.epochs[d0 - w.v], &shape, MODEL_LEN);
    assert_true(hears_joined(again) > w.epochs[d0 - w.v]);
    go_on(&w, 3 * ms);
    assert_true(d0->peer == 0); /* the older connection is closed */
    assert_int_equal(view(&w)->n_members, 2);
    assert_true(hears_reserve(again, NULL) > flight);
    stop(&w);
    request_release(&a.lent);
    asked_release(&a);
}

static void one_connection_is_one_member(void **state) {
    (void)state;
    struct world w;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL);
    say_join(&w, p0, "p1", ROLE_OF_PREFILL, 0, &shape, MODEL_LEN);
    hears_refused(p0, "cannot be read");
    assert_int_equal(view(&w)->n_members, 1);
    stop(&w);
}

/* --- silence and death ------------------------------------------------------------------------ */

static void a_silent_member_gets_nothing_new_and_is_dead_only_after_a_while(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct router_options o = {.fence_ns = 300 * ms};
    start(&w, &o);
    (void)join(&w, "p0", ROLE_OF_PREFILL);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE);
    sim_bus_stop(d0->bus);
    go_on(&w, 150 * ms);
    assert_int_equal(member(&w, "d0")->state, MEMBER_SUSPENDED);
    make(&a, 5, 9, 1);
    ask(&w, &a);
    assert_int_equal(view(&w)->queued, 1);
    sim_bus_continue(d0->bus);
    go_on(&w, 10 * ms);
    assert_int_equal(member(&w, "d0")->state, MEMBER_READY);
    (void)hears_reserve(d0, NULL);
    sim_bus_stop(d0->bus);
    go_on(&w, 390 * ms);
    assert_non_null(member(&w, "d0"));
    go_on(&w, 20 * ms);
    assert_null(member(&w, "d0"));
    assert_int_equal(w.view.deaths, 1);
    assert_int_equal(w.view.moved, 1);
    stop(&w);
    request_release(&a.lent);
    asked_release(&a);
}

static void the_word_of_strangers_does_not_count(void **state) {
    (void)state;
    struct world w;
    start(&w, &defaults);
    struct played *p = connect_as(&w, "p0", PROTO_PEER_WORKER);
    says(&w, p, PROTO_RESERVED, 1);
    says(&w, p, PROTO_LENT, 1);
    assert_int_equal(view(&w)->stale, 2);
    stop(&w);
}

static void what_a_member_tells_of_itself_is_shown(void **state) {
    (void)state;
    struct world w;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL);
    struct member_load load = {.running = 3, .pages = 40, .pages_used = 7};
    struct wire_out o = played_say(p0, PROTO_LOAD);
    proto_put_load(&o, &load);
    played_send(p0, &o);
    settle(&w);
    assert_memory_equal(&member(&w, "p0")->load, &load, sizeof load);
    assert_int_equal(member(&w, "p0")->pid, 77);
    stop(&w);
}

static void a_member_that_cannot_be_understood_is_cut_off(void **state) {
    (void)state;
    static const uint8_t kinds[] = {PROTO_LOAD, PROTO_RESERVED, PROTO_TOKENS, PROTO_HELLO, 0, 255};
    struct world w;
    start(&w, &defaults);
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL);
        struct wire_out o = played_say(p0, (enum proto_kind)kinds[i]);
        wire_put_u32(&o, 1); /* and nothing more */
        played_send(p0, &o);
        go_on(&w, 3 * ms);
        assert_true(p0->peer == 0);
        assert_int_equal(view(&w)->n_members, 0);
        played_end(p0);
    }
    stop(&w);
}

/* --- the operator ----------------------------------------------------------------------------- */

static void a_draining_member_gets_nothing_new_and_keeps_what_it_has(void **state) {
    (void)state;
    struct world w;
    struct asked a, b;
    struct err err;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *d0 = join(&w, "d0", ROLE_OF_DECODE),
                  *d1 = join(&w, "d1", ROLE_OF_DECODE);
    make(&a, 5, 9, 1);
    make(&b, 5, 9, 1);
    uint64_t flight = until_decode(&w, &a, p0, d0);
    played_tell(d1, PROTO_LEAVE, 0); /* it asks itself */
    settle(&w);
    (void)played_take(d1, PROTO_DRAIN);
    assert_int_equal(router_drain(w.r, "d0", &err), ST_OK);
    assert_int_equal(router_drain(w.r, "d0", &err), ST_OK); /* it is told once */
    settle(&w);
    (void)played_take(d0, PROTO_DRAIN);
    ask(&w, &b);
    go_on(&w, 20 * ms);
    played_quiet(d0);
    played_quiet(d1);
    says_token(&w, d0, flight, 0, 6, 10, FINISH_STOP);
    says(&w, d0, PROTO_ENDED, flight);
    assert_true(a.done && !b.done);
    dies(&w, d0);
    assert_int_equal(view(&w)->deaths, 0); /* it left */
    assert_int_equal(w.view.drains, 2);
    assert_int_equal(router_drain(w.r, "d0", &err), ST_NOT_FOUND);
    assert_string_equal(err.text, "d0: no such member");
    stop(&w);
    request_release(&b.lent);
    asked_release(&a);
    asked_release(&b);
}

static void workers_change_roles_and_pool_servers_do_not(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct err err;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL), *p1 = join(&w, "p1", ROLE_OF_PREFILL);
    (void)join(&w, "m0", ROLE_OF_POOL);
    assert_int_equal(router_set_role(w.r, "p1", ROLE_OF_DECODE, &err), ST_OK);
    settle(&w);
    struct wire_in r = played_take(p1, PROTO_ROLE);
    assert_int_equal(wire_get_u8(&r), ROLE_OF_DECODE);
    make(&a, 5, 9, 1);
    (void)until_prefill(&w, &a, p0, p1);
    assert_int_equal(router_set_role(w.r, "m0", ROLE_OF_DECODE, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "only workers change roles"));
    assert_int_equal(router_set_role(w.r, "p0", ROLE_OF_POOL, &err), ST_INVALID);
    assert_int_equal(router_set_role(w.r, "x", ROLE_OF_DECODE, &err), ST_NOT_FOUND);
    assert_int_equal(member(&w, "p1")->role, ROLE_OF_DECODE);
    stop(&w);
    request_release(&a.lent);
    asked_release(&a);
}

static void room_at_a_worker_that_became_a_prefill_worker_is_filled_by_another(void **state) {
    (void)state;
    struct world w;
    struct asked a;
    struct err err;
    start(&w, &defaults);
    struct played *d0 = join(&w, "d0", ROLE_OF_DECODE), *p0 = join(&w, "p0", ROLE_OF_PREFILL);
    make(&a, 5, 9, 1);
    ask(&w, &a);
    uint64_t flight = hears_reserve(d0, NULL), epoch;
    char other[BUS_NAME_BYTES];
    assert_int_equal(router_set_role(w.r, "d0", ROLE_OF_PREFILL, &err), ST_OK);
    says(&w, d0, PROTO_RESERVED, flight);
    assert_true(hears_prefill(p0, other, &epoch, NULL) == flight);
    assert_string_equal(other, "d0");
    stop(&w);
    request_release(&a.lent);
    asked_release(&a);
}

static void ctl_says(struct world *w, struct played *ctl, enum proto_kind kind, const char *name,
                     int role) {
    struct wire_out o = played_say(ctl, kind);
    if (name) wire_put_text(&o, name);
    if (role >= 0) wire_put_u8(&o, (uint8_t)role);
    played_send(ctl, &o);
    settle(w);
}

static void ctl_hears(struct played *ctl, enum st st, const char *part) {
    char text[256];
    struct wire_in r = played_take(ctl, PROTO_CTL_DONE);
    assert_int_equal(wire_get_u8(&r), st);
    wire_get_text(&r, text, sizeof text);
    assert_true(wire_get_end(&r));
    assert_non_null(strstr(text, part));
}

static void ctl_does_it_over_the_bus(void **state) {
    (void)state;
    static struct cluster_view v;
    struct world w;
    start(&w, &defaults);
    struct played *p0 = join(&w, "p0", ROLE_OF_PREFILL),
                  *ctl = connect_as(&w, "ctl", PROTO_PEER_CTL);
    ctl_says(&w, ctl, PROTO_CTL_LIST, NULL, -1);
    struct wire_in r = played_take(ctl, PROTO_CTL_VIEW);
    proto_get_view(&r, &v);
    assert_true(wire_get_end(&r));
    assert_int_equal(v.n_members, 1);
    assert_string_equal(v.members[0].name, "p0");
    ctl_says(&w, ctl, PROTO_CTL_ROLE, "p0", ROLE_OF_DECODE);
    ctl_hears(ctl, ST_OK, "");
    (void)played_take(p0, PROTO_ROLE);
    ctl_says(&w, ctl, PROTO_CTL_DRAIN, "p0", -1);
    ctl_hears(ctl, ST_OK, "");
    (void)played_take(p0, PROTO_DRAIN);
    ctl_says(&w, ctl, PROTO_CTL_DRAIN, "p9", -1);
    ctl_hears(ctl, ST_NOT_FOUND, "p9: no such member");
    ctl_says(&w, ctl, PROTO_CTL_ROLE, "p0", -1);
    ctl_hears(ctl, ST_INVALID, "cannot be read");
    ctl_says(&w, ctl, PROTO_CTL_ROLE, "p0", MEMBER_ROLES);
    ctl_hears(ctl, ST_INVALID, "cannot be read");
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_rise_and_everybody_is_told_of_everybody),
        cmocka_unit_test(an_epoch_is_higher_than_any_that_a_member_has_seen),
        cmocka_unit_test(who_does_not_fit_is_refused_with_a_sentence),
        cmocka_unit_test(a_pool_server_is_told_the_shape),
        cmocka_unit_test(who_joins_under_a_name_takes_the_place_of_its_older_life),
        cmocka_unit_test(one_connection_is_one_member),
        cmocka_unit_test(a_silent_member_gets_nothing_new_and_is_dead_only_after_a_while),
        cmocka_unit_test(the_word_of_strangers_does_not_count),
        cmocka_unit_test(what_a_member_tells_of_itself_is_shown),
        cmocka_unit_test(a_member_that_cannot_be_understood_is_cut_off),
        cmocka_unit_test(a_draining_member_gets_nothing_new_and_keeps_what_it_has),
        cmocka_unit_test(workers_change_roles_and_pool_servers_do_not),
        cmocka_unit_test(room_at_a_worker_that_became_a_prefill_worker_is_filled_by_another),
        cmocka_unit_test(ctl_does_it_over_the_bus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

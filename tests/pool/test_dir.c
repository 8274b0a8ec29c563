/* SPDX-License-Identifier: Apache-2.0 */
/* The directory by itself: room, who has to go, and what the index says meanwhile; and random
 * histories after which every count must be right. */
#include "pool_test.h"

struct house { /* a directory with memory of its own */
    struct dir d;
    uint8_t *index, *memory[EXTENTS_MAX];
    uint32_t evicted;
};

static void begin(struct house *r, uint32_t n_slots, uint32_t n_recs, const struct pool_quota *q,
                  uint32_t n_quotas) {
    struct err err;
    memset(r, 0, sizeof *r);
    assert_int_equal(
        dir_init(&r->d, &w_shape, n_slots * slot_bytes(&w_shape), n_recs, 8192, q, n_quotas, &err),
        ST_OK);
    r->index = calloc(1, dir_index_bytes(&r->d));
    dir_set_index(&r->d, r->index, 1);
}

static void end(struct house *r) {
    for (uint32_t i = 0; i < EXTENTS_MAX; i++) free(r->memory[i]);
    free(r->index);
    dir_release(&r->d);
}

static void memory_that_was_refused_is_asked_for_again_even_if_there_is_none_at_all(void **state) {
    (void)state;
    struct house r;
    uint32_t v, calls = 0;
    begin(&r, 4, 0, NULL, 0);
    uint32_t ns = dir_namespace(&r.d, "t");
    assert_int_equal(dir_need(&r.d, ns, &v), DIR_MAKE);
    dir_extent_failed(&r.d);
    assert_int_equal(dir_need(&r.d, ns, &v), DIR_NO);
    while (calls++ < 10000 && dir_need(&r.d, ns, &v) == DIR_NO) {
    }
    assert_in_range(calls, 100, 5000);
    end(&r);
}

/* Everything the directory counts, counted again. */
static void check(const struct house *r) {
    const struct dir *d = &r->d;
    uint32_t slots = 0, recs = 0, ns_slots[POOL_NAMESPACES_MAX] = {0};
    uint32_t ns_recs[POOL_NAMESPACES_MAX] = {0}, ns_extents[POOL_NAMESPACES_MAX] = {0};
    for (uint32_t e = 0; e < d->n_extents; e++) {
        const struct dir_extent *x = &d->extents[e];
        if (!x->memory) continue;
        ns_extents[x->ns]++;
        uint32_t taken = 0, filling = 0, n_free = 0;
        for (uint32_t i = e * d->per_extent; i < (e + 1) * d->per_extent; i++) {
            const struct dir_slot *s = &d->slots[i];
            taken += s->taken;
            filling += s->taken && s->block == DIR_NONE;
            if (s->block == DIR_NONE) continue;
            assert_true(s->taken && d->blocks[s->block].slot == i);
            assert_int_equal(d->blocks[s->block].ns, x->ns);
        }
        for (uint32_t f = x->free; f != DIR_NONE; f = d->slots[f].next_free) n_free++;
        assert_int_equal(taken, x->n_taken);
        assert_int_equal(filling, x->n_filling);
        assert_int_equal(n_free + taken, d->per_extent);
        ns_slots[x->ns] += taken;
        slots += taken;
    }
    for (uint32_t i = 0; i < d->n_recs; i++) {
        uint32_t block = d->recs[i].block;
        if (block == DIR_NONE) continue;
        assert_int_equal(d->blocks[block].rec, i);
        ns_recs[d->blocks[block].ns]++;
        recs++;
    }
    assert_int_equal(slots, d->used_slots);
    assert_int_equal(recs, d->used_recs);
    for (uint32_t i = 0; i < d->n_ns; i++) {
        assert_int_equal(ns_slots[i], d->ns[i].n_slots);
        assert_int_equal(ns_recs[i], d->ns[i].n_recs);
        assert_int_equal(ns_extents[i], d->ns[i].n_extents);
        assert_true(ns_slots[i] <= d->ns[i].n_slots_max);
        assert_true(ns_recs[i] <= d->ns[i].n_recs_max);
    }
    for (uint32_t i = 0; i < d->n_buckets * INDEX_BUCKET; i++) {
        const struct dir_block *b = &d->blocks[i];
        uint64_t at;
        const struct index_entry *e = dir_entry(d, i, &at);
        if (!b->used) {
            assert_int_equal(index_place(e), PLACE_NONE);
            continue;
        }
        assert_int_equal(e->check, index_entry_check(e));
        assert_int_equal(index_place(e), b->slot == DIR_NONE ? PLACE_SSD : PLACE_DRAM);
        if (b->slot != DIR_NONE)
            assert_true(slot_header_ok(dir_slot_header(d, b->slot), &w_shape, e));
        assert_true(b->slot != DIR_NONE || b->rec != DIR_NONE);
    }
}

/* As the server does it; a block that goes is written to a record if there is one. */
static uint32_t take(struct house *r, uint32_t ns) {
    uint32_t v;
    for (;;) switch (dir_need(&r->d, ns, &v)) {
        case DIR_TOOK: return v;
        case DIR_MAKE:
            r->memory[v] = calloc(1, dir_extent_bytes(&r->d));
            dir_extent_add(&r->d, v, ns, r->memory[v]);
            break;
        case DIR_EVICT:
            if (r->d.blocks[v].rec == DIR_NONE) {
                uint32_t rec = dir_rec_need(&r->d, r->d.blocks[v].ns);
                if (rec != DIR_NONE) dir_rec_set(&r->d, rec, v);
            }
            r->evicted++;
            dir_evict(&r->d, v);
            break;
        case DIR_DROP:
            dir_extent_remove(&r->d, v);
            free(r->memory[v]);
            r->memory[v] = NULL;
            break;
        case DIR_NO: return DIR_NONE;
        }
}

static bool put(struct house *r, uint32_t ns, uint64_t n) {
    struct pool_key k = w_key(n);
    uint32_t slot = take(r, ns);
    return slot != DIR_NONE && dir_publish(&r->d, slot, ns, &k);
}

static uint32_t find(struct house *r, uint32_t ns, uint64_t n) {
    struct pool_key k = w_key(n);
    return dir_find(&r->d, ns, &k);
}

static void the_oldest_goes_first_unless_it_was_hit(void **state) {
    (void)state;
    struct house r;
    begin(&r, 3, 0, NULL, 0);
    uint32_t ns = dir_namespace(&r.d, "t");
    for (uint64_t n = 1; n <= 3; n++) assert_true(put(&r, ns, n));
    uint64_t at;
    assert_true(dir_hit(&r.d, hit_word(dir_entry(&r.d, find(&r, ns, 1), &at))));
    assert_true(put(&r, ns, 4)); /* 2 goes: 1 has a second chance */
    assert_true(find(&r, ns, 1) != DIR_NONE && find(&r, ns, 2) == DIR_NONE);
    assert_true(put(&r, ns, 5));
    assert_true(find(&r, ns, 1) != DIR_NONE && find(&r, ns, 3) == DIR_NONE);
    assert_true(put(&r, ns, 6)); /* and no third */
    assert_true(find(&r, ns, 1) == DIR_NONE && find(&r, ns, 4) != DIR_NONE);
    check(&r);
    end(&r);
}

static void a_slot_that_is_taken_again_has_another_generation(void **state) {
    (void)state;
    struct house r;
    begin(&r, 1, 0, NULL, 0);
    uint32_t a = dir_namespace(&r.d, "a"), b = dir_namespace(&r.d, "b");
    uint64_t at;
    assert_true(put(&r, a, 1));
    struct index_entry old = *dir_entry(&r.d, find(&r, a, 1), &at);
    uint32_t slot = take(&r, a);
    assert_true(dir_slot_header(&r.d, slot)->generation > old.generation);
    assert_int_equal(find(&r, a, 1), DIR_NONE);
    assert_false(dir_hit(&r.d, hit_word(&old)));
    assert_int_equal(take(&r, a), DIR_NONE); /* it is being filled */
    dir_give_back(&r.d, slot);
    check(&r);
    assert_true(put(&r, b, 2)); /* the extent changes hands: another segment, no generation twice */
    const struct index_entry *e = dir_entry(&r.d, find(&r, b, 2), &at);
    assert_int_not_equal(e->segment, old.segment);
    assert_true(e->generation > old.generation);
    check(&r);
    end(&r);
}

static void
a_busy_tenant_takes_what_lies_idle_and_no_more_than_half_of_what_does_not(void **state) {
    (void)state;
    struct house r;
    begin(&r, 8, 0, NULL, 0);
    uint32_t a = dir_namespace(&r.d, "a"), b = dir_namespace(&r.d, "b");
    for (uint64_t n = 0; n < 8; n++) assert_true(put(&r, a, n));
    for (uint64_t n = 100; n < 140; n++) {
        for (uint64_t k = 0; k < 8; k++) /* a uses what it has, b what it got last */
            if (find(&r, a, k) != DIR_NONE) dir_hit_block(&r.d, find(&r, a, k));
        for (uint64_t k = n - 8; k < n; k++)
            if (find(&r, b, k) != DIR_NONE) dir_hit_block(&r.d, find(&r, b, k));
        assert_true(put(&r, b, n));
    }
    assert_int_equal(r.d.ns[a].n_slots, 4);
    for (uint64_t n = 200; n < 240; n++) assert_true(put(&r, b, n)); /* a does not any more */
    assert_int_equal(r.d.ns[a].n_slots, 0);
    assert_int_equal(r.d.ns[b].n_slots, 8);
    check(&r);
    end(&r);
}

static void without_memory_for_more_room_is_made_within_what_there_is(void **state) {
    (void)state;
    struct house r;
    uint32_t v;
    begin(&r, 8, 0, NULL, 0);
    uint32_t a = dir_namespace(&r.d, "a"), b = dir_namespace(&r.d, "b");
    assert_int_equal(dir_need(&r.d, a, &v), DIR_MAKE);
    dir_extent_failed(&r.d);
    assert_int_equal(dir_need(&r.d, a, &v), DIR_NO); /* nothing at all */
    r.d.no_make = 0;
    for (uint64_t n = 0; n < 3; n++) assert_true(put(&r, a, n));
    dir_extent_failed(&r.d);
    for (uint64_t n = 3; n < 9; n++) assert_true(put(&r, a, n));
    assert_int_equal(r.d.used_slots, 3);
    check(&r);
    for (uint64_t n = 20; n < 30; n++)
        assert_true(put(&r, b, n)); /* what it takes from a is memory again */
    check(&r);
    end(&r);
}

static void quotas_bound_a_namespace_in_both_tiers(void **state) {
    (void)state;
    struct house r;
    struct pool_quota q = {"a", 2 * slot_bytes(&w_shape), 3 * 8192};
    begin(&r, 8, 8, &q, 1);
    uint32_t a = dir_namespace(&r.d, "a"), b = dir_namespace(&r.d, "b");
    for (uint64_t n = 0; n < 3; n++) assert_true(put(&r, b, 50 + n));
    for (uint64_t n = 0; n < 20; n++) assert_true(put(&r, a, n));
    assert_int_equal(r.d.ns[a].n_slots, 2);
    assert_int_equal(r.d.ns[a].n_recs, 3);
    for (uint64_t n = 0; n < 20; n++) assert_int_equal(find(&r, a, n) != DIR_NONE, n >= 15);
    assert_int_equal(r.d.ns[b].n_slots, 3);
    check(&r);
    end(&r);
}

static void a_block_lives_until_both_tiers_have_dropped_it(void **state) {
    (void)state;
    struct house r;
    begin(&r, 1, 1, NULL, 0);
    uint32_t ns = dir_namespace(&r.d, "t");
    uint64_t at;
    assert_true(put(&r, ns, 1));
    assert_true(put(&r, ns, 2));
    uint32_t one = find(&r, ns, 1);
    assert_int_equal(index_place(dir_entry(&r.d, one, &at)), PLACE_SSD);
    r.d.recs[0].busy = true; /* so that 1's record is not taken for 2, which has to go */
    dir_promote(&r.d, one, take(&r, ns));
    r.d.recs[0].busy = false;
    assert_int_equal(find(&r, ns, 2), DIR_NONE);
    check(&r);
    assert_int_equal(index_place(dir_entry(&r.d, find(&r, ns, 1), &at)), PLACE_DRAM);
    dir_rec_lost(&r.d, 0);
    assert_int_not_equal(find(&r, ns, 1), DIR_NONE);
    dir_evict(&r.d, find(&r, ns, 1));
    assert_int_equal(find(&r, ns, 1), DIR_NONE);
    check(&r);
    end(&r);
}

static void records_that_nobody_looked_at_are_left_alone(void **state) {
    (void)state;
    struct house r;
    begin(&r, 1, 3, NULL, 0);
    uint32_t ns = dir_namespace(&r.d, "t");
    struct pool_key key = w_key(1);
    dir_recs_had(&r.d, 3);
    assert_int_equal(dir_rec_need(&r.d, ns), DIR_NONE);
    assert_true(put(&r, ns, 1)); /* in DRAM again before it is found on SSD */
    r.d.recs[2].busy = false;
    assert_true(dir_restore(&r.d, 2, ns, &key));
    assert_int_equal(r.d.blocks[find(&r, ns, 1)].rec, 2);
    r.d.recs[0].busy = false; /* the same block: its record is room */
    assert_false(dir_restore(&r.d, 0, ns, &key));
    assert_int_equal(dir_rec_need(&r.d, ns), 0);
    check(&r);
    end(&r);
}

static void a_new_tenant_takes_the_namespace_of_one_that_is_gone(void **state) {
    (void)state;
    struct house r;
    char name[16];
    begin(&r, 1, POOL_NAMESPACES_MAX + 3, NULL, 0);
    for (uint64_t n = 0; n < POOL_NAMESPACES_MAX; n++) { /* all but the last are on SSD alone */
        snprintf(name, sizeof name, "t%u", (unsigned)n);
        assert_true(put(&r, dir_namespace(&r.d, name), n));
    }
    assert_int_equal(dir_namespace(&r.d, "new"), DIR_NONE); /* what is only found on SSD */
    uint32_t used = dir_namespace_of(&r.d, "t0"), busy = dir_namespace_of(&r.d, "t1");
    dir_hit_block(&r.d, find(&r, used, 0));
    r.d.recs[r.d.blocks[find(&r, busy, 1)].rec].busy = true;
    for (uint64_t n = 0; n < POOL_NAMESPACES_MAX; n++) r.d.ns[n].used = n == used;
    uint32_t ns = dir_namespace_take(&r.d, "new");
    assert_int_equal(ns, dir_namespace_of(&r.d, "new"));
    assert_int_equal(dir_namespace_of(&r.d, "t2"), DIR_NONE);
    assert_int_equal(find(&r, ns, 2), DIR_NONE);
    assert_int_not_equal(find(&r, used, 0), DIR_NONE);
    assert_int_not_equal(find(&r, busy, 1), DIR_NONE);
    check(&r);
    assert_true(put(&r, ns, 1000));
    check(&r);
    /* one whose blocks were not asked for since then goes next, in turn */
    assert_int_not_equal(dir_namespace_take(&r.d, "newer"), DIR_NONE);
    assert_int_equal(dir_namespace_of(&r.d, "t3"), DIR_NONE);
    check(&r);
    end(&r);
}

static void bad_shapes_sizes_and_names_are_refused(void **state) {
    (void)state;
    struct dir d;
    struct err err;
    struct block_shape none = {0}, odd = {1, 12, 0}, many = {255, 8, 0};
    assert_int_equal(dir_init(&d, &none, 1 << 20, 0, 0, NULL, 0, &err), ST_INVALID);
    assert_int_equal(dir_init(&d, &odd, 1 << 20, 0, 0, NULL, 0, &err), ST_INVALID);
    assert_int_equal(dir_init(&d, &many, 1 << 20, 0, 0, NULL, 0, &err), ST_INVALID);
    assert_int_equal(dir_init(&d, &w_shape, 100, 0, 0, NULL, 0, &err), ST_INVALID);
    struct house r;
    begin(&r, 200, 0, NULL, 0);
    assert_int_equal(r.d.per_extent, 4);
    assert_int_equal(dir_namespace(&r.d, ""), DIR_NONE);
    char name[16];
    for (uint32_t i = 0; i < POOL_NAMESPACES_MAX; i++) {
        snprintf(name, sizeof name, "t%u", i);
        assert_int_equal(dir_namespace(&r.d, name), i);
    }
    for (uint32_t i = 0; i < POOL_NAMESPACES_MAX; i++) assert_true(put(&r, i, i));
    check(&r);
    end(&r);
}

static void one_that_holds_nothing_makes_room_for_a_new_tenants(void **state) {
    (void)state;
    struct house r;
    begin(&r, 5, 200, NULL, 0); /* 5 extents of a block each: most tenants' are on SSD alone */
    char name[16];
    for (uint32_t i = 0; i < POOL_NAMESPACES_MAX; i++) {
        snprintf(name, sizeof name, "t%u", i);
        assert_int_equal(dir_namespace(&r.d, name), i);
    }
    for (uint32_t i = 0; i < POOL_NAMESPACES_MAX; i++)
        if (i != 7) assert_true(put(&r, i, i));
    assert_int_equal(dir_namespace(&r.d, "one more"), 7);
    assert_int_equal(dir_namespace_of(&r.d, "t7"), DIR_NONE);
    assert_int_equal(dir_namespace(&r.d, "one more"), 7);
    assert_true(put(&r, 7, 100));
    assert_true(find(&r, 7, 100) != DIR_NONE && find(&r, 7, 7) == DIR_NONE);
    assert_int_equal(dir_namespace(&r.d, "t7"), DIR_NONE); /* all hold something */
    check(&r);
    end(&r);
}

static uint64_t draw(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

static void every_count_is_right_after_any_history(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        uint64_t s = seed;
        struct house r;
        struct pool_quota q = {"t1", 5 * slot_bytes(&w_shape), 4 * 8192};
        begin(&r, 1 + (uint32_t)(draw(&s) % 150), (uint32_t)(draw(&s) % 40), &q, 1);
        char name[16];
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "t%d", i);
            assert_int_equal(dir_namespace(&r.d, name), i);
        }
        for (int i = 0; i < 400; i++) {
            uint32_t ns = (uint32_t)(draw(&s) % 4);
            uint64_t n = draw(&s) % 60;
            uint32_t block = find(&r, ns, n);
            switch (draw(&s) % 6) {
            case 0:
                if (block != DIR_NONE) dir_hit_block(&r.d, block);
                break;
            case 1:
                if (block != DIR_NONE && r.d.blocks[block].rec != DIR_NONE)
                    dir_rec_lost(&r.d, r.d.blocks[block].rec);
                break;
            case 2:
                if (block != DIR_NONE && r.d.blocks[block].slot == DIR_NONE) {
                    uint32_t rec = r.d.blocks[block].rec;
                    r.d.recs[rec].busy = true;
                    uint32_t slot = take(&r, ns);
                    r.d.recs[rec].busy = false;
                    if (slot != DIR_NONE) dir_promote(&r.d, block, slot);
                }
                break;
            default:
                if (block == DIR_NONE && put(&r, ns, n))
                    assert_int_not_equal(find(&r, ns, n), DIR_NONE);
            }
            if (i % 16 == 0) check(&r);
        }
        check(&r);
        end(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_that_was_refused_is_asked_for_again_even_if_there_is_none_at_all),
        cmocka_unit_test(the_oldest_goes_first_unless_it_was_hit),
        cmocka_unit_test(a_slot_that_is_taken_again_has_another_generation),
        cmocka_unit_test(a_busy_tenant_takes_what_lies_idle_and_no_more_than_half_of_what_does_not),
        cmocka_unit_test(without_memory_for_more_room_is_made_within_what_there_is),
        cmocka_unit_test(quotas_bound_a_namespace_in_both_tiers),
        cmocka_unit_test(a_block_lives_until_both_tiers_have_dropped_it),
        cmocka_unit_test(records_that_nobody_looked_at_are_left_alone),
        cmocka_unit_test(a_new_tenant_takes_the_namespace_of_one_that_is_gone),
        cmocka_unit_test(bad_shapes_sizes_and_names_are_refused),
        cmocka_unit_test(one_that_holds_nothing_makes_room_for_a_new_tenants),
        cmocka_unit_test(every_count_is_right_after_any_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints under test: stepped in turn, their events kept until a test takes them. */
#ifndef SUPERNODE_TESTS_BUS_RIG_H
#define SUPERNODE_TESTS_BUS_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bus/bus.h"

/* What an implementation gives. */
struct conf_kind {
    void *(*world_new)(void);
    void (*world_free)(void *world);
    /* name: of the address, NULL: none comes. NULL: it was refused, err says why. */
    struct bus *(*endpoint)(void *world, const char *name, const struct bus_identity *id,
                            struct err *err);
    void (*address)(void *world, const char *name, char out[BUS_ADDRESS_BYTES]);
    void (*pass)(void *world, struct bus *b); /* a little time, in which b may wait */
    /* NULL: it cannot be done in one process */
    void (*stop)(struct bus *b);
    void (*go_on)(struct bus *b);
};

enum { ENDS_MAX = 6, PATIENCE_S = 60 };

struct seen { /* an event, kept */
    struct bus_event ev;
    struct bus_identity identity;
    uint8_t *data;
    char text[512];
};

struct end {
    struct bus *bus;
    struct seen *log;
    size_t n, cap, taken;
    bool idle; /* not stepped */
};

struct rig {
    const struct conf_kind *kind;
    void *world;
    struct end ends[ENDS_MAX];
    uint32_t n_ends;
};

/* --- the rig ---------------------------------------------------------------------------------- */

static inline int conf_setup(void **state) {
    struct rig *r = calloc(1, sizeof *r);
    r->kind = *state;
    r->world = r->kind->world_new();
    *state = r;
    return 0;
}

static inline void end_close(struct end *e) {
    bus_free(e->bus);
    for (size_t i = 0; i < e->n; i++) free(e->log[i].data);
    free(e->log);
    *e = (struct end){.idle = true};
}

static inline int conf_teardown(void **state) {
    struct rig *r = *state;
    for (uint32_t i = 0; i < r->n_ends; i++)
        if (r->ends[i].bus) end_close(&r->ends[i]);
    r->kind->world_free(r->world);
    free(r);
    return 0;
}

static inline struct bus_identity named(const char *name) {
    struct bus_identity id = {.hello_len = 5};
    snprintf(id.name, sizeof id.name, "%s", name);
    memcpy(id.hello, "hello", 5);
    return id;
}

static inline struct end *end_with(struct rig *r, const char *name, const struct bus_identity *id) {
    struct err err = {0};
    struct end *e = &r->ends[r->n_ends++];
    assert_true(r->n_ends <= ENDS_MAX);
    e->idle = false;
    e->bus = r->kind->endpoint(r->world, name, id, &err);
    if (!e->bus) fail_msg("%s", err.text);
    return e;
}

static inline struct end *end_new(struct rig *r, const char *name) {
    struct bus_identity id = named(name);
    return end_with(r, name, &id);
}

static inline void end_step(struct end *e) {
    struct bus_event ev;
    while (bus_next(e->bus, &ev)) {
        if (e->n == e->cap) {
            e->cap = e->cap ? 2 * e->cap : 64;
            e->log = realloc(e->log, e->cap * sizeof *e->log);
        }
        struct seen *s = &e->log[e->n++];
        *s = (struct seen){.ev = ev};
        if (ev.identity) s->identity = *ev.identity;
        if (ev.kind == BUS_MESSAGE) {
            s->data = malloc(ev.len + 1);
            memcpy(s->data, ev.data, ev.len);
        }
        if (ev.kind == BUS_REFUSED || ev.kind == BUS_GONE)
            snprintf(s->text, sizeof s->text, "%s", ev.text);
    }
}

static inline void rig_step(struct rig *r) {
    struct bus *last = NULL;
    for (uint32_t i = 0; i < r->n_ends; i++) {
        if (r->ends[i].idle) continue;
        end_step(&r->ends[i]);
        last = r->ends[i].bus;
    }
    r->kind->pass(r->world, last);
}

static inline struct seen *take(struct rig *r, struct end *e, enum bus_event_kind kind) {
    uint64_t began = clock_now_ns();
    while (e->taken == e->n) {
        rig_step(r);
        if (clock_now_ns() - began > PATIENCE_S * UINT64_C(1000000000))
            fail_msg("no event %d came", kind);
    }
    struct seen *s = &e->log[e->taken++];
    if (s->ev.kind != kind) fail_msg("event %d came, expected %d: %s", s->ev.kind, kind, s->text);
    return s;
}

/* Whatever comes before it. */
static inline struct seen *take_until(struct rig *r, struct end *e, enum bus_event_kind kind) {
    for (;;) {
        while (e->taken == e->n) rig_step(r);
        if (e->log[e->taken].ev.kind == kind) return &e->log[e->taken++];
        e->taken++;
    }
}

/* Nothing (more) comes, as far as can be seen in a while. */
static inline void expect_nothing(struct rig *r, struct end *e) {
    for (int i = 0; i < 100; i++) rig_step(r);
    assert_int_equal(e->taken, e->n);
}

static inline bus_id conf_connect(struct rig *r, struct end *from, const char *name) {
    char address[BUS_ADDRESS_BYTES];
    r->kind->address(r->world, name, address);
    bus_id id = bus_connect(from->bus, address);
    assert_true(id != 0);
    return id;
}

struct pair {
    struct end *a, *b;
    bus_id ab, ba; /* b at a; a at b */
};

static inline void pair_up(struct rig *r, struct pair *p, struct end *a, struct end *b,
                           const char *name) {
    *p = (struct pair){a, b, 0, 0};
    p->ab = conf_connect(r, a, name);
    p->ba = take(r, b, BUS_UP)->ev.peer;
    assert_int_equal(take(r, a, BUS_UP)->ev.peer, p->ab);
}

static inline void pair_new(struct rig *r, struct pair *p) {
    struct end *a = end_new(r, "a"), *b = end_new(r, "b");
    pair_up(r, p, a, b, "b");
}

static inline enum bus_status complete(struct rig *r, struct bus_queue *q, uint64_t cookie) {
    struct bus_completion c;
    uint64_t began = clock_now_ns();
    while (!bus_completions(q, &c, 1)) {
        rig_step(r);
        if (clock_now_ns() - began > PATIENCE_S * UINT64_C(1000000000))
            fail_msg("no completion came");
    }
    assert_int_equal(c.cookie, cookie);
    return c.status;
}

static inline enum bus_status read_now(struct rig *r, struct bus_queue *q, bus_id s,
                                       uint64_t offset, void *to, size_t len) {
    assert_int_equal(bus_read(q, s, offset, to, len, 77), ST_OK);
    return complete(r, q, 77);
}

static inline enum bus_status write_now(struct rig *r, struct bus_queue *q, bus_id s,
                                        uint64_t offset, const void *from, size_t len) {
    assert_int_equal(bus_write(q, s, offset, from, len, 78), ST_OK);
    return complete(r, q, 78);
}

/* A segment of b that a has imported. */
struct lent {
    bus_id at_b, at_a;
    uint8_t *memory;
    struct bus_queue *q; /* a's */
};

static inline void lend(struct rig *r, struct pair *p, struct lent *l, size_t bytes,
                        enum bus_rights rights) {
    struct err err;
    void *memory;
    assert_int_equal(bus_segment_new(p->b->bus, bytes, rights, &l->at_b, &memory, &err), ST_OK);
    l->memory = memory;
    assert_int_equal(bus_share(p->b->bus, p->ba, l->at_b, 4711), ST_OK);
    struct seen *s = take(r, p->a, BUS_SEGMENT);
    assert_int_equal(s->ev.peer, p->ab);
    assert_int_equal(s->ev.value, 4711);
    assert_int_equal(s->ev.len, bytes);
    l->at_a = s->ev.segment;
    assert_int_equal(bus_queue_new(p->a->bus, &l->q, &err), ST_OK);
}

static inline void fill(uint8_t *to, size_t len, uint32_t seed) {
    for (size_t i = 0; i < len; i++) to[i] = (uint8_t)((i * 2654435761u + seed) >> 13);
}

#define CONF(f, kind) cmocka_unit_test_prestate_setup_teardown(f, conf_setup, conf_teardown, kind)

#endif

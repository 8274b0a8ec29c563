/* SPDX-License-Identifier: Apache-2.0 */
/* Both sides of a hand-over, played by a test over the simulated bus, in one thread. Included after cmocka. */
#ifndef SUPERNODE_TESTS_CLUSTER_PULL_TEST_H
#define SUPERNODE_TESTS_CLUSTER_PULL_TEST_H

#include <string.h>

#include "cluster/proto.h"
#include "cluster/pull.h"
#include "sim/core/sim_bus.h"

enum { FROM_PAGES = 12, TO_PAGES = 10, SLOT = 24, ENTRY = 2, FLIGHT = 7, EPOCH = 31, PARTS = 3 };
static const struct block_shape shape = {.n_layers = 2, .layer_bytes = 64, .tail_bytes = 16};
static const uint64_t ms = 1000000;

struct world {
    struct sim_net *net;
    struct bus *from, *to;
    uint8_t *pages, *board; /* the source's */
    struct pull_source source;
    struct puller *p;
    uint8_t memory[4096];
};

static inline uint64_t *generation(struct world *w, uint32_t page) {
    return (uint64_t *)(void *)(w->pages + paged_generation_at(&shape, FROM_PAGES, page));
}

static inline uint8_t *entry(struct world *w) {
    return w->board + proto_entry_at(ENTRY, proto_entry_bytes(PARTS, SLOT));
}

static inline uint8_t *rows_of(struct world *w, uint32_t part, uint32_t page) {
    return w->pages + paged_at(&shape, FROM_PAGES, part, page);
}

static inline uint8_t *arrived(struct world *w, uint32_t part, uint32_t page) {
    return w->memory + paged_at(&shape, TO_PAGES, part, page);
}

static inline void tell(struct world *w, uint32_t part, uint32_t rows) {
    memcpy(entry(w) + sizeof(uint64_t) + 4 * part, &rows, sizeof rows);
}

static inline void set_flight(struct world *w, uint64_t flight) {
    memcpy(entry(w), &flight, sizeof flight);
}

static inline void set_epoch(struct world *w, uint64_t epoch) {
    memcpy(w->board, &epoch, sizeof epoch);
}

static inline struct bus *endpoint(struct sim_net *net, const char *name) {
    struct bus *b;
    struct err err;
    struct bus_identity who = {.hello_len = 0};
    strcpy(who.name, name);
    assert_int_equal(sim_bus_new(&b, net, name, &who, &err), ST_OK);
    return b;
}

static inline void import(struct world *w) {
    struct bus_event ev;
    bus_id peer = 0, pages, board;
    void *memory;
    struct err err;
    assert_int_equal(bus_segment_new(w->from, paged_bytes(&shape, FROM_PAGES), BUS_PEERS_READ,
                                     &pages, &memory, &err),
                     ST_OK);
    w->pages = memory;
    assert_int_equal(bus_segment_new(w->from, proto_entry_at(4, proto_entry_bytes(PARTS, SLOT)),
                                     BUS_PEERS_READ, &board, &memory, &err),
                     ST_OK);
    w->board = memory;
    bus_connect(w->to, "from");
    sim_net_advance(w->net, ms);
    while (bus_next(w->from, &ev)) peer = ev.peer;
    assert_int_equal(bus_share(w->from, peer, pages, PROTO_SEGMENT_PAGES), ST_OK);
    assert_int_equal(bus_share(w->from, peer, board, PROTO_SEGMENT_BOARD), ST_OK);
    sim_net_advance(w->net, 2 * ms);
    while (bus_next(w->to, &ev))
        if (ev.kind == BUS_SEGMENT)
            *(ev.value == PROTO_SEGMENT_PAGES ? &w->source.pages : &w->source.board) = ev.segment;
}

static inline void start(struct world *w) {
    struct err err;
    struct sim_net_options o = {.seed = 1,
                                .delay_ns_min = 1000,
                                .delay_ns_max = 9000,
                                .peer_timeout_ns = 100 * ms,
                                .close_ns = ms};
    *w = (struct world){.source = {.n_pages = FROM_PAGES, .entry = ENTRY}};
    w->source.flight = FLIGHT;
    w->source.epoch = EPOCH;
    assert_int_equal(sim_net_new(&w->net, &o, &err), ST_OK);
    w->from = endpoint(w->net, "from");
    w->to = endpoint(w->net, "to");
    import(w);
    for (uint32_t page = 0; page < FROM_PAGES; page++) {
        *generation(w, page) = 100 + page;
        for (uint32_t part = 0; part < PARTS; part++)
            for (uint32_t i = 0; i < block_part_bytes(&shape, part); i++)
                rows_of(w, part, page)[i] = (uint8_t)(1 + page * 17 + part * 5 + i);
    }
    set_epoch(w, EPOCH);
    set_flight(w, FLIGHT);
    memset(entry(w) + proto_entry_state_at(PARTS), 0xab, SLOT);
    assert_int_equal(puller_new(&w->p, w->to, &shape, w->memory, TO_PAGES, SLOT, 0, &err), ST_OK);
}

static inline void stop(struct world *w) {
    struct puller_stats s;
    puller_stats(w->p, &s);
    assert_int_equal(s.waits, 0);
    puller_free(w->p);
    bus_free(w->to);
    bus_free(w->from);
    sim_net_free(w->net);
}

static inline void copy_for(struct world *w, uint64_t ns) {
    for (uint64_t end = sim_net_now(w->net) + ns; sim_net_now(w->net) < end;) {
        while (puller_copy(w->p)) continue;
        sim_net_advance(w->net, sim_net_now(w->net) + 1000);
    }
    while (puller_copy(w->p)) continue;
}

/* Block i of a table lies in from[i] there, to[i] here. */
static const uint32_t from[] = {5, 1, 8}, to[] = {2, 0, 7};

static inline void give_table(struct world *w, struct pull *u, const uint32_t *pages, uint32_t n,
                              bool complete) {
    struct pull_page table[8];
    for (uint32_t i = 0; i < n; i++)
        table[i] = (struct pull_page){pages[i], *generation(w, pages[i])};
    assert_int_equal(pull_table(u, table, n, complete), ST_OK);
}

static inline bool is_there(struct world *w, uint32_t part, uint32_t page, uint32_t at) {
    return memcmp(arrived(w, part, at), rows_of(w, part, page), block_part_bytes(&shape, part)) ==
           0;
}

static inline bool untouched(struct world *w, uint32_t part, uint32_t at) {
    static const uint8_t zeros[64];
    return memcmp(arrived(w, part, at), zeros, block_part_bytes(&shape, part)) == 0;
}

static inline struct pull *begin(struct world *w, uint32_t n_there) {
    struct pull *u = pull_begin(w->p, &w->source, to, 3, n_there, 300);
    assert_non_null(u);
    return u;
}

static inline bool not_over(struct pull *u) {
    bool ok;
    const void *state;
    return !pull_over(u, &ok, &state);
}

/* It is over: as expected, and freed. */
static inline void ends(struct world *w, struct pull *u, bool expected, uint64_t n_failed) {
    bool ok = !expected;
    const void *state;
    struct puller_stats s;
    copy_for(w, 5 * ms);
    assert_true(pull_over(u, &ok, &state));
    assert_int_equal(ok, expected);
    if (ok) assert_memory_equal(state, entry(w) + proto_entry_state_at(PARTS), SLOT);
    puller_stats(w->p, &s);
    assert_int_equal(s.failed, n_failed);
    pull_free(u);
}

static inline void all_there(struct world *w, const uint32_t *pages, uint32_t first) {
    for (uint32_t b = first; b < 3; b++)
        for (uint32_t part = 0; part < PARTS; part++)
            assert_true(is_there(w, part, pages[b], to[b]));
}

#endif

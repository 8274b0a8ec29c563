/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody of a cluster, played by a test: an endpoint of the simulated bus with one connection, what came
 * over it, and a message in the making. Included after cmocka. */
#ifndef SUPERNODE_TESTS_CLUSTER_PLAYED_H
#define SUPERNODE_TESTS_CLUSTER_PLAYED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/proto.h"
#include "sim/core/sim_bus.h"

enum { PLAYED_INBOX = 64 };

struct played {
    char name[BUS_NAME_BYTES];
    struct bus *bus;
    bus_id peer;        /* 0: none, or it is gone */
    bus_id segments[3]; /* by tag */
    uint64_t deaf;      /* bits of kinds that are not kept */
    struct played_message {
        uint8_t *data;
        size_t len;
    } in[PLAYED_INBOX];
    uint32_t n_in;
    uint8_t *taken;
    struct buf out;
};

static inline void played_begin(struct played *p, struct sim_net *net, const char *name,
                                enum proto_peer kind) {
    struct err err;
    struct bus_identity who = {.hello = {(uint8_t)kind}, .hello_len = 1, .model_id = "stand-in"};
    *p = (struct played){.out = {.max = 1 << 20}};
    snprintf(p->name, sizeof p->name, "%s", name);
    snprintf(who.name, sizeof who.name, "%s", name);
    assert_int_equal(sim_bus_new(&p->bus, net, name, &who, &err), ST_OK);
}

static inline void played_end(struct played *p) {
    for (uint32_t i = 0; i < p->n_in; i++) free(p->in[i].data);
    free(p->taken);
    buf_release(&p->out);
    bus_free(p->bus);
    *p = (struct played){0};
}

static inline void played_keep(struct played *p, const struct bus_event *ev) {
    assert_true(ev->len > 0 && p->n_in < PLAYED_INBOX);
    if (p->deaf >> *(const uint8_t *)ev->data & 1) return;
    uint8_t *data = malloc(ev->len);
    assert_non_null(data);
    memcpy(data, ev->data, ev->len);
    p->in[p->n_in++] = (struct played_message){data, ev->len};
}

/* Takes what the bus has. */
static inline void played_step(struct played *p) {
    struct bus_event ev;
    while (p->bus && bus_next(p->bus, &ev)) {
        if (ev.kind == BUS_UP) p->peer = ev.peer;
        if (ev.kind == BUS_GONE && ev.peer == p->peer) p->peer = 0;
        if (ev.kind == BUS_SEGMENT && ev.value < 3) p->segments[ev.value] = ev.segment;
        if (ev.kind == BUS_MESSAGE) played_keep(p, &ev);
    }
}

/* The earliest message is of this kind: what follows the kind. Valid until the next one is taken. */
static inline struct wire_in played_take(struct played *p, enum proto_kind kind) {
    if (p->n_in == 0) fail_msg("%s: no message, expected kind %d", p->name, (int)kind);
    struct played_message m = p->in[0];
    memmove(p->in, p->in + 1, --p->n_in * sizeof *p->in);
    free(p->taken);
    p->taken = m.data;
    if (m.data[0] != kind)
        fail_msg("%s: message of kind %d, expected %d", p->name, m.data[0], (int)kind);
    return (struct wire_in){.at = m.data + 1, .left = m.len - 1};
}

static inline void played_quiet(const struct played *p) {
    if (p->n_in > 0) fail_msg("%s: message of kind %d, expected none", p->name, p->in[0].data[0]);
}

static inline void played_forget(struct played *p) {
    while (p->n_in > 0) free(p->in[--p->n_in].data);
}

static inline struct wire_out played_say(struct played *p, enum proto_kind kind) {
    struct wire_out w = {&p->out, ST_OK};
    p->out.len = 0;
    wire_put_u8(&w, (uint8_t)kind);
    return w;
}

static inline void played_send(struct played *p, const struct wire_out *w) {
    assert_int_equal(w->st, ST_OK);
    assert_int_equal(bus_send(p->bus, p->peer, p->out.data, p->out.len), ST_OK);
}

/* Messages that are a kind and a flight. */
static inline void played_tell(struct played *p, enum proto_kind kind, uint64_t flight) {
    struct wire_out w = played_say(p, kind);
    wire_put_u64(&w, flight);
    played_send(p, &w);
}

static inline void played_hears(struct played *p, enum proto_kind kind, uint64_t flight) {
    struct wire_in r = played_take(p, kind);
    assert_true(wire_get_u64(&r) == flight);
    assert_true(wire_get_end(&r));
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_client.h. */
#include "cli/cluster_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

enum { QUESTION_BYTES_MAX = 4096 };

struct cluster_client {
    struct cluster_args *a;
    struct bus *bus;
    bus_id router; /* 0: none */
    bool up;
};

enum st cluster_client_new(struct cluster_client **out, struct cluster_args *a, struct err *err) {
    struct cluster_client *c = calloc(1, sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "%s: out of memory", a->command);
    c->a = a;
    snprintf(a->name, sizeof a->name, "ctl-%d", (int)getpid());
    enum st st = cluster_bus(&c->bus, a, PROTO_PEER_CTL, NULL, "", "", err);
    if (st)
        free(c);
    else
        *out = c;
    return st;
}

void cluster_client_free(struct cluster_client *c) {
    if (!c) return;
    bus_free(c->bus);
    free(c);
}

/* The next event of the router's; ST_TIMEOUT at until_ns. GONE and REFUSED end the connection. */
static enum st next_event(struct cluster_client *c, struct bus_event *ev, uint64_t until_ns,
                          struct err *err) {
    for (;;) {
        while (bus_next(c->bus, ev)) {
            if (ev->peer != c->router) continue;
            if (ev->kind != BUS_GONE && ev->kind != BUS_REFUSED) return ST_OK;
            c->router = 0;
            c->up = false;
            return err_set(err, ST_GONE, "%s: no router answers in %s (%s)", c->a->command,
                           c->a->dir, ev->text ? ev->text : "it left");
        }
        if (bus_now(c->bus) >= until_ns)
            return err_set(err, ST_TIMEOUT, "%s: the router in %s does not answer", c->a->command,
                           c->a->dir);
        bus_wait(c->bus, until_ns);
    }
}

static enum st connect_router(struct cluster_client *c, uint64_t until_ns, struct err *err) {
    struct bus_event ev;
    if (!c->router) c->router = bus_connect(c->bus, c->a->router);
    while (!c->up) {
        enum st st = next_event(c, &ev, until_ns, err);
        if (st) return st;
        c->up = ev.kind == BUS_UP;
    }
    return ST_OK;
}

/* Asks, and waits for a message of this kind, whose rest is *answer until the next call. */
static enum st ask(struct cluster_client *c, const struct buf *question, enum proto_kind kind,
                   struct wire_in *answer, uint32_t timeout_ms, struct err *err) {
    uint64_t until_ns = bus_now(c->bus) + timeout_ms * UINT64_C(1000000);
    struct bus_event ev;
    enum st st = connect_router(c, until_ns, err);
    if (!st && bus_send(c->bus, c->router, question->data, question->len))
        st =
            err_set(err, ST_GONE, "%s: the router in %s cannot be asked", c->a->command, c->a->dir);
    while (!st) {
        st = next_event(c, &ev, until_ns, err);
        if (st || ev.kind != BUS_MESSAGE) continue;
        *answer = (struct wire_in){.at = ev.data, .left = ev.len};
        if (wire_get_u8(answer) == kind) return ST_OK;
    }
    return st;
}

static enum st unreadable(struct cluster_client *c, struct err *err) {
    return err_set(err, ST_CORRUPT, "%s: the router's answer cannot be read", c->a->command);
}

enum st cluster_client_view(struct cluster_client *c, struct cluster_view *out, uint32_t timeout_ms,
                            struct err *err) {
    struct buf question = {.max = QUESTION_BYTES_MAX};
    struct wire_out w = {&question, ST_OK};
    struct wire_in answer;
    wire_put_u8(&w, PROTO_CTL_LIST);
    enum st st = w.st ? err_set(err, w.st, "%s: out of memory", c->a->command)
                      : ask(c, &question, PROTO_CTL_VIEW, &answer, timeout_ms, err);
    if (!st) {
        proto_get_view(&answer, out);
        if (!wire_get_end(&answer)) st = unreadable(c, err);
    }
    buf_release(&question);
    return st;
}

static enum st command(struct cluster_client *c, struct buf *question, enum st written,
                       uint32_t timeout_ms, struct err *err) {
    struct wire_in answer;
    char text[256];
    enum st st = written ? err_set(err, written, "%s: out of memory", c->a->command)
                         : ask(c, question, PROTO_CTL_DONE, &answer, timeout_ms, err);
    if (!st) {
        enum st said = (enum st)wire_get_u8(&answer);
        wire_get_text(&answer, text, sizeof text);
        if (!wire_get_end(&answer))
            st = unreadable(c, err);
        else if (said)
            st = err_set(err, said, "%s: %s", c->a->command, text);
    }
    buf_release(question);
    return st;
}

enum st cluster_client_drain(struct cluster_client *c, const char *name, uint32_t timeout_ms,
                             struct err *err) {
    struct buf question = {.max = QUESTION_BYTES_MAX};
    struct wire_out w = {&question, ST_OK};
    wire_put_u8(&w, PROTO_CTL_DRAIN);
    wire_put_text(&w, name);
    return command(c, &question, w.st, timeout_ms, err);
}

enum st cluster_client_role(struct cluster_client *c, const char *name, enum member_role role,
                            uint32_t timeout_ms, struct err *err) {
    struct buf question = {.max = QUESTION_BYTES_MAX};
    struct wire_out w = {&question, ST_OK};
    wire_put_u8(&w, PROTO_CTL_ROLE);
    wire_put_text(&w, name);
    wire_put_u8(&w, (uint8_t)role);
    return command(c, &question, w.st, timeout_ms, err);
}

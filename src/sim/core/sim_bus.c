/* SPDX-License-Identifier: Apache-2.0 */
/* Implements the endpoints of sim_bus.h: connections, what comes over them, and faults. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/identity.h"
#include "sim/core/sim_bus_impl.h"

/* --- what is held ----------------------------------------------------------------------------- */

struct sim_conn *sim_conn_hold(struct sim_conn *c) {
    c->refs++;
    return c;
}

void sim_conn_put(struct sim_conn *c) {
    if (--c->refs == 0) free(c);
}

struct sim_item *sim_item_new(struct sim_side *to, enum bus_event_kind kind, const void *bytes,
                              size_t len) {
    struct sim_item *i = sim_net_alloc(sizeof *i + len + 1);
    i->to = to;
    sim_conn_hold(to->conn);
    i->ev = (struct bus_event){.kind = kind, .data = i->bytes, .len = len};
    if (len) memcpy(i->bytes, bytes, len);
    return i;
}

static void item_free(struct sim_item *i) {
    if (!i) return;
    if (i->ev.kind == BUS_MESSAGE) i->to->unread -= i->ev.len;
    sim_memory_put(i->memory);
    sim_conn_put(i->to->conn);
    free(i);
}

/* The endpoint has no more to do with the peer. */
static void side_end(struct sim_side *s) {
    if (s->state == SIDE_NONE || s->state == SIDE_OVER) return;
    while (s->imports) {
        struct sim_import *i = s->imports;
        s->imports = i->next;
        ids_remove(&s->bus->imports, i->id);
        sim_memory_put(i->memory);
        free(i);
    }
    ids_remove(&s->bus->sides, s->id);
    s->state = SIDE_OVER;
    s->bus = NULL;
    sim_conn_put(s->conn);
}

static void side_begin(struct sim_side *s, struct sim_bus *b, enum sim_side_state state) {
    s->state = state;
    s->bus = b;
    s->id = ++b->last_id;
    s->identity = b->identity;
    sim_conn_hold(s->conn);
    bool added = ids_add(&b->sides, s->id, s);
    assert(added);
    (void)added;
}

/* --- delivery --------------------------------------------------------------------------------- */

static bool import_segment(struct sim_side *s, struct sim_item *item) {
    struct sim_import *i = sim_net_alloc(sizeof *i);
    *i = (struct sim_import){++s->bus->last_id, item->memory, s, s->imports};
    item->memory->refs++;
    s->imports = i;
    item->ev.segment = i->id;
    bool added = ids_add(&s->bus->imports, i->id, i);
    assert(added);
    return added;
}

/* What it means for the side that it comes now; false: nothing any more. */
static bool arrives(struct sim_side *s, struct sim_item *i) {
    bool open = s->state == SIDE_CONNECTING || s->state == SIDE_UP;
    if (!open || (s->conn->broken && i->ev.kind != BUS_GONE)) return false;
    switch (i->ev.kind) {
    case BUS_UP: s->state = SIDE_UP; return true;
    case BUS_GONE:
        if (s->state == SIDE_CONNECTING) i->ev.kind = BUS_REFUSED;
        s->state = SIDE_GONE;
        return true;
    case BUS_REFUSED: s->state = SIDE_GONE; return true;
    case BUS_SEGMENT: return !i->memory->freed && import_segment(s, i);
    case BUS_NOTIFY: return !i->memory->freed;
    case BUS_MESSAGE:
    case BUS_SUSPENDED:
    case BUS_RESUMED: return true;
    }
    return false;
}

static void deliver(struct sim_net *n, void *thing) {
    struct sim_item *i = thing;
    if (n->over || !arrives(i->to, i)) {
        item_free(i);
        return;
    }
    struct sim_bus *b = i->to->bus;
    i->next = NULL;
    *b->end = i;
    b->end = &i->next;
    b->news = true;
}

/* It is on its way from now on, behind what went before. */
static void travel(struct sim_net *n, struct sim_item *i) {
    uint64_t at = n->now_ns + i->delay_ns;
    if (at < i->to->last_due) at = i->to->last_due;
    i->to->last_due = at;
    sim_net_post(n, at, deliver, i);
}

void sim_post(struct sim_net *n, struct sim_item *i) {
    i->delay_ns = sim_net_delay(n);
    travel(n, i);
}

/* The sender's clock is there, if it has not stood still since. */
static void go_out(struct sim_net *n, void *thing) {
    struct sim_item *i = thing;
    struct sim_bus *from = sim_other(i->to)->bus; /* NULL: it closed, but had said this before */
    if (n->over || i->to->dead) {
        item_free(i);
    } else if (from && from->stopped) {
        i->next = NULL;
        *from->unsaid_end = i;
        from->unsaid_end = &i->next;
    } else if (from && i->held_ns < from->held_ns) {
        i->from_ns += from->held_ns - i->held_ns;
        i->held_ns = from->held_ns;
        sim_net_post(n, i->from_ns, go_out, i);
    } else {
        travel(n, i);
    }
}

void sim_say(struct sim_bus *b, struct sim_item *i) {
    uint64_t now = b->net->now_ns, own = b->clock_ns ? *b->clock_ns : 0;
    i->from_ns = own;
    i->held_ns = b->held_ns;
    i->delay_ns = sim_net_delay(b->net);
    if (own > now)
        sim_net_post(b->net, own, go_out, i);
    else
        travel(b->net, i);
}

static void post_gone(struct sim_net *n, struct sim_side *to, const char *why) {
    if (to->state != SIDE_CONNECTING && to->state != SIDE_UP) return;
    sim_net_post(n, n->now_ns + n->o.close_ns, deliver,
                 sim_item_new(to, BUS_GONE, why, strlen(why)));
}

static bool sim_next(struct bus *base, struct bus_event *ev) {
    struct sim_bus *b = sim_self(base);
    item_free(b->taken);
    b->taken = NULL;
    for (struct sim_item *i; (i = b->first);) {
        b->first = i->next;
        if (!b->first) b->end = &b->first;
        if (i->to->state == SIDE_OVER) { /* closed here meanwhile */
            item_free(i);
            continue;
        }
        b->taken = i;
        i->ev.peer = i->to->id;
        i->ev.text = i->bytes;
        if (i->ev.kind == BUS_UP) i->ev.identity = &sim_other(i->to)->identity;
        if (i->ev.kind == BUS_GONE || i->ev.kind == BUS_REFUSED) side_end(i->to);
        *ev = i->ev;
        return true;
    }
    return false;
}

/* --- connecting ------------------------------------------------------------------------------- */

static struct sim_bus *find(const struct sim_net *n, const char *address) {
    for (struct sim_bus *b = n->buses; b; b = b->next)
        if (!b->killed && *b->address && strcmp(b->address, address) == 0) return b;
    return NULL;
}

static void refuse(struct sim_net *n, struct sim_side *s, const char *why, bool by_peer) {
    struct sim_item *i = sim_item_new(s, BUS_REFUSED, why, strlen(why));
    i->ev.value = by_peer;
    sim_post(n, i);
}

static void accept_conn(struct sim_net *n, void *thing) {
    struct sim_conn *c = thing;
    struct sim_side *from = &c->side[0], *to = &c->side[1];
    struct sim_bus *target = n->over ? NULL : find(n, c->address);
    struct sim_bus *stopped = from->bus && from->bus->stopped ? from->bus : target;
    struct err why;
    if (n->over || from->state != SIDE_CONNECTING) {
        sim_conn_put(c);
    } else if (!target) {
        err_set(&why, ST_GONE, "%s: nobody listens", c->address);
        refuse(n, from, why.text, false);
        sim_conn_put(c);
    } else if (stopped->stopped) {
        c->next_parked = stopped->parked_conns;
        stopped->parked_conns = c;
    } else if (!identity_agrees(&target->identity, &from->identity, &why)) {
        refuse(n, from, why.text, true);
        sim_conn_put(c);
    } else {
        side_begin(to, target, SIDE_CONNECTING);
        deliver(n, sim_item_new(to, BUS_UP, NULL, 0));
        sim_post(n, sim_item_new(from, BUS_UP, NULL, 0));
        sim_conn_put(c);
    }
}

static bus_id sim_connect(struct bus *base, const char *address) {
    struct sim_bus *b = sim_self(base);
    struct sim_conn *c = sim_net_alloc(sizeof *c);
    for (unsigned i = 0; i < 2; i++) c->side[i].conn = c, c->side[i].index = i;
    snprintf(c->address, sizeof c->address, "%s", address);
    side_begin(&c->side[0], b, SIDE_CONNECTING);
    sim_net_post(b->net, b->net->now_ns + sim_net_delay(b->net), accept_conn, sim_conn_hold(c));
    return c->side[0].id;
}

static void close_side(struct sim_net *n, struct sim_side *s, const char *why) {
    post_gone(n, sim_other(s), why);
    side_end(s);
}

static void sim_close(struct bus *base, bus_id peer) {
    struct sim_side *s = ids_get(&sim_self(base)->sides, peer);
    if (s) close_side(sim_self(base)->net, s, "closed by the peer");
}

static enum st sim_send(struct bus *base, bus_id peer, const void *data, size_t len) {
    struct sim_side *s = ids_get(&sim_self(base)->sides, peer);
    if (len > BUS_MESSAGE_MAX) return ST_INVALID;
    if (!s || s->state != SIDE_UP) return ST_GONE;
    if (sim_other(s)->unread + len > BUS_UNSENT_MAX) return ST_FULL;
    sim_other(s)->unread += len;
    sim_say(sim_self(base), sim_item_new(sim_other(s), BUS_MESSAGE, data, len));
    return ST_OK;
}

/* --- faults ----------------------------------------------------------------------------------- */

struct check {
    struct sim_side *watcher;
    uint64_t stops; /* of the silent endpoint, when the check was posted */
};

static void check_silence(struct sim_net *n, void *thing) {
    struct check *c = thing;
    struct sim_side *s = c->watcher;
    const struct sim_bus *silent = sim_other(s)->bus;
    bool still =
        !n->over && s->state == SIDE_UP && silent && silent->stopped && silent->stops == c->stops;
    if (still && !s->sees_silence && !s->bus->stopped) {
        s->sees_silence = true;
        deliver(n, sim_item_new(s, BUS_SUSPENDED, NULL, 0));
    }
    sim_conn_put(s->conn);
    free(c);
}

static void watch(struct sim_net *n, struct sim_side *watcher) {
    struct check *c = sim_net_alloc(sizeof *c);
    *c = (struct check){watcher, sim_other(watcher)->bus->stops};
    sim_conn_hold(watcher->conn);
    sim_net_post(n, n->now_ns + n->o.peer_timeout_ns, check_silence, c);
}

void sim_bus_stop(struct bus *base) {
    struct sim_bus *b = sim_self(base);
    if (b->stopped) return;
    b->stopped = true;
    b->stopped_ns = b->net->now_ns;
    b->stops++;
    for (uint32_t i = 0; i < b->sides.len; i++) {
        struct sim_side *s = sim_other(b->sides.v[i].thing);
        if (s->bus) watch(b->net, s);
    }
}

static void release_parked_conns(struct sim_bus *b) {
    while (b->parked_conns) {
        struct sim_conn *c = b->parked_conns;
        b->parked_conns = c->next_parked;
        sim_net_post(b->net, b->net->now_ns, accept_conn, c);
    }
}

/* It is said as much later as the endpoint stood still. */
static void release_unsaid(struct sim_bus *b) {
    for (struct sim_item *i; (i = b->unsaid);) {
        b->unsaid = i->next;
        sim_net_post(b->net, b->net->now_ns, go_out, i);
    }
    b->unsaid_end = &b->unsaid;
}

void sim_bus_continue(struct bus *base) {
    struct sim_bus *b = sim_self(base);
    if (!b->stopped) return;
    b->stopped = false;
    b->held_ns += b->net->now_ns - b->stopped_ns;
    b->news = true;
    release_unsaid(b);
    release_parked_conns(b);
    sim_ops_continue(b);
    for (uint32_t i = 0; i < b->sides.len; i++) {
        struct sim_side *s = b->sides.v[i].thing, *o = sim_other(s);
        if (o->bus && o->sees_silence) {
            o->sees_silence = false;
            sim_post(b->net, sim_item_new(o, BUS_RESUMED, NULL, 0));
        }
        if (o->bus && o->bus->stopped && !s->sees_silence) watch(b->net, s);
    }
}

static void end_all(struct sim_bus *b, const char *why) {
    while (b->sides.len) close_side(b->net, b->sides.v[b->sides.len - 1].thing, why);
    b->killed = true; /* nobody finds it any more */
    release_unsaid(b);
    release_parked_conns(b);
    sim_ops_drop(b);
}

void sim_bus_kill(struct bus *b) {
    const struct ids *sides = &sim_self(b)->sides;
    for (uint32_t i = 0; i < sides->len; i++) sim_other(sides->v[i].thing)->dead = true;
    end_all(sim_self(b), "the peer died");
}

void sim_bus_break(struct bus *a, struct bus *b) {
    struct sim_bus *from = sim_self(a);
    for (uint32_t i = 0; i < from->sides.len; i++) {
        struct sim_side *s = from->sides.v[i].thing;
        if (sim_other(s)->bus != sim_self(b) || s->conn->broken) continue;
        s->conn->broken = true;
        post_gone(from->net, s, "the connection broke");
        post_gone(from->net, sim_other(s), "the connection broke");
    }
}

/* --- the endpoint ----------------------------------------------------------------------------- */

static void sim_wait(struct bus *b, uint64_t until_ns) {
    (void)b;
    (void)until_ns;
}

static void sim_wake(struct bus *b) {
    sim_self(b)->news = true;
}

static uint64_t sim_now(struct bus *b) {
    return sim_self(b)->net->now_ns;
}

void sim_bus_clock(struct bus *b, const uint64_t *clock_ns) {
    sim_self(b)->clock_ns = clock_ns;
}

bool sim_bus_has_news(struct bus *base) {
    struct sim_bus *b = sim_self(base);
    bool news = b->news && !b->stopped && !b->killed;
    if (news) b->news = false;
    return news;
}

static void sim_free(struct bus *base) {
    struct sim_bus *b = sim_self(base);
    end_all(b, "closed by the peer");
    item_free(b->taken);
    while (b->first) {
        struct sim_item *i = b->first;
        b->first = i->next;
        item_free(i);
    }
    for (uint32_t i = 0; i < b->segments.len; i++) sim_memory_put(b->segments.v[i].thing);
    ids_release(&b->segments);
    ids_release(&b->sides);
    ids_release(&b->imports);
    *b->link = b->next;
    if (b->next) b->next->link = b->link;
    free(b);
}

static const struct bus_ops sim_ops = {
    .next = sim_next,
    .wait = sim_wait,
    .wake = sim_wake,
    .now = sim_now,
    .connect = sim_connect,
    .close = sim_close,
    .send = sim_send,
    .segment_new = sim_segment_new,
    .segment_free = sim_segment_free,
    .share = sim_share,
    .queue_new = sim_queue_new,
    .queue_free = sim_queue_free,
    .read = sim_read,
    .write = sim_write,
    .completions = sim_completions,
    .free = sim_free,
};

enum st sim_bus_new(struct bus **out, struct sim_net *n, const char *address,
                    const struct bus_identity *identity, struct err *err) {
    assert(identity_is_valid(identity));
    if (address && strlen(address) >= BUS_ADDRESS_BYTES)
        return err_set(err, ST_INVALID, "%s: address is longer than %d bytes", address,
                       BUS_ADDRESS_BYTES - 1);
    if (address && find(n, address))
        return err_set(err, ST_IO, "%s: another endpoint listens there", address);
    struct sim_bus *b = calloc(1, sizeof *b);
    if (!b) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    b->bus.ops = &sim_ops;
    b->net = n;
    b->identity = *identity;
    if (address) snprintf(b->address, sizeof b->address, "%s", address);
    b->end = &b->first;
    b->unsaid_end = &b->unsaid;
    b->next = n->buses;
    b->link = &n->buses;
    if (b->next) b->next->link = &b->next;
    n->buses = b;
    *out = &b->bus;
    return ST_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements router.h: life, membership, ctl. A member that is closed or silent is dead from the
 * moment the router says so: it is struck from the list, everybody is told, and what it had goes on
 * elsewhere. If it still lives it comes again, under a new epoch. */
#include "cluster/router.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/router_impl.h"
#include "pool/ring.h"

enum { EVENTS_A_STEP = 512 };
static const uint64_t rate_ns = 2000000000, idle_ns = 1000000000;

/* --- messages --------------------------------------------------------------------------------- */

struct wire_out router_begin(struct router *r, enum proto_kind kind) {
    struct wire_out w = {&r->message, ST_OK};
    r->message.len = 0;
    wire_put_u8(&w, (uint8_t)kind);
    return w;
}

static enum st send_to(struct router *r, bus_id peer, const struct wire_out *w) {
    return w->st ? w->st : bus_send(r->o.bus, peer, w->buf->data, w->buf->len);
}

/* A member counts on every message: one that was lost ends its life, at the next step. */
void router_send(struct router *r, struct mate *m, const struct wire_out *w) {
    enum st st = send_to(r, m->peer, w);
    if (st && st != ST_GONE) m->broken = true;
}

void router_tell(struct router *r, struct mate *m, enum proto_kind kind, uint64_t flight) {
    struct wire_out w = router_begin(r, kind);
    wire_put_u64(&w, flight);
    router_send(r, m, &w);
}

/* Something an operator wants to see. */
void router_say(struct router *r, const char *fmt, ...) {
    struct cluster_view *v = &r->view;
    va_list args;
    memmove(v->events + 1, v->events, (CLUSTER_EVENTS - 1) * sizeof *v->events);
    va_start(args, fmt);
    vsnprintf(v->events[0].text, sizeof v->events[0].text, fmt, args);
    va_end(args);
    v->events[0].at_ns = bus_now(r->o.bus);
    v->n_events += v->n_events < CLUSTER_EVENTS;
    v->events_total++;
}

/* --- members ---------------------------------------------------------------------------------- */

bool mate_may(const struct mate *m, enum member_role role) {
    return m->info.role == role && m->info.state == MEMBER_READY;
}

static struct mate *mate_by_peer(const struct router *r, bus_id peer) {
    struct mate *m = r->mates;
    while (m && m->peer != peer) m = m->next;
    return m;
}

static struct mate *mate_by_name(const struct router *r, const char *name) {
    struct mate *m = r->mates;
    while (m && strcmp(m->info.name, name) != 0) m = m->next;
    return m;
}

static void tell_members(struct router *r) {
    struct wire_out w = router_begin(r, PROTO_VIEW);
    uint32_t n = 0;
    for (const struct mate *m = r->mates; m; m = m->next) n++;
    wire_put_u64(&w, r->epoch);
    wire_put_u32(&w, n);
    for (const struct mate *m = r->mates; m; m = m->next) {
        wire_put_text(&w, m->info.name);
        wire_put_text(&w, m->info.address);
        wire_put_u8(&w, (uint8_t)m->info.role);
        wire_put_u64(&w, m->info.epoch);
    }
    for (struct mate *m = r->mates; m; m = m->next) router_send(r, m, &w);
    r->changed = false;
}

/* It is dead from now on. Its flights find other places once it is out of the list. */
static void remove_mate(struct router *r, struct mate *m, const char *why) {
    struct mate **at = &r->mates;
    uint32_t n_flights = m->n_flights;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    bus_close(r->o.bus, m->peer);
    flights_mate_gone(r, m);
    r->changed = true;
    if (n_flights)
        router_say(r, "%s %s: %u request%s on elsewhere", m->info.name, why, n_flights,
                   n_flights == 1 ? " goes" : "s go");
    else
        router_say(r, "%s %s", m->info.name, why);
    free(m->hints);
    free(m);
}

static void refuse(struct router *r, bus_id peer, const char *why) {
    struct wire_out w = router_begin(r, PROTO_REFUSED);
    wire_put_text(&w, why);
    if (send_to(r, peer, &w)) bus_close(r->o.bus, peer);
}

/* It is shown on terminals and in logs. */
static bool is_name(const char *text) {
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return text[0] && text[strspn(text, ok)] == 0;
}

/* NULL: it may join. */
static const char *objection(const struct router *r, const struct mate *m,
                             const struct block_shape *shape, uint32_t max_model_len, char *text,
                             size_t size) {
    uint32_t n = 0, n_pools = 0;
    for (const struct mate *o = r->mates; o; o = o->next) {
        if (strcmp(o->info.name, m->info.name) == 0) continue; /* its older life */
        n++;
        n_pools += o->info.role == ROLE_OF_POOL;
    }
    if (n >= CLUSTER_MEMBERS_MAX) return "the cluster has as many members as it can have";
    if (m->info.role == ROLE_OF_POOL)
        return n_pools < RING_SERVERS_MAX ? NULL : "the pool has as many servers as it can have";
    if (!block_shape_equal(shape, &r->o.shape))
        return "its KV pages have another layout than the cluster's (model or --kv-dtype)";
    if (max_model_len >= r->o.max_model_len) return NULL;
    snprintf(text, size,
             "its KV cache holds sequences of %u tokens, and the router's max-model-len is %u",
             max_model_len, r->o.max_model_len);
    return text;
}

static void join(struct router *r, bus_id peer, struct wire_in *in) {
    struct mate *m = calloc(1, sizeof *m), **at = &r->mates;
    struct block_shape shape;
    char text[160];
    if (!m) {
        bus_close(r->o.bus, peer); /* it comes again */
        return;
    }
    m->peer = peer;
    wire_get_text(in, m->info.name, sizeof m->info.name);
    wire_get_text(in, m->info.address, sizeof m->info.address);
    uint8_t role = wire_get_u8(in);
    uint64_t seen = wire_get_u64(in);
    m->info.pid = wire_get_u32(in);
    proto_get_shape(in, &shape);
    uint32_t max_model_len = wire_get_u32(in);
    bool ok = wire_get_end(in) && role < MEMBER_ROLES && seen < UINT32_MAX / 2 &&
              is_name(m->info.name) && !mate_by_peer(r, peer);
    m->info.role = ok ? (enum member_role)role : ROLE_OF_POOL;
    const char *why =
        ok ? objection(r, m, &shape, max_model_len, text, sizeof text) : "its JOIN cannot be read";
    if (why) {
        router_say(r, "%s was refused: %s", ok ? m->info.name : "a member", why);
        refuse(r, peer, why);
        free(m);
        return;
    }
    struct mate *older = mate_by_name(r, m->info.name);
    if (older) remove_mate(r, older, "came again");
    if (seen > r->epoch) r->epoch = seen;
    m->info.epoch = ++r->epoch;
    m->info.since_ns = bus_now(r->o.bus);
    while (*at) at = &(*at)->next;
    *at = m;
    struct wire_out w = router_begin(r, PROTO_JOINED);
    wire_put_u64(&w, m->info.epoch);
    proto_put_shape(&w, &r->o.shape);
    router_send(r, m, &w);
    r->changed = true;
    r->view.joins++;
    router_say(r, "%s joined, epoch %" PRIu64, m->info.name, m->info.epoch);
}

static bool take_load(struct mate *m, struct wire_in *in, uint64_t now_ns) {
    struct rates *b = &m->before;
    struct member_load load;
    proto_get_load(in, &load);
    if (!wire_get_end(in)) return false;
    m->info.load = load;
    if (b->at_ns && now_ns - b->at_ns < rate_ns) return true;
    double s = (double)(now_ns - b->at_ns) / 1e9;
    if (b->at_ns) {
        m->info.prompt_rate = (double)(load.computed_tokens - b->prompt) / s;
        m->info.token_rate = (double)(load.generated_tokens - b->generated) / s;
    }
    *b = (struct rates){now_ns, load.computed_tokens, load.generated_tokens};
    return true;
}

/* --- what an operator may do ------------------------------------------------------------------ */

static void drain(struct router *r, struct mate *m) {
    if (m->info.state == MEMBER_DRAINING) return;
    m->info.state = MEMBER_DRAINING;
    struct wire_out w = router_begin(r, PROTO_DRAIN);
    router_send(r, m, &w);
    r->view.drains++;
    router_say(r, "%s drains", m->info.name);
}

enum st router_drain(struct router *r, const char *name, struct err *err) {
    struct mate *m = mate_by_name(r, name);
    if (!m) return err_set(err, ST_NOT_FOUND, "%s: no such member", name);
    drain(r, m);
    return ST_OK;
}

enum st router_set_role(struct router *r, const char *name, enum member_role role,
                        struct err *err) {
    struct mate *m = mate_by_name(r, name);
    if (!m) return err_set(err, ST_NOT_FOUND, "%s: no such member", name);
    if (m->info.role == ROLE_OF_POOL || role == ROLE_OF_POOL)
        return err_set(err, ST_INVALID, "%s: only workers change roles, prefill to decode and back",
                       name);
    if (m->info.role == role) return ST_OK;
    m->info.role = role;
    struct wire_out w = router_begin(r, PROTO_ROLE);
    wire_put_u8(&w, (uint8_t)role);
    router_send(r, m, &w);
    r->changed = true;
    router_say(r, "%s is a %s worker now", name, member_role_name(role));
    return ST_OK;
}

static void answer(struct router *r, bus_id peer, enum st st, const struct err *err) {
    struct wire_out w = router_begin(r, PROTO_CTL_DONE);
    wire_put_u8(&w, (uint8_t)st);
    wire_put_text(&w, st ? err->text : "");
    if (send_to(r, peer, &w)) bus_close(r->o.bus, peer);
}

static void ctl_message(struct router *r, bus_id peer, uint8_t kind, struct wire_in *in) {
    char name[BUS_NAME_BYTES] = "";
    struct err err;
    if (kind == PROTO_CTL_LIST) {
        struct cluster_view *v = malloc(sizeof *v);
        struct wire_out w = router_begin(r, PROTO_CTL_VIEW);
        if (v) router_view(r, v);
        if (v) proto_put_view(&w, v);
        if (!v || send_to(r, peer, &w)) bus_close(r->o.bus, peer);
        free(v);
        return;
    }
    wire_get_text(in, name, sizeof name);
    uint8_t role = kind == PROTO_CTL_ROLE ? wire_get_u8(in) : 0;
    enum st st = !wire_get_end(in) || role >= MEMBER_ROLES
                     ? err_set(&err, ST_INVALID, "ctl: the message cannot be read")
                 : kind == PROTO_CTL_ROLE ? router_set_role(r, name, (enum member_role)role, &err)
                                          : router_drain(r, name, &err);
    answer(r, peer, st, &err);
}

/* --- events ----------------------------------------------------------------------------------- */

static void take_message(struct router *r, const struct bus_event *ev) {
    struct wire_in in = {.at = ev->data, .left = ev->len};
    uint8_t kind = wire_get_u8(&in);
    if (kind == PROTO_JOIN) {
        join(r, ev->peer, &in);
        return;
    }
    if (kind == PROTO_CTL_LIST || kind == PROTO_CTL_DRAIN || kind == PROTO_CTL_ROLE) {
        ctl_message(r, ev->peer, kind, &in);
        return;
    }
    struct mate *m = mate_by_peer(r, ev->peer);
    if (!m) {
        r->view.stale++;
        return;
    }
    /* who just joined may be given work now, and finds nobody before it is told of them */
    if (r->changed) tell_members(r);
    bool ok = true;
    if (kind == PROTO_LOAD)
        ok = take_load(m, &in, bus_now(r->o.bus));
    else if (kind == PROTO_LEAVE)
        drain(r, m);
    else
        ok = flights_message(r, m, kind, &in);
    if (!ok) remove_mate(r, m, "was cut off, a message of it cannot be read");
}

static void take_event(struct router *r, const struct bus_event *ev) {
    struct mate *m = mate_by_peer(r, ev->peer);
    switch (ev->kind) {
    case BUS_MESSAGE: take_message(r, ev); break;
    case BUS_SUSPENDED:
        if (!m) break;
        m->suspended_ns = bus_now(r->o.bus);
        if (m->info.state == MEMBER_READY) m->info.state = MEMBER_SUSPENDED;
        break;
    case BUS_RESUMED:
        if (!m) break;
        m->suspended_ns = 0;
        if (m->info.state == MEMBER_SUSPENDED) m->info.state = MEMBER_READY;
        break;
    case BUS_GONE:
        if (!m) break;
        r->view.deaths += m->info.state != MEMBER_DRAINING || m->n_flights > 0;
        remove_mate(r, m, m->info.state == MEMBER_DRAINING ? "left" : "gone");
        break;
    case BUS_UP:
    case BUS_REFUSED:
    case BUS_SEGMENT:
    case BUS_NOTIFY: break;
    }
}

/* Silence that lasts is death: only here it is said. */
static void fence_silent(struct router *r, uint64_t now_ns) {
    for (struct mate *m = r->mates, *next; m; m = next) {
        next = m->next;
        if (!m->suspended_ns || now_ns - m->suspended_ns < r->o.fence_ns) continue;
        r->view.deaths++;
        remove_mate(r, m, "gone (silent)");
        next = r->mates; /* the list is short */
    }
}

static void drop_broken(struct router *r) {
    struct mate *m = r->mates;
    while (m && !m->broken) m = m->next;
    if (!m) return;
    r->view.deaths++;
    remove_mate(r, m, "was cut off, it does not read");
    drop_broken(r); /* removing one may break others */
}

uint64_t router_step(struct router *r) {
    struct bus_event ev;
    uint32_t n = 0;
    while (n < EVENTS_A_STEP && bus_next(r->o.bus, &ev)) {
        take_event(r, &ev);
        n++;
    }
    uint64_t now = bus_now(r->o.bus);
    fence_silent(r, now);
    drop_broken(r);
    if (r->changed) tell_members(r);
    flights_dispatch(r, now);
    if (r->rate_at_ns == 0 || now - r->rate_at_ns >= rate_ns) {
        if (r->rate_at_ns)
            r->view.request_rate = (double)(r->view.requests - r->rate_requests) /
                                   ((double)(now - r->rate_at_ns) / 1e9);
        r->rate_at_ns = now;
        r->rate_requests = r->view.requests;
    }
    if (n == EVENTS_A_STEP) return now; /* there may be more */
    uint64_t due = flights_due(r, now);
    return due < now + idle_ns ? due : now + idle_ns;
}

/* --- what is shown ---------------------------------------------------------------------------- */

static int by_role_and_name(const void *a, const void *b) {
    const struct member_info *x = a, *y = b;
    if (x->role != y->role) return x->role < y->role ? -1 : 1;
    return strcmp(x->name, y->name);
}

void router_view(const struct router *r, struct cluster_view *out) {
    *out = r->view;
    out->now_ns = bus_now(r->o.bus);
    out->epoch = r->epoch;
    out->n_members = 0;
    for (const struct mate *m = r->mates; m; m = m->next) {
        struct member_info *i = &out->members[out->n_members++];
        *i = m->info;
        i->flights = m->n_flights;
    }
    qsort(out->members, out->n_members, sizeof *out->members, by_role_and_name);
    out->queued = r->n_in[FLIGHT_QUEUED] + r->n_in[FLIGHT_RESERVING];
    out->prefilling = r->n_in[FLIGHT_PREFILL];
    out->decoding = r->n_in[FLIGHT_DECODE];
}

uint64_t router_events(const struct router *r) {
    return r->view.events_total;
}

const struct engine_stats *router_stats(struct router *r) {
    r->stats.waiting = r->n_in[FLIGHT_QUEUED] + r->n_in[FLIGHT_RESERVING];
    r->stats.running = r->n_in[FLIGHT_PREFILL] + r->n_in[FLIGHT_DECODE];
    return &r->stats;
}

/* --- life ------------------------------------------------------------------------------------- */

enum st router_new(struct router **out, const struct router_options *o, struct err *err) {
    struct router *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "router: out of memory");
    *r = (struct router){.o = *o, .message = {.max = BUS_MESSAGE_MAX}};
    wait_init(r);
    engine_stats_init(&r->stats);
    *out = r;
    return ST_OK;
}

void router_free(struct router *r) {
    if (!r) return;
    flights_free(r);
    for (struct mate *m = r->mates, *next; m; m = next) {
        next = m->next;
        bus_close(r->o.bus, m->peer);
        free(m->hints);
        free(m);
    }
    buf_release(&r->message);
    free(r);
}

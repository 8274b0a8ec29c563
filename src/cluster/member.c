/* SPDX-License-Identifier: Apache-2.0 */
/* Implements member.h. */
#include "cluster/member.h"

#include <stdio.h>

static const uint64_t retry_ns = 200000000, load_ns = 250000000;

void member_init(struct member *m, const struct member_options *o) {
    *m = (struct member){.o = *o, .stage = MEMBER_AWAY};
}

void member_send(struct member *m, const struct buf *message) {
    enum st st = m->router ? bus_send(m->o.bus, m->router, message->data, message->len) : ST_OK;
    if (st && st != ST_GONE) m->broken = true;
}

static void ask(struct member *m) {
    struct buf b = {.max = 4096};
    struct wire_out w = {&b, ST_OK};
    wire_put_u8(&w, PROTO_JOIN);
    wire_put_text(&w, m->o.name);
    wire_put_text(&w, m->o.address);
    wire_put_u8(&w, (uint8_t)m->o.role);
    wire_put_u64(&w, m->epoch_seen);
    wire_put_u32(&w, m->o.pid);
    proto_put_shape(&w, &m->o.shape);
    wire_put_u32(&w, m->o.max_model_len);
    if (!w.st) member_send(m, &b);
    buf_release(&b);
}

static enum member_news lose(struct member *m, uint64_t now_ns) {
    bool was_in = m->stage == MEMBER_IN;
    m->stage = MEMBER_AWAY;
    m->router = 0;
    m->broken = false;
    m->epoch = 0;
    m->n_peers = 0;
    m->try_at_ns = now_ns + retry_ns;
    return was_in ? MEMBER_LOST : MEMBER_NOTHING;
}

enum member_news member_drop(struct member *m, uint64_t now_ns) {
    bus_close(m->o.bus, m->router);
    return lose(m, now_ns);
}

static enum member_news joined(struct member *m, uint64_t now_ns, struct wire_in *r) {
    uint64_t epoch = wire_get_u64(r);
    struct block_shape shape;
    proto_get_shape(r, &shape);
    if (!wire_get_end(r) || epoch <= m->epoch_seen || m->stage != MEMBER_ASKING)
        return member_drop(m, now_ns);
    m->epoch = m->epoch_seen = epoch;
    m->shape = shape;
    m->stage = MEMBER_IN;
    m->load_at_ns = now_ns;
    return MEMBER_JOINED;
}

static enum member_news refused(struct member *m, uint64_t now_ns, struct wire_in *r) {
    wire_get_text(r, m->why, sizeof m->why);
    (void)member_drop(m, now_ns);
    m->stage = MEMBER_REFUSED_STAGE;
    return MEMBER_REFUSED;
}

static enum member_news view(struct member *m, uint64_t now_ns, struct wire_in *r) {
    uint64_t epoch = wire_get_u64(r);
    uint32_t n = wire_get_count(r, 11);
    m->n_peers = 0;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        struct member_peer p;
        wire_get_text(r, p.name, sizeof p.name);
        wire_get_text(r, p.address, sizeof p.address);
        uint8_t role = wire_get_u8(r);
        p.epoch = wire_get_u64(r);
        if (role >= MEMBER_ROLES || m->n_peers == CLUSTER_MEMBERS_MAX) r->bad = true;
        if (r->bad) break;
        p.role = (enum member_role)role;
        if (strcmp(p.name, m->o.name) != 0) m->peers[m->n_peers++] = p;
    }
    if (!wire_get_end(r) || m->stage != MEMBER_IN) return member_drop(m, now_ns);
    if (epoch > m->epoch_seen) m->epoch_seen = epoch;
    return MEMBER_PEERS;
}

static enum member_news message(struct member *m, uint64_t now_ns, const struct bus_event *ev) {
    struct wire_in r = {.at = ev->data, .left = ev->len};
    switch (wire_get_u8(&r)) {
    case PROTO_JOINED: return joined(m, now_ns, &r);
    case PROTO_REFUSED: return refused(m, now_ns, &r);
    case PROTO_VIEW: return view(m, now_ns, &r);
    default: return m->stage == MEMBER_IN ? MEMBER_MESSAGE : MEMBER_NOTHING;
    }
}

enum member_news member_event(struct member *m, uint64_t now_ns, const struct bus_event *ev) {
    if (!m->router || ev->peer != m->router) return MEMBER_NOT_ITS;
    switch (ev->kind) {
    case BUS_UP:
        if (ev->identity->hello_len < 1 || ev->identity->hello[0] != PROTO_PEER_ROUTER)
            return member_drop(m, now_ns);
        ask(m);
        return MEMBER_NOTHING;
    case BUS_REFUSED: /* it tells why, or nobody is there yet */
        snprintf(m->why, sizeof m->why, "%.190s", ev->text ? ev->text : "");
        (void)lose(m, now_ns);
        if (!ev->value) return MEMBER_NOTHING;
        m->stage = MEMBER_REFUSED_STAGE;
        return MEMBER_REFUSED;
    case BUS_GONE: return lose(m, now_ns);
    case BUS_MESSAGE: return message(m, now_ns, ev);
    case BUS_SEGMENT:
    case BUS_NOTIFY:
    case BUS_SUSPENDED:
    case BUS_RESUMED: return MEMBER_NOTHING;
    }
    return MEMBER_NOTHING;
}

uint64_t member_step(struct member *m, uint64_t now_ns) {
    if (m->stage == MEMBER_AWAY && now_ns >= m->try_at_ns) {
        m->router = bus_connect(m->o.bus, m->o.router);
        m->stage = MEMBER_ASKING;
    }
    if (m->stage == MEMBER_AWAY) return m->try_at_ns;
    return m->stage == MEMBER_IN ? m->load_at_ns : UINT64_MAX;
}

bool member_load_due(struct member *m, uint64_t now_ns) {
    if (m->stage != MEMBER_IN || now_ns < m->load_at_ns) return false;
    m->load_at_ns = now_ns + load_ns;
    return true;
}

const struct member_peer *member_find(const struct member *m, const char *name) {
    for (uint32_t i = 0; i < m->n_peers; i++)
        if (strcmp(m->peers[i].name, name) == 0) return &m->peers[i];
    return NULL;
}

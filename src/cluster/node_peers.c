/* SPDX-License-Identifier: Apache-2.0 */
/* The other workers: one connection to each, over which both say who they are, share pages and board,
 * and tell what is handed over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/node_impl.h"

static const uint64_t connect_ns = 200000000; /* the list is looked at again so often */

static struct node_peer *peer_by_id(const struct node *n, bus_id id) {
    struct node_peer *p = n->peers;
    while (p && p->peer != id) p = p->next;
    return p;
}

void node_send_peer(struct node *n, bus_id peer, const struct wire_out *w) {
    enum st st = w->st ? w->st : bus_send(n->o.bus, peer, w->buf->data, w->buf->len);
    struct node_peer *p = st && st != ST_GONE ? peer_by_id(n, peer) : NULL;
    if (p) p->broken = true;
}

static struct node_peer *peer_by_name(const struct node *n, const char *name) {
    struct node_peer *p = n->peers;
    while (p && strcmp(p->name, name) != 0) p = p->next;
    return p;
}

struct node_peer *node_peer_ready(struct node *n, const char *name, uint64_t epoch) {
    struct node_peer *p = n->peers;
    while (p && (p->epoch != epoch || strcmp(p->name, name) != 0)) p = p->next;
    return p && p->pages && p->board ? p : NULL;
}

static struct node_peer *peer_add(struct node *n, bus_id id, const char *name) {
    struct node_peer *p = calloc(1, sizeof *p);
    if (!p) {
        bus_close(n->o.bus, id);
        return NULL;
    }
    *p = (struct node_peer){.next = n->peers, .peer = id};
    snprintf(p->name, sizeof p->name, "%s", name);
    n->peers = p;
    return p;
}

static void peer_lost(struct node *n, struct node_peer *p) {
    struct node_peer **at = &n->peers;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    prefill_peer_lost(n, p->name, p->epoch);
    /* pulls from it fail by themselves: its segments are gone */
    free(p);
}

void node_peer_close(struct node *n, struct node_peer *p) {
    bus_close(n->o.bus, p->peer);
    peer_lost(n, p);
}

void node_say_hello(struct node *n, const struct node_peer *p) {
    struct wire_out w = node_begin(n, PROTO_HELLO);
    if (!p->up || n->m.stage != MEMBER_IN) return;
    wire_put_text(&w, n->o.name);
    wire_put_u64(&w, n->m.epoch);
    proto_put_shape(&w, &n->x->shape);
    wire_put_u32(&w, n->x->n_pages + 1);
    wire_put_u32(&w, n->entry_bytes);
    node_send_peer(n, p->peer, &w);
}

static void peer_up(struct node *n, const struct bus_event *ev) {
    struct node_peer *p = peer_by_id(n, ev->peer);
    const struct bus_identity *who = ev->identity;
    if (who->hello_len < 1 || who->hello[0] != PROTO_PEER_WORKER) {
        bus_close(n->o.bus, ev->peer);
        if (p) peer_lost(n, p);
        return;
    }
    if (!p) p = peer_add(n, ev->peer, who->name);
    if (!p) return;
    p->up = true;
    bool ok = bus_share(n->o.bus, p->peer, n->o.memory, PROTO_SEGMENT_PAGES) == ST_OK &&
              bus_share(n->o.bus, p->peer, n->board_segment, PROTO_SEGMENT_BOARD) == ST_OK;
    if (ok)
        node_say_hello(n, p);
    else
        node_peer_close(n, p);
}

static bool peer_hello(struct node *n, struct node_peer *p, struct wire_in *r) {
    char name[BUS_NAME_BYTES];
    struct block_shape shape;
    wire_get_text(r, name, sizeof name);
    uint64_t epoch = wire_get_u64(r);
    proto_get_shape(r, &shape);
    uint32_t n_pages = wire_get_u32(r), entry_bytes = wire_get_u32(r);
    if (!wire_get_end(r) || strcmp(name, p->name) != 0 ||
        !block_shape_equal(&shape, &n->x->shape) || entry_bytes != n->entry_bytes)
        return false;
    if (epoch <= p->epoch) {
        n->stats.stale++;
        return true;
    }
    /* what was lent to its older life is nobody's */
    if (p->epoch) prefill_peer_lost(n, p->name, p->epoch);
    p->epoch = epoch;
    p->n_pages = n_pages;
    return true;
}

static bool peer_message(struct node *n, struct node_peer *p, const struct bus_event *ev) {
    struct wire_in r = {.at = ev->data, .left = ev->len};
    uint8_t kind = wire_get_u8(&r);
    if (kind == PROTO_HELLO) return peer_hello(n, p, &r);
    if (n->m.stage != MEMBER_IN || !p->epoch) {
        n->stats.stale++;
        return true;
    }
    switch (kind) {
    case PROTO_ROWS: decode_table(n, p, &r, false); return true;
    case PROTO_HANDED: decode_table(n, p, &r, true); return true;
    case PROTO_TAKEN: prefill_taken(n, p, &r); return true;
    case PROTO_RENEW: flights_renew(n, &r, FLIGHT_LENT, p->name); return true;
    default: return false;
    }
}

void node_peer_event(struct node *n, const struct bus_event *ev) {
    struct node_peer *p = peer_by_id(n, ev->peer);
    switch (ev->kind) {
    case BUS_UP: peer_up(n, ev); break;
    case BUS_REFUSED:
    case BUS_GONE:
        if (p) peer_lost(n, p);
        break;
    case BUS_SEGMENT:
        if (!p) break;
        if (ev->value == PROTO_SEGMENT_PAGES)
            p->pages = ev->segment;
        else if (ev->value == PROTO_SEGMENT_BOARD)
            p->board = ev->segment;
        break;
    case BUS_MESSAGE:
        if (p && !peer_message(n, p, ev)) node_peer_close(n, p);
        break;
    case BUS_NOTIFY:
    case BUS_SUSPENDED: /* the router decides */
    case BUS_RESUMED: break;
    }
}

/* The later to join connects: every pair once. */
void node_connect_peers(struct node *n, uint64_t now_ns) {
    if (n->m.stage != MEMBER_IN || now_ns < n->connect_at_ns) return;
    n->connect_at_ns = now_ns + connect_ns;
    for (uint32_t i = 0; i < n->m.n_peers; i++) {
        const struct member_peer *m = &n->m.peers[i];
        if (m->role == ROLE_OF_POOL || m->epoch > n->m.epoch || peer_by_name(n, m->name)) continue;
        bus_id id = bus_connect(n->o.bus, m->address);
        if (id) (void)peer_add(n, id, m->name);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements pool_node.h. */
#include "cluster/pool_node.h"

#include <stdio.h>
#include <stdlib.h>

#include "cluster/member.h"

enum { EVENTS_A_STEP = 256 };
/* What the SSD finished is no event of the bus. */
static const uint64_t idle_ns = 100000000, idle_ssd_ns = 1000000;

struct pool_node {
    struct pool_node_options o;
    struct member m;
    struct pool_server *server; /* NULL: not joined yet */
    struct ssd *ssd;
    struct block_shape shape;
    bool refused, failed, leaving, wants_leave;
};

static void fail(struct pool_node *n, const char *why) {
    n->failed = true;
    snprintf(n->m.why, sizeof n->m.why, "%.190s", why);
}

static void close_server(struct pool_node *n) {
    pool_server_free(n->server);
    ssd_close(n->ssd);
    n->server = NULL;
    n->ssd = NULL;
}

/* Blocks of the shape it had stay; those of another model's are no use. */
static void joined(struct pool_node *n) {
    struct pool_server_options o = n->o.pool;
    struct err err;
    if (n->server && block_shape_equal(&n->shape, &n->m.shape)) {
        pool_server_set_epoch(n->server, n->m.epoch);
        return;
    }
    close_server(n);
    n->shape = o.shape = n->m.shape;
    o.epoch = n->m.epoch;
    struct ssd_options s = n->o.ssd;
    s.shape = n->shape;
    enum st st = s.dir || s.ops ? ssd_open(&n->ssd, &s, &err) : ST_OK;
    o.ssd = n->ssd;
    if (!st) st = pool_server_new(&n->server, &o, &err);
    if (st) fail(n, err.text);
}

static void say_leave(struct pool_node *n) {
    uint8_t kind = PROTO_LEAVE;
    struct buf b = {.data = (char *)&kind, .len = 1};
    member_send(&n->m, &b);
}

static void take_event(struct pool_node *n, uint64_t now_ns, const struct bus_event *ev) {
    switch (member_event(&n->m, now_ns, ev)) {
    case MEMBER_NOT_ITS:
        if (n->server)
            pool_server_event(n->server, ev);
        else if (ev->kind == BUS_UP)
            bus_close(n->o.pool.bus, ev->peer); /* too early: it comes again */
        break;
    case MEMBER_JOINED: joined(n); break;
    case MEMBER_REFUSED: n->refused = true; break;
    case MEMBER_MESSAGE:
        if (ev->len >= 1 && *(const uint8_t *)ev->data == PROTO_DRAIN) n->leaving = true;
        break;
    case MEMBER_LOST: /* workers go on with what is here until they are told otherwise */
        n->leaving = n->leaving || n->wants_leave;
        break;
    case MEMBER_NOTHING:
    case MEMBER_PEERS: break;
    }
}

static void fill_load(const struct pool_node *n, struct member_load *l) {
    *l = (struct member_load){0};
    if (!n->server) return;
    const struct pool_server_stats *s = pool_server_stats(n->server);
    *l = (struct member_load){.running = s->clients,
                              .pages = (uint32_t)s->blocks_dram_max,
                              .pages_used = (uint32_t)s->blocks_dram,
                              .bytes_dram = s->bytes_dram,
                              .bytes_dram_max = n->o.pool.dram_bytes,
                              .bytes_ssd = s->bytes_ssd,
                              .bytes_ssd_max = n->ssd ? n->o.ssd.bytes : 0,
                              .pool_bad = s->bad_offers + s->ssd_bad};
}

static void tell_load(struct pool_node *n) {
    struct buf b = {.max = 4096};
    struct wire_out w = {&b, ST_OK};
    struct member_load load;
    fill_load(n, &load);
    wire_put_u8(&w, PROTO_LOAD);
    proto_put_load(&w, &load);
    if (!w.st) member_send(&n->m, &b);
    buf_release(&b);
}

uint64_t pool_node_step(struct pool_node *n) {
    struct bus *bus = n->o.pool.bus;
    struct bus_event ev;
    uint64_t now = bus_now(bus);
    bool any = false;
    for (uint32_t i = 0; i < EVENTS_A_STEP && bus_next(bus, &ev); i++) {
        take_event(n, now, &ev);
        any = true;
    }
    uint64_t due = member_step(&n->m, now);
    if (member_load_due(&n->m, now)) tell_load(n);
    if (n->server && pool_server_step(n->server, now)) any = true;
    if (any) return 0;
    bool ssd_works = n->ssd && ssd_room(n->ssd) < SSD_OPS_MAX;
    uint64_t look = now + (ssd_works ? idle_ssd_ns : idle_ns);
    return due < look ? due : look;
}

enum node_state pool_node_state(const struct pool_node *n) {
    if (n->refused) return NODE_REFUSED;
    if (n->failed) return NODE_FAILED;
    if (n->leaving) return NODE_LEFT;
    return n->m.stage == MEMBER_IN ? NODE_READY : NODE_JOINING;
}

const char *pool_node_why(const struct pool_node *n) {
    return n->m.why;
}

uint64_t pool_node_epoch(const struct pool_node *n) {
    return n->m.epoch;
}

/* The router strikes it from the list first, so that nobody asks it any more. */
void pool_node_drain(struct pool_node *n) {
    n->wants_leave = true;
    if (n->m.stage == MEMBER_IN)
        say_leave(n);
    else
        n->leaving = true; /* nobody knows of us */
}

void pool_node_stats(struct pool_node *n, struct pool_node_stats *out) {
    *out = (struct pool_node_stats){0};
    fill_load(n, &out->load);
    if (n->server) out->pool = *pool_server_stats(n->server);
}

enum st pool_node_new(struct pool_node **out, const struct pool_node_options *o, struct err *err) {
    struct pool_node *n = calloc(1, sizeof *n);
    if (!n) return err_set(err, ST_NO_MEMORY, "pool: out of memory");
    n->o = *o;
    struct member_options m = {.bus = o->pool.bus,
                               .name = o->name,
                               .address = o->address,
                               .router = o->router,
                               .role = ROLE_OF_POOL,
                               .pid = o->pid};
    member_init(&n->m, &m);
    *out = n;
    return ST_OK;
}

void pool_node_free(struct pool_node *n) {
    if (!n) return;
    close_server(n);
    free(n);
}

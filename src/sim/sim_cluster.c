/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_cluster.h. */
#include "sim/sim_cluster.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "cluster/proto.h"

static const char router_name[] = "router";

static struct bus_identity identity(const struct sim_cluster *c, const char *name,
                                    enum proto_peer kind) {
    struct bus_identity i = {.hello = {(uint8_t)kind}, .hello_len = 1};
    snprintf(i.name, sizeof i.name, "%s", name);
    snprintf(i.model_id, sizeof i.model_id, "%s", c->o.router.model_id);
    return i;
}

/* --- members ---------------------------------------------------------------------------------- */

static enum st begin_pool(struct sim_cluster *c, struct sim_member *m, struct err *err) {
    struct pool_node_options o = {
        .pool = {.bus = m->bus}, .name = m->name, .address = m->name, .router = router_name};
    enum st st = c->o.pool(c->o.ctx, m, &o, err);
    return st ? st : pool_node_new(&m->pool, &o, err);
}

static enum st begin_worker(struct sim_cluster *c, struct sim_member *m, struct err *err) {
    struct node_options o = {
        .bus = m->bus, .name = m->name, .address = m->name, .router = router_name, .role = m->role};
    enum st st = c->o.worker(c->o.ctx, m, &o, err);
    if (st) return st;
    sim_bus_clock(m->bus, m->clock_ns);
    return node_new(&m->node, &o, err);
}

static void release(struct sim_cluster *c, struct sim_member *m) {
    node_free(m->node);
    if (m->role != ROLE_OF_POOL) c->o.worker_end(c->o.ctx, m);
    pool_node_free(m->pool);
    bus_free(m->bus);
    m->node = NULL;
    m->pool = NULL;
    m->bus = NULL;
    m->there = m->stopped = false;
}

enum st sim_member_begin(struct sim_cluster *c, struct sim_member *m, struct err *err) {
    bool pool = m->role == ROLE_OF_POOL;
    struct bus_identity who = identity(c, m->name, pool ? PROTO_PEER_POOL : PROTO_PEER_WORKER);
    assert(!m->there);
    enum st st = sim_bus_new(&m->bus, c->net, m->name, &who, err);
    if (st) return st;
    st = pool ? begin_pool(c, m, err) : begin_worker(c, m, err);
    if (st) {
        release(c, m);
        return st;
    }
    m->there = true;
    m->stopped = m->left = m->news = false;
    m->due_ns = m->busy_ns = m->copy_ns = sim_net_now(c->net);
    m->lives++;
    return ST_OK;
}

enum st sim_cluster_add(struct sim_cluster *c, struct sim_member *m, struct err *err) {
    assert(c->n < CLUSTER_MEMBERS_MAX);
    c->v[c->n++] = m;
    return sim_member_begin(c, m, err);
}

void sim_member_kill(struct sim_cluster *c, struct sim_member *m) {
    sim_bus_kill(m->bus);
    release(c, m);
}

void sim_member_stop(struct sim_member *m) {
    sim_bus_stop(m->bus);
    m->stopped = true;
    m->stopped_ns = bus_now(m->bus);
}

void sim_member_continue(struct sim_cluster *c, struct sim_member *m) {
    uint64_t now = sim_net_now(c->net);
    sim_bus_continue(m->bus);
    m->stopped = false;
    if (m->busy_ns > m->stopped_ns) m->busy_ns += now - m->stopped_ns; /* the rest of its step */
    m->due_ns = m->copy_ns = now;
}

enum node_state sim_member_state(const struct sim_member *m) {
    return m->node ? node_state(m->node) : pool_node_state(m->pool);
}

static void copy_all(struct sim_member *m) {
    while (m->node && node_copy(m->node)) continue;
}

static void step_member(struct sim_cluster *c, struct sim_member *m, uint64_t now) {
    uint64_t every = c->o.copy_every_ns;
    if (!m->there || m->stopped) return;
    bool news = sim_bus_has_news(m->bus);
    m->news = m->news || news;
    if (every ? now >= m->copy_ns : news) { /* by a thread of its own, busy or not */
        copy_all(m);
        m->copy_ns = now + every;
    }
    if (now < m->busy_ns || (now < m->due_ns && !m->news)) return;
    m->news = false;
    if (m->node) *m->clock_ns = now;
    uint64_t due = m->node ? node_step(m->node) : pool_node_step(m->pool);
    if (!every) copy_all(m);
    m->busy_ns = m->node ? *m->clock_ns : now;
    m->due_ns = due > m->busy_ns ? due : m->busy_ns > now ? m->busy_ns : now + 1000;
    c->events++;
    if (sim_member_state(m) != NODE_LEFT) return;
    release(c, m);
    m->left = true;
}

/* --- the cluster ------------------------------------------------------------------------------ */

uint64_t sim_cluster_now(const struct sim_cluster *c) {
    return sim_net_now(c->net);
}

static void sooner(uint64_t *at, uint64_t t) {
    if (t < *at) *at = t;
}

static uint64_t next_of(const struct sim_cluster *c, const struct sim_member *m) {
    if (!m->there || m->stopped) return UINT64_MAX;
    uint64_t at = m->news ? m->busy_ns : m->due_ns;
    if (at < m->busy_ns) at = m->busy_ns;
    if (c->o.copy_every_ns && m->node) sooner(&at, m->copy_ns);
    return at;
}

void sim_cluster_advance(struct sim_cluster *c, uint64_t until_ns) {
    uint64_t at = until_ns, now = sim_net_now(c->net);
    sooner(&at, sim_net_next(c->net));
    sooner(&at, c->router_due_ns);
    for (uint32_t i = 0; i < c->n; i++) sooner(&at, next_of(c, c->v[i]));
    sim_net_advance(c->net, at > now ? at : now);
    c->events++;
}

void sim_cluster_act(struct sim_cluster *c) {
    uint64_t now = sim_net_now(c->net);
    if (sim_bus_has_news(c->bus) || now >= c->router_due_ns) {
        c->router_due_ns = router_step(c->router);
        if (c->router_due_ns <= now) c->router_due_ns = now + 1000;
    }
    for (uint32_t i = 0; i < c->n; i++) step_member(c, c->v[i], now);
}

enum st sim_cluster_new(struct sim_cluster *c, const struct sim_cluster_options *o,
                        struct err *err) {
    *c = (struct sim_cluster){.o = *o};
    struct bus_identity who = identity(c, router_name, PROTO_PEER_ROUTER);
    enum st st = sim_net_new(&c->net, &o->net, err);
    if (!st) st = sim_bus_new(&c->bus, c->net, router_name, &who, err);
    if (st) return st;
    c->o.router.bus = c->bus;
    return router_new(&c->router, &c->o.router, err);
}

void sim_cluster_free(struct sim_cluster *c) {
    router_free(c->router);
    for (uint32_t i = 0; i < c->n; i++)
        if (c->v[i]->there) release(c, c->v[i]);
    bus_free(c->bus);
    sim_net_free(c->net);
}

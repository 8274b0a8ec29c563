/* SPDX-License-Identifier: Apache-2.0 */
/* Implements sim_cluster.h. */
#include "sim_cluster.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/proto.h"

static const uint64_t copy_every_ns = 300000;

static struct bus_identity identity(const char *name, enum proto_peer kind) {
    struct bus_identity i = {.hello = {(uint8_t)kind}, .hello_len = 1};
    snprintf(i.name, sizeof i.name, "%s", name);
    snprintf(i.model_id, sizeof i.model_id, "stand-in");
    return i;
}

static void must(enum st st) {
    assert(st == ST_OK);
    (void)st;
}

/* --- members ---------------------------------------------------------------------------------- */

static void begin_pool(struct sim_cluster *c, struct sim_member *m) {
    struct err err;
    struct bus_identity who = identity(m->name, PROTO_PEER_POOL);
    must(sim_bus_new(&m->bus, c->net, m->name, &who, &err));
    struct pool_node_options o = {.pool = {.bus = m->bus, .dram_bytes = c->o.pool_bytes},
                                  .name = m->name,
                                  .address = m->name,
                                  .router = "router"};
    must(pool_node_new(&m->pool, &o, &err));
}

/* The copying thread has a core of its own. */
static void copy_meanwhile(void *ctx) {
    struct sim_member *m = ctx;
    if (m->node && m->x.now_ns >= m->copy_ns) (void)node_copy(m->node);
}

static void begin_worker(struct sim_cluster *c, struct sim_member *m) {
    struct err err;
    void *memory;
    struct bus_identity who = identity(m->name, PROTO_PEER_WORKER);
    must(sim_bus_new(&m->bus, c->net, m->name, &who, &err));
    must(bus_segment_new(m->bus, standin_bytes(c->o.n_pages), BUS_PEERS_READ, &m->memory, &memory,
                         &err));
    struct standin_options x = {.n_pages = c->o.n_pages,
                                .n_slots = c->o.seqs,
                                .max_model_len = SIM_MODEL_LEN,
                                .rows_max = c->o.seqs * 3 + EXECUTOR_RIDE_ROWS,
                                .vocab = c->o.vocab,
                                .step_ns = 1000000,
                                .row_ns = 20000,
                                .draft_ns = 200000,
                                .draft_right_percent = 60,
                                .slow_percent = c->o.slow_percent,
                                .seed = c->o.seed + m->lives,
                                .memory = memory,
                                .meanwhile = copy_meanwhile,
                                .meanwhile_ctx = m};
    must(standin_init(&m->x, &x, &err));
    struct node_options o = {.bus = m->bus,
                             .executor = &m->x.x,
                             .memory = m->memory,
                             .engine = {.max_num_seqs = c->o.seqs,
                                        .max_num_batched_tokens = EXECUTOR_CHUNK_MIN,
                                        .speculate = c->o.speculate ? SPECULATE_ON : SPECULATE_OFF,
                                        .draft_tokens = 2},
                             .name = m->name,
                             .address = m->name,
                             .router = "router",
                             .role = m->role,
                             .lease_ns = c->o.lease_ns};
    must(node_new(&m->node, &o, &err));
}

void sim_member_begin(struct sim_cluster *c, struct sim_member *m) {
    assert(!m->there);
    if (m->role == ROLE_OF_POOL)
        begin_pool(c, m);
    else
        begin_worker(c, m);
    m->there = true;
    m->stopped = m->left = false;
    m->due_ns = m->busy_ns = m->copy_ns = sim_net_now(c->net);
    m->start_ns = m->continue_ns = 0;
    m->lives++;
}

static void release(struct sim_member *m) {
    node_free(m->node);
    if (m->node) standin_release(&m->x);
    pool_node_free(m->pool);
    m->node = NULL;
    m->pool = NULL;
    bus_free(m->bus);
    m->there = m->stopped = false;
}

void sim_member_kill(struct sim_cluster *c, struct sim_member *m) {
    (void)c;
    sim_bus_kill(m->bus);
    release(m);
}

void sim_member_pause(struct sim_cluster *c, struct sim_member *m) {
    (void)c;
    sim_bus_stop(m->bus);
    m->stopped = true;
}

void sim_member_continue(struct sim_cluster *c, struct sim_member *m) {
    sim_bus_continue(m->bus);
    m->stopped = false;
    m->continue_ns = 0;
    m->due_ns = m->copy_ns = sim_net_now(c->net);
}

enum node_state sim_member_state(const struct sim_member *m) {
    return m->node ? node_state(m->node) : pool_node_state(m->pool);
}

static void step_member(struct sim_cluster *c, struct sim_member *m, uint64_t now) {
    if (!m->there || m->stopped) return;
    if (sim_bus_has_news(m->bus) && m->due_ns > now) m->due_ns = now;
    if (m->node && now >= m->copy_ns) {
        while (node_copy(m->node)) continue;
        m->copy_ns = now + copy_every_ns;
    }
    if (now < m->due_ns || now < m->busy_ns) return;
    m->x.now_ns = now;
    uint64_t due = m->node ? node_step(m->node) : pool_node_step(m->pool);
    m->busy_ns = m->node ? m->x.now_ns : now;
    m->due_ns = due > m->busy_ns ? due : m->busy_ns > now ? m->busy_ns : now + 1000;
    if (sim_member_state(m) != NODE_LEFT) return;
    release(m);
    m->left = true;
    (void)c;
}

/* --- the cluster ------------------------------------------------------------------------------ */

uint64_t sim_cluster_now(const struct sim_cluster *c) {
    return sim_net_now(c->net);
}

static void sooner(uint64_t *at, uint64_t t) {
    if (t && t < *at) *at = t;
}

static uint64_t next_of(const struct sim_cluster *c, const struct sim_member *m) {
    uint64_t at = UINT64_MAX, busy = m->busy_ns;
    if (m->there && !m->stopped) {
        sooner(&at, m->due_ns > busy ? m->due_ns : busy);
        if (m->node) sooner(&at, m->copy_ns);
    }
    (void)c;
    return at;
}

void sim_cluster_step(struct sim_cluster *c, uint64_t until_ns) {
    uint64_t at = until_ns, now = sim_net_now(c->net);
    sooner(&at, sim_net_next(c->net));
    sooner(&at, c->router_due_ns);
    for (uint32_t i = 0; i < c->n; i++) sooner(&at, next_of(c, &c->v[i]));
    sim_net_advance(c->net, at > now ? at : now);
    now = sim_net_now(c->net);
    if (sim_bus_has_news(c->bus) || now >= c->router_due_ns)
        c->router_due_ns = router_step(c->router);
    if (c->router_due_ns <= now) c->router_due_ns = now + 1000;
    for (uint32_t i = 0; i < c->n; i++) step_member(c, &c->v[i], now);
}

static void add_members(struct sim_cluster *c, enum member_role role, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct sim_member *m = &c->v[c->n++];
        snprintf(m->name, sizeof m->name, "%c%u", "pdm"[role], i);
        m->role = role;
        sim_member_begin(c, m);
    }
}

void sim_cluster_start(struct sim_cluster *c, const struct sim_cluster_options *o) {
    struct err err;
    *c = (struct sim_cluster){.o = *o};
    struct sim_net_options net = {.seed = o->seed,
                                  .delay_ns_min = 5000,
                                  .delay_ns_max = o->delay_ns_max,
                                  .slow_permille = o->slow_permille,
                                  .peer_timeout_ns = o->peer_timeout_ns,
                                  .close_ns = 2000000};
    struct bus_identity who = identity("router", PROTO_PEER_ROUTER);
    must(sim_net_new(&c->net, &net, &err));
    must(sim_bus_new(&c->bus, c->net, "router", &who, &err));
    add_members(c, ROLE_OF_PREFILL, o->n_prefill);
    add_members(c, ROLE_OF_DECODE, o->n_decode);
    add_members(c, ROLE_OF_POOL, o->n_pool);
    struct router_options r = {.bus = c->bus,
                               .model_id = "stand-in",
                               .shape = c->v[0].x.x.shape,
                               .max_model_len = SIM_MODEL_LEN,
                               .renew_ns = o->lease_ns / 3,
                               .no_worker_ns = o->no_worker_ns,
                               .attempts_max = 100000};
    must(router_new(&c->router, &r, &err));
    c->router_due_ns = sim_net_now(c->net) + 1;
}

void sim_cluster_stop(struct sim_cluster *c) {
    router_free(c->router);
    for (uint32_t i = 0; i < c->n; i++)
        if (c->v[i].there) release(&c->v[i]);
    bus_free(c->bus);
    sim_net_free(c->net);
}

const char *sim_cluster_leftovers(struct sim_cluster *c) {
    static char text[160];
    struct cluster_view *v = malloc(sizeof *v);
    router_view(c->router, v);
    uint32_t open = v->queued + v->prefilling + v->decoding;
    free(v);
    if (open) {
        snprintf(text, sizeof text, "router: %u flights", open);
        return text;
    }
    for (uint32_t i = 0; i < c->n; i++) {
        struct sim_member *m = &c->v[i];
        struct node_stats s;
        if (!m->there || !m->node) continue;
        node_stats(m->node, &s);
        uint32_t held = s.load.pages_used, seqs = s.engine.running + s.engine.waiting;
        snprintf(text, sizeof text, "%s: %u pages held, %u sequences, %u lent, %u reserved",
                 m->name, held, seqs, s.load.lent, s.load.reserved);
        if (held || seqs || s.load.lent || s.load.reserved) return text;
    }
    return NULL;
}

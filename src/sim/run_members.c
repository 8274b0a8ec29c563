/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes part in a run: instances that prefill or decode, and pool servers, each with the chips
 * it stands on, its links, and the code of a real member inside. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/index.h"
#include "sim/core/mix.h"
#include "sim/run_impl.h"

enum { HANDOVER, POOL };
static const uint64_t look_ns = 1000000000; /* rows come when the batch is over: HANDED tells */
enum { OFFERS_MAX = 8192, KV_STEP = 8 };

/* --- time of what goes over the network ------------------------------------------------------- */

/* n links that have this rate together; wire_bps: what each could carry; 0: no more. */
static bool links_init(struct run_links *l, double rate_bps, uint32_t n, double wire_bps) {
    *l = (struct run_links){.rate_bps = rate_bps / n,
                            .wire_bps = fmax(wire_bps, rate_bps / n),
                            .n = n,
                            .v = calloc(n, sizeof *l->v)};
    for (uint32_t i = 0; l->v && i < n; i++) l->v[i].share = 1;
    return l->v;
}

/* What faults have left of its wire; a whole one is no limit. */
static double link_left_bps(const struct run_links *of, const struct run_link *l) {
    return l->share < 1 ? of->wire_bps * l->share : INFINITY;
}

/* When bytes that are offered now are through the link. */
static double link_take(const struct run_links *of, struct run_link *l, double now_s,
                        double bytes) {
    double s = bytes / fmin(of->rate_bps, link_left_bps(of, l));
    l->free_s = (l->free_s > now_s ? l->free_s : now_s) + s;
    l->busy_s += s;
    return l->free_s;
}

static struct run_member *member_of(const struct run *r, const struct bus *b) {
    for (uint32_t i = 0; i < r->n_members && b; i++)
        if (r->members[i].m.bus == b) return &r->members[i];
    return NULL;
}

const struct machine_path *run_paths(const struct run_config *c, const struct machine_plane *p) {
    return c->machine.n_nodes > 1 ? p->other_node : p->same_node;
}

static enum machine_transfer transfer_of(bool cpu, bool write) {
    if (cpu) return write ? TRANSFER_WRITE_CPU : TRANSFER_READ_CPU;
    return write ? TRANSFER_WRITE : TRANSFER_READ;
}

/* What nodes' own cards let through, where a plane has them (cache.c). */
static double node_limit(const struct machine *m, const struct machine_plane *p, double nodes,
                         double rate) {
    double most = nodes * p->node_bps * machine_operator(m, "pool_card")->share;
    return most > 0 && (rate <= 0 || most < rate) ? most : rate;
}

/* What one die gets on a path where nobody else is. */
static double die_rate(const struct run *r, const struct machine_plane *p, bool cpu, bool write) {
    return node_limit(&r->c->machine, p, 1, run_paths(r->c, p)[transfer_of(cpu, write)].rate_bps);
}

/* Hand-over and pool share a worker's links where they share a plane. */
static struct run_links *links_of(const struct run *r, struct run_member *m, int plane, bool in) {
    if (m->setup && r->planes[POOL] == r->planes[HANDOVER]) plane = HANDOVER;
    return in ? &m->in[plane] : &m->out[plane];
}

/* Attention is data parallel, so that a request's KV lies on one die; but staged prefill spreads it. */
static bool die_bound(enum member_role role, const struct step_setup *s) {
    return role == ROLE_OF_DECODE || s->attention != STEP_ATTENTION_STAGED;
}

/* A prompt's hand-over has one cookie, and goes to one die: any of them, since which one the sequence
 * will come to is not known yet. What is spread, and all between worker and pool, whose cookies are of
 * no prompt, goes over all in turn. */
static struct run_link *link_of(const struct run_member *m, struct run_links *l, bool pool,
                                uint64_t cookie, const char *whose) {
    for (const char *c = whose; *c; c++) cookie = cookie << 8 ^ (uint8_t)*c;
    bool bound = !pool && m->setup && die_bound(m->m.role, m->setup);
    return &l->v[bound ? sim_mix(cookie) % l->n : l->next++ % l->n];
}

/* An operation on memory of another member. Only pages are long: all else costs its latency. */
uint64_t run_op_ns(void *ctx, struct bus *by, struct bus *of, bool write, size_t len,
                   uint64_t cookie) {
    struct run *r = ctx;
    struct run_member *a = member_of(r, by), *b = member_of(r, of);
    bool pool = a && b && (a->m.role == ROLE_OF_POOL || b->m.role == ROLE_OF_POOL);
    int plane = pool ? POOL : HANDOVER;
    const struct machine_plane *p = r->planes[plane];
    /* a server pulls what it is offered: that is a worker's write to its memory */
    enum machine_transfer what = transfer_of(pool, write || (pool && a->m.role == ROLE_OF_POOL));
    const struct machine_path *path = &run_paths(r->c, p)[what];
    if (len != SIM_PAGE_BYTES || !a || !b) return run_ns(path->latency_s) + 1;
    struct run_links *to = links_of(r, a, plane, true), *from = links_of(r, b, plane, false);
    struct run_link *to_link = link_of(a, to, pool, cookie, a->m.name),
                    *from_link = link_of(b, from, pool, cookie, a->m.name);
    double left_bps = fmin(link_left_bps(to, to_link), link_left_bps(from, from_link)),
           bytes = run_page_bytes(r->c), now_s = run_s(sim_cluster_now(&r->cluster)),
           alone = transfer_s(p, what, r->c->machine.n_nodes > 1,
                              bytes / fmin(1, left_bps / path->rate_bps)),
           in = link_take(to, to_link, now_s, bytes),
           out = link_take(from, from_link, now_s, bytes);
    *(pool ? (a->m.role == ROLE_OF_POOL ? &r->pool_write_bytes : &r->pool_read_bytes)
           : &r->handover_bytes) += bytes;
    return run_ns(fmax(fmax(in, out) - now_s, alone)) + 1;
}

/* --- members ---------------------------------------------------------------------------------- */

enum { TENTHS_MAX = 200 };

/* Asked a hundred thousand times an hour for much the same: kept by requests, by their mean to a tenth
 * of itself, and by KV to a sixteenth of a page. */
static double decode_s(void *ctx, const struct sim_step *s) {
    struct run_member *m = ctx;
    double kv = ceil(s->kv_tokens / KV_STEP) * KV_STEP;
    uint64_t tenths = 0;
    double mean = s->requests;
    for (; tenths < TENTHS_MAX && mean * 0.9 >= s->mean_requests; tenths++) mean *= 0.9;
    uint64_t key = (tenths << 56 | (uint64_t)s->requests << 32 | (uint64_t)kv) + 1;
    struct run_step *known = &m->steps[key * UINT64_C(0x9e3779b97f4a7c15) >> 52 & (RUN_STEPS - 1)];
    struct step_decode d = {.requests = s->requests, .kv_tokens = kv, .mean_requests = mean};
    if (known->key != key) *known = (struct run_step){key, step_decode_s(m->setup, &d, NULL)};
    return known->s;
}

static double prefill_s(void *ctx, const struct sim_chunk *c) {
    const struct run_member *m = ctx;
    struct step_prefill p = {.tokens = c->tokens,
                             .key_pairs = c->key_pairs,
                             .cached = c->cached,
                             .requests = c->requests};
    return step_prefill_s(m->setup, &p, NULL);
}

double run_page_bytes(const struct run_config *c) {
    return step_kv_token_bytes(&c->decode.setup) * KV_PAGE_TOKENS;
}

enum st run_kv_pages(const struct run_config *c, enum member_role role, uint32_t *out,
                     struct err *err) {
    bool prefill = role == ROLE_OF_PREFILL;
    const struct step_setup *s = prefill ? &c->prefill.setup : &c->decode.setup;
    bool bound = die_bound(role, s);
    double page = run_page_bytes(c), memories = bound ? s->dies : 1,
           room = step_kv_room_bytes(s, prefill) * s->dies / memories, each = floor(room / page),
           least = engine_pages_min(c->max_model_len);
    *out =
        (uint32_t)fmin(each * memories, UINT32_MAX); /* who reads a description takes far fewer */
    if (each >= least) return ST_OK;
    return err_set(err, ST_INVALID,
                   "max_model_len: KV of %u tokens takes %.1f GB, and beside the weights of %s %s "
                   "%u dies has room for %.1f GB",
                   c->max_model_len, least * page / 1e9, member_role_name(role),
                   bound ? "each of" : "the whole of", s->dies, room / 1e9);
}

static uint32_t seqs_of(const struct run *r, const struct run_member *m) {
    if (m->m.role == ROLE_OF_DECODE) return r->c->decode.requests_per_die * m->setup->dies;
    return 4096;
}

enum st run_worker(void *ctx, struct sim_member *sim, struct node_options *o, struct err *err) {
    struct run *r = ctx;
    struct run_member *m = (struct run_member *)sim;
    const struct run_config *c = r->c;
    void *memory;
    uint32_t n_pages, seqs = seqs_of(r, m);
    bool prefill = m->m.role == ROLE_OF_PREFILL;
    enum st st = run_kv_pages(c, m->m.role, &n_pages, err);
    if (!st)
        st = bus_segment_new(m->m.bus, sim_exec_bytes(n_pages), BUS_PEERS_READ, &o->memory, &memory,
                             err);
    if (st) return st;
    struct sim_exec_options x = {.times = {.ctx = m, .step_s = decode_s, .chunk_s = prefill_s},
                                 .model_id = RUN_MODEL_ID,
                                 .n_pages = n_pages,
                                 .n_slots = seqs,
                                 .max_model_len = c->max_model_len,
                                 .rows_max = seqs * 2 + EXECUTOR_RIDE_ROWS,
                                 .vocab = m->setup->model.vocab,
                                 .dies = m->setup->dies,
                                 .die_bound = die_bound(m->m.role, m->setup),
                                 .drafts = m->setup->mtp && !prefill,
                                 .acceptance = m->setup->acceptance,
                                 .memory = memory};
    st = sim_exec_init(&m->exec, &x, err);
    if (st) return st;
    uint64_t batch = (uint64_t)c->prefill.batch_tokens * c->prefill.chips;
    m->m.clock_ns = &m->exec.now_ns;
    m->exec.slow = m->slow;
    o->executor = &m->exec.x;
    o->engine = (struct engine_options){
        .max_num_seqs = seqs,
        .max_num_batched_tokens =
            prefill && batch > EXECUTOR_CHUNK_MIN ? (uint32_t)batch : EXECUTOR_CHUNK_MIN,
        .speculate = x.drafts ? SPECULATE_ON : SPECULATE_OFF,
        .draft_tokens = 1};
    o->look_ns = look_ns;
    o->offers_max = OFFERS_MAX;
    return ST_OK;
}

void run_worker_end(void *ctx, struct sim_member *m) {
    (void)ctx;
    sim_exec_release(&((struct run_member *)m)->exec);
}

enum st run_pool(void *ctx, struct sim_member *sim, struct pool_node_options *o, struct err *err) {
    const struct run *r = ctx;
    const struct machine *hw = &r->c->machine;
    struct run_member *m = (struct run_member *)sim;
    struct block_shape shape = sim_exec_shape();
    double block = run_page_bytes(r->c), recs = floor(r->c->pool.ssd_bytes / block);
    enum st st = ST_OK;
    /* a block stands for its real size, and takes a slot of the small one's */
    double slots = floor(r->c->pool.dram_bytes / block);
    o->pool.dram_bytes = (uint64_t)(slots * (double)slot_bytes(&shape));
    if (recs < 1) return ST_OK;
    struct sim_ssd_options ssd = {.net = r->cluster.net,
                                  .shape = shape,
                                  .n_recs = (uint32_t)recs,
                                  .block_bytes = block,
                                  .rate_bps = hw->node_ssd_bps,
                                  .latency_s = hw->node_ssd_s};
    if (!m->ssd) st = sim_ssd_new(&m->ssd, &ssd, err);
    if (st) return st;
    o->ssd = (struct ssd_options){.bytes = sim_ssd_bytes(m->ssd),
                                  .ops = &sim_ssd_ops,
                                  .io = m->ssd,
                                  .n_had = sim_ssd_had(m->ssd)};
    return ST_OK;
}

enum st run_member_begin(struct run *r, struct run_member *m, struct err *err) {
    m->up_since_ns = sim_cluster_now(&r->cluster);
    return sim_member_begin(&r->cluster, &m->m, err);
}

struct run_counts run_member_account(struct run_member *m, uint64_t now_ns) {
    struct run_counts c = m->past;
    struct node_stats s;
    if (!m->m.there) return c;
    m->up_s += run_s(now_ns - m->up_since_ns);
    m->up_since_ns = now_ns;
    if (!m->m.node) return c;
    /* of what it is in the middle of only the part that has passed */
    uint64_t until_ns = m->m.busy_ns, at_ns = m->m.stopped ? m->m.stopped_ns : now_ns;
    double ahead_s = until_ns > at_ns ? fmin(run_s(until_ns - at_ns), m->exec.busy_s) : 0;
    m->busy_s += m->exec.busy_s - ahead_s;
    m->exec.busy_s = ahead_s;
    node_stats(m->m.node, &s);
    c.wrong_pages += m->exec.wrong;
    c.preemptions += s.engine.preemptions;
    c.stored += s.pool.stored;
    /* whoever got no answer in time counts too */
    c.unstored += s.pool.offers - s.pool.stored - s.pool.known + s.pool.not_offered;
    c.pool_tokens += s.load.prompt_from_pool;
    if (m->m.stopped)
        return c; /* given up, and does not know yet: it gives all back when it goes on */
    /* where no request is under way nothing may be held; what a dead one held is gone with it */
    bool left = s.load.running + s.load.waiting + s.load.lent + s.load.reserved > 0;
    c.leaked_pages = left ? s.load.pages_used : s.pages_leaked;
    return c;
}

void run_member_end(struct run *r, struct run_member *m) {
    m->past = run_member_account(m, sim_cluster_now(&r->cluster));
    m->past.leaked_pages = 0;
    sim_member_kill(&r->cluster, &m->m);
}

/* --- where they stand ------------------------------------------------------------------------- */

static double plane_rate(const struct run *r, const struct machine_plane *p, double dies, bool cpu,
                         bool write) {
    const struct machine *m = &r->c->machine;
    return node_limit(m, p, dies / machine_dies_per_node(m), dies * die_rate(r, p, cpu, write));
}

static bool place_worker(struct run *r, struct run_member *m) {
    uint32_t dies = m->setup->dies;
    for (int i = 0; i < RUN_PLANES; i++) {
        const struct machine_plane *p = r->planes[i];
        double in = plane_rate(r, p, dies, i == POOL, false),
               out = plane_rate(r, p, dies, i == POOL, i == POOL);
        uint32_t n = p->die_bps > 0 ? dies : 1;
        if (!links_init(&m->in[i], in, n, p->die_bps) ||
            !links_init(&m->out[i], out, n, p->die_bps))
            return false;
    }
    return true;
}

static bool place_server(struct run *r, struct run_member *m) {
    const struct machine_plane *p = r->planes[POOL];
    double rate = node_limit(&r->c->machine, p, 1, p->cpu_bps * r->c->machine.cpus_per_node);
    if (rate <= 0) rate = p->die_bps * machine_dies_per_node(&r->c->machine);
    for (int i = 0; i < RUN_PLANES; i++)
        if (!links_init(&m->in[i], rate, 1, rate) || !links_init(&m->out[i], rate, 1, rate))
            return false;
    return true;
}

static bool add(struct run *r, enum member_role role, const struct run_instances *of, uint32_t i,
                uint32_t first_chip) {
    struct run_member *m = &r->members[r->n_members++];
    snprintf(m->m.name, sizeof m->m.name, "%c%u", "pdm"[role], i);
    m->m.role = role;
    m->first_chip = first_chip;
    m->n_chips = of ? of->chips : r->c->machine.chips_per_node;
    m->setup = of ? &of->setup : NULL;
    return of ? place_worker(r, m) : place_server(r, m);
}

static enum st find_plane(struct run *r, int which, const char *name, struct err *err) {
    const struct machine *m = &r->c->machine;
    r->planes[which] = machine_plane(m, name);
    if (r->planes[which]) return ST_OK;
    return err_set(err, ST_INVALID, "%s: plane %s: found no such plane of %s", r->c->hardware, name,
                   m->name);
}

enum st run_members_new(struct run *r, struct err *err) {
    const struct run_config *c = r->c;
    uint32_t n = c->prefill.n + c->decode.n + c->pool.n, chip = 0;
    enum st st = find_plane(r, HANDOVER, c->handover_plane, err);
    if (!st) st = find_plane(r, POOL, c->pool.plane, err);
    if (st) return st;
    r->members = calloc(n, sizeof *r->members);
    if (!r->members) return err_set(err, ST_NO_MEMORY, "run: out of memory");
    bool ok = true;
    for (uint32_t i = 0; i < c->prefill.n && ok; i++, chip += c->prefill.chips)
        ok = add(r, ROLE_OF_PREFILL, &c->prefill, i, chip);
    for (uint32_t i = 0; i < c->decode.n && ok; i++, chip += c->decode.chips)
        ok = add(r, ROLE_OF_DECODE, &c->decode, i, chip);
    for (uint32_t i = 0; i < c->pool.n && ok; i++)
        ok = add(r, ROLE_OF_POOL, NULL, i, i * c->machine.chips_per_node);
    if (!ok) return err_set(err, ST_NO_MEMORY, "run: out of memory");
    for (uint32_t i = 0; i < r->n_members && !st; i++)
        st = sim_cluster_add(&r->cluster, &r->members[i].m, err);
    return st;
}

void run_members_free(struct run *r) {
    for (uint32_t i = 0; i < r->n_members; i++) {
        struct run_member *m = &r->members[i];
        sim_ssd_free(m->ssd);
        for (int p = 0; p < RUN_PLANES; p++) {
            free(m->in[p].v);
            free(m->out[p].v);
        }
    }
    free(r->members);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements flow.h. A flow crosses its die's engine for this kind of transfer (what a die reaches in
 * all; less to other nodes), both ends' links and, between nodes, one way up and one down. A flow is
 * spread evenly over the sub-planes, so a node's uplinks count as one link whose rate falls with each
 * sub-plane that is degraded; level-2 switches have a port for every uplink and never bind alone.
 *
 * When a flow comes or goes, only those rates are computed anew that can change: of flows that share a
 * full link with it, and so on. A link that is not full holds nobody back; if the new rates overfill
 * one, it is taken in and they are computed again. */
#include "sim/flow.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX, FLOWS_MAX = 1 << 22, HOPS = 6 };
static_assert((int)HOPS <= (int)FLOW_LINKS_MAX, "a flow's links");

/* Links of a die; then of all CPUs and nodes. */
enum {
    DIE_OUT,
    DIE_IN,
    DIE_ENGINE,
    DIE_FAR = DIE_ENGINE + MACHINE_TRANSFERS,
    DIE_LINKS = DIE_FAR + MACHINE_TRANSFERS
};
enum { BOTH_OUT, BOTH_IN, BOTH_LINKS };

struct link {
    double full, share; /* its rate when whole; what is left of it; full 0: there is none */
    double cap, used;   /* now; given to its flows */
    double bytes;       /* carried so far */
    uint32_t first, n;  /* its flows: an entry of the list, NONE */
    uint32_t seen;      /* the pass that includes it */
    double rem;         /* in a pass: not given away, to so many flows without a rate */
    uint32_t open;
    double more;  /* after a pass: what flows of links it does not include gain */
    bool changed; /* since the last pass */
};

struct flow {
    uint64_t id;
    double cap, rate, left, since_s, due_s; /* due: its bytes begin, or it ends */
    double new_rate;                        /* in a pass */
    bool running;
    uint32_t n, links[HOPS], next[HOPS], prev[HOPS]; /* entry e: hop e % HOPS of flow e / HOPS */
    uint32_t heap_at, seen, next_free;
    bool fixed; /* in a pass: has its rate */
};

struct flow_net {
    struct machine_plane plane;
    uint32_t n_dies, n_cpus, n_nodes, dies_per_node, cpus_per_node;
    uint32_t n_links, pass;
    struct link *links;
    double *sub_share; /* [n_nodes][sub_planes] */
    struct flow *flows;
    uint32_t cap, used, free, n_heap;
    uint32_t *heap;
    uint32_t *pass_flows, *open_flows, *pass_links, *open_links; /* room for all */
    uint32_t n_pass_flows, n_pass_links;
    uint32_t *changed, *joined; /* links and flows since the last pass */
    uint32_t n_changed, n_joined;
    uint64_t last_id;
    double now_s;
};

/* --- links ---------------------------------------------------------------------------------------- */

static uint32_t die_link(uint32_t die, uint32_t which) {
    return die * DIE_LINKS + which;
}
static uint32_t cpu_link(const struct flow_net *n, uint32_t cpu, uint32_t which) {
    return n->n_dies * DIE_LINKS + cpu * BOTH_LINKS + which;
}
static uint32_t node_link(const struct flow_net *n, uint32_t node, uint32_t which) {
    return n->n_dies * DIE_LINKS + n->n_cpus * BOTH_LINKS + node * BOTH_LINKS + which;
}

static double whole_planes(const struct flow_net *n, uint32_t node) {
    double sum = 0;
    for (uint32_t i = 0; i < n->plane.sub_planes; i++)
        sum += n->sub_share[node * n->plane.sub_planes + i];
    return sum / n->plane.sub_planes;
}

static void set_full(struct flow_net *n, uint32_t link, double bps) {
    n->links[link] = (struct link){.full = bps, .share = 1, .cap = bps, .first = NONE};
}

static void make_links(struct flow_net *n) {
    const struct machine_plane *p = &n->plane;
    for (uint32_t d = 0; d < n->n_dies; d++) {
        set_full(n, die_link(d, DIE_OUT), p->die_bps);
        set_full(n, die_link(d, DIE_IN), p->die_bps);
        for (int t = 0; t < MACHINE_TRANSFERS; t++) {
            double near = p->same_node[t].rate_bps, far = p->other_node[t].rate_bps;
            set_full(n, die_link(d, DIE_ENGINE + t), fmax(near, far));
            set_full(n, die_link(d, DIE_FAR + t), far < near ? far : 0);
        }
    }
    for (uint32_t c = 0; c < n->n_cpus; c++)
        for (int i = 0; i < BOTH_LINKS; i++) set_full(n, cpu_link(n, c, i), p->cpu_bps);
    double up = p->uplink_bps > 0 ? p->uplink_bps : p->node_bps;
    for (uint32_t i = 0; i < n->n_nodes; i++)
        for (int j = 0; j < BOTH_LINKS; j++) set_full(n, node_link(n, i, j), up);
    for (uint32_t i = 0; i < n->n_nodes * p->sub_planes; i++) n->sub_share[i] = 1;
}

enum st flow_net_new(struct flow_net **out, const struct machine *m,
                     const struct machine_plane *plane, struct err *err) {
    struct flow_net *n = calloc(1, sizeof *n);
    if (!n) return err_set(err, ST_NO_MEMORY, "network: out of memory");
    n->plane = *plane;
    n->n_nodes = m->n_nodes;
    n->dies_per_node = machine_dies_per_node(m);
    n->cpus_per_node = m->cpus_per_node;
    n->n_dies = n->dies_per_node * m->n_nodes;
    n->n_cpus = m->cpus_per_node * m->n_nodes;
    n->n_links = n->n_dies * DIE_LINKS + (n->n_cpus + n->n_nodes) * BOTH_LINKS;
    n->free = NONE;
    n->links = calloc(n->n_links, sizeof *n->links);
    n->pass_links = calloc(n->n_links, sizeof *n->pass_links);
    n->open_links = calloc(n->n_links, sizeof *n->open_links);
    n->changed = calloc(n->n_links, sizeof *n->changed);
    n->sub_share = calloc((size_t)n->n_nodes * plane->sub_planes, sizeof *n->sub_share);
    if (!n->links || !n->pass_links || !n->open_links || !n->changed || !n->sub_share) {
        flow_net_free(n);
        return err_set(err, ST_NO_MEMORY, "network: out of memory");
    }
    make_links(n);
    *out = n;
    return ST_OK;
}

void flow_net_free(struct flow_net *n) {
    if (!n) return;
    free(n->links);
    free(n->sub_share);
    free(n->flows);
    free(n->heap);
    free(n->pass_flows);
    free(n->open_flows);
    free(n->pass_links);
    free(n->open_links);
    free(n->changed);
    free(n->joined);
    free(n);
}

/* --- what is due next: a heap of flows ------------------------------------------------------------ */

static bool before(const struct flow_net *n, uint32_t a, uint32_t b) {
    const struct flow *x = &n->flows[a], *y = &n->flows[b];
    return x->due_s < y->due_s || (x->due_s == y->due_s && x->id < y->id);
}

static void heap_put(struct flow_net *n, uint32_t at, uint32_t f) {
    n->heap[at] = f;
    n->flows[f].heap_at = at;
}

static void heap_fix(struct flow_net *n, uint32_t at) {
    uint32_t f = n->heap[at];
    while (at > 0 && before(n, f, n->heap[(at - 1) / 2])) {
        heap_put(n, at, n->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= n->n_heap) break;
        if (child + 1 < n->n_heap && before(n, n->heap[child + 1], n->heap[child])) child++;
        if (!before(n, n->heap[child], f)) break;
        heap_put(n, at, n->heap[child]);
        at = child;
    }
    heap_put(n, at, f);
}

static void heap_remove(struct flow_net *n, uint32_t at) {
    uint32_t last = n->heap[--n->n_heap];
    if (at == n->n_heap) return;
    heap_put(n, at, last);
    heap_fix(n, at);
}

/* --- flows on their links ------------------------------------------------------------------------- */

static void mark(struct flow_net *n, uint32_t link) {
    if (n->links[link].changed) return;
    n->links[link].changed = true;
    n->changed[n->n_changed++] = link;
}

static bool is_full(const struct link *l) {
    return l->used >= l->cap * (1 - 1e-9);
}

static void join(struct flow_net *n, uint32_t f) {
    struct flow *x = &n->flows[f];
    for (uint32_t h = 0; h < x->n; h++) {
        struct link *l = &n->links[x->links[h]];
        uint32_t e = f * HOPS + h;
        x->prev[h] = NONE;
        x->next[h] = l->first;
        if (l->first != NONE) n->flows[l->first / HOPS].prev[l->first % HOPS] = e;
        l->first = e;
        l->n++;
    }
    n->joined[n->n_joined++] = f;
}

static void leave(struct flow_net *n, uint32_t f) {
    struct flow *x = &n->flows[f];
    for (uint32_t h = 0; h < x->n; h++) {
        struct link *l = &n->links[x->links[h]];
        if (x->prev[h] == NONE)
            l->first = x->next[h];
        else
            n->flows[x->prev[h] / HOPS].next[x->prev[h] % HOPS] = x->next[h];
        if (x->next[h] != NONE) n->flows[x->next[h] / HOPS].prev[x->next[h] % HOPS] = x->prev[h];
        if (is_full(l)) mark(n, x->links[h]);
        l->used = --l->n ? l->used - x->rate : 0; /* no rounding is left behind */
    }
}

/* Counts what has flowed since its rate was set. */
static void settle(struct flow_net *n, struct flow *x) {
    double bytes = x->rate * (n->now_s - x->since_s);
    if (bytes > x->left) bytes = x->left;
    x->left -= bytes;
    x->since_s = n->now_s;
    for (uint32_t h = 0; h < x->n; h++) n->links[x->links[h]].bytes += bytes;
}

static void set_rate(struct flow_net *n, uint32_t f, double rate) {
    struct flow *x = &n->flows[f];
    if (rate == x->rate && x->rate > 0) return; /* its end stands */
    settle(n, x);
    for (uint32_t h = 0; h < x->n; h++) n->links[x->links[h]].used += rate - x->rate;
    x->rate = rate;
    x->due_s = x->left <= 0 ? n->now_s : rate > 0 ? n->now_s + x->left / rate : INFINITY;
    heap_fix(n, x->heap_at);
}

/* --- a pass: new rates for all that a change can reach -------------------------------------------- */

static void include_link(struct flow_net *n, uint32_t link) {
    struct link *l = &n->links[link];
    if (l->seen == n->pass) return;
    l->seen = n->pass;
    n->pass_links[n->n_pass_links++] = link;
}

static void include_flow(struct flow_net *n, uint32_t f) {
    struct flow *x = &n->flows[f];
    if (x->seen == n->pass) return;
    x->seen = n->pass;
    n->pass_flows[n->n_pass_flows++] = f;
    for (uint32_t h = 0; h < x->n; h++)
        if (is_full(&n->links[x->links[h]])) include_link(n, x->links[h]);
}

/* Everything on the links from `first` on, and on the full links of that. */
static void reach(struct flow_net *n, uint32_t first) {
    for (uint32_t i = first; i < n->n_pass_links; i++) {
        const struct link *l = &n->links[n->pass_links[i]];
        for (uint32_t e = l->first; e != NONE; e = n->flows[e / HOPS].next[e % HOPS])
            include_flow(n, e / HOPS);
    }
}

static void fix(struct flow_net *n, uint32_t f, double rate) {
    struct flow *x = &n->flows[f];
    x->fixed = true;
    x->new_rate = rate;
    for (uint32_t h = 0; h < x->n; h++) {
        struct link *l = &n->links[x->links[h]];
        if (l->seen != n->pass) continue;
        l->open--;
        l->rem = fmax(l->rem - rate, 0);
    }
}

static void fix_all_of(struct flow_net *n, const struct link *l, double rate) {
    for (uint32_t e = l->first; e != NONE; e = n->flows[e / HOPS].next[e % HOPS])
        if (!n->flows[e / HOPS].fixed) fix(n, e / HOPS, rate);
}

/* Drops the links that are done and returns the least that any other can still give to each. */
static double least_share(struct flow_net *n, uint32_t *n_links) {
    double least = INFINITY;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *n_links; i++) {
        const struct link *l = &n->links[n->open_links[i]];
        if (l->open == 0) continue;
        n->open_links[kept++] = n->open_links[i];
        least = fmin(least, l->rem / l->open);
    }
    *n_links = kept;
    return least;
}

/* The least bound of a flow's own, of those that have no rate yet; drops the others. */
static double least_cap(struct flow_net *n, uint32_t *n_flows) {
    double least = INFINITY;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *n_flows; i++) {
        const struct flow *x = &n->flows[n->open_flows[i]];
        if (x->fixed) continue;
        n->open_flows[kept++] = n->open_flows[i];
        least = fmin(least, x->cap);
    }
    *n_flows = kept;
    return least;
}

/* Progressive filling: all rise together; who meets a bound first stays there. */
static void fill(struct flow_net *n) {
    uint32_t n_flows = n->n_pass_flows, n_links = n->n_pass_links;
    for (uint32_t i = 0; i < n_links; i++) {
        struct link *l = &n->links[n->open_links[i] = n->pass_links[i]];
        l->rem = l->cap;
        l->open = l->n;
    }
    for (uint32_t i = 0; i < n_flows; i++)
        n->flows[n->open_flows[i] = n->pass_flows[i]].fixed = false;
    for (;;) {
        double cap = least_cap(n, &n_flows), share = least_share(n, &n_links);
        if (n_flows == 0) return;
        for (uint32_t i = 0; i < n_flows && cap <= share; i++)
            if (n->flows[n->open_flows[i]].cap <= cap) fix(n, n->open_flows[i], cap);
        for (uint32_t i = 0; i < n_links && cap > share; i++) {
            const struct link *l = &n->links[n->open_links[i]];
            if (l->open && l->rem / l->open <= share * (1 + 1e-12)) fix_all_of(n, l, share);
        }
    }
}

/* Takes in the links that the new rates overfill; false: there is none. */
static bool overfills(struct flow_net *n) {
    uint32_t before_n = n->n_pass_links;
    for (int round = 0; round < 3; round++) /* clear, sum, compare */
        for (uint32_t i = 0; i < n->n_pass_flows; i++) {
            const struct flow *x = &n->flows[n->pass_flows[i]];
            for (uint32_t h = 0; h < x->n; h++) {
                struct link *l = &n->links[x->links[h]];
                if (l->seen == n->pass) continue;
                if (round == 0) l->more = 0;
                if (round == 1) l->more += x->new_rate - x->rate;
                if (round == 2 && l->used + l->more > l->cap * (1 + 1e-9))
                    include_link(n, x->links[h]);
            }
        }
    return n->n_pass_links > before_n;
}

static void solve(struct flow_net *n) {
    uint32_t first = 0;
    if (n->n_changed == 0 && n->n_joined == 0) return;
    n->pass++;
    n->n_pass_flows = n->n_pass_links = 0;
    for (uint32_t i = 0; i < n->n_changed; i++) {
        include_link(n, n->changed[i]);
        n->links[n->changed[i]].changed = false;
    }
    for (uint32_t i = 0; i < n->n_joined; i++) include_flow(n, n->joined[i]);
    n->n_changed = n->n_joined = 0;
    do {
        reach(n, first);
        fill(n);
        first = n->n_pass_links;
    } while (overfills(n));
    for (uint32_t i = 0; i < n->n_pass_flows; i++)
        set_rate(n, n->pass_flows[i], n->flows[n->pass_flows[i]].new_rate);
}

/* --- flows come and go ---------------------------------------------------------------------------- */

static bool grow(struct flow_net *n) {
    uint32_t cap = n->cap ? n->cap * 2 : 256;
    if (cap > FLOWS_MAX) return false;
    struct flow *flows = realloc(n->flows, cap * sizeof *flows);
    if (flows) n->flows = flows;
    uint32_t **lists[] = {&n->heap, &n->pass_flows, &n->open_flows, &n->joined};
    for (size_t i = 0; i < sizeof lists / sizeof *lists && flows; i++) {
        uint32_t *v = realloc(*lists[i], cap * sizeof *v);
        if (!v) return false;
        *lists[i] = v;
    }
    if (flows) n->cap = cap;
    return flows != NULL;
}

static uint32_t node_of(const struct flow_net *n, struct flow_end e) {
    return e.index / (e.cpu ? n->cpus_per_node : n->dies_per_node);
}

static void hop(struct flow_net *n, struct flow *x, uint32_t link) {
    if (n->links[link].full > 0) x->links[x->n++] = link;
}

static void lay(struct flow_net *n, struct flow *x, enum machine_transfer what, struct flow_end of,
                struct flow_end with) {
    bool reads = what == TRANSFER_READ || what == TRANSFER_READ_CPU;
    struct flow_end from = reads ? with : of, to = reads ? of : with;
    hop(n, x, die_link(of.index, DIE_ENGINE + what));
    hop(n, x, from.cpu ? cpu_link(n, from.index, BOTH_OUT) : die_link(from.index, DIE_OUT));
    hop(n, x, to.cpu ? cpu_link(n, to.index, BOTH_IN) : die_link(to.index, DIE_IN));
    if (node_of(n, from) == node_of(n, to)) return;
    hop(n, x, die_link(of.index, DIE_FAR + what));
    hop(n, x, node_link(n, node_of(n, from), BOTH_OUT));
    hop(n, x, node_link(n, node_of(n, to), BOTH_IN));
}

uint64_t flow_begin(struct flow_net *n, double now_s, enum machine_transfer what,
                    struct flow_end of, struct flow_end with, double bytes) {
    const struct machine_plane *p = &n->plane;
    bool cpu = what == TRANSFER_READ_CPU || what == TRANSFER_WRITE_CPU;
    assert(now_s >= n->now_s && now_s <= flow_next(n));
    assert(!of.cpu && of.index < n->n_dies && with.cpu == cpu);
    assert(with.index < (cpu ? n->n_cpus : n->n_dies) && bytes >= 0 && isfinite(bytes));
    uint32_t a = node_of(n, of), b = node_of(n, with);
    double alone = transfer_s(p, what, a != b, bytes);
    if (isinf(alone) || (p->domain_nodes && a / p->domain_nodes != b / p->domain_nodes)) return 0;
    if (n->free == NONE && n->used == n->cap && !grow(n)) return 0;
    uint32_t f = n->free;
    if (f == NONE)
        f = n->used++;
    else
        n->free = n->flows[f].next_free;
    struct flow *x = &n->flows[f];
    *x = (struct flow){.id = ++n->last_id, .left = bytes};
    x->cap = a != b ? p->other_node[what].rate_bps : p->same_node[what].rate_bps;
    x->due_s = now_s + fmax(alone - bytes / x->cap, 0);
    lay(n, x, what, of, with);
    n->now_s = now_s;
    heap_put(n, n->n_heap++, f);
    heap_fix(n, n->n_heap - 1);
    return x->id;
}

double flow_next(const struct flow_net *n) {
    return n->n_heap ? n->flows[n->heap[0]].due_s : INFINITY;
}

uint64_t flow_end_next(struct flow_net *n) {
    if (n->n_heap == 0 || isinf(flow_next(n))) return 0;
    uint32_t f = n->heap[0];
    struct flow *x = &n->flows[f];
    uint64_t ended = 0;
    n->now_s = x->due_s;
    if (!x->running) {
        x->running = true;
        x->since_s = n->now_s;
        x->due_s = x->left > 0 ? INFINITY : n->now_s; /* until it has a rate */
        heap_fix(n, 0);
        if (x->left > 0) join(n, f);
    } else {
        x->due_s = n->now_s;
        for (uint32_t h = 0; h < x->n; h++) n->links[x->links[h]].bytes += x->left;
        ended = x->id;
        if (x->rate > 0) leave(n, f);
        heap_remove(n, 0);
        x->next_free = n->free;
        n->free = f;
    }
    if (flow_next(n) > n->now_s) solve(n); /* what happens at one time is counted once */
    return ended;
}

/* --- faults and figures by name ------------------------------------------------------------------- */

struct named {
    uint32_t links[2], n;
    uint32_t node, sub_plane; /* NONE: all nodes; no sub-plane */
};

static bool number(const char **at, const char *word, uint32_t end, uint32_t *out) {
    size_t len = strlen(word);
    char *after;
    if (strncmp(*at, word, len) != 0 || !(*at)[len] || !strchr("0123456789", (*at)[len]))
        return false;
    unsigned long v = strtoul(*at + len, &after, 10);
    if (v >= end) return false;
    *out = (uint32_t)v;
    *at = after;
    return true;
}

static bool both(struct named *out, uint32_t first) {
    out->links[out->n++] = first;
    out->links[out->n++] = first + 1;
    return true;
}

static bool find(const struct flow_net *n, const char *name, struct named *out) {
    uint32_t i, subs = n->plane.sub_planes > 1 ? n->plane.sub_planes : 0;
    *out = (struct named){.node = NONE, .sub_plane = NONE};
    if (number(&name, "die ", n->n_dies, &i)) return !*name && both(out, die_link(i, DIE_OUT));
    if (number(&name, "cpu ", n->n_cpus, &i)) return !*name && both(out, cpu_link(n, i, BOTH_OUT));
    if (number(&name, "sub-plane ", subs, &out->sub_plane)) return !*name;
    if (!number(&name, "node ", n->n_nodes, &out->node)) return false;
    if (number(&name, " sub-plane ", subs, &out->sub_plane)) return !*name;
    if (!*name) return both(out, node_link(n, out->node, BOTH_OUT));
    bool up = strcmp(name, " up") == 0;
    out->links[out->n++] = node_link(n, out->node, up ? BOTH_OUT : BOTH_IN);
    return up || strcmp(name, " down") == 0;
}

static void set_cap(struct flow_net *n, uint32_t link, double planes) {
    struct link *l = &n->links[link];
    double cap = l->full * l->share * planes;
    if (cap == l->cap) return;
    l->cap = cap;
    mark(n, link);
}

/* All that hangs on a node's share of sub-planes. */
static void set_caps(struct flow_net *n, uint32_t node) {
    double planes = whole_planes(n, node);
    for (uint32_t d = node * n->dies_per_node; d < (node + 1) * n->dies_per_node; d++)
        for (uint32_t i = DIE_OUT; i <= DIE_IN; i++) set_cap(n, die_link(d, i), planes);
    for (uint32_t c = node * n->cpus_per_node; c < (node + 1) * n->cpus_per_node; c++)
        for (uint32_t i = 0; i < BOTH_LINKS; i++) set_cap(n, cpu_link(n, c, i), planes);
    for (uint32_t i = 0; i < BOTH_LINKS; i++) set_cap(n, node_link(n, node, i), planes);
}

enum st flow_degrade(struct flow_net *n, double now_s, const char *link, double share,
                     struct err *err) {
    struct named at;
    assert(now_s >= n->now_s && now_s <= flow_next(n));
    if (!(share >= 0 && share <= 1))
        return err_set(err, ST_INVALID, "link %s: found a share of %g, expected 0 to 1", link,
                       share);
    bool known = find(n, link, &at);
    for (uint32_t i = 0; i < at.n; i++) known = known && n->links[at.links[i]].full > 0;
    if (!known)
        return err_set(err, ST_NOT_FOUND, "link %.60s: found none of this name on %s", link,
                       n->plane.name);
    n->now_s = now_s;
    for (uint32_t i = 0; i < at.n; i++) n->links[at.links[i]].share = share;
    for (uint32_t i = 0; i < n->n_nodes; i++) {
        if (at.sub_plane != NONE && (at.node == NONE || at.node == i))
            n->sub_share[i * n->plane.sub_planes + at.sub_plane] = share;
        set_caps(n, i);
    }
    if (flow_next(n) > n->now_s) solve(n);
    return ST_OK;
}

double flow_link_bytes(const struct flow_net *n, const char *link) {
    struct named at;
    double sum = 0;
    if (!find(n, link, &at)) return 0;
    for (uint32_t i = 0; i < at.n; i++) {
        const struct link *l = &n->links[at.links[i]];
        sum += l->bytes;
        for (uint32_t e = l->first; e != NONE; e = n->flows[e / HOPS].next[e % HOPS]) {
            const struct flow *x = &n->flows[e / HOPS];
            sum += fmin(x->rate * (n->now_s - x->since_s), x->left);
        }
    }
    return sum;
}

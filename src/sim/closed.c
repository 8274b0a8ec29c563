/* SPDX-License-Identifier: Apache-2.0 */
/* The closed forms of flow.h. A step of a large instance asks for thousands of collectives; simulating
 * the flows of each would take longer than all the rest. The ranks of a collective do the same at
 * the same time, so the busiest link decides. */
#include <assert.h>
#include <math.h>
#include <stdio.h>

#include "base/figure.h"
#include "sim/flow.h"

const char *const collective_names[COLLECTIVES + 1] = {"all-gather", "all-to-all", "reduce-scatter",
                                                       "all-reduce", NULL};

static double root4(double a, double b) {
    return sqrt(sqrt(a * a * a * a + b * b * b * b));
}

static double whole_start_s(const struct machine_plane *p, const struct machine_path *path) {
    return fmax(p->library_start_s, path->latency_s);
}

double transfer_s(const struct machine_plane *p, enum machine_transfer what, bool other_node,
                  double bytes) {
    const struct machine_path *path = other_node ? &p->other_node[what] : &p->same_node[what];
    assert(bytes >= 0);
    if (path->rate_bps <= 0) return INFINITY;
    return root4(whole_start_s(p, path), bytes / path->rate_bps);
}

/* The part of the start that the wire does not hide. */
static double start_s(const struct machine_plane *p, bool other_node, double bytes) {
    const struct machine_path *path =
        other_node ? &p->other_node[TRANSFER_WRITE] : &p->same_node[TRANSFER_WRITE];
    return transfer_s(p, TRANSFER_WRITE, other_node, bytes) - bytes / path->rate_bps;
}

/* The plane for what lies beyond p's domain. */
static const struct machine_plane *beyond(const struct machine *m, const struct machine_plane *p) {
    const struct machine_plane *best = NULL;
    for (uint32_t i = 0; i < m->n_planes; i++) {
        const struct machine_plane *q = &m->planes[i];
        if (q == p || q->other_node[TRANSFER_WRITE].rate_bps <= 0) continue;
        if (q->domain_nodes && q->domain_nodes <= p->domain_nodes) continue;
        if (!best ||
            q->other_node[TRANSFER_WRITE].rate_bps > best->other_node[TRANSFER_WRITE].rate_bps)
            best = q;
    }
    return best;
}

/* Bytes between ranks by how far they go, of the busiest rank. */
struct spread {
    double message, near, far;
    double node_far; /* what one node sends out, at most */
};

/* What decides how long a plane's part takes: the start, and the bytes over the rate of one link. */
struct bound {
    const char *plane;
    double start, whole; /* what a message's wire leaves bare of the start, and all of it */
    double message, bytes, bps;
};

static double bound_s(const struct bound *b) {
    return b->bytes > 0 ? b->start + b->bytes / b->bps : 0; /* no way there: infinite */
}

static void narrower(struct bound *b, double bytes, double bps) {
    if (b->bytes == 0 || bytes * b->bps > b->bytes * bps) b->bytes = bytes, b->bps = bps;
}

/* One plane's part: a die's engine, its share for other nodes, the node's way out. */
static struct bound plane_bound(const struct machine_plane *p, const struct spread *x) {
    const struct machine_path *near = &p->same_node[TRANSFER_WRITE],
                              *far = &p->other_node[TRANSFER_WRITE];
    struct bound b = {.plane = p->name, .message = x->message};
    if (x->near + x->far <= 0) return b;
    if ((x->near > 0 && near->rate_bps <= 0) || (x->far > 0 && far->rate_bps <= 0)) {
        b.bytes = x->near + x->far;
        return b;
    }
    narrower(&b, x->near + x->far, fmax(near->rate_bps, far->rate_bps));
    if (x->near > 0) {
        narrower(&b, x->near, near->rate_bps);
        b.start = start_s(p, false, x->message);
        b.whole = whole_start_s(p, near);
    }
    if (x->far > 0) {
        narrower(&b, x->far, far->rate_bps);
        if (start_s(p, true, x->message) > b.start) {
            b.start = start_s(p, true, x->message);
            b.whole = whole_start_s(p, far);
        }
        if (p->uplink_bps > 0) narrower(&b, x->node_far, p->uplink_bps);
        if (p->node_bps > 0) narrower(&b, x->node_far, p->node_bps);
    }
    return b;
}

static struct bound later(struct bound a, struct bound b) {
    return bound_s(&b) > bound_s(&a) ? b : a;
}

/* Every rank sends bytes/n to every other. Of groups of `size` ranks the last may have fewer, whose
 * ranks send the most out. Where all ranks want the same (not in an all-to-all), what comes from beyond
 * the domain comes once, to each rank its part, and is passed on inside. */
static struct bound exchange(const struct machine *m, const struct machine_plane *p, uint32_t n,
                             double bytes, bool same) {
    uint32_t node = machine_dies_per_node(m), domain = p->domain_nodes ? p->domain_nodes * node : n;
    uint32_t k = n < node ? n : node, d = n < domain ? n : domain;
    uint32_t k_last = n % node ? n % node : k, d_last = n % d ? n % d : d;
    double message = bytes / n, full = k, once = same ? d_last : 1;
    struct spread in = {.message = message,
                        .near = (full - 1) * message,
                        .far = (d - full) * message,
                        .node_far = full * (d - full) * message};
    if (d < n && same) in.near += ((double)n - d) * message * (1 - 1 / once);
    struct bound b = plane_bound(p, &in);
    if (k_last < k && d == n) { /* the last node's */
        struct spread last = {.message = message,
                              .near = (k_last - 1) * message,
                              .far = (n - k_last) * message,
                              .node_far = (double)k_last * (n - k_last) * message};
        b = later(b, plane_bound(p, &last));
    }
    if (d == n) return b;
    const struct machine_plane *q = beyond(m, p);
    struct spread out = {.message = message,
                         .far = ((double)n - d_last) * message / once,
                         .node_far = full * ((double)n - d) * message / once};
    if (!q) return (struct bound){.plane = p->name, .bytes = out.far}; /* nothing reaches */
    return later(b, plane_bound(q, &out));
}

double collective_s(const struct machine *m, const struct machine_plane *p, enum collective what,
                    uint32_t n_ranks, double bytes) {
    assert(what < COLLECTIVES && bytes >= 0);
    if (n_ranks < 2) return 0;
    struct bound b = exchange(m, p, n_ranks, bytes, what != ALL_TO_ALL);
    return what == ALL_REDUCE ? 2 * bound_s(&b) : bound_s(&b); /* reduce-scatter, then all-gather */
}

double collective_start_s(const struct machine *m, const struct machine_plane *p,
                          enum collective what, uint32_t n_ranks, double bytes) {
    if (n_ranks < 2) return 0;
    struct bound b = exchange(m, p, n_ranks, bytes, what != ALL_TO_ALL);
    return what == ALL_REDUCE ? 2 * b.start : b.start;
}

void collective_formula(char *out, size_t size, const struct machine *m,
                        const struct machine_plane *p, enum collective what, uint32_t n_ranks,
                        double bytes) {
    if (n_ranks < 2) {
        snprintf(out, size, "a rank alone sends nothing");
        return;
    }
    struct bound b = exchange(m, p, n_ranks, bytes, what != ALL_TO_ALL);
    snprintf(out, size,
             "%s%s us - %s us that the wire of a message of %s MB hides = %s us start + %s MB / "
             "%s GB/s [%s, the busiest link]%s",
             what == ALL_REDUCE ? "2 x (" : "", figure_of(b.whole * 1e6).text,
             figure_of((b.whole - b.start) * 1e6).text, figure_of(b.message * 1e-6).text,
             figure_of(b.start * 1e6).text, figure_of(b.bytes * 1e-6).text,
             figure_of(b.bps * 1e-9).text, b.plane, what == ALL_REDUCE ? ")" : "");
}

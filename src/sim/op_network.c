/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatch, combine and collectives (operators.h). Every rank sends each of its tokens to the ranks of
 * the token's experts and gets their answers back; all wait for the one that has most to send or to
 * take in. Fused kernels (latency first) send a copy an expert. Bulk ones, of prefill, do so on chips
 * whose copy engines move rows; on GPUs (DeepEP's normal kernels) they send a token once to each node
 * beyond the scale-up network, and there once to each rank. */
#include <math.h>

#include "base/figure.h"
#include "sim/op_impl.h"
#include "sim/portable.h"

/* Quantile of the normal distribution for p above one half, within 5e-4 (Abramowitz and Stegun,
 * 26.2.23). */
static double quantile(double p) {
    double t = sqrt(-2 * portable_ln(1 - p));
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                   (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
}

double op_expected_max(double n) {
    if (n <= 1) return 0;
    return quantile((n - 0.375) / (n + 0.25)); /* Blom's approximation */
}

/* A token's copy on the wire: quantised with its scales going out, BF16 coming back. */
static double message_bytes(const struct op_shape *s, bool dispatch) {
    double hidden = s->model->hidden;
    if (!dispatch || s->activations == TYPE_BF16) return hidden * 2;
    if (s->activations == TYPE_INT8) return ceil((hidden + 4) / 512) * 512;
    return hidden * op_type_bytes(s->activations) + ceil(hidden / 128) * 4;
}

/* Where the ranks of the experts are, seen from one of them. They lie evenly on as few nodes as hold
 * them: nobody leaves one rank alone on the last node, which would send all it has the slow way. */
struct peers {
    const struct machine_plane *near, *far; /* far NULL: none, or no way */
    double all, node, near_other, beyond;   /* ranks; of this node, this domain, others */
    double nodes, far_nodes;                /* all they are on, and those beyond */
};

/* The first plane that leaves the scale-up domain. */
static const struct machine_plane *beyond(const struct machine *m) {
    for (uint32_t i = 1; i < m->n_planes; i++)
        if (m->planes[i].other_node[TRANSFER_WRITE].rate_bps > 0 &&
            (!m->planes[i].domain_nodes || m->planes[i].domain_nodes > m->planes[0].domain_nodes))
            return &m->planes[i];
    return NULL;
}

static struct peers peers_of(const struct op_work *w) {
    const struct op_shape *s = w->s;
    const struct machine *m = w->m;
    double ep = s->ep ? s->ep : 1, in_node = machine_dies_per_node(m);
    struct peers r = {.near = &m->planes[0],
                      .all = ep,
                      .node = ep / ceil(ep / in_node),
                      .nodes = ceil(ep / in_node)};
    if (s->plane) {
        const struct machine_plane *p = machine_plane(m, s->plane);
        if (p) r.near = p;
    }
    double domain = r.near->domain_nodes ? ep / ceil(ep / (r.near->domain_nodes * in_node)) : ep;
    r.near_other = domain - r.node;
    r.beyond = ep - domain;
    if (r.beyond > 0 && !s->plane) r.far = beyond(m);
    r.far_nodes = r.nodes * r.beyond / ep;
    return r;
}

/* Of equal parts that the experts lie in (nodes, ranks), those that a token's copies go to, on average:
 * experts are chosen at random, from some of the groups where the gate has them, and groups lie
 * together. */
static double parts_met(const struct ops_gate_config *g, double parts) {
    double reach = parts, n = g->n_groups, missed = 1;
    if (g->group != OPS_GATE_GROUP_NONE && g->topk_groups && n > 0) {
        for (uint32_t i = 0; i < g->topk_groups; i++)
            missed *= fmax(0, (n - n / parts - i) / (n - i));
        reach = n > parts ? parts * (1 - missed) : parts * g->topk_groups / n;
    }
    return reach * (1 - portable_pow(1 - 1 / fmax(1, reach), g->top_k));
}

/* What a rank writes with while all of its node's do; a plane that joins nodes only joins dies of one by
 * the same way. 0: it does not get there. */
static double rate(const struct peers *at, const struct machine_plane *p, bool other_node) {
    double same = p->same_node[TRANSFER_WRITE].rate_bps;
    double other = p->other_node[TRANSFER_WRITE].rate_bps;
    if (p->node_bps > 0) other = fmin(other, p->node_bps / at->node);
    return other_node || same <= 0 ? other : same;
}

static double wire_s(double bytes, double bps) {
    return bytes > 0 ? bytes / bps : 0; /* no way there: infinite */
}

/* Bytes of the busiest rank by the way they go. */
struct ways {
    double near, other, far; /* in its node, in its domain, beyond */
};

static void say_way(struct op_work *w, const char *before, double bytes, double bps) {
    if (bytes > 0)
        op_say(w, "%s%s MB / %s GB/s", before, figure_of(bytes * 1e-6).text,
               figure_of(bps * 1e-9).text);
}

static void say(struct op_work *w, const struct peers *at, const struct ways *b, double share,
                double spread) {
    op_say(w, "(");
    say_way(w, "", b->near, rate(at, at->near, false));
    say_way(w, b->near > 0 ? " + " : "", b->other, rate(at, at->near, true));
    if (b->near + b->other > 0) op_say(w, " [%s]", at->near->name);
    if (b->far > 0) {
        say_way(w, b->near + b->other > 0 ? " or, if longer, " : "", b->far,
                rate(at, at->far, true));
        op_say(w, " [%s]", at->far->name);
    }
    op_say(w, ")");
    if (spread > 1)
        op_say(w, " x (1 + %.3g x %.3g [slowest of %.0f peers])", share,
               op_expected_max(at->all - 1), at->all - 1);
}

/* On a GPU a token in bulk goes once to a node beyond the domain, and there once to each rank. */
static void send_once(struct ways *b, const struct op_shape *s, const struct peers *at,
                      double token, double copies) {
    const struct ops_gate_config *g = &s->model->gate;
    double others = copies - g->top_k, again = (parts_met(g, at->all) + others) / copies;
    double once = token * parts_met(g, at->nodes) * at->far_nodes / at->nodes;
    b->near *= again, b->other *= again, b->far *= again;
    if (once >= b->far) return;
    b->near += b->far * (1 - 1 / at->node); /* passed on in the node it came to */
    b->far = once;
}

void op_exchange(struct op_work *w, bool dispatch) {
    const struct op_shape *s = w->s;
    const struct machine_operator *o = machine_operator(w->m, dispatch ? "dispatch" : "combine");
    struct peers at = peers_of(w);
    double copies = s->model->gate.top_k + (s->shared_ranks ? 1 : 0), sent = s->tokens * copies;
    double rows = fmax(sent, op_rows_hottest(s)); /* of the busiest rank */
    double bytes = rows * message_bytes(s, dispatch);
    struct ways by = {.near = bytes * (at.node - 1) / at.all,
                      .other = bytes * at.near_other / at.all,
                      .far = bytes * at.beyond / at.all};
    double spread = 1 + (s->bulk ? 0 : o->share * op_expected_max(at.all - 1));
    if (s->bulk && w->m->cube_cores == w->m->vector_cores)
        send_once(&by, s, &at, bytes / copies, copies);
    double near_s =
        wire_s(by.near, rate(&at, at.near, false)) + wire_s(by.other, rate(&at, at.near, true));
    double far_s = wire_s(by.far, at.far ? rate(&at, at.far, true) : 0);
    w->c->network_bytes = by.near + by.other + by.far;
    w->c->network_s = fmax(near_s, far_s) * spread;
    /* Fused dispatch gathers what came only when all of it has; combine does token by token. In bulk
     * both are operators of their own. */
    w->c->hbm_bytes = s->bulk ? 0 : bytes * 2;
    w->c->serial_s = dispatch ? w->c->hbm_bytes / op_memory_bps(w) : 0;
    /* A rank alone has no flags to wait for; it puts its rows in order and back, as any kernel does
     * and no later than with flags (on GPUs a kernel's start has its gaps in it, dispatch's has not). */
    w->c->fixed_s = o->fixed_s;
    if (at.all < 2) w->c->fixed_s = fmin(o->fixed_s, machine_operator(w->m, "kernel")->fixed_s);
    if (dispatch && !s->bulk && s->activations != TYPE_BF16)
        op_on_vectors(w, "quantise", s->tokens);
    if (!(w->c->network_s > 0) || isinf(w->c->network_s)) return;
    say(w, &at, &by, o->share, spread);
    if (rows > sent) op_say(w, ", %.0f rows of the busiest rank", rows);
}

void op_collective(struct op_work *w, enum collective what) {
    const struct op_shape *s = w->s;
    uint32_t n = s->ranks ? s->ranks : 1;
    const struct machine_plane *p = s->plane ? machine_plane(w->m, s->plane) : NULL;
    if (!p) p = &w->m->planes[0];
    w->c->network_bytes = s->bytes * (n - 1) / n;
    w->c->network_s = collective_s(w->m, p, what, n, s->bytes);
    if (s->explain)
        collective_formula(w->c->formula, sizeof w->c->formula, w->m, p, what, n, s->bytes);
}

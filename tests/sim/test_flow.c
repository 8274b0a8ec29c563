/* SPDX-License-Identifier: Apache-2.0 */
/* Flows against what was measured on the real fabric, against max-min fairness written out plainly,
 * and against the closed forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/flow.h"

static struct machine machine(void) {
    struct machine m;
    struct err err;
    if (machine_open(&m, "cloudmatrix384", &err)) fail_msg("%s", err.text);
    return m;
}

static struct flow_net *network(const struct machine *m, const struct machine_plane *p) {
    struct flow_net *n;
    struct err err;
    if (flow_net_new(&n, m, p, &err)) fail_msg("%s", err.text);
    return n;
}

static struct flow_end die(uint32_t i) {
    return (struct flow_end){.index = i};
}
static struct flow_end cpu(uint32_t i) {
    return (struct flow_end){.cpu = true, .index = i};
}

static double run_all(struct flow_net *n) {
    double t = 0;
    while (!isinf(flow_next(n))) {
        t = flow_next(n);
        flow_end_next(n);
    }
    return t;
}

static void close_to(double found, double expected, double share) {
    if (!(fabs(found / expected - 1) <= share))
        fail_msg("found %g, expected %g within %g%%", found, expected, share * 100);
}

/* P2 Table 1. */
static void a_flow_alone_behaves_as_measured(void **state) {
    (void)state;
    static const struct {
        enum machine_transfer what;
        double gbs[2], us[2];
    } rows[] = {
        {TRANSFER_READ, {167, 164}, {1.2, 1.9}},
        {TRANSFER_WRITE, {137, 135}, {1.3, 2.1}},
        {TRANSFER_READ_CPU, {151, 147}, {1.0, 1.7}},
        {TRANSFER_WRITE_CPU, {110, 107}, {1.1, 1.9}},
    };
    struct machine m = machine();
    struct machine_plane bare = *machine_plane(&m, "ub");
    bare.library_start_s = 0;
    struct flow_net *n = network(&m, &bare);
    double now = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int far = 0; far < 2; far++) {
            enum machine_transfer t = rows[i].what;
            bool is_cpu = t == TRANSFER_READ_CPU || t == TRANSFER_WRITE_CPU;
            struct flow_end with = is_cpu ? cpu(far ? 77 : 3) : die(far ? 700 : 3);
            assert_true(flow_begin(n, now, t, die(1), with, 1e9) != 0);
            double s = run_all(n) - now;
            close_to(1e9 / s, rows[i].gbs[far] * 1e9, 0.01);
            now += s;
            assert_true(flow_begin(n, now, t, die(1), with, 512) != 0);
            s = run_all(n) - now;
            close_to(s, rows[i].us[far] * 1e-6, 0.01);
            now += s;
        }
    flow_net_free(n);
}

/* HIXL and Mooncake's ubshmem, between nodes (Part E of the facts): size in bytes, GB/s. */
static void sizes_reach_the_rates_that_libraries_measured(void **state) {
    (void)state;
    static const struct {
        const char *plane;
        double start_us;
        enum machine_transfer what;
        double bytes, gbs;
    } points[] = {
        {"ub", 5.6, TRANSFER_WRITE, 16 << 10, 3.0},   {"ub", 5.6, TRANSFER_WRITE, 256 << 10, 45.4},
        {"ub", 5.6, TRANSFER_WRITE, 512 << 10, 87.9}, {"ub", 5.6, TRANSFER_WRITE, 1 << 20, 120},
        {"ub", 5.6, TRANSFER_WRITE, 2 << 20, 125},    {"ub", 5.6, TRANSFER_READ, 2 << 20, 157.8},
        {"ub", 8.4, TRANSFER_WRITE, 64 << 10, 7.8},   {"ub", 8.4, TRANSFER_READ, 64 << 10, 8.3},
        {"ub", 8.4, TRANSFER_WRITE, 1 << 20, 109},    {"ub", 8.4, TRANSFER_READ, 1 << 20, 109},
        {"ub", 8.4, TRANSFER_WRITE, 12 << 20, 135.7}, {"ub", 8.4, TRANSFER_READ, 12 << 20, 164.2},
        {"rdma", 5.6, TRANSFER_READ, 2 << 20, 23.9},
    };
    struct machine m = machine();
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        struct machine_plane p = *machine_plane(&m, points[i].plane);
        p.library_start_s = points[i].start_us * 1e-6;
        double s = transfer_s(&p, points[i].what, true, points[i].bytes);
        if (getenv("VERBOSE"))
            printf("%s %4.1f us %9.0f bytes: %6.1f GB/s, measured %6.1f (%+.1f%%)\n",
                   points[i].plane, points[i].start_us, points[i].bytes, points[i].bytes / s * 1e-9,
                   points[i].gbs, (points[i].bytes / s * 1e-9 / points[i].gbs - 1) * 100);
        close_to(points[i].bytes / s * 1e-9, points[i].gbs, 0.15);
    }
}

static void flows_share_what_they_have_in_common(void **state) {
    (void)state;
    struct machine m = machine();
    struct machine_plane p = *machine_plane(&m, "ub");
    p.library_start_s = 0;
    for (int i = 0; i < MACHINE_TRANSFERS; i++)
        p.same_node[i].latency_s = p.other_node[i].latency_s = 0;
    struct flow_net *n = network(&m, &p);
    /* two write to one die: its link of 196 is shared; a third flow of one of the writers gets the rest
     * of its engine, 137 - 98 */
    uint64_t a = flow_begin(n, 0, TRANSFER_WRITE, die(1), die(0), 98e3);
    uint64_t b = flow_begin(n, 0, TRANSFER_WRITE, die(2), die(0), 98e3);
    uint64_t c = flow_begin(n, 0, TRANSFER_WRITE, die(2), die(3), 39e6);
    for (int i = 0; i < 3; i++) assert_int_equal(flow_end_next(n), 0);
    /* c: min of its engine's half, 68.5; so b gets 68.5 and a 127.5 */
    close_to(flow_next(n), 98e3 / 127.5e9, 1e-9);
    assert_int_equal(flow_end_next(n), a);
    close_to(flow_next(n), 98e3 / 68.5e9, 1e-9);
    assert_int_equal(flow_end_next(n), b);
    double left = 39e6 - 98e3;
    close_to(flow_next(n), 98e3 / 68.5e9 + left / 137e9, 1e-9);
    assert_int_equal(flow_end_next(n), c);
    close_to(flow_link_bytes(n, "die 0"), 196e3, 1e-12);
    close_to(flow_link_bytes(n, "die 2"), 98e3 + 39e6, 1e-12);
    flow_net_free(n);
}

/* --- the plain version: all rates from nothing, every time ------------------------------------- */

enum { PLAIN_MAX = 400, PLAIN_LINKS = 20000 };
struct plain_flow {
    uint64_t id;
    double cap, left, rate, start, ended, plain_end;
    uint32_t n, links[6];
    bool fixed, done;
};
struct plain {
    struct plain_flow f[PLAIN_MAX];
    uint32_t n, n_links;
    double cap[PLAIN_LINKS];
};

/* Its own numbering: kinds of 1,000. */
static uint32_t plain_link(struct plain *x, uint32_t kind, uint32_t i, double cap) {
    x->cap[kind * 1000 + i] = cap;
    return kind * 1000 + i;
}

static void plain_lay(struct plain *x, struct plain_flow *f, const struct machine_plane *p,
                      enum machine_transfer t, struct flow_end of, struct flow_end with) {
    bool reads = t == TRANSFER_READ || t == TRANSFER_READ_CPU;
    uint32_t node_of = of.index / 16, node_with = with.index / (with.cpu ? 4 : 16);
    bool far = node_of != node_with;
    f->cap = far ? p->other_node[t].rate_bps : p->same_node[t].rate_bps;
    f->links[f->n++] = plain_link(x, 0 + t, of.index, p->same_node[t].rate_bps);
    f->links[f->n++] = plain_link(x, reads ? 4 : 5, of.index, p->die_bps);
    f->links[f->n++] = plain_link(x, (reads ? 5 : 4) + (with.cpu ? 2 : 0), with.index,
                                  with.cpu ? p->cpu_bps : p->die_bps);
    if (!far) return;
    f->links[f->n++] = plain_link(x, 8 + t, of.index, p->other_node[t].rate_bps);
    f->links[f->n++] = plain_link(x, 12, reads ? node_with : node_of, p->uplink_bps);
    f->links[f->n++] = plain_link(x, 13, reads ? node_of : node_with, p->uplink_bps);
}

static void plain_rates(struct plain *x, double now) {
    static double rem[PLAIN_LINKS];
    static uint32_t open[PLAIN_LINKS];
    memcpy(rem, x->cap, sizeof rem);
    memset(open, 0, sizeof open);
    uint32_t todo = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        struct plain_flow *f = &x->f[i];
        f->rate = 0;
        f->fixed = f->done || f->start > now;
        todo += !f->fixed;
        for (uint32_t h = 0; h < f->n && !f->fixed; h++) open[f->links[h]]++;
    }
    while (todo) {
        double level = INFINITY;
        for (uint32_t i = 0; i < x->n; i++)
            for (uint32_t h = 0; h < x->f[i].n && !x->f[i].fixed; h++)
                level =
                    fmin(level, fmin(x->f[i].cap, rem[x->f[i].links[h]] / open[x->f[i].links[h]]));
        uint32_t pick[PLAIN_MAX], n_pick = 0;
        for (uint32_t i = 0; i < x->n; i++) {
            struct plain_flow *f = &x->f[i];
            bool bound = !f->fixed && f->cap <= level * (1 + 1e-12);
            for (uint32_t h = 0; h < f->n && !f->fixed; h++)
                bound |= rem[f->links[h]] / open[f->links[h]] <= level * (1 + 1e-12);
            if (bound) pick[n_pick++] = i;
        }
        for (uint32_t k = 0; k < n_pick; k++) {
            struct plain_flow *f = &x->f[pick[k]];
            f->fixed = true;
            f->rate = level;
            todo--;
            for (uint32_t h = 0; h < f->n; h++) rem[f->links[h]] -= level, open[f->links[h]]--;
        }
    }
}

/* No link is over its rate, and every flow has a bottleneck: its own bound, or a full link where
 * nobody has more. */
static void plain_is_max_min_fair(const struct plain *x, double now) {
    static double used[PLAIN_LINKS], most[PLAIN_LINKS];
    memset(used, 0, sizeof used);
    memset(most, 0, sizeof most);
    for (uint32_t i = 0; i < x->n; i++)
        for (uint32_t h = 0; h < x->f[i].n; h++) {
            used[x->f[i].links[h]] += x->f[i].rate;
            most[x->f[i].links[h]] = fmax(most[x->f[i].links[h]], x->f[i].rate);
        }
    for (uint32_t l = 0; l < PLAIN_LINKS; l++) assert_true(used[l] <= x->cap[l] * (1 + 1e-9));
    for (uint32_t i = 0; i < x->n; i++) {
        const struct plain_flow *f = &x->f[i];
        if (f->done || f->start > now) continue;
        bool held = f->rate >= f->cap * (1 - 1e-9);
        for (uint32_t h = 0; h < f->n; h++)
            held |= used[f->links[h]] >= x->cap[f->links[h]] * (1 - 1e-9) &&
                    f->rate >= most[f->links[h]] * (1 - 1e-9);
        assert_true(held);
    }
}

static uint32_t random_u32(uint64_t *seed, uint32_t below) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) % below);
}

/* Random flows, all of which the network and the plain version take; every end must agree. */
static void compare(uint64_t seed, uint32_t n_flows, uint32_t n_dies) {
    struct machine m = machine();
    struct machine_plane p = *machine_plane(&m, "ub");
    if (seed % 3 == 0) p.uplink_bps /= 8; /* so that nodes bind too */
    static struct plain x;
    memset(&x, 0, sizeof x);
    struct flow_net *net = network(&m, &p);
    for (uint32_t i = 0; i < n_flows; i++) {
        enum machine_transfer t = random_u32(&seed, 4);
        struct flow_end of = die(random_u32(&seed, n_dies)), with = die(random_u32(&seed, n_dies));
        if (with.index == of.index) with.index = (of.index + 1) % n_dies;
        if (t >= TRANSFER_READ_CPU) with = cpu(random_u32(&seed, n_dies / 4));
        double bytes = 1e5 * (1 + random_u32(&seed, 100));
        struct plain_flow *f = &x.f[x.n++];
        plain_lay(&x, f, &p, t, of, with);
        f->left = bytes;
        f->id = flow_begin(net, 0, t, of, with, bytes);
        f->start = transfer_s(&p, t, f->n > 3, bytes) - bytes / f->cap;
        assert_true(f->id > 0);
    }
    double now = 0;
    for (uint32_t ended = 0; ended < n_flows;) {
        plain_rates(&x, now);
        plain_is_max_min_fair(&x, now);
        double next = INFINITY;
        for (uint32_t i = 0; i < x.n; i++) {
            struct plain_flow *f = &x.f[i];
            if (f->start > now) next = fmin(next, f->start);
            if (!f->done && f->start <= now) next = fmin(next, now + f->left / f->rate);
        }
        for (uint32_t i = 0; i < x.n; i++) {
            struct plain_flow *f = &x.f[i];
            if (f->done || f->start > now) continue;
            f->left -= f->rate * (next - now);
            if (f->left > 1e-3) continue;
            f->done = true;
            f->plain_end = next;
            double at = 0;
            for (uint64_t id = 0; !id;) { /* bytes of others may begin before */
                at = flow_next(net);
                id = flow_end_next(net);
                assert_true(id <= x.n);
                if (id) x.f[id - 1].ended = at;
            }
            close_to(at, next, 1e-9);
            ended++;
        }
        now = next;
    }
    for (uint32_t i = 0; i < x.n; i++) close_to(x.f[i].ended, x.f[i].plain_end, 1e-9);
    assert_true(isinf(flow_next(net)));
    flow_net_free(net);
}

static void rates_are_max_min_fair_on_random_networks(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) compare(seed, 60, 32);
    for (uint64_t seed = 13; seed <= 16; seed++) compare(seed, 200, 96);
}

/* --- collectives ---------------------------------------------------------------------------------- */

static double exchange(const struct machine *m, const struct machine_plane *p, uint32_t ranks,
                       double bytes) {
    struct flow_net *n = network(m, p);
    for (uint32_t i = 0; i < ranks; i++)
        for (uint32_t j = 1; j < ranks; j++) /* each begins with its neighbour */
            assert_true(
                flow_begin(n, 0, TRANSFER_WRITE, die(i), die((i + j) % ranks), bytes / ranks) != 0);
    double s = run_all(n);
    flow_net_free(n);
    return s;
}

static void collectives_in_closed_form_are_what_the_flows_take(void **state) {
    (void)state;
    static const uint32_t ranks[] = {2, 3, 8, 15, 16, 17, 24, 32, 33, 48};
    static const double sizes[] = {1e4, 1e6, 64e6, 1e9};
    struct machine m = machine();
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (uint32_t which = 0; which < 2; which++) {
                struct machine_plane p = m.planes[which];
                close_to(collective_s(&m, &p, ALL_TO_ALL, ranks[i], sizes[k]),
                         exchange(&m, &p, ranks[i], sizes[k]), 0.10);
                p.uplink_bps = fmax(p.die_bps * 4, 1); /* a network that nodes fill */
                close_to(collective_s(&m, &p, ALL_GATHER, ranks[i], sizes[k]),
                         exchange(&m, &p, ranks[i], sizes[k]), 0.10);
            }
    const struct machine_plane *p = m.planes;
    assert_true(collective_s(&m, p, ALL_TO_ALL, 1, 1e9) == 0);
    assert_true(collective_s(&m, p, ALL_REDUCE, 32, 1e8) ==
                2 * collective_s(&m, p, REDUCE_SCATTER, 32, 1e8));
}

static void beyond_its_domain_a_collective_takes_the_other_plane(void **state) {
    (void)state;
    struct machine m;
    struct err err;
    assert_int_equal(machine_open(&m, "h800", &err), ST_OK);
    const struct machine_plane *nvlink = machine_plane(&m, "nvlink"), *ib = machine_plane(&m, "ib");
    assert_non_null(nvlink);
    close_to(collective_s(&m, nvlink, ALL_TO_ALL, 8, 1e9), 1e9 * 7 / 8 / 138e9, 0.01);
    close_to(collective_s(&m, nvlink, ALL_TO_ALL, 32, 1e9), 1e9 * 24 / 32 / 46e9, 0.01);
    /* what all of a node want comes to it once, an eighth to each, and is passed on */
    close_to(collective_s(&m, nvlink, ALL_GATHER, 32, 1e9), 1e9 * 7 / 8 / 138e9, 0.01);
    close_to(collective_s(&m, nvlink, ALL_REDUCE, 256, 1e9), 2 * 1e9 * 7 / 8 / 138e9, 0.01);
    assert_true(collective_s(&m, nvlink, ALL_GATHER, 9, 1e9) > 1e9 * 8 / 9 / 46e9);
    assert_true(collective_s(&m, ib, ALL_TO_ALL, 32, 1e9) >
                collective_s(&m, nvlink, ALL_TO_ALL, 32, 1e9));
    struct flow_net *n = network(&m, nvlink);
    assert_int_equal(flow_begin(n, 0, TRANSFER_READ, die(0), die(8), 1), 0);
    flow_net_free(n);
}

/* --- faults --------------------------------------------------------------------------------------- */

static void degraded_links_slow_flows_and_lose_no_byte(void **state) {
    (void)state;
    struct machine m = machine();
    struct machine_plane p = *machine_plane(&m, "ub");
    struct err err;
    struct flow_net *n = network(&m, &p);
    double bytes = 1e9, whole = transfer_s(&p, TRANSFER_READ, true, bytes);
    uint64_t id = flow_begin(n, 0, TRANSFER_READ, die(0), die(20), bytes);
    assert_int_equal(flow_end_next(n), 0);
    assert_int_equal(flow_degrade(n, whole / 2, "die 20", 0, &err), ST_OK);
    assert_true(isinf(flow_next(n)));
    assert_int_equal(flow_degrade(n, whole, "die 20", 0.5, &err), ST_OK);
    double left = bytes - 164e9 * (whole / 2 - (whole - bytes / 164e9));
    close_to(flow_next(n), whole + left / 98e9, 1e-6);
    assert_int_equal(flow_end_next(n), id);
    close_to(flow_link_bytes(n, "die 0"), bytes, 1e-12);
    close_to(flow_link_bytes(n, "node 1 up"), bytes, 1e-12);
    assert_true(flow_link_bytes(n, "node 1 down") == 0);
    flow_net_free(n);

    /* 16 dies read from another node: of their 16 x 164 = 2,624 six sub-planes carry 2,688, five 2,240 */
    static const struct {
        const char *link;
        double gbs;
    } steps[] = {{"node 0 sub-plane 3", 2624}, {"sub-plane 6", 2240}};
    n = network(&m, &p);
    double now = 0;
    for (int k = 0; k < 2; k++) {
        assert_int_equal(flow_degrade(n, now, steps[k].link, 0, &err), ST_OK);
        for (uint32_t i = 0; i < 16; i++)
            assert_true(flow_begin(n, now, TRANSFER_READ, die(i), die(16 + i), 1e9) != 0);
        double end = run_all(n);
        close_to((end - now), 16e9 / (steps[k].gbs * 1e9), 0.01);
        now = end;
    }
    assert_int_equal(flow_degrade(n, now, "node 48 up", 0.5, &err), ST_NOT_FOUND);
    assert_string_equal(err.text, "link node 48 up: found none of this name on ub");
    assert_int_equal(flow_degrade(n, now, "die 1x", 0.5, &err), ST_NOT_FOUND);
    assert_int_equal(flow_degrade(n, now, "die 1", 1.5, &err), ST_INVALID);
    flow_net_free(n);
}

/* 1,000 flows under way at a time on the whole machine; every end begins another. */
static double churn(uint32_t events, uint64_t seed) {
    struct machine m = machine();
    struct flow_net *n = network(&m, m.planes);
    double now = 0;
    for (uint32_t i = 0, going = 0; i < events;) {
        for (; going < 1000; going++) {
            uint32_t a = random_u32(&seed, 768), b = random_u32(&seed, 767);
            assert_true(flow_begin(n, now, random_u32(&seed, 2), die(a), die(b + (b >= a)),
                                   1e6 * (1 + random_u32(&seed, 1000))) != 0);
        }
        now = flow_next(n);
        if (flow_end_next(n)) going--, i++;
    }
    flow_net_free(n);
    return now;
}

static void the_same_flows_end_at_the_same_times(void **state) {
    (void)state;
    assert_true(churn(10000, 7) == churn(10000, 7));
    assert_true(churn(10000, 7) != churn(10000, 8));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flow_alone_behaves_as_measured),
        cmocka_unit_test(sizes_reach_the_rates_that_libraries_measured),
        cmocka_unit_test(flows_share_what_they_have_in_common),
        cmocka_unit_test(rates_are_max_min_fair_on_random_networks),
        cmocka_unit_test(collectives_in_closed_form_are_what_the_flows_take),
        cmocka_unit_test(beyond_its_domain_a_collective_takes_the_other_plane),
        cmocka_unit_test(degraded_links_slow_flows_and_lose_no_byte),
        cmocka_unit_test(the_same_flows_end_at_the_same_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

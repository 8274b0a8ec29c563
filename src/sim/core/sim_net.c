/* SPDX-License-Identifier: Apache-2.0 */
/* Implements the time of sim_bus.h, and sim_net.h. */
#include "sim/core/sim_net.h"

#include <assert.h>
#include <stdlib.h>

#include "sim/core/mix.h"

enum { SLOW_FACTOR = 100 };

enum st sim_net_new(struct sim_net **out, const struct sim_net_options *o, struct err *err) {
    assert(o->delay_ns_min <= o->delay_ns_max && o->slow_permille <= 1000);
    struct sim_net *n = calloc(1, sizeof *n);
    if (!n) return err_set(err, ST_NO_MEMORY, "simulation: out of memory");
    n->o = *o;
    n->chance = o->seed;
    *out = n;
    return ST_OK;
}

static bool earlier(const struct sim_due *a, const struct sim_due *b) {
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

void sim_net_post(struct sim_net *n, uint64_t at_ns, sim_due_fn *run, void *thing) {
    assert(at_ns >= n->now_ns);
    if (n->len == n->cap) {
        n->cap = n->cap ? 2 * n->cap : 64;
        n->heap = realloc(n->heap, n->cap * sizeof *n->heap);
        assert(n->heap);
    }
    struct sim_due d = {at_ns, n->seq++, run, thing};
    size_t i = n->len++;
    for (; i > 0 && earlier(&d, &n->heap[(i - 1) / 2]); i = (i - 1) / 2)
        n->heap[i] = n->heap[(i - 1) / 2];
    n->heap[i] = d;
}

static struct sim_due take_first(struct sim_net *n) {
    struct sim_due first = n->heap[0], last = n->heap[--n->len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n->len; i = child) {
        if (child + 1 < n->len && earlier(&n->heap[child + 1], &n->heap[child])) child++;
        if (!earlier(&n->heap[child], &last)) break;
        n->heap[i] = n->heap[child];
    }
    n->heap[i] = last;
    return first;
}

void sim_net_free(struct sim_net *n) {
    if (!n) return;
    assert(!n->buses);
    n->over = true;
    for (size_t i = 0; i < n->len; i++) n->heap[i].run(n, n->heap[i].thing);
    free(n->heap);
    free(n);
}

uint64_t sim_net_now(const struct sim_net *n) {
    return n->now_ns;
}

uint64_t sim_net_next(const struct sim_net *n) {
    return n->len ? n->heap[0].at_ns : UINT64_MAX;
}

void sim_net_advance(struct sim_net *n, uint64_t to_ns) {
    assert(to_ns >= n->now_ns);
    while (n->len && n->heap[0].at_ns <= to_ns) {
        struct sim_due d = take_first(n);
        n->now_ns = d.at_ns;
        d.run(n, d.thing);
    }
    n->now_ns = to_ns;
}

uint64_t sim_net_draw(struct sim_net *n) {
    return sim_mix_draw(&n->chance);
}

uint64_t sim_net_delay(struct sim_net *n) {
    uint64_t range = n->o.delay_ns_max - n->o.delay_ns_min;
    uint64_t ns = n->o.delay_ns_min + (range ? sim_net_draw(n) % (range + 1) : 0);
    return sim_net_draw(n) % 1000 < n->o.slow_permille ? SLOW_FACTOR * ns : ns;
}

void *sim_net_alloc(size_t bytes) {
    void *p = calloc(1, bytes);
    assert(p);
    return p;
}

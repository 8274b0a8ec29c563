/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cache.h. */
#include "sim/cache.h"

#include <assert.h>
#include <math.h>

bool cache_plane_reaches(const struct machine_plane *p) {
    return p->other_node[TRANSFER_READ_CPU].rate_bps > 0;
}

/* What one die draws from the pool while all of its node's do. A node's DRAM gives what its CPUs' links
 * give; every node of the pool is somebody's, so a node's dies have as much as one node's CPUs. Over the
 * node's own card the loads are TCP, whose work is done by CPUs: that reaches a share of the link. */
static double load_rate(const struct machine *m, const struct machine_plane *p) {
    double dies = machine_dies_per_node(m), cpus = p->cpu_bps * m->cpus_per_node;
    double rate = p->other_node[TRANSFER_READ_CPU].rate_bps;
    if (cpus > 0) rate = fmin(rate, cpus / dies);
    if (p->node_bps > 0)
        rate = fmin(rate, p->node_bps * machine_operator(m, "pool_card")->share / dies);
    return rate;
}

static struct step_prefill batch_of(const struct cache_shape *s) {
    double chips = (double)s->setup->dies / s->setup->machine->dies_per_chip,
           tokens = s->batch_tokens * chips, reuse = s->plane ? s->reuse : 0,
           prompts = tokens / s->prompt, first = s->prompt * reuse, n = s->prompt - first;
    return (struct step_prefill){.tokens = tokens - tokens * reuse,
                                 .key_pairs = prompts * (n * first + n * (n + 1) / 2),
                                 .cached = tokens * reuse,
                                 .requests = prompts};
}

enum st cache_fits(const struct cache_shape *s, struct err *err) {
    struct step_prefill p = batch_of(s);
    return step_prefill_fits(s->setup, &p, err);
}

void cache_cost(struct cache_cost *out, const struct cache_shape *s) {
    const struct step_setup *setup = s->setup;
    struct step_prefill p = batch_of(s);
    *out = (struct cache_cost){.compute_s = step_prefill_s(setup, &p, NULL)};
    if (s->plane && p.cached > 0) {
        assert(cache_plane_reaches(s->plane));
        out->load_bytes = p.cached * step_kv_token_bytes(setup);
        out->load_bps = load_rate(setup->machine, s->plane);
        out->load_s = out->load_bytes / setup->dies / out->load_bps;
    }
    out->batch_s = out->load_s + out->compute_s;
    out->tokens_per_s = s->batch_tokens / out->batch_s;
}

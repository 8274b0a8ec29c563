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

void cache_cost(struct cache_cost *out, const struct cache_shape *s) {
    const struct step_setup *setup = s->setup;
    const struct machine *m = setup->machine;
    double chips = (double)setup->dies / m->dies_per_chip, tokens = s->batch_tokens * chips,
           reuse = s->plane ? s->reuse : 0, cached = tokens * reuse, rest = tokens - cached,
           prompts = tokens / s->prompt;
    double first = s->prompt * reuse, n = s->prompt - first;
    struct step_prefill p = {.tokens = rest,
                             .key_pairs = prompts * (n * first + n * (n + 1) / 2),
                             .cached = cached,
                             .requests = prompts};
    *out = (struct cache_cost){.compute_s = step_prefill_s(setup, &p, NULL)};
    if (s->plane && cached > 0) {
        assert(cache_plane_reaches(s->plane));
        out->load_bytes = cached * step_kv_token_bytes(setup);
        out->load_bps = load_rate(m, s->plane);
        out->load_s = out->load_bytes / setup->dies / out->load_bps;
    }
    out->batch_s = out->load_s + out->compute_s;
    out->tokens_per_s = s->batch_tokens / out->batch_s;
}

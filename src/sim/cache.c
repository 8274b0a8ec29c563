/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cache.h. */
#include "sim/cache.h"

#include <math.h>

/* What one die draws from the pool while all of its node's do. */
static double load_rate(const struct machine *m, const struct machine_plane *p) {
    const struct machine_path *path = &p->other_node[TRANSFER_READ_CPU];
    double rate = path->rate_bps > 0 ? path->rate_bps : p->die_bps, dies = machine_dies_per_node(m);
    double node = p->node_bps > 0 ? p->node_bps : p->cpu_bps * m->cpus_per_node;
    if (rate <= 0 || (node > 0 && node / dies < rate)) rate = node / dies;
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
        double layers = config_layers_all(&setup->model);
        out->load_bytes = cached * step_kv_token_bytes(setup);
        out->load_s = out->load_bytes / setup->dies / load_rate(m, s->plane);
        /* the first layer's has nothing to hide behind */
        double rest_s = out->load_s * (layers - 1) / layers;
        out->batch_s = out->load_s / layers + fmax(out->compute_s, rest_s);
    } else {
        out->batch_s = out->compute_s;
    }
    out->tokens_per_s = s->batch_tokens / out->batch_s;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements stats.h. Bounds are vLLM's, so that dashboards made for it show something. */
#include "engine/stats.h"

#include <assert.h>
#include <string.h>

static const double ttft[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                              1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double per_token[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                   0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1,     2.5,
                                   5,     7.5,    10,    20,   40,    80};
static const double request[] = {0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,
                                 10,   15,   20,  30,  40,  50,  60, 120, 240, 480, 960};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double rows[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

#define BOUNDS(a)                                                                                  \
    (struct histogram) {                                                                           \
        .bounds = (a), .n = sizeof(a) / sizeof *(a)                                                \
    }

void engine_stats_init(struct engine_stats *s) {
    *s = (struct engine_stats){.ttft = BOUNDS(ttft),
                               .tpot = BOUNDS(per_token),
                               .itl = BOUNDS(per_token),
                               .e2e = BOUNDS(request),
                               .queue = BOUNDS(request),
                               .prefill = BOUNDS(request),
                               .decode = BOUNDS(request),
                               .prompt_len = BOUNDS(tokens),
                               .generation_len = BOUNDS(tokens),
                               .iteration_tokens = BOUNDS(rows)};
}

void histogram_add(struct histogram *h, double value) {
    uint32_t i = 0;
    assert(h->n <= HISTOGRAM_BUCKETS_MAX);
    while (i < h->n && value > h->bounds[i]) i++;
    h->counts[i]++;
    h->sum += value;
    h->count++;
}

void histogram_window_move(struct histogram_window *w, const struct histogram *h, uint64_t now_ns,
                           uint64_t span_ns) {
    if (now_ns - w->moved_ns < span_ns) return;
    memcpy(w->older, w->newer, sizeof w->older);
    memcpy(w->newer, h->counts, sizeof w->newer);
    w->moved_ns = now_ns;
}

double histogram_window_quantile(const struct histogram_window *w, const struct histogram *h,
                                 double q) {
    uint64_t all = 0, below = 0;
    for (uint32_t i = 0; i <= h->n; i++) all += h->counts[i] - w->older[i];
    if (all == 0) return 0;
    double rank = q * (double)all, from = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        uint64_t here = h->counts[i] - w->older[i];
        if (here > 0 && (double)(below + here) >= rank)
            return from + (h->bounds[i] - from) * (rank - (double)below) / (double)here;
        below += here;
        from = h->bounds[i];
    }
    return from;
}

void engine_stats_finished(struct engine_stats *s, uint32_t how, const struct stats_request *r) {
    s->finished[how]++;
    if (how == STATS_FINISH_ABORT || how == STATS_FINISH_ERROR || !r->first_ns) return;
    histogram_add(&s->e2e, stats_seconds(r->arrived_ns, r->now_ns));
    histogram_add(&s->decode, stats_seconds(r->first_ns, r->now_ns));
    histogram_add(&s->prompt_len, r->n_prompt);
    histogram_add(&s->generation_len, r->n_drawn);
    uint32_t each = r->n_drawn / r->n_choices;
    if (each > 1) histogram_add(&s->tpot, stats_seconds(r->first_ns, r->now_ns) / (each - 1));
}

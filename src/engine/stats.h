/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine counts, for /metrics and the simulator. Plain numbers: whoever reads them from
 * another thread reads a copy. Times are in seconds. */
#ifndef SUPERNODE_ENGINE_STATS_H
#define SUPERNODE_ENGINE_STATS_H

#include <stdbool.h>
#include <stdint.h>

enum { HISTOGRAM_BUCKETS_MAX = 24, STATS_DRAFTS_MAX = 4 };

/* counts[i]: observations <= bounds[i] and over bounds[i - 1]; counts[n]: over the last bound. */
struct histogram {
    const double *bounds; /* [n], ascending, static */
    uint32_t n;
    uint64_t counts[HISTOGRAM_BUCKETS_MAX + 1];
    double sum;
    uint64_t count;
};

void histogram_add(struct histogram *h, double value);

/* What came lately of a histogram: between one and two spans of time. Zero-initialise. */
struct histogram_window {
    uint64_t moved_ns;
    uint64_t older[HISTOGRAM_BUCKETS_MAX + 1], newer[HISTOGRAM_BUCKETS_MAX + 1]; /* counts then */
};
void histogram_window_move(struct histogram_window *w, const struct histogram *h, uint64_t now_ns,
                           uint64_t span_ns);
/* Linear inside a bucket, as Prometheus' histogram_quantile; over the last bound: that. 0: nothing
 * came. */
double histogram_window_quantile(const struct histogram_window *w, const struct histogram *h,
                                 double q);

enum {
    STATS_FINISH_STOP,
    STATS_FINISH_LENGTH,
    STATS_FINISH_ABORT,
    STATS_FINISH_ERROR,
    STATS_FINISHES
};

struct engine_stats {
    /* now */
    uint32_t running, waiting;  /* sequences (choices) */
    uint32_t reserved;          /* of them neither: their rows come from elsewhere */
    uint32_t pages, pages_used; /* used: held by sequences; the rest is free or cached */
    uint32_t pages_cached;      /* free, but with blocks that may be found again */
    uint32_t seqs_max;          /* the batch limit that SLO control has set at present */
    double step_s; /* moving average of a decode step, chunk pieces between included: TPOT */
    /* since the start */
    uint64_t prefix_queries, prefix_hits; /* prompt tokens looked up, found */
    uint64_t prompt_tokens, prompt_tokens_computed, generation_tokens;
    uint64_t preemptions;
    uint64_t steps, chunks;
    double step_busy_s, chunk_busy_s; /* spent in them */
    uint64_t spec_drafts;             /* times that drafts were verified */
    uint64_t spec_draft_tokens, spec_accepted;
    uint64_t spec_accepted_at[STATS_DRAFTS_MAX];
    uint64_t
        finished[STATS_FINISHES]; /* requests; stop: stop strings too; abort: the client left */
    struct histogram ttft, tpot, itl, e2e, queue, prefill, decode; /* a request each, itl a token */
    struct histogram prompt_len, generation_len;                   /* tokens, a request each */
    struct histogram iteration_tokens;                             /* rows of a step */
};

void engine_stats_init(struct engine_stats *s);

static inline double stats_seconds(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

/* A request that ended: how is a STATS_FINISH_...; first_ns 0: it never had a token. */
struct stats_request {
    uint64_t arrived_ns, first_ns, now_ns;
    uint32_t n_prompt, n_drawn, n_choices; /* n_drawn: tokens of all choices */
};
void engine_stats_finished(struct engine_stats *s, uint32_t how, const struct stats_request *r);

#endif

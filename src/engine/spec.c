/* SPDX-License-Identifier: Apache-2.0 */
/* Implements spec.h. The first trial waits until a batch size has run for a while (the first steps
 * of a process are slow, and would make drafting look good). A trial lasts PROBE_STEPS, or
 * PROBE_STEPS_MIN where it is plainly worse, and comes every period, which begins at PERIOD_MIN,
 * grows fourfold up to PERIOD_MAX while the same way wins, and begins anew when the other does: a
 * wrong choice is soon mended, and trials take under 1% of the time. */
#include "engine/spec.h"

enum { PROBE_STEPS = 8, PROBE_STEPS_MIN = 2, WARM_STEPS = 64, PERIOD_MIN = 64, PERIOD_MAX = 4096 };
static const double gain_min = 0.98, hopeless = 1.25, weight = 0.2, outlier = 3;

void spec_init(struct spec *s, enum speculate mode) {
    *s = (struct spec){.mode = mode};
    for (uint32_t i = 0; i < SPEC_SIZES; i++)
        s->sizes[i] = (struct spec_size){.until_probe = WARM_STEPS, .period = PERIOD_MIN};
}

static struct spec_size *size_of(struct spec *s, uint32_t n_seqs) {
    uint32_t i = 0;
    while (i + 1 < SPEC_SIZES && 1u << i < n_seqs) i++;
    return &s->sizes[i];
}

/* The trial is over: the faster way is taken, if enough was seen of the other. Drafting must win by
 * more than noise. */
static void decide(struct spec_size *z) {
    bool judged = z->samples[!z->drafting] >= PROBE_STEPS_MIN,
         drafts_win = judged ? z->ns_per_token[1] < gain_min * z->ns_per_token[0] : z->drafting;
    if (judged) z->period = drafts_win == z->drafting ? z->period * 4 : PERIOD_MIN;
    if (z->period > PERIOD_MAX) z->period = PERIOD_MAX;
    z->drafting = drafts_win;
    z->probe_left = 0;
    z->until_probe = z->period;
}

bool spec_wanted(struct spec *s, uint32_t n_seqs) {
    if (s->mode != SPECULATE_AUTO) return s->mode == SPECULATE_ON;
    struct spec_size *z = size_of(s, n_seqs);
    if (z->probe_left > 0) {
        if (--z->probe_left == 0) decide(z);
    } else if (--z->until_probe == 0) {
        z->probe_left = 2 * PROBE_STEPS; /* not all of them can be measured */
        z->samples[!z->drafting] = 0;
    }
    return z->drafting != (z->probe_left > 0);
}

static void average(struct spec_size *z, bool drafting, double ns) {
    double *a = &z->ns_per_token[drafting];
    uint32_t n = z->samples[drafting]++;
    /* a fresh trial is not held to what was true long ago */
    if (n == 0) *a = ns;
    /* another process had the core */
    if (n > 1 && ns > outlier * *a) ns = outlier * *a;
    *a += weight * (ns - *a);
}

void spec_measured(struct spec *s, uint32_t n_seqs, bool drafting, uint64_t ns, uint32_t n_tokens) {
    struct spec_size *z = size_of(s, n_seqs);
    if (s->mode != SPECULATE_AUTO || n_tokens == 0) return;
    average(z, drafting, (double)ns / n_tokens);
    if (z->probe_left == 0 || drafting == z->drafting) return;
    uint32_t n = z->samples[drafting];
    bool lost = z->ns_per_token[drafting] > hopeless * z->ns_per_token[z->drafting];
    if (n >= PROBE_STEPS || (n >= PROBE_STEPS_MIN && lost)) decide(z);
}

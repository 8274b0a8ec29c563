/* SPDX-License-Identifier: Apache-2.0 */
/* What HTTP, text and the client cost, from requests with nobody beside them and from those sent at once:
 * lines through medians, as threads wait for cores now and then. */
#include <math.h>
#include <stdlib.h>

#include "base/percentile.h"
#include "sim/calibration.h"

enum { MADE, CONNECT, BURST, READ, TEXT, FIRST, LATER, FRONT_PARTS };
enum { UNDISTURBED = 10 /* one in so many has what it needs at once */ };

struct prompt {
    double tokens, s;
};

struct prompts {
    size_t n;
    struct prompt *v;
};

static int by_tokens(const void *a, const void *b) {
    return percentile_compare(&((const struct prompt *)a)->tokens,
                              &((const struct prompt *)b)->tokens);
}

static int by_s(const void *a, const void *b) {
    return percentile_compare(&((const struct prompt *)a)->s, &((const struct prompt *)b)->s);
}

static double median_s(struct prompt *v, size_t n) {
    qsort(v, n, sizeof *v, by_s);
    return v[n / 2].s;
}

/* A fixed part and a part a token, neither below 0, through the medians of the shortest and the longest
 * third (Tukey's resistant line): the part a token is small beside what threads wait now and then. */
static void line(double *fixed, double *each, struct prompts *p) {
    size_t third = (p->n + 2) / 3;
    struct prompt *longest = p->v + p->n - third;
    *fixed = *each = 0;
    if (p->n == 0) return;
    qsort(p->v, p->n, sizeof *p->v, by_tokens);
    double tokens = longest[third / 2].tokens - p->v[third / 2].tokens,
           s = median_s(longest, third) - median_s(p->v, third);
    if (tokens > 0 && s > 0) *each = s / tokens;
    for (size_t i = 0; i < p->n; i++) p->v[i].s -= *each * p->v[i].tokens;
    *fixed = fmax(0, median_s(p->v, p->n));
}

static void sample(struct prompts *p, uint32_t tokens, double seconds) {
    if (seconds > 0) p->v[p->n++] = (struct prompt){tokens, seconds};
}

/* From when a lone request was taken to its first token, less what was computed for it: pieces of a
 * chunk, and a last tail that rides in a step. i: where to look, then the works behind. */
static double beside(const struct record_file *f, uint64_t *i, uint64_t taken_ns,
                     uint64_t first_ns) {
    while (*i < f->n && (f->v[*i].begin_ns < taken_ns || f->v[*i].kind != RECORD_PIECE)) ++*i;
    if (*i == f->n) return 0;
    uint64_t from = f->v[*i].begin_ns, to = from;
    for (; *i < f->n && f->v[*i].kind == RECORD_PIECE; ++*i) to = f->v[*i].end_ns;
    if (*i < f->n && f->v[*i].tails > 0) to = f->v[*i].end_ns;
    return record_between(taken_ns, first_ns) - record_between(from, to);
}

/* From the end of the step that made a lone request's last token to when that came. 0: none did. i: not
 * behind that step, then the works behind it. */
static double told_late(const struct record_file *f, uint64_t *i, uint64_t last_ns) {
    while (*i < f->n && f->v[*i].end_ns <= last_ns) ++*i;
    const struct record_work *w = *i > 0 ? &f->v[*i - 1] : NULL;
    return w && w->kind == RECORD_STEP ? record_between(w->end_ns, last_ns) : 0;
}

static void fit_client(struct calibration *c, const struct calibration_seen *seen,
                       struct prompts *parts) {
    for (uint32_t k = 0; k < seen->n_made; k++)
        if (!seen->made[k].connected) sample(&parts[MADE], seen->made[k].n_prompt, seen->made[k].s);
    line(&c->front.made_s, &c->front.made_token_s, &parts[MADE]);
    for (uint32_t k = 0; k < seen->n_made; k++)
        if (seen->made[k].connected)
            sample(&parts[CONNECT], 0,
                   seen->made[k].s - c->front.made_s -
                       seen->made[k].n_prompt * c->front.made_token_s);
    c->front.connect_s = parts[CONNECT].n ? median_s(parts[CONNECT].v, parts[CONNECT].n) : 0;
}

/* Where many were sent at once they are there one after the other, most with a wait between. */
static void fit_reading(struct calibration *c, const struct record_file *f,
                        const struct calibration_seen *seen, struct prompts *gaps) {
    uint64_t r = 0;
    for (uint32_t k = 0; k < seen->n_bursts; k++) {
        while (r < f->n_requests && f->requests[r].arrived_ns < seen->bursts[k].sent_ns) r++;
        for (uint32_t i = 1; i < seen->bursts[k].n && r + 1 < f->n_requests; i++, r++)
            sample(gaps, 0,
                   record_between(f->requests[r].arrived_ns, f->requests[r + 1].arrived_ns));
    }
    qsort(gaps->v, gaps->n, sizeof *gaps->v, by_s);
    c->front.read_s = gaps->n ? gaps->v[gaps->n / UNDISTURBED].s : 0;
}

static void fit_parts(struct calibration *c, const struct record_file *f,
                      const struct calibration_seen *seen, struct prompts *parts) {
    uint64_t i = 0, r = 0;
    double until_read_s;
    fit_client(c, seen, parts);
    fit_reading(c, f, seen, &parts[BURST]);
    for (uint32_t k = 0; k < seen->n_alone; k++) {
        const struct calibration_alone *a = &seen->alone[k];
        while (r < f->n_requests && f->requests[r].arrived_ns < a->due_ns) r++;
        if (r == f->n_requests) break;
        const struct record_request *q = &f->requests[r];
        sample(&parts[READ], q->n_prompt, record_between(a->due_ns, q->arrived_ns));
        sample(&parts[TEXT], q->n_prompt, record_between(q->arrived_ns, q->taken_ns));
        sample(&parts[FIRST], q->n_prompt, beside(f, &i, q->taken_ns, a->first_ns));
        if (a->last_ns > a->first_ns)
            sample(&parts[LATER], q->n_prompt, told_late(f, &i, a->last_ns));
    }
    line(&until_read_s, &c->front.read_token_s, &parts[READ]);
    c->front.front_wake_s = fmax(0, until_read_s - c->front.made_s - c->front.read_s);
    c->front.read_token_s = fmax(0, c->front.read_token_s - c->front.made_token_s);
    line(&c->front.wake_s, &c->front.text_token_s, &parts[TEXT]);
    c->front.first_token_s = parts[FIRST].n ? median_s(parts[FIRST].v, parts[FIRST].n) : 0;
    c->front.token_s = parts[LATER].n ? median_s(parts[LATER].v, parts[LATER].n) : 0;
}

enum st calibration_front(struct calibration *c, const struct record_file *f,
                          const struct calibration_seen *seen, const char *name, struct err *err) {
    struct prompts parts[FRONT_PARTS] = {{0}};
    bool there = true;
    for (int p = 0; p < FRONT_PARTS; p++) {
        size_t n = p >= READ ? seen->n_alone : p == BURST ? f->n_requests : seen->n_made;
        parts[p].v = calloc(n + 1, sizeof *parts[p].v);
        there = there && parts[p].v;
    }
    if (there) fit_parts(c, f, seen, parts);
    for (int p = 0; p < FRONT_PARTS; p++) free(parts[p].v);
    return there ? ST_OK : err_set(err, ST_NO_MEMORY, "%s: out of memory", name);
}

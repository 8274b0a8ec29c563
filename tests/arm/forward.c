/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass over a golden case, without any third-party library: `forward CASE.flat OUT`
 * checks the logits against the oracle's, and on every kernel table of this machine that chunks,
 * threads and a second sequence in the step change no bit, and writes the bits.
 * tests/e2e/test_arm.py runs it natively and under qemu-aarch64 and compares the files. Speaks TAP.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flat.h"
#include "model/model.h"
#include "model/step.h"

enum { ROWS_MAX = 256, SEQS = 2 };
static const double tolerance = 1e-4; /* of the largest logit */

enum roles { ROLES_PROMPT, ROLES_MIXED, N_ROLES };

struct machine {
    struct flat *f;
    struct model *m;
    struct team *team;
    struct kv kv;
    struct step *step;
    uint32_t *pages[SEQS];
    uint32_t n_pages; /* of one sequence */
};

/* [n, vocab] of all positions, and of the guesses from position 1 on. */
struct answer {
    float *logits, *drafts;
    size_t values;
};

static int n_tests, n_failed;

static void report(int ok, const char *isa, const char *what, double off) {
    n_failed += !ok;
    printf("%sok %d - %s: %s", ok ? "" : "not ", ++n_tests, isa, what);
    printf(off >= 0 ? " (%.1e of the largest)\n" : "\n", off);
}

static void *need(void *p) {
    if (p) return p;
    fprintf(stderr, "out of memory\n");
    exit(1);
}

static void must(enum st st, const struct err *err) {
    if (!st) return;
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static void machine_open(struct machine *x, struct flat *f, const struct ops_kernels *k,
                         enum ops_dtype kv, uint32_t threads) {
    struct err err;
    struct weight_source source = weight_table_source(&f->weights);
    struct step_limits limits = {.rows_max = ROWS_MAX, .logits_max = ROWS_MAX};
    *x = (struct machine){.f = f, .n_pages = f->ids.cols / KV_PAGE_TOKENS + 1};
    must(model_new(&x->m, &f->config, &source, k, &err), &err);
    must(team_new(&x->team, threads, &err), &err);
    must(kv_init(&x->kv, &f->config, kv, x->n_pages * SEQS, NULL, &err), &err);
    must(step_new(&x->step, x->m, &x->kv, x->team, limits, &err), &err);
    for (uint32_t s = 0; s < SEQS; s++) {
        x->pages[s] = need(malloc(x->n_pages * sizeof(uint32_t)));
        for (uint32_t p = 0; p < x->n_pages; p++) x->pages[s][p] = p * SEQS + (p + s) % SEQS;
    }
}

static void machine_close(struct machine *x) {
    for (uint32_t s = 0; s < SEQS; s++) free(x->pages[s]);
    step_free(x->step);
    kv_release(&x->kv);
    team_free(x->team);
    model_free(x->m);
}

static enum token_role role_of(enum roles roles, uint32_t pos) {
    return roles == ROLES_MIXED && pos / 5 % 3 == 1 ? ROLE_GENERATED : ROLE_PROMPT;
}

/* Runs all ids in chunks whose sizes go round a list; with two sequences the second is the first
 * once more, one chunk behind. */
static void run(struct answer *a, struct machine *x, enum roles roles, const uint32_t *chunks,
                uint32_t n_chunks, uint32_t n_seqs) {
    const struct model_config *c = &x->f->config;
    const int32_t *ids = x->f->ids.data;
    uint32_t n = x->f->ids.cols, done[SEQS] = {0}, turn = 0;
    float *before[SEQS];
    for (uint32_t s = 0; s < SEQS; s++) before[s] = need(calloc(c->hidden, sizeof(float)));
    while (done[n_seqs - 1] < n) {
        struct step_row rows[ROWS_MAX];
        struct step_seq seqs[SEQS];
        uint32_t n_rows = 0, take[SEQS] = {0};
        for (uint32_t s = 0; s < n_seqs; s++) {
            uint32_t chunk = chunks[(turn + s) % n_chunks], left = n - done[s];
            take[s] = s == 1 && turn == 0 ? 0 : chunk < left ? chunk : left;
            if (take[s] > ROWS_MAX - n_rows) take[s] = ROWS_MAX - n_rows;
            seqs[s] = (struct step_seq){
                .pages = x->pages[s], .n_pages = x->n_pages, .hidden_before = before[s]};
            for (uint32_t i = 0; i < take[s]; i++, n_rows++)
                rows[n_rows] = (struct step_row){.token = (uint32_t)ids[done[s] + i],
                                                 .pos = done[s] + i,
                                                 .seq = s,
                                                 .role = role_of(roles, done[s] + i),
                                                 .logits = true,
                                                 .draft = true};
        }
        struct step_input in = {.rows = rows, .n_rows = n_rows, .seqs = seqs, .n_seqs = n_seqs};
        step_begin(x->step, &in);
        model_step(&x->step, 1);
        for (uint32_t r = 0; r < n_rows; r++) {
            uint32_t pos = rows[r].pos;
            memcpy(before[rows[r].seq], step_hidden(x->step, r), c->hidden * sizeof(float));
            if (rows[r].seq != n_seqs - 1) continue;
            memcpy(a->logits + (size_t)pos * c->vocab, step_logits(x->step, r),
                   c->vocab * sizeof(float));
            if (c->n_mtp && pos > 0)
                memcpy(a->drafts + (size_t)(pos - 1) * c->vocab, step_draft_logits(x->step, r),
                       c->vocab * sizeof(float));
        }
        for (uint32_t s = 0; s < n_seqs; s++) done[s] += take[s];
        turn++;
    }
    for (uint32_t s = 0; s < SEQS; s++) free(before[s]);
}

static struct answer answer_new(const struct flat *f) {
    size_t values = (size_t)f->ids.cols * f->config.vocab;
    return (struct answer){.values = values,
                           .logits = need(calloc(values, sizeof(float))),
                           .drafts = need(calloc(values, sizeof(float)))};
}

static void answer_free(struct answer *a) {
    free(a->logits);
    free(a->drafts);
}

static bool same(const struct answer *a, const struct answer *b) {
    return memcmp(a->logits, b->logits, a->values * sizeof(float)) == 0 &&
           memcmp(a->drafts, b->drafts, a->values * sizeof(float)) == 0;
}

/* Largest difference as a share of the largest expected value; a NaN counts as 1. */
static double distance(const float *got, const struct flat_expect *want) {
    const float *w = want->data;
    double largest = 0, off = 0;
    for (size_t i = 0; i < (size_t)want->rows * want->cols; i++) {
        double d = fabs((double)got[i] - w[i]);
        largest = fabs(w[i]) > largest ? fabs(w[i]) : largest;
        off = !(d <= off) ? (isnan(d) ? INFINITY : d) : off;
    }
    return isfinite(off) ? off / largest : 1;
}

static void compare_with_oracle(const struct flat *f, const struct answer *a, const char *isa,
                                const char *what) {
    double off = distance(a->logits, &f->logits);
    if (f->mtp_logits.data) {
        double drafts = distance(a->drafts, &f->mtp_logits);
        if (!(drafts <= off)) off = drafts;
    }
    report(off <= tolerance, isa, what, off);
}

static const uint32_t whole[] = {128}, odd[] = {1, 7, 33, 2, 19, 64};

/* The first table answers in whole chunks on one thread: compared with the oracle, and written.
 * Then every table, the first too, must give the same bits in odd chunks, on two threads, as the
 * second of two sequences. */
static void check_table(struct flat *f, const struct ops_kernels *k, struct answer *first,
                        FILE *out) {
    static const char *const names[N_ROLES][2] = {{"prompt, KV f32", "prompt, KV bf16"},
                                                  {"mixed roles, KV f32", "mixed roles, KV bf16"}};
    for (int kv = 0; kv < 2; kv++) {
        struct machine one, two;
        machine_open(&one, f, k, kv ? OPS_BF16 : OPS_F32, 1);
        machine_open(&two, f, k, kv ? OPS_BF16 : OPS_F32, 2);
        for (enum roles roles = 0; roles < N_ROLES; roles++) {
            struct answer other = answer_new(f), *kept = &first[roles * 2 + kv];
            char what[128];
            if (!kept->logits) {
                *kept = answer_new(f);
                run(kept, &one, roles, whole, 1, 1);
                if (!kv) compare_with_oracle(f, kept, k->isa, names[roles][kv]);
                fwrite(kept->logits, sizeof(float), kept->values, out);
                fwrite(kept->drafts, sizeof(float), kept->values, out);
            }
            run(&other, &two, roles, odd, sizeof odd / sizeof *odd, 2);
            snprintf(what, sizeof what,
                     "%s: the same bits in odd chunks, on two threads, beside another sequence",
                     names[roles][kv]);
            report(same(kept, &other), k->isa, what, -1);
            answer_free(&other);
        }
        machine_close(&one);
        machine_close(&two);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: forward CASE.flat OUT\n");
        return 2;
    }
    struct flat *f = need(malloc(sizeof *f));
    struct err err;
    const struct ops_kernels *tables[OPS_TABLES_MAX];
    uint32_t n_tables = ops_kernels_all(tables);
    struct answer first[N_ROLES * 2] = {0};
    must(flat_open(f, argv[1], &err), &err);
    FILE *out = fopen(argv[2], "wb");
    if (!out) return 1;
    for (uint32_t i = 0; i < n_tables; i++) check_table(f, tables[i], first, out);
    printf("1..%d\n", n_tests);
    for (int i = 0; i < N_ROLES * 2; i++) answer_free(&first[i]);
    flat_close(f);
    free(f);
    return fclose(out) != 0 || n_failed != 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One server in virtual time: the fit of its table to made-up samples, the table as a file, and
 * queues whose times are known. */
#include "sim/solo.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "described.h"

/* A step takes 10 ms, a chunk 1 ms a row; nothing else takes time. */
static struct calibration plain(void) {
    struct calibration c = {.model = "m",
                            .cpu = "c",
                            .threads = 1,
                            .engine = {.max_num_seqs = 8,
                                       .max_num_batched_tokens = 1024,
                                       .speculate = SPECULATE_OFF,
                                       .draft_tokens = 1},
                            .n_pages = 200,
                            .n_slots = 8,
                            .max_model_len = 2048,
                            .vocab = 1000,
                            .rows_max = 64};
    c.step.n_knots = 1;
    c.step.sequences[0] = 1;
    c.step.s[0] = 0.01;
    c.step.evicting_s = c.step.warming_s = 1e-6;
    c.chunk.row_s = 0.001;
    return c;
}

static struct run_report serve_again(const struct calibration *k, const char *load, uint64_t seed,
                                     const struct record_file *replay) {
    struct solo *s;
    struct run_report o;
    struct err err;
    char text[1024];
    snprintf(text, sizeof text, "server: x.json\nseed: %u\nload: {%s}\n", (unsigned)seed, load);
    struct run_config *c = described(text);
    must(solo_new(&s, c, k, replay, &err), &err);
    for (double at = 1; solo_until(s, at) && at < 7200; at++) continue;
    must(solo_report(s, &o, &err), &err);
    solo_free(s);
    free(c);
    assert_int_equal(o.wrong_tokens + o.wrong_pages + o.lost_requests + o.leaked_pages, 0);
    assert_int_equal(o.finished, o.requests);
    return o;
}

static struct run_report serve(const struct calibration *k, const char *load, uint64_t seed) {
    return serve_again(k, load, seed, NULL);
}

struct row {
    int ms, in, out;
};

static struct run_report serve_rows(const struct calibration *k, const struct row *v, int n) {
    char path[] = "/tmp/trace-XXXXXX", load[256];
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"timestamp\": %d, \"input_length\": %d, \"output_length\": %d}\n", v[i].ms,
                v[i].in, v[i].out);
    fclose(f);
    snprintf(load, sizeof load, "trace: %s, requests: %d", path, n);
    struct run_report o = serve(k, load, 1);
    unlink(path);
    return o;
}

static void near(double found, double expected) {
    if (fabs(found - expected) > 1e-4) fail_msg("found %g, expected %g", found, expected);
}

static void requests_one_after_the_other_take_what_the_table_says(void **state) {
    (void)state;
    struct calibration k = plain();
    /* 100 rows, then 5 steps; the last token ends it */
    struct run_report o = serve(
        &k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4", 1);
    near(o.ttft_s.max, 0.1);
    near(o.tpot_s.max, 0.01);
    near(o.last_end_s - o.first_arrival_s, 4 * 0.15);
    /* the steps behind the prompt take more, the longer that took: the first, half as much the next */
    k.step.evicted_s = 0.02;
    k.step.evicted_sequence_s = 0.01;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s,
         4 * (0.15 + 0.03 * (1 + 1. / 2 + 1. / 3 + 1. / 4 + 1. / 5)));
    k.step.evicting_s = 0.1;
    double evicted = 0, took_s = 4 * 0.15;
    for (int i = 0; i < 4; i++) {
        evicted = 1 - (1 - evicted) * exp(-1);
        for (int step = 0; step < 5; step++, evicted /= 1 + evicted) took_s += 0.03 * evicted;
    }
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s, took_s);
    k.step.evicted_s = k.step.evicted_sequence_s = 0;
    /* the four behind another wait for what is sent */
    k.step.sent_s = 0.002;
    k.step.sent_sequence_s = 0.001;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s, 4 * (0.15 + 4 * 0.003));
    k.step.sent_s = k.step.sent_sequence_s = 0;
    /* caches become warm while it computes, and cold where it rested */
    k.step.cold_s = 0.05;
    k.step.warming_s = 0.1;
    double worked_s = 0;
    for (int i = 0; i < 4 * 6; i++) worked_s += i % 6 ? 0.01 + 0.05 * exp(-worked_s / 0.1) : 0.1;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s, worked_s);
    k.front.token_s = 0.1;
    worked_s = 0;
    for (int i = 0; i < 6; i++) worked_s += i % 6 ? 0.01 + 0.05 * exp(-worked_s / 0.1) : 0.1;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s, 4 * (0.1 + worked_s));
    k.front.token_s = k.step.cold_s = 0;
    /* the first makes a connection, which is kept */
    k.front.connect_s = 0.5;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.last_end_s - o.first_arrival_s, 4 * 0.15 + 0.5);
    k.front.connect_s = 0;
    /* a client has the first token later than the others */
    k.front.first_token_s = 0.015;
    k.front.token_s = 0.005;
    k.front.front_wake_s = 0.002;
    k.front.read_s = 0.003;
    k.front.made_s = 0.003;
    k.front.made_token_s = k.front.read_token_s = k.front.text_token_s = 0.0001;
    o = serve(&k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4",
              1);
    near(o.ttft_s.p50, 0.1 + 0.02 + 0.003 + 3 * 100 * 0.0001);
    near(o.tpot_s.p50, (0.05 - 0.01) / 5);
}

/* It has served before: it does not begin by finding out. */
static void a_server_knows_whether_drafts_pay(void **state) {
    (void)state;
    struct calibration k = plain();
    k.engine.speculate = SPECULATE_AUTO;
    k.drafts = true;
    k.acceptance = 0.6;
    k.step.draft_s = 0.009;
    const char *load =
        "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 101, requests: 4";
    struct run_report o = serve(&k, load, 1);
    near(o.tpot_s.mean, 0.01);
    k.step.draft_s = 0.001;
    o = serve(&k, load, 1);
    assert_true(fabs(o.tpot_s.mean / (0.011 / 1.6) - 1) < 0.1);
}

/* A chunk gets on only in its pieces: 100 rows are 0.1 s of computing, and a stream that runs beside
 * them has a step of 10 ms behind each piece of 4 ms. */
static void a_prompt_waits_for_the_steps_between_its_pieces(void **state) {
    (void)state;
    struct calibration k = plain();
    struct run_report o = serve_rows(&k, (struct row[]){{0, 100, 60}, {10, 100, 60}}, 2);
    /* the first 100 ms are the first one's alone; then 25 pieces with a step between two */
    if (fabs(o.ttft_s.max - (0.1 - 0.01 + 0.1 + 24 * 0.01)) > 0.015)
        fail_msg("found %g", o.ttft_s.max);
    /* each piece but the first loses 2 of its 4 ms: 50 pieces */
    k.chunk.resume_share = 0.2;
    o = serve_rows(&k, (struct row[]){{0, 100, 60}, {10, 100, 60}}, 2);
    if (fabs(o.ttft_s.max - (0.1 - 0.01 + 0.1 + 49 * 0.002 + 49 * 0.01)) > 0.03)
        fail_msg("found %g", o.ttft_s.max);
    /* each ends 4 ms late in the second half of its chunk: there are 13 and 6 or 7 */
    k.chunk.resume_share = 0;
    k.chunk.over_root_row_s = 0.0004;
    for (int i = CALIBRATION_PARTS / 2; i < CALIBRATION_PARTS; i++) k.chunk.over_parts[i] = 1;
    o = serve_rows(&k, (struct row[]){{0, 100, 60}, {10, 100, 60}}, 2);
    if (fabs(o.ttft_s.max - (0.1 - 0.01 + 0.1 + 18 * 0.01)) > 0.015)
        fail_msg("found %g", o.ttft_s.max);
    /* all of a piece and more is lost: half of it is not, for as long as the stream lasts */
    k.chunk.over_root_row_s = 0;
    k.chunk.resume_share = 10;
    o = serve_rows(&k, (struct row[]){{0, 100, 60}, {10, 100, 60}}, 2);
    if (fabs(o.ttft_s.max - (0.1 - 0.01 + 0.1 + 49 * 0.002 + 49 * 0.01)) > 0.03)
        fail_msg("found %g", o.ttft_s.max);
}

static void an_engine_that_rests_takes_all_that_came_until_it_woke(void **state) {
    (void)state;
    struct calibration k = plain();
    /* each is text for 3 ms, so the engine is told before the third begins; that is a chunk of its own, or,
     * where the engine wakes up late, all are one */
    k.front.text_token_s = 0.00003;
    struct row v[] = {{0, 100, 1}, {0, 100, 1}, {0, 100, 1}};
    struct run_report o = serve_rows(&k, v, 3);
    near(o.ttft_s.p50, 0.006 + 0.2);
    near(o.ttft_s.max, 0.006 + 0.2 + 0.1);
    k.front.text_token_s = 0.000009; /* 0.9 ms each: it is told of all three at once */
    near(serve_rows(&k, v, 3).ttft_s.p50, 0.0027 + 0.3);
    k.front.text_token_s = 0.00003;
    k.front.wake_s = 0.004;
    o = serve_rows(&k, v, 3);
    near(o.ttft_s.p50, 0.006 + 0.004 + 0.3);
    near(o.ttft_s.max, 0.006 + 0.004 + 0.3);
    /* it is told before a long body becomes text */
    k.front.wake_s = 0;
    k.max_model_len = 8192;
    k.chunk.row_s = 0.00001;
    v[1].in = 4000;
    o = serve_rows(&k, v, 2);
    near(o.ttft_s.max, 0.123 + 0.04);
    near(o.ttft_s.p50, (0.003 + 0.001 + o.ttft_s.max) / 2);
}

static void a_burst_is_sent_when_all_its_connections_are_made(void **state) {
    (void)state;
    struct calibration k = plain();
    k.front.made_s = 0.003;
    k.front.connect_s = 0.02;
    k.engine.max_num_batched_tokens = 100; /* a chunk each, in their order */
    k.rows_max = 100;
    near(serve_rows(&k, (struct row[]){{0, 100, 1}, {0, 100, 1}}, 2).ttft_s.p50,
         2 * (0.003 + 0.02) + 0.15);
    /* used again, for the first two of three, while idle for less than two seconds */
    struct row later[] = {{0, 100, 1}, {0, 100, 1}, {0, 100, 1}, {0, 100, 1}, {0, 100, 1}};
    for (int i = 2; i < 5; i++) later[i].ms = 2000;
    near(serve_rows(&k, later, 5).ttft_s.max, 3 * 0.003 + 0.02 + 0.3);
    for (int i = 2; i < 5; i++) later[i].ms = 2300;
    near(serve_rows(&k, later, 5).ttft_s.max, 3 * (0.003 + 0.02) + 0.3);
    /* what comes while a batch is made is the next one's, also while the engine computes */
    k.front.connect_s = 0;
    k.front.made_s = 0.06;
    struct row batches[] = {{0, 100, 1}, {150, 100, 1}, {160, 100, 1}};
    near(serve_rows(&k, batches, 3).ttft_s.max, 0.41 - 0.16);
    batches[1].ms = 10, batches[2].ms = 70;
    near(serve_rows(&k, batches, 3).ttft_s.max, 0.36 - 0.07);
}

static void long_prompts_are_read_in_rounds_and_short_ones_pass_them(void **state) {
    (void)state;
    struct calibration k = plain();
    struct row v[] = {{0, 64, 1},   {0, 64, 1}, {0, 64, 1}, {0, 64, 1},
                      {0, 2000, 1}, {0, 64, 1}, {0, 64, 1}, {0, 64, 1}};
    /* READ_BYTES / 5 bytes an id: a buffer is 819 tokens */
    k.front.read_token_s = 0.001;
    k.chunk.row_s = 0.0005;
    for (int i = 4; i < 8; i++) v[i].ms = 1200;
    /* the long one's first buffer and the three short ones, its second, and they go on; its third */
    near(serve_rows(&k, v, 8).ttft_s.max, 2 * 0.819 + 3 * 0.064 + 0.362 + 1);
    for (int i = 4; i < 8; i++) v[i].ms = 4000;
    /* connections are made anew: its first, its second and the others, its third, and all are one */
    near(serve_rows(&k, v, 8).ttft_s.max, 2 * 0.819 + 3 * 0.064 + 0.362 + 1 + 3 * 64 * 0.0005);
}

static void a_front_that_rests_wakes_up_and_reads_one_request_after_the_other(void **state) {
    (void)state;
    struct calibration k = plain();
    struct row v[] = {{0, 100, 1}, {0, 100, 1}, {1500, 100, 1}, {1500, 100, 1}};
    k.front.front_wake_s = 0.02;
    k.front.read_s = 0.04;
    k.chunk.row_s = 0.0001;
    /* whether it accepts them or not; they are told together */
    struct run_report o = serve_rows(&k, v, 4);
    near(o.ttft_s.max, 0.02 + 2 * 0.04 + 2 * 0.01);
    near(o.ttft_s.p50, o.ttft_s.max);
    /* one that accepts only the second's rests, and finds both */
    struct row more[] = {{0, 100, 1}, {1500, 100, 1}, {1500, 100, 1}};
    k.front.read_s = 0.004;
    near(serve_rows(&k, more, 3).ttft_s.max, 0.02 + 2 * 0.004 + 0.02);
}

/* The second is read while the first becomes tokens; the third is being read for long then. */
static void text_that_comes_while_others_become_tokens_does_not_wait_for_the_round(void **state) {
    (void)state;
    struct calibration k = plain();
    struct row v[] = {{0, 100, 1}, {15, 100, 1}, {15, 1600, 1}};
    k.front.read_s = 0.001;
    k.front.read_token_s = k.chunk.row_s = 0.0001;
    k.front.text_token_s = 0.0002;
    near(serve_rows(&k, v, 3).ttft_s.p50, 0.011 + 2 * 0.02 + 2 * 0.01);
}

/* Leaks are found under a sanitizer. */
static void what_is_stopped_in_the_middle_is_freed(void **state) {
    (void)state;
    struct calibration k = plain();
    struct run_config *c =
        described("server: x.json\nload: {rate: 20, input_tokens: 300, duration_s: 10}\n");
    struct err err;
    k.front.read_token_s = 0.001;
    for (int i = 0; i < 2; i++) {
        struct solo *s;
        must(solo_new(&s, c, &k, NULL, &err), &err);
        assert_true(!i || solo_until(s, 3));
        solo_free(s);
    }
    free(c);
}

static void one_seed_is_one_run_and_nothing_is_lost_under_overload(void **state) {
    (void)state;
    struct calibration k = plain();
    const char *load = "rate: 20, input_tokens: 300, output_tokens: 30, duration_s: 10";
    struct run_report a = serve(&k, load, 5), b = serve(&k, load, 5), c = serve(&k, load, 6);
    a.wall_s = b.wall_s = c.wall_s = 0;
    assert_memory_equal(&a, &b, sizeof a);
    assert_memory_not_equal(&a, &c, sizeof a);
    assert_true(a.ttft_s.p90 > 1); /* 300 ms of prompt every 50 ms */
}

static void a_table_is_found_again_in_samples_made_from_it(void **state) {
    (void)state;
    struct record_file f = {.x = {.vocab = 1000, .max_model_len = 2048}};
    struct calibration c = {0};
    struct err err;
    uint64_t now = 1000, rng = 1;
    f.v = calloc(4000, sizeof *f.v);
    assert_non_null(f.v);
    for (; f.n < 4000; f.n++) {
        struct record_work *w = &f.v[f.n];
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        uint32_t a = (uint32_t)(rng >> 33) % 1000, n = 1 + (uint32_t)(rng >> 45) % 16;
        *w = (struct record_work){.kind = f.n % 4 ? RECORD_STEP : RECORD_PIECE,
                                  .begin_ns = now += 5000,
                                  .runs = n,
                                  .begins = true,
                                  .over = true};
        double s;
        if (w->kind == RECORD_STEP) {
            w->rows = n;
            w->keys = (uint64_t)n * a;
            s = 1e-3 + 1e-4 * n + 5e-8 * (double)w->keys;
        } else {
            w->rows = 64 + a;
            w->earlier = (uint64_t)n * 100;
            w->keys = (uint64_t)w->rows * (a + 7);
            s = 2e-3 + 3e-5 * w->rows + 2e-8 * (double)w->keys;
        }
        if (f.n % 97 == 0) s *= 20; /* another process had the core */
        w->end_ns = now += (uint64_t)(s * 1e9);
    }
    must(calibration_fit(&c, &f, &(struct calibration_seen){0}, "samples", &err), &err);
    /* every 97th took 20 times as long */
    assert_true(c.step.stall_share > 0.5 * 19 / 97 && c.step.stall_share < 2. * 19 / 97);
    assert_true(c.fit.step_error < 0.01 && c.fit.chunk_error < 0.02 && c.fit.dropped >= 40);
    assert_true(fabs(c.step.key_s / 5e-8 - 1) < 0.02);
    struct sim_step step = {.requests = 8, .kv_tokens = 500};
    assert_true(fabs(calibration_step_s(&c, &step, &(struct calibration_past){0}) /
                         (1 + c.step.stall_share) / (1.8e-3 + 4000 * 5e-8) -
                     1) < 0.02);
    struct sim_chunk chunk = {.tokens = 500, .key_pairs = 500 * 443, .requests = 4, .cached = 400};
    assert_true(fabs(calibration_chunk_s(&c, &chunk) / (17e-3 + 500 * 443 * 2e-8) - 1) < 0.03);
    assert_true(c.gap_s < 6e-6 && calibration_gap_s(&c, 8) < 6e-6);
    record_file_release(&f);
}

/* In the second half of a chunk pieces end so many times as late as in the first; one in `stalled` stalls. */
static void find_what_is_more(uint32_t later, uint32_t stalled) {
    struct record_file f = {.x = {.vocab = 1000, .max_model_len = 2048}};
    struct calibration c = {0};
    struct err err;
    uint64_t now = 1, rng = 1;
    double begun_ns = 0; /* computed since the last rest, when a chunk begins */
    double evicted = 0, step_ns = 0;
    f.v = calloc(40000, sizeof *f.v);
    assert_non_null(f.v);
    for (int chunk = 0; chunk < 400; chunk++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        uint32_t rows = 64 + (uint32_t)(rng >> 33) % 900, pieces = 1 + (uint32_t)(rng >> 45) % 20;
        double worked_ns = chunk % 4 ? begun_ns : 0; /* it rested before every fourth */
        now += chunk % 4 ? 0 : 5000000;
        for (uint32_t i = 0; i < pieces; i++) {
            /* 20 us a row in all, and for each piece that comes after a step a quarter of that and 20 ns a
             * row; it ends 2 us a root of a row and 10 ns a key late, and one in so many some milliseconds */
            uint64_t ns = rows * 20000 / pieces + (i ? (uint64_t)(step_ns / 4) + rows * 20 : 0);
            uint32_t seen = 100 + rows % 7 * 100;
            uint64_t late_ns =
                (uint64_t)((2000 * sqrt(rows) + 10 * seen) * (2 * i < pieces ? 1 : later));
            f.v[f.n++] =
                (struct record_work){.kind = RECORD_PIECE,
                                     .begin_ns = now,
                                     .end_ns = now + ns,
                                     .until_ns = now + ns - late_ns - (f.n % stalled ? 0 : 4000000),
                                     .runs = 1,
                                     .rows = rows,
                                     .keys = rows * (uint64_t)seen,
                                     .begins = i == 0,
                                     .over = i + 1 == pieces};
            now += ns + 1000;
            worked_ns += (double)ns;
            /* 200 us and 10 a sequence, 80 us and 15 a sequence more of what pieces evicted, all but a
             * 1/e of it in 2 ms, behind another step 20 us and 4 a sequence, and cold 90 us */
            evicted = 1 - (1 - evicted) * exp(-(double)ns / 2e6);
            for (uint32_t k = 0, runs = 1 + chunk % 8; k < (i + 1 == pieces ? 3 : 1); k++) {
                double more_ns = (k ? 20000 + 4000 * runs : 0) + evicted * (80000 + 15000 * runs) +
                                 90000 * exp(-worked_ns / 5e6);
                evicted /= 1 + evicted;
                ns = 200000 + 10000 * runs + (uint64_t)more_ns;
                f.v[f.n++] = (struct record_work){.kind = RECORD_STEP,
                                                  .begin_ns = now,
                                                  .end_ns = now + ns,
                                                  .runs = runs,
                                                  .rows = runs};
                now += ns + 9000;
                worked_ns += (double)ns;
                step_ns = (double)ns;
            }
        }
        begun_ns = worked_ns;
    }
    must(calibration_fit(&c, &f, &(struct calibration_seen){0}, "samples", &err), &err);
    assert_true(fabs(c.chunk.row_s / 20e-6 - 1) < 0.02);
    const struct sim_chunk k = {.tokens = 400, .requests = 1, .key_pairs = 400 * 300};
    assert_true(fabs(calibration_resume_s(&c, &k, 300e-6) / 83e-6 - 1) < 0.02);
    assert_true(fabs(calibration_over_s(&c, &k, 0.2) / 43e-6 - 1) < 0.02);
    assert_true(fabs(calibration_over_s(&c, &k, 0.9) / (later * 43e-6) - 1) < 0.02);
    assert_true(fabs(c.gap_s / 1e-6 - 1) < 0.05 &&
                fabs(calibration_gap_s(&c, 1) / 9e-6 - 1) < 0.05);
    for (uint32_t n = 1; n <= 8; n++) {
        struct sim_step step = {.requests = n};
        for (double piece_s = 0; piece_s < 0.02; piece_s = 3 * piece_s + 1e-4)
            for (double worked_s = 0; worked_s < 0.1; worked_s = 2 * worked_s + 1e-3)
                for (int stepped = 0; stepped < 2; stepped++) {
                    struct calibration_past past = {0};
                    calibration_worked(&past, &c, RECORD_PIECE, piece_s);
                    past.worked_s = worked_s;
                    past.stepped_s = stepped;
                    double gone = 1 - exp(-piece_s / 2e-3),
                           s = 200e-6 + 10e-6 * n + gone * (80e-6 + 15e-6 * n) +
                               90e-6 * exp(-worked_s / 5e-3) + stepped * (20e-6 + 4e-6 * n);
                    assert_true(fabs(calibration_step_s(&c, &step, &past) / s - 1) < 0.02);
                }
    }
    record_file_release(&f);
}

static void what_chunks_and_steps_have_more_to_do_after_each_other_is_found(void **state) {
    (void)state;
    find_what_is_more(1, 59);
    /* a stalled piece counts as the latest of all parts: fewer, where those differ */
    find_what_is_more(2, 199);
}

static void a_table_of_the_widest_steps_has_all_its_knots(void **state) {
    (void)state;
    enum { EACH = 20 };
    struct record_work v[(CALIBRATION_KNOTS_MAX + 1) * EACH];
    struct record_file f = {.v = v};
    struct calibration c = {.n_pages = 0};
    struct err err;
    uint64_t now = 1;
    for (uint32_t i = 0; i < EACH; i++)
        for (uint32_t k = 0; k <= CALIBRATION_KNOTS_MAX; k++) {
            bool step = k < CALIBRATION_KNOTS_MAX;
            uint32_t runs = step ? UINT32_C(1) << k : 1;
            uint64_t ns = step ? 200000 + 1000 * (uint64_t)runs : 2000000;
            v[f.n++] = (struct record_work){.kind = step ? RECORD_STEP : RECORD_PIECE,
                                            .begin_ns = now,
                                            .end_ns = now + ns,
                                            .until_ns = now + ns,
                                            .runs = runs,
                                            .rows = runs,
                                            .begins = !step,
                                            .over = !step};
            now += ns + 1000;
        }
    must(calibration_fit(&c, &f, &(struct calibration_seen){0}, "samples", &err), &err);
    assert_int_equal(c.step.n_knots, CALIBRATION_KNOTS_MAX);
    for (uint32_t runs = 1; runs <= 32768; runs *= 2) {
        const struct sim_step step = {.requests = runs};
        const struct calibration_past past = {.worked_s = 1, .stepped_s = 1};
        double s = 200e-6 + 1e-6 * runs;
        assert_true(fabs(calibration_step_s(&c, &step, &past) / s - 1) < 0.05);
    }
}

/* Rows, pairs of keys, and nearly the rows again: they tell apart badly. */
static void what_is_fitted_does_not_depend_on_the_unit_of_time(void **state) {
    (void)state;
    enum { N = 300 };
    const double truth[3] = {2e-7, 1e-10, 1e-7}; /* seconds */
    double features[N][3], s[N], ns[N], weights[N], x[3], x_ns[3];
    uint64_t rng = 1;
    for (int k = 0; k < N; k++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        double rows = 64 + (double)((rng >> 33) % 900), past = (double)((rng >> 43) % 500),
               nearly = 0.8 + (double)((rng >> 52) % 20) / 100;
        double f[3] = {rows, rows * (past + rows / 2), rows * nearly};
        memcpy(features[k], f, sizeof f);
        s[k] = f[0] * truth[0] + f[1] * truth[1] + f[2] * truth[2];
        ns[k] = s[k] * 1e9;
        weights[k] = 1 / (rows * rows);
    }
    least_squares(x, 3, features[0], s, weights, N);
    least_squares(x_ns, 3, features[0], ns, weights, N);
    for (int i = 0; i < 3; i++) {
        if (fabs(x[i] / truth[i] - 1) > 0.01) fail_msg("found %g, expected %g", x[i], truth[i]);
        assert_true(fabs(x_ns[i] / 1e9 / x[i] - 1) < 1e-3);
    }
}

static void odd_recordings_give_a_table_of_numbers(void **state) {
    (void)state;
    struct record_file f = {.x = {.vocab = 1000, .max_model_len = 2048}};
    struct calibration c = {0};
    struct err err;
    f.v = calloc(200, sizeof *f.v);
    assert_non_null(f.v);
    assert_int_equal(calibration_fit(&c, &f, &(struct calibration_seen){0}, "samples", &err),
                     ST_INVALID);
    for (; f.n < 200; f.n++) /* nothing was drawn, and all ends where it begins, but a few chunks */
        f.v[f.n] = (struct record_work){.kind = f.n % 4 ? RECORD_STEP : RECORD_PIECE,
                                        .begin_ns = UINT64_MAX - 10,
                                        .end_ns = UINT64_MAX - (f.n % 8 ? 10 : 0),
                                        .runs = 2,
                                        .rows = 2,
                                        .drafts = 1,
                                        .begins = true,
                                        .over = true,
                                        .until_ns = f.n % 3 ? 0 : UINT64_MAX};
    must(calibration_fit(&c, &f, &(struct calibration_seen){0}, "samples", &err), &err);
    assert_true(c.acceptance == 0);
    struct sim_step step = {.requests = 2};
    struct sim_chunk chunk = {.tokens = 2, .requests = 2};
    struct calibration_past past = {.worked_s = 1};
    assert_true(isfinite(calibration_step_s(&c, &step, &past)));
    calibration_worked(&past, &c, RECORD_PIECE, 1);
    assert_true(isfinite(calibration_step_s(&c, &step, &past)));
    assert_true(isfinite(calibration_chunk_s(&c, &chunk)));
    assert_true(isfinite(calibration_resume_s(&c, &chunk, 1)));
    for (double part = -1; part < 3; part += 0.5)
        assert_true(isfinite(calibration_over_s(&c, &chunk, part)));
    record_file_release(&f);
}

/* Of the same load: also behind pieces, behind steps, and where it rested between. */
static void a_replay_takes_the_times_that_were_recorded(void **state) {
    (void)state;
    enum { REQUESTS = 4, WORKS = 6 };
    struct calibration k = plain();
    struct record_work v[1 + REQUESTS * WORKS] = {/* the end of what began before */
                                                  {.kind = RECORD_PIECE,
                                                   .begin_ns = 1,
                                                   .end_ns = 1000,
                                                   .runs = 1,
                                                   .rows = 100,
                                                   .over = true}};
    uint64_t now = 1000, sum_ns = 0;
    k.step.evicting_s = k.step.warming_s = 0.1;
    k.step.evicted_s = k.step.sent_sequence_s = k.step.cold_s = 0.02;
    k.front.token_s = 0.1;
    for (int i = 0; i < REQUESTS * WORKS; i++) {
        bool step = i % WORKS != 0;
        uint64_t ns = 30000000 + (uint64_t)(i * 7 % 11) * 5000000;
        now += step ? 0 : 100000000;
        v[1 + i] = (struct record_work){.kind = step ? RECORD_STEP : RECORD_PIECE,
                                        .begin_ns = now,
                                        .end_ns = now + ns,
                                        .runs = 1,
                                        .rows = step ? 1 : 100,
                                        .begins = !step,
                                        .over = !step};
        now += ns;
        sum_ns += ns;
    }
    struct record_file replay = {.v = v, .n = 1 + REQUESTS * WORKS};
    struct run_report o = serve_again(
        &k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4", 1,
        &replay);
    near(o.last_end_s - o.first_arrival_s, (double)sum_ns / 1e9 + REQUESTS * 0.1);
}

static void a_replay_of_what_the_table_has_no_time_for_ends(void **state) {
    (void)state;
    struct calibration k = plain();
    struct record_work v[2] = {
        {.kind = RECORD_STEP, .begin_ns = 5, .end_ns = 5, .runs = 1, .rows = 1},
        {.kind = RECORD_PIECE,
         .end_ns = UINT64_MAX,
         .runs = 1,
         .rows = 100,
         .begins = true,
         .over = true}};
    struct record_file replay = {.v = v, .n = 2};
    k.step.s[0] = k.chunk.row_s = 0;
    k.front.token_s = 1e-3;
    struct run_report o = serve_again(
        &k, "arrivals: closed, clients: 1, input_tokens: 100, output_tokens: 6, requests: 4", 1,
        &replay);
    near(o.last_end_s - o.first_arrival_s, 4 * 0.001);
}

static void what_was_recorded_while_the_cores_were_elsewhere_is_left_out(void **state) {
    (void)state;
    enum { WORKS = 1000, PROBES = 21 };
    struct record_file f = {.x = {.vocab = 1000, .max_model_len = 2048}};
    struct calibration c = {0};
    struct err err;
    f.v = calloc(WORKS, sizeof *f.v);
    assert_non_null(f.v);
    for (; f.n < WORKS;
         f.n++) { /* a ms each; the last 400 take twice as long; chunks of two pieces */
        uint64_t begun = 1000000 * f.n + 1, rows = 64 + f.n / 4 % 50;
        bool piece = f.n % 2;
        f.v[f.n] = (struct record_work){.kind = piece ? RECORD_PIECE : RECORD_STEP,
                                        .begin_ns = begun,
                                        .end_ns = begun + (f.n < 600 ? 1 : 2) * rows * 1000,
                                        .runs = 1,
                                        .rows = (uint32_t)rows,
                                        .begins = f.n % 4 == 1,
                                        .over = f.n % 4 == 3};
    }
    struct calibration_probe probes[PROBES];
    for (uint32_t i = 0; i < PROBES; i++)
        probes[i] = (struct calibration_probe){i * UINT64_C(50000000), i < 12 ? 90 + i : 400 + i};
    probes[4].hop_ns = 300;   /* one reading that went wrong */
    probes[8].hop_ns = 40000; /* and one that did not get the cores */
    struct calibration_seen seen = {.probes = probes, .n_probes = PROBES};
    must(calibration_fit(&c, &f, &seen, "samples", &err), &err);
    assert_int_equal(c.fit.elsewhere, 450); /* the last usual probe was at 550 ms */
    assert_int_equal(c.fit.chunks, 137);    /* 549 and 551 are of one of which a half is left out */
    assert_true(c.hop_ns > 90 && c.hop_ns < 102);
    assert_true(fabs(c.chunk.row_s / 2e-6 - 1) < 0.02);
    /* a work is looked at until it ends */
    f.v[540].end_ns = 610000000;
    must(calibration_fit(&c, &f, &seen, "samples", &err), &err);
    assert_int_equal(c.fit.elsewhere, 451);
    /* probes that did not get the cores say nothing */
    for (uint32_t k = 0; k < PROBES; k++) probes[k].hop_ns = 40000 + 40000 * k;
    must(calibration_fit(&c, &f, &seen, "samples", &err), &err);
    assert_true(c.fit.elsewhere == 0 && c.hop_ns == 0);
    record_file_release(&f);
}

/* What it costs a token is small beside what a thread waits for a core now and then. */
static void what_the_front_takes_is_found_though_threads_wait_for_cores(void **state) {
    (void)state;
    enum { N = 90 };
    struct record_file f = {.x = {.vocab = 1000, .max_model_len = 8192}};
    struct calibration c = {0};
    struct calibration_alone alone[N];
    struct calibration_made made[N];
    struct err err;
    uint64_t now = 1, rng = 7;
    f.v = calloc((size_t)4 * N, sizeof *f.v);
    f.requests = calloc(N + 64, sizeof *f.requests);
    assert_true(f.v && f.requests);
    for (uint32_t i = 0; i < N; i++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        uint32_t n = 64 + (uint32_t)(rng >> 33) % 6000;
        uint64_t late = i % 5 ? (rng >> 20) % 40000 : 4000000, sent = now,
                 arrived = sent + 7000 + 12 * n + 200000 + 8 * n + late,
                 taken = arrived + 90000 + 120 * n;
        f.requests[f.n_requests++] = (struct record_request){arrived, taken, n};
        f.v[f.n++] = (struct record_work){.kind = RECORD_PIECE,
                                          .begin_ns = taken + 1000,
                                          .end_ns = taken + 1000 + n * 20000,
                                          .runs = 1,
                                          .rows = n,
                                          .begins = true,
                                          .over = true};
        now = f.v[f.n - 1].end_ns + 150000;
        uint64_t first = now;
        made[i] = (struct calibration_made){
            n, i % 3 == 0, (i % 3 ? 7e-6 : 29e-6) + 12e-9 * n + (i % 7 ? 0 : 3e-4)};
        for (int k = 0; k < 3; k++, now += 201000)
            f.v[f.n++] = (struct record_work){
                .kind = RECORD_STEP, .begin_ns = now, .end_ns = now + 200000, .runs = 1, .rows = 1};
        now = f.v[f.n - 1].end_ns + (i % 7 ? 80000 : 3000000);
        alone[i] = (struct calibration_alone){n, sent, first, now};
    }
    /* bursts of eight, 9 us between two, but one waits for a core */
    struct calibration_burst bursts[8];
    for (uint32_t i = 0; i < 64; i++) {
        if (i % 8 == 0) bursts[i / 8] = (struct calibration_burst){now += 1000000, 8};
        now += i % 8 == 6 ? 4000000 : 9000;
        f.requests[f.n_requests++] = (struct record_request){now, now, 64 + 8 * i};
    }
    struct calibration_seen seen = {
        .alone = alone, .n_alone = N, .made = made, .n_made = N, .bursts = bursts, .n_bursts = 8};
    must(calibration_fit(&c, &f, &seen, "samples", &err), &err);
    assert_true(fabs(c.front.read_token_s / 8e-9 - 1) < 0.3);
    assert_true(fabs(c.front.text_token_s / 120e-9 - 1) < 0.05);
    assert_true(fabs(c.front.wake_s / 90e-6 - 1) < 0.02);
    assert_true(fabs(c.front.made_token_s / 12e-9 - 1) < 0.1);
    assert_true(fabs((c.front.made_s + 3000 * c.front.made_token_s) / 43e-6 - 1) < 0.05);
    assert_true(fabs(c.front.connect_s / 22e-6 - 1) < 0.05);
    assert_true(fabs(c.front.read_s / 9e-6 - 1) < 0.1);
    assert_true(fabs(c.front.front_wake_s / (200e-6 + 20e-6 - 9e-6) - 1) < 0.1);
    assert_true(fabs(c.front.first_token_s / 151e-6 - 1) < 0.1);
    assert_true(fabs(c.front.token_s / 80e-6 - 1) < 0.1);
    record_file_release(&f);
}

static void what_is_written_is_read_and_what_lacks_a_key_is_named(void **state) {
    (void)state;
    char path[] = "/tmp/calibration-XXXXXX";
    struct calibration c = plain(), d;
    struct err err;
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    c.step.n_knots = 2;
    for (int i = 0; i < 2; i++) {
        c.step.sequences[i] = 1 + i;
        c.step.s[i] = 0.01 + 0.01 * i;
        c.step.gap_s[i] = 0.03 + 0.01 * i;
    }
    c.step.guessing_s = 0.05;
    c.step.evicted_s = 0.08;
    c.step.evicted_sequence_s = 0.09;
    c.step.sent_s = 0.11;
    c.step.sent_sequence_s = 0.12;
    c.step.warming_s = 0.13;
    c.step.cold_s = 0.14;
    c.step.stall_share = 0.06;
    c.chunk.resume_share = 0.17;
    for (int i = 0; i < CALIBRATION_PARTS; i++) c.chunk.over_parts[i] = 1 + 0.1 * i;
    c.front.wake_s = 0.07;
    c.front.first_token_s = 0.15;
    c.front.token_s = 0.16;
    c.front.connect_s = 0.02;
    c.front.front_wake_s = 0.03;
    c.front.read_s = 0.04;
    must(calibration_write(&c, path, &err), &err);
    must(calibration_open(&d, path, &err), &err);
    assert_int_equal(d.n_pages, c.n_pages);
    assert_int_equal(d.engine.speculate, SPECULATE_OFF);
    near(d.step.s[1], 0.02);
    near(d.step.gap_s[1], 0.04);
    near(d.step.guessing_s, 0.05);
    near(d.step.evicted_s, 0.08);
    near(d.step.evicted_sequence_s, 0.09);
    near(d.step.sent_s, 0.11);
    near(d.step.sent_sequence_s, 0.12);
    near(d.step.warming_s, 0.13);
    near(d.step.cold_s, 0.14);
    near(d.step.stall_share, 0.06);
    near(d.chunk.resume_share, 0.17);
    for (int i = 0; i < CALIBRATION_PARTS; i++) near(d.chunk.over_parts[i], 1 + 0.1 * i);
    near(d.front.wake_s, 0.07);
    near(d.front.first_token_s, 0.15);
    near(d.front.token_s, 0.16);
    near(d.front.connect_s, 0.02);
    near(d.front.front_wake_s, 0.03);
    near(d.front.read_s, 0.04);
    near(d.chunk.row_s, c.chunk.row_s);
    json_t *j = json_load_file(path, 0, NULL);
    json_array_remove(json_object_get(json_object_get(j, "chunk"), "piece_over_parts"), 0);
    assert_int_equal(json_dump_file(j, path, 0), 0);
    json_decref(j);
    assert_int_equal(calibration_open(&d, path, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "piece_over_parts: found 15 numbers, expected 16"));
    must(calibration_write(&c, path, &err), &err);
    j = json_load_file(path, 0, NULL);
    json_object_set_new(json_object_get(j, "executor"), "kv_page_tokens", json_integer(64));
    assert_int_equal(json_dump_file(j, path, 0), 0);
    json_decref(j);
    assert_int_equal(calibration_open(&d, path, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "kv_page_tokens: found 64"));
    fprintf(f, "{\"supernode_calibration\": 1}\n");
    fflush(f);
    assert_int_equal(ftruncate(fd, 29), 0);
    assert_int_equal(calibration_open(&d, path, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "supernode_calibration: found 1, expected 8"));
    rewind(f);
    fprintf(f, "{\"supernode_calibration\": 8}\n");
    fflush(f);
    assert_int_equal(ftruncate(fd, 29), 0);
    assert_int_equal(calibration_open(&d, path, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "engine"));
    fclose(f);
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_one_after_the_other_take_what_the_table_says),
        cmocka_unit_test(a_server_knows_whether_drafts_pay),
        cmocka_unit_test(a_prompt_waits_for_the_steps_between_its_pieces),
        cmocka_unit_test(an_engine_that_rests_takes_all_that_came_until_it_woke),
        cmocka_unit_test(a_burst_is_sent_when_all_its_connections_are_made),
        cmocka_unit_test(a_front_that_rests_wakes_up_and_reads_one_request_after_the_other),
        cmocka_unit_test(long_prompts_are_read_in_rounds_and_short_ones_pass_them),
        cmocka_unit_test(text_that_comes_while_others_become_tokens_does_not_wait_for_the_round),
        cmocka_unit_test(what_is_stopped_in_the_middle_is_freed),
        cmocka_unit_test(one_seed_is_one_run_and_nothing_is_lost_under_overload),
        cmocka_unit_test(a_table_is_found_again_in_samples_made_from_it),
        cmocka_unit_test(what_chunks_and_steps_have_more_to_do_after_each_other_is_found),
        cmocka_unit_test(a_table_of_the_widest_steps_has_all_its_knots),
        cmocka_unit_test(what_is_fitted_does_not_depend_on_the_unit_of_time),
        cmocka_unit_test(odd_recordings_give_a_table_of_numbers),
        cmocka_unit_test(a_replay_takes_the_times_that_were_recorded),
        cmocka_unit_test(a_replay_of_what_the_table_has_no_time_for_ends),
        cmocka_unit_test(what_was_recorded_while_the_cores_were_elsewhere_is_left_out),
        cmocka_unit_test(what_the_front_takes_is_found_though_threads_wait_for_cores),
        cmocka_unit_test(what_is_written_is_read_and_what_lacks_a_key_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The engine under a virtual clock with the stand-in executor: thousands of random histories
 * (arrivals, cached prefixes, choices, priorities, cancels, deadlines, full memory, slow steps),
 * each replayed from its seed. What every request must answer is computed without pages, batches or
 * drafts, straight from the hash chain. SEEDS=N runs more, SEED=N that one alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asked.h"

enum { REQUESTS_MAX = 48, MODEL_LEN = 4096, MEMORIES_MAX = 4, SLOTS_MAX = 16 };

struct world {
    /* Where sequences lie in one of several memories each (struct executor's place). */
    struct {
        uint32_t n, each, of[SLOTS_MAX], pages[SLOTS_MAX], used[MEMORIES_MAX];
        uint64_t refused;
    } memory;
    struct standin x;
    struct engine *e;
    struct asked v[REQUESTS_MAX];
    uint32_t n;
    bool wrong;
};
static struct world *world; /* for the sinks */

static bool on_token(void *ctx, const struct token_out *t) {
    struct asked *a = ctx;
    if (t->position < a->r.n_prompt) {
        assert_int_equal(t->position, ++a->n_prompt_told);
        assert_int_equal(t->id, a->r.prompt[t->position]);
        a->told[t->position] = t->logprob;
        return true;
    }
    assert_int_equal(t->position, a->r.n_prompt + a->n_tokens[t->choice]);
    if (!a->first_ns) a->first_ns = world->x.now_ns;
    a->n_cached = t->n_cached;
    struct exec_token *g = &a->got[t->choice][a->n_tokens[t->choice]++];
    *g = (struct exec_token){.id = t->id, .logprob = t->logprob, .n_top = t->n_top};
    if (t->n_top) memcpy(g->top, t->top, t->n_top * sizeof *t->top);
    return !(t->choice == a->drop_choice && a->n_tokens[t->choice] == a->drop_after);
}

static const struct engine_sink sink = {.token = on_token, .done = on_done};

/* --- histories -------------------------------------------------------------------------------- */

static void start(struct world *w, const struct standin_options *x,
                  const struct engine_options *o) {
    struct err err;
    *w = (struct world){0};
    world = w;
    assert_int_equal(standin_init(&w->x, x, &err), ST_OK);
    assert_int_equal(engine_new(&w->e, &w->x.x, o, &err), ST_OK);
}

static void stop(struct world *w) {
    engine_free(w->e);
    standin_release(&w->x);
    for (uint32_t i = 0; i < w->n; i++) asked_release(&w->v[i]);
}

static void add(struct world *w, struct asked *a) {
    struct err err;
    a->added = true;
    lend(a);
    if (engine_add(w->e, &a->lent, &sink, a, w->x.now_ns, &err)) fail_msg("%s", err.text);
}

/* Who comes goes to the first memory that has room: the fullest, so that growing soon fails. */
static bool place(void *ctx, uint32_t slot, uint32_t n_tokens) {
    uint32_t n = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS, m = 0,
             *pages = &world->memory.pages[slot], *of = &world->memory.of[slot];
    (void)ctx;
    assert_true(slot < SLOTS_MAX && (n > 0 || *pages > 0));
    if (*pages == 0) {
        while (m < world->memory.n && world->memory.used[m] + n > world->memory.each) m++;
        *of = m;
    }
    uint32_t more = n > *pages ? n - *pages : 0;
    if (n == 0) {
        world->memory.used[*of] -= *pages;
        *pages = 0;
    } else if (*of == world->memory.n || world->memory.used[*of] + more > world->memory.each) {
        world->memory.refused++;
        return false;
    } else {
        world->memory.used[*of] += more;
        *pages += more;
    }
    return true;
}

static void split_memory(struct world *w, uint32_t n, const struct engine_options *o) {
    struct err err;
    w->memory.n = n;
    w->memory.each = w->x.x.n_pages / n;
    engine_free(w->e);
    w->x.x.place = place;
    assert_int_equal(engine_new(&w->e, &w->x.x, o, &err), ST_OK);
}

/* Runs until everything is done. */
static void run(struct world *w) {
    uint64_t limit_ns = w->x.now_ns + UINT64_C(4000) * 1000000000;
    for (uint32_t left = w->n; left > 0;) {
        uint64_t next = UINT64_MAX;
        left = 0;
        for (uint32_t i = 0; i < w->n; i++) {
            struct asked *a = &w->v[i];
            if (!a->added && a->arrives_ns <= w->x.now_ns) add(w, a);
            if (!a->added && a->arrives_ns < next) next = a->arrives_ns;
            if (a->added && !a->done && a->cancel_ns && a->cancel_ns <= w->x.now_ns) {
                a->cancelled = true;
                engine_cancel(w->e, &a->lent, ENGINE_CANCEL_LEFT);
                assert_true(a->done);
            }
            left += !a->done;
        }
        assert_true(w->x.now_ns < limit_ns);
        if (left == 0 || engine_step(w->e)) continue;
        left = 0;
        for (uint32_t i = 0; i < w->n; i++) left += !w->v[i].done; /* some were too late */
        if (left == 0) break;
        assert_true(next != UINT64_MAX); /* otherwise: no progress though work waits */
        w->x.now_ns = next;
    }
    const struct engine_stats *s = engine_stats(w->e);
    while (engine_step(w->e)) continue; /* a chunk whose sequences ended */
    s = engine_stats(w->e);
    assert_int_equal(s->running + s->waiting, 0);
    assert_int_equal(s->pages_used, 0);
    for (uint32_t i = 0; i < w->memory.n; i++) assert_int_equal(w->memory.used[i], 0);
}

static uint64_t n_refused;

static void random_history(uint64_t seed) {
    static struct world w;
    struct rng g = {seed * 2654435761u + 17};
    for (int i = 0; i < 4; i++) below(&g, 2);
    uint32_t seqs = 1 + below(&g, 12), k = 1 + below(&g, 3);
    uint32_t memories = seed % 3 ? 1 : 1 + (uint32_t)(seed / 3 % MEMORIES_MAX),
             pages_min = engine_pages_min(MODEL_LEN),
             each = pages_min + below(&g, below(&g, 2) ? 8 : 120);
    struct standin_options x = {.n_pages = memories * each,
                                .n_slots = seqs,
                                .max_model_len = MODEL_LEN,
                                .rows_max = seqs * (1 + k) + 32,
                                .vocab = VOCAB,
                                .step_ns = 1000000,
                                .row_ns = 20000,
                                .draft_ns = 200000,
                                .draft_right_percent = below(&g, 101),
                                .slow_percent = below(&g, 2) ? 0 : 10,
                                .seed = seed};
    struct engine_options o = {.max_num_seqs = seqs,
                               .max_num_batched_tokens = 512 + below(&g, 700),
                               .tpot_ms = below(&g, 3) ? 0 : 1 + below(&g, 5),
                               .ttft_ms = below(&g, 3) ? 0 : 1 + below(&g, 50),
                               .speculate = (enum speculate)below(&g, 3),
                               .draft_tokens = k};
    start(&w, &x, &o);
    if (memories > 1) split_memory(&w, memories, &o);
    w.n = 1 + below(&g, 16);
    for (uint32_t i = 0; i < w.n; i++) random_request(&w.v[i], i, 9, &g);
    run(&w);
    for (uint32_t i = 0; i < w.n; i++) {
        const struct asked *a = &w.v[i];
        for (uint32_t c = 0; c < a->r.n_choices; c++) check_answer(a, c);
        assert_true(a->ended == ST_OK || (a->ended == ST_TIMEOUT && a->r.time_left_ms));
        if (a->r.prompt_logprobs >= 0 && !a->cancelled && !a->ended)
            assert_int_equal(a->n_prompt_told, a->r.n_prompt - 1);
    }
    n_refused += w.memory.refused;
    stop(&w);
}

static void random_histories_give_each_request_its_one_answer(void **state) {
    (void)state;
    const char *one = getenv("SEED"), *many = getenv("SEEDS");
    if (one) {
        random_history(strtoull(one, NULL, 10));
        return;
    }
    uint64_t n = many ? strtoull(many, NULL, 10) : 2000;
    for (uint64_t seed = 1; seed <= n; seed++) {
        print_message("# seed %llu\r", (unsigned long long)seed);
        random_history(seed);
    }
    assert_true(n < 2000 || n_refused > 100);
}

static uint64_t rss_bytes(void) {
    unsigned long all = 0, resident = 0;
    FILE *f = must(fopen("/proc/self/statm", "re"));
    assert_int_equal(fscanf(f, "%lu %lu", &all, &resident), 2);
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* --- single behaviours ------------------------------------------------------------------------ */

static struct standin_options standin_of(uint32_t n_pages, uint32_t seqs) {
    return (struct standin_options){.n_pages = n_pages,
                                    .n_slots = seqs,
                                    .max_model_len = MODEL_LEN,
                                    .rows_max = seqs * 2 + 32,
                                    .vocab = VOCAB,
                                    .step_ns = 1000000,
                                    .row_ns = 20000,
                                    .draft_ns = 200000,
                                    .draft_right_percent = 70};
}

static const struct engine_options plain = {.max_num_seqs = 8,
                                            .max_num_batched_tokens = 512,
                                            .speculate = SPECULATE_OFF,
                                            .draft_tokens = 1};

static struct asked *ask(struct world *w, uint32_t n_prompt, uint32_t max_tokens, uint32_t n) {
    struct asked *a = &w->v[w->n];
    fill(a, 0, n_prompt, max_tokens, n);
    for (uint32_t i = 0; i < n_prompt; i++) a->r.prompt[i] = i % VOCAB;
    a->arrives_ns = w->x.now_ns;
    w->n++;
    return a;
}

static void same_prompt_twice_computes_only_the_last_block(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    ask(&w, 1024, 4, 1);
    run(&w);
    uint64_t computed = engine_stats(w.e)->prompt_tokens_computed;
    assert_int_equal(computed, 1024);
    struct asked *again = ask(&w, 1024, 4, 1);
    run(&w);
    assert_int_equal(engine_stats(w.e)->prompt_tokens_computed - computed, KV_PAGE_TOKENS);
    assert_int_equal(again->n_cached, 1024 - KV_PAGE_TOKENS);
    stop(&w);
}

static void second_turn_hits_every_full_block_of_the_first_answer_included(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *a = ask(&w, 300, 300, 1);
    run(&w);
    /* 300 of the prompt and 299 rows of the answer are computed: four full blocks */
    struct asked *b = ask(&w, 300 + 300 + 50, 4, 1);
    memcpy(b->r.prompt + 300, a->r.choices[0].ids, 300 * sizeof *b->r.prompt);
    b->r.roles[0].len = 300;
    b->r.roles[1] = (struct role_run){.len = 300, .role = ROLE_GENERATED};
    b->r.roles[2] = (struct role_run){.len = 50, .role = ROLE_PROMPT};
    b->r.n_roles = 3;
    run(&w);
    assert_int_equal(b->n_cached, 4 * KV_PAGE_TOKENS);
    check_answer(b, 0);
    /* the same ids as plain prompt text are another sequence: only the prompt's two blocks match */
    struct asked *c = ask(&w, 650, 4, 1);
    memcpy(c->r.prompt, b->r.prompt, 650 * sizeof *c->r.prompt);
    run(&w);
    assert_int_equal(c->n_cached, 2 * KV_PAGE_TOKENS);
    check_answer(c, 0);
    stop(&w);
}

static void tenant_salt_and_model_keep_blocks_apart(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    ask(&w, 512, 2, 1);
    run(&w);
    struct asked *tenant = ask(&w, 512, 2, 1);
    strcpy(tenant->r.tenant, "b");
    run(&w);
    struct asked *salt = ask(&w, 512, 2, 1);
    strcpy(salt->r.salt, "b");
    run(&w);
    assert_int_equal(tenant->n_cached + salt->n_cached, 0);
    stop(&w);
}

static void choices_share_the_prompts_pages(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *a = ask(&w, 1000, 20, 8);
    a->drop_choice = UINT32_MAX;
    uint32_t most = 0;
    add(&w, a);
    while (!a->done) {
        assert_true(engine_step(w.e));
        if (engine_stats(w.e)->pages_used > most) most = engine_stats(w.e)->pages_used;
    }
    assert_int_equal(engine_stats(w.e)->prompt_tokens_computed, 1000);
    assert_true(most <= 7 + 8); /* seven full blocks in common, the last of each its own */
    for (uint32_t c = 0; c < 8; c++) check_answer(a, c);
    stop(&w);
}

static void cancel_frees_pages_at_once(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *a = ask(&w, 3000, 50, 1);
    add(&w, a);
    assert_true(engine_step(w.e)); /* in the middle of the first chunk */
    assert_true(engine_stats(w.e)->pages_used > 0);
    engine_cancel(w.e, &a->lent, ENGINE_CANCEL_LEFT);
    assert_true(a->done);
    assert_int_equal(engine_stats(w.e)->pages_used, 0);
    assert_int_equal(engine_stats(w.e)->finished[STATS_FINISH_ABORT], 1);
    stop(&w);
}

static void cancel_frees_pages_of_a_chunk_that_others_share(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *stays = ask(&w, 300, 20, 1), *leaves = ask(&w, 200, 20, 1), *next;
    leaves->r.prompt[0] = 5; /* nothing in common */
    add(&w, stays);
    add(&w, leaves);
    assert_true(engine_step(w.e)); /* 20 ms alone: both in one chunk of 500 rows, half of it */
    w.x.o.row_ns = 1000000;
    uint32_t used = engine_stats(w.e)->pages_used;
    assert_int_equal(used, 3 + 2);
    engine_cancel(w.e, &leaves->lent, ENGINE_CANCEL_LEFT);
    assert_true(leaves->done);
    assert_int_equal(engine_stats(w.e)->pages_used, 3);
    next = ask(&w, 140, 20, 1); /* takes the pages while the chunk still computes */
    next->r.prompt[0] = 6;
    run(&w);
    check_answer(stays, 0);
    check_answer(next, 0);
    stop(&w);
}

static void streams_keep_their_pace_while_a_prompt_is_computed(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(300, 8);
    start(&w, &x, &plain);
    for (int i = 0; i < 7; i++) ask(&w, 20, 200, 1);
    for (int i = 0; i < 7; i++) add(&w, &w.v[i]);
    for (int i = 0; i < 20; i++) assert_true(engine_step(w.e));
    double alone = engine_stats(w.e)->step_s;
    struct asked *a = ask(&w, 4000, 2, 1); /* 80 ms of rows, a step is 1.14 ms */
    add(&w, a);
    double most = 0;
    while (a->n_tokens[0] == 0) {
        assert_true(engine_step(w.e));
        if (engine_stats(w.e)->step_s > most) most = engine_stats(w.e)->step_s;
    }
    assert_true(most < 2 * alone);
    run(&w);
    stop(&w);
}

static void batch_shrinks_until_the_target_holds(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(300, 16);
    x.row_ns = 500000; /* 1 ms + 0.5 ms a sequence: 5 ms hold eight */
    x.rows_max = 16 * 2 + 32;
    struct engine_options o = plain;
    o.max_num_seqs = 16;
    o.tpot_ms = 5;
    start(&w, &x, &o);
    for (int i = 0; i < 40; i++) ask(&w, 1, 100, 1);
    for (int i = 0; i < 40; i++) add(&w, &w.v[i]);
    uint32_t most = 0;
    for (int i = 0; i < 400; i++) {
        assert_true(engine_step(w.e));
        if (engine_stats(w.e)->running > most) most = engine_stats(w.e)->running;
    }
    assert_true(most >= 6 && most <= 9);
    assert_true(engine_stats(w.e)->step_s <= 0.0055);
    run(&w);
    stop(&w);
}

static void a_low_priority_does_not_starve(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 1);
    struct engine_options o = plain;
    o.max_num_seqs = 1;
    x.step_ns = 500000000;
    start(&w, &x, &o);
    struct asked *low = ask(&w, 10, 5, 1);
    low->r.priority = 5;
    for (uint64_t i = 0; i < 30; i++) /* a step is half a second: 10 s each, one every 9 s */
        ask(&w, 10, 20, 1)->arrives_ns = i * UINT64_C(9000000000);
    run(&w);
    uint32_t later = 0;
    for (uint32_t i = 1; i < w.n; i++) later += w.v[i].first_ns > low->first_ns;
    assert_true(later > 20);
    stop(&w);
}

static void an_admitted_prompt_does_not_starve(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(400, 8);
    x.row_ns = 2000000; /* a chunk of 512 rows takes a second */
    start(&w, &x, &plain);
    struct asked *low = ask(&w, 600, 2, 1);
    low->r.priority = 5;
    for (uint64_t i = 0; i < 40; i++) {
        struct asked *a = ask(&w, 1024, 1, 1);
        a->arrives_ns = i * UINT64_C(2000000000);
        a->r.prompt[0] = (uint32_t)i; /* nothing is found */
    }
    run(&w);
    assert_true(low->first_ns < UINT64_C(45000000000));
    stop(&w);
}

static void of_those_that_come_together_the_shorter_prompt_goes_first(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(400, 8);
    static const uint32_t lens[] = {900, 600, 700, 650}, rank[] = {2, 0, 1, 3};
    struct asked *in_order[4];
    start(&w, &x, &plain);
    for (uint32_t i = 0; i < 4; i++) {
        struct asked *a = in_order[rank[i]] = ask(&w, lens[i], 2, 1);
        a->r.prompt[0] = i;               /* nothing is found */
        if (i == 3) a->arrives_ns = 1000; /* while others are computed, whom it does not pass */
    }
    run(&w);
    for (uint32_t i = 1; i < 4; i++) assert_true(in_order[i - 1]->first_ns < in_order[i]->first_ns);
    stop(&w);
}

static void what_cannot_be_computed_is_refused(void **state) {
    (void)state;
    static struct world w;
    struct err err;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *a = ask(&w, 10, 10, 1);
    strcpy(a->r.model_id, "other");
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    strcpy(a->r.model_id, "stand-in");
    a->r.prompt[3] = VOCAB;
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    a->r.prompt[3] = 0;
    a->r.max_tokens = MODEL_LEN;
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    a->r.max_tokens = 10;
    a->r.roles[0].len = 9;
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    a->r.roles[0] = (struct role_run){10, (enum token_role)7};
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    a->r.roles[0].role = ROLE_PROMPT;
    a->r.n_stop_ids = REQUEST_STOP_IDS_MAX + 1;
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    a->r.n_stop_ids = 0;
    memset(a->r.salt, 'a', sizeof a->r.salt);
    assert_int_equal(engine_add(w.e, &a->r, &sink, a, 0, &err), ST_INVALID);
    memset(a->r.salt, 0, sizeof a->r.salt);
    assert_false(engine_step(w.e));
    stop(&w);
}

static void a_record_goes_on_where_it_stands(void **state) {
    (void)state;
    static struct world w;
    struct standin_options x = standin_of(200, 8);
    start(&w, &x, &plain);
    struct asked *a = ask(&w, 200, 40, 1), *b = ask(&w, 200, 40, 1);
    add(&w, a);
    while (!a->done) assert_true(engine_step(w.e));
    b->r.choices[0].n_ids = 15;
    b->n_tokens[0] = 15;
    memcpy(b->r.choices[0].ids, a->r.choices[0].ids, 15 * sizeof(uint32_t));
    memcpy(b->got[0], a->got[0], 15 * sizeof *b->got[0]);
    add(&w, b);
    run(&w);
    check_answer(b, 0);
    assert_int_equal(b->n_tokens[0], 40);
    stop(&w);
}

/* FLAT=N: that many requests (make soak runs 100,000). */
static void memory_stays_flat_over_thousands_of_requests(void **state) {
    (void)state;
    static struct world w;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    print_message("# a sanitizer's own memory grows\n");
    skip();
#endif
    const char *many = getenv("FLAT");
    uint32_t n = many ? (uint32_t)strtoul(many, NULL, 10) : 5000, third = 0;
    struct standin_options x = standin_of(engine_pages_min(MODEL_LEN) + 40, 8);
    struct engine_options o = plain;
    struct rng g = {1};
    o.speculate = SPECULATE_AUTO;
    start(&w, &x, &o);
    uint64_t rss[2] = {0, 0};
    for (uint32_t done = 0; done < n; done += w.n) {
        for (w.n = 0; w.n < 40; w.n++) {
            random_request(&w.v[w.n], w.n, 9, &g);
            w.v[w.n].arrives_ns += w.x.now_ns;
            if (w.v[w.n].cancel_ns) w.v[w.n].cancel_ns += w.x.now_ns;
            if (w.v[w.n].r.max_tokens > 20) w.v[w.n].r.max_tokens = 20;
        }
        run(&w);
        for (uint32_t i = 0; i < w.n; i++) asked_release(&w.v[i]);
        if (done < n / 3) third = done;
        if (done <= third || done + w.n >= n) rss[done + w.n >= n] = rss_bytes();
    }
    w.n = 0;
    assert_true(rss[1] < rss[0] + (2 << 20));
    stop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_prompt_twice_computes_only_the_last_block),
        cmocka_unit_test(second_turn_hits_every_full_block_of_the_first_answer_included),
        cmocka_unit_test(tenant_salt_and_model_keep_blocks_apart),
        cmocka_unit_test(choices_share_the_prompts_pages),
        cmocka_unit_test(cancel_frees_pages_at_once),
        cmocka_unit_test(cancel_frees_pages_of_a_chunk_that_others_share),
        cmocka_unit_test(streams_keep_their_pace_while_a_prompt_is_computed),
        cmocka_unit_test(batch_shrinks_until_the_target_holds),
        cmocka_unit_test(a_low_priority_does_not_starve),
        cmocka_unit_test(an_admitted_prompt_does_not_starve),
        cmocka_unit_test(of_those_that_come_together_the_shorter_prompt_goes_first),
        cmocka_unit_test(what_cannot_be_computed_is_refused),
        cmocka_unit_test(a_record_goes_on_where_it_stands),
        cmocka_unit_test(memory_stays_flat_over_thousands_of_requests),
        cmocka_unit_test(random_histories_give_each_request_its_one_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench handover: KV from one process to another, as a decode worker takes it over
 * (cluster/pull.h), beside memcpy of the same pieces in the same run; the same copied and hashed in
 * tiles, as blocks of the pool are; and what a running transfer does to decoding on another core,
 * beside what an equal memcpy does to it. */
#include "cli/bench_handover.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/percentile.h"
#include "bus/shm.h"
#include "cli/bench_model.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cluster/proto.h"
#include "cluster/pull.h"
#include "pool/sum.h"

enum { ROUNDS = 15, PAGES = 8, FLIGHT = 1, EPOCH = 1, PAIRS = 9, STEPS = 24 };

/* A page of DeepSeek-R1 in BF16: 61 layers and the MTP's of 128 rows of 1,152 bytes, and a hidden
 * state. */
static const struct block_shape r1 = {
    .n_layers = 62, .layer_bytes = 147456, .tail_bytes = 7168 * 4};
static const uint8_t secret[] = "bench handover, one machine";

struct handover_args {
    uint32_t layers;
    bool json;
};

struct handover {
    char dir[64], address[2][96];
    pid_t owner;
    struct bus *bus;
    bus_id peer, pages, board;
    struct puller *puller;
    uint8_t *to, *from; /* [paged_bytes]: where rows go; plain memory to copy from */
    uint32_t table[PAGES];
    struct pull_page source[PAGES];
};

/* --- the other process ------------------------------------------------------------------------ */

static struct bus_identity identity(const char *name) {
    struct bus_identity i = {.hello = {PROTO_PEER_WORKER}, .hello_len = 1};
    snprintf(i.name, sizeof i.name, "%s", name);
    return i;
}

static enum st open_bus(struct bus **out, const char *address, const char *name, struct err *err) {
    struct shm_options o = {.address = address,
                            .secret = secret,
                            .secret_len = sizeof secret,
                            .identity = identity(name),
                            .peer_timeout_ms = 60000};
    return shm_bus_new(out, &o, err);
}

/* Shares its pages with whoever comes, until it is killed. */
static enum st own(const char *address, struct err *err) {
    struct bus *bus;
    bus_id pages, board;
    void *memory, *head;
    uint32_t entry = proto_entry_bytes(block_parts(&r1), 0);
    enum st st = open_bus(&bus, address, "owner", err);
    if (!st)
        st = bus_segment_new(bus, paged_bytes(&r1, PAGES), BUS_PEERS_READ, &pages, &memory, err);
    if (!st)
        st = bus_segment_new(bus, proto_entry_at(1, entry), BUS_PEERS_READ, &board, &head, err);
    if (st) return st;
    memset(memory, 0x5a, block_bytes(&r1) * PAGES);
    *(uint64_t *)head = EPOCH;
    *(uint64_t *)(void *)((uint8_t *)head + proto_entry_at(0, entry)) = FLIGHT;
    for (;;) {
        struct bus_event ev;
        while (bus_next(bus, &ev)) {
            if (ev.kind != BUS_UP) continue;
            st = bus_share(bus, ev.peer, pages, PROTO_SEGMENT_PAGES);
            if (!st) st = bus_share(bus, ev.peer, board, PROTO_SEGMENT_BOARD);
            if (st) return err_set(err, st, "bench: cannot share a segment");
        }
        bus_wait(bus, bus_now(bus) + 100000000);
    }
}

static enum st start_owner(struct handover *h, struct err *err) {
    snprintf(h->dir, sizeof h->dir, "/tmp/supernode-bench-XXXXXX");
    if (!mkdtemp(h->dir)) return err_set(err, ST_IO, "%s: %s", h->dir, strerror(errno));
    snprintf(h->address[0], sizeof h->address[0], "%s/owner.sock", h->dir);
    snprintf(h->address[1], sizeof h->address[1], "%s/reader.sock", h->dir);
    h->owner = fork();
    if (h->owner < 0) return err_set(err, ST_IO, "bench: cannot fork: %s", strerror(errno));
    if (h->owner > 0) return ST_OK;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (own(h->address[0], err)) fprintf(stderr, "supernode: %s\n", err->text);
    _exit(1);
}

static enum st meet(struct handover *h, struct err *err) {
    uint64_t until = clock_now_ns() + UINT64_C(5000000000);
    enum st st = open_bus(&h->bus, h->address[1], "reader", err);
    while (!st && !(h->pages && h->board)) {
        struct bus_event ev;
        if (!h->peer) h->peer = bus_connect(h->bus, h->address[0]);
        while (bus_next(h->bus, &ev)) {
            if (ev.kind == BUS_REFUSED) h->peer = 0; /* its socket is not there yet */
            if (ev.kind != BUS_SEGMENT) continue;
            *(ev.value == PROTO_SEGMENT_PAGES ? &h->pages : &h->board) = ev.segment;
        }
        if (clock_now_ns() > until)
            return err_set(err, ST_TIMEOUT, "bench: the other process does not answer");
        bus_wait(h->bus, bus_now(h->bus) + 2000000);
    }
    return st;
}

static void *map_memory(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    memset(p, 1, bytes);
    return p;
}

static enum st open_all(struct handover *h, struct err *err) {
    size_t bytes = paged_bytes(&r1, PAGES);
    enum st st = start_owner(h, err);
    if (!st) st = meet(h, err);
    if (st) return st;
    h->to = map_memory(bytes);
    h->from = map_memory(bytes);
    if (!h->to || !h->from) return err_set(err, ST_NO_MEMORY, "bench: out of memory");
    for (uint32_t i = 0; i < PAGES; i++) h->table[i] = h->source[i].page = i;
    return puller_new(&h->puller, h->bus, &r1, h->to, PAGES, 0, 0, err);
}

static void close_all(struct handover *h) {
    size_t bytes = paged_bytes(&r1, PAGES);
    puller_free(h->puller);
    bus_free(h->bus);
    if (h->owner > 0) {
        kill(h->owner, SIGKILL);
        waitpid(h->owner, NULL, 0);
    }
    if (h->to) munmap(h->to, bytes);
    if (h->from) munmap(h->from, bytes);
    unlink(h->address[0]);
    rmdir(h->dir);
}

/* --- ways to copy all pages ------------------------------------------------------------------- */

static bool by_pull(struct handover *h, struct bus_queue *q) {
    struct pull_source from = {
        .pages = h->pages, .board = h->board, .n_pages = PAGES, .flight = FLIGHT, .epoch = EPOCH};
    const void *state;
    bool ok = false;
    (void)q;
    struct pull *u = pull_begin(h->puller, &from, h->table, PAGES, 0, PAGES * KV_PAGE_TOKENS);
    if (!u || pull_table(u, h->source, PAGES, true)) return false;
    while (!pull_over(u, &ok, &state)) (void)puller_copy(h->puller);
    pull_free(u);
    return ok;
}

static bool by_memcpy(struct handover *h, struct bus_queue *q) {
    (void)q;
    for (uint32_t part = 0; part < block_parts(&r1); part++)
        for (uint32_t page = 0; page < PAGES; page++) {
            uint64_t at = paged_at(&r1, PAGES, part, page);
            memcpy(h->to + at, h->from + at, block_part_bytes(&r1, part));
        }
    return true;
}

static bool by_sum(struct handover *h, struct bus_queue *q) {
    for (uint32_t part = 0; part < block_parts(&r1); part++)
        for (uint32_t page = 0; page < PAGES; page++) {
            struct sum sum;
            uint64_t at = paged_at(&r1, PAGES, part, page);
            if (piece_copy(q, h->pages, at, h->to + at, block_part_bytes(&r1, part), &sum))
                return false;
        }
    return true;
}

enum way { WAY_MEMCPY, WAY_PULL, WAY_SUM, WAYS };
typedef bool way_fn(struct handover *h, struct bus_queue *q);
static way_fn *const ways[WAYS] = {by_memcpy, by_pull, by_sum};

/* Seconds for all pages, the ways taking turns; shares are medians of ratios within a round. */
static enum st measure_copies(struct handover *h, double gbs[WAYS], double share[WAYS],
                              struct err *err) {
    double s[WAYS][ROUNDS], ratio[ROUNDS], bytes = (double)block_bytes(&r1) * PAGES;
    struct bus_queue *q;
    enum st st = bus_queue_new(h->bus, &q, err);
    if (st) return st;
    for (uint32_t i = 0; i <= ROUNDS && !st; i++) /* the first touches the pages */
        for (uint32_t w = 0; w < WAYS && !st; w++) {
            uint64_t t0 = clock_now_ns();
            if (!ways[w](h, q)) st = err_set(err, ST_GONE, "bench: a copy failed");
            if (i > 0) s[w][i - 1] = (double)(clock_now_ns() - t0) / 1e9;
        }
    for (uint32_t w = 0; w < WAYS && !st; w++) {
        for (uint32_t i = 0; i < ROUNDS; i++) ratio[i] = s[WAY_MEMCPY][i] / s[w][i];
        share[w] = percentile_middle(ratio, ROUNDS);
    }
    for (uint32_t w = 0; w < WAYS && !st; w++)
        gbs[w] = bytes / percentile_middle(s[w], ROUNDS) / 1e9;
    bus_queue_free(q);
    return st;
}

/* --- beside decoding -------------------------------------------------------------------------- */

static void pin(uint32_t core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    (void)!sched_setaffinity(0, sizeof set, &set);
}

struct beside {
    struct handover *h;
    uint32_t core;
    atomic_int way; /* enum way; WAYS: nothing, -1: end */
    atomic_uint_least64_t rounds;
};

static void *beside_main(void *arg) {
    struct beside *b = arg;
    pin(b->core);
    for (;;) {
        int way = atomic_load(&b->way);
        if (way < 0) return NULL;
        if (way == WAYS)
            usleep(200);
        else if (ways[way](b->h, NULL))
            atomic_fetch_add(&b->rounds, 1);
    }
}

/* Median step of a stretch of decoding with this going on beside it; gbs: what the other moved. */
static double decode_beside(struct bench *m, struct beside *b, int way, uint32_t *pos,
                            double *gbs) {
    double s[STEPS];
    atomic_store(&b->way, way);
    usleep(20000);
    uint64_t rounds = atomic_load(&b->rounds), begun = clock_now_ns();
    for (uint32_t i = 0; i < STEPS; i++) {
        uint64_t t0 = clock_now_ns();
        bench_step(m, 0, m->a->batch, m->a->prefill + (*pos)++ % m->a->decode, 1, ROLE_GENERATED);
        s[i] = (double)(clock_now_ns() - t0) / 1e9;
    }
    *gbs = (double)(atomic_load(&b->rounds) - rounds) * (double)block_bytes(&r1) * PAGES /
           (double)(clock_now_ns() - begun);
    atomic_store(&b->way, WAYS);
    return percentile_middle(s, STEPS);
}

struct moves {
    double quiet_ms, pull, hog, pull_gbs, hog_gbs;
};

/* Pairs of stretches: beside nothing, a transfer, a hog, in turn. How much each moves the median
 * step against the quiet one before it. */
static enum st measure_moves(struct handover *h, struct bench *m, struct moves *out,
                             struct err *err) {
    cpu_set_t allowed;
    uint32_t cores[2], n = 0, pos = 0;
    double quiet[PAIRS], pull[PAIRS], hog[PAIRS], gbs[2][PAIRS], none;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (uint32_t i = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET(i, &allowed)) cores[n++] = i;
    if (n < 2)
        return err_set(err, ST_UNSUPPORTED, "bench: decoding beside transfers takes two cores");
    struct beside b = {.h = h, .core = cores[1]};
    pthread_t thread;
    atomic_init(&b.way, WAYS);
    pin(cores[0]);
    if (pthread_create(&thread, NULL, beside_main, &b))
        return err_set(err, ST_IO, "bench: cannot start a thread");
    bench_step(m, 0, m->a->batch, 0, m->a->prefill, ROLE_PROMPT);
    (void)decode_beside(m, &b, WAYS, &pos, &none);
    for (uint32_t i = 0; i < PAIRS; i++) {
        quiet[i] = decode_beside(m, &b, WAYS, &pos, &none);
        pull[i] = decode_beside(m, &b, WAY_PULL, &pos, &gbs[0][i]) / quiet[i] - 1;
        hog[i] = decode_beside(m, &b, WAY_MEMCPY, &pos, &gbs[1][i]) / quiet[i] - 1;
    }
    atomic_store(&b.way, -1);
    pthread_join(thread, NULL);
    sched_setaffinity(0, sizeof allowed, &allowed);
    *out = (struct moves){.quiet_ms = percentile_middle(quiet, PAIRS) * 1e3,
                          .pull = percentile_middle(pull, PAIRS),
                          .hog = percentile_middle(hog, PAIRS),
                          .pull_gbs = percentile_middle(gbs[0], PAIRS),
                          .hog_gbs = percentile_middle(gbs[1], PAIRS)};
    return ST_OK;
}

/* --- the command ------------------------------------------------------------------------------ */

static void report(const struct bench *m, const double gbs[WAYS], const double share[WAYS],
                   const struct moves *v, bool json) {
    if (json) {
        json_t *o =
            json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "cpu", m->limits.cpu,
                      "memcpy_gbs", gbs[WAY_MEMCPY], "pull_gbs", gbs[WAY_PULL], "pull_share",
                      share[WAY_PULL], "sum_gbs", gbs[WAY_SUM], "sum_share", share[WAY_SUM],
                      "decode_quiet_ms", v->quiet_ms, "moved_by_pull", v->pull, "moved_by_memcpy",
                      v->hog, "beside_pull_gbs", v->pull_gbs, "beside_memcpy_gbs", v->hog_gbs);
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("cpu        %s, %.1f GB/s read\n", m->limits.cpu, m->limits.read_gbs);
    printf("blocks     of DeepSeek-R1: %u pages of %u layers of %u bytes, %.1f MB\n", PAGES,
           r1.n_layers, r1.layer_bytes, (double)block_bytes(&r1) * PAGES / 1e6);
    printf("memcpy     %.1f GB/s\n", gbs[WAY_MEMCPY]);
    printf("hand-over  %.1f GB/s = %.2f of it (bar 0.80)\n", gbs[WAY_PULL], share[WAY_PULL]);
    printf("and hash   %.1f GB/s = %.2f of it (bar 0.65), in tiles of %d KiB\n", gbs[WAY_SUM],
           share[WAY_SUM], PIECE_TILE_BYTES >> 10);
    printf(
        "decode     %.2f ms a step on a core of its own; beside a transfer of %.1f GB/s %+.1f%%, "
        "beside memcpy of %.1f GB/s %+.1f%% (bar: 5%% more)\n",
        v->quiet_ms, v->pull_gbs, 100 * v->pull, v->hog_gbs, 100 * v->hog);
}

static enum st run(struct handover *h, struct bench *m, bool json, struct err *err) {
    double gbs[WAYS], share[WAYS];
    struct moves moves = {0};
    enum st st = open_all(h, err); /* before threads: it forks */
    if (!st) st = bench_make(m, err);
    if (!st) st = measure_copies(h, gbs, share, err);
    if (!st) st = measure_moves(h, m, &moves, err);
    if (!st) report(m, gbs, share, &moves, json);
    return st;
}

int cli_bench_handover(int argc, char **argv) {
    struct handover_args a = {.layers = 4};
    const struct flag flags[] = {
        {"layers", "N", FLAG_U32, &a.layers, 1, 27,
         "layers of the V2-Lite geometry that decodes beside it (default 4, 1.1 GB each)", false},
        {"json", NULL, FLAG_BOOL, &a.json, 0, 0, "the result as a JSON object", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench handover",
        .what = "Measures KV from process to process beside memcpy, and what it does to decoding.",
        .usage = "supernode bench handover [flags]",
        .example = "supernode bench handover --layers 2",
        .flags = flags,
    };
    struct err err;
    enum flag_result result;
    if (flags_parse(&result, &cmd, argc, argv, NULL, &err)) return cli_fail(CLI_USAGE, &err);
    if (result == FLAG_HELP_SHOWN) return 0;
    struct bench_args model = {
        .layers = a.layers, .threads = 1, .prefill = 128, .decode = 256, .batch = 1};
    struct bench m = {.a = &model};
    struct handover h = {0};
    enum st st = run(&h, &m, a.json, &err);
    bench_release(&m);
    close_all(&h);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}

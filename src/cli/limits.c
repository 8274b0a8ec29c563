/* SPDX-License-Identifier: Apache-2.0 */
/* Implements limits.h: loops that do nothing but read, and nothing but multiply and add. Intrinsics
 * with a target of their own, since this file is built for the baseline. */
#include "cli/limits.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

enum { RUNS = 5, FMA_ROUNDS = 4000000, ACCUMULATORS = 24, SPIN_MAX = 100000, HOPS_NS = 10000000 };
static const size_t read_bytes = (size_t)1 << 30;

struct burn {
    const uint8_t *data;
    size_t bytes_each;
    float (*fma)(uint32_t rounds);
    float sink[1024]; /* so that no loop can be left out */
};

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static float fma_avx512(uint32_t rounds) {
    __m512 a[ACCUMULATORS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    for (int i = 0; i < ACCUMULATORS; i++) a[i] = _mm512_set1_ps((float)i);
    for (uint32_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < ACCUMULATORS; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    float sum = 0;
    for (int i = 0; i < ACCUMULATORS; i++) sum += _mm512_reduce_add_ps(a[i]);
    return sum;
}

/* 12 accumulators: 16 registers hold them and the factors, and 10 are enough for 5 cycles at 2 a
 * cycle. */
__attribute__((target("avx2,fma"))) static float fma_avx2(uint32_t rounds) {
    enum { N = ACCUMULATORS / 2 };
    __m256 a[N], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int i = 0; i < N; i++) a[i] = _mm256_set1_ps((float)i);
    for (uint32_t r = 0; r < 2 * rounds; r++)
#pragma GCC unroll 12
        for (int i = 0; i < N; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
    float sum = 0;
    for (int i = 0; i < N; i++) sum += _mm256_cvtss_f32(a[i]);
    return sum;
}

static float (*widest_fma(const char **isa, uint32_t *lanes))(uint32_t) {
    bool wide = __builtin_cpu_supports("avx512f");
    *isa = wide ? "avx512" : "avx2";
    *lanes = wide ? 16 : 8;
    return wide ? fma_avx512 : fma_avx2;
}
#elif defined(__aarch64__)
#include <arm_neon.h>

static float fma_neon(uint32_t rounds) {
    float32x4_t a[ACCUMULATORS], x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
    for (int i = 0; i < ACCUMULATORS; i++) a[i] = vdupq_n_f32((float)i);
    for (uint32_t r = 0; r < rounds; r++)
#pragma GCC unroll 24
        for (int i = 0; i < ACCUMULATORS; i++) a[i] = vfmaq_f32(y, a[i], x);
    float sum = 0;
    for (int i = 0; i < ACCUMULATORS; i++) sum += vaddvq_f32(a[i]);
    return sum;
}

static float (*widest_fma(const char **isa, uint32_t *lanes))(uint32_t) {
    *isa = "neon";
    *lanes = 4;
    return fma_neon;
}
#endif

typedef uint64_t read_vec __attribute__((vector_size(64), aligned(64)));

/* Prefetches by hand, as the kernels do: the hardware's own prefetchers stop at each 4 KiB page. */
static void read_part(void *ctx, uint32_t tile, uint32_t thread) {
    enum { AHEAD = 12288 };
    struct burn *b = ctx;
    (void)thread;
    const uint8_t *p = b->data + tile * b->bytes_each;
    read_vec s[4] = {{0}};
    for (size_t i = 0; i < b->bytes_each; i += sizeof s) {
        const read_vec *v = (const read_vec *)(const void *)(p + i);
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch(p + i + AHEAD + j * sizeof *v);
            s[j] |= v[j];
        }
    }
    b->sink[tile] = (float)(s[0] | s[1] | s[2] | s[3])[0];
}

static void fma_part(void *ctx, uint32_t tile, uint32_t thread) {
    struct burn *b = ctx;
    (void)thread;
    b->sink[tile] = b->fma(FMA_ROUNDS);
}

/* A counter goes round: each tile, which has a thread to itself, adds one when it is its turn. */
struct hops {
    uint32_t n;
    atomic_uint_least64_t at; /* HOPS_OVER: stop */
    uint64_t for_ns;
    double least_ns;
};
#define HOPS_OVER UINT64_MAX

static void hop(struct hops *h, uint32_t tile) {
    uint64_t begun = 0, at;
    for (uint64_t mine = tile;; mine += h->n) {
        for (uint32_t spins = 1; (at = atomic_load_explicit(&h->at, memory_order_acquire)) != mine;
             spins++) {
            if (at == HOPS_OVER) return;
            /* whose turn it is may wait for this core */
            if (spins % SPIN_MAX == 0) sched_yield();
        }
        uint64_t now = tile == 0 ? clock_now_ns() : 0;
        if (mine == 0) begun = now;
        if (tile == 0 && now - begun > h->for_ns) {
            double ns = (double)(now - begun) / (double)mine;
            if (!(h->least_ns > 0) || ns < h->least_ns) h->least_ns = ns;
            atomic_store_explicit(&h->at, HOPS_OVER, memory_order_release);
            return;
        }
        atomic_store_explicit(&h->at, mine + 1, memory_order_release);
    }
}

/* Each on a core of its own, where there are as many, even if others compute there. */
static void hop_part(void *ctx, uint32_t tile, uint32_t thread) {
    cpu_set_t allowed, one;
    (void)thread;
    bool known = sched_getaffinity(0, sizeof allowed, &allowed) == 0;
    uint32_t nth = known ? tile % (uint32_t)CPU_COUNT(&allowed) : 0;
    for (int core = 0; known && core < CPU_SETSIZE; core++) {
        if (!CPU_ISSET(core, &allowed) || nth-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(core, &one);
        (void)sched_setaffinity(0, sizeof one, &one);
        break;
    }
    hop(ctx, tile);
    if (known) (void)sched_setaffinity(0, sizeof allowed, &allowed);
}

double limits_hop_ns(struct team *team, uint64_t for_ns) {
    struct hops h = {.n = team_size(team), .for_ns = for_ns / RUNS};
    for (int i = 0; i < RUNS && h.n > 1; i++) {
        h.at = 0;
        team_run(team, hop_part, &h, h.n);
    }
    return h.least_ns;
}

/* Seconds of the fastest of RUNS, one tile a thread. */
static double best(struct team *team, team_fn *fn, struct burn *b) {
    double least = 1e9;
    for (int i = 0; i < RUNS; i++) {
        uint64_t t0 = clock_now_ns();
        team_run(team, fn, b, team_size(team));
        double s = (double)(clock_now_ns() - t0) / 1e9;
        if (s < least) least = s;
    }
    return least;
}

static void read_cpu(char *out, size_t size) {
    char line[256];
    snprintf(out, size, "unknown processor");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

enum st limits_measure(struct limits *out, struct team *team, struct err *err) {
    uint32_t n = team_size(team), lanes;
    struct burn b = {.bytes_each = read_bytes / n / 4096 * 4096};
    void *map = mmap(NULL, read_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return err_set(err, ST_NO_MEMORY, "bench: cannot map 1 GiB: %s", strerror(errno));
    madvise(map, read_bytes, MADV_HUGEPAGE); /* as the random weights */
    memset(map, 1, read_bytes);
    b.data = map;
    read_cpu(out->cpu, sizeof out->cpu);
    double read_gbs = (double)(b.bytes_each * n) / best(team, read_part, &b) / 1e9;
    if (read_gbs > out->read_gbs) out->read_gbs = read_gbs;
    b.fma = widest_fma(&out->fma_isa, &lanes);
    double gflops = 2.0 * lanes * ACCUMULATORS * FMA_ROUNDS * n / best(team, fma_part, &b) / 1e9;
    if (gflops > out->fma_gflops) out->fma_gflops = gflops;
    double hop = limits_hop_ns(team, HOPS_NS);
    if (!(out->hop_ns > 0) || hop < out->hop_ns) out->hop_ns = hop;
    munmap(map, read_bytes);
    return ST_OK;
}

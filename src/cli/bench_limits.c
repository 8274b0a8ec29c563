/* SPDX-License-Identifier: Apache-2.0 */
/* supernode bench limits: what this machine can do at most (limits.h), alone, for scripts that stand
 * figures of their own beside it. */
#include "cli/bench_limits.h"

#include <stdio.h>
#include <unistd.h>

#include <jansson.h>

#include "base/turn.h"
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/limits.h"

static void print(const struct limits *l, uint32_t threads, bool json) {
    if (json) {
        json_t *o = json_pack("{s:s,s:i,s:f,s:f,s:s,s:f}", "cpu", l->cpu, "threads", (int)threads,
                              "read_gbs", l->read_gbs, "fma_gflops", l->fma_gflops, "fma_isa",
                              l->fma_isa, "hop_ns", l->hop_ns);
        json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
        return;
    }
    printf("cpu        %s, %u threads\n", l->cpu, threads);
    printf("limits     %.1f GB/s read, %.0f GFLOP/s of F32 FMA (%s)\n", l->read_gbs, l->fma_gflops,
           l->fma_isa);
    printf("threads    %.0f ns for a cache line from one to the next\n", l->hop_ns);
}

/* Beside whatever else computes, of which it takes some thousandths; until interrupted. */
static void watch(struct team *team) {
    for (;;) {
        printf("%.0f\n", limits_hop_ns(team, LIMITS_BESIDE_NS));
        fflush(stdout);
        usleep(LIMITS_BESIDE_EVERY_US);
    }
}

int cli_bench_limits(int argc, char **argv) {
    uint32_t threads = 0;
    bool json = false, watches = false;
    const struct flag flags[] = {
        {"threads", "N", FLAG_U32, &threads, 0, 1024,
         "threads to measure with (default 0: every core allowed)", false},
        {"watch", NULL, FLAG_BOOL, &watches, 0, 0,
         "prints how far apart the cores are in ns, five times a second, beside what else computes",
         false},
        {"json", NULL, FLAG_BOOL, &json, 0, 0, "the result as a JSON object", false},
        {NULL, NULL, FLAG_BOOL, NULL, 0, 0, NULL, false},
    };
    const struct flag_command cmd = {
        .name = "bench limits",
        .what =
            "Measures what this machine can do at most: reading memory, multiplying and adding, "
            "and how far apart its cores are.",
        .usage = "supernode bench limits [flags]",
        .example = "supernode bench limits --threads 2",
        .flags = flags,
    };
    struct err err;
    enum flag_result result;
    struct limits l = {0};
    struct team *team;
    enum st st = flags_parse(&result, &cmd, argc, argv, NULL, &err);
    if (!st && result == FLAG_HELP_SHOWN) return 0;
    if (!st && watches && json)
        st = err_set(&err, ST_INVALID, "bench limits: --watch prints plain numbers, found --json");
    if (st) return cli_fail(CLI_USAGE, &err);
    if (watches) turn_short();
    if (team_new(&team, threads ? threads : team_cores(), &err)) return cli_fail(CLI_FAILED, &err);
    if (watches) watch(team);
    st = limits_measure(&l, team, &err);
    if (!st) print(&l, team_size(team), json);
    team_free(team);
    return st ? cli_fail(CLI_FAILED, &err) : 0;
}

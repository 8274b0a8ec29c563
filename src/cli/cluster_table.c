/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_table.h. */
#include "cli/cluster_table.h"

#include <string.h>

#include "cli/human.h"

/* --- members ---------------------------------------------------------------------------------- */

static double percent(double part, double of) {
    return of > 0 ? 100 * part / of : 0;
}

static void tail_of_worker(FILE *f, const struct member_info *m) {
    const struct member_load *l = &m->load;
    fprintf(f, "%3u running %3u waiting  KV %3.0f%%", l->running, l->waiting,
            percent(l->pages_used, l->pages));
    if (m->role == ROLE_OF_PREFILL)
        fprintf(f, "  %7.0f tok/s  hits %3.0f%%", m->prompt_rate,
                percent((double)l->prompt_cached, (double)l->prompt_tokens));
    else
        fprintf(f, "  %7.0f tok/s  TPOT p50 %.1f ms  p99 %.1f ms", m->token_rate,
                l->tpot_us_p50 / 1e3, l->tpot_us_p99 / 1e3);
}

static void tail_of_pool(FILE *f, const struct member_info *m) {
    char used[32], room[32];
    const struct member_load *l = &m->load;
    fprintf(f, "%s of %s", human_bytes(used, sizeof used, (double)l->bytes_dram),
            human_bytes(room, sizeof room, (double)l->bytes_dram_max));
    if (l->bytes_ssd_max)
        fprintf(f, "  SSD %s of %s", human_bytes(used, sizeof used, (double)l->bytes_ssd),
                human_bytes(room, sizeof room, (double)l->bytes_ssd_max));
}

void cluster_table_members(FILE *f, const struct cluster_view *v) {
    fprintf(f, "%-8s %-12s %-10s %5s %8s  %s\n", "role", "name", "state", "epoch", "process",
            "load");
    for (uint32_t i = 0; i < v->n_members; i++) {
        const struct member_info *m = &v->members[i];
        fprintf(f, "%-8s %-12s %-10s %5llu %8u  ", member_role_name(m->role), m->name,
                member_state_name(m->state), (unsigned long long)m->epoch, m->pid);
        if (m->role == ROLE_OF_POOL)
            tail_of_pool(f, m);
        else
            tail_of_worker(f, m);
        fprintf(f, "\n");
    }
    fprintf(f,
            "requests: %u queued, %u prefilling, %u decoding; %llu finished, %llu failed, %llu "
            "went on elsewhere\n",
            v->queued, v->prefilling, v->decoding, (unsigned long long)v->finished,
            (unsigned long long)v->failed, (unsigned long long)v->moved);
}

/* --- roles ------------------------------------------------------------------------------------ */

struct sum {
    char names[48];
    uint32_t n, ready, tpot_p50, tpot_p99;
    double rate;
    struct member_load load;
};

static void add_name(struct sum *s, const char *name) {
    size_t len = strlen(s->names);
    if (len + strlen(name) + 5 < sizeof s->names)
        snprintf(s->names + len, sizeof s->names - len, len ? " %s" : "%s", name);
    else if (len > 0 && s->names[len - 1] != '.')
        snprintf(s->names + len, sizeof s->names - len, " ...");
}

static struct sum sum_of(const struct cluster_view *v, enum member_role role) {
    struct sum s = {0};
    for (uint32_t i = 0; i < v->n_members; i++) {
        const struct member_info *m = &v->members[i];
        const struct member_load *l = &m->load;
        if (m->role != role) continue;
        add_name(&s, m->name);
        s.n++;
        s.ready += m->state == MEMBER_READY;
        s.rate += role == ROLE_OF_PREFILL ? m->prompt_rate : m->token_rate;
        s.load.pages += l->pages;
        s.load.pages_used += l->pages_used;
        s.load.prompt_tokens += l->prompt_tokens;
        s.load.prompt_cached += l->prompt_cached;
        s.load.prompt_from_pool += l->prompt_from_pool;
        s.load.bytes_dram += l->bytes_dram;
        s.load.bytes_dram_max += l->bytes_dram_max;
        s.load.bytes_ssd += l->bytes_ssd;
        s.load.bytes_ssd_max += l->bytes_ssd_max;
        if (l->tpot_us_p50 > s.tpot_p50) s.tpot_p50 = l->tpot_us_p50;
        if (l->tpot_us_p99 > s.tpot_p99) s.tpot_p99 = l->tpot_us_p99;
    }
    return s;
}

static void begin(FILE *f, enum member_role role, const struct sum *s) {
    char state[32];
    if (s->ready == s->n)
        snprintf(state, sizeof state, "%u ready", s->n);
    else
        snprintf(state, sizeof state, "%u of %u ready", s->ready, s->n);
    fprintf(f, "%-8s %-16s %-13s ", member_role_name(role), s->n ? s->names : "none", state);
}

static void prefill_line(FILE *f, const struct cluster_view *v) {
    struct sum s = sum_of(v, ROLE_OF_PREFILL);
    double all = (double)s.load.prompt_tokens, pool = (double)s.load.prompt_from_pool;
    begin(f, ROLE_OF_PREFILL, &s);
    fprintf(f, "%8.0f tok/s   hits %.0f%%  (pool %.0f%%, own %.0f%%)\n", s.rate,
            percent((double)s.load.prompt_cached, all), percent(pool, all),
            percent((double)s.load.prompt_cached - pool, all));
}

/* Where there are several, the slowest: what a user of it feels. */
static void decode_line(FILE *f, const struct cluster_view *v) {
    struct sum s = sum_of(v, ROLE_OF_DECODE);
    begin(f, ROLE_OF_DECODE, &s);
    fprintf(f, "%8.0f tok/s   ", s.rate);
    if (s.tpot_p50)
        fprintf(f, "TPOT p50 %.1f ms  p99 %.1f ms   ", s.tpot_p50 / 1e3, s.tpot_p99 / 1e3);
    fprintf(f, "pages %.0f%%\n", percent(s.load.pages_used, s.load.pages));
}

static void pool_line(FILE *f, const struct cluster_view *v) {
    char used[32], room[32];
    struct sum s = sum_of(v, ROLE_OF_POOL);
    if (s.n == 0) return;
    begin(f, ROLE_OF_POOL, &s);
    fprintf(f, "%s of %s", human_bytes(used, sizeof used, (double)s.load.bytes_dram),
            human_bytes(room, sizeof room, (double)s.load.bytes_dram_max));
    if (s.load.bytes_ssd_max)
        fprintf(f, "   SSD %s of %s", human_bytes(used, sizeof used, (double)s.load.bytes_ssd),
                human_bytes(room, sizeof room, (double)s.load.bytes_ssd_max));
    fprintf(f, "\n");
}

void cluster_table_roles(FILE *f, const struct cluster_view *v, const char *url) {
    fprintf(f, "%-8s %-30s %8.1f req/s   queue %u\n", "router", url, v->request_rate, v->queued);
    prefill_line(f, v);
    decode_line(f, v);
    pool_line(f, v);
}

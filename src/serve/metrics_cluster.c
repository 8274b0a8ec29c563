/* SPDX-License-Identifier: Apache-2.0 */
/* Implements metrics_cluster.h: tables of name, help and place. */
#include "serve/metrics_cluster.h"

#include <stddef.h>

#include "serve/metrics_text.h"

#define C METRICS_PREFIX "cluster_"
#define H METRICS_PREFIX "handover_"
#define M METRICS_PREFIX "pool_"

struct row {
    const char *name, *type, *help;
    double v;
};

static void rows_write(struct json_out *o, const struct row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        metrics_family(o, rows[i].name, rows[i].type, rows[i].help);
        metrics_sample(o, rows[i].name, "", NULL, NULL, NULL, rows[i].v);
    }
}
#define ROWS_WRITE(o, rows) rows_write((o), (rows), sizeof(rows) / sizeof *(rows))

/* --- the router ------------------------------------------------------------------------------- */

static void member_sample(struct json_out *o, const char *metric, const struct member_info *m,
                          const char *state, double v) {
    json_out_raw(o, metric);
    json_out_raw(o, "{");
    metrics_label(o, "name", m->name);
    json_out_raw(o, ",");
    metrics_label(o, "role", member_role_name(m->role));
    if (state) {
        json_out_raw(o, ",");
        metrics_label(o, "state", state);
    }
    json_out_raw(o, "}");
    metrics_value(o, v);
}

/* A number of struct member_info. */
struct member_row {
    const char *name, *type, *help;
    size_t at, size;
};
#define AT(field) offsetof(struct member_info, field), sizeof(((struct member_info *)0)->field)
static const struct member_row member_rows[] = {
    {C "member_epoch", "gauge", "Epoch that the router issued it.", AT(epoch)},
    {C "member_requests", "gauge", "Requests that the router has there.", AT(flights)},
    {C "member_running", "gauge", "Sequences being computed; of a pool server, its clients.",
     AT(load.running)},
    {C "member_waiting", "gauge", "Sequences that wait to be computed.", AT(load.waiting)},
    {C "member_pages", "gauge", "KV pages; of a pool server, blocks that its DRAM holds.",
     AT(load.pages)},
    {C "member_pages_used", "gauge", "Of them, held.", AT(load.pages_used)},
    {C "member_pages_cached", "gauge", "Of them, free and found again.", AT(load.pages_cached)},
    {C "member_lent", "gauge", "Requests whose pages are lent to a decode worker.", AT(load.lent)},
    {C "member_reserved", "gauge", "Requests for which pages are reserved.", AT(load.reserved)},
    {C "member_prompt_tokens_total", "counter", "Prompt tokens of requests begun there.",
     AT(load.prompt_tokens)},
    {C "member_prompt_cached_tokens_total", "counter", "Of them, found in a cache.",
     AT(load.prompt_cached)},
    {C "member_prompt_pool_tokens_total", "counter", "Of those, found in the memory pool.",
     AT(load.prompt_from_pool)},
    {C "member_computed_tokens_total", "counter", "Prompt tokens computed.",
     AT(load.computed_tokens)},
    {C "member_generated_tokens_total", "counter", "Tokens generated.", AT(load.generated_tokens)},
    {C "member_dram_bytes", "gauge", "DRAM in use of a pool server.", AT(load.bytes_dram)},
    {C "member_ssd_bytes", "gauge", "SSD in use of a pool server.", AT(load.bytes_ssd)},
    {C "member_handovers_total", "counter", "Hand-overs taken in.", AT(load.pulls)},
    {C "member_handovers_failed_total", "counter", "Hand-overs that failed.",
     AT(load.pulls_failed)},
    {C "member_handover_bytes_total", "counter", "Bytes copied by hand-overs.",
     AT(load.pulled_bytes)},
    {C "member_pool_bad_blocks_total", "counter",
     "Blocks found in the pool that were not to be had.", AT(load.pool_bad)},
};

static double number_at(const struct member_info *m, const struct member_row *row) {
    const char *p = (const char *)m + row->at;
    return row->size == sizeof(uint32_t) ? *(const uint32_t *)(const void *)p
                                         : (double)*(const uint64_t *)(const void *)p;
}

static void members_write(struct json_out *o, const struct cluster_view *v) {
    metrics_family(o, C "member", "gauge", "Always 1: a member, its role and its state.");
    for (uint32_t i = 0; i < v->n_members; i++)
        member_sample(o, C "member", &v->members[i], member_state_name(v->members[i].state), 1);
    for (size_t k = 0; k < sizeof member_rows / sizeof *member_rows; k++) {
        const struct member_row *row = &member_rows[k];
        metrics_family(o, row->name, row->type, row->help);
        for (uint32_t i = 0; i < v->n_members; i++)
            member_sample(o, row->name, &v->members[i], NULL, number_at(&v->members[i], row));
    }
}

void metrics_cluster(struct json_out *o, const struct cluster_view *v) {
    const struct row rows[] = {
        {C "epoch", "gauge", "The highest epoch issued.", (double)v->epoch},
        {C "requests_queued", "gauge", "Requests that wait for a worker.", v->queued},
        {C "requests_prefilling", "gauge", "Requests at a prefill worker.", v->prefilling},
        {C "requests_decoding", "gauge", "Requests at a decode worker.", v->decoding},
        {C "requests_total", "counter", "Requests taken in.", (double)v->requests},
        {C "requests_failed_total", "counter", "Requests that could not go on.", (double)v->failed},
        {C "requests_moved_total", "counter", "Times that a request went on elsewhere.",
         (double)v->moved},
        {H "requests_total", "counter", "Requests handed over.", (double)v->handovers},
        {H "tokens_total", "counter", "Tokens whose KV was handed over.",
         (double)v->handover_tokens},
        {C "joins_total", "counter", "Members that joined.", (double)v->joins},
        {C "deaths_total", "counter", "Members declared dead.", (double)v->deaths},
        {C "drains_total", "counter", "Members that left in order.", (double)v->drains},
        {C "stale_total", "counter", "Messages of older attempts or epochs, refused.",
         (double)v->stale},
    };
    ROWS_WRITE(o, rows);
    members_write(o, v);
}

/* --- members ---------------------------------------------------------------------------------- */

void metrics_member(struct json_out *o, const struct metrics_member *m) {
    const struct row rows[] = {
        {C "ready", "gauge", "1: the router has taken it in.", m->ready},
        {C "epoch", "gauge", "The epoch that the router issued.", (double)m->epoch},
    };
    metrics_family(o, C "self", "gauge", "Always 1: the name and role of this process.");
    json_out_raw(o, C "self{");
    metrics_label(o, "name", m->name);
    json_out_raw(o, ",");
    metrics_label(o, "role", m->role);
    json_out_raw(o, "}");
    metrics_value(o, 1);
    ROWS_WRITE(o, rows);
}

void metrics_node(struct json_out *o, const struct node_stats *s) {
    const struct pool_client_stats *p = &s->pool;
    const struct row rows[] = {
        {H "lent", "gauge", "Requests whose pages are lent at present.", s->load.lent},
        {H "reserved", "gauge", "Requests for which pages are reserved.", s->load.reserved},
        {H "loans_total", "counter", "Times that pages were lent.", (double)s->loans},
        {H "loans_returned_total", "counter", "Loans given back.", (double)s->loans_returned},
        {H "loans_expired_total", "counter", "Loans whose lease ran out.",
         (double)s->loans_expired},
        {H "reservations_total", "counter", "Times that pages were reserved.",
         (double)s->reservations},
        {H "reservations_expired_total", "counter", "Reservations whose lease ran out.",
         (double)s->reservations_expired},
        {H "pulls_total", "counter", "Hand-overs taken in.", (double)s->pulls},
        {H "pulls_failed_total", "counter", "Hand-overs that failed.", (double)s->pulls_failed},
        {H "pulled_bytes_total", "counter", "Bytes copied from other workers.",
         (double)s->pulled_bytes},
        {H "stale_total", "counter", "Messages of older attempts or epochs, refused.",
         (double)s->stale},
        {H "decode_waits_total", "counter",
         "Times that the engine's thread waited for a transfer: stays 0.", (double)s->decode_waits},
        {H "pages_leaked", "gauge", "Pages that nobody known holds: stays 0.", s->pages_leaked},
        {M "servers", "gauge", "Pool servers whose index is at hand.", p->servers},
        {M "lookups_total", "counter", "Prefixes looked up in the pool.", (double)p->lookups},
        {M "blocks_asked_total", "counter", "Blocks looked up.", (double)p->blocks_asked},
        {M "blocks_found_total", "counter", "Of them, those that had an entry.",
         (double)p->blocks_found},
        {M "blocks_fetched_total", "counter", "Blocks fetched.", (double)p->blocks_fetched},
        {M "blocks_from_ssd_total", "counter", "Of them, from SSD.", (double)p->blocks_from_ssd},
        {M "blocks_bad_total", "counter", "Blocks found, but damaged, stale or gone.",
         (double)p->blocks_bad},
        {M "fetched_bytes_total", "counter", "Bytes fetched.", (double)p->bytes_fetched},
        {M "offers_total", "counter", "Blocks offered to the pool.", (double)p->offers},
        {M "offers_stored_total", "counter", "Of them, stored.", (double)p->stored},
        {M "offers_known_total", "counter", "Of them, there already.", (double)p->known},
        {M "offers_refused_total", "counter", "Of them, refused.", (double)p->refused},
    };
    ROWS_WRITE(o, rows);
}

void metrics_pool(struct json_out *o, const struct pool_server_stats *s) {
    const struct row rows[] = {
        {M "dram_blocks", "gauge", "Blocks in DRAM.", (double)s->blocks_dram},
        {M "dram_blocks_max", "gauge", "Blocks that DRAM has room for.",
         (double)s->blocks_dram_max},
        {M "ssd_blocks", "gauge", "Blocks on SSD.", (double)s->blocks_ssd},
        {M "ssd_blocks_max", "gauge", "Blocks that the SSD has room for.",
         (double)s->blocks_ssd_max},
        {M "dram_bytes", "gauge", "Bytes of blocks in DRAM.", (double)s->bytes_dram},
        {M "ssd_bytes", "gauge", "Bytes of blocks on SSD.", (double)s->bytes_ssd},
        {M "namespaces", "gauge", "Tenants with blocks.", s->namespaces},
        {M "clients", "gauge", "Workers connected.", s->clients},
        {M "stored_total", "counter", "Blocks stored.", (double)s->stored},
        {M "known_total", "counter", "Blocks offered that were there already.", (double)s->known},
        {M "refused_total", "counter", "Blocks refused: no room, or over a quota.",
         (double)s->refused},
        {M "bad_offers_total", "counter", "Offers whose owner was gone or whose page had changed.",
         (double)s->bad_offers},
        {M "evicted_to_ssd_total", "counter", "Blocks moved from DRAM to SSD.",
         (double)s->evicted_to_ssd},
        {M "evicted_total", "counter", "Blocks forgotten.", (double)s->evicted},
        {M "promoted_total", "counter", "Blocks moved from SSD back to DRAM.", (double)s->promoted},
        {M "hits_total", "counter", "Reads of blocks in DRAM that readers logged.",
         (double)s->hits_logged},
        {M "ssd_asked_total", "counter", "Blocks on SSD that were asked for.",
         (double)s->ssd_asked},
        {M "ssd_found_total", "counter", "Of them, read whole.", (double)s->ssd_found},
        {M "ssd_bad_total", "counter", "Of them, damaged.", (double)s->ssd_bad},
    };
    ROWS_WRITE(o, rows);
}

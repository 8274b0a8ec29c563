/* SPDX-License-Identifier: Apache-2.0 */
/* Implements cluster_json.h: the members' names are those of struct cluster_view, tables below. */
#include "serve/cluster_json.h"

#include <time.h>

#include <string.h>

static void key(struct json_out *o, bool *first, const char *name) {
    json_out_raw(o, *first ? "\"" : ",\"");
    json_out_raw(o, name);
    json_out_raw(o, "\":");
    *first = false;
}
static void number(struct json_out *o, bool *first, const char *name, uint64_t v) {
    key(o, first, name);
    json_out_int(o, v > INT64_MAX ? INT64_MAX : (int64_t)v);
}
static void text(struct json_out *o, bool *first, const char *name, const char *v) {
    key(o, first, name);
    json_out_text(o, v, strlen(v));
}
static void rate(struct json_out *o, bool *first, const char *name, double v) {
    key(o, first, name);
    json_out_float(o, (float)v);
}

static void write_load(struct json_out *o, const struct member_load *l) {
    const struct {
        const char *name;
        uint64_t v;
    } rows[] = {
        {"running", l->running},
        {"waiting", l->waiting},
        {"pages", l->pages},
        {"pages_used", l->pages_used},
        {"pages_cached", l->pages_cached},
        {"lent", l->lent},
        {"reserved", l->reserved},
        {"prompt_tokens", l->prompt_tokens},
        {"prompt_cached", l->prompt_cached},
        {"prompt_from_pool", l->prompt_from_pool},
        {"computed_tokens", l->computed_tokens},
        {"generated_tokens", l->generated_tokens},
        {"bytes_dram", l->bytes_dram},
        {"bytes_dram_max", l->bytes_dram_max},
        {"bytes_ssd", l->bytes_ssd},
        {"bytes_ssd_max", l->bytes_ssd_max},
        {"pulled_bytes", l->pulled_bytes},
        {"pulls", l->pulls},
        {"pulls_failed", l->pulls_failed},
        {"pool_bad", l->pool_bad},
        {"tpot_us_p50", l->tpot_us_p50},
        {"tpot_us_p99", l->tpot_us_p99},
    };
    bool first = true;
    json_out_raw(o, "{");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        number(o, &first, rows[i].name, rows[i].v);
    json_out_raw(o, "}");
}

static void write_member(struct json_out *o, const struct cluster_view *v,
                         const struct member_info *m) {
    bool first = true;
    json_out_raw(o, "{");
    text(o, &first, "name", m->name);
    text(o, &first, "role", member_role_name(m->role));
    text(o, &first, "state", member_state_name(m->state));
    number(o, &first, "epoch", m->epoch);
    number(o, &first, "pid", m->pid);
    text(o, &first, "address", m->address);
    number(o, &first, "joined_s",
           v->now_ns > m->since_ns ? (v->now_ns - m->since_ns) / 1000000000 : 0);
    number(o, &first, "flights", m->flights);
    rate(o, &first, "prompt_rate", m->prompt_rate);
    rate(o, &first, "token_rate", m->token_rate);
    key(o, &first, "load");
    write_load(o, &m->load);
    json_out_raw(o, "}");
}

void cluster_json_write(struct json_out *o, const struct cluster_view *v) {
    const struct {
        const char *name;
        uint64_t v;
    } rows[] = {
        {"epoch", v->epoch},
        {"queued", v->queued},
        {"prefilling", v->prefilling},
        {"decoding", v->decoding},
        {"requests", v->requests},
        {"finished", v->finished},
        {"failed", v->failed},
        {"cancelled", v->cancelled},
        {"moved", v->moved},
        {"handovers", v->handovers},
        {"handover_tokens", v->handover_tokens},
        {"joins", v->joins},
        {"deaths", v->deaths},
        {"drains", v->drains},
        {"stale", v->stale},
    };
    uint64_t now_s = (uint64_t)time(NULL);
    bool first = true;
    json_out_raw(o, "{");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        number(o, &first, rows[i].name, rows[i].v);
    rate(o, &first, "request_rate", v->request_rate);
    json_out_raw(o, ",\"members\":[");
    for (uint32_t i = 0; i < v->n_members; i++) {
        if (i) json_out_raw(o, ",");
        write_member(o, v, &v->members[i]);
    }
    json_out_raw(o, "],\"events\":[");
    for (uint32_t i = 0; i < v->n_events; i++) {
        bool begun = true;
        json_out_raw(o, i ? ",{" : "{");
        number(o, &begun, "at_s", now_s - (v->now_ns - v->events[i].at_ns) / 1000000000);
        text(o, &begun, "text", v->events[i].text);
        json_out_raw(o, "}");
    }
    json_out_raw(o, "]}");
}

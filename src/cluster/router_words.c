/* SPDX-License-Identifier: Apache-2.0 */
/* What workers say of the flights they have. A worker's word counts only for the flight it has now,
 * and a token only at the next position. */
#include <string.h>

#include "cluster/router_impl.h"

/* --- what workers say ------------------------------------------------------------------------- */

static void reserved(struct router *r, struct route *f, uint64_t now_ns) {
    route_answered(r, f);
    f->refused = false;
    if (route_prefill(r, f, now_ns)) return;
    /* the prefill workers filled up or died meanwhile */
    f->retry_ns = now_ns + ROUTER_FULL_NS;
    route_set_state(r, f, FLIGHT_PREFILL); /* answered */
    route_recall(r, f);
}

static void no_room(struct router *r, struct route *f, uint64_t now_ns) {
    route_answered(r, f);
    f->decode->full_until_ns = now_ns + ROUTER_FULL_NS;
    f->refused = true;
    route_leave_decode(f);
    route_set_state(r, f, FLIGHT_QUEUED);
}

static bool has_first(const struct route *f, uint32_t choice) {
    return f->first[choice / 64] >> choice % 64 & 1;
}

/* All choices of the flight have their next token; who goes on is told. */
static void lent(struct router *r, struct route *f, uint64_t now_ns) {
    const struct request *q = f->ticket->q;
    bool on = false;
    uint32_t n = 0;
    f->lender = f->prefill;
    route_leave_prefill(f);
    for (uint32_t i = 0; i < q->n_choices; i++) {
        on = on || (in_flight(f, i) && !q->choices[i].finish);
        n += has_first(f, i);
    }
    if (!on) {
        route_lose(r, f, now_ns, false); /* nothing is left of it: only the room is given back */
        return;
    }
    struct wire_out w = router_begin(r, PROTO_GO);
    wire_put_u64(&w, f->id);
    wire_put_u32(&w, n);
    for (uint32_t i = 0; i < q->n_choices; i++) {
        if (!has_first(f, i)) continue;
        wire_put_u32(&w, i);
        wire_put_u32(&w, q->choices[i].ids[q->choices[i].n_ids - 1]);
        wire_put_u8(&w, (uint8_t)q->choices[i].finish);
    }
    route_set_state(r, f, FLIGHT_DECODE);
    router_send(r, f->decode, &w);
    r->view.handovers++;
    r->view.handover_tokens += f->kv;
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* One as it came: token_out without what the record says. */
static bool get_token(struct wire_in *in, uint64_t *flight, struct token_out *t,
                      struct token_logprob top[REQUEST_LOGPROBS_MAX]) {
    *flight = wire_get_u64(in);
    t->choice = wire_get_u32(in);
    t->position = wire_get_u32(in);
    t->id = wire_get_u32(in);
    t->n_cached = wire_get_u32(in);
    uint8_t finish = wire_get_u8(in);
    t->logprob = wire_get_f32(in);
    t->n_top = wire_get_u8(in);
    if (finish > FINISH_LENGTH || t->n_top > REQUEST_LOGPROBS_MAX) in->bad = true;
    const void *p = in->bad ? NULL : wire_get(in, t->n_top * sizeof *top);
    if (p) memcpy(top, p, t->n_top * sizeof *top);
    t->finish = (enum finish_reason)finish;
    t->top = top;
    return !in->bad;
}

static void count_token(struct router *r, struct ticket *t, uint64_t now_ns) {
    struct engine_stats *s = &r->stats;
    s->generation_tokens++;
    t->n_tokens++;
    if (t->last_ns && t->q->n_choices == 1)
        histogram_add(&s->itl, stats_seconds(t->last_ns, now_ns));
    t->last_ns = now_ns;
    if (t->first_ns) return;
    t->first_ns = now_ns;
    histogram_add(&s->ttft, stats_seconds(t->arrived_ns, now_ns));
}

static bool take_prompt_logprob(struct ticket *t, struct token_out *out) {
    if (out->position <= t->n_told) return true; /* computed again after a loss */
    if (out->position != t->n_told + 1 || out->choice != 0) return false;
    t->n_told++;
    out->attempt = t->q->attempt;
    (void)t->sink.token(t->ctx, out);
    return true;
}

/* It decodes there, and has one token more. */
static void grow(struct router *r, struct route *f) {
    f->kv++;
    f->decode->kv_tokens++;
    f->lender = NULL; /* its rows are all there */
    wait_file(r, f);
}

/* A token of a flight, by the worker that has it. False: one is missing before it. */
static bool take_token(struct router *r, struct route *f, struct token_out *out, uint64_t now_ns) {
    struct ticket *t = f->ticket;
    struct request *q = t->q;
    if (out->choice >= q->n_choices || !in_flight(f, out->choice)) return false;
    struct request_choice *c = &q->choices[out->choice];
    if (out->position < q->n_prompt) return take_prompt_logprob(t, out);
    if (c->finish) return true; /* not wanted any more, and it does not know yet */
    if (out->position != request_len(q, out->choice) || c->n_ids >= q->max_tokens) return false;
    c->ids[c->n_ids++] = out->id;
    c->finish = out->finish;
    out->attempt = q->attempt;
    if (f->state == FLIGHT_PREFILL)
        f->first[out->choice / 64] |= UINT64_C(1) << out->choice % 64;
    else
        grow(r, f);
    count_token(r, t, now_ns);
    if (t->sink.token(t->ctx, out) || c->finish) return true;
    c->finish = FINISH_CANCELLED;
    struct wire_out w = router_begin(r, PROTO_DROP);
    wire_put_u64(&w, f->id);
    wire_put_u32(&w, out->choice);
    router_send(r, f->state == FLIGHT_PREFILL ? f->prefill : f->decode, &w);
    return true;
}

/* Tokens of one step come in the order of the flights there. */
static bool take_tokens(struct router *r, struct mate *m, struct wire_in *in, uint64_t now_ns) {
    struct token_logprob top[REQUEST_LOGPROBS_MAX];
    uint32_t n = wire_get_count(in, 30);
    for (uint32_t i = 0; i < n; i++) {
        struct token_out t = {0};
        uint64_t flight;
        if (!get_token(in, &flight, &t, top)) return false;
        struct route *f = route_find(r, flight);
        bool its = f && ((f->state == FLIGHT_PREFILL && f->prefill == m) ||
                         (f->state == FLIGHT_DECODE && f->decode == m));
        if (!its)
            r->view.stale++;
        else if (!take_token(r, f, &t, now_ns))
            route_lose(r, f, now_ns, false);
    }
    return wire_get_end(in);
}

static bool failed(struct router *r, struct route *f, struct wire_in *in, uint64_t now_ns) {
    struct err err;
    char text[256];
    enum st st = (enum st)wire_get_u8(in);
    wire_get_text(in, text, sizeof text);
    if (!wire_get_end(in)) return false;
    if (st == ST_INVALID || st == ST_UNSUPPORTED) {
        /* saying it again will not help */
        (void)err_set(&err, ST_INVALID, "%s", text);
        ticket_end(r, f->ticket, &err, false);
    } else {
        route_lose(r, f, now_ns, false);
    }
    return true;
}

bool flights_message(struct router *r, struct mate *m, uint8_t kind, struct wire_in *in) {
    uint64_t now = bus_now(r->o.bus);
    if (kind == PROTO_TOKENS) return take_tokens(r, m, in, now);
    struct route *f = route_find(r, wire_get_u64(in));
    bool by_prefill = f && f->prefill == m && f->state == FLIGHT_PREFILL,
         by_decode = f && f->decode == m, by_lender = f && f->lender == m;
    if (in->bad || kind < PROTO_RESERVED || kind > PROTO_FAILED) return false;
    if (kind == PROTO_RESERVED && by_decode && f->state == FLIGHT_RESERVING)
        reserved(r, f, now);
    else if (kind == PROTO_NO_ROOM && by_decode && f->state == FLIGHT_RESERVING)
        no_room(r, f, now);
    else if (kind == PROTO_LENT && by_prefill)
        lent(r, f, now);
    else if (kind == PROTO_ENDED && by_decode && f->state == FLIGHT_DECODE)
        route_lose(r, f, now, false); /* what it left unfinished is begun again */
    else if (kind == PROTO_FAILED && (by_prefill || by_decode || by_lender))
        return failed(r, f, in, now);
    else
        r->view.stale++;
    return true;
}

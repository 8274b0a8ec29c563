/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on their way through a cluster. Each begins as one flight with all its choices; once
 * tokens exist, a flight that is lost is begun again choice by choice, from the record. A flight is
 * queued, has room reserved at a decode worker, is computed at a prefill worker, and is decoded; a
 * worker's word counts only for the flight it has now, and a token only at the next position. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/router_impl.h"
#include "engine/sched.h"

enum { ATTEMPTS = 64 };
static const uint64_t full_ns = 5000000, retry_ns = 20000000, renew_default_ns = 1000000000,
                      no_worker_ns = 30000000000;

static uint64_t renew_every(const struct router *r) {
    return r->o.renew_ns ? r->o.renew_ns : renew_default_ns;
}

/* --- lists ------------------------------------------------------------------------------------ */

/* Priority, then arrival, then the number: ties never fall to chance. */
static bool before(const struct route *a, const struct route *b) {
    const struct ticket *ta = a->ticket, *tb = b->ticket;
    if (ta->priority != tb->priority) return ta->priority < tb->priority;
    if (ta->order != tb->order) return ta->order < tb->order;
    return a->order < b->order;
}

static void link_route(struct router *r, struct route *f) {
    struct route *at = r->last_route;
    while (at && before(f, at)) at = at->prev;
    f->prev = at;
    f->next = at ? at->next : r->routes;
    *(f->prev ? &f->prev->next : &r->routes) = f;
    *(f->next ? &f->next->prev : &r->last_route) = f;
}

static void unlink_route(struct router *r, struct route *f) {
    *(f->prev ? &f->prev->next : &r->routes) = f->next;
    *(f->next ? &f->next->prev : &r->last_route) = f->prev;
}

static struct route *route_find(const struct router *r, uint64_t id) {
    struct route *f = id ? r->buckets[id % ROUTE_BUCKETS] : NULL;
    while (f && f->id != id) f = f->next_in_bucket;
    return f;
}

/* Its number is no flight's any more. */
static void drop_id(struct router *r, struct route *f) {
    struct route **at = &r->buckets[f->id % ROUTE_BUCKETS];
    if (!f->id) return;
    while (*at != f) at = &(*at)->next_in_bucket;
    *at = f->next_in_bucket;
    f->id = 0;
}

/* Numbers of an older router's flights are lower: no member has seen an epoch as high as ours. */
static void take_id(struct router *r, struct route *f) {
    drop_id(r, f);
    f->id = (r->epoch << 32) + ++r->n_flights_ever;
    struct route **bucket = &r->buckets[f->id % ROUTE_BUCKETS];
    f->next_in_bucket = *bucket;
    *bucket = f;
}

/* --- who has it ------------------------------------------------------------------------------- */

static void leave_prefill(struct route *f) {
    if (!f->prefill) return;
    f->prefill->n_flights--;
    f->prefill->prefill_rows -= f->rows;
    f->prefill = NULL;
    f->rows = 0;
}

/* It has its answer about room, or needs none any more. */
static void answered(struct router *r, struct route *f) {
    if (f->state != FLIGHT_RESERVING) return;
    f->decode->n_asked--;
    r->asked_rows -= f->kv;
}

static void leave_decode(struct route *f) {
    f->lender = NULL;
    if (!f->decode) return;
    f->decode->n_flights--;
    f->decode->kv_tokens -= f->kv;
    f->decode = NULL;
    f->kv = 0;
}

/* It decodes there, and has one token more. */
static void grow(struct route *f) {
    f->kv++;
    f->decode->kv_tokens++;
    f->lender = NULL; /* its rows are all there */
}

static void set_state(struct router *r, struct route *f, enum flight_state state) {
    r->n_queued -= f->state == FLIGHT_QUEUED;
    f->state = state;
    r->n_queued += f->state == FLIGHT_QUEUED;
}

/* Nobody works on it any more. */
static void recall(struct router *r, struct route *f) {
    answered(r, f);
    if (f->prefill) router_tell(r, f->prefill, PROTO_CANCEL, f->id);
    if (f->decode) router_tell(r, f->decode, PROTO_CANCEL, f->id);
    leave_prefill(f);
    leave_decode(f);
    set_state(r, f, FLIGHT_QUEUED);
}

static struct route *route_new(struct router *r, struct ticket *t, uint32_t choice,
                               uint64_t now_ns) {
    struct route *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    *f = (struct route){.ticket = t, .choice = choice, .queued_ns = now_ns};
    f->order = ++r->n_routes_ever;
    t->n_routes++;
    r->n_queued++;
    link_route(r, f);
    return f;
}

/* It was recalled. */
static void route_free(struct router *r, struct route *f) {
    drop_id(r, f);
    unlink_route(r, f);
    r->n_queued -= f->state == FLIGHT_QUEUED;
    f->ticket->n_routes--;
    free(f);
}

/* --- the end of a request --------------------------------------------------------------------- */

static void count_finished(struct router *r, const struct ticket *t, const struct err *err,
                           bool cancelled, uint64_t now_ns) {
    uint32_t how = STATS_FINISH_LENGTH;
    for (uint32_t i = 0; i < t->q->n_choices; i++)
        if (t->q->choices[i].finish != FINISH_LENGTH) how = STATS_FINISH_STOP;
    if (err) how = STATS_FINISH_ERROR;
    if (cancelled) how = STATS_FINISH_ABORT;
    if (err)
        r->view.failed++;
    else if (cancelled)
        r->view.cancelled++;
    else
        r->view.finished++;
    struct stats_request q = {.arrived_ns = t->arrived_ns,
                              .first_ns = t->first_ns,
                              .now_ns = now_ns,
                              .n_prompt = t->q->n_prompt,
                              .n_drawn = t->n_tokens,
                              .n_choices = t->q->n_choices};
    engine_stats_finished(&r->stats, how, &q);
}

static void end_ticket(struct router *r, struct ticket *t, const struct err *err, bool cancelled) {
    for (struct route *f = r->routes, *next; f; f = next) {
        next = f->next;
        if (f->ticket != t) continue;
        recall(r, f);
        route_free(r, f);
    }
    for (uint32_t i = 0; i < t->q->n_choices; i++)
        if (!t->q->choices[i].finish) t->q->choices[i].finish = FINISH_CANCELLED;
    count_finished(r, t, err, cancelled, bus_now(r->o.bus));
    *(t->prev ? &t->prev->next : &r->tickets) = t->next;
    *(t->next ? &t->next->prev : &r->last_ticket) = t->prev;
    t->sink.done(t->ctx, err);
    free(t);
}

/* --- lost, and begun again -------------------------------------------------------------------- */

/* The flight is over without its end. What it had brought is in the record; the rest is queued:
 * all choices together while none has a token, else each by itself. */
static void lose(struct router *r, struct route *f, uint64_t now_ns, bool moved) {
    struct ticket *t = f->ticket;
    struct request *q = t->q;
    uint32_t choice = f->choice, attempts = f->attempts + 1, left = 0, with_ids = 0;
    struct err err;
    recall(r, f);
    route_free(r, f);
    for (uint32_t i = 0; i < q->n_choices; i++) {
        if (q->choices[i].finish || !(choice == CHOICE_ALL || choice == i)) continue;
        left++;
        with_ids += q->choices[i].n_ids > 0;
    }
    r->view.moved += moved && left > 0;
    q->attempt += left > 0;
    bool together = choice == CHOICE_ALL && with_ids == 0 && left == q->n_choices, ok = true;
    if (left > 0 && attempts > (r->o.attempts_max ? r->o.attempts_max : ATTEMPTS)) {
        (void)err_set(&err, ST_GONE, "the request was lost %u times", attempts);
        end_ticket(r, t, &err, false);
        return;
    }
    for (uint32_t i = 0; i < q->n_choices && left > 0; i++) {
        if (!together && (q->choices[i].finish || !(choice == CHOICE_ALL || choice == i))) continue;
        struct route *again = route_new(r, t, together ? CHOICE_ALL : i, now_ns);
        ok = ok && again;
        if (again) again->attempts = attempts;
        if (again && !moved) again->retry_ns = now_ns + retry_ns;
        if (together) break;
    }
    if (!ok) {
        (void)err_set(&err, ST_NO_MEMORY, "router: out of memory");
        end_ticket(r, t, &err, false);
    } else if (t->n_routes == 0) {
        end_ticket(r, t, NULL, false);
    }
}

static struct route *route_at(const struct router *r, const struct mate *m) {
    struct route *f = r->routes;
    while (f && f->prefill != m && f->decode != m && f->lender != m) f = f->next;
    return f;
}

void flights_mate_gone(struct router *r, struct mate *m) {
    uint64_t now = bus_now(r->o.bus);
    struct route *f;
    /* from the first on each time: losing one may end others of its request */
    while ((f = route_at(r, m))) lose(r, f, now, true);
}

/* One that may take what is queued, now or once it is heard again; who drains takes nothing more. */
static bool any_to_come(const struct router *r, enum member_role role) {
    for (const struct mate *m = r->mates; m; m = m->next)
        if (m->info.role == role && m->info.state != MEMBER_DRAINING) return true;
    return false;
}

/* --- sending ---------------------------------------------------------------------------------- */

/* The record as the flight needs it: choices that are over or fly apart count as finished. */
static bool put_record(struct wire_out *w, const struct route *f) {
    const struct request *q = f->ticket->q;
    struct request copy = *q;
    struct request_choice choices[REQUEST_CHOICES_MAX];
    copy.choices = choices;
    copy.time_left_ms = 0;
    if (f->ticket->n_told + 1 >= q->n_prompt) copy.prompt_logprobs = -1; /* all were given */
    for (uint32_t i = 0; i < q->n_choices; i++) {
        choices[i] = q->choices[i];
        if (in_flight(f, i) && !choices[i].finish) continue;
        choices[i].n_ids = choices[i].n_delivered = 0;
        choices[i].finish = FINISH_CANCELLED;
    }
    return !w->st && (w->st = request_write(w->buf, &copy)) == ST_OK;
}

static void renew_at(struct router *r, struct route *f, uint64_t at_ns) {
    f->renew_ns = at_ns;
    if (at_ns < r->renew_ns) r->renew_ns = at_ns;
}

static void reserve(struct router *r, struct route *f, struct mate *m, uint64_t now_ns) {
    struct wire_out w = router_begin(r, PROTO_RESERVE);
    take_id(r, f);
    wire_put_u64(&w, f->id);
    if (!put_record(&w, f)) return; /* out of memory: it stays queued */
    f->decode = m;
    f->kv = request_len(f->ticket->q, leader_of(f));
    m->kv_tokens += f->kv;
    m->n_flights++;
    m->n_asked++;
    r->asked_rows += f->kv;
    set_state(r, f, FLIGHT_RESERVING);
    renew_at(r, f, now_ns + renew_every(r));
    router_send(r, m, &w);
}

static bool begin_prefill(struct router *r, struct route *f, uint64_t now_ns) {
    uint64_t rows = 0;
    struct mate *m = place_prefill(r, f, &rows);
    if (!m) return false;
    struct wire_out w = router_begin(r, PROTO_PREFILL);
    wire_put_u64(&w, f->id);
    wire_put_text(&w, f->decode->info.name);
    wire_put_u64(&w, f->decode->info.epoch);
    if (!put_record(&w, f)) return false;
    f->prefill = m;
    f->rows = rows;
    m->prefill_rows += rows;
    m->n_flights++;
    set_state(r, f, FLIGHT_PREFILL);
    renew_at(r, f, now_ns + renew_every(r));
    router_send(r, m, &w);
    return true;
}

/* False: nobody has room for it now. */
static bool unqueue(struct router *r, struct route *f, uint64_t now_ns) {
    struct mate *m = place_room(r) ? place_decode(r, now_ns) : NULL;
    if (m) reserve(r, f, m, now_ns);
    return m;
}

/* In the order of rank, and nobody overtakes: who finds no room stops all behind it, and who was
 * refused once asks alone, so that smaller ones do not take what becomes free before it. */
static void unqueue_all(struct router *r, uint64_t now_ns) {
    for (struct route *f = r->routes; f; f = f->next) {
        if (f->state == FLIGHT_RESERVING && f->refused) return;
        if (f->state != FLIGHT_QUEUED || now_ns < f->retry_ns) continue;
        if (!unqueue(r, f, now_ns) || f->refused) return;
    }
}

/* Who waited for long goes before all others, whatever their priority. */
static void raise_starving(struct router *r, uint64_t now_ns) {
    for (struct route *f = r->routes, *next; f; f = next) {
        struct ticket *t = f->ticket;
        next = f->next;
        if (f->state != FLIGHT_QUEUED || t->priority == INT32_MIN ||
            now_ns - f->queued_ns < SCHED_STARVE_S * UINT64_C(1000000000))
            continue;
        t->priority = INT32_MIN;
        unlink_route(r, f);
        link_route(r, f);
    }
}

/* --- time ------------------------------------------------------------------------------------- */

/* True: it was given up. */
static bool give_up(struct router *r, struct route *f, uint64_t now_ns) {
    struct err err;
    bool prefill = any_to_come(r, ROLE_OF_PREFILL), decode = any_to_come(r, ROLE_OF_DECODE);
    uint64_t limit = r->o.no_worker_ns ? r->o.no_worker_ns : no_worker_ns;
    if (prefill && decode) {
        f->alone_ns = 0;
        return false;
    }
    if (!f->alone_ns) f->alone_ns = now_ns;
    if (now_ns - f->alone_ns < limit) return false;
    (void)err_set(&err, ST_GONE, "no %s worker was alive for %" PRIu64 " s",
                  prefill ? "decode" : "prefill", limit / 1000000000);
    end_ticket(r, f->ticket, &err, false);
    return true;
}

static void end_late(struct router *r, uint64_t now_ns) {
    struct err err;
    if (now_ns < r->late_ns) return;
    r->late_ns = UINT64_MAX;
    for (struct ticket *t = r->tickets, *next; t; t = next) {
        next = t->next;
        if (!t->deadline_ns) continue;
        if (now_ns < t->deadline_ns) {
            if (t->deadline_ns < r->late_ns) r->late_ns = t->deadline_ns;
            continue;
        }
        (void)err_set(&err, ST_TIMEOUT, "the request took longer than %u ms", t->q->time_left_ms);
        end_ticket(r, t, &err, false);
    }
}

/* Room that waits for rows is renewed, or its owner would take it back. */
static void renew(struct router *r, struct route *f, uint64_t now_ns) {
    if (now_ns < f->renew_ns) return;
    f->renew_ns = now_ns + renew_every(r);
    struct wire_out w = router_begin(r, PROTO_RENEW);
    wire_put_u32(&w, 1);
    wire_put_u64(&w, f->id);
    router_send(r, f->decode, &w);
}

/* Room is reserved for it, or its rows are on their way. */
static bool waits_for_rows(const struct route *f) {
    return f->state == FLIGHT_RESERVING || f->state == FLIGHT_PREFILL || f->lender;
}

static void renew_all(struct router *r, uint64_t now_ns) {
    if (now_ns < r->renew_ns) return;
    r->renew_ns = UINT64_MAX;
    for (struct route *f = r->routes; f; f = f->next) {
        if (!waits_for_rows(f)) continue;
        renew(r, f, now_ns);
        if (f->renew_ns < r->renew_ns) r->renew_ns = f->renew_ns;
    }
}

/* Thousands of requests decode at a time, and few of them need anything of the router: it looks at
 * all of them only when one may be late, may have to be renewed, or is queued. */
void flights_dispatch(struct router *r, uint64_t now_ns) {
    end_late(r, now_ns);
    for (struct route *f = r->n_queued ? r->routes : NULL, *next; f; f = next) {
        next = f->next;
        /* giving one up ends all of its request */
        if (f->state == FLIGHT_QUEUED && give_up(r, f, now_ns)) next = r->routes;
    }
    if (r->n_queued) raise_starving(r, now_ns);
    if (r->n_queued) unqueue_all(r, now_ns);
    renew_all(r, now_ns);
}

uint64_t flights_due(const struct router *r, uint64_t now_ns) {
    uint64_t due = r->late_ns < r->renew_ns ? r->late_ns : r->renew_ns;
    return r->n_queued && now_ns + full_ns < due ? now_ns + full_ns : due;
}

/* --- what workers say ------------------------------------------------------------------------- */

static void reserved(struct router *r, struct route *f, uint64_t now_ns) {
    answered(r, f);
    f->refused = false;
    if (begin_prefill(r, f, now_ns)) return;
    /* the prefill workers filled up or died meanwhile */
    set_state(r, f, FLIGHT_PREFILL); /* answered */
    recall(r, f);
    f->retry_ns = now_ns + full_ns;
}

static void no_room(struct router *r, struct route *f, uint64_t now_ns) {
    answered(r, f);
    f->decode->full_until_ns = now_ns + full_ns;
    f->refused = true;
    leave_decode(f);
    set_state(r, f, FLIGHT_QUEUED);
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
    leave_prefill(f);
    for (uint32_t i = 0; i < q->n_choices; i++) {
        on = on || (in_flight(f, i) && !q->choices[i].finish);
        n += has_first(f, i);
    }
    if (!on) {
        lose(r, f, now_ns, false); /* nothing is left of it: only the room is given back */
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
    set_state(r, f, FLIGHT_DECODE);
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
        grow(f);
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
            lose(r, f, now_ns, false);
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
        end_ticket(r, f->ticket, &err, false);
    } else {
        lose(r, f, now_ns, false);
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
        lose(r, f, now, false); /* what it left unfinished is begun again */
    else if (kind == PROTO_FAILED && (by_prefill || by_decode || by_lender))
        return failed(r, f, in, now);
    else
        r->view.stale++;
    return true;
}

/* --- in and out ------------------------------------------------------------------------------- */

enum st router_add(struct router *r, struct request *q, const struct engine_sink *sink, void *ctx,
                   uint64_t arrived_ns, struct err *err) {
    enum st st = request_check_length(q, r->o.max_model_len, err);
    if (st) return st;
    struct ticket *t = calloc(1, sizeof *t);
    if (!t) return err_set(err, ST_NO_MEMORY, "router: out of memory");
    *t = (struct ticket){
        .q = q, .sink = *sink, .ctx = ctx, .arrived_ns = arrived_ns, .priority = q->priority};
    t->order = ++r->n_tickets_ever;
    if (q->time_left_ms) t->deadline_ns = arrived_ns + q->time_left_ms * UINT64_C(1000000);
    if (t->deadline_ns && t->deadline_ns < r->late_ns) r->late_ns = t->deadline_ns;
    if (!route_new(r, t, CHOICE_ALL, arrived_ns)) {
        free(t);
        return err_set(err, ST_NO_MEMORY, "router: out of memory");
    }
    t->prev = r->last_ticket;
    *(r->last_ticket ? &r->last_ticket->next : &r->tickets) = t;
    r->last_ticket = t;
    r->view.requests++;
    r->stats.prompt_tokens += q->n_prompt;
    return ST_OK;
}

void router_cancel(struct router *r, struct request *q, enum engine_cancel why) {
    struct ticket *t = r->tickets;
    while (t && t->q != q) t = t->next;
    if (t) end_ticket(r, t, NULL, why == ENGINE_CANCEL_LEFT);
}

void flights_free(struct router *r) {
    while (r->routes) {
        struct route *f = r->routes;
        unlink_route(r, f);
        free(f);
    }
    for (struct ticket *t = r->tickets, *next; t; t = next) {
        next = t->next;
        free(t);
    }
}

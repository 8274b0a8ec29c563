/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on their way through a cluster. Each begins as one flight with all its choices; once
 * tokens exist, a flight that is lost is begun again choice by choice, from the record. A flight is
 * queued, has room reserved at a decode worker, is computed at a prefill worker, and is decoded.
 * What it waits for is in router_wait.c, what workers say of it in router_words.c. */
#include <stdlib.h>

#include "cluster/router_impl.h"

enum { ATTEMPTS = 64 };
static const uint64_t retry_ns = 20000000;

/* --- lists ------------------------------------------------------------------------------------ */

static void link_route(struct ticket *t, struct route *f) {
    f->prev = t->last_route;
    *(f->prev ? &f->prev->next : &t->routes) = f;
    t->last_route = f;
    t->n_routes++;
}

static void unlink_route(struct ticket *t, struct route *f) {
    *(f->prev ? &f->prev->next : &t->routes) = f->next;
    *(f->next ? &f->next->prev : &t->last_route) = f->prev;
    t->n_routes--;
}

static struct ticket **bucket_of(struct router *r, const struct request *q) {
    return &r->ticket_buckets[((uintptr_t)q / sizeof *q) % BUCKETS];
}

static void link_ticket(struct router *r, struct ticket *t) {
    struct ticket **bucket = bucket_of(r, t->q);
    t->prev = r->last_ticket;
    *(t->prev ? &t->prev->next : &r->tickets) = t;
    r->last_ticket = t;
    t->next_in_bucket = *bucket;
    *bucket = t;
    if (t->deadline_ns) heap_put(&r->late, &t->late);
    r->n_tickets++;
}

static void unlink_ticket(struct router *r, struct ticket *t) {
    struct ticket **at = bucket_of(r, t->q);
    *(t->prev ? &t->prev->next : &r->tickets) = t->next;
    *(t->next ? &t->next->prev : &r->last_ticket) = t->prev;
    while (*at != t) at = &(*at)->next_in_bucket;
    *at = t->next_in_bucket;
    heap_take(&r->late, &t->late);
    r->n_tickets--;
}

struct route *route_find(const struct router *r, uint64_t id) {
    struct route *f = id ? r->buckets[id % BUCKETS] : NULL;
    while (f && f->id != id) f = f->next_in_bucket;
    return f;
}

/* Its number is no flight's any more. */
static void drop_id(struct router *r, struct route *f) {
    struct route **at = &r->buckets[f->id % BUCKETS];
    if (!f->id) return;
    while (*at != f) at = &(*at)->next_in_bucket;
    *at = f->next_in_bucket;
    f->id = 0;
}

/* Numbers of an older router's flights are lower: no member has seen an epoch as high as ours. */
static void take_id(struct router *r, struct route *f) {
    drop_id(r, f);
    f->id = (r->epoch << 32) + ++r->n_flights_ever;
    struct route **bucket = &r->buckets[f->id % BUCKETS];
    f->next_in_bucket = *bucket;
    *bucket = f;
}

/* --- who has it ------------------------------------------------------------------------------- */

void route_leave_prefill(struct route *f) {
    if (!f->prefill) return;
    f->prefill->n_flights--;
    f->prefill->prefill_rows -= f->rows;
    f->prefill = NULL;
    f->rows = 0;
}

void route_answered(struct router *r, struct route *f) {
    if (f->state != FLIGHT_RESERVING) return;
    f->decode->n_asked--;
    r->asked_rows -= f->kv;
}

void route_leave_decode(struct route *f) {
    f->lender = NULL;
    if (!f->decode) return;
    f->decode->n_flights--;
    f->decode->kv_tokens -= f->kv;
    f->decode = NULL;
    f->kv = 0;
}

void route_set_state(struct router *r, struct route *f, enum flight_state state) {
    r->n_in[f->state]--;
    r->n_in[state]++;
    if (state == FLIGHT_QUEUED && f->state != FLIGHT_QUEUED) f->since_ns = bus_now(r->o.bus);
    f->state = state;
    wait_file(r, f);
}

void route_recall(struct router *r, struct route *f) {
    route_answered(r, f);
    if (f->prefill) router_tell(r, f->prefill, PROTO_CANCEL, f->id);
    if (f->decode) router_tell(r, f->decode, PROTO_CANCEL, f->id);
    route_leave_prefill(f);
    route_leave_decode(f);
    route_set_state(r, f, FLIGHT_QUEUED);
}

static struct route *route_new(struct router *r, struct ticket *t, uint32_t choice, uint64_t now_ns,
                               uint64_t not_before_ns) {
    struct route *f = wait_reserve(r) ? calloc(1, sizeof *f) : NULL;
    if (!f) return NULL;
    *f = (struct route){.ticket = t,
                        .choice = choice,
                        .queued_ns = now_ns,
                        .since_ns = bus_now(r->o.bus),
                        .retry_ns = not_before_ns};
    f->order = ++r->n_routes_ever;
    link_route(t, f);
    r->n_routes++;
    r->n_in[FLIGHT_QUEUED]++;
    wait_file(r, f);
    return f;
}

/* It was recalled. */
static void route_free(struct router *r, struct route *f) {
    drop_id(r, f);
    wait_forget(r, f);
    unlink_route(f->ticket, f);
    r->n_routes--;
    r->n_in[f->state]--;
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

void ticket_end(struct router *r, struct ticket *t, const struct err *err, bool cancelled) {
    while (t->routes) {
        struct route *f = t->routes;
        r->visited++;
        route_recall(r, f);
        route_free(r, f);
    }
    for (uint32_t i = 0; i < t->q->n_choices; i++)
        if (!t->q->choices[i].finish) t->q->choices[i].finish = FINISH_CANCELLED;
    count_finished(r, t, err, cancelled, bus_now(r->o.bus));
    unlink_ticket(r, t);
    t->sink.done(t->ctx, err);
    free(t);
}

/* --- lost, and begun again -------------------------------------------------------------------- */

/* The flight is over without its end. What it had brought is in the record; the rest is queued:
 * all choices together while none has a token, else each by itself. */
void route_lose(struct router *r, struct route *f, uint64_t now_ns, bool moved) {
    struct ticket *t = f->ticket;
    struct request *q = t->q;
    uint32_t choice = f->choice, attempts = f->attempts + 1, left = 0, with_ids = 0;
    struct err err;
    route_recall(r, f);
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
        ticket_end(r, t, &err, false);
        return;
    }
    for (uint32_t i = 0; i < q->n_choices && left > 0; i++) {
        if (!together && (q->choices[i].finish || !(choice == CHOICE_ALL || choice == i))) continue;
        struct route *again =
            route_new(r, t, together ? CHOICE_ALL : i, now_ns, moved ? 0 : now_ns + retry_ns);
        ok = ok && again;
        if (again) again->attempts = attempts;
        if (together) break;
    }
    if (!ok) {
        (void)err_set(&err, ST_NO_MEMORY, "router: out of memory");
        ticket_end(r, t, &err, false);
    } else if (t->n_routes == 0) {
        ticket_end(r, t, NULL, false);
    }
}

void flights_mate_gone(struct router *r, struct mate *m) {
    uint64_t now = bus_now(r->o.bus);
    struct route *f;
    wait_due_at(r, m);
    /* losing one may end others of its request, which then are not due any more either */
    while ((f = wait_due_first(r))) route_lose(r, f, now, true);
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

/* False: out of memory, and it stays queued. */
bool route_reserve(struct router *r, struct route *f, struct mate *m, uint64_t now_ns) {
    struct wire_out w = router_begin(r, PROTO_RESERVE);
    take_id(r, f);
    wire_put_u64(&w, f->id);
    if (!put_record(&w, f)) return false;
    f->decode = m;
    f->kv = request_len(f->ticket->q, leader_of(f));
    m->kv_tokens += f->kv;
    m->n_flights++;
    m->n_asked++;
    r->asked_rows += f->kv;
    route_set_state(r, f, FLIGHT_RESERVING);
    wait_renew_at(r, f, now_ns + wait_renew_every(r));
    router_send(r, m, &w);
    return true;
}

bool route_prefill(struct router *r, struct route *f, uint64_t now_ns) {
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
    route_set_state(r, f, FLIGHT_PREFILL);
    wait_renew_at(r, f, now_ns + wait_renew_every(r));
    router_send(r, m, &w);
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
    if (!wait_reserve(r) || !route_new(r, t, CHOICE_ALL, arrived_ns, 0)) {
        free(t);
        return err_set(err, ST_NO_MEMORY, "router: out of memory");
    }
    link_ticket(r, t);
    if (t->deadline_ns && t->deadline_ns < r->late_ns) r->late_ns = t->deadline_ns;
    r->view.requests++;
    r->stats.prompt_tokens += q->n_prompt;
    return ST_OK;
}

void router_cancel(struct router *r, struct request *q, enum engine_cancel why) {
    struct ticket *t = *bucket_of(r, q);
    while (t && t->q != q) t = t->next_in_bucket;
    if (t) ticket_end(r, t, NULL, why == ENGINE_CANCEL_LEFT);
}

void flights_free(struct router *r) {
    for (struct ticket *t = r->tickets, *next; t; t = next) {
        next = t->next;
        while (t->routes) route_free(r, t->routes);
        free(t);
    }
    for (int i = 0; i < ROUTE_ORDERS; i++) heap_release(&r->orders[i]);
    heap_release(&r->late);
}

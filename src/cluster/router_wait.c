/* SPDX-License-Identifier: Apache-2.0 */
/* What flights wait for: a worker with room, a time to try again, the end of their patience. Thousands
 * may be queued and thousands decode while a message concerns one of them; so each thing they wait for
 * is a heap (enum route_order), and a step looks at what is first there, and at what has changed.
 * What comes due at one time is dealt with in the order of rank. */
#include <inttypes.h>

#include "cluster/router_impl.h"
#include "engine/sched.h"

static const uint64_t renew_default_ns = 1000000000, no_worker_ns = 30000000000;

/* --- orders ----------------------------------------------------------------------------------- */

static const struct route *in_order(const struct heap_node *node, enum route_order o) {
    return HEAP_OF(node - o, const struct route, nodes);
}

/* Priority, then arrival, then the number: ties never fall to chance. */
static bool ranks_before(const struct route *a, const struct route *b) {
    const struct ticket *ta = a->ticket, *tb = b->ticket;
    if (ta->priority != tb->priority) return ta->priority < tb->priority;
    if (ta->order != tb->order) return ta->order < tb->order;
    return a->order < b->order;
}

static bool ready_before(const struct heap_node *a, const struct heap_node *b) {
    return ranks_before(in_order(a, ORDER_READY), in_order(b, ORDER_READY));
}

static bool retry_before(const struct heap_node *a, const struct heap_node *b) {
    return in_order(a, ORDER_RETRY)->retry_ns < in_order(b, ORDER_RETRY)->retry_ns;
}

static bool starve_before(const struct heap_node *a, const struct heap_node *b) {
    return in_order(a, ORDER_STARVE)->queued_ns < in_order(b, ORDER_STARVE)->queued_ns;
}

static bool alone_before(const struct heap_node *a, const struct heap_node *b) {
    return in_order(a, ORDER_ALONE)->since_ns < in_order(b, ORDER_ALONE)->since_ns;
}

static bool renew_before(const struct heap_node *a, const struct heap_node *b) {
    return in_order(a, ORDER_RENEW)->renew_ns < in_order(b, ORDER_RENEW)->renew_ns;
}

static bool due_before(const struct heap_node *a, const struct heap_node *b) {
    return ranks_before(in_order(a, ORDER_DUE), in_order(b, ORDER_DUE));
}

static bool late_before(const struct heap_node *a, const struct heap_node *b) {
    const struct ticket *x = HEAP_OF(a, const struct ticket, late),
                        *y = HEAP_OF(b, const struct ticket, late);
    if (x->deadline_ns != y->deadline_ns) return x->deadline_ns < y->deadline_ns;
    return x->order < y->order;
}

static bool never_before(const struct heap_node *a, const struct heap_node *b) {
    (void)a;
    (void)b;
    return false;
}

void wait_init(struct router *r) {
    r->orders[ORDER_READY].before = ready_before;
    r->orders[ORDER_RETRY].before = retry_before;
    r->orders[ORDER_STARVE].before = starve_before;
    r->orders[ORDER_ALONE].before = alone_before;
    r->orders[ORDER_RENEW].before = renew_before;
    r->orders[ORDER_BUSY].before = never_before;
    r->orders[ORDER_DUE].before = due_before;
    r->late.before = late_before;
}

bool wait_reserve(struct router *r) {
    bool ok = heap_reserve(&r->late, r->n_tickets + 1);
    for (int i = 0; i < ROUTE_ORDERS; i++) ok = ok && heap_reserve(&r->orders[i], r->n_routes + 1);
    return ok;
}

static struct route *first_in(const struct router *r, enum route_order o) {
    struct heap_node *node = heap_first(&r->orders[o]);
    return node ? HEAP_OF(node - o, struct route, nodes) : NULL;
}

static void keep(struct router *r, struct route *f, enum route_order o, bool in) {
    struct heap_node *node = &f->nodes[o];
    if (!in) heap_take(&r->orders[o], node);
    if (in && !node->at) heap_put(&r->orders[o], node);
}

/* Room is reserved for it, or its rows are on their way. */
static bool waits_for_rows(const struct route *f) {
    return f->state == FLIGHT_RESERVING || f->state == FLIGHT_PREFILL || f->lender;
}

void wait_file(struct router *r, struct route *f) {
    bool queued = f->state == FLIGHT_QUEUED, again = f->state == FLIGHT_RESERVING && f->refused,
         ready = again || (queued && f->nodes[ORDER_READY].at);
    keep(r, f, ORDER_READY, ready);
    keep(r, f, ORDER_RETRY, queued && !ready);
    keep(r, f, ORDER_STARVE, queued && f->ticket->priority != INT32_MIN);
    keep(r, f, ORDER_ALONE, queued);
    keep(r, f, ORDER_RENEW, waits_for_rows(f));
    keep(r, f, ORDER_BUSY, !queued);
}

void wait_forget(struct router *r, struct route *f) {
    for (int i = 0; i < ROUTE_ORDERS; i++) heap_take(&r->orders[i], &f->nodes[i]);
}

struct route *wait_due_first(const struct router *r) {
    return first_in(r, ORDER_DUE);
}

/* A death is rare: it may cost a look at all that workers have. */
void wait_due_at(struct router *r, const struct mate *m) {
    struct heap *busy = &r->orders[ORDER_BUSY];
    for (uint32_t i = 0; i < busy->len; i++) {
        struct route *f = HEAP_OF(busy->v[i] - ORDER_BUSY, struct route, nodes);
        r->visited++;
        if (f->prefill == m || f->decode == m || f->lender == m) keep(r, f, ORDER_DUE, true);
    }
}

/* --- room ------------------------------------------------------------------------------------- */

/* Those whose time to try again has come. */
static void wake(struct router *r, uint64_t now_ns) {
    struct route *f;
    while ((f = first_in(r, ORDER_RETRY)) && now_ns >= f->retry_ns) {
        r->visited++;
        keep(r, f, ORDER_RETRY, false);
        keep(r, f, ORDER_READY, true);
    }
}

/* False: nobody has room for it now. */
static bool unqueue(struct router *r, struct route *f, uint64_t now_ns) {
    struct mate *m = place_room(r) ? place_decode(r, now_ns) : NULL;
    return m && route_reserve(r, f, m, now_ns);
}

/* In the order of rank, and nobody overtakes: who finds no room stops all behind it, and who was
 * refused once asks alone, so that smaller ones do not take what becomes free before it. */
static void unqueue_all(struct router *r, uint64_t now_ns) {
    struct route *f;
    while ((f = first_in(r, ORDER_READY)) && f->state == FLIGHT_QUEUED) {
        r->visited++;
        if (!unqueue(r, f, now_ns)) return;
    }
}

/* Who waited for long goes before all others, whatever their priority. */
static void raise_starving(struct router *r, uint64_t now_ns) {
    struct route *f;
    while ((f = first_in(r, ORDER_STARVE)) &&
           now_ns - f->queued_ns >= SCHED_STARVE_S * UINT64_C(1000000000)) {
        struct ticket *t = f->ticket;
        for (f = t->routes; f; f = f->next) wait_forget(r, f);
        t->priority = INT32_MIN;
        for (f = t->routes; f; f = f->next) wait_file(r, f);
        r->visited += t->n_routes;
    }
}

/* --- time ------------------------------------------------------------------------------------- */

/* One that may take what is queued, now or once it is heard again; who drains takes nothing more. */
static bool any_to_come(const struct router *r, enum member_role role) {
    for (const struct mate *m = r->mates; m; m = m->next)
        if (m->info.role == role && m->info.state != MEMBER_DRAINING) return true;
    return false;
}

/* What was queued for too long while a role had nobody ends. */
static void give_up(struct router *r, uint64_t now_ns) {
    struct err err;
    struct route *f;
    bool prefill = any_to_come(r, ROLE_OF_PREFILL), decode = any_to_come(r, ROLE_OF_DECODE);
    uint64_t limit = r->o.no_worker_ns ? r->o.no_worker_ns : no_worker_ns;
    if (prefill && decode) r->alone_ns = 0;
    if (prefill && decode) return;
    if (!r->alone_ns) r->alone_ns = now_ns;
    if (now_ns - r->alone_ns < limit) return;
    while ((f = first_in(r, ORDER_ALONE)) && now_ns >= f->since_ns + limit) {
        keep(r, f, ORDER_ALONE, false);
        r->visited++;
        keep(r, f, ORDER_DUE, true);
    }
    (void)err_set(&err, ST_GONE, "no %s worker was alive for %" PRIu64 " s",
                  prefill ? "decode" : "prefill", limit / 1000000000);
    while ((f = wait_due_first(r))) ticket_end(r, f->ticket, &err, false); /* and all of it */
}

static void end_late(struct router *r, uint64_t now_ns) {
    struct err err;
    struct ticket *t;
    if (now_ns < r->late_ns) return;
    while ((t = HEAP_OF(heap_first(&r->late), struct ticket, late)) && now_ns >= t->deadline_ns) {
        (void)err_set(&err, ST_TIMEOUT, "the request took longer than %u ms", t->q->time_left_ms);
        ticket_end(r, t, &err, false);
    }
    r->late_ns = t ? t->deadline_ns : UINT64_MAX;
}

uint64_t wait_renew_every(const struct router *r) {
    return r->o.renew_ns ? r->o.renew_ns : renew_default_ns;
}

void wait_renew_at(struct router *r, struct route *f, uint64_t at_ns) {
    keep(r, f, ORDER_RENEW, false);
    f->renew_ns = at_ns;
    keep(r, f, ORDER_RENEW, true);
    if (at_ns < r->renew_ns) r->renew_ns = at_ns;
}

/* Room that waits for rows is renewed, or its owner would take it back. */
static void renew(struct router *r, uint64_t now_ns) {
    struct route *f;
    if (now_ns < r->renew_ns) return;
    while ((f = first_in(r, ORDER_RENEW)) && now_ns >= f->renew_ns) {
        keep(r, f, ORDER_RENEW, false);
        r->visited++;
        keep(r, f, ORDER_DUE, true);
    }
    r->renew_ns = f ? f->renew_ns : UINT64_MAX;
    while ((f = wait_due_first(r))) {
        keep(r, f, ORDER_DUE, false);
        wait_renew_at(r, f, now_ns + wait_renew_every(r));
        struct wire_out w = router_begin(r, PROTO_RENEW);
        wire_put_u32(&w, 1);
        wire_put_u64(&w, f->id);
        router_send(r, f->decode, &w);
    }
}

void flights_dispatch(struct router *r, uint64_t now_ns) {
    end_late(r, now_ns);
    if (r->n_in[FLIGHT_QUEUED]) give_up(r, now_ns);
    if (r->n_in[FLIGHT_QUEUED]) {
        raise_starving(r, now_ns);
        wake(r, now_ns);
        unqueue_all(r, now_ns);
    }
    renew(r, now_ns);
}

uint64_t flights_due(const struct router *r, uint64_t now_ns) {
    uint64_t due = r->late_ns < r->renew_ns ? r->late_ns : r->renew_ns;
    return r->n_in[FLIGHT_QUEUED] && now_ns + ROUTER_FULL_NS < due ? now_ns + ROUTER_FULL_NS : due;
}

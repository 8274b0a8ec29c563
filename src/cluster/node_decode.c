/* SPDX-License-Identifier: Apache-2.0 */
/* A flight on its decode worker: room is made first, rows are pulled while they are computed, and it
 * runs once they are all there and the router has passed the next tokens on. */
#include <stdlib.h>

#include "cluster/node_impl.h"

static void on_done(void *ctx, const struct err *err) {
    struct flight *f = ctx;
    if (!f->closing) {
        if (err)
            node_fail(f->node, f->id, err->code, err->text);
        else
            node_tell(f->node, PROTO_ENDED, f->id);
    }
    flight_over(f);
}

void decode_reserve(struct node *n, struct wire_in *r) {
    static const struct engine_sink sink = {
        .token = node_on_token, .done = on_done, .block = node_on_block};
    uint64_t id = wire_get_u64(r);
    struct flight *f = flight_new(n, id, FLIGHT_RESERVED);
    struct err err;
    if (!f || !flight_read_record(f, r)) return;
    enum st st = engine_reserve(n->engine, &f->r, &sink, f, n->x->now(n->x->ctx), &f->seat, &err);
    if (!st) {
        n->stats.reservations++;
        f->lease_ns = node_now(n) + n->lease_ns;
        node_tell(n, PROTO_RESERVED, id);
        return;
    }
    if (st == ST_FULL)
        node_tell(n, PROTO_NO_ROOM, id);
    else
        node_fail(n, id, st, err.text);
    flight_over(f);
}

/* --- rows come -------------------------------------------------------------------------------- */

/* Whoever lends need not any longer. */
static void tell_taken(struct node *n, bus_id peer, uint64_t flight) {
    struct wire_out w = node_begin(n, PROTO_TAKEN);
    wire_put_u64(&w, flight);
    node_send_peer(n, peer, &w);
}

static void fail(struct flight *f, enum st st, const char *text) {
    node_fail(f->node, f->id, st, text);
    flight_close(f);
}

static bool begin_pull(struct flight *f, const struct node_peer *p, uint32_t entry) {
    struct pull_source from = {.pages = p->pages,
                               .board = p->board,
                               .n_pages = p->n_pages,
                               .entry = entry,
                               .flight = f->id,
                               .epoch = p->epoch};
    f->pull = pull_begin(f->node->puller, &from, f->seat.pages, f->seat.n_pages, f->seat.n_there,
                         f->seat.n_rows);
    f->from = p->peer;
    return f->pull;
}

void decode_table(struct node *n, const struct node_peer *p, struct wire_in *r, bool complete) {
    uint64_t id = wire_get_u64(r);
    struct flight *f = flight_find(n, id);
    uint32_t entry = wire_get_u32(r), n_rows = complete ? wire_get_u32(r) : 0,
             count = wire_get_count(r, 12);
    if (!f || f->stage != FLIGHT_RESERVED || f->closing || r->bad || !p->pages || !p->board) {
        n->stats.stale++;
        if (complete) tell_taken(n, p->peer, id); /* it was cancelled here meanwhile */
        return;
    }
    struct pull_page *pages = malloc((count + (size_t)1) * sizeof *pages);
    bool ok = pages && (f->pull || begin_pull(f, p, entry)) && f->from == p->peer;
    for (uint32_t i = 0; i < count && ok; i++) {
        pages[i].page = wire_get_u32(r);
        pages[i].generation = wire_get_u64(r);
    }
    if (ok)
        ok = (!complete || n_rows == f->seat.n_rows) &&
             pull_table(f->pull, pages, count, complete) == ST_OK;
    free(pages);
    if (!ok) fail(f, ST_CORRUPT, "what is handed over does not fit what was asked for");
}

void decode_go(struct node *n, struct wire_in *r) {
    struct flight *f = flight_find(n, wire_get_u64(r));
    uint32_t count = wire_get_count(r, 9);
    if (!f || f->stage != FLIGHT_RESERVED || f->closing || f->go) {
        n->stats.stale++;
        return;
    }
    f->first = malloc((count + (size_t)1) * sizeof *f->first);
    bool ok = f->first;
    for (uint32_t i = 0; i < count && ok; i++) {
        struct flight_first t = {.choice = wire_get_u32(r), .id = wire_get_u32(r)};
        uint8_t finish = wire_get_u8(r);
        t.finish = (enum finish_reason)finish;
        ok = t.choice < f->r.n_choices && t.id < n->x->vocab && finish <= FINISH_CANCELLED &&
             !f->r.choices[t.choice].finish;
        f->first[f->n_first++] = t;
    }
    f->go = true;
    if (!ok || !wire_get_end(r)) fail(f, ST_CORRUPT, "the next tokens do not fit the request");
}

/* Every choice of the record that goes on needs its token. */
static bool apply_first(struct flight *f) {
    for (uint32_t i = 0; i < f->n_first; i++) {
        struct request_choice *c = &f->r.choices[f->first[i].choice];
        if (c->finish || c->n_ids >= f->r.max_tokens) return false;
        c->ids[c->n_ids++] = f->first[i].id;
        c->finish = f->first[i].finish;
    }
    uint32_t len = f->seat.n_rows + 1;
    for (uint32_t i = 0; i < f->r.n_choices; i++)
        if (!f->r.choices[i].finish && request_len(&f->r, i) != len) return false;
    return true;
}

static void adopt(struct flight *f, const void *state) {
    struct node *n = f->node;
    if (!apply_first(f)) {
        fail(f, ST_CORRUPT, "the next tokens do not fit the request");
        return;
    }
    f->stage = FLIGHT_DECODED;
    engine_adopt(n->engine, &f->r, state);
}

static void end_pull(struct flight *f) {
    if (f->pull) pull_free(f->pull);
    f->pull = NULL;
    if (f->from) tell_taken(f->node, f->from, f->id);
    f->from = 0;
}

static void renew(struct flight *f, uint64_t now_ns) {
    if (!f->from || now_ns < f->renew_ns) return;
    f->renew_ns = now_ns + f->node->lease_ns / 3;
    struct wire_out w = node_begin(f->node, PROTO_RENEW);
    wire_put_u32(&w, 1);
    wire_put_u64(&w, f->id);
    node_send_peer(f->node, f->from, &w);
}

void decode_step(struct flight *f, uint64_t now_ns) {
    struct node *n = f->node;
    const void *state = NULL;
    bool ok = false;
    if (f->stage != FLIGHT_RESERVED) return;
    bool over = !f->pull || pull_over(f->pull, &ok, &state);
    if (f->closing) {
        if (!over) return;
        end_pull(f);
        engine_cancel(n->engine, &f->r, ENGINE_CANCEL_LEFT);
    } else if (f->pull && over && !ok) {
        fail(f, ST_GONE, "rows were lost on their way");
    } else if (f->pull && over && f->go) {
        /* the state is the pull's, so it goes last; a failure in between closes it */
        adopt(f, state);
        end_pull(f);
    } else if (now_ns >= f->lease_ns) {
        n->stats.reservations_expired++;
        fail(f, ST_TIMEOUT, "its room was reserved for too long");
    } else {
        renew(f, now_ns);
    }
}

void decode_close(struct flight *f) {
    f->closing = true;
    if (f->stage == FLIGHT_DECODED) {
        engine_cancel(f->node->engine, &f->r, ENGINE_CANCEL_LEFT);
    } else if (f->stage == FLIGHT_RESERVED) {
        if (f->pull) pull_cancel(f->pull);
        decode_step(f, 0);
    }
}

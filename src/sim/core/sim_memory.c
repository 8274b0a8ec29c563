/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the simulated bus: segments, and operations that happen at two moments. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sim/core/sim_bus_impl.h"

enum { PAGE_BYTES = 4096 };

/* --- segments --------------------------------------------------------------------------------- */

enum st sim_segment_new(struct bus *base, size_t bytes, enum bus_rights rights, bus_id *id,
                        void **memory, struct err *err) {
    struct sim_bus *b = sim_self(base);
    struct sim_memory *m = calloc(1, sizeof *m);
    void *allocated =
        bytes && bytes <= SIZE_MAX - PAGE_BYTES ? calloc(1, bytes + PAGE_BYTES) : NULL;
    if (!m || !allocated || !ids_add(&b->segments, b->last_id + 1, m)) {
        free(m);
        free(allocated);
        return err_set(err, ST_NO_MEMORY, "segment of %zu bytes: out of memory", bytes);
    }
    *m = (struct sim_memory){
        .refs = 1, .id = ++b->last_id, .bytes = bytes, .rights = rights, .allocated = allocated};
    m->data = (uint8_t *)(((uintptr_t)allocated + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    *id = m->id;
    *memory = m->data;
    return ST_OK;
}

void sim_segment_free(struct bus *base, bus_id segment) {
    struct sim_memory *m = ids_get(&sim_self(base)->segments, segment);
    if (!m) return;
    ids_remove(&sim_self(base)->segments, segment);
    m->freed = true;
    sim_memory_put(m);
}

enum st sim_share(struct bus *base, bus_id peer, bus_id segment, uint64_t tag) {
    struct sim_side *s = ids_get(&sim_self(base)->sides, peer);
    struct sim_memory *m = ids_get(&sim_self(base)->segments, segment);
    if (!m) return ST_NOT_FOUND;
    if (!s || s->state != SIDE_UP) return ST_GONE;
    struct sim_item *i = sim_item_new(sim_other(s), BUS_SEGMENT, NULL, 0);
    i->memory = m;
    m->refs++;
    i->ev.len = m->bytes;
    i->ev.value = tag;
    sim_say(sim_self(base), i);
    return ST_OK;
}

void sim_memory_put(struct sim_memory *m) {
    if (!m || --m->refs) return;
    free(m->allocated);
    free(m);
}

/* --- operations ------------------------------------------------------------------------------- */

static void op_free(struct sim_op *o) {
    if (o->queue) {
        *(o->prev ? &o->prev->next : &o->queue->ops) = o->next;
        if (o->next) o->next->prev = o->prev;
        o->queue->n_ops--;
    }
    sim_memory_put(o->memory);
    if (o->side) sim_conn_put(o->side->conn);
    free(o);
}

static enum bus_status op_status(const struct sim_op *o) {
    if (!o->side || o->side->state != SIDE_UP || o->side->conn->broken) return BUS_PEER_GONE;
    const struct sim_memory *m = o->memory;
    bool inside = o->len <= m->bytes && o->offset <= m->bytes - o->len;
    bool allowed = !o->write || m->rights == BUS_PEERS_WRITE;
    return m->freed || !inside || !allowed ? BUS_DENIED : BUS_DONE;
}

static void op_copy(const struct sim_op *o, bool upper) {
    uint8_t *shared = o->memory->data + o->offset;
    size_t from = upper ? o->split : 0, to = upper ? o->len : o->split;
    if (o->write)
        bus_copy(shared + from, o->local + from, to - from);
    else
        bus_copy(o->local + from, shared + from, to - from);
}

static void op_complete(struct sim_net *n, struct sim_op *o, enum bus_status status) {
    struct sim_queue *q = o->queue;
    if (status == BUS_DONE && o->notify) {
        struct sim_item *i = sim_item_new(sim_other(o->side), BUS_NOTIFY, NULL, 0);
        i->memory = o->memory;
        o->memory->refs++;
        i->ev.segment = o->memory->id;
        i->ev.value = o->value;
        sim_post(n, i);
    }
    done_put(&q->done, o->cookie, status);
    sim_self(q->queue.bus)->news = true;
    op_free(o);
}

/* Twice for an operation of more than a word: each time half of it. */
static void op_step(struct sim_net *n, void *thing) {
    struct sim_op *o = thing;
    struct sim_bus *b = o->queue ? sim_self(o->queue->queue.bus) : NULL;
    if (n->over || !b || b->killed) {
        op_free(o);
    } else if (b->stopped) {
        o->next_parked = b->parked_ops;
        b->parked_ops = o;
    } else {
        enum bus_status status = op_status(o);
        if (status == BUS_DONE && o->len) op_copy(o, o->half_done != o->upper_first);
        if (o->half_done || status != BUS_DONE) {
            op_complete(n, o, status);
        } else {
            o->half_done = true;
            sim_net_post(n, n->now_ns + sim_net_delay(n) / 2, op_step, o);
        }
    }
}

static enum st submit(struct bus_queue *base, const struct sim_op *with, bus_id segment) {
    struct sim_queue *q = (struct sim_queue *)base;
    struct sim_bus *b = sim_self(base->bus);
    if (q->n_ops + q->done.len >= DONE_MAX) return ST_FULL;
    struct sim_op *o = malloc(sizeof *o);
    if (!o) return ST_NO_MEMORY;
    *o = *with;
    o->queue = q;
    o->next = q->ops;
    if (q->ops) q->ops->prev = o;
    q->ops = o;
    q->n_ops++;
    struct sim_import *i = ids_get(&b->imports, segment);
    if (i) {
        o->side = i->side;
        sim_conn_hold(i->side->conn);
        o->memory = i->memory;
        i->memory->refs++;
    }
    if (b->net->o.op_ns) {
        struct sim_bus *of = o->side ? sim_other(o->side)->bus : NULL;
        o->half_done = true;
        sim_net_post(b->net,
                     b->net->now_ns + b->net->o.op_ns(b->net->o.op_ctx, &b->bus,
                                                      of ? &of->bus : NULL, o->write, o->len,
                                                      o->cookie),
                     op_step, o);
        return ST_OK;
    }
    /* Aligned words are never torn, so what has no place to split happens at once. */
    o->split = ((o->offset + o->len / 2) & ~(uint64_t)7) - o->offset;
    if (o->split >= o->len) o->split = 0;
    o->upper_first = sim_net_draw(b->net) & 1;
    uint64_t ns = sim_net_delay(b->net);
    if (o->split) {
        ns /= 2;
    } else {
        o->half_done = true;
        o->upper_first = false;
    }
    sim_net_post(b->net, b->net->now_ns + ns, op_step, o);
    return ST_OK;
}

enum st sim_read(struct bus_queue *q, bus_id segment, uint64_t offset, void *to, size_t len,
                 uint64_t cookie) {
    struct sim_op o = {.offset = offset, .local = to, .len = len, .cookie = cookie};
    return submit(q, &o, segment);
}

enum st sim_write(struct bus_queue *q, bus_id segment, uint64_t offset, const void *from,
                  size_t len, bool notify, uint64_t value, uint64_t cookie) {
    struct sim_op o = {.offset = offset,
                       .local = (uint8_t *)(uintptr_t)from,
                       .len = len,
                       .cookie = cookie,
                       .write = true,
                       .notify = notify,
                       .value = value};
    return submit(q, &o, segment);
}

uint32_t sim_completions(struct bus_queue *q, struct bus_completion *v, uint32_t max) {
    return done_take(&((struct sim_queue *)q)->done, v, max);
}

enum st sim_queue_new(struct bus *b, struct bus_queue **out, struct err *err) {
    struct sim_queue *q = calloc(1, sizeof *q);
    if (!q) return err_set(err, ST_NO_MEMORY, "bus queue: out of memory");
    q->queue.bus = b;
    *out = &q->queue;
    return ST_OK;
}

void sim_queue_free(struct bus_queue *base) {
    struct sim_queue *q = (struct sim_queue *)base;
    for (struct sim_op *o = q->ops; o; o = o->next) o->queue = NULL;
    free(q);
}

void sim_ops_continue(struct sim_bus *b) {
    while (b->parked_ops) {
        struct sim_op *o = b->parked_ops;
        b->parked_ops = o->next_parked;
        sim_net_post(b->net, b->net->now_ns, op_step, o);
    }
}

void sim_ops_drop(struct sim_bus *b) {
    while (b->parked_ops) {
        struct sim_op *o = b->parked_ops;
        b->parked_ops = o->next_parked;
        op_free(o);
    }
}

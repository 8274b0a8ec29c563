/* SPDX-License-Identifier: Apache-2.0 */
/* A ring as a stream of records: written as far as there is room, read as far as it goes, so that a
 * record may be larger than the ring. */
#include "bus/shm_impl.h"

#include <inttypes.h>

enum { DATA_KEPT = 1 << 20 }; /* a larger buffer is given back after its record */

static size_t padded(size_t n) {
    return (n + 7) & ~(size_t)7;
}

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

static void copy_out(const struct ring *r, uint64_t at, void *to, size_t n) {
    size_t pos = at % RING_BYTES, first = min(n, RING_BYTES - pos);
    bus_copy(to, r->bytes + pos, first);
    bus_copy((uint8_t *)to + first, r->bytes, n - first);
}

static void copy_in(struct ring *r, uint64_t at, const void *from, size_t n) {
    size_t pos = at % RING_BYTES, first = min(n, RING_BYTES - pos);
    bus_copy(r->bytes + pos, from, first);
    bus_copy(r->bytes, (const uint8_t *)from + first, n - first);
}

static enum st check_record(const struct record *r, struct err *err) {
    size_t max = 0;
    switch (r->kind) {
    case RECORD_MESSAGE: max = BUS_MESSAGE_MAX; break;
    case RECORD_SHARE: max = sizeof(struct record_share); break;
    case RECORD_FREED:
    case RECORD_NOTIFY: break;
    default: return err_set(err, ST_CORRUPT, "ring: a record of kind %" PRIu32, r->kind);
    }
    if (r->len > max || (r->kind == RECORD_SHARE && r->len < max))
        return err_set(err, ST_CORRUPT, "ring: a record of kind %" PRIu32 " has %" PRIu32 " bytes",
                       r->kind, r->len);
    return ST_OK;
}

/* Room for the record's data. */
static enum st make_room(struct ring_in *in, struct err *err) {
    if (!in->data || in->cap > DATA_KEPT || in->cap < in->record.len) {
        free(in->data);
        in->cap = in->record.len > 4096 ? in->record.len : 4096;
        in->data = malloc(in->cap);
    }
    if (in->data) return ST_OK;
    in->cap = 0;
    return err_set(err, ST_NO_MEMORY, "message of %" PRIu32 " bytes: out of memory",
                   in->record.len);
}

enum st ring_take(struct ring_in *in, bool *whole, struct err *err) {
    *whole = false;
    uint64_t tail = atomic_load(&in->ring->tail);
    uint64_t there = tail - in->head;
    if (there == 0) return ST_OK;
    if (there > RING_BYTES || there % 8 || (!in->begun && there < sizeof in->record))
        return err_set(err, ST_CORRUPT, "ring: tail %" PRIu64 ", head %" PRIu64, tail, in->head);
    if (!in->begun) {
        copy_out(in->ring, in->head, &in->record, sizeof in->record);
        in->head += sizeof in->record;
        there -= sizeof in->record;
        enum st st = check_record(&in->record, err);
        if (!st) st = make_room(in, err);
        if (st) return st;
        in->begun = true;
        in->done = 0;
    }
    size_t left = in->record.len - in->done, n = min(left, there);
    copy_out(in->ring, in->head, in->data + in->done, n);
    in->done += n;
    in->head += padded(n);
    *whole = in->done == in->record.len;
    in->begun = !*whole;
    atomic_store(&in->ring->head, in->head);
    return ST_OK;
}

enum st ring_put(struct ring_out *out, struct ring_record *r, bool *whole, struct err *err) {
    *whole = false;
    uint64_t head = atomic_load(&out->ring->head);
    uint64_t used = out->tail - head;
    if (used > RING_BYTES || used % 8)
        return err_set(err, ST_CORRUPT, "ring: head %" PRIu64 ", tail %" PRIu64, head, out->tail);
    size_t room = RING_BYTES - used;
    if (!r->begun) {
        if (room < sizeof r->record) return ST_OK;
        copy_in(out->ring, out->tail, &r->record, sizeof r->record);
        out->tail += sizeof r->record;
        room -= sizeof r->record;
        r->begun = true;
    }
    size_t n = min(r->record.len - r->done, room);
    copy_in(out->ring, out->tail, r->data + r->done, n);
    r->done += n;
    out->tail += padded(n);
    *whole = r->done == r->record.len;
    atomic_store(&out->ring->tail, out->tail);
    return ST_OK;
}

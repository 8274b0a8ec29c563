/* SPDX-License-Identifier: Apache-2.0 */
/* What goes to a peer: into its ring while there is room, else it waits here. A share's memfd goes
 * over the socket before its record does, so whoever reads the record finds it there. */
#include "bus/shm_impl.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const char kick = 'k', handed = 'f';

enum st shm_out_new(struct shm_out **out, int socket, int ring_fd, int board_fd, struct err *err) {
    struct shm_out *o = calloc(1, sizeof *o);
    if (!o) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    o->ring.ring = shm_map(ring_fd, sizeof *o->ring.ring, true, true, err);
    if (o->ring.ring) o->board = shm_map(board_fd, BOARD_BYTES, true, false, err);
    if (!o->board) {
        if (o->ring.ring) munmap(o->ring.ring, sizeof *o->ring.ring);
        free(o);
        return err ? err->code : ST_INVALID;
    }
    atomic_init(&o->refs, 1);
    pthread_mutex_init(&o->lock, NULL);
    o->socket = socket;
    o->end = &o->first;
    o->unsent_max = BUS_UNSENT_MAX;
    *out = o;
    return ST_OK;
}

static void item_free(struct out_item *i) {
    if (i->fd >= 0) close(i->fd);
    free(i);
}

void shm_out_put(struct shm_out *o) {
    if (!o || atomic_fetch_sub(&o->refs, 1) > 1) return;
    shm_out_end(o);
    munmap(o->ring.ring, sizeof *o->ring.ring);
    munmap((void *)(uintptr_t)o->board, BOARD_BYTES);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

void shm_out_end(struct shm_out *o) {
    pthread_mutex_lock(&o->lock);
    o->socket = -1;
    while (o->first) {
        struct out_item *i = o->first;
        o->first = i->next;
        item_free(i);
    }
    o->end = &o->first;
    o->unsent = 0;
    atomic_store(&o->n_items, 0);
    pthread_mutex_unlock(&o->lock);
}

/* After something was published: wakes the peer if it sleeps, once for each sleep. It says that it
 * sleeps before it looks a last time, and the order of all these is one (seq_cst): so either it sees
 * the record or we see it asleep. */
static void kick_sleeper(struct shm_out *o) {
    uint32_t sleeps = atomic_load(&((struct board *)(uintptr_t)o->board)->sleeps);
    if (sleeps % 2 && sleeps != o->kicked && shm_socket_send(o->socket, &kick, 1, NULL, 0))
        o->kicked = sleeps;
}

void shm_out_kick(struct shm_out *o) {
    pthread_mutex_lock(&o->lock);
    if (o->socket >= 0) shm_socket_send(o->socket, &kick, 1, NULL, 0);
    pthread_mutex_unlock(&o->lock);
}

/* As far as there is room; if that was not enough the reader is asked for a kick. It looks whether
 * one is wanted after it made room, and we look for room after saying so (all seq_cst): so one of us
 * sees the other. If it takes the wish back in mid-way, its kick is on its way to the socket. */
static enum st put(struct shm_out *o, struct ring_record *r, bool *whole, struct err *err) {
    for (int again = 0; again < 2; again++) {
        enum st st = ring_put(&o->ring, r, whole, err);
        if (st || *whole) return st;
        atomic_store(&o->ring.ring->writer_waits, 1);
    }
    return ST_OK;
}

static enum st flush(struct shm_out *o, struct err *err) {
    bool any = false;
    enum st st = ST_OK;
    while (o->first && !st) {
        struct out_item *i = o->first;
        if (i->fd >= 0) {
            if (!shm_socket_send(o->socket, &handed, 1, &i->fd, 1)) break; /* it is full */
            close(i->fd);
            i->fd = -1;
        }
        bool whole;
        st = put(o, &i->r, &whole, err);
        any = true;
        if (st || !whole) break;
        o->first = i->next;
        if (!o->first) o->end = &o->first;
        o->unsent -= i->r.record.len + sizeof *i;
        atomic_fetch_sub(&o->n_items, 1);
        item_free(i);
    }
    if (any) kick_sleeper(o);
    return st;
}

enum st shm_out_flush(struct shm_out *o, struct err *err) {
    if (atomic_load_explicit(&o->n_items, memory_order_relaxed) == 0) return ST_OK;
    pthread_mutex_lock(&o->lock);
    enum st st = o->socket < 0 ? ST_OK : flush(o, err);
    pthread_mutex_unlock(&o->lock);
    return st;
}

static enum st append(struct shm_out *o, const struct ring_record *r, int fd) {
    struct out_item *i = malloc(sizeof *i + r->record.len);
    if (!i) return ST_NO_MEMORY;
    *i = (struct out_item){.r = *r, .fd = fd};
    i->r.data = i->data;
    if (r->record.len) memcpy(i->data, r->data, r->record.len);
    *o->end = i;
    o->end = &i->next;
    o->unsent += i->r.record.len + sizeof *i;
    atomic_fetch_add(&o->n_items, 1);
    return ST_OK;
}

/* A ring that makes no sense is found again by the owner's next flush, which ends the peer: so the
 * record waits for that. */
static enum st send_locked(struct shm_out *o, struct ring_record *r, int fd) {
    struct err err;
    if (o->socket < 0) return ST_GONE;
    if (o->unsent + r->record.len > o->unsent_max) return ST_FULL;
    if (!o->first && fd < 0) {
        bool whole;
        enum st st = put(o, r, &whole, &err);
        kick_sleeper(o);
        if (!st && whole) return ST_OK;
    }
    bool first = !o->first;
    enum st st = append(o, r, fd);
    if (st && r->begun) shutdown(o->socket, SHUT_RDWR); /* half a record: nothing can follow it */
    /* The reader's kick for room may have come before there was an item: the owner's thread, if this
     * is another, saw nothing to flush and sleeps again. So it is tried once more. */
    if (!st && first && flush(o, &err)) return ST_OK;
    return st;
}

enum st shm_out_send(struct shm_out *o, const struct record *record, const void *data, int fd) {
    struct ring_record r = {.record = *record, .data = data};
    pthread_mutex_lock(&o->lock);
    enum st st = send_locked(o, &r, fd);
    pthread_mutex_unlock(&o->lock);
    if (st && fd >= 0) close(fd);
    return st;
}

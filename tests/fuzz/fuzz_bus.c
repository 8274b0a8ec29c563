/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes where a peer of the shared-memory bus speaks: packets in each state of the handshake, or
 * a ring's records and indexes, with memory handed over beside them. The endpoint stays whole: the
 * stranger is refused, the peer goes, or what it said made sense. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus/shm_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct shm_bus *endpoint(void) {
    static struct bus *b;
    struct err err;
    struct shm_options o = {.secret = (const uint8_t *)"0123456789abcdef",
                            .secret_len = 16,
                            .identity = {.name = "fuzz", .model_id = "m"},
                            .peer_timeout_ms = 3600000};
    if (!b && shm_bus_new(&b, &o, &err)) abort();
    return (struct shm_bus *)b;
}

static struct shm_peer *peer_new(struct shm_bus *b, enum peer_state state, int *other) {
    int ends[2];
    struct shm_peer *p = calloc(1, sizeof *p);
    if (!p || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends)) abort();
    *other = ends[1];
    p->state = state;
    p->socket = ends[0];
    p->deadline_ns = UINT64_MAX;
    if (shm_watch(b, p->socket, p)) abort();
    if (state >= IN_HELLO && state <= IN_READY) {
        b->half[b->n_half++] = p;
        return p;
    }
    if (!ids_add(&b->peers, b->last_id + 1, p)) abort();
    p->id = ++b->last_id;
    b->n_connecting += state <= OUT_WELCOME;
    return p;
}

static void speak(int socket, struct shm_bus *b, struct shm_peer *p, const uint8_t *data,
                  size_t size) {
    while (size > 1 && p->state != PEER_ENDED) { /* a length, and so many bytes */
        size_t n = data[0] == 255 ? size - 1 : data[0];
        if (n > size - 1) n = size - 1;
        int fds[2] = {b->board_fd, b->board_fd};
        shm_socket_send(socket, data + 1, n, fds, n % 3);
        shm_socket_step(b, p);
        data += 1 + n;
        size -= 1 + n;
    }
}

static void fill_ring(int socket, struct shm_bus *b, struct shm_peer *p, const uint8_t *data,
                      size_t size) {
    struct err err;
    void *ring, *theirs;
    int ring_fd = shm_memfd("fuzz", sizeof(struct ring), &ring, true, &err);
    int their_fd = shm_memfd("fuzz", sizeof(struct ring), &theirs, true, &err);
    if (ring_fd < 0 || their_fd < 0) abort();
    p->in.ring = ring;
    if (shm_out_new(&p->out, p->socket, their_fd, b->board_fd, &err)) abort();
    size_t n = size < RING_BYTES ? size : RING_BYTES;
    for (uint32_t i = 0; n && i < data[0] % 4u; i++) {
        int fd = i % 2 ? their_fd : b->board_fd;
        shm_socket_send(socket, "f", 1, &fd, 1);
    }
    memcpy(p->in.ring->bytes, data, n);
    atomic_store(&p->in.ring->tail, n && data[n - 1] == 0xff ? (uint64_t)size : n / 8 * 8);
    close(ring_fd);
    close(their_fd);
    munmap(theirs, sizeof(struct ring));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum peer_state states[] = {IN_HELLO,      IN_PROOF,    IN_READY,
                                             OUT_CHALLENGE, OUT_WELCOME, PEER_UP};
    struct shm_bus *b = endpoint();
    struct bus_event ev;
    int other;
    if (size == 0) return 0;
    enum peer_state state = states[data[0] % 6];
    struct shm_peer *p = peer_new(b, state, &other);
    bus_id id = p->id;
    if (state == PEER_UP)
        fill_ring(other, b, p, data + 1, size - 1);
    else
        speak(other, b, p, data + 1, size - 1);
    while (bus_next(&b->bus, &ev)) {
        assert(ev.kind != BUS_MESSAGE || ev.len <= BUS_MESSAGE_MAX);
        assert(ev.kind != BUS_SEGMENT || ev.len > 0);
    }
    while (b->n_half) shm_peer_end(b, b->half[0]);
    if (id) bus_close(&b->bus, id);
    while (b->peers.len) shm_peer_end(b, b->peers.v[0].thing);
    close(other);
    bus_next(&b->bus, &ev); /* buries */
    assert(b->n_connecting == 0 && b->imports.len == 0);
    return 0;
}

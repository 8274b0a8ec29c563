/* SPDX-License-Identifier: Apache-2.0 */
/* The bus between processes of one host: memory handed over by the kernel (memfd, SCM_RIGHTS over a
 * Unix socket), plain loads, messages in shared rings, and a byte over the socket to wake a reader
 * that sleeps. */
#ifndef SUPERNODE_BUS_SHM_H
#define SUPERNODE_BUS_SHM_H

#include "bus/bus.h"

struct shm_options {
    const char
        *address; /* path of our socket, made here and removed at the end; NULL: none comes */
    const uint8_t *secret; /* [secret_len]; copied */
    size_t secret_len;
    struct bus_identity identity;
    uint32_t peer_timeout_ms; /* silence after which a peer is suspended */
    uint32_t spin_us;         /* bus_wait looks for so long before it sleeps */
    uint64_t unsent_max;      /* bytes that wait for a peer to read; 0: BUS_UNSENT_MAX */
};

/* ST_INVALID: the path is too long; ST_IO, with why: another process listens there, ... A socket
 * that nobody listens on any more is replaced. */
enum st ST_CHECKED shm_bus_new(struct bus **out, const struct shm_options *o, struct err *err);

/* Reads a secret from a file that only its owner may read (mode 0600 or 0400), at least 16 bytes;
 * out is to be freed. */
enum st ST_CHECKED bus_secret_read(uint8_t **out, size_t *len, const char *path, struct err *err);
/* Makes such a file with 32 random bytes as hex, unless one is there. */
enum st ST_CHECKED bus_secret_make(const char *path, struct err *err);

/* Changes what the next handshakes say (the epoch in hello moves with time). Owner's thread. */
void shm_bus_set_identity(struct bus *b, const struct bus_identity *identity);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets in. The one who connects proves first that it knows the secret, and only then is told
 * anything:
 *
 *   client            server
 *   HELLO nonce  ->
 *                <-   CHALLENGE nonce
 *   PROOF identity, mac ->
 *                <-   WELCOME identity, mac, ring, board   (or REFUSED with a sentence)
 *   READY ring, board ->
 *
 * A mac is HMAC-SHA256 under the secret over the direction, the version, both nonces, both users as
 * the kernel names them (so another user's process cannot pass a handshake on) and the identities
 * known so far. What comes from a stranger has one fixed size and costs one HMAC at most. */
#include "bus/shm_impl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bus/identity.h"

enum packet_kind {
    PACKET_HELLO = 1,
    PACKET_CHALLENGE,
    PACKET_PROOF,
    PACKET_WELCOME,
    PACKET_REFUSED,
    PACKET_READY
};

static const char magic[8] = "SN-BUS";

struct packet_identity {
    char name[BUS_NAME_BYTES], model_id[BUS_MODEL_ID_BYTES], profile[BUS_PROFILE_BYTES];
    uint8_t hello[BUS_HELLO_BYTES];
    uint8_t unused[3];
    uint32_t hello_len;
};

struct packet {
    char magic[8];
    uint32_t kind, version;
    uint8_t nonce[NONCE_BYTES], mac[MAC_BYTES];
    struct packet_identity identity;
    char text[TEXT_BYTES];
};

static void pack_identity(struct packet_identity *to, const struct bus_identity *i) {
    *to = (struct packet_identity){.hello_len = i->hello_len};
    snprintf(to->name, sizeof to->name, "%s", i->name);
    snprintf(to->model_id, sizeof to->model_id, "%s", i->model_id);
    snprintf(to->profile, sizeof to->profile, "%s", i->profile);
    memcpy(to->hello, i->hello, i->hello_len);
}

static bool unpack_identity(struct bus_identity *to, const struct packet_identity *i) {
    struct bus_identity got = {.hello_len = i->hello_len};
    memcpy(got.name, i->name, sizeof got.name);
    memcpy(got.model_id, i->model_id, sizeof got.model_id);
    memcpy(got.profile, i->profile, sizeof got.profile);
    memcpy(got.hello, i->hello, sizeof got.hello);
    if (!identity_is_valid(&got)) return false;
    *to = got;
    return true;
}

/* --- proofs ----------------------------------------------------------------------------------- */

enum side { CLIENT = 'c', SERVER = 's' };

struct claim {
    uint32_t side, version;
    uint8_t nonce_client[NONCE_BYTES], nonce_server[NONCE_BYTES];
    uint32_t uid_client, uid_server;
    struct packet_identity client, server; /* server: zero in the client's */
};

/* side: who proves. False: the kernel does not say who is there, or out of memory. */
static bool prove(const struct shm_bus *b, const struct shm_peer *p, enum side side,
                  uint8_t mac[MAC_BYTES]) {
    struct ucred there;
    socklen_t len = sizeof there;
    unsigned mac_len = MAC_BYTES;
    if (getsockopt(p->socket, SOL_SOCKET, SO_PEERCRED, &there, &len) != 0) return false;
    bool client = p->state == OUT_CHALLENGE || p->state == OUT_WELCOME;
    struct claim c = {.side = side, .version = BUS_VERSION};
    memcpy(c.nonce_client, p->nonce_client, NONCE_BYTES);
    memcpy(c.nonce_server, p->nonce_server, NONCE_BYTES);
    c.uid_client = client ? geteuid() : there.uid;
    c.uid_server = client ? there.uid : geteuid();
    pack_identity(&c.client, client ? &p->ours : &p->identity);
    if (side == SERVER) pack_identity(&c.server, client ? &p->identity : &p->ours);
    return HMAC(EVP_sha256(), b->secret, (int)b->secret_len, (const uint8_t *)&c, sizeof c, mac,
                &mac_len) != NULL;
}

static bool is_proven(const struct shm_bus *b, const struct shm_peer *p, enum side side,
                      const uint8_t mac[MAC_BYTES]) {
    uint8_t want[MAC_BYTES];
    return prove(b, p, side, want) && CRYPTO_memcmp(want, mac, MAC_BYTES) == 0;
}

/* --- the exchange ----------------------------------------------------------------------------- */

static struct packet packet_of(enum packet_kind kind) {
    struct packet out = {.kind = kind, .version = BUS_VERSION};
    memcpy(out.magic, magic, sizeof magic);
    return out;
}

static bool send_packet(const struct shm_peer *p, const struct packet *out, const int *fds,
                        uint32_t n_fds) {
    return shm_socket_send(p->socket, out, sizeof *out, fds, n_fds);
}

static void refuse(struct shm_bus *b, struct shm_peer *p, const char *why) {
    struct packet out = packet_of(PACKET_REFUSED);
    snprintf(out.text, sizeof out.text, "%.*s", TEXT_BYTES - 1, why);
    send_packet(p, &out, NULL, 0); /* if it does not take it, it sees the end */
    shm_peer_fail(b, p, why);
}

/* Asking again is no use: it is what it is. */
static void do_not_want(struct shm_bus *b, struct shm_peer *p, const char *why) {
    p->unwanted = true;
    shm_peer_fail(b, p, why);
}

static bool draw_nonce(uint8_t nonce[NONCE_BYTES]) {
    return getrandom(nonce, NONCE_BYTES, 0) == NONCE_BYTES;
}

/* What each hands over: the ring it reads, and its board. */
static bool send_with_memory(struct shm_bus *b, struct shm_peer *p, const struct packet *out) {
    struct err err;
    void *ring;
    int fds[2] = {shm_memfd("supernode-ring", sizeof(struct ring), &ring, true, &err), b->board_fd};
    if (fds[0] < 0) return false;
    p->in.ring = ring;
    bool sent = send_packet(p, out, fds, 2);
    close(fds[0]);
    return sent;
}

static enum st take_memory(const struct shm_bus *b, struct shm_peer *p, const int *fds,
                           uint32_t n_fds, struct err *err) {
    if (n_fds != 2) return err_set(err, ST_INVALID, "handshake: no ring came with it");
    enum st st = shm_out_new(&p->out, p->socket, fds[0], fds[1], err);
    if (!st) p->out->unsent_max = b->unsent_max;
    return st;
}

void shm_handshake_begin(struct shm_bus *b, struct shm_peer *p) {
    struct packet out = packet_of(PACKET_HELLO);
    p->ours = b->identity;
    p->state = OUT_CHALLENGE;
    bool ok = draw_nonce(p->nonce_client);
    memcpy(out.nonce, p->nonce_client, NONCE_BYTES);
    if (!ok || !send_packet(p, &out, NULL, 0)) shm_peer_fail(b, p, "handshake: cannot send");
}

static void challenged(struct shm_bus *b, struct shm_peer *p, const struct packet *in) {
    struct packet out = packet_of(PACKET_PROOF);
    memcpy(p->nonce_server, in->nonce, NONCE_BYTES);
    pack_identity(&out.identity, &p->ours);
    bool ok = prove(b, p, CLIENT, out.mac) && send_packet(p, &out, NULL, 0);
    p->state = OUT_WELCOME;
    if (!ok) shm_peer_fail(b, p, "handshake: cannot send");
}

static void up(struct shm_bus *b, struct shm_peer *p) {
    p->state = PEER_UP;
    p->heard = atomic_load(&b->board->beats);
    shm_pend(b, BUS_UP, p->id, &p->identity, "");
}

static void welcomed(struct shm_bus *b, struct shm_peer *p, const struct packet *in, const int *fds,
                     uint32_t n_fds) {
    struct err err;
    struct packet out = packet_of(PACKET_READY);
    if (!unpack_identity(&p->identity, &in->identity) || !is_proven(b, p, SERVER, in->mac))
        do_not_want(b, p, "the cluster's secret differs");
    else if (!identity_agrees(&p->ours, &p->identity, &err))
        do_not_want(b, p, err.text);
    else if (take_memory(b, p, fds, n_fds, &err))
        shm_peer_fail(b, p, err.text);
    else if (!send_with_memory(b, p, &out))
        shm_peer_fail(b, p, "handshake: cannot send");
    else {
        b->n_connecting--;
        up(b, p);
    }
}

static void greeted(struct shm_bus *b, struct shm_peer *p, const struct packet *in) {
    struct packet out = packet_of(PACKET_CHALLENGE);
    bool ok = draw_nonce(p->nonce_server);
    memcpy(p->nonce_client, in->nonce, NONCE_BYTES);
    memcpy(out.nonce, p->nonce_server, NONCE_BYTES);
    p->ours = b->identity;
    p->state = IN_PROOF;
    if (!ok || !send_packet(p, &out, NULL, 0)) shm_peer_fail(b, p, "handshake: cannot send");
}

static void proven(struct shm_bus *b, struct shm_peer *p, const struct packet *in) {
    struct err err;
    struct packet out = packet_of(PACKET_WELCOME);
    if (!unpack_identity(&p->identity, &in->identity) || !is_proven(b, p, CLIENT, in->mac))
        refuse(b, p, "the cluster's secret differs");
    else if (!identity_agrees(&p->ours, &p->identity, &err))
        refuse(b, p, err.text);
    else {
        pack_identity(&out.identity, &p->ours);
        bool ok = prove(b, p, SERVER, out.mac) && send_with_memory(b, p, &out);
        p->state = IN_READY;
        if (!ok) shm_peer_fail(b, p, "handshake: cannot send");
    }
}

static void ready(struct shm_bus *b, struct shm_peer *p, const int *fds, uint32_t n_fds) {
    struct err err;
    if (take_memory(b, p, fds, n_fds, &err)) {
        shm_peer_fail(b, p, err.text);
        return;
    }
    uint32_t i = 0;
    while (b->half[i] != p) i++;
    if (!ids_add(&b->peers, b->last_id + 1, p)) {
        shm_peer_fail(b, p, "out of memory");
        return;
    }
    memmove(&b->half[i], &b->half[i + 1], (--b->n_half - i) * sizeof *b->half);
    p->id = ++b->last_id;
    up(b, p);
}

void shm_handshake_step(struct shm_bus *b, struct shm_peer *p, const void *data, size_t len,
                        const int *fds, uint32_t n_fds) {
    struct packet in;
    char text[TEXT_BYTES + 64];
    bool client = p->state == OUT_CHALLENGE || p->state == OUT_WELCOME;
    if (len < offsetof(struct packet, nonce) || memcmp(data, magic, sizeof magic) != 0) {
        shm_peer_fail(b, p, "what is there is no supernode");
        return;
    }
    memcpy(&in, data, len < sizeof in ? len : sizeof in);
    if (in.version != BUS_VERSION) {
        snprintf(text, sizeof text, "bus version %u, expected %u", in.version, BUS_VERSION);
        if (client)
            do_not_want(b, p, text);
        else
            refuse(b, p, text);
    } else if (len != sizeof in) {
        shm_peer_fail(b, p, "handshake: a packet of another size");
    } else if (client && in.kind == PACKET_REFUSED) {
        snprintf(text, sizeof text, "%.*s", TEXT_BYTES - 1, in.text);
        do_not_want(b, p, text);
    } else if (p->state == OUT_CHALLENGE && in.kind == PACKET_CHALLENGE)
        challenged(b, p, &in);
    else if (p->state == OUT_WELCOME && in.kind == PACKET_WELCOME)
        welcomed(b, p, &in, fds, n_fds);
    else if (p->state == IN_HELLO && in.kind == PACKET_HELLO)
        greeted(b, p, &in);
    else if (p->state == IN_PROOF && in.kind == PACKET_PROOF)
        proven(b, p, &in);
    else if (p->state == IN_READY && in.kind == PACKET_READY)
        ready(b, p, fds, n_fds);
    else
        shm_peer_fail(b, p, "handshake: a packet out of turn");
}

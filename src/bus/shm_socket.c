/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets of the bus: who listens, packets with file descriptors in them, and the end of a
 * peer, which the kernel tells at once. After the handshake a packet is one byte: a kick, or the
 * memfd of a share beside it. */
#include "bus/shm_impl.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    PACKET_FDS = 4,
    PACKETS_A_TURN = 64,
    ACCEPTS_A_TURN = 16,
    BACKLOG = 128,
    DEAF_NS = 100000000
};

enum st shm_watch(struct shm_bus *b, int fd, void *what) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = what};
    return epoll_ctl(b->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? ST_OK : ST_IO;
}

static struct sockaddr_un at(const char *address) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, address, strnlen(address, sizeof a.sun_path - 1));
    return a;
}

/* --- packets ---------------------------------------------------------------------------------- */

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(PACKET_FDS * sizeof(int))];
};

bool shm_socket_send(int socket, const void *data, size_t len, const int *fds, uint32_t n_fds) {
    union control control = {0};
    struct iovec v = {(void *)(uintptr_t)data, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (n_fds) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(n_fds * sizeof(int)),
                              .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    return sendmsg(socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

/* Bytes; 0: the end; -1: nothing there, -2: too long, or more than the descriptors we take. */
static ssize_t receive(int socket, void *data, size_t cap, int *fds, uint32_t *n_fds) {
    union control control;
    struct iovec v = {data, cap};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    *n_fds = 0;
    ssize_t n = recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? -1 : 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        uint32_t k = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (uint32_t i = 0; i < k; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (*n_fds < PACKET_FDS)
                fds[(*n_fds)++] = fd;
            else
                close(fd);
        }
    }
    return m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -2 : n;
}

/* A kick says only that there is something to look at. */
static void take_packet(struct shm_bus *b, struct shm_peer *p, const char *data, ssize_t n,
                        int *fds, uint32_t n_fds) {
    if (n == 1 && *data == 'k' && n_fds == 0) return;
    bool handed = n == 1 && *data == 'f' && n_fds == 1 && p->n_fds < FDS_MAX;
    if (handed)
        p->fds[p->n_fds++] = fds[0];
    else {
        for (uint32_t i = 0; i < n_fds; i++) close(fds[i]);
        shm_peer_fail(b, p, "the peer sent what is no kick and no memory");
    }
}

/* Nothing comes over the socket any more; what is in the ring by now is still read. */
static void closed(struct shm_bus *b, struct shm_peer *p) {
    if (p->state != PEER_UP) {
        shm_peer_fail(b, p, "closed the connection during the handshake");
        return;
    }
    epoll_ctl(b->epoll, EPOLL_CTL_DEL, p->socket, NULL);
    p->closed = true;
    p->closed_tail = atomic_load(&p->in.ring->tail);
}

bool shm_socket_step(struct shm_bus *b, struct shm_peer *p) {
    char data[2048];
    int fds[PACKET_FDS];
    uint32_t n_fds;
    for (int i = 0; i < PACKETS_A_TURN && p->state != PEER_ENDED && !p->closed; i++) {
        ssize_t n = receive(p->socket, data, sizeof data, fds, &n_fds);
        if (n == -1) return false;
        if (n == 0 || n == -2 || p->state != PEER_UP) {
            if (n == 0)
                closed(b, p);
            else if (n == -2)
                shm_peer_fail(b, p, "the peer sent too long a packet");
            else
                shm_handshake_step(b, p, data, (size_t)n, fds, n_fds);
            for (uint32_t k = 0; k < n_fds; k++) close(fds[k]);
        } else {
            take_packet(b, p, data, n, fds, n_fds);
        }
    }
    return p->state != PEER_ENDED && !p->closed;
}

/* --- listening -------------------------------------------------------------------------------- */

/* A socket's file that nobody listens on is removed; anything else stays. */
static enum st remove_stale(const char *address, struct err *err) {
    struct sockaddr_un a = at(address);
    struct stat s;
    if (stat(address, &s) == 0 && !S_ISSOCK(s.st_mode))
        return err_set(err, ST_IO, "%s: is there and no socket", address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&a, sizeof a);
    int why = errno;
    if (fd >= 0) close(fd);
    if (rc == 0 || why != ECONNREFUSED)
        return err_set(err, ST_IO, "%s: another process listens there", address);
    if (unlink(address) != 0 && errno != ENOENT)
        return err_set(err, ST_IO, "%s: %s", address, strerror(errno));
    return ST_OK;
}

enum st shm_listen(struct shm_bus *b, struct err *err) {
    struct sockaddr_un a = at(b->address);
    struct stat s;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_set(err, ST_IO, "%s: %s", b->address, strerror(errno));
    b->listener = fd;
    fchmod(fd, 0600); /* before anybody can see it, whatever the umask */
    int rc = bind(fd, (struct sockaddr *)&a, sizeof a);
    if (rc != 0 && errno == EADDRINUSE) {
        enum st st = remove_stale(b->address, err);
        if (st) return st;
        rc = bind(fd, (struct sockaddr *)&a, sizeof a);
    }
    if (rc == 0 && stat(b->address, &s) == 0) b->dev = s.st_dev, b->ino = s.st_ino;
    if (rc == 0) rc = chmod(b->address, 0600);
    if (rc == 0) rc = listen(fd, BACKLOG);
    if (rc == 0) rc = shm_watch(b, fd, &b->listener) ? -1 : 0;
    if (rc == 0) return ST_OK;
    return err_set(err, ST_IO, "%s: %s", b->address, strerror(errno));
}

void shm_listen_end(struct shm_bus *b) {
    struct stat s;
    if (b->listener < 0) return;
    close(b->listener);
    if (b->ino && stat(b->address, &s) == 0 && s.st_dev == b->dev && s.st_ino == b->ino)
        unlink(b->address);
}

/* The oldest of too many strangers goes: whoever knows the secret needs no time. */
static void take_in(struct shm_bus *b, int fd, uint64_t now_ns) {
    if (b->n_half == HALF_MAX) shm_peer_fail(b, b->half[0], "");
    struct shm_peer *p = calloc(1, sizeof *p);
    if (!p || shm_watch(b, fd, p)) {
        free(p);
        close(fd);
        return;
    }
    p->state = IN_HELLO;
    p->socket = fd;
    p->deadline_ns = now_ns + b->handshake_ns;
    b->half[b->n_half++] = p;
}

void shm_accept(struct shm_bus *b, uint64_t now_ns) {
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            /* who waits there stays, and would wake us again and again */
            bool full = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
            if (full && epoll_ctl(b->epoll, EPOLL_CTL_DEL, b->listener, NULL) == 0)
                b->deaf_until_ns = now_ns + DEAF_NS;
            return;
        }
        take_in(b, fd, now_ns);
    }
}

void shm_connect_step(struct shm_bus *b, struct shm_peer *p) {
    struct sockaddr_un a = at(p->address);
    if (connect(p->socket, (struct sockaddr *)&a, sizeof a) == 0) {
        if (shm_watch(b, p->socket, p))
            shm_peer_fail(b, p, "out of memory");
        else
            shm_handshake_begin(b, p);
    } else if (errno == ENOENT || errno == ECONNREFUSED) {
        shm_peer_fail(b, p, "nobody listens");
    } else if (errno != EAGAIN && errno != EINTR) {
        shm_peer_fail(b, p, strerror(errno));
    }
}

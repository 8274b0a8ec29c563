/* SPDX-License-Identifier: Apache-2.0 */
/* Implements shm.h: the endpoint, its events, its waiting, and who is silent.
 *
 * Silence is counted in beats of our own heart: a peer is suspected when ours beat so often without
 * one of its. So who was stopped itself, or whose machine slept, suspects nobody for that. */
#include "bus/shm_impl.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "bus/identity.h"

static const uint64_t ms = 1000000;

enum {
    POLL_MS = 2,       /* how often next looks at sockets */
    RETRY_MS = 20,     /* how long a wait leaves a handshake or a full socket alone */
    BEAT_MS_MAX = 250, /* and at most a sixth of the timeout */
    HANDSHAKE_MS_MIN = 1000,
    EVENTS = 32,
    RECORDS_A_TURN = 256, /* of one peer, where none is an event */
    SHARE_TURNS = 64,     /* at its socket for a share's memory: more than it holds */
};

/* --- events and ends -------------------------------------------------------------------------- */

struct bus_event *shm_pend(struct shm_bus *b, enum bus_event_kind kind, bus_id peer,
                           const struct bus_identity *identity, const char *text) {
    struct shm_pend *e = calloc(1, sizeof *e);
    if (!e) return NULL; /* out of memory: the peer's silence will be noticed by who waits for it */
    e->ev = (struct bus_event){.kind = kind, .peer = peer};
    if (identity) e->identity = *identity;
    struct err printable;
    err_set(&printable, ST_GONE, "%s", text);
    memcpy(e->text, printable.text, sizeof e->text);
    *b->end = e;
    b->end = &e->next;
    return &e->ev;
}

static struct shm_pend *pend_take(struct shm_bus *b) {
    struct shm_pend *e = b->first;
    b->first = e->next;
    if (!b->first) b->end = &b->first;
    return e;
}

static void pend_drop(struct shm_bus *b, bus_id peer) {
    struct shm_pend *e = b->first;
    b->first = NULL;
    b->end = &b->first;
    for (struct shm_pend *next; e; e = next) {
        next = e->next;
        e->next = NULL;
        if (e->ev.peer == peer) {
            free(e);
            continue;
        }
        *b->end = e;
        b->end = &e->next;
    }
}

void shm_peer_end(struct shm_bus *b, struct shm_peer *p) {
    if (p->state == PEER_ENDED) return;
    if (p->id) ids_remove(&b->peers, p->id);
    if (p->state <= OUT_WELCOME) b->n_connecting--;
    for (uint32_t i = 0; i < b->n_half; i++)
        if (b->half[i] == p)
            memmove(&b->half[i], &b->half[i + 1], (--b->n_half - i) * sizeof *b->half);
    p->state = PEER_ENDED;
    shm_imports_end(b, p, 0);
    if (p->out) {
        shm_out_end(p->out);
        shm_out_put(p->out);
    }
    close(p->socket);
    while (p->n_fds) close(p->fds[--p->n_fds]);
    if (p->in.ring) munmap(p->in.ring, sizeof *p->in.ring);
    p->next_dead = b->dead;
    b->dead = p;
}

void shm_peer_fail(struct shm_bus *b, struct shm_peer *p, const char *why) {
    char text[BUS_ADDRESS_BYTES + TEXT_BYTES + 64];
    if (p->state == PEER_UP) shm_pend(b, BUS_GONE, p->id, NULL, why);
    if (p->state <= OUT_WELCOME) {
        snprintf(text, sizeof text, "%s: %s", p->address, why);
        struct bus_event *ev = shm_pend(b, BUS_REFUSED, p->id, NULL, text);
        if (ev) ev->value = p->unwanted;
    }
    shm_peer_end(b, p);
}

static void bury(struct shm_bus *b) {
    while (b->dead) {
        struct shm_peer *p = b->dead;
        b->dead = p->next_dead;
        free(p->in.data);
        free(p);
    }
}

/* --- the heart -------------------------------------------------------------------------------- */

static void *beat(void *arg) {
    struct shm_bus *b = arg;
    pthread_mutex_lock(&b->heart_lock);
    while (!b->heart_over) {
        uint64_t until = clock_now_ns() + b->beat_ns;
        struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        int rc = 0;
        while (!b->heart_over && rc == 0)
            rc = pthread_cond_timedwait(&b->heart_stop, &b->heart_lock, &t);
        atomic_fetch_add(&b->board->beats, 1);
    }
    pthread_mutex_unlock(&b->heart_lock);
    return NULL;
}

static void judge(struct shm_bus *b) {
    uint64_t beats = atomic_load_explicit(&b->board->beats, memory_order_relaxed);
    if (beats == b->judged) return;
    b->judged = beats;
    for (uint32_t i = 0; i < b->peers.len; i++) {
        struct shm_peer *p = b->peers.v[i].thing;
        if (p->state != PEER_UP || p->closed) continue;
        struct board *board = (struct board *)(uintptr_t)p->out->board;
        uint64_t theirs = atomic_load_explicit(&board->beats, memory_order_relaxed);
        if (theirs != p->beats) {
            p->beats = theirs;
            p->heard = beats;
            if (p->suspended) shm_pend(b, BUS_RESUMED, p->id, NULL, "");
            p->suspended = false;
        } else if (beats - p->heard > b->beats_max && !p->suspended) {
            p->suspended = true;
            shm_pend(b, BUS_SUSPENDED, p->id, NULL, "");
        }
    }
}

/* --- sockets ---------------------------------------------------------------------------------- */

static void check_deadlines(struct shm_bus *b, uint64_t now) {
    while (b->n_half && b->half[0]->deadline_ns <= now) shm_peer_fail(b, b->half[0], "");
    if (b->deaf_until_ns && b->deaf_until_ns <= now && !shm_watch(b, b->listener, &b->listener))
        b->deaf_until_ns = 0;
    if (b->n_connecting == 0) return;
    for (uint32_t i = b->peers.len; i-- > 0;) {
        struct shm_peer *p = b->peers.v[i].thing;
        if (p->state > OUT_WELCOME) continue;
        if (p->deadline_ns <= now)
            shm_peer_fail(b, p, "does not answer");
        else if (p->state == OUT_CONNECT)
            shm_connect_step(b, p);
    }
}

static void poll_sockets(struct shm_bus *b, int timeout_ms) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(b->epoll, events, EVENTS, timeout_ms);
    uint64_t now = clock_now_ns(), count;
    for (int i = 0; i < n; i++) {
        void *what = events[i].data.ptr;
        if (what == &b->wake_fd) {
            if (read(b->wake_fd, &count, sizeof count) < 0) continue;
        } else if (what == &b->listener)
            shm_accept(b, now);
        else
            shm_socket_step(b, what);
    }
    b->polled_ns = now;
    check_deadlines(b, now);
}

/* --- records ---------------------------------------------------------------------------------- */

static enum st take_share(struct shm_bus *b, struct shm_peer *p, struct bus_event *ev,
                          struct err *err) {
    struct record_share s;
    const struct record *r = &p->in.record;
    memcpy(&s, p->in.data, sizeof s);
    for (int i = 0; i < SHARE_TURNS && p->n_fds == 0 && shm_socket_step(b, p); i++) {
    }
    if (p->state == PEER_ENDED) return ST_GONE;
    if (p->n_fds == 0) return err_set(err, ST_CORRUPT, "the peer shares memory that never came");
    int fd = p->fds[0];
    memmove(p->fds, p->fds + 1, --p->n_fds * sizeof fd);
    bus_id id = 0;
    enum st st = shm_import(b, p, r, &s, fd, &id, err);
    close(fd);
    *ev = (struct bus_event){
        .kind = BUS_SEGMENT, .peer = p->id, .segment = id, .len = s.bytes, .value = r->value};
    return st;
}

/* What a whole record says; *event: something for our caller. */
static enum st take_record(struct shm_bus *b, struct shm_peer *p, struct bus_event *ev, bool *event,
                           struct err *err) {
    const struct record *r = &p->in.record;
    *event = false;
    switch ((enum record_kind)r->kind) {
    case RECORD_MESSAGE:
        *ev = (struct bus_event){
            .kind = BUS_MESSAGE, .peer = p->id, .data = p->in.data, .len = r->len};
        *event = true;
        return ST_OK;
    case RECORD_SHARE: *event = true; return take_share(b, p, ev, err);
    case RECORD_FREED:
        if (r->segment) shm_imports_end(b, p, r->segment);
        return ST_OK;
    case RECORD_NOTIFY:
        *ev = (struct bus_event){
            .kind = BUS_NOTIFY, .peer = p->id, .segment = r->segment, .value = r->value};
        *event = shm_may_notify(b, r->segment, p->id); /* else it was freed meanwhile, or a lie */
        return ST_OK;
    }
    return ST_OK;
}

/* One event of the peer's ring, or its end. A peer that goes on saying nothing has its turn only. */
static bool read_ring(struct shm_bus *b, struct shm_peer *p, struct bus_event *ev) {
    struct err err;
    enum st st = ST_OK;
    bool whole = false, event = false;
    int n = 0;
    for (; !st && !event && n < RECORDS_A_TURN && ring_in_ready(&p->in); n++) {
        if (p->closed && (int64_t)(p->in.head - p->closed_tail) >= 0) break;
        st = ring_take(&p->in, &whole, &err);
        if (!st && whole) st = take_record(b, p, ev, &event, &err);
    }
    if (p->state == PEER_ENDED) return false;
    if (st) {
        shm_peer_fail(b, p, err.text);
        return false;
    }
    if (n > 0 && atomic_load(&p->in.ring->writer_waits)) {
        atomic_store(&p->in.ring->writer_waits, 0);
        shm_out_kick(p->out);
    }
    if (!event && p->closed && n < RECORDS_A_TURN) shm_peer_fail(b, p, "closed the connection");
    return event;
}

static bool read_rings(struct shm_bus *b, struct bus_event *ev) {
    for (uint32_t k = 0; k < b->peers.len; k++) {
        struct shm_peer *p = b->peers.v[(b->turn + k) % b->peers.len].thing;
        struct err err;
        if (p->state != PEER_UP) continue;
        if (shm_out_flush(p->out, &err)) {
            shm_peer_fail(b, p, err.text);
            return false; /* the table has changed; its end is the next event */
        }
        if (!ring_in_ready(&p->in) && !p->closed) continue;
        if (read_ring(b, p, ev)) {
            b->turn = (b->turn + k + 1) % b->peers.len;
            return true;
        }
        if (b->first) return false; /* likewise */
    }
    return false;
}

static bool shm_next(struct bus *base, struct bus_event *ev) {
    struct shm_bus *b = shm_self(base);
    bury(b);
    free(b->taken);
    b->taken = NULL;
    uint64_t now = clock_now_ns();
    if (now - b->polled_ns > POLL_MS * ms) poll_sockets(b, 0);
    judge(b);
    if (!b->first && read_rings(b, ev)) return true;
    if (!b->first) return false;
    b->taken = pend_take(b);
    b->taken->ev.identity = &b->taken->identity;
    b->taken->ev.text = b->taken->text;
    *ev = b->taken->ev;
    return true;
}

/* --- waiting ---------------------------------------------------------------------------------- */

/* Something for next to say. What waits for room is flushed on the way: *busy, if a socket is full
 * and must be tried again. */
static bool is_ready(struct shm_bus *b, bool *busy) {
    if (b->first || atomic_load(&b->woken)) return true;
    for (uint32_t i = 0; i < b->peers.len; i++) {
        struct shm_peer *p = b->peers.v[i].thing;
        struct err err;
        if (p->state != PEER_UP) continue;
        if (ring_in_ready(&p->in) || p->closed) return true;
        if (shm_out_flush(p->out, &err)) {
            shm_peer_fail(b, p, err.text);
            return true;
        }
        *busy |= atomic_load_explicit(&p->out->n_items, memory_order_relaxed) != 0;
    }
    return false;
}

static int sleep_ms(const struct shm_bus *b, uint64_t until_ns, uint64_t now, bool busy) {
    uint64_t left = until_ns > now ? until_ns - now : 0;
    uint64_t most = b->peers.len ? b->beat_ns : left;
    if (b->n_half || b->n_connecting || b->deaf_until_ns || busy) most = RETRY_MS * ms;
    if (left > most) left = most;
    left = (left + ms - 1) / ms;
    return left > 1000000 ? 1000000 : (int)left;
}

/* Says that it sleeps, looks a last time, sleeps: see kick_sleeper. */
static void sleep_until(struct shm_bus *b, uint64_t until_ns) {
    bool busy = false;
    atomic_fetch_add(&b->board->sleeps, 1);
    bool ready = is_ready(b, &busy);
    poll_sockets(b, ready ? 0 : sleep_ms(b, until_ns, clock_now_ns(), busy));
    atomic_fetch_add(&b->board->sleeps, 1);
}

static void shm_wait(struct bus *base, uint64_t until_ns) {
    struct shm_bus *b = shm_self(base);
    uint64_t now = clock_now_ns(), spin_until = now + b->spin_ns;
    bool busy = false;
    while (!is_ready(b, &busy) && now < until_ns) {
        if (now < spin_until)
            atomic_signal_fence(memory_order_seq_cst);
        else {
            sleep_until(b, until_ns);
            judge(b);
        }
        now = clock_now_ns();
    }
    atomic_exchange(&b->woken, false);
}

static void shm_wake(struct bus *base) {
    struct shm_bus *b = shm_self(base);
    uint64_t one = 1;
    atomic_store(&b->woken, true);
    if (atomic_load(&b->board->sleeps) % 2 == 0) return;
    ssize_t n = write(b->wake_fd, &one, sizeof one);
    (void)n; /* it can only say that it is raised already */
}

static uint64_t shm_now(struct bus *b) {
    (void)b;
    return clock_now_ns();
}

/* --- peers ------------------------------------------------------------------------------------ */

static bus_id shm_connect(struct bus *base, const char *address) {
    struct shm_bus *b = shm_self(base);
    struct shm_peer *p = calloc(1, sizeof *p);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!p || fd < 0 || !ids_add(&b->peers, b->last_id + 1, p)) {
        if (fd >= 0) close(fd);
        free(p);
        bus_id id = ++b->last_id;
        shm_pend(b, BUS_REFUSED, id, NULL, fd < 0 ? strerror(errno) : "out of memory");
        return id;
    }
    p->id = ++b->last_id;
    p->state = OUT_CONNECT;
    p->socket = fd;
    p->deadline_ns = clock_now_ns() + b->handshake_ns;
    b->n_connecting++;
    bus_id id = p->id;
    snprintf(p->address, sizeof p->address, "%s", address);
    if (strlen(address) >= sizeof p->address)
        shm_peer_fail(b, p, "the path is too long");
    else
        shm_connect_step(b, p);
    return id;
}

static void shm_close(struct bus *base, bus_id peer) {
    struct shm_bus *b = shm_self(base);
    struct shm_peer *p = ids_get(&b->peers, peer);
    if (p) shm_peer_end(b, p);
    pend_drop(b, peer);
}

static enum st shm_send(struct bus *base, bus_id peer, const void *data, size_t len) {
    const struct shm_peer *p = ids_get(&shm_self(base)->peers, peer);
    if (len > BUS_MESSAGE_MAX) return ST_INVALID;
    if (!p || p->state != PEER_UP || p->closed) return ST_GONE;
    struct record r = {.kind = RECORD_MESSAGE, .len = (uint32_t)len};
    return shm_out_send(p->out, &r, data, -1);
}

void shm_bus_set_identity(struct bus *b, const struct bus_identity *identity) {
    assert(identity_is_valid(identity));
    shm_self(b)->identity = *identity;
}

/* --- the endpoint ----------------------------------------------------------------------------- */

static void release(struct shm_bus *b) {
    shm_listen_end(b);
    if (b->wake_fd >= 0) close(b->wake_fd);
    if (b->epoll >= 0) close(b->epoll);
    if (b->board) munmap(b->board, BOARD_BYTES);
    if (b->board_fd >= 0) close(b->board_fd);
    if (b->secret) explicit_bzero(b->secret, b->secret_len);
    free(b->secret);
    ids_release(&b->peers);
    ids_release(&b->imports);
    pthread_cond_destroy(&b->heart_stop);
    pthread_mutex_destroy(&b->heart_lock);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static void shm_free(struct bus *base) {
    struct shm_bus *b = shm_self(base);
    pthread_mutex_lock(&b->heart_lock);
    b->heart_over = true;
    pthread_cond_signal(&b->heart_stop);
    pthread_mutex_unlock(&b->heart_lock);
    pthread_join(b->heart, NULL);
    while (b->peers.len) shm_peer_end(b, b->peers.v[b->peers.len - 1].thing);
    while (b->n_half) shm_peer_end(b, b->half[0]);
    bury(b);
    while (b->first) free(pend_take(b));
    free(b->taken);
    shm_segments_end(b);
    release(b);
}

static const struct bus_ops shm_ops = {
    .next = shm_next,
    .wait = shm_wait,
    .wake = shm_wake,
    .now = shm_now,
    .connect = shm_connect,
    .close = shm_close,
    .send = shm_send,
    .segment_new = shm_segment_new,
    .segment_free = shm_segment_free,
    .share = shm_share,
    .queue_new = shm_queue_new,
    .queue_free = shm_queue_free,
    .read = shm_read,
    .write = shm_write,
    .completions = shm_completions,
    .free = shm_free,
};

static enum st open_all(struct shm_bus *b, struct err *err) {
    void *board;
    b->epoll = epoll_create1(EPOLL_CLOEXEC);
    b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->epoll < 0 || b->wake_fd < 0 || shm_watch(b, b->wake_fd, &b->wake_fd))
        return err_set(err, ST_IO, "bus: %s", strerror(errno));
    b->board_fd = shm_memfd("supernode-board", BOARD_BYTES, &board, false, err);
    if (b->board_fd < 0) return err->code;
    b->board = board;
    if (*b->address) {
        enum st st = shm_listen(b, err);
        if (st) return st;
    }
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&b->heart, NULL, beat, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? ST_OK : err_set(err, ST_IO, "bus: cannot start a thread");
}

static void init(struct shm_bus *b, const struct shm_options *o) {
    uint64_t timeout = o->peer_timeout_ms ? o->peer_timeout_ms : 1;
    uint64_t handshake = timeout > HANDSHAKE_MS_MIN ? timeout : HANDSHAKE_MS_MIN;
    b->bus.ops = &shm_ops;
    b->identity = o->identity;
    b->handshake_ns = handshake * ms;
    b->beat_ns = timeout * ms / 6 < BEAT_MS_MAX * ms ? timeout * ms / 6 : BEAT_MS_MAX * ms;
    b->beats_max = (uint32_t)((timeout * ms + b->beat_ns - 1) / b->beat_ns);
    b->spin_ns = o->spin_us * UINT64_C(1000);
    b->unsent_max = o->unsent_max ? o->unsent_max : BUS_UNSENT_MAX;
    b->epoll = b->listener = b->wake_fd = b->board_fd = -1;
    b->end = &b->first;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->heart_stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&b->heart_lock, NULL);
    pthread_mutex_init(&b->lock, NULL);
}

enum st shm_bus_new(struct bus **out, const struct shm_options *o, struct err *err) {
    assert(identity_is_valid(&o->identity));
    if (o->address && strlen(o->address) >= BUS_ADDRESS_BYTES)
        return err_set(err, ST_INVALID, "%s: the path is longer than %d bytes", o->address,
                       BUS_ADDRESS_BYTES - 1);
    struct shm_bus *b = calloc(1, sizeof *b);
    if (!b) return err_set(err, ST_NO_MEMORY, "bus: out of memory");
    init(b, o);
    if (o->address) snprintf(b->address, sizeof b->address, "%s", o->address);
    b->secret_len = o->secret_len;
    b->secret = malloc(o->secret_len + 1);
    if (b->secret) memcpy(b->secret, o->secret, o->secret_len);
    enum st st = b->secret ? open_all(b, err) : err_set(err, ST_NO_MEMORY, "bus: out of memory");
    if (st)
        release(b);
    else
        *out = &b->bus;
    return st;
}

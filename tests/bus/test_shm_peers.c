/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that are killed, stopped or hostile, and strangers, who can do nothing but be refused. */
#include "shm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "bus/shm_impl.h"

/* --- real processes --------------------------------------------------------------------------- */

enum { TIMEOUT_MS = 500 };

static uint64_t elapsed_ms(uint64_t since) {
    return (clock_now_ns() - since) / 1000000;
}

/* Answers messages with how often it suspected somebody, and shares a segment with who comes. */
static void serve(const char *path) {
    struct bus_identity id = named("child");
    struct shm_options o = shm_test_options(&id);
    struct bus *b;
    struct err err;
    bus_id segment;
    void *memory;
    uint64_t suspicions = 0;
    o.address = path;
    o.peer_timeout_ms = TIMEOUT_MS;
    if (shm_bus_new(&b, &o, &err)) _exit(1);
    if (bus_segment_new(b, 4096, BUS_PEERS_READ, &segment, &memory, &err)) _exit(1);
    strcpy(memory, "the child's");
    for (struct bus_event ev;;) {
        while (!bus_next(b, &ev)) bus_wait(b, UINT64_MAX);
        if (ev.kind == BUS_UP && bus_share(b, ev.peer, segment, 0)) _exit(1);
        if (ev.kind == BUS_SUSPENDED) suspicions++;
        if (ev.kind == BUS_MESSAGE && bus_send(b, ev.peer, &suspicions, 8)) _exit(1);
    }
}

struct child {
    pid_t pid;
    char path[BUS_ADDRESS_BYTES];
    struct end *end; /* ours, connected to it */
    bus_id peer, segment;
    struct bus_queue *q;
};

/* Before any thread runs here. */
static void child_new(struct rig *r, struct child *c) {
    shm_address(r->world, "child", c->path);
    c->pid = fork();
    if (c->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(c->path);
    }
    struct bus_identity id = named("parent");
    struct shm_options o = shm_test_options(&id);
    struct err err;
    o.peer_timeout_ms = TIMEOUT_MS;
    c->end = &r->ends[r->n_ends++];
    c->end->idle = false;
    assert_int_equal(shm_bus_new(&c->end->bus, &o, &err), ST_OK);
    enum bus_event_kind kind = BUS_REFUSED;
    while (kind == BUS_REFUSED) { /* it may not listen yet */
        c->peer = conf_connect(r, c->end, "child");
        while (c->end->taken == c->end->n) rig_step(r);
        kind = c->end->log[c->end->taken++].ev.kind;
    }
    assert_int_equal(kind, BUS_UP);
    c->segment = take(r, c->end, BUS_SEGMENT)->ev.segment;
    assert_int_equal(bus_queue_new(c->end->bus, &c->q, &err), ST_OK);
}

static void child_end(struct child *c) {
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    bus_queue_free(c->q);
    unlink(c->path);
}

static void expect_childs_memory(struct rig *r, struct child *c) {
    char got[12];
    assert_int_equal(read_now(r, c->q, c->segment, 0, got, 12), BUS_DONE);
    assert_string_equal(got, "the child's");
}

/* The best of five: a busy machine may be late, but not five times. */
static void a_killed_process_is_gone_within_half_a_second(void **state) {
    struct rig *r = *state;
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        struct child c;
        char got[8];
        child_new(r, &c);
        expect_childs_memory(r, &c);
        uint64_t since = clock_now_ns();
        kill(c.pid, SIGKILL);
        assert_int_equal(take(r, c.end, BUS_GONE)->ev.peer, c.peer);
        if (elapsed_ms(since) < best) best = elapsed_ms(since);
        assert_int_equal(read_now(r, c.q, c.segment, 0, got, 8), BUS_PEER_GONE);
        child_end(&c);
        end_close(c.end); /* its thread ends before the next fork */
        r->n_ends--;
    }
    assert_true(best < 500);
}

static void a_stopped_process_is_suspended_read_and_resumed(void **state) {
    struct rig *r = *state;
    struct child c;
    child_new(r, &c);
    uint64_t since = clock_now_ns();
    kill(c.pid, SIGSTOP);
    assert_int_equal(take(r, c.end, BUS_SUSPENDED)->ev.peer, c.peer);
    assert_true(elapsed_ms(since) >= TIMEOUT_MS * 9 / 10);
    expect_childs_memory(r, &c);
    assert_int_equal(bus_send(c.end->bus, c.peer, "?", 1), ST_OK);
    expect_nothing(r, c.end);
    kill(c.pid, SIGCONT);
    bool resumed = false, answered = false;
    while (!resumed || !answered) { /* in either order */
        while (c.end->taken == c.end->n) rig_step(r);
        enum bus_event_kind kind = c.end->log[c.end->taken++].ev.kind;
        assert_true(kind == BUS_RESUMED || kind == BUS_MESSAGE);
        resumed |= kind == BUS_RESUMED;
        answered |= kind == BUS_MESSAGE;
    }
    child_end(&c);
}

static void who_was_stopped_itself_suspects_nobody(void **state) {
    struct rig *r = *state;
    struct child c;
    child_new(r, &c);
    for (int i = 0; i < 2; i++) {
        kill(c.pid, SIGSTOP);
        take(r, c.end, BUS_SUSPENDED);
        for (int k = 0; k < 3 * TIMEOUT_MS; k++) rig_step(r);
        kill(c.pid, SIGCONT);
        take(r, c.end, BUS_RESUMED);
    }
    assert_int_equal(bus_send(c.end->bus, c.peer, "?", 1), ST_OK);
    uint64_t suspicions;
    memcpy(&suspicions, take(r, c.end, BUS_MESSAGE)->data, 8);
    assert_int_equal(suspicions, 0);
    child_end(&c);
}

/* --- strangers -------------------------------------------------------------------------------- */

static void another_secret_is_refused_with_a_sentence(void **state) {
    struct rig *r = *state;
    struct bus_identity id = named("a");
    struct shm_options o = shm_test_options(&id);
    struct err err;
    o.secret = (const uint8_t *)"another secret, as long as that";
    struct end *b = end_new(r, "b"), *a = &r->ends[r->n_ends++];
    assert_int_equal(shm_bus_new(&a->bus, &o, &err), ST_OK);
    bus_id p = conf_connect(r, a, "b");
    struct seen *s = take(r, a, BUS_REFUSED);
    assert_int_equal(s->ev.peer, p);
    assert_non_null(strstr(s->text, "the cluster's secret differs"));
    expect_nothing(r, b);
}

static void an_identity_set_later_is_what_the_next_peer_sees(void **state) {
    struct rig *r = *state;
    struct end *a = end_new(r, "a"), *b = end_new(r, "b");
    struct bus_identity id = named("b, renamed");
    shm_bus_set_identity(b->bus, &id);
    conf_connect(r, a, "b");
    assert_string_equal(take(r, a, BUS_UP)->identity.name, "b, renamed");
}

static int stranger(struct rig *r) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    shm_address(r->world, "b", a.sun_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* What the endpoint says to it until it closes; -1 if it does not. */
static ssize_t answer(struct rig *r, int fd, char *text, size_t cap) {
    ssize_t len = 0;
    for (uint64_t since = clock_now_ns(); elapsed_ms(since) < PATIENCE_S * 1000;) {
        ssize_t n = recv(fd, text + len, cap - (size_t)len, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return len;
        if (n > 0)
            len += n;
        else
            rig_step(r);
    }
    return -1;
}

static void garbage_is_refused_and_told_nothing(void **state) {
    struct rig *r = *state;
    struct end *b = end_new(r, "b");
    static char text[8192], junk[60000];
    fill((uint8_t *)junk, sizeof junk, 7);
    static const size_t lens[] = {1, 7, 16, 100, 5000, 60000};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++)
        for (int magic = 0; magic < 2; magic++) {
            int fd = stranger(r);
            memcpy(junk, magic ? "SN-BUS\0\0\1\0\0\0\1\0\0\0" : "GET / HTTP/1.1\r\n", 16);
            send(fd, junk, lens[i], MSG_NOSIGNAL);
            send(fd, junk, lens[i], MSG_NOSIGNAL);
            assert_int_equal(answer(r, fd, text, sizeof text), 0);
            close(fd);
        }
    expect_nothing(r, b);
}

static void another_version_is_refused_with_a_sentence(void **state) {
    struct rig *r = *state;
    end_new(r, "b");
    char hello[16] = "SN-BUS\0\0\1\0\0\0\2\0\0", text[8192] = {0};
    int fd = stranger(r);
    assert_int_equal(send(fd, hello, sizeof hello, MSG_NOSIGNAL), 16);
    ssize_t n = answer(r, fd, text, sizeof text);
    assert_true(n > 0);
    assert_non_null(memmem(text, (size_t)n, "bus version 2, expected 1", 25));
    close(fd);
}

/* They say nothing and stay: the newest ones and whoever knows the secret get in nevertheless, and
 * in the end none is left. */
static void a_crowd_that_says_nothing_keeps_nobody_out(void **state) {
    struct rig *r = *state;
    struct bus_identity id = named("b");
    struct shm_options o = shm_test_options(&id);
    char path[BUS_ADDRESS_BYTES];
    struct err err;
    shm_address(r->world, "b", path);
    o.address = path;
    o.peer_timeout_ms = 1000;
    struct end *b = &r->ends[r->n_ends++];
    assert_int_equal(shm_bus_new(&b->bus, &o, &err), ST_OK);
    int fds[100];
    for (int i = 0; i < 100; i++) {
        fds[i] = stranger(r);
        if (i % 10 == 9) rig_step(r);
    }
    struct pair p;
    pair_up(r, &p, end_new(r, "a"), b, "b");
    const struct shm_bus *s = (const struct shm_bus *)b->bus;
    assert_true(s->n_half <= HALF_MAX);
    char text[64];
    for (int i = 0; i < 100; i++) {
        assert_int_equal(answer(r, fds[i], text, sizeof text), 0);
        close(fds[i]);
    }
    assert_int_equal(s->n_half, 0);
    expect_nothing(r, b);
}

/* Of this endpoint's own bound; the other's is the usual one. */
static void an_endpoint_may_let_less_wait(void **state) {
    struct rig *r = *state;
    char path[BUS_ADDRESS_BYTES];
    struct bus_identity id = named("small");
    struct shm_options o = shm_test_options(&id);
    struct err err;
    static uint8_t data[64 << 10];
    shm_address(r->world, "small", path);
    o.address = path;
    o.unsent_max = 1 << 20;
    struct bus *b;
    assert_int_equal(shm_bus_new(&b, &o, &err), ST_OK);
    struct end *other = end_new(r, "other");
    bus_id peer = 0;
    (void)bus_connect(other->bus, path);
    for (struct bus_event ev; !peer; rig_step(r))
        while (bus_next(b, &ev))
            if (ev.kind == BUS_UP) peer = ev.peer;
    uint32_t sent = 0;
    while (bus_send(b, peer, data, sizeof data) == ST_OK) assert_true(++sent < 32);
    assert_in_range(sent, 15, 21); /* and what the ring holds */
    bus_free(b);
}

/* --- a peer that knows the secret and lies ---------------------------------------------------- */

struct liar {
    struct pair p; /* a lies to b */
    struct shm_peer *at_a;
    struct ring *ring; /* b's */
};

static void liar_new(struct rig *r, struct liar *l) {
    pair_new(r, &l->p);
    l->at_a = ids_get(&((struct shm_bus *)l->p.a->bus)->peers, l->p.ab);
    l->ring = l->at_a->out->ring.ring;
}

static void expect_end(struct rig *r, struct liar *l, const char *why) {
    struct seen *s = take(r, l->p.b, BUS_GONE);
    if (!strstr(s->text, why)) fail_msg("\"%s\" does not say %s", s->text, why);
    expect_nothing(r, l->p.b);
    take(r, l->p.a, BUS_GONE);
    end_close(l->p.a);
    end_close(l->p.b);
    r->n_ends -= 2;
}

static void indexes_that_make_no_sense_end_the_connection(void **state) {
    struct rig *r = *state;
    static const uint64_t tails[] = {8,  7,         RING_BYTES + 8, UINT64_MAX, UINT64_MAX - 7,
                                     16, 1ull << 63};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        struct liar l;
        liar_new(r, &l);
        atomic_store(&l.ring->tail, atomic_load(&l.ring->tail) + tails[i]);
        expect_end(r, &l, "ring: ");
    }
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) { /* the other way */
        struct liar l;
        if (-tails[i] <= RING_BYTES && tails[i] % 8 == 0) continue; /* it could be */
        liar_new(r, &l);
        l.p.a->idle = true;
        atomic_store(&l.at_a->in.ring->head, tails[i]);
        enum st st = bus_send(l.p.b->bus, l.p.ba, "x", 1);
        assert_true(st == ST_OK || st == ST_GONE);
        for (int k = 0; k < 5; k++) rig_step(r);
        l.p.a->idle = false;
        expect_end(r, &l, "ring: ");
    }
}

static void tell(struct liar *l, struct record record) {
    uint8_t data[64] = {0};
    struct ring_record rr = {.record = record, .data = data};
    bool whole;
    struct err err;
    rr.record.len = record.len < sizeof data ? record.len : 0;
    if (rr.record.len == record.len) {
        assert_int_equal(ring_put(&l->at_a->out->ring, &rr, &whole, &err), ST_OK);
    } else { /* a length that is a lie */
        memcpy(l->ring->bytes + l->at_a->out->ring.tail % RING_BYTES, &record, sizeof record);
        atomic_store(&l->ring->tail, l->at_a->out->ring.tail + sizeof record);
    }
}

static void records_that_make_no_sense_end_the_connection(void **state) {
    struct rig *r = *state;
    static const struct record lies[] = {
        {.kind = 0},
        {.kind = 99, .len = 8},
        {.kind = RECORD_MESSAGE, .len = BUS_MESSAGE_MAX + 1},
        {.kind = RECORD_MESSAGE, .len = UINT32_MAX},
        {.kind = RECORD_SHARE, .len = 8},
        {.kind = RECORD_SHARE, .len = 64},
        {.kind = RECORD_NOTIFY, .len = 8},
        {.kind = RECORD_SHARE, .len = sizeof(struct record_share)}, /* and no memory */
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct liar l;
        liar_new(r, &l);
        tell(&l, lies[i]);
        expect_end(r, &l, "");
    }
    struct liar l;
    liar_new(r, &l);
    tell(&l, (struct record){.kind = RECORD_NOTIFY, .segment = 12345, .value = 1});
    tell(&l, (struct record){.kind = RECORD_FREED, .segment = 12345});
    expect_nothing(r, l.p.b); /* late, not wrong */
    assert_int_equal(bus_send(l.p.a->bus, l.p.ab, "x", 1), ST_OK);
    take(r, l.p.b, BUS_MESSAGE);
}

static void who_was_not_given_a_segment_cannot_notify_of_it(void **state) {
    struct rig *r = *state;
    struct liar l;
    struct err err;
    bus_id id;
    void *memory;
    liar_new(r, &l);
    assert_int_equal(bus_segment_new(l.p.b->bus, 4096, BUS_PEERS_WRITE, &id, &memory, &err), ST_OK);
    tell(&l, (struct record){.kind = RECORD_NOTIFY, .segment = id, .value = 1});
    expect_nothing(r, l.p.b);
    assert_int_equal(bus_share(l.p.b->bus, l.p.ba, id, 5), ST_OK);
    tell(&l, (struct record){.kind = RECORD_NOTIFY, .segment = id, .value = 2});
    assert_int_equal(take(r, l.p.b, BUS_NOTIFY)->ev.value, 2);
}

static void a_stream_of_records_that_say_nothing_keeps_nobody_busy_for_ever(void **state) {
    struct rig *r = *state;
    struct liar l;
    struct bus_event ev;
    liar_new(r, &l);
    for (int i = 0; i < 2000; i++)
        tell(&l, (struct record){.kind = RECORD_FREED, .segment = 12345});
    assert_false(bus_next(l.p.b->bus, &ev)); /* and what is there waits for the next call */
    const struct shm_peer *at_b = ids_get(&((struct shm_bus *)l.p.b->bus)->peers, l.p.ba);
    assert_true(ring_in_ready(&at_b->in));
    assert_int_equal(bus_send(l.p.a->bus, l.p.ab, "x", 1), ST_OK);
    bus_close(l.p.a->bus, l.p.ab); /* all of it is read even after the end */
    take(r, l.p.b, BUS_MESSAGE);
    take(r, l.p.b, BUS_GONE);
}

static void a_share_behind_many_kicks_arrives(void **state) {
    struct rig *r = *state;
    struct liar l;
    struct err err;
    bus_id id;
    void *memory;
    liar_new(r, &l);
    assert_int_equal(bus_segment_new(l.p.a->bus, 4096, BUS_PEERS_READ, &id, &memory, &err), ST_OK);
    for (int i = 0; i < 200; i++) shm_out_kick(l.at_a->out); /* as of a queue's thread */
    assert_int_equal(bus_share(l.p.a->bus, l.p.ab, id, 5), ST_OK);
    assert_int_equal(take(r, l.p.b, BUS_SEGMENT)->ev.value, 5);
}

static void memory_that_could_change_its_size_is_not_imported(void **state) {
    struct rig *r = *state;
    for (int i = 0; i < 4; i++) {
        struct liar l;
        int fd = i == 0 ? open("/dev/null", O_RDWR | O_CLOEXEC)
                        : memfd_create("lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_true(fd >= 0);
        if (i == 2) { /* sealed, and smaller than said */
            assert_int_equal(ftruncate(fd, 4096), 0);
            assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        }
        if (i == 3) { /* not to be written, and said to be */
            assert_int_equal(ftruncate(fd, 8192), 0);
            assert_int_equal(
                fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE), 0);
        }
        liar_new(r, &l);
        struct record_share s = {.bytes = 8192, .writable = i == 3};
        struct record record = {.kind = RECORD_SHARE, .len = sizeof s, .segment = 1};
        assert_int_equal(shm_out_send(l.at_a->out, &record, &s, fd), ST_OK);
        expect_end(r, &l, "");
    }
}

static void packets_that_are_no_kicks_end_the_connection(void **state) {
    struct rig *r = *state;
    for (int i = 0; i < 3; i++) {
        struct liar l;
        liar_new(r, &l);
        int fds[] = {0, 1, 2, 0};
        if (i == 0) assert_true(shm_socket_send(l.at_a->socket, "hello", 5, NULL, 0));
        if (i == 1) assert_true(shm_socket_send(l.at_a->socket, "k", 1, fds, 1));
        if (i == 2) /* more memory than records speak of */
            for (int k = 0; k < FDS_MAX + 1; k++) {
                rig_step(r);
                shm_socket_send(l.at_a->socket, "f", 1, fds, 1);
            }
        expect_end(r, &l, "no kick");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CONF(a_killed_process_is_gone_within_half_a_second, &shm_kind),
        CONF(a_stopped_process_is_suspended_read_and_resumed, &shm_kind),
        CONF(who_was_stopped_itself_suspects_nobody, &shm_kind),
        CONF(another_secret_is_refused_with_a_sentence, &shm_kind),
        CONF(an_endpoint_may_let_less_wait, &shm_kind),
        CONF(an_identity_set_later_is_what_the_next_peer_sees, &shm_kind),
        CONF(garbage_is_refused_and_told_nothing, &shm_kind),
        CONF(another_version_is_refused_with_a_sentence, &shm_kind),
        CONF(a_crowd_that_says_nothing_keeps_nobody_out, &shm_kind),
        CONF(indexes_that_make_no_sense_end_the_connection, &shm_kind),
        CONF(records_that_make_no_sense_end_the_connection, &shm_kind),
        CONF(who_was_not_given_a_segment_cannot_notify_of_it, &shm_kind),
        CONF(a_stream_of_records_that_say_nothing_keeps_nobody_busy_for_ever, &shm_kind),
        CONF(a_share_behind_many_kicks_arrives, &shm_kind),
        CONF(memory_that_could_change_its_size_is_not_imported, &shm_kind),
        CONF(packets_that_are_no_kicks_end_the_connection, &shm_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

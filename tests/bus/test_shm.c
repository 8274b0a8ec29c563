/* SPDX-License-Identifier: Apache-2.0 */
/* The bus over shared memory behaves as every bus does; what it leaves behind, and threads. */
#include "conformance.h"
#include "shm_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "bus/shm_impl.h"

/* --- what it leaves behind -------------------------------------------------------------------- */

static size_t count_fds(void) {
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static size_t count_mappings(void) {
    size_t n = 0;
    char line[512];
    FILE *f = fopen("/proc/self/maps", "re");
    while (fgets(line, sizeof line, f)) n += strstr(line, "supernode-") != NULL;
    fclose(f);
    return n;
}

static void two_hundred_connections_leave_nothing_behind(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct err err;
    bus_id segment;
    void *memory;
    pair_new(r, &p);
    assert_int_equal(bus_segment_new(p.b->bus, 8192, BUS_PEERS_WRITE, &segment, &memory, &err),
                     ST_OK);
    size_t fds = 0, mappings = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(bus_share(p.b->bus, p.ba, segment, 1), ST_OK);
        take(r, p.a, BUS_SEGMENT);
        if (i == 0) fds = count_fds(), mappings = count_mappings();
        assert_int_equal(bus_share(p.b->bus, p.ba, segment, 2), ST_OK); /* may never be read */
        struct end *from = i % 2 ? p.a : p.b, *to = i % 2 ? p.b : p.a;
        bus_close(from->bus, i % 2 ? p.ab : p.ba);
        take_until(r, to, BUS_GONE);
        for (int k = 0; k < 3; k++) rig_step(r);
        p.a->taken = p.a->n;
        pair_up(r, &p, p.a, p.b, "b");
    }
    assert_int_equal(bus_share(p.b->bus, p.ba, segment, 1), ST_OK);
    take(r, p.a, BUS_SEGMENT);
    assert_int_equal(count_fds(), fds);
    assert_int_equal(count_mappings(), mappings);
}

static void a_socket_is_its_owners_and_a_stale_one_is_replaced(void **state) {
    struct rig *r = *state;
    char path[BUS_ADDRESS_BYTES];
    struct stat s;
    shm_address(r->world, "b", path);
    mode_t mask = umask(0);
    struct end *b = end_new(r, "b");
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0600);
    umask(mask);
    /* a process that died leaves the file: here its socket is closed under it */
    struct shm_bus *old = (struct shm_bus *)b->bus;
    close(old->listener);
    old->listener = -1;
    struct pair p;
    struct end *again = end_new(r, "b");
    pair_up(r, &p, end_new(r, "a"), again, "b");
    end_close(b); /* and does not remove the other's */
    assert_int_equal(stat(path, &s), 0);
}

static void a_file_that_is_no_socket_is_not_replaced(void **state) {
    struct rig *r = *state;
    char path[BUS_ADDRESS_BYTES];
    struct err err = {0};
    struct bus_identity id = named("b");
    shm_address(r->world, "b", path);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_null(shm_endpoint(r->world, "b", &id, &err));
    assert_int_equal(err.code, ST_IO);
    assert_int_equal(unlink(path), 0);
    char name[200];
    memset(name, 'x', 199);
    name[199] = 0;
    struct shm_options o = shm_test_options(&id);
    o.address = name;
    struct bus *b;
    assert_int_equal(shm_bus_new(&b, &o, &err), ST_INVALID);
}

static void a_readers_descriptor_neither_writes_nor_shrinks_a_segment(void **state) {
    struct rig *r = *state;
    struct end *b = end_new(r, "b");
    struct err err;
    bus_id id;
    void *memory;
    (void)b;
    int fd = shm_memfd("supernode-test", 4096, &memory, false, &err);
    assert_true(fd >= 0);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, 0), -1);
    ((char *)memory)[5] = 'y'; /* its owner still writes */
    char *view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_int_equal(view[5], 'y');
    munmap(view, 4096);
    munmap(memory, 4096);
    close(fd);
    assert_int_equal(bus_segment_new(b->bus, 0, BUS_PEERS_READ, &id, &memory, &err), ST_INVALID);
    assert_int_not_equal(bus_segment_new(b->bus, SIZE_MAX, BUS_PEERS_READ, &id, &memory, &err),
                         ST_OK);
}

static void
a_segment_that_there_is_no_descriptor_for_is_refused_with_or_without_a_sentence(void **state) {
    struct rig *r = *state;
    struct end *b = end_new(r, "b");
    struct err err;
    bus_id id;
    void *memory;
    struct rlimit was, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = (struct rlimit){0, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum st with = bus_segment_new(b->bus, 4096, BUS_PEERS_READ, &id, &memory, &err);
    enum st without = bus_segment_new(b->bus, 4096, BUS_PEERS_READ, &id, &memory, NULL);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(with, ST_IO);
    assert_int_equal(without, ST_IO);
    assert_non_null(strstr(err.text, "shared memory of 4096 bytes"));
}

static void
who_cannot_be_taken_in_for_want_of_a_descriptor_is_later_and_meanwhile_nobody_spins(void **state) {
    struct rig *r = *state;
    struct end *b = end_new(r, "b"), *a = end_new(r, "a");
    struct rlimit was, none;
    struct bus_event ev;
    struct timespec cpu;
    a->idle = b->idle = true;
    bus_id p = conf_connect(r, a, "b");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = (struct rlimit){0, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu), 0);
    int64_t before = cpu.tv_sec * 1000000000 + cpu.tv_nsec;
    for (int i = 0; i < 10; i++)
        if (!bus_next(b->bus, &ev)) bus_wait(b->bus, bus_now(b->bus) + 30000000);
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_true(cpu.tv_sec * 1000000000 + cpu.tv_nsec - before < 100000000);
    a->idle = b->idle = false;
    assert_int_equal(take(r, a, BUS_UP)->ev.peer, p);
}

/* --- the secret ------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text, mode_t mode) {
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void a_secret_is_made_once_and_read_only_where_nobody_else_reads_it(void **state) {
    struct rig *r = *state;
    char path[BUS_ADDRESS_BYTES];
    struct err err;
    uint8_t *one, *two;
    size_t len;
    struct stat s;
    shm_address(r->world, "secret", path);
    assert_int_equal(bus_secret_read(&one, &len, path, &err), ST_NOT_FOUND);
    char left[BUS_ADDRESS_BYTES + 16]; /* by one that was killed while it made one */
    snprintf(left, sizeof left, "%s.%d", path, (int)getpid());
    write_file(left, "half of a sec", 0600);
    assert_int_equal(bus_secret_make(path, &err), ST_OK);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0600);
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(bus_secret_read(&one, &len, path, &err), ST_OK);
    assert_int_equal(len, 64);
    assert_int_equal(bus_secret_make(path, &err), ST_OK);
    assert_int_equal(bus_secret_read(&two, &len, path, &err), ST_OK);
    assert_memory_equal(one, two, 64);
    free(one);
    free(two);
    write_file(path, "0123456789abcdef\n", 0400);
    assert_int_equal(bus_secret_read(&one, &len, path, &err), ST_OK);
    assert_int_equal(len, 16);
    free(one);
    write_file(path, "0123456789abcdef", 0640);
    assert_int_equal(bus_secret_read(&one, &len, path, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "0600"));
    write_file(path, "0123456789abcde\n", 0600);
    assert_int_equal(bus_secret_read(&one, &len, path, &err), ST_INVALID);
    unlink(path);
    assert_int_equal(bus_secret_read(&one, &len, r->world, &err), ST_INVALID);
    char nowhere[BUS_ADDRESS_BYTES + 8];
    snprintf(nowhere, sizeof nowhere, "%s/x", path);
    assert_int_equal(bus_secret_make(nowhere, &err), ST_NOT_FOUND);
}

/* --- threads ---------------------------------------------------------------------------------- */

enum { ROUNDS = 3000, NOTES = 2000 };

static void *echo(void *bus) {
    struct bus *b = bus;
    for (struct bus_event ev;;) {
        while (!bus_next(b, &ev)) bus_wait(b, UINT64_MAX);
        if (ev.kind == BUS_GONE) return NULL;
        if (ev.kind == BUS_MESSAGE) assert_int_equal(bus_send(b, ev.peer, ev.data, ev.len), ST_OK);
    }
}

static void two_threads_play_ping_pong_and_no_wake_up_is_lost(void **state) {
    struct rig *r = *state;
    struct pair p;
    pair_new(r, &p);
    pthread_t t;
    pthread_create(&t, NULL, echo, p.b->bus);
    static uint8_t large[700000];
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct bus_event ev;
        size_t len = i % 100 ? sizeof i : sizeof large;
        memcpy(large, &i, sizeof i);
        assert_int_equal(bus_send(p.a->bus, p.ab, large, len), ST_OK);
        while (!bus_next(p.a->bus, &ev)) bus_wait(p.a->bus, UINT64_MAX);
        assert_int_equal(ev.kind, BUS_MESSAGE);
        assert_int_equal(ev.len, len);
        assert_memory_equal(ev.data, &i, sizeof i);
    }
    bus_close(p.a->bus, p.ab);
    pthread_join(t, NULL);
}

/* One of two sides that send each other bursts, and notifications from a thread of their own. */
struct side {
    struct bus *bus;
    struct bus_queue *q;
    bus_id peer, import; /* the other's segment */
    uint32_t number;
    uint64_t messages, notes, noted; /* that came; notes: that were sent */
    sem_t round;                     /* the notifying thread may do one more */
};

enum { BURSTS = 1500, BURST_NOTES = 400 };

static uint32_t burst_of(uint32_t side, uint32_t round) {
    return 1 + (round * 2654435761u + side * 40503u) % 7;
}
static size_t size_of(uint32_t round, uint32_t i) {
    uint32_t h = (round * 31 + i) * 2654435761u >> 16;
    return h % 50 == 0 ? 8 + h * 9 : 8 + h % 200; /* to twice the ring */
}

static void *notify_in_bursts(void *arg) {
    struct side *s = arg;
    struct bus_completion c;
    for (uint64_t round = 0; round < BURSTS; round++) {
        sem_wait(&s->round);
        for (uint64_t i = 0; i < BURST_NOTES; i++) {
            assert_int_equal(bus_write_notify(s->q, s->import, 0, &i, 8, s->notes++, 1), ST_OK);
            assert_int_equal(bus_completions(s->q, &c, 1), 1);
            assert_int_equal(c.status, BUS_DONE);
        }
    }
    return NULL;
}

/* Everything of a round came before the next one begins. */
static void *burst(void *arg) {
    struct side *s = arg;
    static uint8_t data[600000];
    uint64_t want = 0;
    pthread_t t;
    pthread_create(&t, NULL, notify_in_bursts, s);
    for (uint32_t round = 0; round < BURSTS; round++) {
        sem_post(&s->round);
        for (uint32_t i = 0; i < burst_of(s->number, round); i++)
            assert_int_equal(bus_send(s->bus, s->peer, data, size_of(round, i)), ST_OK);
        want += burst_of(!s->number, round);
        while (s->messages < want || s->noted < (round + 1) * (uint64_t)BURST_NOTES) {
            struct bus_event ev;
            while (!bus_next(s->bus, &ev)) bus_wait(s->bus, UINT64_MAX);
            if (ev.kind == BUS_MESSAGE)
                s->messages++;
            else if (ev.kind == BUS_NOTIFY)
                assert_int_equal(ev.value, s->noted++);
            else if (ev.kind != BUS_SUSPENDED && ev.kind != BUS_RESUMED)
                fail_msg("event %d came", ev.kind);
        }
    }
    pthread_join(t, NULL);
    return NULL;
}

static void bursts_in_both_directions_all_arrive(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l, back;
    pair_new(r, &p);
    lend(r, &p, &l, 4096, BUS_PEERS_WRITE);
    struct pair other = {p.b, p.a, p.ba, p.ab};
    lend(r, &other, &back, 4096, BUS_PEERS_WRITE);
    struct side sides[2] = {
        {.bus = p.a->bus, .q = l.q, .peer = p.ab, .import = l.at_a},
        {.bus = p.b->bus, .q = back.q, .peer = p.ba, .import = back.at_a, .number = 1}};
    for (int i = 0; i < 2; i++) assert_int_equal(sem_init(&sides[i].round, 0, 0), 0);
    pthread_t t;
    pthread_create(&t, NULL, burst, &sides[1]);
    burst(&sides[0]);
    pthread_join(t, NULL);
    bus_queue_free(l.q);
    bus_queue_free(back.q);
}

struct writer {
    struct bus *bus;
    bus_id segment;
    uint64_t first;
    _Atomic bool gone;
};

/* Reads, writes and notifies from a thread of its own, until the segment is gone. */
static void *write_notes(void *arg) {
    struct writer *w = arg;
    struct bus_queue *q;
    struct err err;
    struct bus_completion c;
    uint64_t got;
    assert_int_equal(bus_queue_new(w->bus, &q, &err), ST_OK);
    for (uint64_t i = 0; !atomic_load(&w->gone); i++) {
        uint64_t value = w->first + (i < NOTES ? i : NOTES);
        assert_int_equal(bus_write(q, w->segment, w->first, &i, 8, 1), ST_OK);
        assert_int_equal(bus_read(q, w->segment, w->first, &got, 8, 2), ST_OK);
        if (i < NOTES)
            assert_int_equal(bus_write_notify(q, w->segment, w->first, &i, 8, value, 3), ST_OK);
        while (bus_completions(q, &c, 1))
            if (c.status == BUS_PEER_GONE) atomic_store(&w->gone, true);
    }
    bus_queue_free(q);
    return NULL;
}

static void queues_of_other_threads_notify_in_order_while_the_owner_closes(void **state) {
    struct rig *r = *state;
    struct pair p;
    struct lent l;
    pair_new(r, &p);
    lend(r, &p, &l, 65536, BUS_PEERS_WRITE);
    bus_queue_free(l.q);
    struct writer w[2] = {{.bus = p.a->bus, .segment = l.at_a, .first = 8},
                          {.bus = p.a->bus, .segment = l.at_a, .first = 32768}};
    pthread_t t[2];
    for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, write_notes, &w[i]);
    uint64_t next[2] = {8, 32768};
    for (int i = 0; i < 2 * NOTES; i++) {
        uint64_t v = take(r, p.b, BUS_NOTIFY)->ev.value;
        int who = v >= 32768;
        assert_int_equal(v, next[who]++);
    }
    bus_close(p.a->bus, p.ab); /* under their feet */
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    take(r, p.b, BUS_GONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFORMANCE(&shm_kind),
        CONF(two_hundred_connections_leave_nothing_behind, &shm_kind),
        CONF(a_socket_is_its_owners_and_a_stale_one_is_replaced, &shm_kind),
        CONF(a_file_that_is_no_socket_is_not_replaced, &shm_kind),
        CONF(a_readers_descriptor_neither_writes_nor_shrinks_a_segment, &shm_kind),
        CONF(who_cannot_be_taken_in_for_want_of_a_descriptor_is_later_and_meanwhile_nobody_spins,
             &shm_kind),
        CONF(a_segment_that_there_is_no_descriptor_for_is_refused_with_or_without_a_sentence,
             &shm_kind),
        CONF(a_secret_is_made_once_and_read_only_where_nobody_else_reads_it, &shm_kind),
        CONF(two_threads_play_ping_pong_and_no_wake_up_is_lost, &shm_kind),
        CONF(bursts_in_both_directions_all_arrive, &shm_kind),
        CONF(queues_of_other_threads_notify_in_order_while_the_owner_closes, &shm_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

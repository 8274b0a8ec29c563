/* SPDX-License-Identifier: Apache-2.0 */
/* The SSD tier by itself, each way of doing input and output: what was written comes back whole, and
 * what is torn, damaged, foreign or full is nothing. */
#include "pool_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { RECS = 6 };
static char dir[64], path[96];
static const char *tenant = "t";

static int setup(void **state) {
    (void)state;
    strcpy(dir, "/tmp/supernode-ssd-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/blocks", dir);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static enum st try_open(struct ssd **s, enum ssd_backend backend, struct err *err) {
    struct ssd_options o = {
        .dir = dir, .bytes = w_ssd_bytes(RECS), .shape = w_shape, .backend = backend};
    return ssd_open(s, &o, err);
}

static struct ssd *open_it(enum ssd_backend backend) {
    struct ssd *s = NULL;
    struct err err;
    if (try_open(&s, backend, &err)) fail_msg("%s", err.text);
    return s;
}

static void wait_for(struct ssd *s, struct ssd_done *d) {
    for (int i = 0; i < 10000; i++) {
        if (ssd_poll(s, d)) return;
        usleep(1000);
    }
    fail_msg("nothing came back");
}

static void data_of(uint64_t n, uint8_t *data, struct sum *sums) {
    for (uint32_t p = 0; p < block_parts(&w_shape); p++) {
        uint8_t *part = data + block_part_at(&w_shape, p);
        for (uint32_t i = 0; i < block_part_bytes(&w_shape, p); i++) part[i] = w_byte(n, p, i);
        sums[p] = sum_of(part, block_part_bytes(&w_shape, p));
    }
}

static void submit(struct ssd *s, uint32_t rec, uint64_t n) {
    uint8_t data[1024];
    struct sum sums[8];
    struct pool_key k = w_key(n);
    data_of(n, data, sums);
    ssd_write(s, rec, tenant, &k, sums, data);
}

static bool write_block(struct ssd *s, uint32_t rec, uint64_t n) {
    struct ssd_done d;
    submit(s, rec, n);
    wait_for(s, &d);
    assert_true(d.what == SSD_WRITE && d.rec == rec);
    return d.ok;
}

/* True: the record holds block n, whole. */
static bool read_block(struct ssd *s, uint32_t rec, uint64_t n) {
    struct ssd_done d;
    struct pool_key k = w_key(n);
    uint8_t data[1024];
    struct sum sums[8];
    ssd_read(s, rec, &k);
    wait_for(s, &d);
    assert_true(d.what == SSD_READ && d.rec == rec);
    data_of(n, data, sums);
    if (!d.ok) return false;
    assert_memory_equal(d.data, data, block_bytes(&w_shape));
    assert_memory_equal(d.sums, sums, block_parts(&w_shape) * sizeof *sums);
    return true;
}

/* Looks at all that may have been there. */
static uint32_t n_found(struct ssd *s) {
    uint32_t n = 0;
    for (uint32_t rec = 0; rec < ssd_n_had(s); rec++) {
        struct ssd_done d;
        ssd_look(s, rec);
        wait_for(s, &d);
        assert_true(d.what == SSD_LOOK && d.rec == rec);
        if (d.ok) assert_string_equal(d.head->tenant, tenant);
        n += d.ok;
    }
    return n;
}

static void blocks_come_back_also_after_a_restart(void **state) {
    (void)state;
    for (enum ssd_backend b = SSD_AUTO; b <= SSD_INLINE; b++) {
        unlink(path);
        struct ssd *s = NULL;
        struct err err;
        if (b == SSD_URING && try_open(&s, b, &err) == ST_UNSUPPORTED) {
            printf("SKIPPED io_uring: %s\n", err.text);
            continue;
        }
        if (!s) s = open_it(b);
        assert_int_equal(ssd_n_recs(s), RECS);
        for (uint32_t i = 0; i < RECS; i++) submit(s, i, i); /* all at once */
        struct ssd_done d;
        for (uint32_t i = 0; i < RECS; i++) {
            wait_for(s, &d);
            assert_true(d.ok && d.what == SSD_WRITE);
        }
        for (uint32_t i = 0; i < RECS; i++) assert_true(read_block(s, i, i));
        assert_false(read_block(s, 1, 2));
        submit(s, 3, 33); /* closing waits for it */
        ssd_close(s);
        s = open_it(b);
        assert_int_equal(n_found(s), RECS);
        assert_true(read_block(s, 3, 33) && read_block(s, 5, 5));
        ssd_close(s);
    }
}

static uint64_t rec_at(uint32_t rec) {
    return SSD_ALIGN + rec * (uint64_t)(ssd_head_bytes(&w_shape) + SSD_ALIGN);
}

static void get_record(uint32_t rec, uint8_t *bytes) {
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, bytes, 8192, (off_t)rec_at(rec)), 8192);
    close(fd);
}
static void put_record(uint32_t rec, const uint8_t *bytes, size_t len) {
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)rec_at(rec)), (ssize_t)len);
    close(fd);
}

static void every_damaged_bit_of_a_record_is_noticed(void **state) {
    (void)state;
    unlink(path);
    struct ssd *s = open_it(SSD_INLINE);
    assert_true(write_block(s, 1, 1));
    uint8_t bytes[8192];
    get_record(1, bytes);
    uint64_t damaged = 0, end = (ssd_head_bytes(&w_shape) + block_bytes(&w_shape)) * 8;
    for (uint64_t bit = 0; bit < end; bit += bit / 8 < 512 || bit / 8 >= 4096 ? 1 : 97) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        put_record(1, bytes, sizeof bytes);
        assert_false(read_block(s, 1, 1));
        assert_int_equal(ssd_stats(s)->damaged, ++damaged);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    put_record(1, bytes, sizeof bytes);
    assert_true(read_block(s, 1, 1));
    ssd_close(s);
}

/* A record over an older one, cut at every byte: it is the new block, the old one, or nothing. */
static void a_torn_write_is_nothing(void **state) {
    (void)state;
    unlink(path);
    struct ssd *s = open_it(SSD_INLINE);
    uint8_t old[8192], new[8192], torn[8192];
    assert_true(write_block(s, 0, 1));
    get_record(0, old);
    assert_true(write_block(s, 0, 2));
    get_record(0, new);
    size_t whole = ssd_head_bytes(&w_shape) + block_bytes(&w_shape);
    for (size_t cut = 0; cut < sizeof torn; cut += cut < 512 || cut >= 4000 ? 1 : 61) {
        memcpy(torn, new, cut);
        memcpy(torn + cut, old + cut, sizeof torn - cut);
        put_record(0, torn, sizeof torn);
        assert_int_equal(read_block(s, 0, 2), cut >= whole || memcmp(torn, new, whole) == 0);
        assert_int_equal(read_block(s, 0, 1), memcmp(torn, old, whole) == 0);
        if (cut % 64) continue;
        ssd_close(s);
        s = open_it(SSD_INLINE);
        uint32_t n = n_found(s);
        assert_true(n <= 1);
    }
    ssd_close(s);
}

static void *let_go(void *fd) {
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    close(*(int *)fd);
    return NULL;
}

static void a_lock_that_a_killed_server_still_holds_is_waited_for(void **state) {
    (void)state;
    pthread_t thread;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(pthread_create(&thread, NULL, let_go, &fd), 0);
    ssd_close(open_it(SSD_AUTO));
    pthread_join(thread, NULL);
}

static void a_second_server_and_a_strangers_file_are_refused(void **state) {
    (void)state;
    unlink(path);
    struct ssd *s = open_it(SSD_AUTO), *second = NULL;
    struct err err;
    assert_int_equal(try_open(&second, SSD_AUTO, &err), ST_IO);
    assert_non_null(strstr(err.text, "another server"));
    ssd_close(s);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "somebody's letters, which nobody may overwrite", 46), 46);
    close(fd);
    assert_int_equal(try_open(&second, SSD_AUTO, &err), ST_INVALID);
    const struct {
        const char *text;
        off_t len;
        enum st st;
    } files[] = {{"sun", 3, ST_OK},           {"sunpssd1", 8, ST_OK},
                 {"sunpssd2", 8, ST_INVALID}, {"x", 1, ST_INVALID},
                 {"letters", 7, ST_INVALID},  {"", 4096, ST_OK},
                 {"", 70000, ST_OK},          {"", 1, ST_OK}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct stat sb;
        fd = open(path, O_WRONLY | O_TRUNC);
        size_t len = strlen(files[i].text);
        assert_int_equal(write(fd, files[i].text, len), len);
        assert_int_equal(ftruncate(fd, files[i].len), 0);
        close(fd);
        assert_int_equal(try_open(&second, SSD_AUTO, &err), files[i].st);
        assert_int_equal(stat(path, &sb), 0);
        if (files[i].st) assert_int_equal(sb.st_size, files[i].len);
        if (!files[i].st) ssd_close(second);
        second = NULL;
    }
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(pwrite(fd, "a letter", 8, 4000), 8); /* begins with zeros */
    close(fd);
    assert_int_equal(try_open(&second, SSD_AUTO, &err), ST_INVALID);
    struct ssd_options o = {.dir = dir, .bytes = 5000, .shape = w_shape, .backend = SSD_AUTO};
    assert_int_equal(ssd_open(&second, &o, &err), ST_INVALID);
    o = (struct ssd_options){.dir = "/proc/nowhere", .bytes = 1 << 20, .shape = w_shape};
    assert_int_equal(ssd_open(&second, &o, &err), ST_IO);
    assert_null(second);
}

static void blocks_of_another_shape_are_dropped_and_a_smaller_size_is_kept(void **state) {
    (void)state;
    unlink(path);
    struct ssd *s = open_it(SSD_INLINE);
    struct err err;
    for (uint32_t i = 0; i < RECS; i++) assert_true(write_block(s, i, i));
    ssd_close(s);
    struct ssd_options o = {
        .dir = dir, .bytes = w_ssd_bytes(2) + 100, .shape = w_shape, .backend = SSD_INLINE};
    assert_int_equal(ssd_open(&s, &o, &err), ST_OK);
    assert_int_equal(ssd_n_recs(s), 2);
    assert_int_equal(n_found(s), 2);
    ssd_close(s);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_true((uint64_t)sb.st_size <= o.bytes);
    o.shape.n_layers = 2;
    assert_int_equal(ssd_open(&s, &o, &err), ST_OK);
    assert_int_equal(n_found(s), 0);
    ssd_close(s);
}

/* A file that may not grow any more stands for a full disk. */
static void a_full_disk_is_counted_and_nothing_else(void **state) {
    (void)state;
    struct rlimit was, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (enum ssd_backend b = SSD_AUTO; b <= SSD_INLINE; b++) {
        unlink(path);
        struct ssd *s = NULL;
        struct err err;
        if (try_open(&s, b, &err)) continue; /* no io_uring here */
        tight = was;
        tight.rlim_cur = rec_at(2) + 4096; /* in the middle of a record */
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        assert_true(write_block(s, 0, 0) && write_block(s, 1, 1));
        assert_false(write_block(s, 2, 2));
        assert_false(write_block(s, 4, 4));
        assert_true(write_block(s, 1, 11)); /* where there is room it goes on */
        assert_int_equal(ssd_stats(s)->write_errors, 2);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_true(read_block(s, 0, 0) && read_block(s, 1, 11));
        assert_false(read_block(s, 2, 2));
        ssd_close(s);
        s = open_it(SSD_INLINE);
        assert_int_equal(n_found(s), 2);
        ssd_close(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back_also_after_a_restart),
        cmocka_unit_test(every_damaged_bit_of_a_record_is_noticed),
        cmocka_unit_test(a_torn_write_is_nothing),
        cmocka_unit_test(a_lock_that_a_killed_server_still_holds_is_waited_for),
        cmocka_unit_test(a_second_server_and_a_strangers_file_are_refused),
        cmocka_unit_test(blocks_of_another_shape_are_dropped_and_a_smaller_size_is_kept),
        cmocka_unit_test(a_full_disk_is_counted_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

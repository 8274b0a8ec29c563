/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that runs out: opens a checkpoint and makes the model again and again, while the n-th
 * allocation fails, for every n until one run gets through (as sqlite's malloc_common.tcl does).
 * Each must end in a status, nothing may leak (ASan says so) or stay mapped. The link wraps malloc,
 * calloc, realloc, strdup and mmap for our code, and json.c gives jansson its allocator. */
#include "ckpt_test.h"

#include <errno.h>
#include <sys/mman.h>

#include "model/model.h"

static long countdown = -1; /* allocations until one fails; -1: never */
static size_t largest;      /* request since it was reset */
static long maps;           /* open mappings */

static bool fails(size_t bytes) {
    if (bytes > largest) largest = bytes;
    if (countdown < 0) return false;
    return countdown-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
int __real_munmap(void *at, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from);
int __wrap_munmap(void *at, size_t n);

void *__wrap_malloc(size_t n) {
    return fails(n) ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    return fails(n * size) ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    return fails(n) ? NULL : __real_realloc(p, n);
}
char *__wrap_strdup(const char *s) {
    return fails(strlen(s)) ? NULL : __real_strdup(s);
}
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t from) {
    if (fails(0)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    maps++;
    return __real_mmap(at, n, prot, flags, fd, from);
}
int __wrap_munmap(void *at, size_t n) {
    maps--;
    return __real_munmap(at, n);
}

/* Opens, makes the model, closes. */
static enum st use(const char *dir, struct err *err) {
    struct ckpt *c = NULL;
    struct model *m = NULL;
    const struct ops_kernels *k;
    enum st st = ckpt_open(&c, dir, err);
    if (!st) st = ops_kernels_select(&k, "ref", err);
    if (!st) {
        struct weight_source source = ckpt_source(c);
        st = model_new(&m, ckpt_config(c), &source, k, err);
    }
    model_free(m);
    ckpt_close(c);
    return st;
}

/* The first allocation that is not reached ends it. Returns how many were. */
static long starve(const char *dir) {
    struct err err;
    long n = 0;
    for (;; n++) {
        memset(&err, 0, sizeof err);
        countdown = n;
        enum st st = use(dir, &err);
        bool reached = countdown < 0;
        countdown = -1;
        assert_int_equal(maps, 0);
        if (!reached) {
            assert_int_equal(st, ST_OK);
            return n;
        }
        if (st != ST_NO_MEMORY) print_message("allocation %ld: status %d %s\n", n, st, err.text);
        assert_int_equal(st, ST_NO_MEMORY);
        assert_int_equal(err.code, ST_NO_MEMORY);
        assert_non_null(strstr(err.text, "emory"));
    }
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    struct checkpoint k;
    checkpoint_make(&k, "{\"n_routed_experts\":2,\"n_group\":1,\"topk_group\":1}", "F8_E4M3");
    checkpoint_find(&k, "lm_head.weight_scale_inv")->dtype = "BF16"; /* scales that are copied */
    tensor_fill(checkpoint_find(&k, "lm_head.weight_scale_inv"));
    checkpoint_put_text(&k, "generation_config.json",
                        "{\"temperature\":0.5,\"eos_token_id\":[1,2]}");
    checkpoint_write(&k);
    long one = starve(k.dir);
    for (size_t i = 0; i < k.len; i++)
        snprintf(k.v[i].shard, sizeof k.v[i].shard, "model-%zu.safetensors", i % 3);
    checkpoint_write(&k);
    long three = starve(k.dir);
    print_message("one file: %ld allocations, three and an index: %ld\n", one, three);
    assert_true(one > 100 && three > one);
    checkpoint_remove(&k);
}

/* The largest request stays small whatever the configuration claims. */
static void claims_do_not_decide_how_much_memory_is_taken(void **state) {
    (void)state;
    struct checkpoint k;
    checkpoint_make(&k, "{}", "BF16");
    json_object_set_new(k.config, "num_hidden_layers", json_integer(1024));
    json_object_set_new(k.config, "n_routed_experts", json_integer(4096));
    json_object_set_new(k.config, "vocab_size", json_integer(4194304));
    json_object_set_new(k.config, "hidden_size", json_integer(65536));
    checkpoint_write(&k);
    struct err err;
    largest = 0;
    assert_int_not_equal(use(k.dir, &err), ST_OK);
    assert_true(largest < 200000);
    static const uint8_t claim[] = {0, 0, 0, 4,   0,
                                    0, 0, 0, '{', '}'}; /* a header of 64 MiB in 10 bytes */
    checkpoint_put(&k, "model.safetensors", claim, sizeof claim);
    largest = 0;
    assert_int_equal(use(k.dir, &err), ST_CORRUPT);
    assert_true(largest < 200000);
    checkpoint_remove(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(claims_do_not_decide_how_much_memory_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What safetensors_parse refuses, and in which words: one row a fault, each header followed by
 * `data` zero bytes. The file lies in an exact allocation, so that a sanitizer sees one byte too
 * many. Then every truncation of a good file, and things that are no files at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/safetensors.h"

/* A file in memory of the given header length field, header and data bytes. */
static uint8_t *file_of(size_t *size, uint64_t len, const char *header, size_t data) {
    size_t n = strlen(header);
    uint8_t *file = calloc(1, 8 + n + data);
    assert_non_null(file);
    memcpy(file, &len, 8);
    memcpy(file + 8, header, n);
    *size = 8 + n + data;
    return file;
}

static enum st parse(const char *header, size_t data, struct err *err) {
    size_t size;
    uint8_t *file = file_of(&size, strlen(header), header, data);
    struct safetensors s;
    enum st st = safetensors_parse(&s, file, size, "f", err);
    if (!st) safetensors_close(&s);
    free(file);
    return st;
}

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"t\":" T(dtype, shape, offsets) "}"

static const struct refusal {
    const char *header;
    size_t data;
    enum st st;
    const char *sentence;
} refusals[] = {
    {"", 0, ST_INVALID, "f: header: line 1 column 0: unexpected token near end of file"},
    {"not json", 0, ST_INVALID, "f: header: line 1 column 3: invalid token near 'not'"},
    {"{\"t\":", 0, ST_INVALID, "f: header: line 1 column 5: unexpected token near end of file"},
    {"{} {}", 0, ST_INVALID, "f: header: line 1 column 4: end of file expected near '{'"},
    {"[]", 0, ST_INVALID, "f: header: found an array, expected an object"},
    {"7", 0, ST_INVALID, "f: header: found an integer, expected an object"},
    {"{\"t\":1,\"t\":2}", 0, ST_INVALID,
     "f: header: line 1 column 10: duplicate object key near '\"t\"'"},
    {"{\"t\":[]}", 0, ST_INVALID, "f: tensor t: found an array, expected an object"},
    {"{\"t\":null}", 0, ST_INVALID, "f: tensor t: found null, expected an object"},
    {"{\"a\x1b[2J\":1}", 0, ST_INVALID,
     "f: header: line 1 column 3: control character 0x1b near '\"a'"},
    {"{\"a\\u001b\\n\":1}", 0, ST_INVALID, "f: tensor a??: found 1, expected an object"},
    {"{\"\xff\":1}", 0, ST_INVALID,
     "f: header: line 1 column 2: unable to decode byte 0xff near '\"'"},
    {"{\"a\\u0000\":1}", 0, ST_INVALID,
     "f: header: line 1 column 10: NUL byte in object key not supported near '\"a\\u0000\"'"},

    {"{\"t\":{}}", 0, ST_INVALID,
     "f: tensor t: dtype: found nothing, expected one that safetensors knows"},
    {"{\"t\":{\"dtype\":32}}", 0, ST_INVALID,
     "f: tensor t: dtype: found 32, expected one that safetensors knows"},
    {ONE("F33", "[1]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: dtype: found F33, expected one that safetensors knows"},
    {ONE("f32", "[1]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: dtype: found f32, expected one that safetensors knows"},
    {"{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, ST_INVALID,
     "f: tensor t: shape: found nothing, expected an array of sizes"},
    {ONE("F32", "4", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: found 4, expected an array of sizes"},
    {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: found 9 sizes, expected at most 8"},
    {ONE("F32", "[-1]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: entry 0: found -1, expected a size"},
    {ONE("F32", "[1,1.0]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: entry 1: found a real number, expected a size"},
    {ONE("F32", "[1,\"1\"]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: entry 1: found a string, expected a size"},
    {ONE("F32", "[4294967296,4294967296]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: more elements than 64 bits can count"},
    {ONE("F32", "[9223372036854775807]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: more bytes than 64 bits can count"},
    {ONE("F32", "[9223372036854775808]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: entry 0: found a real number, expected a size"},
    {ONE("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 4, ST_CORRUPT,
     "f: tensor t: data_offsets: found [0,9223372036854775807], but the data has 4 bytes"},
    {ONE("F32", "[4611686018427387905]", "[0,4]"), 4, ST_INVALID,
     "f: tensor t: shape: more bytes than 64 bits can count"},

    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, ST_INVALID,
     "f: tensor t: data_offsets: found nothing, expected an array of two byte offsets"},
    {ONE("F32", "[1]", "[0]"), 4, ST_INVALID,
     "f: tensor t: data_offsets: found 1 entries, expected two byte offsets"},
    {ONE("F32", "[1]", "[0,4,8]"), 4, ST_INVALID,
     "f: tensor t: data_offsets: found 3 entries, expected two byte offsets"},
    {ONE("F32", "[1]", "[-4,0]"), 4, ST_INVALID,
     "f: tensor t: data_offsets: entry 0: found -4, expected a byte offset"},
    {ONE("F32", "[1]", "[0,4e0]"), 4, ST_INVALID,
     "f: tensor t: data_offsets: entry 1: found a real number, expected a byte offset"},
    {ONE("F32", "[1]", "[4,0]"), 4, ST_CORRUPT,
     "f: tensor t: data_offsets: found [4,0], but the data has 4 bytes"},
    {ONE("F32", "[1]", "[0,5]"), 4, ST_CORRUPT,
     "f: tensor t: data_offsets: found [0,5], but the data has 4 bytes"},
    {ONE("F32", "[1]", "[4,8]"), 4, ST_CORRUPT,
     "f: tensor t: data_offsets: found [4,8], but the data has 4 bytes"},
    {ONE("F32", "[1]", "[0,9223372036854775807]"), 4, ST_CORRUPT,
     "f: tensor t: data_offsets: found [0,9223372036854775807], but the data has 4 bytes"},
    {ONE("F32", "[1]", "[0,9223372036854775808]"), 4, ST_INVALID,
     "f: tensor t: data_offsets: entry 1: found a real number, expected a byte offset"},
    {ONE("F32", "[2]", "[0,4]"), 4, ST_CORRUPT,
     "f: tensor t: 4 bytes of data, expected 8 for its shape in F32"},
    {ONE("BF16", "[1]", "[0,4]"), 4, ST_CORRUPT,
     "f: tensor t: 4 bytes of data, expected 2 for its shape in BF16"},
    {ONE("F32", "[]", "[0,0]"), 0, ST_CORRUPT,
     "f: tensor t: 0 bytes of data, expected 4 for its shape in F32"},

    {"{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[2,6]") "}", 6, ST_CORRUPT,
     "f: tensor b: overlaps the tensor before it by 2 bytes"},
    {"{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[0,4]") "}", 4, ST_CORRUPT,
     "f: tensor b: overlaps the tensor before it by 4 bytes"},
    {"{\"a\":" T("U8", "[6]", "[0,6]") ",\"b\":" T("U8", "[2]", "[2,4]") "}", 6, ST_CORRUPT,
     "f: tensor b: overlaps the tensor before it by 4 bytes"},
    {"{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[4,6]") "}", 6, ST_CORRUPT,
     "f: tensor b: 2 bytes before it belong to no tensor"},
    {ONE("U8", "[2]", "[2,4]"), 4, ST_CORRUPT,
     "f: tensor t: 2 bytes before it belong to no tensor"},
    {ONE("U8", "[2]", "[0,2]"), 4, ST_CORRUPT,
     "f: the tensors end at byte 2 of the data, expected 4"},
    {"{}", 4, ST_CORRUPT, "f: the tensors end at byte 0 of the data, expected 4"},
};

static void faults_are_named(void **state) {
    (void)state;
    int bad = 0;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct err err = {.text = "accepted"};
        enum st st = parse(r->header, r->data, &err);
        bool same = strcmp(err.text, r->sentence) == 0 && st == r->st && err.code == r->st;
        if (!same)
            print_message("%s\n  gave     %d %s\n  expected %d %s\n", r->header, st, err.text,
                          r->st, r->sentence);
        bad += !same;
    }
    assert_int_equal(bad, 0);
}

static void lengths_of_the_header_are_checked(void **state) {
    (void)state;
    static const uint64_t lengths[] = {
        3, 11, 100 * 1000 * 1000 + 1, UINT32_MAX, INT64_MAX, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t size;
        uint8_t *file = file_of(&size, lengths[i], "{}", 0);
        struct safetensors s;
        struct err err;
        char want[128];
        snprintf(want, sizeof want,
                 "f: header length: found %llu, expected at most 2 in a file of 10 bytes",
                 (unsigned long long)lengths[i]);
        assert_int_equal(safetensors_parse(&s, file, size, "f", &err), ST_CORRUPT);
        assert_string_equal(err.text, want);
        free(file);
    }
}

static void nesting_is_bounded(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *deep = malloc(2 * DEPTH + 8);
    struct err err;
    for (int object = 0; object < 2; object++) {
        size_t n = 0;
        for (int i = 0; i < DEPTH / 5; i++)
            n += (size_t)sprintf(deep + n, "%s", object ? "{\"a\":" : "[");
        assert_int_equal(parse(deep, 0, &err), ST_INVALID);
        assert_non_null(strstr(err.text, "maximum parsing depth reached"));
    }
    free(deep);
}

/* Two tensors, metadata, an empty tensor, a scalar, in an order unlike that of their data. */
static const char good[] =
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":" T("F32", "[2,1]", "[2,10]") ",\"e\":" T(
        "F16", "[0,5]", "[2,2]") ",\"a\":" T("BF16", "[1]", "[0,2]") ",\"s\":" T("I64", "[]",
                                                                                 "[10,18]") "}  ";

static void a_good_file_is_read(void **state) {
    (void)state;
    size_t size;
    uint8_t *file = file_of(&size, sizeof good - 1, good, 18);
    struct safetensors s;
    struct err err = {.text = ""};
    assert_int_equal(safetensors_parse(&s, file, size, "f", &err), ST_OK);
    assert_string_equal(err.text, "");
    assert_int_equal(s.n_tensors, 4);
    assert_int_equal(s.header_bytes, 8 + sizeof good - 1);
    const char *order[] = {"a", "e", "b", "s"};
    for (size_t i = 0; i < 4; i++) assert_string_equal(s.tensors[i].name, order[i]);
    assert_ptr_equal(s.tensors[2].data, file + 8 + sizeof good - 1 + 2);
    assert_int_equal(s.tensors[2].bytes, 8);
    assert_int_equal(s.tensors[2].dims[0], 2);
    assert_int_equal(s.tensors[3].n_dims, 0);
    safetensors_close(&s);
    free(file);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    size_t size;
    uint8_t *file = file_of(&size, sizeof good - 1, good, 18);
    for (size_t n = 0; n < size; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        struct safetensors s;
        struct err err;
        memcpy(cut, file, n);
        assert_int_not_equal(safetensors_parse(&s, cut, n, "f", &err), ST_OK);
        if (n < 8)
            assert_non_null(strstr(err.text, "bytes, expected a safetensors file of at least 8"));
        else if (n < 8 + sizeof good - 1)
            assert_non_null(strstr(err.text, "f: header length: found "));
        else
            assert_non_null(strstr(err.text, "but the data has"));
        free(cut);
    }
    free(file);
}

/* Any single byte of the header may be anything: accepted or refused, never worse. */
static void every_changed_byte_is_survived(void **state) {
    (void)state;
    size_t size;
    uint8_t *file = file_of(&size, sizeof good - 1, good, 18);
    for (size_t at = 0; at < 8 + sizeof good - 1; at++) {
        uint8_t kept = file[at];
        for (int value = 0; value < 256; value += at < 8 ? 1 : 3) {
            struct safetensors s;
            struct err err;
            file[at] = (uint8_t)value;
            if (safetensors_parse(&s, file, size, "f", &err) == ST_OK) safetensors_close(&s);
        }
        file[at] = kept;
    }
    free(file);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    char dir[] = "/tmp/supernode-test-st-XXXXXX", path[64];
    struct safetensors s;
    struct err err;
    assert_non_null(mkdtemp(dir));
    char want[128];
    snprintf(want, sizeof want, "%s: not a regular file", dir);
    assert_int_equal(safetensors_open(&s, dir, &err), ST_INVALID);
    assert_string_equal(err.text, want);

    snprintf(path, sizeof path, "%s/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    snprintf(want, sizeof want, "%s: not a regular file", path);
    assert_int_equal(safetensors_open(&s, path, &err),
                     ST_INVALID); /* and does not wait for a writer */
    assert_string_equal(err.text, want);
    unlink(path);

    snprintf(want, sizeof want, "%s: cannot open: No such file or directory", path);
    assert_int_equal(safetensors_open(&s, path, &err), ST_NOT_FOUND);
    assert_string_equal(err.text, want);

    fclose(fopen(path, "w"));
    snprintf(want, sizeof want, "%s: 0 bytes, expected a safetensors file of at least 8", path);
    assert_int_equal(safetensors_open(&s, path, &err), ST_CORRUPT);
    assert_string_equal(err.text, want);
    unlink(path);
    rmdir(dir);
}

static void what_is_written_is_read(void **state) {
    (void)state;
    char path[] = "/tmp/supernode-test-st-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    float a[6] = {1, -2, 3, -4, 5, -6};
    struct safetensors_out out[2] = {{"logits", a, 3, 2}, {"mtp_logits", a, 0, 2}};
    struct safetensors s;
    struct err err;
    assert_int_equal(safetensors_write(path, out, 2, &err), ST_OK);
    assert_int_equal(safetensors_open(&s, path, &err), ST_OK);
    assert_int_equal(s.n_tensors, 2);
    assert_int_equal(s.header_bytes % 8, 0);
    assert_string_equal(s.tensors[0].name, "logits");
    assert_memory_equal(s.tensors[0].data, a, sizeof a);
    assert_int_equal(s.tensors[1].bytes, 0);
    safetensors_close(&s);
    /* A device is written to, not replaced. */
    struct stat sb;
    assert_int_equal(safetensors_write("/dev/full", out, 1, &err), ST_IO);
    assert_string_equal(err.text, "/dev/full: cannot write: No space left on device");
    assert_int_equal(safetensors_write("/dev/null", out, 1, &err), ST_OK);
    assert_true(stat("/dev/full", &sb) == 0 && S_ISCHR(sb.st_mode) && stat("/dev/null", &sb) == 0 &&
                S_ISCHR(sb.st_mode));
    /* A link is followed. */
    char target[128];
    snprintf(target, sizeof target, "%s-target", path);
    unlink(path);
    assert_int_equal(symlink(target, path), 0);
    assert_int_equal(safetensors_write(path, out, 2, &err), ST_OK);
    assert_true(stat(target, &sb) == 0 && sb.st_size > 24);
    unlink(target);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(lengths_of_the_header_are_checked),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(a_good_file_is_read),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(what_is_written_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

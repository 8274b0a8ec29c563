/* SPDX-License-Identifier: Apache-2.0 */
/* Who a checkpoint is (contracts 5): two fine-tunes of one shape differ, and the three sources of
 * the content digest are used when they may be. And where it is: hub ids in a cache laid out as
 * Hugging Face's is. */
#include "ckpt_test.h"

#include <fcntl.h>

#include <openssl/evp.h>

#include "base/file.h"

struct id {
    char hex[CKPT_ID_BYTES];
    const char *how;
};

static struct id id_of(const char *dir) {
    struct ckpt *c;
    struct id id;
    struct err err = {.text = ""};
    enum st st = ckpt_open(&c, dir, &err);
    if (!st) st = ckpt_weights_id(c, id.hex, &id.how, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(st, ST_OK);
    ckpt_close(c);
    assert_int_equal(strspn(id.hex, "0123456789abcdef"), 64);
    return id;
}

static void assert_same(struct id a, struct id b) {
    assert_string_equal(a.hex, b.hex);
}
static void assert_other(struct id a, struct id b) {
    assert_string_not_equal(a.hex, b.hex);
}

/* Flips one bit of a file. */
static void flip(const char *dir, const char *name, uint64_t at) {
    char path[256];
    uint8_t b;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, (off_t)at), 1);
    b ^= 1;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
    close(fd);
}

/* One tensor of 2 MiB, more than the 256 samples of its shard cover. */
static void make_large(struct checkpoint *k) {
    checkpoint_make(k,
                    "{\"vocab_size\":65536,\"hidden_size\":16,\"tie_word_embeddings\":true,\"num_"
                    "nextn_predict_layers\":null}",
                    "BF16");
    checkpoint_write(k);
}

struct span {
    uint64_t at, bytes, file_bytes;
};
static struct span find_tensor(const char *dir, const char *name) {
    char path[256];
    struct file_map map;
    struct err err;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(file_map_open(&map, path, &err), ST_OK);
    uint64_t header = 8 + rd_u64le(map.data), begin, end;
    json_t *json;
    assert_int_equal(json_parse(&json, (const char *)map.data + 8, header - 8, "header", &err),
                     ST_OK);
    const json_t *offsets = json_object_get(json_object_get(json, name), "data_offsets");
    begin = (uint64_t)json_integer_value(json_array_get(offsets, 0));
    end = (uint64_t)json_integer_value(json_array_get(offsets, 1));
    assert_true(end > begin);
    struct span s = {.at = header + begin, .bytes = end - begin, .file_bytes = map.size};
    json_decref(json);
    file_map_close(&map);
    return s;
}

static void two_fine_tunes_of_one_shape_differ(void **state) {
    (void)state;
    struct checkpoint k;
    make_large(&k);
    struct id base = id_of(k.dir);
    assert_string_equal(base.how, "samples");
    assert_same(base, id_of(k.dir));
    struct span embed = find_tensor(k.dir, "model.embed_tokens.weight"),
                norm = find_tensor(k.dir, "model.norm.weight");
    assert_int_equal(embed.bytes, 2 << 20);
    const uint64_t places[] = {
        embed.at, /* first 4 KiB */
        embed.at + 4095,
        embed.at + (embed.bytes - 4096) / 2, /* middle */
        embed.at + (embed.bytes + 4096) / 2 - 1,
        embed.at + embed.bytes - 4096, /* last */
        embed.at + embed.bytes - 1,
        embed.file_bytes / 256 * 100, /* a sample of the shard */
        norm.at + norm.bytes / 2,     /* a small tensor, anywhere */
    };
    enum { N = sizeof places / sizeof *places };
    struct id ids[N];
    for (int i = 0; i < N; i++) {
        flip(k.dir, "model.safetensors", places[i]);
        ids[i] = id_of(k.dir);
        assert_other(ids[i], base);
        for (int j = 0; j < i; j++) assert_other(ids[i], ids[j]);
        flip(k.dir, "model.safetensors", places[i]);
    }
    assert_same(base, id_of(k.dir));
    checkpoint_remove(&k);
}

static void the_configuration_is_part_of_it(void **state) {
    (void)state;
    struct checkpoint k;
    checkpoint_make(&k, "{}", "BF16");
    checkpoint_write(&k);
    struct id base = id_of(k.dir);
    /* Other white space and another order of the members: the same configuration. */
    char *text = json_dumps(k.config, JSON_INDENT(2) | JSON_SORT_KEYS);
    checkpoint_put_text(&k, "config.json", text);
    free(text);
    assert_same(base, id_of(k.dir));
    json_object_set_new(k.config, "rope_theta", json_real(10001));
    checkpoint_write(&k);
    assert_other(base, id_of(k.dir));
    checkpoint_remove(&k);
}

static void shards_are_taken_by_name(void **state) {
    (void)state;
    struct checkpoint k;
    checkpoint_make(&k, "{}", "BF16");
    for (size_t i = 0; i < k.len; i++)
        snprintf(k.v[i].shard, sizeof k.v[i].shard, "model-%zu.safetensors", i % 3);
    checkpoint_write(&k);
    struct id base = id_of(k.dir);
    json_t *map = json_object(), *index = json_pack("{s:o}", "weight_map", map);
    for (size_t i = k.len; i-- > 0;)
        json_object_set_new(map, k.v[i].name, json_string(k.v[i].shard));
    char *text = json_dumps(index, 0);
    checkpoint_put_text(&k, "model.safetensors.index.json", text);
    assert_same(base, id_of(k.dir));
    free(text);
    json_decref(index);
    checkpoint_remove(&k);
}

/* --- supernode.sha256 ------------------------------------------------------------------------- */

static void count_progress(void *ctx, uint64_t done, uint64_t all) {
    uint64_t *last = ctx;
    assert_true(done > *last && done <= all);
    *last = done;
}

static void write_sha256(const char *dir) {
    struct ckpt *c;
    struct err err = {.text = ""};
    uint64_t last = 0;
    enum st st = ckpt_open(&c, dir, &err);
    if (!st) st = ckpt_write_sha256(c, count_progress, &last, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(st, ST_OK);
    assert_true(last > 0);
    ckpt_close(c);
}

static void a_stored_digest_holds_while_its_samples_do(void **state) {
    (void)state;
    struct checkpoint k;
    make_large(&k);
    struct id samples = id_of(k.dir);
    struct span embed = find_tensor(k.dir, "model.embed_tokens.weight");
    write_sha256(k.dir);
    struct id whole = id_of(k.dir);
    assert_string_equal(whole.how, "sha256 file");
    assert_other(whole, samples);

    flip(k.dir, "model.safetensors", embed.at);
    struct id changed = id_of(k.dir);
    assert_string_equal(changed.how, "samples");
    assert_other(changed, samples);
    flip(k.dir, "model.safetensors", embed.at);
    assert_same(id_of(k.dir), whole);

    /* A byte that no sample has: the stored digest is believed until it is written again. */
    uint64_t gap = embed.file_bytes / 256 * 60 + 6000;
    flip(k.dir, "model.safetensors", gap);
    assert_same(id_of(k.dir), whole);
    write_sha256(k.dir);
    assert_other(id_of(k.dir), whole);
    assert_string_equal(id_of(k.dir).how, "sha256 file");
    flip(k.dir, "model.safetensors", gap);

    static const char *const broken[] = {"", "samples\ncontent\n", "samples 00\ncontent 00\n",
                                         "content x samples y", "\xff\xff"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        checkpoint_put_text(&k, "supernode.sha256", broken[i]);
        assert_string_equal(id_of(k.dir).how, "samples");
        assert_same(id_of(k.dir), samples);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/supernode.sha256", k.dir);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_same(id_of(k.dir), samples);
    struct ckpt *c = open_good(&k);
    struct err err;
    char text[sizeof err.text];
    assert_int_equal(ckpt_write_sha256(c, NULL, NULL, &err), ST_IO);
    assert_string_equal(sentence(text, &err, k.dir),
                        "D/supernode.sha256: cannot write: Is a directory");
    ckpt_close(c);
    checkpoint_remove(&k);
}

/* --- the hub's cache -------------------------------------------------------------------------- */

static void sha256_of(char hex[CKPT_ID_BYTES], const char *path) {
    struct file_map map;
    struct err err;
    unsigned char digest[32];
    assert_int_equal(file_map_open(&map, path, &err), ST_OK);
    assert_int_equal(EVP_Digest(map.data, map.size, digest, NULL, EVP_sha256(), NULL), 1);
    for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    file_map_close(&map);
}

static void make_dir(const char *fmt, const char *root) {
    char path[512];
    snprintf(path, sizeof path, fmt, root);
    assert_int_equal(mkdir(path, 0700), 0);
}

#define REV      "0123456789abcdef0123456789abcdef01234567"
#define SNAPSHOT "%s/hub/models--org--tiny.Model-1/snapshots/" REV

/* Moves the files of a written checkpoint into root/hub as hub downloads lie there: blobs, and a
 * snapshot of links to them. */
static void make_cache(const struct checkpoint *k, const char *root) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    make_dir("%s/hub", root);
    make_dir("%s/hub/models--org--tiny.Model-1", root);
    make_dir("%s/hub/models--org--tiny.Model-1/refs", root);
    make_dir("%s/hub/models--org--tiny.Model-1/blobs", root);
    make_dir("%s/hub/models--org--tiny.Model-1/snapshots", root);
    make_dir(SNAPSHOT, root);
    for (int i = 0; i < 2; i++) {
        char from[512], to[512], link_path[640], target[256],
            hex[CKPT_ID_BYTES] = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        snprintf(from, sizeof from, "%s/%s", k->dir, files[i]);
        if (i == 1) sha256_of(hex, from); /* only large files are named by their SHA-256 */
        snprintf(to, sizeof to, "%s/hub/models--org--tiny.Model-1/blobs/%s", root, hex);
        assert_int_equal(rename(from, to), 0);
        snprintf(target, sizeof target, "../../blobs/%s", hex);
        snprintf(link_path, sizeof link_path, SNAPSHOT "/%s", root, files[i]);
        assert_int_equal(symlink(target, link_path), 0);
    }
    char ref[512];
    snprintf(ref, sizeof ref, "%s/hub/models--org--tiny.Model-1/refs/main", root);
    FILE *f = fopen(ref, "w");
    assert_non_null(f);
    fputs(REV, f);
    fclose(f);
}

static void clear_env(void) {
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
}

static void expect_found(const char *root) {
    char path[CKPT_PATH_BYTES], want[512];
    struct err err = {.text = ""};
    enum st st = ckpt_resolve(path, "org/tiny.Model-1", &err);
    assert_string_equal(err.text, "");
    assert_int_equal(st, ST_OK);
    snprintf(want, sizeof want, SNAPSHOT, root);
    assert_string_equal(path, want);
}

static void hub_ids_are_found_in_the_cache(void **state) {
    (void)state;
    struct checkpoint k;
    char root[] = "/tmp/supernode-test-hf-XXXXXX", path[512], resolved[CKPT_PATH_BYTES];
    struct err err;
    assert_non_null(mkdtemp(root));
    checkpoint_make(&k, "{}", "BF16");
    checkpoint_write(&k);
    struct id samples = id_of(k.dir);
    make_cache(&k, root);

    clear_env();
    snprintf(path, sizeof path, "%s/hub", root);
    setenv("HF_HUB_CACHE", path, 1);
    setenv("HF_HOME", "/nowhere", 1);
    expect_found(root);
    unsetenv("HF_HUB_CACHE");
    assert_int_equal(ckpt_resolve(resolved, "org/tiny.Model-1", &err), ST_NOT_FOUND);
    assert_string_equal(
        err.text,
        "org/tiny.Model-1: no such directory, and not in the Hugging Face cache (/nowhere/hub)");
    setenv("HF_HOME", root, 1);
    expect_found(root);
    clear_env();
    snprintf(path, sizeof path, "%s/huggingface", root);
    assert_int_equal(symlink(".", path), 0);
    setenv("XDG_CACHE_HOME", root, 1);
    assert_int_equal(ckpt_resolve(resolved, "org/tiny.Model-1", &err), ST_OK);
    clear_env();
    snprintf(path, sizeof path, "%s/.cache", root);
    assert_int_equal(symlink(".", path), 0);
    setenv("HOME", root, 1);
    assert_int_equal(ckpt_resolve(resolved, "org/tiny.Model-1", &err), ST_OK);
    clear_env();

    /* By blob names, and the same by a stored digest. */
    setenv("HF_HOME", root, 1);
    snprintf(path, sizeof path, SNAPSHOT, root);
    struct id blobs = id_of(path);
    assert_string_equal(blobs.how, "blob names");
    assert_other(blobs, samples);
    write_sha256(path);
    assert_string_equal(id_of(path).how, "sha256 file");
    assert_same(id_of(path), blobs);

    /* No ref, an empty one, one that walks the tree, one whose snapshot is gone. */
    static const char *const refs[] = {"", "../../../../etc", "ffff", "main"};
    snprintf(path, sizeof path, "%s/hub/models--org--tiny.Model-1/refs/main", root);
    for (int i = -1; i < 4; i++) {
        unlink(path);
        FILE *f = i >= 0 ? fopen(path, "w") : NULL;
        if (f) fputs(refs[i], f), fclose(f);
        assert_int_equal(ckpt_resolve(resolved, "org/tiny.Model-1", &err), ST_NOT_FOUND);
        assert_non_null(strstr(
            err.text, "org/tiny.Model-1: no such directory, and not in the Hugging Face cache ("));
    }
    static const char *const names[] = {"",          "nothing", "a/b/c", "../x",    "org/..",
                                        "/etc/none", "org/",    "/x",    "org/a b", "o\x1b[2J/x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(ckpt_resolve(resolved, names[i], &err), ST_NOT_FOUND);
        assert_non_null(strstr(err.text, ": no such directory"));
        assert_null(strstr(err.text, "cache"));
    }
    assert_int_equal(ckpt_resolve(resolved, k.dir, &err), ST_OK);
    assert_string_equal(resolved, k.dir);
    folder_remove(root);
    checkpoint_remove(&k);
}

static void model_id_is_of_everything_that_changes_bits(void **state) {
    (void)state;
    static const char w0[] = "aa", w1[] = "ab";
    struct {
        const char *weights, *profile, *kv;
        uint32_t version;
    } rows[] = {{w0, "f32", "f32", 1}, {w0, "f32", "bf16", 1}, {w0, "int8", "f32", 1},
                {w0, "f32", "f32", 2}, {w1, "f32", "f32", 1},  {w0, "f32f", "32", 1}};
    char ids[6][CKPT_ID_BYTES];
    struct err err;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(ckpt_model_id(ids[i], rows[i].weights, rows[i].profile, rows[i].kv,
                                       rows[i].version, &err),
                         ST_OK);
        for (int j = 0; j < i; j++) assert_string_not_equal(ids[i], ids[j]);
    }
    char again[CKPT_ID_BYTES];
    assert_int_equal(ckpt_model_id(again, w0, "f32", "f32", 1, &err), ST_OK);
    assert_string_equal(again, ids[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_fine_tunes_of_one_shape_differ),
        cmocka_unit_test(the_configuration_is_part_of_it),
        cmocka_unit_test(shards_are_taken_by_name),
        cmocka_unit_test(a_stored_digest_holds_while_its_samples_do),
        cmocka_unit_test(hub_ids_are_found_in_the_cache),
        cmocka_unit_test(model_id_is_of_everything_that_changes_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

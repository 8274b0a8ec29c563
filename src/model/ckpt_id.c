/* SPDX-License-Identifier: Apache-2.0 */
/* Who a checkpoint is (contracts 5), how large it is, and where the Hugging Face cache keeps it.
 * The identity must tell two fine-tunes of one shape apart without reading 700 GB at every start:
 * so a stored digest, or the cache's blob names (which are SHA-256 sums), or samples spread over
 * every shard and tensor. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/bytes.h"
#include "base/file.h"
#include "model/ckpt.h"
#include "model/ckpt_impl.h"

enum { SAMPLE_BYTES = 4096, SAMPLES_A_SHARD = 256, DIGEST_BYTES = 32, PROGRESS_BYTES = 16 << 20 };
static const char stored_name[] = "supernode.sha256";

/* --- hashing ---------------------------------------------------------------------------------- */

/* A field is its length, then its bytes, so that no two lists of fields hash alike. EVP fails only
 * for lack of memory, which EVP_DigestFinal reports as well. */
static void add_field(EVP_MD_CTX *h, const void *data, uint64_t len) {
    EVP_DigestUpdate(h, &len, sizeof len);
    EVP_DigestUpdate(h, data, len);
}

static EVP_MD_CTX *hash_new(void) {
    EVP_MD_CTX *h = EVP_MD_CTX_new();
    if (h && EVP_DigestInit_ex(h, EVP_sha256(), NULL) == 1) return h;
    EVP_MD_CTX_free(h);
    return NULL;
}

static void to_hex(char id[CKPT_ID_BYTES], const unsigned char digest[DIGEST_BYTES]) {
    for (int i = 0; i < DIGEST_BYTES; i++) snprintf(id + 2 * i, 3, "%02x", digest[i]);
}

static bool hash_end(EVP_MD_CTX *h, char id[CKPT_ID_BYTES]) {
    unsigned char digest[DIGEST_BYTES];
    bool ok = EVP_DigestFinal_ex(h, digest, NULL) == 1;
    EVP_MD_CTX_free(h);
    if (ok) to_hex(id, digest);
    return ok;
}

/* --- content ---------------------------------------------------------------------------------- */

static void add_sample(EVP_MD_CTX *h, const uint8_t *data, uint64_t size, uint64_t at) {
    uint64_t len = size - at < SAMPLE_BYTES ? size - at : SAMPLE_BYTES;
    add_field(h, data + at, len);
}

/* 256 places a shard, and the first, middle and last 4 KiB of every tensor. */
static bool sample_digest(const struct ckpt *c, char id[CKPT_ID_BYTES]) {
    EVP_MD_CTX *h = hash_new();
    if (!h) return false;
    for (uint32_t i = 0; i < c->n_shards; i++) {
        const struct safetensors *s = &c->shards[i];
        for (uint64_t k = 0; k < SAMPLES_A_SHARD; k++)
            add_sample(h, s->map.data, s->map.size, s->map.size / SAMPLES_A_SHARD * k);
        for (size_t j = 0; j < s->n_tensors; j++) {
            const struct safetensors_tensor *t = &s->tensors[j];
            add_sample(h, t->data, t->bytes, 0);
            if (t->bytes <= SAMPLE_BYTES) continue;
            add_sample(h, t->data, t->bytes, (t->bytes - SAMPLE_BYTES) / 2);
            add_sample(h, t->data, t->bytes, t->bytes - SAMPLE_BYTES);
        }
    }
    return hash_end(h, id);
}

static bool is_hex64(const char *s) {
    return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

/* supernode.sha256 is two lines, "samples HEX" and "content HEX"; the second holds only while the
 * first is true. */
static bool stored_digest(const struct ckpt *c, char id[CKPT_ID_BYTES]) {
    char path[CKPT_PATH_BYTES + 32], was[CKPT_ID_BYTES], is[CKPT_ID_BYTES], content[CKPT_ID_BYTES];
    snprintf(path, sizeof path, "%s/%s", c->dir, stored_name);
    struct buf text = {.max = 4096};
    struct err ignored;
    bool ok = !file_read(&text, path, &ignored) && text.data &&
              sscanf(text.data, "samples %64[0-9a-f]\ncontent %64[0-9a-f]\n", was, content) == 2;
    buf_release(&text);
    ok = ok && is_hex64(was) && is_hex64(content) && sample_digest(c, is) && strcmp(was, is) == 0;
    if (ok) strcpy(id, content);
    return ok;
}

/* What stands for the content where all of it is known: one field a shard, its SHA-256 in hex. So a
 * checkpoint has one identity by the cache's blob names and by supernode.sha256. */
static void add_shard(EVP_MD_CTX *h, const char sha256[CKPT_ID_BYTES]) {
    add_field(h, sha256, 64);
}

/* In the Hugging Face cache every shard is a link to ../../blobs/<sha256>. */
static bool blob_digest(const struct ckpt *c, char id[CKPT_ID_BYTES]) {
    EVP_MD_CTX *h = hash_new();
    if (!h) return false;
    for (uint32_t i = 0; i < c->n_shards; i++) {
        char path[CKPT_PATH_BYTES + 256], target[CKPT_PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", c->dir, c->shard_names[i]);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        const char *blob = strrchr(target, '/');
        if (!blob || !is_hex64(blob + 1)) {
            EVP_MD_CTX_free(h);
            return false;
        }
        add_shard(h, blob + 1);
    }
    return hash_end(h, id);
}

struct hashing {
    ckpt_progress_fn *progress;
    void *ctx;
    uint64_t done, total;
};

static bool hash_file(char sha256[CKPT_ID_BYTES], const struct file_map *map, struct hashing *p) {
    EVP_MD_CTX *h = hash_new();
    for (uint64_t at = 0; h && at < map->size;) {
        uint64_t len = map->size - at < PROGRESS_BYTES ? map->size - at : PROGRESS_BYTES;
        EVP_DigestUpdate(h, map->data + at, len);
        at += len;
        p->done += len;
        if (p->progress) p->progress(p->ctx, p->done, p->total);
    }
    return h && hash_end(h, sha256);
}

static bool content_digest(const struct ckpt *c, char id[CKPT_ID_BYTES], struct hashing *p) {
    EVP_MD_CTX *h = hash_new();
    bool ok = h != NULL;
    for (uint32_t i = 0; i < c->n_shards; i++) p->total += c->shards[i].map.size;
    for (uint32_t i = 0; i < c->n_shards && ok; i++) {
        char sha256[CKPT_ID_BYTES];
        ok = hash_file(sha256, &c->shards[i].map, p);
        if (ok) add_shard(h, sha256);
    }
    if (!ok) EVP_MD_CTX_free(h);
    return ok && hash_end(h, id);
}

enum st ckpt_write_sha256(const struct ckpt *c, ckpt_progress_fn *progress, void *ctx,
                          struct err *err) {
    char samples[CKPT_ID_BYTES], content[CKPT_ID_BYTES], path[CKPT_PATH_BYTES + 32],
        part[CKPT_PATH_BYTES + 48];
    struct hashing p = {.progress = progress, .ctx = ctx};
    if (!sample_digest(c, samples) || !content_digest(c, content, &p))
        return err_set(err, ST_NO_MEMORY, "%s: out of memory while hashing", c->dir);
    snprintf(path, sizeof path, "%s/%s", c->dir, stored_name);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "w");
    if (!f)
        return err_set(err, st_from_errno(errno), "%s: cannot write: %s", part, strerror(errno));
    bool ok = fprintf(f, "samples %s\ncontent %s\n", samples, content) > 0;
    ok = fclose(f) == 0 && ok;
    if (ok && rename(part, path) == 0) return ST_OK;
    enum st st = err_set(err, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    unlink(part);
    return st;
}

enum st ckpt_weights_id(const struct ckpt *c, char id[CKPT_ID_BYTES], const char **how,
                        struct err *err) {
    char content[CKPT_ID_BYTES];
    if (stored_digest(c, content))
        *how = "sha256 file";
    else if (blob_digest(c, content))
        *how = "blob names";
    else if (sample_digest(c, content))
        *how = "samples";
    else
        return err_set(err, ST_NO_MEMORY, "%s: out of memory while hashing", c->dir);
    EVP_MD_CTX *h = hash_new();
    char *config = json_dumps(c->config_json, JSON_SORT_KEYS | JSON_COMPACT);
    if (!h || !config) {
        EVP_MD_CTX_free(h);
        free(config);
        return err_set(err, ST_NO_MEMORY, "%s: out of memory while hashing", c->dir);
    }
    add_field(h, config, strlen(config));
    free(config);
    for (uint32_t i = 0; i < c->n_shards; i++) {
        const struct safetensors *s = &c->shards[i];
        add_field(h, s->map.data, s->header_bytes);
    }
    add_field(h, content, strlen(content));
    return hash_end(h, id) ? ST_OK
                           : err_set(err, ST_NO_MEMORY, "%s: out of memory while hashing", c->dir);
}

enum st ckpt_model_id(char id[CKPT_ID_BYTES], const char *weights_id, const char *profile,
                      const char *kv_dtype, uint32_t kv_layout_version, struct err *err) {
    EVP_MD_CTX *h = hash_new();
    if (!h) return err_set(err, ST_NO_MEMORY, "out of memory while hashing");
    add_field(h, weights_id, strlen(weights_id));
    add_field(h, profile, strlen(profile));
    add_field(h, kv_dtype, strlen(kv_dtype));
    add_field(h, &kv_layout_version, sizeof kv_layout_version);
    return hash_end(h, id) ? ST_OK : err_set(err, ST_NO_MEMORY, "out of memory while hashing");
}

/* --- statistics ------------------------------------------------------------------------------- */

void ckpt_stats(const struct ckpt *c, struct ckpt_stats *out) {
    *out = (struct ckpt_stats){.n_shards = c->n_shards, .dtype = "F32"};
    uint64_t by_dtype[4] = {0};
    static const char *const names[4] = {
        [OPS_F32] = "F32", [OPS_BF16] = "BF16", [OPS_F16] = "F16", [OPS_F8] = "F8_E4M3"};
    for (size_t i = 0; i < c->weights.len; i++) {
        const struct weight_entry *w = &c->weights.v[i];
        enum weight_kind kind = w->key.kind;
        bool repeated = kind == W_MTP_EMBED || kind == W_MTP_HEAD;
        bool expert = kind == W_EXPERT_GATE || kind == W_EXPERT_UP || kind == W_EXPERT_DOWN;
        uint64_t n = (uint64_t)w->w.rows * w->w.cols, bytes = n * ops_dtype_bytes(w->w.dtype);
        by_dtype[w->w.dtype] += bytes;
        if (repeated) continue;
        out->bytes += bytes;
        if (w->key.layer >= c->config.n_layers) {
            out->params_mtp += n;
            continue;
        }
        out->params += n;
        if (kind == W_EMBED)
            out->params_active += c->config.tied ? n : w->w.cols;
        else if (!expert || w->key.expert < c->config.gate.top_k)
            out->params_active += n;
    }
    for (int d = 1; d < 4; d++)
        if (by_dtype[d] > by_dtype[OPS_F32] && by_dtype[d] >= by_dtype[OPS_BF16] &&
            by_dtype[d] >= by_dtype[OPS_F16] && by_dtype[d] >= by_dtype[OPS_F8])
            out->dtype = names[d];
}

/* --- the hub's cache -------------------------------------------------------------------------- */

static bool is_dir(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

static void cache_root(char *out, size_t size) {
    const char *hub = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"),
               *xdg = getenv("XDG_CACHE_HOME");
    const char *user = getenv("HOME");
    if (hub && *hub)
        snprintf(out, size, "%s", hub);
    else if (home && *home)
        snprintf(out, size, "%s/hub", home);
    else if (xdg && *xdg)
        snprintf(out, size, "%s/huggingface/hub", xdg);
    else
        snprintf(out, size, "%s/.cache/huggingface/hub", user ? user : "");
}

/* org/name: exactly one slash, and nothing that walks the tree. */
static bool is_hub_id(const char *s) {
    const char *slash = strchr(s, '/');
    if (!slash || slash == s || slash[1] == '\0' || strchr(slash + 1, '/') || s[0] == '.' ||
        slash[1] == '.')
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("-_./", *s)) return false;
    return true;
}

enum st ckpt_resolve(char path[CKPT_PATH_BYTES], const char *model, struct err *err) {
    if (strlen(model) < CKPT_PATH_BYTES && is_dir(model)) {
        strcpy(path, model);
        return ST_OK;
    }
    if (!is_hub_id(model)) return err_set(err, ST_NOT_FOUND, "%.200s: no such directory", model);
    char root[1024], repo[2048], ref[2200];
    cache_root(root, sizeof root);
    const char *slash = strchr(model, '/');
    snprintf(repo, sizeof repo, "%s/models--%.*s--%s", root, (int)(slash - model), model,
             slash + 1);
    snprintf(ref, sizeof ref, "%s/refs/main", repo);
    struct buf rev = {.max = 128};
    struct err ignored;
    enum st st = file_read(&rev, ref, &ignored);
    if (!st) {
        while (rev.len > 0 && isspace((unsigned char)rev.data[rev.len - 1]))
            rev.data[--rev.len] = '\0';
        bool plain = rev.len > 0 && strspn(rev.data, "0123456789abcdef") == rev.len;
        snprintf(path, CKPT_PATH_BYTES, "%s/snapshots/%s", repo, plain ? rev.data : "");
        if (!plain || !is_dir(path)) st = ST_NOT_FOUND;
    }
    buf_release(&rev);
    if (st)
        return err_set(err, ST_NOT_FOUND,
                       "%.200s: no such directory, and not in the Hugging Face cache (%.200s)",
                       model, root);
    return ST_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Implements up_plan.h. */
#include "cli/up_plan.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli/front_args.h"
#include "cli/human.h"
#include "engine/engine.h"

void up_args_init(struct up_args *a) {
    *a = (struct up_args){.prefill = 1,
                          .decode = 1,
                          .pool = 1,
                          .host = "127.0.0.1",
                          .port = 8000,
                          .max_num_seqs = 256,
                          .max_num_batched_tokens = 1024,
                          .drain_s = 30,
                          .no_worker_s = 30,
                          .restart = true};
}

uint32_t up_args_flags(struct flag out[UP_FLAGS_MAX], struct up_args *a) {
    const struct flag flags[] = {
        {"model", "MODEL", FLAG_STR, &a->model, 0, 0,
         "directory or hub id, as MODEL (default: the model that comes with supernode)", false},
        {"prefill", "N", FLAG_U32, &a->prefill, 1, UP_PARTS_MAX, "prefill workers (default 1)",
         false},
        {"decode", "N", FLAG_U32, &a->decode, 1, UP_PARTS_MAX, "decode workers (default 1)", false},
        {"pool", "N", FLAG_U32, &a->pool, 0, UP_PARTS_MAX, "pool servers (default 1)", false},
        {"host", "ADDR", FLAG_STR, &a->host, 0, 0,
         "address the router listens on (default 127.0.0.1)", false},
        {"port", "N", FLAG_U32, &a->port, 0, 65535, "its port (default 8000; 0: any free one)",
         false},
        {"served-model-name", "NAME", FLAG_STR, &a->served_name, 0, 0,
         "what requests call the model (default: MODEL as given)", false},
        {"api-key-file", "FILE", FLAG_STR, &a->key_file, 0, 0,
         "keys, one a line: KEY or KEY TENANT", true},
        {"max-model-len", "N", FLAG_U32, &a->max_model_len, 1, 1 << 24,
         "longest prompt and answer together, tokens (default: what each worker's memory holds)",
         false},
        {"kv-cache-memory", "BYTES", FLAG_BYTES, &a->kv_bytes, 0, 0,
         "for the KV cache of each worker (default: what is free, divided)", false},
        {"max-num-seqs", "N", FLAG_U32, &a->max_num_seqs, 1, 65536,
         "sequences a worker computes at once (default 256)", true},
        {"max-num-batched-tokens", "N", FLAG_U32, &a->max_num_batched_tokens, EXECUTOR_CHUNK_MIN,
         65536, "tokens of a prompt chunk (default 1024, at least 512)", true},
        {"tpot-ms", "MS", FLAG_U32, &a->tpot_ms, 0, 1000000,
         "target time per output token (default 0: none)", true},
        {"speculate", "auto|off|on", FLAG_CHOICE, &a->speculate, 0, 0,
         "guess tokens with the model's MTP layer (default auto: where it is faster)", true},
        {"dram", "BYTES", FLAG_BYTES, &a->dram_bytes, 0, 0,
         "memory of each pool server (default: 1G, or less where that is too much)", false},
        {"ssd", "DIR", FLAG_STR, &a->ssd_dir, 0, 0,
         "where each pool server gets a directory for colder blocks (default: none)", true},
        {"ssd-bytes", "BYTES", FLAG_BYTES, &a->ssd_bytes, 0, 0,
         "the most each pool server may take there", true},
        {"drain-timeout", "S", FLAG_U32, &a->drain_s, 0, 86400,
         "seconds that running answers get when told to stop (default 30)", true},
        {"no-worker-timeout", "S", FLAG_U32, &a->no_worker_s, 1, 86400,
         "seconds a request waits where no worker of a role is there (default 30)", true},
        {"restart", NULL, FLAG_BOOL, &a->restart, 0, 0,
         "start a part that ended again (default; --no-restart: do not)", true},
        {"metrics", NULL, FLAG_BOOL, &a->metrics, 0, 0,
         "each part serves /metrics on a free port, which its log names", true},
        {"verbose", NULL, FLAG_BOOL, &a->verbose, 0, 0, "print each part's command line", false},
        MODEL_ARGS_FLAGS(a->model_args),
    };
    static_assert(sizeof flags / sizeof *flags <= UP_FLAGS_MAX, "room for all");
    memcpy(out, flags, sizeof flags);
    return sizeof flags / sizeof *flags;
}

enum st up_args_check(const struct up_args *a, struct err *err) {
    if (!a->ssd_dir == !a->ssd_bytes) return ST_OK;
    return err_set(err, ST_INVALID, "up: --ssd and --ssd-bytes need each other");
}

/* --- memory and cores ------------------------------------------------------------------------- */

struct share { /* of one worker, of one pool server */
    uint32_t threads, max_model_len;
    uint64_t kv_bytes, dram_bytes;
};

static const uint64_t dram_default = UINT64_C(1) << 30;

static void print_memory(const struct share *s, const struct up_args *a, uint64_t page) {
    char bytes[32];
    printf(
        "memory     %s for KV of each worker: %.0f tokens at %.1f KB each; %u tokens the longest",
        human_bytes(bytes, sizeof bytes, (double)s->kv_bytes),
        (double)(s->kv_bytes / page) * KV_PAGE_TOKENS, (double)page / KV_PAGE_TOKENS / 1e3,
        s->max_model_len);
    if (a->pool)
        printf("; %s of each pool server", human_bytes(bytes, sizeof bytes, (double)s->dram_bytes));
    printf("\n");
}

/* A tenth of what is free is left, and half of the rest is for pool servers at most. */
static enum st divide(struct share *s, struct up_args *a, struct err *err) {
    struct instance_options o;
    struct ckpt *ckpt = NULL;
    struct ckpt_stats stats;
    char path[CKPT_PATH_BYTES];
    enum st st = model_args_options(&o, &a->model_args, a->model, err);
    if (!st) st = ckpt_resolve(path, o.model, err);
    if (!st) st = ckpt_open(&ckpt, path, err);
    if (st) return st;
    ckpt_stats(ckpt, &stats);
    uint32_t positions = ckpt_config(ckpt)->max_positions;
    uint32_t n_workers = a->prefill + a->decode, cores = team_cores();
    uint64_t free = memory_available(), need = stats.bytes + stats.bytes / 8;
    uint64_t left = (free > need ? free - need : free / 8) / 10 * 9;
    uint64_t page = kv_page_bytes_all(ckpt_config(ckpt), instance_kv_dtype(o.kv, ckpt));
    front_print_model(ckpt, a->model ? a->model : "models/tiny");
    ckpt_close(ckpt);

    s->dram_bytes = a->dram_bytes;
    if (!s->dram_bytes && a->pool) s->dram_bytes = left / 2 / a->pool;
    if (!a->dram_bytes && s->dram_bytes > dram_default) s->dram_bytes = dram_default;
    uint64_t pool = s->dram_bytes * a->pool;
    uint32_t longest = a->max_model_len ? a->max_model_len : positions;
    uint64_t one = engine_pages_min(longest), enough = one * a->max_num_seqs + 64;
    uint64_t pages = (left > pool ? left - pool : left / 8) / n_workers / page;
    if (pages > enough) pages = enough;
    s->kv_bytes = a->kv_bytes ? a->kv_bytes : pages * page;
    pages = s->kv_bytes / page;
    if (!a->max_model_len && pages < one && pages > 2)
        longest = (uint32_t)(pages - 2) * KV_PAGE_TOKENS;
    s->max_model_len = longest;
    uint32_t threads = a->model_args.threads ? a->model_args.threads : cores;
    s->threads = threads / n_workers > 0 ? threads / n_workers : 1;
    print_memory(s, a, page);
    return ST_OK;
}

/* --- command lines ---------------------------------------------------------------------------- */

static const char *kv_name(const struct up_args *a) {
    static const char *const names[] = {"auto", "f32", "bf16"};
    return names[a->model_args.kv];
}

static void flag_text(struct child *c, const char *flag, const char *value) {
    child_arg(c, "%s", flag);
    child_arg(c, "%s", value);
}
static void flag_number(struct child *c, const char *flag, uint64_t value) {
    child_arg(c, "%s", flag);
    child_arg(c, "%llu", (unsigned long long)value);
}

static void begin(struct child *c, const struct up_args *a, const struct cluster_args *cl,
                  const char *role, const char *name) {
    child_init(c, name, cl->dir);
    child_arg(c, "%s", role);
    if (a->model && strcmp(role, "pool") != 0) child_arg(c, "%s", a->model);
    flag_text(c, "--cluster", cl->dir);
    if (cl->secret_file) flag_text(c, "--secret-file", cl->secret_file);
    if (cl->peer_timeout_ms != 3000) flag_number(c, "--peer-timeout-ms", cl->peer_timeout_ms);
    if (strcmp(role, "router") == 0) return;
    flag_text(c, "--name", name);
    if (a->metrics) flag_number(c, "--metrics-port", 0);
}

static void plan_router(struct child *c, const struct up_args *a, const struct cluster_args *cl,
                        const struct share *s) {
    begin(c, a, cl, "router", "router");
    flag_text(c, "--host", a->host);
    flag_number(c, "--port", a->port);
    if (a->served_name) flag_text(c, "--served-model-name", a->served_name);
    if (a->key_file) flag_text(c, "--api-key-file", a->key_file);
    flag_number(c, "--max-model-len", s->max_model_len);
    flag_text(c, "--kv-dtype", kv_name(a));
    flag_number(c, "--drain-timeout", a->drain_s);
    flag_number(c, "--no-worker-timeout", a->no_worker_s);
}

static void plan_worker(struct child *c, const struct up_args *a, const struct cluster_args *cl,
                        const struct share *s, const char *role, uint32_t i) {
    static const char *const speculate[] = {"auto", "off", "on"};
    char name[BUS_NAME_BYTES];
    snprintf(name, sizeof name, "%c%u", role[0], i);
    begin(c, a, cl, role, name);
    flag_number(c, "--threads", s->threads);
    flag_number(c, "--kv-cache-memory", s->kv_bytes);
    flag_number(c, "--max-model-len", s->max_model_len);
    flag_text(c, "--kv-dtype", kv_name(a));
    flag_number(c, "--max-num-seqs", a->max_num_seqs);
    flag_number(c, "--max-num-batched-tokens", a->max_num_batched_tokens);
    if (a->tpot_ms) flag_number(c, "--tpot-ms", a->tpot_ms);
    if (a->speculate) flag_text(c, "--speculate", speculate[a->speculate]);
}

static void plan_pool(struct child *c, const struct up_args *a, const struct cluster_args *cl,
                      const struct share *s, uint32_t i) {
    char name[BUS_NAME_BYTES];
    snprintf(name, sizeof name, "m%u", i);
    begin(c, a, cl, "pool", name);
    flag_number(c, "--dram", s->dram_bytes);
    if (!a->ssd_dir) return;
    child_arg(c, "--ssd");
    child_arg(c, "%s/%s", a->ssd_dir, name);
    flag_number(c, "--ssd-bytes", a->ssd_bytes);
}

enum st up_plan(struct child **children, uint32_t *n, struct up_args *a,
                const struct cluster_args *c, struct err *err) {
    struct share s;
    uint32_t at = 0;
    enum st st = divide(&s, a, err);
    if (st) return st;
    if (a->ssd_dir && mkdir(a->ssd_dir, 0700) != 0 && errno != EEXIST)
        return err_set(err, ST_IO, "up: --ssd: cannot make %s: %s", a->ssd_dir, strerror(errno));
    *n = 1 + a->prefill + a->decode + a->pool;
    *children = calloc(*n, sizeof **children);
    if (!*children) return err_set(err, ST_NO_MEMORY, "up: out of memory");
    plan_router(&(*children)[at++], a, c, &s);
    for (uint32_t i = 0; i < a->pool; i++) plan_pool(&(*children)[at++], a, c, &s, i);
    for (uint32_t i = 0; i < a->prefill; i++)
        plan_worker(&(*children)[at++], a, c, &s, "prefill", i);
    for (uint32_t i = 0; i < a->decode; i++) plan_worker(&(*children)[at++], a, c, &s, "decode", i);
    assert(at == *n);
    return ST_OK;
}

/* --- a directory of our own ------------------------------------------------------------------- */

enum st up_make_dir(struct up_args *a, struct err *err) {
    snprintf(a->dir, sizeof a->dir, "%s/" CLUSTER_UP_PREFIX "XXXXXX", cluster_base_dir());
    if (mkdtemp(a->dir)) return ST_OK;
    return err_set(err, ST_IO, "up: cannot make %s: %s", a->dir, strerror(errno));
}

static bool is_ours(const char *name) {
    static const char *const ends[] = {".sock", ".lock", ".log"};
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (len > n && strcmp(name + len - n, ends[i]) == 0) return true;
    }
    return strncmp(name, "secret", strlen("secret")) == 0; /* and what one in the making left */
}

void up_remove_dir(const char *dir) {
    char path[CLUSTER_DIR_BYTES + 300];
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (is_ours(e->d_name)) unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

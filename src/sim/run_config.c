/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the description of a run (docs/simulator.md has every key). What is left out has a default
 * here; what cannot be is a sentence with file, line and key. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/kv.h"
#include "sim/models.h"
#include "sim/run_config_impl.h"
#include "sim/sim_exec.h"

enum {
    /* What a simulation keeps, of all members: some GB. */
    DIES_MAX = 1 << 16, /* of an instance */
    SSD_BLOCKS_MAX = 1 << 27
};

/* --- numbers in the file's units ------------------------------------------------------------- */

enum st run_in_number(struct run_in *in, const struct doc_node *at, const char *key, double min,
                      double max, double unit, double *out) {
    double v = *out / unit;
    enum st st = doc_number(at, key, min, max, &v, in->err);
    *out = v * unit;
    return st;
}

enum st run_in_count(struct run_in *in, const struct doc_node *at, const char *key, uint64_t min,
                     uint64_t max, uint32_t *out) {
    uint64_t v = *out;
    enum st st = doc_count(at, key, min, max, &v, in->err);
    *out = (uint32_t)v;
    return st;
}

static enum st text(struct run_in *in, const struct doc_node *at, const char *key, char *out,
                    size_t size) {
    const char *v = NULL;
    enum st st = doc_text(at, key, &v, in->err);
    if (st || !v) return st;
    if ((size_t)snprintf(out, size, "%s", v) < size) return ST_OK;
    return doc_fail(doc_find(at, key), in->err, "found %zu bytes, expected at most %zu", strlen(v),
                    size - 1);
}

/* An empty mapping stands for one that is missing. */
enum st run_in_mapping(struct run_in *in, const struct doc_node *at, const char *key,
                       const char *const *keys, const struct doc_node **out) {
    static const struct doc_node nothing = {.kind = DOC_MAP};
    const struct doc_node *n = doc_find(at, key);
    *out = n ? n : &nothing;
    return doc_only(*out, keys, in->err);
}

/* --- paths ------------------------------------------------------------------------------------ */

/* They are relative to the description that has them, or to where the command is run whose flag it is. */
static enum st put_path(struct run_in *in, const struct doc_node *at, const char *path, char *out,
                        size_t size) {
    const char *slash = strrchr(in->name, '/');
    bool here = path[0] == '/' || !slash || at->by;
    int len = here ? snprintf(out, size, "%s", path)
                   : snprintf(out, size, "%.*s/%s", (int)(slash - in->name), in->name, path);
    if ((size_t)len < size) return ST_OK;
    return doc_fail(at, in->err, "found a path of %d bytes, expected at most %zu", len, size - 1);
}

/* place: who names it, for what is found wrong when it is opened. */
enum st run_in_path(struct run_in *in, const struct doc_node *map, const char *key, char *out,
                    size_t size, char place[sizeof in->err->text]) {
    const struct doc_node *at = doc_find(map, key);
    const char *path = NULL;
    struct err named;
    enum st st = doc_text(map, key, &path, in->err);
    if (st || !path) return st;
    if (!path[0]) return doc_fail(at, in->err, "found '', expected a path");
    (void)doc_fail(at, &named, "%s", "");
    snprintf(place, sizeof named.text, "%s", named.text);
    return put_path(in, at, path, out, size);
}

/* What is built in has a name, which stays. */
static enum st name_or_path(struct run_in *in, const struct doc_node *map, const char *key,
                            bool (*is_path)(const char *), char *out, size_t size) {
    const char *v = NULL;
    enum st st = doc_text(map, key, &v, in->err);
    if (st || !v) return st;
    if (is_path(v)) return put_path(in, doc_find(map, key), v, out, size);
    return text(in, map, key, out, size);
}

/* --- instances -------------------------------------------------------------------------------- */

/* err says "KEY: ..." of something the section has, or has not: its place goes before. */
static enum st place_error(const struct run_in *in, const struct doc_node *root,
                           const char *section) {
    const struct doc_node *at = doc_find(root, section), *key = NULL;
    const char *colon = strchr(in->err->text, ':');
    for (uint32_t i = 0; at && colon && i < at->n; i++)
        if (strlen(at->at[i].key) == (size_t)(colon - in->err->text) &&
            strncmp(at->at[i].key, in->err->text, strlen(at->at[i].key)) == 0)
            key = &at->at[i];
    return err_prefix(in->err, "%s: line %u: %s: ", in->name,
                      (key  ? key
                       : at ? at
                            : root)
                          ->line,
                      section);
}

/* A figure that the hardware lacks, or that is far too small, makes a step endless. */
static enum st moves(struct run_in *in, const struct run_instances *i, bool prefill) {
    double keys = in->c->max_model_len, tokens = (double)i->batch_tokens * i->chips;
    struct step_decode d = {.requests = i->requests_per_die, .kv_tokens = keys};
    struct step_prefill p = {.tokens = tokens, .key_pairs = tokens * keys / 2, .requests = 1};
    double s = prefill ? step_prefill_s(&i->setup, &p, NULL) : step_decode_s(&i->setup, &d, NULL);
    if (s <= RUN_STEP_S_MAX) return ST_OK;
    return err_set(in->err, ST_INVALID,
                   "the largest batch would take %g s on %s, expected at most %g: a figure is "
                   "missing or too small there",
                   s, in->c->machine.name, RUN_STEP_S_MAX);
}

/* As many as usual, or as the machine has for each: half of them for all of prefill, for decode what is
 * left. */
static uint32_t chips_default(const struct run_in *in, const struct run_instances *i,
                              bool prefill) {
    const struct run_config *c = in->c;
    uint32_t all = c->machine.n_nodes * c->machine.chips_per_node,
             taken = c->prefill.n * c->prefill.chips, most = all / 2 / i->n;
    if (prefill && most == 0) most = 1;
    if (!prefill) most = taken < all ? (all - taken) / i->n : 0;
    return most > 0 && most < i->chips ? most : i->chips;
}

/* What is said of one role's pages holds for the other's: they are handed over as they are. */
static enum st kv_bytes(struct run_in *in, const struct doc_node *root, const char *role,
                        const char *other, double *out) {
    const struct doc_node *at = doc_find(root, role), *by = doc_find(root, other);
    double others = *out;
    enum st st = ST_OK;
    if (by && by->kind == DOC_MAP) st = run_in_number(in, by, "kv_bytes", 0.25, 8, 1, &others);
    *out = others;
    if (!st && at) st = run_in_number(in, at, "kv_bytes", 0.25, 8, 1, out);
    if (st || *out == others || !by || !doc_find(by, "kv_bytes")) return st;
    return doc_fail(doc_find(at, "kv_bytes"), in->err,
                    "found %g, expected %s's %g: pages are handed over as they are", *out, other,
                    others);
}

static enum st instances(struct run_in *in, const struct doc_node *root, bool prefill) {
    static const char *const prefills[] = {
        "instances", "chips",     "batch_tokens",      "restart_s",      "weights",      "kv_bytes",
        "ep",        "imbalance", "redundant_experts", "layer_fixed_ms", "microbatches", NULL};
    static const char *const decodes[] = {"instances",
                                          "chips",
                                          "requests_per_chip",
                                          "restart_s",
                                          "weights",
                                          "kv_bytes",
                                          "ep",
                                          "imbalance",
                                          "redundant_experts",
                                          "mtp",
                                          "acceptance",
                                          "microbatches",
                                          "attention_share",
                                          NULL};
    const char *role = prefill ? "prefill" : "decode", *other = prefill ? "decode" : "prefill";
    const struct doc_node *at;
    struct run_instances *i = prefill ? &in->c->prefill : &in->c->decode;
    struct step_setup *s = &i->setup;
    const struct machine *m = &in->c->machine;
    uint32_t type = machine_weights(m), per_chip = 0;
    double fixed_s = -1; /* of a layer; below 0: as the chip's */
    enum st st = run_in_mapping(in, root, role, prefill ? prefills : decodes, &at);
    if (!st) st = run_in_count(in, at, "instances", 1, 200, &i->n);
    i->chips = chips_default(in, i, prefill);
    uint32_t chips_max = m->n_nodes * m->chips_per_node, most = DIES_MAX / m->dies_per_chip;
    if (!st) st = run_in_count(in, at, "chips", 1, chips_max < most ? chips_max : most, &i->chips);
    per_chip = i->requests_per_die * m->dies_per_chip;
    if (!st) st = run_in_count(in, at, "requests_per_chip", m->dies_per_chip, 4096, &per_chip);
    if (!st && per_chip % m->dies_per_chip)
        st = doc_fail(doc_find(at, "requests_per_chip"), in->err,
                      "found %u, expected a multiple of the %u dies of a chip", per_chip,
                      m->dies_per_chip);
    i->requests_per_die = per_chip / m->dies_per_chip;
    if (!st) st = run_in_count(in, at, "batch_tokens", 512, RUN_TOKENS_MAX, &i->batch_tokens);
    if (!st) st = run_in_number(in, at, "restart_s", 0, 1e6, 1, &i->restart_s);
    if (!st) st = doc_word(at, "weights", machine_type_names, &type, in->err);
    s->weights = (enum machine_type)type;
    if (!st) st = kv_bytes(in, root, role, other, &s->kv_bytes);
    if (!st) st = run_in_count(in, at, "ep", 1, 4096, &s->ep);
    if (!st) st = run_in_count(in, at, "redundant_experts", 0, 4096, &s->redundant);
    if (!st) st = run_in_number(in, at, "imbalance", 1, 100, 1, &s->imbalance);
    if (!st) st = doc_bool(at, "mtp", &s->mtp, in->err);
    if (!st) st = run_in_number(in, at, "acceptance", 0, 1, 1, &s->acceptance);
    if (!st) st = run_in_number(in, at, "layer_fixed_ms", 0, 12, 1e-3, &fixed_s);
    if (!st) st = doc_bool(at, "microbatches", &s->microbatches, in->err);
    if (!st) st = run_in_number(in, at, "attention_share", 0.05, 0.95, 1, &s->attention_cubes);
    s->machine = m;
    s->dies = i->chips * m->dies_per_chip;
    if (st) return st;
    st = step_setup_fill(s, prefill, in->err);
    if (fixed_s >= 0) s->layer_fixed_s = fixed_s;
    if (!st && s->dies % s->ep)
        st = err_set(in->err, ST_INVALID,
                     "ep: found %u, expected a divisor of the instance's %u dies", s->ep, s->dies);
    if (!st) st = moves(in, i, prefill);
    return st ? place_error(in, root, role) : ST_OK;
}

/* Where to look when there are too many of both together: at a flag first. */
static const struct doc_node *instances_at(const struct doc_node *root) {
    const struct doc_node *p = doc_find(root, "prefill"), *d = doc_find(root, "decode"),
                          *n = p ? doc_find(p, "instances") : NULL;
    if (n && n->by) return n;
    n = d ? doc_find(d, "instances") : NULL;
    if (n && n->by) return n;
    return d ? d : p ? p : root;
}

/* Each role's memory has room for the longest request. */
static enum st fits(struct run_in *in, const struct doc_node *root) {
    const struct doc_node *at = doc_find(root, "max_model_len");
    const struct run_config *c = in->c;
    uint32_t prefill, decode;
    enum st st = run_kv_pages(c, ROLE_OF_PREFILL, &prefill, in->err);
    if (!st) st = run_kv_pages(c, ROLE_OF_DECODE, &decode, in->err);
    if (st) return err_prefix(in->err, "%s: line %u: ", in->name, at ? at->line : root->line);
    double pages = (double)prefill * c->prefill.n + (double)decode * c->decode.n,
           block = run_page_bytes(c), blocks = c->pool.ssd_bytes / block * c->pool.n;
    if (pages > SIM_PAGES_MAX)
        return doc_fail(instances_at(root), in->err,
                        "prefill and decode have memory for %.0f pages of %d tokens, expected at "
                        "most %d: the simulation keeps each",
                        pages, KV_PAGE_TOKENS, SIM_PAGES_MAX);
    if (blocks > SSD_BLOCKS_MAX)
        return doc_fail(doc_find(doc_find(root, "pool"), "ssd_gb"), in->err,
                        "%u servers have room for %.0f blocks of %d tokens, expected at most %d: "
                        "the simulation keeps each",
                        c->pool.n, blocks, KV_PAGE_TOKENS, SSD_BLOCKS_MAX);
    return ST_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

static void defaults(struct run_config *c) {
    *c = (struct run_config){.hardware = "cloudmatrix384",
                             .model = "deepseek-r1",
                             .seed = 1,
                             .max_model_len = 131072,
                             .handover_plane = "",
                             .no_worker_s = 30,
                             .repair_s = 600};
    c->prefill = (struct run_instances){
        .n = 1, .chips = 16, .requests_per_die = 128, .batch_tokens = 16384, .restart_s = 30};
    c->decode = (struct run_instances){
        .n = 1, .chips = 160, .requests_per_die = 48, .batch_tokens = 512, .restart_s = 30};
    c->prefill.setup = (struct step_setup){.kv_bytes = 2, .imbalance = 1, .microbatches = true};
    c->decode.setup = c->prefill.setup;
    c->decode.setup.acceptance = 0.7;
    c->pool.dram_bytes = 256e9;
    c->load.rate_scale = 1;
    c->load.length_divisor = 1;
    c->load.rate = 1;
    c->load.clients = 1;
    c->load.n_in = 4096;
    c->load.n_out = 256;
    c->load.tenants = 1;
    c->load.leave_after_s = 5;
}

static const struct doc_node *at_or(const struct doc_node *map, const char *key,
                                    const struct doc_node *other) {
    const struct doc_node *at = doc_find(map, key);
    return at ? at : other;
}

/* One a node. */
static uint32_t pool_servers_max(const struct run_config *c) {
    return c->machine.n_nodes < 64 ? c->machine.n_nodes : 64;
}

static bool reaches(const struct run_config *c, const struct machine_plane *p,
                    enum machine_transfer read, enum machine_transfer write) {
    const struct machine_path *path = run_paths(c, p);
    return path[read].rate_bps > 0 && path[write].rate_bps > 0;
}

/* Whether pages can be handed over on that plane, or dies reach the pool's memory (as in cache.h). */
static enum st carries(struct run_in *in, const struct doc_node *at, const char *name, bool pool) {
    const struct machine *m = &in->c->machine;
    const struct machine_plane *p = machine_plane(m, name);
    if (!p) return doc_fail(at, in->err, "found %s, expected a plane of %s", name, m->name);
    if (reaches(in->c, p, pool ? TRANSFER_READ_CPU : TRANSFER_READ,
                pool ? TRANSFER_WRITE_CPU : TRANSFER_WRITE))
        return ST_OK;
    return doc_fail(at, in->err, "found %s, of which %s lacks paths: %s: %s, expected both", name,
                    m->name, m->n_nodes > 1 ? "other_node" : "same_node",
                    pool ? "read_cpu or write_cpu" : "read or write");
}

/* The scale-up plane reaches CPUs, or the scale-out one is all there is; KV goes over the latter, where
 * there is more than one node. Without a plane to CPUs there is no pool. */
static void planes_default(struct run_config *c) {
    const struct machine *m = &c->machine;
    const struct machine_plane *up = &m->planes[0], *out = machine_scale_out(m),
                               *pool = up->cpu_bps > 0 && up->domain_nodes != 1 ? up : out,
                               *over = reaches(c, out, TRANSFER_READ, TRANSFER_WRITE) ? out : up;
    uint32_t chips = c->prefill.n * c->prefill.chips + c->decode.n * c->decode.chips;
    memcpy(c->handover_plane, (m->n_nodes > 1 ? out : over)->name, sizeof c->handover_plane);
    memcpy(c->pool.plane, pool->name, sizeof c->pool.plane);
    c->pool.n = (chips + m->chips_per_node - 1) / m->chips_per_node;
    if (c->pool.n > pool_servers_max(c)) c->pool.n = pool_servers_max(c);
    if (!reaches(c, pool, TRANSFER_READ_CPU, TRANSFER_WRITE_CPU)) c->pool.n = 0;
    if (m->node_dram_bytes > 0) c->pool.dram_bytes = fmin(c->pool.dram_bytes, m->node_dram_bytes);
}

static enum st pool(struct run_in *in, const struct doc_node *at) {
    struct run_config *c = in->c;
    const struct machine *m = &c->machine;
    enum st st = run_in_count(in, at, "servers", 0, pool_servers_max(c), &c->pool.n);
    if (!st) st = run_in_number(in, at, "dram_gb", 0.001, 1e6, 1e9, &c->pool.dram_bytes);
    if (!st) st = run_in_number(in, at, "ssd_gb", 0, 1e6, 1e9, &c->pool.ssd_bytes);
    if (!st) st = text(in, at, "plane", c->pool.plane, sizeof c->pool.plane);
    if (st) return st;
    if (m->node_dram_bytes > 0 && c->pool.dram_bytes > m->node_dram_bytes)
        return doc_fail(doc_find(at, "dram_gb"), in->err,
                        "found %g, expected at most the %g of a node of %s",
                        c->pool.dram_bytes / 1e9, m->node_dram_bytes / 1e9, m->name);
    if (c->pool.ssd_bytes > 0 && m->node_ssd_bps <= 0)
        return doc_fail(doc_find(at, "ssd_gb"), in->err,
                        "%s says nothing of a node's SSD, expected node: ssd_gbs and ssd_us there",
                        m->name);
    return ST_OK;
}

static enum st planes(struct run_in *in, const struct doc_node *root) {
    static const char *const keys[] = {"servers", "dram_gb", "ssd_gb", "plane", NULL};
    struct run_config *c = in->c;
    const struct machine *m = &c->machine;
    const struct doc_node *at;
    uint32_t chips = c->prefill.n * c->prefill.chips + c->decode.n * c->decode.chips;
    planes_default(c);
    enum st st = run_in_mapping(in, root, "pool", keys, &at);
    if (!st) st = pool(in, at);
    if (!st) st = text(in, root, "handover", c->handover_plane, sizeof c->handover_plane);
    if (st) return st;
    if (chips > m->n_nodes * m->chips_per_node)
        return doc_fail(instances_at(root), in->err,
                        "prefill and decode take %u chips, expected at most %u of %s", chips,
                        m->n_nodes * m->chips_per_node, m->name);
    if (c->prefill.n + c->decode.n + c->pool.n > RUN_MEMBERS_MAX)
        return doc_fail(instances_at(root), in->err,
                        "found %u instances and %u pool servers, expected %d at most in all",
                        c->prefill.n + c->decode.n, c->pool.n, RUN_MEMBERS_MAX);
    st = carries(in, at_or(root, "handover", root), c->handover_plane, false);
    if (st || (c->pool.n == 0 && !doc_find(at, "plane"))) return st;
    return carries(in, at_or(at, "plane", at_or(root, "pool", root)), c->pool.plane, true);
}

/* One server that was measured: what it is stands in its calibration. */
static enum st read_server(struct run_in *in, const struct doc_node *root) {
    static const char *const keys[] = {"server", "seed", "load", "slo", NULL};
    struct run_config *c = in->c;
    enum st st = doc_only(root, keys, in->err);
    if (!st) st = run_in_path(in, root, "server", c->server, sizeof c->server, c->server_at);
    if (!st) st = doc_count(root, "seed", 0, UINT64_MAX >> 1, &c->seed, in->err);
    if (!st) st = run_in_load(in, root);
    return st ? st : run_in_slo(in, root);
}

/* What cannot be opened was named here. */
static enum st named(const struct run_in *in, const struct doc_node *root, const char *key,
                     enum st st) {
    const struct doc_node *at = doc_find(root, key);
    if (!st || !at) return st;
    bool says = strncmp(in->err->text, key, strlen(key)) == 0;
    return err_prefix(in->err, "%s: line %u: %s%s", in->name, at->line, says ? "" : key,
                      says ? "" : ": ");
}

static enum st read_all(struct run_in *in, const struct doc_node *root) {
    static const char *const keys[] = {"hardware",
                                       "model",
                                       "seed",
                                       "max_model_len",
                                       "prefill",
                                       "decode",
                                       "pool",
                                       "handover",
                                       "load",
                                       "slo",
                                       "faults",
                                       "random_faults",
                                       "no_worker_timeout_s",
                                       NULL};
    struct run_config *c = in->c;
    if (root->kind == DOC_MAP && doc_find(root, "server")) return read_server(in, root);
    enum st st = doc_only(root, keys, in->err);
    if (!st)
        st = name_or_path(in, root, "hardware", machine_is_path, c->hardware, sizeof c->hardware);
    if (!st) st = name_or_path(in, root, "model", sim_model_is_path, c->model, sizeof c->model);
    if (!st) st = doc_count(root, "seed", 0, UINT64_MAX >> 1, &c->seed, in->err);
    if (!st) st = run_in_count(in, root, "max_model_len", 1024, RUN_TOKENS_MAX, &c->max_model_len);
    if (st) return st;
    st = named(in, root, "hardware", machine_open(&c->machine, c->hardware, in->err));
    if (!st)
        st = named(in, root, "model", sim_model_open(&c->prefill.setup.model, c->model, in->err));
    if (st) return st;
    c->decode.setup.model = c->prefill.setup.model;
    c->decode.setup.mtp = c->decode.setup.model.n_mtp > 0;
    st = instances(in, root, true);
    if (!st) st = instances(in, root, false);
    if (!st) st = planes(in, root);
    if (!st) st = fits(in, root);
    if (!st) st = run_in_load(in, root);
    if (!st) st = run_in_faults(in, root);
    if (!st) st = run_in_slo(in, root);
    if (!st) st = run_in_number(in, root, "no_worker_timeout_s", 0.001, 1e6, 1, &c->no_worker_s);
    return st;
}

static enum st read_doc(struct run_config *c, struct doc *d, const char *name, struct err *err) {
    struct run_in in = {.c = c, .name = name, .err = err};
    defaults(c);
    enum st st = read_all(&in, doc_root(d));
    doc_free(d);
    return st;
}

enum st run_config_read(struct run_config *c, const void *bytes, size_t len, const char *name,
                        struct err *err) {
    struct doc *d;
    enum st st = doc_read(&d, bytes, len, name, err);
    return st ? st : read_doc(c, d, name, err);
}

enum st run_config_open(struct run_config *c, const char *path, const struct run_override *v,
                        uint32_t n, struct err *err) {
    struct doc *d;
    enum st st = doc_open(&d, path, err);
    if (st) return st;
    for (uint32_t i = 0; i < n && !st; i++)
        st = doc_set(d, v[i].section, v[i].key, v[i].text, v[i].by, err);
    if (!st) return read_doc(c, d, path, err);
    doc_free(d);
    return st;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the description of a run (docs/simulator.md has every key). What is left out has a default
 * here; what cannot be is a sentence with file, line and key. */
#include <stdio.h>
#include <string.h>

#include "base/doc.h"
#include "model/kv.h"
#include "sim/models.h"
#include "sim/run.h"

enum {
    TOKENS_MAX = 1 << 20,
    /* What a simulation keeps, of all members: some GB. */
    DIES_MAX = 1 << 16, /* of an instance */
    KV_PAGES_MAX = 1 << 25,
    SSD_BLOCKS_MAX = 1 << 27
};

struct in { /* what is being read */
    struct run_config *c;
    const char *name; /* of the file */
    struct err *err;
};

/* --- numbers in the file's units ------------------------------------------------------------- */

static enum st number(struct in *in, const struct doc_node *at, const char *key, double min,
                      double max, double unit, double *out) {
    double v = *out / unit;
    enum st st = doc_number(at, key, min, max, &v, in->err);
    *out = v * unit;
    return st;
}

static enum st count(struct in *in, const struct doc_node *at, const char *key, uint64_t min,
                     uint64_t max, uint32_t *out) {
    uint64_t v = *out;
    enum st st = doc_count(at, key, min, max, &v, in->err);
    *out = (uint32_t)v;
    return st;
}

static enum st text(struct in *in, const struct doc_node *at, const char *key, char *out,
                    size_t size) {
    const char *v = NULL;
    enum st st = doc_text(at, key, &v, in->err);
    if (st || !v) return st;
    if ((size_t)snprintf(out, size, "%s", v) < size) return ST_OK;
    return doc_fail(doc_find(at, key), in->err, "found %zu bytes, expected at most %zu", strlen(v),
                    size - 1);
}

/* An empty mapping stands for one that is missing. */
static enum st mapping(struct in *in, const struct doc_node *at, const char *key,
                       const char *const *keys, const struct doc_node **out) {
    static const struct doc_node nothing = {.kind = DOC_MAP};
    const struct doc_node *n = doc_find(at, key);
    *out = n ? n : &nothing;
    return doc_only(*out, keys, in->err);
}

/* --- paths ------------------------------------------------------------------------------------ */

/* They are relative to the description that has them, or to where the command is run whose flag it is. */
static enum st put_path(struct in *in, const struct doc_node *at, const char *path, char *out,
                        size_t size) {
    const char *slash = strrchr(in->name, '/');
    bool here = path[0] == '/' || !slash || at->by;
    int len = here ? snprintf(out, size, "%s", path)
                   : snprintf(out, size, "%.*s/%s", (int)(slash - in->name), in->name, path);
    if ((size_t)len < size) return ST_OK;
    return doc_fail(at, in->err, "found a path of %d bytes, expected at most %zu", len, size - 1);
}

/* place: who names it, for what is found wrong when it is opened. */
static enum st path_of(struct in *in, const struct doc_node *map, const char *key, char *out,
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
static enum st name_or_path(struct in *in, const struct doc_node *map, const char *key,
                            bool (*is_path)(const char *), char *out, size_t size) {
    const char *v = NULL;
    enum st st = doc_text(map, key, &v, in->err);
    if (st || !v) return st;
    if (is_path(v)) return put_path(in, doc_find(map, key), v, out, size);
    return text(in, map, key, out, size);
}

/* --- instances -------------------------------------------------------------------------------- */

/* err says "KEY: ..." of something the section has, or has not: its place goes before. */
static enum st place_error(const struct in *in, const struct doc_node *root, const char *section) {
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
static enum st moves(struct in *in, const struct run_instances *i, bool prefill) {
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

static enum st instances(struct in *in, const struct doc_node *root, bool prefill) {
    static const char *const keys[] = {"instances",
                                       "chips",
                                       "requests_per_chip",
                                       "batch_tokens",
                                       "restart_s",
                                       "weights",
                                       "kv_bytes",
                                       "ep",
                                       "redundant_experts",
                                       "imbalance",
                                       "mtp",
                                       "acceptance",
                                       "layer_fixed_ms",
                                       "microbatches",
                                       "attention_share",
                                       NULL};
    const struct doc_node *at;
    struct run_instances *i = prefill ? &in->c->prefill : &in->c->decode;
    struct step_setup *s = &i->setup;
    uint32_t type = s->weights, per_chip = 0;
    const struct machine *m = &in->c->machine;
    enum st st = mapping(in, root, prefill ? "prefill" : "decode", keys, &at);
    if (!st) st = count(in, at, "instances", 1, 200, &i->n);
    uint32_t chips_max = m->n_nodes * m->chips_per_node, most = DIES_MAX / m->dies_per_chip;
    if (!st) st = count(in, at, "chips", 1, chips_max < most ? chips_max : most, &i->chips);
    per_chip = i->requests_per_die * m->dies_per_chip;
    if (!st) st = count(in, at, "requests_per_chip", m->dies_per_chip, 4096, &per_chip);
    if (!st && per_chip % m->dies_per_chip)
        st = doc_fail(doc_find(at, "requests_per_chip"), in->err,
                      "found %u, expected a multiple of the %u dies of a chip", per_chip,
                      m->dies_per_chip);
    i->requests_per_die = per_chip / m->dies_per_chip;
    if (!st) st = count(in, at, "batch_tokens", 512, TOKENS_MAX, &i->batch_tokens);
    if (!st) st = number(in, at, "restart_s", 0, 1e6, 1, &i->restart_s);
    if (!st) st = doc_word(at, "weights", machine_type_names, &type, in->err);
    s->weights = (enum machine_type)type;
    if (!st) st = number(in, at, "kv_bytes", 0.25, 8, 1, &s->kv_bytes);
    if (!st) st = count(in, at, "ep", 1, 4096, &s->ep);
    if (!st) st = count(in, at, "redundant_experts", 0, 4096, &s->redundant);
    if (!st) st = number(in, at, "imbalance", 1, 100, 1, &s->imbalance);
    if (!st) st = doc_bool(at, "mtp", &s->mtp, in->err);
    if (!st) st = number(in, at, "acceptance", 0, 1, 1, &s->acceptance);
    if (!st) st = number(in, at, "layer_fixed_ms", 0, 12, 1e-3, &s->layer_fixed_s);
    if (!st) st = doc_bool(at, "microbatches", &s->microbatches, in->err);
    if (!st) st = number(in, at, "attention_share", 0.05, 0.95, 1, &s->attention_cubes);
    s->machine = m;
    s->dies = i->chips * m->dies_per_chip;
    if (st) return st;
    st = step_setup_fill(s, prefill, in->err);
    if (!st && s->dies % s->ep)
        st = err_set(in->err, ST_INVALID,
                     "ep: found %u, expected a divisor of the instance's %u dies", s->ep, s->dies);
    if (!st) st = moves(in, i, prefill);
    return st ? place_error(in, root, prefill ? "prefill" : "decode") : ST_OK;
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
static enum st fits(struct in *in, const struct doc_node *root) {
    const struct doc_node *at = doc_find(root, "max_model_len");
    const struct run_config *c = in->c;
    uint32_t prefill, decode;
    enum st st = run_kv_pages(c, ROLE_OF_PREFILL, &prefill, in->err);
    if (!st) st = run_kv_pages(c, ROLE_OF_DECODE, &decode, in->err);
    if (st) return err_prefix(in->err, "%s: line %u: ", in->name, at ? at->line : root->line);
    double pages = (double)prefill * c->prefill.n + (double)decode * c->decode.n,
           block = step_kv_token_bytes(&c->prefill.setup) * KV_PAGE_TOKENS,
           blocks = c->pool.ssd_bytes / block * c->pool.n;
    if (pages > KV_PAGES_MAX)
        return doc_fail(instances_at(root), in->err,
                        "prefill and decode have memory for %.0f pages of %d tokens, expected at "
                        "most %d: the simulation keeps each",
                        pages, KV_PAGE_TOKENS, KV_PAGES_MAX);
    if (blocks > SSD_BLOCKS_MAX)
        return doc_fail(doc_find(doc_find(root, "pool"), "ssd_gb"), in->err,
                        "%u servers have room for %.0f blocks of %d tokens, expected at most %d: "
                        "the simulation keeps each",
                        c->pool.n, blocks, KV_PAGE_TOKENS, SSD_BLOCKS_MAX);
    return ST_OK;
}

static const char *const run_arrivals_names[] = {"trace", "poisson", "closed", NULL};

/* --- load, faults ----------------------------------------------------------------------------- */

/* What only other arrivals look at; but a flag may have changed them. */
static enum st unused(struct in *in, const struct doc_node *at) {
    static const struct {
        const char *key;
        enum run_arrivals of;
    } keys[] = {{"rate", RUN_POISSON}, {"clients", RUN_CLOSED}, {"rate_scale", RUN_TRACE}};
    const struct doc_node *arrivals = doc_find(at, "arrivals");
    enum run_arrivals is = in->c->load.arrivals;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !(arrivals && arrivals->by); i++)
        if (doc_find(at, keys[i].key) && is != keys[i].of)
            return doc_fail(doc_find(at, keys[i].key), in->err,
                            "found with arrivals: %s, expected arrivals: %s",
                            run_arrivals_names[is], run_arrivals_names[keys[i].of]);
    return ST_OK;
}

static enum st load(struct in *in, const struct doc_node *root) {
    static const char *const keys[] = {
        "arrivals",     "trace",          "rate_scale",  "rate",          "clients",
        "input_tokens", "output_tokens",  "requests",    "duration_s",    "tenants",
        "spread",       "length_divisor", "leave_share", "leave_after_s", NULL};
    const struct doc_node *at;
    struct run_config *c = in->c;
    enum st st = mapping(in, root, "load", keys, &at);
    if (!st && !doc_find(root, "load"))
        return doc_fail(root, in->err, "load: found nothing, expected a mapping");
    if (!st) st = path_of(in, at, "trace", c->load.trace, sizeof c->load.trace, c->load.trace_at);
    uint32_t kind = c->load.trace[0] ? RUN_TRACE : RUN_POISSON;
    if (!st) st = doc_word(at, "arrivals", run_arrivals_names, &kind, in->err);
    c->load.arrivals = (enum run_arrivals)kind;
    if (!st) st = number(in, at, "rate_scale", 1e-6, 1e6, 1, &c->load.rate_scale);
    if (!st) st = number(in, at, "length_divisor", 0.01, 1e6, 1, &c->load.length_divisor);
    if (!st) st = number(in, at, "rate", 1e-6, 1e6, 1, &c->load.rate);
    if (!st) st = count(in, at, "clients", 1, 1000000, &c->load.clients);
    if (!st) st = count(in, at, "input_tokens", 1, TOKENS_MAX, &c->load.n_in);
    if (!st) st = count(in, at, "output_tokens", 1, TOKENS_MAX, &c->load.n_out);
    if (!st) st = doc_count(at, "requests", 1, 1000000000, &c->load.requests, in->err);
    if (!st) st = number(in, at, "duration_s", 1e-3, RUN_SECONDS_MAX, 1, &c->load.duration_s);
    if (!st) st = count(in, at, "tenants", 1, 64, &c->load.tenants);
    if (!st) st = doc_bool(at, "spread", &c->load.spread, in->err);
    if (!st) st = number(in, at, "leave_share", 0, 1, 1, &c->load.leave_share);
    if (!st) st = number(in, at, "leave_after_s", 0, 1e6, 1, &c->load.leave_after_s);
    if (st) return st;
    st = unused(in, at);
    if (st) return st;
    if (c->server[0] && c->load.leave_share > 0)
        return doc_fail(doc_find(at, "leave_share"), in->err,
                        "found a server, expected a cluster: its clients stay");
    if (kind == RUN_TRACE && !c->load.trace[0])
        return doc_fail(at, in->err, "arrivals: trace: expected trace: FILE");
    if (c->load.duration_s <= 0 && c->load.requests == 0)
        return doc_fail(at, in->err, "found neither, expected duration_s or requests");
    if (kind == RUN_POISSON && c->load.duration_s <= 0 &&
        (double)c->load.requests / c->load.rate > RUN_SECONDS_MAX)
        return doc_fail(doc_find(at, "requests"), in->err,
                        "found %llu, expected at most %.0f: what comes in %.0f s",
                        (unsigned long long)c->load.requests, RUN_SECONDS_MAX * c->load.rate,
                        RUN_SECONDS_MAX);
    return ST_OK;
}

/* What would do nothing is refused, where that is certain. */
static enum st fault_used(struct in *in, const struct doc_node *at, const char *place,
                          enum run_fault_kind kind, uint32_t index) {
    const struct run_config *c = in->c;
    uint32_t n = run_fault_used(c, kind);
    if (index < n) return ST_OK;
    if (kind == RUN_SUB_PLANE)
        return doc_fail(at, in->err,
                        "%sfound a sub-plane of %s, which carries nothing: hand-over goes over %s, "
                        "the pool over %s",
                        place, c->machine.planes[0].name, c->handover_plane,
                        c->pool.n ? c->pool.plane : "none");
    if (n == 0 && kind == RUN_LINK)
        return doc_fail(at, in->err,
                        "%sfound a chip's link, but hand-over goes over %s, where chips have none",
                        place, c->handover_plane);
    if (n == 0) return doc_fail(at, in->err, "%sfound a pool server, but there is none", place);
    return doc_fail(at, in->err, "%sfound %s %u, expected less than %u: nobody uses it", place,
                    run_fault_names[kind], index, n);
}

static enum st fault(struct in *in, const struct doc_node *at, struct run_fault *f) {
    static const char *const keys[] = {"what", "index", "at_s", "for_s", "share", "slow", NULL};
    uint32_t kind = 0;
    *f = (struct run_fault){.share = 0, .slow = 2};
    enum st st = doc_only(at, keys, in->err);
    if (!st) st = doc_need(at, "what", in->err);
    if (!st) st = doc_need(at, "at_s", in->err);
    if (!st) st = doc_word(at, "what", run_fault_names, &kind, in->err);
    f->kind = (enum run_fault_kind)kind;
    uint32_t n = run_fault_places(in->c, f->kind);
    if (!st) st = count(in, at, "index", 0, 1000000, &f->index);
    if (!st) st = number(in, at, "at_s", 0, RUN_SECONDS_MAX, 1, &f->at_s);
    if (!st) st = number(in, at, "for_s", 0, RUN_SECONDS_MAX, 1, &f->for_s);
    if (!st) st = number(in, at, "share", 0.001, 1, 1, &f->share);
    if (!st) st = number(in, at, "slow", 1, 1000, 1, &f->slow);
    if (!st && kind == RUN_CUT && f->for_s > 0)
        st = doc_fail(doc_find(at, "for_s"), in->err,
                      "found with what: cut, which is of one moment");
    if (!st && doc_find(at, "share") && kind != RUN_LINK && kind != RUN_SUB_PLANE)
        st =
            doc_fail(doc_find(at, "share"), in->err,
                     "found with what: %s, expected with link or sub-plane", run_fault_names[kind]);
    if (!st && doc_find(at, "slow") && kind != RUN_SLOW)
        st = doc_fail(doc_find(at, "slow"), in->err, "found with what: %s, expected with slow",
                      run_fault_names[kind]);
    if (!st && f->index >= n)
        st = doc_fail(at, in->err, "index: found %s %u, expected less than the %u there are",
                      run_fault_names[kind], f->index, n);
    if (!st) st = fault_used(in, at, "index: ", f->kind, f->index);
    if (!st && f->share <= 0) f->share = kind == RUN_LINK ? 0.1 : 0.001;
    return st;
}

static enum st random_fault(struct in *in, const struct doc_node *mtbf, enum run_fault_kind kind) {
    struct run_config *c = in->c;
    const char *key = run_fault_names[kind];
    double most = 1e5; /* of a kind in a run */
    enum st st = number(in, mtbf, key, 1e-6, 1e9, 3600, &c->mtbf_s[kind]);
    if (st || c->mtbf_s[kind] <= 0) return st;
    if (c->load.duration_s / c->mtbf_s[kind] > most)
        return doc_fail(
            doc_find(mtbf, key), in->err, "found %g h, expected %g or more: %g faults in %g s",
            c->mtbf_s[kind] / 3600, c->load.duration_s / most / 3600, most, c->load.duration_s);
    return fault_used(in, doc_find(mtbf, key), "", kind, 0);
}

static enum st faults(struct in *in, const struct doc_node *root) {
    struct run_config *c = in->c;
    const struct doc_node *at = doc_find(root, "faults"), *random = NULL, *mtbf = NULL;
    enum st st = ST_OK;
    if (at && at->kind != DOC_LIST)
        return doc_fail(at, in->err, "found %.60s, expected a list",
                        at->kind == DOC_MAP ? "a mapping" : at->text);
    const uint32_t most = sizeof c->faults / sizeof *c->faults;
    if (at && at->n > most)
        return doc_fail(at, in->err, "found %u, expected at most %u", at->n, most);
    for (uint32_t i = 0; at && i < at->n && !st; i++)
        st = fault(in, &at->at[i], &c->faults[c->n_faults++]);
    static const char *const keys[] = {"mtbf_h", "repair_s", NULL};
    if (!st) st = mapping(in, root, "random_faults", keys, &random);
    if (!st) st = number(in, random, "repair_s", 0, RUN_SECONDS_MAX, 1, &c->repair_s);
    if (!st) st = mapping(in, random, "mtbf_h", run_fault_names, &mtbf);
    for (uint32_t k = 0; k < RUN_FAULTS && !st; k++)
        st = random_fault(in, mtbf, (enum run_fault_kind)k);
    if (!st && mtbf->n && c->load.duration_s <= 0)
        st = doc_fail(random, in->err, "expected load: duration_s, until which they come");
    return st;
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
    c->prefill.setup = (struct step_setup){
        .weights = TYPE_INT8, .kv_bytes = 2, .imbalance = 1, .microbatches = true};
    c->decode.setup = (struct step_setup){.weights = TYPE_INT8,
                                          .kv_bytes = 2,
                                          .imbalance = 1,
                                          .microbatches = true,
                                          .mtp = true,
                                          .acceptance = 0.7};
    c->pool.n = UINT32_MAX; /* one a node that is in use */
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

/* Pages are read and written between nodes. */
static enum st carries(struct in *in, const struct doc_node *at, const char *plane) {
    const struct machine *m = &in->c->machine;
    const struct machine_path *path = machine_plane(m, plane)->other_node;
    if (path[TRANSFER_READ].rate_bps > 0 && path[TRANSFER_WRITE].rate_bps > 0) return ST_OK;
    return doc_fail(at, in->err,
                    "found %s, of which %s lacks paths: other_node: read or write, expected both",
                    plane, m->name);
}

/* The scale-up plane reaches CPUs, or the scale-out one is all there is; KV goes over the latter. */
static enum st planes(struct in *in, const struct doc_node *root) {
    static const char *const keys[] = {"servers", "dram_gb", "ssd_gb", "plane", NULL};
    struct run_config *c = in->c;
    const struct machine *m = &c->machine;
    const struct doc_node *at;
    uint32_t out = m->n_planes > 1 ? 1 : 0,
             chips = c->prefill.n * c->prefill.chips + c->decode.n * c->decode.chips;
    bool reaches = m->planes[0].cpu_bps > 0 && m->planes[0].domain_nodes != 1;
    uint32_t servers_max = m->n_nodes < 64 ? m->n_nodes : 64; /* one a node */
    snprintf(c->handover_plane, sizeof c->handover_plane, "%s", m->planes[out].name);
    snprintf(c->pool.plane, sizeof c->pool.plane, "%s", m->planes[reaches ? 0 : out].name);
    c->pool.n = (chips + m->chips_per_node - 1) / m->chips_per_node;
    if (c->pool.n > servers_max) c->pool.n = servers_max;
    enum st st = mapping(in, root, "pool", keys, &at);
    if (!st) st = count(in, at, "servers", 0, servers_max, &c->pool.n);
    if (!st) st = number(in, at, "dram_gb", 0.001, 1e6, 1e9, &c->pool.dram_bytes);
    if (!st) st = number(in, at, "ssd_gb", 0, 1e6, 1e9, &c->pool.ssd_bytes);
    if (!st && c->pool.ssd_bytes > 0 && m->node_ssd_bps <= 0)
        st = doc_fail(doc_find(at, "ssd_gb"), in->err,
                      "%s says nothing of a node's SSD, expected node: ssd_gbs and ssd_us there",
                      m->name);
    if (!st) st = text(in, at, "plane", c->pool.plane, sizeof c->pool.plane);
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
    if (!machine_plane(m, c->handover_plane))
        return doc_fail(doc_find(root, "handover"), in->err, "found %s, expected a plane of %s",
                        c->handover_plane, m->name);
    if (!machine_plane(m, c->pool.plane))
        return doc_fail(doc_find(at, "plane"), in->err, "found %s, expected a plane of %s",
                        c->pool.plane, m->name);
    st = carries(in, at_or(root, "handover", root), c->handover_plane);
    return st || c->pool.n == 0 ? st : carries(in, at_or(at, "plane", root), c->pool.plane);
}

static enum st slo(struct in *in, const struct doc_node *root) {
    static const char *const keys[] = {"ttft_ms", "tpot_ms", NULL};
    const struct doc_node *at;
    enum st st = mapping(in, root, "slo", keys, &at);
    if (!st) st = number(in, at, "ttft_ms", 0, 1e9, 1e-3, &in->c->slo_ttft_s);
    if (!st) st = number(in, at, "tpot_ms", 0, 1e9, 1e-3, &in->c->slo_tpot_s);
    return st;
}

/* One server that was measured: what it is stands in its calibration. */
static enum st read_server(struct in *in, const struct doc_node *root) {
    static const char *const keys[] = {"server", "seed", "load", "slo", NULL};
    struct run_config *c = in->c;
    enum st st = doc_only(root, keys, in->err);
    if (!st) st = path_of(in, root, "server", c->server, sizeof c->server, c->server_at);
    if (!st) st = doc_count(root, "seed", 0, UINT64_MAX >> 1, &c->seed, in->err);
    if (!st) st = load(in, root);
    return st ? st : slo(in, root);
}

/* What cannot be opened was named here. */
static enum st named(const struct in *in, const struct doc_node *root, const char *key,
                     enum st st) {
    const struct doc_node *at = doc_find(root, key);
    if (!st || !at) return st;
    bool says = strncmp(in->err->text, key, strlen(key)) == 0;
    return err_prefix(in->err, "%s: line %u: %s%s", in->name, at->line, says ? "" : key,
                      says ? "" : ": ");
}

static enum st read_all(struct in *in, const struct doc_node *root) {
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
    if (!st) st = count(in, root, "max_model_len", 1024, TOKENS_MAX, &c->max_model_len);
    if (st) return st;
    st = named(in, root, "hardware", machine_open(&c->machine, c->hardware, in->err));
    if (!st)
        st = named(in, root, "model", sim_model_open(&c->prefill.setup.model, c->model, in->err));
    if (st) return st;
    c->decode.setup.model = c->prefill.setup.model;
    st = instances(in, root, true);
    if (!st) st = instances(in, root, false);
    if (!st) st = planes(in, root);
    if (!st) st = fits(in, root);
    if (!st) st = load(in, root);
    if (!st) st = faults(in, root);
    if (!st) st = slo(in, root);
    if (!st) st = number(in, root, "no_worker_timeout_s", 0.001, 1e6, 1, &c->no_worker_s);
    return st;
}

static enum st read_doc(struct run_config *c, struct doc *d, const char *name, struct err *err) {
    struct in in = {.c = c, .name = name, .err = err};
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
